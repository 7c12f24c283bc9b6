//! The node's own durable facts, outside k3s's data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::core::{ClusterId, NodeId};
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
    /// To be moved aside: stop k3s, move its data, then `None`. Kept until that is done, so that a crash resumes it.
    Discarding {
        /// Why, for the log.
        reason: String,
    },
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
    pub certificate: Option<Certificate>,
    /// The annulment that opened this era.
    pub annulment: Option<Annulment>,
    /// Whether this node has ever held a certificate, in any era.
    pub ever_certified: bool,
    /// k3s's data here.
    pub data: Data,
    /// Whether this node has served in the cluster of its certificate: what is missing afterwards is a degradation.
    pub served: bool,
    /// Data directories discarded so far; names the next one.
    pub discarded: u64,
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
        self.annulment = Some(annulment);
    }
}
