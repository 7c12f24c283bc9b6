//! `muster plan`, `apply`, `revert`, `doctor`: the host alone, for a person at a machine and for image builds.

use std::path::{Path, PathBuf};

use super::{AGENT_ONLY, DONE, FAILED, NEITHER, print_json, runtime};
use crate::config::{ConfigError, Env, Flags, load};
use crate::engine::real::start::node_address;
use crate::host::{self, Fit, HostWanted, LocalMachine, Peer, StepReport};
use crate::ledger::{self, Data};

pub(super) fn plan(flags: &Flags, root: &Path, json: bool) -> anyhow::Result<u8> {
    let (wanted, _) = wanted(flags, root);
    let plan = host::plan(&host::probe(root), &wanted);
    if json {
        print_json(&plan)?;
    } else {
        print!("{}", host::render_table(&plan));
    }
    Ok(DONE)
}

pub(super) fn apply(flags: &Flags, root: &Path, json: bool) -> anyhow::Result<u8> {
    let (wanted, state_dir) = wanted(flags, root);
    let mut machine = LocalMachine::at(root, &state_dir);
    let prepared = runtime()?.block_on(host::prepare(&mut machine, &wanted))?;
    if json {
        print_json(&prepared)?;
    } else {
        print!("{}", host::render_reports(&prepared.reports));
        print!("{}", host::render_table(&prepared.plan));
    }
    Ok(if prepared.plan.may_run() { DONE } else { FAILED })
}

pub(super) fn revert(flags: &Flags, root: &Path, json: bool) -> anyhow::Result<u8> {
    let (_, state_dir) = wanted(flags, root);
    let mut machine = LocalMachine::at(root, &state_dir);
    let reports = runtime()?.block_on(host::revert(&mut machine))?;
    if json {
        print_json(&reports)?;
    } else {
        print!("{}", host::render_reports(&reports));
    }
    Ok(if reports.iter().all(StepReport::succeeded) { DONE } else { FAILED })
}

pub(super) fn doctor(flags: &Flags, peers: &[Peer], json: bool) -> anyhow::Result<u8> {
    let root = Path::new("/");
    let (wanted, data_dir, address) = match load(root, &Env::of_process(), flags) {
        Ok(loaded) => {
            let settings = loaded.settings;
            let mut wanted = HostWanted::of(&settings, k3s_runs(&settings.state_dir), true);
            wanted.counts = Some((settings.servers, settings.founders));
            let address = node_address(&settings)
                .map_or_else(|error| format!("none: {error}"), |choice| choice.to_string());
            (wanted, settings.k3s.data_dir, address)
        }
        Err(errors) => {
            let token = |error: &ConfigError| {
                matches!(error, ConfigError::NoToken { .. } | ConfigError::TokenAbsent { .. })
            };
            let misconfigured = Some((errors.to_string(), errors.problems.iter().all(token)));
            let state_dir = super::state_dir(flags);
            let wanted =
                HostWanted { misconfigured, k3s_runs: k3s_runs(&state_dir), ..HostWanted::default() };
            let address = "not chosen: the configuration does not hold".to_owned();
            (wanted, PathBuf::from("/var/lib/rancher/k3s"), address)
        }
    };
    let mut facts = host::probe(root);
    let ports: Vec<u16> = host::PEER_PORTS.into_iter().chain([6444]).collect();
    host::name_owners(&host::Tree::new(root), &mut facts, &ports);
    let mut examined = host::examine(&data_dir);
    if !peers.is_empty() {
        examined.peers = runtime()?.block_on(host::knock(peers));
    }
    facts.examined = Some(examined);
    let diagnosis = host::diagnose(&facts, &wanted, address);
    if json {
        print_json(&diagnosis)?;
    } else {
        print!("{}", host::render_diagnosis(&diagnosis));
    }
    Ok(match diagnosis.fit {
        _ if diagnosis.suffices() => DONE,
        Fit::Server | Fit::Agent => AGENT_ONLY,
        Fit::Neither => NEITHER,
    })
}

/// Whether the k3s that may be running here is ours, by the ledger.
fn k3s_runs(state_dir: &Path) -> bool {
    ledger::peek(state_dir).ok().flatten().is_some_and(|record| record.data != Data::None)
}

/// What the configuration wants of the host. An image is prepared before it has a token or a configuration: then the
/// defaults count.
fn wanted(flags: &Flags, root: &Path) -> (HostWanted, PathBuf) {
    let state_dir = flags.state_dir.as_ref().map_or_else(|| PathBuf::from("/var/lib/muster"), PathBuf::from);
    match load(root, &Env::of_process(), flags) {
        Ok(loaded) => {
            let settings = loaded.settings;
            (HostWanted::of(&settings, k3s_runs(&settings.state_dir), true), settings.state_dir)
        }
        Err(errors) => {
            if root == Path::new("/") {
                eprintln!(
                    "muster: the configuration is not complete, so the defaults are planned for: {errors}"
                );
            }
            (HostWanted::default(), state_dir)
        }
    }
}
