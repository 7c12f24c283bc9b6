//! What is to be done about the verdicts: one remedy at a time, each with its reason, or the reason why nothing is done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::input::{Advice, Input};
use super::quorum::{self, Change};
use super::shape::{surplus, vacancy};
use super::verdict::{Judged, Verdict};
use super::{NodeSeen, Order};
use crate::core::Why;

/// How long a fact that needs no grace must have lasted: claims and lists are seconds apart.
pub const SETTLED: Duration = Duration::from_secs(8);
/// How long a server must have voted elsewhere before it is called a split and not an old list.
pub const SPLIT: Duration = Duration::from_secs(30);
/// How long there must have been too few servers before an agent is promoted: a list and a claim may be a moment apart.
pub const VACANT: Duration = Duration::from_secs(2);
/// How long the deletion of a dead server's Node may take: k3s removes the member first, within seconds, and tries for ever where it
/// lacks a word on the Node that it needs for that.
pub const REMOVING: Duration = Duration::from_secs(60);
/// How long the number of servers must have been too high before a living one is demoted.
pub const SURPLUS: Duration = Duration::from_secs(30);

/// A remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "remedy")]
pub enum Remedy {
    /// Delete the Node of a server that does not serve; k3s then removes its member and its password.
    Remove {
        /// Its name.
        name: String,
        /// The Node that was judged, and no other of its name.
        uid: String,
        /// Its address.
        address: Option<IpAddr>,
        /// What the verdict rests on.
        evidence: Vec<String>,
    },
    /// Remove the member of a server that has no Node, or one whose deletion does not end: k3s removes a member with its Node alone.
    RemoveMember {
        /// The node's name.
        name: String,
        /// The address of its peer URL.
        address: IpAddr,
        /// What the verdict rests on.
        evidence: Vec<String>,
    },
    /// Drain a surplus server and delete its Node, or remove its member where it has none; the machine then joins again as an agent.
    Demote {
        /// Its name.
        name: String,
        /// The Node that was judged; empty where there is none.
        uid: String,
    },
    /// Drain an agent and order it to become a server.
    Promote {
        /// Its name.
        name: String,
    },
    /// Move this agent's own pods away before it leaves, by its kubelet's certificate.
    DrainSelf {
        /// Its name.
        name: String,
    },
    /// Take back an order that was not carried out in time.
    Withdraw {
        /// The name of the machine.
        name: String,
    },
    /// Set labels that a kubelet may not set itself.
    Label {
        /// The name of the machine.
        name: String,
        /// What is set.
        labels: BTreeMap<String, String>,
    },
    /// Make a machine schedulable again whose order is carried out.
    Settle {
        /// Its name.
        name: String,
    },
}

impl Remedy {
    /// The machine it touches, and its name in the decision log.
    #[must_use]
    pub fn subject(&self) -> (&str, &'static str) {
        match self {
            Remedy::Remove { name, .. } => (name, "remove-server"),
            Remedy::RemoveMember { name, .. } => (name, "remove-member"),
            Remedy::Demote { name, .. } => (name, "demote-server"),
            Remedy::Promote { name } => (name, "promote-agent"),
            Remedy::DrainSelf { name } => (name, "drain-agent"),
            Remedy::Withdraw { name } => (name, "withdraw-order"),
            Remedy::Settle { name } => (name, "settle-order"),
            Remedy::Label { name, .. } => (name, "label-node"),
        }
    }
}

/// Chooses. Called by the holder of the Lease alone.
#[must_use]
pub fn choose(input: &Input<'_>) -> Advice {
    let advice = wanted(input);
    // What a machine was drained for may be wanted no more by the time it is: it is not left cordoned.
    let drained = input.seen.drained.as_deref().and_then(|name| input.node(name));
    let idle = drained.filter(|node| node.cordoned && node.order.is_none() && !node.deleting);
    match (idle, &advice.remedy) {
        (Some(node), None) if input.seen.draining.is_none() => {
            Advice { remedy: Some(cordon_left(&node.name)), ..advice }
        }
        (Some(node), Some((_, remedy))) if remedy.subject().0 != node.name => {
            Advice { remedy: Some(cordon_left(&node.name)), ..advice }
        }
        _ => advice,
    }
}

fn cordon_left(name: &str) -> (Why, Remedy) {
    let detail = format!("{name} was cordoned for a change that is over");
    let why = Why::new("cordon-left", detail, "made schedulable again");
    (why, Remedy::Settle { name: name.to_owned() })
}

fn wanted(input: &Input<'_>) -> Advice {
    if let Some(name) = &input.seen.draining {
        let detail = format!("{name} is being drained");
        return Advice::wait(Why::new("draining", detail, "its pods are given a limited time to move"));
    }
    if let Some(stranger) = input.judged.iter().find(|one| one.verdict == Verdict::Stranger) {
        let detail = format!("{} says that it votes, and this node's etcd does not list it", stranger.name);
        if input.age(stranger) >= SPLIT {
            let next = "two clusters may exist under one certificate: nothing is changed until a person has compared their members";
            return Advice::wait(Why::new("members-split", detail, next));
        }
        return Advice::wait(Why::new("members-differ", detail, "looked at again"));
    }
    if let Some(advice) = orders(input) {
        return advice;
    }
    let listed = |node: &&NodeSeen| input.members.iter().any(|member| member.node == node.name);
    let deleting = input.seen.nodes.yes().into_iter().flatten().filter(|node| node.deleting);
    if let Some(node) = deleting.filter(listed).find(|node| !is_stuck(input, node)) {
        let detail = format!("{} is being removed", node.name);
        return Advice::wait(Why::new("removing", detail, "k3s removes its member, then its Node"));
    }
    if let Some(learner) = input.members.iter().find(|member| member.learner) {
        let dead = input.judged.iter().find(|one| one.name == learner.node);
        // One that has not started has no name yet, and no Node: etcd's leader alone removes it.
        let lost = dead.filter(|one| !one.name.is_empty() && is_lost(input, one));
        if lost.is_none() {
            let detail = match &learner.address {
                Some(address) if learner.node.is_empty() => {
                    format!("a learner at {address} has been added and has not started")
                }
                _ => format!("{} is still a learner", learner.node),
            };
            let next = "one change at a time; etcd promotes it when it has caught up, or removes it after five minutes";
            return Advice::wait(Why::new("heal-waits-for-learner", detail, next));
        }
    }
    let voters = input.members.iter().filter(|member| !member.learner).count();
    if let Some(advice) = lost(input, voters) {
        return advice;
    }
    if voters > input.target { surplus(input, voters) } else { vacancy(input, voters) }
}

/// Whether a verdict is one on which a server is removed.
fn is_lost(input: &Input<'_>, one: &Judged) -> bool {
    match one.verdict {
        Verdict::Dead => input.age(one) >= input.grace.max(SETTLED),
        Verdict::Gone => input.age(one) >= SETTLED,
        _ => false,
    }
}

/// Whether a dead server's Node has been going for so long that k3s will not remove its member.
fn is_stuck(input: &Input<'_>, node: &NodeSeen) -> bool {
    let one = input.judged.iter().find(|one| one.name == node.name);
    one.is_some_and(|one| is_lost(input, one) && input.age(one) >= input.grace.max(SETTLED) + REMOVING)
}

/// Orders that stand: carried out, too late, or on their way.
fn orders(input: &Input<'_>) -> Option<Advice> {
    let votes = |name: &str| input.members.iter().any(|member| member.node == name && !member.learner);
    let nodes = || input.seen.nodes.yes().into_iter().flatten().filter(|node| !node.deleting);
    if let Some(node) = nodes().find(|node| node.order == Some(Order::Server)) {
        if votes(&node.name) && node.ready == crate::core::Known::Yes(true) {
            let why =
                Why::new("order-done", format!("{} is a server now", node.name), "made schedulable again");
            return Some(Advice::act(why, Remedy::Settle { name: node.name.clone() }));
        }
        let waited = input.waited(&node.name);
        let listed = input.members.iter().any(|member| member.node == node.name);
        // One that died on its way stands in everybody's way, and so does one that votes and never is Ready; a learner that is slow
        // is etcd's to remove.
        let dead = input.judged.iter().any(|one| one.name == node.name && is_lost(input, one));
        if dead || (waited >= input.patience && (!listed || votes(&node.name))) {
            let what = match (dead, listed) {
                (true, _) => "is dead",
                (false, true) => "votes and is not Ready",
                (false, false) => "has not",
            };
            let detail =
                format!("{} was to become a server {} s ago and {what}", node.name, waited.as_secs());
            let why = Why::new("spare-failed", detail, "its order is taken back, and another spare is tried");
            return Some(Advice::act(why, Remedy::Withdraw { name: node.name.clone() }));
        }
        let detail = format!("{} becomes a server, since {} s", node.name, waited.as_secs());
        return Some(Advice::wait(Why::new("promoting", detail, "one change at a time")));
    }
    let drained = |node: &&NodeSeen| input.seen.drained.as_ref() == Some(&node.name);
    let leaves =
        |node: &&NodeSeen| input.of_cluster().any(|claim| claim.name == node.name && claim.why == "leaving");
    let cordoned =
        nodes().find(|node| node.cordoned && node.order.is_none() && !leaves(node) && !drained(node))?;
    Some(Advice { why: Vec::new(), remedy: Some(cordon_left(&cordoned.name)) })
}

/// A server that is lost, and whether it is removed now.
fn lost(input: &Input<'_>, voters: usize) -> Option<Advice> {
    let mut waiting = None;
    let bad = input.judged.iter().filter(|one| matches!(one.verdict, Verdict::Dead | Verdict::Gone));
    for one in bad {
        let (age, name) = (input.age(one), &one.name);
        let evidence = one.evidence.lines();
        let said = format!("{name} is {} since {} s ({})", one.verdict, age.as_secs(), evidence.join("; "));
        if !is_lost(input, one) {
            let next = format!("replaced after {} s without a sign of life", input.grace.as_secs());
            waiting.get_or_insert(Why::new("server-silent", said, next));
            continue;
        }
        // A member that is kept costs nothing that its removal would bring back, and its machine may return: it is removed when
        // another machine can take its place, or when there are too many anyway.
        let asks = input.of_cluster().any(|claim| claim.why == "name-held" && claim.name == *name);
        // etcd takes nobody in while a member does not answer (its strict check of a change), so whoever is to come needs every dead
        // one out, and not this place alone.
        let replaceable =
            voters > input.target || asks || !input.spares().is_empty() || !input.coming().is_empty();
        if !replaceable {
            let next =
                "kept as a member until a machine can take its place: start one, and it joins by itself";
            waiting.get_or_insert(Why::new("no-spare", said, next));
            continue;
        }
        if let Err(refusal) = quorum::allows(input.members, &input.alive(), &Change::RemoveDead(name)) {
            let why =
                Why::new("removal-refused", format!("{said}; {refusal}"), "nothing is removed meanwhile");
            return Some(Advice::wait(why));
        }
        let node = input.node(name);
        let Some(node) = node.filter(|node| !node.deleting) else {
            let Some(address) = one.address else {
                let next = "etcd gives it no address: remove it with etcd's own tools (docs/healing.md)";
                waiting.get_or_insert(Why::new("member-without-node", said, next));
                continue;
            };
            let next = match node {
                Some(_) => "the deletion of its Node does not end: etcd is told to remove the member",
                None => "it has no Node: etcd is told to remove it",
            };
            let why = Why::new("member-without-node", said, next);
            return Some(Advice::act(why, Remedy::RemoveMember { name: name.clone(), address, evidence }));
        };
        let remedy =
            Remedy::Remove { name: name.clone(), uid: node.uid.clone(), address: one.address, evidence };
        let next = if node.server {
            "its Node is deleted, and k3s removes its member"
        } else {
            "its Node is deleted; it lacks k3s's label for etcd, so etcd may have to be told, too"
        };
        let why = Why::new("server-removed", said, next);
        return Some(Advice::act(why, remedy));
    }
    // While one is silent, nothing else is changed.
    waiting.map(Advice::wait)
}

#[cfg(test)]
#[path = "remedy_tests.rs"]
mod tests;
