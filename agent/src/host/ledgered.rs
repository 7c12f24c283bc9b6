//! The journal with its file: written before the host is changed, settled by what the host says.

use crate::core::Known;
use crate::host::journal::line;
use crate::host::standing::{Standing, standing};
use crate::host::{Change, HostError, Journal, Machine, Record, Scope};

/// The journal with its file.
pub(super) struct Ledgered {
    pub(super) journal: Journal,
}

impl Ledgered {
    pub(super) fn load<M: Machine>(machine: &M) -> Result<Self, HostError> {
        let journal = match machine.journal() {
            Known::Yes(text) => Journal::parse(&text)?,
            Known::Absent => Journal::default(),
            Known::Unknown(unread) => {
                return Err(HostError::JournalWrite {
                    path: unread.what.into_owned().into(),
                    source: std::io::Error::other(unread.cause),
                });
            }
        };
        Ok(Self { journal })
    }

    /// In the file first, then in memory.
    ///
    /// An intent is synced, for its change must never be there without it. So is what was undone: without it a later value that
    /// is only like ours would be taken for ours. The end of a change is not: lost in a power cut, it is asked of the host again,
    /// and a reload is done again.
    pub(super) fn write<M: Machine>(&mut self, machine: &mut M, record: Record) -> Result<(), HostError> {
        let synced = matches!(record, Record::Intent { .. } | Record::Undone { .. });
        self.write_all(machine, vec![record], synced)
    }

    /// Several records at once.
    pub(super) fn write_all<M: Machine>(
        &mut self,
        machine: &mut M,
        records: Vec<Record>,
        synced: bool,
    ) -> Result<(), HostError> {
        if self.journal.wants_rewriting() {
            let text = self.journal.rewritten().map_err(unwritable)?;
            machine.journal_replace(Some(&text))?;
        }
        let lines: Result<String, _> = records.iter().map(line).collect();
        machine.journal_append(&lines.map_err(unwritable)?, synced)?;
        for record in records {
            // The numbers are from this journal, so the records fit it.
            let _ = self.journal.add(record);
        }
        Ok(())
    }

    /// Asks the host what became of every change whose end was not written.
    pub(super) fn settle<M: Machine>(&mut self, machine: &mut M) -> Result<(), HostError> {
        let open: Vec<_> = self.journal.entries().filter(|entry| !entry.done).cloned().collect();
        for entry in open {
            if let Change::File { path, .. } = &entry.change
                && let Err(error) = machine.sweep(path)
            {
                // Its entry stays open, so that the next pass comes back for it.
                tracing::warn!("what an interrupted change left beside {path} stays: {}", error.chain());
                continue;
            }
            match standing(machine.tree(), &entry.change) {
                // A foreign state keeps its entry: revert will name it and leave it alone.
                Standing::After | Standing::Foreign => self.write(machine, Record::Done { n: entry.n })?,
                Standing::Before => self.write(machine, Record::Undone { n: entry.n })?,
                Standing::Unknown(_) => {}
            }
        }
        // An image has nobody who kept its files in memory.
        if machine.scope() == Scope::Image {
            for what in self.journal.owed().clone() {
                self.write(machine, Record::Reloaded { what })?;
            }
        }
        Ok(())
    }
}

fn unwritable(error: serde_json::Error) -> HostError {
    HostError::JournalWrite { path: crate::host::JOURNAL_NAME.into(), source: std::io::Error::other(error) }
}
