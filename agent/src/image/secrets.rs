//! Text that can only be a token, and what an image's own configuration of Muster says about tokens and state. [pure]
//!
//! A cluster token is any text without blanks: it has no shape that could be searched for. These have one, and
//! `--secret-file` searches for a known one.

use std::io::{self, Read};

use memchr::memmem::Finder;

/// What a token in a text is called; none when there is none. The text itself is never quoted.
#[must_use]
pub fn token_in(bytes: &[u8]) -> Option<&'static str> {
    if hex_after(bytes, b"K10", 64, b"::") {
        return Some("a full k3s token");
    }
    if hex_after(bytes, b"muster-worker.", 64, b"") {
        return Some("a worker token");
    }
    let given = |name: &str| assigns(bytes, name.as_bytes());
    if given("MUSTER_TOKEN") {
        return Some("a value of MUSTER_TOKEN");
    }
    (given("K3S_TOKEN") || given("K3S_AGENT_TOKEN")).then_some("a value of K3S_TOKEN or K3S_AGENT_TOKEN")
}

/// Whether a text of any length holds a secret; it is read piece by piece.
///
/// # Errors
/// When it cannot be read.
pub fn stream_holds(mut from: impl Read, secret: &[u8]) -> io::Result<bool> {
    let finder = Finder::new(secret);
    let overlap = secret.len().saturating_sub(1);
    let mut window = vec![0; (1 << 20) + overlap];
    let mut filled = 0;
    loop {
        match from.read(&mut window[filled..]) {
            Ok(0) => return Ok(false),
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if finder.find(&window[..filled]).is_some() {
            return Ok(true);
        }
        // What may be the secret's beginning stays.
        let keep = filled.min(overlap);
        window.copy_within(filled - keep..filled, 0);
        filled = keep;
    }
}

/// Every position of a text in another.
fn positions<'a>(bytes: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    memchr::memmem::find_iter(bytes, text)
}

fn hex_after(bytes: &[u8], before: &[u8], digits: usize, after: &[u8]) -> bool {
    positions(bytes, before).any(|at| {
        let rest = &bytes[at + before.len()..];
        rest.len() >= digits
            && rest[..digits].iter().all(u8::is_ascii_hexdigit)
            && rest[digits..].starts_with(after)
            && !rest.get(digits).is_some_and(u8::is_ascii_hexdigit)
    })
}

/// `NAME=value` with a value of at least eight characters that is no reference to another variable and no place for one to be
/// filled in.
fn assigns(bytes: &[u8], name: &[u8]) -> bool {
    positions(bytes, name).any(|at| {
        let joined = at.checked_sub(1).and_then(|before| bytes.get(before));
        if joined.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return false;
        }
        let Some(rest) = bytes[at + name.len()..].strip_prefix(b"=") else { return false };
        let value = rest.strip_prefix(b"\"").or(rest.strip_prefix(b"'")).unwrap_or(rest);
        let long = value
            .iter()
            .take_while(|byte| byte.is_ascii_graphic() && !b"\"'<>{}$`%\\".contains(byte))
            .count();
        long >= 8
    })
}

/// What an image's configuration says of the places of secrets and state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    /// Files of tokens.
    pub tokens: Vec<String>,
    /// Directories of Muster's state.
    pub state_dirs: Vec<String>,
    /// Data directories of k3s.
    pub data_dirs: Vec<String>,
}

impl Configured {
    /// Takes one file's text in; later files do not take back what earlier ones say, because any of them may come to count.
    ///
    /// # Errors
    /// When it is no TOML; what the parser said, which quotes nothing of the text.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let table: toml::Table =
            toml::from_str(text).map_err(|error| error.message().trim().replace('\n', ", "))?;
        let k3s = table.get("k3s").and_then(toml::Value::as_table);
        let mut take =
            |from: Option<&toml::Table>, key: &str, into: &dyn Fn(&mut Self) -> &mut Vec<String>| {
                let value = from.and_then(|table| table.get(key)).and_then(toml::Value::as_str);
                if let Some(path) = value.filter(|path| path.starts_with('/')) {
                    into(self).push(path.to_owned());
                }
            };
        for key in ["token-file", "previous-token-file"] {
            take(Some(&table), key, &|all| &mut all.tokens);
        }
        for key in ["token-file", "agent-token-file"] {
            take(k3s, key, &|all| &mut all.tokens);
        }
        take(Some(&table), "state-dir", &|all| &mut all.state_dirs);
        take(k3s, "data-dir", &|all| &mut all.data_dirs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_only_be_a_token_is_known_and_what_stands_in_its_place_is_not() {
        let hex = "0123456789abcdef".repeat(4);
        for (text, found) in [
            (format!("x K10{hex}::server:secret"), true),
            (format!("K10{hex}"), false),
            (format!("K10{}::server:x", &hex[1..]), false),
            (format!("muster-worker.{hex}\n"), true),
            (format!("muster-worker.{hex}0"), false),
            ("muster-worker.<64 hexadecimal digits>".to_owned(), false),
            ("MUSTER_TOKEN=correct-horse-battery".to_owned(), true),
            ("export K3S_TOKEN='correct-horse-battery'".to_owned(), true),
            ("K3S_TOKEN=\"$TOKEN_FROM_ELSEWHERE\"".to_owned(), false),
            ("K3S_TOKEN=<your token here>".to_owned(), false),
            ("MUSTER_TOKEN= and the like".to_owned(), false),
            ("MY_MUSTER_TOKEN=correct-horse-battery".to_owned(), false),
            ("K3S_TOKEN_FILE=/etc/somewhere/else".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(token_in(text.as_bytes()).is_some(), found, "{text}");
        }
    }

    #[test]
    fn a_secret_is_found_across_the_pieces_of_a_stream() {
        let secret = b"0123456789abcdef0123456789abcdef";
        for before in [0, 1, 31, (1 << 20) - 16, 1 << 20, (1 << 20) + 16, 3 << 20] {
            let text = [vec![b'0'; before], secret.to_vec(), vec![b'x'; 7]].concat();
            assert!(stream_holds(text.as_slice(), secret).unwrap(), "{before}");
            // A reader that gives what it likes.
            let trickle = text
                .chunks(4_099)
                .fold(Box::new(io::empty()) as Box<dyn Read>, |all, part| Box::new(all.chain(part)));
            assert!(stream_holds(trickle, secret).unwrap(), "{before} in pieces");
            assert!(!stream_holds(&text[..before + 31], secret).unwrap(), "{before} cut off");
        }
    }

    #[test]
    fn the_configuration_names_token_files_and_directories() {
        let mut all = Configured::default();
        all.add("token-file = \"/srv/t\"\nstate-dir = \"/data/m\"\n[k3s]\ntoken-file = \"/srv/k\"\ndata-dir = \"/data/k\"")
            .unwrap();
        all.add("token-file = \"relative\"\nservers = 3\n").unwrap();
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let wanted = Configured {
            tokens: text(&["/srv/t", "/srv/k"]),
            state_dirs: text(&["/data/m"]),
            data_dirs: text(&["/data/k"]),
        };
        assert_eq!(all, wanted);
        let error = all.add("token-file = \"secret").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
