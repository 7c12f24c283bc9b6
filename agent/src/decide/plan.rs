//! What to do about it: values, so that a plan can be printed, compared and tested.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::core::{CaHash, NodeId, Phase, Why};
use crate::gossip::Role;
use crate::heal::Remedy;
use crate::ledger::Record;

/// How k3s is to be configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum K3sWanted {
    /// With `cluster-init`: the provisional cluster of a nominee.
    Provisional,
    /// In the cluster of this CA. Without an address of another server the data on disk decides, and an empty data directory
    /// is stopped by the gate.
    InCluster {
        /// In this role.
        role: Role,
        /// Through this server.
        server: Option<IpAddr>,
        /// Pinned to this CA.
        ca: CaHash,
    },
}

impl K3sWanted {
    /// The role it runs in.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            K3sWanted::Provisional => Role::Server,
            K3sWanted::InCluster { role, .. } => *role,
        }
    }
}

/// One step. All are idempotent; the irreversible ones carry a guard that is asked again just before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Act {
    /// Make the host fit: swap, modules, sysctls.
    PrepareHost,
    /// Put the pinned k3s binary in place.
    FetchK3s,
    /// Ask what an address serves at `/cacerts`.
    Check {
        /// The address.
        address: IpAddr,
    },
    /// Ask a server for its etcd members.
    AskMembers {
        /// The server.
        address: IpAddr,
        /// Pinned to this CA.
        ca: CaHash,
    },
    /// Write k3s's token files, configuration and unit, where they differ.
    Configure {
        /// What they are to say.
        wanted: K3sWanted,
    },
    /// Start k3s, without waiting for it.
    Start {
        /// In this role.
        role: Role,
    },
    /// Stop k3s on its way in, so that it starts with the configuration that was just written.
    Stop {
        /// In this role.
        role: Role,
    },
    /// Stop k3s in a role that this machine gives up, and keep it from starting at boot.
    Retire {
        /// The old role.
        role: Role,
    },
    /// Restart k3s, which renews its certificates.
    Restart {
        /// In this role.
        role: Role,
    },
    /// Write this machine's identity on its Node.
    Mark,
    /// A remedy of the cluster's membership, as the holder of the Lease; or this machine's own leaving.
    Heal {
        /// Which.
        remedy: Remedy,
        /// Why, for the log.
        why: Why,
    },
    /// Let k3s start at boot; its gate still asks the ledger.
    Enable {
        /// In this role.
        role: Role,
    },
    /// Copy the snapshots aside and let k3s reset the members of etcd to this one.
    ResetEtcd {
        /// The recovery decision that asks for it.
        number: u64,
        /// Which reset of that decision.
        attempt: u32,
    },
    /// Stop k3s and move its data aside.
    Discard {
        /// Number of the directory it goes to.
        number: u64,
    },
    /// Delete the Node of a machine that was reimaged under the same name and address, so that it can join again.
    RemoveNode {
        /// The node's name.
        name: String,
        /// The address that both the old and the new machine have.
        address: IpAddr,
        /// The new identity that asks for the name.
        by: NodeId,
        /// Whether the old identity was seen dead in gossip. If nobody remembers it, Kubernetes must say that the node is not
        /// Ready, and that its address is the newcomer's.
        seen_dead: bool,
    },
}

/// The decision of one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the node stands.
    pub phase: Phase,
    /// Why, the blocking fact first.
    pub why: Vec<Why>,
    /// The ledger's next content: written and synced before anything else happens, and the world is looked at again.
    pub commit: Option<Box<Record>>,
    /// Steps in order.
    pub acts: Vec<Act>,
    /// Whether this node may vote and found, as its claim will say.
    pub eligible: bool,
    /// The role it has, or is taking.
    pub role: Role,
    /// When to look again at the latest; changes wake the agent earlier.
    pub wake: Duration,
}
