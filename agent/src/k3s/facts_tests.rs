//! Parsers over samples, and what follows from facts that are not known.

use super::*;
use crate::edge::systemd::UnitState;

fn unread<T>() -> Known<T> {
    Known::unknown("a thing", "I/O error")
}

#[test]
fn versions_are_read_from_the_first_line() {
    let real = "k3s version v1.33.1+k3s1 (99d91538)\ngo version go1.24.2\n";
    assert_eq!(parse_version(real), Some("v1.33.1+k3s1"));
    assert_eq!(parse_version("k3s version v1.33.1+k3s1 (stand-in)"), Some("v1.33.1+k3s1"));
    assert_eq!(parse_version(".muster-k3s-def1.part version v1.35.1+k3s1 (d300004f)"), Some("v1.35.1+k3s1"));
    for text in ["", "go version go1.24", "k3s version ", "k3s version HEAD (1)"] {
        assert_eq!(parse_version(text), None, "{text}");
    }
}

#[test]
fn members_are_read_with_large_ids_and_left_out_fields() {
    let body = br#"{"members":[
        {"ID":18446744073709551615,"name":"node1-0badcafe","peerURLs":["https://10.77.0.1:2380"],"clientURLs":["https://10.77.0.1:2379"]},
        {"ID":"42","name":"node-2-1234abcd","peerURLs":["https://10.77.0.2:2380"],"isLearner":true},
        {"ID":7,"peerURLs":["https://10.77.0.3:2380"]}]}"#;
    let members = parse_members(body).unwrap();
    assert_eq!(members.iter().map(|m| m.id).collect::<Vec<_>>(), [u64::MAX, 42, 7]);
    assert_eq!(members.iter().map(Member::node_name).collect::<Vec<_>>(), ["node1", "node-2", ""]);
    assert!(members[1].is_learner && !members[0].is_learner);
    assert_eq!(own_member(&members, Some("node1-0badcafe"), "x").map(|m| m.id), Some(u64::MAX));
    assert_eq!(own_member(&members, None, "node-2").map(|m| m.id), Some(42));
    // The name on disk is another one: the old member of this node name is not this member.
    assert_eq!(own_member(&members, Some("node1-ffffffff"), "node1"), None);
    assert!(parse_members(br#"{"members":null}"#).is_err());
    assert!(parse_members(b"etcd datastore disabled").is_err());
}

#[test]
fn health_is_true_false_or_not_said() {
    assert_eq!(parse_health(br#"{"health":"true","reason":""}"#), Some(true));
    assert_eq!(parse_health(br#"{"health":"false","reason":"RAFT NO LEADER"}"#), Some(false));
    assert_eq!(parse_health(br#"{"health":true}"#), Some(true));
    assert_eq!(parse_health(b"404"), None);
}

#[test]
fn variables_are_found_where_they_are_set() {
    let text = "# K3S_TOKEN=no\nK3S_URL='https://x'\nexport K3S_TOKEN=abc\nHTTP_PROXY=x\n";
    assert_eq!(variables_of(text), ["K3S_TOKEN", "K3S_URL"]);
    let unit = "[Service]\nEnvironment=\"K3S_CLUSTER_INIT=true\" A=b\nExecStart=\nExecStart = /usr/local/bin/k3s server\nExecStartPre=/bin/true\n";
    assert_eq!(variables_of(unit), ["ExecStart", "K3S_CLUSTER_INIT"]);
    assert_eq!(variables_of("[Service]\nLimitNOFILE=5\n# see K3S_ docs\n"), Vec::<String>::new());
}

#[test]
fn critical_keys_of_a_drop_in_are_named() {
    assert_eq!(
        critical_keys_of("node-label: [a=b]\ncluster-init: true\ntoken: x\n"),
        ["cluster-init", "token"]
    );
    assert_eq!(critical_keys_of("kubelet-arg+: [x]\n"), Vec::<String>::new());
    let arguments = "etcd-arg+: [quota-backend-bytes=1, --Force-New-Cluster=true]\nkube-apiserver-arg: etcd_prefix=/x\ni: a\n";
    assert_eq!(
        critical_keys_of(arguments),
        ["etcd-arg: force-new-cluster", "i", "kube-apiserver-arg: etcd-prefix"]
    );
    assert_eq!(critical_keys_of("etcd-arg: [quota-backend-bytes=1]"), Vec::<String>::new());
    assert_eq!(critical_keys_of("cluster-init: [true"), ["(unreadable)"]);
    assert_eq!(critical_keys_of("\"cluster-reset\\nall is well\": 1"), ["cluster-reset all is well"]);
}

fn unit(active: &str) -> Known<UnitState> {
    Known::Yes(UnitState { active: active.into(), ..UnitState::default() })
}

fn node(ready: Known<bool>) -> Known<NodeInfo> {
    Known::Yes(NodeInfo {
        name: "node1".into(),
        uid: "u".into(),
        ready,
        roles: Vec::new(),
        addresses: Vec::new(),
        etcd_name: None,
        etcd_address: None,
        deleting: false,
        version: String::new(),
        labels: std::collections::BTreeMap::new(),
        annotations: std::collections::BTreeMap::new(),
        unschedulable: false,
    })
}

fn serving() -> K3sFacts {
    let member = Member {
        id: 1,
        name: "node1-0badcafe".into(),
        peer_urls: vec!["https://10.77.0.1:2380".into()],
        is_learner: false,
    };
    K3sFacts {
        node_name: "node1".into(),
        binary: Known::Absent,
        server_unit: unit("active"),
        agent_unit: Known::Absent,
        config: Known::Absent,
        token: Known::Absent,
        foreign: Known::Absent,
        disk: DiskFacts {
            wal: Known::Yes(()),
            sqlite: Known::Absent,
            tombstone: Known::Absent,
            reset_flag: Known::Absent,
            ca: Known::Absent,
            etcd_name: Known::Yes("node1-0badcafe".into()),
            kubelet_certificate: Known::Yes(()),
            node_password: Known::Yes(()),
        },
        live: Known::Yes(LiveFacts {
            ping: Known::Yes(()),
            ca: Known::Absent,
            members: Known::Yes(vec![member]),
            etcd_healthy: Known::Yes(true),
            api_ready: Known::Yes(true),
            node: node(Known::Yes(true)),
        }),
        findings: Known::Absent,
    }
}

#[test]
fn joined_needs_all_four_and_unknown_is_neither() {
    fn live(change: fn(&mut LiveFacts)) -> K3sFacts {
        let mut facts = serving();
        let Known::Yes(live) = &mut facts.live else { panic!("serving() is live") };
        change(live);
        facts
    }
    let server = |facts: &K3sFacts| facts.joined(K3sRole::Server);
    assert_eq!(server(&serving()), Known::Yes(true));
    assert_eq!(server(&live(|l| l.etcd_healthy = Known::Yes(false))), Known::Yes(false));
    assert_eq!(server(&live(|l| l.api_ready = Known::Absent)), Known::Yes(false));
    assert_eq!(server(&live(|l| l.node = node(Known::Yes(false)))), Known::Yes(false));
    assert_eq!(server(&live(|l| l.members = Known::Yes(Vec::new()))), Known::Yes(false));
    assert!(server(&live(|l| l.node = node(unread()))).is_unknown());
    assert!(server(&live(|l| l.members = unread())).is_unknown());
    let learner = live(|l| {
        if let Known::Yes(members) = &mut l.members {
            members[0].is_learner = true;
        }
    });
    assert_eq!((learner.voter(), server(&learner)), (Known::Yes(false), Known::Yes(false)));
    let agent = live(|l| (l.members, l.etcd_healthy) = (Known::Absent, Known::Absent));
    assert_eq!(agent.joined(K3sRole::Agent), Known::Yes(true));
    let stopped = K3sFacts { live: Known::Absent, ..serving() };
    assert_eq!((stopped.voter(), server(&stopped)), (Known::Absent, Known::Yes(false)));
}

#[test]
fn the_running_role_is_told_only_when_it_is_clear() {
    let with = |server, agent| K3sFacts { server_unit: server, agent_unit: agent, ..serving() }.running();
    assert_eq!(with(unit("activating"), Known::Absent), Known::Yes(K3sRole::Server));
    assert_eq!(with(unit("inactive"), unit("active")), Known::Yes(K3sRole::Agent));
    assert_eq!(with(unit("failed"), Known::Absent), Known::Absent);
    assert!(with(unit("active"), unit("active")).is_unknown());
    assert!(with(unread(), Known::Absent).is_unknown());
    assert_eq!(with(unread(), unit("active")), Known::Yes(K3sRole::Agent));
}
