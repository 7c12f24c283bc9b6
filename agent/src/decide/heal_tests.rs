//! What a machine does about itself, and that only the holder of the Lease does anything about others.

use std::sync::Arc;

use super::super::tests::{address, certified, claim, heal_of, hears, record, rule, server, settings, view};
use super::*;
use crate::decide::decide;
use crate::decide::{MemberSeen, UnitSeen};
use crate::founding::testing::id;
use crate::gossip::Claim;
use crate::heal::{HealSeen, Holder, LeaveRequest, NodeSeen, Reach};

fn listed(n: u8, at: u8) -> MemberSeen {
    MemberSeen { node: format!("node{n}"), learner: false, address: Some(address(at)) }
}

#[test]
fn certificates_are_renewed_one_server_at_a_time() {
    let ours = settings(&[]);
    let (mut seen, born) = healer(&ours);
    let restarts = |seen: &Observed| decide(seen, &ours).acts.contains(&Act::Restart { role: Role::Server });
    let day = 86_400;
    let mine = |seen: &Observed| {
        Known::Yes(Holder {
            id: id(1).as_str().into(),
            until: Some(seen.now + std::time::Duration::from_secs(5)),
        })
    };
    heal_of(&mut seen).leaf_ends = Known::Yes(20 * day);
    assert!(!restarts(&seen), "it is not its turn");
    // One that was restarted in vain says so, and does not keep the turn from the others.
    let mut vain = seen.clone();
    heal_of(&mut vain).restarted = Some(vain.now - std::time::Duration::from_secs(1));
    let said = decide(&vain, &ours).why.into_iter().find(|why| why.rule == "certificate-renewal").unwrap();
    assert!(said.next.contains("less than a day ago"), "{said:?}");
    assert!(!heal::renewal_due(&vain.heal.leaf_ends, vain.heal.restarted, vain.now));
    assert!(decide(&seen, &ours).why.iter().any(|why| why.rule == "certificate-renewal"));
    heal_of(&mut seen).turn = mine(&seen);
    assert!(restarts(&seen));
    for (what, change) in [
        ("time enough", (|seen| heal_of(seen).leaf_ends = Known::Yes(40 * 86_400)) as fn(&mut Observed)),
        ("not known", |seen| heal_of(seen).leaf_ends = Known::unknown("certificates", "unread")),
        ("another server does not vote", |seen| {
            view(seen).peers.get_mut(&id(3)).unwrap().claim_mut().voter = Some(false);
        }),
        ("another server is dead", |seen| view(seen).peers.get_mut(&id(3)).unwrap().live = false),
        ("it was just restarted", |seen| heal_of(seen).restarted = Some(seen.now)),
    ] {
        let mut other = seen.clone();
        change(&mut other);
        assert!(!restarts(&other), "{what}");
    }
    // Late, a majority without this server is enough; at the very end nobody is waited for but the turn.
    let mut late = seen.clone();
    late.k3s.members = Known::Yes((1..=4).map(|n| listed(n, n)).collect());
    let fourth = server(4, &born, &ours);
    hears(&mut late, fourth, &ours);
    view(&mut late).peers.get_mut(&id(4)).unwrap().live = false;
    heal_of(&mut late).leaf_ends = Known::Yes(7 * day);
    assert!(!restarts(&late), "two of four are no majority");
    late.k3s.members = Known::Yes((1..=3).map(|n| listed(n, n)).collect());
    let mut dead = late.clone();
    view(&mut dead).peers.get_mut(&id(3)).unwrap().live = false;
    assert!(!restarts(&dead), "one of three is no majority");
    heal_of(&mut dead).leaf_ends = Known::Yes(2 * day);
    assert!(restarts(&dead));
    heal_of(&mut dead).turn = Known::Absent;
    assert!(!restarts(&dead), "it is not its turn");
    // The only server has nobody to wait for.
    Arc::make_mut(record(&mut seen).certificate.as_mut().unwrap()).first_servers = vec![id(1)];
    seen.k3s.members = Known::Yes(vec![listed(1, 1)]);
    view(&mut seen).peers.clear();
    assert!(restarts(&seen));
}

/// Node 1 as a server that served beside 2 and 3, and does not run now.
fn member(ours: &Settings) -> (Observed, Arc<Certificate>) {
    let (mut seen, born) = certified(ours);
    hears(&mut seen, server(3, &born, ours), ours);
    record(&mut seen).data = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
    record(&mut seen).served = true;
    record(&mut seen).voters = (1..=3).map(|n| (format!("node{n}"), address(n))).collect();
    seen.k3s.server_data = Known::Yes(());
    seen.k3s.disk_ca = Known::Yes(born.ca_hash.clone());
    (seen, born)
}

/// The same node, serving and holding the Lease.
fn healer(ours: &Settings) -> (Observed, Arc<Certificate>) {
    let (mut seen, born) = member(ours);
    seen.k3s.server_unit = Known::Yes(UnitSeen::Active);
    for fact in [&mut seen.k3s.voter, &mut seen.k3s.api, &mut seen.k3s.ready] {
        *fact = Known::Yes(true);
    }
    seen.k3s.members = Known::Yes((1..=3).map(|n| listed(n, n)).collect());
    *heal_of(&mut seen) = HealSeen {
        lease: Known::Yes(Holder {
            id: id(1).as_str().into(),
            until: Some(seen.now + std::time::Duration::from_secs(5)),
        }),
        nodes: Known::Yes((1..=3).map(node).collect()),
        reach: [2, 3].map(|n| (address(n), Reach::Answers)).into(),
        marked: Known::Yes(id(1)),
        ..HealSeen::default()
    };
    (seen, born)
}

pub(in crate::decide) fn node(n: u8) -> NodeSeen {
    NodeSeen {
        name: format!("node{n}"),
        uid: "u".into(),
        ready: Known::Yes(true),
        identity: Some(id(n).as_str().into()),
        order: None,
        cordoned: false,
        server: true,
        deleting: false,
        addresses: vec![address(n)],
    }
}

fn discards(plan: &Plan) -> bool {
    plan.commit.as_ref().is_some_and(|next| matches!(next.data, Data::Discarding { .. }))
}

#[test]
fn a_member_that_was_just_added_keeps_its_data_whatever_k3s_says_meanwhile() {
    let ours = settings(&[]);
    let (mut seen, certificate) = member(&ours);
    std::sync::Arc::make_mut(&mut seen.record).data =
        Data::Joining { role: Role::Server, cluster: certificate.cluster_id.clone() };
    seen.k3s.trouble = vec![Why::new("k3s-not-a-member", "not a member", "")];
    // The list was asked for a moment before the member was added.
    seen.members = Known::Yes(vec![listed(2, 2), listed(3, 3)]);
    let second = Duration::from_secs(1);
    for (age, gives_up) in [(None, false), (Some(0), false), (Some(9), false), (Some(10), true)] {
        seen.watch.out_since = age.map(|age| seen.now - age * second);
        let plan = decide(&seen, &ours);
        assert_eq!(discards(&plan), gives_up, "{age:?}: {:?}", plan.why);
        assert!(gives_up || rule(&plan) == "removal-unverified", "{age:?}: {:?}", plan.why);
    }
    // Added and without a name: known by its place.
    let nameless = |place| MemberSeen { node: String::new(), ..listed(1, place) };
    for (place, gives_up) in [(1, false), (9, true)] {
        seen.members = Known::Yes(vec![listed(2, 2), listed(3, 3), nameless(place)]);
        assert_eq!(discards(&decide(&seen, &ours)), gives_up, "{place}");
    }
}

#[test]
fn a_removed_member_joins_anew_only_on_the_word_of_a_server_that_serves() {
    let ours = settings(&[]);
    let (mut seen, _) = member(&ours);
    heal_of(&mut seen).tombstone = Known::Yes(());
    // Nobody was asked yet.
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "removal-unverified");
    assert!(matches!(plan.acts[..], [Act::AskMembers { .. }]), "{:?}", plan.acts);
    // A list without voters, and one that holds it where it is, prove nothing.
    for members in [vec![], vec![listed(1, 1), listed(2, 2)]] {
        seen.members = Known::Yes(members);
        assert!(!discards(&decide(&seen, &ours)));
    }
    seen.members = Known::Absent;
    assert!(!discards(&decide(&seen, &ours)));
    seen.members = Known::Yes(vec![listed(2, 2), listed(3, 3)]);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "rejoining");
    assert!(discards(&plan));
    // Nobody serves: nobody's word.
    for peer in view(&mut seen).peers.values_mut() {
        peer.claim_mut().api = Some(false);
    }
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), discards(&plan)), ("removal-unverified", false));
    // A member that votes is not removed, whatever stands in a file.
    for peer in view(&mut seen).peers.values_mut() {
        peer.claim_mut().api = Some(true);
    }
    assert!(discards(&decide(&seen, &ours)));
    seen.k3s.voter = Known::Yes(true);
    assert!(!discards(&decide(&seen, &ours)));
}

#[test]
fn a_member_that_does_not_vote_asks_whether_it_is_one() {
    let ours = settings(&[]);
    let (mut seen, _) = member(&ours);
    (seen.k3s.server_unit, seen.k3s.voter) = (Known::Yes(UnitSeen::Starting), Known::Yes(false));
    let asks =
        |seen: &Observed| decide(seen, &ours).acts.iter().any(|act| matches!(act, Act::AskMembers { .. }));
    let ago = |seen: &Observed, seconds| Some(seen.now - Duration::from_secs(seconds));
    // A start takes its time, whatever a list says that is older than it.
    let without = Known::Yes(vec![listed(2, 2), listed(3, 3)]);
    seen.watch.voteless_since = ago(&seen, 29);
    seen.members = without.clone();
    assert!(!discards(&decide(&seen, &ours)) && !asks(&seen));
    seen.watch.voteless_since = ago(&seen, 30);
    seen.members = Known::unknown("members", "not asked");
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "k3s-starting", "it goes on as a member");
    assert!(asks(&seen));
    seen.members = Known::Yes(vec![listed(1, 1), listed(2, 2), listed(3, 3)]);
    assert!(!discards(&decide(&seen, &ours)), "it is listed: it catches up");
    seen.members = without;
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), discards(&plan)), ("rejoining", true));
    // On its way in it may have been removed before it ever served; and while nobody serves there is nobody to ask.
    let mut joins = seen.clone();
    let cluster = seen.record.certificate.as_ref().unwrap().cluster_id.clone();
    record(&mut joins).data = Data::Joining { role: Role::Server, cluster };
    assert!(discards(&decide(&joins, &ours)));
    joins.watch.voteless_since = None;
    assert!(!discards(&decide(&joins, &ours)), "its etcd has not run");
    for peer in view(&mut seen).peers.values_mut() {
        peer.claim_mut().api = Some(false);
    }
    assert!(!discards(&decide(&seen, &ours)) && !asks(&seen));
}

#[test]
fn a_machine_whose_address_changed_joins_anew() {
    let ours = settings(&[]);
    let (mut seen, _) = member(&ours);
    seen.k3s.trouble = vec![Why::new("k3s-not-a-member", "not a member", "")];
    seen.members = Known::Yes(vec![listed(1, 99), listed(2, 2), listed(3, 3)]);
    let plan = decide(&seen, &ours);
    assert!(discards(&plan), "{plan:?}");
    assert!(plan.why[0].detail.contains("10.0.0.99"), "{:?}", plan.why);
}

#[test]
fn a_server_without_its_log_or_its_address_needs_no_word_of_k3s() {
    let ours = settings(&[]);
    let (mut seen, _) = member(&ours);
    assert!(!discards(&decide(&seen, &ours)));
    // k3s has made certificates anew on an empty disk, so that there is data of a kind.
    heal_of(&mut seen).wal = Known::Absent;
    assert!(discards(&decide(&seen, &ours)));
    // While nobody serves, nobody can take it in: the disk may be mounted late.
    let mut alone = seen.clone();
    for n in [2, 3] {
        view(&mut alone).peers.get_mut(&id(n)).unwrap().claim_mut().voter = Some(false);
    }
    assert_eq!(rule(&decide(&alone, &ours)), "data-missing");
    heal_of(&mut seen).wal = Known::unknown("etcd's log", "unread");
    assert!(!discards(&decide(&seen, &ours)));
    heal_of(&mut seen).wal = Known::Yes(());
    record(&mut seen).voters.insert("node1".into(), address(99));
    assert_eq!(rule(&decide(&seen, &ours)), "removal-unverified");
    seen.members = Known::Yes(vec![listed(1, 99), listed(2, 2), listed(3, 3)]);
    assert!(discards(&decide(&seen, &ours)));
    // It votes by the connections that it opens itself, and one of the others is dead: it is needed.
    (seen.k3s.voter, seen.k3s.api) = (Known::Yes(true), Known::Yes(false));
    assert!(discards(&decide(&seen, &ours)));
    view(&mut seen).peers.get_mut(&id(3)).unwrap().live = false;
    assert!(!discards(&decide(&seen, &ours)));
}

#[test]
fn an_ordered_agent_changes_its_role_and_stops_the_old_one_first() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Member { role: Role::Agent, cluster: born.cluster_id.clone() };
    record(&mut seen).served = true;
    seen.k3s.agent_unit = Known::Yes(UnitSeen::Active);
    seen.k3s.ready = Known::Yes(true);
    assert_eq!(decide(&seen, &ours).phase, Phase::Serving);
    heal_of(&mut seen).order = Some(Order::Server);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "promoted");
    let next = *plan.commit.unwrap();
    assert!(matches!(next.data, Data::Joining { role: Role::Server, .. }));
    seen.record = next.into();
    let plan = decide(&seen, &ours);
    assert_eq!(plan.acts, [Act::Retire { role: Role::Agent }]);
    // A machine that is to be an agent, or is unfit, stays one.
    let (mut stays, _) = (seen.clone(), ());
    record(&mut stays).data = Data::Member { role: Role::Agent, cluster: born.cluster_id.clone() };
    assert!(decide(&stays, &settings(&[("MUSTER_ROLE", "agent")])).commit.is_none());
    stays.host.blocks_server = vec![Why::new("memory", "too little", "")];
    assert_eq!(rule(&decide(&stays, &ours)), "host-unfit-for-server");
}

#[test]
fn who_finds_the_servers_complete_goes_back() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    seen.members = Known::Yes((2..=4).map(|n| listed(n, n)).collect());
    assert!(!discards(&decide(&seen, &ours)), "a first server has its place");
    Arc::make_mut(record(&mut seen).certificate.as_mut().unwrap()).first_servers = vec![id(2)];
    view(&mut seen).peers.get_mut(&id(2)).unwrap().claim_mut().certificate =
        record(&mut seen).certificate.clone();
    assert!(discards(&decide(&seen, &ours)));
    seen.k3s.server_data = Known::Yes(());
    assert!(!discards(&decide(&seen, &ours)), "with data it may be a member by now");
}

#[test]
fn leaving_needs_a_quorum_without_this_machine() {
    let ours = settings(&[]);
    let (mut seen, _) = healer(&ours);
    heal_of(&mut seen).leave = Some(LeaveRequest { reason: "workshop".into() });
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "leaving");
    assert!(
        matches!(&plan.acts[0], Act::Heal { remedy: Remedy::Demote { name, .. }, .. } if name == "node1")
    );
    // Another one leaves first.
    let mut beside = seen.clone();
    if let Known::Yes(nodes) = &mut heal_of(&mut beside).nodes {
        nodes[1].deleting = true;
    }
    let plan = decide(&beside, &ours);
    assert!(plan.why.iter().any(|why| why.rule == "leaving-waits"), "{:?}", plan.why);
    assert!(!plan.acts.iter().any(|act| matches!(act, Act::Heal { .. })));
    // Its own list does not tell that it is out; another server's does.
    seen.k3s.members = Known::Yes(vec![listed(2, 2), listed(3, 3)]);
    assert!(!discards(&decide(&seen, &ours)));
    seen.members = Known::Yes(vec![listed(2, 2), listed(3, 3)]);
    assert!(discards(&decide(&seen, &ours)));
    // One of the others is dead: two of three live, and one of two would.
    let (mut seen, _) = healer(&ours);
    heal_of(&mut seen).leave = Some(LeaveRequest { reason: "workshop".into() });
    view(&mut seen).peers.get_mut(&id(3)).unwrap().live = false;
    let plan = decide(&seen, &ours);
    assert_eq!(plan.phase, Phase::Serving);
    assert!(plan.why.iter().any(|why| why.rule == "leave-refused"), "{:?}", plan.why);
    assert!(!plan.acts.iter().any(|act| matches!(act, Act::Heal { .. })));
}

#[test]
fn an_agent_that_leaves_moves_its_pods_away_first() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Member { role: Role::Agent, cluster: born.cluster_id.clone() };
    record(&mut seen).served = true;
    (seen.k3s.agent_unit, seen.k3s.agent_data) = (Known::Yes(UnitSeen::Active), Known::Yes(()));
    seen.k3s.ready = Known::Yes(true);
    heal_of(&mut seen).leave = Some(LeaveRequest { reason: "workshop".into() });
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), plan.phase), ("leaving", Phase::Degraded));
    assert!(
        matches!(&plan.acts[..], [Act::Heal { remedy: Remedy::DrainSelf { name }, .. }] if name == "node1")
    );
    heal_of(&mut seen).draining = Some("node1".into());
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), plan.acts.len()), ("leaving", 0), "one drain is enough");
    let mut drained = seen.clone();
    let heal = heal_of(&mut drained);
    (heal.draining, heal.drained) = (None, Some("node1".into()));
    assert!(discards(&decide(&drained, &ours)));
    // Nobody answers for Kubernetes: it asks for a while, and goes then.
    heal_of(&mut seen).draining = None;
    for (ready, asked, goes) in [
        (Known::unknown("this node's Node", "no answer"), None, false),
        (Known::unknown("this node's Node", "no answer"), Some(29), false),
        (Known::unknown("this node's Node", "no answer"), Some(30), true),
        // There is no Node, so there are no pods.
        (Known::Absent, None, true),
    ] {
        seen.k3s.ready = ready;
        seen.now = Duration::from_secs(500);
        heal_of(&mut seen).unheard_since = asked.map(|asked| seen.now - Duration::from_secs(asked));
        let plan = decide(&seen, &ours);
        assert_eq!(discards(&plan), goes, "{asked:?}");
        if !goes {
            assert_eq!((rule(&plan), plan.acts.len()), ("leaving", 0), "{asked:?}");
        }
    }
}

#[test]
fn ages_begin_with_what_is_seen_and_an_unread_list_keeps_them() {
    let ours = settings(&[]);
    let (mut seen, _) = healer(&ours);
    heal_of(&mut seen).leave = Some(LeaveRequest { reason: "workshop".into() });
    seen.k3s.members = Known::Yes(vec![listed(1, 1), listed(2, 2)]);
    let at = Duration::from_secs;
    let no_answer = || Known::unknown("this node's Node", "no answer");
    let nodes = seen.heal.nodes.clone();
    let unread = Known::unknown("the Nodes", "no answer");
    let mut watch = crate::heal::Watch::default();
    // Seconds, Nodes, Ready; then: since when node2 has its verdict, there are too few voters, and nothing is heard; verdicts or none.
    for (now, nodes, ready, judged, uneven, unheard) in [
        (1, &nodes, Known::Yes(true), true, Some(at(1)), None),
        (2, &unread, no_answer(), false, Some(at(1)), Some(at(2))),
        (3, &nodes, no_answer(), true, Some(at(1)), Some(at(2))),
        (4, &nodes, Known::Absent, true, Some(at(1)), None),
        (5, &nodes, no_answer(), true, Some(at(1)), Some(at(5))),
    ] {
        (seen.now, seen.k3s.ready) = (at(now), ready);
        let mut heal =
            HealSeen { nodes: nodes.clone(), leave: seen.heal.leave.clone(), ..HealSeen::default() };
        let verdicts = watch.take(&seen, &mut heal, 3);
        assert_eq!(verdicts.is_some(), judged, "{now}");
        assert_eq!((heal.uneven_since, heal.unheard_since), (uneven, unheard), "{now}");
        assert_eq!(heal.since["node2"].1, at(1), "{now}");
    }
    // Nobody asked it to leave.
    let mut heal = HealSeen::default();
    seen.now = at(6);
    watch.take(&seen, &mut heal, 3);
    assert_eq!(heal.unheard_since, None);
}

#[test]
fn a_machine_that_left_stays_out_until_that_is_taken_back() {
    let ours = settings(&[]);
    let (mut seen, _) = certified(&ours);
    heal_of(&mut seen).leave = Some(LeaveRequest { reason: "workshop".into() });
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), plan.phase), ("left-cluster", Phase::Parked));
    heal_of(&mut seen).leave = None;
    assert_ne!(rule(&decide(&seen, &ours)), "left-cluster");
}

#[test]
fn a_lost_quorum_names_who_is_missing() {
    let ours = settings(&[]);
    let (mut seen, _) = member(&ours);
    seen.k3s.server_unit = Known::Yes(UnitSeen::Starting);
    seen.k3s.voter = Known::Yes(false);
    assert_ne!(rule(&decide(&seen, &ours)), "quorum-lost", "the others live");
    view(&mut seen).peers.get_mut(&id(2)).unwrap().live = false;
    assert_ne!(rule(&decide(&seen, &ours)), "quorum-lost", "two of three are enough");
    view(&mut seen).peers.get_mut(&id(3)).unwrap().live = false;
    let at = seen.now - std::time::Duration::from_secs(7);
    heal_of(&mut seen).silent.insert(id(2), at);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "quorum-lost");
    let detail = &plan.why[0].detail;
    for words in
        ["1 of 3", "2 are needed", "node2 at 10.0.0.2, silent since 7 s", "node3 at 10.0.0.3, not heard"]
    {
        assert!(detail.contains(words), "{detail}");
    }
    assert!(
        plan.commit.is_none()
            && !plan.acts.iter().any(|act| matches!(act, Act::Heal { .. } | Act::Discard { .. }))
    );
    // A machine that was imaged anew under the name of a voter does not stand in for it.
    let anew = Claim { name: "node3".into(), address: address(3), ..claim(7, &ours) };
    hears(&mut seen, anew, &ours);
    assert_eq!(rule(&decide(&seen, &ours)), "quorum-lost");
}

#[test]
fn two_clusters_under_one_certificate_freeze_both_sides() {
    let ours = settings(&[]);
    let (seen, born) = healer(&ours);
    let freezes = |plan: &Plan| plan.phase == Phase::Degraded && plan.acts.is_empty();
    let mut one = seen.clone();
    heal_of(&mut one).leaf_ends = Known::Yes(86_400);
    let at = one.now - std::time::Duration::from_secs(29);
    heal_of(&mut one).strangers.insert("node3".into(), at);
    let plan = decide(&one, &ours);
    assert_eq!((plan.phase, rule(&plan)), (Phase::Serving, "serving"), "a moment may be a list that is late");
    let at = one.now - std::time::Duration::from_secs(30);
    heal_of(&mut one).strangers.insert("node3".into(), at);
    let plan = decide(&one, &ours);
    assert_eq!(rule(&plan), "members-split");
    assert!(freezes(&plan), "{plan:?}");
    // The other side may still list this one: it is told.
    let mut other = seen.clone();
    let told = Claim { why: "members-split".into(), ..server(3, &born, &ours) };
    hears(&mut other, told.clone(), &ours);
    let plan = decide(&other, &ours);
    assert_eq!(rule(&plan), "members-split-told");
    assert!(freezes(&plan), "{plan:?}");
    // Hearsay goes no further, and ends with its source.
    hears(&mut other, Claim { why: "members-split-told".into(), counter: 9, ..told }, &ours);
    assert_eq!(rule(&decide(&other, &ours)), "serving");
}

#[test]
fn only_the_holder_of_the_lease_heals_and_only_while_it_holds_it() {
    let ours = settings(&[]);
    let (mut seen, born) = healer(&ours);
    // Three lose one, and agent 4 could take its place.
    let agent = crate::gossip::Claim {
        role: Role::Agent,
        phase: Phase::Serving,
        ready: Some(true),
        certificate: Some(born.clone()),
        ..claim(4, &ours)
    };
    hears(&mut seen, agent, &ours);
    view(&mut seen).peers.get_mut(&id(3)).unwrap().live = false;
    heal_of(&mut seen).reach.insert(address(3), Reach::Silent);
    if let Known::Yes(nodes) = &mut heal_of(&mut seen).nodes {
        nodes[2].ready = Known::Yes(false);
    }
    heal_of(&mut seen).since.insert("node3".into(), (heal::Verdict::Dead, std::time::Duration::ZERO));
    seen.now = std::time::Duration::from_secs(1_000);
    let heals = |seen: &Observed| {
        decide(seen, &ours)
            .acts
            .iter()
            .any(|act| matches!(act, Act::Heal { remedy: Remedy::Remove { .. }, .. }))
    };
    let hold = |seen: &mut Observed, until: Option<u64>| {
        heal_of(seen).lease =
            Known::Yes(Holder { id: "x".into(), until: until.map(std::time::Duration::from_secs) });
    };
    hold(&mut seen, Some(1_001));
    assert!(heals(&seen));
    hold(&mut seen, Some(1_000));
    assert!(!heals(&seen), "its time is over");
    hold(&mut seen, None);
    assert!(!heals(&seen), "another one's");
    heal_of(&mut seen).lease = Known::unknown("the Lease", "no answer");
    assert!(!heals(&seen));
    hold(&mut seen, Some(1_001));
    let off = settings(&[("MUSTER_HEALING_MODE", "off")]);
    assert!(!decide(&seen, &off).acts.iter().any(|act| matches!(act, Act::Heal { .. })));
    // What cannot be told adds no step.
    seen.k3s.members = Known::unknown("the members", "no answer");
    assert!(!heals(&seen));
}

#[test]
fn the_voters_are_kept_for_the_day_without_a_quorum() {
    let ours = settings(&[]);
    let (mut seen, _) = healer(&ours);
    assert!(decide(&seen, &ours).commit.is_none_or(|next| next.voters == seen.record.voters));
    seen.k3s.members = Known::Yes(vec![listed(1, 1), listed(2, 2), listed(5, 5)]);
    let next = decide(&seen, &ours).commit.unwrap();
    assert_eq!(next.voters.keys().collect::<Vec<_>>(), ["node1", "node2", "node5"]);
    seen.k3s.members =
        Known::Yes(vec![listed(1, 1), listed(3, 3), MemberSeen { learner: true, ..listed(4, 4) }]);
    let next = decide(&seen, &ours).commit.unwrap();
    assert_eq!(next.voters.keys().collect::<Vec<_>>(), ["node1", "node3"], "a learner is no voter");
}
