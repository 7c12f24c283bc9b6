//! What is mounted within an image's tree, from the text of `/proc/self/mountinfo`. [pure]
//!
//! Sealing removes by path: a directory of the building machine that is bound into the tree would be emptied with it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// File systems that are no part of an image: they are made anew by every boot.
const VOLATILE: [&str; 13] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "ramfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "securityfs",
    "debugfs",
    "tracefs",
    "efivarfs",
];

/// What a mount in the tree means for sealing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Not part of the image: neither looked at nor touched. Paths within the tree.
    pub volatile: Vec<PathBuf>,
    /// Also mounted elsewhere: parts of the machine that seals. Paths within the tree.
    pub shared: Vec<PathBuf>,
}

impl Mounts {
    /// The mounts strictly beneath a root.
    #[must_use]
    pub fn beneath(mountinfo: &[u8], root: &Path) -> Self {
        let all: Vec<Mount> = mountinfo.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
        let outside = |mount: &Mount| !mount.at.starts_with(root) || mount.at == root;
        let mut found = Self::default();
        for mount in all.iter().filter(|mount| !outside(mount)) {
            let Ok(inner) = mount.at.strip_prefix(root) else { continue };
            let inner = Path::new("/").join(inner);
            if VOLATILE.contains(&mount.kind.as_str()) {
                found.volatile.push(inner);
            } else if root != Path::new("/")
                && all.iter().any(|other| outside(other) && other.device == mount.device)
            {
                found.shared.push(inner);
            }
        }
        found.volatile.sort();
        found.shared.sort();
        found
    }

    /// Whether a path of the tree lies on a file system that is no part of the image.
    #[must_use]
    pub fn hides(&self, path: &Path) -> bool {
        self.volatile.iter().any(|mount| path.starts_with(mount))
    }
}

struct Mount {
    device: String,
    at: PathBuf,
    kind: String,
}

impl Mount {
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: see proc_pid_mountinfo(5).
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
        let at = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Self { device, at, kind: String::from_utf8_lossy(kind).into_owned() })
    }
}

/// Blanks, tabs, line ends and backslashes in paths are written as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        let number = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match number {
            Some(number) => {
                out.push(number);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        23 22 0:21 / /proc rw - proc proc rw\n\
        24 22 0:5 / /dev rw shared:2 - devtmpfs udev rw\n\
        60 22 7:1 / /mnt/my\\040image rw - ext4 /dev/loop1 rw\n\
        61 60 7:2 / /mnt/my\\040image/boot/efi rw - vfat /dev/loop2 rw\n\
        62 60 0:21 / /mnt/my\\040image/proc rw - proc proc rw\n\
        63 60 254:0 /var/log /mnt/my\\040image/var/log rw - ext4 /dev/vda rw\n\
        junk\n";

    #[test]
    fn what_every_boot_makes_is_left_out_and_a_part_of_this_machine_is_named() {
        let found = Mounts::beneath(TEXT, Path::new("/mnt/my image"));
        assert_eq!(found.volatile, [PathBuf::from("/proc")]);
        assert_eq!(found.shared, [PathBuf::from("/var/log")]);
        assert!(found.hides(Path::new("/proc/1")) && !found.hides(Path::new("/process")));
    }

    #[test]
    fn of_this_machine_itself_nothing_is_foreign() {
        let found = Mounts::beneath(TEXT, Path::new("/"));
        assert!(found.shared.is_empty());
        assert!(found.hides(Path::new("/dev/shm")) && !found.hides(Path::new("/etc")));
        assert_eq!(Mounts::beneath(TEXT, Path::new("/mnt")).shared, [PathBuf::from("/my image/var/log")]);
    }
}
