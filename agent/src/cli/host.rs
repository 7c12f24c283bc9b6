//! `muster plan`, `apply`, `revert`: the host alone, for a person at a machine and for image builds.

use std::path::{Path, PathBuf};

use super::{DONE, FAILED, print_json, runtime};
use crate::config::{Env, Flags, load};
use crate::host::{self, HostWanted, LocalMachine, StepReport};
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

/// What the configuration wants of the host. An image is prepared before it has a token or a configuration: then the
/// defaults count.
fn wanted(flags: &Flags, root: &Path) -> (HostWanted, PathBuf) {
    let state_dir = flags.state_dir.as_ref().map_or_else(|| PathBuf::from("/var/lib/muster"), PathBuf::from);
    match load(root, &Env::of_process(), flags) {
        Ok(loaded) => {
            let settings = loaded.settings;
            let runs = ledger::peek(&settings.state_dir)
                .ok()
                .flatten()
                .is_some_and(|record| record.data != Data::None);
            (HostWanted::of(&settings, runs, true), settings.state_dir)
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
