//! The first steps with a certificate: what becomes of a provisional cluster, of data of another one, and what k3s needs first.

use super::super::decide;
use super::super::tests::{certified, record, rule, settings};
use super::*;
use crate::core::{CaHash, ClusterId};
use crate::founding::testing::{ballot, certificate};

#[test]
fn a_provisional_cluster_becomes_the_one_only_under_its_founder_and_its_ca() {
    let ours = settings(&[]);
    let ca = |n: u8| Known::Yes(CaHash::from_digest(&[n; 32]));
    for (founder, disk_ca, wanted) in [
        (1, ca(1), "founded"),
        (1, ca(7), "discarding"),
        (1, Known::Absent, "discarding"),
        (1, Known::unknown("the CA", "an input/output error"), "data-unknown"),
        (2, ca(1), "discarding"),
        (2, ca(2), "discarding"),
        (2, Known::Absent, "discarding"),
    ] {
        let (mut seen, _) = certified(&ours);
        record(&mut seen).data = Data::Provisional { ballot: ballot(1, 1) };
        seen.k3s.disk_ca = disk_ca.clone();
        let born = certificate(founder);
        let plan = provisional(&seen, &born);
        assert_eq!(rule(&plan), wanted, "{founder} {disk_ca:?}");
        let data = plan.commit.map(|next| next.data);
        let is_right = match wanted {
            "founded" => data == Some(Data::Member { role: Role::Server, cluster: born.cluster_id }),
            "discarding" => matches!(data, Some(Data::Discarding { .. })),
            _ => data.is_none(),
        };
        assert!(is_right, "{founder} {disk_ca:?}");
    }
}

#[test]
fn data_of_another_cluster_are_discarded_and_its_own_are_kept() {
    let ours = settings(&[]);
    let (seen, born) = certified(&ours);
    let other = ClusterId::from_digest(&[77; 32]);
    for (cluster, discards) in [(other, true), (born.cluster_id, false)] {
        for data in [
            Data::Joining { role: Role::Server, cluster: cluster.clone() },
            Data::Member { role: Role::Agent, cluster: cluster.clone() },
            Data::Member { role: Role::Server, cluster: cluster.clone() },
        ] {
            let mut seen = seen.clone();
            seen.k3s.server_data = Known::Yes(());
            seen.k3s.agent_data = Known::Yes(());
            record(&mut seen).data = data.clone();
            let plan = decide(&seen, &ours);
            let next = plan.commit.as_ref().map(|next| &next.data);
            assert_eq!(matches!(next, Some(Data::Discarding { .. })), discards, "{data:?}: {:?}", plan.why);
            assert!(!discards || plan.acts.is_empty(), "{:?}", plan.acts);
        }
    }
}

#[test]
fn a_newcomer_takes_no_role_before_its_host_and_k3s_are_ready() {
    let ours = settings(&[]);
    for (wanted, change) in [
        ("preparing-host", (|seen| seen.host.prepared = false) as fn(&mut Observed)),
        ("k3s-wanted", |seen| seen.k3s.binary = Binary::Wanted),
        ("fetching-k3s", |seen| seen.k3s.binary = Binary::Fetching { progress: "1 of 2 MB".into() }),
        ("k3s-unavailable", |seen| seen.k3s.binary = Binary::Failed { cause: "no source".into() }),
        ("foreign-data", |seen| seen.k3s.agent_data = Known::Yes(())),
        ("data-unknown", |seen| seen.k3s.server_data = Known::unknown("data", "an input/output error")),
        ("data-unknown", |seen| seen.k3s.agent_data = Known::unknown("data", "an input/output error")),
        ("first-server", |_| {}),
    ] {
        let (mut seen, _) = certified(&ours);
        change(&mut seen);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), wanted, "{:?}", plan.why);
        let takes = plan.commit.is_some_and(|next| matches!(next.data, Data::Joining { .. }));
        assert_eq!(takes, wanted == "first-server");
    }
}
