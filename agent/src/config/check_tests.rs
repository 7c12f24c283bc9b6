//! Every refusal of a value, as text in and line out.

use super::*;
use crate::config::merge::Origin;
use crate::config::settings::{Seed, Source};

const CANARY: &str = "canary-0123456789abcdef";

fn merged(text: &str) -> Merged {
    let path = std::path::Path::new("/etc/muster/muster.toml");
    let mut merged = Merged::defaults();
    merged.lay_file(path, crate::config::fragment::parse(path, text).expect("a fragment"));
    merged
}

fn secrets() -> Secrets {
    Secrets { token: Secret::new(CANARY.into()), previous: None, k3s: None, k3s_agent: None }
}

fn checked(text: &str) -> Result<Settings, Vec<String>> {
    settings(&merged(text), Some(secrets()))
        .map_err(|problems| problems.iter().map(ConfigError::line).collect())
}

#[test]
fn every_refusal_names_key_value_origin_and_what_is_allowed() {
    let cases = [
        ("cluster = \"\"", "cluster =  (", "1 to 63 characters of a-z, 0-9 and hyphen"),
        ("cluster = \"Lab\"", "cluster = Lab (", "1 to 63 characters"),
        ("servers = 0", "servers = 0 (", "odd numbers"),
        ("servers = 4", "servers = 4 (", "4 voters survive no more failures than 3"),
        ("founders = 0", "founders = 0 (", "at least 1 vote"),
        ("founders = 1", "founders = 1 (", "only with servers = 1"),
        ("role = \"master\"", "role = master (", "auto, server and agent"),
        ("founding = \"always\"", "founding = always (", "auto and never"),
        ("seeds = [\"a b\"]", "seeds = a b (", "host:port"),
        ("seeds = [\"10.0.0\"]", "seeds = 10.0.0 (", "mistyped address"),
        ("seeds = [\"host:0\"]", "seeds = host:0 (", "from 1 to 65535"),
        ("seeds = [\"0.0.0.0\"]", "seeds = 0.0.0.0 (", "one machine"),
        ("token-file = \"etc/token\"", "token-file = *** (", "must be absolute"),
        ("previous-token-file = \"x\"", "previous-token-file = *** (", "must be absolute"),
        ("node-name = \"Node_1\"", "node-name = Node_1 (", "a-z, 0-9, hyphen and dot"),
        ("node-name = \"localhost\"", "node-name = localhost (", "a name of its own"),
        ("node-ip = \"node1\"", "node-ip = node1 (", "not an IPv4 or IPv6 address"),
        ("node-ip = \"127.0.0.1\"", "node-ip = 127.0.0.1 (", "loopback"),
        ("node-ip = \"::1\"", "node-ip = ::1 (", "loopback"),
        ("node-ip = \"::ffff:127.0.0.1\"", "node-ip = ::ffff:127.0.0.1 (", "loopback"),
        ("node-ip = \"224.0.0.1\"", "node-ip = 224.0.0.1 (", "multicast"),
        ("node-ip = \"0.0.0.0\"", "node-ip = 0.0.0.0 (", "unspecified"),
        ("node-ip = \"255.255.255.255\"", "node-ip = 255.255.255.255 (", "broadcast"),
        ("node-ip = \"10.0.0.5,10.0.0.6\"", "node-ip = 10.0.0.5,10.0.0.6 (", "one of IPv4 and one of IPv6"),
        ("node-ip = \"10.0.0.5,::1\"", "node-ip = 10.0.0.5,::1 (", "loopback"),
        ("node-ip = \"10.0.0.5,\"", "node-ip = 10.0.0.5, (", "not an IPv4 or IPv6 address"),
        (
            "node-ip = \"fd00::5\"",
            "node-ip = fd00::5 (",
            "fd00::5 is of IPv6, and the pod network 10.42.0.0/16",
        ),
        (
            "node-ip = \"10.0.0.5,fd00::5\"",
            "node-ip = 10.0.0.5,fd00::5 (",
            "has no pod network of its family",
        ),
        (
            "k3s.service-cidr = \"fd01::/112\"",
            "k3s.service-cidr = fd01::/112 (",
            "it has IPv6, and k3s.cluster-cidr has IPv4",
        ),
        (
            "k3s.service-cidr = \"10.43.0.0/16,fd01::/112\"",
            "k3s.service-cidr = 10.43.0.0/16,fd01::/112 (",
            "the same families in the same order",
        ),
        ("interface = \"a/b\"", "interface = a/b (", "1 to 15 characters"),
        ("gossip-port = 0", "gossip-port = 0 (", "1 to 65535"),
        ("gossip-port = 65536", "gossip-port = 65536 (", "1 to 65535"),
        ("metrics-listen = \"7847\"", "metrics-listen = 7847 (", "127.0.0.1:7847"),
        ("metrics-listen = \"127.0.0.1:0\"", "metrics-listen = 127.0.0.1:0 (", "1 to 65535"),
        ("metrics-listen = \"0.0.0.0:7847\"", "metrics-listen = 0.0.0.0:7847 (", "metrics-access"),
        ("metrics-access = \"all\"", "metrics-access = all (", "loopback and network"),
        ("gossip-port = 8472", "gossip-port = 8472 (", "k3s's own network"),
        ("state-dir = \"state\"", "state-dir = state (", "absolute"),
        ("state-dir = \"/var/lib/rancher/k3s/m\"", "state-dir = /var/lib/rancher/k3s/m (", "outlive"),
        ("run-dir = \"run\"", "run-dir = run (", "absolute"),
        ("k3s.version = \"stable\"", "k3s.version = stable (", "v1.33.1+k3s1"),
        ("k3s.sources = []", "k3s.sources = [] (", "at least one"),
        ("k3s.sources = [\"k3s\"]", "k3s.sources = k3s (", "an absolute path and an http(s) URL"),
        ("k3s.sources = [\"ftp://a/b\"]", "k3s.sources = ftp://a/b (", "https or http://host"),
        ("k3s.checksums = \"sums\"", "k3s.checksums = sums (", "an absolute path"),
        ("k3s.data-dir = \"k3s\"", "k3s.data-dir = k3s (", "absolute"),
        ("k3s.cluster-cidr = \"10.42.0.0\"", "k3s.cluster-cidr = 10.42.0.0 (", "address/prefix length"),
        ("k3s.cluster-cidr = \"10.42.0.1/16\"", "k3s.cluster-cidr = 10.42.0.1/16 (", "10.42.0.0/16"),
        ("k3s.service-cidr = \"10.42.8.0/24\"", "k3s.service-cidr = 10.42.8.0/24 (", "overlaps"),
        ("k3s.cluster-dns = \"10.44.0.10\"", "k3s.cluster-dns = 10.44.0.10 (", "outside the service network"),
        ("k3s.cluster-dns = \"dns\"", "k3s.cluster-dns = dns (", "not an IPv4 or IPv6 address"),
        ("k3s.cluster-domain = \"a b\"", "k3s.cluster-domain = a b (", "DNS name"),
        ("k3s.flannel-backend = \"vxlam\"", "k3s.flannel-backend = vxlam (", "vxlan, host-gw"),
        ("k3s.disable = [\"Traefik\"]", "k3s.disable = Traefik (", "a-z, 0-9 and hyphen"),
        ("k3s.tls-san = [\"a b\"]", "k3s.tls-san = a b (", "DNS name"),
        ("k3s.token-file = \"x\"", "k3s.token-file = *** (", "absolute"),
        ("k3s.agent-token-file = \"x\"", "k3s.agent-token-file = *** (", "absolute"),
        ("k3s.server-config.cluster-init = true", "k3s.server-config.cluster-init = *** (", "who founds"),
        ("k3s.server-config.\"tls-san+\" = []", "k3s.server-config.tls-san+ = *** (", "use k3s.tls-san"),
        ("k3s.server-config.\"v: 1\\nserver\" = \"x\"", "k3s.server-config.v... = *** (", "lower-case"),
        (
            "k3s.agent-config.\"\" = \"x\"",
            "k3s.agent-config.... = *** (",
            "lower-case letters, digits and hyphens",
        ),
        ("k3s.server-config.\"--server\" = 1", "k3s.server-config.--server = *** (", "knows the servers"),
        (
            "k3s.server-config.datastore-cafile = \"x\"",
            "k3s.server-config.datastore-cafile = *** (",
            "embedded etcd",
        ),
        (
            "k3s.server-config.supervisor-port = 1",
            "k3s.server-config.supervisor-port = *** (",
            "address and port",
        ),
        ("k3s.server-config.s = \"x\"", "k3s.server-config.s = *** (", "the long name"),
        ("k3s.server-config.kubelet-arg.a = 1", "k3s.server-config.kubelet-arg = *** (", "a list of those"),
        (
            "k3s.server-config = { kubelet-arg = [], \"kubelet-arg+\" = [] }",
            "k3s.server-config.kubelet-arg+ = *** (",
            "twice",
        ),
        (
            "k3s.server-config.etcd-arg = [\"force-new-cluster=true\"]",
            "k3s.server-config.etcd-arg = *** (",
            "a cluster of one",
        ),
        ("k3s.agent-config.server = \"x\"", "k3s.agent-config.server = *** (", "knows the servers"),
        ("host.skip = [\"\"]", "host.skip =  (", "muster plan"),
        ("api.addresses = [\"http://vip\"]", "api.addresses = http://vip (", "https://host"),
        ("api.addresses = [\"vip:6443\"]", "api.addresses = vip:6443 (", "https://host"),
        ("timing.gossip-interval-ms = 1", "timing.gossip-interval-ms = 1 (", "10 to 60000 milliseconds"),
        ("timing.settle-ms = 600001", "timing.settle-ms = 600001 (", "0 to 600000 milliseconds"),
        ("timing.nominee-patience-ms = 1", "timing.nominee-patience-ms = 1 (", "1000 to 3600000"),
    ];
    for (text, start, reason) in cases {
        let said = checked(text).err().unwrap_or_else(|| panic!("{text} was taken"));
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].starts_with(&format!("{start}/etc/muster/muster.toml:1): ")), "{text}: {}", said[0]);
        assert!(said[0].contains(reason), "{text}: {}", said[0]);
    }
}

#[test]
fn all_refusals_are_told_at_once() {
    let said = checked("servers = 2\nrole = \"x\"\n[k3s]\nversion = \"y\"").expect_err("refusals");
    let keys: Vec<&str> = said.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(keys, ["servers", "role", "k3s.version"]);
}

#[test]
fn a_refusal_never_shows_a_secret() {
    for text in [
        format!("token-file = \"{CANARY}\""),
        format!("k3s.token-file = \"{CANARY}\""),
        format!("k3s.sources = [\"https://user:{CANARY}@mirror/k3s\"]"),
        format!("k3s.sources = [\"https://user:a/{CANARY}@mirror/k3s\"]"),
        format!("k3s.sources = [\"https://mirror/k3s?sig={CANARY}\"]"),
        format!("k3s.sources = [\"ftp://user:{CANARY}@mirror/k3s\"]"),
        format!("api.addresses = [\"https://{CANARY}@vip\"]"),
        format!("k3s.server-config.token = \"{CANARY}\""),
        format!("k3s.server-config.\"token: {CANARY}\" = true"),
        format!("k3s.server-config.datastore-endpoint = \"postgres://k3s:{CANARY}@db\""),
        format!("k3s.server-config.etcd-arg = [\"initial-cluster-token={CANARY}\"]"),
        format!("k3s.server-config.etcd-arg = \"name=a,initial-cluster-token={CANARY}\""),
        format!("k3s.server-config.etcd-s3-secret-key = \"{CANARY}\""),
    ] {
        let problems = settings(&merged(&text), Some(secrets())).expect_err("a refusal");
        assert!(!format!("{problems:?}").contains(CANARY), "{problems:?}");
        assert!(problems.iter().all(|problem| !problem.line().contains(CANARY)), "{problems:?}");
        let shown = crate::config::show::shown(&merged(&text));
        assert!(!format!("{shown:?}").contains(CANARY), "{shown:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let settings = checked("").expect("settings");
    assert_eq!((settings.cluster.as_str(), settings.servers, settings.founders), ("muster", 3, 3));
    assert_eq!((settings.role, settings.founding), (WantedRole::Auto, FoundingMode::Auto));
    assert_eq!(settings.gossip_port, 7846);
    assert_eq!(settings.metrics_listen, Some("127.0.0.1:7847".parse().unwrap()));
    assert_eq!(settings.state_dir.to_str(), Some("/var/lib/muster"));
    assert_eq!(settings.run_dir.to_str(), Some("/run/muster"));
    assert_eq!(settings.k3s.version, "v1.33.1+k3s1");
    assert_eq!(settings.k3s.sources[0], Source::Path("/opt/muster/k3s".into()));
    assert_eq!(settings.k3s.cluster_cidr, "10.42.0.0/16");
    assert_eq!(settings.k3s.service_cidr, "10.43.0.0/16");
    assert_eq!(settings.timing, Timing::default());
    assert!(settings.seeds.is_empty() && settings.node_ips.is_empty() && settings.api_addresses.is_empty());
}

#[test]
fn metrics_leave_the_machine_only_when_that_is_said() {
    for (text, wanted) in [
        ("metrics-listen = \"off\"", None),
        ("metrics-listen = \"[::1]:9\"", Some("[::1]:9")),
        ("metrics-listen = \"10.0.0.1:9\"\nmetrics-access = \"network\"", Some("10.0.0.1:9")),
    ] {
        let wanted = wanted.map(|text| text.parse().unwrap());
        assert_eq!(checked(text).expect("settings").metrics_listen, wanted, "{text}");
    }
}

#[test]
fn founders_follow_servers_unless_they_are_set() {
    for (text, wanted) in [
        ("servers = 1", (1, 1)),
        ("servers = 5", (5, 5)),
        ("servers = 1\nfounders = 1", (1, 1)),
        ("servers = 1\nfounders = 3", (1, 3)),
        ("servers = 3\nfounders = 5", (3, 5)),
    ] {
        let settings = checked(text).expect("settings");
        assert_eq!((settings.servers, settings.founders), wanted, "{text}");
    }
}

#[test]
fn seeds_take_the_gossip_port_and_are_not_doubled() {
    let settings =
        checked("gossip-port = 9000\nseeds = [\"host2\", \"10.0.0.1\", \"host2:9000\", \"10.0.0.1:9000\"]")
            .expect("settings");
    assert_eq!(
        settings.seeds,
        [Seed::Name("host2".into(), 9000), Seed::Address("10.0.0.1:9000".parse().expect("an address"))]
    );
}

#[test]
fn equal_parameters_have_one_spelling() {
    let hash = |text: &str| checked(text).expect("settings").parameters().hash();
    let dual = "k3s.service-cidr = \"10.43.0.0/16,fd01::/112\"\nk3s.cluster-cidr";
    assert_eq!(
        hash(&format!("{dual} = \"10.42.0.0/16,fd00::/56\"")),
        hash(&format!("{dual} = \"10.42.0.0/16, FD00:0:0::/56\"")),
    );
    assert_eq!(
        hash("k3s.disable = [\"traefik\", \"servicelb\"]"),
        hash("k3s.disable = [\"servicelb\", \"traefik\"]")
    );
    for other in [
        "servers = 5",
        "cluster = \"other\"",
        "k3s.cluster-cidr = \"10.44.0.0/16\"",
        "k3s.server-config.secrets-encryption = true",
    ] {
        assert_ne!(hash(""), hash(other), "{other}");
    }
    // What may differ from node to node is no parameter.
    for same in ["node-name = \"a\"", "k3s.server-config.node-label = [\"a=b\"]", "role = \"agent\""] {
        assert_eq!(hash(""), hash(same), "{same}");
    }
}

#[test]
fn addresses_follow_the_families_of_the_pods() {
    let both = "k3s.cluster-cidr = \"10.42.0.0/16,fd00:42::/56\"\nk3s.service-cidr = \"10.43.0.0/16,fd00:43::/112\"\n";
    let six_first = "k3s.cluster-cidr = \"fd00:42::/56,10.42.0.0/16\"\nk3s.service-cidr = \"fd00:43::/112,10.43.0.0/16\"\n";
    let six = "k3s.cluster-cidr = \"fd00:42::/56\"\nk3s.service-cidr = \"fd00:43::/112\"\n";
    let ips = |text: String| checked(&text).expect("settings").node_ips;
    let ip = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    for (networks, node_ip, wanted) in [
        (both, "10.0.0.5, fd00::5", vec![ip("10.0.0.5"), ip("fd00::5")]),
        (both, "10.0.0.5", vec![ip("10.0.0.5")]),
        (six_first, "fd00::5,10.0.0.5", vec![ip("fd00::5"), ip("10.0.0.5")]),
        (six, "fd00::5", vec![ip("fd00::5")]),
    ] {
        assert_eq!(ips(format!("{networks}node-ip = \"{node_ip}\"")), wanted, "{networks}{node_ip}");
    }
    for (networks, node_ip) in
        [(both, "fd00::5,10.0.0.5"), (six_first, "10.0.0.5"), (six, "10.0.0.5"), (six, "fd00::5,10.0.0.5")]
    {
        assert!(checked(&format!("{networks}node-ip = \"{node_ip}\"")).is_err(), "{networks}{node_ip}");
    }
}

#[test]
fn a_lone_machine_has_one_server_one_vote_and_no_seed() {
    for (text, wanted) in [
        ("servers = 1", true),
        ("servers = 1\nfounders = 1", true),
        ("servers = 1\nrole = \"server\"", true),
        ("", false),
        ("servers = 1\nfounders = 3", false),
        ("servers = 1\nseeds = [\"host2\"]", false),
        ("servers = 1\nrole = \"agent\"", false),
    ] {
        assert_eq!(is_lone(&merged(text)), wanted, "{text}");
    }
}

#[test]
fn values_that_nobody_set_have_the_default_as_origin() {
    assert_eq!(merged("").origin(Key::Servers), Origin::Default);
    assert_eq!(merged("").origin(Key::Founders), Origin::Default);
}
