//! The running kernel and this boot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::parsed;
use crate::core::Known;
use crate::edge::clock;
use crate::edge::link::{LinkKind, kind_of};
use crate::edge::sockets::{self, Waiting};
use crate::host::facts::links::{InitLimits, Link, parse_init_limits};
use crate::host::facts::{kernel, network, swap, sysctl};
use crate::host::profile::Effect;
use crate::host::{Cgroups, Kept, Kind, Listener, LiveFacts, Protocol, ROWS, Tree};

pub(super) fn live(tree: &Tree, heard: Option<Known<Vec<Listener>>>) -> LiveFacts {
    // Where the listeners stand in `/proc` alone, the kernel walks its whole table of sockets for them: so beside the rest.
    std::thread::scope(|scope| {
        let walk = heard.is_none().then(|| scope.spawn(|| listeners(tree)));
        let mut facts = all_but_listeners(tree);
        facts.listeners = match (heard, walk.map(std::thread::ScopedJoinHandle::join)) {
            (Some(heard), _) | (None, Some(Ok(heard))) => heard,
            (None, _) => Known::unknown("/proc/net/tcp", "the look at it broke off"),
        };
        facts
    })
}

fn all_but_listeners(tree: &Tree) -> LiveFacts {
    let file_systems = tree.text("/proc/filesystems").map(|text| kernel::parse_filesystems(&text));
    let mut effects = BTreeMap::new();
    let mut sysctls = BTreeMap::new();
    for row in ROWS {
        match row.kind {
            Kind::Module(name, effect) => {
                effects.insert(name, effect_seen(tree, effect, &file_systems));
            }
            Kind::Sysctl(key, _) => {
                sysctls.insert(key, sysctl_value(tree, key));
            }
            _ => {}
        }
    }
    sysctls.insert(LiveFacts::RP_FILTER, sysctl_value(tree, LiveFacts::RP_FILTER));
    let routes6 = parsed(tree.text("/proc/net/ipv6_route"), "/proc/net/ipv6_route", network::parse_routes6);
    LiveFacts {
        container: container(tree),
        swaps: parsed(tree.text("/proc/swaps"), "/proc/swaps", swap::parse_swaps),
        loaded: tree.text("/proc/modules").map(|text| kernel::parse_modules(&text)),
        effects,
        sysctls,
        proc_mounts: tree.text("/proc/self/mountinfo").map(|text| kernel::parse_proc_mounts(&text)),
        advertised: advertised(tree, &routes6),
        host_name: tree.text("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()),
        memory_kib: parsed(tree.text("/proc/meminfo"), "/proc/meminfo", |text| {
            kernel::parse_memory_kib(text).ok_or_else(|| "it has no MemTotal".to_owned())
        }),
        cpus: parsed(tree.text("/sys/devices/system/cpu/online"), "/sys/devices/system/cpu/online", |text| {
            kernel::parse_cpu_list(text).ok_or_else(|| format!("not a list of processors: {text:?}"))
        }),
        clock: Known::Yes(clock::wall_seconds()),
        cgroups: match tree.text("/sys/fs/cgroup/cgroup.controllers") {
            Known::Yes(text) => Known::Yes(Cgroups::V2(kernel::parse_controllers(&text))),
            Known::Absent => {
                tree.text("/proc/cgroups").map(|text| Cgroups::V1(kernel::parse_proc_cgroups(&text)))
            }
            Known::Unknown(unread) => Known::Unknown(unread),
        },
        route4: some(parsed(tree.text("/proc/net/route"), "/proc/net/route", network::parse_route4)),
        route6: some(routes6.map(|routes| routes.into_iter().next().map(|route| route.interface))),
        listeners: Known::Absent,
        name_servers: name_servers(tree),
        selinux: tree.text("/sys/fs/selinux/enforce").map(|text| text.trim() == "1"),
        apparmor: tree.text("/sys/module/apparmor/parameters/enabled").map(|text| text.trim() == "Y"),
        init_limits: init_limits(tree),
        links: links(tree),
        product_uuid: tree.text("/sys/class/dmi/id/product_uuid").map(|uuid| uuid.trim().to_owned()),
    }
}

fn some<T>(known: Known<Option<T>>) -> Known<T> {
    match known {
        Known::Yes(Some(value)) => Known::Yes(value),
        Known::Yes(None) | Known::Absent => Known::Absent,
        Known::Unknown(unread) => Known::Unknown(unread),
    }
}

/// Whether the effect of a module is there.
pub(in crate::host) fn effect_seen(
    tree: &Tree,
    effect: Effect,
    file_systems: &Known<BTreeSet<String>>,
) -> Known<()> {
    match (effect, file_systems) {
        (Effect::Path(path), _) => tree.there(path),
        (Effect::FileSystem(name), Known::Yes(names)) if names.contains(name) => Known::Yes(()),
        (Effect::FileSystem(_), Known::Yes(_) | Known::Absent) => Known::Absent,
        (Effect::FileSystem(_), Known::Unknown(unread)) => Known::Unknown(unread.clone()),
    }
}

fn sysctl_value(tree: &Tree, key: &str) -> Known<String> {
    tree.text(&format!("/proc/sys/{}", sysctl::key_path(key))).map(|value| value.trim().to_owned())
}

/// The PID namespace of the machine itself; the kernel gives it this number at boot.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The container manager, by the files of systemd's container interface, Docker and podman. Those of the latter two stay
/// behind when an image becomes a virtual machine, so they do not count in the first PID namespace.
#[must_use]
pub fn container(tree: &Tree) -> Known<String> {
    for path in ["/run/systemd/container", "/run/host/container-manager"] {
        match tree.text(path) {
            Known::Absent => {}
            known => return known.map(|name| name.trim().to_owned()),
        }
    }
    if matches!(tree.look("/proc/self/ns/pid"), Ok(Some(Kept::Link { target })) if target == FIRST_PID_NAMESPACE)
    {
        return Known::Absent;
    }
    for (path, name) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")] {
        match tree.there(path) {
            Known::Absent => {}
            known => return known.map(|()| name.to_owned()),
        }
    }
    Known::Absent
}

fn init_limits(tree: &Tree) -> Known<InitLimits> {
    match (tree.text("/proc/1/limits"), tree.text("/proc/1/status")) {
        (Known::Yes(limits), Known::Yes(status)) => match parse_init_limits(&limits, &status) {
            Ok(limits) => Known::Yes(limits),
            Err(cause) => Known::unknown("/proc/1/limits", cause),
        },
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Known::Unknown(unread),
        (Known::Absent, _) | (_, Known::Absent) => Known::Absent,
    }
}

fn links(tree: &Tree) -> Known<BTreeMap<String, Link>> {
    const CLASS: &str = "/sys/class/net";
    let names = match tree.names(CLASS) {
        Known::Yes(names) => names,
        Known::Absent => return Known::Absent,
        Known::Unknown(unread) => return Known::Unknown(unread),
    };
    let mut links = BTreeMap::new();
    for name in names.into_iter().filter(|name| kind_of(name) != LinkKind::Container) {
        // `bonding_masters` is a file among the directories, and a link may go away between two looks.
        let (Known::Yes(mtu), Known::Yes(mac)) =
            (tree.text(&format!("{CLASS}/{name}/mtu")), tree.text(&format!("{CLASS}/{name}/address")))
        else {
            continue;
        };
        let Ok(mtu) = mtu.trim().parse() else { continue };
        let rp_filter = tree.text(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
        let rp_filter = rp_filter.map(|value| value.trim().to_owned());
        links.insert(name, Link { mtu, mac: mac.trim().to_owned(), rp_filter });
    }
    Known::Yes(links)
}

fn advertised(tree: &Tree, routes: &Known<Vec<network::Route6>>) -> Known<Vec<(String, String)>> {
    let routes = match routes {
        Known::Yes(routes) => routes,
        Known::Absent => return Known::Absent,
        Known::Unknown(unread) => return Known::Unknown(unread.clone()),
    };
    let mut learned = Vec::new();
    for route in routes.iter().filter(|route| route.advertised) {
        match tree.text(&format!("/proc/sys/net/ipv6/conf/{}/accept_ra", route.interface)) {
            Known::Yes(value) => learned.push((route.interface.clone(), value.trim().to_owned())),
            // The interface went away between the two looks.
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    Known::Yes(learned)
}

/// The kernel's own answer on this machine, its text where it gives none: in a container without `sock_diag`, or of another tree.
fn listeners(tree: &Tree) -> Known<Vec<Listener>> {
    if tree.root() == Path::new("/")
        && let Ok(waiting) = sockets::waiting()
    {
        let listener = |one: Waiting| Listener {
            protocol: if one.tcp { Protocol::Tcp } else { Protocol::Udp },
            address: one.address,
            port: one.port,
            inode: one.inode,
            owner: None,
        };
        return Known::Yes(waiting.into_iter().map(listener).collect());
    }
    let files = [
        ("/proc/net/tcp", Protocol::Tcp),
        ("/proc/net/tcp6", Protocol::Tcp),
        ("/proc/net/udp", Protocol::Udp),
        ("/proc/net/udp6", Protocol::Udp),
    ];
    let mut all = Vec::new();
    for (path, protocol) in files {
        match parsed(tree.text(path), path, |text| network::parse_sockets(text, protocol)) {
            Known::Yes(listeners) => all.extend(listeners),
            // A kernel without IPv6.
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    Known::Yes(all)
}

fn name_servers(tree: &Tree) -> Known<Vec<(String, Vec<String>)>> {
    let mut files = Vec::new();
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        match tree.text(path) {
            Known::Yes(text) => files.push((path.to_owned(), network::parse_name_servers(&text))),
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    Known::Yes(files)
}
