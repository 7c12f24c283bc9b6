//! The options k3s knows, per command. An option that the stand-in accepts and ignores is still listed here,
//! because an option k3s does not know is an error (agent) or a warning (server).

/// What may follow an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--x` or `--x=true|false`.
    Bool,
    /// `--x value`; the last one wins.
    Value,
    /// `--x value`; every one counts.
    List,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Long name, also the key in config.yaml.
    pub name: &'static str,
    /// Short name, empty if none.
    pub alias: &'static str,
    /// Environment variable, empty if none.
    pub env: &'static str,
    /// What follows.
    pub kind: Kind,
}

const fn flag(name: &'static str, alias: &'static str, env: &'static str, kind: Kind) -> Flag {
    Flag { name, alias, env, kind }
}
const fn value(name: &'static str) -> Flag {
    flag(name, "", "", Kind::Value)
}
const fn list(name: &'static str) -> Flag {
    flag(name, "", "", Kind::List)
}
const fn switch(name: &'static str) -> Flag {
    flag(name, "", "", Kind::Bool)
}

/// Options of `server` and `agent` both.
const BOTH: &[Flag] = &[
    flag("config", "c", "K3S_CONFIG_FILE", Kind::Value),
    flag("debug", "", "K3S_DEBUG", Kind::Bool),
    flag("v", "", "", Kind::Value),
    value("vmodule"),
    flag("log", "l", "", Kind::Value),
    switch("alsologtostderr"),
    flag("token", "t", "K3S_TOKEN", Kind::Value),
    flag("token-file", "", "K3S_TOKEN_FILE", Kind::Value),
    flag("server", "s", "K3S_URL", Kind::Value),
    flag("data-dir", "d", "K3S_DATA_DIR", Kind::Value),
    flag("node-ip", "i", "", Kind::List),
    list("node-external-ip"),
    list("node-internal-dns"),
    list("node-external-dns"),
    flag("node-name", "", "K3S_NODE_NAME", Kind::Value),
    switch("with-node-id"),
    switch("protect-kernel-defaults"),
    flag("selinux", "", "K3S_SELINUX", Kind::Bool),
    flag("lb-server-port", "", "K3S_LB_SERVER_PORT", Kind::Value),
    switch("docker"),
    value("container-runtime-endpoint"),
    value("default-runtime"),
    value("image-service-endpoint"),
    value("private-registry"),
    list("airgap-extra-registry"),
    value("pause-image"),
    value("snapshotter"),
    value("flannel-iface"),
    value("flannel-conf"),
    value("flannel-cni-conf"),
    flag("vpn-auth", "", "K3S_VPN_AUTH", Kind::Value),
    flag("vpn-auth-file", "", "K3S_VPN_AUTH_FILE", Kind::Value),
    flag("resolv-conf", "", "K3S_RESOLV_CONF", Kind::Value),
    list("kubelet-arg"),
    list("kube-proxy-arg"),
    list("node-taint"),
    list("node-label"),
    value("image-credential-provider-bin-dir"),
    value("image-credential-provider-config"),
    switch("disable-default-registry-endpoint"),
    switch("nonroot-devices"),
    switch("enable-pprof"),
    value("bind-address"),
    switch("rootless"),
    switch("prefer-bundled-bin"),
];

/// Options of `agent` alone.
const AGENT: &[Flag] = &[switch("disable-apiserver-lb")];

/// Options of `server` alone.
const SERVER: &[Flag] = &[
    list("cluster-cidr"),
    list("service-cidr"),
    value("service-node-port-range"),
    list("cluster-dns"),
    value("cluster-domain"),
    list("kube-apiserver-arg"),
    list("etcd-arg"),
    list("kube-scheduler-arg"),
    list("kube-controller-manager-arg"),
    list("kube-controller-arg"),
    list("kube-cloud-controller-manager-arg"),
    list("kube-cloud-controller-arg"),
    value("https-listen-port"),
    value("supervisor-port"),
    value("apiserver-port"),
    value("apiserver-bind-address"),
    value("advertise-address"),
    value("advertise-port"),
    list("tls-san"),
    switch("tls-san-security"),
    value("flannel-backend"),
    switch("flannel-ipv6-masq"),
    switch("flannel-external-ip"),
    value("egress-selector-mode"),
    value("servicelb-namespace"),
    flag("write-kubeconfig", "o", "K3S_KUBECONFIG_OUTPUT", Kind::Value),
    flag("write-kubeconfig-mode", "", "K3S_KUBECONFIG_MODE", Kind::Value),
    flag("write-kubeconfig-group", "", "K3S_KUBECONFIG_GROUP", Kind::Value),
    value("helm-job-image"),
    flag("agent-token", "", "K3S_AGENT_TOKEN", Kind::Value),
    flag("agent-token-file", "", "K3S_AGENT_TOKEN_FILE", Kind::Value),
    flag("cluster-init", "", "K3S_CLUSTER_INIT", Kind::Bool),
    flag("cluster-reset", "", "K3S_CLUSTER_RESET", Kind::Bool),
    value("cluster-reset-restore-path"),
    switch("kine-tls"),
    flag("datastore-endpoint", "", "K3S_DATASTORE_ENDPOINT", Kind::Value),
    flag("datastore-cafile", "", "K3S_DATASTORE_CAFILE", Kind::Value),
    flag("datastore-certfile", "", "K3S_DATASTORE_CERTFILE", Kind::Value),
    flag("datastore-keyfile", "", "K3S_DATASTORE_KEYFILE", Kind::Value),
    switch("etcd-expose-metrics"),
    switch("etcd-disable-snapshots"),
    value("etcd-snapshot-name"),
    value("etcd-snapshot-schedule-cron"),
    value("etcd-snapshot-reconcile-interval"),
    value("etcd-snapshot-retention"),
    value("etcd-snapshot-dir"),
    switch("etcd-snapshot-compress"),
    switch("etcd-s3"),
    value("etcd-s3-endpoint"),
    value("etcd-s3-endpoint-ca"),
    switch("etcd-s3-skip-ssl-verify"),
    value("etcd-s3-access-key"),
    value("etcd-s3-secret-key"),
    value("etcd-s3-session-token"),
    value("etcd-s3-bucket"),
    value("etcd-s3-bucket-lookup-type"),
    value("etcd-s3-region"),
    value("etcd-s3-folder"),
    value("etcd-s3-retention"),
    value("etcd-s3-proxy"),
    value("etcd-s3-config-secret"),
    switch("etcd-s3-insecure"),
    value("etcd-s3-timeout"),
    value("default-local-storage-path"),
    list("disable"),
    switch("disable-scheduler"),
    switch("disable-cloud-controller"),
    switch("disable-kube-proxy"),
    switch("disable-network-policy"),
    switch("disable-helm-controller"),
    switch("disable-apiserver"),
    switch("disable-controller-manager"),
    switch("disable-etcd"),
    switch("disable-agent"),
    switch("embedded-registry"),
    switch("supervisor-metrics"),
    flag("system-default-registry", "", "K3S_SYSTEM_DEFAULT_REGISTRY", Kind::Value),
    switch("secrets-encryption"),
    value("secrets-encryption-provider"),
];

/// Options of `etcd-snapshot` beside the server's: its own short names.
const SNAPSHOT: &[Flag] = &[
    flag("name", "", "", Kind::Value),
    flag("etcd-server", "s", "K3S_URL", Kind::Value),
    flag("etcd-token", "t", "K3S_TOKEN", Kind::Value),
    flag("output", "o", "", Kind::Value),
    value("snapshot-compress"),
];

/// The options of a command; `None` for a command without any.
pub fn of(command: &str) -> Option<Vec<Flag>> {
    match command {
        "server" => Some([BOTH, SERVER].concat()),
        "agent" => Some([BOTH, AGENT].concat()),
        "etcd-snapshot" => {
            // The snapshot command's `-s`, `-t` and `-o` are its own.
            let mut all = SNAPSHOT.to_vec();
            all.extend([BOTH, SERVER].concat().into_iter().map(|mut flag| {
                if matches!(flag.alias, "s" | "t" | "o") {
                    flag.alias = "";
                }
                flag
            }));
            Some(all)
        }
        _ => None,
    }
}
