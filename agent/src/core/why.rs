//! The reason of a plan: `muster why`, the log, the status and the tests quote the same rule names.

use serde::{Deserialize, Serialize};

/// One reason: which rule spoke, about what, and what happens next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The rule's stable name, such as `waiting-for-founders`.
    pub rule: String,
    /// What it saw, in words and values.
    pub detail: String,
    /// What happens by itself, or what a person must do.
    pub next: String,
}

impl Why {
    /// A reason in three parts.
    pub fn new(rule: &str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { rule: rule.to_owned(), detail: detail.into(), next: next.into() }
    }
}
