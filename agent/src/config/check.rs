//! From merged values to [`Settings`]: every refusal names key, value, origin and what is allowed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::k3s_keys;
use super::keys::Key;
use super::merge::Merged;
use super::names;
use super::problem::ConfigError;
use super::settings::{
    FoundingMode, Healing, HealingMode, HostSettings, K3sSettings, Limits, Settings, Timing,
};
use super::show::{key_of, masked_text};
use crate::core::Secret;
use crate::gossip::WantedRole;
use crate::heal::labels::{self, Wanted};

/// The secrets that were read beside the values.
#[derive(Debug, Clone)]
pub(super) struct Secrets {
    pub(super) token: Secret,
    pub(super) previous: Option<Secret>,
    pub(super) k3s: Option<Secret>,
    pub(super) k3s_agent: Option<Secret>,
}

/// UDP ports that k3s's own network takes: VXLAN, and WireGuard for both families.
const TAKEN_PORTS: [u64; 3] = [8472, 51820, 51821];

/// Checks every value.
///
/// # Errors
/// Everything that is refused, in the order of the keys.
pub(super) fn settings(merged: &Merged, secrets: Option<Secrets>) -> Result<Settings, Vec<ConfigError>> {
    let mut check = Check { merged, problems: Vec::new() };
    let settings = check.all(secrets);
    match settings {
        Some(settings) if check.problems.is_empty() => Ok(settings),
        _ => Err(check.problems),
    }
}

/// Whether this is one machine for itself: one server, one vote, nobody to look for, and not asked to be an agent.
pub(super) fn is_lone(merged: &Merged) -> bool {
    merged.whole(Key::Servers) == Some(1)
        && merged.whole(Key::Founders).is_none_or(|founders| founders == 1)
        && merged.list(Key::Seeds).is_empty()
        && !discovery::is_told(merged)
        && merged.text(Key::Role) != Some("agent")
}

pub(super) struct Check<'a> {
    pub(super) merged: &'a Merged,
    problems: Vec<ConfigError>,
}

impl Check<'_> {
    fn all(&mut self, secrets: Option<Secrets>) -> Option<Settings> {
        let cluster = self.text(Key::Cluster, names::cluster);
        let (servers, founders) = self.counts();
        let role = self.text(Key::Role, |text| match text {
            "auto" => Ok(WantedRole::Auto),
            "server" => Ok(WantedRole::Server),
            "agent" => Ok(WantedRole::Agent),
            _ => Err("allowed are auto, server and agent".into()),
        });
        let zone = self.text(Key::Zone, labels::zone);
        let founding = self.text(Key::Founding, |text| match text {
            "auto" => Ok(FoundingMode::Auto),
            "never" => Ok(FoundingMode::Never),
            _ => Err("allowed are auto and never".into()),
        });
        let gossip_port = self.gossip_port();
        let mut seeds = self.list(Key::Seeds, |text| names::seed(text, gossip_port.unwrap_or(1)));
        dedup(&mut seeds);
        for key in [Key::TokenFile, Key::PreviousTokenFile, Key::K3sTokenFile, Key::K3sAgentTokenFile] {
            self.text(key, names::absolute);
        }
        let node_name = self.text(Key::NodeName, names::node_name);
        let node_ips = self.node_ips();
        let interface = self.text(Key::Interface, names::interface);
        let metrics_listen = self.metrics_listen();
        let state_dir = self.text(Key::StateDir, names::absolute);
        let run_dir = self.text(Key::RunDir, names::absolute);
        let k3s = self.k3s(secrets.as_ref());
        if let (Some(state), Some(k3s)) = (&state_dir, &k3s)
            && state.starts_with(&k3s.data_dir)
        {
            let reason = "the ledger must outlive k3s's data: it cannot lie inside k3s.data-dir";
            self.refuse(Key::StateDir, &state.display().to_string(), reason.into());
        }
        let host = self.host();
        let api_addresses = self.list(Key::ApiAddresses, |text| names::url(text, &["https"]));
        let discovery = self.discovery(is_lone(self.merged));
        let timing = self.timing();
        let labels = Wanted {
            server: self.list(Key::LabelsServer, labels::parse).into_iter().collect(),
            agent: self.list(Key::LabelsAgent, labels::parse).into_iter().collect(),
        };
        let healing = self.healing();
        let secrets = secrets?;
        Some(Settings {
            cluster: cluster?,
            servers: servers?,
            founders: founders?,
            role: role?,
            zone,
            founding: founding?,
            seeds,
            discovery: discovery?,
            token: secrets.token,
            previous_token: secrets.previous,
            node_name,
            node_ips,
            interface,
            gossip_port: gossip_port?,
            metrics_listen: metrics_listen?,
            state_dir: state_dir?,
            run_dir: run_dir?,
            k3s: k3s?,
            host: host?,
            api_addresses,
            timing: timing?,
            healing: healing?,
            labels,
        })
    }

    /// Servers and founders, which bound each other.
    fn counts(&mut self) -> (Option<usize>, Option<usize>) {
        let servers = self.whole(Key::Servers, |servers| match servers {
            0 => Err("at least 1 server is needed; allowed are odd numbers".into()),
            n if n % 2 == 0 => Err(format!(
                "allowed are odd numbers: {n} voters survive no more failures than {}, and need one more vote for every write",
                n - 1
            )),
            n => usize::try_from(n).map_err(|_| "too large".into()),
        });
        if self.merged.whole(Key::Founders).is_none() {
            return (servers, servers);
        }
        let founders = self.whole(Key::Founders, |founders| match founders {
            0 => Err("at least 1 vote is needed for a birth certificate".into()),
            1 if servers.is_some_and(|servers| servers != 1) => Err(
                "1 is allowed only with servers = 1: with one vote every machine that sees no other founds a cluster of its own"
                    .into(),
            ),
            n => usize::try_from(n).map_err(|_| "too large".into()),
        });
        (servers, founders)
    }

    /// Everybody who reaches them can read the metrics: away from loopback only when that is said in so many words.
    fn metrics_listen(&mut self) -> Option<Option<SocketAddr>> {
        let network = self.text(Key::MetricsAccess, |text| match text {
            "loopback" => Ok(false),
            "network" => Ok(true),
            _ => Err("allowed are loopback and network".into()),
        });
        self.text(Key::MetricsListen, |text| {
            if text == "off" {
                return Ok(None);
            }
            let listen: SocketAddr = text
                .parse()
                .map_err(|_| "allowed are off and an address with its port, such as 127.0.0.1:7847".to_owned())?;
            if listen.port() == 0 {
                return Err("allowed are ports 1 to 65535".into());
            }
            if !listen.ip().is_loopback() && network == Some(false) {
                return Err(
                    "not a loopback address, and everybody who reaches it could read the metrics: set metrics-access = \
                     \"network\" if that is meant"
                        .into(),
                );
            }
            Ok(Some(listen))
        })
    }

    fn gossip_port(&mut self) -> Option<u16> {
        self.whole(Key::GossipPort, |port| match u16::try_from(port) {
            Ok(0) | Err(_) => Err("allowed are ports from 1 to 65535".into()),
            Ok(_) if TAKEN_PORTS.contains(&port) => Err("this UDP port is taken by k3s's own network".into()),
            Ok(port) => Ok(port),
        })
    }

    fn host(&mut self) -> Option<HostSettings> {
        let skip = self.list(Key::HostSkip, names::host_row).into_iter().collect();
        let modules = self.list(Key::HostModules, |text| match text {
            "wireguard" | "ip_vs" => Ok(text.to_owned()),
            _ => {
                Err("allowed are wireguard and ip_vs; modules that k3s always needs are loaded anyway".into())
            }
        });
        let packages = self.list(Key::HostPackages, |text| match text {
            "iscsi" | "nfs" => Ok(text.to_owned()),
            _ => Err("allowed are iscsi and nfs".into()),
        });
        let open_firewall = self.text(Key::HostFirewall, |text| match text {
            "report" => Ok(false),
            "open" => Ok(true),
            _ => Err("allowed are report and open".into()),
        });
        let mut bounded = |key, from, to, unit| {
            self.whole(key, |number| match number {
                n if (from..=to).contains(&n) => Ok(n),
                _ => Err(format!("allowed are {from} to {to} {unit}")),
            })
        };
        let max_fsync_ms = bounded(Key::HostMaxFsyncMs, 1, 10_000, "milliseconds");
        let min_memory_mib = bounded(Key::HostMinMemoryMib, 256, 1 << 24, "MiB");
        let min_disk_free_mib = bounded(Key::HostMinDiskFreeMib, 0, 1 << 30, "MiB");
        let max_clock_offset_ms = bounded(Key::HostMaxClockOffsetMs, 1, 60_000, "milliseconds");
        let limits = Limits {
            max_fsync_ms: max_fsync_ms?,
            min_memory_mib: min_memory_mib?,
            min_disk_free_mib: min_disk_free_mib?,
            max_clock_offset_ms: max_clock_offset_ms?,
        };
        Some(HostSettings {
            skip,
            modules: modules.into_iter().collect(),
            packages: packages.into_iter().collect(),
            open_firewall: open_firewall?,
            limits,
        })
    }

    fn timing(&mut self) -> Option<Timing> {
        let mut bounded = |key, from, to| {
            self.whole(key, |number| match number {
                n if (from..=to).contains(&n) => Ok(n),
                _ => Err(format!("allowed are {from} to {to} milliseconds")),
            })
        };
        let gossip_interval_ms = bounded(Key::GossipIntervalMs, 10, 60_000);
        let settle_ms = bounded(Key::SettleMs, 0, 600_000);
        let nominee_patience_ms = bounded(Key::NomineePatienceMs, 1_000, 3_600_000);
        Some(Timing {
            gossip_interval_ms: gossip_interval_ms?,
            settle_ms: settle_ms?,
            nominee_patience_ms: nominee_patience_ms?,
        })
    }

    fn healing(&mut self) -> Option<Healing> {
        let mode = self.text(Key::HealingMode, |text| match text {
            "auto" => Ok(HealingMode::Auto),
            "off" => Ok(HealingMode::Off),
            _ => Err("allowed are auto and off".into()),
        });
        let mut bounded = |key, from, to| {
            self.whole(key, |number| match number {
                n if (from..=to).contains(&n) => Ok(Duration::from_secs(n)),
                _ => Err(format!("allowed are {from} to {to} seconds")),
            })
        };
        let grace = bounded(Key::HealingGraceS, 5, 86_400);
        let patience = bounded(Key::HealingPatienceS, 30, 3_600);
        let drain = bounded(Key::HealingDrainS, 0, 3_600);
        Some(Healing { mode: mode?, grace: grace?, patience: patience?, drain: drain? })
    }

    fn k3s(&mut self, secrets: Option<&Secrets>) -> Option<K3sSettings> {
        let version = self.text(Key::K3sVersion, names::k3s_version);
        let sources = self.list(Key::K3sSources, names::source);
        if self.merged.list(Key::K3sSources).is_empty() {
            self.refuse(Key::K3sSources, "[]", "at least one path or URL is needed to get k3s from".into());
        }
        let checksums = self.text(Key::K3sChecksums, names::source);
        let data_dir = self.text(Key::K3sDataDir, names::absolute);
        let (cluster_cidr, service_cidr, cluster_dns) = self.networks();
        let cluster_domain =
            self.text(Key::K3sClusterDomain, |text| names::dns_name(text).map(|()| text.to_owned()));
        let flannel_backend = self.text(Key::K3sFlannelBackend, |text| match text {
            "none" | "vxlan" | "host-gw" | "wireguard-native" | "tailscale" => Ok(text.to_owned()),
            _ => Err("allowed are vxlan, host-gw, wireguard-native, tailscale and none".into()),
        });
        let disable = self.list(Key::K3sDisable, names::component);
        let tls_san = self.list(Key::K3sTlsSan, names::san);
        let server_config = self.raw(Key::K3sServerConfig);
        let agent_config = self.raw(Key::K3sAgentConfig);
        Some(K3sSettings {
            version: version?,
            sources,
            checksums,
            data_dir: data_dir?,
            cluster_cidr: cluster_cidr?,
            service_cidr: service_cidr?,
            cluster_dns,
            cluster_domain: cluster_domain?,
            flannel_backend: flannel_backend?,
            disable,
            tls_san,
            token: secrets.and_then(|secrets| secrets.k3s.clone()),
            agent_token: secrets.and_then(|secrets| secrets.k3s_agent.clone()),
            server_config,
            agent_config,
        })
    }

    /// Raw keys for k3s, none of which Muster itself answers for.
    fn raw(&mut self, key: Key) -> BTreeMap<String, serde_json::Value> {
        let table = self.merged.table(key);
        for (name, reason) in k3s_keys::refused(&table) {
            self.problems.push(ConfigError::Refused {
                key: format!("{}.{}", key.name(), key_of(name)),
                value: "***".into(),
                place: self.merged.origin(key),
                reason,
            });
        }
        table
    }

    fn refuse(&mut self, key: Key, value: &str, reason: String) {
        let value = masked_text(key, value);
        let place = self.merged.origin(key);
        self.problems.push(ConfigError::Refused { key: key.name().into(), value, place, reason });
    }

    pub(super) fn text<T>(&mut self, key: Key, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.merged.text(key)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(key, text, reason);
                None
            }
        }
    }

    fn whole<T>(&mut self, key: Key, read: impl FnOnce(u64) -> Result<T, String>) -> Option<T> {
        let number = self.merged.whole(key)?;
        match read(number) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(key, &number.to_string(), reason);
                None
            }
        }
    }

    /// Every item that is right; one that is not is refused by itself.
    fn list<T>(&mut self, key: Key, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut items = Vec::new();
        for text in self.merged.list(key) {
            match read(text) {
                Ok(item) => items.push(item),
                Err(reason) => self.refuse(key, text, reason),
            }
        }
        items
    }
}

fn dedup<T: PartialEq>(items: &mut Vec<T>) {
    let mut at = 0;
    while at < items.len() {
        if items[..at].contains(&items[at]) {
            items.remove(at);
        } else {
            at += 1;
        }
    }
}

#[path = "check_discovery.rs"]
pub(super) mod discovery;

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
