//! What is known of k3s on this node, and the parsers of what it says.
//!
//! Every fact is three-valued. Nothing here reads anything: texts come in from `probe`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::config_file::{ConfigFile, deciding, is_critical_key, read_mapping};
use super::logtext::Finding;
use super::token::TokenFile;
use super::{K3sRole, kube::NodeInfo};
use crate::core::{CaHash, Known, brief};
use crate::edge::systemd::UnitState;

/// The installed binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Version, such as `v1.33.1+k3s1`.
    pub version: Known<String>,
    /// The whole first line of `k3s --version`: a stand-in says so there.
    pub version_line: Known<String>,
    /// SHA-256 of the file.
    pub sha256: Known<String>,
}

/// The version in the output of `k3s --version`: its first line is `k3s version v1.33.1+k3s1 (<commit>)`, where the first word
/// is the name under which the program was called: a download under a temporary name says that name (seen on a real k3s).
#[must_use]
pub fn parse_version(text: &str) -> Option<&str> {
    let version = text.lines().next()?.split_once(" version ")?.1.split_whitespace().next()?;
    version.starts_with('v').then_some(version)
}

/// Where a key or variable that is not ours was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignKind {
    /// A file in `config.yaml.d`: k3s reads it after config.yaml.
    ConfigDropIn,
    /// An environment file of k3s's own installer. Our units do not read it.
    Environment,
    /// A drop-in of our unit.
    UnitDropIn,
}

/// A file that is not Muster's and says something about which cluster k3s is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Which kind.
    pub kind: ForeignKind,
    /// Where it is.
    pub path: PathBuf,
    /// The keys or variables, without their values.
    pub keys: Vec<String>,
}

/// The critical keys of a configuration drop-in, and those with an argument that decides as much. A file that cannot be parsed has the key `(unreadable)`.
#[must_use]
pub fn critical_keys_of(text: &str) -> Vec<String> {
    match read_mapping(text) {
        Ok(map) => map.iter().filter_map(|(key, value)| critical(key, value)).collect(),
        Err(_) => vec!["(unreadable)".to_owned()],
    }
}

fn critical(key: &str, value: &Value) -> Option<String> {
    if is_critical_key(key) { Some(brief(key)) } else { deciding(key, value) }
}

/// The `K3S_` variables that an environment file or a unit drop-in sets, and the lines of a drop-in that replace a command.
#[must_use]
pub fn variables_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        for command in ["ExecStart", "ExecCondition", "EnvironmentFile"] {
            if line.starts_with(command) && line[command.len()..].trim_start().starts_with('=') {
                found.push(command.to_owned());
            }
        }
        let mut rest = line;
        while let Some(at) = rest.find("K3S_") {
            let name: String = rest[at..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || *c == '_' || c.is_ascii_digit())
                .collect();
            rest = &rest[at + name.len()..];
            if rest.starts_with('=') {
                found.push(name);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What stands in k3s's data directory (`k3s-facts.md` parts 1.2, 2.1, 3.2, 4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// `server/db/etcd/member/wal`: with it k3s starts as an existing member, whatever the configuration says.
    pub wal: Known<()>,
    /// `server/db/state.db`: a single-server database.
    pub sqlite: Known<()>,
    /// `server/db/etcd/tombstone`: this member was removed.
    pub tombstone: Known<()>,
    /// `server/db/reset-flag`: a cluster-reset was begun. Present does not mean it worked.
    pub reset_flag: Known<()>,
    /// Hash of `server/tls/server-ca.crt`.
    pub ca: Known<CaHash>,
    /// `server/db/etcd/name`: this member's name.
    pub etcd_name: Known<String>,
    /// `agent/client-kubelet.crt`: the node has registered once.
    pub kubelet_certificate: Known<()>,
    /// `/etc/rancher/node/password`.
    pub node_password: Known<()>,
}

/// One etcd member, as `/db/info` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Member id.
    #[serde(rename = "ID", default, deserialize_with = "number_or_text")]
    pub id: u64,
    /// `<node name>-<8 hex>`; empty for a member that was added and has not started.
    #[serde(default)]
    pub name: String,
    /// Peer addresses.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Not a voter yet.
    #[serde(rename = "isLearner", default)]
    pub is_learner: bool,
}

impl Member {
    /// The node name in the member's name: without the suffix that k3s draws.
    #[must_use]
    pub fn node_name(&self) -> &str {
        match self.name.rsplit_once('-') {
            Some((node, suffix)) if suffix.len() == 8 && suffix.bytes().all(|b| b.is_ascii_hexdigit()) => {
                node
            }
            _ => &self.name,
        }
    }
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64().ok_or_else(|| serde::de::Error::custom("not a member id")),
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        _ => Err(serde::de::Error::custom("not a member id")),
    }
}

/// Reads what `/db/info` answers.
///
/// # Errors
/// When it is no member list.
pub fn parse_members(body: &[u8]) -> Result<Vec<Member>, serde_json::Error> {
    #[derive(Deserialize)]
    struct List {
        members: Vec<Member>,
    }
    serde_json::from_slice::<List>(body).map(|list| list.members)
}

/// This node's member: by the name on its disk, or else by its node name.
#[must_use]
pub fn own_member<'a>(members: &'a [Member], etcd_name: Option<&str>, node_name: &str) -> Option<&'a Member> {
    match etcd_name {
        Some(name) => members.iter().find(|member| member.name == name),
        None => members.iter().find(|member| member.node_name() == node_name),
    }
}

/// Reads what etcd's `/health` answers: `{"health":"true"}`.
#[must_use]
pub fn parse_health(body: &[u8]) -> Option<bool> {
    let value: Value = serde_json::from_slice(body).ok()?;
    match value.get("health")? {
        Value::String(text) => text.parse().ok(),
        Value::Bool(healthy) => Some(*healthy),
        _ => None,
    }
}

/// What the running k3s of this node answers on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFacts {
    /// `/ping`: the listener exists. No proof of membership.
    pub ping: Known<()>,
    /// Hash of what `/cacerts` serves.
    pub ca: Known<CaHash>,
    /// `/db/info`; servers only.
    pub members: Known<Vec<Member>>,
    /// etcd's own word that it has a leader and serves; servers only.
    pub etcd_healthy: Known<bool>,
    /// `/readyz` of the API, with this node's certificate.
    pub api_ready: Known<bool>,
    /// This node's object.
    pub node: Known<NodeInfo>,
}

/// Everything known of k3s on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct K3sFacts {
    /// This node's name, as asked from the API.
    pub node_name: String,
    /// The binary.
    pub binary: Known<Binary>,
    /// The server's unit; absent when it is not installed.
    pub server_unit: Known<UnitState>,
    /// The agent's unit; absent when it is not installed.
    pub agent_unit: Known<UnitState>,
    /// config.yaml.
    pub config: Known<ConfigFile>,
    /// The token file that config.yaml names.
    pub token: Known<TokenFile>,
    /// Files that are not ours; absent when there are none.
    pub foreign: Known<Vec<Foreign>>,
    /// The data directory.
    pub disk: DiskFacts,
    /// The endpoints; absent when no unit runs.
    pub live: Known<LiveFacts>,
    /// What the journal says, newest last; absent when the unit is well or says nothing that is known.
    pub findings: Known<Vec<Finding>>,
}

impl K3sFacts {
    /// The role whose unit is up. Both at once is nobody's role.
    #[must_use]
    pub fn running(&self) -> Known<K3sRole> {
        let up = |unit: &Known<UnitState>| match unit {
            Known::Yes(state) => Known::Yes(state.is_up()),
            Known::Absent => Known::Yes(false),
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        };
        match (up(&self.server_unit), up(&self.agent_unit)) {
            (Known::Yes(true), Known::Yes(true)) => {
                Known::unknown("the role of k3s", "the server's and the agent's unit are both up")
            }
            (Known::Yes(true), _) => Known::Yes(K3sRole::Server),
            (_, Known::Yes(true)) => Known::Yes(K3sRole::Agent),
            (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Known::Unknown(unread),
            _ => Known::Absent,
        }
    }

    /// The unit of a role.
    #[must_use]
    pub fn unit(&self, role: K3sRole) -> &Known<UnitState> {
        match role {
            K3sRole::Server => &self.server_unit,
            K3sRole::Agent => &self.agent_unit,
        }
    }

    /// Whether this node's etcd member votes; absent when nothing runs or the node is not in the list.
    #[must_use]
    pub fn voter(&self) -> Known<bool> {
        let live = match &self.live {
            Known::Yes(live) => live,
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread.clone()),
        };
        match &live.members {
            Known::Yes(members) => {
                match own_member(members, self.disk.etcd_name.yes().map(String::as_str), &self.node_name) {
                    Some(member) => Known::Yes(!member.is_learner),
                    None => Known::Absent,
                }
            }
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        }
    }

    /// Whether the API is ready, as this node sees it.
    #[must_use]
    pub fn api_ready(&self) -> Known<bool> {
        self.live_fact(|live| live.api_ready.clone())
    }

    /// Whether this node's object is Ready; absent when there is none.
    #[must_use]
    pub fn node_ready(&self) -> Known<bool> {
        self.live_fact(|live| match &live.node {
            Known::Yes(node) => node.ready.clone(),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        })
    }

    fn live_fact<T>(&self, f: impl FnOnce(&LiveFacts) -> Known<T>) -> Known<T> {
        match &self.live {
            Known::Yes(live) => f(live),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        }
    }

    /// Joined, in the one sense that counts: a server's member votes and its etcd is healthy, the API is ready and the
    /// node is Ready; an agent's node is Ready. Not an elapsed time, not an active unit.
    #[must_use]
    pub fn joined(&self, role: K3sRole) -> Known<bool> {
        let etcd = || self.live_fact(|live| live.etcd_healthy.clone());
        let mut parts = vec![self.node_ready(), self.api_ready()];
        if role == K3sRole::Server {
            parts.extend([self.voter(), etcd()]);
        }
        all(parts)
    }
}

/// All of them: one that is absent or false makes it false, and only then does an unknown one count.
fn all(parts: Vec<Known<bool>>) -> Known<bool> {
    let mut unknown = None;
    for part in parts {
        match part {
            Known::Yes(true) => {}
            Known::Yes(false) | Known::Absent => return Known::Yes(false),
            Known::Unknown(unread) => unknown = Some(unread),
        }
    }
    unknown.map_or(Known::Yes(true), Known::Unknown)
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
