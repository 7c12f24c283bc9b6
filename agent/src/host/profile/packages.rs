//! Packages that come on request, by the distribution's own package manager. Pure.

use serde::{Deserialize, Serialize};

/// What is wanted of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Package {
    /// The iSCSI initiator.
    Iscsi,
    /// Mounting NFS.
    Nfs,
}

/// Package managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian, Ubuntu.
    Apt,
    /// Fedora, RHEL and those like it.
    Dnf,
    /// SUSE.
    Zypper,
    /// Alpine.
    Apk,
}

impl Package {
    /// Every one.
    pub const ALL: [Package; 2] = [Package::Iscsi, Package::Nfs];

    /// Its word in `host.packages`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Package::Iscsi => "iscsi",
            Package::Nfs => "nfs",
        }
    }

    /// The programs of which one is there when it is installed.
    #[must_use]
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Package::Iscsi => &["/usr/sbin/iscsiadm", "/sbin/iscsiadm", "/usr/bin/iscsiadm"],
            Package::Nfs => &["/usr/sbin/mount.nfs", "/sbin/mount.nfs"],
        }
    }

    /// Its name in a distribution.
    #[must_use]
    pub fn name(self, manager: Manager) -> &'static str {
        match (self, manager) {
            (Package::Iscsi, Manager::Dnf) => "iscsi-initiator-utils",
            (Package::Iscsi, _) => "open-iscsi",
            (Package::Nfs, Manager::Apt) => "nfs-common",
            (Package::Nfs, Manager::Zypper) => "nfs-client",
            (Package::Nfs, Manager::Dnf | Manager::Apk) => "nfs-utils",
        }
    }
}

impl Manager {
    /// Every one, with the programs by which it is told. Debian's `apk` would be another program, so apt comes first.
    pub const ALL: [(Manager, &[&str]); 4] = [
        (Manager::Apt, &["/usr/bin/apt-get"]),
        (Manager::Dnf, &["/usr/bin/dnf"]),
        (Manager::Zypper, &["/usr/bin/zypper"]),
        (Manager::Apk, &["/sbin/apk", "/usr/sbin/apk", "/usr/bin/apk"]),
    ];

    /// The command lines that install a package, all but the last allowed to fail: lists may be old or absent on a fresh machine.
    #[must_use]
    pub fn install(self, name: &str) -> Vec<Vec<String>> {
        let words = |text: &str| text.split(' ').chain([name]).map(ToOwned::to_owned).collect();
        match self {
            Manager::Apt => vec![
                "env DEBIAN_FRONTEND=noninteractive apt-get -q update"
                    .split(' ')
                    .map(ToOwned::to_owned)
                    .collect(),
                words(
                    "env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install",
                ),
            ],
            Manager::Dnf => vec![words("dnf -q -y --setopt=install_weak_deps=False install")],
            Manager::Zypper => vec![words("zypper --quiet --non-interactive install --no-recommends")],
            Manager::Apk => vec![words("apk add --quiet")],
        }
    }

    /// The command line that removes a package and nothing that came with it.
    #[must_use]
    pub fn remove(self, name: &str) -> Vec<String> {
        let text = match self {
            Manager::Apt => {
                "env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 remove"
            }
            Manager::Dnf => "dnf -q -y --noautoremove remove",
            Manager::Zypper => "zypper --quiet --non-interactive remove",
            Manager::Apk => "apk del --quiet",
        };
        text.split(' ').chain([name]).map(ToOwned::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manager_has_its_own_words() {
        for (manager, last, gone) in [
            (
                Manager::Apt,
                "env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install nfs-common",
                "env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 remove nfs-common",
            ),
            (
                Manager::Dnf,
                "dnf -q -y --setopt=install_weak_deps=False install nfs-utils",
                "dnf -q -y --noautoremove remove nfs-utils",
            ),
            (
                Manager::Zypper,
                "zypper --quiet --non-interactive install --no-recommends nfs-client",
                "zypper --quiet --non-interactive remove nfs-client",
            ),
            (Manager::Apk, "apk add --quiet nfs-utils", "apk del --quiet nfs-utils"),
        ] {
            let name = Package::Nfs.name(manager);
            assert_eq!(manager.install(name).last().unwrap().join(" "), last);
            assert_eq!(manager.remove(name).join(" "), gone);
        }
    }
}
