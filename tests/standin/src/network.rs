//! Addresses: the default-route interface, and arithmetic inside a CIDR.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address of the interface that holds the default route.
///
/// # Errors
/// k3s's words when there is no default route.
pub fn default_address() -> Result<IpAddr, String> {
    const NONE: &str = "unable to select an IP from default routes.";
    let routes = std::fs::read_to_string("/proc/net/route").map_err(|_| NONE.to_owned())?;
    let interface = default_interface(&routes).ok_or(NONE)?;
    nix::ifaddrs::getifaddrs()
        .map_err(|e| e.to_string())?
        .filter(|i| i.interface_name == interface)
        .find_map(|i| i.address.as_ref()?.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())))
        .ok_or_else(|| NONE.to_owned())
}

fn default_interface(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        (fields.next()? == "00000000").then(|| interface.to_owned())
    })
}

/// The `index`-th address of a CIDR, as text.
///
/// # Errors
/// When the text is no CIDR.
pub fn indexed(cidr: &str, index: u32) -> Result<String, String> {
    let bad = || format!("invalid CIDR address: {cidr}");
    let (address, length) = cidr.split_once('/').ok_or_else(bad)?;
    let length: u32 = length.parse().map_err(|_| bad())?;
    match address.parse::<IpAddr>().map_err(|_| bad())? {
        IpAddr::V4(v4) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ok(Ipv4Addr::from((u32::from(v4) & mask).wrapping_add(index)).to_string())
        }
        IpAddr::V6(v6) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ok(Ipv6Addr::from((u128::from(v6) & mask).wrapping_add(u128::from(index))).to_string())
        }
        _ => Err(bad()),
    }
}

/// Address and port as one text, IPv6 in brackets.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_a_cidr() {
        assert_eq!(indexed("10.43.0.0/16", 10).unwrap(), "10.43.0.10");
        assert_eq!(indexed("fd00:43::/112", 10).unwrap(), "fd00:43::a");
        assert!(indexed("10.43.0.0", 1).is_err());
        assert!(indexed("10.43.0.0/33", 1).is_err());
    }

    #[test]
    fn the_default_route_names_the_interface() {
        let table = "Iface\tDestination\tGateway\neth1\t0063090A\t00000000\neth0\t00000000\t0100090A\n";
        assert_eq!(default_interface(table).as_deref(), Some("eth0"));
        assert_eq!(default_interface("Iface\n"), None);
    }
}
