//! `k3s server`: the order of events of one start, and what follows READY.

use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
use crate::datastore::{Start, choose};
use crate::etcd::Exit;
use crate::paths::Paths;
use crate::settings::{self, Server};
use crate::shared::{Phase, Shared};
use crate::store::{Lone, Store};
use crate::{
    agent, bootstrap, controllers, http, join, kubelet, logs, material, members, nodepassword, paths,
    prepare, reset, supervisor,
};

/// Where k3s has its apiserver behind the supervisor.
pub const APISERVER_PORT: u16 = 6444;
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a server until it is asked to stop.
///
/// # Errors
/// The text k3s dies with.
pub async fn run(settings: Server) -> Result<(), String> {
    reset::check(&settings)?;
    logs::info(format!("Starting k3s {} (stand-in)", settings::version()));
    logs::chatter();
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
    let (access, password) = prepare::prepare(&settings, &paths, choice)
        .await
        .map_err(|e| format!("preparing server: failed to bootstrap cluster data: {e}"))?;
    let preparing = |e: String| format!("preparing server: {e}");
    let agent_password = prepare::generate(&settings, &paths, &password).map_err(preparing)?;
    let (shared, mut reasons) = Shared::new(settings, paths, choice, password);
    let listening = |e: String| format!("preparing server: failed to start supervisor listener: {e}");
    listen(&shared).await.map_err(listening)?;
    if shared.has_etcd() {
        let name = prepare::tombstone_and_name(&shared).map_err(listening)?;
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

async fn listen(shared: &Arc<Shared>) -> Result<(), String> {
    let certificate = paths::read(&shared.paths.tls("serving-kube-apiserver.crt"))?;
    let key = paths::read(&shared.paths.tls("serving-kube-apiserver.key"))?;
    let acceptor = http::tls(&certificate, &key)?;
    let listener = http::listen(shared.settings.port).await?;
    let for_requests = Arc::clone(shared);
    let handler = move |request| supervisor::handle(Arc::clone(&for_requests), request);
    tokio::spawn(http::serve(listener, acceptor.clone(), handler));
    // The apiserver's own port: the API alone, and only once it runs.
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        shared.reached(Phase::Api).await;
        match tokio::net::TcpListener::bind(("127.0.0.1", APISERVER_PORT)).await {
            Ok(listener) => {
                let handler = move |request| supervisor::handle_api(Arc::clone(&shared), request);
                http::serve(listener, acceptor, handler).await;
            }
            Err(e) => logs::fatal(format!("failed to create listener: 127.0.0.1:{APISERVER_PORT}: {e}")),
        }
    });
    Ok(())
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
    logs::info(format!("Server node token is available at {}", token.display()));
    logs::info(format!(
        "To join server node to cluster: k3s server -s https://{}:{} -t ${{SERVER_NODE_TOKEN}}",
        shared.settings.advertise_ip, shared.settings.port
    ));
    let token = shared.paths.server("agent-token");
    logs::info(format!("Agent node token is available at {}", token.display()));
    logs::info(format!(
        "To join agent node to cluster: k3s agent -s https://{}:{} -t ${{AGENT_NODE_TOKEN}}",
        shared.settings.advertise_ip, shared.settings.port
    ));
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
        // Also where a tombstoned member ends up whose token fits no CA on disk and whose server did not answer: it
        // founds, as k3s does. With the CA on disk no answer is needed for access, and it goes on to join.
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
