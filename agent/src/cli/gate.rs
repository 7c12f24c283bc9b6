//! `muster gate`: asked by k3s's unit before every start. Local facts only, and quick.

use super::{DONE, FAILED, GateRole, settings};
use crate::config::Flags;
use crate::core::Known;
use crate::engine::real::look::gate_word;
use crate::k3s::gate::may_start;
use crate::k3s::{K3sRole, Paths, probe};
use crate::ledger;

pub(super) fn gate(flags: &Flags, role: GateRole) -> anyhow::Result<u8> {
    let settings = settings(flags)?.settings;
    let paths = Paths::new(&settings.k3s.data_dir);
    let ledger = match ledger::peek(&settings.state_dir) {
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
