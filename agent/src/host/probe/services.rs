//! Which services start at boot, by systemd or OpenRC, and what that of nftables loads.

use std::collections::BTreeSet;

use crate::core::Known;
use crate::host::facts::firewall;
use crate::host::{FileFacts, Tree};

/// What the service of nftables loads: Debian's and SUSE's file, that of RHEL, that of Alpine.
const NFTABLES: [&str; 3] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf", "/etc/nftables.nft"];

/// Rule files with a chain that drops, what they include by its whole name with them. Absent where nftables has no rule file.
pub(super) fn nftables_drops(tree: &Tree) -> Known<BTreeSet<String>> {
    let mut drops = BTreeSet::new();
    let mut there = false;
    for main in NFTABLES {
        let text = match tree.text(main) {
            Known::Yes(text) => text,
            Known::Absent => continue,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        there = true;
        for included in firewall::nftables_includes(&text) {
            match tree.text(&included) {
                Known::Yes(text) if firewall::parse_nftables(&text) => drops.extend([included]),
                Known::Yes(_) | Known::Absent => {}
                Known::Unknown(unread) => return Known::Unknown(unread),
            }
        }
        if firewall::parse_nftables(&text) {
            drops.insert(main.to_owned());
        }
    }
    if there { Known::Yes(drops) } else { Known::Absent }
}

/// Services of OpenRC's runlevels, by the names that their units have under systemd. Whoever has systemd starts nothing by these.
fn runlevels(tree: &Tree) -> Known<BTreeSet<String>> {
    const RUNLEVELS: &str = "/etc/runlevels";
    let levels = match tree.names(RUNLEVELS) {
        Known::Yes(levels) => levels,
        Known::Absent => return Known::Absent,
        Known::Unknown(unread) => return Known::Unknown(unread),
    };
    let mut enabled = BTreeSet::new();
    for level in levels {
        match tree.names(&format!("{RUNLEVELS}/{level}")) {
            Known::Yes(names) => enabled.extend(names.into_iter().map(|name| format!("{name}.service"))),
            // A file among the directories.
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    Known::Yes(enabled)
}

pub(super) fn is_openrc(tree: &Tree) -> bool {
    ["/usr/lib/systemd/system", "/lib/systemd/system"].into_iter().all(|path| tree.there(path).is_absent())
}

pub(super) fn enabled(tree: &Tree) -> Known<BTreeSet<String>> {
    if is_openrc(tree) && !tree.there("/etc/runlevels").is_absent() {
        return runlevels(tree);
    }
    let directories = match tree.names(FileFacts::UNITS) {
        Known::Yes(names) => names,
        Known::Absent => return Known::Absent,
        Known::Unknown(unread) => return Known::Unknown(unread),
    };
    let mut enabled = BTreeSet::new();
    for directory in directories.iter().filter(|name| name.ends_with(".wants") || name.ends_with(".requires"))
    {
        match tree.names(&format!("{}/{directory}", FileFacts::UNITS)) {
            Known::Yes(names) => enabled.extend(names),
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    Known::Yes(enabled)
}
