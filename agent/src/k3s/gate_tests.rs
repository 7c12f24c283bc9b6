//! The gate as a table: data on disk, configuration, token, ledger, and the word.

use super::*;
use crate::core::Secret;
use crate::k3s::{full_agent_token, full_server_token};

fn ca() -> CaHash {
    CaHash::from_digest(&[1; 32])
}

fn other() -> CaHash {
    CaHash::from_digest(&[2; 32])
}

fn paths() -> Paths {
    Paths::new(std::path::Path::new("/var/lib/rancher/k3s"), std::path::Path::new("/var/lib/muster"))
}

fn unread<T>() -> Known<T> {
    Known::unknown("a thing", "I/O error")
}

fn empty_disk() -> DiskFacts {
    DiskFacts {
        wal: Known::Absent,
        sqlite: Known::Absent,
        tombstone: Known::Absent,
        reset_flag: Known::Absent,
        ca: Known::Absent,
        etcd_name: Known::Absent,
        kubelet_certificate: Known::Absent,
        node_password: Known::Absent,
    }
}

fn config(text: &str) -> Known<ConfigFile> {
    Known::Yes(ConfigFile::parse(text).unwrap())
}

fn token(secret: &Secret) -> Known<TokenFile> {
    Known::Yes(TokenFile::parse(secret.expose()))
}

fn password() -> Secret {
    Secret::new("0123456789abcdef".into())
}

const JOIN: &str = "server: https://10.77.0.2:6443\ntoken-file: /t\n";
const INIT: &str = "cluster-init: true\ntoken-file: /t\n";
const NEITHER: &str = "token-file: /t\n";

fn in_cluster(member: bool) -> GateLedger {
    GateLedger { certificate: Some(ca()), member, role: Some(K3sRole::Server), ..GateLedger::default() }
}

fn armed() -> GateLedger {
    GateLedger { provisional_armed: true, role: Some(K3sRole::Server), ..GateLedger::default() }
}

/// A server about to join for the first time: everything in place, nothing on disk.
fn joiner() -> GateFacts {
    GateFacts {
        ledger: Known::Yes(in_cluster(false)),
        config: config(JOIN),
        token: token(&full_server_token(&ca(), &password())),
        disk: empty_disk(),
        foreign: Known::Absent,
    }
}

/// A member with its data.
fn member() -> GateFacts {
    GateFacts {
        ledger: Known::Yes(in_cluster(true)),
        disk: DiskFacts { wal: Known::Yes(()), ca: Known::Yes(ca()), ..empty_disk() },
        ..joiner()
    }
}

/// A node that founds.
fn founder() -> GateFacts {
    GateFacts { ledger: Known::Yes(armed()), config: config(INIT), token: token(&password()), ..joiner() }
}

/// The rule that refuses, or `ok`.
fn word(facts: &GateFacts) -> String {
    match may_start(K3sRole::Server, facts, &paths()) {
        Ok(()) => "ok".to_owned(),
        Err(why) => why.rule.into_owned(),
    }
}

#[test]
fn what_a_server_may_start_on() {
    let disk = |facts: GateFacts, change: fn(&mut DiskFacts)| {
        let mut facts = facts;
        change(&mut facts.disk);
        facts
    };
    let ledger = |facts: GateFacts, ledger: Known<GateLedger>| GateFacts { ledger, ..facts };
    let conf = |facts: GateFacts, text: &str| GateFacts { config: config(text), ..facts };
    let tok = |facts: GateFacts, token: Known<TokenFile>| GateFacts { token, ..facts };
    let table: Vec<(&str, GateFacts, &str)> = vec![
        // A member: its data decide, the network does not.
        ("member", member(), "ok"),
        ("member, disarmed without a peer", conf(member(), NEITHER), "ok"),
        ("member, crashed before it was disarmed", conf(member(), INIT), "ok"),
        ("member whose CA file is gone", disk(member(), |d| d.ca = Known::Absent), "ok"),
        ("member whose CA file cannot be read", disk(member(), |d| d.ca = unread()), "ok"),
        ("member, ledger not written yet", ledger(member(), Known::Yes(in_cluster(false))), "ok"),
        ("member, ledger unreadable, can only join", ledger(member(), unread()), "ok"),
        ("member, token unreadable", tok(member(), unread()), "ok"),
        ("member, drop-ins unreadable", GateFacts { foreign: unread(), ..member() }, "ok"),
        // Data that are not this cluster's.
        ("data of another cluster", disk(member(), |d| d.ca = Known::Yes(other())), "gate-other-cluster"),
        (
            "data without a CA, never seen as a member",
            disk(ledger(member(), Known::Yes(in_cluster(false))), |d| d.ca = Known::Absent),
            "gate-data-of-unknown-cluster",
        ),
        ("data, no ledger", ledger(member(), Known::Absent), "gate-data-without-certificate"),
        (
            "data, blank ledger",
            ledger(member(), Known::Yes(GateLedger::default())),
            "gate-data-without-certificate",
        ),
        ("data, ledger unreadable, armed", conf(ledger(member(), unread()), INIT), "gate-ledger-unreadable"),
        (
            "data, ledger unreadable, neither",
            conf(ledger(member(), unread()), NEITHER),
            "gate-ledger-unreadable",
        ),
        ("tombstone, server set", disk(member(), |d| d.tombstone = Known::Yes(())), "gate-tombstone"),
        ("tombstone cannot be told", disk(member(), |d| d.tombstone = unread()), "gate-tombstone"),
        (
            "annulled",
            ledger(member(), Known::Yes(GateLedger { annulled: true, ..in_cluster(true) })),
            "gate-annulled",
        ),
        (
            "given up by a recovery, or in the middle of one",
            ledger(
                member(),
                Known::Yes(GateLedger { fenced: Some("recovery 1".to_owned()), ..in_cluster(true) }),
            ),
            "gate-fenced",
        ),
        (
            "a copied disk under an identity of its own, which knows the certificate",
            ledger(member(), Known::Yes(GateLedger { role: None, ..in_cluster(false) })),
            "gate-no-word",
        ),
        // A provisional cluster.
        ("founder, first start", founder(), "ok"),
        ("founder, killed before etcd wrote", disk(founder(), |d| d.ca = Known::Yes(other())), "ok"),
        ("founder with its data", disk(founder(), |d| d.wal = Known::Yes(())), "ok"),
        (
            "cluster-init without the ledger's word",
            ledger(founder(), Known::Yes(GateLedger::default())),
            "gate-no-word",
        ),
        ("cluster-init without a ledger", ledger(founder(), Known::Absent), "gate-no-word"),
        ("cluster-init on an unreadable ledger", ledger(founder(), unread()), "gate-ledger-unreadable"),
        ("armed, but not configured to found", conf(founder(), NEITHER), "gate-not-armed"),
        (
            "armed, configured for both",
            conf(founder(), "cluster-init: true\nserver: https://x:6443\ntoken-file: /t\n"),
            "gate-not-armed",
        ),
        ("armed, configured to join", conf(founder(), JOIN), "gate-not-armed"),
        ("founder over a sqlite database", disk(founder(), |d| d.sqlite = Known::Yes(())), "gate-sqlite"),
        ("founder, sqlite cannot be told", disk(founder(), |d| d.sqlite = unread()), "gate-sqlite"),
        // A first join, or a wiped disk.
        ("joiner", joiner(), "ok"),
        ("wiped member joins", ledger(joiner(), Known::Yes(in_cluster(true))), "ok"),
        ("joiner with its cluster's CA on disk", disk(joiner(), |d| d.ca = Known::Yes(ca())), "ok"),
        ("wiped founder still armed", conf(joiner(), INIT), "gate-armed-after-founding"),
        (
            "both keys",
            conf(joiner(), "cluster-init: true\nserver: https://x:6443\ntoken-file: /t\n"),
            "gate-armed-after-founding",
        ),
        ("wiped member, neither key", conf(joiner(), NEITHER), "gate-no-server"),
        ("empty server", conf(joiner(), "server: \"\"\ntoken-file: /t\n"), "gate-no-server"),
        ("a bare password", tok(joiner(), token(&password())), "gate-token-not-pinned"),
        (
            "another CA pinned",
            tok(joiner(), token(&full_server_token(&other(), &password()))),
            "gate-token-not-pinned",
        ),
        (
            "an agent's token",
            tok(joiner(), token(&full_agent_token(&ca(), &password()))),
            "gate-token-not-pinned",
        ),
        ("another cluster's keys left", disk(joiner(), |d| d.ca = Known::Yes(other())), "gate-other-cluster"),
        ("unreadable keys left", disk(joiner(), |d| d.ca = unread()), "gate-data-of-unknown-cluster"),
        ("a sqlite database left", disk(joiner(), |d| d.sqlite = Known::Yes(())), "gate-sqlite"),
        ("no ledger", ledger(joiner(), Known::Absent), "gate-no-word"),
        ("ledger unreadable", ledger(joiner(), unread()), "gate-ledger-unreadable"),
        // What cannot be told must be allowed both ways.
        ("data cannot be told, joiner", disk(joiner(), |d| d.wal = unread()), "gate-data-of-unknown-cluster"),
        ("data cannot be told, member", disk(member(), |d| d.wal = unread()), "ok"),
        (
            "data cannot be told, disarmed",
            conf(disk(member(), |d| d.wal = unread()), NEITHER),
            "gate-no-server",
        ),
        // Token and configuration.
        ("empty token", tok(member(), Known::Yes(TokenFile::parse("\n"))), "gate-token-missing"),
        ("torn token", tok(member(), Known::Yes(TokenFile::parse("K10abc"))), "gate-token-missing"),
        ("no token file", tok(joiner(), Known::Absent), "gate-token-missing"),
        ("unreadable token, no data", tok(joiner(), unread()), "gate-token-missing"),
        ("no configuration", GateFacts { config: Known::Absent, ..member() }, "gate-no-config"),
        ("half a configuration", GateFacts { config: unread(), ..member() }, "gate-config-unreadable"),
        (
            "etcd is to make a cluster of one",
            conf(member(), &format!("{JOIN}etcd-arg: [force-new-cluster=true]\n")),
            "gate-argument",
        ),
        ("cluster-reset", conf(member(), &format!("{JOIN}cluster-reset: true\n")), "gate-cluster-reset"),
        (
            "a database elsewhere",
            conf(joiner(), &format!("{JOIN}datastore-endpoint: postgres://x\n")),
            "gate-datastore",
        ),
        ("a token in the file", conf(joiner(), &format!("{JOIN}token: abc\n")), "gate-token-in-config"),
        ("another data directory", conf(member(), &format!("{JOIN}data-dir: /data\n")), "gate-data-dir"),
        (
            "the ledger says agent",
            ledger(joiner(), Known::Yes(GateLedger { role: Some(K3sRole::Agent), ..in_cluster(false) })),
            "gate-other-role",
        ),
    ];
    for (name, facts, wanted) in table {
        assert_eq!(word(&facts), wanted, "{name}");
    }
}

#[test]
fn a_drop_in_with_a_critical_key_stops_a_first_start_and_only_a_dangerous_one_a_member() {
    let with = |facts: GateFacts, kind: ForeignKind, key: &str| {
        let file =
            Foreign { kind, path: "/etc/rancher/k3s/config.yaml.d/x.yaml".into(), keys: vec![key.into()] };
        GateFacts { foreign: Known::Yes(vec![file]), ..facts }
    };
    let drop_in = ForeignKind::ConfigDropIn;
    assert_eq!(word(&with(joiner(), drop_in, "cluster-init")), "gate-foreign-config");
    assert_eq!(word(&with(joiner(), drop_in, "(unreadable)")), "gate-foreign-config");
    assert_eq!(word(&with(founder(), drop_in, "token")), "gate-foreign-config");
    assert_eq!(word(&with(member(), drop_in, "node-ip")), "ok");
    assert_eq!(word(&with(member(), drop_in, "cluster-reset")), "gate-foreign-config");
    assert_eq!(word(&with(member(), drop_in, "data-dir")), "gate-foreign-config");
    assert_eq!(word(&with(member(), drop_in, "etcd-arg: force-new-cluster")), "gate-foreign-config");
    // Our units read no environment files.
    assert_eq!(word(&with(joiner(), ForeignKind::Environment, "K3S_URL")), "ok");
    assert_eq!(word(&GateFacts { foreign: unread(), ..joiner() }), "gate-foreign-config");
}

#[test]
fn what_an_agent_may_start_on() {
    let ledger = |role| GateLedger { certificate: Some(ca()), role, ..GateLedger::default() };
    let agent = || GateFacts {
        ledger: Known::Yes(ledger(Some(K3sRole::Agent))),
        token: token(&full_agent_token(&ca(), &password())),
        ..joiner()
    };
    let word = |facts: GateFacts| match may_start(K3sRole::Agent, &facts, &paths()) {
        Ok(()) => "ok".to_owned(),
        Err(why) => why.rule.into_owned(),
    };
    assert_eq!(word(agent()), "ok");
    assert_eq!(
        word(GateFacts { ledger: unread(), ..agent() }),
        "ok",
        "the pinned token is enough for an agent"
    );
    assert_eq!(word(GateFacts { ledger: Known::Absent, ..agent() }), "gate-no-word");
    assert_eq!(word(GateFacts { ledger: Known::Yes(GateLedger::default()), ..agent() }), "gate-no-word");
    assert_eq!(
        word(GateFacts { ledger: Known::Yes(ledger(Some(K3sRole::Server))), ..agent() }),
        "gate-other-role"
    );
    assert_eq!(word(GateFacts { config: config(NEITHER), ..agent() }), "gate-no-server");
    assert_eq!(word(GateFacts { config: config(INIT), ..agent() }), "gate-no-server");
    let server_token = token(&full_server_token(&ca(), &password()));
    assert_eq!(word(GateFacts { token: server_token.clone(), ..agent() }), "gate-token-not-pinned");
    assert_eq!(
        word(GateFacts { token: server_token, ledger: unread(), ..agent() }),
        "gate-ledger-unreadable"
    );
    assert_eq!(word(GateFacts { token: token(&password()), ..agent() }), "gate-token-not-pinned");
    let roleless = GateLedger { role: None, ..ledger(Some(K3sRole::Agent)) };
    assert_eq!(word(GateFacts { ledger: Known::Yes(roleless), ..agent() }), "gate-no-word");
    let annulled = GateLedger { annulled: true, ..ledger(Some(K3sRole::Agent)) };
    assert_eq!(word(GateFacts { ledger: Known::Yes(annulled), ..agent() }), "gate-annulled");
}

/// Replacing any one fact by unknown never opens the gate.
#[test]
fn not_knowing_never_opens_the_gate() {
    let mut starts: Vec<GateFacts> = Vec::new();
    for ledger in [
        Known::Absent,
        Known::Yes(GateLedger::default()),
        Known::Yes(armed()),
        Known::Yes(in_cluster(false)),
        Known::Yes(in_cluster(true)),
    ] {
        for text in [JOIN, INIT, NEITHER] {
            for secret in [Secret::new(String::new()), password(), full_server_token(&ca(), &password())] {
                for wal in [Known::Absent, Known::Yes(())] {
                    for found in [Known::Absent, Known::Yes(ca()), Known::Yes(other())] {
                        for bits in 0..4_u8 {
                            let set = |bit: u8| if bits & bit != 0 { Known::Yes(()) } else { Known::Absent };
                            starts.push(GateFacts {
                                ledger: ledger.clone(),
                                config: config(text),
                                token: token(&secret),
                                disk: DiskFacts {
                                    wal: wal.clone(),
                                    ca: found.clone(),
                                    tombstone: set(1),
                                    sqlite: set(2),
                                    ..empty_disk()
                                },
                                foreign: Known::Absent,
                            });
                        }
                    }
                }
            }
        }
    }
    type Blind = fn(&mut GateFacts);
    let blind: [(&str, Blind); 6] = [
        ("config", |f| f.config = unread()),
        ("wal", |f| f.disk.wal = unread()),
        ("tombstone", |f| f.disk.tombstone = unread()),
        ("sqlite", |f| f.disk.sqlite = unread()),
        ("foreign", |f| f.foreign = unread()),
        ("token", |f| f.token = unread()),
    ];
    let mut checked = 0;
    for facts in starts.iter().filter(|facts| word(facts) != "ok") {
        for (name, change) in blind {
            let mut blinded = facts.clone();
            change(&mut blinded);
            // An unreadable token on a member's data is the one thing let through: k3s reads it, or dies of it.
            let allowed = name == "token" && facts.disk.wal == Known::Yes(());
            assert!(allowed || word(&blinded) != "ok", "{name}: {facts:?}");
            checked += 1;
        }
        // Without a ledger only what can do nothing but be the same member again may start.
        let mut blinded = facts.clone();
        blinded.ledger = unread();
        if word(&blinded) == "ok" {
            let config = facts.config.yes().unwrap();
            assert!(facts.disk.wal == Known::Yes(()) && config.server.is_some() && !config.cluster_init);
        }
    }
    assert!(checked > 1_000, "{checked}");
}
