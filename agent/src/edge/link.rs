//! What an interface is for, by its name.

use serde::Serialize;

/// What an interface is for, told by the name that its maker gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// Of the machine: a card, a bond, a bridge of the operator's, a VLAN.
    Machine,
    /// The loopback, or one that carries nothing.
    Loopback,
    /// Made by a container engine, a CNI plugin or a hypervisor on this machine.
    Container,
    /// A tunnel or virtual private network.
    Vpn,
}

/// Names that container engines, CNI plugins and libvirt give; a trailing `*` takes any end.
const CONTAINER: [&str; 16] = [
    "cni*",
    "flannel*",
    "veth*",
    "kube-*",
    "docker*",
    "br-*",
    "podman*",
    "nerdctl*",
    "cali*",
    "cilium*",
    "lxc*",
    "lxd*",
    "virbr*",
    "vnet*",
    "nodelocaldns*",
    "antrea*",
];
/// Names that tunnels give.
const VPN: [&str; 10] =
    ["wg*", "tun*", "tap*", "tailscale*", "zt*", "ppp*", "ipsec*", "vti*", "nebula*", "utun*"];
/// Names of interfaces that carry nothing between machines.
const LOOPBACK: [&str; 5] = ["lo", "dummy*", "ifb*", "sit0", "ip6tnl0"];

/// What an interface of this name is for.
#[must_use]
pub fn kind_of(name: &str) -> LinkKind {
    let among = |patterns: &[&str]| {
        patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *pattern,
        })
    };
    if among(&LOOPBACK) {
        LinkKind::Loopback
    } else if among(&CONTAINER) {
        LinkKind::Container
    } else if among(&VPN) {
        LinkKind::Vpn
    } else {
        LinkKind::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_an_interface_is_for() {
        for (name, kind) in [
            ("eth0", LinkKind::Machine),
            ("enp1s0f0", LinkKind::Machine),
            ("bond0.100", LinkKind::Machine),
            ("br0", LinkKind::Machine),
            ("host0", LinkKind::Machine),
            ("lo", LinkKind::Loopback),
            ("docker0", LinkKind::Container),
            ("br-3f2c8f1a0002", LinkKind::Container),
            ("cni0", LinkKind::Container),
            ("flannel.1", LinkKind::Container),
            ("veth12ab", LinkKind::Container),
            ("wg0", LinkKind::Vpn),
            ("tailscale0", LinkKind::Vpn),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
    }
}
