//! The table itself.

use super::{Applies, Blocks, Check, Effect, IPV6_FORWARDING, Kind, Level, Need, Package, Row, Wish};
use crate::host::facts::Protocol;

use Blocks::{Everything, Nothing, Server};
use Check as Look;
use Kind::Sysctl;
use Wish::{AtLeast, Exactly};

const fn wished(name: &'static str, kind: Kind, need: Need, reason: &'static str) -> Row {
    Row { name, kind, level: Level::Wished, need, applies: Applies::Every, blocks: Blocks::Nothing, reason }
}

const fn needed(name: &'static str, kind: Kind, need: Need, blocks: Blocks, reason: &'static str) -> Row {
    Row { name, kind, level: Level::Needed, need, applies: Applies::Every, blocks, reason }
}

impl Row {
    const fn server(mut self) -> Self {
        self.applies = Applies::Server;
        self
    }
}

/// The table, in the order in which its rows are judged and changed.
pub const ROWS: &[Row] = &[
    wished(
        "swap",
        Kind::Swap,
        Need::Advice,
        "pages of etcd and the kubelet in swap cost latency; k3s starts with swap on (it sets failSwapOn=false)",
    ),
    needed(
        "module.overlay",
        Kind::Module("overlay", Effect::FileSystem("overlay")),
        Need::K3sDoesIt,
        Nothing,
        "containerd's default snapshotter",
    ),
    needed(
        "module.br_netfilter",
        Kind::Module("br_netfilter", Effect::Path("/proc/sys/net/bridge/bridge-nf-call-iptables")),
        Need::K3sDoesIt,
        Nothing,
        "service addresses between pods on one node pass through iptables; k3s only warns when it cannot load it",
    ),
    needed(
        "module.nf_conntrack",
        Kind::Module("nf_conntrack", Effect::Path("/proc/sys/net/netfilter/nf_conntrack_max")),
        Need::K3sDoesIt,
        Nothing,
        "kube-proxy's address translation and its conntrack limits",
    ),
    needed(
        "module.wireguard",
        Kind::Module("wireguard", Effect::Path("/sys/module/wireguard")),
        Need::K3s,
        Nothing,
        "flannel's wireguard-native backend; on request: that backend, or `host.modules`",
    ),
    needed(
        "module.ip_vs",
        Kind::Module("ip_vs", Effect::Path("/proc/net/ip_vs")),
        Need::K3s,
        Nothing,
        "kube-proxy's mode ipvs; on request: that mode in `kube-proxy-arg`, or `host.modules`",
    ),
    wished(
        "module.vxlan",
        Kind::Check(Look::Loadable("vxlan")),
        Need::K3s,
        "flannel's default backend loads it on demand; some distributions ship it in an extra package",
    ),
    wished(
        "module.iptables",
        Kind::Check(Look::AnyLoadable(&["nf_tables", "ip_tables"])),
        Need::K3s,
        "kube-proxy and flannel write their rules with the iptables that k3s brings, which needs one of the two and loads it on demand",
    ),
    wished(
        "persist.modules",
        Kind::KeepModules,
        Need::Advice,
        "modules are there at boot, before k3s asks for them",
    ),
    needed(
        "sysctl.net.ipv4.ip_forward",
        Sysctl("net.ipv4.ip_forward", Exactly("1")),
        Need::K3sDoesIt,
        Nothing,
        "pods' packets are routed by the node",
    ),
    needed(
        "sysctl.net.bridge.bridge-nf-call-iptables",
        Sysctl("net.bridge.bridge-nf-call-iptables", Exactly("1")),
        Need::K3sDoesIt,
        Nothing,
        "bridged IPv4 packets of pods pass through kube-proxy's rules",
    ),
    wished(
        "sysctl.net.bridge.bridge-nf-call-ip6tables",
        Sysctl("net.bridge.bridge-nf-call-ip6tables", Exactly("1")),
        Need::K3sDoesIt,
        "the same for IPv6",
    ),
    needed(
        "sysctl.net.ipv6.conf.all.forwarding",
        Sysctl(IPV6_FORWARDING, Exactly("1")),
        Need::K3sDoesIt,
        Nothing,
        "pods' IPv6 packets are routed by the node; on request: an IPv6 `cluster-cidr` or `node-ip`. It waits for ipv6.accept-ra: \
         switched on before, it drops a default route learned from advertisements",
    ),
    wished(
        "sysctl.fs.inotify.max_user_instances",
        Sysctl("fs.inotify.max_user_instances", AtLeast(1024)),
        Need::Advice,
        "the default of 128 is used up by a few dozen pods: `too many open files`; k3s does not set it",
    ),
    wished(
        "sysctl.fs.inotify.max_user_watches",
        Sysctl("fs.inotify.max_user_watches", AtLeast(524_288)),
        Need::Advice,
        "log and file watchers of pods share it; k3s does not set it",
    ),
    wished(
        "sysctl.fs.file-max",
        Sysctl("fs.file-max", AtLeast(1_048_576)),
        Need::Advice,
        "open files of the whole machine; the kernel's default follows its memory and is small on small machines",
    ),
    wished(
        "sysctl.fs.nr_open",
        Sysctl("fs.nr_open", AtLeast(1_048_576)),
        Need::Advice,
        "the bound of what k3s's unit asks for (LimitNOFILE=1048576)",
    ),
    wished(
        "sysctl.net.netfilter.nf_conntrack_max",
        Sysctl("net.netfilter.nf_conntrack_max", AtLeast(131_072)),
        Need::K3sDoesIt,
        "connections that can be tracked; kube-proxy raises it to 32,768 for each processor and no less than this",
    ),
    wished(
        "sysctl.net.netfilter.nf_conntrack_tcp_timeout_established",
        Sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", Exactly("86400")),
        Need::K3sDoesIt,
        "the kernel's five days keep dead connections in the table; kube-proxy sets one day",
    ),
    wished(
        "sysctl.vm.overcommit_memory",
        Sysctl("vm.overcommit_memory", Exactly("1")),
        Need::Kubelet,
        "refused by the kubelet under protect-kernel-defaults when it differs",
    ),
    wished(
        "sysctl.vm.panic_on_oom",
        Sysctl("vm.panic_on_oom", Exactly("0")),
        Need::Kubelet,
        "one pod out of memory must not stop the node",
    ),
    wished(
        "sysctl.kernel.panic",
        Sysctl("kernel.panic", Exactly("10")),
        Need::Kubelet,
        "a panicked node comes back by itself after ten seconds",
    ),
    wished(
        "sysctl.kernel.panic_on_oops",
        Sysctl("kernel.panic_on_oops", Exactly("1")),
        Need::Kubelet,
        "a node with a damaged kernel goes away instead of half working",
    ),
    wished(
        "sysctl.kernel.keys.root_maxkeys",
        Sysctl("kernel.keys.root_maxkeys", AtLeast(1_000_000)),
        Need::Kubelet,
        "each container takes a session key of root",
    ),
    wished(
        "sysctl.kernel.keys.root_maxbytes",
        Sysctl("kernel.keys.root_maxbytes", AtLeast(25_000_000)),
        Need::Kubelet,
        "room for those keys",
    ),
    wished(
        "persist.sysctls",
        Kind::KeepSysctls,
        Need::Advice,
        "sysctls hold at boot, before k3s and the kubelet set theirs",
    ),
    wished(
        "package.iscsi",
        Kind::Package(Package::Iscsi),
        Need::Advice,
        "volumes by iSCSI, as Longhorn makes them; on request: `host.packages`",
    ),
    wished(
        "package.nfs",
        Kind::Package(Package::Nfs),
        Need::Advice,
        "volumes by NFS; on request: `host.packages`",
    ),
    wished(
        "network-manager",
        Kind::NetworkManager,
        Need::Advice,
        "NetworkManager must leave the interfaces of flannel and CNI alone",
    ),
    needed(
        "default-route",
        Kind::Check(Look::DefaultRoute),
        Need::K3s,
        Everything,
        "k3s takes its node address from the default route unless one is configured",
    ),
    needed(
        "host-name",
        Kind::Check(Look::HostName),
        Need::K3s,
        Everything,
        "it becomes the node name; two nodes of one name replace each other",
    ),
    needed(
        "clock",
        Kind::Check(Look::Clock),
        Need::K3s,
        Everything,
        "k3s exits when the year is before 1980",
    ),
    needed(
        "cgroup.controllers",
        Kind::Check(Look::CgroupControllers),
        Need::K3s,
        Everything,
        "k3s exits without the memory, cpu, cpuset and pids controllers",
    ),
    needed(
        "cgroup.version",
        Kind::Check(Look::CgroupVersion),
        Need::K3s,
        Everything,
        "the kubelet of Kubernetes 1.35 and later refuses version 1",
    ),
    needed(
        "memory.server",
        Kind::Check(Look::ServerMemory),
        Need::K3s,
        Server,
        "a server with etcd thrashes in less; documented minimum 2 GiB",
    )
    .server(),
    wished("memory", Kind::Check(Look::Memory(450)), Need::K3s, "documented minimum of an agent: 512 MiB"),
    wished("cpu.server", Kind::Check(Look::Processors(2)), Need::K3s, "documented minimum of a server")
        .server(),
    needed(
        "port.6443",
        Kind::Check(Look::Port(Protocol::Tcp, 6443)),
        Need::K3s,
        Server,
        "supervisor and API server",
    )
    .server(),
    needed(
        "port.6444",
        Kind::Check(Look::Port(Protocol::Tcp, 6444)),
        Need::K3s,
        Everything,
        "API server behind the supervisor; on agents the client load balancer",
    ),
    needed("port.2379", Kind::Check(Look::Port(Protocol::Tcp, 2379)), Need::K3s, Server, "etcd clients")
        .server(),
    needed("port.2380", Kind::Check(Look::Port(Protocol::Tcp, 2380)), Need::K3s, Server, "etcd peers")
        .server(),
    needed("port.10250", Kind::Check(Look::Port(Protocol::Tcp, 10250)), Need::K3s, Everything, "kubelet"),
    wished("port.8472", Kind::Check(Look::Port(Protocol::Udp, 8472)), Need::K3s, "flannel's VXLAN"),
    needed("port.gossip", Kind::Check(Look::GossipPort), Need::Muster, Everything, "Muster's own gossip"),
    wished(
        "limit.open-files",
        Kind::Check(Look::OpenFiles),
        Need::Advice,
        "k3s's unit asks for 1,048,576 open files; an init system without the right to raise limits gives less, silently",
    ),
    wished(
        "mtu",
        Kind::Check(Look::Mtu),
        Need::Advice,
        "flannel takes 50 bytes of each packet; under 1280 IPv6 cannot be carried and small packets cost throughput",
    ),
    wished(
        "machine-id",
        Kind::Check(Look::MachineId),
        Need::Muster,
        "the agent tells a copied disk by it; an image that carries one gives it to every machine made from it",
    ),
    wished(
        "product-uuid",
        Kind::Check(Look::ProductUuid),
        Need::Muster,
        "with the machine-id it tells a copied disk; some makers give every board the same one",
    ),
    wished(
        "mac",
        Kind::Check(Look::HardwareAddress),
        Need::Advice,
        "two machines of one hardware address in one network lose each other's packets",
    ),
    wished(
        "ipv6.accept-ra",
        Kind::Check(Look::RouterAdvertisements),
        Need::Advice,
        "k3s switches IPv6 forwarding on, and a forwarding host drops a default route learned from advertisements unless accept_ra is 2",
    ),
    wished(
        "ipv4.rp-filter",
        Kind::Check(Look::ReversePath),
        Need::Advice,
        "strict reverse path filtering drops replies of pods on hosts with several interfaces; never changed: it guards against forged \
         addresses, and nothing here tells whether the host's other networks count on it",
    ),
    wished(
        "resolv-conf",
        Kind::Check(Look::NameServers),
        Need::Advice,
        "with only loopback name servers k3s gives pods 8.8.8.8, which fails behind an air gap: set resolv-conf",
    ),
    wished(
        "firewall",
        Kind::Firewall,
        Need::Advice,
        "ufw, firewalld and nftables chains that drop stop k3s's traffic until its ports and networks are allowed",
    ),
    wished(
        "nm-cloud-setup",
        Kind::Check(Look::NmCloudSetup),
        Need::Advice,
        "it rewrites routing rules under flannel; disable it and reboot",
    ),
    needed(
        "selinux",
        Kind::Check(Look::Selinux),
        Need::K3s,
        Nothing,
        "under enforcing SELinux containers need the k3s-selinux policy package",
    ),
    wished(
        "apparmor",
        Kind::Check(Look::AppArmor),
        Need::K3s,
        "where the kernel has AppArmor on and its parser is missing, containers run without their profile or do not start",
    ),
    needed(
        "configuration",
        Kind::Check(Look::Configuration),
        Need::Muster,
        Everything,
        "the agent does nothing under a configuration that does not hold",
    ),
    wished(
        "servers.odd",
        Kind::Check(Look::OddServers),
        Need::K3s,
        "of an even number of etcd members no more may fail than of one fewer",
    ),
    wished(
        "disk.latency",
        Kind::Check(Look::DiskLatency),
        Need::K3s,
        "etcd syncs its log before it answers: a slow disk delays every write and costs elections",
    )
    .server(),
    wished(
        "disk.free",
        Kind::Check(Look::DiskFree),
        Need::Advice,
        "images, logs and etcd's snapshots; a full disk stops etcd and makes the kubelet evict pods",
    ),
    wished(
        "time.sync",
        Kind::Check(Look::TimeSync),
        Need::K3s,
        "certificates of a node whose clock is an hour off are refused",
    ),
    wished(
        "time.offset",
        Kind::Check(Look::TimeOffset),
        Need::K3s,
        "etcd warns of members whose clocks are a second apart",
    ),
    needed(
        "certificates",
        Kind::Check(Look::Certificates),
        Need::K3s,
        Nothing,
        "k3s renews its certificates only when it starts; one that runs for a year loses its own",
    ),
    needed(
        "peer.6443",
        Kind::Check(Look::Peers(Some(6443))),
        Need::K3s,
        Everything,
        "a node joins by the supervisor of a server",
    ),
    needed(
        "peer.2379",
        Kind::Check(Look::Peers(Some(2379))),
        Need::K3s,
        Server,
        "etcd's clients on other servers",
    )
    .server(),
    needed(
        "peer.2380",
        Kind::Check(Look::Peers(Some(2380))),
        Need::K3s,
        Server,
        "etcd's members talk to each other",
    )
    .server(),
    wished(
        "peer.10250",
        Kind::Check(Look::Peers(Some(10250))),
        Need::K3s,
        "logs, exec and metrics of pods on other nodes",
    ),
    wished(
        "peer.mtu",
        Kind::Check(Look::PathMtu),
        Need::K3s,
        "flannel sizes its packets by the interface alone: what a smaller way in between loses, etcd and pods lose",
    ),
    wished(
        "peer.port",
        Kind::Check(Look::Peers(None)),
        Need::Advice,
        "a port that was asked about by number",
    ),
];
