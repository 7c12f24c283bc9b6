//! One machine of the simulated group: its disk, its agent's memory, its k3s.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use muster::core::{CaHash, Known, NodeId};
use muster::decide::{K3sWanted, MemberSeen, NodeFacts};
use muster::engine::Watcher;
use muster::gossip::{Claim, PeerView};
use muster::ledger::Record;

/// k3s's data on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// Nothing.
    Empty,
    /// A server's data: a member of this etcd cluster.
    Server {
        /// Index of the etcd cluster.
        cluster: usize,
        /// Which member it is.
        member: u64,
    },
    /// An agent's data, of this etcd cluster.
    Agent {
        /// Index of the etcd cluster.
        cluster: usize,
    },
}

/// k3s as a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// When it was started.
    pub since: Duration,
    /// How long it needs until its datastore votes.
    pub slow: Duration,
    /// Set for a k3s that never comes up.
    pub hangs: bool,
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    /// Its number: also the last part of its address.
    pub number: u8,
    /// Whether it is switched on.
    pub up: bool,
    /// Its identity and counters.
    pub node: NodeFacts,
    /// The ledger on disk.
    pub record: Record,
    /// k3s's data on disk.
    pub disk: Disk,
    /// k3s's configuration on disk.
    pub config: Option<K3sWanted>,
    /// Whether k3s starts at boot.
    pub enabled: bool,
    /// k3s, while it runs.
    pub k3s: Option<Running>,
    /// The last claim published.
    pub claim: Option<Claim>,
    /// The others, as they were heard.
    pub view: PeerView,
    /// When each was heard last.
    pub heard: BTreeMap<NodeId, Duration>,
    /// Answers to `/cacerts`, with their moments.
    pub checks: BTreeMap<IpAddr, (Duration, Known<CaHash>)>,
    /// The last member list asked for.
    pub members: Option<(Duration, Vec<MemberSeen>)>,
    /// The agent's memory.
    pub watcher: Watcher,
    /// When it looks again.
    pub next: Duration,
    /// The phase of its last plan, for the story.
    pub phase: Option<muster::core::Phase>,
    /// The rules of its last plan.
    pub why: Vec<String>,
    /// An operator's word, given on this machine.
    pub annul: Option<muster::decide::AnnulRequest>,
    /// Crash at the n-th effect from now on.
    pub crash_in: Option<u32>,
}

/// The name of a machine.
pub fn name(number: u8) -> String {
    format!("node{number}")
}

/// The address of a machine.
pub fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}
