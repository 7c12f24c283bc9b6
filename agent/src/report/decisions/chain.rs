//! The chain: lines from entries, entries from lines, and what is wrong with a chain. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Decision;

/// What stands for the hash before the first line.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The rule of the line with which a file goes on after an older one.
pub const ROTATED: &str = "log-rotated";

/// Length of a hash in characters.
const HASH: usize = START.len();
const BEFORE_HASH: &[u8] = b"{\"hash\":\"";
const AFTER_HASH: &[u8] = b"\",";
const CONTENT: usize = BEFORE_HASH.len() + HASH + AFTER_HASH.len();

/// One line, without its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The hash of the line before.
    pub previous: String,
    /// Its number: one more than that of the line before.
    pub n: u64,
    /// Wall clock in milliseconds since 1970: for people, it may be wrong.
    pub unix_ms: i64,
    /// Seconds since boot, with milliseconds.
    pub boot_seconds: f64,
    /// What was decided.
    #[serde(flatten)]
    pub decision: Decision,
}

/// Where a chain stands: the number and the hash of its last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The number; zero before the first line.
    pub n: u64,
    /// The hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { n: 0, hash: START.to_owned() }
    }
}

/// The line of an entry, with its end, and its hash.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn line(entry: &Entry) -> Result<(String, Head), serde_json::Error> {
    let content = serde_json::to_string(entry)?;
    let hash = digest(content.as_bytes());
    let line = format!("{{\"hash\":\"{hash}\",{}\n", &content[1..]);
    Ok((line, Head { n: entry.n, hash }))
}

/// Why a line is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// It is no line of a log.
    NoLine,
    /// It is one, and its content does not have its hash. What it says of itself stands here.
    Changed(Head),
}

/// Reads a line without its end.
///
/// # Errors
/// When it is no line, or was changed.
pub fn read(line: &[u8]) -> Result<(Entry, Head), Bad> {
    let shape = line.len() > CONTENT
        && line.starts_with(BEFORE_HASH)
        && line[..CONTENT].ends_with(AFTER_HASH)
        && line.ends_with(b"}");
    if !shape {
        return Err(Bad::NoLine);
    }
    let hash = &line[BEFORE_HASH.len()..BEFORE_HASH.len() + HASH];
    let hash = std::str::from_utf8(hash).map_err(|_| Bad::NoLine)?.to_owned();
    let content = [b"{", &line[CONTENT..]].concat();
    let entry: Entry = serde_json::from_slice(&content).map_err(|_| Bad::NoLine)?;
    let head = Head { n: entry.n, hash };
    if digest(&content) == head.hash { Ok((entry, head)) } else { Err(Bad::Changed(head)) }
}

/// The end of a file, as its writer finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The last whole line, if there is one.
    pub head: Option<Head>,
    /// Bytes after it: a line that a crash tore, or an end that was changed.
    pub torn: usize,
}

/// Looks for the last whole line in the last bytes of a file.
#[must_use]
pub fn tail(bytes: &[u8]) -> Tail {
    let mut end = bytes.len();
    while let Some(at) = bytes[..end].iter().rposition(|&byte| byte == b'\n') {
        let from = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |before| before + 1);
        if let Ok((_, head)) = read(&bytes[from..at]) {
            return Tail { head: Some(head), torn: bytes.len() - at - 1 };
        }
        end = at;
    }
    Tail { head: None, torn: bytes.len() }
}

/// One thing that is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// In which file.
    pub file: String,
    /// In which line of it.
    pub line: usize,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of {} {}", self.line, self.file, self.what)
    }
}

/// What a walk along a chain found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// Whole lines.
    pub lines: u64,
    /// Number of the first one.
    pub first: Option<u64>,
    /// The last one.
    pub head: Head,
    /// Bytes of a last line without its end: its writer is at it, or a crash tore it. No fault: the next start puts it apart.
    pub torn: usize,
    /// What is wrong, in order.
    pub faults: Vec<Fault>,
}

/// One file of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Walks along a chain of one or two files and gives every whole line with its entry away.
pub fn walk(older: Option<Part<'_>>, newer: Part<'_>, mut each: impl FnMut(&[u8], Entry)) -> Walked {
    let mut walk = Walk { result: Walked::default(), last: None, broken: false };
    if let Some(older) = older {
        walk.part(older, true, &mut each);
        if walk.result.torn > 0 {
            let line = older.bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            walk.fault(older, line, "has no end".to_owned());
            walk.result.torn = 0;
            walk.broken = true;
        }
    }
    walk.part(newer, older.is_none(), &mut each);
    walk.result
}

struct Walk {
    result: Walked,
    /// The line before, as far as it could be told.
    last: Option<Head>,
    /// Whether the line before was named already: what follows it cannot be judged.
    broken: bool,
}

impl Walk {
    fn fault(&mut self, part: Part<'_>, line: usize, what: String) {
        self.result.faults.push(Fault { file: part.name.to_owned(), line, what });
    }

    fn part(&mut self, part: Part<'_>, first: bool, each: &mut impl FnMut(&[u8], Entry)) {
        for (index, line) in part.bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let Some(whole) = line.strip_suffix(b"\n") else {
                self.result.torn = line.len();
                return;
            };
            match read(whole) {
                Ok((entry, head)) => {
                    // The older of two files may itself go on after one that is gone; a single file may not.
                    let begins = first && index == 0;
                    self.follows(part, number, begins, &entry);
                    self.broken = false;
                    self.result.lines += 1;
                    self.result.first.get_or_insert(entry.n);
                    self.result.head = head.clone();
                    self.last = Some(head);
                    each(whole, entry);
                }
                Err(Bad::Changed(head)) => {
                    let n = head.n;
                    self.fault(part, number, format!("(number {n}) was changed: it does not have its hash"));
                    self.last = Some(head);
                    self.broken = false;
                }
                Err(Bad::NoLine) => {
                    self.fault(part, number, "is damaged: it is no line of the log".to_owned());
                    self.broken = true;
                }
            }
        }
    }

    fn follows(&mut self, part: Part<'_>, number: usize, begins: bool, entry: &Entry) {
        let Some(last) = &self.last else {
            let from_start = entry.n == 1 && entry.previous == START;
            let rotated = begins && part.name == super::files::OLDER && entry.decision.rule == ROTATED;
            if !from_start && !rotated && !self.broken {
                let what = format!("has number {}: what came before it is missing", entry.n);
                self.fault(part, number, what);
            }
            return;
        };
        if self.broken || (entry.previous == last.hash && entry.n == last.n + 1) {
            return;
        }
        let missing = entry.n.saturating_sub(last.n + 1);
        let what = match missing {
            0 => format!("(number {}) does not follow number {} before it", entry.n, last.n),
            1 => format!("(number {}): number {} is missing before it", entry.n, last.n + 1),
            _ => format!(
                "(number {}): numbers {} to {} are missing before it",
                entry.n,
                last.n + 1,
                entry.n - 1
            ),
        };
        self.fault(part, number, what);
    }
}

fn digest(text: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, text))
}
