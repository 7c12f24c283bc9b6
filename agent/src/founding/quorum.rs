//! The arithmetic of single-decree Paxos over registers that are read, not sent.
//!
//! Agreement rests on three facts, each of which has a control in the tests that must break without it: a register is synced
//! before it is published; a ballot is never used twice; two sets of `founders` voters out of fewer than `2 x founders`
//! identities share a member. Reading stale registers costs time, never safety: a register only moves forward, and an old
//! acceptance still counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Accepted, Ballot, Certificate, Register};
use crate::core::NodeId;

/// Registers by owner: this node's own from its disk, the others' as their owners signed them.
pub type Registers<'a> = BTreeMap<&'a NodeId, &'a Register>;

/// Most distinct identities that may ever vote in one era: two sets of `founders` among that many always meet.
#[must_use]
pub fn most_voters(founders: usize) -> usize {
    (2 * founders).saturating_sub(1)
}

/// The certificate that `founders` registers accepted under one and the same ballot, if there is one.
#[must_use]
pub fn chosen<'a>(registers: &Registers<'a>, founders: usize) -> Option<&'a Arc<Certificate>> {
    let mut votes: BTreeMap<&Accepted, usize> = BTreeMap::new();
    for register in registers.values() {
        if let Some(accepted) = &register.accepted {
            *votes.entry(accepted).or_default() += 1;
        }
    }
    votes.into_iter().find(|(_, count)| *count >= founders.max(1)).map(|(accepted, _)| &accepted.certificate)
}

/// What a proposer may propose under its ballot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Free<'a> {
    /// Too few promises yet: this many.
    Promises(usize),
    /// Enough promises.
    Enough {
        /// Whether a quorum of the promises carries no vote, so that the proposer's own certificate may be proposed.
        own: bool,
        /// Certificates already voted for that a quorum of the promises allows, the latest ballot first.
        adopt: Vec<&'a Arc<Certificate>>,
    },
}

/// Reads the promises for a ballot. A register that promised more does not count for it. Any quorum of the promises will do,
/// so every quorum is considered: a value is allowed when, in some quorum, no vote has a higher ballot than its own.
#[must_use]
pub fn free<'a>(registers: &Registers<'a>, ballot: &Ballot, founders: usize) -> Free<'a> {
    let founders = founders.max(1);
    let promised: Vec<&'a Register> =
        registers.values().filter(|register| register.promised.as_ref() == Some(ballot)).copied().collect();
    if promised.len() < founders {
        return Free::Promises(promised.len());
    }
    let mut votes: Vec<&'a Accepted> =
        promised.iter().filter_map(|register| register.accepted.as_ref()).collect();
    votes.sort();
    let empty = promised.len() - votes.len();
    let mut adopt: Vec<&'a Arc<Certificate>> = Vec::new();
    for (below, vote) in votes.iter().enumerate() {
        // Votes under the same ballot carry the same certificate: count them all before judging.
        let same = votes[below..].iter().filter(|other| other.ballot == vote.ballot).count();
        if empty + below + same >= founders && !adopt.contains(&&vote.certificate) {
            adopt.push(&vote.certificate);
        }
    }
    adopt.reverse();
    Free::Enough { own: empty >= founders, adopt }
}

/// The highest ballot promised in any register that is seen.
#[must_use]
pub fn highest_promise<'a>(registers: &Registers<'a>) -> Option<&'a Ballot> {
    registers.values().filter_map(|register| register.promised.as_ref()).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::founding::testing::{ballot, certificate, id};

    fn register(promised: Option<Ballot>, accepted: Option<(Ballot, &Arc<Certificate>)>) -> Register {
        Register {
            promised,
            accepted: accepted
                .map(|(ballot, certificate)| Accepted { ballot, certificate: Arc::clone(certificate) }),
        }
    }

    fn with_registers<T>(list: &[Register], test: impl FnOnce(&Registers) -> T) -> T {
        let ids: Vec<NodeId> = (0..list.len()).map(|n| id(u8::try_from(n).unwrap())).collect();
        test(&ids.iter().zip(list).collect())
    }

    #[test]
    fn five_voters_meet_when_three_found() {
        assert_eq!(most_voters(3), 5);
        assert_eq!(most_voters(1), 1);
        assert_eq!(most_voters(0), 0);
    }

    #[test]
    fn chosen_needs_the_same_ballot_in_enough_registers() {
        let value = certificate(1);
        let one = |n| register(Some(ballot(n, 0)), Some((ballot(n, 0), &value)));
        with_registers(&[one(1), one(1), one(2)], |r| assert_eq!(chosen(r, 3), None));
        with_registers(&[one(1), one(1), one(1), one(2)], |r| assert_eq!(chosen(r, 3), Some(&value)));
        with_registers(&[Register::default()], |r| assert_eq!(chosen(r, 0), None));
    }

    #[test]
    fn a_promise_for_more_does_not_count() {
        let b = ballot(2, 0);
        let higher = register(Some(ballot(3, 1)), None);
        let mine = register(Some(b.clone()), None);
        with_registers(&[mine.clone(), mine.clone(), higher], |r| {
            assert_eq!(free(r, &b, 3), Free::Promises(2));
        });
        with_registers(&[mine.clone(), mine.clone(), mine], |r| {
            assert_eq!(free(r, &b, 3), Free::Enough { own: true, adopt: vec![] });
        });
    }

    #[test]
    fn a_vote_in_every_quorum_must_be_adopted() {
        let b = ballot(5, 0);
        let old = certificate(1);
        let voted = register(Some(b.clone()), Some((ballot(1, 1), &old)));
        let empty = register(Some(b.clone()), None);
        with_registers(&[voted.clone(), empty.clone(), empty.clone()], |r| {
            assert_eq!(free(r, &b, 3), Free::Enough { own: false, adopt: vec![&old] });
        });
        // A quorum without the vote exists: the vote cannot have been chosen without it.
        with_registers(&[voted, empty.clone(), empty.clone(), empty], |r| {
            assert_eq!(free(r, &b, 3), Free::Enough { own: true, adopt: vec![&old] });
        });
    }

    #[test]
    fn an_older_vote_may_be_adopted_only_where_a_quorum_has_nothing_newer() {
        let b = ballot(9, 0);
        let (old, new) = (certificate(1), certificate(2));
        let at = |n, value| register(Some(b.clone()), Some((ballot(n, 1), value)));
        let empty = register(Some(b.clone()), None);
        with_registers(&[at(1, &old), at(2, &new), empty.clone()], |r| {
            assert_eq!(free(r, &b, 3), Free::Enough { own: false, adopt: vec![&new] });
        });
        with_registers(&[at(1, &old), at(2, &new), empty.clone(), empty], |r| {
            assert_eq!(free(r, &b, 3), Free::Enough { own: false, adopt: vec![&new, &old] });
        });
    }
}
