//! What the host says of itself: types, and parsers of text. Nothing here reads a file.

pub mod examined;
pub mod firewall;
pub mod kernel;
pub mod links;
pub mod network;
pub mod swap;
pub mod sysctl;

use std::collections::{BTreeMap, BTreeSet};

use crate::core::Known;
use crate::host::Kept;
use crate::host::profile::{Manager, Package};

pub use examined::{Answer, CertificateSeen, Examined, PathSeen, PeerAnswer};
pub use kernel::{Cgroups, OsRelease};
pub use links::{InitLimits, Link};
pub use network::{Listener, Protocol};
pub use swap::{ActiveSwap, ZramConfig};
pub use sysctl::SysctlFile;

/// What is being looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A running machine: files and kernel.
    Live,
    /// A mounted image: files only.
    Image,
}

/// Everything the rows are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Owner and group of the files that this process makes.
    pub owner: (u32, u32),
    /// What the files say.
    pub files: FileFacts,
    /// What the running kernel says; none for an image.
    pub live: Option<LiveFacts>,
    /// What a closer look found; none when nobody took one.
    pub examined: Option<Examined>,
}

impl HostFacts {
    /// Machine or image.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if self.live.is_some() { Scope::Live } else { Scope::Image }
    }
}

/// A systemd unit that is seen somewhere, and what stands at its place in `/etc/systemd/system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSeen {
    /// What `/etc/systemd/system/<name>` is.
    pub in_etc: Known<Kept>,
    /// Whether anything would start it: swap units always (they are pulled in by generators and devices), services when a
    /// link in a `.wants` or `.requires` directory names them.
    pub wanted: bool,
}

/// The files of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// The distribution.
    pub os: Known<OsRelease>,
    /// `/etc/fstab` as it stands.
    pub fstab: Known<Kept>,
    /// systemd's unit directories, when this is a systemd host.
    pub systemd: Known<()>,
    /// Swap units and services that turn swap on, by name.
    pub units: Known<BTreeMap<String, UnitSeen>>,
    /// Services and targets that a link in `/etc/systemd/system/*.wants` starts, or in a runlevel of OpenRC, by unit names.
    pub enabled: Known<BTreeSet<String>>,
    /// Effective configuration files of the zram generator, and what stands at their place in `/etc`.
    pub zram: Known<Vec<ZramConfig>>,
    /// Modules built into every installed kernel (the running one, on a live host).
    pub builtin: Known<BTreeSet<String>>,
    /// Modules that an installed kernel (the running one, on a live host) can load.
    pub loadable: Known<BTreeSet<String>>,
    /// Our list of modules.
    pub modules_file: Known<Kept>,
    /// Our sysctl file.
    pub sysctl_file: Known<Kept>,
    /// Every other sysctl file, in the order in which they are read at boot.
    pub sysctl_others: Known<Vec<SysctlFile>>,
    /// NetworkManager's configuration directory, when it is installed.
    pub network_manager: Known<()>,
    /// Our NetworkManager file.
    pub network_manager_file: Known<Kept>,
    /// Whether ufw is switched on in its configuration.
    pub ufw: Known<()>,
    /// The rules that ufw has, as `ufw allow` takes them.
    pub ufw_rules: Known<BTreeSet<String>>,
    /// Our two firewalld policies.
    pub firewalld_policies: [Known<Kept>; 2],
    /// The rule files of nftables that have a chain that drops what it does not know.
    pub nftables_drops: Known<BTreeSet<String>>,
    /// The package manager.
    pub manager: Known<Manager>,
    /// Packages of the table that are there, by their effect.
    pub packages: BTreeMap<Package, Known<()>>,
    /// Whether k3s's SELinux policy is installed.
    pub selinux_policy: Known<()>,
    /// Whether AppArmor's parser is installed.
    pub apparmor_parser: Known<()>,
    /// `/etc/machine-id`, trimmed.
    pub machine_id: Known<String>,
}

impl FileFacts {
    /// Where units are masked.
    pub const UNITS: &'static str = "/etc/systemd/system";
}

impl LiveFacts {
    /// The reverse path filter that holds for every interface together with its own.
    pub const RP_FILTER: &'static str = "net.ipv4.conf.all.rp_filter";
}

/// The running kernel and this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFacts {
    /// The container manager, when this is a container: its kernel belongs to the machine outside.
    pub container: Known<String>,
    /// Active swap.
    pub swaps: Known<Vec<ActiveSwap>>,
    /// Loaded modules; absent on a kernel without loadable modules.
    pub loaded: Known<BTreeSet<String>>,
    /// Whether the effect of each module of the table is there.
    pub effects: BTreeMap<&'static str, Known<()>>,
    /// Values of the sysctls of the table.
    pub sysctls: BTreeMap<&'static str, Known<String>>,
    /// Mount points at or below `/proc`, with whether they are read-only.
    pub proc_mounts: Known<Vec<(String, bool)>>,
    /// Interfaces that learned a default route by router advertisement, with their `accept_ra`.
    pub advertised: Known<Vec<(String, String)>>,
    /// Host name.
    pub host_name: Known<String>,
    /// Total memory in KiB.
    pub memory_kib: Known<u64>,
    /// Online processors.
    pub cpus: Known<u32>,
    /// Wall clock, seconds since 1970.
    pub clock: Known<i64>,
    /// Control groups.
    pub cgroups: Known<Cgroups>,
    /// Interface of an IPv4 default route.
    pub route4: Known<String>,
    /// Interface of an IPv6 default route.
    pub route6: Known<String>,
    /// Sockets that wait for traffic.
    pub listeners: Known<Vec<Listener>>,
    /// Name servers of the resolver files that k3s looks at, file by file.
    pub name_servers: Known<Vec<(String, Vec<String>)>>,
    /// Whether SELinux enforces; absent when the kernel has no SELinux.
    pub selinux: Known<bool>,
    /// Whether AppArmor is on; absent when the kernel has none.
    pub apparmor: Known<bool>,
    /// What the first process may give to services in open files.
    pub init_limits: Known<InitLimits>,
    /// The machine's own interfaces by name; those of containers are left out.
    pub links: Known<BTreeMap<String, Link>>,
    /// The maker's uuid of this machine; absent where there is none.
    pub product_uuid: Known<String>,
}
