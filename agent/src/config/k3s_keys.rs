//! What an operator may write into k3s's configuration beside what Muster writes: asked when the configuration is read, and again
//! when k3s's file is made.
//!
//! The names are those of k3s's own flags (`pkg/cli/cmds` of k3s), with the old ones that it still takes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::names::{NOT_A_FLAG, is_flag};

const ADDRESS: &str = "nodes find and check each other at this address and port";
const DATASTORE: &str = "Muster founds clusters on embedded etcd";
const WHOLE: &str = "every server runs all of the control plane";
const RESET: &str = "a reset or a restore is never done at a start";
const SECRET_S3: &str = "a secret does not belong there: use etcd-s3-config-secret";
const AGENT_TOKEN: &str = "use k3s.agent-token-file";
const TOKEN: &str = "use k3s.token-file";
const NETWORK: &str = "use k3s.cluster-cidr";
const SERVICES: &str = "use k3s.service-cidr";

/// Keys that are not free, and what to use instead or why there is nothing.
const OWNED: [(&str, &str); 44] = [
    ("advertise-address", "it is the node's address: use node-ip or interface"),
    ("advertise-port", ADDRESS),
    ("agent-token", AGENT_TOKEN),
    ("agent-token-file", AGENT_TOKEN),
    ("apiserver-bind-address", ADDRESS),
    ("apiserver-port", ADDRESS),
    ("bind-address", ADDRESS),
    ("cluster-cidr", NETWORK),
    ("cluster-dns", "use k3s.cluster-dns"),
    ("cluster-domain", "use k3s.cluster-domain"),
    ("cluster-init", "Muster alone decides who founds"),
    ("cluster-secret", TOKEN),
    ("config", "Muster writes the configuration of k3s"),
    ("data-dir", "use k3s.data-dir"),
    ("debug-token", "a secret does not belong there"),
    ("disable", "use k3s.disable"),
    ("disable-agent", "every server is a node: its readiness is how joining is judged"),
    ("disable-apiserver", WHOLE),
    ("disable-controller-manager", WHOLE),
    ("disable-etcd", WHOLE),
    ("disable-scheduler", WHOLE),
    ("etcd-s3-secret-key", SECRET_S3),
    ("etcd-s3-session-token", SECRET_S3),
    ("flannel-backend", "use k3s.flannel-backend"),
    ("https-listen-port", ADDRESS),
    ("kine-tls", DATASTORE),
    ("kube-cloud-controller-arg", "use kube-cloud-controller-manager-arg"),
    ("kube-controller-arg", "use kube-controller-manager-arg"),
    ("lb-server-port", ADDRESS),
    ("log", "Muster reads in the journal why k3s cannot start, and with this key k3s writes elsewhere"),
    ("no-deploy", "use k3s.disable"),
    ("node-ip", "use node-ip"),
    ("node-name", "use node-name"),
    ("rootless", "Muster runs k3s as root, with its data in k3s.data-dir"),
    ("server", "Muster knows the servers"),
    ("service-cidr", SERVICES),
    ("supervisor-port", ADDRESS),
    ("tls-san", "use k3s.tls-san"),
    ("token", TOKEN),
    ("token-file", TOKEN),
    ("vpn-auth", "a secret does not belong there: use vpn-auth-file"),
    ("with-node-id", "it adds to the node's name: use node-name"),
    ("write-kubeconfig", "the path that Muster reads is k3s's own"),
    ("write-kubeconfig-mode", "the kubeconfig is a secret: its mode is 0600"),
];

/// Beginnings of keys that are not free.
const OWNED_FAMILIES: [(&str, &str); 2] = [("cluster-reset", RESET), ("datastore-", DATASTORE)];

/// An argument that k3s hands on to a component, in place of what it wrote there itself.
struct Argument {
    /// Key of k3s.
    of: &'static str,
    /// Name of the argument; one that ends in `-` stands for all that begin so.
    name: &'static str,
    /// Whether it decides which cluster the node is in, so that a file of somebody else's must not have it either.
    decides: bool,
    /// Why it is not free.
    why: &'static str,
}

const fn argument(of: &'static str, name: &'static str, decides: bool, why: &'static str) -> Argument {
    Argument { of, name, decides, why }
}

const ONE_EACH: &str = "with it every start makes a cluster of one member out of the data";
const WHICH: &str = "k3s tells etcd which cluster it is in";
const PLACE: &str = "k3s sees by what lies in its own place whether it is a member already";
const SHOWN: &str = "it decides which data the API shows";

/// Arguments that are not free. k3s lays `etcd-arg` over etcd's configuration at every start (`ToConfigFile` of its executor).
const ARGUMENTS: [Argument; 25] = [
    argument("etcd-arg", "force-new-cluster", true, ONE_EACH),
    argument("etcd-arg", "force-new-cluster-", true, ONE_EACH),
    argument("etcd-arg", "initial-", true, WHICH),
    argument("etcd-arg", "discovery", true, WHICH),
    argument("etcd-arg", "discovery-", true, WHICH),
    argument("etcd-arg", "config-file", true, WHICH),
    argument("etcd-arg", "name", true, "k3s and Muster know a member by its name"),
    argument("etcd-arg", "data-dir", true, PLACE),
    argument("etcd-arg", "wal-dir", true, PLACE),
    argument("etcd-arg", "advertise-", true, ADDRESS),
    argument("etcd-arg", "listen-", false, ADDRESS),
    argument(
        "etcd-arg",
        "strict-reconfig-check",
        false,
        "etcd must go on refusing what would cost the quorum",
    ),
    argument(
        "etcd-arg",
        "unsafe-no-fsync",
        false,
        "a power cut would take back what this member has promised",
    ),
    argument("kube-apiserver-arg", "etcd-servers", true, SHOWN),
    argument("kube-apiserver-arg", "etcd-servers-", true, SHOWN),
    argument("kube-apiserver-arg", "etcd-prefix", true, SHOWN),
    argument("kube-apiserver-arg", "storage-backend", true, SHOWN),
    argument("kube-apiserver-arg", "advertise-address", false, ADDRESS),
    argument("kube-apiserver-arg", "bind-address", false, ADDRESS),
    argument("kube-apiserver-arg", "secure-port", false, ADDRESS),
    argument("kube-apiserver-arg", "service-cluster-ip-range", false, SERVICES),
    argument("kube-controller-manager-arg", "cluster-cidr", false, NETWORK),
    argument("kube-controller-manager-arg", "service-cluster-ip-range", false, SERVICES),
    argument("kubelet-arg", "hostname-override", false, "use node-name"),
    argument("kubelet-arg", "node-ip", false, "use node-ip"),
];

/// A key as k3s takes it: without dashes in front or the `+` that appends. Blanks between them go, too: k3s would not know such a key,
/// but one that looks like another is judged as that one.
pub(crate) fn plain_key(key: &str) -> &str {
    let key = key.trim_start_matches(|c: char| c == '-' || c.is_whitespace());
    key.trim_end_matches(|c: char| c == '+' || c.is_whitespace())
}

/// The keys of `k3s.server-config` or `k3s.agent-config` that are refused, as written, each with the reason.
pub(crate) fn refused(table: &BTreeMap<String, Value>) -> Vec<(&str, String)> {
    let mut seen = BTreeSet::new();
    let reason = |(name, value): (&'_ String, &Value)| {
        let key = plain_key(name);
        if is_flag(key) && !seen.insert(key.to_owned()) {
            return Some("it is there twice, in two spellings".to_owned());
        }
        refusal(key, value)
    };
    let reasons: Vec<Option<String>> = table.iter().map(reason).collect();
    table.keys().zip(reasons).filter_map(|(name, reason)| Some((name.as_str(), reason?))).collect()
}

/// Why a key that is plain is refused with this value, if it is.
fn refusal(key: &str, value: &Value) -> Option<String> {
    if !is_flag(key) {
        return Some(NOT_A_FLAG.to_owned());
    }
    let family = || OWNED_FAMILIES.iter().find(|(begin, _)| key.starts_with(begin));
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == key).or_else(family) {
        return Some(format!("this key is not free: {instead}"));
    }
    // `v`, the verbosity, has no other name.
    if key.len() == 1 && key != "v" {
        return Some("write the long name of the flag".to_owned());
    }
    if !can_be_flag(value) {
        return Some("k3s takes text, a number, true, false or a list of those".to_owned());
    }
    let found = arguments(key, value).next()?;
    Some(format!("its argument {} is not free: {}", found.name.trim_end_matches('-'), found.why))
}

/// The first argument of a key that decides which cluster the node is in.
pub(crate) fn deciding_argument(key: &str, value: &Value) -> Option<&'static str> {
    arguments(key, value).find(|argument| argument.decides).map(|argument| argument.name)
}

/// The arguments in a value that are not free.
///
/// The names are read as their readers do: etcd's without regard to case, those of Kubernetes with `_` for `-`. Releases of k3s differ
/// in whether a comma begins another argument: what follows one is judged, too.
fn arguments<'a>(key: &'a str, value: &'a Value) -> impl Iterator<Item = &'static Argument> + 'a {
    let texts: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    texts.into_iter().flat_map(|text| text.split(',')).filter_map(move |text| {
        let name = text.split('=').next().unwrap_or_default();
        let name =
            name.trim_matches(|c: char| c == '-' || c.is_whitespace()).to_ascii_lowercase().replace('_', "-");
        let is = |owned: &str| name == owned || owned.ends_with('-') && name.starts_with(owned);
        ARGUMENTS.iter().find(|argument| argument.of == key && is(argument.name))
    })
}

/// Whether k3s can take a value for one of its flags.
pub(crate) fn can_be_flag(value: &Value) -> bool {
    match value {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => {
            items.iter().all(|item| matches!(item, Value::Bool(_) | Value::Number(_) | Value::String(_)))
        }
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::k3s::{CRITICAL, CRITICAL_FAMILIES};

    fn reason(key: &str, value: Value) -> Option<String> {
        let table = BTreeMap::from([(key.to_owned(), value)]);
        refused(&table).into_iter().next().map(|(_, reason)| reason)
    }

    #[test]
    fn what_decides_which_cluster_a_node_is_in_is_never_free() {
        let names = OWNED.iter().map(|(name, _)| (*name).to_owned());
        let families = OWNED_FAMILIES.iter().map(|(begin, _)| format!("{begin}x"));
        let letters = ('a'..='z').filter(|letter| *letter != 'v').map(String::from);
        for name in names.chain(families).chain(letters) {
            for written in [name.clone(), format!("{name}+"), format!("--{name}")] {
                assert!(reason(&written, json!("x")).is_some(), "{written}");
            }
        }
        // The list for files of other people's is shorter, and nothing in it may be free here.
        let families = CRITICAL_FAMILIES.iter().map(|begin| format!("{begin}x"));
        for key in CRITICAL.iter().map(|key| (*key).to_owned()).chain(families) {
            assert!(reason(&key, json!("x")).is_some(), "{key}");
        }
    }

    #[test]
    fn what_an_operator_may_tell_k3s() {
        let free = [
            ("v", json!(4)),
            ("vmodule", json!("etcd=5")),
            ("secrets-encryption", json!(true)),
            ("node-label", json!(["a=b"])),
            ("kubelet-arg+", json!(["max-pods=200", "cluster-dns=169.254.20.10"])),
            (
                "etcd-arg",
                json!(["quota-backend-bytes=8589934592", "heartbeat-interval=300", "experimental-x=1"]),
            ),
            ("etcd-arg", json!("max-request-bytes=1,2")),
            (
                "kube-apiserver-arg",
                json!(["etcd-compaction-interval=5m", "oidc-client-id=force-new-cluster"]),
            ),
            ("kube-controller-manager-arg", json!("node-monitor-grace-period=20s")),
            ("kube-proxy-arg", json!("node-ip=x")),
        ];
        for (key, value) in free {
            assert_eq!(reason(key, value.clone()), None, "{key} = {value}");
        }
    }

    #[test]
    fn an_argument_for_a_component_replaces_nothing_that_is_ours() {
        for owned in &ARGUMENTS {
            let name =
                if owned.name.ends_with('-') { format!("{}x", owned.name) } else { owned.name.to_owned() };
            let spellings = [
                json!([format!("{name}=1")]),
                json!(format!("{name}=1")),
                json!(["a=b", format!("--{}=1", name.to_uppercase())]),
                json!(format!("a=b, {}", name.replace('-', "_"))),
            ];
            for value in spellings {
                let said = reason(owned.of, value.clone());
                assert!(said.is_some_and(|said| said.contains(owned.why)), "{} = {value}", owned.of);
                assert_eq!(deciding_argument(owned.of, &value).is_some(), owned.decides, "{value}");
            }
        }
        assert_eq!(reason("etcd-arg", json!([1, true])), None);
    }

    #[test]
    fn a_key_in_two_spellings_is_told_once() {
        let table =
            BTreeMap::from([("kubelet-arg".to_owned(), json!("a")), ("kubelet-arg+".to_owned(), json!("b"))]);
        let said: Vec<&str> = refused(&table).into_iter().map(|(name, _)| name).collect();
        assert_eq!(said, ["kubelet-arg+"]);
    }
}
