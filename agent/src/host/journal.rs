//! The journal of changes: what was intended, from what to what, and what became of it. One JSON record a line.
//!
//! An intent is written and synced before its change is made; so whatever a crash leaves, the journal names every change
//! that may have happened. What really happened is asked of the host, not of the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::host::machine::Reload;
use crate::host::{FIREWALLD_FILES, FSTAB, FileFacts, HostAct, Kept, Manager, NETWORK_MANAGER_FILE, Package};

/// One change of the host, with everything needed to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// A file or link.
    File {
        /// Absolute path on the host.
        path: String,
        /// What stood there.
        before: Option<Kept>,
        /// What stands there now.
        after: Option<Kept>,
    },
    /// A directory that was made.
    Directory {
        /// Absolute path on the host.
        path: String,
    },
    /// Swap that was turned off.
    Swap {
        /// Path of the area.
        path: String,
        /// The priority it had; negative means that the kernel chose it.
        priority: i32,
    },
    /// A module that was loaded.
    Module {
        /// Its name.
        name: String,
    },
    /// A package that was installed.
    Package {
        /// What it is wanted for.
        package: Package,
        /// By which manager.
        manager: Manager,
    },
    /// A rule that was added to ufw.
    Ufw {
        /// As `ufw allow` takes it.
        rule: String,
    },
    /// A sysctl that was set.
    Sysctl {
        /// Its key, with dots.
        key: String,
        /// The value it had.
        before: String,
        /// The value it was given.
        after: String,
    },
}

impl Change {
    /// The change that an act makes; none for acts that leave nothing to undo.
    #[must_use]
    pub fn of(act: &HostAct) -> Option<Self> {
        Some(match act {
            HostAct::SwapOff { path, priority } => Change::Swap { path: path.clone(), priority: *priority },
            HostAct::PutFile { path, before, after, .. } => {
                Change::File { path: path.clone(), before: before.clone(), after: after.clone() }
            }
            HostAct::LoadModule { name } => Change::Module { name: (*name).to_owned() },
            HostAct::SetSysctl { key, before, after } => {
                Change::Sysctl { key: (*key).to_owned(), before: before.clone(), after: after.clone() }
            }
            HostAct::Install { package, manager } => Change::Package { package: *package, manager: *manager },
            HostAct::UfwAllow { rule } => Change::Ufw { rule: rule.clone() },
            HostAct::ReloadUnits => return None,
        })
    }

    /// Who must read its files again after this change.
    #[must_use]
    pub fn reload(&self) -> Option<Reload> {
        let Change::File { path, .. } = self else { return None };
        let units =
            path == FSTAB || path.starts_with(FileFacts::UNITS) || path.starts_with("/etc/systemd/zram");
        match path.as_str() {
            _ if units => Some(Reload::Units),
            NETWORK_MANAGER_FILE => Some(Reload::NetworkManager),
            path if FIREWALLD_FILES.contains(&path) => Some(Reload::Firewalld),
            _ => None,
        }
    }
}

/// For people: the thing that was changed.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::File { path, .. } | Change::Directory { path } => f.write_str(path),
            Change::Swap { path, .. } => write!(f, "swap on {path}"),
            Change::Module { name } => write!(f, "module {name}"),
            Change::Package { package, manager } => write!(f, "package {}", package.name(*manager)),
            Change::Ufw { rule } => write!(f, "ufw rule {rule}"),
            Change::Sysctl { key, .. } => write!(f, "sysctl {key}"),
        }
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase", deny_unknown_fields)]
pub enum Record {
    /// A change is about to be made.
    Intent {
        /// Number of the change, counted up within the journal.
        n: u64,
        /// The row it serves.
        row: String,
        /// The change.
        change: Change,
    },
    /// The change was made.
    Done {
        /// Number of the change.
        n: u64,
    },
    /// The change was undone, or was never made.
    Undone {
        /// Number of the change.
        n: u64,
    },
    /// Somebody was told to read its files again, all changes so far included.
    Reloaded {
        /// Who.
        what: Reload,
    },
    /// Somebody must still read its files again, and no change that stands says so: what an undone one owes.
    Owed {
        /// Who.
        what: Reload,
    },
}

/// Numbers from here on are none that Muster counted to: a journal that has one is not taken at its word, and counting on from
/// any other never ends.
const NUMBERS: u64 = 1 << 53;

/// A journal that cannot be taken at its word: nothing is changed on the strength of it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A line in the middle is no record. A torn *last* line is ordinary (a crash while writing it) and is no error.
    #[error(
        "line {line} of the host journal is damaged; move the journal away to give up undoing what is in it"
    )]
    Damaged {
        /// Which line.
        line: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A record about a change that was never intended.
    #[error("line {line} of the host journal speaks of change {n}, which is not in it")]
    Stray {
        /// Which line.
        line: usize,
        /// The number.
        n: u64,
    },
    /// A change with a number that is out of all proportion.
    #[error(
        "line {line} of the host journal numbers a change {n}, which Muster never counts to; move the journal away to give up undoing what is in it"
    )]
    Number {
        /// Which line.
        line: usize,
        /// The number.
        n: u64,
    },
}

/// A change that stands, as far as the journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub n: u64,
    /// The row it serves.
    pub row: String,
    /// The change.
    pub change: Change,
    /// Whether its end was written; without it, a crash came between.
    pub done: bool,
}

/// The journal in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    entries: BTreeMap<u64, Entry>,
    owed: BTreeSet<Reload>,
    last: u64,
    records: usize,
    torn: bool,
}

impl Journal {
    /// Reads the text of a journal.
    ///
    /// # Errors
    /// When a line other than a torn last one is damaged.
    pub fn parse(text: &str) -> Result<Self, JournalError> {
        let mut journal = Self::default();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let Some(whole) = line.strip_suffix('\n') else {
                // Never synced to its end, so what it announced was never done.
                journal.torn = true;
                break;
            };
            let record = serde_json::from_str(whole)
                .map_err(|source| JournalError::Damaged { line: index + 1, source })?;
            if let Record::Intent { n, .. } = record
                && n >= NUMBERS
            {
                return Err(JournalError::Number { line: index + 1, n });
            }
            journal.add(record).map_err(|n| JournalError::Stray { line: index + 1, n })?;
        }
        Ok(journal)
    }

    /// Takes a record in; the number of a change that is not known is an error.
    ///
    /// # Errors
    /// The number, when no intent had it.
    pub fn add(&mut self, record: Record) -> Result<(), u64> {
        self.records += 1;
        match record {
            Record::Intent { n, row, change } => {
                self.last = self.last.max(n);
                self.entries.insert(n, Entry { n, row, change, done: false });
            }
            Record::Done { n } => {
                let entry = self.entries.get_mut(&n).ok_or(n)?;
                entry.done = true;
                self.owed.extend(entry.change.reload());
            }
            Record::Undone { n } => {
                let entry = self.entries.remove(&n).ok_or(n)?;
                self.owed.extend(entry.change.reload());
            }
            Record::Reloaded { what } => {
                self.owed.remove(&what);
            }
            Record::Owed { what } => {
                self.owed.insert(what);
            }
        }
        Ok(())
    }

    /// Changes that stand or may stand, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.values()
    }

    /// Who still has to read files again.
    #[must_use]
    pub fn owed(&self) -> &BTreeSet<Reload> {
        &self.owed
    }

    /// The number of the next change.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// Whether a crash left something to look into: a change without its end, a reload that is owed, or a torn line.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.torn || !self.owed.is_empty() || self.entries.values().any(|entry| !entry.done)
    }

    /// Whether the text must be written anew before anything is added: its last line is torn, or it has grown far beyond
    /// what it holds (a change that fails again and again).
    #[must_use]
    pub fn wants_rewriting(&self) -> bool {
        self.torn || (self.owed.is_empty() && self.records > 64 + 4 * self.entries.len())
    }

    /// The shortest text that says the same. What is owed is repeated by way of its change where that stands.
    ///
    /// # Errors
    /// When a record cannot be written as JSON.
    pub fn rewritten(&mut self) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        let mut records = 0;
        for entry in self.entries.values() {
            let Entry { n, row, change, done } = entry.clone();
            text += &line(&Record::Intent { n, row, change })?;
            records += 1;
            if done {
                text += &line(&Record::Done { n })?;
                records += 1;
            }
        }
        // Written out, every done change owes its reload again; what is not owed is taken off.
        let again: BTreeSet<Reload> = self
            .entries
            .values()
            .filter(|entry| entry.done)
            .filter_map(|entry| entry.change.reload())
            .collect();
        for what in again.difference(&self.owed) {
            text += &line(&Record::Reloaded { what: *what })?;
            records += 1;
        }
        for what in self.owed.difference(&again) {
            text += &line(&Record::Owed { what: *what })?;
            records += 1;
        }
        self.torn = false;
        self.records = records;
        Ok(text)
    }
}

/// A record as a line.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn line(record: &Record) -> Result<String, serde_json::Error> {
    serde_json::to_string(record).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(n: u64) -> Record {
        let change = Change::Sysctl { key: "a.b".into(), before: "0".into(), after: "1".into() };
        Record::Intent { n, row: "sysctl.a.b".into(), change }
    }

    fn text(records: &[Record]) -> String {
        records.iter().map(|record| line(record).unwrap()).collect()
    }

    #[test]
    fn what_stands_is_what_was_intended_and_not_undone() {
        let journal = Journal::parse(&text(&[
            intent(1),
            Record::Done { n: 1 },
            intent(2),
            intent(3),
            Record::Undone { n: 3 },
        ]))
        .unwrap();
        let seen: Vec<_> = journal.entries().map(|entry| (entry.n, entry.done)).collect();
        assert_eq!(seen, [(1, true), (2, false)]);
        assert_eq!(journal.next(), 4);
        assert!(journal.is_unsettled());
    }

    #[test]
    fn a_torn_last_line_was_never_done_and_a_torn_middle_line_is_refused() {
        let whole = text(&[intent(1), Record::Done { n: 1 }]);
        let mut journal = Journal::parse(&(whole.clone() + "{\"record\":\"int")).unwrap();
        assert!(journal.wants_rewriting());
        assert_eq!(journal.rewritten().unwrap(), whole);
        assert!(!journal.wants_rewriting());
        let error = Journal::parse("{\"rec\n{\"record\":\"done\",\"n\":1}\n").unwrap_err();
        assert!(error.to_string().starts_with("line 1 of the host journal is damaged"), "{error}");
        assert!(matches!(
            Journal::parse("{\"record\":\"done\",\"n\":7}\n"),
            Err(JournalError::Stray { n: 7, .. })
        ));
    }

    #[test]
    fn a_reload_is_owed_from_the_change_until_it_was_done() {
        let change = Change::File { path: FSTAB.into(), before: None, after: Some(Kept::null_link()) };
        let mut records = vec![Record::Intent { n: 1, row: "swap".into(), change }, Record::Done { n: 1 }];
        let mut journal = Journal::parse(&text(&records)).unwrap();
        assert!(journal.owed().contains(&Reload::Units));
        assert_eq!(Journal::parse(&journal.rewritten().unwrap()).unwrap().owed(), journal.owed());
        records.push(Record::Reloaded { what: Reload::Units });
        let mut journal = Journal::parse(&text(&records)).unwrap();
        assert!(journal.owed().is_empty() && !journal.is_unsettled());
        assert!(Journal::parse(&journal.rewritten().unwrap()).unwrap().owed().is_empty());
    }

    #[test]
    fn a_reload_that_an_undone_change_owes_outlives_a_torn_line() {
        let change = Change::File { path: FSTAB.into(), before: None, after: Some(Kept::null_link()) };
        let undone = text(&[
            Record::Intent { n: 1, row: "swap".into(), change },
            Record::Done { n: 1 },
            Record::Reloaded { what: Reload::Units },
            Record::Undone { n: 1 },
        ]);
        let mut journal = Journal::parse(&(undone + "{\"record\":")).unwrap();
        assert!(journal.owed().contains(&Reload::Units));
        let rewritten = journal.rewritten().unwrap();
        let again = Journal::parse(&rewritten).unwrap();
        assert_eq!(again.owed(), journal.owed(), "{rewritten}");
        assert_eq!(again.entries().count(), 0);
        let done = rewritten + &line(&Record::Reloaded { what: Reload::Units }).unwrap();
        assert!(Journal::parse(&done).unwrap().owed().is_empty());
    }

    #[test]
    fn a_number_that_nobody_counts_to_is_refused_and_every_other_has_a_next() {
        for n in [u64::MAX, NUMBERS] {
            let error = Journal::parse(&text(&[intent(1), intent(n)])).unwrap_err();
            assert!(matches!(error, JournalError::Number { line: 2, .. }), "{error}");
        }
        assert_eq!(Journal::parse(&text(&[intent(NUMBERS - 1)])).unwrap().next(), NUMBERS);
    }
}
