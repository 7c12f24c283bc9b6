//! What is voted on and with what: ballots, registers, proposals and the birth certificate.
//!
//! A register is written only by its owner, synced to the owner's disk before it is published, and read by all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::{CaHash, ClusterId, NodeId, ParametersHash};

/// A ballot number of single-decree Paxos: unique because it names its proposer, ordered by counter first. The counter is
/// incremented and synced before use, so that a proposer that restarts never reuses one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Durable counter of the proposer.
    pub counter: u64,
    /// The proposer.
    pub node: NodeId,
}

/// The fact that a cluster exists: chosen once per era, kept by every node for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The cluster's own name, drawn by the proposer.
    pub cluster_id: ClusterId,
    /// Which founding this is: 1, and one more for every annulment.
    pub era: u64,
    /// What `K10<hash>::` must carry to join this cluster.
    pub ca_hash: CaHash,
    /// The one node that runs k3s with `cluster-init`.
    pub founder: NodeId,
    /// Its host name, for people.
    pub founder_name: String,
    /// Where the others find it.
    pub founder_address: IpAddr,
    /// The servers of the first hour, founder first, in the order in which they join.
    pub first_servers: Vec<NodeId>,
    /// The parameters that every voter shared.
    pub parameters_hash: ParametersHash,
}

/// A vote: the certificate accepted, and under which ballot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Accepted {
    /// Under which ballot it was accepted.
    pub ballot: Ballot,
    /// What was accepted.
    pub certificate: Arc<Certificate>,
}

/// An acceptor's register. It only moves forward.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Register {
    /// No ballot below this one will be accepted here.
    pub promised: Option<Ballot>,
    /// The latest vote.
    pub accepted: Option<Accepted>,
}

/// What a nominee asks for: a promise while `certificate` is none, then votes for the certificate. Durable before it is
/// published; the certificate of a ballot is written once and never changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Proposal {
    /// The ballot.
    pub ballot: Ballot,
    /// The certificate proposed under it, once a quorum has promised.
    pub certificate: Option<Arc<Certificate>>,
}

/// The values that every node of a cluster must share, by configuration key, as canonical text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(pub BTreeMap<String, String>);

impl Parameters {
    /// SHA-256 over the canonical JSON: keys sorted, no white space.
    #[must_use]
    pub fn hash(&self) -> ParametersHash {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(b"muster parameters v1\n");
        for (key, value) in &self.0 {
            for part in [key, value] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part.as_bytes());
            }
        }
        ParametersHash::from_digest(context.finish().as_ref())
    }

    /// The first key whose value differs, with mine and theirs (`none` for a missing one).
    #[must_use]
    pub fn first_difference(&self, theirs: &Parameters) -> Option<(String, String, String)> {
        let text = |value: Option<&String>| value.map_or_else(|| "none".to_owned(), Clone::clone);
        // `founders` and others follow from `servers` unless they are set: the cause is named before what follows from it.
        let servers = "servers".to_owned();
        std::iter::once(&servers)
            .chain(self.0.keys())
            .chain(theirs.0.keys())
            .find(|key| self.0.get(*key) != theirs.0.get(*key))
            .map(|key| (key.clone(), text(self.0.get(key)), text(theirs.0.get(key))))
    }
}

/// The parameters of one node with their hash: made once, for the settings of a run do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// By configuration key.
    pub values: Parameters,
    /// Their hash.
    pub hash: ParametersHash,
}

impl From<Parameters> for Shared {
    fn from(values: Parameters) -> Self {
        Self { hash: values.hash(), values }
    }
}

/// An operator's word, or authoritative evidence, that the certificate of an era will never serve: it opens the next era.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annulment {
    /// The era that ends.
    pub era: u64,
    /// The cluster that is annulled, if a certificate was known where the word was given.
    pub cluster_id: Option<ClusterId>,
    /// The node on which it was given.
    pub by: NodeId,
    /// The reason given.
    pub reason: String,
}
