use super::*;
use crate::core::{Known, NodeId, ParametersHash, Phase};
use crate::decide::MemberSeen;
use crate::founding::testing::{certificate, id};
use crate::gossip::{Claim, Fitness, Peer, Role, WantedRole};
use crate::heal::labels::Wanted;
use crate::heal::{Evidence, HealSeen, Own, Reach};

/// A cluster that servers 1, 2 and 3 form, seen by server 1, which holds the Lease. Agents have higher numbers.
struct World {
    members: Vec<MemberSeen>,
    peers: BTreeMap<NodeId, Peer>,
    seen: HealSeen,
    target: usize,
}

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn name(n: u8) -> String {
    format!("node{n}")
}

fn claim(n: u8, role: Role) -> Claim {
    let server = role == Role::Server;
    Claim {
        v: 1,
        owner: id(n),
        generation: 1,
        counter: 1,
        name: name(n),
        address: address(n),
        wants: WantedRole::Auto,
        eligible: true,
        fitness: Fitness { class: 2 },
        parameters: ParametersHash::from_digest(&[1; 32]),
        era: 1,
        register: None,
        proposal: None,
        certificate: Some(certificate(1)),
        annulment: None,
        phase: Phase::Serving,
        role,
        voter: server.then_some(true),
        api: server.then_some(true),
        ready: Some(true),
        why: "".into(),
        zone: String::new(),
        marks: crate::identity::Marks::default(),
        recovery: None,
        fenced: false,
    }
}

fn node(n: u8, server: bool) -> NodeSeen {
    NodeSeen {
        name: name(n),
        uid: format!("uid{n}"),
        ready: Known::Yes(true),
        identity: Some(id(n).as_str().to_owned()),
        order: None,
        cordoned: false,
        server,
        deleting: false,
        addresses: vec![address(n)],
    }
}

fn world(servers: u8, agents: u8) -> World {
    let mut world = World {
        members: (1..=servers)
            .map(|n| MemberSeen { node: name(n), learner: false, address: Some(address(n)) })
            .collect(),
        peers: BTreeMap::new(),
        seen: HealSeen {
            nodes: Known::Yes((1..=servers).map(|n| node(n, true)).collect()),
            ..HealSeen::default()
        },
        target: 3,
    };
    for n in 2..=servers {
        world.hears(claim(n, Role::Server), true);
        world.seen.reach.insert(address(n), Reach::Answers);
    }
    for n in servers + 1..=servers + agents {
        world.hears(claim(n, Role::Agent), true);
    }
    world
}

impl World {
    fn hears(&mut self, claim: Claim, live: bool) {
        let gossip_address = std::net::SocketAddr::new(claim.address, 7846);
        let owner = claim.owner.clone();
        self.peers.insert(owner, Peer { parameters: None, live, gossip_address, claim: claim.into() });
    }

    fn nodes(&mut self) -> &mut Vec<NodeSeen> {
        match &mut self.seen.nodes {
            Known::Yes(nodes) => nodes,
            _ => unreachable!("the nodes of this world are known"),
        }
    }

    fn node(&mut self, n: u8) -> &mut NodeSeen {
        self.nodes().iter_mut().find(|node| node.name == name(n)).unwrap()
    }

    /// By every witness, since the beginning.
    fn dies(&mut self, n: u8) {
        self.peers.get_mut(&id(n)).unwrap().live = false;
        self.seen.reach.insert(address(n), Reach::Silent);
        self.node(n).ready = Known::unknown("the Ready condition", "NodeStatusUnknown");
    }

    fn at(&mut self, seconds: u64) -> Advice {
        let own_id = id(1);
        let own_name = name(1);
        let own = Own { id: &own_id, name: &own_name };
        let judged = super::super::judge(own, &self.members, &self.peers, &self.seen);
        // Everything has been as it is since second 0.
        self.seen.since =
            judged.iter().map(|one| (one.name.clone(), (one.verdict, Duration::ZERO))).collect();
        let certificate = certificate(1);
        choose(&Input {
            now: Duration::from_secs(seconds),
            own,
            zone: "a",
            votes: true,
            cluster: &certificate.cluster_id,
            target: self.target,
            grace: Duration::from_secs(300),
            patience: Duration::from_secs(200),
            first: &certificate.first_servers,
            labels: &Wanted { agent: [("tier".to_owned(), "work".to_owned())].into(), ..Wanted::default() },
            members: &self.members,
            judged: &judged,
            peers: &self.peers,
            seen: &self.seen,
        })
    }

    /// The rule that speaks, and the machine that is touched, if any.
    fn says(&mut self, seconds: u64) -> (String, Option<String>) {
        let advice = self.at(seconds);
        match advice.remedy {
            Some((why, remedy)) => {
                let name = match remedy {
                    Remedy::Remove { name, .. }
                    | Remedy::RemoveMember { name, .. }
                    | Remedy::Demote { name, .. }
                    | Remedy::Promote { name }
                    | Remedy::DrainSelf { name }
                    | Remedy::Withdraw { name }
                    | Remedy::Label { name, .. }
                    | Remedy::Settle { name } => name,
                };
                (why.rule.to_string(), Some(name))
            }
            None => (advice.why.first().map(|why| why.rule.to_string()).unwrap_or_default(), None),
        }
    }
}

fn acts(rule: &str, on: u8) -> (String, Option<String>) {
    (rule.to_owned(), Some(name(on)))
}

fn waits(rule: &str) -> (String, Option<String>) {
    (rule.to_owned(), None)
}

#[test]
fn nothing_is_done_about_a_cluster_that_is_as_it_should_be() {
    assert_eq!(world(3, 2).says(1000), waits(""));
    assert_eq!(world(3, 2).at(1000), Advice::default());
}

#[test]
fn a_dead_server_is_removed_after_the_grace_when_another_can_take_its_place() {
    let mut world = world(3, 1);
    world.dies(3);
    assert_eq!(world.says(299), waits("server-silent"));
    assert_eq!(world.says(300), acts("server-removed", 3));
    // Without anybody to take its place its member is kept.
    world.peers.remove(&id(4));
    assert_eq!(world.says(3000), waits("no-spare"));
}

#[test]
fn one_sign_of_life_keeps_a_server() {
    type Sign = fn(&mut World);
    let signs: [Sign; 3] = [
        |world| world.peers.get_mut(&id(3)).unwrap().live = true,
        |world| {
            world.seen.reach.insert(address(3), Reach::Answers);
        },
        |world| world.node(3).ready = Known::Yes(true),
    ];
    for sign in signs {
        let mut world = world(3, 1);
        world.dies(3);
        sign(&mut world);
        assert_eq!(world.at(10_000).remedy, None);
    }
}

#[test]
fn what_is_not_known_is_never_death() {
    let mut world = world(3, 1);
    world.dies(3);
    world.seen.reach.remove(&address(3));
    assert_eq!(world.at(10_000).remedy, None, "not asked directly");
    world.dies(3);
    world.seen.nodes = Known::unknown("the servers' Nodes", "no answer");
    assert_eq!(world.at(10_000).remedy, None, "no Nodes");
}

#[test]
fn a_terminated_or_replaced_machine_needs_no_grace() {
    let mut one = world(3, 1);
    one.dies(3);
    one.seen.terminated.insert(address(3), "aws".into());
    assert_eq!(one.says(8), acts("server-removed", 3));
    // Another identity lives at its address, under its name or another.
    let mut two = world(3, 0);
    two.dies(3);
    let mut newcomer = claim(9, Role::Undecided);
    (newcomer.name, newcomer.address, newcomer.why) = (name(3), address(3), "name-held".into());
    newcomer.phase = Phase::Joining;
    two.hears(newcomer, true);
    assert_eq!(two.says(8), acts("server-removed", 3));
    // The machine itself says that it holds nothing: it lost its data, or has another address now.
    let mut three = world(3, 0);
    three.seen.reach.insert(address(3), Reach::Silent);
    three.node(3).ready = Known::Yes(false);
    let mut lost = claim(3, Role::Undecided);
    (lost.address, lost.why, lost.phase) = (address(33), "name-held".into(), Phase::Joining);
    three.hears(lost, true);
    assert_eq!(three.says(7), waits("server-silent"), "claims and lists are seconds apart");
    assert_eq!(three.says(8), acts("server-removed", 3));
}

#[test]
fn a_dead_member_without_a_node_is_removed_by_etcd_itself() {
    let mut world = world(3, 1);
    world.dies(3);
    world.nodes().retain(|node| node.name != name(3));
    assert_eq!(world.says(299), waits("server-silent"));
    assert_eq!(world.says(300), acts("member-without-node", 3));
    assert!(
        matches!(world.at(300).remedy, Some((_, Remedy::RemoveMember { address: at, .. })) if at == address(3))
    );
    // A list of Nodes that could not be read is not one without this Node.
    world.seen.nodes = Known::unknown("the servers' Nodes", "no answer");
    assert_eq!(world.at(10_000).remedy, None);
}

#[test]
fn a_dead_member_whose_node_does_not_go_is_removed_by_etcd_itself() {
    let mut hangs = world(3, 1);
    hangs.dies(3);
    hangs.node(3).deleting = true;
    assert_eq!(hangs.says(360), acts("member-without-node", 3));
    assert!(matches!(hangs.at(360).remedy, Some((_, Remedy::RemoveMember { .. }))));
    // Without a majority beside it nothing is told to etcd either.
    let mut alone = world(3, 1);
    for n in [2, 3] {
        alone.dies(n);
        alone.node(n).deleting = true;
    }
    assert_eq!(alone.says(10_000), waits("removal-refused"));
}

#[test]
fn a_node_without_k3s_label_is_its_members_all_the_same() {
    let mut dead = world(3, 1);
    dead.dies(3);
    dead.node(3).server = false;
    assert_eq!(dead.says(300), acts("server-removed", 3));
    assert!(matches!(dead.at(300).remedy, Some((_, Remedy::Remove { uid, .. })) if uid == "uid3"));
    // Its kubelet's word for life counts.
    dead.node(3).ready = Known::Yes(true);
    assert_eq!(dead.at(10_000).remedy, None);
}

#[test]
fn a_machine_that_waits_for_its_name_is_believed_where_no_node_bears_a_mark() {
    let lost = |why: &'static str| {
        let mut claim = claim(3, Role::Undecided);
        (claim.why, claim.phase) = (why.into(), Phase::Joining);
        claim
    };
    let wiped = |why: &'static str| {
        let mut world = world(3, 0);
        world.nodes().retain(|node| node.name != name(3));
        world.seen.reach.insert(address(3), Reach::Refuses);
        world.hears(lost(why), true);
        world
    };
    assert_eq!(wiped("name-held").says(8), acts("member-without-node", 3));
    assert_eq!(wiped("asking-members").at(10_000).remedy, None, "it does not say so");
    let mut answers = wiped("name-held");
    answers.seen.reach.insert(address(3), Reach::Answers);
    assert_eq!(answers.at(10_000).remedy, None, "something serves there");
    // Another that holds the token says so in its place, and the server itself lives.
    let mut lied = wiped("name-held");
    lied.hears(Claim { owner: id(9), ..lost("name-held") }, true);
    let mut server = claim(3, Role::Server);
    server.phase = Phase::Serving;
    lied.hears(server, true);
    assert_eq!(lied.at(10_000).remedy, None);
}

#[test]
fn nothing_is_removed_without_a_majority_of_the_living() {
    let mut world = world(5, 3);
    world.target = 5;
    for n in [3, 4, 5] {
        world.dies(n);
    }
    assert_eq!(world.says(10_000), waits("removal-refused"));
    let mut world = self::world(5, 3);
    world.target = 5;
    for n in [4, 5] {
        world.dies(n);
    }
    assert_eq!(world.says(10_000), acts("server-removed", 4));
}

#[test]
fn who_is_to_come_needs_every_dead_member_out() {
    // Of five servers two are dead; one was removed and the only spare is on its way to its place: etcd takes nobody in while the
    // other one is listed and does not answer.
    let mut world = world(4, 0);
    world.target = 5;
    world.dies(4);
    assert_eq!(world.says(10_000), waits("no-spare"));
    let mut coming = claim(9, Role::Server);
    (coming.voter, coming.phase) = (Some(false), Phase::Joining);
    world.hears(coming, true);
    assert_eq!(world.says(10_000), acts("server-removed", 4));
}

#[test]
fn a_vacancy_goes_to_the_fittest_live_spare() {
    let mut world = world(2, 3);
    world.seen.uneven_since = Some(Duration::ZERO);
    assert_eq!(world.says(1), waits("servers-missing"), "a moment may be a list that is late");
    assert_eq!(world.says(10), acts("spare-promoted", 3), "equals: the lowest identity");
    world.peers.get_mut(&id(5)).unwrap().claim_mut().fitness = Fitness { class: 3 };
    assert_eq!(world.says(10), acts("spare-promoted", 5));
    world.peers.get_mut(&id(4)).unwrap().claim_mut().wants = WantedRole::Server;
    assert_eq!(world.says(10), acts("spare-promoted", 4), "a machine that is meant to be one first");
    for (n, change) in [
        (3, (|claim| claim.wants = WantedRole::Agent) as fn(&mut Claim)),
        (4, |claim| claim.eligible = false),
        (5, |claim| claim.ready = Some(false)),
    ] {
        change(world.peers.get_mut(&id(n)).unwrap().claim_mut());
    }
    assert_eq!(world.says(10), waits("servers-missing"));
}

#[test]
fn servers_are_spread_over_zones() {
    // The healer stands in zone a, as everybody does who is not named here.
    let zoned = |servers: u8, agents: u8, elsewhere: &[(u8, &str)]| {
        let mut world = world(servers, agents);
        world.seen.uneven_since = Some(Duration::ZERO);
        for peer in world.peers.values_mut() {
            peer.claim_mut().zone = "a".into();
        }
        for (n, zone) in elsewhere {
            world.peers.get_mut(&id(*n)).unwrap().claim_mut().zone = (*zone).to_owned();
        }
        world
    };
    assert_eq!(zoned(2, 3, &[]).says(10), acts("spare-promoted", 3));
    assert_eq!(zoned(2, 3, &[(4, "b")]).says(10), acts("spare-promoted", 4));
    assert_eq!(zoned(2, 3, &[(2, "b"), (4, "b"), (5, "c")]).says(10), acts("spare-promoted", 5));
    let mut unfit = zoned(2, 3, &[(4, "b")]);
    unfit.peers.get_mut(&id(4)).unwrap().claim_mut().fitness = Fitness { class: 0 };
    assert_eq!(unfit.says(10), acts("spare-promoted", 3), "a zone does not make a slow disk good");
    // The fullest zone gives one up.
    assert_eq!(zoned(4, 0, &[]).says(30), acts("surplus-demoted", 4));
    assert_eq!(zoned(4, 0, &[(3, "b"), (4, "c")]).says(30), acts("surplus-demoted", 2));
    // And the Nodes are told, when there is nothing else to do.
    let mut told = zoned(3, 1, &[(4, "b")]);
    let done = [("tier".to_owned(), "work".to_owned())].into();
    let agent = crate::heal::labels::Labelled { name: name(4), server: false, labels: done };
    told.seen.labelled = Some(vec![agent]);
    assert_eq!(told.says(10), acts("labels-set", 4));
}

#[test]
fn of_too_many_servers_one_without_a_node_goes_first() {
    let mut world = world(4, 0);
    world.seen.uneven_since = Some(Duration::ZERO);
    assert_eq!(world.says(30), acts("surplus-demoted", 4));
    world.nodes().retain(|node| node.name != name(2));
    assert_eq!(world.says(29), waits("servers-surplus"));
    assert_eq!(world.says(30), acts("surplus-demoted", 2));
    // One that is not heard is not the one that goes, and nobody else goes beside it.
    world.peers.get_mut(&id(2)).unwrap().live = false;
    assert_ne!(world.says(30), acts("surplus-demoted", 2));
    assert_ne!(world.says(30), acts("surplus-demoted", 4));
}

#[test]
fn one_change_at_a_time() {
    // Somebody is on its way.
    let mut one = world(2, 2);
    one.seen.uneven_since = Some(Duration::ZERO);
    let mut joining = claim(9, Role::Server);
    (joining.voter, joining.phase) = (Some(false), Phase::Joining);
    one.hears(joining.clone(), true);
    assert_eq!(one.says(100), waits("server-joining"));
    // But not for ever, and not while it is parked.
    one.seen.on_way.insert(name(9), Duration::ZERO);
    assert_eq!(one.says(200), acts("spare-promoted", 3));
    one.seen.on_way.clear();
    let mut leaver = joining.clone();
    (leaver.role, leaver.why) = (Role::Server, "leaving".into());
    one.hears(leaver, true);
    assert_eq!(one.says(100), acts("spare-promoted", 3), "who leaves is on no way");
    joining.phase = Phase::Parked;
    one.hears(joining, true);
    assert_eq!(one.says(100), acts("spare-promoted", 3));
    // A learner.
    let mut two = world(3, 1);
    two.dies(3);
    two.members.push(MemberSeen { node: name(4), learner: true, address: Some(address(4)) });
    assert_eq!(two.says(10_000), waits("heal-waits-for-learner"));
    // One that was added and never started, and that nobody can remove but etcd's leader.
    let mut unstarted = world(2, 1);
    unstarted.members.push(MemberSeen { node: String::new(), learner: true, address: Some(address(9)) });
    unstarted.seen.reach.insert(address(9), Reach::Silent);
    assert_eq!(unstarted.says(10_000), waits("heal-waits-for-learner"));
    // A drain.
    let mut three = world(3, 1);
    three.dies(3);
    three.seen.draining = Some(name(4));
    assert_eq!(three.says(10_000), waits("draining"));
    // A Node that is going already.
    let mut four = world(3, 1);
    four.dies(3);
    four.node(3).deleting = true;
    assert_eq!(four.says(359), waits("removing"), "a minute beyond the grace");
    // One that lives is on its way out by its own word, however long that takes.
    let mut five = world(3, 1);
    five.node(3).deleting = true;
    assert_eq!(five.says(10_000), waits("removing"));
}

#[test]
fn an_order_that_cannot_be_carried_out_keeps_no_other_change_waiting() {
    let ordered = |votes: bool| {
        let mut world = world(2, 2);
        let mut node = node(3, true);
        (node.order, node.cordoned, node.ready) = (Some(Order::Server), true, Known::Yes(false));
        world.nodes().push(node);
        world.seen.on_way.insert(name(3), Duration::ZERO);
        world.members.push(MemberSeen { node: name(3), learner: !votes, address: Some(address(3)) });
        let mut claim = claim(3, Role::Server);
        (claim.voter, claim.ready) = (Some(votes), Some(false));
        world.hears(claim, true);
        world
    };
    // It votes, and its Node does not become Ready.
    let mut votes = ordered(true);
    assert_eq!(votes.says(199), waits("promoting"));
    assert_eq!(votes.says(200), acts("spare-failed", 3));
    // A learner that is slow is waited for; etcd's leader removes one that stands still.
    let mut learns = ordered(false);
    assert_eq!(learns.says(200), waits("promoting"));
    // It died between its vote and its Node's readiness, or as a learner: longer ago than the grace.
    for mut dead in [ordered(true), ordered(false)] {
        dead.seen.on_way.insert(name(3), Duration::from_secs(250));
        dead.dies(3);
        assert_eq!(dead.says(299), waits("promoting"));
        assert_eq!(dead.says(300), acts("spare-failed", 3));
        dead.node(3).order = None;
        dead.node(3).cordoned = false;
        assert_eq!(dead.says(300), acts("server-removed", 3));
    }
}

#[test]
fn an_order_is_followed_to_its_end() {
    let mut world = world(2, 2);
    world.seen.uneven_since = Some(Duration::ZERO);
    let mut ordered = node(3, false);
    (ordered.order, ordered.cordoned) = (Some(Order::Server), true);
    world.nodes().push(ordered);
    world.seen.on_way.insert(name(3), Duration::ZERO);
    assert_eq!(world.says(199), waits("promoting"));
    assert_eq!(world.says(200), acts("spare-failed", 3));
    world.members.push(MemberSeen { node: name(3), learner: false, address: Some(address(3)) });
    world.hears(claim(3, Role::Server), true);
    assert_eq!(world.says(200), acts("order-done", 3));
    world.node(3).order = None;
    assert_eq!(world.says(201), acts("cordon-left", 3), "a healer died in between");
    world.seen.drained = Some(name(3));
    assert_eq!(world.says(201), acts("cordon-left", 3), "drained, and not needed any more");
    // Drained a moment ago and still needed: it is ordered next, and not made schedulable.
    world.members.pop();
    world.hears(claim(3, Role::Agent), true);
    assert_eq!(world.says(201), acts("spare-promoted", 3));
}

#[test]
fn a_surplus_is_demoted_when_all_are_well_for_a_while() {
    let mut world = world(4, 0);
    world.seen.uneven_since = Some(Duration::ZERO);
    assert_eq!(world.says(29), waits("servers-surplus"));
    assert_eq!(world.says(30), acts("surplus-demoted", 4), "equals: the highest identity");
    world.peers.get_mut(&id(2)).unwrap().claim_mut().fitness = Fitness { class: 1 };
    assert_eq!(world.says(30), acts("surplus-demoted", 2));
    world.node(3).ready = Known::Yes(false);
    assert_eq!(world.says(30), waits("servers-surplus"), "one is not well");
    world.node(3).ready = Known::Yes(true);
    world.dies(4);
    assert_eq!(world.says(300), acts("server-removed", 4), "the dead one first, without a spare");
}

#[test]
fn a_server_that_votes_elsewhere_stops_all_healing() {
    let mut world = world(3, 1);
    world.dies(3);
    world.hears(claim(8, Role::Server), true);
    assert_eq!(world.says(29), waits("members-differ"));
    assert_eq!(world.says(10_000), waits("members-split"));
}

#[test]
fn labels_are_set_when_there_is_nothing_else_to_do() {
    let agent = crate::heal::labels::Labelled { name: name(4), server: false, labels: BTreeMap::new() };
    let mut world = world(3, 1);
    world.seen.labelled = Some(vec![agent]);
    assert_eq!(world.says(10), acts("labels-set", 4));
    world.dies(3);
    assert_eq!(world.says(10), waits("server-silent"));
}

#[test]
fn evidence_names_every_witness() {
    let evidence = Evidence {
        gossip: Some(false),
        reach: Some(Reach::Silent),
        node: Known::Yes(false),
        votes: Some(true),
        terminated: Some("aws".into()),
        replaced: None,
    };
    let lines = evidence.lines().join("; ");
    assert_eq!(
        lines,
        "gossip: silent; asked directly: no answer; Kubernetes: not Ready; etcd: voter; terminated: aws"
    );
}
