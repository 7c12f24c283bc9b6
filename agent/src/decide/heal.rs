//! Healing as part of a member's tick: its own remedies, and the cluster's when this node holds the Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Act, Observed, Plan, SOON, STEADY, WAITING, acts, commits, roles, waits};
use crate::config::{HealingMode, Settings};
use crate::core::{Known, NodeId, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::{Role, WantedRole};
use crate::heal::quorum::{self, Change, majority};
use crate::heal::{self, Input, Order, Own, Remedy};
use crate::ledger::{Data, Record};

/// How long an agent that leaves waits for a server that answers, so that its pods can be moved first: longer than k3s's own way to
/// another server takes, and shorter than the notice of two minutes that clouds give.
const UNHEARD: Duration = Duration::from_secs(30);

/// An agent that was ordered to become a server.
pub(super) fn promoted(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Option<Plan> {
    if seen.heal.order != Some(Order::Server) || settings.role == WantedRole::Agent {
        return None;
    }
    if let Some(why) = super::late::unfit(seen) {
        let detail = format!("ordered to become a server, and none may run here: {}", why.detail);
        let next = "another spare is tried when the order is taken back";
        return Some(waits(Phase::Serving, Why::new("host-unfit-for-server", detail, next), STEADY));
    }
    let server = roles::target(seen, certificate)?;
    let mut next = Record::clone(&seen.record);
    next.data = Data::Joining { role: Role::Server, cluster: certificate.cluster_id.clone() };
    let detail = format!("ordered to become a server; it joins through {}", server.name);
    Some(commits(Phase::Joining, Why::new("promoted", detail, "k3s changes its role on this machine"), next))
}

/// A promoted machine, or one of several that raced for a place, which finds the servers complete before it became one.
pub(super) fn superfluous(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Option<Plan> {
    if !seen.k3s.server_data.is_absent() || certificate.first_servers.contains(&seen.node.id) {
        return None;
    }
    let members = seen.members.yes()?;
    let voters = members.iter().filter(|member| !member.learner).count();
    if voters < settings.servers || members.iter().any(|member| member.node == seen.node.name) {
        return None;
    }
    let reason = format!("{voters} of {} servers are there without this one", settings.servers);
    let mut next = Record::clone(&seen.record);
    next.data = Data::Discarding { reason: reason.clone() };
    Some(commits(Phase::Joining, Why::new("servers-full", reason, "joins as an agent"), next))
}

/// What `muster leave` or a termination notice asks of a member.
pub(super) fn leaves(seen: &Observed, role: Role, certificate: &Certificate) -> Option<Result<Plan, Why>> {
    let request = seen.heal.leave.as_ref()?;
    let discard = |reason: String| {
        let mut next = Record::clone(&seen.record);
        next.data = Data::Discarding { reason: reason.clone() };
        let why = Why::new("leaving", reason, "k3s is stopped and its data moved aside, not deleted");
        Some(Ok(commits(Phase::Joining, why, next)))
    };
    if role == Role::Agent {
        let own = Some(&seen.node.name);
        let drained = seen.heal.drained.as_ref() == own;
        if !drained && matches!(seen.k3s.ready, Known::Unknown(_)) {
            // Who hears nothing of Kubernetes asks on for a while, and then does not wait for it: its pods start elsewhere when others
            // take this machine for dead.
            let asked =
                seen.heal.unheard_since.map_or(Duration::ZERO, |since| seen.now.saturating_sub(since));
            if let Some(left) = UNHEARD.checked_sub(asked).filter(|left| !left.is_zero()) {
                let detail =
                    format!("this agent leaves ({}), and no server answers for its Node", request.reason);
                let next = format!(
                    "asked for {} s more; then it leaves without moving its pods",
                    left.as_secs() + 1
                );
                return Some(Ok(waits(Phase::Degraded, Why::new("leaving", detail, next), SOON)));
            }
        }
        if !drained && matches!(seen.k3s.ready, Known::Yes(_)) {
            let detail = format!("this agent leaves: {}", request.reason);
            let why = Why::new("leaving", detail, "its pods move away, then k3s is stopped here");
            let remedy = Remedy::DrainSelf { name: seen.node.name.clone() };
            let idle = seen.heal.draining.as_ref() != own;
            let steps = idle.then(|| Act::Heal { remedy, why: why.clone() });
            return Some(Ok(acts(Phase::Degraded, why, steps.into_iter().collect(), WAITING)));
        }
        return discard(format!("this agent leaves: {}", request.reason));
    }
    let refused = |cause: String| {
        let detail = format!(
            "asked to leave ({}), and that would cost the cluster its quorum: {cause}",
            request.reason
        );
        let next = "it stays; start another server first, or take the request back: muster leave --cancel";
        Some(Err(Why::new("leave-refused", detail, next)))
    };
    let asked = roles::target(seen, certificate);
    if let (Some(_), Known::Yes(members)) = (asked, &seen.members)
        && members.iter().any(|member| !member.learner)
        && members.iter().all(|member| member.node != seen.node.name)
    {
        return discard(format!("this server has left: {}", request.reason));
    }
    let Known::Yes(members) = &seen.k3s.members else {
        let listed =
            seen.members.yes().and_then(|list| list.iter().find(|member| member.node == seen.node.name));
        if let Some(member) = listed {
            // Its address changed: this member cannot come back, and the healer removes it when its machine says so.
            if member.address.is_some_and(|address| address != seen.node.address) {
                return discard(format!("this server leaves, and its address changed: {}", request.reason));
            }
            // It leaves as it would serve: by its own API, when k3s runs again.
            let next = "k3s is started here first; its member is removed when it serves";
            return Some(Err(Why::new("leaving", format!("this server leaves: {}", request.reason), next)));
        }
        let ask =
            asked.map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() });
        let why = Why::new("leaving", "asking whether this member is out", "then k3s is stopped here");
        return Some(Ok(acts(Phase::Degraded, why, ask.into_iter().collect(), SOON)));
    };
    if members.iter().all(|member| member.node != seen.node.name) {
        // Its own list does not count: it may be the one that was left behind.
        let ask =
            asked.map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() });
        let why = Why::new("leaving", "its member is out of its own list", "another server confirms it");
        return Some(Ok(acts(Phase::Degraded, why, ask.into_iter().collect(), SOON)));
    }
    if let Some(first) = leaves_first(seen) {
        let why = format!("this server leaves: {}", request.reason);
        let next = format!("waits for {first}: one server leaves at a time");
        return Some(Err(Why::new("leaving-waits", why, next)));
    }
    if let Err(refusal) =
        quorum::allows(members, &alive(seen, certificate), &Change::RemoveLiving(&seen.node.name))
    {
        return refused(refusal.to_string());
    }
    if asked.is_none() {
        return refused("no other server that serves is in sight".to_owned());
    }
    let why = Why::new(
        "leaving",
        format!("this server leaves: {}", request.reason),
        "its pods move away, its member is removed, then k3s is stopped here",
    );
    let step = Act::Heal {
        remedy: Remedy::Demote { name: seen.node.name.clone(), uid: String::new() },
        why: why.clone(),
    };
    let mut steps = vec![step];
    steps.extend(
        asked.map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() }),
    );
    // Not `serving`: the others must see what its cordon is for.
    Some(Ok(acts(Phase::Degraded, why, steps, WAITING)))
}

/// Another server that leaves, or is being removed, and comes before this one: two that count on each other would both go.
fn leaves_first(seen: &Observed) -> Option<&str> {
    let deleting = seen.heal.nodes.yes().into_iter().flatten().filter(|node| node.server && node.deleting);
    let peers = seen.peers.peers.values().filter(|peer| peer.live).map(|peer| &*peer.claim);
    let leaves = peers.filter(|claim| claim.why == "leaving" && claim.owner < seen.node.id);
    deleting
        .map(|node| node.name.as_str())
        .filter(|name| *name != seen.node.name)
        .chain(leaves.map(|claim| claim.name.as_str()))
        .next()
}

pub(super) fn alive(seen: &Observed, certificate: &Certificate) -> BTreeSet<String> {
    let same = |claim: &&crate::gossip::Claim| {
        claim.certificate.as_ref().is_some_and(|one| one.cluster_id == certificate.cluster_id)
    };
    seen.peers
        .peers
        .values()
        .filter(|peer| peer.live)
        .map(|peer| &*peer.claim)
        .filter(same)
        .filter(|claim| claim.role == Role::Server && claim.voter == Some(true))
        .map(|claim| claim.name.clone())
        .chain((seen.k3s.voter == Known::Yes(true)).then(|| seen.node.name.clone()))
        .collect()
}

/// The voters to be kept in the ledger, when the list has changed: without a quorum nobody can be asked who they were.
pub(super) fn voters_changed(seen: &Observed) -> Option<BTreeMap<String, IpAddr>> {
    let members = seen.k3s.members.yes()?;
    if seen.k3s.voter != Known::Yes(true) {
        return None;
    }
    // Beside a learner too: the power may go while one is on its way.
    let voters: BTreeMap<String, IpAddr> = members
        .iter()
        .filter(|member| !member.learner)
        .filter_map(|member| Some((member.node.clone(), member.address?)))
        .collect();
    (!voters.is_empty() && voters != seen.record.voters).then_some(voters)
}

/// Says that the quorum is lost, who is missing since when, and what would bring it back.
pub(super) fn quorum_lost(seen: &Observed) -> Option<Why> {
    let voters = &seen.record.voters;
    if voters.len() < 2 || seen.k3s.api == Known::Yes(true) || seen.k3s.voter == Known::Yes(true) {
        return None;
    }
    // A machine of that name that is no server, or not yet, does not stand in for the one that voted.
    let peer = |name: &str| {
        let mut peers = seen.peers.peers.values();
        peers.find(|peer| peer.claim.name == name && peer.live && peer.claim.role == Role::Server)
    };
    let missing: Vec<String> = voters
        .iter()
        .filter(|(name, _)| **name != seen.node.name && peer(name).is_none())
        .map(|(name, address)| {
            let known = seen.peers.peers.values().find(|peer| peer.claim.name == *name);
            let since = known.and_then(|peer| seen.heal.silent.get(&peer.claim.owner));
            match since {
                Some(since) => {
                    format!(
                        "{name} at {address}, silent since {} s",
                        seen.now.saturating_sub(*since).as_secs()
                    )
                }
                None => format!("{name} at {address}, not heard since this agent started"),
            }
        })
        .collect();
    let (living, needed) = (voters.len() - missing.len(), majority(voters.len()));
    if living >= needed {
        return None;
    }
    let detail = format!(
        "{living} of {} servers live and {needed} are needed; missing: {}",
        voters.len(),
        missing.join("; ")
    );
    let next = format!(
        "nothing is changed by itself; start {} of them; only if they are gone for good: muster recover",
        needed - living
    );
    Some(Why::new("quorum-lost", detail, next))
}

/// Two clusters under one certificate: by this server's own list, or by the word of another one that has seen it. While it lasts
/// nothing is removed, promoted, demoted or restarted on either side.
pub(super) fn split(seen: &Observed, certificate: &Certificate) -> Option<Why> {
    let next = "two clusters may exist under one certificate, and nothing is changed: compare the members of both sides; keep one, \
                and on every machine of the other: muster fold --into";
    let age = |since: &Duration| seen.now.saturating_sub(*since);
    if let Some((name, since)) = seen.heal.strangers.iter().find(|(_, since)| age(since) >= heal::SPLIT) {
        let detail = format!(
            "{name} says that it votes, and has not been in this node's list of members for {} s",
            age(since).as_secs()
        );
        return Some(Why::new("members-split", detail, next));
    }
    let mut peers = seen.peers.peers.values().filter(|peer| peer.live).map(|peer| &*peer.claim);
    let told = peers.find(|claim| {
        let ours = claim.certificate.as_ref().is_some_and(|one| one.cluster_id == certificate.cluster_id);
        ours && roles::is_current(seen, claim) && claim.why == "members-split"
    })?;
    let detail = format!("{} says that a server votes that is not in its list of members", told.name);
    Some(Why::new("members-split-told", detail, next))
}

/// Agents, which were all made on one day as a rule, spread their restarts over so long.
const SPREAD: i64 = 5 * 86_400;
/// Restarts k3s when its certificates are about to end: servers one at a time, each only while all others vote, so that each votes
/// again before the next.
pub(super) fn renews(seen: &Observed, role: Role, certificate: &Certificate, plan: &mut Plan) {
    let Known::Yes(left) = &seen.heal.leaf_ends else { return };
    let spread = if role == Role::Agent { place(&seen.node.id) % SPREAD } else { 0 };
    if *left > heal::RENEW_BEFORE - spread {
        return;
    }
    let detail = format!("the first of k3s's certificates on this machine ends in {} days", left / 86_400);
    if !heal::renewal_due(&seen.heal.leaf_ends, seen.heal.restarted, seen.now) {
        let next = "k3s was restarted for it less than a day ago: another restart follows if that does not renew it; muster doctor";
        plan.why.push(Why::new("certificate-renewal", detail, next));
        return;
    }
    if role == Role::Server {
        let Known::Yes(members) = &seen.k3s.members else { return };
        let voters = members.iter().filter(|member| !member.learner).count();
        let mut living = alive(seen, certificate);
        let all_vote = members.len() == voters && living.len() >= voters;
        living.remove(&seen.node.name);
        let enough = *left <= heal::RENEW_SOON && living.len() >= majority(voters);
        let may = all_vote || enough || *left <= heal::RENEW_NOW;
        let turn = seen.heal.turn.yes().and_then(|holder| holder.until).is_some_and(|until| seen.now < until);
        if !may || !turn {
            let next = match (may, *left <= heal::RENEW_SOON) {
                (true, _) => "waits for its turn",
                (false, true) => "waits until a majority votes without this server",
                (false, false) => "waits until every other server votes",
            };
            plan.why.push(Why::new("certificate-renewal", detail, next));
            return;
        }
    }
    plan.why.push(Why::new(
        "certificate-renewal",
        detail,
        "k3s is restarted, which renews them; pods run on",
    ));
    plan.acts.push(Act::Restart { role });
}

/// A number of this machine's own, the same every time.
fn place(id: &NodeId) -> i64 {
    id.as_str().bytes().fold(0, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000_003)
}

/// The cluster's remedies: only the holder of the Lease has any.
pub(super) fn cluster(seen: &Observed, settings: &Settings, certificate: &Certificate, plan: &mut Plan) {
    if seen.k3s.voter == Known::Yes(true)
        && seen.k3s.api == Known::Yes(true)
        && matches!(&seen.heal.marked, Known::Absent)
        || matches!(&seen.heal.marked, Known::Yes(id) if *id != seen.node.id)
    {
        plan.acts.push(Act::Mark);
    }
    if settings.healing.mode == HealingMode::Off || !seen.heal.is_mine(seen.now) {
        return;
    }
    let Known::Yes(members) = &seen.k3s.members else { return };
    if !matches!(seen.heal.nodes, Known::Yes(_)) {
        return;
    }
    let own = Own { id: &seen.node.id, name: &seen.node.name };
    let judged = heal::judge(own, members, &seen.peers.peers, &seen.heal);
    let advice = heal::choose(&Input {
        now: seen.now,
        own,
        zone: super::zone(seen, settings),
        votes: seen.k3s.voter == Known::Yes(true),
        cluster: &certificate.cluster_id,
        target: settings.servers,
        grace: settings.healing.grace,
        patience: settings.healing.patience,
        first: &certificate.first_servers,
        labels: &settings.labels,
        members,
        judged: &judged,
        peers: &seen.peers.peers,
        seen: &seen.heal,
    });
    // What blocks the cluster does not block this node, whose own reason stands first.
    plan.why.extend(advice.why);
    if let Some((why, remedy)) = advice.remedy {
        plan.why.push(why.clone());
        plan.acts.push(Act::Heal { remedy, why });
        plan.wake = plan.wake.min(WAITING);
    }
}

#[cfg(test)]
#[path = "heal_tests.rs"]
pub(super) mod tests;
