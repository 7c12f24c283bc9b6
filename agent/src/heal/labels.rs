//! Labels that a kubelet may not set itself, such as `node-role.kubernetes.io/*`: set through the API by the healer, from the
//! configuration that all machines share (hazard 41).

use std::collections::BTreeMap;

use crate::core::zones::LABEL;

/// A Node with its labels, as the API lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Its name.
    pub name: String,
    /// Whether it is a server.
    pub server: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// The labels that machines of a role are to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of servers.
    pub server: BTreeMap<String, String>,
    /// Of agents.
    pub agent: BTreeMap<String, String>,
}

impl Wanted {
    /// Whether there is anything to do at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.server.is_empty() && self.agent.is_empty()
    }
}

/// The first Node that lacks some, and what is to be set on it: what the configuration asks for, and the zone that its machine says it
/// stands in, by the Node's name. A label that stands in the configuration no more is left as it is:
/// whose it is now cannot be told.
#[must_use]
pub fn missing(
    nodes: &[Labelled],
    wanted: &Wanted,
    zones: &BTreeMap<&str, &str>,
) -> Option<(String, BTreeMap<String, String>)> {
    nodes.iter().find_map(|node| {
        let of_role = if node.server { &wanted.server } else { &wanted.agent };
        let zone = zones.get(node.name.as_str()).filter(|_| !of_role.contains_key(LABEL));
        let set: BTreeMap<String, String> = of_role
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .chain(zone.map(|zone| (LABEL, *zone)))
            .filter(|(key, value)| node.labels.get(*key).map(String::as_str) != Some(*value))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        (!set.is_empty()).then(|| (node.name.clone(), set))
    })
}

/// Reads `key=value`, as Kubernetes allows it.
///
/// # Errors
/// With what is allowed.
pub fn parse(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is written as key=value")?;
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_some_and(|prefix| prefix == "muster.internal") {
        return Err("labels of muster.internal are Muster's own".to_owned());
    }
    let word = |text: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        text.len() <= 63
            && text.bytes().all(inside)
            && edge(text.as_bytes().first())
            && edge(text.as_bytes().last())
    };
    let domain = |text: &str| {
        text.len() <= 253
            && text.split('.').all(|part| {
                word(part) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    };
    if !word(name) || !prefix.is_none_or(domain) {
        return Err("a label's key is a name of at most 63 letters, digits, -, _ and ., after a domain and a / or not".into());
    }
    if !value.is_empty() && !word(value) {
        return Err("a label's value has at most 63 letters, digits, -, _ and .".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a failure domain: it becomes the value of a label.
///
/// # Errors
/// With what is allowed.
pub fn zone(text: &str) -> Result<String, String> {
    match parse(&format!("{LABEL}={text}")) {
        Ok((_, value)) if !value.is_empty() => Ok(value),
        _ => Err("a zone has 1 to 63 letters, digits, -, _ and ., a letter or a digit first and last".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_what_a_label_may_say() {
        for good in ["eu-central-1a", "rack_7", "1"] {
            assert_eq!(zone(good).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "-a", "a=b", "ä", &"x".repeat(64)] {
            assert!(zone(bad).is_err(), "{bad}");
        }
    }

    fn map(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace().map(|pair| parse(pair).unwrap()).collect()
    }

    #[test]
    fn only_what_differs_is_set_and_by_role() {
        let node =
            |name: &str, server, labels: &str| Labelled { name: name.into(), server, labels: map(labels) };
        let wanted = Wanted {
            server: map("tier=control"),
            agent: map("node-role.kubernetes.io/worker=true tier=work"),
        };
        let done = [
            node("a", true, "tier=control x=y"),
            node("b", false, "node-role.kubernetes.io/worker=true tier=work"),
        ];
        let none = BTreeMap::new();
        assert_eq!(missing(&done, &wanted, &none), None);
        // A zone is set beside them, on the machine that told it; the configuration's own word for that label comes first.
        let zones = BTreeMap::from([("b", "rack-1"), ("c", "rack-2")]);
        let (name, set) = missing(&done, &wanted, &zones).unwrap();
        assert_eq!((name.as_str(), set), ("b", map("topology.kubernetes.io/zone=rack-1")));
        let told = Wanted { agent: map("topology.kubernetes.io/zone=x"), ..Wanted::default() };
        assert_eq!(missing(&done[1..], &told, &zones).unwrap().1, told.agent);
        let late = [done[0].clone(), node("b", false, "tier=control")];
        let (name, set) = missing(&late, &wanted, &none).unwrap();
        assert_eq!((name.as_str(), set), ("b", wanted.agent.clone()));
        assert_eq!(missing(&late, &Wanted::default(), &none), None);
    }

    #[test]
    fn labels_are_read_as_kubernetes_allows_them() {
        assert_eq!(parse("a.b/c-d=e_f").unwrap(), ("a.b/c-d".into(), "e_f".into()));
        assert_eq!(parse("empty=").unwrap().1, "");
        for bad in
            ["nothing", "=x", "a b=c", "-a=b", "A.B/c=d", "a=b=c", "a=-", "muster.internal/order=server"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
