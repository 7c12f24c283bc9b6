use super::*;
use crate::status::Node;

fn certificate(cluster: &str, era: u64) -> Certificate {
    Certificate { cluster_id: cluster.into(), era, ca_hash: "aa".into(), ..Certificate::default() }
}

fn holding(host: &str, certificate: Option<Certificate>) -> Sample {
    let node = Node { id: format!("id-{host}"), role: "server".into(), era: 1, ..Node::default() };
    let status = Status { node, phase: "serving".into(), certificate, ..Status::default() };
    Sample { host: host.into(), status: Some(status), armed: false, served_ca: None }
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
