//! Loads and commits the ledger: one file, so that the identity cannot outlive the votes cast under it.
//!
//! ```json
//! {"sha256":"…","ledger":"{…}"}
//! ```
//!
//! The inner text is hashed as it stands; a torn, truncated or edited file is an error, never a blank.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::edge::fs::{self, FsError};
use crate::identity::{Fingerprint, NodeKey};

/// The ledger could not be read or written. Reading failures park the node: an unreadable ledger is not an empty one.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file is there and cannot be used. Nothing changed; a person must look.
    #[error("the ledger {} is damaged: {cause}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The file system refused. The content on disk is what it was.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The lock file is held by another agent. Nothing changed.
    #[error("another muster holds {}", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// No new identity could be made. Nothing changed.
    #[error(transparent)]
    Key(#[from] crate::identity::KeyError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    sha256: String,
    ledger: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    version: u8,
    key: String,
    fingerprint: Fingerprint,
    record: Record,
}

/// The open ledger: key, record as it is on disk, and the place of the file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    key: NodeKey,
    fingerprint: Fingerprint,
    record: Record,
    /// Set when the file belonged to another machine and was put aside: which part differed.
    pub cloned_from: Option<&'static str>,
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in a state directory, or makes the first one. A ledger that belongs to another machine (a cloned
    /// disk) is put aside under another name, and a new identity is made.
    ///
    /// # Errors
    /// When the directory cannot be used, the file is there and cannot be read whole, or another agent holds it.
    pub fn open(state: &Path, cluster: &str, here: &Fingerprint) -> Result<Self, LedgerError> {
        fs::create_directory(state, 0o700)?;
        let lock = take_lock(state)?;
        let path = state.join("ledger.json");
        let mut cloned_from = None;
        if let Some(text) = fs::read_text(&path)? {
            let inner = parse(&path, &text)?;
            if let Some(part) = inner.fingerprint.differs(here) {
                fs::rename(
                    &path,
                    &state.join(format!("ledger-of-another-machine-{}.json", inner.record.generation)),
                )?;
                cloned_from = Some(part);
            } else {
                let damaged = |cause: String| LedgerError::Damaged { path: path.clone(), cause };
                let bytes =
                    STANDARD.decode(&inner.key).map_err(|_| damaged("its key is not base64".into()))?;
                let key = NodeKey::from_pkcs8(&bytes).map_err(|error| damaged(error.to_string()))?;
                return Ok(Self {
                    path,
                    key,
                    fingerprint: merge(inner.fingerprint, here),
                    record: inner.record,
                    cloned_from: None,
                    _lock: lock,
                });
            }
        }
        let ledger = Self {
            path,
            key: NodeKey::generate()?,
            fingerprint: here.clone(),
            record: Record::new(cluster),
            cloned_from: cloned_from.take(),
            _lock: lock,
        };
        ledger.write(&ledger.record)?;
        Ok(ledger)
    }

    /// The node's key.
    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The record as it is on disk.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Writes a new record and syncs it; only then is it the record.
    ///
    /// # Errors
    /// When it could not be written; the old record then stands, on disk and here.
    pub fn commit(&mut self, mut record: Record) -> Result<(), LedgerError> {
        // Counters only grow: a record planned before gossip took a new generation must not take it back.
        record.generation = record.generation.max(self.record.generation);
        record.ballot_counter = record.ballot_counter.max(self.record.ballot_counter);
        self.write(&record)?;
        self.record = record;
        Ok(())
    }

    /// Increments the generation, synced, and gives it: once for every start of gossip.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub fn next_generation(&mut self) -> Result<u64, LedgerError> {
        let mut record = self.record.clone();
        record.generation = record.generation.saturating_add(1);
        self.commit(record)?;
        Ok(self.record.generation)
    }

    fn write(&self, record: &Record) -> Result<(), LedgerError> {
        let inner = Inner {
            version: 1,
            key: STANDARD.encode(self.key.pkcs8()),
            fingerprint: self.fingerprint.clone(),
            record: record.clone(),
        };
        let broken = |error: serde_json::Error| LedgerError::Damaged {
            path: self.path.clone(),
            cause: error.to_string(),
        };
        let ledger = serde_json::to_string(&inner).map_err(broken)?;
        let outer = Outer { sha256: digest(&ledger), ledger };
        let text = serde_json::to_vec(&outer).map_err(broken)?;
        fs::write_atomic(&self.path, &text, 0o600)?;
        Ok(())
    }
}

/// Reads the record without the key, the lock or any right to write: for `muster gate` and `muster founding show`.
///
/// # Errors
/// When it is there and cannot be read whole.
pub fn peek(state: &Path) -> Result<Option<Record>, LedgerError> {
    let path = state.join("ledger.json");
    let Some(text) = fs::read_text(&path)? else { return Ok(None) };
    parse(&path, &text).map(|inner| Some(inner.record))
}

fn take_lock(state: &Path) -> Result<File, LedgerError> {
    let path = state.join("lock");
    let file = fs::open_append(&path, 0o600)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::Held { path }),
        Err(TryLockError::Error(source)) => Err(FsError::Change { path, doing: "lock", source }.into()),
    }
}

fn parse(path: &Path, text: &str) -> Result<Inner, LedgerError> {
    let damaged = |cause: String| LedgerError::Damaged { path: path.to_owned(), cause };
    // The position is enough to find a fault; the parser's own words could quote the key.
    let at = |error: &serde_json::Error| format!("line {} column {}", error.line(), error.column());
    let outer: Outer =
        serde_json::from_str(text).map_err(|error| damaged(format!("not whole at {}", at(&error))))?;
    if digest(&outer.ledger) != outer.sha256 {
        return Err(damaged("its content does not have its checksum".into()));
    }
    let inner: Inner = serde_json::from_str(&outer.ledger).map_err(|error| {
        damaged(format!("written by another version? unexpected field at {}", at(&error)))
    })?;
    if inner.version != 1 {
        return Err(damaged(format!("it has version {} and this agent reads version 1", inner.version)));
    }
    Ok(inner)
}

fn digest(text: &str) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()))
}

#[cfg(any(test, fuzzing))]
#[path = "fuzz.rs"]
pub(super) mod fuzz;

/// A part that could not be read when the ledger was made is learnt later; a known part stays.
fn merge(old: Fingerprint, here: &Fingerprint) -> Fingerprint {
    Fingerprint {
        machine_id: old.machine_id.or_else(|| here.machine_id.clone()),
        product_uuid: old.product_uuid.or_else(|| here.product_uuid.clone()),
    }
}
