//! Kernel and distribution: modules, control groups, memory, processors, mounts, os-release.

use std::collections::{BTreeMap, BTreeSet};

/// The distribution, from os-release(5).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OsRelease {
    /// Such as `debian`.
    pub id: String,
    /// Such as `12`; empty for rolling ones.
    pub version: String,
    /// For people.
    pub pretty: String,
}

/// Parses os-release; keys that are missing are empty, or `linux` for the id, as the specification says.
#[must_use]
pub fn parse_os_release(text: &str) -> OsRelease {
    let mut keys: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            let value = value.trim();
            let quoted = ['"', '\'']
                .iter()
                .find_map(|quote| value.strip_prefix(*quote).and_then(|rest| rest.strip_suffix(*quote)));
            keys.insert(key, quoted.unwrap_or(value).replace("\\\"", "\"").replace("\\$", "$"));
        }
    }
    let mut take = |key: &str| keys.remove(key).unwrap_or_default();
    let id = take("ID");
    OsRelease {
        id: if id.is_empty() { "linux".into() } else { id },
        version: take("VERSION_ID"),
        pretty: take("PRETTY_NAME"),
    }
}

/// Names of loaded modules from `/proc/modules`; a module on its way in or out does not count.
#[must_use]
pub fn parse_modules(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.split_whitespace().nth(4).is_none_or(|state| state == "Live"))
        .filter_map(|line| line.split_whitespace().next())
        .map(ToOwned::to_owned)
        .collect()
}

/// Names of modules from `modules.builtin` (a path a line) or `modules.dep` (a path, a colon, its dependencies): compressed
/// files count, and a dash in a file name is an underscore in the kernel.
#[must_use]
pub fn parse_module_paths(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split([':', ' ']).next())
        .filter_map(|path| path.rsplit('/').next())
        .filter_map(|file| file.find(".ko").map(|end| file[..end].replace('-', "_")))
        .collect()
}

/// What modprobe's refusal means and what to do about it, where its words alone do not say.
#[must_use]
pub fn refusal(said: &str) -> Option<&'static str> {
    let has = |words: &str| said.contains(words);
    Some(if has("Key was rejected by service") || has("Required key not available") {
        "the kernel takes only signed modules (Secure Boot or lockdown): sign it and enrol the key, use the distribution's own \
         module, or switch Secure Boot off"
    } else if has("Operation not permitted") {
        "the kernel loads no further modules: kernel.modules_disabled, lockdown, or a missing capability"
    } else if has("Exec format error") || has("Invalid module format") {
        "the module is of another kernel or compressed in a way that this kmod or kernel cannot read: reboot into the kernel whose \
         modules are installed, or install a kmod that reads .ko.xz and .ko.zst"
    } else if has("not found in directory") || has("No such file or directory") {
        "there is no such module for the running kernel: install the extra modules package, or reboot into the kernel whose modules \
         are installed"
    } else if has("Unknown symbol") {
        "the modules on the disk do not belong to the running kernel: reboot"
    } else {
        return None;
    })
}

/// Names in `/proc/filesystems`.
#[must_use]
pub fn parse_filesystems(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split_whitespace().last()).map(ToOwned::to_owned).collect()
}

/// Control group controllers that a process may use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// The unified hierarchy.
    V2(BTreeSet<String>),
    /// The old hierarchies, or a mixture of both.
    V1(BTreeSet<String>),
}

/// Parses `/sys/fs/cgroup/cgroup.controllers`.
#[must_use]
pub fn parse_controllers(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// Parses `/proc/cgroups`: the controllers that are switched on.
#[must_use]
pub fn parse_proc_cgroups(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.len() == 4 && fields[3] == "1").then(|| fields[0].to_owned())
        })
        .collect()
}

/// `MemTotal` of `/proc/meminfo` in KiB.
#[must_use]
pub fn parse_memory_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Counts the processors of a kernel list such as `0-3,8`.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Option<u32> {
    let mut count: u32 = 0;
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// Mount points of `/proc/self/mountinfo` at or below `/proc`, in order, with whether they are read-only.
#[must_use]
pub fn parse_proc_mounts(text: &str) -> Vec<(String, bool)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            let within = point == "/proc" || point.starts_with("/proc/");
            within.then(|| (super::swap::unescape(point), options.split(',').any(|option| option == "ro")))
        })
        .collect()
}

/// The read-only mount that covers a path, if the mount that covers it is read-only: the deepest, and of equals the last.
#[must_use]
pub fn read_only_mount<'a>(mounts: &'a [(String, bool)], path: &str) -> Option<&'a str> {
    let covers =
        |point: &str| path == point || path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'));
    let (point, read_only) =
        mounts.iter().filter(|(point, _)| covers(point)).max_by_key(|(point, _)| point.len())?;
    read_only.then_some(point.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_releases_are_read() {
        let debian = parse_os_release(include_str!("../../../testdata/host/os-release.debian-12.txt"));
        assert_eq!((debian.id.as_str(), debian.version.as_str()), ("debian", "12"));
        assert_eq!(debian.pretty, "Debian GNU/Linux 12 (bookworm)");
        let alpine =
            parse_os_release(include_str!("../../../testdata/host/os-release.alpine-3.20.by-hand.txt"));
        assert_eq!((alpine.id.as_str(), alpine.version.as_str()), ("alpine", "3.20.3"));
        assert_eq!(parse_os_release("").id, "linux");
    }

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        let loaded = parse_modules(include_str!("../../../testdata/host/proc-modules.debian-12.by-hand.txt"));
        assert!(loaded.contains("overlay") && loaded.contains("bridge"));
        assert!(!loaded.contains("zram"), "a module that is being unloaded is not loaded");
        let builtin = parse_module_paths(include_str!(
            "../../../testdata/host/modules.builtin.debian-12.6.1.0-56-cloud-amd64.txt"
        ));
        assert!(builtin.contains("binfmt_script"), "{builtin:?}");
        assert!(!builtin.contains("br_netfilter"));
        let text = "kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\nkernel/fs/overlayfs/overlay.ko.zst:\n";
        assert_eq!(parse_module_paths(text).into_iter().collect::<Vec<_>>(), ["br_netfilter", "overlay"]);
    }

    #[test]
    fn refusals_of_modprobe_are_explained() {
        for (said, word) in [
            ("modprobe: ERROR: could not insert 'br_netfilter': Key was rejected by service", "signed"),
            ("modprobe: ERROR: could not insert 'wireguard': Required key not available", "signed"),
            ("modprobe: ERROR: could not insert 'overlay': Operation not permitted", "modules_disabled"),
            ("modprobe: ERROR: could not insert 'overlay': Exec format error", ".ko.xz"),
            ("modprobe: FATAL: Module wireguard not found in directory /lib/modules/6.1.0", "extra modules"),
            ("modprobe: can't change directory to '6.6.31-0-virt': No such file or directory", "reboot"),
            ("modprobe: ERROR: could not insert 'x': Unknown symbol in module", "reboot"),
        ] {
            assert!(refusal(said).is_some_and(|meaning| meaning.contains(word)), "{said}");
        }
        assert_eq!(refusal("modprobe: ERROR: out of memory"), None);
    }

    #[test]
    fn control_groups_memory_and_processors_are_read() {
        let v1 = parse_proc_cgroups(include_str!("../../../testdata/host/proc-cgroups.debian-12.txt"));
        assert!(v1.contains("memory") && v1.contains("pids"));
        assert!(
            !parse_proc_cgroups("#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\n")
                .contains("memory")
        );
        assert_eq!(
            parse_memory_kib(include_str!("../../../testdata/host/proc-meminfo.debian-12.txt")),
            Some(24_684_084)
        );
        assert_eq!(parse_memory_kib("MemFree: 1 kB\n"), None);
        for (text, count) in
            [("0-1\n", Some(2)), ("0", Some(1)), ("0-3,8,10-11", Some(7)), ("", None), ("3-1", None)]
        {
            assert_eq!(parse_cpu_list(text), count, "{text:?}");
        }
    }

    #[test]
    fn the_deepest_mount_decides_whether_a_sysctl_can_be_written() {
        let text = include_str!("../../../testdata/host/proc-mountinfo.debian-12.nspawn.by-hand.txt");
        let mounts = parse_proc_mounts(text);
        assert_eq!(read_only_mount(&mounts, "/proc/sys/vm/overcommit_memory"), Some("/proc/sys"));
        assert_eq!(read_only_mount(&mounts, "/proc/sys/net/ipv4/ip_forward"), None);
        assert_eq!(read_only_mount(&mounts, "/proc/swaps"), None);
        let here = parse_proc_mounts(include_str!("../../../testdata/host/proc-mountinfo.debian-12.txt"));
        assert_eq!(here, vec![("/proc".into(), false)]);
    }
}
