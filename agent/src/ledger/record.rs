//! The node's own durable facts, outside k3s's data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::{ClusterId, NodeId, Recovery};
use crate::founding::{Annulment, Ballot, Certificate, Proposal, Register};
use crate::gossip::Role;

/// What k3s's data on this machine is, by this node's own word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Data {
    /// None of ours: the data directory must be empty.
    #[default]
    None,
    /// A provisional cluster that nobody else may join, worth nothing until its certificate is chosen.
    Provisional {
        /// The ballot under which it was started.
        ballot: Ballot,
    },
    /// On its way into the cluster.
    Joining {
        /// In this role.
        role: Role,
        /// Into this cluster.
        cluster: ClusterId,
    },
    /// A member of the cluster: it has been ready in it at least once, or it founded it.
    Member {
        /// In this role.
        role: Role,
        /// Of this cluster.
        cluster: ClusterId,
    },
    /// This server survives a lost quorum: its etcd becomes a cluster of one, in steps that a crash resumes.
    Recovering {
        /// Of this cluster.
        cluster: ClusterId,
        /// Under the recovery decision of this number.
        number: u64,
        /// Which reset this is, from 1; another one follows only when the result was not a cluster of one.
        attempt: u32,
        /// How far it is.
        step: RecoveryStep,
    },
    /// To be moved aside: stop k3s, move its data, then `None`. Kept until that is done, so that a crash resumes it.
    Discarding {
        /// Why, for the log.
        reason: String,
    },
}

/// How far a recovery is on the surviving server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryStep {
    /// k3s is stopped, and every live server gives its data up first.
    Fencing,
    /// k3s resets the members of etcd to this one.
    Resetting,
    /// k3s starts as usual; it must be the only member.
    Starting,
}

/// The server through which alone this machine joins, by an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fold {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// A peer that was met, for the next cold start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Remembered {
    /// Its name.
    pub name: String,
    /// Where its gossip was.
    pub address: SocketAddr,
}

/// Everything but the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Name of the cluster it was written for; another name in the configuration parks the node.
    pub cluster: String,
    /// Counter of starts of gossip, incremented and synced before use.
    pub generation: u64,
    /// The founding this node is in: 1, and one more for every annulment.
    pub era: u64,
    /// Highest ballot counter ever used here.
    pub ballot_counter: u64,
    /// The acceptor's register of this era.
    pub register: Register,
    /// The proposal of this era.
    pub proposal: Option<Proposal>,
    /// Server-eligible identities ever heard in this era before a certificate.
    pub heard: BTreeSet<NodeId>,
    /// The certificate of this era.
    pub certificate: Option<Arc<Certificate>>,
    /// The annulment that opened this era.
    pub annulment: Option<Annulment>,
    /// The highest recovery decision known about the cluster of the certificate.
    #[serde(default)]
    pub recovery: Option<Recovery>,
    /// Where this machine was told to join, until it has.
    #[serde(default)]
    pub fold: Option<Fold>,
    /// Whether this node has ever held a certificate, in any era.
    pub ever_certified: bool,
    /// k3s's data here.
    pub data: Data,
    /// Whether this node has served in the cluster of its certificate: what is missing afterwards is a degradation.
    pub served: bool,
    /// Data directories discarded so far; names the next one.
    pub discarded: u64,
    /// The voters of etcd, as this server last saw them listed: without a quorum nobody can be asked.
    #[serde(default)]
    pub voters: BTreeMap<String, IpAddr>,
    /// Peers met.
    pub peers: BTreeMap<NodeId, Remembered>,
}

impl Record {
    /// The record of a machine that has never done anything.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), era: 1, ..Self::default() }
    }

    /// Opens the era after an annulled one: everything that was voted stays behind with it.
    pub fn open_next_era(&mut self, annulment: Annulment) {
        self.era = annulment.era.saturating_add(1);
        self.register = Register::default();
        self.proposal = None;
        self.heard.clear();
        self.certificate = None;
        self.served = false;
        self.voters.clear();
        self.recovery = None;
        self.fold = None;
        self.annulment = Some(annulment);
    }
}
