//! What makes this machine itself: its ids, its interface, the limits of its first process.

use super::{HostWanted, Judged};
use crate::core::{Known, Unread};
use crate::host::{HostAct, HostFacts, Link, LiveFacts, Package};
use crate::identity::marks::tells_nothing;

/// What k3s's unit asks for.
const OPEN_FILES: u64 = 1_048_576;
/// The least that IPv6 allows on any link.
const LEAST_MTU: u32 = 1_280;

pub(super) fn machine_id(facts: &HostFacts) -> Option<Judged> {
    let id = match &facts.files.machine_id {
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
        known => known.yes().map(String::as_str).unwrap_or_default(),
    };
    let empty = matches!(id, "" | "uninitialized");
    Some(match (&facts.live, empty) {
        (None, true) => Judged::ok("none in this image: each machine made from it gets its own"),
        (None, false) => Judged::missing(
            "this image carries a machine-id, which every machine made from it would share",
            "empty it at the end of the build: : >/etc/machine-id",
        ),
        // OpenRC has none and needs none.
        (Some(_), true) if facts.files.systemd.is_absent() => return None,
        (Some(_), true) => {
            Judged::missing("/etc/machine-id is missing or empty", "make one: systemd-machine-id-setup")
        }
        (Some(_), false) if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Judged::ok("this machine has one")
        }
        (Some(_), false) => Judged::missing(
            "/etc/machine-id is not 32 hexadecimal digits",
            "take the file away and make a new one: systemd-machine-id-setup",
        ),
    })
}

pub(super) fn product_uuid(live: &LiveFacts) -> Option<Judged> {
    let uuid = match &live.product_uuid {
        // No firmware tables: many small boards and containers.
        Known::Absent => return None,
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
        Known::Yes(uuid) => uuid.to_ascii_lowercase(),
    };
    Some(if tells_nothing(&uuid) {
        Judged::missing(
            format!("the maker's uuid {uuid} is a filler that other machines have too"),
            "nothing, while machine-ids differ; else set it with the maker's tool",
        )
    } else {
        Judged::ok("this machine has one")
    })
}

/// The interface of the node's address as far as the facts go: the configured one, or that of the default route.
pub(super) fn interface<'a>(
    live: &'a LiveFacts,
    wanted: &'a HostWanted,
) -> Option<(&'a str, Result<&'a Link, Unread>)> {
    let routes = [&live.route4, &live.route6];
    let name = wanted.interface.as_ref().or_else(|| routes.into_iter().find_map(Known::yes))?;
    match &live.links {
        Known::Absent => None,
        Known::Yes(links) => Some((name, Ok(links.get(name)?))),
        Known::Unknown(unread) => Some((name, Err(unread.clone()))),
    }
}

pub(super) fn mtu(live: &LiveFacts, wanted: &HostWanted) -> Option<Judged> {
    let (name, link) = interface(live, wanted)?;
    Some(match link {
        Err(unread) => Judged::unknown(&unread),
        Ok(link) if link.mtu >= LEAST_MTU => Judged::ok(format!("{} on {name}", link.mtu)),
        Ok(link) => Judged::missing(
            format!("packets on {name} have at most {} bytes", link.mtu),
            format!("raise the mtu of {name} to {LEAST_MTU} or more on every machine of the network"),
        ),
    })
}

pub(super) fn hardware_address(live: &LiveFacts, wanted: &HostWanted) -> Option<Judged> {
    let (name, link) = interface(live, wanted)?;
    let link = match link {
        Err(unread) => return Some(Judged::unknown(&unread)),
        Ok(link) => link,
    };
    let first = link.mac.split(':').next().and_then(|part| u8::from_str_radix(part, 16).ok());
    let zero = link.mac.bytes().all(|byte| matches!(byte, b'0' | b':'));
    Some(match first {
        // A tunnel has no address of that kind.
        None => return None,
        Some(first) if zero || first & 1 == 1 => Judged::missing(
            format!("{name} has the hardware address {}, which no card may have", link.mac),
            "give it one of its own",
        ),
        Some(_) => Judged::ok(format!("{} on {name}", link.mac)),
    })
}

pub(super) fn open_files(live: &LiveFacts) -> Option<Judged> {
    let limits = match &live.init_limits {
        Known::Absent => return None,
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
        Known::Yes(limits) => limits,
    };
    Some(match limits.open_files {
        _ if limits.may_raise => Judged::ok("services get what they ask for"),
        None => Judged::ok("unlimited"),
        Some(hard) if hard >= OPEN_FILES => Judged::ok(format!("{hard}")),
        Some(hard) => Judged::missing(
            format!(
                "the first process gives {hard} open files at most, and k3s's unit asks for {OPEN_FILES}"
            ),
            "give the container CAP_SYS_RESOURCE or a larger limit where it is started",
        ),
    })
}

/// A package that somebody asked for, by its effect.
pub(super) fn package(package: Package, facts: &HostFacts) -> Judged {
    let there = facts.files.packages.get(&package).cloned().unwrap_or(Known::Absent);
    match (there, &facts.files.manager, &facts.live) {
        (Known::Yes(()), _, _) => Judged::ok("installed"),
        (Known::Unknown(unread), _, _) => Judged::unknown(&unread),
        (Known::Absent, _, None) => Judged::missing(
            format!("{} is not in this image", package.word()),
            "install it where the image is built: its package manager may not run here",
        ),
        (Known::Absent, Known::Yes(manager), Some(_)) => Judged::mended(
            format!("{} is not installed", package.name(*manager)),
            vec![HostAct::Install { package, manager: *manager }],
        ),
        (Known::Absent, Known::Absent, Some(_)) => Judged::missing(
            format!("{} is not installed, and no package manager is known here", package.word()),
            "install it by hand; apt-get, dnf, zypper and apk are known",
        ),
        (Known::Absent, Known::Unknown(unread), Some(_)) => Judged::unknown(unread),
    }
}
