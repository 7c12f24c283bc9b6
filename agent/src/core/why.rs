//! The reason of a plan: `muster why`, the log, the status and the tests quote the same rule names.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One reason: which rule spoke, about what, and what happens next. Most of the words are the program's own, so they are not copied
/// at every turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The rule's stable name, such as `waiting-for-founders`.
    pub rule: Cow<'static, str>,
    /// What it saw, in words and values.
    pub detail: Cow<'static, str>,
    /// What happens by itself, or what a person must do.
    pub next: Cow<'static, str>,
}

impl Why {
    /// A reason in three parts.
    pub fn new(
        rule: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
        next: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { rule: rule.into(), detail: detail.into(), next: next.into() }
    }
}
