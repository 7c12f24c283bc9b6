use proptest::prelude::*;

use super::super::testing::{claim, parameters, signer};
use super::*;

fn knowledge() -> Knowledge {
    Knowledge::new("lab", signer(1).node_id().clone())
}

fn signed_claim(seed: u8, claim: &Claim) -> String {
    signer(seed).sign("lab", CLAIM, &serde_json::to_string(claim).unwrap())
}

fn place(knowledge: &mut Knowledge, seed: u8, live: bool) {
    let id = signer(seed).node_id().clone();
    let live = if live { HashSet::from([id.clone()]) } else { HashSet::new() };
    knowledge.set_live(&live, &BTreeMap::from([(id, SocketAddr::from(([10, 0, 0, seed], 7846)))]));
}

#[test]
fn the_latest_claim_of_each_owner_counts() {
    let mut knowledge = knowledge();
    let id = signer(2).node_id().clone();
    let mut offer = |generation, counter| {
        knowledge.offer(id.as_str(), CLAIM, &signed_claim(2, &claim(&id, generation, counter)))
    };
    assert_eq!(offer(3, 5), Verdict::New);
    assert_eq!(offer(3, 5), Verdict::Known);
    assert_eq!(offer(3, 4), Verdict::Ignored, "an older counter");
    assert_eq!(offer(2, 9), Verdict::Ignored, "an older generation");
    assert_eq!(offer(4, 1), Verdict::New, "a newer generation starts over");
    place(&mut knowledge, 2, true);
    let view = knowledge.view();
    assert_eq!((view.peers[&id].claim.generation, view.peers[&id].claim.counter), (4, 1));
    assert!(view.peers[&id].live);
}

#[test]
fn two_different_claims_under_one_number_do_not_replace_each_other() {
    let mut knowledge = knowledge();
    let id = signer(2).node_id().clone();
    let first = claim(&id, 3, 5);
    let second = Claim { name: "other".into(), ..first.clone() };
    assert_eq!(knowledge.offer(id.as_str(), CLAIM, &signed_claim(2, &first)), Verdict::New);
    assert_eq!(knowledge.offer(id.as_str(), CLAIM, &signed_claim(2, &second)), Verdict::Ignored);
}

#[test]
fn a_member_cannot_speak_for_another() {
    let mut knowledge = knowledge();
    let (victim, liar) = (signer(2).node_id().clone(), signer(3).node_id().clone());
    let about_victim = claim(&victim, 9, 9);
    let as_json = serde_json::to_string(&about_victim).unwrap();
    let mut ignored = |node: &NodeId, value: &str| {
        assert_eq!(knowledge.offer(node.as_str(), CLAIM, value), Verdict::Ignored, "{value}");
    };
    ignored(&victim, &signed_claim(3, &about_victim));
    ignored(&liar, &signed_claim(3, &about_victim));
    ignored(&liar, &signed_claim(2, &about_victim));
    ignored(&victim, &as_json);
    ignored(&victim, &signer(2).sign("prod", CLAIM, &as_json));
    ignored(&victim, &signer(2).sign("lab", PARAMETERS, &as_json));
    ignored(&victim, &signer(2).sign("lab", CLAIM, "{}"));
    ignored(&victim, &signed_claim(2, &Claim { v: 2, ..about_victim.clone() }));
    ignored(&victim, &signed_claim(2, &Claim { name: "x".repeat(MAX_VALUE), ..about_victim }));
    place(&mut knowledge, 2, true);
    assert!(knowledge.view().peers.is_empty());
}

#[test]
fn parameters_are_shown_once_they_match_the_claim_in_either_order() {
    for parameters_first in [true, false] {
        let mut knowledge = knowledge();
        let id = signer(2).node_id().clone();
        let json = |p: &Parameters| serde_json::to_string(p).unwrap();
        let good = signer(2).sign("lab", PARAMETERS, &json(&parameters()));
        let old = signer(2).sign("lab", PARAMETERS, &json(&Parameters::default()));
        let claim = signed_claim(2, &claim(&id, 1, 1));
        let mut steps = vec![(CLAIM, &claim), (PARAMETERS, &old), (PARAMETERS, &good)];
        if parameters_first {
            steps.reverse();
        }
        for (key, value) in steps {
            assert_eq!(knowledge.offer(id.as_str(), key, value), Verdict::New);
        }
        place(&mut knowledge, 2, true);
        assert_eq!(knowledge.view().peers[&id].parameters, Some(parameters()));
    }
}

#[test]
fn the_own_echo_is_the_highest_and_a_twin_is_noticed() {
    let mut knowledge = knowledge();
    let id = signer(1).node_id().clone();
    let mine = claim(&id, 4, 7);
    knowledge.say(&mine, &serde_json::to_string(&mine).unwrap());
    let mut hear = |claim: &Claim| {
        knowledge.offer(id.as_str(), CLAIM, &signed_claim(1, claim));
        (knowledge.echo.map(|echo| (echo.generation, echo.counter)), knowledge.twin)
    };
    assert_eq!(hear(&claim(&id, 3, 90)), (Some((3, 90)), false), "the run before");
    assert_eq!(hear(&mine), (Some((3, 90)), false), "what this process has said is no echo");
    assert_eq!(hear(&claim(&id, 4, 6)), (Some((4, 6)), false), "older than what is remembered");
    let other = Claim { name: "twin".into(), ..mine.clone() };
    assert_eq!(hear(&other), (Some((4, 7)), true), "the same number with another text");
    assert_eq!(hear(&claim(&id, 5, 1)), (Some((5, 1)), true), "a later run than this one");
    assert!(knowledge.view().peers.is_empty(), "never a peer of itself");
}

#[test]
fn a_node_that_gossip_forgets_stays_known_and_not_live() {
    let mut knowledge = knowledge();
    let id = signer(2).node_id().clone();
    knowledge.offer(id.as_str(), CLAIM, &signed_claim(2, &claim(&id, 1, 1)));
    place(&mut knowledge, 2, true);
    assert!(knowledge.set_live(&HashSet::new(), &BTreeMap::new()));
    let view = knowledge.view();
    assert!(!view.peers[&id].live);
    assert_eq!(view.peers[&id].gossip_address, "10.0.0.2:7846".parse().unwrap());
}

#[test]
fn nodes_are_bounded_and_dead_ones_make_room() {
    let mut knowledge = knowledge();
    for n in 0..MAX_PEERS as u64 {
        let id = NodeId::from_digest(&[&n.to_be_bytes()[..], &[0; 24]].concat());
        knowledge.entries.insert(id, Entry { live: n != 0, ..Entry::default() });
    }
    let id = signer(2).node_id().clone();
    assert_eq!(knowledge.offer(id.as_str(), CLAIM, &signed_claim(2, &claim(&id, 1, 1))), Verdict::New);
    assert_eq!(knowledge.entries.len(), MAX_PEERS);
    knowledge.entries.get_mut(&id).unwrap().live = true;
    let late = signer(3).node_id().clone();
    let verdict = knowledge.offer(late.as_str(), CLAIM, &signed_claim(3, &claim(&late, 1, 1)));
    assert_eq!(verdict, Verdict::Ignored, "everybody else is live");
}

proptest! {
    #[test]
    fn signed_nonsense_does_not_panic(key in "[cpx]", text in ".{0,200}") {
        let mut knowledge = knowledge();
        let id = signer(2).node_id().clone();
        let value = signer(2).sign("lab", &key, &text);
        prop_assert_eq!(knowledge.offer(id.as_str(), &key, &value), Verdict::Ignored);
    }
}
