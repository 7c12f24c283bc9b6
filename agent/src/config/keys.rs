//! The table of every key that may be set: its name, what kind of value it takes and what it is when nobody sets it.
//!
//! Files, environment, `muster config show` and the search for a misspelt key's neighbour all read this one table.

use std::collections::BTreeMap;

use super::settings::{Healing, Limits, Timing};

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Whole,
    List,
    Table,
}

impl Kind {
    /// As an error names it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Whole => "a whole number, zero or more",
            Kind::List => "a list of texts",
            Kind::Table => "a table",
        }
    }
}

/// A value as it was given: not checked beyond its kind. Never printed by `Debug` on a path to a log: `show` masks it first.
#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(u64),
    List(Vec<String>),
    Table(BTreeMap<String, serde_json::Value>),
}

macro_rules! keys {
    ($($(#[$doc:meta])* $key:ident $name:literal $kind:ident $default:expr;)*) => {
        /// A key of the configuration.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Key {
            $($(#[$doc])* $key,)*
        }

        impl Key {
            /// Every key, in the order in which `muster config show` prints them.
            pub(super) const ALL: &'static [Key] = &[$(Key::$key,)*];

            /// The name, with its section in front: `k3s.version`.
            pub(super) fn name(self) -> &'static str {
                match self { $(Key::$key => $name,)* }
            }

            /// What it takes.
            pub(super) fn kind(self) -> Kind {
                match self { $(Key::$key => Kind::$kind,)* }
            }

            /// Its value when nobody sets it.
            pub(super) fn default(self) -> Option<Value> {
                match self { $(Key::$key => $default,)* }
            }
        }
    };
}

keys! {
    /// Name of the cluster.
    Cluster "cluster" Text text("muster");
    /// Wanted servers.
    Servers "servers" Whole whole(3);
    /// Votes a certificate needs; as many as servers when not set.
    Founders "founders" Whole None;
    /// `auto`, `server` or `agent`.
    Role "role" Text text("auto");
    /// The failure domain that this machine stands in.
    Zone "zone" Text None;
    /// `auto` or `never`.
    Founding "founding" Text text("auto");
    /// Where to look for peers.
    Seeds "seeds" List list(&[]);
    /// File with the cluster token.
    TokenFile "token-file" Text None;
    /// File with the cluster token that is being replaced.
    PreviousTokenFile "previous-token-file" Text None;
    /// Node name instead of the host name.
    NodeName "node-name" Text None;
    /// Node address instead of that of the default route.
    NodeIp "node-ip" Text None;
    /// Interface whose address is taken.
    Interface "interface" Text None;
    /// UDP port of gossip.
    GossipPort "gossip-port" Whole whole(7846);
    /// Where the metrics are read.
    MetricsListen "metrics-listen" Text text("127.0.0.1:7847");
    /// Who may read them.
    MetricsAccess "metrics-access" Text text("loopback");
    /// Durable state.
    StateDir "state-dir" Text text("/var/lib/muster");
    /// State of this boot.
    RunDir "run-dir" Text text("/run/muster");
    /// Pinned version of k3s.
    K3sVersion "k3s.version" Text text("v1.33.1+k3s1");
    /// Where k3s comes from, in order: baked into the image, then the release site.
    K3sSources "k3s.sources" List list(&["/opt/muster/k3s", "https://github.com/k3s-io/k3s/releases/download"]);
    /// Checksum file instead of the one beside the artefact.
    K3sChecksums "k3s.checksums" Text None;
    /// k3s's data directory.
    K3sDataDir "k3s.data-dir" Text text("/var/lib/rancher/k3s");
    /// Pod networks.
    K3sClusterCidr "k3s.cluster-cidr" Text text("10.42.0.0/16");
    /// Service networks.
    K3sServiceCidr "k3s.service-cidr" Text text("10.43.0.0/16");
    /// Address of the cluster's DNS.
    K3sClusterDns "k3s.cluster-dns" Text None;
    /// Domain of the cluster.
    K3sClusterDomain "k3s.cluster-domain" Text text("cluster.local");
    /// How flannel carries packets.
    K3sFlannelBackend "k3s.flannel-backend" Text text("vxlan");
    /// Packaged components left out.
    K3sDisable "k3s.disable" List list(&[]);
    /// More names on the API's certificate.
    K3sTlsSan "k3s.tls-san" List list(&[]);
    /// File with an existing k3s server token.
    K3sTokenFile "k3s.token-file" Text None;
    /// File with an existing k3s agent token.
    K3sAgentTokenFile "k3s.agent-token-file" Text None;
    /// More keys for the servers' config.yaml.
    K3sServerConfig "k3s.server-config" Table table();
    /// More keys for the agents' config.yaml.
    K3sAgentConfig "k3s.agent-config" Table table();
    /// Rows of host preparation left out.
    HostSkip "host.skip" List list(&[]);
    /// Kernel modules beside those of the table.
    HostModules "host.modules" List list(&[]);
    /// What the distribution's package manager is to bring.
    HostPackages "host.packages" List list(&[]);
    /// Whether a firewall of the host is opened or only reported.
    HostFirewall "host.firewall" Text text("report");
    /// Slowest 99th percentile of one `fdatasync` that a server may have.
    HostMaxFsyncMs "host.max-fsync-ms" Whole whole(Limits::default().max_fsync_ms);
    /// Least memory of a server.
    HostMinMemoryMib "host.min-memory-mib" Whole whole(Limits::default().min_memory_mib);
    /// Least free space where k3s's data lie.
    HostMinDiskFreeMib "host.min-disk-free-mib" Whole whole(Limits::default().min_disk_free_mib);
    /// Largest distance of the clock from its time source.
    HostMaxClockOffsetMs "host.max-clock-offset-ms" Whole whole(Limits::default().max_clock_offset_ms);
    /// Addresses of an API that must not answer when a cluster is founded.
    ApiAddresses "api.addresses" List list(&[]);
    /// Names in the DNS.
    DiscoveryDnsNames "discovery.dns.names" List list(&[]);
    /// Name servers instead of the machine's own.
    DiscoveryDnsServers "discovery.dns.servers" List list(&[]);
    /// Networks that are swept; the local one where nothing else says where peers are.
    DiscoverySweepNetworks "discovery.sweep.networks" List None;
    /// Probes in a second.
    DiscoverySweepRate "discovery.sweep.rate" Whole whole(450);
    /// Multicast DNS, on or off.
    DiscoveryMdns "discovery.mdns" Text text("off");
    /// A program that prints addresses, and its arguments.
    DiscoveryExecCommand "discovery.exec.command" List list(&[]);
    /// How long it may run.
    DiscoveryExecTimeoutMs "discovery.exec.timeout-ms" Whole whole(5_000);
    /// A file with addresses.
    DiscoveryFile "discovery.file" Text None;
    /// Machines of EC2.
    DiscoveryAwsFind "discovery.aws.find" Text None;
    /// Its region instead of this machine's.
    DiscoveryAwsRegion "discovery.aws.region" Text None;
    /// Base URL of its API.
    DiscoveryAwsEndpoint "discovery.aws.endpoint" Text None;
    /// Base URL of its metadata service.
    DiscoveryAwsMetadata "discovery.aws.metadata" Text None;
    /// Machines of Google Compute Engine.
    DiscoveryGcpFind "discovery.gcp.find" Text None;
    /// Base URL of its API.
    DiscoveryGcpEndpoint "discovery.gcp.endpoint" Text None;
    /// Base URL of its metadata service.
    DiscoveryGcpMetadata "discovery.gcp.metadata" Text None;
    /// Machines of Azure.
    DiscoveryAzureFind "discovery.azure.find" Text None;
    /// Base URL of its API.
    DiscoveryAzureEndpoint "discovery.azure.endpoint" Text None;
    /// Base URL of its metadata service.
    DiscoveryAzureMetadata "discovery.azure.metadata" Text None;
    /// Machines of Hetzner Cloud.
    DiscoveryHetznerFind "discovery.hetzner.find" Text None;
    /// File with the token of its API.
    DiscoveryHetznerTokenFile "discovery.hetzner.token-file" Text None;
    /// Base URL of its API.
    DiscoveryHetznerEndpoint "discovery.hetzner.endpoint" Text None;
    /// Base URL of its metadata service.
    DiscoveryHetznerMetadata "discovery.hetzner.metadata" Text None;
    /// Machines of an OpenStack.
    DiscoveryOpenstackFind "discovery.openstack.find" Text None;
    /// Base URL of its identity service.
    DiscoveryOpenstackAuthUrl "discovery.openstack.auth-url" Text None;
    /// Id of an application credential.
    DiscoveryOpenstackCredentialId "discovery.openstack.credential-id" Text None;
    /// File with its secret.
    DiscoveryOpenstackSecretFile "discovery.openstack.secret-file" Text None;
    /// Region in the catalogue, when there are several.
    DiscoveryOpenstackRegion "discovery.openstack.region" Text None;
    /// Base URL of its metadata service.
    DiscoveryOpenstackMetadata "discovery.openstack.metadata" Text None;
    /// Machines of DigitalOcean.
    DiscoveryDigitaloceanFind "discovery.digitalocean.find" Text None;
    /// File with the token of its API.
    DiscoveryDigitaloceanTokenFile "discovery.digitalocean.token-file" Text None;
    /// Base URL of its API.
    DiscoveryDigitaloceanEndpoint "discovery.digitalocean.endpoint" Text None;
    /// Base URL of its metadata service.
    DiscoveryDigitaloceanMetadata "discovery.digitalocean.metadata" Text None;
    /// Gossip interval.
    GossipIntervalMs "timing.gossip-interval-ms" Whole whole(Timing::default().gossip_interval_ms);
    /// How long the view must be unchanged.
    SettleMs "timing.settle-ms" Whole whole(Timing::default().settle_ms);
    /// How long a nominee may take.
    NomineePatienceMs "timing.nominee-patience-ms" Whole whole(Timing::default().nominee_patience_ms);
    /// Labels that servers are to have.
    LabelsServer "labels.on-servers" List list(&[]);
    /// Labels that agents are to have.
    LabelsAgent "labels.on-agents" List list(&[]);
    /// Whether dead servers are replaced.
    HealingMode "healing.mode" Text text("auto");
    /// How long a server must have been dead before it is replaced.
    HealingGraceS "healing.grace-s" Whole whole(Healing::default().grace.as_secs());
    /// How long a promoted machine may take.
    HealingPatienceS "healing.patience-s" Whole whole(Healing::default().patience.as_secs());
    /// How long pods may take to move away.
    HealingDrainS "healing.drain-s" Whole whole(Healing::default().drain.as_secs());
}

impl Key {
    /// The key of this name.
    pub(super) fn named(name: &str) -> Option<Key> {
        Key::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// The environment variable that sets it: `MUSTER_K3S_VERSION`.
    pub(super) fn variable(self) -> String {
        format!("MUSTER_{}", self.name().replace(['.', '-'], "_").to_ascii_uppercase())
    }

    /// The command line flag of its name: `--k3s-version`.
    pub(super) fn flag(self) -> String {
        format!("--{}", self.name().replace('.', "-"))
    }

    /// Whether it names a file that holds a secret. Somebody will put the secret itself there: a value that is no path is
    /// never shown.
    pub(super) fn names_secret_file(self) -> bool {
        matches!(
            self,
            Key::TokenFile
                | Key::PreviousTokenFile
                | Key::K3sTokenFile
                | Key::K3sAgentTokenFile
                | Key::DiscoveryHetznerTokenFile
                | Key::DiscoveryOpenstackSecretFile
                | Key::DiscoveryDigitaloceanTokenFile
        )
    }

    /// Whether this is the name of a section.
    pub(super) fn is_section(name: &str) -> bool {
        Key::ALL.iter().any(|key| key.name().strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// What the writer of an unknown key probably meant: the right key in another section, or the nearest name.
    pub(super) fn nearest(unknown: &str) -> Option<&'static str> {
        let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
        let flat = |name: &str| name.to_ascii_lowercase().replace(['.', '_'], "-");
        let names = || Key::ALL.iter().map(|key| key.name()).chain(SECTIONS);
        let asked = flat(unknown);
        let asked_last = flat(unknown.rsplit('.').next().unwrap_or(unknown));
        if let Some(name) = names().find(|name| flat(name) == asked) {
            return Some(name);
        }
        if let Some(name) = names().find(|name| flat(last(name)) == asked_last) {
            return Some(name);
        }
        let distance = |name: &str| strsim::damerau_levenshtein(&asked, &flat(name));
        let (far, name) = names().map(|name| (distance(name), name)).min_by_key(|(far, _)| *far)?;
        (far <= (asked.chars().count() / 3).max(1)).then_some(name)
    }
}

const SECTIONS: [&str; 7] = ["k3s", "host", "api", "discovery", "timing", "labels", "healing"];

fn text(value: &str) -> Option<Value> {
    Some(Value::Text(value.to_owned()))
}

fn whole(value: u64) -> Option<Value> {
    Some(Value::Whole(value))
}

fn list(values: &[&str]) -> Option<Value> {
    Some(Value::List(values.iter().map(|&value| value.to_owned()).collect()))
}

fn table() -> Option<Value> {
    Some(Value::Table(BTreeMap::new()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_variables_and_flags_are_unique_and_defaults_have_their_kind() {
        let count = Key::ALL.len();
        assert_eq!(Key::ALL.iter().map(|key| key.variable()).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(Key::ALL.iter().map(|key| key.flag()).collect::<BTreeSet<_>>().len(), count);
        for &key in Key::ALL {
            assert_eq!(Key::named(key.name()), Some(key));
            match key.default() {
                None => {}
                Some(Value::Text(_)) => assert_eq!(key.kind(), Kind::Text),
                Some(Value::Whole(_)) => assert_eq!(key.kind(), Kind::Whole),
                Some(Value::List(_)) => assert_eq!(key.kind(), Kind::List),
                Some(Value::Table(_)) => assert_eq!(key.kind(), Kind::Table),
            }
            if let Some((section, _)) = key.name().split_once('.') {
                assert!(SECTIONS.contains(&section), "{section}");
            }
        }
        assert!(SECTIONS.iter().all(|section| Key::is_section(section)));
        assert_eq!(Key::K3sVersion.variable(), "MUSTER_K3S_VERSION");
        assert_eq!(Key::K3sVersion.flag(), "--k3s-version");
    }

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        for (unknown, wanted) in [
            ("sevrers", Some("servers")),
            ("server", Some("servers")),
            ("Servers", Some("servers")),
            ("token_file", Some("token-file")),
            ("version", Some("k3s.version")),
            ("k3s-version", Some("k3s.version")),
            ("k3s.versoin", Some("k3s.version")),
            ("k3s.servers", Some("servers")),
            ("hosts", Some("host")),
            ("host.skp", Some("host.skip")),
            ("api.adresses", Some("api.addresses")),
            ("timing.setle-ms", Some("timing.settle-ms")),
            ("favourite-colour", None),
            ("x", None),
        ] {
            assert_eq!(Key::nearest(unknown), wanted, "{unknown}");
        }
    }
}
