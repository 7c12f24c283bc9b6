//! Modules, sysctls and the files that keep them.

use super::kept::kept_file;
use super::{HostAct, HostWanted, Judged, Verdict};
use crate::core::{Known, Unread};
use crate::host::facts::kernel::read_only_mount;
use crate::host::facts::sysctl::{key_path, plain};
use crate::host::profile::{IPV6_FORWARDING, Wish};
use crate::host::{
    FileFacts, HostFacts, Kept, Kind, LiveFacts, MODULES_FILE, NETWORK_MANAGER_FILE, ROWS, SYSCTL_FILE,
    SysctlFile, render,
};

/// A module, by its effect.
pub(super) fn module(name: &'static str, files: &FileFacts, live: &LiveFacts) -> Option<Judged> {
    Some(match live.effects.get(name)? {
        Known::Yes(()) => Judged::ok(match live.loaded.yes() {
            Some(loaded) if loaded.contains(name) => "loaded",
            _ => "built in",
        }),
        Known::Absent => match &live.container {
            Known::Absent => to_load(name, files),
            Known::Yes(manager) => Judged::missing(
                format!("{name} is missing in the kernel of the machine outside this {manager} container"),
                format!("load it there: modprobe {name}"),
            ),
            Known::Unknown(unread) => Judged::unknown(unread),
        },
        Known::Unknown(unread) => Judged::unknown(unread),
    })
}

/// A module without effect: loaded, unless the kernel's own lists say that there is none.
fn to_load(name: &'static str, files: &FileFacts) -> Judged {
    match (&files.loadable, &files.builtin) {
        (Known::Unknown(unread), _) | (Known::Yes(_), Known::Unknown(unread)) => Judged::unknown(unread),
        (Known::Yes(loadable), builtin)
            if !loadable.contains(name) && !builtin.yes().is_some_and(|builtin| builtin.contains(name)) =>
        {
            Judged::missing(
                format!("this kernel has no module {name}"),
                "install the distribution's extra modules package for the running kernel, or reboot into the kernel whose \
                 modules are installed",
            )
        }
        _ => Judged::mended(format!("{name} has no effect yet"), vec![HostAct::LoadModule { name }]),
    }
}

/// The list of modules to load at boot: those of the table that are not built in.
pub(super) fn keep_modules(facts: &HostFacts, wanted: &HostWanted) -> Judged {
    let before = match &facts.files.modules_file {
        Known::Unknown(unread) => return Judged::unknown(unread),
        known => known.yes(),
    };
    let in_file = |name: &str| {
        before.and_then(Kept::text).is_some_and(|text| text.lines().any(|line| line.trim() == name))
    };
    let mut unread = None;
    let mut keep = Vec::new();
    let asked = |row: &&crate::host::Row| !wanted.skip.contains(row.name) && row.is_asked(wanted);
    for row in ROWS.iter().filter(asked) {
        let Kind::Module(name, _) = row.kind else { continue };
        match built_in(name, facts) {
            Known::Yes(()) => {}
            Known::Absent => keep.push(name),
            Known::Unknown(what) => {
                unread = Some(what);
                // As it is: neither added nor taken away on a guess.
                if in_file(name) {
                    keep.push(name);
                }
            }
        }
    }
    let text = (!keep.is_empty()).then(|| render::modules_file(keep.iter().copied()));
    kept_file(MODULES_FILE, before, text, facts.owner, unread.as_ref())
}

/// Whether a module is part of the kernel.
fn built_in(name: &str, facts: &HostFacts) -> Known<()> {
    let listed = facts.files.builtin.yes().is_some_and(|builtin| builtin.contains(name));
    let Some(live) = &facts.live else {
        return match &facts.files.builtin {
            Known::Yes(_) if listed => Known::Yes(()),
            // An image with no kernel of its own runs under one that is not known here: naming the module does no harm.
            Known::Yes(_) | Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        };
    };
    if listed {
        return Known::Yes(());
    }
    match (live.effects.get(name), &live.loaded) {
        (Some(Known::Yes(())), Known::Yes(loaded)) if loaded.contains(name) => Known::Absent,
        // Its effect is there and nothing is loaded that could be it.
        (Some(Known::Yes(())), Known::Yes(_) | Known::Absent) => Known::Yes(()),
        (Some(Known::Absent), _) => match &facts.files.builtin {
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
            Known::Yes(_) | Known::Absent => Known::Absent,
        },
        (Some(Known::Unknown(unread)), _) | (Some(Known::Yes(())), Known::Unknown(unread)) => {
            Known::Unknown(unread.clone())
        }
        (None, _) => Known::unknown(name.to_owned(), "it was not looked at"),
    }
}

/// A sysctl of the running kernel. Keys of a module that is about to be loaded are set after it.
pub(super) fn sysctl(
    key: &'static str,
    wish: Wish,
    facts: &HostFacts,
    wanted: &HostWanted,
) -> Option<Judged> {
    let live = facts.live.as_ref()?;
    let value = match live.sysctls.get(key)? {
        Known::Yes(value) => plain(value),
        Known::Absent if brought_by_module(key, live, wanted) => {
            return Some(Judged::ok("appears with its module, and is judged then").harmless());
        }
        Known::Absent => {
            return Some(Judged::missing(
                format!("this kernel has no {key}"),
                "nothing, where the feature is not used; else a kernel that has it",
            ));
        }
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
    };
    let after = match wish {
        Wish::Exactly(wanted) if value == wanted => return Some(Judged::ok(value)),
        Wish::Exactly(wanted) => wanted.to_owned(),
        Wish::AtLeast(least) => match value.parse::<u64>() {
            Ok(number) if number >= least => return Some(Judged::ok(value)),
            Ok(_) => least.to_string(),
            Err(_) => {
                let unread = Unread { what: key.into(), cause: format!("{value:?} is not a number").into() };
                return Some(Judged::unknown(&unread));
            }
        },
    };
    let detail = format!("{key} is {value}, wanted {}", said(wish));
    if OUTSIDE_ONLY.contains(&key) {
        match &live.container {
            Known::Absent => {}
            Known::Yes(manager) => {
                return Some(Judged::missing(
                    format!("{detail}, and only the machine outside this {manager} container can set it"),
                    format!("set it there: sysctl {key}={after}"),
                ));
            }
            Known::Unknown(unread) => return Some(Judged::unknown(unread)),
        }
    }
    if key == IPV6_FORWARDING {
        match learned_route(live) {
            Known::Absent => {}
            Known::Yes(interface) => {
                return Some(Judged::missing(
                    format!(
                        "{detail}, which would drop the default route that {interface} learns by advertisement"
                    ),
                    format!("set net.ipv6.conf.{interface}.accept_ra = 2 first; Muster then sets this one"),
                ));
            }
            Known::Unknown(unread) => return Some(Judged::unknown(&unread)),
        }
    }
    let mounts = match &live.proc_mounts {
        Known::Yes(mounts) => mounts.as_slice(),
        Known::Absent => &[],
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
    };
    Some(match read_only_mount(mounts, &format!("/proc/sys/{}", key_path(key))) {
        Some(mount) => Judged::missing(
            format!("{detail}, and {mount} is read-only here"),
            "set it on the machine outside, or start the container with a writable /proc/sys",
        ),
        None => Judged::mended(detail, vec![HostAct::SetSysctl { key, before: value, after }]),
    })
}

/// The interface whose default route goes when IPv6 forwarding comes.
fn learned_route(live: &LiveFacts) -> Known<String> {
    match &live.advertised {
        Known::Yes(learned) => match learned.iter().find(|(_, accept)| accept.trim() != "2") {
            Some((interface, _)) => Known::Yes(interface.clone()),
            None => Known::Absent,
        },
        Known::Absent => Known::Absent,
        Known::Unknown(unread) => Known::Unknown(unread.clone()),
    }
}

fn said(wish: Wish) -> String {
    match wish {
        Wish::Exactly(value) => value.to_owned(),
        Wish::AtLeast(least) => format!("{least} or more"),
    }
}

/// The module that makes a key, with its row.
fn module_of(key: &str) -> Option<(&'static str, &'static str)> {
    match key {
        _ if key.starts_with("net.bridge.") => Some(("module.br_netfilter", "br_netfilter")),
        _ if key.starts_with("net.netfilter.") => Some(("module.nf_conntrack", "nf_conntrack")),
        _ => None,
    }
}

/// Whether a step of this plan loads the module that makes the key.
fn brought_by_module(key: &str, live: &LiveFacts, wanted: &HostWanted) -> bool {
    let Some((row, module)) = module_of(key) else { return false };
    !wanted.skip.contains(row)
        && live.container.is_absent()
        && live.effects.get(module).is_some_and(Known::is_absent)
}

/// Keys that the kernel lets only the machine's own network namespace set.
const OUTSIDE_ONLY: [&str; 1] = ["net.netfilter.nf_conntrack_max"];

/// Our sysctl file, and later files that undo it.
pub(super) fn keep_sysctls(facts: &HostFacts, wanted: &HostWanted) -> Judged {
    let before = match &facts.files.sysctl_file {
        Known::Unknown(unread) => return Judged::unknown(unread),
        known => known.yes(),
    };
    let others = match &facts.files.sysctl_others {
        Known::Yes(files) => files.as_slice(),
        Known::Absent => &[],
        Known::Unknown(unread) => return Judged::unknown(unread),
    };
    let ours = before.and_then(Kept::text).map(crate::host::facts::sysctl::parse_file).unwrap_or_default();
    let mut keep = Vec::new();
    let mut unread = None;
    let mut overridden = Vec::new();
    for row in ROWS.iter().filter(|row| !wanted.skip.contains(row.name) && row.is_asked(wanted)) {
        let Kind::Sysctl(key, wish) = row.kind else { continue };
        let mine = ours.iter().find(|(path, ..)| *path == key_path(key)).map(|(_, value, _)| value.clone());
        let value = match (kept_key(key, facts, wanted), wish) {
            (Known::Absent, _) => None,
            (Known::Unknown(what), _) => {
                unread = Some(what);
                mine
            }
            (Known::Yes(()), Wish::Exactly(value)) => Some(value.to_owned()),
            (Known::Yes(()), Wish::AtLeast(least)) => {
                match enough_already(key, least, facts, others, mine.is_some()) {
                    Ok(true) => None,
                    Ok(false) => Some(largest(key, least, others).to_string()),
                    Err(what) => {
                        unread = Some(what);
                        mine
                    }
                }
            }
        };
        if let Some(value) = value {
            overridden.extend(later_override(key, wish, others));
            keep.push((key, value));
        }
    }
    let text = (!keep.is_empty()).then(|| render::sysctl_file(keep));
    let judged = kept_file(SYSCTL_FILE, before, text, facts.owner, unread.as_ref());
    overridden.into_iter().fold(judged, |judged, (detail, next)| judged.also(Verdict::Missing, detail, next))
}

/// Whether a key is there when the file is read at boot: now, or once the module of the table that makes it is loaded. procps ends
/// in failure over a key that is not there.
fn kept_key(key: &'static str, facts: &HostFacts, wanted: &HostWanted) -> Known<()> {
    let Some(live) = &facts.live else {
        // The kernel of an image is not known here, nor what it lacks.
        return Known::Yes(());
    };
    if key == IPV6_FORWARDING {
        match learned_route(live) {
            // Not at the next boot either.
            Known::Yes(_) => return Known::Absent,
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    match live.sysctls.get(key) {
        Some(Known::Yes(_)) => Known::Yes(()),
        Some(Known::Unknown(unread)) => Known::Unknown(unread.clone()),
        Some(Known::Absent) | None => match module_of(key) {
            Some((_, module)) if brought_by_module(key, live, wanted) => {
                let judged = to_load(module, &facts.files);
                match (judged.verdict, judged.steps.is_empty()) {
                    (Verdict::Unknown, _) => Known::unknown(key, judged.detail),
                    (_, false) => Known::Yes(()),
                    (_, true) => Known::Absent,
                }
            }
            _ => Known::Absent,
        },
    }
}

/// Whether a number is large enough without us. Once our file names it, it stays there; and a live value that is just what
/// is wished may be ours, set by a run that died before it came to the file.
fn enough_already(
    key: &str,
    least: u64,
    facts: &HostFacts,
    others: &[SysctlFile],
    in_ours: bool,
) -> Result<bool, Unread> {
    if in_ours {
        return Ok(false);
    }
    let Some(live) = &facts.live else {
        return Ok(
            last_set(key, others).is_some_and(|(_, value, _)| value.parse().is_ok_and(|n: u64| n >= least))
        );
    };
    match live.sysctls.get(key) {
        Some(Known::Yes(value)) => Ok(value.trim().parse().is_ok_and(|number: u64| number > least)),
        Some(Known::Absent) | None => Ok(true),
        Some(Known::Unknown(unread)) => Err(unread.clone()),
    }
}

/// The last file that sets a key: path, value, line.
fn last_set<'a>(key: &str, files: &'a [SysctlFile]) -> Option<(&'a str, &'a str, usize)> {
    let path = key_path(key);
    files.iter().rev().find_map(|file| {
        let (_, value, line) = file.sets.iter().rev().find(|(set, ..)| *set == path)?;
        Some((file.path.as_str(), value.as_str(), *line))
    })
}

/// The largest of what is wanted and what other files set: ours must not lower it.
fn largest(key: &str, least: u64, others: &[SysctlFile]) -> u64 {
    let path = key_path(key);
    let set = others.iter().flat_map(|file| &file.sets).filter(|(set, ..)| *set == path);
    set.filter_map(|(_, value, _)| value.parse().ok()).max().unwrap_or(0).max(least)
}

/// A file that is read after ours and sets the key to something that is not enough.
fn later_override(key: &str, wish: Wish, others: &[SysctlFile]) -> Option<(String, String)> {
    let our_name = SYSCTL_FILE.rsplit('/').next().unwrap_or_default();
    let later: Vec<SysctlFile> =
        others.iter().filter(|file| file.name.as_str() > our_name || file.name.is_empty()).cloned().collect();
    let (path, value, line) = last_set(key, &later)?;
    let met = match wish {
        Wish::Exactly(wanted) => value == wanted,
        Wish::AtLeast(least) => value.parse::<u64>().is_ok_and(|number| number >= least),
    };
    (!met).then(|| {
        (
            format!("line {line} of {path} sets {key} to {value} at boot, after {SYSCTL_FILE}"),
            format!("take the line out, or switch the row off: host.skip = [\"sysctl.{key}\"]"),
        )
    })
}

/// NetworkManager told to leave k3s's interfaces alone; no row where it is not installed.
pub(super) fn network_manager(facts: &HostFacts) -> Option<Judged> {
    match &facts.files.network_manager {
        Known::Absent => None,
        Known::Unknown(unread) => Some(Judged::unknown(unread)),
        Known::Yes(()) => Some(match &facts.files.network_manager_file {
            Known::Unknown(unread) => Judged::unknown(unread),
            known => {
                let text = render::network_manager_file();
                kept_file(NETWORK_MANAGER_FILE, known.yes(), Some(text), facts.owner, None)
            }
        }),
    }
}
