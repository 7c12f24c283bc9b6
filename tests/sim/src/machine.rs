//! One machine of the simulated group: its disk, its agent's memory, its k3s.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use muster::core::{CaHash, Known, NodeId, Phase, Why};
use muster::decide::{AnnulRequest, K3sWanted, MemberSeen};
use muster::engine::Watcher;
use muster::ledger::Record;

use crate::gossip::Ears;
use crate::survey::Healer;

/// k3s's data on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
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

/// How writes fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// They succeed.
    Succeed,
    /// No room: what replaces a file fails, k3s's datastore stops, and files can still be moved and removed.
    Full,
    /// Nothing can be changed.
    ReadOnly,
    /// Every other write fails with nothing changed.
    Fail,
    /// Writes fail after the rename: the new content may be what a restart finds.
    FailLate,
}

/// The token file that k3s is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A password alone.
    Password,
    /// Pins this CA, for a server or an agent.
    Pinned(CaHash, &'static str),
}

/// What the unit of a k3s that lies tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Ready from the first moment, whatever works.
    Ready,
    /// Failed, while it runs.
    Failed,
}

/// k3s as a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// When its datastore can vote.
    pub ready: Duration,
    /// Never comes up.
    pub hangs: bool,
    /// What its unit says against the truth.
    pub lies: Option<Lie>,
    /// Its kubelet has registered its Node.
    pub registered: bool,
}

/// Everything that outlives the power.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Whose ledger it is: an index of [`crate::world::World::identities`].
    pub identity: u8,
    /// The ledger.
    pub record: Arc<Record>,
    /// The ledger does not have its checksum.
    pub damaged: bool,
    /// k3s's data.
    pub data: Data,
    /// k3s's configuration.
    pub config: Option<K3sWanted>,
    /// k3s's token file.
    pub token: Option<Token>,
    /// Its etcd found that the cluster has removed it.
    pub tombstone: bool,
    /// k3s starts at boot.
    pub enabled: bool,
    /// The password under which its Node was registered; none before.
    pub password: Option<u64>,
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    /// Its number.
    pub number: u8,
    /// The last part of its address: its number, unless it was given another one.
    pub at: u8,
    /// Destroyed for good.
    pub gone: bool,
    /// Has power.
    pub up: bool,
    /// Its agent runs.
    pub agent: bool,
    /// Stands still: a suspended guest.
    pub paused: Option<Duration>,
    /// What outlives the power.
    pub disk: Disk,
    /// How writes fare.
    pub writes: Writes,
    /// Its clock since boot is ahead by so much.
    pub leap: Duration,
    /// Its wall clock is years off: certificates are not valid to it.
    pub wrong_date: bool,
    /// Which body of a ledger it is: two machines with copies of one ledger are two voters.
    pub voter: usize,
    /// Copied from another machine, identity and all.
    pub copy: bool,
    /// When peace switches it on again.
    pub back: Duration,
    /// Under [`crate::control::Control::PublishedFirst`]: what a power cut before a moment leaves on the disk.
    pub unsynced: Option<(Duration, Arc<Record>)>,
    /// Its name.
    pub name: String,
    /// k3s, while it runs.
    pub k3s: Option<Running>,
    /// When systemd starts k3s again after its death.
    pub k3s_again: Option<Duration>,
    /// When k3s dies by itself.
    pub k3s_dies: Option<Duration>,

    /// The agent's memory: the ledger as it wrote it.
    pub record: Arc<Record>,
    /// What it hears and said.
    pub ears: Ears,
    /// Counter of its latest claim.
    pub counter: u64,
    /// Answers to `/cacerts`, with their moments.
    pub checks: Vec<(IpAddr, Duration, Known<CaHash>)>,
    /// The last member list asked for.
    pub members: Option<(Duration, Vec<MemberSeen>)>,
    /// What it remembers of its own watching.
    pub watcher: Watcher,
    /// When it looks again.
    pub next: Duration,
    /// When it starts again after it died.
    pub agent_again: Option<Duration>,
    /// The phase of its last plan.
    pub phase: Option<Phase>,
    /// The reasons of its last plan.
    pub why: Vec<Why>,
    /// An operator's word, given on this machine.
    pub annul: Option<AnnulRequest>,
    /// What it remembers of healing.
    pub healer: Healer,
    /// Crash at the n-th effect from now on.
    pub crash_in: Option<(u32, Crash)>,
}

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The whole machine.
    Power,
    /// The agent alone; k3s goes on.
    Agent,
}

impl Machine {
    /// The rule that its last plan put first.
    pub fn rule(&self) -> &str {
        self.why.first().map_or("", |why| &*why.rule)
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        address(self.at)
    }
}

/// The name of a machine.
pub fn name(number: u8) -> String {
    format!("node{number}")
}

/// The address of a machine.
pub fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

/// The identity that an index and a history stand for.
pub fn identity(bytes: &[u8; 32]) -> NodeId {
    NodeId::from_digest(bytes)
}
