//! The whole wanted configuration of k3s on a node as one value.
//!
//! Settings and the certificate go in, [`K3sSpec`] comes out, `render` turns it into files. Every key that must be equal on all
//! servers comes from the settings that are part of the parameters each node shares; an operator's own keys may add to
//! them and never replace one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::token::{TokenError, check_password, full_agent_token, full_server_token};
use super::{K3sRole, Paths};
use crate::config::{K3sSettings, key_of, plain_key, refused_k3s_keys};
use crate::core::{CaHash, Secret};

/// Port of supervisor and API on every server.
pub const SUPERVISOR_PORT: u16 = 6443;

/// The address under which other nodes reach the supervisor of a server.
#[must_use]
pub fn server_url(address: IpAddr) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, SUPERVISOR_PORT))
}

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNames {
    /// Node name, as Kubernetes will know it.
    pub name: String,
    /// The address under which the node serves, pinned.
    pub address: IpAddr,
    /// Its address of the other family, where pods have both.
    pub second: Option<IpAddr>,
    /// More names and addresses for the API's certificate: VIP, DNS name, load balancer.
    pub api_names: Vec<String>,
}

/// The two passwords, without prefix, as derived from the cluster token or kept from an older cluster.
#[derive(Debug, Clone)]
pub struct Passwords {
    /// Of user `server`.
    pub server: Secret,
    /// Of user `node`.
    pub agent: Secret,
}

/// How a server comes to its datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Makes a new cluster: only with the ledger's word, once.
    Found,
    /// Joins through this server, or, once it is a member, reconciles with it.
    Join(IpAddr),
    /// A member that knows no other server: neither key is written and the data on disk decide. Without data the gate
    /// does not let it start.
    Disarmed,
}

/// What cannot be made into a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// An operator's key that the configuration should have refused.
    #[error("{table} cannot have {key:?}: {reason}")]
    Key {
        /// `k3s.server-config` or `k3s.agent-config`.
        table: &'static str,
        /// The key as written; of one that is no name of a flag, its beginning.
        key: String,
        /// Why, and where to say it instead.
        reason: String,
    },
    /// A password that k3s would misread.
    #[error("the {whose} password cannot be used")]
    Password {
        /// `server` or `agent`.
        whose: &'static str,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// A node name that k3s or Kubernetes would refuse or mistake.
    #[error("{name:?} cannot be a node name: {reason}")]
    NodeName {
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

/// The whole configuration of k3s on a node. `Debug` shows the keys without their values: an operator's may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct K3sSpec {
    /// What k3s runs as.
    pub role: K3sRole,
    /// The keys of config.yaml, with their values.
    pub keys: BTreeMap<String, Value>,
    /// Secret files: name within the configuration directory, content.
    pub secrets: Vec<(String, Secret)>,
}

impl std::fmt::Debug for K3sSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<&String> = self.keys.keys().collect();
        f.debug_struct("K3sSpec").field("role", &self.role).field("keys", &keys).finish_non_exhaustive()
    }
}

impl K3sSpec {
    /// The node that makes the cluster. Its token is the bare password: the CA does not exist yet.
    ///
    /// # Errors
    /// When a name, a password or an operator's key cannot be used.
    pub fn founder(
        node: &NodeNames,
        settings: &K3sSettings,
        paths: &Paths,
        passwords: &Passwords,
    ) -> Result<Self, SpecError> {
        server(node, settings, paths, passwords, &Start::Found, None)
    }

    /// A server that joins through another one, pinning the CA.
    ///
    /// # Errors
    /// When a name, a password or an operator's key cannot be used.
    pub fn joining_server(
        node: &NodeNames,
        settings: &K3sSettings,
        paths: &Paths,
        passwords: &Passwords,
        ca: &CaHash,
        through: IpAddr,
    ) -> Result<Self, SpecError> {
        server(node, settings, paths, passwords, &Start::Join(through), Some(ca))
    }

    /// A server that is a member: never `cluster-init`, and another server's address when one is known, so that a wiped
    /// disk can only join.
    ///
    /// # Errors
    /// When a name, a password or an operator's key cannot be used.
    pub fn disarmed_server(
        node: &NodeNames,
        settings: &K3sSettings,
        paths: &Paths,
        passwords: &Passwords,
        ca: &CaHash,
        peer: Option<IpAddr>,
    ) -> Result<Self, SpecError> {
        let start = peer.map_or(Start::Disarmed, Start::Join);
        server(node, settings, paths, passwords, &start, Some(ca))
    }

    /// An agent. k3s agent dies on keys it does not know, so it gets its own few.
    ///
    /// # Errors
    /// When a name, a password or an operator's key cannot be used.
    pub fn agent(
        node: &NodeNames,
        settings: &K3sSettings,
        paths: &Paths,
        password: &Secret,
        ca: &CaHash,
        through: IpAddr,
    ) -> Result<Self, SpecError> {
        check_node_name(&node.name)?;
        check_password(password).map_err(|source| SpecError::Password { whose: "agent", source })?;
        let mut keys = common(node, paths);
        keys.insert("server".into(), json!(server_url(through)));
        let file = paths.token_file(K3sRole::Agent);
        keys.insert("token-file".into(), json!(file.display().to_string()));
        add_extras(&mut keys, "k3s.agent-config", &settings.agent_config)?;
        let secrets = vec![(file_name(&file), full_agent_token(ca, password))];
        Ok(Self { role: K3sRole::Agent, keys, secrets })
    }
}

impl NodeNames {
    /// The addresses as k3s takes them, its own first.
    fn addresses(&self) -> String {
        let all = std::iter::once(self.address).chain(self.second);
        all.map(|address| address.to_string()).collect::<Vec<_>>().join(",")
    }
}

fn common(node: &NodeNames, paths: &Paths) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("data-dir".to_owned(), json!(paths.data_dir.display().to_string())),
        ("node-ip".to_owned(), json!(node.addresses())),
        ("node-name".to_owned(), json!(node.name)),
    ])
}

fn server(
    node: &NodeNames,
    settings: &K3sSettings,
    paths: &Paths,
    passwords: &Passwords,
    start: &Start,
    ca: Option<&CaHash>,
) -> Result<K3sSpec, SpecError> {
    check_node_name(&node.name)?;
    for (whose, password) in [("server", &passwords.server), ("agent", &passwords.agent)] {
        check_password(password).map_err(|source| SpecError::Password { whose, source })?;
    }
    let mut keys = common(node, paths);
    let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    put("advertise-address", json!(node.address.to_string()));
    put("tls-san", json!(tls_names(node, settings)));
    put("write-kubeconfig-mode", json!("0600"));
    put("cluster-cidr", json!(settings.cluster_cidr));
    put("service-cidr", json!(settings.service_cidr));
    if let Some(dns) = &settings.cluster_dns {
        put("cluster-dns", json!(dns));
    }
    put("cluster-domain", json!(settings.cluster_domain));
    put("flannel-backend", json!(settings.flannel_backend));
    if !settings.disable.is_empty() {
        // Sorted, as in the parameters: the order has no meaning and must not make two files differ.
        let mut disable = settings.disable.clone();
        disable.sort();
        disable.dedup();
        put("disable", json!(disable));
    }
    match start {
        Start::Found => {
            put("cluster-init", json!(true));
        }
        Start::Join(through) => {
            put("server", json!(server_url(*through)));
        }
        Start::Disarmed => {}
    }
    let token_file = paths.token_file(K3sRole::Server);
    let agent_file = paths.agent_password_file();
    put("token-file", json!(token_file.display().to_string()));
    put("agent-token-file", json!(agent_file.display().to_string()));
    add_extras(&mut keys, "k3s.server-config", &settings.server_config)?;
    let token = ca.map_or_else(|| passwords.server.clone(), |ca| full_server_token(ca, &passwords.server));
    // k3s takes `agent-token` as it stands and does not read the full form there.
    let secrets = vec![(file_name(&token_file), token), (file_name(&agent_file), passwords.agent.clone())];
    Ok(K3sSpec { role: K3sRole::Server, keys, secrets })
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn tls_names(node: &NodeNames, settings: &K3sSettings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut own = vec![node.address.to_string()];
    own.extend(node.second.map(|second| second.to_string()));
    own.push(node.name.clone());
    for name in own.iter().chain(&node.api_names).chain(&settings.tls_san) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Kubernetes wants a DNS subdomain in lower case; k3s lowers the name quietly, and then the name that Muster looks for is
/// another one.
fn check_node_name(name: &str) -> Result<(), SpecError> {
    let refuse = |reason| Err(SpecError::NodeName { name: name.to_owned(), reason });
    if name.is_empty() || name.len() > 253 {
        return refuse("it must have 1 to 253 characters");
    }
    if name == "localhost" || name.starts_with("localhost.") {
        return refuse("every machine is called that; set node-name or the host name");
    }
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let label = |part: &str| {
        part.bytes().all(inside) && edge(part.as_bytes().first()) && edge(part.as_bytes().last())
    };
    if !name.split('.').all(label) {
        return refuse(
            "only lower-case letters, digits, - and . are allowed, beginning and ending with a letter or digit",
        );
    }
    Ok(())
}

fn add_extras(
    keys: &mut BTreeMap<String, Value>,
    table: &'static str,
    extras: &BTreeMap<String, Value>,
) -> Result<(), SpecError> {
    if let Some((key, reason)) = refused_k3s_keys(extras).into_iter().next() {
        return Err(SpecError::Key { table, key: key_of(key), reason });
    }
    keys.extend(extras.iter().map(|(key, value)| (plain_key(key).to_owned(), value.clone())));
    Ok(())
}
