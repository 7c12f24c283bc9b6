//! Settings of the sources of peers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use super::names::Network;

/// Where to look for peers beside the seeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiscoverySettings {
    /// Names in the DNS.
    pub dns: Option<DnsSettings>,
    /// The sweep.
    pub sweep: Option<SweepSettings>,
    /// Multicast DNS.
    pub mdns: bool,
    /// A program that prints addresses.
    pub exec: Option<ExecSettings>,
    /// A file with addresses.
    pub file: Option<PathBuf>,
    /// Cloud APIs, in the order of the table of keys.
    pub clouds: Vec<CloudSettings>,
}

/// Names in the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// Names; those that begin with `_` are looked up as SRV.
    pub names: Vec<String>,
    /// Name servers, when not those of the machine.
    pub servers: Vec<SocketAddr>,
}

/// A network that is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepNetwork {
    /// The one of this node's address.
    Local,
    /// This one.
    Of(Network),
}

/// The sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepSettings {
    /// Networks in order.
    pub networks: Vec<SweepNetwork>,
    /// Probes in a second.
    pub rate: u32,
}

/// A program that prints addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSettings {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Longest time.
    pub timeout: Duration,
}

/// Which cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudKind {
    /// Amazon EC2.
    Aws,
    /// Google Compute Engine.
    Gcp,
    /// Azure.
    Azure,
    /// Hetzner Cloud.
    Hetzner,
    /// OpenStack Nova.
    OpenStack,
    /// DigitalOcean.
    DigitalOcean,
}

impl CloudKind {
    /// Its name in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            CloudKind::Aws => "aws",
            CloudKind::Gcp => "gcp",
            CloudKind::Azure => "azure",
            CloudKind::Hetzner => "hetzner",
            CloudKind::OpenStack => "openstack",
            CloudKind::DigitalOcean => "digitalocean",
        }
    }
}

/// Which machines of a cloud are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Find {
    /// Nobody's addresses: the metadata service alone, for zone and notices.
    Metadata,
    /// Those of this machine's own scaling group.
    Group,
    /// Those with this tag or label, and value where there are such.
    Tag(String, Option<String>),
}

/// One cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudSettings {
    /// Which.
    pub kind: CloudKind,
    /// Which machines.
    pub find: Find,
    /// Base URL of the API instead of the cloud's own.
    pub endpoint: Option<String>,
    /// Base URL of the metadata service instead of the usual one.
    pub metadata: Option<String>,
    /// Region, where it is not told by the machine.
    pub region: Option<String>,
    /// File with the API's token or secret.
    pub token_file: Option<PathBuf>,
    /// Name of the credential (OpenStack).
    pub credential: Option<String>,
}

impl DiscoverySettings {
    /// Whether anything at all is configured to look for others.
    #[must_use]
    pub fn looks(&self) -> bool {
        let asks = |cloud: &CloudSettings| cloud.find != Find::Metadata;
        self.clouds.iter().any(asks) || Self { clouds: Vec::new(), ..self.clone() } != Self::default()
    }
}

impl Network {
    /// The network of an address.
    #[must_use]
    pub fn around(ip: IpAddr, prefix: u8) -> Self {
        let network = Self { ip, prefix: prefix.max(1) };
        Self { ip: network.first(), ..network }
    }

    /// Addresses that machines can have in it; none for IPv6.
    #[must_use]
    pub fn hosts(self) -> u64 {
        match (self.ip, self.prefix) {
            (IpAddr::V6(_), _) => 0,
            (IpAddr::V4(_), prefix @ 31..) => 1 << (32 - prefix),
            (IpAddr::V4(_), prefix) => (1 << (32 - prefix)) - 2,
        }
    }

    /// The address of this number, from 0.
    #[must_use]
    pub fn host(self, number: u64) -> Option<Ipv4Addr> {
        let IpAddr::V4(first) = self.ip else { return None };
        // The first and the last address of a network are no machine's, except where there are no others.
        let number = number + u64::from(self.prefix < 31);
        Some(Ipv4Addr::from(u32::from(first).checked_add(u32::try_from(number).ok()?)?))
    }

    /// Why it is not swept, if so.
    #[must_use]
    pub fn unfit_for_sweep(self) -> Option<&'static str> {
        match self.ip {
            IpAddr::V6(_) => {
                Some("an IPv6 network has too many addresses: there the sweep asks the link by multicast")
            }
            IpAddr::V4(ip) if ip.is_multicast() || ip.is_loopback() => {
                Some("no machine of a group has such an address")
            }
            IpAddr::V4(_) if self.prefix < 16 => {
                Some("it is larger than /16; name the parts that machines are in")
            }
            IpAddr::V4(_) if self.prefix == 32 => {
                Some("it is one address alone; name the networks that machines are in")
            }
            IpAddr::V4(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_networks_machines_are_counted_and_named() {
        let network = |ip: &str, prefix| Network::around(ip.parse().unwrap(), prefix);
        let small = network("10.0.0.77", 29);
        assert_eq!((small.to_string(), small.hosts()), ("10.0.0.72/29".to_owned(), 6));
        assert_eq!(small.host(0).unwrap().to_string(), "10.0.0.73");
        assert_eq!(small.host(5).unwrap().to_string(), "10.0.0.78");
        assert_eq!(
            (network("10.0.0.1", 31).hosts(), network("10.0.0.1", 31).host(0).unwrap().to_string()),
            (2, "10.0.0.0".to_owned())
        );
        assert_eq!(network("10.0.0.1", 16).hosts(), 65_534);
        assert_eq!(network("fd00::1", 64).hosts(), 0);
        for (ip, prefix, fits) in [
            ("10.0.0.1", 16, true),
            ("10.0.0.1", 15, false),
            ("10.0.0.1", 8, false),
            ("10.0.0.1", 32, false),
            ("fd00::1", 64, false),
            ("10.0.0.1", 31, true),
        ] {
            assert_eq!(network(ip, prefix).unfit_for_sweep().is_none(), fits, "{ip}/{prefix}");
        }
    }
}
