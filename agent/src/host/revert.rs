//! Taking back exactly what was done: the journal, backwards. What somebody else changed since is named and left alone.

use crate::host::apply::reload_owed;
use crate::host::ledgered::Ledgered;
use crate::host::standing::{Standing, standing};
use crate::host::{Change, Entry, HostError, Level, Machine, Outcome, Record, StepReport, row};

/// Undoes every change in the journal, the latest first; the journal goes when nothing is left in it.
///
/// # Errors
/// When the journal cannot be read, trusted or written. A change that cannot be undone is no error: it stays in the journal
/// and is reported.
pub async fn revert<M: Machine>(machine: &mut M) -> Result<Vec<StepReport>, HostError> {
    if machine.journal().is_absent() {
        return Ok(Vec::new());
    }
    machine.lock()?;
    let reports = locked(machine).await;
    machine.unlock();
    reports
}

async fn locked<M: Machine>(machine: &mut M) -> Result<Vec<StepReport>, HostError> {
    let mut journal = Ledgered::load(machine)?;
    let entries: Vec<Entry> = journal.journal.entries().rev().cloned().collect();
    let mut reports = Vec::new();
    for entry in entries {
        let outcome = take_back(machine, &entry.change).await;
        if matches!(outcome, Outcome::Done | Outcome::AlreadySo) {
            journal.write(machine, Record::Undone { n: entry.n })?;
        }
        reports.push(StepReport {
            level: row(&entry.row).map_or(Level::Wished, |row| row.level),
            what: format!("restore {}", entry.change),
            row: entry.row,
            outcome,
        });
    }
    reports.extend(reload_owed(machine, &mut journal).await?);
    if journal.journal.entries().next().is_none() && journal.journal.owed().is_empty() {
        machine.journal_replace(None)?;
    }
    Ok(reports)
}

async fn take_back<M: Machine>(machine: &mut M, change: &Change) -> Outcome {
    // Of an apply that died, or of a revert before this one.
    if let Change::File { path, .. } = change
        && let Err(error) = machine.sweep(path)
    {
        return Outcome::Failed(error.chain());
    }
    match standing(machine.tree(), change) {
        Standing::Before => Outcome::AlreadySo,
        Standing::Foreign => Outcome::ChangedByOthers(format!(
            "{change} changed since muster changed it; it was not touched, and its old state stays in the journal"
        )),
        Standing::Unknown(cause) => Outcome::Failed(cause),
        Standing::After => match undo(machine, change).await {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.chain()),
        },
    }
}

async fn undo<M: Machine>(machine: &mut M, change: &Change) -> Result<(), HostError> {
    match change {
        Change::File { path, before, .. } => machine.put(path, before.as_ref()),
        Change::Directory { path } => machine.remove_directory(path),
        Change::Swap { path, priority } => machine.swap_on(path, *priority).await,
        Change::Module { name } => machine.unload_module(name).await,
        Change::Package { package, manager } => machine.uninstall(*manager, package.name(*manager)).await,
        Change::Ufw { rule } => machine.ufw(false, rule).await,
        Change::Sysctl { key, before, .. } => machine.set_sysctl(key, before),
    }
}
