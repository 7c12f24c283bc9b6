//! Rows that are looked at and never changed.

use std::collections::BTreeSet;

use super::{HostWanted, Judged, closer, own};
use crate::core::Known;
use crate::host::facts::network::{Protocol, reaches_pods};
use crate::host::profile::Check;
use crate::host::{Cgroups, FileFacts, HostFacts, LiveFacts};

/// 1980-01-01T00:00:00Z: k3s exits when its clock is before it.
const NINETEEN_EIGHTY: i64 = 315_532_800;

/// The controllers without which k3s or the kubelet exits.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

pub(super) fn judge(check: Check, facts: &HostFacts, wanted: &HostWanted) -> Option<Judged> {
    let files = &facts.files;
    match check {
        Check::NmCloudSetup => return nm_cloud_setup(files),
        Check::MachineId => return alone(own::machine_id(facts), "machine-id-shared", wanted),
        Check::Configuration => return closer::configuration(wanted),
        Check::OddServers => return closer::odd_servers(wanted),
        _ => {}
    }
    let live = facts.live.as_ref()?;
    match check {
        Check::DefaultRoute => Some(default_route(live, wanted)),
        Check::HostName => Some(host_name(live, wanted)),
        Check::Memory(least) => {
            Some(number(&live.memory_kib.clone().map(|kib| kib / 1024), least, "MiB of memory"))
        }
        Check::ServerMemory => {
            let seen = live.memory_kib.clone().map(|kib| kib / 1024);
            Some(number(&seen, wanted.limits.min_memory_mib, "MiB of memory"))
        }
        Check::Processors(least) => {
            Some(number(&live.cpus.clone().map(u64::from), u64::from(least), "processors online"))
        }
        Check::Clock => Some(clock(live)),
        Check::CgroupControllers => Some(controllers(live)),
        Check::CgroupVersion => Some(cgroup_version(live, wanted)),
        Check::Loadable("vxlan") if !matches!(wanted.flannel_backend.as_str(), "" | "vxlan") => None,
        Check::Loadable(name) => {
            let next = "install the distribution's extra modules package, or choose another flannel-backend";
            Some(loadable(&[name], files, live, next))
        }
        Check::AnyLoadable(names) => {
            let next = "install the distribution's extra modules package, or a kernel that has one of them";
            Some(loadable(names, files, live, next))
        }
        Check::Port(protocol, port) => (!wanted.k3s_runs).then(|| free(protocol, port, live)),
        Check::GossipPort => wanted.gossip_port.map(|port| free(Protocol::Udp, port, live)),
        Check::RouterAdvertisements => advertisements(live),
        Check::ReversePath => reverse_path(live, wanted),
        Check::NameServers => name_servers(live),
        Check::Selinux => selinux(files, live),
        Check::AppArmor => apparmor(files, live),
        Check::OpenFiles => own::open_files(live),
        Check::Mtu => own::mtu(live, wanted),
        Check::ProductUuid => alone(own::product_uuid(live), "product-uuid-shared", wanted),
        Check::HardwareAddress => {
            alone(own::hardware_address(live, wanted), "hardware-address-shared", wanted)
        }
        Check::DiskLatency
        | Check::DiskFree
        | Check::TimeSync
        | Check::TimeOffset
        | Check::Certificates
        | Check::PathMtu
        | Check::Peers(_) => closer::judge(check, facts.examined.as_ref()?, live, wanted),
        Check::NmCloudSetup | Check::MachineId | Check::Configuration | Check::OddServers => None,
    }
}

/// A row of what no two machines may share: the agent, which hears the others, has the last word.
fn alone(judged: Option<Judged>, rule: &str, wanted: &HostWanted) -> Option<Judged> {
    match wanted.shared.iter().find(|why| why.rule == rule) {
        Some(why) => Some(Judged::missing(why.detail.clone(), why.next.clone())),
        None => judged,
    }
}

fn default_route(live: &LiveFacts, wanted: &HostWanted) -> Judged {
    let judged = match (&live.route4, &live.route6) {
        (Known::Yes(interface), _) | (_, Known::Yes(interface)) => {
            return Judged::ok(format!("by {interface}"));
        }
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Judged::unknown(unread),
        (Known::Absent, Known::Absent) => {
            Judged::missing("no default route", "add one, or configure node-ip; Muster looks again by itself")
        }
    };
    if wanted.node_address_given {
        return Judged::ok("no default route is known; the node address is configured");
    }
    judged
}

fn host_name(live: &LiveFacts, wanted: &HostWanted) -> Judged {
    if wanted.node_name_given {
        return Judged::ok("the node name is configured");
    }
    let next = "give the host a name of its own, or configure node-name; Muster looks again by itself";
    match &live.host_name {
        Known::Yes(name) => match name.split('.').next().unwrap_or_default() {
            "" | "localhost" | "(none)" => Judged::missing(format!("the host name is {name:?}"), next),
            _ => Judged::ok(name.clone()),
        },
        Known::Absent => Judged::missing("the host has no name", next),
        Known::Unknown(unread) => Judged::unknown(unread),
    }
}

fn number(seen: &Known<u64>, least: u64, of: &str) -> Judged {
    match seen {
        Known::Yes(seen) if *seen >= least => Judged::ok(format!("{seen} {of}")),
        Known::Yes(seen) => {
            Judged::missing(format!("{seen} {of}, wanted {least}"), "a larger machine, or the role agent")
        }
        Known::Absent => Judged::missing(format!("no {of} are told by this kernel"), "a larger machine"),
        Known::Unknown(unread) => Judged::unknown(unread),
    }
}

fn clock(live: &LiveFacts) -> Judged {
    match &live.clock {
        Known::Yes(now) if *now >= NINETEEN_EIGHTY => Judged::ok("after 1980"),
        Known::Yes(now) => Judged::missing(
            format!("the clock says {now} s after 1970, before 1980"),
            "set the clock, or wait for time synchronisation; Muster looks again by itself",
        ),
        Known::Absent => Judged::missing("there is no wall clock", "set the clock"),
        Known::Unknown(unread) => Judged::unknown(unread),
    }
}

fn controllers(live: &LiveFacts) -> Judged {
    let (version, seen) = match &live.cgroups {
        Known::Yes(Cgroups::V2(seen)) => (2, seen),
        Known::Yes(Cgroups::V1(seen)) => (1, seen),
        Known::Absent => {
            return Judged::missing("this kernel has no control groups", "a kernel with control groups");
        }
        Known::Unknown(unread) => return Judged::unknown(unread),
    };
    let lacking: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !seen.contains(*name)).collect();
    if lacking.is_empty() {
        return Judged::ok(format!("version {version}"));
    }
    let next = if lacking.contains(&"memory") {
        "add cgroup_memory=1 cgroup_enable=memory to the kernel command line and reboot"
    } else {
        "switch them on in the kernel, or delegate them to this container"
    };
    Judged::missing(format!("version {version} without {}", lacking.join(", ")), next)
}

fn cgroup_version(live: &LiveFacts, wanted: &HostWanted) -> Judged {
    match (&live.cgroups, minor(&wanted.k3s_version)) {
        (Known::Yes(Cgroups::V2(_)), _) => Judged::ok("version 2"),
        (Known::Yes(Cgroups::V1(_)), Some(minor)) if minor < 35 => {
            Judged::ok("version 1, which this k3s still takes")
        }
        (Known::Yes(Cgroups::V1(_)), Some(minor)) => Judged::missing(
            format!("version 1, which the kubelet of 1.{minor} refuses"),
            "boot with version 2, or give k3s kubelet-arg fail-cgroupv1=false and skip this row",
        ),
        (Known::Yes(Cgroups::V1(_)), None) => Judged::ok("version 1; the version of k3s is not known"),
        (Known::Absent, _) => Judged::ok("no control groups: see cgroup.controllers"),
        (Known::Unknown(unread), _) => Judged::unknown(unread),
    }
}

/// The minor number of `v1.33.1+k3s1`.
fn minor(version: &str) -> Option<u32> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.');
    (numbers.next()? == "1").then(|| numbers.next()?.parse().ok())?
}

/// A module, or one of several, that something loads when it needs it.
fn loadable(names: &[&str], files: &FileFacts, live: &LiveFacts, next: &str) -> Judged {
    let found = |set: &Known<BTreeSet<String>>| {
        let set = set.yes()?;
        names.iter().find(|name| set.contains(**name)).copied()
    };
    // Which one is worth saying only where there is a choice.
    let said = |name: &str, how: &str| match names {
        [_] => Judged::ok(how),
        _ => Judged::ok(format!("{name}: {how}")),
    };
    if let Some(name) = found(&live.loaded) {
        return said(name, "loaded");
    }
    if let Some(name) = found(&files.builtin) {
        return said(name, "built in");
    }
    if let Some(name) = found(&files.loadable) {
        return said(name, "loaded on demand");
    }
    match (&files.loadable, &live.loaded) {
        (Known::Yes(_), Known::Yes(_)) => {
            Judged::missing(format!("this kernel has no module {}", names.join(" and none ")), next)
        }
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Judged::unknown(unread),
        // A kernel without module files: it is built in or lacking, and nothing but using it tells which.
        (Known::Absent, _) | (_, Known::Absent) => {
            Judged::ok("cannot be told before it is used: no module files here")
        }
    }
}

fn free(protocol: Protocol, port: u16, live: &LiveFacts) -> Judged {
    let listeners = match &live.listeners {
        Known::Yes(listeners) => listeners.as_slice(),
        Known::Absent => &[],
        Known::Unknown(unread) => return Judged::unknown(unread),
    };
    let word = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    match listeners.iter().find(|listener| listener.protocol == protocol && listener.port == port) {
        None => Judged::ok("free"),
        Some(listener) => {
            let owner =
                listener.owner.as_ref().map_or("another process".to_owned(), |name| format!("`{name}`"));
            Judged::missing(
                format!("{word} port {port} is held by {owner} on {}", listener.address),
                "stop it or move it to another port; Muster looks again by itself",
            )
        }
    }
}

fn advertisements(live: &LiveFacts) -> Option<Judged> {
    let learned = match &live.advertised {
        Known::Yes(learned) if !learned.is_empty() => learned,
        Known::Yes(_) | Known::Absent => return None,
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
    };
    Some(match learned.iter().find(|(_, accept)| accept.trim() != "2") {
        None => Judged::ok("accept_ra is 2"),
        Some((interface, accept)) => Judged::missing(
            format!(
                "{interface} learns its default route by advertisement and has accept_ra {}",
                accept.trim()
            ),
            format!("set net.ipv6.conf.{interface}.accept_ra = 2, or a static route"),
        ),
    })
}

/// The kernel takes the larger of two numbers: that of all interfaces, and the interface's own. 1 is strict, 2 is loose.
fn reverse_path(live: &LiveFacts, wanted: &HostWanted) -> Option<Judged> {
    let all = live.sysctls.get(LiveFacts::RP_FILTER)?;
    let own = own::interface(live, wanted);
    let named = own.as_ref().map(|(name, _)| format!("net.ipv4.conf.{name}.rp_filter"));
    let own = match own {
        None => Known::Absent,
        Some((_, Ok(link))) => link.rp_filter.clone(),
        Some((_, Err(unread))) => Known::Unknown(unread),
    };
    // Nothing lies above loose.
    if [all, &own].into_iter().any(|value| value.yes().is_some_and(|value| value == "2")) {
        return Some(Judged::ok("loose"));
    }
    let strict = |value: &Known<String>| value.yes().is_some_and(|value| value == "1");
    let key = match (strict(all), strict(&own), named) {
        (true, _, _) => LiveFacts::RP_FILTER.to_owned(),
        (false, true, Some(key)) => key,
        _ => {
            return Some(match (all, &own) {
                (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Judged::unknown(unread),
                _ => Judged::ok("not strict"),
            });
        }
    };
    Some(Judged::missing(
        format!("{key} is 1 (strict)"),
        "set it to 2 (loose) where the host has several interfaces",
    ))
}

fn name_servers(live: &LiveFacts) -> Option<Judged> {
    let files = match &live.name_servers {
        Known::Yes(files) if !files.is_empty() => files,
        Known::Yes(_) | Known::Absent => {
            return Some(Judged::missing(
                "there is no resolver file",
                "add /etc/resolv.conf, or set resolv-conf for k3s",
            ));
        }
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
    };
    // k3s takes the first file in which every server can be reached from a pod.
    let good =
        |servers: &Vec<String>| !servers.is_empty() && servers.iter().all(|server| reaches_pods(server));
    Some(match files.iter().find(|(_, servers)| good(servers)) {
        Some((path, _)) => Judged::ok(path.clone()),
        None => {
            let servers: Vec<&str> =
                files.iter().flat_map(|(_, servers)| servers).map(String::as_str).collect();
            Judged::missing(
                format!(
                    "no resolver file has only servers that pods can reach (seen: {})",
                    servers.join(", ")
                ),
                "set resolv-conf for k3s to a file with servers of the network",
            )
        }
    })
}

fn nm_cloud_setup(files: &FileFacts) -> Option<Judged> {
    let enabled = files.enabled.yes()?;
    let unit = ["nm-cloud-setup.service", "nm-cloud-setup.timer"]
        .into_iter()
        .find(|unit| enabled.contains(*unit))?;
    Some(Judged::missing(
        format!("{unit} is enabled"),
        "systemctl disable nm-cloud-setup.service nm-cloud-setup.timer, then reboot",
    ))
}

fn selinux(files: &FileFacts, live: &LiveFacts) -> Option<Judged> {
    match &live.selinux {
        Known::Absent => None,
        Known::Yes(false) => Some(Judged::ok("permissive")),
        Known::Yes(true) => Some(match &files.selinux_policy {
            Known::Yes(()) => Judged::ok("enforcing, with the policy"),
            Known::Absent => Judged::missing(
                "SELinux enforces and the k3s-selinux policy is not installed",
                "install k3s-selinux from Rancher's repository",
            ),
            Known::Unknown(unread) => Judged::unknown(unread),
        }),
        Known::Unknown(unread) => Some(Judged::unknown(unread)),
    }
}

fn apparmor(files: &FileFacts, live: &LiveFacts) -> Option<Judged> {
    match (&live.apparmor, &files.apparmor_parser) {
        (Known::Absent, _) => None,
        (Known::Yes(false), _) => Some(Judged::ok("off")),
        (Known::Yes(true), Known::Yes(())) => Some(Judged::ok("on, with its parser")),
        (Known::Yes(true), Known::Absent) => Some(Judged::missing(
            "AppArmor is on and there is no apparmor_parser",
            "install the package apparmor (Debian, Ubuntu, Alpine) or apparmor-parser (SUSE)",
        )),
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Some(Judged::unknown(unread)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_number_of_a_version_is_found() {
        assert_eq!(minor("v1.33.1+k3s1"), Some(33));
        assert_eq!(minor("1.35.0+k3s1"), Some(35));
        assert_eq!(minor("latest"), None);
    }
}
