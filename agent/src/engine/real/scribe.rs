//! Keeps the decision log of a running agent. A disk that is full or read-only never stops the agent: it is said once, stands in
//! the status, and a line tells of the gap when the log can be written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::chain;
use crate::core::Why;
use crate::decide::Act;
use crate::engine::Report;
use crate::report::StatusDecisions;
use crate::report::decisions::derive::Told;
use crate::report::decisions::{Decision, DecisionError, DecisionLog, Kind, files};

/// The rule under which a log that cannot be written stands in the status.
const UNWRITABLE_RULE: &str = "decision-log-unwritable";

pub(super) struct Scribe {
    directory: PathBuf,
    log: Option<DecisionLog>,
    told: Told,
    failing: Option<String>,
    /// Decisions that were not written since the last one that was.
    missed: u64,
    lost: u64,
    by_kind: BTreeMap<Kind, u64>,
}

impl Scribe {
    /// Opens the log; one that cannot be opened is tried again with each decision.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.to_owned(),
            log: None,
            told: Told::default(),
            failing: None,
            missed: 0,
            lost: 0,
            by_kind: BTreeMap::new(),
        }
    }

    /// Writes a decision, synced if it is of a kind that must be. False when it is not surely written: whoever must not act
    /// without its trace decides by that.
    pub(super) fn note(&mut self, decision: &Decision) -> bool {
        *self.by_kind.entry(decision.kind).or_default() += 1;
        match self.try_note(decision) {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!("the decision log is written again");
                }
                true
            }
            Err(error) => {
                self.missed += 1;
                self.lost += 1;
                if self.failing.is_none() {
                    tracing::warn!(error = %chain(&error), "a decision was not written to the decision log; the agent goes on");
                }
                self.failing = Some(chain(&error));
                false
            }
        }
    }

    fn try_note(&mut self, decision: &Decision) -> Result<(), DecisionError> {
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(DecisionLog::open(&self.directory)?),
        };
        if self.missed > 0 {
            let detail = format!("{} decisions were not written, or not surely", self.missed);
            let mut gap = Decision::new(Kind::Verdict, "decision log", "log-gap", detail);
            gap.evidence.extend(self.failing.clone());
            log.append(&gap, false)?;
            self.missed = 0;
        }
        log.append(decision, decision.kind.is_synced())
    }

    /// Before a step: what cannot be taken back is on the disk first.
    pub(super) fn before(&mut self, act: &Act) {
        if let Some(decision) = self.told.before(act) {
            self.note(&decision);
        }
    }

    /// After a tick.
    pub(super) fn after(&mut self, now: Duration, node: &str, report: &Report) {
        for decision in self.told.after(now, node, report) {
            self.note(&decision);
        }
    }

    /// What the status says of the log.
    pub(super) fn status(&self) -> StatusDecisions {
        let head = self.log.as_ref().map(DecisionLog::head);
        StatusDecisions {
            last: head.map_or(0, |head| head.n),
            head: head.map_or_else(String::new, |head| head.hash.clone()),
            by_kind: self.by_kind.clone(),
            lost: self.lost,
        }
    }

    /// What is wrong with it.
    pub(super) fn why(&self) -> Option<Why> {
        let cause = self.failing.as_ref()?;
        let detail = format!("{} decisions were not written, or not surely: {cause}", self.lost);
        let next = format!(
            "make {} writable; tried again with the next one",
            self.directory.join(files::NEWER).display()
        );
        Some(Why::new(UNWRITABLE_RULE, detail, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_once_counted_and_leaves_a_gap_line() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(files::NEWER);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut scribe = Scribe::new(state.path());
        let line = |rule: &str| Decision::new(Kind::Remedy, "node1", rule, "x");
        assert!(!scribe.note(&line("one")));
        let said = scribe.why().expect("a reason").detail;
        assert!(said.contains("No space left"), "{said}");
        assert!(!scribe.note(&line("two")));
        let why = scribe.why().expect("a reason");
        assert_eq!(why.rule, "decision-log-unwritable");
        assert!(why.detail.starts_with("2 decisions were not written, "), "{}", why.detail);

        crate::edge::fs::remove(&path).unwrap();
        scribe.log = None;
        assert!(scribe.note(&line("three")) && scribe.why().is_none());
        let text = crate::edge::fs::read_text(&path).unwrap().unwrap();
        let rules: Vec<_> = ["log-gap", "three"].iter().map(|rule| text.contains(rule)).collect();
        assert_eq!((rules, text.lines().count()), (vec![true, true], 2), "{text}");
        let status = scribe.status();
        assert_eq!((status.last, status.lost, status.by_kind[&Kind::Remedy]), (2, 2, 3));
    }

    #[test]
    fn a_directory_that_cannot_be_written_stops_nothing() {
        let state = tempfile::tempdir().unwrap();
        let place = state.path().join("file");
        crate::edge::fs::append_synced(&place, b"x", 0o600).unwrap();
        let mut scribe = Scribe::new(&place.join("below"));
        assert!(!scribe.note(&Decision::new(Kind::Phase, "n", "serving", "x")));
        assert_eq!(
            scribe.status(),
            StatusDecisions { lost: 1, by_kind: [(Kind::Phase, 1)].into(), ..Default::default() }
        );
    }
}
