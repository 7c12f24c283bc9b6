//! Lists of addresses as programs and files give them: one in a line, or a line of JSON.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::{Failure, Found, MOST_OF_ONE};

/// Most bytes read of a list.
pub const MOST_BYTES: usize = 1 << 20;

/// Reads a list: `address`, `address:port`, `[v6]:port`, the same as a JSON text, or a JSON object with `address` and perhaps
/// `port`; empty lines and what follows `#` are left out. Without a port the given one is taken. Lines that are none of this are
/// counted; a list of nothing else is a failure, and so is none at all: an empty answer says "no peers", noise does not.
///
/// # Errors
/// When not one line of several is an address.
pub fn parse(text: &str, port: u16) -> Result<Found, Failure> {
    let mut addresses = Vec::new();
    let (mut refused, mut first, mut left) = (0_usize, None, 0_usize);
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match address(line, port) {
            Some(_) if addresses.len() >= MOST_OF_ONE => left += 1,
            Some(address) => addresses.push(address),
            None => {
                refused += 1;
                first.get_or_insert_with(|| line.chars().take(60).collect::<String>());
            }
        }
    }
    let refusal = first.map(|first| format!("{refused} lines are no addresses, the first: {first:?}"));
    if let (true, Some(refusal)) = (addresses.is_empty(), &refusal) {
        return Err(Failure::new(refusal));
    }
    let left = (left > 0).then(|| format!("{left} addresses above {MOST_OF_ONE} are left out"));
    let notes: Vec<String> = [refusal, left].into_iter().flatten().collect();
    let note = (!notes.is_empty()).then(|| crate::core::brief(&notes.join("; ")));
    Ok(Found { addresses, note, ..Found::default() })
}

fn address(line: &str, port: u16) -> Option<SocketAddr> {
    if !line.starts_with(['{', '"']) {
        return plain(line, port);
    }
    match serde_json::from_str(line).ok()? {
        Value::String(text) => plain(&text, port),
        Value::Object(object) => {
            let port = match object.get("port") {
                None | Some(Value::Null) => port,
                Some(given) => u16::try_from(given.as_u64()?).ok()?,
            };
            plain(object.get("address")?.as_str()?, port)
        }
        _ => None,
    }
}

fn plain(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let found = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)).or_else(|_| text.parse());
    found.ok().filter(|address: &SocketAddr| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_in_every_form_are_read_and_noise_beside_them_is_told() {
        let text = "# peers\n10.0.0.1\n10.0.0.2:99  # the second\n\n[fd00::1]:5\nfd00::2\n\"10.0.0.3\"\n\
                    {\"address\": \"10.0.0.4\", \"port\": 7, \"zone\": \"a\"}\n{\"address\": \"10.0.0.5\"}\nhello\n{\"port\": 1}\n";
        let found = parse(text, 7846).unwrap();
        let wanted = [
            "10.0.0.1:7846",
            "10.0.0.2:99",
            "[fd00::1]:5",
            "[fd00::2]:7846",
            "10.0.0.3:7846",
            "10.0.0.4:7",
            "10.0.0.5:7846",
        ];
        assert_eq!(found.addresses, wanted.map(|text| text.parse().unwrap()));
        assert_eq!(found.note.as_deref(), Some("2 lines are no addresses, the first: \"hello\""));
    }

    #[test]
    fn an_empty_list_is_an_answer_and_noise_is_none() {
        assert_eq!(parse("\n# nobody\n", 1).unwrap().addresses, []);
        for noise in [
            "hello\nworld",
            "10.0.0.1:0",
            "{\"address\": 5}",
            "{\"address\":\"10.0.0.1\",\"port\":70000}",
            "\u{0}\u{7}",
        ] {
            assert!(parse(noise, 1).is_err(), "{noise:?}");
        }
    }

    #[test]
    fn ten_thousand_addresses_are_cut_and_it_is_said() {
        let text: String = (0..10_000).map(|n| format!("10.1.{}.{}\n", n / 256, n % 256)).collect();
        let found = parse(&text, 7846).unwrap();
        assert_eq!(found.addresses.len(), MOST_OF_ONE);
        assert_eq!(found.note.unwrap(), "8976 addresses above 1024 are left out");
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "\\PC*") {
            let _ = parse(&text, 7846);
        }
    }
}
