//! `muster config show`: the merged result with the origin of every value, secrets masked.

use serde::Serialize;
use serde_json::Value as Json;

use super::k3s_keys::plain_key;
use super::keys::{Key, Value};
use super::merge::Merged;
use super::names::{flag_begin, is_flag, masked_url};
use super::problem::escaped;

const MASK: &str = "***";

/// One key as it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The key with its section: `k3s.version`.
    pub key: String,
    /// Its value, masked where it is or could be a secret; null when there is none.
    pub value: Json,
    /// Who set it: `file:line`, `environment NAME`, `flag --name`, `default`, or the name of the token's source.
    pub origin: String,
}

/// Every key, in the order of the table of keys.
pub(super) fn shown(merged: &Merged) -> Vec<Shown> {
    Key::ALL
        .iter()
        .map(|&key| {
            let (value, origin) = match merged.get(key) {
                Some(set) => (json(key, &set.value), set.origin.to_string()),
                None if key == Key::Founders => {
                    (merged.whole(Key::Servers).into(), "default, as many as servers".into())
                }
                None => (Json::Null, "default".into()),
            };
            Shown { key: key.name().to_owned(), value, origin }
        })
        .collect()
}

/// The row of a token: masked when it is there.
pub(super) fn token_row(key: &str, source: Option<String>) -> Shown {
    let value = if source.is_some() { Json::from(MASK) } else { Json::Null };
    Shown { key: key.to_owned(), value, origin: source.unwrap_or_else(|| "none".into()) }
}

/// A text as it may be shown for this key.
pub(super) fn masked_text(key: Key, text: &str) -> String {
    if key.names_secret_file() && !text.starts_with('/') {
        // Whoever puts the secret itself where its file belongs must not read it in the log.
        return MASK.to_owned();
    }
    masked_url(text)
}

fn json(key: Key, value: &Value) -> Json {
    match value {
        Value::Text(text) => masked_text(key, text).into(),
        Value::Whole(number) => (*number).into(),
        Value::List(items) => items.iter().map(|item| masked_text(key, item)).collect(),
        Value::Table(table) => {
            Json::Object(table.iter().map(|(name, value)| (key_of(name), masked(name, value))).collect())
        }
    }
}

/// A key for k3s; of one that is refused, only what cannot be a value that was written into it.
pub(crate) fn key_of(name: &str) -> String {
    if is_flag(plain_key(name)) { name.to_owned() } else { flag_begin(name) }
}

/// Raw k3s keys may hold secrets (`etcd-s3-secret-key`, a VPN's join key, a proxy's password in an environment), and so may the
/// arguments in them (`kube-apiserver-arg = ["oidc-client-secret=..."]`).
fn masked(name: &str, value: &Json) -> Json {
    // `secrets-encryption = true` tells nothing.
    let tells = !matches!(value, Json::Bool(_) | Json::Null);
    if tells && is_secret(name) {
        return MASK.into();
    }
    match value {
        Json::String(text) => {
            let mut arguments = text.split(',').filter_map(|argument| argument.split_once('='));
            match text.split_once('=') {
                Some((first, _)) if arguments.any(|(name, _)| is_secret(name)) => {
                    format!("{}={MASK}", masked_url(first)).into()
                }
                _ => masked_url(text).into(),
            }
        }
        Json::Array(items) => items.iter().map(|item| masked("", item)).collect(),
        Json::Object(table) => {
            Json::Object(table.iter().map(|(name, value)| (name.clone(), masked(name, value))).collect())
        }
        other => other.clone(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "secret", "pass", "key", "auth", "credential", "endpoint", "env"]
        .iter()
        .any(|word| name.contains(word))
}

/// The rows as a table for people: key, value, origin.
#[must_use]
pub fn table(rows: &[Shown]) -> String {
    let value = |row: &Shown| match &row.value {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let head = ("KEY".to_owned(), "VALUE".to_owned(), "ORIGIN".to_owned());
    let rows = rows.iter().map(|row| (row.key.clone(), escaped(&value(row)), escaped(&row.origin)));
    let rows: Vec<(String, String, String)> = std::iter::once(head).chain(rows).collect();
    let width = |of: fn(&(String, String, String)) -> &String| {
        rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0).min(60)
    };
    let (first, second) = (width(|row| &row.0), width(|row| &row.1));
    rows.iter().map(|(key, value, origin)| format!("{key:first$}  {value:second$}  {origin}\n")).collect()
}
