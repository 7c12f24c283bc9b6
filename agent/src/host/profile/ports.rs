//! The ports that nodes need of each other, as data; what is opened in a firewall follows from it. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Applies;
use crate::config::Settings;
use crate::gossip::WantedRole;
use crate::host::facts::Protocol;

/// A port, or a range of them, that must be open towards other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// First port; none for the configured gossip port.
    pub first: Option<u16>,
    /// Last port.
    pub last: u16,
    /// The roles that need it.
    pub on: Applies,
    /// Who comes in.
    pub from: &'static str,
    /// The flannel backend that needs it; none when it is always needed.
    pub backend: Option<&'static str>,
    /// What it is.
    pub what: &'static str,
}

const fn port(
    protocol: Protocol,
    first: u16,
    last: u16,
    on: Applies,
    from: &'static str,
    what: &'static str,
) -> Port {
    Port { protocol, first: Some(first), last, on, from, backend: None, what }
}

impl Port {
    const fn of(mut self, backend: &'static str) -> Self {
        self.backend = Some(backend);
        self
    }
}

/// The table.
pub const PORTS: &[Port] = &[
    port(Protocol::Tcp, 6443, 6443, Applies::Server, "all nodes", "supervisor and API"),
    port(Protocol::Tcp, 2379, 2380, Applies::Server, "servers", "etcd"),
    port(Protocol::Tcp, 10250, 10250, Applies::Every, "all nodes", "kubelet"),
    port(Protocol::Udp, 8472, 8472, Applies::Every, "all nodes", "flannel's VXLAN").of("vxlan"),
    port(Protocol::Udp, 51820, 51821, Applies::Every, "all nodes", "flannel's WireGuard, both families")
        .of("wireguard-native"),
    Port {
        protocol: Protocol::Udp,
        first: None,
        last: 0,
        on: Applies::Every,
        from: "all nodes",
        backend: None,
        what: "Muster's gossip (`gossip-port`)",
    },
];

/// What shall be open on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Protocol, first and last port.
    pub ports: BTreeSet<(Protocol, u16, u16)>,
    /// Networks that are trusted: those of pods and services.
    pub networks: BTreeSet<String>,
}

impl Opening {
    /// What these settings need.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let networks = [&settings.k3s.cluster_cidr, &settings.k3s.service_cidr];
        Self::new(
            settings.role,
            &settings.k3s.flannel_backend,
            settings.gossip_port,
            &networks.map(String::as_str),
        )
    }

    /// What a role needs with a flannel backend, a gossip port and networks with commas.
    #[must_use]
    pub fn new(role: WantedRole, backend: &str, gossip: u16, networks: &[&str]) -> Self {
        let wanted = PORTS.iter().filter(|port| port.on.to(role));
        let wanted = wanted.filter(|port| port.backend.is_none_or(|needs| needs == backend));
        Self {
            ports: wanted
                .map(|port| match port.first {
                    Some(first) => (port.protocol, first, port.last),
                    None => (port.protocol, gossip, gossip),
                })
                .collect(),
            networks: networks
                .iter()
                .flat_map(|list| list.split(','))
                .map(|one| one.trim().to_owned())
                .collect(),
        }
    }

    /// Its ports in one line.
    #[must_use]
    pub fn words(&self) -> String {
        let ports = self.ports.iter().map(|(protocol, first, last)| match first == last {
            true => format!("{} {first}", word(*protocol).to_uppercase()),
            false => format!("{} {first}-{last}", word(*protocol).to_uppercase()),
        });
        let networks = self.networks.iter().map(|network| format!("all from {network}"));
        ports.chain(networks).collect::<Vec<_>>().join(", ")
    }

    /// The rules as `ufw allow` takes them, in order.
    #[must_use]
    pub fn ufw_rules(&self) -> Vec<String> {
        let ports = self.ports.iter().map(|(protocol, first, last)| match first == last {
            true => format!("{first}/{}", word(*protocol)),
            false => format!("{first}:{last}/{}", word(*protocol)),
        });
        ports.chain(self.networks.iter().map(|network| format!("from {network}"))).collect()
    }
}

/// As firewalls spell a protocol.
#[must_use]
pub(in crate::host) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The table of `docs/host.md`, made from [`PORTS`].
#[must_use]
pub fn document_ports() -> String {
    let mut text = String::from("| port | on | from | what |\n|---|---|---|---|\n");
    for port in PORTS {
        let number = match port.first {
            None => "7846".to_owned(),
            Some(first) if first == port.last => first.to_string(),
            Some(first) => format!("{first}-{}", port.last),
        };
        let on = match port.on {
            Applies::Every => "every node",
            Applies::Server => "servers",
        };
        let backend = port.backend.map(|backend| format!(", with `{backend}`")).unwrap_or_default();
        let protocol = word(port.protocol).to_uppercase();
        let _ = writeln!(text, "| {protocol} {number} | {on} | {} | {}{backend} |", port.from, port.what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_opens_what_it_needs_and_no_more() {
        let opening =
            |role, backend| Opening::new(role, backend, 7846, &["10.42.0.0/16,fd42::/56", "10.43.0.0/16"]);
        assert_eq!(
            opening(WantedRole::Auto, "vxlan").ufw_rules(),
            [
                "2379:2380/tcp",
                "6443/tcp",
                "10250/tcp",
                "7846/udp",
                "8472/udp",
                "from 10.42.0.0/16",
                "from 10.43.0.0/16",
                "from fd42::/56"
            ]
        );
        let agent = opening(WantedRole::Agent, "wireguard-native");
        assert_eq!(
            agent.words(),
            "TCP 10250, UDP 7846, UDP 51820-51821, all from 10.42.0.0/16, all from 10.43.0.0/16, all from fd42::/56"
        );
    }
}
