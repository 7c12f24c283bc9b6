//! Quorum arithmetic: what a change does to the members of etcd, and whether it may be done.
//!
//! Source: Raft's majority, `k3s-facts.md` parts 2.5, 3.1 and 13 rule 6. A cluster of `n` voters needs `n / 2 + 1` of them for every
//! write, for a change of its members too.

use std::collections::BTreeSet;
use std::fmt;

use crate::decide::MemberSeen;

/// A change of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A member whose machine does not serve is removed.
    RemoveDead(&'a str),
    /// A member that lives is removed: a surplus, or a machine that leaves.
    RemoveLiving(&'a str),
}

impl Change<'_> {
    fn name(&self) -> &str {
        match self {
            Change::RemoveDead(name) | Change::RemoveLiving(name) => name,
        }
    }
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is the last voter.
    Last,
    /// The living voters are no majority of the voters now.
    NoMajorityNow {
        /// Living voters.
        alive: usize,
        /// All voters.
        voters: usize,
    },
    /// The living voters would be no majority afterwards.
    NoMajorityAfter {
        /// Living voters after the change.
        alive: usize,
        /// All voters after it.
        voters: usize,
    },
    /// A learner is on its way: one change at a time.
    Learner(String),
    /// It is said to be dead, and counts as living.
    Alive(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Last => write!(f, "it is the last voter"),
            Refusal::NoMajorityNow { alive, voters } => {
                write!(f, "{alive} of {voters} voters live, which is no majority")
            }
            Refusal::NoMajorityAfter { alive, voters } => {
                write!(f, "{alive} of {voters} voters would live afterwards, which is no majority")
            }
            Refusal::Learner(name) => {
                write!(f, "{name} is still a learner, and one change is made at a time")
            }
            Refusal::Alive(name) => write!(f, "{name} lives"),
        }
    }
}

/// Voters needed for a write among so many.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether a change leaves a majority of living voters before and after it. `alive` are the names of the members that are known to
/// serve: what is not known to live counts as dead.
///
/// # Errors
/// With the reason.
pub fn allows(members: &[MemberSeen], alive: &BTreeSet<String>, change: &Change<'_>) -> Result<(), Refusal> {
    let name = change.name();
    let learner = members.iter().find(|member| member.learner && member.node != name);
    if let Some(learner) = learner {
        return Err(Refusal::Learner(learner.node.clone()));
    }
    let voters: BTreeSet<&str> =
        members.iter().filter(|member| !member.learner).map(|member| member.node.as_str()).collect();
    let living = |without: Option<&str>| {
        voters.iter().filter(|voter| Some(**voter) != without && alive.contains(**voter)).count()
    };
    let now = living(None);
    if now < majority(voters.len()) {
        return Err(Refusal::NoMajorityNow { alive: now, voters: voters.len() });
    }
    if matches!(change, Change::RemoveDead(_)) && alive.contains(name) {
        return Err(Refusal::Alive(name.to_owned()));
    }
    if !voters.contains(name) {
        // A learner, or nobody: no voter goes.
        return Ok(());
    }
    if voters.len() == 1 {
        return Err(Refusal::Last);
    }
    let (after, left) = (living(Some(name)), voters.len() - 1);
    if after < majority(left) {
        return Err(Refusal::NoMajorityAfter { alive: after, voters: left });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(text: &str) -> Vec<MemberSeen> {
        text.split_whitespace()
            .map(|word| MemberSeen {
                node: word.trim_end_matches('?').to_owned(),
                learner: word.ends_with('?'),
                address: None,
            })
            .collect()
    }

    fn names(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_change_needs_a_majority_before_and_after_it() {
        use Change::{RemoveDead as Dead, RemoveLiving as Living};
        use Refusal::{Alive, Last, Learner, NoMajorityAfter, NoMajorityNow};
        let cases: &[(&str, &str, Change<'_>, Result<(), Refusal>)] = &[
            ("a b c", "a b", Dead("c"), Ok(())),
            ("a b c", "a", Dead("c"), Err(NoMajorityNow { alive: 1, voters: 3 })),
            // One of two is dead: too late already (hazard 7).
            ("a b", "a", Dead("b"), Err(NoMajorityNow { alive: 1, voters: 2 })),
            ("a b c d", "a b c", Dead("d"), Ok(())),
            ("a b c d", "a b", Dead("d"), Err(NoMajorityNow { alive: 2, voters: 4 })),
            ("a b c d e", "a b c", Dead("e"), Ok(())),
            ("a b c", "a b c", Dead("c"), Err(Alive("c".into()))),
            ("a", "a", Living("a"), Err(Last)),
            ("a", "", Dead("a"), Err(NoMajorityNow { alive: 0, voters: 1 })),
            ("a b", "a b", Living("b"), Ok(())),
            ("a b c d", "a b c d", Living("d"), Ok(())),
            // A surplus that lives is not taken while another is dead and the rest would be no majority.
            ("a b c", "a b", Living("b"), Err(NoMajorityAfter { alive: 1, voters: 2 })),
            ("a b c d?", "a b c", Dead("c"), Err(Learner("d".into()))),
            ("a b c d?", "a b", Dead("d"), Ok(())),
            ("a b c", "a b c", Dead("nobody"), Ok(())),
        ];
        for (list, alive, change, wanted) in cases {
            assert_eq!(
                allows(&members(list), &names(alive), change),
                *wanted,
                "{list} | {alive} | {change:?}"
            );
        }
    }

    proptest! {
        /// Whatever is allowed leaves a cluster that can write, and never takes more than a minority away in a row.
        #[test]
        fn whatever_is_allowed_leaves_a_cluster_that_writes(
            voters in 1_usize..8, learners in 0_usize..2, alive in any::<u8>(), picks in proptest::collection::vec(0_usize..9, 1..9),
        ) {
            let name = |n: usize| format!("s{n}");
            let mut list: Vec<MemberSeen> = (0..voters + learners)
                .map(|n| MemberSeen { node: name(n), learner: n >= voters, address: None })
                .collect();
            let alive: BTreeSet<String> = (0..voters).filter(|n| alive & (1 << n) != 0).map(name).collect();
            let mut removed_dead = 0;
            for pick in picks {
                let target = name(pick);
                let living = alive.contains(&target);
                let change = if living { Change::RemoveLiving(&target) } else { Change::RemoveDead(&target) };
                if allows(&list, &alive, &change).is_ok() {
                    let voted = list.iter().any(|member| member.node == target && !member.learner);
                    list.retain(|member| member.node != target);
                    removed_dead += usize::from(voted && !living);
                    let left: Vec<&MemberSeen> = list.iter().filter(|member| !member.learner).collect();
                    let serving = left.iter().filter(|member| alive.contains(&member.node)).count();
                    prop_assert!(serving >= majority(left.len()));
                    prop_assert!(!left.is_empty());
                }
            }
            prop_assert!(removed_dead <= (voters - 1) / 2);
        }
    }
}
