//! `muster gate`: asked by k3s's unit before every start. Local facts only, and quick.

use super::{DONE, FAILED, GateRole, settings};
use crate::config::Flags;
use crate::core::Known;
use crate::gossip::Role;
use crate::k3s::gate::{GateLedger, may_start};
use crate::k3s::{K3sRole, Paths, probe};
use crate::ledger::{self, Data, Record};

pub(super) fn gate(flags: &Flags, role: GateRole) -> anyhow::Result<u8> {
    let settings = settings(flags)?.settings;
    let paths = Paths::new(&settings.k3s.data_dir);
    let ledger = match ledger::peek(&settings.state_dir) {
        Ok(Some(record)) => Known::Yes(word(&record)),
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

/// What the ledger says about a start.
fn word(record: &Record) -> GateLedger {
    let role = match &record.data {
        Data::Provisional { .. } => Some(K3sRole::Server),
        Data::Joining { role, .. } | Data::Member { role, .. } => match role {
            Role::Server => Some(K3sRole::Server),
            Role::Agent => Some(K3sRole::Agent),
            Role::Undecided => None,
        },
        Data::None | Data::Discarding { .. } => None,
    };
    GateLedger {
        certificate: record.certificate.as_ref().map(|certificate| certificate.ca_hash.clone()),
        provisional_armed: matches!(record.data, Data::Provisional { .. }),
        member: matches!(record.data, Data::Member { .. }),
        annulled: record.certificate.is_none() && record.annulment.is_some(),
        role,
    }
}
