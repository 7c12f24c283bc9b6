//! sysctl.d files: order, keys and values, by sysctl.d(5).

use std::collections::BTreeMap;

/// One sysctl file that is read at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlFile {
    /// Its path.
    pub path: String,
    /// Its name, which orders it among all directories.
    pub name: String,
    /// What it sets, with the number of the line: keys as paths below `/proc/sys`.
    pub sets: Vec<(String, String, usize)>,
}

/// The directories, the one that wins over the others for the same name first.
pub const DIRECTORIES: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// The path below `/proc/sys` of a key: when its first separator is a dot, dots and slashes change places.
#[must_use]
pub fn key_path(key: &str) -> String {
    let dotted = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'.');
    let swapped = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    if dotted { key.chars().map(swapped).collect() } else { key.to_owned() }
}

/// Parses a sysctl file: `key = value` with blanks trimmed, `#` and `;` comments, a leading `-` that tolerates failure.
/// Lines with globs never override an explicit line and are left out, as are lines without `=`.
#[must_use]
pub fn parse_file(text: &str) -> Vec<(String, String, usize)> {
    let mut sets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim();
        let key = key.strip_prefix('-').unwrap_or(key);
        if !key.contains(['*', '?', '[']) {
            sets.push((key_path(key), plain(value), number + 1));
        }
    }
    sets
}

/// A value with its blanks made single: how the kernel prints and how files write the same value differ in tabs.
#[must_use]
pub fn plain(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Orders the files of all directories as systemd-sysctl and procps read them: by name, the first directory winning a name.
/// `files` comes in the order of [`DIRECTORIES`].
#[must_use]
pub fn in_order(files: Vec<SysctlFile>) -> Vec<SysctlFile> {
    let mut by_name: BTreeMap<String, SysctlFile> = BTreeMap::new();
    for file in files {
        by_name.entry(file.name.clone()).or_insert(file);
    }
    by_name.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_in_an_interface_name_keep_them() {
        assert_eq!(key_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(key_path("net/ipv4/conf/eth0.100/rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(key_path("net.ipv4.conf.eth0/100.rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
    }

    #[test]
    fn files_of_debian_12_are_read() {
        let text = include_str!("../../../testdata/host/sysctl.debian-12.99-protect-links.conf");
        let keys: Vec<_> = parse_file(text).into_iter().map(|(key, value, _)| (key, value)).collect();
        assert!(keys.contains(&("fs/protected_hardlinks".into(), "1".into())), "{keys:?}");
        let all_comments = include_str!("../../../testdata/host/sysctl.debian-12.sysctl.conf");
        assert_eq!(parse_file(all_comments), vec![]);
        assert_eq!(
            parse_file("-a.b=1\n; c\n#d=1\nnet.ipv4.conf.*.rp_filter = 2\nrange = 1\t 2\nword\n"),
            vec![("a/b".into(), "1".into(), 1), ("range".into(), "1 2".into(), 5)]
        );
    }

    #[test]
    fn the_first_directory_wins_a_name_and_names_order_the_rest() {
        let file = |path: &str| SysctlFile {
            path: path.into(),
            name: path.rsplit('/').next().unwrap().into(),
            sets: vec![],
        };
        let ordered = in_order(vec![
            file("/etc/sysctl.d/50-a.conf"),
            file("/usr/lib/sysctl.d/10-b.conf"),
            file("/usr/lib/sysctl.d/50-a.conf"),
        ]);
        let paths: Vec<_> = ordered.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/usr/lib/sysctl.d/10-b.conf", "/etc/sysctl.d/50-a.conf"]);
    }
}
