//! What a k3s configuration file on disk says, as far as founding and joining go.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::config::{deciding_argument, plain_key};

/// A configuration file that k3s could not read either: half-written, or no mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a YAML mapping: {cause}")]
pub struct ConfigError {
    /// The parser's words, with line and column.
    pub cause: String,
}

/// The keys that decide which cluster a node is in. Muster alone writes them; a drop-in that sets one is refused.
pub(crate) const CRITICAL: [&str; 18] = [
    "server",
    "cluster-init",
    "token",
    "token-file",
    "agent-token",
    "agent-token-file",
    "data-dir",
    "node-name",
    "node-ip",
    // What else moves the token, the name or the data directory.
    "cluster-secret",
    "with-node-id",
    "rootless",
    // It would point k3s to another file.
    "config",
    // Short for server, token, data-dir, node-ip and config.
    "s",
    "t",
    "d",
    "i",
    "c",
];

/// Beginnings of more such keys.
pub(crate) const CRITICAL_FAMILIES: [&str; 2] = ["cluster-reset", "datastore-"];

/// Whether a key is one of those that decide which cluster a node is in.
///
/// `k3s-facts.md` part 2.1 lists what each can do; a trailing `+` (append) and k3s's one-letter aliases are seen through.
#[must_use]
pub fn is_critical_key(key: &str) -> bool {
    let key = plain_key(key);
    CRITICAL.contains(&key) || CRITICAL_FAMILIES.iter().any(|begin| key.starts_with(begin))
}

/// The few keys of a configuration file that matter here, and a digest of the text. The text itself is not kept: an
/// operator's own keys may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigFile {
    /// SHA-256 of the text.
    pub digest: String,
    /// `cluster-init` is set to something other than false.
    pub cluster_init: bool,
    /// `server`, when it is not empty.
    pub server: Option<String>,
    /// `token-file`, when it is not empty.
    pub token_file: Option<PathBuf>,
    /// `agent-token-file`, when it is not empty.
    pub agent_token_file: Option<PathBuf>,
    /// A token stands in the file itself. Muster never writes that.
    pub inline_token: bool,
    /// A `cluster-reset` key is set.
    pub cluster_reset: bool,
    /// An argument for etcd or the API that decides which cluster the node is in, with its key.
    pub argument: Option<String>,
    /// A `datastore-endpoint` is set.
    pub external_datastore: bool,
    /// `data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `node-name`.
    pub node_name: Option<String>,
    /// `node-ip`, one or two addresses as text.
    pub node_ip: Vec<String>,
    /// All keys, plain and sorted.
    pub keys: Vec<String>,
}

impl ConfigFile {
    /// Reads a text. An empty one is a file without keys.
    ///
    /// # Errors
    /// When it is not a YAML mapping.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let map = read_mapping(text)?;
        let text_of = |key: &str| map.get(key).map(scalar).filter(|value| !value.is_empty());
        let set = |key: &str| map.get(key).is_some_and(|value| !is_false(value));
        Ok(Self {
            digest: digest_of(text),
            cluster_init: set("cluster-init"),
            server: text_of("server").or_else(|| text_of("s")),
            token_file: text_of("token-file").map(PathBuf::from),
            agent_token_file: text_of("agent-token-file").map(PathBuf::from),
            inline_token: ["token", "t", "agent-token"].iter().any(|key| text_of(key).is_some()),
            cluster_reset: map
                .iter()
                .any(|(key, value)| key.starts_with("cluster-reset") && !is_false(value)),
            argument: map.iter().find_map(|(key, value)| deciding(key, value)),
            external_datastore: text_of("datastore-endpoint").is_some(),
            data_dir: text_of("data-dir").or_else(|| text_of("d")).map(PathBuf::from),
            node_name: text_of("node-name"),
            node_ip: map.get("node-ip").map(list).unwrap_or_default(),
            keys: map.into_keys().collect(),
        })
    }

    /// Whether the file on disk is this text, byte for byte.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.digest == digest_of(text)
    }
}

/// An argument among those of a key that decides which cluster the node is in, as it is told: `etcd-arg: force-new-cluster`.
pub(super) fn deciding(key: &str, value: &Value) -> Option<String> {
    deciding_argument(key, value).map(|argument| format!("{key}: {argument}"))
}

/// Events that the aliases of one file may repeat, over all: far more than a configuration of k3s has, and few enough that a file of
/// aliases takes neither memory nor time. The library's own bound, a million, let 278 bytes take 65 MiB; ten thousand let 1,401 bytes,
/// most of them one long text, take 33.
const MOST_REPEATED: usize = 1_000;

/// The keys of a YAML mapping, plain. Of one in two spellings, such as `etcd-arg` and `etcd-arg+`, all values count.
pub(crate) fn read_mapping(text: &str) -> Result<BTreeMap<String, Value>, ConfigError> {
    let blank = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    });
    if blank {
        return Ok(BTreeMap::new());
    }
    let limits = serde_saphyr::alias_limits! { max_total_replayed_events: MOST_REPEATED };
    let options = serde_saphyr::options! { alias_limits: limits };
    let map: BTreeMap<String, Value> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError { cause: first_line(&error.to_string()) })?;
    let mut plain: BTreeMap<String, Value> = BTreeMap::new();
    for (key, value) in map {
        match plain.entry(plain_key(&key).to_owned()) {
            Entry::Vacant(free) => {
                free.insert(value);
            }
            Entry::Occupied(mut other) => {
                let both = items(other.get()).chain(items(&value)).cloned().collect();
                other.insert(both);
            }
        }
    }
    Ok(plain)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn digest_of(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(items) => items.last().map(scalar).unwrap_or_default(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> Vec<String> {
    let texts = match value {
        Value::Array(items) => items.iter().map(scalar).collect(),
        other => vec![scalar(other)],
    };
    texts
        .iter()
        .flat_map(|text| text.split(','))
        .map(|text| text.trim().to_owned())
        .filter(|t| !t.is_empty())
        .collect()
}

/// What Go's flag parser takes for false. Anything else counts as set: that is the careful side.
fn is_false(value: &Value) -> bool {
    match value {
        Value::Bool(set) => !set,
        Value::Array(items) => !items.is_empty() && items.iter().all(is_false),
        other => matches!(scalar(other).as_str(), "0" | "f" | "F" | "false" | "False" | "FALSE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_are_read_alike() {
        let yaml = "# comment\ncluster-init: true\nserver: https://10.77.0.2:6443\ntoken-file: /t\nnode-ip:\n  - 10.77.0.1\n  - fd00::1\n";
        let json = r#"{"cluster-init": true, "server": "https://10.77.0.2:6443", "token-file": "/t", "node-ip": "10.77.0.1,fd00::1"}"#;
        for text in [yaml, json] {
            let file = ConfigFile::parse(text).unwrap();
            assert!(file.cluster_init, "{text}");
            assert_eq!(file.server.as_deref(), Some("https://10.77.0.2:6443"));
            assert_eq!(file.token_file, Some(PathBuf::from("/t")));
            assert_eq!(file.node_ip, ["10.77.0.1", "fd00::1"]);
            assert!(file.is(text) && !file.is("other"));
        }
    }

    #[test]
    fn what_counts_as_set_is_what_k3s_would_take_for_set() {
        let cases = [
            ("cluster-init: false", false),
            ("cluster-init: \"false\"", false),
            ("cluster-init: 0", false),
            ("cluster-init: \"true\"", true),
            ("cluster-init: 1", true),
            ("cluster-init:", true),
            ("--cluster-init: true", true),
            ("cluster-init: true\ncluster-init+: false", true),
            ("cluster-init: [false, true, false]", true),
            ("cluster-init: [false]", false),
            ("other: x", false),
        ];
        for (text, set) in cases {
            assert_eq!(ConfigFile::parse(text).unwrap().cluster_init, set, "{text}");
        }
        let empty = ConfigFile::parse("server: \"\"\ntoken:\n").unwrap();
        assert_eq!((empty.server, empty.inline_token), (None, false));
        assert!(ConfigFile::parse("token: abc").unwrap().inline_token);
        let argument = "etcd-arg: [force-new-cluster=true]\netcd-arg+: [quota-backend-bytes=1]\n";
        assert_eq!(
            ConfigFile::parse(argument).unwrap().argument.as_deref(),
            Some("etcd-arg: force-new-cluster")
        );
        assert_eq!(ConfigFile::parse("etcd-arg: [quota-backend-bytes=1]").unwrap().argument, None);
        assert!(ConfigFile::parse("cluster-reset-restore-path: /x").unwrap().cluster_reset);
    }

    #[test]
    fn half_a_file_is_an_error_and_an_empty_one_is_not() {
        for text in ["", "\n# nothing\n---\n"] {
            assert_eq!(ConfigFile::parse(text).unwrap().keys, Vec::<String>::new());
        }
        for text in ["{\"cluster-init\": tr", "- a\n- b\n", "server: \"https://10", "just words"] {
            assert!(ConfigFile::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn aliases_are_followed_and_a_bomb_of_them_is_refused() {
        let ten = |item: &str| [item; 10].join(", ");
        let mut text = format!("a: &a [{}]\n", ten("x"));
        text.push_str("tls-san: *a\n");
        assert_eq!(read_mapping(&text).unwrap()["tls-san"].as_array().map(Vec::len), Some(10));
        for (name, of) in [('b', 'a'), ('c', 'b'), ('d', 'c'), ('e', 'd')] {
            text.push_str(&format!("{name}: &{name} [{}]\n", ten(&format!("*{of}"))));
        }
        let refused = read_mapping(&text).unwrap_err();
        assert!(refused.to_string().contains("alias"), "{refused}");
    }

    #[test]
    fn critical_keys_are_seen_in_every_spelling() {
        for key in [
            "server",
            "--server",
            "s",
            "cluster-reset-restore-path",
            "datastore-cafile",
            "token+",
            "token +",
            "- -server\t+ ",
            "node-ip+",
            "d",
            "i",
            "cluster-secret",
            "with-node-id",
            "rootless",
        ] {
            assert!(is_critical_key(key), "{key}");
        }
        for key in ["node-label", "tls-san+", "kubelet-arg", "disable"] {
            assert!(!is_critical_key(key), "{key}");
        }
    }
}
