//! Which address is this node's: configured, of a named interface, or of the interface that the default route leaves by.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::fs;
use crate::core::Known;

/// An address of an interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
}

/// What the settings say about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// `node-ip`.
    pub ip: Option<IpAddr>,
    /// `interface`.
    pub interface: Option<&'a str>,
}

/// No address could be chosen; nothing can be announced or served without one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `node-ip` is not on this machine.
    #[error("node-ip {0} is not an address of this machine, which has {1}")]
    NotHere(IpAddr, String),
    /// `interface` has no usable address.
    #[error("interface {0:?} has no address that other machines can reach")]
    Interface(String),
    /// There is no default route to tell the interface by.
    #[error("there is no default route, so the node's address cannot be told")]
    NoRoute,
    /// The machine could not be asked.
    #[error("the addresses of this machine cannot be read: {0}")]
    Unreadable(String),
}

/// Chooses among the addresses there are. `route` is the interface of the default route, if there is one.
///
/// # Errors
/// When nothing fits what was asked for.
pub fn choose(addresses: &[Address], route: Option<&str>, wish: Wish<'_>) -> Result<IpAddr, AddressError> {
    if let Some(ip) = wish.ip {
        if addresses.iter().any(|address| address.ip == ip) {
            return Ok(ip);
        }
        let there: Vec<String> = addresses.iter().map(|address| address.ip.to_string()).collect();
        return Err(AddressError::NotHere(ip, there.join(", ")));
    }
    let of = |interface: &str| {
        let usable =
            addresses.iter().filter(|address| address.interface == interface && is_usable(address.ip));
        // IPv4 first: k3s's own default on a dual-stack machine.
        usable.min_by_key(|address| address.ip.is_ipv6()).map(|address| address.ip)
    };
    match (wish.interface, route) {
        (Some(interface), _) => of(interface).ok_or_else(|| AddressError::Interface(interface.to_owned())),
        (None, Some(interface)) => of(interface).ok_or_else(|| AddressError::Interface(interface.to_owned())),
        (None, None) => Err(AddressError::NoRoute),
    }
}

fn is_usable(ip: IpAddr) -> bool {
    let link_local = |ip: Ipv6Addr| ip.segments()[0] & 0xffc0 == 0xfe80;
    !ip.is_loopback()
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !matches!(ip, IpAddr::V6(ip) if link_local(ip))
}

/// The interface of the best default route in `/proc/net/route`: destination and mask zero, lowest metric.
#[must_use]
pub fn default_route4(text: &str) -> Option<String> {
    let routes = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, destination, metric, mask) =
            (fields.first()?, fields.get(1)?, fields.get(6)?, fields.get(7)?);
        (*destination == "00000000" && *mask == "00000000")
            .then(|| (metric.parse().unwrap_or(u32::MAX), *name))
    });
    routes.min().map(|(_, name)| name.to_owned())
}

/// The interface of the best default route in `/proc/net/ipv6_route`: prefix length zero, not the loopback's reject routes.
#[must_use]
pub fn default_route6(text: &str) -> Option<String> {
    let routes = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (prefix, metric, name) = (fields.get(1)?, fields.get(5)?, fields.get(9)?);
        let all_zero = fields.first()?.bytes().all(|byte| byte == b'0');
        (all_zero && *prefix == "00" && *name != "lo")
            .then(|| (u32::from_str_radix(metric, 16).unwrap_or(u32::MAX), *name))
    });
    routes.min().map(|(_, name)| name.to_owned())
}

/// Looks at the machine and chooses.
///
/// # Errors
/// As [`choose`], and when the machine cannot be asked.
pub fn node_address(wish: Wish<'_>) -> Result<IpAddr, AddressError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| AddressError::Unreadable(error.to_string()))?;
    let addresses: Vec<Address> =
        interfaces.into_iter().map(|i| Address { ip: i.ip(), interface: i.name }).collect();
    let route = match fs::known_text(Path::new("/proc/net/route")) {
        Known::Yes(text) => default_route4(&text),
        Known::Absent => None,
        Known::Unknown(unread) => return Err(AddressError::Unreadable(unread.to_string())),
    };
    let route = match (route, fs::known_text(Path::new("/proc/net/ipv6_route"))) {
        (Some(route), _) => Some(route),
        (None, Known::Yes(text)) => default_route6(&text),
        (None, Known::Absent) => None,
        (None, Known::Unknown(unread)) => return Err(AddressError::Unreadable(unread.to_string())),
    };
    choose(&addresses, route.as_deref(), wish)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<Address> {
        [
            ("lo", "127.0.0.1"),
            ("eth0", "fe80::1"),
            ("eth0", "fd00::5"),
            ("eth0", "10.0.0.5"),
            ("eth1", "192.168.1.5"),
        ]
        .iter()
        .map(|(interface, ip)| Address { interface: (*interface).into(), ip: ip.parse().unwrap() })
        .collect()
    }

    #[test]
    fn the_address_follows_the_wish_then_the_route() {
        let a = addresses();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let wish = |ip, interface| Wish { ip, interface };
        assert_eq!(choose(&a, Some("eth0"), Wish::default()), Ok(ip("10.0.0.5")));
        assert_eq!(choose(&a, Some("eth0"), wish(None, Some("eth1"))), Ok(ip("192.168.1.5")));
        assert_eq!(choose(&a, None, wish(Some(ip("fd00::5")), None)), Ok(ip("fd00::5")));
        assert_eq!(choose(&a, None, Wish::default()), Err(AddressError::NoRoute));
        assert_eq!(choose(&a, None, wish(None, Some("lo"))), Err(AddressError::Interface("lo".into())));
        assert!(matches!(choose(&a, None, wish(Some(ip("10.9.9.9")), None)), Err(AddressError::NotHere(..))));
    }

    #[test]
    fn the_default_route_is_the_one_with_the_lowest_metric() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth1\t00000000\t0101A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                    eth0\t00000000\tFE4D0A0A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                    eth0\t00000A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_route4(text).as_deref(), Some("eth0"));
        assert_eq!(default_route4("Iface\tDestination\n"), None);
        let six = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000000 00000000 00000003 eth0\n\
                   00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        assert_eq!(default_route6(six).as_deref(), Some("eth0"));
    }
}
