//! The wanted host, as one table. Everything else asks it: what to probe, what to change, what the documentation says.
//!
//! Sources: k3s's own behaviour (it loads modules, sets forwarding and tolerates swap by itself), the kubelet's
//! `protect-kernel-defaults` list, k3s's documented requirements, and operators' advice. Which is which stands in each row.

mod packages;
mod ports;
mod rows;

use crate::gossip::WantedRole;
use crate::host::HostWanted;
use crate::host::facts::Protocol;

pub use packages::{Manager, Package};
pub(in crate::host) use ports::word;
pub use ports::{Opening, PORTS, Port, document_ports};
pub use rows::ROWS;

/// How much depends on a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something works badly or not as advised without it.
    Wished,
    /// Pods, services or k3s itself break without it.
    Needed,
}

/// Whose need a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// k3s needs it and does not do it.
    K3s,
    /// k3s does it itself when it starts; done here so that it holds before, between and after its runs.
    K3sDoesIt,
    /// The kubelet's default, which it sets itself unless `protect-kernel-defaults` makes it refuse instead.
    Kubelet,
    /// Muster needs it.
    Muster,
    /// Advice of operators and documentation; k3s runs without it.
    Advice,
}

/// The roles a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Applies {
    /// Every node.
    Every,
    /// Nodes that may become servers.
    Server,
}

impl Applies {
    /// Whether a row is for a node that was told this role.
    #[must_use]
    pub fn to(self, role: WantedRole) -> bool {
        self == Applies::Every || role != WantedRole::Agent
    }
}

/// What the node may not be while a row is not met. A row that cannot be told counts as not met: no node founds on a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Blocks {
    /// It may be anything.
    Nothing,
    /// It may not be a server.
    Server,
    /// It may not run k3s.
    Everything,
}

/// How the effect of a module is seen, whether it was loaded or is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// This path exists.
    Path(&'static str),
    /// `/proc/filesystems` names it.
    FileSystem(&'static str),
}

/// The value a sysctl should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Exactly this one.
    Exactly(&'static str),
    /// This number or more: a larger one, wherever it comes from, is left alone.
    AtLeast(u64),
}

/// Things that are looked at and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// A default route, or a configured node address.
    DefaultRoute,
    /// A host name that can be a node name, or a configured node name.
    HostName,
    /// At least this much memory, in MiB.
    Memory(u64),
    /// At least as much memory as the configuration asks of a server.
    ServerMemory,
    /// At least this many processors.
    Processors(u32),
    /// A clock that is not before 1980.
    Clock,
    /// The control group controllers that the kubelet asks for.
    CgroupControllers,
    /// Control groups of a version that the kubelet of this k3s accepts.
    CgroupVersion,
    /// A module that is loaded, built in, or can be loaded on demand.
    Loadable(&'static str),
    /// At least one of these modules, in the same sense.
    AnyLoadable(&'static [&'static str]),
    /// A port that nobody else has.
    Port(Protocol, u16),
    /// The configured gossip port.
    GossipPort,
    /// `accept_ra = 2` where the default route comes from router advertisements.
    RouterAdvertisements,
    /// No strict reverse path filter.
    ReversePath,
    /// A resolver file that a pod can use.
    NameServers,
    /// No nm-cloud-setup.
    NmCloudSetup,
    /// k3s's SELinux policy where SELinux enforces.
    Selinux,
    /// AppArmor's parser where AppArmor is on.
    AppArmor,
    /// As many open files as k3s's unit asks for.
    OpenFiles,
    /// Packets of the size that an overlay network needs.
    Mtu,
    /// A machine-id of its own; none in an image.
    MachineId,
    /// A product uuid that tells this machine from others of its make.
    ProductUuid,
    /// A hardware address on the node's interface.
    HardwareAddress,
    /// A configuration that holds.
    Configuration,
    /// An odd number of servers.
    OddServers,
    /// Disk latency within its limit.
    DiskLatency,
    /// Free space within its limit.
    DiskFree,
    /// Something that keeps the clock.
    TimeSync,
    /// Clock offset within its limit.
    TimeOffset,
    /// k3s's certificates hold for a while.
    Certificates,
    /// Packets of the own interface's size get to the peers.
    PathMtu,
    /// Peers that were given answer on this TCP port; on ports that have no row of their own, when it is none.
    Peers(Option<u16>),
}

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All of swap.
    Swap,
    /// A module that is loaded now.
    Module(&'static str, Effect),
    /// The modules file.
    KeepModules,
    /// A sysctl that is set now.
    Sysctl(&'static str, Wish),
    /// The sysctl file.
    KeepSysctls,
    /// The NetworkManager file.
    NetworkManager,
    /// A package, by what it brings.
    Package(Package),
    /// The firewall of the host.
    Firewall,
    /// Looked at only.
    Check(Check),
}

/// One row of the wanted host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name, by which `host.skip` switches it off.
    pub name: &'static str,
    /// What is wanted, with its probe, change and undoing.
    pub kind: Kind,
    /// Needed or wished.
    pub level: Level,
    /// Whose need it is.
    pub need: Need,
    /// Which roles it is for.
    pub applies: Applies,
    /// What the node may not be while it is not met.
    pub blocks: Blocks,
    /// Why.
    pub reason: &'static str,
}

/// Modules that are loaded only when somebody asks for them.
const ON_REQUEST: [&str; 2] = ["wireguard", "ip_vs"];

/// Asked for by networks or addresses of IPv6.
pub(in crate::host) const IPV6_FORWARDING: &str = "net.ipv6.conf.all.forwarding";

/// The row of a name.
#[must_use]
pub fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The row whose name is nearest to a text: what a misspelt `host.skip` entry may have meant.
#[must_use]
pub fn nearest_row(text: &str) -> &'static str {
    let near = |row: &&Row| (strsim::normalized_damerau_levenshtein(row.name, text) * 1000.0) as u32;
    ROWS.iter().max_by_key(near).map_or("", |row| row.name)
}

impl Row {
    /// Whether anybody asked for it: every row but the modules, packages and the sysctl that come on request.
    #[must_use]
    pub fn is_asked(&self, wanted: &HostWanted) -> bool {
        match self.kind {
            Kind::Module(name, _) => !ON_REQUEST.contains(&name) || wanted.modules.contains(name),
            Kind::Package(package) => wanted.packages.contains(package.word()),
            Kind::Sysctl(IPV6_FORWARDING, _) => wanted.ipv6,
            _ => true,
        }
    }

    /// How it is looked at.
    #[must_use]
    pub fn probed(&self) -> String {
        match self.kind {
            Kind::Swap => "`/proc/swaps`, `/etc/fstab`, swap units, zram generator files".into(),
            Kind::Module(_, Effect::Path(path)) => format!("by effect: `{path}`"),
            Kind::Module(_, Effect::FileSystem(name)) => {
                format!("by effect: `{name}` in `/proc/filesystems`")
            }
            Kind::KeepModules => format!("`{}`", super::MODULES_FILE),
            Kind::Sysctl(key, Wish::Exactly(value)) => format!("`{key}` is {value}"),
            Kind::Sysctl(key, Wish::AtLeast(value)) => format!("`{key}` is {value} or more"),
            Kind::KeepSysctls => format!("`{}` and every file read after it", super::SYSCTL_FILE),
            Kind::NetworkManager => format!("`{}`", super::NETWORK_MANAGER_FILE),
            Kind::Package(package) => format!("by effect: `{}`", package.programs()[0]),
            Kind::Firewall => "ufw switched on, firewalld enabled, nftables with a chain that drops".into(),
            Kind::Check(check) => check.probed(),
        }
    }

    /// How it is changed; empty when it is only looked at.
    #[must_use]
    pub fn changed(&self) -> &'static str {
        match self.kind {
            Kind::Swap => "swapoff; fstab lines of type swap commented out; units and zram files masked",
            Kind::Module(..) => "modprobe",
            Kind::Package(_) => "with `host.packages`: apt-get, dnf, zypper or apk",
            Kind::Firewall => "with `host.firewall = \"open\"`: `ufw allow`; firewalld policies of our own",
            Kind::Sysctl(..) => "written below `/proc/sys`",
            Kind::KeepModules | Kind::KeepSysctls | Kind::NetworkManager => "the file is written",
            Kind::Check(_) => "",
        }
    }

    /// How `muster revert` undoes it; empty when it is only looked at.
    #[must_use]
    pub fn undone(&self) -> &'static str {
        match self.kind {
            Kind::Swap => "files and links as they were; swapon with the old priority",
            Kind::Module(..) => "modprobe -r, if Muster loaded it and nothing uses it",
            Kind::Package(_) => "the package removed, if Muster installed it; what came with it stays",
            Kind::Firewall => "`ufw delete allow`; the files from before, or none",
            Kind::Sysctl(..) => "the value from before",
            Kind::KeepModules | Kind::KeepSysctls | Kind::NetworkManager => "the file from before, or none",
            Kind::Check(_) => "",
        }
    }
}

impl Check {
    fn probed(self) -> String {
        match self {
            Check::DefaultRoute => {
                "`/proc/net/route`, `/proc/net/ipv6_route`; met by a configured `node-ip`".into()
            }
            Check::HostName => "not `localhost`; met by a configured `node-name`".into(),
            Check::Memory(mib) => format!("`MemTotal` is {mib} MiB or more"),
            Check::ServerMemory => "`MemTotal` is `host.min-memory-mib` or more".into(),
            Check::Processors(count) => format!("{count} processors online"),
            Check::Clock => "the wall clock".into(),
            Check::CgroupControllers => "`cgroup.controllers`, or `/proc/cgroups` for version 1".into(),
            Check::CgroupVersion => "version 2, or k3s older than 1.35".into(),
            Check::Loadable(name) => format!("`{name}` loaded, built in, or in `modules.dep`"),
            Check::AnyLoadable(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                format!("{} loaded, built in, or in `modules.dep`", names.join(" or "))
            }
            Check::Port(Protocol::Tcp, port) => format!("TCP {port} free while k3s does not run"),
            Check::Port(Protocol::Udp, port) => format!("UDP {port} free while k3s does not run"),
            Check::GossipPort => "the configured UDP port free while the agent does not hold it".into(),
            Check::RouterAdvertisements => {
                "`accept_ra` of the interface of an advertised default route".into()
            }
            Check::ReversePath => {
                "the larger of `net.ipv4.conf.all.rp_filter` and the node's interface's own is not 1".into()
            }
            Check::NameServers => "`/etc/resolv.conf`, `/run/systemd/resolve/resolv.conf`".into(),
            Check::NmCloudSetup => "nm-cloud-setup enabled".into(),
            Check::Selinux => "`/sys/fs/selinux/enforce`, the policy's files".into(),
            Check::AppArmor => "`/sys/module/apparmor/parameters/enabled`, `apparmor_parser`".into(),
            Check::OpenFiles => "`/proc/1/limits`, the capabilities in `/proc/1/status`".into(),
            Check::Mtu => "`/sys/class/net/*/mtu` of the node's interface is 1280 or more".into(),
            Check::MachineId => "`/etc/machine-id`".into(),
            Check::ProductUuid => "`/sys/class/dmi/id/product_uuid`".into(),
            Check::HardwareAddress => "`/sys/class/net/*/address` of the node's interface".into(),
            Check::Configuration => "doctor: every source of the configuration".into(),
            Check::OddServers => {
                "doctor: the voters that a running agent knows; else `servers`, `founders`".into()
            }
            Check::DiskLatency => "doctor, agent: see below; `host.max-fsync-ms`".into(),
            Check::DiskFree => {
                "doctor, agent: free MiB below `k3s.data-dir`; `host.min-disk-free-mib`".into()
            }
            Check::TimeSync => "doctor: adjtimex says that the clock is synchronised".into(),
            Check::TimeOffset => "doctor, agent: adjtimex; `host.max-clock-offset-ms`".into(),
            Check::Certificates => "doctor: `*.crt` below `k3s.data-dir`, against the wall clock".into(),
            Check::PathMtu => {
                "agent, with live peers; doctor, with `--peer` or peers remembered: datagrams to UDP 33434 that are not cut in pieces"
                    .into()
            }
            Check::Peers(Some(port)) => format!("doctor `--peer`: TCP {port} answers or refuses within 2 s"),
            Check::Peers(None) => "doctor `--peer`: another TCP port that was given".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_a_blocking_row_is_needed() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            assert!(row.blocks == Blocks::Nothing || row.level == Level::Needed, "{}", row.name);
            assert_eq!(row.changed().is_empty(), row.undone().is_empty(), "{}", row.name);
        }
    }

    #[test]
    fn a_misspelt_row_has_a_neighbour() {
        assert_eq!(nearest_row("swapp"), "swap");
        assert_eq!(nearest_row("module.br-netfilter"), "module.br_netfilter");
    }
}
