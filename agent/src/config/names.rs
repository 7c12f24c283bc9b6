//! Readers of single values: text in, checked value or one sentence about what is allowed out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::settings::{Seed, Source};

/// A seed: address, `address:port`, `[v6]:port`, host name or `host:port`; without a port the gossip port is taken.
pub(super) fn seed(text: &str, port: u16) -> Result<Seed, String> {
    let allowed = "allowed are address, address:port, [v6 address]:port, host and host:port";
    if let Some(address) = address_and_port(text, port) {
        if address.port() == 0 {
            return Err(format!("port 0 cannot be reached; {allowed}"));
        }
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(format!("a seed is one machine, not every or many; {allowed}"));
        }
        return Ok(Seed::Address(address));
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, port),
        Some((host, number)) => match number.parse() {
            Ok(0) | Err(_) => return Err(format!("the port must be a number from 1 to 65535; {allowed}")),
            Ok(port) => (host, port),
        },
    };
    dns_name(host).map_err(|reason| format!("{reason}; {allowed}"))?;
    Ok(Seed::Name(host.to_owned(), port))
}

fn address_and_port(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = match bare {
        Some(text) => IpAddr::V6(text.parse().ok()?),
        None => text.parse().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

/// A DNS name: labels of letters, digits and hyphens, no label longer than 63, not longer than 253, the last label not a number
/// (it would be a mistyped address).
pub(super) fn dns_name(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_holds = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.is_empty() || name.len() > 253 || !name.split('.').all(label_holds) {
        return Err(
            "not an address and not a DNS name (letters, digits and hyphens, in parts of at most 63)".into(),
        );
    }
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("a name that ends in a number is a mistyped address".into());
    }
    Ok(())
}

/// A node name as Kubernetes takes it (RFC 1123 subdomain); `localhost` is every machine's.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    let holds = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let parts = text
        .split('.')
        .all(|part| (1..=63).contains(&part.len()) && edge(part.bytes().next()) && edge(part.bytes().last()));
    if !text.bytes().all(holds) || !parts || text.len() > 253 {
        return Err(
            "allowed are a-z, 0-9, hyphen and dot, letter or digit first and last in each part, at most 253 \
                    characters"
                .into(),
        );
    }
    if text == "localhost" || text.starts_with("localhost.") {
        return Err("every machine is called that; give the node a name of its own".into());
    }
    Ok(text.to_owned())
}

/// A cluster's name: part of every key derivation, so it is kept to one spelling.
pub(super) fn cluster(text: &str) -> Result<String, String> {
    let holds = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(holds) {
        Ok(text.to_owned())
    } else {
        Err("allowed are 1 to 63 characters of a-z, 0-9 and hyphen".into())
    }
}

/// A name of a network interface, as the kernel takes it (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if (1..=15).contains(&text.len()) && text != "." && text != ".." && !text.contains(forbidden) {
        Ok(text.to_owned())
    } else {
        Err("an interface name has 1 to 15 characters and no `/`, `:` or blank".into())
    }
}

/// The address of this node.
fn node_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| "not an IPv4 or IPv6 address".to_owned())?;
    let ip = ip.to_canonical();
    let kind = match ip {
        ip if ip.is_loopback() => "a loopback address",
        ip if ip.is_multicast() => "a multicast address",
        ip if ip.is_unspecified() => "the unspecified address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        ip => return Ok(ip),
    };
    Err(format!("{kind} cannot be this node's: other nodes must reach it there"))
}

/// One address of this node, or one of IPv4 and one of IPv6 with a comma between them.
pub(super) fn node_ips(text: &str) -> Result<Vec<IpAddr>, String> {
    let ips: Vec<IpAddr> = text.split(',').map(|part| node_ip(part.trim())).collect::<Result<_, _>>()?;
    match ips.as_slice() {
        [_] => Ok(ips),
        [one, two] if one.is_ipv4() != two.is_ipv4() => Ok(ips),
        _ => Err("allowed are one address, or one of IPv4 and one of IPv6".into()),
    }
}

/// The word for an address family.
pub(super) fn family(is_ipv4: bool) -> &'static str {
    if is_ipv4 { "IPv4" } else { "IPv6" }
}

/// A network: address and prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
}

impl Network {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (ip, prefix) = text.split_once('/').ok_or("a network is written as address/prefix length")?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("`{ip}` is not an IPv4 or IPv6 address"))?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|&prefix| prefix >= 1 && prefix <= bits)
            .ok_or_else(|| format!("the prefix length must be from 1 to {bits}"))?;
        let network = Self { ip, prefix };
        let first = network.first();
        if first != ip {
            return Err(format!("bits are set behind the prefix; the network is {first}/{prefix}"));
        }
        Ok(network)
    }

    fn masked(self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                Ipv4Addr::from(u32::from(ip) & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                Ipv6Addr::from(u128::from(ip) & mask).into()
            }
        }
    }

    pub(super) fn first(self) -> IpAddr {
        self.masked(self.ip)
    }

    /// Whether the address lies in the network.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && self.masked(ip) == self.ip
    }

    /// Whether it is one of IPv4.
    pub(super) fn is_ipv4(self) -> bool {
        self.ip.is_ipv4()
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Network) -> bool {
        self.contains(other.ip) || other.contains(self.ip)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// One network, or one of IPv4 and one of IPv6 with a comma between them.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    let networks: Vec<Network> =
        text.split(',').map(|part| Network::parse(part.trim())).collect::<Result<_, _>>()?;
    match networks.as_slice() {
        [_] => Ok(networks),
        [one, two] if one.ip.is_ipv4() != two.ip.is_ipv4() => Ok(networks),
        _ => Err("allowed are one network, or one of IPv4 and one of IPv6".into()),
    }
}

/// A version of k3s as its releases are named.
pub(super) fn k3s_version(text: &str) -> Result<String, String> {
    let number = |text: &str| !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let three = |text: &str| text.split('.').count() == 3 && text.split('.').all(number);
    let candidate = |text: &str| text.strip_prefix("rc").is_some_and(number);
    // Builds of a commit, which k3s publishes beside its releases, carry `+k3s-<commit>`.
    let commit = |text: &str| {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.strip_prefix('-').is_some_and(|text| (7..=40).contains(&text.len()) && text.bytes().all(hex))
    };
    let holds = text.strip_prefix('v').and_then(|text| text.split_once("+k3s")).is_some_and(
        |(kubernetes, release)| {
            let kubernetes = match kubernetes.split_once('-') {
                Some((version, rest)) if candidate(rest) => version,
                Some(_) => return false,
                None => kubernetes,
            };
            three(kubernetes) && (number(release) || commit(release))
        },
    );
    if holds {
        Ok(text.to_owned())
    } else {
        Err("a k3s version looks like v1.33.1+k3s1; it is pinned, channels are not followed".into())
    }
}

/// A path that does not depend on where the program was started.
pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path.to_owned())
    } else {
        Err("a path must be absolute".into())
    }
}

/// Where an artefact comes from.
pub(super) fn source(text: &str) -> Result<Source, String> {
    if text.contains("://") {
        return url(text, &["https", "http"]).map(Source::Url);
    }
    absolute(text).map(Source::Path).map_err(|_| "allowed are an absolute path and an http(s) URL".into())
}

/// A URL of one of the schemes, without anything that could be a secret: what is configured is shown and logged. A slash at the
/// end is dropped.
pub(super) fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let allowed = || format!("allowed is {}://host[:port][/path]", schemes.join(" or "));
    let (scheme, rest) = text.split_once("://").ok_or_else(allowed)?;
    if !schemes.contains(&scheme) {
        return Err(allowed());
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') {
        return Err("a URL must not hold a user name or password: it is shown and logged".into());
    }
    if rest.contains(['?', '#']) {
        return Err(format!("a base URL has no query and no fragment; {}", allowed()));
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("a URL has no blanks; {}", allowed()));
    }
    match seed(authority, 443) {
        Ok(_) => Ok(format!("{scheme}://{authority}{}", path.trim_end_matches('/'))),
        Err(_) => Err(format!("`{authority}` is no host; {}", allowed())),
    }
}

/// A URL as it may be shown: what stands before an `@` in its authority, and a query, are masked.
pub(super) fn masked_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    // A password may hold a slash that was not escaped: everything before the last `@` goes.
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

/// A name on the API's certificate: an address or a DNS name.
pub(super) fn san(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_err() {
        dns_name(text)?;
    }
    Ok(text.to_owned())
}

/// A short name of lowercase words: a packaged component.
pub(super) fn component(text: &str) -> Result<String, String> {
    let holds = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.bytes().all(holds) {
        Ok(text.to_owned())
    } else {
        Err("a component is named by a-z, 0-9 and hyphen, such as traefik or servicelb".into())
    }
}

/// Longest name of one of k3s's flags, in characters: three times the longest of its own, and far from the 1,024 from which on YAML
/// has no such key.
const LONGEST_FLAG: usize = 100;

/// Why a key for k3s is refused that [`is_flag`] does not know.
pub(crate) const NOT_A_FLAG: &str = "a key is the name of one of k3s's flags, of lower-case letters, digits and hyphens, at most 100, with a letter in front";

/// Whether a key is spelt as k3s spells its flags. It is written into k3s's file as it is: a line break would begin another key, and
/// what YAML takes for a number, a truth or nothing would be no text.
pub(crate) fn is_flag(key: &str) -> bool {
    const NO_TEXT: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.len() <= LONGEST_FLAG
        && key.chars().all(is_of_flags)
        && !NO_TEXT.contains(&key)
}

fn is_of_flags(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// What is shown of a key that is no flag: its beginning, as far as it is spelt like one. Behind it may stand a value, and a secret.
pub(crate) fn flag_begin(key: &str) -> String {
    key.chars().take_while(|c| is_of_flags(*c)).take(32).chain("...".chars()).collect()
}

/// A row of host preparation: `swap`, `module.br_netfilter`, `sysctl.net.ipv4.ip_forward`.
pub(super) fn host_row(text: &str) -> Result<String, String> {
    let holds = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if !text.is_empty() && text.bytes().all(holds) {
        Ok(text.to_owned())
    } else {
        Err("a row is named as `muster plan` prints it, such as swap or module.br_netfilter".into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seeds_in_every_form() {
        let address = |text: &str| Seed::Address(text.parse().expect("an address"));
        for (text, wanted) in [
            ("10.77.0.1", address("10.77.0.1:7846")),
            ("10.77.0.1:9000", address("10.77.0.1:9000")),
            ("fd00::1", address("[fd00::1]:7846")),
            ("[fd00::1]", address("[fd00::1]:7846")),
            ("[fd00::1]:9000", address("[fd00::1]:9000")),
            ("127.0.0.1:7001", address("127.0.0.1:7001")),
            ("host2", Seed::Name("host2".into(), 7846)),
            ("host2:9000", Seed::Name("host2".into(), 9000)),
            ("seed.example.org.", Seed::Name("seed.example.org.".into(), 7846)),
        ] {
            assert_eq!(seed(text, 7846), Ok(wanted), "{text}");
        }
        for text in [
            "",
            ":",
            ":7846",
            "host:",
            "host:0",
            "host:70000",
            "host:x",
            "10.77.0",
            "10.77.0.1.5",
            "10.77.0.256",
            "10.77.0.1:0",
            "0.0.0.0",
            "[::]:7846",
            "224.0.0.1",
            "ff02::1",
            "a b",
            "a,b",
            "-a",
            "a-",
            "a..b",
            "https://a",
            "a/b",
            "user@host",
            "fd00::1::2",
            "[fd00::1",
            "[10.0.0.1]:1",
        ] {
            assert!(seed(text, 7846).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_hold_their_rules() {
        for (text, shown) in [
            ("10.42.0.0/16", "10.42.0.0/16"),
            ("10.42.0.0/16, FD00:0::/56", "10.42.0.0/16,fd00::/56"),
            ("fd00::/56,10.42.0.0/16", "fd00::/56,10.42.0.0/16"),
            ("10.0.0.1/32", "10.0.0.1/32"),
        ] {
            let found =
                networks(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
            assert_eq!(found.as_deref(), Ok(shown));
        }
        for text in [
            "",
            "10.42.0.0",
            "10.42.0.0/",
            "10.42.0.0/33",
            "10.42.0.0/0",
            "10.42.1.0/16",
            "fd00::/129",
            "x/16",
            "10.42.0.0/16,10.44.0.0/16",
            "10.42.0.0/16,fd00::/56,fd01::/56",
            "10.42.0.0/16,",
        ] {
            assert!(networks(text).is_err(), "{text}");
        }
        assert_eq!(
            networks("10.42.1.0/16").expect_err("a refusal"),
            "bits are set behind the prefix; the network is 10.42.0.0/16"
        );
    }

    #[test]
    fn versions_are_pinned_releases() {
        for text in ["v1.33.1+k3s1", "v1.21.2+k3s1", "v1.34.0-rc1+k3s1"] {
            assert_eq!(k3s_version(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "1.33.1+k3s1",
            "v1.33.1",
            "v1.33+k3s1",
            "v1.33.1+k3s",
            "v1.33.1-k3s1",
            "latest",
            "stable",
            "v1.33.1+k3s1 ",
            "v1.33.1-x+k3s1",
            "v1.33.x+k3s1",
            "v1.33.1+rke2r1",
            "v1.33.1+k3s1/../..",
        ] {
            assert!(k3s_version(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_hold_no_secret_and_are_shown_without_one() {
        let schemes = ["https", "http"];
        for (text, wanted) in [
            ("https://mirror.example.org/k3s/", "https://mirror.example.org/k3s"),
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
            ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
        ] {
            assert_eq!(url(text, &schemes).as_deref(), Ok(wanted));
        }
        for text in [
            "ftp://a/b",
            "https://",
            "https:///x",
            "https://a b/",
            "https://a/b c",
            "https://a/?x=y",
            "https://a/#x",
            "https://u:p@a/",
            "https://a:b/",
            "file:///etc",
        ] {
            assert!(url(text, &schemes).is_err(), "{text}");
        }
        assert_eq!(masked_url("https://user:pa/ss@host/x?sig=abc"), "https://***@host/x?***");
        assert_eq!(masked_url("https://host/x"), "https://host/x");
        assert_eq!(masked_url("/opt/k3s"), "/opt/k3s");
    }

    proptest! {
        #[test]
        fn two_networks_overlap_as_their_addresses_do(a in 0u32.., b in 0u32.., p in 1u8..=32, q in 1u8..=32) {
            let net = |ip: u32, prefix: u8| {
                let mask = u32::MAX << (32 - u32::from(prefix));
                (Network { ip: Ipv4Addr::from(ip & mask).into(), prefix }, ip & mask, (ip & mask) | !mask)
            };
            let ((one, from, to), (two, first, last)) = (net(a, p), net(b, q));
            prop_assert_eq!(one.overlaps(two), from <= last && first <= to);
            prop_assert_eq!(one.overlaps(two), two.overlaps(one));
            prop_assert!(one.contains(Ipv4Addr::from(to).into()));
        }

        #[test]
        fn no_reader_panics(text in "\\PC{0,40}") {
            let _ = (seed(&text, 1), networks(&text), k3s_version(&text), source(&text), node_ips(&text));
            let _ = (node_name(&text), cluster(&text), interface(&text), san(&text), masked_url(&text), host_row(&text));
            let _ = component(&text);
        }
    }
}
