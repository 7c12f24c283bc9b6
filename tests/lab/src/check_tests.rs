use super::*;
use crate::status::Node;

fn certificate(cluster: &str, era: u64) -> Certificate {
    Certificate { cluster_id: cluster.into(), era, ca_hash: "aa".into(), ..Certificate::default() }
}

fn holding(host: &str, certificate: Option<Certificate>) -> Sample {
    let node = Node { id: format!("id-{host}"), role: "server".into(), era: 1, ..Node::default() };
    let status = Status { node, phase: "serving".into(), certificate, ..Status::default() };
    Sample { host: host.into(), status: Some(status), armed: false, ..Sample::default() }
}

/// All that is found when these are seen, one look after the other.
fn found(looks: &[&[Sample]]) -> Vec<String> {
    let mut invariants = Invariants::default();
    for samples in looks {
        invariants.observe(samples);
    }
    invariants.violations.into_iter().collect()
}

#[test]
fn a_healthy_cluster_breaks_nothing() {
    let mut a = holding("a", Some(certificate("c", 1)));
    a.served_ca = Some("aa".into());
    a.armed = true;
    assert!(found(&[&[a, holding("b", Some(certificate("c", 1)))]]).is_empty());
}

#[test]
fn two_certificates_in_one_era_are_found_even_when_they_are_never_seen_together() {
    let (a, b) = (holding("a", Some(certificate("c1", 1))), holding("b", Some(certificate("c2", 1))));
    let said = found(&[std::slice::from_ref(&a), &[b]]);
    assert!(said[0].contains("two certificates in era 1"), "{said:?}");
    let later = holding("b", Some(certificate("c2", 2)));
    assert!(found(&[&[a], &[later]]).is_empty(), "another era is another cluster");
}

#[test]
fn serving_without_a_certificate_and_losing_one_are_found() {
    assert_eq!(found(&[&[holding("a", None)]]), ["a serves without a birth certificate"]);
    let mut lost = holding("a", None);
    lost.status.as_mut().unwrap().phase = "seeking".into();
    let said = found(&[&[holding("a", Some(certificate("c", 1)))], std::slice::from_ref(&lost)]);
    assert_eq!(said, ["a held a birth certificate and holds none now"]);
    lost.status.as_mut().unwrap().node.id = "another identity, after a wipe".into();
    assert!(found(&[&[holding("a", Some(certificate("c", 1)))], &[lost]]).is_empty());
}

#[test]
fn a_foreign_ca_is_found() {
    let mut a = holding("a", Some(certificate("c", 1)));
    a.served_ca = Some("bb".into());
    assert_eq!(found(&[std::slice::from_ref(&a)]), ["a (serving) serves the CA bb, its certificate says aa"]);
    // What gives its provisional cluster up may serve it for a moment, and no longer.
    a.status.as_mut().unwrap().phase = "joining".into();
    let look = std::slice::from_ref(&a);
    assert!(found(&[look, look]).is_empty());
    assert_eq!(found(&[look, look, look]), ["a (joining) serves the CA bb, its certificate says aa"]);
}

#[test]
fn two_owners_of_one_identity_are_found() {
    let (a, mut b) = (holding("a", Some(certificate("c", 1))), holding("b", Some(certificate("c", 1))));
    b.status.as_mut().unwrap().node.id = "id-a".into();
    assert_eq!(found(&[&[a, b]]), ["a and b have the same identity id-a"]);
}

#[test]
fn a_node_may_disarm_itself_but_must_not_stay_armed() {
    let mut a = holding("a", Some(certificate("c", 1)));
    a.armed = true;
    let looks = |count: u32| {
        let mut invariants = Invariants::default();
        (0..count).for_each(|_| invariants.observe(std::slice::from_ref(&a)));
        invariants.violations
    };
    assert!(looks(DISARMING).is_empty());
    let said = looks(DISARMING + 1);
    assert!(said.iter().any(|text| text.contains("stays configured to found")), "{said:?}");
}

/// Servers of a cluster: who says that it votes, whose API is ready.
fn servers(words: &[(&str, bool, bool)]) -> Vec<Sample> {
    let one = |(name, voter, api): &(&str, bool, bool)| {
        let mut sample = holding(name, Some(certificate("c", 1)));
        if let Some(status) = &mut sample.status {
            status.node.name = (*name).to_owned();
            (status.k3s.voter, status.k3s.api) = (Some(*voter), Some(*api));
        }
        sample
    };
    words.iter().map(one).collect()
}

fn listing(mut samples: Vec<Sample>, voters: &[&str]) -> Vec<Sample> {
    samples[0].voters = Some(voters.iter().map(|name| (*name).to_owned()).collect());
    samples
}

/// The same, written at another moment.
fn written(mut samples: Vec<Sample>, at: u64) -> Vec<Sample> {
    for status in samples.iter_mut().filter_map(|sample| sample.status.as_mut()) {
        status.written_unix = at as i64;
    }
    samples
}

#[test]
fn a_member_that_goes_leaves_a_majority_that_lives() {
    let all = listing(servers(&[("a", true, true), ("b", true, true), ("c", true, true)]), &["a", "b", "c"]);
    // One is dead and goes.
    let two = servers(&[("a", true, true), ("b", true, true)]);
    assert!(found(&[&all, &listing(two.clone(), &["a", "b"])]).is_empty());
    // One is dead, and one that lives goes in its place: seconds after its last word the dead one does not count.
    let mut invariants = Invariants::default();
    invariants.observe(&all);
    let rest = servers(&[("a", true, true), ("b", true, true)]);
    for at in 0..=VOTED {
        invariants.observe(&written(rest.clone(), at));
    }
    invariants.observe(&listing(rest, &["a", "c"]));
    let said: Vec<&String> = invariants.violations.iter().collect();
    assert_eq!(said, ["b left etcd, and 1 of the 2 that a lists live"]);
    // One that is paused leaves its last word behind, which counts as little.
    let mut invariants = Invariants::default();
    invariants.observe(&all);
    for at in 1..=VOTED + 1 {
        let mut look = written(servers(&[("a", true, true), ("b", true, true)]), at);
        look.extend(servers(&[("c", true, true)]));
        invariants.observe(&look);
    }
    invariants.observe(&listing(servers(&[("a", true, true), ("c", true, true)]), &["a", "c"]));
    assert_eq!(invariants.violations.len(), 1, "{:?}", invariants.violations);
}

#[test]
fn an_api_serves_while_a_majority_votes() {
    let looks = |after: &[(&str, bool, bool)]| {
        let mut invariants = Invariants::default();
        let names = ["a", "b", "c"];
        invariants.observe(&listing(servers(&names.map(|name| (name, true, true))), &names));
        for at in 1..=API_DOWN + 1 {
            invariants.observe(&written(servers(after), at));
        }
        invariants.violations.len()
    };
    assert_eq!(looks(&[("a", true, false), ("b", true, false)]), 1);
    assert_eq!(looks(&[("a", true, false), ("b", true, true)]), 0, "one is enough");
    assert_eq!(looks(&[("a", true, false), ("b", false, false)]), 0, "without a majority there is none");
}
