//! Which role a newcomer takes: every row is one look of node 1 at a cluster that node 2 founded.

use std::sync::Arc;

use super::super::tests::{address, alone, claim, hears, record, server, settings, view};
use super::*;
use crate::founding::testing::{certificate, id};
use crate::gossip::Fitness;

/// What differs from a look at node 2 alone, which serves, a while after the view last changed.
#[derive(Clone, Copy)]
enum Fact {
    MovedAside,
    Serves(u8),
    Lists(&'static [u8]),
    NobodyAnswers,
    Newcomer(u8, u8, WantedRole),
    JustSettled,
}

fn chosen(first_servers: [u8; 3], facts: &[Fact]) -> (&'static str, String) {
    let ours = settings(&[]);
    let born =
        Arc::new(Certificate { first_servers: first_servers.map(id).to_vec(), ..(*certificate(2)).clone() });
    let mut seen = alone(&ours);
    hears(&mut seen, server(2, &born, &ours), &ours);
    seen.watch.settled_since = seen.now.saturating_sub(PLACE_KEPT);
    for fact in facts {
        match *fact {
            Fact::MovedAside => record(&mut seen).discarded = 1,
            Fact::Serves(n) => hears(&mut seen, server(n, &born, &ours), &ours),
            Fact::Lists(nodes) => {
                let member = |n: &u8| MemberSeen {
                    node: format!("node{n}"),
                    learner: false,
                    address: Some(address(*n)),
                };
                seen.members = Known::Yes(nodes.iter().map(member).collect());
            }
            Fact::NobodyAnswers => seen.members = Known::Absent,
            Fact::Newcomer(n, class, wants) => {
                hears(&mut seen, Claim { fitness: Fitness { class }, wants, ..claim(n, &ours) }, &ours);
            }
            Fact::JustSettled => seen.watch.settled_since += Duration::from_millis(1),
        }
    }
    let (choice, rule) = match choose(&seen, &ours, &born) {
        Choice::Take(Role::Server, why) => ("server", why.rule),
        Choice::Take(Role::Agent, why) => ("agent", why.rule),
        Choice::Take(Role::Undecided, why) => ("undecided", why.rule),
        Choice::Ask => return ("ask", String::new()),
        Choice::Wait(why) => ("wait", why.rule),
    };
    (choice, rule.to_string())
}

#[test]
fn a_newcomer_takes_the_place_that_is_free_and_no_other() {
    use Fact::{JustSettled, Lists, MovedAside, Newcomer, NobodyAnswers, Serves};
    use WantedRole::{Auto, Server};
    type Row = (&'static str, [u8; 3], &'static [Fact], (&'static str, &'static str));
    let (named, other) = ([2, 1, 3], [2, 3, 4]);
    let full = ("agent", "servers-full");
    let vacancy = ("server", "server-vacancy");
    let rows: [Row; 19] = [
        ("named on the certificate", named, &[], ("server", "first-server")),
        ("its data moved aside", named, &[MovedAside], ("ask", "")),
        ("its old member is listed", named, &[MovedAside, Lists(&[2, 1])], ("wait", "name-held")),
        ("its place is free", named, &[MovedAside, Lists(&[2, 3])], ("server", "first-server")),
        ("its place was filled", named, &[MovedAside, Lists(&[2, 3, 4])], full),
        ("all servers are live", other, &[Serves(3), Serves(4)], full),
        ("one is missing: the list is asked", other, &[Serves(3)], ("ask", "")),
        ("nobody could be asked", other, &[NobodyAnswers], ("ask", "")),
        ("its name is another's", other, &[Lists(&[1, 2])], ("wait", "name-held")),
        ("the list is full, two are silent", other, &[Lists(&[2, 3, 4]), JustSettled], full),
        ("one more than wanted", other, &[Lists(&[2, 3, 4, 5])], full),
        ("a silent first server", other, &[Lists(&[2, 3]), JustSettled], ("wait", "place-kept")),
        ("silent for long", other, &[Lists(&[2, 3])], vacancy),
        ("a first server on its way", other, &[Lists(&[2, 3]), Newcomer(4, 2, Auto)], full),
        ("a fitter newcomer", other, &[Lists(&[2, 3]), Newcomer(5, 3, Auto)], full),
        ("a fitter one, and two places", other, &[Lists(&[2]), Newcomer(5, 3, Auto)], vacancy),
        ("a less fit newcomer", other, &[Lists(&[2, 3]), Newcomer(5, 1, Auto)], vacancy),
        ("one as fit, of a higher identity", other, &[Lists(&[2, 3]), Newcomer(5, 2, Auto)], vacancy),
        ("one told to be a server", other, &[Lists(&[2, 3]), Newcomer(5, 0, Server)], full),
    ];
    for (what, first_servers, facts, expected) in rows {
        let (choice, rule) = chosen(first_servers, facts);
        assert_eq!((choice, rule.as_str()), expected, "{what}");
    }
}

#[test]
fn a_newcomer_is_taken_in_by_a_live_server_of_its_cluster_that_votes_and_answers() {
    let ours = settings(&[]);
    let born = certificate(2);
    let older = Arc::new(Certificate { era: 0, ..(*certificate(9)).clone() });
    let sound = |n: u8| server(n, &born, &ours);
    let to = |claims: Vec<(Claim, bool)>| {
        let mut seen = alone(&ours);
        for (claim, live) in claims {
            let owner = claim.owner.clone();
            hears(&mut seen, claim, &ours);
            view(&mut seen).peers.get_mut(&owner).unwrap().live = live;
        }
        target(&seen, &born).map(|claim| claim.name.clone())
    };
    let node = |name: &str| Some(name.to_owned());
    assert_eq!(to(vec![(sound(3), true)]), node("node3"));
    assert_eq!(to(vec![(sound(4), true), (sound(3), true)]), node("node3"), "the lowest identity");
    assert_eq!(to(vec![(sound(3), true), (sound(2), true)]), node("node2"), "the founder first");
    assert_eq!(to(vec![(sound(3), true), (sound(2), false)]), node("node3"), "a founder that is silent");
    for (what, claim) in [
        ("of another cluster", server(3, &older, &ours)),
        ("without a certificate", Claim { certificate: None, ..sound(3) }),
        ("a learner", Claim { voter: Some(false), ..sound(3) }),
        ("whether it votes is not known", Claim { voter: None, ..sound(3) }),
        ("its API is down", Claim { api: Some(false), ..sound(3) }),
        ("its API is not known", Claim { api: None, ..sound(3) }),
        ("an agent", Claim { role: Role::Agent, ..sound(3) }),
    ] {
        assert_eq!(to(vec![(claim, true)]), None, "{what}");
    }
    assert_eq!(to(vec![(sound(3), false)]), None, "silent");
}
