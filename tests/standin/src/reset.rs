//! `--cluster-reset`, with and without a snapshot to restore.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::settings::Server;
use crate::shared::Shared;
use crate::{bootstrap, clock, join, logs, material, paths};

const DONE: &str = "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup \
                    and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes";

/// What forbids a reset before anything is touched.
///
/// # Errors
/// k3s's texts.
pub fn check(settings: &Server) -> Result<(), String> {
    if !settings.cluster_reset {
        return Ok(());
    }
    if !settings.agent.server_url.is_empty() {
        return Err(
            "cannot perform cluster-reset while server URL is set - remove server from configuration before \
                    resetting"
                .to_owned(),
        );
    }
    let paths = paths::Paths::new(&settings.agent.data_dir);
    let _ = std::fs::remove_file(paths.agent("etc/k3s-agent-load-balancer.json"));
    let token = paths.server("token");
    if !settings.restore_path.is_empty() && settings.agent.token.is_empty() && !token.exists() {
        return Err(format!(
            "{} does not exist, please pass --token to complete the restoration",
            token.display()
        ));
    }
    Ok(())
}

/// Starts etcd as a cluster of one and ends the process when it is.
///
/// # Errors
/// k3s's texts.
pub async fn run(shared: &Arc<Shared>) -> Result<(), String> {
    let flag = shared.paths.reset_flag();
    let restore = &shared.settings.restore_path;
    if restore.is_empty() && flag.exists() {
        return Err(format!(
            "Managed etcd cluster membership was previously reset, please remove the cluster-reset flag and start k3s \
             normally. If you need to perform another cluster reset, you must first manually delete the file at {}",
            flag.display()
        ));
    }
    join::start_client(shared)?;
    let name = join::member_name(&shared.paths, &shared.settings.agent.node_name, restore.is_empty())?;
    let name = if restore.is_empty() {
        name
    } else {
        restore_snapshot(shared, restore, &name).await?;
        join::member_name(&shared.paths, &shared.settings.agent.node_name, true)?
    };
    let waiting = Arc::clone(shared);
    let expected = name.clone();
    paths::write_secret(&flag, "")?;
    let plan = crate::etcd::Plan { name, ..join::plan(shared, String::new(), "new", true) };
    let initial = format!("{}={}", plan.name, shared.peer_url());
    logs::info("Starting etcd for new cluster, cluster-reset=true");
    join::start_process(shared, &crate::etcd::Plan { initial_cluster: initial, ..plan })?;
    tokio::spawn(async move { finish(waiting, expected).await });
    Ok(())
}

/// Waits until the single member is up under its new name and at its own address, then takes the bootstrap data out of
/// the datastore and asks for the end.
async fn finish(shared: Arc<Shared>, name: String) {
    let limit = Duration::from_secs(10);
    loop {
        if let Some(client) = shared.etcd.get() {
            match client.members(limit).await.as_deref() {
                Ok([one]) if one.name == name && one.peer_urls.contains(&shared.peer_url()) => break,
                Ok([one]) => {
                    if let Err(e) = client.update_peer(one.id, &shared.peer_url(), limit).await {
                        logs::warn(format!("failed to update peer url: {e}"));
                    }
                }
                Ok(_) => logs::warn("failed to update peer url: etcd still has more than one member"),
                Err(e) => logs::info(format!("Failed to test etcd connection: {e}")),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if let Err(e) = rebootstrap(&shared).await {
        logs::fatal(e);
    }
    shared.request_shutdown(DONE);
}

async fn rebootstrap(shared: &Shared) -> Result<(), String> {
    let client = shared.etcd.get().ok_or("etcd datastore is not started")?;
    let (entries, _) = client.list("/bootstrap", Duration::from_secs(10)).await?;
    let key = bootstrap::key_of(&shared.password);
    let Some(entry) = entries.iter().find(|e| e.key == key) else {
        return Err(if entries.is_empty() {
            "no bootstrap data found in datastore - check server token value and verify datastore integrity"
                .to_owned()
        } else {
            "bootstrap data already found and encrypted with different token".to_owned()
        });
    };
    let data = bootstrap::decrypt(&shared.password, &entry.value)?;
    bootstrap::reconcile(&shared.paths, &data, true)?;
    material::certificates(&shared.paths, &shared.settings)?;
    material::passwords_and_tokens(&shared.paths, &shared.settings, &shared.password)?;
    bootstrap::remember(&shared.paths, &key, &entry.value)
}

/// Moves the old data aside and unpacks the snapshot with etcd's own tool.
async fn restore_snapshot(shared: &Shared, path: &str, name: &str) -> Result<(), String> {
    let given = Path::new(path);
    let path: PathBuf = if given.is_absolute() { given.to_owned() } else { shared.paths.server(path) };
    match std::fs::metadata(&path) {
        Err(_) => return Err(format!("etcd: snapshot path does not exist: {}", path.display())),
        Ok(meta) if meta.is_dir() => {
            return Err(format!("etcd: snapshot path must be a file, not a directory: {}", path.display()));
        }
        Ok(_) => {}
    }
    let etcd = shared.paths.etcd();
    if etcd.exists() {
        let old = shared.paths.server(&format!("db/etcd-old-{}", clock::unix_now()));
        logs::info(format!("Pre-restore etcd database moved to {}", old.display()));
        std::fs::rename(&etcd, &old).map_err(|e| format!("rename {}: {e}", old.display()))?;
    }
    let program = std::env::var("K3S_STANDIN_ETCDCTL").unwrap_or_else(|_| "etcdctl".to_owned());
    let output = tokio::process::Command::new(&program)
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore"])
        .arg(&path)
        .arg("--data-dir")
        .arg(&etcd)
        .args(["--name", name, "--initial-cluster", &format!("{name}={}", shared.peer_url())])
        .args(["--initial-advertise-peer-urls", &shared.peer_url()])
        .output()
        .await
        .map_err(|e| format!("the stand-in restores with {program}: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(())
}
