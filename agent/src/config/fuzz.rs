//! Entry point of the fuzzer into the configuration: see `crate::fuzz`.

use std::fmt::Write as _;
use std::path::Path;

use super::check::{self, Secrets};
use super::fragment;
use super::keys::{Key, Value};
use super::merge::Merged;
use super::show;
use crate::core::Secret;
use crate::fuzz::check_line;

const CANARY: &str = "canary-0123456789abcdef";
/// First lines that put a secret where it does not belong, or where it must be masked.
const FIRST: [&str; 12] = [
    "",
    "token = \"CANARY\"\n",
    "previous-token = [\"CANARY\"]\n",
    "k3s.agent_token = \"CANARY\"\n",
    "token-file = \"CANARY\"\n",
    "k3s.server-config = { etcd-s3-access-key = \"CANARY\" }\n",
    "k3s.agent-config = { a = [{ vpn-auth-x = \"CANARY\" }] }\n",
    "token = CANARY\n",
    "k3s.sources = [\"https://user:CANARY@mirror/\"]\n",
    "k3s.server-config = { kube-apiserver-arg = [\"oidc-client-secret=CANARY\"] }\n",
    "k3s.agent-config = { etcd-arg = \"name=a,initial-cluster-token=CANARY\" }\n",
    "api.addresses = [\"ftp://user:CANARY@vip/?token=CANARY\"]\n",
];

/// The first byte chooses a first line; the rest is the rest of the file.
pub(crate) fn configuration(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    if rest.contains(CANARY) {
        return;
    }
    let text = FIRST[usize::from(*first) % FIRST.len()].replace("CANARY", CANARY) + rest;
    let said = |line: &str| {
        // A value is quoted whole, and may be as long as the file; each of its control characters becomes up to eight.
        check_line(line, 2_000 + 8 * text.len());
        assert!(!line.contains(CANARY), "{line}");
    };
    let path = Path::new("/etc/muster/muster.toml");
    let fragment = match fragment::parse(path, &text) {
        Ok(fragment) => fragment,
        Err(error) => {
            assert!(!format!("{error:?}").contains(CANARY));
            return said(&error.line());
        }
    };
    let mut rendered = String::new();
    for (key, (value, _)) in &fragment {
        let _ = writeln!(rendered, "{} = {}", key.name(), toml_of(&json_of(value)));
    }
    let again = fragment::parse(path, &rendered);
    let again = again.unwrap_or_else(|error| panic!("{}: {rendered}", error.line()));
    let values = |fragment: &fragment::Fragment| -> Vec<(Key, serde_json::Value)> {
        fragment.iter().map(|(key, (value, _))| (*key, json_of(value))).collect()
    };
    assert_eq!(values(&again), values(&fragment), "{rendered}");

    let mut merged = Merged::defaults();
    merged.lay_file(path, fragment);
    let table = show::table(&show::shown(&merged));
    assert_eq!(table.lines().count(), Key::ALL.len() + 1, "{table}");
    assert!(!table.contains(CANARY), "{table}");
    let token = Secret::new(CANARY.to_owned());
    let secrets = Secrets { token, previous: None, k3s: None, k3s_agent: None };
    match check::settings(&merged, Some(secrets)) {
        Ok(settings) => {
            // A source's URL holds its password until the download: only its `Debug` form may.
            let shown =
                format!("{:?}", (&settings.cluster, &settings.seeds, &settings.token, settings.parameters()));
            assert!(!shown.contains(CANARY), "{shown}");
        }
        Err(problems) => problems.iter().for_each(|problem| said(&problem.line())),
    }
}

fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Text(text) => text.clone().into(),
        Value::Whole(number) => (*number).into(),
        Value::List(items) => items.clone().into(),
        Value::Table(table) => serde_json::Value::Object(table.clone().into_iter().collect()),
    }
}

/// A value in TOML on one line. JSON's texts are TOML's but for one character.
fn toml_of(value: &serde_json::Value) -> String {
    use serde_json::Value as Json;
    let text = |text: &str| Json::from(text).to_string().replace('\u{7f}', "\\u007F");
    match value {
        Json::String(value) => text(value),
        Json::Array(items) => format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", ")),
        Json::Object(table) => {
            let pairs = table.iter().map(|(name, value)| format!("{} = {}", text(name), toml_of(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
