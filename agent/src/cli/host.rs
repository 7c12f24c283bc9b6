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
    let (mut wanted, data_dir, state_dir, address) = match load(root, &Env::of_process(), flags) {
        Ok(loaded) => {
            let settings = loaded.settings;
            let mut wanted = HostWanted::of(&settings, k3s_runs(&settings.state_dir), true);
            wanted.counts = Some((settings.servers, settings.founders));
            let address = node_address(&settings)
                .map_or_else(|error| format!("none: {error}"), |choice| choice.to_string());
            (wanted, settings.k3s.data_dir, settings.state_dir, address)
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
            (wanted, PathBuf::from("/var/lib/rancher/k3s"), state_dir, address)
        }
    };
    (wanted.shared, wanted.voters) = super::status::said_of_host(flags);
    let mut facts = host::probe(root);
    let ports: Vec<u16> = host::PEER_PORTS.into_iter().chain([6444]).collect();
    host::name_owners(&host::Tree::new(root), &mut facts, &ports);
    let mut examined = host::examine(&data_dir);
    let ways = ways(peers, &state_dir);
    if !peers.is_empty() || !ways.is_empty() {
        (examined.peers, examined.paths) =
            runtime()?.block_on(async { tokio::join!(host::knock(peers), host::paths(&ways)) });
    }
    facts.examined = Some(examined);
    let diagnosis = host::diagnose(&facts, &wanted, address);
    if json {
        print_json(&diagnosis)?;
    } else {
        print!("{}", host::render_diagnosis(&diagnosis));
    }
    Ok(code(diagnosis.fit, diagnosis.suffices()))
}

/// The doctor's exit code: what the machine may be, and whether that is what its configuration asks for.
fn code(fit: Fit, suffices: bool) -> u8 {
    match fit {
        _ if suffices => DONE,
        Fit::Server | Fit::Agent => AGENT_ONLY,
        Fit::Neither => NEITHER,
    }
}

/// Most peers of the ledger whose way is measured.
const REMEMBERED: usize = 8;

/// The peers whose way is measured: those that were given, else those that the agent remembers.
fn ways(peers: &[Peer], state_dir: &Path) -> Vec<String> {
    let mut ways: Vec<String> = peers.iter().map(|peer| peer.host.clone()).collect();
    if ways.is_empty()
        && let Ok(Some(record)) = ledger::peek(state_dir)
    {
        ways = record.peers.values().map(|peer| peer.address.ip().to_string()).take(REMEMBERED).collect();
    }
    ways.sort();
    ways.dedup();
    ways
}

/// The kernel's word on the clock, for the agent.
pub(super) fn clock() -> anyhow::Result<u8> {
    print_json(&crate::edge::clock::discipline()?)?;
    Ok(DONE)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// By the numbers that scripts know, not by the constants.
    #[test]
    fn the_doctors_exit_codes_are_those_of_the_page() {
        for (fit, suffices, number) in
            [(Fit::Server, true, 0), (Fit::Agent, true, 0), (Fit::Agent, false, 5), (Fit::Neither, false, 6)]
        {
            assert_eq!(code(fit, suffices), number, "{fit:?}, {suffices}");
        }
    }
}
