//! The settings of one run, typed, with k3s's defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Parsed;
use crate::{clock, network, paths};

/// Version the stand-in claims; `K3S_STANDIN_VERSION` replaces it (to rehearse upgrades).
pub const VERSION: &str = "v1.33.1+k3s1";

/// The version of this run, without the stand-in's mark.
pub fn version() -> String {
    std::env::var("K3S_STANDIN_VERSION").ok().filter(|v| !v.is_empty()).unwrap_or_else(|| VERSION.to_owned())
}

/// Whether servers of this version still carry the old role `master`: seen gone in 1.35, so 1.34 counts as gone.
pub fn has_master_role() -> bool {
    let version = version();
    version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor < 34)
}

/// The version every Node object carries.
pub fn node_version() -> String {
    format!("{}-standin", version())
}

/// What the stand-in alone can be told, all by environment, none of it known to k3s.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// `K3S_STANDIN_LEARNER_SECONDS`: how often the etcd leader looks at learners; k3s has 15 s.
    pub learner_period: Duration,
    /// `K3S_STANDIN_NODE_DIR`: directory of the node password; k3s has `/etc/rancher/node`.
    pub node_dir: PathBuf,
    /// `K3S_STANDIN_ETCD`: the etcd program, a path or a name on PATH.
    pub etcd: String,
}

impl Knobs {
    /// Reads the environment.
    pub fn from_environment() -> Self {
        let get = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let seconds = get("K3S_STANDIN_LEARNER_SECONDS").and_then(|v| v.parse::<f64>().ok());
        Self {
            learner_period: Duration::from_secs_f64(seconds.filter(|s| *s > 0.0).unwrap_or(15.0)),
            node_dir: get("K3S_STANDIN_NODE_DIR").unwrap_or_else(|| "/etc/rancher/node".to_owned()).into(),
            etcd: get("K3S_STANDIN_ETCD").unwrap_or_else(|| "etcd".to_owned()),
        }
    }
}

/// Settings of the agent part, which servers run too.
#[derive(Clone)]
pub struct Agent {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Name of the Node object and of the etcd member.
    pub node_name: String,
    /// Address of this node.
    pub node_ip: String,
    /// Join token, empty if none.
    pub token: String,
    /// `https://…` of a server; for a server's own agent part its loopback.
    pub server_url: String,
    /// Port of the client load balancer.
    pub lb_port: u16,
    /// Extra labels.
    pub labels: Vec<(String, String)>,
    /// Taints at registration, `key=value:effect`.
    pub taints: Vec<String>,
    /// Stand-in settings.
    pub knobs: Knobs,
}

/// Settings of a server.
#[derive(Clone)]
pub struct Server {
    /// The part shared with agents; `server_url` here is the join URL.
    pub agent: Agent,
    /// Separate agent token, empty if none.
    pub agent_token: String,
    /// `--cluster-init`.
    pub cluster_init: bool,
    /// `--cluster-reset`.
    pub cluster_reset: bool,
    /// `--cluster-reset-restore-path`.
    pub restore_path: String,
    /// `--datastore-endpoint`.
    pub datastore: String,
    /// Address other nodes reach the API at.
    pub advertise_ip: String,
    /// Port of supervisor and API.
    pub port: u16,
    /// Names and addresses of the serving certificate.
    pub sans: Vec<String>,
    /// Where the administrator's kubeconfig goes, and its mode.
    pub kubeconfig: (PathBuf, u32),
    /// What every server must agree on.
    pub critical: Critical,
    /// Snapshot settings.
    pub snapshots: Snapshots,
    /// `--disable-agent`.
    pub disable_agent: bool,
    /// `--etcd-expose-metrics`.
    pub expose_metrics: bool,
    /// How long a Node may be silent before it is marked: `--kube-controller-manager-arg=node-monitor-grace-period=...`.
    pub node_silence: Duration,
}

/// The configuration the joiner compares with the contacted server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Critical {
    pub cluster_cidr: Vec<String>,
    pub service_cidr: Vec<String>,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub disable_cloud_controller: bool,
    pub disable_helm_controller: bool,
    pub disable_network_policy: bool,
    pub secrets_encryption: bool,
    pub secrets_encryption_provider: String,
    pub embedded_registry: bool,
    pub flannel_backend: String,
    pub flannel_ipv6_masq: bool,
    pub flannel_external_ip: bool,
    pub egress_selector_mode: String,
    pub supervisor_metrics: bool,
}

/// How snapshots are named and kept.
#[derive(Clone, Debug)]
pub struct Snapshots {
    /// First part of a file name.
    pub name: String,
    /// Where they go.
    pub dir: PathBuf,
    /// How many `prune` keeps.
    pub retention: usize,
}

fn agent_part(parsed: &Parsed, token: String) -> Result<Agent, String> {
    let knobs = Knobs::from_environment();
    let mut node_name = match parsed.value("node-name") {
        Some(name) => name.to_lowercase(),
        None => nix::unistd::gethostname()
            .map_err(|e| format!("failed to get node name and addresses: {e}"))?
            .to_string_lossy()
            .split('.')
            .next()
            .unwrap_or_default()
            .to_lowercase(),
    };
    if parsed.is_set("with-node-id") {
        node_name = format!("{node_name}-{}", node_id(&knobs.node_dir)?);
    }
    let node_ip = match parsed.list("node-ip").into_iter().next() {
        Some(ip) => ip,
        None => network::default_address()
            .map_err(|e| format!("failed to get node name and addresses: {e}"))?
            .to_string(),
    };
    let pair = |text: String| match text.split_once('=') {
        Some((k, v)) => (k.to_owned(), v.to_owned()),
        None => (text, String::new()),
    };
    let labels: Vec<_> = parsed.list("node-label").into_iter().map(pair).collect();
    if let Some(list) = forbidden_labels(&labels) {
        return Err(format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{list}]"
        ));
    }
    Ok(Agent {
        data_dir: PathBuf::from(parsed.value("data-dir").unwrap_or("/var/lib/rancher/k3s")),
        node_name,
        node_ip,
        token,
        server_url: parsed.value("server").unwrap_or_default().to_owned(),
        lb_port: number(parsed, "lb-server-port", 6444)?,
        labels,
        taints: parsed.list("node-taint"),
        knobs,
    })
}

/// The kubelet's rule: keys of these two domains only with certain prefixes or from a short list.
fn forbidden_labels(labels: &[(String, String)]) -> Option<String> {
    const ALLOWED: &[&str] = &[
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
    ];
    let within =
        |namespace: &str, domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    let bad: Vec<&str> = labels
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|key| {
            let namespace = key.split_once('/').map_or("", |(ns, _)| ns);
            (within(namespace, "kubernetes.io") || within(namespace, "k8s.io"))
                && !within(namespace, "kubelet.kubernetes.io")
                && !within(namespace, "node.kubernetes.io")
                && !ALLOWED.contains(key)
        })
        .collect();
    (!bad.is_empty()).then(|| bad.join(" "))
}

fn node_id(dir: &Path) -> Result<String, String> {
    let file = dir.join("id");
    if let Ok(id) = std::fs::read_to_string(&file) {
        return Ok(id.trim().to_owned());
    }
    let id = hex::encode(rand::random::<[u8; 4]>());
    paths::write(&file, format!("{id}\n").as_bytes(), 0o644)?;
    Ok(id)
}

fn number(parsed: &Parsed, name: &str, default: u16) -> Result<u16, String> {
    match parsed.value(name) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| format!("invalid value \"{text}\" for flag -{name}: parse error"))
        }
    }
}

/// Reads a token file. It may appear late: k3s looks for about four minutes.
///
/// # Errors
/// When it did not appear, or cannot be read.
pub fn token_file(path: &str) -> Result<String, String> {
    let until = clock::unix_now() + 240;
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && clock::unix_now() < until => {
                std::thread::sleep(Duration::from_millis(500));
            }
            Err(e) => return Err(format!("open {path}: {}", paths::go_error(&e))),
        }
    }
}

/// Settings of `k3s agent`.
///
/// # Errors
/// The text k3s dies with.
pub fn agent(parsed: &Parsed) -> Result<Agent, String> {
    let token = match parsed.value("token-file") {
        Some(file) => token_file(file)?,
        None => parsed.value("token").unwrap_or_default().to_owned(),
    };
    let data_dir = PathBuf::from(parsed.value("data-dir").unwrap_or("/var/lib/rancher/k3s"));
    if token.is_empty() && !data_dir.join("agent/client-kubelet.crt").exists() {
        return Err("--token is required".to_owned());
    }
    if parsed.value("server").is_none() {
        return Err("--server is required".to_owned());
    }
    agent_part(parsed, token)
}

/// The controller manager's own default is 40 s; 50 s since 1.32.
fn node_silence(arguments: &[String]) -> Result<Duration, String> {
    let minor = version().split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0);
    let default = Duration::from_secs(if minor >= 32 { 50 } else { 40 });
    let key = "node-monitor-grace-period=";
    let Some(text) = arguments.iter().rev().find_map(|argument| argument.strip_prefix(key)) else {
        return Ok(default);
    };
    let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    seconds.map(Duration::from_secs).ok_or_else(|| format!("invalid argument \"{text}\" for \"--{key}\""))
}

/// Settings of `k3s server`.
///
/// # Errors
/// The text k3s dies with.
pub fn server(parsed: &Parsed) -> Result<Server, String> {
    let text = |name: &str, default: &str| parsed.value(name).unwrap_or(default).to_owned();
    let agent_token = match parsed.value("agent-token-file") {
        Some(file) => token_file(file)?,
        None => text("agent-token", ""),
    };
    let token = match parsed.value("token-file") {
        Some(file) => token_file(file)?,
        None => text("token", ""),
    };
    let cluster_reset = parsed.is_set("cluster-reset");
    let restore_path = text("cluster-reset-restore-path", "");
    if !restore_path.is_empty() && !cluster_reset {
        return Err("invalid flag use; --cluster-reset required with --cluster-reset-restore-path".to_owned());
    }
    let datastore = text("datastore-endpoint", "");
    for (flag, name) in [("disable-apiserver", "--disable-apiserver"), ("disable-etcd", "--disable-etcd")] {
        if parsed.is_set(flag) && !datastore.is_empty() {
            return Err(format!("invalid flag use; cannot use {name} with --datastore-endpoint"));
        }
        if parsed.is_set(flag) {
            return Err(format!("{name} is not served by the stand-in"));
        }
    }
    let agent = agent_part(parsed, token)?;
    let advertise_ip = match parsed.value("advertise-address") {
        Some(ip) => ip.to_owned(),
        None => parsed.list("node-external-ip").into_iter().next().unwrap_or_else(|| agent.node_ip.clone()),
    };
    let port = number(parsed, "https-listen-port", 6443)?;
    let critical = critical(parsed)?;
    let mut sans = parsed.list("tls-san");
    sans.extend(["127.0.0.1", "::1", "localhost"].map(str::to_owned));
    sans.extend([agent.node_name.clone(), agent.node_ip.clone(), advertise_ip.clone()]);
    sans.push(network::indexed(&critical.service_cidr[0], 1)?);
    let domain = &critical.cluster_domain;
    sans.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
    sans.push(format!("kubernetes.default.svc.{domain}"));
    let mut seen = Vec::new();
    sans.retain(|san| {
        !seen.contains(san) && {
            seen.push(san.clone());
            true
        }
    });
    let mode = text("write-kubeconfig-mode", "0600");
    let mode =
        u32::from_str_radix(&mode, 8).map_err(|_| format!("failed to parse kubeconfig mode {mode}"))?;
    let dir = parsed.value("etcd-snapshot-dir").map(PathBuf::from);
    let node_silence = node_silence(&parsed.list("kube-controller-manager-arg"))?;
    Ok(Server {
        agent_token,
        node_silence,
        cluster_init: parsed.is_set("cluster-init"),
        cluster_reset,
        restore_path,
        datastore,
        advertise_ip,
        port,
        sans,
        kubeconfig: (text("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml").into(), mode),
        critical,
        snapshots: Snapshots {
            name: text("etcd-snapshot-name", "etcd-snapshot"),
            dir: dir.unwrap_or_else(|| agent.data_dir.join("server/db/snapshots")),
            retention: text("etcd-snapshot-retention", "5").parse().unwrap_or(5),
        },
        disable_agent: parsed.is_set("disable-agent"),
        expose_metrics: parsed.is_set("etcd-expose-metrics"),
        agent,
    })
}

fn critical(parsed: &Parsed) -> Result<Critical, String> {
    let or = |name: &str, default: &str| {
        let given = parsed.list(name);
        if given.is_empty() { vec![default.to_owned()] } else { given }
    };
    let cluster_cidr = or("cluster-cidr", "10.42.0.0/16");
    let service_cidr = or("service-cidr", "10.43.0.0/16");
    for (name, list) in [("cluster-cidr", &cluster_cidr), ("service-cidr", &service_cidr)] {
        for cidr in list {
            network::indexed(cidr, 0)
                .map_err(|_| format!("invalid {name} {cidr}: invalid CIDR address: {cidr}"))?;
        }
    }
    let mut cluster_dns = parsed.list("cluster-dns");
    if cluster_dns.is_empty() {
        cluster_dns = service_cidr.iter().map(|cidr| network::indexed(cidr, 10)).collect::<Result<_, _>>()?;
    }
    let text = |name: &str, default: &str| parsed.value(name).unwrap_or(default).to_owned();
    Ok(Critical {
        cluster_cidr,
        service_cidr,
        cluster_dns,
        cluster_domain: text("cluster-domain", "cluster.local"),
        disable_cloud_controller: parsed.is_set("disable-cloud-controller"),
        disable_helm_controller: parsed.is_set("disable-helm-controller"),
        disable_network_policy: parsed.is_set("disable-network-policy"),
        secrets_encryption: parsed.is_set("secrets-encryption"),
        secrets_encryption_provider: text("secrets-encryption-provider", "aescbc"),
        embedded_registry: parsed.is_set("embedded-registry"),
        flannel_backend: text("flannel-backend", "vxlan"),
        flannel_ipv6_masq: parsed.is_set("flannel-ipv6-masq"),
        flannel_external_ip: parsed.is_set("flannel-external-ip"),
        egress_selector_mode: text("egress-selector-mode", "agent"),
        supervisor_metrics: parsed.is_set("supervisor-metrics"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_kubelets_rule() {
        let label = |key: &str| vec![(key.to_owned(), String::new())];
        assert_eq!(
            forbidden_labels(&label("node-role.kubernetes.io/etcd")).unwrap(),
            "node-role.kubernetes.io/etcd"
        );
        assert!(forbidden_labels(&label("node.kubernetes.io/pool")).is_none());
        assert!(forbidden_labels(&label("topology.kubernetes.io/zone")).is_none());
        assert!(forbidden_labels(&label("example.com/kubernetes.io")).is_none());
    }
}
