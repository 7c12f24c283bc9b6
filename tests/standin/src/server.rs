//! `k3s server`: the order of events of one start, and what follows READY.

use std::sync::Arc;
use std::time::Duration;

use crate::access::{Access, Options};
use crate::datastore::{Choice, Start, choose};
use crate::etcd::Exit;
use crate::paths::Paths;
use crate::settings::{self, Server};
use crate::shared::{Phase, Shared};
use crate::store::{Lone, Store};
use crate::{
    agent, bootstrap, clock, controllers, http, join, kubelet, logs, material, members, nodepassword, paths,
    reset, supervisor,
};

const BACKUPS: usize = 5;
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a server until it is asked to stop.
///
/// # Errors
/// The text k3s dies with.
pub async fn run(settings: Server) -> Result<(), String> {
    reset::check(&settings)?;
    logs::info(format!("Starting k3s {} (stand-in)", settings::version()));
    let paths = Paths::new(&settings.agent.data_dir);
    paths::make_dir(&paths.server("")).map_err(|e| format!("preparing server: {e}"))?;
    let start = Start {
        wal_exists: paths.wal().is_dir(),
        cluster_init: settings.cluster_init || settings.cluster_reset,
        server_url: &settings.agent.server_url,
        token: &settings.agent.token,
        endpoint: &settings.datastore,
    };
    let choice = choose(&start);
    let (access, password) = prepare(&settings, &paths, choice)
        .await
        .map_err(|e| format!("preparing server: failed to bootstrap cluster data: {e}"))?;
    let preparing = |e: String| format!("preparing server: {e}");
    let agent_password = generate(&settings, &paths, &password).map_err(preparing)?;
    let (shared, mut reasons) = Shared::new(settings, paths, choice, password);
    listen(&shared).await.map_err(preparing)?;
    if shared.has_etcd() {
        let name = tombstone_and_name(&shared).map_err(preparing)?;
        let _ = shared.member_name.set(name);
    }
    shared.phase.send_replace(Phase::Supervisor);

    let main = start_everything(Arc::clone(&shared), access, agent_password);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|e| format!("cannot handle signals: {e}"))?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|e| format!("cannot handle signals: {e}"))?;
    tokio::pin!(main);
    tokio::select! {
        result = &mut main => result?,
        _ = reasons.recv() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if shared.phase() >= Phase::Api {
        controllers::withdraw(&shared).await;
    }
    if let Some(member) = shared.member.get() {
        member.stop().await;
    }
    Ok(())
}

/// Driver, token, remote CA, bootstrap data: everything before the listener opens.
async fn prepare(
    settings: &Server,
    paths: &Paths,
    choice: Choice,
) -> Result<(Option<Access>, String), String> {
    let url = &settings.agent.server_url;
    let token = &settings.agent.token;
    let ca = paths.tls("server-ca.crt");
    let options = Options { user: Some("server"), ca_file: Some(&ca), ..Options::default() };
    match choice {
        Choice::External => Err("an external datastore is not served by the stand-in".to_owned()),
        Choice::TokenRequired => {
            Err("failed to check if bootstrap data has been initialized: token is required to join a cluster"
                .to_owned())
        }
        Choice::Lone => Ok((None, material::server_password(paths, token)?)),
        Choice::Found => {
            logs::info("Managed etcd cluster initializing");
            Ok((None, material::server_password(paths, token)?))
        }
        Choice::Existing => {
            logs::info("Managed etcd cluster bootstrap already complete and initialized");
            let password = material::server_password(paths, token)?;
            if settings.cluster_reset {
                return Ok((None, password));
            }
            let mut access = None;
            if !url.is_empty() && !token.is_empty() {
                access = Access::validate(url, token, options).await.ok();
            }
            if let Some(remote) = &access {
                match http_bootstrap(remote, paths).await {
                    Ok(()) => {
                        logs::info("Successfully reconciled with remote datastore");
                        return Ok((access, password));
                    }
                    Err(e) => logs::warn(format!("Unable to reconcile with remote datastore: {e}")),
                }
            }
            let data = bootstrap::from_local_datastore(paths, &password);
            data.and_then(|data| bootstrap::reconcile(paths, &data, false))
                .map_err(|e| format!("failed to reconcile with local datastore: {e}"))?;
            logs::info("Successfully reconciled with local datastore");
            Ok((access, password))
        }
        Choice::Join => {
            let access = Access::validate(url, token, options).await.map_err(|e| {
                format!(
                    "failed to check if bootstrap data has been initialized: failed to validate token: {e}"
                )
            })?;
            logs::info("Managed etcd cluster not yet initialized");
            compare(settings, paths)
                .await
                .map_err(|e| format!("failed to validate server configuration: {e}"))?;
            http_bootstrap(&access, paths).await?;
            let password = access.password().to_owned();
            Ok((Some(access), password))
        }
    }
}

async fn http_bootstrap(access: &Access, paths: &Paths) -> Result<(), String> {
    let data = access.get("/v1-k3s/server-bootstrap").await?;
    bootstrap::reconcile(paths, &data, false)
}

/// Compares the critical settings with those of the contacted server.
async fn compare(settings: &Server, paths: &Paths) -> Result<(), String> {
    let token = match settings.agent_token.as_str() {
        "" => &settings.agent.token,
        token => token,
    };
    let ca = paths.tls("server-ca.crt");
    let options = Options { user: Some("node"), ca_file: Some(&ca), ..Options::default() };
    let access = Access::validate(&settings.agent.server_url, token, options).await?;
    let theirs: serde_json::Value = match access.get("/v1-k3s/config").await {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| e.to_string())?,
        Err(e) => {
            logs::warn(format!("Skipping cluster configuration validation: {e}"));
            return Ok(());
        }
    };
    let mine = supervisor::critical(&settings.critical);
    let flags = different(&mine, &theirs);
    for flag in &flags {
        logs::warn(format!("critical configuration mismatched: {flag}"));
    }
    if flags.is_empty() {
        Ok(())
    } else {
        Err("critical configuration value mismatch between servers".to_owned())
    }
}

/// The options behind the fields that differ.
fn different(mine: &serde_json::Value, theirs: &serde_json::Value) -> Vec<&'static str> {
    const FLAGS: &[(&str, &str)] = &[
        ("ClusterDNSs", "cluster-dns"),
        ("ClusterIPRanges", "cluster-cidr"),
        ("ClusterDomain", "cluster-domain"),
        ("DisableCCM", "disable-cloud-controller"),
        ("DisableHelmController", "disable-helm-controller"),
        ("DisableNPC", "disable-network-policy"),
        ("EncryptSecrets", "secrets-encryption"),
        ("EncryptProvider", "secrets-encryption-provider"),
        ("EmbeddedRegistry", "embedded-registry"),
        ("FlannelBackend", "flannel-backend"),
        ("FlannelIPv6Masq", "flannel-ipv6-masq"),
        ("FlannelExternalIP", "flannel-external-ip"),
        ("EgressSelectorMode", "egress-selector-mode"),
        ("ServiceIPRanges", "service-cidr"),
        ("SupervisorMetrics", "supervisor-metrics"),
    ];
    FLAGS.iter().filter(|(field, _)| mine[field] != theirs[field]).map(|(_, flag)| *flag).collect()
}

/// Certificates, passwords and tokens.
fn generate(settings: &Server, paths: &Paths, password: &str) -> Result<String, String> {
    material::certificates(paths, settings)?;
    material::passwords_and_tokens(paths, settings, password)
}

async fn listen(shared: &Arc<Shared>) -> Result<(), String> {
    let certificate = paths::read(&shared.paths.tls("serving-kube-apiserver.crt"))?;
    let key = paths::read(&shared.paths.tls("serving-kube-apiserver.key"))?;
    let acceptor = http::tls(&certificate, &key)?;
    let listener = http::listen(shared.settings.port).await?;
    let for_requests = Arc::clone(shared);
    let handler = move |request| supervisor::handle(Arc::clone(&for_requests), request);
    tokio::spawn(http::serve(listener, acceptor, handler));
    Ok(())
}

/// A tombstone means: this member was removed. With a server to join the old data moves aside, without one the start
/// ends here.
fn tombstone_and_name(shared: &Shared) -> Result<String, String> {
    let paths = &shared.paths;
    if paths.tombstone().exists() && !shared.settings.cluster_reset {
        if shared.settings.agent.server_url.is_empty() {
            return Err("tombstone file has been detected but --server is empty: backup and delete \
                        ${datadir}/server/db to create a new cluster, or set --server to rejoin the cluster"
                .to_owned());
        }
        logs::info("tombstone file has been detected, removing ${datadir}/server/db to rejoin the cluster");
        let backup = paths.server(&format!("db/etcd-backup-{}", clock::unix_now()));
        std::fs::rename(paths.etcd(), &backup).map_err(|e| format!("rename {}: {e}", backup.display()))?;
        prune_backups(paths);
    }
    join::member_name(paths, &shared.settings.agent.node_name, false)
}

fn prune_backups(paths: &Paths) {
    let Ok(entries) = std::fs::read_dir(paths.server("db")) else { return };
    let mut backups: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("etcd-backup-")))
        .collect();
    backups.sort();
    for old in backups.iter().rev().skip(BACKUPS) {
        let _ = std::fs::remove_dir_all(old);
    }
}

async fn start_everything(
    shared: Arc<Shared>,
    access: Option<Access>,
    agent_password: String,
) -> Result<(), String> {
    if !shared.settings.cluster_reset {
        tokio::spawn(agent_part(Arc::clone(&shared), agent_password));
    }
    let starting =
        |e: String| format!("starting kubernetes: failed to start cluster: start managed database: {e}");
    if shared.has_etcd() {
        start_database(&shared, access).await.map_err(starting)?;
    } else {
        let lone = Lone::open(shared.paths.state_db()).map_err(starting)?;
        let _ = shared.store.set(Store::Lone(lone));
    }
    if shared.settings.cluster_reset {
        return std::future::pending().await;
    }
    let token = shared.paths.server("token");
    logs::info(format!("Node token is available at {}", token.display()));
    material::kubeconfig(&shared.paths, &shared.settings)?;
    if shared.has_etcd() {
        wait_for_etcd(&shared).await;
        logs::info("ETCD server is now running");
        save_bootstrap(&shared).await.inspect_err(|e| {
            shared.request_shutdown(&format!("failed to save bootstrap data: {e}"));
        })?;
        let client = shared.etcd.get().cloned().ok_or("etcd datastore is not started")?;
        let _ = shared.store.set(Store::Etcd(client));
    }
    let store = shared.store().ok_or("no datastore")?;
    while let Err(e) = controllers::namespaces(store).await {
        logs::warn(format!("apiserver post-start hook: {e}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    shared.phase.send_replace(Phase::Api);
    if let Err(e) = controllers::after_reset(&shared, store).await {
        logs::error(e);
    }
    controllers::start(&shared);
    shared.phase.send_replace(Phase::Core);
    own_password(&shared, store).await;
    logs::info("Kube API server is now running");
    logs::info("k3s is up and running");
    crate::notify_ready();
    std::future::pending().await
}

async fn own_password(shared: &Shared, store: &Store) {
    let agent = &shared.settings.agent;
    let Ok(password) = nodepassword::ensure_file(&agent.knobs.node_dir) else { return };
    if let Err(nodepassword::Refusal::Wrong(e)) =
        nodepassword::ensure(store, &agent.node_name, &password).await
    {
        nodepassword::report_own_mismatch(store, &agent.node_name, &e).await;
    }
}

/// The agent every server runs too, against its own supervisor.
async fn agent_part(shared: Arc<Shared>, agent_password: String) {
    let watchdog = Arc::clone(&shared);
    tokio::spawn(async move {
        if tokio::time::timeout(agent::WATCHDOG, watchdog.reached(Phase::Api)).await.is_err() {
            watchdog
                .request_shutdown("failed to wait for API server to become ready: context deadline exceeded");
        }
    });
    if shared.settings.disable_agent {
        return;
    }
    let mut own = shared.settings.agent.clone();
    match supervisor::own_agent_token(&shared, &agent_password) {
        Ok(token) => own.token = token,
        Err(e) => return logs::error(e),
    }
    let supervisor = format!("https://127.0.0.1:{}", shared.settings.port);
    let credentials = kubelet::credentials(&own, &shared.paths, &supervisor).await;
    kubelet::run(own, Arc::new(credentials)).await;
}

async fn start_database(shared: &Arc<Shared>, access: Option<Access>) -> Result<(), String> {
    if shared.settings.cluster_reset {
        return reset::run(shared).await;
    }
    let initialized = shared.paths.wal().is_dir();
    join::start_client(shared)?;
    tokio::spawn(members::manage(Arc::clone(shared)));
    match (initialized, access) {
        (true, _) => {
            logs::info("Starting etcd for existing cluster member");
            join::start_process(shared, &join::plan(shared, String::new(), "existing", false))
        }
        // Also the way of a tombstoned member whose server did not answer: it founds, as k3s does.
        (false, None) => join::new_cluster(shared, false),
        (false, Some(access)) => {
            tokio::spawn(join::poll_join(Arc::clone(shared), access));
            Ok(())
        }
    }
}

/// Whether the local member votes and may serve.
///
/// # Errors
/// k3s's texts.
pub async fn test_etcd(shared: &Shared) -> Result<(), String> {
    let client = shared.etcd.get().ok_or("etcd datastore is not started")?;
    let alive = shared.member.get().is_some_and(|m| *m.exit().borrow() == Exit::Running);
    if !alive {
        return Err(
            "failed to get etcd status: rpc error: code = Unavailable desc = connection error".to_owned()
        );
    }
    let status = client.status(LIMIT).await.map_err(|e| format!("failed to get etcd status: {e}"))?;
    if status.is_learner {
        return Err("this server has not yet been promoted from learner to voting member".to_owned());
    }
    if status.leader == 0 {
        return Err("etcdserver: no leader".to_owned());
    }
    logs::info(format!(
        "Connected to etcd v{} - datastore using {} of {} bytes",
        status.version, status.db_in_use, status.db_size
    ));
    if !status.errors.is_empty() {
        logs::warn(format!("Errors present on etcd cluster: {}", status.errors.join(",")));
    }
    for (member, alarm) in client.alarms(LIMIT).await.map_err(|e| format!("etcd alarm list failed: {e}"))? {
        if member != status.member_id {
            continue;
        }
        if alarm != "NOSPACE" {
            return Err(format!("failed to disarm etcd alarms: {alarm} alarm must be disarmed manually"));
        }
        client.disarm(member, &alarm, LIMIT).await.map_err(|e| format!("{alarm} disarm failed: {e}"))?;
        logs::info(format!("{alarm} disarmed successfully"));
    }
    let (name, url) = (shared.member_name.get().cloned().unwrap_or_default(), shared.peer_url());
    let list = client.members(LIMIT).await?;
    if list.iter().any(|m| m.name == name && m.peer_urls.contains(&url)) {
        return Ok(());
    }
    let found: Vec<String> =
        list.iter().filter_map(|m| m.peer_urls.first().map(|u| format!("{}={u}", m.name))).collect();
    Err(format!(
        "this server is not a member of the etcd cluster. Found [{}], expect: {name}={url}",
        found.join(" ")
    ))
}

/// Waits for ever. k3s looks every five seconds; the stand-in looks more often and logs as often as k3s.
pub async fn wait_for_etcd(shared: &Shared) {
    let mut logged: Option<std::time::Instant> = None;
    loop {
        match test_etcd(shared).await {
            Ok(()) => return logs::info("Connection to etcd is ready"),
            Err(e) => {
                if logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(5)) {
                    logs::info(format!("Failed to test etcd connection: {e}"));
                    logged = Some(std::time::Instant::now());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Makes sure the datastore holds the bootstrap data under this token, and no other.
async fn save_bootstrap(shared: &Shared) -> Result<(), String> {
    let client = shared.etcd.get().ok_or("etcd datastore is not started")?;
    let key = bootstrap::key_of(&shared.password);
    for _ in 0..5 {
        let (entries, _) = client.list("/bootstrap", LIMIT).await?;
        let revision = match entries.as_slice() {
            [] => 0,
            [one] if one.key == key => {
                let stored = bootstrap::decrypt(&shared.password, &one.value)?;
                if same_content(&stored, &bootstrap::from_disk(&shared.paths)?) {
                    return bootstrap::remember(&shared.paths, &key, &one.value);
                }
                one.revision
            }
            [_] => return Err("bootstrap data already found and encrypted with different token".to_owned()),
            _ => return Err("found multiple bootstrap keys in storage".to_owned()),
        };
        logs::info("Saving cluster bootstrap data to datastore");
        let sealed = bootstrap::encrypt(&shared.password, &bootstrap::from_disk(&shared.paths)?)?;
        if client.put_if(&key, &sealed, revision, LIMIT).await?.is_some() {
            return bootstrap::remember(&shared.paths, &key, &sealed);
        }
    }
    Err("the bootstrap data keeps changing".to_owned())
}

/// Whether two sets of bootstrap data hold the same files; times do not count.
fn same_content(a: &[u8], b: &[u8]) -> bool {
    let contents = |json: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        value
            .as_object()
            .map(|map| map.iter().map(|(k, v)| (k.clone(), v["Content"].clone())).collect::<Vec<_>>())
    };
    contents(a) == contents(b)
}
