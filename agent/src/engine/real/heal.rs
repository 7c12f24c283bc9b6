//! The effects of healing, each with its guard: the world is asked again just before anything is removed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::survey::{Questions, Surveyor};
use super::{Real, chain, lock};
use crate::core::{Known, NodeId, Why};
use crate::decide::{MemberSeen, Observed};
use crate::edge::{clock, fs};
use crate::engine::Outcome;
use crate::gossip::Role;
use crate::heal::quorum::{self, Change};
use crate::heal::{
    CORDONED, HealSeen, IDENTITY, Judged, LeaveRequest, ORDER, Order, RENEW_BEFORE, Reach, Remedy, Verdict,
    renewal_due,
};
use crate::k3s::K3sRole;
use crate::k3s::etcd::EtcdApi;
use crate::k3s::kube::NodeInfo;
use crate::ledger::{Data, Record};
use crate::report::decisions::{Decision, Kind};

/// How often k3s's certificates are read.
const CERTIFICATES: Duration = Duration::from_secs(3_600);
/// How often while one of them is about to end: k3s writes the last of them some time after its start.
const ENDING: Duration = Duration::from_secs(15);
/// The wall clock of a machine that knows the time stands after this: 2024.
const SET: i64 = 1_704_067_200;

/// Where `muster leave` leaves its request: in the state directory, where it lasts over reboots, or for this boot alone where the
/// status is. Only root may write to both.
pub(crate) fn leave_path(state_dir: &Path) -> PathBuf {
    state_dir.join("leave.json")
}

impl Real {
    pub(super) fn surveyor(&self) -> Surveyor {
        Surveyor {
            http: std::sync::Arc::clone(&self.http),
            paths: self.paths.clone(),
            id: self.id.as_str().to_owned(),
            own: self.address,
            role: K3sRole::Server,
            target: self.settings.servers,
            labels: !self.settings.labels.is_empty()
                || self.settings.zone.is_some()
                || !self.settings.discovery.clouds.is_empty(),
            wake: std::sync::Arc::clone(&self.wake),
        }
    }

    /// Completes a look by what healing looks at.
    pub(super) fn look_at_healing(&mut self, seen: &mut Observed, record: &Record) {
        let server = matches!(record.data, Data::Member { role: Role::Server, .. });
        let serves = server && seen.k3s.voter == Known::Yes(true) && seen.k3s.api == Known::Yes(true);
        let members = seen.k3s.members.yes();
        let ask = members.into_iter().flatten().filter_map(|member| member.address).collect();
        let names = members.into_iter().flatten().map(|member| member.node.clone()).collect();
        let surveyor = self.surveyor();
        self.look_at_certificates(seen.now);
        let leaf_ends = self.leaf_ends();
        // Whoever may not restart k3s again yet leaves the turn to the others.
        let turn_wanted = server && renewal_due(&leaf_ends, self.restarted, seen.now);
        self.survey.keep(serves, || surveyor, Questions { ask, names, turn_wanted });
        // A notice that the machine will be taken away is a word like an operator's.
        let ending = seen.discovery.ending.as_ref();
        let leave = self.leave_request().or_else(|| Some(LeaveRequest { reason: ending?.clone() }));
        let mut heal =
            HealSeen { leave, terminated: seen.discovery.terminated.clone(), ..HealSeen::default() };
        if heal.leave.is_none() {
            // What was moved away for a leave that was taken back may be here again.
            self.survey.forget_drain(&self.name);
        }
        self.survey.fill(seen.now, &mut heal);
        heal.leaf_ends = leaf_ends;
        heal.restarted = self.restarted;
        if let Some((_, facts)) = &self.k3s {
            heal.tombstone = facts.disk.tombstone.clone();
            heal.wal = facts.disk.wal.clone();
            if let Known::Yes(live) = &facts.live {
                heal.marked = marked(&live.node);
                heal.order = live.node.yes().and_then(order);
            }
        }
        if let Some(judged) = self.healing.take(seen, &mut heal, self.settings.servers) {
            self.note_verdicts(&judged);
        }
        seen.heal = heal.into();
    }

    /// Certificates change at restarts of k3s alone: they are read now and then.
    fn look_at_certificates(&mut self, now: Duration) {
        let ending = self.leaf_ends().yes().is_none_or(|left| *left < RENEW_BEFORE);
        let often = if ending { ENDING } else { CERTIFICATES };
        if self.certificates.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < often) {
            return;
        }
        let ends = crate::host::certificates(&self.paths.data_dir)
            .map(|seen| seen.iter().map(|one| one.ends).min().unwrap_or(i64::MAX));
        self.certificates = Some((now, ends));
    }

    /// Seconds until the first certificate ends. A clock that was never set tells nothing.
    fn leaf_ends(&self) -> Known<i64> {
        let wall = clock::wall_seconds();
        match &self.certificates {
            _ if wall < SET => Known::unknown("k3s's certificates", "the clock is not set"),
            Some((_, ends)) => ends.clone().map(|ends| ends - wall),
            None => Known::unknown("k3s's certificates", "not looked at yet"),
        }
    }

    /// Restarts k3s; the gate is asked again before it starts.
    pub(super) async fn restart(&mut self, role: Role) -> Outcome {
        let role = match role {
            Role::Server => K3sRole::Server,
            Role::Agent => K3sRole::Agent,
            Role::Undecided => return Outcome::AlreadySo,
        };
        self.restarted = Some(clock::since_boot());
        (self.k3s, self.certificates) = (None, None);
        for result in
            [self.init.stop(role.service(), super::act::STOP).await, self.init.start(role.service()).await]
        {
            if let Err(error) = result {
                return Outcome::Failed(chain(&error));
            }
        }
        Outcome::Done
    }

    /// Every change of a verdict is a decision; that a server is well at first sight is none.
    fn note_verdicts(&mut self, judged: &[Judged]) {
        let last = std::mem::take(&mut self.verdicts);
        for one in judged {
            let before = last.get(&one.name).copied();
            if before != Some(one.verdict) && (before.is_some() || one.verdict != Verdict::Healthy) {
                let was = before.map_or_else(|| "not judged".to_owned(), |verdict| verdict.to_string());
                let detail = format!("{} was {was} and is {}", one.name, one.verdict);
                let mut decision = Decision::new(Kind::Verdict, &one.name, "verdict", detail);
                decision.evidence = one.evidence.lines();
                self.scribe.note(&decision);
            }
            self.verdicts.insert(one.name.clone(), one.verdict);
        }
    }

    fn leave_request(&self) -> Option<LeaveRequest> {
        let places = [&self.settings.state_dir, &self.settings.run_dir];
        places.into_iter().find_map(|place| {
            let text = fs::known_text(&leave_path(place));
            serde_json::from_str(text.yes()?).ok()
        })
    }

    /// The guard of a remedy: everything that the verdict rested on is asked again.
    pub(super) async fn guard_remedy(&mut self, remedy: &Remedy, seen: &Observed) -> Known<bool> {
        let leaves =
            matches!(remedy, Remedy::Demote { name, .. } | Remedy::DrainSelf { name } if *name == self.name);
        if !leaves && !seen.heal.is_mine(clock::since_boot()) {
            return Known::Yes(false);
        }
        let (name, change, address) = match remedy {
            Remedy::Settle { .. }
            | Remedy::Withdraw { .. }
            | Remedy::Label { .. }
            | Remedy::DrainSelf { .. }
            | Remedy::Promote { .. } => return Known::Yes(true),
            Remedy::Remove { name, address, .. } => (name, Change::RemoveDead(name), *address),
            Remedy::RemoveMember { name, address, .. } => (name, Change::RemoveDead(name), Some(*address)),
            Remedy::Demote { name, .. } => (name, Change::RemoveLiving(name), None),
        };
        if let Some(address) = address
            && self.surveyor().reach(address).await == Reach::Answers
        {
            tracing::warn!(server = %name, "it answers again: nothing is removed");
            return Known::Yes(false);
        }
        self.quorum_holds(&change).await
    }

    /// Whether the members, asked anew, may change so. Its own etcd must be healthy: only then there is a quorum at this moment. Who
    /// counts as living must answer now, too: an agent that has just started takes others' word for whom it hears.
    pub(super) async fn quorum_holds(&mut self, change: &Change<'_>) -> Known<bool> {
        let facts = self.probe.look().await;
        if let Known::Yes(live) = &facts.live
            && live.etcd_healthy != Known::Yes(true)
        {
            return Known::Yes(false);
        }
        let members: Vec<MemberSeen> = match &facts.live {
            Known::Yes(live) => match &live.members {
                Known::Yes(members) => members.iter().map(super::look::member).collect(),
                Known::Absent => return Known::Absent,
                Known::Unknown(unread) => return Known::Unknown(unread.clone()),
            },
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread.clone()),
        };
        let votes = facts.voter() == Known::Yes(true);
        let own = votes.then(|| self.name.clone());
        let view = self.view.borrow().clone();
        let said: BTreeSet<&str> = view
            .peers
            .values()
            .filter(|peer| peer.live && peer.claim.role == Role::Server && peer.claim.voter == Some(true))
            .map(|peer| peer.claim.name.as_str())
            .collect();
        let ask = members
            .iter()
            .filter(|member| said.contains(member.node.as_str()))
            .filter_map(|member| member.address)
            .collect();
        let reach = self.surveyor().reach_all(&ask).await;
        let answers =
            |member: &MemberSeen| member.address.is_some_and(|at| reach.get(&at) == Some(&Reach::Answers));
        let alive: BTreeSet<String> = members
            .iter()
            .filter(|member| answers(member))
            .map(|member| member.node.clone())
            .chain(own)
            .collect();
        if let Err(refusal) = quorum::allows(&members, &alive, change) {
            tracing::warn!(?change, %refusal, "nothing is removed");
            return Known::Yes(false);
        }
        Known::Yes(true)
    }

    pub(super) async fn heal(&mut self, remedy: Remedy, why: &Why) -> Outcome {
        if let Remedy::DrainSelf { name } = &remedy {
            let outcome = self.drain_self(name).await;
            tracing::warn!(rule = %why.rule, ?outcome, "{}", why.detail);
            return outcome;
        }
        let (name, uid) = match &remedy {
            Remedy::Remove { name, uid, .. } | Remedy::Demote { name, uid } => (name.clone(), uid.clone()),
            Remedy::Promote { name }
            | Remedy::DrainSelf { name }
            | Remedy::Withdraw { name }
            | Remedy::Settle { name }
            | Remedy::RemoveMember { name, .. }
            | Remedy::Label { name, .. } => (name.clone(), String::new()),
        };
        let node = {
            let api = match self.kube() {
                Known::Yes(api) => api,
                Known::Absent => {
                    return Outcome::Failed("this server has no admin certificate yet".to_owned());
                }
                Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
            };
            let node = api.node(&name).await;
            // One whose deletion does not end stands for nobody any more.
            let stands = node.yes().is_some_and(|node| !node.deleting);
            match (node, &remedy) {
                (Known::Yes(_) | Known::Absent, Remedy::RemoveMember { address, .. }) if !stands => {
                    let outcome = self.remove_member(&name, Some(*address)).await;
                    tracing::warn!(rule = %why.rule, ?outcome, "{}", why.detail);
                    return outcome;
                }
                // Its Node went, and without k3s's label its member did not go with it.
                (Known::Absent, Remedy::Demote { .. }) => {
                    let outcome = self.remove_member(&name, None).await;
                    tracing::warn!(rule = %why.rule, ?outcome, "{}", why.detail);
                    return outcome;
                }
                (Known::Yes(node), _) => node,
                (Known::Absent, _) => return Outcome::AlreadySo,
                (Known::Unknown(unread), _) => return Outcome::Failed(unread.to_string()),
            }
        };
        if !uid.is_empty() && node.uid != uid {
            return Outcome::Refused(format!("another Node has the name {name} now"));
        }
        let outcome = match &remedy {
            Remedy::Remove { .. } if node.ready == Known::Yes(true) => {
                Outcome::Refused(format!("node {name} is Ready"))
            }
            Remedy::RemoveMember { .. } => Outcome::Refused(format!("there is a Node named {name}")),
            Remedy::Remove { .. } => self.delete(&node).await,
            Remedy::Demote { .. } => self.drained_or(&node).await,
            Remedy::Promote { .. } => self.drained_or_ordered(&node).await,
            Remedy::DrainSelf { .. } => self.begin_drain(&node, self.surveyor()),
            Remedy::Label { labels, .. } => {
                let outcome = self.merge(&node, json!({ "metadata": { "labels": labels } })).await;
                self.survey.forget_labels();
                outcome
            }
            Remedy::Withdraw { .. } | Remedy::Settle { .. } => {
                self.survey.forget_drain(&node.name);
                let fields = json!({
                    "spec": { "unschedulable": null },
                    "metadata": { "labels": { ORDER: null, CORDONED: null } }
                });
                self.merge(&node, fields).await
            }
        };
        tracing::warn!(rule = %why.rule, ?outcome, "{}", why.detail);
        outcome
    }

    /// Removes a member that no Node stands for, told by its name, and its place where that is known.
    async fn remove_member(&mut self, name: &str, address: Option<IpAddr>) -> Outcome {
        let facts = self.probe.look().await;
        let members = facts.live.yes().and_then(|live| live.members.yes());
        let Some(members) = members else {
            return Outcome::Failed("the members of etcd cannot be read".to_owned());
        };
        let is_it = |seen: &MemberSeen| seen.node == name && (address.is_none() || seen.address == address);
        if address.is_none() && !members.iter().any(|member| is_it(&super::look::member(member))) {
            return Outcome::AlreadySo;
        }
        let mut found = members.iter().filter(|member| is_it(&super::look::member(member)));
        let (Some(member), None) = (found.next(), found.next()) else {
            let at = address.map_or_else(String::new, |address| format!(" at {address}"));
            return Outcome::Refused(format!("etcd does not list one member named {name}{at}"));
        };
        let removed = match EtcdApi::local(&self.http, &self.paths) {
            Known::Yes(etcd) => etcd.remove_member(member.id).await,
            Known::Absent => Err("this server has no certificates for etcd".to_owned()),
            Known::Unknown(unread) => Err(unread.to_string()),
        };
        self.k3s = None;
        match removed {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::AlreadySo,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// A living server is drained before it is removed.
    async fn drained_or(&mut self, node: &NodeInfo) -> Outcome {
        if self.survey.is_drained(&node.name) {
            return self.delete(node).await;
        }
        self.begin_drain(node, self.surveyor())
    }

    async fn drained_or_ordered(&mut self, node: &NodeInfo) -> Outcome {
        if self.survey.is_drained(&node.name) {
            let fields = json!({ "metadata": { "labels": { ORDER: Order::Server.word() } } });
            return self.merge(node, fields).await;
        }
        self.begin_drain(node, self.surveyor())
    }

    /// An agent has its kubelet's word alone, which may cordon its own Node and move its own pods.
    async fn drain_self(&mut self, name: &str) -> Outcome {
        let surveyor = Surveyor { role: K3sRole::Agent, ..self.surveyor() };
        let node = match surveyor.kube() {
            Known::Yes(api) => api.node(name).await,
            Known::Absent => return Outcome::Failed("this agent has no certificate yet".to_owned()),
            Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
        };
        match node {
            Known::Yes(node) => self.begin_drain(&node, surveyor),
            Known::Absent => Outcome::AlreadySo,
            Known::Unknown(unread) => Outcome::Failed(unread.to_string()),
        }
    }

    fn begin_drain(&self, node: &NodeInfo, surveyor: Surveyor) -> Outcome {
        let begun = self.survey.drain(surveyor, node.clone(), self.settings.healing.drain);
        if begun { Outcome::Begun } else { Outcome::Refused("another machine is being drained".to_owned()) }
    }

    async fn delete(&mut self, node: &NodeInfo) -> Outcome {
        let result = match self.kube() {
            Known::Yes(api) => api.delete_node(&node.name, &node.uid).await,
            Known::Absent => return Outcome::Failed("this server has no admin certificate yet".to_owned()),
            Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
        };
        self.k3s = None;
        match result {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::AlreadySo,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    async fn merge(&self, node: &NodeInfo, fields: Value) -> Outcome {
        match self.kube() {
            Known::Yes(api) => match api.merge_node(&node.name, fields, Some(&node.uid)).await {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(chain(&error)),
            },
            Known::Absent => Outcome::Failed("this server has no admin certificate yet".to_owned()),
            Known::Unknown(unread) => Outcome::Failed(unread.to_string()),
        }
    }

    /// Writes this machine's identity on its Node: what tells a replaced machine from this one.
    pub(super) async fn mark(&mut self) -> Outcome {
        // Only a Node that this very k3s registered: the ledger says that it is a member.
        if !matches!(lock(&self.ledger).record().data, Data::Member { role: Role::Server, .. }) {
            return Outcome::Refused("this node is no server".to_owned());
        }
        let fields = json!({ "metadata": { "annotations": { IDENTITY: self.id.as_str() } } });
        let outcome = match self.kube() {
            Known::Yes(api) => match api.merge_node(&self.name, fields, None).await {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(chain(&error)),
            },
            Known::Absent => return Outcome::Failed("this server has no admin certificate yet".to_owned()),
            Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
        };
        self.k3s = None;
        outcome
    }
}

fn marked(node: &Known<NodeInfo>) -> Known<NodeId> {
    match node {
        Known::Yes(node) => {
            node.annotations.get(IDENTITY).map_or(Known::Absent, |text| match text.parse() {
                Ok(id) => Known::Yes(id),
                // Whatever stands there is not this machine's mark.
                Err(_) => Known::Absent,
            })
        }
        // Without a Node there is nothing to mark yet.
        Known::Absent => Known::unknown("this node's Node", "there is none"),
        Known::Unknown(unread) => Known::Unknown(unread.clone()),
    }
}

fn order(node: &NodeInfo) -> Option<Order> {
    node.labels.get(ORDER).and_then(|word| Order::read(word))
}
