//! The log on disk: two files, the older one whole, and a place for ends that a crash tore.

use std::path::{Path, PathBuf};

use super::chain::{self, Entry, Head};
use super::{Decision, Kind};
use crate::edge::lines::LineFile;
use crate::edge::{clock, fs};

/// The names in the state directory.
pub mod files {
    /// The file that is written to.
    pub const NEWER: &str = "decisions.jsonl";
    /// The one before it, kept until the next takes its place.
    pub const OLDER: &str = "decisions.previous.jsonl";
    /// Ends that were no whole lines.
    pub const TORN_ENDS: &str = "decisions.torn";
    /// A file in whose end no whole line was found.
    pub const DAMAGED: &str = "decisions.damaged.jsonl";
}

/// The rule of the line that says that a torn end was put apart.
pub const TORN: &str = "log-torn";
/// The rule of the line that says that a whole file was put apart.
const DAMAGED: &str = "log-damaged";

/// A file is put aside before it grows beyond this, in bytes: some 20,000 lines, and twice that are kept.
const LIMIT: u64 = 8 << 20;
/// The file of torn ends begins anew beyond this, in bytes.
const TORN_LIMIT: u64 = 1 << 20;
/// Where the last whole line is looked for, in bytes from the end: more than any two lines.
const WINDOW: u64 = 128 << 10;
const MODE: u32 = 0o600;

/// A decision that is not in the log, or not surely. What it is about must not wait for it: the caller decides.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// The file system refused; the lines before are what they were.
    #[error(transparent)]
    Io(#[from] fs::FsError),
    /// It cannot be written as JSON; nothing changed.
    #[error("a decision cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// The open log. One writer at a time: whoever holds the ledger.
#[derive(Debug)]
pub struct DecisionLog {
    directory: PathBuf,
    file: LineFile,
    head: Head,
    limit: u64,
}

impl DecisionLog {
    /// Opens the log of a state directory, or begins one. An end that a crash tore is put apart, and a line says so.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn open(state_dir: &Path) -> Result<Self, DecisionError> {
        Self::open_limited(state_dir, LIMIT)
    }

    pub(super) fn open_limited(state_dir: &Path, limit: u64) -> Result<Self, DecisionError> {
        fs::create_directory(state_dir, 0o700)?;
        let path = state_dir.join(files::NEWER);
        let mut file = LineFile::open(&path, MODE)?;
        let bytes = file.tail(WINDOW)?;
        let tail = chain::tail(&bytes);
        if let Some(head) = tail.head {
            let mut log = Self { directory: state_dir.to_owned(), file, head, limit };
            if tail.torn > 0 {
                log.put_apart(&bytes[bytes.len() - tail.torn..])?;
            }
            return Ok(log);
        }
        // Only the first line of a new file can be torn and leave no whole one; anything longer is damage, kept whole.
        let mut note = None;
        if file.length() > WINDOW {
            fs::rename(&path, &state_dir.join(files::DAMAGED))?;
            file = LineFile::open(&path, MODE)?;
            let detail = format!("no whole line was in its end: kept in {}", files::DAMAGED);
            note = Some(Decision::new(Kind::Verdict, SUBJECT, DAMAGED, detail));
        } else if !bytes.is_empty() {
            keep_torn(state_dir, &bytes)?;
            note = Some(torn(bytes.len()));
        }
        let older = state_dir.join(files::OLDER);
        let mut before = None;
        if !fs::known_there(&older).is_absent() {
            before = chain::tail(&LineFile::open(&older, MODE)?.tail(WINDOW)?).head;
        }
        let mut log = Self { directory: state_dir.to_owned(), file, head: Head::default(), limit };
        let mut lines = String::new();
        if let Some(before) = before {
            log.head = before;
            lines += &log.line(&rotated(log.head.n))?;
        }
        if let Some(note) = note {
            lines += &log.line(&note)?;
        }
        if !lines.is_empty() {
            log.file.replace_end(0, lines.as_bytes())?;
        }
        Ok(log)
    }

    /// Where the chain stands.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Adds a line: with its number, the time and the hash of the line before. With `sync` it is on the disk when this returns.
    ///
    /// # Errors
    /// When it is not in the log, or not surely on the disk. The log can be written to again later.
    pub fn append(&mut self, decision: &Decision, sync: bool) -> Result<(), DecisionError> {
        self.file.settle()?;
        let head = self.head.clone();
        let length = self.line(decision)?.len() as u64;
        self.head = head;
        if self.file.length() > 0 && self.file.length() + length > self.limit {
            self.rotate()?;
        }
        if self.file.length() == 0 && self.head.n > 0 {
            let begins = rotated(self.head.n);
            self.put(&begins)?;
        }
        self.put(decision)?;
        if sync {
            self.file.sync()?;
        }
        Ok(())
    }

    fn put(&mut self, decision: &Decision) -> Result<(), DecisionError> {
        let before = self.head.clone();
        let line = self.line(decision)?;
        if let Err(error) = self.file.append(line.as_bytes()) {
            self.head = before;
            return Err(error.into());
        }
        Ok(())
    }

    /// The next line; the chain then stands behind it.
    fn line(&mut self, decision: &Decision) -> Result<String, DecisionError> {
        let entry = Entry {
            previous: self.head.hash.clone(),
            n: self.head.n + 1,
            unix_ms: clock::wall_milliseconds(),
            boot_seconds: (clock::since_boot().as_secs_f64() * 1_000.0).round() / 1_000.0,
            decision: decision.bounded(),
        };
        let (line, head) = chain::line(&entry)?;
        self.head = head;
        Ok(line)
    }

    /// Puts the file in the older one's place and makes a new one. Synced before: only an end of the newer file is ever torn.
    fn rotate(&mut self) -> Result<(), DecisionError> {
        self.file.sync()?;
        let path = self.directory.join(files::NEWER);
        // Absent when an earlier attempt came to its middle.
        if !fs::known_there(&path).is_absent() {
            fs::rename(&path, &self.directory.join(files::OLDER))?;
        }
        self.file = LineFile::open(&path, MODE)?;
        Ok(())
    }

    /// Keeps an end that is no whole line, and says so in its place.
    fn put_apart(&mut self, end: &[u8]) -> Result<(), DecisionError> {
        keep_torn(&self.directory, end)?;
        let from = self.file.length() - end.len() as u64;
        let line = self.line(&torn(end.len()))?;
        self.file.replace_end(from, line.as_bytes())?;
        Ok(())
    }
}

const SUBJECT: &str = "decision log";

fn rotated(last: u64) -> Decision {
    let detail = format!("goes on after number {last}, the last one in {}", files::OLDER);
    Decision::new(Kind::Verdict, SUBJECT, chain::ROTATED, detail)
}

fn torn(bytes: usize) -> Decision {
    let detail = format!("{bytes} bytes at the end were no whole line: kept in {}", files::TORN_ENDS);
    Decision::new(Kind::Verdict, SUBJECT, TORN, detail)
}

fn keep_torn(directory: &Path, end: &[u8]) -> Result<(), DecisionError> {
    let path = directory.join(files::TORN_ENDS);
    if LineFile::open(&path, MODE)?.length() > TORN_LIMIT {
        fs::remove(&path)?;
    }
    fs::append_synced(&path, &[end, b"\n"].concat(), MODE)?;
    Ok(())
}
