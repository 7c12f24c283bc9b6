//! Every rule by name, each in the situation that calls it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::testing::{ballot, certificate, id};
use super::super::{
    Accepted, Ballot, Certificate, Judgement, LiveCheck, Move, Other, Own, Parameters, Proposal, Register,
    Terms, judge,
};
use crate::core::{CaHash, ClusterId, Known, Phase};

/// What addresses serve; whatever is not named was not asked.
#[derive(Default)]
struct Served(BTreeMap<IpAddr, Known<CaHash>>);

impl LiveCheck for Served {
    fn served(&self, address: IpAddr) -> Known<CaHash> {
        self.0.get(&address).cloned().unwrap_or_else(|| Known::unknown("the founder's address", "not asked"))
    }
}

impl Served {
    /// The founder of this certificate serves what it says.
    fn by(founder: u8) -> Self {
        let certificate = certificate(founder);
        Self(BTreeMap::from([(certificate.founder_address, Known::Yes(certificate.ca_hash.clone()))]))
    }
    fn silent(founder: u8) -> Self {
        Self(BTreeMap::from([(certificate(founder).founder_address, Known::Absent)]))
    }
}

/// Three machines, three founders; this is number 2, in the middle of the ranking. Everything is settled and patient.
struct Situation {
    own: Own,
    others: Vec<Other>,
    terms: Terms,
    served: Served,
}

fn other(n: u8) -> Other {
    Other {
        id: id(n),
        live: true,
        eligible: true,
        era: 1,
        parameters: Parameters::default().hash(),
        register: Some(Register::default()),
        proposal: None,
        fitness: 1,
        zone: String::new(),
    }
}

fn situation() -> Situation {
    Situation {
        own: Own {
            id: id(2),
            name: "node2".into(),
            address: [10, 0, 0, 2].into(),
            era: 1,
            register: Register::default(),
            proposal: None,
            ballot_counter: 0,
            heard: [id(1), id(2), id(3)].into(),
            provisional: Known::Absent,
        },
        others: vec![other(1), other(3)],
        terms: Terms {
            founders: 3,
            servers: 3,
            parameters: Parameters::default().hash(),
            fitness: 1,
            zone: String::new(),
            settled_for: Duration::from_secs(5),
            settle: Duration::from_secs(5),
            nominee_watched_for: Duration::ZERO,
            patience: Duration::from_secs(60),
            may_retry: true,
            fresh_cluster: ClusterId::from_digest(&[7; 32]),
        },
        served: Served::default(),
    }
}

fn vote(ballot: Ballot, certificate: Arc<Certificate>) -> Accepted {
    Accepted { ballot, certificate }
}

fn promised(by: &Ballot, accepted: Option<Accepted>) -> Register {
    Register { promised: Some(by.clone()), accepted }
}

impl Situation {
    fn judge(&self) -> Judgement {
        judge(&self.own, &self.others, &self.terms, &self.served)
    }

    /// The rule that speaks, and the only move, if any.
    fn says(&self, rule: &str, step: impl Into<Option<Move>>) {
        let judgement = self.judge();
        assert_eq!(judgement.why[0].rule, rule, "{judgement:?}");
        assert_eq!(judgement.moves, Vec::from_iter(step.into()), "{judgement:?}");
    }

    /// This node is the best.
    fn first(mut self) -> Self {
        self.terms.fitness = 3;
        self
    }

    /// Node 1 is nominated under this ballot, which every register carries.
    fn nominated(mut self, ballot: &Ballot, certificate: Option<Arc<Certificate>>) -> Self {
        self.others[0].proposal = Some(Proposal { ballot: ballot.clone(), certificate });
        self.others[0].register = Some(promised(ballot, None));
        self.own.register = promised(ballot, None);
        self
    }

    /// This node is nominated under this ballot, and everybody promised it.
    fn promised_to_me(mut self, ballot: &Ballot) -> Self {
        self.own.ballot_counter = ballot.counter;
        self.own.proposal = Some(Proposal { ballot: ballot.clone(), certificate: None });
        self.own.register = promised(ballot, None);
        for other in &mut self.others {
            other.register = Some(promised(ballot, None));
        }
        self
    }
}

#[test]
fn gathering() {
    let mut alone = situation();
    alone.others.pop();
    alone.says("waiting-for-founders", None);
    assert_eq!(alone.judge().phase, Phase::Seeking);
    assert!(alone.judge().why[0].detail.starts_with("2 of 3"));

    let mut stranger = situation();
    stranger.others.push(other(4));
    stranger.says("voters-heard", Move::Hear([id(4)].into()));

    let mut unsettled = situation().first();
    unsettled.terms.settled_for = Duration::from_secs(4);
    unsettled.says("view-settling", None);

    // None of these is a voter: a dead one, an unfit one, one with other parameters, one of another era.
    for spoil in [
        |o: &mut Other| o.live = false,
        |o: &mut Other| o.eligible = false,
        |o: &mut Other| o.parameters = Parameters([("a".into(), "b".into())].into()).hash(),
        |o: &mut Other| o.era = 2,
    ] {
        let mut fewer = situation().first();
        spoil(&mut fewer.others[0]);
        fewer.says("waiting-for-founders", None);
    }
}

#[test]
fn more_identities_than_the_bound_stop_the_voting() {
    let mut crowd = situation().first();
    crowd.own.heard = (0..6).map(id).collect();
    crowd.says("too-many-founders", None);
    assert_eq!(crowd.judge().phase, Phase::Parked);
    crowd.own.heard.pop_first();
    crowd.says("nominating", Move::Nominate(ballot(1, 2)));
}

#[test]
fn whoever_promised_counts_even_if_it_is_not_eligible_any_more() {
    let mut parked = situation();
    let mut voter = other(4);
    voter.eligible = false;
    parked.others.push(voter);
    parked.says("founding-elsewhere", None);
    // Its promise names a nominee that was never heard itself.
    parked.others[2].register = Some(promised(&ballot(1, 5), None));
    parked.says("voters-heard", Move::Hear([id(4), id(5)].into()));
    // A vote keeps the ballot that it was cast under.
    parked.others[2].register = Some(promised(&ballot(2, 1), Some(vote(ballot(1, 6), certificate(6)))));
    parked.says("voters-heard", Move::Hear([id(4), id(6)].into()));
}

#[test]
fn the_best_nominates_itself_and_the_next_when_it_does_not() {
    situation().first().says("nominating", Move::Nominate(ballot(1, 2)));
    situation().says("founding-elsewhere", None);

    // Node 1 ranks first and never starts: after its patience it is this node's turn.
    let mut stuck = situation();
    stuck.terms.settled_for = Duration::from_secs(65);
    stuck.says("nominating", Move::Nominate(ballot(1, 2)));
    stuck.others[1].fitness = 2;
    stuck.says("founding-elsewhere", None);
    stuck.terms.settled_for = Duration::from_secs(125);
    stuck.says("nominating", Move::Nominate(ballot(1, 2)));

    let mut paused = situation().first();
    paused.terms.may_retry = false;
    paused.says("ballot-pause", None);
}

#[test]
fn a_ballot_is_above_every_ballot_seen_and_used() {
    let mut used = situation().first();
    used.own.ballot_counter = 8;
    used.says("nominating", Move::Nominate(ballot(9, 2)));
    // The promise of a dead voter counts too.
    used.others.push(Other { live: false, register: Some(promised(&ballot(11, 1), None)), ..other(4) });
    used.own.heard.insert(id(4));
    used.says("nominating", Move::Nominate(ballot(12, 2)));
    used.others[2].register = Some(promised(&ballot(u64::MAX, 1), None));
    used.says("ballots-used-up", None);
}

#[test]
fn a_nominee_has_its_time_and_then_the_turn_goes_round() {
    let b = ballot(1, 1);
    let mut waiting = situation().nominated(&b, None);
    waiting.says("founding-elsewhere", None);
    waiting.terms.nominee_watched_for = Duration::from_secs(60);
    waiting.says("nominating", Move::Nominate(ballot(2, 2)));
    // With node 3 spent, the turn is back at the top of the ranking, not at this node.
    let mut round = situation();
    round.others[1].proposal = Some(Proposal { ballot: ballot(3, 3), certificate: None });
    round.own.register = promised(&ballot(3, 3), None);
    round.terms.nominee_watched_for = Duration::from_secs(60);
    round.says("founding-elsewhere", None);
    round.terms.nominee_watched_for = Duration::from_secs(120);
    round.says("nominating", Move::Nominate(ballot(4, 2)));
}

#[test]
fn promising() {
    let b = ballot(4, 1);
    let mut asked = situation().nominated(&b, None);
    asked.own.register = Register::default();
    asked.says("promising", Move::Promise(b.clone()));
    asked.own.register = promised(&ballot(5, 3), None);
    asked.says("founding-elsewhere", None);
    // Of two proposals the higher one is answered, whoever is in front.
    asked.own.register = Register::default();
    asked.others[1].proposal = Some(Proposal { ballot: ballot(6, 3), certificate: None });
    asked.says("promising", Move::Promise(ballot(6, 3)));
    asked.others[1].proposal = None;
    // A ballot that names another node than the one that published it is no ballot.
    asked.own.register = Register::default();
    asked.others[0].proposal = Some(Proposal { ballot: ballot(4, 3), certificate: None });
    asked.says("founding-elsewhere", None);
}

#[test]
fn voting_needs_the_founder_to_show_its_ca() {
    let b = ballot(1, 1);
    let address: IpAddr = [10, 0, 0, 1].into();
    let mut asked = situation().nominated(&b, Some(certificate(1)));
    asked.says("founder-unproven", Move::Check(address));
    asked.served = Served::silent(1);
    asked.says("founder-unproven", Move::Check(address));
    asked.served.0.insert(address, Known::Yes(CaHash::from_digest(&[9; 32])));
    asked.says("founder-unproven", Move::Check(address));
    asked.served = Served::by(1);
    asked.says("voting", Move::Accept(vote(b.clone(), certificate(1))));
    // Once cast, it is not cast again.
    asked.own.register.accepted = Some(vote(b, certificate(1)));
    asked.says("founding-elsewhere", None);
}

#[test]
fn an_unproven_founder_does_not_hold_up_the_others() {
    let mut asked = situation().nominated(&ballot(1, 1), Some(certificate(1)));
    asked.served = Served::silent(1);
    asked.terms.nominee_watched_for = Duration::from_secs(60);
    asked.says("nominating", Move::Nominate(ballot(2, 2)));
}

#[test]
fn a_certificate_of_other_parameters_or_of_another_era_gets_no_vote() {
    for spoil in [
        |c: &mut Certificate| c.era = 2,
        |c: &mut Certificate| c.parameters_hash = Parameters([("a".into(), "b".into())].into()).hash(),
    ] {
        let mut wrong = certificate(1);
        spoil(Arc::make_mut(&mut wrong));
        let mut asked = situation().nominated(&ballot(1, 1), Some(wrong));
        asked.served = Served::by(1);
        asked.says("certificate-refused", None);
    }
}

#[test]
fn the_founder_votes_last() {
    let b = ballot(1, 2);
    let mut mine = situation().promised_to_me(&b);
    mine.served = Served::by(2);
    mine.own.proposal = Some(Proposal { ballot: b.clone(), certificate: Some(certificate(2)) });
    mine.says("waiting-for-votes", None);
    let cast = vote(b.clone(), certificate(2));
    mine.others[0].register = Some(promised(&b, Some(cast.clone())));
    mine.says("waiting-for-votes", None);
    mine.others[1].register = Some(promised(&b, Some(cast.clone())));
    mine.says("voting", Move::Accept(cast));
}

#[test]
fn carrying_a_ballot_through() {
    let b = ballot(1, 2);
    let mut mine = situation().promised_to_me(&b);
    mine.says("starting-provisional", Move::StartProvisional);
    mine.own.provisional = Known::unknown("k3s", "etcd is not healthy");
    mine.says("provisional-starting", Move::StartProvisional);
    mine.own.provisional = Known::Yes(CaHash::from_digest(&[2; 32]));
    let judgement = mine.judge();
    assert_eq!(judgement.why[0].rule, "proposing");
    let [Move::Propose(proposed)] = &judgement.moves[..] else { panic!("{judgement:?}") };
    let expected = Certificate {
        cluster_id: ClusterId::from_digest(&[7; 32]),
        first_servers: vec![id(2), id(1), id(3)],
        ..(*certificate(2)).clone()
    };
    assert_eq!(**proposed, expected);

    // Of five machines in two zones three become servers: not all in the founder's zone, and none that is unfit for a zone's sake.
    let mut spread = situation().promised_to_me(&b);
    spread.own.provisional = Known::Yes(CaHash::from_digest(&[2; 32]));
    spread.terms.zone = "a".into();
    spread.own.heard.extend([id(4), id(5)]);
    spread.others = [1, 3, 4, 5].map(other).into();
    for (other, zone) in spread.others.iter_mut().zip(["a", "a", "b", "c"]) {
        (other.zone, other.register) = (zone.into(), Some(promised(&b, None)));
    }
    let first = |situation: &Situation| match &situation.judge().moves[..] {
        [Move::Propose(proposed)] => proposed.first_servers.clone(),
        moves => panic!("{moves:?}"),
    };
    assert_eq!(first(&spread), vec![id(2), id(4), id(5)]);
    spread.others[2].fitness = 0;
    assert_eq!(first(&spread), vec![id(2), id(5), id(1)]);

    let mut short = situation().promised_to_me(&b);
    short.others[0].register = Some(Register::default());
    short.says("waiting-for-promises", None);
    short.others[0].live = false;
    short.says("waiting-for-founders", None);

    let mut overtaken = situation().promised_to_me(&b);
    overtaken.others[0].register = Some(promised(&ballot(2, 3), None));
    overtaken.says("overtaken", Move::Withdraw);
    // The promise of a voter that is gone can be done without.
    overtaken.others[0].live = false;
    overtaken.says("waiting-for-founders", None);
}

/// This node leads ballot 5; node 1 voted for the certificate of node 9 before.
fn inherits() -> Situation {
    let b = ballot(5, 2);
    let mut mine = situation().promised_to_me(&b);
    mine.own.heard.insert(id(9));
    mine.others[0].register = Some(promised(&b, Some(vote(ballot(1, 9), certificate(9)))));
    mine.own.provisional = Known::Yes(CaHash::from_digest(&[2; 32]));
    mine
}

#[test]
fn a_vote_that_may_have_been_chosen_is_carried_on() {
    let mut mine = inherits();
    mine.says("carrying-on", Move::Check([10, 0, 0, 9].into()));
    mine.served = Served::by(9);
    mine.says("carrying-on", Move::Propose(certificate(9)));
    mine.served = Served::silent(9);
    mine.says("voted-founder-silent", Move::Check([10, 0, 0, 9].into()));
    // A fourth voter without that vote makes a quorum that is free of it.
    mine.others.push(Other { register: Some(promised(&ballot(5, 2), None)), ..other(4) });
    mine.own.heard.insert(id(4));
    assert_eq!(mine.judge().why[0].rule, "proposing");
    // Unknown is not absent: while it is not known what the founder serves, nothing else is proposed.
    mine.served = Served::default();
    mine.says("carrying-on", Move::Check([10, 0, 0, 9].into()));
}

#[test]
fn every_founder_that_may_be_carried_on_is_asked_again() {
    let mut mine = inherits();
    mine.terms.founders = 2;
    mine.own.heard = [id(1), id(2), id(3)].into();
    let b = ballot(5, 2);
    mine.others[0].register = Some(promised(&b, Some(vote(ballot(1, 1), certificate(1)))));
    mine.others[1].register = Some(promised(&b, Some(vote(ballot(2, 3), certificate(3)))));
    mine.served.0.extend(Served::silent(1).0.into_iter().chain(Served::silent(3).0));
    let judgement = mine.judge();
    assert_eq!(judgement.why[0].rule, "voted-founder-silent");
    let asked = [[10, 0, 0, 3].into(), [10, 0, 0, 1].into()].map(Move::Check);
    assert_eq!(judgement.moves, asked);
}

#[test]
fn votes_cast_under_other_parameters_are_not_carried_on() {
    let mut mine = inherits();
    mine.served = Served::by(9);
    mine.terms.parameters = Parameters([("a".into(), "b".into())].into()).hash();
    for other in &mut mine.others {
        other.parameters = mine.terms.parameters.clone();
    }
    mine.says("voted-parameters-differ", None);
}

#[test]
fn chosen_is_stored_whatever_else_is_true() {
    let cast = vote(ballot(1, 1), certificate(1));
    let mut seen = situation();
    // Later promises do not undo a choice; nor does a voter that is dead, or unfit since.
    seen.own.register = promised(&ballot(7, 3), Some(cast.clone()));
    seen.others[0].register = Some(promised(&ballot(1, 1), Some(cast.clone())));
    seen.others[1].register = Some(promised(&ballot(1, 1), Some(cast.clone())));
    seen.others[0].live = false;
    seen.others[1].eligible = false;
    seen.own.heard = (0..9).map(id).collect();
    seen.says("certificate-chosen", Move::Store(certificate(1)));
}

#[test]
fn votes_of_a_group_that_needs_more_of_them_are_not_counted_by_other_terms() {
    // This machine alone is configured with founders = 2; the others need 3 and have cast 2.
    let cast = vote(ballot(1, 1), certificate(1));
    let mut odd = situation();
    odd.terms.founders = 2;
    odd.terms.parameters = Parameters([("founders".into(), "2".into())].into()).hash();
    for other in &mut odd.others {
        other.register = Some(promised(&ballot(1, 1), Some(cast.clone())));
    }
    odd.says("waiting-for-founders", None);
}
