//! One TOML drop-in: every key optional, every value with its line, unknown keys refused.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Key, Kind, Value};
use super::merge::Origin;
use super::problem::ConfigError;

/// What one file sets, and on which line.
pub(super) type Fragment = BTreeMap<Key, (Value, usize)>;

/// Keys that people write to give a secret in the clear, and what to do instead.
const INLINE_SECRETS: [(&str, &str); 5] = [
    ("token", CLUSTER_TOKEN_HINT),
    ("previous-token", "put it in a file of mode 0600 and name that file as `previous-token-file`"),
    ("k3s.token", "put it in a file of mode 0600 and name that file as `k3s.token-file`"),
    ("k3s.agent-token", "put it in a file of mode 0600 and name that file as `k3s.agent-token-file`"),
    ("k3s.server-token", "put it in a file of mode 0600 and name that file as `k3s.token-file`"),
];

/// What to do with a cluster token.
pub(super) const CLUSTER_TOKEN_HINT: &str = "put it in a file of mode 0600 and name that file as `token-file`, or give it as systemd credential `muster.token` or in \
     the environment variable MUSTER_TOKEN";

/// Reads one file's text.
///
/// # Errors
/// The first thing that is wrong with it, by line.
pub(super) fn parse(path: &Path, text: &str) -> Result<Fragment, ConfigError> {
    let reader = Reader { path, text };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: reader.place(error.span().map_or(text.len(), |span| span.start)),
        message: error.message().trim().replace('\n', ", "),
    })?;
    let mut fragment = Fragment::new();
    let mut problems = Vec::new();
    reader.section("", document.get_ref(), &mut fragment, &mut problems);
    match problems.into_iter().min_by_key(|(at, _)| *at) {
        Some((_, problem)) => Err(problem),
        None => Ok(fragment),
    }
}

/// The hint for a secret that was written in the clear under this key.
pub(super) fn inline_secret(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('_', "-");
    INLINE_SECRETS.iter().find(|(name, _)| *name == key).map(|(_, hint)| *hint)
}

/// What the writer of an unknown key should have written.
pub(super) fn unknown_hint(key: &str) -> String {
    if let Some(name) = Key::nearest(key) {
        return format!("did you mean `{name}`?");
    }
    let of = |name: &str| name.rsplit_once('.').map_or(String::new(), |(section, _)| section.to_owned());
    let section = of(key);
    let names: Vec<&str> = Key::ALL.iter().map(|key| key.name()).filter(|name| of(name) == section).collect();
    format!("known are {}", names.join(", "))
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

type Problems = Vec<(usize, ConfigError)>;

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn place(&self, at: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: self.line(at) }
    }

    fn section(&self, section: &str, table: &DeTable<'_>, into: &mut Fragment, problems: &mut Problems) {
        for (name, value) in table {
            let at = name.span().start;
            let full = match section {
                "" => name.get_ref().to_string(),
                section => format!("{section}.{}", name.get_ref()),
            };
            if Key::is_section(&full) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.section(&full, inner, into, problems),
                    other => problems.push((at, self.wrong_kind(at, full, "a section".into(), found(other)))),
                }
            } else if let Some(key) = Key::named(&full) {
                match take(key.kind(), value) {
                    Ok(value) => {
                        into.insert(key, (value, self.line(at)));
                    }
                    Err(found) => {
                        let wanted = key.kind().words().to_owned();
                        problems.push((at, self.wrong_kind(at, full, wanted, found)));
                    }
                }
            } else if let Some(hint) = inline_secret(&full) {
                problems.push((at, ConfigError::InlineSecret { place: self.place(at), key: full, hint }));
            } else {
                let hint = unknown_hint(&full);
                problems.push((at, ConfigError::UnknownKey { place: self.place(at), key: full, hint }));
            }
        }
    }

    fn wrong_kind(&self, at: usize, key: String, wanted: String, found: String) -> ConfigError {
        ConfigError::Kind { place: self.place(at), key, wanted, found }
    }
}

/// The value in its kind, or the name of the kind that was found. Values of the wrong kind are never quoted: nobody knows what
/// they hold.
fn take(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    let value = value.get_ref();
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Kind::Whole, DeValue::Integer(number)) => u64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Whole)
            .map_err(|_| "a number below zero or too large".to_owned()),
        (Kind::List, DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(format!("a list with {} in it", found(other))),
            })
            .collect::<Result<_, _>>()
            .map(Value::List),
        (Kind::Table, DeValue::Table(table)) => table
            .iter()
            .map(|(name, value)| Ok((name.get_ref().to_string(), json(value)?)))
            .collect::<Result<BTreeMap<String, serde_json::Value>, String>>()
            .map(Value::Table),
        (_, other) => Err(found(other)),
    }
}

fn json(value: &Spanned<DeValue<'_>>) -> Result<serde_json::Value, String> {
    use serde_json::Value as Json;
    Ok(match value.get_ref() {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Boolean(flag) => Json::Bool(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Json::from)
            .map_err(|_| "a number that is too large in it".to_owned())?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Json::Number)
            .ok_or_else(|| "a number that is not finite in it".to_owned())?,
        DeValue::Datetime(moment) => Json::String(moment.to_string()),
        DeValue::Array(items) => Json::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(table) => Json::Object(
            table
                .iter()
                .map(|(name, value)| Ok((name.get_ref().to_string(), json(value)?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(Path::new("/etc/muster/muster.toml"), text)
            .map(|fragment| fragment.len())
            .expect_err("a refusal")
            .line()
    }

    #[test]
    fn a_misspelt_key_in_every_section_names_file_line_and_neighbour() {
        for (text, wanted) in [
            ("cluster = \"a\"\nsevrers = 3\n", "2: unknown key `sevrers`; did you mean `servers`?"),
            ("\n[k3s]\nverison = \"x\"", "3: unknown key `k3s.verison`; did you mean `k3s.version`?"),
            ("k3s.verison = \"x\"", "1: unknown key `k3s.verison`; did you mean `k3s.version`?"),
            ("[host]\n\nskips = []", "3: unknown key `host.skips`; did you mean `host.skip`?"),
            ("[api]\nadresses = []", "2: unknown key `api.adresses`; did you mean `api.addresses`?"),
            (
                "[timing]\ngossip-interval = 5",
                "2: unknown key `timing.gossip-interval`; did you mean `timing.gossip-interval-ms`?",
            ),
            ("[k3ss]\nversion = \"x\"", "1: unknown key `k3ss`; did you mean `k3s`?"),
            ("[api]\ncolour = 1", "2: unknown key `api.colour`; known are api.addresses"),
        ] {
            assert_eq!(refusal(text), format!("/etc/muster/muster.toml:{wanted}"));
        }
    }

    #[test]
    fn a_value_of_another_kind_is_refused_without_quoting_it() {
        for (text, wanted) in [
            ("servers = \"three\"", "1: `servers` must be a whole number, zero or more, found a text"),
            (
                "servers = -3",
                "1: `servers` must be a whole number, zero or more, found a number below zero or too large",
            ),
            ("servers = 3.0", "1: `servers` must be a whole number, zero or more, found a fraction"),
            ("seeds = \"10.0.0.1\"", "1: `seeds` must be a list of texts, found a text"),
            (
                "seeds = [\n\"a\",\n1]",
                "1: `seeds` must be a list of texts, found a list with a whole number in it",
            ),
            ("cluster = true", "1: `cluster` must be a text, found true or false"),
            ("k3s = \"v1.33.1+k3s1\"", "1: `k3s` must be a section, found a text"),
            ("[k3s]\nserver-config = []", "2: `k3s.server-config` must be a table, found a list"),
            ("[cluster]\nname = \"a\"", "1: `cluster` must be a text, found a section"),
            ("role = 1979-05-27", "1: `role` must be a text, found a date"),
        ] {
            assert_eq!(refusal(text), format!("/etc/muster/muster.toml:{wanted}"));
        }
    }

    #[test]
    fn a_half_written_file_is_one_line_with_its_line() {
        for (text, line) in [
            ("cluster = \"lab\"\nservers =", 2),
            ("cluster = \"lab\"\nseeds = [\"10.0.0.1\",", 2),
            ("cluster = \"la", 1),
            ("[k3s", 1),
            ("cluster = \"a\"\ncluster = \"b\"\n", 2),
            ("a = 1\n\nthis is not toml", 3),
        ] {
            let said = refusal(text);
            assert!(
                said.starts_with(&format!("/etc/muster/muster.toml:{line}: not TOML, or half-written: ")),
                "{said}"
            );
            assert!(!said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn the_first_problem_of_a_file_is_the_one_told() {
        assert!(refusal("\nzzz = 1\naaa = 1\n[k3s]\nbbb = 1").starts_with("/etc/muster/muster.toml:2: "));
    }

    #[test]
    fn a_secret_in_the_clear_is_refused_with_what_to_do_and_never_quoted() {
        const CANARY: &str = "canary-0123456789abcdef";
        for text in [
            format!("token = \"{CANARY}\""),
            format!("token = [\"{CANARY}\"]"),
            format!("previous-token = \"{CANARY}\""),
            format!("[k3s]\ntoken = \"{CANARY}\""),
            format!("[k3s]\nagent-token = \"{CANARY}\""),
            format!("[k3s]\nserver_token = \"{CANARY}\""),
            format!("tokn = \"{CANARY}\""),
            format!("token = \"{CANARY}"),
            format!("token = {CANARY}"),
            format!("token-file = [\"{CANARY}\"]"),
            format!("token = \"{CANARY}\" \"{CANARY}\""),
            format!("token = \"{CANARY}\"\ntoken = \"{CANARY}\""),
            format!("token = \"\\{CANARY}\""),
        ] {
            let error = parse(Path::new("/etc/muster/muster.toml"), &text).err().expect("a refusal");
            assert!(!format!("{} {error:?}", error.line()).contains(CANARY), "{error:?}");
        }
        assert_eq!(
            refusal("[k3s]\nagent-token = \"x\""),
            "/etc/muster/muster.toml:2: a secret does not belong there: `k3s.agent-token`; put it in a file of mode 0600 and name \
             that file as `k3s.agent-token-file`"
        );
        assert!(refusal("token = \"x\"").contains("`token-file`"));
    }

    #[test]
    fn values_arrive_in_their_kinds_with_their_lines() {
        let text = "servers = 0x5\nseeds = [\n  \"a\",\n  \"b\",\n]\n[k3s.server-config]\nnode-label = [\"a=b\"]\nv = 1_0\n";
        let fragment = parse(Path::new("f"), text).expect("a fragment");
        assert!(fragment[&Key::Servers] == (Value::Whole(5), 1));
        assert!(fragment[&Key::Seeds] == (Value::List(vec!["a".into(), "b".into()]), 2));
        let (table, line) = &fragment[&Key::K3sServerConfig];
        assert_eq!(*line, 6);
        let Value::Table(table) = table else { panic!("not a table") };
        assert_eq!(serde_json::to_string(table).unwrap(), r#"{"node-label":["a=b"],"v":10}"#);
    }
}
