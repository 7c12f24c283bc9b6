//! Golden files of everything that is rendered, and the refusals of the specification.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::spec::{NodeNames, Passwords, SpecError};
use super::*;
use crate::config::K3sSettings;
use crate::core::CaHash;
use crate::k3s::ConfigFile;

fn node() -> NodeNames {
    NodeNames {
        name: "node1".into(),
        address: "10.77.0.1".parse().unwrap(),
        second: None,
        api_names: vec!["vip.example".into(), "node1".into()],
    }
}

fn settings() -> K3sSettings {
    K3sSettings {
        version: "v1.33.1+k3s1".into(),
        sources: Vec::new(),
        checksums: None,
        data_dir: "/var/lib/rancher/k3s".into(),
        cluster_cidr: "10.42.0.0/16".into(),
        service_cidr: "10.43.0.0/16".into(),
        cluster_dns: None,
        cluster_domain: "cluster.local".into(),
        flannel_backend: "vxlan".into(),
        disable: vec!["traefik".into(), "servicelb".into(), "traefik".into()],
        tls_san: vec!["10.77.0.100".into()],
        token: None,
        agent_token: None,
        server_config: BTreeMap::new(),
        agent_config: BTreeMap::new(),
    }
}

fn paths() -> Paths {
    Paths::new(Path::new("/var/lib/rancher/k3s"), Path::new("/var/lib/muster"))
}

fn passwords() -> Passwords {
    Passwords {
        server: Secret::new("server-password-0123".into()),
        agent: Secret::new("agent-password-0123".into()),
    }
}

fn ca() -> CaHash {
    CaHash::from_digest(&[0x5a; 32])
}

fn peer() -> std::net::IpAddr {
    "10.77.0.2".parse().unwrap()
}

/// Compares with the golden file of that name, whole.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/k3s").join(name);
    let wanted = crate::edge::fs::read_text(&path).unwrap().unwrap_or_default();
    assert!(text == wanted, "{} differs; rendered:\n{text}", path.display());
}

fn server_with(extras: &[(&str, Value)]) -> Result<K3sSpec, SpecError> {
    let mut settings = settings();
    settings.server_config = extras.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    K3sSpec::founder(&node(), &settings, &paths(), &passwords())
}

#[test]
fn every_role_has_its_golden_configuration() {
    let (settings, paths, passwords) = (settings(), paths(), passwords());
    let six = NodeNames { address: "fd77::1".parse().unwrap(), ..node() };
    let dual = NodeNames { second: Some("fd77::1".parse().unwrap()), ..node() };
    let dual_settings = K3sSettings {
        cluster_cidr: "10.42.0.0/16,fd00:42::/56".into(),
        service_cidr: "10.43.0.0/16,fd00:43::/112".into(),
        ..settings.clone()
    };
    let cases = [
        ("config-founder-dual.yaml", K3sSpec::founder(&dual, &dual_settings, &paths, &passwords)),
        ("config-founder.yaml", K3sSpec::founder(&node(), &settings, &paths, &passwords)),
        (
            "config-joining-server.yaml",
            K3sSpec::joining_server(&node(), &settings, &paths, &passwords, &ca(), peer()),
        ),
        (
            "config-disarmed-server-alone.yaml",
            K3sSpec::disarmed_server(&node(), &settings, &paths, &passwords, &ca(), None),
        ),
        (
            "config-agent-ipv6.yaml",
            K3sSpec::agent(&six, &settings, &paths, &passwords.agent, &ca(), "fd77::2".parse().unwrap()),
        ),
    ];
    for (name, spec) in cases {
        golden(name, &config_text(&spec.unwrap()));
    }
    assert_eq!(
        K3sSpec::disarmed_server(&node(), &settings, &paths, &passwords, &ca(), Some(peer())),
        K3sSpec::joining_server(&node(), &settings, &paths, &passwords, &ca(), peer()),
        "a member with a known peer and a joining server have one configuration"
    );
}

#[test]
fn units_are_as_written_down() {
    golden("k3s.service", &unit_text(K3sRole::Server, &paths()));
    golden("k3s-agent.service", &unit_text(K3sRole::Agent, &paths()));
    golden("openrc-k3s", &openrc_text(K3sRole::Server, &paths()));
    golden("openrc-k3s-agent", &openrc_text(K3sRole::Agent, &paths()));
}

#[test]
fn units_call_a_packaged_muster_where_it_is_and_any_other_in_the_usual_place() {
    let gate = |program: Option<&str>| {
        let paths = paths().with_muster_run_from(program.map(Path::new));
        let text = unit_text(K3sRole::Server, &paths);
        text.lines().find(|line| line.starts_with("ExecCondition=")).map(str::to_owned).unwrap_or_default()
    };
    assert!(gate(Some("/usr/bin/muster")).starts_with("ExecCondition=/usr/bin/muster gate server"));
    for other in
        [None, Some("/usr/local/bin/muster"), Some("/root/muster"), Some("/usr/bin/muster (deleted)")]
    {
        assert!(gate(other).starts_with("ExecCondition=/usr/local/bin/muster gate server"), "{other:?}");
    }
}

#[test]
fn tokens_are_files_of_mode_0600_written_before_the_configuration_and_never_in_it() {
    let spec = K3sSpec::joining_server(&node(), &settings(), &paths(), &passwords(), &ca(), peer()).unwrap();
    let files = files(&spec, &paths());
    let names: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
    assert_eq!(
        names,
        [
            "/etc/rancher/k3s/muster-server-token",
            "/etc/rancher/k3s/muster-agent-token",
            "/etc/rancher/k3s/config.yaml"
        ]
    );
    assert!(files.iter().all(|file| file.mode == 0o600));
    assert_eq!(files[0].content.expose(), format!("K10{}::server:server-password-0123\n", ca()));
    assert_eq!(files[1].content.expose(), "agent-password-0123\n");
    assert!(!files[2].content.expose().contains("password"));
    assert!(!format!("{files:?}{spec:?}").contains("password-0123"));
}

#[test]
fn the_founder_has_a_bare_password_and_an_agent_a_pinned_one() {
    let founder = K3sSpec::founder(&node(), &settings(), &paths(), &passwords()).unwrap();
    assert_eq!(founder.secrets[0].1.expose(), "server-password-0123");
    let agent = K3sSpec::agent(&node(), &settings(), &paths(), &passwords().agent, &ca(), peer()).unwrap();
    assert_eq!(agent.secrets.len(), 1);
    assert_eq!(agent.secrets[0].1.expose(), format!("K10{}::node:agent-password-0123", ca()));
}

#[test]
fn what_is_rendered_reads_back_as_what_was_meant() {
    let hostile = "true\n\"cluster-init: true\\ \u{e9}\u{2028}\u{feff}\u{1f600} #x";
    let spec = server_with(&[
        ("kubelet-arg", json!(["fail-cgroupv1=false", hostile])),
        ("etcd-snapshot-retention", json!(5)),
        ("node-label+", json!([])),
        ("protect-kernel-defaults", json!(true)),
    ])
    .unwrap();
    let text = config_text(&spec);
    assert!(text.is_ascii());
    let read: BTreeMap<String, Value> = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(read, spec.keys);
    let file = ConfigFile::parse(&text).unwrap();
    assert!(file.cluster_init && file.server.is_none() && file.is(&text));
}

#[test]
fn an_operators_key_never_replaces_one_of_ours() {
    for key in [
        "cluster-init",
        "server",
        "s",
        "token",
        "token-file",
        "agent-token",
        "datastore-endpoint",
        "cluster-reset",
        "data-dir",
        "node-name",
        "node-ip",
        "node-ip+",
        "--server",
        "cluster-cidr",
        "tls-san",
        "disable",
        "disable-etcd",
        "advertise-address",
        "https-listen-port",
    ] {
        let refused = server_with(&[(key, json!("x"))]);
        assert!(matches!(refused, Err(SpecError::Key { .. })), "{key}: {refused:?}");
    }
    let error = server_with(&[("cluster-cidr", json!("10.0.0.0/8"))]).unwrap_err().to_string();
    assert_eq!(
        error,
        "k3s.server-config cannot have \"cluster-cidr\": this key is not free: use k3s.cluster-cidr"
    );
    let long = "a".repeat(101);
    for key in [
        "kubelet-arg: x\ncluster-init",
        "a #",
        "a: b",
        "",
        "+",
        "-",
        "Kubelet-Arg",
        "kubelet_arg",
        "ärger",
        &long,
    ] {
        let refused = server_with(&[(key, json!("x"))]);
        assert!(matches!(refused, Err(SpecError::Key { .. })), "{key}: {refused:?}");
        let said = refused.unwrap_err().to_string();
        assert!(!said.contains('\n') && said.len() < 400 && !said.contains("cluster-init"), "{said}");
    }
    for key in ["kubelet-arg", "kubelet-arg+", "--kubelet-arg", "vmodule", &long[..100]] {
        assert!(server_with(&[(key, json!("x"))]).is_ok(), "{key}");
    }
    for value in [json!(null), json!({"a": 1}), json!([["nested"]])] {
        assert!(matches!(server_with(&[("kubelet-arg", value)]), Err(SpecError::Key { .. })));
    }
    assert!(server_with(&[("kubelet-arg", json!("a")), ("kubelet-arg+", json!("b"))]).is_err());
    let secret = server_with(&[("etcd-s3-access-key", json!("hunter2"))]).unwrap();
    assert!(!format!("{secret:?}{:?}", files(&secret, &paths())).contains("hunter2"));
    let ours = server_with(&[]).unwrap();
    let added = server_with(&[("secrets-encryption", json!(true))]).unwrap();
    assert!(ours.keys.iter().all(|(key, value)| added.keys.get(key) == Some(value)));
}

#[test]
fn names_and_passwords_that_k3s_would_change_are_refused() {
    for name in ["localhost", "localhost.localdomain", "Node1", "", "a_b", "-a", "a-", "a..b"] {
        let node = NodeNames { name: name.into(), ..node() };
        let refused = K3sSpec::founder(&node, &settings(), &paths(), &passwords());
        assert!(matches!(refused, Err(SpecError::NodeName { .. })), "{name}");
    }
    let passwords = Passwords { agent: Secret::new("K10secret".into()), ..passwords() };
    let refused = K3sSpec::founder(&node(), &settings(), &paths(), &passwords).unwrap_err();
    assert!(matches!(refused, SpecError::Password { whose: "agent", .. }));
    assert!(!refused.to_string().contains("K10secret"));
}
