use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::core::{NodeId, Phase, Why};
use crate::decide::{Act, Plan};
use crate::engine::{Outcome, Report};
use crate::founding::testing::{ballot, certificate, id};
use crate::founding::{Accepted, Annulment, Proposal};
use crate::gossip::Role;
use crate::ledger::{Data, Record, Remembered};
use crate::report::decisions::derive::{Told, of_record, of_start};
use crate::report::decisions::{Decision, Kind};

fn own() -> NodeId {
    id(1)
}

fn rules(decisions: &[Decision]) -> Vec<(Kind, String)> {
    decisions.iter().map(|decision| (decision.kind, decision.rule.clone())).collect()
}

#[test]
fn every_change_of_the_ledger_has_its_decision() {
    use Kind::{Operator, Remedy, Verdict, Vote};
    type Case = (&'static str, fn(&mut Record), fn(&mut Record), &'static [(Kind, &'static str)]);
    fn nothing(_: &mut Record) {}
    fn annulled(by: u8) -> Annulment {
        Annulment { era: 1, cluster_id: None, by: id(by), reason: "node2 burnt".into() }
    }
    let cases: &[Case] = &[
        ("nothing", nothing, nothing, &[]),
        (
            "what is no decision",
            nothing,
            |new| {
                new.generation += 1;
                new.ballot_counter += 1;
                new.heard.insert(id(3));
                let address = "10.0.0.1:7846".parse().unwrap();
                new.peers.insert(id(3), Remembered { name: "x".into(), address });
            },
            &[],
        ),
        ("promise", nothing, |new| new.register.promised = Some(ballot(3, 2)), &[(Vote, "promised")]),
        (
            "higher promise",
            |old| old.register.promised = Some(ballot(3, 2)),
            |new| {
                new.register.promised = Some(ballot(4, 2));
            },
            &[(Vote, "promised")],
        ),
        (
            "vote",
            nothing,
            |new| {
                new.register.accepted = Some(Accepted { ballot: ballot(3, 2), certificate: certificate(2) });
            },
            &[(Vote, "voted")],
        ),
        (
            "nomination",
            nothing,
            |new| {
                new.register.promised = Some(ballot(1, 1));
                new.proposal = Some(Proposal { ballot: ballot(1, 1), certificate: None });
            },
            &[(Vote, "promised"), (Vote, "nominated")],
        ),
        (
            "proposal",
            |old| old.proposal = Some(Proposal { ballot: ballot(1, 1), certificate: None }),
            |new| {
                new.proposal = Some(Proposal { ballot: ballot(1, 1), certificate: Some(certificate(1)) });
            },
            &[(Vote, "proposed")],
        ),
        (
            "proposal given up",
            |old| old.proposal = Some(Proposal { ballot: ballot(1, 1), certificate: None }),
            |new| {
                new.proposal = None;
            },
            &[],
        ),
        (
            "certificate",
            nothing,
            |new| new.certificate = Some(certificate(1)),
            &[(Verdict, "certificate-stored")],
        ),
        (
            "other certificate",
            |old| old.certificate = Some(certificate(1)),
            |new| {
                new.certificate = Some(certificate(2));
            },
            &[(Verdict, "certificate-stored")],
        ),
        (
            "annulled here",
            |old| {
                old.certificate = Some(certificate(1));
                old.register.promised = Some(ballot(1, 1));
            },
            |new| new.open_next_era(annulled(1)),
            &[(Operator, "era-annulled"), (Verdict, "certificate-dropped")],
        ),
        ("annulled elsewhere", nothing, |new| new.open_next_era(annulled(2)), &[(Verdict, "era-annulled")]),
        (
            "provisional",
            nothing,
            |new| new.data = Data::Provisional { ballot: ballot(1, 1) },
            &[(Verdict, "data-provisional")],
        ),
        (
            "joining",
            nothing,
            |new| {
                new.data = Data::Joining { role: Role::Server, cluster: certificate(1).cluster_id.clone() };
            },
            &[(Verdict, "data-joining")],
        ),
        (
            "member",
            |old| old.data = Data::Joining { role: Role::Agent, cluster: certificate(1).cluster_id.clone() },
            |new| {
                new.data = Data::Member { role: Role::Agent, cluster: certificate(1).cluster_id.clone() };
                new.served = true;
            },
            &[(Verdict, "data-member"), (Verdict, "served")],
        ),
        (
            "discarding",
            |old| old.data = Data::Provisional { ballot: ballot(1, 1) },
            |new| {
                new.data = Data::Discarding { reason: "another was chosen".into() };
            },
            &[(Remedy, "data-discarding")],
        ),
        (
            "discarded",
            |old| old.data = Data::Discarding { reason: "x".into() },
            |new| {
                new.data = Data::None;
                new.discarded += 1;
            },
            &[(Verdict, "data-none")],
        ),
    ];
    for (name, before, change, wanted) in cases {
        let mut old = Record::new("lab");
        before(&mut old);
        let mut new = old.clone();
        change(&mut new);
        let made = of_record(&own(), &old, &new);
        let wanted: Vec<_> = wanted.iter().map(|(kind, rule)| (*kind, (*rule).to_owned())).collect();
        assert_eq!(rules(&made), wanted, "{name}: {made:?}");
    }
}

#[test]
fn the_line_of_a_start_says_what_the_ledger_holds() {
    let mut record = Record::new("lab");
    record.register.accepted = Some(Accepted { ballot: ballot(3, 2), certificate: certificate(2) });
    record.certificate = Some(certificate(2));
    let line = of_start(&own(), "node1", &record);
    let text = line.evidence.join("; ");
    assert!(text.contains("voted: ballot 3 of") && text.contains("promised: nothing"), "{text}");
    assert!(
        text.contains(certificate(2).cluster_id.clone().as_str()) && line.detail.contains(own().as_str()),
        "{line:?}"
    );
}

fn report(phase: Phase, rule: &'static str, done: &[(Act, Outcome)]) -> Report {
    let plan = Plan {
        phase,
        why: vec![Why::new(rule, "detail", "next"), Why::new("second", "more", "")],
        commit: None,
        acts: Vec::new(),
        eligible: false,
        role: Role::Server,
        wake: Duration::ZERO,
    };
    Report { plan, done: done.to_vec() }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn removal() -> Act {
    let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, 2));
    Act::RemoveNode { name: "node2".into(), address, by: id(7), seen_dead: true }
}

#[test]
fn phases_and_first_reasons_are_told_once() {
    use Kind::{Phase as Entered, Verdict};
    let mut told = Told::default();
    for (phase, rule, wanted) in [
        (Phase::Seeking, "no-peer-answers", Some((Entered, "no-peer-answers"))),
        (Phase::Seeking, "no-peer-answers", None),
        (Phase::Seeking, "waiting-for-founders", Some((Verdict, "waiting-for-founders"))),
        (Phase::Electing, "waiting-for-founders", Some((Entered, "waiting-for-founders"))),
        (Phase::Joining, "joining", Some((Entered, "joining"))),
        (Phase::Joining, "joining", None),
    ] {
        let made = told.after(at(0), "node1", &report(phase, rule, &[]));
        let wanted: Vec<_> = wanted.into_iter().map(|(kind, rule)| (kind, rule.to_owned())).collect();
        assert_eq!(rules(&made), wanted);
        if let Some(line) = made.first() {
            assert_eq!(line.evidence.last().unwrap(), "second: more");
        }
    }
}

#[test]
fn a_reason_that_flaps_is_counted_and_a_phase_that_flaps_is_told() {
    let mut told = Told::default();
    let mut lines = 0;
    for tick in 0..500 {
        let rule = if tick % 2 == 0 { "one" } else { "two" };
        lines += told.after(at(tick), "n", &report(Phase::Joining, rule, &[])).len();
    }
    assert_eq!(lines, 31);
    let made = told.after(at(501), "n", &report(Phase::Serving, "one", &[]));
    assert_eq!(made[0].evidence[0], "changes of the reason left out before this one: 469");
    let made = told.after(at(2_000), "n", &report(Phase::Serving, "two", &[]));
    assert_eq!(made.len(), 1, "time gives it a voice again");
    for tick in 0..100 {
        let phase = if tick % 2 == 0 { Phase::Degraded } else { Phase::Serving };
        assert_eq!(told.after(at(2_001), "n", &report(phase, "two", &[])).len(), 1);
    }
}

#[test]
fn deeds_are_told_before_and_after_and_what_is_tried_again_is_told_once() {
    use Kind::{Refusal, Remedy};
    let discard = Act::Discard { number: 2 };
    let stop = Act::Stop { role: Role::Server };
    let start = Act::Start { role: Role::Server };
    let failed = Outcome::Failed("no".into());
    type Step = (Act, Outcome, bool, &'static [(Kind, &'static str)]);
    let steps: &[Step] = &[
        (discard.clone(), failed.clone(), true, &[(Remedy, "discard")]),
        (discard.clone(), failed, false, &[]),
        (discard.clone(), Outcome::Failed("other".into()), false, &[(Remedy, "discard")]),
        (discard.clone(), Outcome::Done, false, &[(Remedy, "discard")]),
        (discard.clone(), Outcome::AlreadySo, true, &[(Remedy, "discard")]),
        (stop, Outcome::Done, true, &[(Remedy, "stop-k3s")]),
        (removal(), Outcome::Refused("guard".into()), true, &[(Refusal, "remove-node")]),
        (removal(), Outcome::Refused("guard".into()), false, &[]),
        (start.clone(), Outcome::Refused("guard".into()), false, &[(Refusal, "step-refused")]),
        (start.clone(), Outcome::Refused("guard".into()), false, &[]),
        (start.clone(), Outcome::Failed("no".into()), false, &[]),
        (start, Outcome::Done, false, &[]),
        (Act::FetchK3s, Outcome::Begun, false, &[]),
    ];
    let mut told = Told::default();
    told.after(at(0), "node1", &report(Phase::Serving, "serving", &[]));
    for (act, outcome, begins, wanted) in steps {
        assert_eq!(told.before(act).is_some(), *begins, "{act:?} {outcome:?}");
        let made =
            told.after(at(0), "node1", &report(Phase::Serving, "serving", &[(act.clone(), outcome.clone())]));
        let wanted: Vec<_> = wanted.iter().map(|(kind, rule)| (*kind, (*rule).to_owned())).collect();
        assert_eq!(rules(&made), wanted, "{act:?} {outcome:?}");
    }
    let begins = told.before(&removal()).expect("a line");
    assert!(
        begins.kind.is_synced() && begins.detail.starts_with("begins: delete the Node node2 at 10.0.0.2"),
        "{begins:?}"
    );
}

#[test]
fn what_is_not_done_about_others_is_told_when_it_comes_up() {
    let with = |others: &[&'static str]| {
        let mut why = vec![Why::new("serving", "server of cluster c", "")];
        why.extend(others.iter().map(|rule| Why::new(*rule, "node3 is dead since 9 s", "")));
        let mut one = report(Phase::Serving, "serving", &[]);
        one.plan.why = why;
        one
    };
    let mut told = Told::default();
    let mut after = |seconds, others: &[&'static str]| {
        rules(&told.after(Duration::from_secs(seconds), "node1", &with(others)))
    };
    let refusal = |rule: &str| vec![(Kind::Refusal, rule.to_owned())];
    after(1, &[]);
    assert_eq!(after(2, &["no-spare", "draining"]), refusal("no-spare"));
    assert_eq!(after(3, &["no-spare"]), []);
    assert_eq!(after(4, &["no-spare", "removal-refused"]), refusal("removal-refused"));
    assert_eq!(after(5, &[]), []);
    assert_eq!(after(6, &["no-spare"]), refusal("no-spare"));
}
