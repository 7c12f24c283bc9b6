//! The look at a host made of a temporary root, a scripted init system and a TLS server that answers as k3s does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::edge::exec::ExecError;
use crate::edge::fs::{create_directory, write_atomic};
use crate::edge::systemd::{InitError, InitKind};
use crate::k3s::kube::KubeError;
use crate::k3s::supervisor::Supervisor;
use crate::k3s::testing::{Authority, Reply, Seen, Server, closed_port, reply};

struct Scripted {
    server: Known<UnitState>,
    agent: Known<UnitState>,
    tail: &'static str,
}

#[async_trait]
impl Init for Scripted {
    fn kind(&self) -> InitKind {
        InitKind::Systemd
    }
    async fn states(&self, services: &[&str]) -> Vec<Known<UnitState>> {
        assert_eq!(services, ["k3s", "k3s-agent"]);
        vec![self.server.clone(), self.agent.clone()]
    }
    async fn reload(&self) -> Result<(), InitError> {
        Ok(())
    }
    async fn start(&self, _: &str) -> Result<(), InitError> {
        Ok(())
    }
    async fn stop(&self, _: &str, _: Duration) -> Result<(), InitError> {
        Ok(())
    }
    async fn enable(&self, _: &str) -> Result<(), InitError> {
        Ok(())
    }
    async fn disable(&self, _: &str) -> Result<(), InitError> {
        Ok(())
    }
    async fn tail(&self, _: &str, lines: usize) -> Known<String> {
        assert_eq!(lines, TAIL);
        Known::Yes(self.tail.to_owned())
    }
}

#[derive(Default)]
struct CountsAsks(AtomicUsize);

#[async_trait]
impl AskVersion for CountsAsks {
    async fn version_line(&self, _: &Path) -> Result<String, ExecError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok("k3s version v1.33.1+k3s1 (x)".into())
    }
}

fn unit(active: &str) -> Known<UnitState> {
    Known::Yes(UnitState { active: active.into(), ..UnitState::default() })
}

fn put(path: &Path, text: &str) {
    create_directory(path.parent().unwrap(), 0o755).unwrap();
    write_atomic(path, text.as_bytes(), 0o600).unwrap();
}

fn probe(paths: &Paths, init: Scripted, ports: Ports) -> (Probe, Arc<CountsAsks>) {
    let asks = Arc::new(CountsAsks::default());
    let probe =
        Probe::new(paths.clone(), "node1".into(), None, Arc::new(init), asks.clone(), Arc::new(Http::new()));
    (probe.with_ports(ports), asks)
}

const NODE: &str = r#"{"kind":"Node","metadata":{"name":"node1","uid":"u-1","labels":{"node-role.kubernetes.io/etcd":"true","node-role.kubernetes.io/control-plane":"true","x":"y"},
    "annotations":{"etcd.k3s.cattle.io/node-name":"node1-0badcafe","etcd.k3s.cattle.io/node-address":"10.77.0.1"}},
    "status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"True","reason":"KubeletReady"}],
    "addresses":[{"type":"InternalIP","address":"10.77.0.1"},{"type":"Hostname","address":"node1"}],"nodeInfo":{"kubeletVersion":"v1.33.1+k3s1"}}}"#;

/// A server as k3s is one.
fn as_k3s(seen: &Seen, ca: &str) -> Reply {
    let basic = |user: &str| {
        use base64::Engine;
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(format!("{user}:0123456789abcdef"))
        )
    };
    let authorised = |user: &str| seen.header("authorization") == Some(basic(user).as_str());
    let path = seen.path.split('?').next().unwrap();
    match path {
        "/ping" => reply(200, "pong"),
        "/cacerts" => reply(200, ca),
        "/v1-k3s/readyz" if authorised("node") => reply(503, "runtime core not ready"),
        "/v1-k3s/readyz" => reply(401, "not authorized"),
        "/db/info" if seen.header("authorization").is_none() || authorised("server") => reply(
            200,
            r#"{"members":[{"ID":1,"name":"node1-0badcafe","peerURLs":["https://10.77.0.1:2380"]}]}"#,
        ),
        _ if !seen.certified => reply(401, "Unauthorized"),
        "/readyz" => reply(200, "ok"),
        "/api/v1/nodes/node1" if seen.method == "DELETE" && seen.body.contains("u-1") => reply(200, "{}"),
        "/api/v1/nodes/node1" if seen.method == "DELETE" => reply(
            409,
            r#"{"kind":"Status","reason":"Conflict","message":"the UID in the precondition (u-0) does not match"}"#,
        ),
        "/api/v1/nodes/node1" => reply(200, NODE),
        "/api/v1/nodes" if seen.path.contains("continue=") => reply(
            200,
            r#"{"items":[{"metadata":{"name":"node2"},"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown"}]}}],"metadata":{}}"#,
        ),
        "/api/v1/nodes" => reply(200, format!(r#"{{"items":[{NODE}],"metadata":{{"continue":"a=/b"}}}}"#)),
        _ => reply(404, r#"{"kind":"Status","reason":"NotFound","message":"not found"}"#),
    }
}

struct Cluster {
    ca: Authority,
    clients: Authority,
    server: Server,
}

impl Cluster {
    async fn start() -> Self {
        let (ca, clients) = (Authority::new("k3s-server-ca"), Authority::new("k3s-client-ca"));
        let pem = ca.pem();
        let config = ca.server(&["127.0.0.1", "localhost", "kubernetes"], Some(&clients));
        let server = Server::start(Some(config), move |seen| as_k3s(seen, &pem)).await;
        Self { ca, clients, server }
    }

    fn base(&self) -> String {
        format!("https://{}", self.server.at)
    }

    fn bundle(&self) -> CaBundle {
        CaBundle::from_pem(self.ca.pem().into_bytes()).unwrap()
    }

    fn put_server_files(&self, paths: &Paths) {
        let tls = paths.data_dir.join("server/tls");
        let (certificate, key) = self.clients.client("system:admin");
        put(&tls.join("server-ca.crt"), &self.ca.pem());
        put(&tls.join("client-admin.crt"), &certificate);
        put(&tls.join("client-admin.key"), &key);
    }
}

#[tokio::test]
async fn a_serving_server_is_seen_whole() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let cluster = Cluster::start().await;
    cluster.put_server_files(&paths);
    let health = Server::start(None, |_| reply(200, r#"{"health":"true"}"#)).await;
    put(&paths.data_dir.join("server/db/etcd/member/wal/0.wal"), "");
    put(&paths.data_dir.join("server/db/etcd/name"), "node1-0badcafe\n");
    put(&paths.binary, "bytes");
    let token = paths.token_file(K3sRole::Server);
    put(&token, "0123456789abcdef\n");
    put(&paths.config(), &format!("server: https://10.77.0.2:6443\ntoken-file: {}\n", token.display()));
    let init = Scripted { server: unit("active"), agent: Known::Absent, tail: "" };
    let ports = Ports { supervisor: cluster.server.at.port(), balancer: 0, etcd_health: health.at.port() };
    let (probe, asks) = probe(&paths, init, ports);
    let facts = probe.look().await;
    assert_eq!(facts.joined(K3sRole::Server), Known::Yes(true), "{facts:?}");
    assert_eq!(facts.voter(), Known::Yes(true));
    let live = facts.live.yes().unwrap();
    assert_eq!(live.ca.yes(), Some(cluster.bundle().hash()));
    assert_eq!(facts.disk.ca, live.ca);
    let node = live.node.yes().unwrap();
    assert_eq!(node.roles, ["control-plane", "etcd"]);
    assert_eq!((node.uid.as_str(), node.addresses[0].as_str()), ("u-1", "10.77.0.1"));
    assert_eq!(node.etcd_name.as_deref(), Some("node1-0badcafe"));
    assert_eq!(facts.binary.yes().unwrap().version, Known::Yes("v1.33.1+k3s1".into()));
    assert_eq!(facts.config.yes().unwrap().server.as_deref(), Some("https://10.77.0.2:6443"));
    assert_eq!(facts.token.yes().unwrap().form, crate::k3s::TokenForm::Short);
    assert!(facts.findings.is_absent());
    // The binary is hashed and asked once.
    assert_eq!(probe.look().await.binary, facts.binary);
    assert_eq!(asks.0.load(Ordering::SeqCst), 1);
    write_atomic(&paths.binary, b"other bytes", 0o755).unwrap();
    assert_ne!(probe.look().await.binary, facts.binary);
    assert_eq!(asks.0.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_agent_asks_its_balancer_with_the_kubelets_certificate() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let cluster = Cluster::start().await;
    let (certificate, key) = cluster.clients.client("system:node:node1");
    let agent = paths.data_dir.join("agent");
    put(&agent.join("server-ca.crt"), &cluster.ca.pem());
    put(&agent.join("client-kubelet.crt"), &certificate);
    put(&agent.join("client-kubelet.key"), &key);
    let init = Scripted { server: Known::Absent, agent: unit("active"), tail: "" };
    let ports = Ports { supervisor: 1, balancer: cluster.server.at.port(), etcd_health: 1 };
    let facts = probe(&paths, init, ports).0.look().await;
    assert_eq!(facts.joined(K3sRole::Agent), Known::Yes(true), "{facts:?}");
    assert!(facts.live.yes().unwrap().members.is_absent());
    assert!(cluster.server.paths().iter().all(|path| path != "/db/info"));
}

#[tokio::test]
async fn nothing_is_asked_when_nothing_runs_and_the_journal_when_it_fails() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let cluster = Cluster::start().await;
    cluster.put_server_files(&paths);
    let ports = Ports { supervisor: cluster.server.at.port(), balancer: 0, etcd_health: 0 };
    let tail = "msg=\"duplicate node name found, please use a unique name for this node\"";
    let stopped = Scripted { server: unit("inactive"), agent: Known::Absent, tail };
    let facts = probe(&paths, stopped, ports).0.look().await;
    assert!(facts.live.is_absent() && facts.findings.is_absent());
    assert_eq!(cluster.server.paths(), Vec::<String>::new());
    let failed = Scripted { server: unit("failed"), agent: Known::Absent, tail };
    let facts = probe(&paths, failed, ports).0.look().await;
    assert_eq!(facts.findings.yes().unwrap()[0].hazard.number, 6);
    let unknown = Scripted { server: Known::unknown("unit", "no bus"), agent: Known::Absent, tail };
    let facts = probe(&paths, unknown, ports).0.look().await;
    assert!(facts.live.is_unknown() && facts.joined(K3sRole::Server).is_unknown());
}

#[tokio::test]
async fn a_unit_that_does_not_listen_yet_is_absent_everywhere() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let gone = closed_port();
    let init = Scripted { server: unit("activating"), agent: Known::Absent, tail: "nothing known" };
    let facts =
        probe(&paths, init, Ports { supervisor: gone, balancer: 0, etcd_health: gone }).0.look().await;
    let live = facts.live.yes().unwrap();
    assert!(live.ping.is_absent() && live.node.is_absent() && live.members.is_absent(), "{live:?}");
    assert_eq!(facts.joined(K3sRole::Server), Known::Yes(false));
}

#[tokio::test]
async fn a_server_is_known_by_a_ca_that_signed_it_and_not_by_one_it_shows() {
    let http = Http::new();
    let supervisor = SupervisorApi::new(&http);
    let cluster = Cluster::start().await;
    assert_eq!(supervisor.cacerts_hash(&cluster.base()).await.yes(), Some(cluster.bundle().hash()));
    // An impostor shows the cluster's CA and holds a certificate of its own.
    let (other, shown) = (Authority::new("impostor"), cluster.ca.pem());
    let impostor =
        Server::start(Some(other.server(&["127.0.0.1"], None)), move |seen| as_k3s(seen, &shown)).await;
    let base = format!("https://{}", impostor.at);
    assert!(supervisor.cacerts_hash(&base).await.is_unknown());
    // The password never reaches it.
    let password = Secret::new("0123456789abcdef".into());
    assert!(supervisor.ready(&base, &cluster.bundle(), &password).await.is_unknown());
    assert!(supervisor.members(&base, &cluster.bundle(), Some(&password)).await.is_unknown());
    assert!(impostor.seen.lock().unwrap().iter().all(|seen| seen.header("authorization").is_none()));
    // A certificate of the right CA for another name.
    let named = cluster.ca.server(&["elsewhere.example"], None);
    let pem = cluster.ca.pem();
    let elsewhere = Server::start(Some(named), move |seen| as_k3s(seen, &pem)).await;
    assert!(supervisor.cacerts_hash(&format!("https://{}", elsewhere.at)).await.is_unknown());
    // Nothing there at all.
    let nowhere = format!("https://127.0.0.1:{}", closed_port());
    assert!(supervisor.cacerts_hash(&nowhere).await.is_absent());
}

#[tokio::test]
async fn a_supervisor_is_ready_starting_or_of_another_token() {
    let http = Http::new();
    let supervisor = SupervisorApi::new(&http);
    let cluster = Cluster::start().await;
    let (base, ca) = (cluster.base(), cluster.bundle());
    let right = Secret::new("0123456789abcdef".into());
    let wrong = Secret::new("another-password".into());
    assert_eq!(supervisor.ready(&base, &ca, &right).await, Known::Yes(Supervisor::Starting));
    assert_eq!(supervisor.ready(&base, &ca, &wrong).await, Known::Yes(Supervisor::PasswordRefused));
    assert_eq!(supervisor.members(&base, &ca, Some(&right)).await.yes().unwrap()[0].node_name(), "node1");
    assert!(supervisor.members(&base, &ca, Some(&wrong)).await.is_unknown());
}

#[tokio::test]
async fn nodes_are_listed_page_by_page_and_deleted_only_as_the_one_that_was_seen() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let cluster = Cluster::start().await;
    let http = Http::new();
    assert!(KubeApi::local(&http, K3sRole::Server, &paths, cluster.server.at).is_absent());
    cluster.put_server_files(&paths);
    let known = KubeApi::local(&http, K3sRole::Server, &paths, cluster.server.at);
    let api = known.yes().unwrap();
    let nodes = api.nodes("").await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["node1", "node2"]);
    assert!(nodes[1].ready.is_unknown());
    assert!(cluster.server.paths()[1].ends_with("&continue=a%3D%2Fb"));
    assert!(api.node("node9").await.is_absent());
    assert!(matches!(api.delete_node("node1", "u-0").await, Err(KubeError::Status { status: 409, .. })));
    assert!(api.delete_node("node1", "u-1").await.unwrap());
    assert!(!api.delete_node("node9", "u-1").await.unwrap());
}

#[tokio::test]
async fn a_404_of_a_stub_is_not_the_absence_of_a_node() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let ca = Authority::new("k3s-server-ca");
    let stub =
        Server::start(Some(ca.server(&["127.0.0.1"], None)), |_| reply(404, "404 page not found\n")).await;
    let (certificate, key) = Authority::new("clients").client("system:admin");
    let tls = paths.data_dir.join("server/tls");
    put(&tls.join("server-ca.crt"), &ca.pem());
    put(&tls.join("client-admin.crt"), &certificate);
    put(&tls.join("client-admin.key"), &key);
    let http = Http::new();
    let known = KubeApi::local(&http, K3sRole::Server, &paths, stub.at);
    let api = known.yes().unwrap();
    assert!(api.node("node1").await.is_unknown());
    assert!(api.delete_node("node1", "u").await.is_err());
    assert_eq!(api.ready().await, Known::Yes(false));
}

#[test]
fn foreign_files_are_found_wherever_k3s_would_read_them() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    assert!(foreign(&paths).is_absent());
    let etc = root.path().join("etc");
    put(&etc.join("rancher/k3s/config.yaml.d/10-labels.yaml"), "node-label: [a=b]\n");
    assert!(foreign(&paths).is_absent());
    put(&etc.join("rancher/k3s/config.yaml.d/20-old.yaml"), "cluster-init: true\n");
    put(&etc.join("rancher/k3s/config.yaml.d/ignored.txt"), "token: x\n");
    put(&etc.join("default/k3s"), "K3S_URL=https://x\n");
    put(&etc.join("systemd/system/k3s-agent.service.d/o.conf"), "[Service]\nExecStart=\n");
    let known = foreign(&paths);
    let found: Vec<(ForeignKind, String)> =
        known.yes().unwrap().iter().map(|file| (file.kind, file.keys.join(","))).collect();
    assert_eq!(
        found,
        [
            (ForeignKind::Environment, "K3S_URL".into()),
            (ForeignKind::ConfigDropIn, "cluster-init".into()),
            (ForeignKind::UnitDropIn, "ExecStart".into()),
        ]
    );
}

#[test]
fn a_torn_configuration_is_unknown_and_a_torn_ca_too() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    assert!(config(&paths).is_absent());
    put(&paths.config(), "{\"server\": \"https://");
    assert!(config(&paths).is_unknown());
    assert!(token(&config(&paths)).is_unknown());
    put(&paths.data_dir.join("server/tls/server-ca.crt"), "-----BEGIN CERT");
    assert!(disk(&paths).ca.is_unknown());
    assert!(disk(&paths).wal.is_absent());
}

#[test]
fn the_journal_of_the_unit_that_runs_is_read_and_not_of_what_ran_before() {
    let unit = |active: &str, sub: &str| {
        Known::Yes(UnitState { active: active.into(), sub: sub.into(), ..UnitState::default() })
    };
    let (failed, dead) = (unit("failed", "failed"), unit("inactive", "dead"));
    let (runs, again) = (unit("active", "running"), unit("activating", "auto-restart"));
    let unread = Known::unknown("the unit", "no answer");
    let unknown = Known::unknown("the unit", "no answer");
    let (server, agent, none) = (Known::Yes(K3sRole::Server), Known::Yes(K3sRole::Agent), Known::Absent);
    for (server_unit, agent_unit, ready, wanted) in [
        (&failed, &runs, false, &agent),
        (&failed, &runs, true, &none),
        (&failed, &dead, false, &server),
        (&dead, &failed, false, &agent),
        (&runs, &failed, false, &server),
        (&runs, &dead, true, &none),
        (&again, &dead, true, &server),
        (&failed, &again, false, &agent),
        (&unread, &runs, false, &agent),
        (&dead, &dead, false, &none),
        (&unread, &Known::Absent, false, &unknown),
        // What failed may be of yesterday, and the other one may run.
        (&failed, &unread, false, &unknown),
        (&unread, &failed, false, &unknown),
    ] {
        assert_eq!(
            &journal_of(server_unit, agent_unit, ready),
            wanted,
            "{server_unit:?} {agent_unit:?} {ready}"
        );
    }
}
