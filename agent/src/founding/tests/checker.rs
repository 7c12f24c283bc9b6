//! What must be true after every event, told from everything that ever happened rather than from what a node believes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::super::testing::id;
use super::super::{Accepted, Ballot, Certificate};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Violation {
    /// Two different certificates each have `founders` votes under one ballot.
    TwoChosen,
    /// Two nodes hold different certificates.
    TwoStored,
    /// A node stored a certificate that is not chosen.
    StoredUnchosen,
    /// A node promised or accepted below what it promised.
    BelowPromise,
    /// One ballot carried two certificates.
    BallotTwice,
    /// Faults stopped, nothing stands in the way, and no cluster was founded.
    Stalled(String),
}

impl Violation {
    /// Two clusters, in one form or the other: the harm itself, not a slip that may lead to it.
    pub(super) fn is_split(&self) -> bool {
        matches!(self, Violation::TwoChosen | Violation::TwoStored)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Stalled(rules) => write!(f, "stalled: {rules}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Every promise and every acceptance that was ever made, on whatever disk, whether it survived there or not.
pub(super) struct Checker {
    founders: usize,
    votes: BTreeMap<Accepted, BTreeSet<usize>>,
    promises: BTreeMap<usize, Ballot>,
    proposals: BTreeMap<Ballot, Certificate>,
    chosen: BTreeSet<Arc<Certificate>>,
    held: BTreeSet<Certificate>,
    pub(super) violations: Vec<Violation>,
}

impl Checker {
    pub(super) fn new(founders: usize) -> Self {
        Self {
            founders,
            votes: BTreeMap::new(),
            promises: BTreeMap::new(),
            proposals: BTreeMap::new(),
            chosen: BTreeSet::new(),
            held: BTreeSet::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn chosen(&self) -> Option<&Certificate> {
        self.chosen.first().map(AsRef::as_ref)
    }

    /// Whether anybody but the founder ever voted for this certificate.
    pub(super) fn others_voted(&self, certificate: &Certificate) -> bool {
        self.votes.iter().any(|(vote, voters)| {
            *vote.certificate == *certificate
                && voters.iter().any(|n| u8::try_from(*n).is_ok_and(|n| id(n) != certificate.founder))
        })
    }

    fn broken(&mut self, violation: Violation) {
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    pub(super) fn promised(&mut self, identity: usize, ballot: &Ballot) {
        match self.promises.get(&identity) {
            Some(higher) if higher >= ballot => self.broken(Violation::BelowPromise),
            _ => {
                self.promises.insert(identity, ballot.clone());
            }
        }
    }

    pub(super) fn proposed(&mut self, ballot: &Ballot, certificate: &Certificate) {
        if self.proposals.insert(ballot.clone(), certificate.clone()).is_some_and(|old| old != *certificate) {
            self.broken(Violation::BallotTwice);
        }
    }

    pub(super) fn accepted(&mut self, identity: usize, accepted: &Accepted) {
        if self.promises.get(&identity).is_none_or(|promised| *promised > accepted.ballot) {
            self.broken(Violation::BelowPromise);
        }
        let voters = self.votes.entry(accepted.clone()).or_default();
        voters.insert(identity);
        if voters.len() >= self.founders {
            self.chosen.insert(accepted.certificate.clone());
        }
        if self.chosen.len() > 1 {
            self.broken(Violation::TwoChosen);
        }
    }

    pub(super) fn stored(&mut self, certificate: &Certificate) {
        if !self.chosen.contains(certificate) {
            self.broken(Violation::StoredUnchosen);
        }
        self.held.insert(certificate.clone());
        if self.held.len() > 1 {
            self.broken(Violation::TwoStored);
        }
    }
}
