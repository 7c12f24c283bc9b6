//! Which address is this node's: configured, or the best of those by which the default route leaves or the seeds are reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use super::fs;
use super::link::{LinkKind, kind_of};
use crate::core::Known;

/// An address of an interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network: 32 or 128 for an address that stands alone.
    pub prefix: u8,
}

/// What the settings say about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// `node-ip`: none, one, or one of each family.
    pub ips: &'a [IpAddr],
    /// `interface`.
    pub interface: Option<&'a str>,
    /// Whether the first pod network is an IPv6 one: a node's address must be of its family.
    pub v6_first: bool,
    /// Whether pods have networks of both families: then the node needs an address of each.
    pub both: bool,
}

/// What the machine says about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scene<'a> {
    /// Every address, in the kernel's order.
    pub addresses: &'a [Address],
    /// Interface of the default route.
    pub route: Option<&'a str>,
    /// The addresses that the kernel would send from to the seeds; this machine's own address where it is a seed itself.
    pub toward_seeds: &'a [IpAddr],
}

/// An address, and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The address.
    pub ip: IpAddr,
    /// The address of the other family, where pods have both.
    pub second: Option<IpAddr>,
    /// Its interface.
    pub interface: String,
    /// What speaks for it, the strongest first.
    pub because: Vec<&'static str>,
    /// The others that machines could reach, each with what speaks against it.
    pub passed_over: Vec<(Address, &'static str)>,
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.ip)?;
        if let Some(second) = self.second {
            write!(f, " and {second}")?;
        }
        write!(f, " on {}: {}", self.interface, self.because.join(", "))?;
        for (at, (other, against)) in self.passed_over.iter().enumerate() {
            let lead = if at == 0 { "; passed over " } else { ", " };
            write!(f, "{lead}{} on {} ({against})", other.ip, other.interface)?;
        }
        Ok(())
    }
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
    /// Pods have both families, and the node's interface has one.
    #[error(
        "pods have networks of both families, and {interface} has no {family} address that other machines can reach: give it one, \
         or k3s.cluster-cidr and k3s.service-cidr one family"
    )]
    OneFamily {
        /// The interface of the first address.
        interface: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// There is no default route to tell the interface by.
    #[error("there is no default route, so the node's address cannot be told")]
    NoRoute,
    /// The machine could not be asked.
    #[error("the addresses of this machine cannot be read: {0}")]
    Unreadable(String),
}

/// Points of an address. The family decides over all, for a node must be reached in that of its pods; then the way to the
/// seeds, which a person gave; then the default route; the rest breaks ties.
const FAMILY: u32 = 2_000;
const SEEDS: u32 = 400;
const ROUTE: u32 = 200;
const PRIVATE: u32 = 50;
const IN_A_NETWORK: u32 = 20;

/// Chooses among the addresses there are. Without a configured address or interface only those count by which the default route
/// leaves or a seed is reached, and none of an interface that containers or a tunnel made, unless the default route
/// leaves by nothing else.
///
/// # Errors
/// When nothing fits what was asked for.
pub fn choose(scene: Scene<'_>, wish: Wish<'_>) -> Result<Choice, AddressError> {
    let points = |address: &Address| score(address, scene, wish);
    let best = |candidates: Vec<&Address>| {
        // The first of equals: the kernel lists an interface's own address before those that were added.
        candidates.into_iter().rev().max_by_key(|address| points(address).0).cloned()
    };
    let usable = scene.addresses.iter().filter(|address| is_usable(address.ip));
    let here = |ip: IpAddr| {
        let there = || scene.addresses.iter().map(|a| a.ip.to_string()).collect::<Vec<_>>().join(", ");
        let found = scene.addresses.iter().find(|address| address.ip == ip);
        found.cloned().ok_or_else(|| AddressError::NotHere(ip, there()))
    };
    let chosen = match (wish.ips.first(), wish.interface, scene.route) {
        (Some(ip), _, _) => here(*ip)?,
        (None, Some(interface), _) => best(usable.filter(|address| address.interface == interface).collect())
            .ok_or_else(|| AddressError::Interface(interface.to_owned()))?,
        (None, None, None) => return Err(AddressError::NoRoute),
        (None, None, Some(route)) => {
            let leads =
                |address: &&Address| address.interface == route || scene.toward_seeds.contains(&address.ip);
            let leading: Vec<&Address> = usable.filter(leads).collect();
            let own =
                leading.iter().copied().filter(|a| kind_of(&a.interface) == LinkKind::Machine).collect();
            best(own).or_else(|| best(leading)).ok_or_else(|| AddressError::Interface(route.to_owned()))?
        }
    };
    let second = match wish.ips.get(1) {
        Some(ip) => Some(here(*ip)?),
        // flannel takes both from one interface.
        None if wish.both => {
            let other = |address: &&Address| {
                address.interface == chosen.interface
                    && address.ip.is_ipv4() != chosen.ip.is_ipv4()
                    && is_usable(address.ip)
            };
            let family = if chosen.ip.is_ipv4() { "IPv6" } else { "IPv4" };
            let found = best(scene.addresses.iter().filter(other).collect());
            let lacks = || AddressError::OneFamily { interface: chosen.interface.clone(), family };
            Some(found.ok_or_else(lacks)?)
        }
        None => None,
    };
    let mut because = points(&chosen).1;
    if !wish.ips.is_empty() {
        because.insert(0, "configured");
    } else if wish.interface.is_some() {
        because.insert(0, "the configured interface");
    }
    if because.is_empty() {
        because.push("there is no other");
    }
    let taken = |other: &Address| *other == chosen || second.as_ref() == Some(other);
    let others = scene.addresses.iter().filter(|other| is_usable(other.ip) && !taken(other));
    Ok(Choice {
        passed_over: others.map(|other| (other.clone(), against(other, scene, wish))).collect(),
        ip: chosen.ip,
        second: second.as_ref().map(|second| second.ip),
        interface: chosen.interface,
        because,
    })
}

fn score(address: &Address, scene: Scene<'_>, wish: Wish<'_>) -> (u32, Vec<&'static str>) {
    let mut points = 0;
    let mut because = Vec::new();
    for (holds, worth, word) in [
        (address.ip.is_ipv6() == wish.v6_first, FAMILY, ""),
        (scene.toward_seeds.contains(&address.ip), SEEDS, "the way to a seed"),
        (scene.route == Some(address.interface.as_str()), ROUTE, "the default route's interface"),
        (is_private(address.ip), PRIVATE, "a private address"),
        (!stands_alone(address), IN_A_NETWORK, ""),
    ] {
        if holds {
            points += worth;
            because.extend((!word.is_empty()).then_some(word));
        }
    }
    (points, because)
}

/// The first thing that speaks against an address that was not chosen.
fn against(address: &Address, scene: Scene<'_>, wish: Wish<'_>) -> &'static str {
    match kind_of(&address.interface) {
        LinkKind::Container => return "made by a container engine or hypervisor",
        LinkKind::Vpn => return "a tunnel",
        LinkKind::Loopback => return "carries nothing between machines",
        LinkKind::Machine => {}
    }
    if !wish.ips.is_empty() || wish.interface.is_some_and(|interface| interface != address.interface) {
        "not the configured one"
    } else if address.ip.is_ipv6() != wish.v6_first && !wish.both {
        "not of the family of the pod network"
    } else if stands_alone(address) {
        "an address without a network, as virtual ones are"
    } else if scene.route != Some(address.interface.as_str()) && !scene.toward_seeds.contains(&address.ip) {
        "neither the default route nor a seed is reached by it"
    } else {
        "less speaks for it"
    }
}

fn stands_alone(address: &Address) -> bool {
    address.prefix == if address.ip.is_ipv4() { 32 } else { 128 }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        // fc00::/7, unique local addresses.
        IpAddr::V6(ip) => ip.segments()[0] & 0xfe00 == 0xfc00,
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

/// Looks at the machine and chooses. Nothing is sent: the kernel is asked which way it would take to the seeds.
///
/// # Errors
/// As [`choose`], and when the machine cannot be asked.
pub fn node_address(wish: Wish<'_>, seeds: &[SocketAddr]) -> Result<Choice, AddressError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| AddressError::Unreadable(error.to_string()))?;
    let prefix = |interface: &if_addrs::Interface| match &interface.addr {
        if_addrs::IfAddr::V4(v4) => v4.prefixlen,
        if_addrs::IfAddr::V6(v6) => v6.prefixlen,
    };
    let addresses: Vec<Address> = interfaces
        .into_iter()
        .map(|i| Address { ip: i.ip(), prefix: prefix(&i), interface: i.name })
        .collect();
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
    let toward_seeds: Vec<IpAddr> = seeds.iter().filter_map(|seed| source_toward(*seed)).collect();
    choose(Scene { addresses: &addresses, route: route.as_deref(), toward_seeds: &toward_seeds }, wish)
}

/// The prefix length of this address's network, and the index of its interface.
///
/// # Errors
/// When the machine cannot be asked, or does not have the address.
pub fn network_of(own: IpAddr) -> Result<(u8, u32), String> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| error.to_string())?;
    let found = interfaces.iter().find(|interface| interface.ip() == own);
    let found = found.ok_or_else(|| format!("{own} is not an address of this machine"))?;
    let prefix = match &found.addr {
        if_addrs::IfAddr::V4(v4) => v4.prefixlen,
        if_addrs::IfAddr::V6(v6) => v6.prefixlen,
    };
    let index = found.index.ok_or_else(|| format!("interface {} has no number", found.name))?;
    Ok((prefix, index))
}

/// The address that the kernel would send from; none where there is no way. A connected UDP socket sends nothing by itself.
#[must_use]
pub fn source_toward(seed: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if seed.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(seed).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[(&str, &str, u8)]) -> Vec<Address> {
        let address = |(interface, ip, prefix): &(&str, &str, u8)| Address {
            interface: (*interface).into(),
            ip: ip.parse().unwrap(),
            prefix: *prefix,
        };
        all.iter().map(address).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const HOST: [(&str, &str, u8); 6] = [
        ("lo", "127.0.0.1", 8),
        ("eth0", "fe80::1", 64),
        ("eth0", "fd00::5", 64),
        ("eth0", "10.0.0.5", 24),
        ("eth1", "192.168.1.5", 24),
        ("docker0", "172.17.0.1", 16),
    ];

    #[test]
    fn the_address_follows_the_wish_then_the_seeds_then_the_route() {
        let wish = |ips, interface| Wish { ips, interface, ..Wish::default() };
        let (six, nowhere_here) = ([ip("fd00::5")], [ip("10.9.9.9")]);
        let v6 = Wish { v6_first: true, ..Wish::default() };
        for (name, route, toward, wish, wanted) in [
            ("route", Some("eth0"), "", Wish::default(), Ok("10.0.0.5")),
            ("IPv6 pods", Some("eth0"), "", v6, Ok("fd00::5")),
            ("interface", Some("eth0"), "", wish(&[], Some("eth1")), Ok("192.168.1.5")),
            (
                "a container's interface, asked for",
                Some("eth0"),
                "",
                wish(&[], Some("docker0")),
                Ok("172.17.0.1"),
            ),
            ("node-ip", None, "", wish(&six, None), Ok("fd00::5")),
            ("seeds", Some("eth0"), "192.168.1.5", Wish::default(), Ok("192.168.1.5")),
            ("seeds by IPv6, pods by IPv4", Some("eth0"), "fd00::5", Wish::default(), Ok("10.0.0.5")),
            ("seeds behind a container bridge", Some("eth0"), "172.17.0.1", Wish::default(), Ok("10.0.0.5")),
            ("no route", None, "192.168.1.5", Wish::default(), Err(AddressError::NoRoute)),
            ("loopback", None, "", wish(&[], Some("lo")), Err(AddressError::Interface("lo".into()))),
            (
                "route without an address",
                Some("eth9"),
                "",
                Wish::default(),
                Err(AddressError::Interface("eth9".into())),
            ),
        ] {
            let all = addresses(&HOST);
            let toward: Vec<IpAddr> = toward.parse().into_iter().collect();
            let chosen = choose(Scene { addresses: &all, route, toward_seeds: &toward }, wish);
            assert_eq!(chosen.map(|choice| choice.ip), wanted.map(ip), "{name}");
        }
        let all = addresses(&HOST);
        let nowhere = choose(Scene { addresses: &all, ..Scene::default() }, wish(&nowhere_here, None));
        assert!(matches!(nowhere, Err(AddressError::NotHere(..))));
    }

    #[test]
    fn among_the_addresses_of_one_interface_the_private_and_the_first_win_and_virtual_ones_lose() {
        let chosen = |all: &[(&str, &str, u8)]| {
            let all = addresses(all);
            choose(Scene { addresses: &all, route: Some("eth0"), toward_seeds: &[] }, Wish::default())
                .unwrap()
        };
        let virtual_first = [("eth0", "10.0.0.100", 32), ("eth0", "10.0.0.5", 24)];
        assert_eq!(chosen(&virtual_first).ip, ip("10.0.0.5"));
        let public_first = [("eth0", "203.0.113.5", 24), ("eth0", "10.0.0.5", 24)];
        assert_eq!(chosen(&public_first).ip, ip("10.0.0.5"));
        assert_eq!(chosen(&[("eth0", "10.0.0.5", 24), ("eth0", "10.0.0.6", 24)]).ip, ip("10.0.0.5"));
        // A cloud that gives every machine an address without a network.
        assert_eq!(chosen(&[("eth0", "10.0.0.100", 32)]).ip, ip("10.0.0.100"));
        // Only IPv6 there, whatever the pods have: better than nothing, and said elsewhere.
        assert_eq!(chosen(&[("eth0", "2001:db8::5", 64)]).ip, ip("2001:db8::5"));
        // A default route by a tunnel is taken when there is nothing else.
        let tunnel = addresses(&[("tun0", "10.8.0.5", 24), ("docker0", "172.17.0.1", 16)]);
        let scene = Scene { addresses: &tunnel, route: Some("tun0"), toward_seeds: &[] };
        assert_eq!(choose(scene, Wish::default()).unwrap().ip, ip("10.8.0.5"));
    }

    #[test]
    fn pods_of_both_families_want_an_address_of_each_on_one_interface() {
        let seen = |all: &[(&str, &str, u8)], wish: Wish<'_>| {
            let all = addresses(all);
            let chosen = choose(Scene { addresses: &all, route: Some("eth0"), toward_seeds: &[] }, wish);
            chosen.map(|choice| (choice.ip, choice.second))
        };
        let both = Wish { both: true, ..Wish::default() };
        let six_first = Wish { v6_first: true, ..both };
        let (four, six) = (ip("10.0.0.5"), ip("fd00::5"));
        assert_eq!(seen(&HOST, both), Ok((four, Some(six))));
        assert_eq!(seen(&HOST, six_first), Ok((six, Some(four))));
        // One address is given: the other is of its interface.
        let given = [ip("192.168.1.5")];
        let eth1_alone = seen(&HOST, Wish { ips: &given, ..both });
        assert_eq!(eth1_alone, Err(AddressError::OneFamily { interface: "eth1".into(), family: "IPv6" }));
        let pair = [ip("192.168.1.5"), six];
        assert_eq!(seen(&HOST, Wish { ips: &pair, ..both }), Ok((pair[0], Some(six))));
        let gone = [four, ip("fd00::99")];
        assert!(matches!(seen(&HOST, Wish { ips: &gone, ..both }), Err(AddressError::NotHere(..))));
        // Unique local before global, as IPv4's private before public; link-local is none.
        let globals = [
            ("eth0", "10.0.0.5", 24),
            ("eth0", "2001:db8::5", 64),
            ("eth0", "fd00::5", 64),
            ("eth0", "fe80::1", 64),
        ];
        assert_eq!(seen(&globals, both), Ok((four, Some(six))));
        let only_local = [("eth0", "10.0.0.5", 24), ("eth0", "fe80::1", 64)];
        assert!(matches!(seen(&only_local, both), Err(AddressError::OneFamily { family: "IPv6", .. })));
        assert_eq!(
            seen(&[("eth0", "fd00::5", 64)], Wish { v6_first: true, ..Wish::default() }),
            Ok((six, None))
        );
        let all = addresses(&HOST);
        let said = choose(Scene { addresses: &all, route: Some("eth0"), toward_seeds: &[] }, both)
            .unwrap()
            .to_string();
        assert!(said.starts_with("10.0.0.5 and fd00::5 on eth0: the default route's interface"), "{said}");
        assert!(!said.contains("passed over fd00::5"), "{said}");
    }

    #[test]
    fn a_choice_explains_itself() {
        let all = addresses(&HOST);
        let scene = Scene { addresses: &all, route: Some("eth0"), toward_seeds: &[ip("10.0.0.5")] };
        assert_eq!(
            choose(scene, Wish::default()).unwrap().to_string(),
            "10.0.0.5 on eth0: the way to a seed, the default route's interface, a private address; passed over fd00::5 on \
             eth0 (not of the family of the pod network), 192.168.1.5 on eth1 (neither the default route nor a seed is \
             reached by it), 172.17.0.1 on docker0 (made by a container engine or hypervisor)"
        );
    }

    #[test]
    fn the_way_to_a_seed_on_this_machine_is_its_own_address() {
        assert_eq!(source_toward("127.0.0.1:7846".parse().unwrap()), Some(ip("127.0.0.1")));
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
