//! Everything that was seen at one moment: the only input of a decision beside the settings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{CaHash, ClusterId, Known, NodeId, Why};
use crate::founding::Shared;
use crate::gossip::PeerView;
use crate::heal::HealSeen;
use crate::ledger::Record;

/// A look at the world.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Time since boot.
    pub now: Duration,
    /// Random bits for the id of a cluster that this node may propose.
    pub fresh_cluster: ClusterId,
    /// This node.
    pub node: NodeFacts,
    /// The ledger, as it is on disk.
    pub record: Arc<Record>,
    /// An operator's word that the certificate of an era will never serve.
    pub annul: Option<AnnulRequest>,
    /// The host's fitness.
    pub host: HostSeen,
    /// The others.
    pub peers: Arc<PeerView>,
    /// What every node must share, as this node has it.
    pub shared: Arc<Shared>,
    /// What the agent remembers of its own watching.
    pub watch: Watch,
    /// Addresses asked for `/cacerts` in the last seconds.
    pub checks: BTreeMap<IpAddr, Known<CaHash>>,
    /// Etcd members, as a server of the cluster listed them in the last seconds.
    pub members: Known<Vec<MemberSeen>>,
    /// Configured API addresses, and whether a cluster answers there.
    pub api: BTreeMap<String, Known<CaHash>>,
    /// k3s on this machine.
    pub k3s: K3sSeen,
    /// What healing looks at.
    pub heal: Arc<HealSeen>,
    /// What the sources of peers said, and what they know for certain.
    pub discovery: DiscoverySeen,
}

/// What discovery knows beside addresses: facts of an authority (a cloud's API, its metadata service), and the state of every
/// source. Nothing here is ever concluded from a failed look-up: a field that nobody could answer stays empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiscoverySeen {
    /// The zone this machine runs in.
    pub zone: Option<String>,
    /// The most machines that this machine's group may have.
    pub group_max: Option<u32>,
    /// Addresses of machines that an authority says are gone for good, with the words of who said so; never one that a running
    /// machine has now.
    pub terminated: BTreeMap<IpAddr, String>,
    /// The notice that this machine itself will be taken away: what was said.
    pub ending: Option<String>,
    /// Every configured source, in the order of the configuration.
    pub sources: Vec<SourceSeen>,
}

/// One source of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceSeen {
    /// Its name: that of its configuration.
    pub source: String,
    /// Addresses in its last good answer; none while it has never answered, which is not "no peers".
    pub found: Option<usize>,
    /// Age of that answer in milliseconds.
    pub age_ms: Option<u64>,
    /// Why the latest attempt failed, if it did.
    pub error: Option<String>,
}

impl SourceSeen {
    /// Its state in a few words, without its age: `sweep: 2 addresses`, `dns: unknown (...)`.
    #[must_use]
    pub fn state(&self) -> String {
        let found = match self.found {
            None => "unknown".to_owned(),
            Some(1) => "1 address".to_owned(),
            Some(count) => format!("{count} addresses"),
        };
        match &self.error {
            Some(error) => format!("{}: {found} ({error})", self.source),
            None => format!("{}: {found}", self.source),
        }
    }

    /// The same with the answer's age.
    #[must_use]
    pub fn words(&self) -> String {
        match self.age_ms {
            Some(age) => format!("{}, {} s ago", self.state(), age / 1_000),
            None => self.state(),
        }
    }
}

/// What `muster founding annul` left for the agent.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnulRequest {
    /// The era to end; a request for another one is stale and does nothing.
    pub era: u64,
    /// The operator's reason.
    pub reason: String,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its identity.
    pub id: NodeId,
    /// Its Kubernetes name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its generation of gossip.
    pub generation: u64,
    /// The counter of its latest published claim.
    pub counter: u64,
    /// Its fitness class.
    pub fitness: u8,
}

/// What the host checks say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSeen {
    /// Whether preparation has run to its end since the agent started.
    pub prepared: bool,
    /// Reasons why nothing may run here.
    pub blocks_all: Vec<Why>,
    /// Reasons why no server may run here.
    pub blocks_server: Vec<Why>,
    /// On which sides of the limits the machine is wrong, and what it shares with others: nothing of it blocks.
    pub short: Vec<Why>,
}

/// Memory of the agent, advice only: nothing that safety rests on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watch {
    /// When the set of live eligible peers last changed.
    pub settled_since: Duration,
    /// When the highest proposal of another live node was first seen.
    pub nominee_since: Duration,
    /// No own nomination before this moment.
    pub retry_at: Duration,
    /// When the agent started.
    pub started: Duration,
    /// Since when k3s says without a break that its cluster has removed it.
    pub out_since: Option<Duration>,
    /// Since when this machine's server runs, with etcd's log on its disk, and is not known to vote.
    pub voteless_since: Option<Duration>,
    /// For how long this machine has tried to become a server of a cluster that serves; nothing is counted while it waits for others.
    pub trying_for: Duration,
    /// When it gave that up.
    pub gave_up: Option<Duration>,
}

/// An etcd member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSeen {
    /// Its node's name: the member name without the suffix that k3s adds.
    pub node: String,
    /// Whether it is still a learner.
    pub learner: bool,
    /// The address of its peer URL.
    pub address: Option<IpAddr>,
}

/// The k3s binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binary {
    /// Not there, or not the wanted one; fetching has not begun.
    Wanted,
    /// On its way.
    Fetching {
        /// What is being done, with its position.
        progress: String,
    },
    /// In place.
    Ready,
    /// Every source failed; tried again later.
    Failed {
        /// Every source with its failure.
        cause: String,
    },
}

/// A unit, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitSeen {
    /// Stopped, or never started, or its start condition refused.
    Inactive,
    /// On its way up, or waiting for its automatic restart.
    Starting,
    /// Told systemd that it is ready.
    Active,
    /// Given up by systemd.
    Failed,
}

/// k3s on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct K3sSeen {
    /// The binary.
    pub binary: Binary,
    /// `k3s.service`.
    pub server_unit: Known<UnitSeen>,
    /// `k3s-agent.service`.
    pub agent_unit: Known<UnitSeen>,
    /// Server data on disk (an etcd log, a sqlite database, or a server's TLS directory).
    pub server_data: Known<()>,
    /// Agent data on disk.
    pub agent_data: Known<()>,
    /// The hash of the CA on disk, for server data.
    pub disk_ca: Known<CaHash>,
    /// The hash that the own `/cacerts` serves.
    pub served_ca: Known<CaHash>,
    /// Whether the own etcd member votes and is healthy.
    pub voter: Known<bool>,
    /// Etcd members, as the own supervisor lists them.
    pub members: Known<Vec<MemberSeen>>,
    /// Whether the API answers `/readyz`.
    pub api: Known<bool>,
    /// Whether this node is Ready.
    pub ready: Known<bool>,
    /// Whether there is a configuration of k3s on disk.
    pub configuration: Known<()>,
    /// The server address in the configuration on disk.
    pub configured_server: Known<IpAddr>,
    /// What is in k3s's way, read from its log, its configuration directory and its ports.
    pub trouble: Vec<Why>,
}
