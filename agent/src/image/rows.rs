//! The table: what must not be in an image, why, and what sealing does about it.

use std::fmt::Write;

/// How bad it is when a row is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A secret: whoever has the image has the cluster.
    Secret,
    /// Who a machine is: copies would take each other for themselves.
    Identity,
    /// Data of k3s: copies would be members of a cluster that they never joined.
    K3s,
    /// What a machine leaves behind. An operator may want to keep it.
    Trace,
}

impl Class {
    /// Its word in tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Class::Secret => "secret",
            Class::Identity => "identity",
            Class::K3s => "k3s",
            Class::Trace => "trace",
        }
    }

    /// Whether `--keep` may excuse it.
    #[must_use]
    pub fn may_stay(self) -> bool {
        self == Class::Trace
    }
}

/// A place in an image, and what may stand there. `*` stands for any characters within one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing may stand here; a file, a link and a directory with all that is in it are removed.
    Gone(&'static str),
    /// A directory may stand here, and in it nothing but these.
    Bare(&'static str, &'static [&'static str]),
    /// A directory may stand here, and directories in it, but no file.
    NoFiles(&'static str),
    /// Absent, empty, or the word `uninitialized`; else replaced by an empty file.
    Blank(&'static str),
    /// Absent, or a link to that; else removed.
    LinkTo(&'static str, &'static str),
    /// Absent, or exactly this text, which has the distribution make a new one at boot; else replaced by it, or removed where the
    /// second path stands, whose service makes one if there is none.
    Renewed(&'static str, &'static str, &'static str),
    /// What the image's own configuration of Muster names as the file of a token.
    ConfiguredTokens,
    /// The files of Muster's state and k3s's data where the image's own configuration puts them.
    ConfiguredState,
    /// Text anywhere in the image's own files that can only be a token. Sealing does not cut in files: it names them.
    TokenText,
}

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, for `--keep` and for people.
    pub name: &'static str,
    /// How bad it is.
    pub class: Class,
    /// Where it is looked for.
    pub places: &'static [Place],
    /// Why it must not be in an image.
    pub reason: &'static str,
}

/// What of k3s's data an image may bring: images for a start without a network, and the operator's own manifests.
pub const K3S_STAYS: &[&str] = &["agent/images", "agent/pod-manifests", "server/manifests", "server/static"];
/// What of Muster's state an image may bring: how its preparation is undone.
pub const STATE_STAYS: &[&str] = &["host-journal.jsonl"];

use Place::{Bare, Blank, ConfiguredState, ConfiguredTokens, Gone, LinkTo, NoFiles, Renewed, TokenText};

const fn row(name: &'static str, class: Class, places: &'static [Place], reason: &'static str) -> Row {
    Row { name, class, places, reason }
}

/// The table, in the order in which an image is sealed: what is worst when it stays goes first. The search for text comes last,
/// so that it names nothing that goes anyway.
pub const ROWS: &[Row] = &[
    row(
        "token",
        Class::Secret,
        &[
            Gone("/etc/muster/token"),
            Gone("/var/lib/muster/token"),
            Gone("/etc/credstore/muster.token"),
            Gone("/etc/credstore.encrypted/muster.token"),
            Gone("/usr/lib/credstore/muster.token"),
            ConfiguredTokens,
        ],
        "whoever can read the image, a snapshot or a backup of it owns the cluster; the token comes at boot",
    ),
    row(
        "kubeconfig",
        Class::Secret,
        &[Gone("/etc/rancher/k3s"), Gone("/root/.kube"), Gone("/home/*/.kube")],
        "k3s's configuration holds its tokens, and its kubeconfig is cluster-admin; Muster writes the configuration anew",
    ),
    row(
        "ledger",
        Class::Identity,
        &[Bare("/var/lib/muster", STATE_STAYS), ConfiguredState],
        "the node's key, votes and counters: two machines with one ledger are one node to the others, and park (identity-cloned)",
    ),
    row(
        "node-password",
        Class::Identity,
        &[Gone("/etc/rancher/node")],
        "k3s knows a node by name and this password: copies would replace each other, or be refused",
    ),
    row(
        "k3s-data",
        Class::K3s,
        &[
            // By themselves first: each may be a link to a disk of its own.
            Gone("/var/lib/rancher/k3s/server/db/etcd"),
            Gone("/var/lib/rancher/k3s/server/db"),
            Gone("/var/lib/rancher/k3s/server/tls"),
            Gone("/var/lib/rancher/k3s/server/cred"),
            Bare("/var/lib/rancher/k3s", K3S_STAYS),
            Gone("/var/lib/rancher/k3s-discarded-*"),
        ],
        "a copy would be a member of a cluster that it never joined; Muster founds and joins nothing over such data",
    ),
    row(
        "k3s-units",
        Class::K3s,
        &[
            Gone("/etc/systemd/system/k3s.service"),
            Gone("/etc/systemd/system/k3s-agent.service"),
            Gone("/etc/systemd/system/k3s.service.env"),
            Gone("/etc/systemd/system/k3s-agent.service.env"),
            Gone("/etc/systemd/system/*.wants/k3s.service"),
            Gone("/etc/systemd/system/*.wants/k3s-agent.service"),
            Gone("/etc/init.d/k3s"),
            Gone("/etc/init.d/k3s-agent"),
            Gone("/etc/runlevels/*/k3s"),
            Gone("/etc/runlevels/*/k3s-agent"),
        ],
        "a k3s that starts by itself on an empty data directory is a cluster of its own; Muster makes the units once it knows the role",
    ),
    row(
        "kubelet",
        Class::K3s,
        &[Gone("/var/lib/kubelet"), Gone("/var/lib/cni"), Gone("/var/log/pods"), Gone("/var/log/containers")],
        "pods, volumes and addresses of another node",
    ),
    row(
        "machine-id",
        Class::Identity,
        &[Blank("/etc/machine-id"), LinkTo("/var/lib/dbus/machine-id", "/etc/machine-id")],
        "copies would get one DHCP address and one name in logs; an empty file has systemd make a new id at boot, on a read-only root too",
    ),
    row(
        "ssh-host-keys",
        Class::Identity,
        &[Gone("/etc/ssh/ssh_host_*")],
        "who holds the image could play every machine made from it; cloud-init or `ssh-keygen -A` at boot makes new ones",
    ),
    row(
        "random-seed",
        Class::Identity,
        &[
            Gone("/var/lib/systemd/random-seed"),
            Gone("/var/lib/urandom/random-seed"),
            Gone("/var/lib/seedrng"),
            Gone("/boot/loader/random-seed"),
            Gone("/boot/efi/loader/random-seed"),
            Gone("/efi/loader/random-seed"),
        ],
        "copies would begin with the same entropy, and might make the same keys",
    ),
    row(
        "credential-secret",
        Class::Identity,
        &[Gone("/var/lib/systemd/credential.secret")],
        "it opens the credentials that systemd sealed for one machine",
    ),
    row(
        "cloud-init",
        Class::Identity,
        &[
            Bare("/var/lib/cloud", &[]),
            Gone("/var/log/cloud-init*.log"),
            Gone("/etc/cloud/cloud.cfg.d/99-installer.cfg"),
        ],
        "an instance that is known is not set up again; user-data with a token stays in it; `cloud-init clean` leaves some",
    ),
    row(
        "dhcp",
        Class::Identity,
        &[
            Bare("/var/lib/dhcp", &[]),
            Bare("/var/lib/dhclient", &[]),
            Bare("/var/lib/dhcpcd", &[]),
            Gone("/etc/dhcpcd.duid"),
            Bare("/var/lib/systemd/network", &[]),
            Gone("/var/lib/NetworkManager/*.lease"),
            Gone("/var/lib/NetworkManager/secret_key"),
            Gone("/var/lib/NetworkManager/timestamps"),
        ],
        "leases and client ids: copies would ask for one address",
    ),
    row(
        "network-names",
        Class::Identity,
        &[Gone("/etc/udev/rules.d/70-persistent-net.rules"), Gone("/etc/netplan/50-cloud-init.yaml")],
        "rules with the hardware address of the machine that the image was made on: copies come up without a network",
    ),
    row(
        "storage-names",
        Class::Identity,
        &[
            Renewed(
                "/etc/iscsi/initiatorname.iscsi",
                "GenerateName=yes\n",
                "/usr/lib/systemd/system/iscsi-init.service",
            ),
            Gone("/etc/nvme/hostnqn"),
            Gone("/etc/nvme/hostid"),
        ],
        "two initiators of one name corrupt the volumes that they share",
    ),
    row(
        "host-name",
        Class::Identity,
        &[Gone("/etc/hostname")],
        "two machines of one name replace each other in Kubernetes; mmdebstrap copies the builder's",
    ),
    row(
        "authorized-keys",
        Class::Trace,
        &[Gone("/root/.ssh"), Gone("/home/*/.ssh")],
        "keys of whoever made the image open every machine made from it",
    ),
    row(
        "logs",
        Class::Trace,
        &[
            Bare("/var/log/journal", &[]),
            NoFiles("/var/log"),
            Bare("/var/lib/systemd/coredump", &[]),
            Bare("/var/crash", &[]),
        ],
        "they tell of another machine, and may hold what was typed or dumped there",
    ),
    row(
        "histories",
        Class::Trace,
        &[
            Gone("/root/.*_history"),
            Gone("/home/*/.*_history"),
            Gone("/root/.viminfo"),
            Gone("/home/*/.viminfo"),
            Gone("/root/.lesshst"),
            Gone("/home/*/.lesshst"),
            Gone("/root/.wget-hsts"),
        ],
        "a token that was once typed",
    ),
    row(
        "temporary",
        Class::Trace,
        &[Bare("/tmp", &[]), Bare("/var/tmp", &[])],
        "scripts and copies of whoever made the image",
    ),
    row(
        "token-text",
        Class::Secret,
        &[TokenText],
        "a token in an environment file, a script, a log or a drop-in is as open as the image; sealing cuts in no file of yours",
    ),
];

impl Row {
    /// The row of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.name == name)
    }
}

impl Place {
    /// For people: where, and what may stand there.
    fn words(&self) -> String {
        let list =
            |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match self {
            Gone(path) => format!("`{path}`"),
            Bare(path, []) => format!("what is in `{path}`"),
            Bare(path, stays) => format!("what is in `{path}`, except {}", list(stays)),
            NoFiles(path) => format!("files below `{path}`"),
            Blank(path) => format!("`{path}`, unless it is empty or `uninitialized`: becomes empty"),
            LinkTo(path, target) => format!("`{path}`, unless it is a link to `{target}`"),
            Renewed(path, text, unless) => {
                format!("`{path}`: becomes `{}`, or is removed where `{unless}` stands", text.trim_end())
            }
            ConfiguredTokens => "the files that the image's configuration names as `token-file`, `previous-token-file`, \
                                 `k3s.token-file` and `k3s.agent-token-file`"
                .to_owned(),
            ConfiguredState => "the same where its `state-dir` and `k3s.data-dir` are elsewhere".to_owned(),
            TokenText => "in files up to 4 MiB outside of `/usr` (but in `/usr/local` and `/usr/lib/muster`): a full k3s token, a worker \
                          token, a line that gives `MUSTER_TOKEN`, `K3S_TOKEN` or `K3S_AGENT_TOKEN` a value: named, not removed"
                .to_owned(),
        }
    }
}

/// The table of `docs/images.md`, made from [`ROWS`].
#[must_use]
pub fn document_table() -> String {
    let mut text = String::from("| row | kind | why | what goes |\n|---|---|---|---|\n");
    for row in ROWS {
        let places: Vec<String> = row.places.iter().map(Place::words).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            row.name,
            row.class.word(),
            row.reason,
            places.join("; ")
        );
    }
    text
}
