//! What a node says about itself: typed, versioned, small, signed by its owner, and never a secret.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::{NodeId, ParametersHash, Phase, Recovery};
use crate::founding::{Annulment, Certificate, Proposal, Register};
use crate::identity::Marks;

/// The role asked for in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum WantedRole {
    /// Server while servers are wanted, agent otherwise.
    #[default]
    Auto,
    /// Server; agent, with a reason, when servers are full.
    Server,
    /// Agent always: never votes, never founds.
    Agent,
}

/// The role a node has taken in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// None yet.
    #[default]
    Undecided,
    /// Runs `k3s server`.
    Server,
    /// Runs `k3s agent`.
    Agent,
}

/// How fit a machine is to found: compared field by field, more is better. Small on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Fitness {
    /// Rank of the class that its measurements put it in, 0 (unfit) to 3: coarse, so that noise does not decide.
    pub class: u8,
}

/// Everything a node publishes about itself in one signed value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Version of this format: 1.
    pub v: u8,
    /// Whose claim it is: the hash of the key that signed it.
    pub owner: NodeId,
    /// Durable counter of starts of the agent.
    pub generation: u64,
    /// Counter of claims within the generation; with it, later claims are told from earlier.
    pub counter: u64,
    /// Node name, as Kubernetes will know it.
    pub name: String,
    /// Address under which the node serves.
    pub address: IpAddr,
    /// The role its configuration asks for.
    pub wants: WantedRole,
    /// Whether it may vote and found: role server or auto, host checks passed, not parked.
    pub eligible: bool,
    /// How fit it is.
    pub fitness: Fitness,
    /// The failure domain its machine stands in; empty when nobody told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Hash of its parameters; the values travel under their own key.
    pub parameters: ParametersHash,
    /// The era it is in.
    pub era: u64,
    /// Its acceptor's register; left out once it knows the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<Register>,
    /// Its proposal, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// The certificate it knows to be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Arc<Certificate>>,
    /// The latest annulment it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annulment: Option<Annulment>,
    /// The latest recovery decision it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Whether nothing of the time before that decision runs or can start here any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// Its phase.
    pub phase: Phase,
    /// The role it has taken.
    pub role: Role,
    /// Whether its own etcd member votes, as it sees it; none when unknown or not a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voter: Option<bool>,
    /// Whether its API answers `/readyz`; none when unknown or not a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<bool>,
    /// Whether its Kubernetes node is Ready, as it sees it; none when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Keyed hashes of what no two machines may share.
    #[serde(default, skip_serializing_if = "Marks::is_empty")]
    pub marks: Marks,
    /// The rule that its first reason names; empty when nothing blocks.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub why: Cow<'static, str>,
}

fn is_blank(text: &str) -> bool {
    text.is_empty()
}
