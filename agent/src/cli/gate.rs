//! `muster gate`: asked by k3s's unit before every start. Local facts only, and quick.

use std::path::PathBuf;

use super::args::GateRole;
use super::{DONE, FAILED, settings};
use crate::config::Flags;
use crate::core::Known;
use crate::engine::real::look::gate_word;
use crate::k3s::gate::may_start;
use crate::k3s::{K3sRole, Paths, probe};
use crate::ledger;

pub(super) fn gate(flags: &Flags, role: GateRole, data_dir: Option<PathBuf>) -> anyhow::Result<u8> {
    // The unit names both directories: an existing member must start though the configuration be half-written.
    let (state_dir, data_dir) = match (&flags.state_dir, data_dir) {
        (Some(state_dir), Some(data_dir)) => (PathBuf::from(state_dir), data_dir),
        _ => {
            let settings = settings(flags)?.settings;
            (settings.state_dir, settings.k3s.data_dir)
        }
    };
    let paths = Paths::new(&data_dir, &state_dir);
    let ledger = match ledger::peek(&state_dir) {
        Ok(Some(record)) => Known::Yes(gate_word(&record)),
        Ok(None) => Known::Absent,
        Err(error) => Known::unknown("the ledger", error.to_string()),
    };
    let facts = probe::gate_facts(&paths, ledger);
    let role = match role {
        GateRole::Server => K3sRole::Server,
        GateRole::Agent => K3sRole::Agent,
    };
    match may_start(role, &facts, &paths) {
        Ok(()) => Ok(DONE),
        Err(why) => {
            eprintln!("muster gate: {}: {}; {}", why.rule, why.detail, why.next);
            Ok(FAILED)
        }
    }
}
