//! Checked settings: newtypes and numbers, no raw fragments left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::discovery::DiscoverySettings;
use crate::core::Secret;
use crate::founding::Parameters;
use crate::gossip::WantedRole;
use crate::heal::labels::Wanted;

/// Keys of `server-config` that k3s compares between servers at their first join, or whose difference it documents as an error
/// (`server.CriticalControlArgs`); those that have a setting of their own are compared there.
const CRITICAL: [&str; 12] = [
    "disable-cloud-controller",
    "disable-helm-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "egress-selector-mode",
    "embedded-registry",
    "flannel-external-ip",
    "flannel-ipv6-masq",
    "secrets-encryption",
    "secrets-encryption-provider",
    "service-node-port-range",
    "supervisor-metrics",
];

/// Whether this node may take part in a founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FoundingMode {
    /// As the protocol decides.
    #[default]
    Auto,
    /// Never: what an autoscaling group should be switched to after the first boot.
    Never,
}

/// Where to look for peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// A literal address.
    Address(SocketAddr),
    /// A host name, resolved again and again, and a port.
    Name(String, u16),
}

/// Where the k3s binary may come from, tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file (the binary), or a directory that holds `k3s` or `k3s-arm64` and `sha256sum-<arch>.txt`.
    Path(PathBuf),
    /// A base URL with release layout: `<base>/<version>/k3s`, `<base>/<version>/sha256sum-<arch>.txt`.
    Url(String),
}

/// What k3s is given.
#[derive(Clone)]
pub struct K3sSettings {
    /// Pinned version, such as `v1.33.1+k3s1`.
    pub version: String,
    /// Artefact sources in order.
    pub sources: Vec<Source>,
    /// Checksum file to use instead of the one beside the artefact.
    pub checksums: Option<Source>,
    /// k3s's data directory.
    pub data_dir: PathBuf,
    /// Pod CIDRs.
    pub cluster_cidr: String,
    /// Service CIDRs.
    pub service_cidr: String,
    /// Cluster DNS address, when not k3s's default.
    pub cluster_dns: Option<String>,
    /// Cluster domain.
    pub cluster_domain: String,
    /// Flannel backend.
    pub flannel_backend: String,
    /// Packaged components switched off.
    pub disable: Vec<String>,
    /// More names for the API certificate.
    pub tls_san: Vec<String>,
    /// An existing k3s server token (password part) to keep instead of the derived one.
    pub token: Option<Secret>,
    /// An existing k3s agent token (password part) to keep instead of the derived one.
    pub agent_token: Option<Secret>,
    /// More keys for the servers' config.yaml.
    pub server_config: BTreeMap<String, serde_json::Value>,
    /// More keys for the agents' config.yaml.
    pub agent_config: BTreeMap<String, serde_json::Value>,
}

impl fmt::Debug for K3sSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Raw keys by name only: an operator may have put a secret into a value.
        f.debug_struct("K3sSettings")
            .field("version", &self.version)
            .field("sources", &self.sources)
            .field("checksums", &self.checksums)
            .field("data_dir", &self.data_dir)
            .field("cluster_cidr", &self.cluster_cidr)
            .field("service_cidr", &self.service_cidr)
            .field("cluster_dns", &self.cluster_dns)
            .field("cluster_domain", &self.cluster_domain)
            .field("flannel_backend", &self.flannel_backend)
            .field("disable", &self.disable)
            .field("tls_san", &self.tls_san)
            .field("token", &self.token)
            .field("agent_token", &self.agent_token)
            .field("server_config", &self.server_config.keys())
            .field("agent_config", &self.agent_config.keys())
            .finish()
    }
}

/// Pace of the protocol. Time only decides when to try; nothing here is needed for safety.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Gossip interval in milliseconds.
    pub gossip_interval_ms: u64,
    /// How long the set of eligible nodes must be unchanged before a node nominates itself, in milliseconds.
    pub settle_ms: u64,
    /// How long a nominee may take to bring its provisional cluster up before the next one is tried, in milliseconds.
    pub nominee_patience_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { gossip_interval_ms: 1_000, settle_ms: 1_000, nominee_patience_ms: 240_000 }
    }
}

/// What a machine must measure to be as good a server as any. Except for memory, a machine on the wrong side of one still may
/// be a server: it yields to every machine that is on the right side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Slowest 99th percentile of one `fdatasync`, in milliseconds.
    pub max_fsync_ms: u64,
    /// Least memory of a server, in MiB; a machine with less is no server.
    pub min_memory_mib: u64,
    /// Least free space where k3s's data lie, in MiB.
    pub min_disk_free_mib: u64,
    /// Largest distance of the clock from its time source, in milliseconds.
    pub max_clock_offset_ms: u64,
}

impl Default for Limits {
    /// etcd's advice is a disk of 10 ms and its heartbeat comes every 100; a machine of 1 GiB as the kernel counts it; images of
    /// a bare k3s with room for a log and a snapshot; etcd warns of clocks that are a second apart.
    fn default() -> Self {
        Self { max_fsync_ms: 30, min_memory_mib: 900, min_disk_free_mib: 4_096, max_clock_offset_ms: 1_000 }
    }
}

/// What the host is told beside the table of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSettings {
    /// Rows switched off by name.
    pub skip: BTreeSet<String>,
    /// Modules of the table that are loaded only when asked for.
    pub modules: BTreeSet<String>,
    /// Packages of the table that are installed only when asked for.
    pub packages: BTreeSet<String>,
    /// Whether a firewall that is on is opened for k3s; otherwise it is only reported.
    pub open_firewall: bool,
    /// Limits of the measurements.
    pub limits: Limits,
}

/// Whether this node heals the cluster's membership when it holds the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealingMode {
    /// It does.
    #[default]
    Auto,
    /// It only says what is wrong.
    Off,
}

/// How the membership is healed. What a machine does about itself alone is not bounded by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// Whether it is.
    pub mode: HealingMode,
    /// How long a server must have been dead, by every witness, before it is replaced.
    pub grace: Duration,
    /// How long a promoted machine may take to become a server before another one is tried.
    pub patience: Duration,
    /// How long the pods of a machine that changes its role may take to move away.
    pub drain: Duration,
}

impl Default for Healing {
    /// Kubernetes moves pods away from a silent node after five minutes; so long a reboot may take. A k3s that joins needs one to
    /// two minutes on a slow disk; one that cannot start must have given up before etcd's leader removes its learner, after five
    /// minutes, since k3s adds it again in the same second.
    fn default() -> Self {
        Self {
            mode: HealingMode::Auto,
            grace: Duration::from_secs(300),
            patience: Duration::from_secs(240),
            drain: Duration::from_secs(60),
        }
    }
}

/// Everything the agent was told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the cluster; part of every key derivation.
    pub cluster: String,
    /// Wanted servers: odd, at least 1.
    pub servers: usize,
    /// Votes a certificate needs.
    pub founders: usize,
    /// Wanted role.
    pub role: WantedRole,
    /// The failure domain of this machine, when it is told; else a cloud's metadata may know it.
    pub zone: Option<String>,
    /// Whether this node may found.
    pub founding: FoundingMode,
    /// Where to look for peers.
    pub seeds: Vec<Seed>,
    /// Where else.
    pub discovery: DiscoverySettings,
    /// The cluster token.
    pub token: Secret,
    /// The cluster token that is being replaced: its key opens datagrams and seals none.
    pub previous_token: Option<Secret>,
    /// Node name, when not the host name.
    pub node_name: Option<String>,
    /// Node addresses, the first of the family of the first pod network; empty when they are chosen.
    pub node_ips: Vec<IpAddr>,
    /// Interface to take the node address from.
    pub interface: Option<String>,
    /// UDP port of gossip.
    pub gossip_port: u16,
    /// Where the metrics are read over plain HTTP; none when they are off.
    pub metrics_listen: Option<SocketAddr>,
    /// Durable state: the ledger, the decision log and the host journal.
    pub state_dir: PathBuf,
    /// State of this boot: the status file.
    pub run_dir: PathBuf,
    /// k3s.
    pub k3s: K3sSettings,
    /// The host.
    pub host: HostSettings,
    /// API addresses (VIP, DNS name, load balancer) that must not answer when a cluster is founded.
    pub api_addresses: Vec<String>,
    /// Pace.
    pub timing: Timing,
    /// Healing of the membership.
    pub healing: Healing,
    /// Labels that the healer sets on Nodes.
    pub labels: Wanted,
}

impl Settings {
    /// Whether this node is told to look for others, by seeds or in any other way.
    #[must_use]
    pub fn looks_for_peers(&self) -> bool {
        !self.seeds.is_empty() || self.discovery.looks()
    }

    /// The values that every node must share: compared before any vote, hashed on the certificate.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        let mut map = BTreeMap::new();
        let mut put = |key: &str, value: String| {
            map.insert(key.to_owned(), value);
        };
        put("cluster", self.cluster.clone());
        put("servers", self.servers.to_string());
        put("founders", self.founders.to_string());
        put("k3s.cluster-cidr", self.k3s.cluster_cidr.clone());
        put("k3s.service-cidr", self.k3s.service_cidr.clone());
        put("k3s.cluster-dns", self.k3s.cluster_dns.clone().unwrap_or_default());
        put("k3s.cluster-domain", self.k3s.cluster_domain.clone());
        put("k3s.flannel-backend", self.k3s.flannel_backend.clone());
        let disable: BTreeSet<&str> = self.k3s.disable.iter().map(String::as_str).collect();
        put("k3s.disable", disable.into_iter().collect::<Vec<_>>().join(","));
        for (key, value) in &self.k3s.server_config {
            if CRITICAL.contains(&key.trim_end_matches('+')) {
                put(&format!("k3s.server-config.{key}"), value.to_string());
            }
        }
        Parameters(map)
    }
}
