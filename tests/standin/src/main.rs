//! A stand-in for k3s, for tests only: k3s's command line, files, endpoints, log lines and exit codes over a real etcd.
//! It runs no container. It says that it is a stand-in in its version, its first log line and every Node object.

mod access;
mod agent;
mod api;
mod args;
mod auth;
mod balancer;
mod bootstrap;
mod clock;
mod controllers;
mod datastore;
mod document;
mod etcd;
mod flags;
mod http;
mod issue;
mod join;
mod keys;
mod kubectl;
mod kubelet;
mod leader;
mod logs;
mod material;
mod members;
mod network;
mod nodepassword;
mod paths;
mod pki;
mod prepare;
mod reset;
mod server;
mod settings;
mod shared;
mod snapshot;
mod store;
mod supervisor;
mod token;

use std::path::Path;

use crate::args::Parsed;

/// Tells systemd that the start is complete, if systemd asked.
pub fn notify_ready() {
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        logs::warn(format!("cannot notify the service manager: {e}"));
    }
}

fn print_version() {
    // k3s says the name under which it was called, be it the temporary name of a download.
    let called = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = called.as_deref().and_then(std::path::Path::file_name).unwrap_or("k3s".as_ref());
    let name = if name == "k3s-standin" { "k3s".into() } else { name.to_string_lossy() };
    logs::out(format_args!("{name} version {} (stand-in)", settings::version()));
    logs::out(format_args!("This is a stand-in for tests. It is not k3s and runs no containers."));
}

fn parse(command: &str, arguments: &[String]) -> Result<Parsed, String> {
    let parsed = args::parse(command, arguments, &|name| std::env::var(name).ok())?;
    logs::set_debug(parsed.is_set("debug"));
    for flag in &parsed.unknown {
        logs::warn(format!("Unknown flag {flag} found in config.yaml, skipping\n"));
    }
    Ok(parsed)
}

fn announce() {
    logs::warn(
        "This is a stand-in for k3s, made for tests: etcd is real, the rest is imitated, no container runs",
    );
}

async fn dispatch(name: &str, arguments: &[String]) -> Result<(), String> {
    match name {
        "kubectl" => {
            if let Err(e) = kubectl::run(arguments).await {
                eprintln!("{e}");
                std::process::exit(1);
            }
            return Ok(());
        }
        "crictl" | "ctr" => return Err(format!("{name}: the stand-in runs no containers")),
        _ => {}
    }
    let Some((command, rest)) = arguments.split_first() else {
        print_version();
        return Ok(());
    };
    match command.as_str() {
        "--version" | "-v" => print_version(),
        "server" => {
            announce();
            let parsed = parse("server", rest)?;
            let settings = settings::server(&parsed)?;
            return server::run(settings).await;
        }
        "agent" => {
            announce();
            let parsed = parse("agent", rest)?;
            let settings = settings::agent(&parsed)?;
            return run_agent(settings).await;
        }
        "etcd-snapshot" => {
            let Some((verb, rest)) = rest.split_first() else {
                logs::out(format_args!("usage: k3s etcd-snapshot save|ls|delete|prune"));
                return Ok(());
            };
            let parsed = parse("etcd-snapshot", rest)?;
            let settings = settings::server(&parsed)?;
            return snapshot::command(verb, &parsed, &settings).await;
        }
        "kubectl" => return Box::pin(dispatch("kubectl", rest)).await,
        "crictl" | "ctr" => return Box::pin(dispatch(command, rest)).await,
        other => return Err(format!("No help topic for '{other}'")),
    }
    Ok(())
}

async fn run_agent(settings: settings::Agent) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let broken = |e: std::io::Error| format!("cannot handle signals: {e}");
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    tokio::select! {
        result = agent::run(settings) => match result {
            // The watchdog's end is a controlled one: exit status 0, as in k3s.
            Err(e) if e.starts_with("failed to wait for API server") => {
                logs::error(format!("Shutdown request received: {}", logs::go_quote(&e)));
                Ok(())
            }
            other => other,
        },
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

fn main() {
    // Fails only when a provider is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments: Vec<String> = std::env::args().collect();
    let called = arguments.remove(0);
    let name = Path::new(&called).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => logs::fatal(format!("Error: {e}")),
    };
    if let Err(e) = runtime.block_on(dispatch(&name, &arguments)) {
        logs::fatal(format!("Error: {e}"));
    }
    // Tasks that still wait for a peer must not delay the end.
    runtime.shutdown_background();
}
