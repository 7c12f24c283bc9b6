//! The first steps with a certificate: what becomes of a provisional cluster, of data of another one, and what k3s needs first.

use std::sync::Arc;

use super::super::decide;
use super::super::tests::{address, certified, hears, record, rule, server, settings};
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
            "founded" => data == Some(Data::Member { role: Role::Server, cluster: born.cluster_id.clone() }),
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
    for (cluster, discards) in [(other, true), (born.cluster_id.clone(), false)] {
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

/// A machine that lost power while it joined starts again on what it has, and asks nobody.
#[test]
fn a_server_that_had_begun_to_join_starts_again_and_asks_nobody() {
    let ours = settings(&[]);
    type Change = fn(&mut Observed);
    let rows: [(&str, Change, bool); 6] = [
        ("as it was", |_| {}, true),
        ("its data are gone", |seen| seen.k3s.server_data = Known::Absent, false),
        ("its file names no server", |seen| seen.k3s.configured_server = Known::Absent, false),
        ("no CA is on the disk", |seen| seen.k3s.disk_ca = Known::Absent, false),
        (
            "k3s runs, and complains",
            |seen| {
                seen.k3s.server_unit = Known::Yes(UnitSeen::Active);
                seen.k3s.trouble.push(Why::new("k3s-failed", "no route to host", "look at it"));
            },
            false,
        ),
        ("it is an agent", |seen| record_role(seen, Role::Agent), false),
    ];
    for (what, change, starts) in rows {
        let (mut seen, born) = certified(&ours);
        record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
        seen.k3s.server_data = Known::Yes(());
        seen.k3s.configured_server = Known::Yes(address(2));
        seen.k3s.disk_ca = Known::Yes(born.ca_hash.clone());
        change(&mut seen);
        let plan = decide(&seen, &ours);
        assert_eq!(plan.acts == [Act::Start { role: Role::Server }], starts, "{what}: {:?}", plan.acts);
    }
}

fn record_role(seen: &mut Observed, role: Role) {
    let cluster = certified(&settings(&[])).1.cluster_id.clone();
    record(seen).data = Data::Joining { role, cluster };
}

#[test]
fn what_k3s_has_not_shown_yet_is_named() {
    let ours = settings(&[]);
    let (seen, _) = certified(&ours);
    let unit = "the k3s unit is not running yet";
    let votes = "its etcd member does not vote yet";
    let api = "its API is not ready yet";
    let node = "its Kubernetes node is not Ready yet";
    let (yes, no, unknown) = (Known::Yes(true), Known::Yes(false), Known::unknown("it", "timed out"));
    let rows = [
        (Role::Server, UnitSeen::Inactive, &yes, &yes, unit),
        (Role::Server, UnitSeen::Failed, &yes, &yes, unit),
        (Role::Server, UnitSeen::Starting, &no, &no, votes),
        (Role::Server, UnitSeen::Active, &unknown, &yes, votes),
        (Role::Server, UnitSeen::Active, &yes, &no, api),
        (Role::Server, UnitSeen::Active, &yes, &unknown, api),
        (Role::Server, UnitSeen::Active, &yes, &yes, node),
        (Role::Agent, UnitSeen::Inactive, &no, &no, unit),
        (Role::Agent, UnitSeen::Active, &no, &no, node),
    ];
    for (role, running, voter, ready_api, wanted) in rows {
        let mut seen = seen.clone();
        seen.k3s.server_unit = Known::Yes(UnitSeen::Inactive);
        seen.k3s.agent_unit = Known::Yes(UnitSeen::Inactive);
        let mine = if role == Role::Server { &mut seen.k3s.server_unit } else { &mut seen.k3s.agent_unit };
        *mine = Known::Yes(running);
        (seen.k3s.voter, seen.k3s.api) = (voter.clone(), ready_api.clone());
        let why = starting(&seen, role);
        assert_eq!((&*why.rule, &*why.detail), ("k3s-starting", wanted), "{role:?} {running:?} {voter:?}");
    }
}

#[test]
fn a_server_is_ready_with_vote_api_and_node_and_an_agent_with_its_node() {
    let ours = settings(&[]);
    let (mut seen, _) = certified(&ours);
    let facts = [Known::Yes(true), Known::Yes(false), Known::Absent, Known::unknown("it", "timed out")];
    for voter in &facts {
        for api in &facts {
            for ready in &facts {
                (seen.k3s.voter, seen.k3s.api, seen.k3s.ready) = (voter.clone(), api.clone(), ready.clone());
                let all = [voter, api, ready].iter().all(|fact| **fact == Known::Yes(true));
                assert_eq!(is_ready(&seen, Role::Server), all, "{voter:?} {api:?} {ready:?}");
                assert_eq!(is_ready(&seen, Role::Agent), *ready == Known::Yes(true));
                assert!(!is_ready(&seen, Role::Undecided));
            }
        }
    }
}

#[test]
fn who_wanted_to_be_a_server_and_serves_as_an_agent_says_so() {
    for (wants, role, says) in
        [("server", Role::Agent, true), ("server", Role::Server, false), ("auto", Role::Agent, false)]
    {
        let ours = settings(&[("MUSTER_ROLE", wants)]);
        let (mut seen, born) = certified(&ours);
        hears(&mut seen, server(3, &born, &ours), &ours);
        serves(&mut seen, role, &born);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), "serving", "{:?}", plan.why);
        assert_eq!(plan.why.iter().any(|why| why.rule == "servers-full"), says, "{wants} {role:?}");
    }
}

#[test]
fn a_member_that_is_not_ready_founds_joins_or_is_degraded() {
    let ours = settings(&[]);
    for (founder, served, phase) in [
        (1, false, Phase::Founding),
        (2, false, Phase::Joining),
        (1, true, Phase::Degraded),
        (2, true, Phase::Degraded),
    ] {
        let (mut seen, _) = certified(&ours);
        let born = Arc::new(Certificate {
            first_servers: vec![seen.node.id.clone()],
            ..(*certificate(founder)).clone()
        });
        record(&mut seen).certificate = Some(born.clone());
        serves(&mut seen, Role::Server, &born);
        record(&mut seen).served = served;
        seen.k3s.ready = Known::Yes(false);
        let plan = member(&seen, &ours, Role::Server, &born);
        assert_eq!(plan.phase, phase, "{founder} {served}: {:?}", plan.why);
    }
}

/// Makes it a member in this role that serves.
fn serves(seen: &mut Observed, role: Role, born: &Certificate) {
    record(seen).data = Data::Member { role, cluster: born.cluster_id.clone() };
    record(seen).served = true;
    let k3s = &mut seen.k3s;
    k3s.disk_ca = Known::Yes(born.ca_hash.clone());
    if role == Role::Server {
        k3s.server_data = Known::Yes(());
        k3s.server_unit = Known::Yes(UnitSeen::Active);
    } else {
        k3s.agent_data = Known::Yes(());
        k3s.agent_unit = Known::Yes(UnitSeen::Active);
    }
    for fact in [&mut k3s.voter, &mut k3s.api, &mut k3s.ready] {
        *fact = Known::Yes(true);
    }
}
