//! The values that must fit each other by their families: the node's addresses, the networks of pods and services, the DNS.

use std::net::IpAddr;

use super::check::Check;
use super::keys::Key;
use super::names;

impl Check<'_> {
    /// The node's own addresses, each of a family that pods have: k3s takes the first for its own, and refuses to start when it is
    /// not of the family of the first network.
    pub(super) fn node_ips(&mut self) -> Vec<IpAddr> {
        // What is wrong with the networks themselves is said where they are read.
        let pods = self.merged.text(Key::K3sClusterCidr).and_then(|text| names::networks(text).ok());
        let read = |text: &str| {
            let ips = names::node_ips(text)?;
            for (ip, pods) in ips.iter().zip(pods.iter().flatten()) {
                if ip.is_ipv4() != pods.is_ipv4() {
                    return Err(format!(
                        "{ip} is of {}, and the pod network {pods} in its place in k3s.cluster-cidr is of {}",
                        names::family(ip.is_ipv4()),
                        names::family(pods.is_ipv4())
                    ));
                }
            }
            match (ips.get(1), pods.as_deref()) {
                (Some(second), Some([pods])) => Err(format!(
                    "{second} has no pod network of its family: k3s.cluster-cidr has only {pods}"
                )),
                _ => Ok(ips),
            }
        };
        self.text(Key::NodeIp, read).unwrap_or_default()
    }

    /// Pod and service networks and the address of the DNS, in one spelling so that equal parameters have an equal hash.
    pub(super) fn networks(&mut self) -> (Option<String>, Option<String>, Option<String>) {
        let spelt = |networks: &[names::Network]| {
            networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let pods = self.text(Key::K3sClusterCidr, names::networks);
        let services = self.text(Key::K3sServiceCidr, |text| {
            let services = names::networks(text)?;
            let pods = pods.as_deref().unwrap_or_default();
            if let Some(pod) = pods.iter().find(|pod| services.iter().any(|service| service.overlaps(**pod)))
            {
                return Err(format!("overlaps the pod network {pod} of k3s.cluster-cidr"));
            }
            let families = |networks: &[names::Network]| {
                networks
                    .iter()
                    .map(|network| names::family(network.is_ipv4()))
                    .collect::<Vec<_>>()
                    .join(" and ")
            };
            if !pods.is_empty() && families(pods) != families(&services) {
                return Err(format!(
                    "it has {}, and k3s.cluster-cidr has {}: both need the same families in the same order",
                    families(&services),
                    families(pods)
                ));
            }
            Ok(services)
        });
        let dns = self.text(Key::K3sClusterDns, |text| {
            let all: Vec<IpAddr> = text
                .split(',')
                .map(|part| part.trim().parse().map_err(|_| "not an IPv4 or IPv6 address".to_owned()))
                .collect::<Result<_, _>>()?;
            let services = services.as_deref().unwrap_or_default();
            let outside = |ip: &&IpAddr| !services.iter().any(|service| service.contains(**ip));
            match all.iter().find(outside) {
                Some(ip) if !services.is_empty() => {
                    Err(format!("{ip} lies outside the service network {}", spelt(services)))
                }
                _ => Ok(all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            }
        });
        (pods.as_deref().map(spelt), services.as_deref().map(spelt), dns)
    }
}
