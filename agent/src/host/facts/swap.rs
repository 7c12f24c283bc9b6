//! Swap: `/proc/swaps`, fstab, unit names, zram generator files.

use crate::core::Known;
use crate::host::Kept;

/// One active swap area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveSwap {
    /// Path of the device or file, as the kernel knows it.
    pub path: String,
    /// `partition` or `file`.
    pub kind: String,
    /// Size in KiB.
    pub size_kib: u64,
    /// Used, in KiB.
    pub used_kib: u64,
    /// Priority; negative means that the kernel chose it.
    pub priority: i32,
}

/// Parses `/proc/swaps`. Columns are right for every kernel since 2.6; an area is never skipped silently.
///
/// # Errors
/// The line that has no five fields or no numbers where they belong.
pub fn parse_swaps(text: &str) -> Result<Vec<ActiveSwap>, String> {
    let mut swaps = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let area = match fields.as_slice() {
            [path, kind, size, used, priority] => {
                size.parse().ok().zip(used.parse().ok()).zip(priority.parse().ok()).map(
                    |((size_kib, used_kib), priority)| ActiveSwap {
                        path: unescape(path),
                        kind: (*kind).to_owned(),
                        size_kib,
                        used_kib,
                        priority,
                    },
                )
            }
            _ => None,
        };
        swaps.push(area.ok_or_else(|| format!("not a line of /proc/swaps: {line:?}"))?);
    }
    Ok(swaps)
}

/// What a line of fstab is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FstabLine<'a> {
    /// Blank or a comment: nobody's business.
    Comment,
    /// A file system that is not swap.
    Other,
    /// An entry of type `swap`, with its first field.
    Swap(&'a str),
    /// A line with fewer than three fields: no program can read it, and neither do we.
    Nonsense,
}

/// Judges one line of fstab by fstab(5): fields separated by blanks, the third is the type; a comment starts with `#`.
#[must_use]
pub fn fstab_line(line: &str) -> FstabLine<'_> {
    let mut fields = line.split([' ', '\t', '\r', '\n']).filter(|field| !field.is_empty());
    match (fields.next(), fields.next(), fields.next()) {
        (None, ..) => FstabLine::Comment,
        (Some(first), ..) if first.starts_with('#') => FstabLine::Comment,
        (Some(spec), Some(_), Some("swap")) => FstabLine::Swap(spec),
        (Some(_), Some(_), Some(_)) => FstabLine::Other,
        _ => FstabLine::Nonsense,
    }
}

/// The path that systemd makes of the first field of fstab: tags become the links that udev makes of them.
#[must_use]
pub fn device_of(spec: &str) -> String {
    let tags = [
        ("UUID=", "by-uuid"),
        ("LABEL=", "by-label"),
        ("PARTUUID=", "by-partuuid"),
        ("PARTLABEL=", "by-partlabel"),
    ];
    for (tag, directory) in tags {
        if let Some(value) = spec.strip_prefix(tag) {
            return format!("/dev/disk/{directory}/{}", unescape(value.trim_matches('"')));
        }
    }
    unescape(spec)
}

/// Octal escapes of the kernel and of fstab (`\040` is a blank).
#[must_use]
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|digits| {
            bytes[at] == b'\\'
                && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
                && digits[0] <= b'3'
        });
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0, |value, digit| value << 3 | (digit - b'0')));
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The name of systemd's swap unit for a path, by the rules of systemd.unit(5).
#[must_use]
pub fn swap_unit(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut name = String::new();
    for (at, byte) in parts.join("/").bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    if name.is_empty() {
        name.push('-');
    }
    format!("{name}.swap")
}

/// One configuration file of the zram generator that takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZramConfig {
    /// Where it is read from.
    pub path: String,
    /// The path in `/etc` that overrides it (its own, when it is there already).
    pub override_path: String,
    /// What stands at the override's path.
    pub in_etc: Known<Kept>,
    /// The devices it makes.
    pub devices: Vec<ZramDevice>,
}

/// One section of a zram generator file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZramDevice {
    /// Such as `zram0`.
    pub name: String,
    /// Whether it becomes swap (the default) or a mounted file system.
    pub swap: bool,
}

/// Parses a zram-generator.conf(5): sections `[zramN]`; `mount-point` or another `fs-type` than `swap` means no swap.
#[must_use]
pub fn parse_zram(text: &str) -> Vec<ZramDevice> {
    let mut devices: Vec<ZramDevice> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim();
            let number = name.strip_prefix("zram").is_some_and(|digits| digits.parse::<u32>().is_ok());
            // A section that is no device takes its keys with it.
            devices.push(ZramDevice {
                name: if number { name.to_owned() } else { String::new() },
                swap: number,
            });
        } else if let (Some(device), Some((key, value))) = (devices.last_mut(), line.split_once('=')) {
            match (key.trim(), value.trim()) {
                ("mount-point", point) if !point.is_empty() => device.swap = false,
                ("fs-type", kind) if !kind.is_empty() && kind != "swap" => device.swap = false,
                _ => {}
            }
        }
    }
    devices.retain(|device| !device.name.is_empty());
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_of_a_machine_are_read_with_escapes_and_priorities() {
        let none = include_str!("../../../testdata/host/proc-swaps.debian-12.none.txt");
        assert_eq!(parse_swaps(none).unwrap(), vec![]);
        let some = include_str!("../../../testdata/host/proc-swaps.debian-12.by-hand.txt");
        let seen: Vec<_> =
            parse_swaps(some).unwrap().into_iter().map(|s| (s.path, s.kind, s.priority)).collect();
        assert_eq!(
            seen,
            vec![
                ("/dev/vda5".into(), "partition".into(), -2),
                ("/swap file".into(), "file".into(), -3),
                ("/dev/zram0".into(), "partition".into(), 100),
            ]
        );
        assert!(parse_swaps("Filename Type\n/dev/vda5 partition x 0 -2\n").is_err());
    }

    #[test]
    fn only_the_third_field_makes_a_swap_line() {
        for (line, wanted) in [
            ("", FstabLine::Comment),
            ("   # /dev/sda2 none swap sw 0 0", FstabLine::Comment),
            ("#swap was here", FstabLine::Comment),
            ("/dev/sda2 none swap sw 0 0", FstabLine::Swap("/dev/sda2")),
            ("\tUUID=1-2\tswap\tswap\tdefaults", FstabLine::Swap("UUID=1-2")),
            ("/dev/sda2 none swap\r", FstabLine::Swap("/dev/sda2")),
            ("/dev/sdb1 /srv/swap ext4 defaults 0 2", FstabLine::Other),
            ("//nas/swap /mnt cifs password=swap 0 0", FstabLine::Other),
            ("/dev/sda2 swap", FstabLine::Nonsense),
            ("/dev/sda2 none swapfs", FstabLine::Other),
        ] {
            assert_eq!(fstab_line(line), wanted, "{line:?}");
        }
    }

    #[test]
    fn unit_names_are_systemds() {
        // Each was checked with `systemd-escape --path --suffix=swap`.
        for (path, unit) in [
            ("/swapfile", "swapfile.swap"),
            ("/dev/vda5", "dev-vda5.swap"),
            ("/dev/disk/by-uuid/1a-2b", "dev-disk-by\\x2duuid-1a\\x2d2b.swap"),
            ("/swap file", "swap\\x20file.swap"),
            ("//.swap/", "\\x2eswap.swap"),
        ] {
            assert_eq!(swap_unit(path), unit);
        }
    }

    #[test]
    fn tags_name_the_links_of_udev() {
        assert_eq!(device_of("UUID=1a-2b"), "/dev/disk/by-uuid/1a-2b");
        assert_eq!(device_of("PARTLABEL=\"swap\""), "/dev/disk/by-partlabel/swap");
        assert_eq!(device_of("/swap\\040file"), "/swap file");
    }

    #[test]
    fn zram_sections_tell_swap_from_mounted_devices() {
        let text = "# x\n[zram0]\nzram-size = min(ram, 8192)\n[zram1]\nmount-point = /var/tmp\n[other]\nfs-type=swap\n";
        assert_eq!(
            parse_zram(text),
            vec![
                ZramDevice { name: "zram0".into(), swap: true },
                ZramDevice { name: "zram1".into(), swap: false }
            ]
        );
        assert_eq!(parse_zram(""), vec![]);
    }
}
