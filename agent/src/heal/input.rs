//! What the remedies are chosen from, and how the choice is said.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::labels::Wanted;
use super::remedy::Remedy;
use super::verdict::{Judged, Own};
use super::{HealSeen, NodeSeen};
use crate::core::zones::Zones;
use crate::core::{ClusterId, NodeId, Phase, Why};
use crate::decide::MemberSeen;
use crate::gossip::{Claim, Peer, Role, WantedRole};

/// What the rule looks at.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Now.
    pub now: Duration,
    /// This node.
    pub own: Own<'a>,
    /// Its failure domain; empty when it knows none.
    pub zone: &'a str,
    /// Whether its own member votes.
    pub votes: bool,
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// Wanted servers.
    pub target: usize,
    /// How long a server must have been dead.
    pub grace: Duration,
    /// How long a promoted machine may take.
    pub patience: Duration,
    /// The first servers on the certificate: a live one that has no role yet is on its way.
    pub first: &'a [NodeId],
    /// Labels that machines of a role are to have.
    pub labels: &'a Wanted,
    /// The members, as the own etcd lists them.
    pub members: &'a [MemberSeen],
    /// Their verdicts.
    pub judged: &'a [Judged],
    /// The others in gossip.
    pub peers: &'a BTreeMap<NodeId, Peer>,
    /// What healing looks at.
    pub seen: &'a HealSeen,
}

/// The rule's word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advice {
    /// What is not as it should be, and why nothing is done about it; the first is the most important.
    pub why: Vec<Why>,
    /// What to do, with its reason.
    pub remedy: Option<(Why, Remedy)>,
}

impl Advice {
    pub(super) fn wait(why: Why) -> Self {
        Self { why: vec![why], remedy: None }
    }

    pub(super) fn act(why: Why, remedy: Remedy) -> Self {
        Self { why: Vec::new(), remedy: Some((why, remedy)) }
    }
}

impl Input<'_> {
    /// How long a server has had its verdict.
    pub(super) fn age(&self, judged: &Judged) -> Duration {
        match self.seen.since.get(&judged.name) {
            Some((verdict, since)) if *verdict == judged.verdict => self.now.saturating_sub(*since),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeSeen> {
        self.seen.nodes.yes()?.iter().find(|node| node.name == name)
    }

    pub(super) fn of_cluster(&self) -> impl Iterator<Item = &Claim> {
        let same =
            |claim: &&Claim| claim.certificate.as_ref().is_some_and(|one| one.cluster_id == *self.cluster);
        self.peers.values().filter(|peer| peer.live).map(|peer| &*peer.claim).filter(same)
    }

    /// Members that are known to serve.
    pub(super) fn alive(&self) -> BTreeSet<String> {
        let listed = |name: &str| self.members.iter().any(|member| member.node == name);
        self.of_cluster()
            .filter(|claim| claim.role == Role::Server && claim.voter == Some(true) && listed(&claim.name))
            .map(|claim| claim.name.clone())
            .chain(self.votes.then(|| self.own.name.to_owned()))
            .collect()
    }

    /// Agents that may become servers, the fittest first.
    pub(super) fn spares(&self) -> Vec<&Claim> {
        let ordered = |name: &str| self.node(name).is_some_and(|node| node.order.is_some());
        let mut spares: Vec<&Claim> = self
            .of_cluster()
            .filter(|claim| claim.role == Role::Agent && claim.wants != WantedRole::Agent && claim.eligible)
            .filter(|claim| claim.phase == Phase::Serving && claim.ready == Some(true))
            .filter(|claim| !ordered(&claim.name))
            .collect();
        let zones = self.zones();
        spares.sort_by_key(|claim| {
            let rank = zones.rank(&claim.zone, claim.fitness.class);
            Reverse((claim.wants == WantedRole::Server, rank, Reverse(claim.owner.clone())))
        });
        spares
    }

    /// How many living voters stand in each zone.
    pub(super) fn zones(&self) -> Zones<'_> {
        let servers =
            self.of_cluster().filter(|claim| claim.role == Role::Server && claim.voter == Some(true));
        Zones::of(servers.map(|claim| claim.zone.as_str()).chain(self.votes.then_some(self.zone)))
    }

    /// Machines on their way to be servers that etcd does not list yet, as long as their time is not over.
    pub(super) fn coming(&self) -> Vec<&Claim> {
        let late = |name: &str| self.waited(name) >= self.patience;
        on_their_way(self.peers, self.cluster, self.first, self.members)
            .filter(|claim| claim.phase != Phase::Parked && !late(&claim.name))
            .collect()
    }

    /// How long a machine has been on its way to be a server.
    pub(super) fn waited(&self, name: &str) -> Duration {
        self.seen.on_way.get(name).map_or(Duration::ZERO, |since| self.now.saturating_sub(*since))
    }
}

/// Live machines of the cluster that are to be servers and that etcd does not list: they join, or are about to.
pub fn on_their_way<'a>(
    peers: &'a BTreeMap<NodeId, Peer>,
    cluster: &'a ClusterId,
    first: &'a [NodeId],
    members: &'a [MemberSeen],
) -> impl Iterator<Item = &'a Claim> {
    let listed = |name: &str| members.iter().any(|member| member.node == name);
    peers
        .values()
        .filter(|peer| peer.live)
        .map(|peer| &*peer.claim)
        .filter(|claim| claim.certificate.as_ref().is_some_and(|one| one.cluster_id == *cluster))
        .filter(|claim| {
            claim.role == Role::Server || (claim.role == Role::Undecided && first.contains(&claim.owner))
        })
        // Who leaves holds no role any more, and is on no way.
        .filter(move |claim| claim.why != "leaving" && !listed(&claim.name))
}
