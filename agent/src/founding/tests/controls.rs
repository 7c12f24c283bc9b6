//! Rules with one thing broken. Each must be caught within the histories, or the checks prove nothing.

use std::cmp::Reverse;

use super::super::{Accepted, Certificate, Judgement, LiveCheck, Move, Other, Own, Proposal, Terms, judge};
use super::checker::Violation;
use super::world::{Rules, World};
use crate::core::{CaHash, ClusterId, Phase, Why};

const HISTORIES: u64 = 5_000;

/// Plays histories until one breaks in the way that is expected.
fn caught(name: &str, rules: &dyn Rules, expected: impl Fn(&Violation) -> bool) {
    for seed in 0..HISTORIES {
        let ended = World::new(seed, rules, false).run();
        if let Some(violation) = ended.violations.iter().find(|violation| expected(violation)) {
            println!("{name}: {violation} in history {seed}");
            return;
        }
    }
    panic!("{name}: {HISTORIES} histories and nothing found: the check cannot fail");
}

/// As many identities as make two sets of `founders` without a common member, and nobody who counts them.
struct BoundBypassed;
impl Rules for BoundBypassed {
    fn judge(&self, own: &Own, others: &[Other], terms: &Terms, check: &dyn LiveCheck) -> Judgement {
        let mut own = own.clone();
        own.heard = others.iter().take(terms.founders).map(|other| other.id.clone()).collect();
        own.heard.insert(own.id.clone());
        let few: Vec<Other> = others.iter().filter(|other| own.heard.contains(&other.id)).cloned().collect();
        for other in &few {
            let register = other.register.iter();
            own.heard.extend(register.flat_map(|r| r.promised.iter().map(|ballot| ballot.node.clone())));
        }
        while own.heard.len() > super::super::quorum::most_voters(terms.founders) {
            own.heard.pop_last();
        }
        judge(&own, &few, terms, check)
    }
    fn identities(&self, founders: usize) -> usize {
        2 * founders
    }
}

struct PromiseForgotten;
impl Rules for PromiseForgotten {
    fn restart(&self, own: &mut Own) {
        own.register.promised = None;
    }
}

/// A ballot that a restart finds again, without what was proposed under it.
struct BallotReused;
impl Rules for BallotReused {
    fn restart(&self, own: &mut Own) {
        if let Some(proposal) = &mut own.proposal {
            proposal.certificate = None;
        }
    }
}

/// A proposer that proposes its own cluster whatever others voted for.
struct VotesIgnored;
impl Rules for VotesIgnored {
    fn judge(&self, own: &Own, others: &[Other], terms: &Terms, check: &dyn LiveCheck) -> Judgement {
        let judgement = judge(own, others, terms, check);
        if !matches!(&*judgement.why[0].rule, "carrying-on" | "voted-founder-silent") {
            return judgement;
        }
        let (mut own, mut others) = (own.clone(), others.to_vec());
        own.register.accepted = None;
        for register in others.iter_mut().filter_map(|other| other.register.as_mut()) {
            register.accepted = None;
        }
        judge(&own, &others, terms, check)
    }
}

/// A founder that votes for its own cluster before anybody else has reached it.
struct FounderVotesAtOnce;
impl Rules for FounderVotesAtOnce {
    fn judge(&self, own: &Own, others: &[Other], terms: &Terms, check: &dyn LiveCheck) -> Judgement {
        let mut judgement = judge(own, others, terms, check);
        if judgement.why[0].rule == "waiting-for-votes"
            && let Some(Proposal { ballot, certificate: Some(certificate) }) = own.proposal.clone()
            && certificate.founder == own.id
            && own.register.promised.as_ref() == Some(&ballot)
            && own.register.accepted.as_ref().is_none_or(|vote| vote.ballot != ballot)
        {
            judgement.moves = vec![Move::Accept(Accepted { ballot, certificate })];
        }
        judgement
    }
}

struct PublishedBeforeSync;
impl Rules for PublishedBeforeSync {
    fn publishes_first(&self) -> bool {
        true
    }
}

/// The rule of most tools: whoever has the lowest identity in a view that is large enough founds.
struct LowestIdentity;
impl Rules for LowestIdentity {
    fn judge(&self, own: &Own, others: &[Other], terms: &Terms, _: &dyn LiveCheck) -> Judgement {
        let live = || others.iter().filter(|other| other.live && other.eligible);
        let first = live().all(|other| Reverse(&other.id) < Reverse(&own.id));
        let moves = if first && live().count() + 1 >= terms.founders {
            vec![Move::Store(found(own, terms).into())]
        } else {
            Vec::new()
        };
        Judgement { moves, phase: Phase::Seeking, why: vec![Why::new("lowest-identity", "", "")] }
    }
}

fn found(own: &Own, terms: &Terms) -> Certificate {
    Certificate {
        cluster_id: ClusterId::from_digest(&hex::decode(own.id.as_str()).unwrap()),
        era: 1,
        ca_hash: CaHash::from_digest(&[9; 32]),
        founder: own.id.clone(),
        founder_name: own.name.clone(),
        founder_address: own.address,
        first_servers: vec![own.id.clone()],
        parameters_hash: terms.parameters.clone(),
    }
}

#[test]
fn more_identities_than_the_bound_allows_split() {
    caught("bound bypassed", &BoundBypassed, Violation::is_split);
}

#[test]
fn a_promise_forgotten_at_restart_is_seen() {
    // That this ends in two clusters takes four changes of links in one order: `cargo model` shows it.
    caught("promise forgotten", &PromiseForgotten, |found| *found == Violation::BelowPromise);
}

#[test]
fn a_ballot_used_twice_is_seen() {
    caught("ballot reused", &BallotReused, |found| *found == Violation::BallotTwice);
}

#[test]
fn ignoring_votes_splits() {
    caught("votes ignored", &VotesIgnored, Violation::is_split);
}

#[test]
fn publishing_before_the_sync_splits() {
    caught("published before sync", &PublishedBeforeSync, Violation::is_split);
}

#[test]
fn a_founder_that_votes_first_stalls_the_rest() {
    caught("founder votes at once", &FounderVotesAtOnce, |found| matches!(found, Violation::Stalled(_)));
}

#[test]
fn the_lowest_identity_splits() {
    caught("lowest identity", &LowestIdentity, Violation::is_split);
}
