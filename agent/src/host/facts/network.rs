//! Network: default routes, listening sockets, resolver files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A socket that waits for traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address it is bound to.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Inode of the socket, by which its process can be found.
    pub inode: u64,
    /// Name of the process, once it was looked for and found.
    pub owner: Option<String>,
}

/// Interface of the IPv4 default route in `/proc/net/route`; a route that rejects does not count.
///
/// # Errors
/// A line that is not one of that file.
pub fn parse_route4(text: &str) -> Result<Option<String>, String> {
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = fields.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let (Some(flags), true) = (flags, fields.len() >= 8) else {
            return Err(format!("not a line of /proc/net/route: {line:?}"));
        };
        if fields[1] == "00000000" && fields[7] == "00000000" && usable(flags) {
            return Ok(Some(fields[0].to_owned()));
        }
    }
    Ok(None)
}

/// An IPv6 default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route6 {
    /// Interface.
    pub interface: String,
    /// Whether the kernel learned it from a router advertisement.
    pub advertised: bool,
}

/// IPv6 default routes of `/proc/net/ipv6_route`; the reject route on `lo` does not count.
///
/// # Errors
/// A line that is not one of that file.
pub fn parse_routes6(text: &str) -> Result<Vec<Route6>, String> {
    let mut routes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = fields.get(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let (Some(flags), [destination, "00", .., interface]) = (flags, fields.as_slice()) else {
            if fields.len() == 10 && flags.is_some() {
                continue;
            }
            return Err(format!("not a line of /proc/net/ipv6_route: {line:?}"));
        };
        // RTF_ADDRCONF: the kernel made it from an advertisement.
        let advertised = flags & 0x0004_0000 != 0;
        if destination.bytes().all(|byte| byte == b'0') && usable(flags) && *interface != "lo" {
            routes.push(Route6 { interface: (*interface).to_owned(), advertised });
        }
    }
    Ok(routes)
}

/// RTF_UP without RTF_REJECT.
fn usable(flags: u32) -> bool {
    flags & 0x1 != 0 && flags & 0x200 == 0
}

/// Sockets that wait for traffic in `/proc/net/{tcp,tcp6,udp,udp6}`: listening TCP, unconnected UDP.
///
/// # Errors
/// A line that is not one of those files.
pub fn parse_sockets(text: &str, protocol: Protocol) -> Result<Vec<Listener>, String> {
    let wanted_state = match protocol {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    };
    let mut listeners = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let bad = || format!("not a line of /proc/net/{{tcp,udp}}: {line:?}");
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(state)) = (fields.get(1), fields.get(3)) else { return Err(bad()) };
        if *state != wanted_state {
            continue;
        }
        let (address, port) = local.split_once(':').ok_or_else(bad)?;
        listeners.push(Listener {
            protocol,
            address: parse_address(address).ok_or_else(bad)?,
            port: u16::from_str_radix(port, 16).map_err(|_| bad())?,
            inode: fields.get(9).and_then(|inode| inode.parse().ok()).unwrap_or(0),
            owner: None,
        });
    }
    Ok(listeners)
}

/// An address as the kernel prints it: 32-bit words in the machine's own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut octets = [0_u8; 16];
            for at in 0..4 {
                octets[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

/// Name servers of a resolv.conf.
#[must_use]
pub fn parse_name_servers(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.next() == Some("nameserver")).then(|| fields.next()).flatten()
        })
        .map(ToOwned::to_owned)
        .collect()
}

/// Whether a pod could ask this name server: not loopback, link-local, multicast or unspecified, which is k3s's own rule.
#[must_use]
pub fn reaches_pods(server: &str) -> bool {
    match server.split('%').next().unwrap_or_default().parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_unspecified())
        }
        Ok(IpAddr::V6(v6)) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified())
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_reject_routes() {
        let v4 = include_str!("../../../testdata/host/proc-net-route.debian-12.txt");
        assert_eq!(parse_route4(v4), Ok(Some("eth0".into())));
        assert_eq!(parse_route4(v4.lines().next().unwrap()), Ok(None));
        let v6 = include_str!("../../../testdata/host/proc-net-ipv6_route.debian-12.txt");
        let route = |advertised| Route6 { interface: "eth0".into(), advertised };
        assert_eq!(parse_routes6(v6), Ok(vec![route(false)]));
        let reject = v6.lines().last().unwrap();
        assert!(reject.ends_with("lo"), "the sample ends with the reject route");
        assert_eq!(parse_routes6(reject), Ok(vec![]));
        let learned = include_str!("../../../testdata/host/proc-net-ipv6_route.ra.by-hand.txt");
        assert_eq!(parse_routes6(learned), Ok(vec![route(true)]));
        assert!(parse_route4("Iface\nnonsense\n").is_err());
        assert!(parse_routes6("nonsense\n").is_err());
    }

    #[test]
    fn only_waiting_sockets_count() {
        let text = include_str!("../../../testdata/host/proc-net-tcp.debian-12.by-hand.txt");
        let seen: Vec<_> = parse_sockets(text, Protocol::Tcp)
            .unwrap()
            .into_iter()
            .map(|listener| (listener.address.to_string(), listener.port, listener.inode))
            .collect();
        assert_eq!(seen, [("0.0.0.0".to_owned(), 22, 639), ("127.0.0.1".to_owned(), 6443, 20_817)]);
        let text = include_str!("../../../testdata/host/proc-net-tcp6.debian-12.by-hand.txt");
        let seen = parse_sockets(text, Protocol::Tcp).unwrap();
        assert_eq!((seen[0].address.to_string(), seen[0].port), ("::1".to_owned(), 2379));
        assert!(parse_sockets("head\nx y z 0A\n", Protocol::Tcp).is_err());
    }

    #[test]
    fn a_stub_resolver_is_not_for_pods() {
        assert_eq!(
            parse_name_servers("# nameserver 1.1.1.1\nnameserver 127.0.0.53\noptions edns0\n"),
            ["127.0.0.53"]
        );
        for (server, good) in [
            ("127.0.0.53", false),
            ("10.0.0.2", true),
            ("fe80::1%eth0", false),
            ("::1", false),
            ("2001:db8::1", true),
            ("x", false),
        ] {
            assert_eq!(reaches_pods(server), good, "{server}");
        }
    }
}
