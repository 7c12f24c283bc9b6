//! A machine that was to become a server and cannot.

use super::super::tests::{address, certified, heal_of, hears, record, rule, server, settings};
use super::*;
use crate::decide::{MemberSeen, UnitSeen, decide};
use crate::ledger::Data;

fn listed(node: &str, learner: bool, at: u8) -> MemberSeen {
    MemberSeen { node: node.into(), learner, address: Some(address(at)) }
}

/// Node 1, which has been told to become a server and whose k3s ends again and again.
fn trying(ours: &Settings) -> Observed {
    let (mut seen, born) = certified(ours);
    hears(&mut seen, server(3, &born, ours), ours);
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    seen.k3s.server_unit = Known::Yes(UnitSeen::Starting);
    seen.k3s.configuration = Known::Yes(());
    seen.k3s.trouble = vec![Why::new("k3s-port-taken", "another program holds a port", "")];
    seen.watch.trying_for = ours.healing.patience + MARGIN;
    seen.members = Known::Yes(vec![listed("node2", false, 2), listed("node3", false, 3)]);
    heal_of(&mut seen).wal = Known::Absent;
    seen
}

fn discards(plan: &Plan) -> Option<&str> {
    match &plan.commit.as_ref()?.data {
        Data::Discarding { reason } => Some(reason),
        _ => None,
    }
}

/// etcd's leader removes a learner without progress after five minutes (`Removed learner … from etcd cluster`), and k3s adds it anew.
#[test]
fn by_default_it_gives_up_before_its_learner_is_removed() {
    assert!(settings(&[]).healing.patience + MARGIN < Duration::from_secs(300));
}

#[test]
fn it_gives_up_when_its_time_is_over_and_it_is_known_to_be_no_voter() {
    let ours = settings(&[]);
    let seen = trying(&ours);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "server-start-failed");
    let reason = discards(&plan).unwrap();
    assert!(reason.starts_with(GAVE_UP) && reason.contains("another program holds a port"), "{reason}");
    let yes: fn(&mut Observed) = |_| {};
    for (what, change, gives_up) in [
        ("it has time", (|seen| seen.watch.trying_for -= Duration::from_secs(1)) as fn(&mut Observed), false),
        ("a learner that never started", |seen| learner(seen, "", 1), true),
        ("a learner of its name", |seen| learner(seen, "node1", 1), true),
        ("another's learner", |seen| learner(seen, "", 4), true),
        ("its etcd has run", |seen| heal_of(seen).wal = Known::Yes(()), false),
        (
            "whether its etcd has run is not known",
            |seen| heal_of(seen).wal = Known::unknown("wal", "unread"),
            false,
        ),
        ("it votes, by another's word", |seen| votes(seen, "node1", 1), false),
        ("it votes without a name yet", |seen| votes(seen, "", 1), false),
        ("it votes, by its own word", |seen| seen.k3s.voter = Known::Yes(true), false),
        ("nobody has told the members", |seen| seen.members = Known::unknown("members", "no answer"), false),
        ("a list without voters", |seen| seen.members = Known::Yes(vec![listed("node2", true, 2)]), false),
        ("as it is", yes, true),
    ] {
        let mut other = seen.clone();
        change(&mut other);
        let plan = decide(&other, &ours);
        assert_eq!(discards(&plan).is_some_and(|reason| reason.starts_with(GAVE_UP)), gives_up, "{what}");
    }
}

fn learner(seen: &mut Observed, name: &str, at: u8) {
    if let Known::Yes(members) = &mut seen.members {
        members.push(listed(name, true, at));
    }
}

fn votes(seen: &mut Observed, name: &str, at: u8) {
    if let Known::Yes(members) = &mut seen.members {
        members.push(listed(name, false, at));
    }
}

#[test]
fn it_asks_when_its_time_is_over_and_not_before() {
    let ours = settings(&[]);
    let mut seen = trying(&ours);
    seen.members = Known::unknown("members", "no answer");
    let asks = |seen: &Observed| {
        decide(seen, &ours).acts.iter().filter(|act| matches!(act, Act::AskMembers { .. })).count()
    };
    assert_eq!(asks(&seen), 1);
    seen.watch.trying_for = Duration::ZERO;
    assert_eq!(asks(&seen), 0);
}

#[test]
fn who_gave_up_is_an_agent_and_no_spare_for_a_while() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::None;
    record(&mut seen).discarded = 1;
    seen.members = Known::Yes(vec![listed("node2", false, 2)]);
    seen.now = Duration::from_secs(2_000);
    let role = |seen: &Observed| match &decide(seen, &ours).commit.map(|record| record.data) {
        Some(Data::Joining { role, .. }) => Some(*role),
        _ => None,
    };
    seen.watch.gave_up = Some(seen.now - AGAIN);
    assert_eq!(role(&seen), Some(Role::Server));
    seen.watch.gave_up = Some(seen.now - AGAIN + Duration::from_secs(1));
    assert_eq!(role(&seen), Some(Role::Agent));
    // As an agent it says so, and is nobody's choice; then it is again.
    record(&mut seen).data = Data::Member { role: Role::Agent, cluster: born.cluster_id.clone() };
    record(&mut seen).served = true;
    (seen.k3s.agent_unit, seen.k3s.agent_data) = (Known::Yes(UnitSeen::Active), Known::Yes(()));
    seen.k3s.ready = Known::Yes(true);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "serving");
    assert!(plan.why.iter().any(|why| why.rule == "server-start-failed"), "{:?}", plan.why);
    assert!(!plan.eligible);
    heal_of(&mut seen).order = Some(crate::heal::Order::Server);
    assert_eq!(role(&seen), None, "an order that still stands is not carried out");
    assert_eq!(rule(&decide(&seen, &ours)), "host-unfit-for-server");
    heal_of(&mut seen).order = None;
    seen.watch.gave_up = Some(seen.now - AGAIN);
    assert!(decide(&seen, &ours).eligible);
}
