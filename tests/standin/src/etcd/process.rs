//! The etcd child: one member, with the settings k3s gives its embedded one, dying with this process.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use crate::logs;
use crate::paths::{self, Paths};

/// How this member starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The etcd program.
    pub program: String,
    /// Member name.
    pub name: String,
    /// Address of peers and clients.
    pub address: String,
    /// `name=url,…`; empty for an existing member.
    pub initial_cluster: String,
    /// `new` or `existing`.
    pub initial_state: &'static str,
    /// Cluster reset: one member, loopback only.
    pub reset: bool,
    /// `--etcd-expose-metrics`.
    pub expose_metrics: bool,
}

/// Why the child is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Still running.
    Running,
    /// This member was removed from its cluster.
    Removed,
    /// Asked to stop.
    Stopped,
    /// Anything else.
    Failed,
}

/// The running child.
pub struct Member {
    pid: Pid,
    stopping: Arc<AtomicBool>,
    exit: watch::Receiver<Exit>,
    last_error: Arc<Mutex<String>>,
}

/// For how long an etcd that starts has not set up its listeners yet.
const STARTING: Duration = Duration::from_secs(2);
/// Words with which etcd says that it was removed.
const REMOVED: [&str; 2] =
    ["the member has been permanently removed", "this member has been permanently removed"];

fn config_text(plan: &Plan, paths: &Paths) -> String {
    let host = if plan.address.contains(':') { format!("[{}]", plan.address) } else { plan.address.clone() };
    let loopback = "127.0.0.1";
    let urls = |scheme: &str, port: u16, own: bool| {
        let mut text = format!("{scheme}://{loopback}:{port}");
        if own && !plan.reset {
            text.push_str(&format!(",{scheme}://{host}:{port}"));
        }
        text
    };
    let file = |name: &str| paths.tls(name).to_string_lossy().into_owned();
    let advertised_client = if plan.reset { loopback } else { &host };
    let mut config = json!({
        "name": plan.name,
        "data-dir": paths.etcd(),
        "listen-client-urls": urls("https", 2379, true),
        "advertise-client-urls": format!("https://{advertised_client}:2379"),
        "listen-peer-urls": urls("https", 2380, true),
        "listen-metrics-urls": urls("http", 2381, plan.expose_metrics),
        "initial-advertise-peer-urls": format!("https://{host}:2380"),
        "force-new-cluster": plan.reset,
        // Off by default when the settings come from a file.
        "enable-grpc-gateway": true,
        "heartbeat-interval": 500,
        "election-timeout": 5000,
        "snapshot-count": 10000,
        "experimental-initial-corrupt-check": true,
        "logger": "zap",
        "log-outputs": ["stderr"],
        "client-transport-security": {
            "client-cert-auth": true,
            "cert-file": file("etcd/server-client.crt"),
            "key-file": file("etcd/server-client.key"),
            "trusted-ca-file": file("etcd/server-ca.crt"),
        },
        "peer-transport-security": {
            "client-cert-auth": true,
            "cert-file": file("etcd/peer-server-client.crt"),
            "key-file": file("etcd/peer-server-client.key"),
            "trusted-ca-file": file("etcd/peer-ca.crt"),
        },
    });
    if !plan.initial_cluster.is_empty() {
        config["initial-cluster"] = json!(plan.initial_cluster);
        config["initial-cluster-state"] = json!(plan.initial_state);
    }
    format!("{config:#}\n")
}

impl Member {
    /// Writes etcd's configuration beside its data and starts it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(plan: &Plan, paths: &Paths) -> Result<Self, String> {
        let config: PathBuf = paths.etcd().join("config");
        paths::write_secret(&config, &config_text(plan, paths))?;
        let mut command = Command::new(&plan.program);
        command
            .arg("--config-file")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // etcd speaks sd_notify itself: READY is this program's to say.
        command.env_remove("NOTIFY_SOCKET");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        die_with_parent(&mut command);
        let mut child = command.spawn().map_err(|e| format!("failed to start {}: {e}", plan.program))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or("etcd ended at once")?;
        let stderr = child.stderr.take().ok_or("etcd has no standard error")?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (sender, exit) = watch::channel(Exit::Running);
        let asked = Arc::clone(&stopping);
        let tombstone = paths.tombstone();
        let born = std::time::Instant::now();
        let last_error = Arc::new(Mutex::new(String::new()));
        let errors = Arc::clone(&last_error);
        tokio::spawn(async move {
            let mut removed = false;
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                removed |= REMOVED.iter().any(|words| line.contains(words));
                if let (Some(error), Ok(mut last)) = (fatal_error(&line), errors.lock()) {
                    *last = error;
                }
                logs::raw(&line);
            }
            let status = child.wait().await;
            let reason = if removed && born.elapsed() < STARTING {
                // As k3s does at times, whose select then takes the other error: no tombstone, and it waits for ever.
                logs::error("etcd exited: server is stopping");
                Exit::Removed
            } else if removed {
                write_tombstone(&tombstone);
                Exit::Removed
            } else if asked.load(Ordering::Relaxed) {
                logs::info("etcd server stopped");
                Exit::Stopped
            } else {
                let text = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                logs::error(format!("etcd exited: {text}"));
                Exit::Failed
            };
            sender.send_replace(reason);
        });
        Ok(Self { pid: Pid::from_raw(pid), stopping, exit, last_error })
    }

    /// The last error etcd called fatal, or what is known instead.
    pub fn last_error(&self) -> String {
        let text = self.last_error.lock().map(|t| t.clone()).unwrap_or_default();
        if text.is_empty() { "etcd ended".to_owned() } else { text }
    }

    /// Changes when the child ends.
    pub fn exit(&self) -> watch::Receiver<Exit> {
        self.exit.clone()
    }

    /// Asks the child to end and waits; after ten seconds it is killed.
    pub async fn stop(&self) {
        let mut exit = self.exit.clone();
        if *exit.borrow() != Exit::Running {
            return;
        }
        logs::info("Stopping etcd server...");
        self.stopping.store(true, Ordering::Relaxed);
        let _ = kill(self.pid, Signal::SIGTERM);
        let ended = exit.wait_for(|e| *e != Exit::Running);
        if tokio::time::timeout(Duration::from_secs(10), ended).await.is_err() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// The error of a zap line of level fatal or panic.
fn fatal_error(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let level = value["level"].as_str()?;
    if !matches!(level, "fatal" | "panic") {
        return None;
    }
    value["error"].as_str().or(value["msg"].as_str()).map(str::to_owned)
}

fn write_tombstone(path: &std::path::Path) {
    if let Err(e) = paths::write_secret(path, "") {
        logs::fatal(format!("Failed to write tombstone file to {}: {e}", path.display()));
    }
    logs::info("This node has been removed from the cluster - please restart k3s to rejoin the cluster");
}

#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
}
