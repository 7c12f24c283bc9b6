//! Reads everything there is to know of k3s on this node: files, units, endpoints, journal.
//!
//! Cheap when nothing runs: endpoints are asked only while a unit is up, the journal only when a unit is not well, and the
//! binary is hashed and asked for its version once for each file that stands there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::ca::CaBundle;
use super::facts::{
    Binary, DiskFacts, Foreign, ForeignKind, K3sFacts, LiveFacts, critical_keys_of, parse_health,
    parse_version, variables_of,
};
use super::fetch::{AskVersion, sum_of_file};
use super::gate::{GateFacts, GateLedger};
use super::kube::KubeApi;
use super::logtext::{self, Finding};
use super::supervisor::{DEADLINE, SupervisorApi};
use super::{ConfigFile, K3sRole, Paths, TokenFile};
use crate::core::{Known, Secret};
use crate::edge::fs;
use crate::edge::http::{Ask, Http, HttpError, Show, Trust};
use crate::edge::systemd::{Init, UnitState};

/// Lines of the journal that are read.
const TAIL: usize = 50;

/// Ports on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Supervisor and API of a server.
    pub supervisor: u16,
    /// An agent's local balancer.
    pub balancer: u16,
    /// etcd's plain health listener.
    pub etcd_health: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { supervisor: 6443, balancer: 6444, etcd_health: 2381 }
    }
}

/// The look at this node's k3s.
pub struct Probe {
    paths: Paths,
    ports: Ports,
    node_name: String,
    /// Needed for `/db/info` on loopback before k3s of April 2024.
    server_password: Option<Secret>,
    init: Arc<dyn Init>,
    version: Arc<dyn AskVersion>,
    http: Arc<Http>,
    binary: Mutex<Option<(FileIdentity, Binary)>>,
}

/// What tells one file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Probe {
    /// A probe of this host.
    #[must_use]
    pub fn new(
        paths: Paths,
        node_name: String,
        server_password: Option<Secret>,
        init: Arc<dyn Init>,
        version: Arc<dyn AskVersion>,
        http: Arc<Http>,
    ) -> Self {
        let ports = Ports::default();
        Self { paths, ports, node_name, server_password, init, version, http, binary: Mutex::new(None) }
    }

    /// The same probe with other ports.
    #[must_use]
    pub fn with_ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// The look. Takes at most a few seconds, whatever does not answer.
    pub async fn look(&self) -> K3sFacts {
        let services = [K3sRole::Server.service(), K3sRole::Agent.service()];
        let mut units = self.init.states(&services).await.into_iter();
        let mut unit =
            || units.next().unwrap_or_else(|| Known::unknown("a unit", "the init system said nothing of it"));
        let (server_unit, agent_unit) = (unit(), unit());
        let config = config(&self.paths);
        let mut facts = K3sFacts {
            node_name: self.node_name.clone(),
            binary: self.look_at_binary().await,
            token: token(&config),
            config,
            foreign: foreign(&self.paths),
            disk: disk(&self.paths),
            server_unit,
            agent_unit,
            live: Known::Absent,
            findings: Known::Absent,
        };
        facts.live = match facts.running() {
            Known::Yes(role) => Known::Yes(self.look_at_endpoints(role).await),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread),
        };
        facts.findings = self.look_at_journal(&facts).await;
        facts
    }

    async fn look_at_binary(&self) -> Known<Binary> {
        let path = &self.paths.binary;
        let identity = match identity(path) {
            Known::Yes(identity) => identity,
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        if let Some((seen, binary)) = &*self.binary.lock().unwrap_or_else(PoisonError::into_inner)
            && *seen == identity
        {
            return Known::Yes(binary.clone());
        }
        let sha256 = match sum_of_file(path).await {
            Ok(Some(sum)) => Known::Yes(sum),
            Ok(None) => return Known::Absent,
            Err(error) => Known::unknown(path.display().to_string(), error.io().to_string()),
        };
        let version_line = match self.version.version_line(path).await {
            Ok(line) => Known::Yes(line),
            Err(error) => Known::unknown(format!("the version of {}", path.display()), error.to_string()),
        };
        let version = match &version_line {
            Known::Yes(line) => {
                parse_version(line).map_or(Known::Absent, |version| Known::Yes(version.to_owned()))
            }
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        };
        let binary = Binary { version, version_line, sha256 };
        // A failure is looked at again at the next tick.
        if !binary.version.is_unknown() && !binary.sha256.is_unknown() {
            *self.binary.lock().unwrap_or_else(PoisonError::into_inner) = Some((identity, binary.clone()));
        }
        Known::Yes(binary)
    }

    async fn look_at_endpoints(&self, role: K3sRole) -> LiveFacts {
        let port = match role {
            K3sRole::Server => self.ports.supervisor,
            K3sRole::Agent => self.ports.balancer,
        };
        let at = loopback(port);
        let base = format!("https://{at}");
        let supervisor = SupervisorApi::new(&self.http);
        let ping = supervisor.ping(&base).await;
        if ping.is_absent() {
            // Nothing listens yet: six more refusals would say no more.
            return LiveFacts {
                ping,
                ca: Known::Absent,
                members: Known::Absent,
                etcd_healthy: Known::Absent,
                api_ready: Known::Absent,
                node: Known::Absent,
            };
        }
        let api = KubeApi::local(&self.http, role, &self.paths, at);
        let (ca, members, etcd_healthy, api_ready, node) = tokio::join!(
            supervisor.cacerts_hash(&base),
            async {
                match role {
                    K3sRole::Server => self.members(&supervisor, &base).await,
                    K3sRole::Agent => Known::Absent,
                }
            },
            async {
                match role {
                    K3sRole::Server => self.etcd_health().await,
                    K3sRole::Agent => Known::Absent,
                }
            },
            async {
                match &api {
                    Known::Yes(api) => api.ready().await,
                    Known::Absent => Known::Absent,
                    Known::Unknown(unread) => Known::Unknown(unread.clone()),
                }
            },
            async {
                match &api {
                    Known::Yes(api) => api.node(&self.node_name).await,
                    // Without its own certificate the node has never registered from this disk.
                    Known::Absent => Known::Absent,
                    Known::Unknown(unread) => Known::Unknown(unread.clone()),
                }
            },
        );
        LiveFacts { ping, ca, members, etcd_healthy, api_ready, node }
    }

    async fn members(&self, supervisor: &SupervisorApi<'_>, base: &str) -> Known<Vec<super::facts::Member>> {
        match ca_bundle(&self.paths.data_dir.join("server/tls/server-ca.crt")) {
            Known::Yes(ca) => supervisor.members(base, &ca, self.server_password.as_ref()).await,
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread),
        }
    }

    async fn etcd_health(&self) -> Known<bool> {
        let url = format!("http://{}/health", loopback(self.ports.etcd_health));
        let ask = Ask {
            url: &url,
            trust: &Trust::Anyone,
            show: Show::Nothing,
            deadline: DEADLINE,
            most_bytes: 4096,
        };
        match self.http.get(&ask).await {
            // etcd answers 503 with the same body when it is not healthy.
            Ok(answer) => match parse_health(&answer.body) {
                Some(healthy) => Known::Yes(healthy),
                None => Known::unknown(url, format!("{}: {}", answer.status, answer.excerpt())),
            },
            Err(HttpError::Refused { .. }) => Known::Absent,
            Err(error) => Known::unknown(url, error.to_string()),
        }
    }

    async fn look_at_journal(&self, facts: &K3sFacts) -> Known<Vec<Finding>> {
        let ready = facts.node_ready() == Known::Yes(true);
        let role = match journal_of(&facts.server_unit, &facts.agent_unit, ready) {
            Known::Yes(role) => role,
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        match self.init.tail(role.service(), TAIL).await {
            Known::Yes(tail) => match logtext::read(&tail) {
                findings if findings.is_empty() => Known::Absent,
                findings => Known::Yes(findings),
            },
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread),
        }
    }
}

/// Whose journal is worth reading: of the unit that is up, when it was restarted or its node is not Ready; where none is up, of one
/// that failed. What a machine was before it changed its role stays `failed` for as long as it runs, and says nothing of today: one
/// that failed counts only where the other one is known not to be up.
fn journal_of(server: &Known<UnitState>, agent: &Known<UnitState>, ready: bool) -> Known<K3sRole> {
    let units = [(K3sRole::Server, server), (K3sRole::Agent, agent)];
    let known = || units.iter().filter_map(|(role, state)| Some((*role, state.yes()?)));
    if let Some((role, state)) = known().find(|(_, state)| state.is_up()) {
        let told = !ready || state.sub == "auto-restart";
        return if told { Known::Yes(role) } else { Known::Absent };
    }
    if let Some(Known::Unknown(unread)) =
        units.iter().map(|(_, state)| state).find(|state| state.is_unknown())
    {
        return Known::Unknown(unread.clone());
    }
    known().find(|(_, state)| state.active == "failed").map_or(Known::Absent, |(role, _)| Known::Yes(role))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn identity(path: &Path) -> Known<FileIdentity> {
    match std::fs::metadata(path) {
        Ok(metadata) => Known::Yes(FileIdentity {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Known::Absent,
        Err(error) => Known::unknown(path.display().to_string(), error.to_string()),
    }
}

/// config.yaml as it stands on disk. One that cannot be parsed is unknown, not absent.
#[must_use]
pub fn config(paths: &Paths) -> Known<ConfigFile> {
    let path = paths.config();
    match fs::known_text(&path) {
        Known::Yes(text) => match ConfigFile::parse(&text) {
            Ok(config) => Known::Yes(config),
            Err(error) => Known::unknown(path.display().to_string(), error.to_string()),
        },
        Known::Absent => Known::Absent,
        Known::Unknown(unread) => Known::Unknown(unread),
    }
}

/// The token file that a configuration names.
#[must_use]
pub fn token(config: &Known<ConfigFile>) -> Known<TokenFile> {
    match config {
        Known::Yes(config) => match &config.token_file {
            Some(path) => fs::known_text(path).map(|text| TokenFile::parse(&text)),
            None => Known::Absent,
        },
        Known::Absent => Known::Absent,
        Known::Unknown(unread) => Known::Unknown(unread.clone()),
    }
}

/// The data directory.
#[must_use]
pub fn disk(paths: &Paths) -> DiskFacts {
    let data = &paths.data_dir;
    let db = data.join("server/db");
    DiskFacts {
        wal: fs::known_there(&db.join("etcd/member/wal")),
        sqlite: fs::known_there(&db.join("state.db")),
        tombstone: fs::known_there(&db.join("etcd/tombstone")),
        reset_flag: fs::known_there(&db.join("reset-flag")),
        ca: ca_bundle(&data.join("server/tls/server-ca.crt")).map(|bundle| bundle.hash().clone()),
        etcd_name: fs::known_text(&db.join("etcd/name")).map(|text| text.trim().to_owned()),
        kubelet_certificate: fs::known_there(&data.join("agent/client-kubelet.crt")),
        node_password: fs::known_there(&paths.node_password()),
    }
}

fn ca_bundle(path: &Path) -> Known<CaBundle> {
    match fs::read(path) {
        Ok(Some(pem)) => match CaBundle::from_pem(pem) {
            Ok(bundle) => Known::Yes(bundle),
            Err(error) => Known::unknown(path.display().to_string(), error.to_string()),
        },
        Ok(None) => Known::Absent,
        Err(error) => Known::unknown(path.display().to_string(), error.io().to_string()),
    }
}

/// Files that are not ours and say something about which cluster k3s is in; absent when there are none.
#[must_use]
pub fn foreign(paths: &Paths) -> Known<Vec<Foreign>> {
    let etc = paths.root.join("etc");
    let mut files: Vec<(ForeignKind, PathBuf)> = Vec::new();
    let mut directories = vec![(ForeignKind::ConfigDropIn, paths.config_dir().join("config.yaml.d"))];
    for role in [K3sRole::Server, K3sRole::Agent] {
        let service = role.service();
        for place in ["default", "sysconfig"] {
            files.push((ForeignKind::Environment, etc.join(place).join(service)));
        }
        let units = etc.join("systemd/system");
        files.push((ForeignKind::Environment, units.join(format!("{service}.service.env"))));
        directories.push((ForeignKind::UnitDropIn, units.join(format!("{service}.service.d"))));
    }
    for (kind, directory) in directories {
        let endings: &[&str] =
            if kind == ForeignKind::ConfigDropIn { &[".yaml", ".yml"] } else { &[".conf"] };
        match fs::known_names(&directory) {
            Known::Yes(names) => {
                let read =
                    names.into_iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
                files.extend(read.map(|name| (kind, directory.join(name))));
            }
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    let mut found = Vec::new();
    for (kind, path) in files {
        let text = match fs::known_text(&path) {
            Known::Yes(text) => text,
            Known::Absent => continue,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        let keys = match kind {
            ForeignKind::ConfigDropIn => critical_keys_of(&text),
            ForeignKind::Environment | ForeignKind::UnitDropIn => variables_of(&text),
        };
        if !keys.is_empty() {
            found.push(Foreign { kind, path, keys });
        }
    }
    if found.is_empty() { Known::Absent } else { Known::Yes(found) }
}

/// Everything the gate looks at, beside the ledger. Reads local files only.
#[must_use]
pub fn gate_facts(paths: &Paths, ledger: Known<GateLedger>) -> GateFacts {
    let config = config(paths);
    GateFacts { ledger, token: token(&config), config, disk: disk(paths), foreign: foreign(paths) }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
