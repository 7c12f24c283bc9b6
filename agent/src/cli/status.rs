//! `muster status` and `muster why`: read what the agent last wrote.

use std::path::PathBuf;

use anyhow::Context;

use super::{DONE, PARKED, WAITING, print_json, settings};
use crate::config::Flags;
use crate::core::{Phase, Why};
use crate::edge::{clock, fs};
use crate::report::{Status, status_table, why_text};

/// A status older than this is said to be old: the agent writes every few seconds.
pub(super) const OLD: i64 = 30;

pub(super) fn status(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let status = read(flags)?;
    if json {
        print_json(&status)?;
    } else {
        warn_if_old(&status);
        print!("{}", status_table(&status));
    }
    Ok(DONE)
}

pub(super) fn why(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let status = read(flags)?;
    if json {
        print_json(&serde_json::json!({ "phase": status.phase, "why": status.why, "host": status.host }))?;
    } else {
        warn_if_old(&status);
        println!("{}: {}", status.node.name, status.phase);
        print!("{}", why_text(&status));
    }
    Ok(code(status.phase))
}

/// The exit code that says where a node stands.
pub(super) fn code(phase: Phase) -> u8 {
    match phase {
        Phase::Serving => DONE,
        Phase::Parked => PARKED,
        _ => WAITING,
    }
}

pub(super) fn read(flags: &Flags) -> anyhow::Result<Status> {
    let path = path(flags);
    let text = fs::read_text(&path)?.with_context(|| {
        format!("{} is not there: the agent has not run since boot; systemctl status muster", path.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a status of this version", path.display()))
}

/// The status file, also when the configuration cannot be read: then it is in the usual place, with the reason in it.
pub(super) fn path(flags: &Flags) -> PathBuf {
    let run_dir = flags.run_dir.clone().map(PathBuf::from);
    let run_dir = run_dir.or_else(|| settings(flags).ok().map(|loaded| loaded.settings.run_dir));
    crate::engine::real::tell::status_path(&run_dir.unwrap_or_else(|| PathBuf::from("/run/muster")))
}

/// What a running agent says of this machine beside what blocks it, and how many voters of etcd it knows; nothing when none runs.
pub(super) fn said_of_host(flags: &Flags) -> (Vec<Why>, Option<usize>) {
    let Ok(status) = read(flags) else { return (Vec::new(), None) };
    if clock::wall_seconds().saturating_sub(status.written_unix) > OLD {
        return (Vec::new(), None);
    }
    (status.host, Some(status.k3s.voters.len()).filter(|voters| *voters > 0))
}

pub(super) fn warn_if_old(status: &Status) {
    let age = clock::wall_seconds().saturating_sub(status.written_unix);
    if age > OLD {
        println!("this was written {age} s ago: the agent does not run, or hangs (systemctl status muster)");
    }
}
