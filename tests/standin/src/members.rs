//! What the etcd leader does for the others: promoting learners, removing members, recording who votes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::resources::NODES;
use crate::api::{Failure, objects};
use crate::clock;
use crate::etcd::{Client, Member};
use crate::logs;
use crate::shared::{Phase, Shared};

const LIMIT: Duration = Duration::from_secs(15);
/// A learner without raft progress for this long is removed.
const STALL: Duration = Duration::from_secs(300);
/// How old an unchanged condition may get.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// Label of servers with etcd.
pub const ETCD_ROLE: &str = "node-role.kubernetes.io/etcd";
/// Annotation with the member's name.
pub const NAME: &str = "etcd.k3s.cattle.io/node-name";
/// Annotation with the member's address.
pub const ADDRESS: &str = "etcd.k3s.cattle.io/node-address";
/// Annotation that asks for removal without deleting the Node.
pub const REMOVE: &str = "etcd.k3s.cattle.io/remove";
/// Annotation left behind by that.
pub const REMOVED_NAME: &str = "etcd.k3s.cattle.io/removed-node-name";

/// Looks at learners for ever, on the member that leads.
pub async fn manage(shared: Arc<Shared>) {
    let mut progress: BTreeMap<u64, (u64, Instant)> = BTreeMap::new();
    let mut tick = tokio::time::interval(shared.settings.agent.knobs.learner_period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(client) = shared.etcd.get() else { continue };
        match client.status(LIMIT).await {
            Ok(status) if status.leader == status.member_id => {}
            Ok(_) => {
                progress.clear();
                continue;
            }
            Err(e) => {
                logs::error(format!("Failed to check local etcd status for learner management: {e}"));
                continue;
            }
        }
        let members = match client.members(LIMIT).await {
            Ok(members) => members,
            Err(e) => {
                logs::error(format!("Failed to get etcd members for learner management: {e}"));
                continue;
            }
        };
        for member in members.iter().filter(|m| m.is_learner) {
            track(client, member, &mut progress).await;
        }
        progress.retain(|id, _| members.iter().any(|m| m.id == *id && m.is_learner));
        if shared.phase() >= Phase::Core {
            record(&shared, client, &members).await;
        }
    }
}

async fn track(client: &Client, member: &Member, progress: &mut BTreeMap<u64, (u64, Instant)>) {
    match client.on_member("cluster/member/promote", member.id, LIMIT).await {
        Ok(()) => {
            logs::info(format!("Promoted learner {}", member.name));
            return;
        }
        Err(e) => logs::debug(format!("Unable to promote learner {}: {e}", member.name)),
    }
    let now = Instant::now();
    let (index, since) = progress.entry(member.id).or_insert((0, now));
    for url in &member.client_urls {
        if let Ok(status) = client.at(vec![url.clone()]).status(Duration::from_secs(5)).await {
            if status.raft_applied > *index {
                (*index, *since) = (status.raft_applied, now);
            }
            break;
        }
    }
    if *since != now {
        let stalled = now.duration_since(*since);
        logs::warn(format!("Learner {} stalled at RaftAppliedIndex={index} for {stalled:?}", member.name));
        if stalled > STALL && client.on_member("cluster/member/remove", member.id, LIMIT).await.is_ok() {
            logs::warn(format!("Removed learner {} from etcd cluster", member.name));
        }
    }
}

/// Sets the condition `EtcdIsVoter` on every server's Node.
async fn record(shared: &Shared, client: &Client, members: &[Member]) {
    let Some(store) = shared.store() else { return };
    let Ok((nodes, _)) = objects::list(store, &NODES, "").await else { return };
    for node in nodes.iter().filter(|n| !n["metadata"]["labels"][ETCD_ROLE].is_null()) {
        let member = members.iter().find(|m| node["metadata"]["annotations"][NAME] == m.name.as_str());
        let health = match member.and_then(|m| m.client_urls.first()) {
            Some(url) => client.at(vec![url.clone()]).status(Duration::from_secs(5)).await.map(|_| ()),
            None => Err("etcd member ClientURLs list is empty".to_owned()),
        };
        let (status, reason, message) = match (member, &health) {
            (None, _) => ("False", "NotAMember", "Node is not a member of the etcd cluster"),
            (Some(_), Err(e)) => ("False", "Unhealthy", e.as_str()),
            (Some(m), Ok(())) if m.is_learner => (
                "False",
                "MemberIsLearner",
                "Node has not been promoted to voting member of the etcd cluster",
            ),
            (Some(_), Ok(())) => ("True", "MemberNotLearner", "Node is a voting member of the etcd cluster"),
        };
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let wanted = condition("EtcdIsVoter", status, reason, message);
        let change = |node: &Value| Ok::<_, Failure>(with_condition(node, &wanted));
        if let Err(e) = objects::change(store, &NODES, "", name, None, change).await {
            logs::error(format!("Unable to set etcd status condition {name}: {}", e.message));
        }
    }
}

/// A Node condition as of now.
pub fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let now = clock::now();
    json!({"type": kind, "status": status, "reason": reason, "message": message,
           "lastHeartbeatTime": now, "lastTransitionTime": now})
}

/// The Node with a condition set: an unchanged one is touched only when it has grown old.
pub fn with_condition(node: &Value, wanted: &Value) -> Value {
    let mut next = node.clone();
    let conditions = &mut next["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return node.clone() };
    let Some(old) = list.iter_mut().find(|c| c["type"] == wanted["type"]) else {
        list.push(wanted.clone());
        return next;
    };
    let mut new = wanted.clone();
    if old["status"] == wanted["status"] {
        new["lastTransitionTime"] = old["lastTransitionTime"].clone();
        let beat = old["lastHeartbeatTime"].as_str().and_then(clock::parse);
        let age = beat.and_then(|b| std::time::SystemTime::now().duration_since(b).ok());
        if old["reason"] == wanted["reason"]
            && old["message"] == wanted["message"]
            && age.is_some_and(|age| age < HEARTBEAT)
        {
            return node.clone();
        }
    }
    *old = new;
    next
}

/// Removes a member; name and address must both match. Nothing to remove is success.
///
/// # Errors
/// etcd's text; the only voter is not removed.
pub async fn remove(client: &Client, name: &str, address: &str) -> Result<(), String> {
    let members = client.members(LIMIT).await?;
    let suffix = format!("//{}", crate::network::join(address, 2380));
    let Some(member) =
        members.iter().find(|m| m.name == name && m.peer_urls.iter().any(|u| u.ends_with(&suffix)))
    else {
        return Ok(());
    };
    if client.status(LIMIT).await?.leader == member.id {
        let Some(other) = members.iter().find(|m| !m.is_learner && m.id != member.id) else {
            return Err("etcdserver: re-configuration failed due to not enough started members".to_owned());
        };
        logs::info(format!("Moving etcd cluster leader from {} to {}", member.name, other.name));
        let leader = client.at(member.client_urls.clone());
        leader.on_member("maintenance/transfer-leadership", other.id, LIMIT).await?;
    }
    logs::info(format!("Removing name={name} id={} address={address} from etcd", member.id));
    match client.on_member("cluster/member/remove", member.id, LIMIT).await {
        Err(e) if e.contains("member not found") => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_condition_is_left_alone_and_a_changed_one_keeps_no_old_time() {
        let ready = condition("Ready", "True", "KubeletReady", "m");
        let node = with_condition(&json!({}), &ready);
        assert_eq!(with_condition(&node, &ready), node);
        let mut old = node.clone();
        old["status"]["conditions"][0]["lastTransitionTime"] = json!("2001-01-01T00:00:00Z");
        let failed = with_condition(&old, &condition("Ready", "False", "x", "m"));
        assert_ne!(failed["status"]["conditions"][0]["lastTransitionTime"], "2001-01-01T00:00:00Z");
        old["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2001-01-01T00:00:00Z");
        let touched = with_condition(&old, &ready);
        assert_eq!(touched["status"]["conditions"][0]["lastTransitionTime"], "2001-01-01T00:00:00Z");
        assert_ne!(touched["status"]["conditions"][0]["lastHeartbeatTime"], "2001-01-01T00:00:00Z");
    }
}
