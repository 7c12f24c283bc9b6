//! The decision log: what this node saw, voted, did and refused, one line of JSON each, chained by hashes.
//!
//! ```text
//! {"hash":"<of the rest>","previous":"<hash of the line before>","n":7,"unix_ms":…,"boot_seconds":…,"kind":"vote",…}
//! ```
//!
//! `hash` is the SHA-256 of the line without it, as it stands; that text holds `previous`, so a line that was changed, taken out
//! or put in later is found by [`chain::walk`]. A line that is missing at the end is not: there is no signature, and whoever can
//! write the file can write it anew.
//!
//! Policy of syncs: remedies and refusals are on the disk before the deed; all others reach it when the system writes them. What
//! was promised or voted is in the ledger, which is synced: the log only tells of it.

pub mod chain;
pub mod derive;
mod store;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use store::{DecisionError, DecisionLog, TORN, files};

use crate::core::brief;

/// Most texts of evidence that one line holds.
const MOST_EVIDENCE: usize = 16;

/// What sort of decision it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something is now held to be so.
    Verdict,
    /// A ballot was proposed, promised or voted for.
    Vote,
    /// Something was changed that cannot be taken back.
    Remedy,
    /// A step was not taken, because its guard did not hold or could not be asked.
    Refusal,
    /// The node stands elsewhere.
    Phase,
    /// A person's word was carried out.
    Operator,
}

impl Kind {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Kind; 6] =
        [Kind::Verdict, Kind::Vote, Kind::Remedy, Kind::Refusal, Kind::Phase, Kind::Operator];

    /// The word printed for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Verdict => "verdict",
            Kind::Vote => "vote",
            Kind::Remedy => "remedy",
            Kind::Refusal => "refusal",
            Kind::Phase => "phase",
            Kind::Operator => "operator",
        }
    }

    /// Whether it must be on the disk before anything is done about it.
    #[must_use]
    pub fn is_synced(self) -> bool {
        matches!(self, Kind::Remedy | Kind::Refusal)
    }
}

/// One decision. It holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What sort it was.
    pub kind: Kind,
    /// About what: a node, a ballot, an era.
    pub subject: String,
    /// The rule that spoke, by its stable name.
    pub rule: String,
    /// What it said, in words and values.
    pub detail: String,
    /// What it was said on: one fact each.
    pub evidence: Vec<String>,
}

impl Decision {
    /// A decision without evidence.
    pub fn new(
        kind: Kind,
        subject: impl Into<String>,
        rule: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        let (subject, rule, detail) = (subject.into(), rule.into(), detail.into());
        Self { kind, subject, rule, detail, evidence: Vec::new() }
    }

    /// The same with a fact more.
    #[must_use]
    pub fn on(mut self, fact: impl Into<String>) -> Self {
        self.evidence.push(fact.into());
        self
    }

    /// As it may stand in a line: other programs' words are made short and free of control characters.
    fn bounded(&self) -> Self {
        Self {
            kind: self.kind,
            subject: brief(&self.subject),
            rule: brief(&self.rule),
            detail: brief(&self.detail),
            evidence: self.evidence.iter().take(MOST_EVIDENCE).map(|fact| brief(fact)).collect(),
        }
    }
}
