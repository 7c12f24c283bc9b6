//! What is wrong with a configuration, each in one line that names the place and what is allowed, and never a secret.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::fingerprint::Fingerprint;
use super::merge::Origin;
use super::show::Shown;
use crate::core::Why;
use crate::identity::token::TokenError;

/// One thing that is wrong. Nothing was changed anywhere; a person must mend the source that is named.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, directory or link that may hold configuration and cannot be read: it is not taken for absent.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML: often a file that was caught half-written.
    #[error("{place}: not TOML, or half-written: {message}")]
    Syntax {
        /// File and line.
        place: Origin,
        /// What the parser said; it quotes nothing of the text.
        message: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// Where it stands.
        place: Origin,
        /// Its name with its section, or the variable.
        key: String,
        /// The nearest key, or the ones that there are.
        hint: String,
    },
    /// A secret where everybody can read it.
    #[error("{place}: a secret does not belong there: `{key}`; {hint}")]
    InlineSecret {
        /// Where it stands.
        place: Origin,
        /// The key.
        key: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A value of another kind than the key takes.
    #[error("{place}: `{key}` must be {wanted}, found {found}")]
    Kind {
        /// Where it stands.
        place: Origin,
        /// The key.
        key: String,
        /// The kind that it takes.
        wanted: String,
        /// The kind that was found.
        found: String,
    },
    /// A value that is not allowed.
    #[error("{key} = {value} ({place}): {reason}")]
    Refused {
        /// The key.
        key: String,
        /// The value, masked where it could be a secret.
        value: String,
        /// Who set it.
        place: Origin,
        /// What is allowed, and why.
        reason: String,
    },
    /// A file named in the configuration that must hold a token and is not there.
    #[error("{key} = {} ({place}): there is no such file", path.display())]
    TokenAbsent {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Who named it.
        place: Origin,
    },
    /// A file that must hold a token and cannot be read.
    #[error("cannot read {what}")]
    TokenUnreadable {
        /// Which token, and from where.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A token that everybody on the machine can read or replace.
    #[error("{what} has mode {mode:04o}, so that every user can read or replace it; `chmod 600 {}` it", path.display())]
    TokenOpen {
        /// Which token, and from where.
        what: String,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A token that is none.
    #[error("{what} is refused")]
    Token {
        /// Which token, and from where.
        what: String,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// No token anywhere.
    #[error(
        "no cluster token: looked for the key `token-file`, the systemd credential `muster.token`, the environment variable \
         MUSTER_TOKEN, and {}; `muster token new` makes one",
        kept.display()
    )]
    NoToken {
        /// Where a single machine keeps a token of its own.
        kept: PathBuf,
        /// Whether this is a single machine, which may make one.
        lone: bool,
    },
    /// The token of a single machine could not be put in place; no token file was left behind.
    #[error("cannot keep a new token as {}", path.display())]
    KeepToken {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl ConfigError {
    /// The error and its causes in one line: what was quoted from a file has its line breaks and other control characters escaped.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        escaped(&line)
    }
}

/// A text on one line: control characters as Rust writes them.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Why there are no settings: the first problem of each file, or every value that the check refused; and what could be read all
/// the same.
#[derive(Debug)]
pub struct ConfigErrors {
    /// At least one, in the order of precedence of their sources.
    pub problems: Vec<ConfigError>,
    /// The merged values, for `muster config show`.
    pub shown: Vec<Shown>,
    /// The sources as they were just before they were read: when they change it is time to read them again.
    pub fingerprint: Fingerprint,
}

impl ConfigErrors {
    /// Where a single machine without a token may make its own: set only when nothing else is wrong.
    #[must_use]
    pub fn lone_token(&self) -> Option<&PathBuf> {
        match self.problems.as_slice() {
            [ConfigError::NoToken { kept, lone: true }] => Some(kept),
            _ => None,
        }
    }

    /// The reason that a parked agent gives.
    #[must_use]
    pub fn why(&self) -> Why {
        Why::new(
            "configuration-refused",
            self.to_string(),
            "mend what is named; the agent reads its configuration again when a file changes, and nothing is lost meanwhile",
        )
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(&problem.line())?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}
