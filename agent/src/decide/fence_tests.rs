//! What others settled: an annulment, a certificate, and what becomes of the data here.

use super::super::decide;
use super::super::tests::{alone, certified, claim, hears, record, rule, server, settings, view};
use super::*;
use crate::core::Known;
use crate::decide::AnnulRequest;
use crate::founding::testing::{ballot, certificate, id};

#[test]
fn an_annulment_is_refused_where_its_cluster_is_in_use_and_there_alone() {
    let ours = settings(&[]);
    // Founder or not, has served, members that its list shows; whether the cluster is in use.
    for (founder, served, members, used) in [
        (true, true, Some(1), false),
        (true, true, Some(2), true),
        (true, true, None, true),
        (true, false, Some(1), false),
        (true, false, Some(2), true),
        (true, false, None, false),
        (false, true, Some(1), true),
        (false, false, None, true),
    ] {
        let (mut seen, _) = certified(&ours);
        let born = certificate(if founder { 1 } else { 2 });
        record(&mut seen).data = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
        record(&mut seen).certificate = Some(born);
        record(&mut seen).served = served;
        let member =
            |n: usize| crate::decide::MemberSeen { node: format!("node{n}"), learner: false, address: None };
        seen.k3s.members = members.map_or(Known::unknown("members", "no answer"), |count: usize| {
            Known::Yes((1..=count).map(member).collect())
        });
        assert_eq!(in_use(&seen).is_some(), used, "{founder} {served} {members:?}");
    }
    let (seen, _) = certified(&ours);
    assert!(in_use(&seen).is_none(), "no data");
}

#[test]
fn an_annulment_has_data_discarded_where_there_are_any() {
    let ours = settings(&[]);
    let (seen, born) = certified(&ours);
    let joining = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    for (data, discards) in
        [(Data::None, false), (joining, true), (Data::Provisional { ballot: ballot(1, 1) }, true)]
    {
        let mut seen = seen.clone();
        record(&mut seen).data = data.clone();
        let annulment = Annulment { era: 1, cluster_id: None, by: id(2), reason: "burnt".into() };
        hears(&mut seen, Claim { annulment: Some(annulment), era: 2, ..claim(2, &ours) }, &ours);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), "era-annulled");
        let next = plan.commit.unwrap().data;
        assert_eq!(matches!(next, Data::Discarding { .. }), discards, "{data:?} {next:?}");
        assert!(discards || next == Data::None);
    }
}

#[test]
fn only_a_live_voter_keeps_an_operator_from_annulling() {
    let ours = settings(&[]);
    let (seen, born) = certified(&ours);
    for (what, change, refused) in [
        ("a live voter", (|_| {}) as fn(&mut Claim), true),
        ("a learner", |claim| claim.voter = Some(false), false),
        ("an agent", |claim| claim.role = Role::Agent, false),
    ] {
        let mut seen = seen.clone();
        seen.annul = Some(AnnulRequest { era: 1, reason: "burnt".into() });
        let mut claim = server(2, &born, &ours);
        change(&mut claim);
        hears(&mut seen, claim, &ours);
        let wanted = if refused { "annulment-refused" } else { "era-annulled" };
        assert_eq!(rule(&decide(&seen, &ours)), wanted, "{what}");
    }
    let mut seen = seen;
    seen.annul = Some(AnnulRequest { era: 1, reason: "burnt".into() });
    view(&mut seen).peers.get_mut(&id(2)).unwrap().live = false;
    assert_eq!(rule(&decide(&seen, &ours)), "era-annulled", "a voter that is silent");
}

#[test]
fn a_certificate_disarms_a_provisional_cluster_that_is_another_ones() {
    let ours = settings(&[]);
    let provisional = || Data::Provisional { ballot: ballot(1, 1) };
    for (data, founder, discards) in
        [(Data::None, 2, false), (Data::None, 1, false), (provisional(), 2, true), (provisional(), 1, false)]
    {
        let mut seen = alone(&ours);
        record(&mut seen).data = data.clone();
        let next = store(&seen, certificate(founder)).commit.unwrap();
        assert_eq!(next.certificate, Some(certificate(founder)));
        assert_eq!(matches!(next.data, Data::Discarding { .. }), discards, "{data:?} {founder}");
        assert!(discards || next.data == data);
    }
}
