use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::Loaded;
use crate::core::{CaHash, ClusterId, Known};
use crate::founding::testing::{ballot, certificate, id};
use crate::founding::{Annulment, Certificate};
use crate::gossip::{Claim, Echo, Fitness, Peer, PeerView};

pub(super) fn settings(extra: &[(&str, &str)]) -> Settings {
    let token = [("MUSTER_TOKEN", "a-token-for-tests-only-0123456789"), ("MUSTER_SEEDS", "10.0.0.9")];
    let env: Vec<(&str, &str)> = token.iter().chain(extra).copied().collect();
    let root = tempfile::tempdir().unwrap();
    let loaded: Loaded =
        crate::config::load(root.path(), &crate::config::Env::of(&env), &crate::config::Flags::default())
            .unwrap();
    loaded.settings
}

pub(super) fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

pub(crate) fn quiet() -> K3sSeen {
    K3sSeen {
        binary: Binary::Ready,
        server_unit: Known::Yes(UnitSeen::Inactive),
        agent_unit: Known::Yes(UnitSeen::Inactive),
        server_data: Known::Absent,
        agent_data: Known::Absent,
        disk_ca: Known::Absent,
        served_ca: Known::Absent,
        voter: Known::Absent,
        members: Known::Absent,
        api: Known::Absent,
        ready: Known::Absent,
        configuration: Known::Absent,
        configured_server: Known::Absent,
        trouble: Vec::new(),
    }
}

/// Node 1 with a prepared host, alone, a minute after its start.
pub(super) fn alone(settings: &Settings) -> Observed {
    Observed {
        now: Duration::from_secs(100),
        fresh_cluster: ClusterId::from_digest(&[9; 32]),
        node: NodeFacts {
            id: id(1),
            name: "node1".into(),
            address: address(1),
            generation: 1,
            counter: 5,
            fitness: 2,
        },
        record: Record::new(&settings.cluster).into(),
        annul: None,
        host: HostSeen { prepared: true, ..HostSeen::default() },
        peers: PeerView::default().into(),
        shared: std::sync::Arc::new(settings.parameters().into()),
        watch: Watch {
            started: Duration::from_secs(40),
            settled_since: Duration::from_secs(40),
            ..Watch::default()
        },
        checks: BTreeMap::new(),
        members: Known::unknown("members", "not asked"),
        api: BTreeMap::new(),
        k3s: quiet(),
        heal: Arc::default(),
        discovery: DiscoverySeen::default(),
    }
}

pub(super) fn record(seen: &mut Observed) -> &mut Record {
    std::sync::Arc::make_mut(&mut seen.record)
}

pub(super) fn view(seen: &mut Observed) -> &mut PeerView {
    std::sync::Arc::make_mut(&mut seen.peers)
}

pub(super) fn heal_of(seen: &mut Observed) -> &mut crate::heal::HealSeen {
    Arc::make_mut(&mut seen.heal)
}

pub(super) fn claim(n: u8, settings: &Settings) -> Claim {
    Claim {
        v: 1,
        owner: id(n),
        generation: 1,
        counter: 1,
        name: format!("node{n}"),
        address: address(n),
        wants: WantedRole::Auto,
        eligible: true,
        fitness: Fitness { class: 2 },
        parameters: settings.parameters().hash(),
        era: 1,
        register: Some(crate::founding::Register::default()),
        proposal: None,
        certificate: None,
        annulment: None,
        recovery: None,
        fenced: false,
        phase: Phase::Seeking,
        role: Role::Undecided,
        voter: None,
        api: None,
        ready: None,
        zone: String::new(),
        marks: crate::identity::Marks::default(),
        why: "".into(),
    }
}

pub(super) fn hears(seen: &mut Observed, claim: Claim, settings: &Settings) {
    let gossip_address = std::net::SocketAddr::new(claim.address, 7846);
    let peer =
        Peer { parameters: Some(settings.parameters()), live: true, gossip_address, claim: claim.into() };
    let me = seen.node.id.clone();
    record(seen).heard.extend([peer.claim.owner.clone(), me]);
    view(seen).peers.insert(peer.claim.owner.clone(), peer);
}

pub(super) fn server(n: u8, certificate: &Arc<Certificate>, settings: &Settings) -> Claim {
    Claim {
        role: Role::Server,
        phase: Phase::Serving,
        voter: Some(true),
        api: Some(true),
        ready: Some(true),
        register: None,
        certificate: Some(Arc::clone(certificate)),
        ..claim(n, settings)
    }
}

pub(super) fn rule(plan: &Plan) -> &str {
    &plan.why[0].rule
}

#[test]
fn without_a_certificate_each_obstacle_has_its_name() {
    let ours = settings(&[]);
    let other = settings(&[("MUSTER_SERVERS", "5")]);
    type Change = fn(&mut Observed, &Settings, &Settings);
    let cases: &[(&str, Phase, Change)] = &[
        ("no-peer-answers", Phase::Seeking, |_, _, _| {}),
        ("waiting-for-founders", Phase::Seeking, |seen, ours, _| hears(seen, claim(2, ours), ours)),
        ("parameters-differ", Phase::Seeking, |seen, _, other| hears(seen, claim(2, other), other)),
        ("preparing-host", Phase::Preparing, |seen, ours, _| {
            hears(seen, claim(2, ours), ours);
            seen.host.prepared = false;
        }),
        ("k3s-unavailable", Phase::Preparing, |seen, ours, _| {
            hears(seen, claim(2, ours), ours);
            seen.k3s.binary = Binary::Failed { cause: "no source".into() };
        }),
        ("unclaimed-data", Phase::Parked, |seen, _, _| seen.k3s.server_data = Known::Yes(())),
        ("data-unknown", Phase::Parked, |seen, ours, _| {
            hears(seen, claim(2, ours), ours);
            seen.k3s.server_data = Known::unknown("data", "I/O error");
        }),
        ("cluster-renamed", Phase::Parked, |seen, _, _| record(seen).cluster = "old".into()),
        ("identity-cloned", Phase::Parked, |seen, _, _| {
            view(seen).echo = Some(Echo { generation: 2, counter: 0 })
        }),
        ("identity-cloned", Phase::Parked, |seen, _, _| view(seen).twin = true),
        ("duplicate-name", Phase::Parked, |seen, ours, _| {
            hears(seen, Claim { name: "node1".into(), ..claim(2, ours) }, ours);
        }),
        ("certificate-lost", Phase::Parked, |seen, ours, _| {
            hears(seen, claim(2, ours), ours);
            record(seen).ever_certified = true;
        }),
        ("api-answers", Phase::Seeking, |seen, ours, _| {
            hears(seen, claim(2, ours), ours);
            seen.api.insert("https://vip:6443".into(), Known::Yes(CaHash::from_digest(&[1; 32])));
        }),
        ("api-unknown", Phase::Seeking, |seen, ours, _| {
            hears(seen, claim(2, ours), ours);
            seen.api.insert("https://vip:6443".into(), Known::unknown("vip", "timed out"));
        }),
    ];
    for (wanted, phase, change) in cases {
        let mut seen = alone(&ours);
        change(&mut seen, &ours, &other);
        let plan = decide(&seen, &ours);
        assert_eq!((rule(&plan), plan.phase), (*wanted, *phase), "{:?}", plan.why);
        let founds = plan.acts.iter().any(|act| matches!(act, Act::Start { .. } | Act::Configure { .. }));
        assert!(!founds, "{wanted}: {:?}", plan.acts);
    }
}

#[test]
fn who_hears_nobody_is_told_what_came_and_was_dropped() {
    let ours = settings(&[]);
    let detail = |unopened, crowded| {
        let mut seen = alone(&ours);
        view(&mut seen).counters.dropped_unopened = unopened;
        view(&mut seen).counters.dropped_crowded = crowded;
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), "no-peer-answers");
        plan.why[0].detail.clone()
    };
    assert!(!detail(0, 0).contains("datagrams") && !detail(0, 0).contains("600"));
    assert!(detail(7, 0).contains("7 datagrams arrived that it does not open"));
    assert!(detail(0, 9).contains("9 messages speak of more than 600 members"));
}

/// What the others hold of this node is its own last word, or one before it.
#[test]
fn an_echo_that_is_not_ahead_is_no_clone() {
    let ours = settings(&[]);
    for (generation, counter, cloned) in
        [(1, 5, false), (1, 4, false), (0, 9, false), (1, 6, true), (2, 0, true)]
    {
        let mut seen = alone(&ours);
        view(&mut seen).echo = Some(Echo { generation, counter });
        let rule = rule(&decide(&seen, &ours)).to_owned();
        assert_eq!(rule == "identity-cloned", cloned, "{generation} {counter}: {rule}");
    }
}

/// Data are unclaimed where nothing in the ledger can have made them, on a host that is prepared.
#[test]
fn data_are_unclaimed_only_where_the_ledger_knows_of_none() {
    let ours = settings(&[]);
    type Change = fn(&mut Observed);
    let rows: [(&str, Change, bool); 5] = [
        ("nothing was ever founded here", |_| {}, true),
        ("the host is not prepared yet", |seen| seen.host.prepared = false, false),
        ("a certificate is known", |seen| record(seen).certificate = Some(certificate(2)), false),
        (
            "its own provisional ones",
            |seen| record(seen).data = Data::Provisional { ballot: ballot(1, 1) },
            false,
        ),
        ("whether there are any is not known", |seen| seen.k3s.server_data = unread(), false),
    ];
    for (what, change, unclaimed) in rows {
        let mut seen = alone(&ours);
        seen.k3s.server_data = Known::Yes(());
        change(&mut seen);
        let rule = rule(&decide(&seen, &ours)).to_owned();
        assert_eq!(rule == "unclaimed-data", unclaimed, "{what}: {rule}");
    }
}

#[test]
fn a_group_that_may_outgrow_its_founders_is_named_where_this_node_may_found() {
    let named = |extra: &[(&str, &str)], max: Option<u32>| {
        let ours = settings(extra);
        let mut seen = alone(&ours);
        seen.discovery.group_max = max;
        let plan = decide(&seen, &ours);
        plan.why.into_iter().find(|why| why.rule == "group-exceeds-founders")
    };
    // Three founders are safe for five that ever vote.
    let why = named(&[], Some(6)).unwrap();
    assert_eq!(
        why.detail,
        "this machine's group may have 6 machines, and founders = 3 is safe for 5 that ever vote"
    );
    assert!(why.next.starts_with("set founders = 4 on every machine"), "{}", why.next);
    for (extra, max) in [
        (&[][..], None),
        (&[][..], Some(5)),
        (&[("MUSTER_FOUNDERS", "4")][..], Some(7)),
        (&[("MUSTER_ROLE", "agent")][..], Some(100)),
        (&[("MUSTER_FOUNDING", "never")][..], Some(100)),
    ] {
        assert_eq!(named(extra, max), None, "{extra:?} {max:?}");
    }
    assert!(named(&[("MUSTER_FOUNDERS", "4")], Some(8)).is_some());
}

#[test]
fn who_seeks_alone_says_what_each_source_answered() {
    let ours = settings(&[]);
    let mut seen = alone(&ours);
    let source = |source: &str, found, error: Option<&str>| SourceSeen {
        source: source.to_owned(),
        found,
        age_ms: found.map(|_| 3_000),
        error: error.map(str::to_owned),
    };
    seen.discovery.sources = vec![
        source("static", Some(1), None),
        source("dns", None, Some("no answer")),
        source("sweep", Some(0), None),
    ];
    let asked = "; asked: static: 1 address; dns: unknown (no answer); sweep: 0 addresses";
    let detail = &decide(&seen, &ours).why[0].detail;
    assert!(detail.ends_with(asked), "{detail}");
}

#[test]
fn both_sides_name_servers_before_what_follows_from_it() {
    let (ours, other) = (settings(&[]), settings(&[("MUSTER_SERVERS", "5")]));
    for (mine, theirs, words) in
        [(&ours, &other, "servers is 3 here and 5"), (&other, &ours, "servers is 5 here and 3")]
    {
        let mut seen = alone(mine);
        hears(&mut seen, claim(2, theirs), theirs);
        assert!(decide(&seen, mine).why[0].detail.contains(words));
    }
}

#[test]
fn one_founder_among_many_machines_is_refused() {
    let one = settings(&[("MUSTER_SERVERS", "1")]);
    assert_eq!(rule(&decide(&alone(&one), &one)), "one-founder-many-machines");
    let told = settings(&[("MUSTER_SERVERS", "1"), ("MUSTER_ROLE", "server")]);
    let mut seen = alone(&told);
    record(&mut seen).heard.insert(id(1));
    assert_eq!(rule(&decide(&seen, &told)), "nominating");
    hears(&mut seen, claim(2, &told), &told);
    assert_eq!(rule(&decide(&seen, &told)), "too-many-founders");
}

#[test]
fn what_ends_k3s_stands_first_while_a_founding_waits_for_it() {
    let told = settings(&[("MUSTER_SERVERS", "1"), ("MUSTER_ROLE", "server")]);
    let mut seen = alone(&told);
    record(&mut seen).heard.insert(id(1));
    let mut plan = decide(&seen, &told);
    // The founding goes its way, step by step, until k3s is to come up.
    while let Some(next) = plan.commit.take() {
        seen.record = std::sync::Arc::new(*next);
        plan = decide(&seen, &told);
    }
    seen.k3s.disk_ca = Known::unknown("the CA", "its datastore is not healthy yet");
    let why = Why::new("k3s-fatal", "k3s ended with an error", "");
    seen.k3s.trouble = vec![why];
    let plan = decide(&seen, &told);
    assert_eq!((plan.phase, rule(&plan)), (Phase::Founding, "k3s-fatal"), "{:?}", plan.why);
    assert!(plan.why.len() > 1, "{:?}", plan.why);
}

#[test]
fn nothing_is_founded_on_data_or_where_data_may_be() {
    let told = settings(&[("MUSTER_SERVERS", "1"), ("MUSTER_ROLE", "server")]);
    let founds = |look: fn(&mut Observed)| {
        let mut seen = alone(&told);
        record(&mut seen).heard.insert(id(1));
        look(&mut seen);
        let mut plan = decide(&seen, &told);
        while let Some(next) = plan.commit.take() {
            seen.record = std::sync::Arc::new(*next);
            plan = decide(&seen, &told);
        }
        (matches!(seen.record.data, Data::Provisional { .. }), rule(&plan).to_owned())
    };
    assert!(founds(|_| {}).0);
    for (rule, look) in [
        ("unclaimed-data", (|seen| seen.k3s.server_data = Known::Yes(())) as fn(&mut Observed)),
        ("data-unknown", |seen| seen.k3s.server_data = unread()),
        ("data-not-empty", |seen| seen.k3s.agent_data = Known::Yes(())),
        ("data-not-empty", |seen| seen.k3s.agent_data = unread()),
    ] {
        assert_eq!(founds(look), (false, rule.to_owned()));
    }
}

fn unread() -> Known<()> {
    Known::unknown("the data directory", "an input/output error")
}

#[test]
fn a_certificate_in_gossip_is_stored_and_ends_every_founding() {
    let ours = settings(&[]);
    let mut seen = alone(&ours);
    let born = certificate(2);
    hears(&mut seen, server(2, &born, &ours), &ours);
    record(&mut seen).data = Data::Provisional { ballot: ballot(1, 1) };
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "certificate-stored");
    let next = plan.commit.unwrap();
    assert_eq!(next.certificate, Some(born));
    assert!(
        next.ever_certified && matches!(next.data, Data::Discarding { .. }),
        "one write stores it and disarms"
    );
}

#[test]
fn two_certificates_of_one_era_freeze_everything() {
    let ours = settings(&[]);
    let mut seen = alone(&ours);
    hears(&mut seen, server(2, &certificate(2), &ours), &ours);
    hears(&mut seen, server(3, &certificate(3), &ours), &ours);
    let plan = decide(&seen, &ours);
    assert_eq!(
        (rule(&plan), plan.phase, &plan.commit, plan.acts.len()),
        ("two-clusters", Phase::Parked, &None, 0)
    );
}

/// The next era begins with the annulment of this one, which every claim of it carries; a certificate alone opens none.
#[test]
fn a_certificate_of_another_era_is_not_stored_and_clashes_with_none() {
    let ours = settings(&[]);
    for era in [0, 2] {
        let other = || Arc::new(Certificate { era, ..(*certificate(3)).clone() });
        let mut seen = alone(&ours);
        hears(&mut seen, server(3, &other(), &ours), &ours);
        let plan = decide(&seen, &ours);
        let stored = plan.commit.as_ref().is_some_and(|next| next.certificate.is_some());
        assert!(!stored, "era {era}: {}", rule(&plan));
        let (mut seen, _) = certified(&ours);
        hears(&mut seen, server(3, &other(), &ours), &ours);
        let plan = decide(&seen, &ours);
        assert_ne!((rule(&plan), plan.phase), ("two-clusters", Phase::Parked), "era {era}");
    }
}

/// A node that knows the certificate of node 2, which serves.
pub(super) fn certified(ours: &Settings) -> (Observed, Arc<Certificate>) {
    let mut seen = alone(ours);
    let born =
        Arc::new(Certificate { first_servers: vec![id(2), id(1), id(3)], ..(*certificate(2)).clone() });
    hears(&mut seen, server(2, &born, ours), ours);
    record(&mut seen).certificate = Some(born.clone());
    record(&mut seen).ever_certified = true;
    (seen, born)
}

#[test]
fn nothing_is_joined_before_its_ca_was_seen() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    let plan = decide(&seen, &ours);
    assert_eq!(plan.acts, [Act::Check { address: address(2) }]);
    seen.checks.insert(address(2), Known::Yes(CaHash::from_digest(&[77; 32])));
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "wrong-ca");
    assert!(!plan.acts.iter().any(|act| matches!(act, Act::Start { .. } | Act::Configure { .. })));
    seen.checks.insert(address(2), Known::Yes(born.ca_hash.clone()));
    let plan = decide(&seen, &ours);
    assert!(plan.acts.contains(&Act::Start { role: Role::Server }), "{:?}", plan.acts);
}

#[test]
fn servers_join_one_at_a_time_in_the_order_of_the_certificate() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    seen.node.id = id(3);
    seen.node.name = "node3".into();
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    seen.checks.insert(address(2), Known::Yes(born.ca_hash.clone()));
    hears(&mut seen, Claim { certificate: Some(born.clone()), ..claim(1, &ours) }, &ours);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "joins-serialised");
    assert!(matches!(plan.acts[..], [Act::AskMembers { .. }]), "{:?}", plan.acts);
    let first = |learner| MemberSeen { node: "node1".into(), learner, address: Some(address(1)) };
    seen.members = Known::Yes(vec![first(true)]);
    assert_eq!(rule(&decide(&seen, &ours)), "joins-serialised", "a learner is still ahead");
    seen.members = Known::Yes(vec![first(false)]);
    assert!(
        decide(&seen, &ours).acts.contains(&Act::Start { role: Role::Server }),
        "the list says that it votes"
    );
    seen.members = Known::Absent;
    assert_eq!(rule(&decide(&seen, &ours)), "joins-serialised");
    let parked =
        Claim { certificate: Some(born.clone()), phase: Phase::Parked, counter: 50, ..claim(1, &ours) };
    let mut beside = seen.clone();
    hears(&mut beside, parked, &ours);
    assert!(
        decide(&beside, &ours).acts.contains(&Act::Start { role: Role::Server }),
        "nobody waits for the parked"
    );
    hears(&mut seen, server(1, &born, &ours), &ours);
    assert!(decide(&seen, &ours).acts.contains(&Act::Start { role: Role::Server }));
}

#[test]
fn a_silent_founder_is_waited_for_by_name() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    for peer in view(&mut seen).peers.values_mut() {
        peer.live = false;
    }
    for running in [UnitSeen::Inactive, UnitSeen::Starting] {
        record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
        seen.k3s.server_unit = Known::Yes(running);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), "founder-silent");
        assert!(plan.why[0].next.contains("muster founding annul"));
    }
}

#[test]
fn an_armed_configuration_without_data_is_discarded_all_the_same() {
    let ours = settings(&[]);
    let (mut seen, _) = certified(&ours);
    record(&mut seen).data = Data::Discarding { reason: "not chosen".into() };
    seen.k3s.configuration = Known::Yes(());
    let plan = decide(&seen, &ours);
    assert!(plan.commit.is_none() && plan.acts == [Act::Discard { number: 1 }], "{plan:?}");
    seen.k3s.configuration = Known::Absent;
    assert_eq!(decide(&seen, &ours).commit.unwrap().data, Data::None);
}

#[test]
fn a_learner_that_became_the_second_voter_starts_again_though_the_first_waits_for_it() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    seen.k3s.server_data = Known::Yes(());
    seen.k3s.disk_ca = Known::Yes(born.ca_hash.clone());
    seen.k3s.configured_server = Known::Yes(address(2));
    let founder = view(&mut seen).peers.get_mut(&id(2)).unwrap().claim_mut();
    (founder.voter, founder.api, founder.phase) = (Some(false), Some(false), Phase::Degraded);
    assert!(decide(&seen, &ours).acts.contains(&Act::Start { role: Role::Server }));
    seen.k3s.disk_ca = Known::Yes(CaHash::from_digest(&[77; 32]));
    assert!(matches!(decide(&seen, &ours).commit.unwrap().data, Data::Discarding { .. }));
}

#[test]
fn a_member_whose_data_is_gone_never_starts_on_an_empty_disk() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
    let plan = decide(&seen, &ours);
    assert!(matches!(plan.commit.unwrap().data, Data::Discarding { .. }));
    assert!(plan.acts.is_empty());
}

#[test]
fn an_annulment_opens_the_next_era_except_where_its_cluster_is_in_use() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    let annulment = Annulment { era: 1, cluster_id: None, by: id(2), reason: "burnt".into() };
    *view(&mut seen).peers.get_mut(&id(2)).unwrap().claim_mut() =
        Claim { annulment: Some(annulment.clone()), era: 2, ..claim(2, &ours) };
    let plan = decide(&seen, &ours);
    let next = plan.commit.unwrap();
    assert_eq!((next.era, &next.certificate, &next.annulment), (2, &None, &Some(annulment)));

    // After the last era there is none: such a word would be followed again and again.
    let last = Annulment { era: u64::MAX, cluster_id: None, by: id(2), reason: "a lie".into() };
    let mut lied = seen.clone();
    view(&mut lied).peers.get_mut(&id(2)).unwrap().claim_mut().annulment = Some(last);
    assert_ne!(rule(&decide(&lied, &ours)), "era-annulled");

    record(&mut seen).data = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), plan.phase, &plan.commit), ("annulment-refused", Phase::Parked, &None));
}

#[test]
fn an_operator_cannot_annul_a_cluster_that_serves() {
    let ours = settings(&[]);
    let (mut seen, _) = certified(&ours);
    seen.annul = Some(AnnulRequest { era: 1, reason: "a slip".into() });
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), &plan.commit), ("annulment-refused", &None));
}

#[test]
fn a_reimaged_machine_is_let_in_only_when_its_old_self_is_dead_and_quorum_stays() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
    record(&mut seen).served = true;
    seen.k3s.server_data = Known::Yes(());
    seen.k3s.server_unit = Known::Yes(UnitSeen::Active);
    for fact in [&mut seen.k3s.voter, &mut seen.k3s.api, &mut seen.k3s.ready] {
        *fact = Known::Yes(true);
    }
    let member = |n: u8| MemberSeen { node: format!("node{n}"), learner: false, address: Some(address(n)) };
    seen.k3s.members = Known::Yes(vec![member(1), member(2), member(3)]);
    heal_of(&mut seen).nodes = Known::Yes(Vec::new());
    hears(&mut seen, server(3, &born, &ours), &ours);
    let newcomer =
        Claim { name: "node3".into(), address: address(3), why: "name-held".into(), ..claim(7, &ours) };
    hears(&mut seen, newcomer, &ours);
    let removes =
        |seen: &Observed| decide(seen, &ours).acts.iter().any(|act| matches!(act, Act::RemoveNode { .. }));
    assert!(!removes(&seen), "the old node3 is still live");
    let evidence = |seen: &Observed| {
        decide(seen, &ours).acts.iter().find_map(|act| match act {
            Act::RemoveNode { seen_dead, .. } => Some(*seen_dead),
            _ => None,
        })
    };
    view(&mut seen).peers.get_mut(&id(3)).unwrap().live = false;
    assert_eq!(evidence(&seen), Some(true));
    let mut beside = seen.clone();
    heal_of(&mut beside).nodes = Known::Yes(vec![super::heal::tests::node(2)]);
    assert!(removes(&beside), "who is not on its way out holds nothing up");
    if let Known::Yes(nodes) = &mut heal_of(&mut beside).nodes {
        nodes[0].deleting = true;
    }
    assert!(!removes(&beside), "node2 is being removed: one change at a time");
    if let Known::Yes(nodes) = &mut heal_of(&mut beside).nodes {
        nodes[0].name = "node9".into();
    }
    assert!(removes(&beside), "node9 is no member: its Node's end changes no quorum");
    heal_of(&mut beside).nodes = Known::unknown("the servers' Nodes", "no answer");
    assert!(!removes(&beside), "unknown is not none");
    view(&mut seen).peers.get_mut(&id(2)).unwrap().live = false;
    assert!(!removes(&seen), "one live voter of three is no majority");
    view(&mut seen).peers.get_mut(&id(2)).unwrap().live = true;
    let three = seen.k3s.members.clone();
    if let Known::Yes(members) = &mut seen.k3s.members {
        members.push(MemberSeen { node: "node7".into(), learner: true, address: None });
    }
    assert!(!removes(&seen), "another machine is a learner");
    seen.k3s.members = three;
    view(&mut seen).peers.get_mut(&id(3)).unwrap().claim_mut().address = address(33);
    assert_eq!(evidence(&seen), Some(false), "another address is no proof: Kubernetes is asked");
}

/// Property 2 of the design: unknown never adds an irreversible step.
#[test]
fn blinding_any_fact_never_adds_an_irreversible_step() {
    let ours = settings(&[]);
    let (mut joining, born) = certified(&ours);
    record(&mut joining).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    joining.checks.insert(address(2), Known::Yes(born.ca_hash.clone()));
    let mut nominee = alone(&ours);
    for n in [2, 3] {
        hears(&mut nominee, claim(n, &ours), &ours);
    }
    let (mut member, _) = certified(&ours);
    record(&mut member).data = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
    member.k3s.server_data = Known::Yes(());
    type Blind = fn(&mut Observed);
    let blinds: &[Blind] = &[
        |s| s.k3s.server_data = Known::unknown("x", "blind"),
        |s| s.k3s.agent_data = Known::unknown("x", "blind"),
        |s| s.k3s.disk_ca = Known::unknown("x", "blind"),
        |s| s.k3s.served_ca = Known::unknown("x", "blind"),
        |s| s.k3s.server_unit = Known::unknown("x", "blind"),
        |s| s.k3s.voter = Known::unknown("x", "blind"),
        |s| s.k3s.members = Known::unknown("x", "blind"),
        |s| s.members = Known::unknown("x", "blind"),
        |s| s.checks.values_mut().for_each(|check| *check = Known::unknown("x", "blind")),
    ];
    let irreversible = |plan: &Plan| {
        let acts = plan.acts.iter().filter(|act| {
            !matches!(
                act,
                Act::Check { .. }
                    | Act::AskMembers { .. }
                    | Act::Configure { .. }
                    | Act::Enable { .. }
                    | Act::Stop { .. }
            )
        });
        let data = plan
            .commit
            .as_ref()
            .map(|record| matches!(record.data, Data::Provisional { .. } | Data::Discarding { .. }));
        (acts.count(), data == Some(true))
    };
    for seen in [&joining, &nominee, &member] {
        let before = irreversible(&decide(seen, &ours));
        for (at, blind) in blinds.iter().enumerate() {
            let mut blinded = (*seen).clone();
            blind(&mut blinded);
            let after = irreversible(&decide(&blinded, &ours));
            assert!(after.0 <= before.0 && (before.1 || !after.1), "fact {at}: {before:?} became {after:?}");
        }
    }
}

#[test]
fn the_same_look_gives_the_same_plan() {
    let ours = settings(&[]);
    let (seen, _) = certified(&ours);
    assert_eq!(decide(&seen, &ours), decide(&seen, &ours));
}

#[test]
fn peers_are_remembered_for_a_cold_start() {
    let ours = settings(&[]);
    let (seen, _) = certified(&ours);
    let plan = decide(&seen, &ours);
    let kept = &plan.commit.unwrap().peers;
    assert_eq!(kept.get(&id(2)).map(|peer| peer.address.to_string()).as_deref(), Some("10.0.0.2:7846"));
}

#[test]
fn a_second_join_under_a_name_that_is_still_held_waits() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    seen.checks.insert(address(2), Known::Yes(born.ca_hash.clone()));
    seen.k3s.configuration = Known::Yes(());
    assert_eq!(rule(&decide(&seen, &ours)), "asking-members");
    let member = |node: &str| MemberSeen { node: node.into(), learner: false, address: Some(address(1)) };
    seen.members = Known::Yes(vec![member("node2"), member("node1")]);
    let plan = decide(&seen, &ours);
    assert_eq!(rule(&plan), "name-held");
    assert!(!plan.acts.contains(&Act::Start { role: Role::Server }));
    seen.members = Known::Yes(vec![member("node2")]);
    assert!(decide(&seen, &ours).acts.contains(&Act::Start { role: Role::Server }));
    // A first server that discarded data asks before it takes its place.
    let fresh = record(&mut seen);
    (fresh.data, fresh.discarded) = (Data::None, 1);
    seen.k3s.configuration = Known::Absent;
    seen.members = Known::Yes(vec![member("node2"), member("node1")]);
    assert_eq!(rule(&decide(&seen, &ours)), "name-held");
    seen.members = Known::Yes(vec![member("node2")]);
    assert_eq!(rule(&decide(&seen, &ours)), "first-server");
}

#[test]
fn k3s_does_not_wait_for_a_server_that_is_gone_while_there_is_another() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Joining { role: Role::Agent, cluster: born.cluster_id.clone() };
    seen.checks.insert(address(2), Known::Yes(born.ca_hash.clone()));
    seen.k3s.agent_unit = Known::Yes(UnitSeen::Starting);
    seen.k3s.configured_server = Known::Yes(address(2));
    assert_eq!(decide(&seen, &ours).acts, []);
    seen.k3s.configured_server = Known::Yes(address(7));
    // It stands still before its file changes: the file alone would not tell what runs.
    let called_back = [Act::Stop { role: Role::Agent }];
    let mut stands = seen.clone();
    stands.k3s.agent_unit = Known::Yes(UnitSeen::Inactive);
    let wanted =
        K3sWanted::InCluster { role: Role::Agent, server: Some(address(2)), ca: born.ca_hash.clone() };
    let sent = [Act::Configure { wanted }, Act::Start { role: Role::Agent }];
    assert_eq!(decide(&stands, &ours).acts, sent);
    assert_eq!(decide(&seen, &ours).acts, called_back);
    // A machine that was reimaged at that address and joins itself takes nobody in.
    let reimaged = Claim {
        role: Role::Server,
        phase: Phase::Joining,
        certificate: Some(born.clone()),
        ..claim(7, &ours)
    };
    hears(&mut seen, reimaged, &ours);
    assert_eq!(decide(&seen, &ours).acts, called_back);
    // A member that starts again is waited for, and so is one that was heard of within the minute.
    hears(&mut seen, Claim { phase: Phase::Degraded, api: Some(false), ..server(7, &born, &ours) }, &ours);
    assert_eq!(decide(&seen, &ours).acts, []);
    hears(&mut seen, Claim { role: Role::Undecided, ..claim(7, &ours) }, &ours);
    assert_eq!(decide(&seen, &ours).acts, called_back);
    seen.watch.settled_since = seen.now - Duration::from_secs(59);
    assert_eq!(decide(&seen, &ours).acts, []);
    seen.watch.settled_since = seen.now - Duration::from_secs(60);
    // An agent with data may know no other server; a server with data knows its members.
    seen.k3s.agent_data = Known::Yes(());
    assert_eq!(decide(&seen, &ours).acts, called_back);
    record(&mut seen).data = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
    (seen.k3s.agent_unit, seen.k3s.server_unit) =
        (Known::Yes(UnitSeen::Inactive), Known::Yes(UnitSeen::Starting));
    assert!(
        decide(&seen, &ours).acts.contains(&Act::Stop { role: Role::Server }),
        "without data it knows nobody"
    );
    seen.k3s.server_data = Known::Yes(());
    assert!(!decide(&seen, &ours).acts.contains(&Act::Stop { role: Role::Server }));
}

#[test]
fn an_agent_whose_server_is_gone_is_sent_through_another() {
    let ours = settings(&[]);
    let (mut seen, born) = certified(&ours);
    record(&mut seen).data = Data::Member { role: Role::Agent, cluster: born.cluster_id.clone() };
    record(&mut seen).served = true;
    (seen.k3s.agent_unit, seen.k3s.agent_data) = (Known::Yes(UnitSeen::Active), Known::Yes(()));
    seen.k3s.ready = Known::Yes(false);
    seen.k3s.configured_server = Known::Yes(address(7));
    hears(&mut seen, server(7, &born, &ours), &ours);
    let sent = |seen: &Observed| rule(&decide(seen, &ours)) == "server-gone";
    assert!(!sent(&seen), "its server lives");
    view(&mut seen).peers.get_mut(&id(7)).unwrap().live = false;
    let silent = |seen: &mut Observed, seconds: u64| {
        let at = seen.now - Duration::from_secs(seconds);
        heal_of(seen).silent.insert(id(7), at);
    };
    silent(&mut seen, 59);
    assert!(!sent(&seen), "not for long");
    // Its file keeps naming that server meanwhile, also when a recovery has made it nobody's: what runs knows no other.
    let mut recovered = seen.clone();
    let recovery = crate::core::Recovery {
        number: 1,
        cluster: born.cluster_id.clone(),
        survivor: id(2),
        name: "node2".into(),
        reason: "lab".into(),
    };
    record(&mut recovered).recovery = Some(recovery.clone());
    view(&mut recovered).peers.get_mut(&id(2)).unwrap().claim_mut().recovery = Some(recovery);
    let names = |plan: &Plan| {
        plan.acts.iter().find_map(|act| match act {
            Act::Configure { wanted: K3sWanted::InCluster { server, .. } } => *server,
            _ => None,
        })
    };
    assert_eq!(names(&decide(&recovered, &ours)), Some(address(7)));
    silent(&mut seen, 60);
    let plan = decide(&seen, &ours);
    assert_eq!((rule(&plan), plan.phase), ("server-gone", Phase::Degraded));
    assert_eq!(plan.acts, [Act::Stop { role: Role::Agent }]);
    let mut stands = seen.clone();
    stands.k3s.agent_unit = Known::Yes(UnitSeen::Inactive);
    let wanted =
        K3sWanted::InCluster { role: Role::Agent, server: Some(address(2)), ca: born.ca_hash.clone() };
    assert_eq!(decide(&stands, &ours).acts, [Act::Configure { wanted }, Act::Start { role: Role::Agent }]);
    // What is configured then lives: it is not sent about again, and started when it stands still.
    let mut next = seen.clone();
    next.k3s.configured_server = Known::Yes(address(2));
    assert!(!sent(&next));
    next.k3s.agent_unit = Known::Yes(UnitSeen::Inactive);
    assert!(decide(&next, &ours).acts.contains(&Act::Start { role: Role::Agent }));
    // Its balancer found another by itself; or nobody else serves.
    let mut well = seen.clone();
    well.k3s.ready = Known::Yes(true);
    assert!(!sent(&well));
    view(&mut seen).peers.get_mut(&id(2)).unwrap().claim_mut().api = Some(false);
    assert!(!sent(&seen));
}

#[test]
fn the_gate_lets_the_next_era_be_founded_and_the_annulled_one_rest() {
    use crate::engine::gate_word;
    let ours = settings(&[]);
    let mut next = Record::new(&ours.cluster);
    let by = id(1);
    next.open_next_era(Annulment { era: 1, cluster_id: None, by, reason: "gone".into() });
    assert!(gate_word(&next).annulled);
    next.data = Data::Discarding { reason: "annulled".into() };
    assert!(gate_word(&next).annulled);
    next.data = Data::Provisional { ballot: ballot(1, 1) };
    let word = gate_word(&next);
    assert!(word.provisional_armed && !word.annulled);
}

#[path = "recover_tests.rs"]
mod recovery;
