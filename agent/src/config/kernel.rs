//! Settings on the kernel's command line, for machines that boot from a network: `muster.servers=3 muster.seeds=a,b`. [pure]
//!
//! The command line is given by whoever boots the machine, for this boot: it lies over all files and beneath the environment.
//! Everybody on the machine can read it, and every pod that reads `/proc`: a token is refused there. `muster.config-url` and
//! `muster.token-url` name where the rest is fetched from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::fragment::{inline_secret, unknown_hint};
use super::keys::{Key, Kind, Value};
use super::merge::Origin;
use super::names;
use super::problem::ConfigError;

/// Where the kernel shows its command line.
pub(super) const COMMAND_LINE: &str = "/proc/cmdline";
/// systemd writes it in a container, where the command line is that of the machine outside.
pub(super) const CONTAINER: &str = "/run/systemd/container";
/// The file that what `muster.config-url` leads to is kept in, for this boot.
pub(super) const FETCHED_CONFIG: &str = "/run/muster/conf.d/40-kernel-url.toml";
/// The file that what `muster.token-url` leads to is kept in, for this boot.
pub(super) const FETCHED_TOKEN: &str = "/run/muster/kernel-token";

const PREFIX: &str = "muster.";
const CONFIG_URL: &str = "config-url";
const TOKEN_URL: &str = "token-url";

/// Where something is to be fetched from: https, or plain http from an address of a private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootUrl {
    url: String,
}

impl BootUrl {
    /// The whole URL; it holds no secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Whether everybody on the way reads and can change what is fetched.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.url.starts_with("http://")
    }

    fn parse(text: &str) -> Result<Self, String> {
        let url = names::url(text, &["https", "http"])?;
        let Some(rest) = url.strip_prefix("http://") else { return Ok(Self { url }) };
        let authority = rest.split('/').next().unwrap_or_default();
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        match host.parse::<IpAddr>() {
            Ok(address) if is_private(address) => Ok(Self { url }),
            Ok(_) => Err("plain http is for an address of a private network alone; use https".to_owned()),
            Err(_) => {
                Err("plain http is for an address, not for a name, which may lead anywhere; use https"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for BootUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Addresses that no route of the internet leads to.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(IpAddr::V4(v4)),
            None => v6 == Ipv6Addr::LOCALHOST || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

/// What the kernel's command line says.
#[derive(Default)]
pub(super) struct CommandLine {
    /// Keys in their order; a later one counts.
    pub(super) values: Vec<(Key, Value, Origin)>,
    /// Where configuration is to be fetched from.
    pub(super) config_url: Option<BootUrl>,
    /// Where the token is to be fetched from.
    pub(super) token_url: Option<BootUrl>,
    /// What is wrong with it.
    pub(super) problems: Vec<ConfigError>,
}

impl CommandLine {
    /// Reads it: words that begin with `muster.`; all others are somebody else's.
    pub(super) fn parse(text: &str) -> Self {
        let mut line = Self::default();
        for word in words(text) {
            if let Some(parameter) = word.strip_prefix(PREFIX) {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                line.take(name, value);
            }
        }
        if line.token_url.is_some() {
            let origin = Origin::Kernel(format!("{PREFIX}{TOKEN_URL}"));
            line.values.push((Key::TokenFile, Value::Text(FETCHED_TOKEN.to_owned()), origin));
        }
        line
    }

    fn take(&mut self, name: &str, value: &str) {
        // The kernel's own parameters take either.
        let name = name.replace('_', "-");
        let origin = || Origin::Kernel(format!("{PREFIX}{name}"));
        let key = || format!("{PREFIX}{name}");
        let url = match name.as_str() {
            CONFIG_URL => Some(&mut self.config_url),
            TOKEN_URL => Some(&mut self.token_url),
            _ => None,
        };
        if let Some(place) = url {
            match BootUrl::parse(value) {
                Ok(url) => *place = Some(url),
                Err(reason) => self.problems.push(ConfigError::Refused {
                    key: key(),
                    value: names::masked_url(value),
                    place: origin(),
                    reason,
                }),
            }
            return;
        }
        if let Some(hint) = inline_secret(&name) {
            return self.problems.push(ConfigError::InlineSecret { place: origin(), key: key(), hint });
        }
        let Some(known) = Key::named(&name) else {
            return self.problems.push(ConfigError::UnknownKey {
                place: origin(),
                key: key(),
                hint: unknown_hint(&name),
            });
        };
        let wrong = |found: &str| ConfigError::Kind {
            place: origin(),
            key: key(),
            wanted: match known.kind() {
                Kind::Table => "a table in a file".to_owned(),
                kind => kind.words().to_owned(),
            },
            found: found.to_owned(),
        };
        let value = match known.kind() {
            Kind::Text if value.is_empty() => Err(wrong("nothing")),
            Kind::Text => Ok(Value::Text(value.to_owned())),
            Kind::Whole => value.parse().map(Value::Whole).map_err(|_| wrong("other characters")),
            Kind::List => {
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(Value::List(items.map(str::to_owned).collect()))
            }
            Kind::Table => Err(wrong("a parameter of the kernel")),
        };
        match value {
            Ok(value) => self.values.push((known, value, origin())),
            Err(problem) => self.problems.push(problem),
        }
    }
}

/// The words of a command line as the kernel divides them: at blanks, but not between double quotes, which are dropped.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What a machine is to fetch before its configuration can be read, and where it is kept for this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToFetch {
    /// From where.
    pub url: BootUrl,
    /// To where.
    pub file: PathBuf,
    /// Whether it is the token: nobody else may read it, and nothing of it is ever shown.
    pub secret: bool,
}

impl ToFetch {
    /// Of a command line, in the order in which it is fetched.
    pub(super) fn of(line: &CommandLine) -> Vec<Self> {
        let one = |url: &Option<BootUrl>, file: &str, secret: bool| {
            url.clone().map(|url| Self { url, file: Path::new(file).to_owned(), secret })
        };
        let config = one(&line.config_url, FETCHED_CONFIG, false);
        config.into_iter().chain(one(&line.token_url, FETCHED_TOKEN, true)).collect()
    }

    /// Most bytes that are taken.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        if self.secret { crate::identity::token::LONGEST + 16 } else { 64 << 10 }
    }

    /// Whether what came may be kept: an error page is neither a configuration nor a token.
    ///
    /// # Errors
    /// Why not; nothing of a token is in it.
    pub fn accept(&self, text: &str) -> Result<(), String> {
        if self.secret {
            return crate::identity::token::parse(text).map(drop).map_err(|error| error.to_string());
        }
        super::fragment::parse(&self.file, text).map(drop).map_err(|problem| problem.line())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> CommandLine {
        CommandLine::parse(text)
    }

    fn problem(text: &str) -> String {
        parse(text).problems.iter().map(ConfigError::line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn parameters_become_values_and_the_rest_is_somebody_elses() {
        let line = parse(
            "BOOT_IMAGE=/vmlinuz ro quiet muster.servers=3 muster.seeds=10.0.0.1,10.0.0.2 muster.k3s.version=v1.33.1+k3s1 \
             muster.node_name=\"a b\" notmuster.servers=5",
        );
        assert!(line.problems.is_empty(), "{:?}", line.problems);
        let seen: Vec<(Key, &Value, String)> =
            line.values.iter().map(|(key, value, origin)| (*key, value, origin.to_string())).collect();
        let text = |text: &str| Value::Text(text.to_owned());
        let wanted = [
            (Key::Servers, Value::Whole(3), "servers"),
            (Key::Seeds, Value::List(vec!["10.0.0.1".into(), "10.0.0.2".into()]), "seeds"),
            (Key::K3sVersion, text("v1.33.1+k3s1"), "k3s.version"),
            (Key::NodeName, text("a b"), "node-name"),
        ];
        assert_eq!(seen.len(), wanted.len());
        for ((key, value, origin), (wanted_key, wanted_value, name)) in seen.into_iter().zip(&wanted) {
            assert_eq!(key, *wanted_key);
            assert!(value == wanted_value, "{name} has another value");
            assert_eq!(origin, format!("kernel parameter muster.{name}"));
        }
    }

    #[test]
    fn a_token_on_the_command_line_is_refused_and_not_quoted() {
        for name in ["token", "k3s.token", "previous-token", "k3s.agent_token"] {
            let said = problem(&format!("muster.{name}=correct-horse-battery"));
            assert!(said.contains("a secret does not belong there"), "{name}: {said}");
            assert!(!said.contains("correct"), "{said}");
        }
    }

    #[test]
    fn what_is_no_parameter_is_named() {
        for (text, words) in [
            ("muster.sevrers=3", "did you mean `servers`?"),
            ("muster.servers=many", "found other characters"),
            ("muster.servers", "found other characters"),
            ("muster.cluster=", "found nothing"),
            ("muster.k3s.server-config=x", "a table in a file"),
        ] {
            let said = problem(text);
            assert!(said.contains(words) && said.contains("kernel parameter muster."), "{text}: {said}");
        }
    }

    #[test]
    fn plain_http_leads_to_a_private_address_alone_and_no_url_holds_a_password() {
        for (url, taken) in [
            ("https://boot.example.com/token", true),
            ("http://10.0.0.1/token", true),
            ("http://192.168.1.1:8080/a/b", true),
            ("http://169.254.169.254/latest/user-data", true),
            ("http://[fd00::1]:8000/token", true),
            ("http://[::ffff:10.0.0.1]/token", true),
            ("http://[::ffff:1.1.1.1]/token", false),
            ("http://1.1.1.1/token", false),
            ("http://[2001:db8::1]/token", false),
            ("http://boot.lan/token", false),
            ("ftp://10.0.0.1/token", false),
            ("https://me:secret@boot.example.com/token", false),
            ("https://boot.example.com/token?key=secret", false),
            ("", false),
        ] {
            let line = parse(&format!("muster.token-url={url}"));
            assert_eq!(line.token_url.is_some(), taken, "{url}: {:?}", line.problems);
            assert_eq!(line.problems.is_empty(), taken, "{url}");
            let said = problem(&format!("muster.token-url={url}"));
            assert!(!said.contains("secret@") && !said.contains("key=secret"), "{said}");
        }
        let line = parse("muster.token-url=http://10.0.0.1/t muster.config-url=https://a.example/c");
        let files: Vec<_> = ToFetch::of(&line).into_iter().map(|one| (one.file, one.secret)).collect();
        assert_eq!(files, [(PathBuf::from(FETCHED_CONFIG), false), (PathBuf::from(FETCHED_TOKEN), true)]);
        assert!(line.values.iter().any(|(key, ..)| *key == Key::TokenFile));
    }

    #[test]
    fn an_error_page_is_neither_a_configuration_nor_a_token() {
        let all =
            ToFetch::of(&parse("muster.token-url=http://10.0.0.1/t muster.config-url=http://10.0.0.1/c"));
        let page = "<html><body>404 not found</body></html>";
        for one in &all {
            assert!(one.accept(page).is_err());
        }
        assert_eq!(all[0].accept("servers = 3\n"), Ok(()));
        assert!(all[0].accept("sevrers = 3\n").is_err());
        assert_eq!(all[1].accept("correct-horse-battery-staple\n"), Ok(()));
        let said = all[1].accept("secret").unwrap_err();
        assert!(!said.contains("secret"), "{said}");
    }

    proptest! {
        /// Whatever the line holds, reading it ends, and no token file but the fetched one comes of a token.
        #[test]
        fn any_line_is_read(text in "(muster\\.[a-z0-9._-]{0,12}(=[ -~]{0,12})?|[ -~\u{e9}\n]{0,6}| ){0,12}") {
            let line = parse(&text);
            for (key, value, _) in &line.values {
                prop_assert!(Key::ALL.contains(key));
                prop_assert!(!matches!(value, Value::Table(_)));
            }
        }
    }
}
