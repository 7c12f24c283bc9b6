//! Doing a plan: look again, write the intent, change, write the end. Interrupted anywhere, the next pass goes on.

use std::time::Duration;

use serde::Serialize;

use crate::core::Known;
use crate::edge::clock;
use crate::host::facts::kernel;
use crate::host::ledgered::Ledgered;
use crate::host::probe::{effect_seen, probe_again};
use crate::host::standing::{Standing, standing};
use crate::host::{
    Change, HostAct, HostError, HostPlan, HostStep, HostWanted, Kind, Level, Machine, ROWS, Record, Reload,
    Tree, plan, probe_as, row,
};

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "cause")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was so already.
    AlreadySo,
    /// Somebody else changed the thing since it was looked at: it was not touched.
    ChangedByOthers(String),
    /// It failed; what stood there before stands there now.
    Failed(String),
}

/// One step, reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// The row it serves.
    pub row: String,
    /// Needed or wished: a wished step that failed stops nothing.
    pub level: Level,
    /// What it was about.
    pub what: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl StepReport {
    /// Whether it was done or was so already.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Done | Outcome::AlreadySo)
    }
}

/// The host after [`prepare`]: the last plan, whose steps are those that failed, and everything that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// Judged after the last change.
    pub plan: HostPlan,
    /// Every step of every round.
    pub reports: Vec<StepReport>,
}

/// Rounds of looking and changing: a module brings its sysctls, a reload brings generated units; more would be a quarrel
/// with something that changes the host back.
const ROUNDS: usize = 4;

/// How long a look at the ports holds for the looks that follow it.
const MOMENT: Duration = Duration::from_secs(1);

/// Looks, plans and applies until nothing is left to do, or nothing more succeeds.
///
/// # Errors
/// As [`apply`].
pub async fn prepare<M: Machine>(machine: &mut M, wanted: &HostWanted) -> Result<Prepared, HostError> {
    let mut reports = Vec::new();
    let (mut looked, mut facts) = (clock::since_boot(), probe_as(machine.tree(), machine.scope()));
    for _ in 0..ROUNDS {
        let judged = plan(&facts, wanted);
        let round = apply(machine, &judged).await?;
        let changed = round.iter().any(|report| report.outcome == Outcome::Done);
        reports.extend(round);
        if !changed {
            return Ok(Prepared { plan: judged, reports });
        }
        // Most changes take milliseconds; turning swap off may take minutes.
        let now = clock::since_boot();
        facts = if now.saturating_sub(looked) < MOMENT {
            probe_again(machine.tree(), machine.scope(), &facts)
        } else {
            looked = now;
            probe_as(machine.tree(), machine.scope())
        };
    }
    Ok(Prepared { plan: plan(&facts, wanted), reports })
}

/// Does the steps of a plan in order. What an earlier run left half done is settled first. With nothing to do it reads the
/// journal and writes nothing.
///
/// # Errors
/// When the journal cannot be read, trusted or written: then no further change is made. A step that fails is no error.
pub async fn apply<M: Machine>(machine: &mut M, plan: &HostPlan) -> Result<Vec<StepReport>, HostError> {
    let journal = Ledgered::load(machine)?;
    if plan.steps.is_empty() && !journal.journal.is_unsettled() {
        return Ok(Vec::new());
    }
    machine.lock()?;
    let reports = locked(machine, plan).await;
    machine.unlock();
    reports
}

async fn locked<M: Machine>(machine: &mut M, plan: &HostPlan) -> Result<Vec<StepReport>, HostError> {
    // Read again: another process may have been at it before the lock was ours.
    let mut journal = Ledgered::load(machine)?;
    journal.settle(machine)?;
    let mut reports = Vec::new();
    let mut steps = plan.steps.as_slice();
    while let Some(step) = steps.first() {
        // Sysctls take microseconds each, and a sync takes milliseconds: they share one.
        let together = steps.iter().take_while(|step| matches!(step.act, HostAct::SetSysctl { .. })).count();
        if together > 1 {
            let (now, later) = steps.split_at(together);
            reports.extend(several(machine, &mut journal, now).await?);
            steps = later;
            continue;
        }
        let outcome = match &step.act {
            HostAct::ReloadUnits => reload(machine, &mut journal, Reload::Units).await?,
            act => perform(machine, &mut journal, step.row, act).await?,
        };
        reports.push(report(step, outcome));
        steps = &steps[1..];
    }
    reports.extend(reload_owed(machine, &mut journal).await?);
    Ok(reports)
}

fn report(step: &HostStep, outcome: Outcome) -> StepReport {
    StepReport { row: step.row.into(), level: step.level, what: step.act.to_string(), outcome }
}

/// Reloads that are still owed, reported when they fail.
pub(super) async fn reload_owed<M: Machine>(
    machine: &mut M,
    journal: &mut Ledgered,
) -> Result<Vec<StepReport>, HostError> {
    let mut reports = Vec::new();
    for what in journal.journal.owed().clone() {
        let outcome = reload(machine, journal, what).await?;
        let name = match what {
            Reload::Units => "swap",
            Reload::NetworkManager => "network-manager",
            Reload::Firewalld => "firewall",
        };
        let level = row(name).map_or(Level::Wished, |row| row.level);
        reports.push(StepReport {
            row: name.into(),
            level,
            what: format!("let {what} read its files again"),
            outcome,
        });
    }
    Ok(reports)
}

async fn reload<M: Machine>(
    machine: &mut M,
    journal: &mut Ledgered,
    what: Reload,
) -> Result<Outcome, HostError> {
    if !journal.journal.owed().contains(&what) {
        return Ok(Outcome::AlreadySo);
    }
    match machine.reload(what).await {
        Ok(()) => {
            journal.write(machine, Record::Reloaded { what })?;
            Ok(Outcome::Done)
        }
        Err(error) => Ok(Outcome::Failed(error.chain())),
    }
}

async fn perform<M: Machine>(
    machine: &mut M,
    journal: &mut Ledgered,
    row: &str,
    act: &HostAct,
) -> Result<Outcome, HostError> {
    let Some(change) = Change::of(act) else { return Ok(Outcome::AlreadySo) };
    match standing(machine.tree(), &change) {
        Standing::Before => {}
        other => return Ok(unchanged(Some(other), Some(&change))),
    }
    if let Change::File { path, after: Some(_), .. } = &change {
        for directory in missing_parents(machine.tree(), path) {
            let made = one(machine, journal, row, Change::Directory { path: directory }).await?;
            if let Outcome::Failed(_) = made {
                return Ok(made);
            }
        }
    }
    one(machine, journal, row, change).await
}

/// Several changes, whose intents are written before the first of them. A crash in between leaves intents of changes that were
/// not made, which the next pass takes back by what it sees.
async fn several<M: Machine>(
    machine: &mut M,
    journal: &mut Ledgered,
    steps: &[HostStep],
) -> Result<Vec<StepReport>, HostError> {
    let mut judged = Vec::new();
    let mut intents = Vec::new();
    let mut n = journal.journal.next();
    for step in steps {
        let change = Change::of(&step.act);
        match (change.as_ref().map(|change| standing(machine.tree(), change)), change) {
            (Some(Standing::Before), Some(change)) => {
                intents.push(Record::Intent { n, row: step.row.to_owned(), change: change.clone() });
                judged.push((step, Ok((n, change))));
                n += 1;
            }
            (standing, change) => judged.push((step, Err(unchanged(standing, change.as_ref())))),
        }
    }
    if !intents.is_empty() {
        journal.write_all(machine, intents, true)?;
    }
    let mut reports = Vec::new();
    for (step, judged) in judged {
        let outcome = match judged {
            Ok((n, change)) => made(machine, journal, n, change).await?,
            Err(outcome) => outcome,
        };
        reports.push(report(step, outcome));
    }
    Ok(reports)
}

/// The outcome of a change that is not made because of how its thing stands.
fn unchanged(standing: Option<Standing>, change: Option<&Change>) -> Outcome {
    match (standing, change) {
        (Some(Standing::Foreign), Some(change)) => {
            Outcome::ChangedByOthers(format!("{change} changed since it was looked at"))
        }
        (Some(Standing::Unknown(cause)), _) => Outcome::Failed(cause),
        _ => Outcome::AlreadySo,
    }
}

/// One change between its two records.
async fn one<M: Machine>(
    machine: &mut M,
    journal: &mut Ledgered,
    row: &str,
    change: Change,
) -> Result<Outcome, HostError> {
    let n = journal.journal.next();
    journal.write(machine, Record::Intent { n, row: row.to_owned(), change: change.clone() })?;
    made(machine, journal, n, change).await
}

/// A change whose intent is written.
async fn made<M: Machine>(
    machine: &mut M,
    journal: &mut Ledgered,
    n: u64,
    change: Change,
) -> Result<Outcome, HostError> {
    let result = make(machine, &change).await;
    // The effect is the judge, not the exit code: modprobe fails where a feature is built in, and a rename may stand
    // although its directory could not be synced.
    match (standing(machine.tree(), &change), result) {
        (Standing::After, _) => {
            journal.write(machine, Record::Done { n })?;
            Ok(Outcome::Done)
        }
        (Standing::Before, _) if effect_of(machine.tree(), &change) => {
            // A built-in part of the kernel: it was woken, and there is nothing to take out again.
            journal.write(machine, Record::Undone { n })?;
            Ok(Outcome::Done)
        }
        (Standing::Before, Err(error)) => {
            journal.write(machine, Record::Undone { n })?;
            let cause = error.chain();
            let meaning = match change {
                Change::Module { .. } => kernel::refusal(&cause),
                _ => None,
            };
            Ok(Outcome::Failed(
                meaning.map_or_else(|| cause.clone(), |meaning| format!("{cause}; {meaning}")),
            ))
        }
        (Standing::Before, Ok(())) => {
            journal.write(machine, Record::Undone { n })?;
            Ok(Outcome::Failed(format!("{change}: the change was accepted and had no effect")))
        }
        (Standing::Foreign, result) => {
            // Ours or not, the old state is in the journal.
            journal.write(machine, Record::Done { n })?;
            let cause =
                result.err().map_or_else(|| "it came out different".to_owned(), |error| error.chain());
            Ok(Outcome::ChangedByOthers(format!("{change}: {cause}")))
        }
        (Standing::Unknown(cause), result) => {
            Ok(Outcome::Failed(result.err().map_or(cause, |error| error.chain())))
        }
    }
}

/// Whether a module's effect is there although no module of that name is.
fn effect_of(tree: &Tree, change: &Change) -> bool {
    let Change::Module { name } = change else { return false };
    let effect = ROWS.iter().find_map(|row| match row.kind {
        Kind::Module(module, effect) if module == name => Some(effect),
        _ => None,
    });
    let file_systems = tree.text("/proc/filesystems").map(|text| kernel::parse_filesystems(&text));
    effect.is_some_and(|effect| effect_seen(tree, effect, &file_systems) == Known::Yes(()))
}

async fn make<M: Machine>(machine: &mut M, change: &Change) -> Result<(), HostError> {
    match change {
        Change::File { path, after, .. } => machine.put(path, after.as_ref()),
        Change::Directory { path } => machine.make_directory(path),
        Change::Swap { path, .. } => machine.swap_off(path).await,
        Change::Module { name } => machine.load_module(name).await,
        Change::Package { package, manager } => machine.install(*manager, package.name(*manager)).await,
        Change::Ufw { rule } => machine.ufw(true, rule).await,
        Change::Sysctl { key, after, .. } => machine.set_sysctl(key, after),
    }
}

/// Directories on the way to a path that are not there, outermost first.
fn missing_parents(tree: &Tree, path: &str) -> Vec<String> {
    let mut missing: Vec<String> = std::path::Path::new(path)
        .ancestors()
        .skip(1)
        .map(|parent| parent.to_string_lossy().into_owned())
        .take_while(|parent| tree.there(parent).is_absent())
        .collect();
    missing.reverse();
    missing
}
