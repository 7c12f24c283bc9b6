//! The service: brings the world up, whatever it takes, and runs the engine until it is told to stop.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::DONE;
use crate::config::{Env, Flags, Loaded, Settings, load_making_token};
use crate::core::Why;
use crate::edge::clock;
use crate::engine::real::metrics::Metrics;
use crate::engine::{self, real};
use crate::report::status::stuck;

/// How soon a start that was in the way is tried again.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) fn run(flags: &Flags) -> anyhow::Result<u8> {
    crate::report::log::begin();
    super::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            ended = serve(flags) => ended?,
            _ = terminate.recv() => tracing::info!("told to stop; k3s keeps running"),
            _ = interrupt.recv() => tracing::info!("interrupted; k3s keeps running"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        Ok(DONE)
    })
}

async fn serve(flags: &Flags) -> anyhow::Result<()> {
    super::boot::fetched(flags).await;
    let loaded = configured(flags).await;
    let settings = loaded.settings;
    tracing::info!(cluster = %settings.cluster, servers = settings.servers, token = %loaded.token_source, "configuration read");
    let metrics = Metrics::begin(settings.metrics_listen);
    let mut shown = None;
    let mut world = loop {
        match real::begin(&settings).await {
            Ok(world) => break world,
            Err(failure) => {
                let unwritable = failure.why.rule == "ledger-unwritable";
                park(
                    &settings.run_dir,
                    &settings.cluster,
                    settings.node_name.as_deref(),
                    &[failure.why],
                    &metrics,
                    &mut shown,
                );
                tokio::time::sleep(AGAIN).await;
                if unwritable {
                    // A service manager's sandbox may show a disk as read-only after it was mended: only a new start sees it.
                    anyhow::bail!("the ledger cannot be written; a new start looks again");
                }
            }
        }
    };
    world.show_in(metrics);
    tracing::info!(address = %world.gossip_address(), "gossip listens");
    engine::run(&mut world, &settings).await;
    Ok(())
}

/// Reads the configuration until it holds: a half-written file is one clear line and another look, never an end.
async fn configured(flags: &Flags) -> Loaded {
    let env = Env::of_process();
    let mut shown = None;
    loop {
        match load_making_token(Path::new("/"), &env, flags, clock::random) {
            Ok(loaded) => return loaded,
            Err(errors) => {
                let run_dir =
                    flags.run_dir.as_ref().map_or_else(|| PathBuf::from("/run/muster"), PathBuf::from);
                let (cluster, why) = (flags.cluster.as_deref().unwrap_or(""), [errors.why()]);
                loop {
                    // Said again each time: an old word would be taken for that of an agent that hangs.
                    park(
                        &run_dir,
                        cluster,
                        flags.node_name.as_deref(),
                        &why,
                        &Metrics::begin(None),
                        &mut shown,
                    );
                    tokio::time::sleep(AGAIN).await;
                    if !errors.fingerprint.holds() {
                        break;
                    }
                }
            }
        }
    }
}

/// Shows a node that cannot even tick: status file, log, systemd.
pub(super) fn park(
    run_dir: &Path,
    cluster: &str,
    name: Option<&str>,
    why: &[Why],
    metrics: &Metrics,
    shown: &mut Option<Vec<Why>>,
) {
    if shown.as_deref() != Some(why) {
        for why in why {
            tracing::error!(rule = %why.rule, next = %why.next, "{}", why.detail);
        }
        *shown = Some(why.to_vec());
    }
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut status = stuck(cluster, name.unwrap_or(&host), why.to_vec(), clock::wall_seconds());
    status.notes.extend(metrics.why());
    metrics.show(&status);
    real::tell::write_status(&real::tell::status_path(run_dir), &status);
    ready_and_alive();
    if let Some(first) = why.first() {
        let line = format!("parked: {}", first.detail);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&line)]);
    }
}

/// A parked agent is a started one: systemd must neither wait for it nor kill it.
pub(super) fn ready_and_alive() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Watchdog]);
}

/// Used by `up`: where the status of these settings stands.
pub(super) fn status_file(settings: &Settings) -> PathBuf {
    real::tell::status_path(&settings.run_dir)
}
