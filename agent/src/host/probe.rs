//! Reads what the rows are judged by. Nothing is changed, no process is started; a live look takes a few milliseconds.

mod live;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::core::Known;
use crate::host::facts::{firewall, kernel, swap, sysctl};
use crate::host::profile::{Manager, Package};
use crate::host::{
    FIREWALLD_FILES, FSTAB, FileFacts, HostFacts, Kept, Listener, LiveFacts, MODULES_FILE,
    NETWORK_MANAGER_FILE, SYSCTL_FILE, Scope, SysctlFile, Tree, UnitSeen, ZramConfig,
};

pub use live::container;
pub(super) use live::effect_seen;
use services::{enabled, is_openrc, nftables_drops};

/// Looks at the running machine for `/`, and at the files of an image for any other root.
#[must_use]
pub fn probe(root: &Path) -> HostFacts {
    let scope = if root == Path::new("/") { Scope::Live } else { Scope::Image };
    probe_as(&Tree::new(root), scope)
}

/// Looks at a tree as one or the other: a captured machine has its `/proc` in the tree.
#[must_use]
pub fn probe_as(tree: &Tree, scope: Scope) -> HostFacts {
    look(tree, scope, None)
}

/// Looks once more at what was looked at a moment ago. Which sockets wait for traffic is taken from that look: the kernel walks its
/// whole table for it, which takes longer than all the rest.
#[must_use]
pub(super) fn probe_again(tree: &Tree, scope: Scope, before: &HostFacts) -> HostFacts {
    look(tree, scope, before.live.as_ref().map(|live| live.listeners.clone()))
}

fn look(tree: &Tree, scope: Scope, heard: Option<Known<Vec<Listener>>>) -> HostFacts {
    let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let live = (scope == Scope::Live).then(|| live::live(tree, heard));
    HostFacts { owner, files: files(tree, scope), live, examined: None }
}

/// Directories of units, where a name in an earlier one hides it in a later one.
const UNIT_DIRECTORIES: [&str; 8] = [
    FileFacts::UNITS,
    "/run/systemd/system",
    "/run/systemd/generator.early",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Services of distributions that make swap without a swap unit: Raspberry Pi OS, Debian's and Ubuntu's zram packages,
/// and the daemon that makes swap files on demand.
const SWAP_SERVICES: [&str; 4] =
    ["dphys-swapfile.service", "swapspace.service", "zram-config.service", "zramswap.service"];

fn files(tree: &Tree, scope: Scope) -> FileFacts {
    let os = match tree.text("/etc/os-release") {
        Known::Absent => tree.text("/usr/lib/os-release"),
        known => known,
    };
    let enabled = enabled(tree);
    let (builtin, loadable) = module_files(tree, scope);
    FileFacts {
        os: os.map(|text| kernel::parse_os_release(&text)),
        fstab: tree.known(FSTAB),
        systemd: first(["/usr/lib/systemd/system", "/lib/systemd/system"].map(|path| tree.there(path))),
        units: units(tree, scope, &enabled),
        enabled,
        zram: zram(tree, scope),
        builtin,
        loadable,
        modules_file: tree.known(MODULES_FILE),
        sysctl_file: tree.known(SYSCTL_FILE),
        sysctl_others: sysctl_others(tree, scope),
        network_manager: first(
            ["/usr/lib/NetworkManager", "/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"]
                .map(|path| tree.there(path)),
        ),
        network_manager_file: tree.known(NETWORK_MANAGER_FILE),
        ufw: match tree.text("/etc/ufw/ufw.conf") {
            Known::Yes(text) if text.lines().any(|line| line.trim().eq_ignore_ascii_case("enabled=yes")) => {
                Known::Yes(())
            }
            Known::Yes(_) => Known::Absent,
            known => known.map(|_| ()),
        },
        ufw_rules: match (tree.text("/etc/ufw/user.rules"), tree.text("/etc/ufw/user6.rules")) {
            (Known::Yes(v4), Known::Yes(v6)) => {
                Known::Yes(firewall::parse_ufw(&v4).into_iter().chain(firewall::parse_ufw(&v6)).collect())
            }
            (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Known::Unknown(unread),
            (v4, v6) => match (v4, v6) {
                (Known::Yes(one), _) | (_, Known::Yes(one)) => Known::Yes(firewall::parse_ufw(&one)),
                _ => Known::Absent,
            },
        },
        firewalld_policies: FIREWALLD_FILES.map(|path| tree.known(path)),
        nftables_drops: nftables_drops(tree),
        manager: manager(tree),
        packages: Package::ALL.map(|package| (package, package_there(tree, package))).into(),
        selinux_policy: first(
            [
                "/usr/share/selinux/packages/k3s.pp",
                "/var/lib/selinux/targeted/active/modules/100/k3s",
                "/var/lib/selinux/targeted/active/modules/200/k3s",
                "/var/lib/selinux/targeted/active/modules/400/k3s",
            ]
            .map(|path| tree.there(path)),
        ),
        apparmor_parser: first(
            ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"].map(|path| tree.there(path)),
        ),
        machine_id: tree.text("/etc/machine-id").map(|id| id.trim().to_owned()),
    }
}

/// Whether what a package brings is there.
pub(super) fn package_there(tree: &Tree, package: Package) -> Known<()> {
    let mut unread = None;
    for program in package.programs() {
        match tree.there(program) {
            Known::Yes(()) => return Known::Yes(()),
            Known::Unknown(what) => unread = unread.or(Some(what)),
            Known::Absent => {}
        }
    }
    unread.map_or(Known::Absent, Known::Unknown)
}

fn manager(tree: &Tree) -> Known<Manager> {
    for (manager, programs) in Manager::ALL {
        for program in programs {
            match tree.there(program) {
                Known::Yes(()) => return Known::Yes(manager),
                Known::Absent => {}
                Known::Unknown(unread) => return Known::Unknown(unread),
            }
        }
    }
    Known::Absent
}

/// The first that is there; else the first that could not be told; else absent.
fn first<const N: usize>(looks: [Known<()>; N]) -> Known<()> {
    let mut unread = None;
    for look in looks {
        match look {
            Known::Yes(()) => return Known::Yes(()),
            Known::Unknown(what) => unread = unread.or(Some(what)),
            Known::Absent => {}
        }
    }
    unread.map_or(Known::Absent, Known::Unknown)
}

/// Parses a text; what the parser refuses could not be told.
fn parsed<T>(
    text: Known<String>,
    what: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Known<T> {
    match text {
        Known::Yes(text) => match parse(&text) {
            Ok(value) => Known::Yes(value),
            Err(cause) => Known::unknown(what, cause),
        },
        Known::Absent => Known::Absent,
        Known::Unknown(unread) => Known::Unknown(unread),
    }
}

/// Whether a directory is a place of its own: `/run` of an image is nobody's, and where `/lib` is a link to `/usr/lib` its
/// names were seen already.
fn counts(tree: &Tree, scope: Scope, path: &str) -> bool {
    let merged = || matches!(tree.look("/lib"), Ok(Some(Kept::Link { .. })));
    (scope == Scope::Live || !path.starts_with("/run/")) && !(path.starts_with("/lib/") && merged())
}

fn units(tree: &Tree, scope: Scope, enabled: &Known<BTreeSet<String>>) -> Known<BTreeMap<String, UnitSeen>> {
    let mut seen = BTreeSet::new();
    for directory in UNIT_DIRECTORIES.iter().filter(|path| counts(tree, scope, path)) {
        match tree.names(directory) {
            Known::Yes(names) => {
                seen.extend(
                    names
                        .into_iter()
                        .filter(|name| name.ends_with(".swap") || SWAP_SERVICES.contains(&name.as_str())),
                );
            }
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    let mut units = BTreeMap::new();
    for name in seen {
        let wanted = match enabled {
            Known::Yes(enabled) => name.ends_with(".swap") || enabled.contains(&name),
            Known::Absent => name.ends_with(".swap"),
            Known::Unknown(unread) => return Known::Unknown(unread.clone()),
        };
        let in_etc = tree.known(&format!("{}/{name}", FileFacts::UNITS));
        units.insert(name, UnitSeen { in_etc, wanted });
    }
    Known::Yes(units)
}

/// The zram generator's files that take effect: the first main file, and of each drop-in's name the first.
fn zram(tree: &Tree, scope: Scope) -> Known<Vec<ZramConfig>> {
    const BASE: &str = "zram-generator.conf";
    let bases = ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];
    let mut effective: BTreeMap<String, String> = BTreeMap::new();
    for base in bases.into_iter().filter(|base| scope == Scope::Live || !base.starts_with("/run")) {
        if tree.known(&format!("{base}/{BASE}")).yes().is_some() {
            effective.entry(BASE.into()).or_insert(format!("{base}/{BASE}"));
        }
        match tree.names(&format!("{base}/{BASE}.d")) {
            Known::Yes(names) => {
                for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
                    let relative = format!("{BASE}.d/{name}");
                    effective.entry(relative.clone()).or_insert(format!("{base}/{relative}"));
                }
            }
            Known::Absent => {}
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
    }
    let mut configs = Vec::new();
    for (relative, path) in effective {
        let text = match tree.text(&path) {
            Known::Yes(text) => text,
            Known::Absent => continue,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        let override_path = format!("/etc/systemd/{relative}");
        let in_etc = tree.known(&override_path);
        configs.push(ZramConfig { devices: swap::parse_zram(&text), path, override_path, in_etc });
    }
    Known::Yes(configs)
}

/// Modules that are built in and that can be loaded: of the running kernel, or common to every kernel of an image.
fn module_files(tree: &Tree, scope: Scope) -> (Known<BTreeSet<String>>, Known<BTreeSet<String>>) {
    let kernels = match scope {
        Scope::Live => tree.text("/proc/sys/kernel/osrelease").map(|release| vec![release.trim().to_owned()]),
        Scope::Image => first_names(tree, ["/usr/lib/modules", "/lib/modules"]),
    };
    let kernels = match kernels {
        Known::Yes(kernels) => kernels,
        Known::Absent => return (Known::Absent, Known::Absent),
        Known::Unknown(unread) => return (Known::Unknown(unread.clone()), Known::Unknown(unread)),
    };
    let common = |file: &str| {
        let mut sets: Option<BTreeSet<String>> = None;
        for release in &kernels {
            let text = match tree.text(&format!("/lib/modules/{release}/{file}")) {
                Known::Absent => tree.text(&format!("/usr/lib/modules/{release}/{file}")),
                known => known,
            };
            let set = match text {
                Known::Yes(text) => kernel::parse_module_paths(&text),
                Known::Absent => continue,
                Known::Unknown(unread) => return Known::Unknown(unread),
            };
            sets = Some(sets.map_or(set.clone(), |before| before.intersection(&set).cloned().collect()));
        }
        sets.map_or(Known::Absent, Known::Yes)
    };
    // The list of loadable modules is long and asked only about a running kernel.
    let loadable = if scope == Scope::Live { common("modules.dep") } else { Known::Absent };
    (common("modules.builtin"), loadable)
}

fn first_names<const N: usize>(tree: &Tree, paths: [&str; N]) -> Known<Vec<String>> {
    for path in paths {
        match tree.names(path) {
            Known::Absent => {}
            known => return known,
        }
    }
    Known::Absent
}

fn sysctl_others(tree: &Tree, scope: Scope) -> Known<Vec<SysctlFile>> {
    let mut files = Vec::new();
    for directory in sysctl::DIRECTORIES.iter().filter(|path| counts(tree, scope, path)) {
        let names = match tree.names(directory) {
            Known::Yes(names) => names,
            Known::Absent => continue,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
            let path = format!("{directory}/{name}");
            if path == SYSCTL_FILE {
                continue;
            }
            match tree.text(&path) {
                Known::Yes(text) => files.push(SysctlFile { sets: sysctl::parse_file(&text), path, name }),
                Known::Absent => {}
                Known::Unknown(unread) => return Known::Unknown(unread),
            }
        }
    }
    let mut files = sysctl::in_order(files);
    // systemd leaves this file alone; Debian links to it from sysctl.d.
    if is_openrc(tree)
        && let Known::Yes(text) = tree.text("/etc/sysctl.conf")
    {
        let sets = sysctl::parse_file(&text);
        // Its name puts it after every other, or before.
        let (at, name) = if read_first(tree) { (0, "0".to_owned()) } else { (files.len(), String::new()) };
        files.insert(at, SysctlFile { path: "/etc/sysctl.conf".into(), name, sets });
    }
    Known::Yes(files)
}

/// Whether OpenRC reads `/etc/sysctl.conf` before the files of sysctl.d: its own script does where sysctl is busybox's. procps reads
/// it last, and so does the script that Alpine put in the place of OpenRC's.
fn read_first(tree: &Tree) -> bool {
    let own = tree.text("/etc/init.d/sysctl").yes().is_some_and(|text| text.contains("BSD_sysctl"));
    own && ["/sbin/sysctl", "/usr/sbin/sysctl", "/bin/sysctl"].into_iter().any(
        |path| matches!(tree.look(path), Ok(Some(Kept::Link { target })) if target.ends_with("/busybox")),
    )
}

/// Finds the names of the processes that hold the listening sockets on these ports. Walks `/proc/*/fd`, so it is for the
/// case that a port was found taken, not for every pass. A name that cannot be found stays open.
pub fn name_owners(tree: &Tree, facts: &mut HostFacts, ports: &[u16]) {
    let Some(LiveFacts { listeners: Known::Yes(listeners), .. }) = &mut facts.live else { return };
    let mut wanted: Vec<&mut Listener> = listeners
        .iter_mut()
        .filter(|listener| ports.contains(&listener.port) && listener.inode != 0)
        .collect();
    let Known::Yes(processes) = tree.names("/proc") else { return };
    for pid in processes.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        if wanted.iter().all(|listener| listener.owner.is_some()) {
            return;
        }
        let Known::Yes(descriptors) = tree.names(&format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors {
            let Ok(Some(Kept::Link { target })) = tree.look(&format!("/proc/{pid}/fd/{descriptor}")) else {
                continue;
            };
            for listener in &mut wanted {
                if target == format!("socket:[{}]", listener.inode) {
                    let name = tree.text(&format!("/proc/{pid}/comm"));
                    listener.owner = name.yes().map(|name| format!("{} (pid {pid})", name.trim()));
                }
            }
        }
    }
}
