//! Three answers, not two: held, absent, or could not tell.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a look at the world said. `Unknown` is never treated as `Absent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known<T> {
    /// It is there, and this is it.
    Yes(T),
    /// It was looked for and is not there.
    Absent,
    /// It could not be told: nothing irreversible may follow from this.
    Unknown(Unread),
}

/// A look that failed: what was looked at, and why it could not be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// What was being looked at, such as `the ledger /var/lib/muster/ledger.json`.
    pub what: Cow<'static, str>,
    /// The cause, as the system said it.
    pub cause: Cow<'static, str>,
}

/// Somebody else's words as they may stand in a line of ours: without line breaks and other control characters, cut after
/// 400 characters.
#[must_use]
pub fn brief(text: &str) -> String {
    const MOST: usize = 400;
    let text = text.trim();
    // Most are short and plain: no character needs a look of its own.
    if text.len() <= MOST && !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: {}", self.what, self.cause)
    }
}

impl<T> Known<T> {
    /// An unknown with its words. A cause that is not a constant of ours is often another program's: it is made [`brief`].
    pub fn unknown(what: impl Into<Cow<'static, str>>, cause: impl Into<Cow<'static, str>>) -> Self {
        let cause = match cause.into() {
            Cow::Owned(words) => Cow::Owned(brief(&words)),
            ours @ Cow::Borrowed(_) => ours,
        };
        Known::Unknown(Unread { what: what.into(), cause })
    }

    /// The value, if it is known to be there.
    pub fn yes(&self) -> Option<&T> {
        match self {
            Known::Yes(value) => Some(value),
            Known::Absent | Known::Unknown(_) => None,
        }
    }

    /// True only when it was looked for and is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Known::Absent)
    }

    /// True when it could not be told.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Known::Unknown(_))
    }

    /// The same answer about something made from the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Known<U> {
        match self {
            Known::Yes(value) => Known::Yes(f(value)),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread),
        }
    }

    /// The same answer, borrowed.
    pub fn as_ref(&self) -> Known<&T> {
        match self {
            Known::Yes(value) => Known::Yes(value),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        }
    }
}
