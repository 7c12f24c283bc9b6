//! The table of served resources, and the paths that name them.

/// One resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural name in paths.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Directory under `/registry/`.
    pub stored: &'static str,
}

const fn core(plural: &'static str, kind: &'static str, namespaced: bool, stored: &'static str) -> Resource {
    Resource { group: "", version: "v1", plural, kind, namespaced, stored }
}

/// Nodes.
pub const NODES: Resource = core("nodes", "Node", false, "minions");
/// Secrets.
pub const SECRETS: Resource = core("secrets", "Secret", true, "secrets");
/// Events.
pub const EVENTS: Resource = core("events", "Event", true, "events");
/// Config maps.
pub const CONFIG_MAPS: Resource = core("configmaps", "ConfigMap", true, "configmaps");
/// Namespaces.
pub const NAMESPACES: Resource = core("namespaces", "Namespace", false, "namespaces");
/// Leases.
pub const LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    plural: "leases",
    kind: "Lease",
    namespaced: true,
    stored: "leases",
};
/// Endpoint slices.
pub const ENDPOINT_SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    version: "v1",
    plural: "endpointslices",
    kind: "EndpointSlice",
    namespaced: true,
    stored: "endpointslices",
};
/// Snapshot records.
pub const SNAPSHOT_FILES: Resource = Resource {
    group: "k3s.cattle.io",
    version: "v1",
    plural: "etcdsnapshotfiles",
    kind: "ETCDSnapshotFile",
    namespaced: false,
    stored: "k3s.cattle.io/etcdsnapshotfiles",
};

/// Everything served.
pub const ALL: &[Resource] = &[
    NODES,
    SECRETS,
    EVENTS,
    CONFIG_MAPS,
    NAMESPACES,
    LEASES,
    ENDPOINT_SLICES,
    SNAPSHOT_FILES,
    core("pods", "Pod", true, "pods"),
    core("services", "Service", true, "services/specs"),
    core("endpoints", "Endpoints", true, "services/endpoints"),
];

/// What a request's path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The resource.
    pub resource: Resource,
    /// Namespace; empty for cluster-wide resources and for lists over all namespaces.
    pub namespace: String,
    /// Object; empty for the collection.
    pub name: String,
    /// `status` or empty.
    pub subresource: String,
}

impl Resource {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
    /// `nodes` or `leases.coordination.k8s.io`, as errors name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
    /// Store key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}{name}", self.prefix(if self.namespaced { namespace } else { "" }))
    }
    /// Store prefix of a collection; an empty namespace means all.
    pub fn prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() {
            format!("/registry/{}/", self.stored)
        } else {
            format!("/registry/{}/{namespace}/", self.stored)
        }
    }
}

/// Reads `/api/v1/…` and `/apis/<group>/<version>/…`.
pub fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let find = |plural: &str, namespaced: bool| {
        ALL.iter()
            .find(|r| {
                r.group == group
                    && r.version == version
                    && r.plural == plural
                    && (r.namespaced || !namespaced)
            })
            .copied()
    };
    let (namespace, rest) = match rest {
        // `namespaces/x` alone, or with `status`, names the namespace itself.
        ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
            return build(find(plural, true)?, namespace, rest);
        }
        rest => ("", rest),
    };
    let [plural, rest @ ..] = rest else { return None };
    build(find(plural, false)?, namespace, rest)
}

fn build(resource: Resource, namespace: &str, rest: &[&str]) -> Option<Target> {
    let (name, subresource) = match rest {
        [] => ("", ""),
        [name] => (*name, ""),
        [name, sub] => (*name, *sub),
        _ => return None,
    };
    if resource.namespaced && namespace.is_empty() && !name.is_empty() {
        return None;
    }
    Some(Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> Option<(&'static str, String, String, String)> {
        target(path).map(|t| (t.resource.plural, t.namespace, t.name, t.subresource))
    }

    #[test]
    fn paths_name_resources() {
        let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        let is = |path: &str, plural: &str, rest: (&str, &str, &str)| {
            let (found, a, b, c) = named(path).unwrap();
            assert_eq!((found, (a, b, c)), (plural, text(rest.0, rest.1, rest.2)), "{path}");
        };
        is("/api/v1/nodes", "nodes", ("", "", ""));
        is("/api/v1/nodes/a/status", "nodes", ("", "a", "status"));
        is("/api/v1/secrets", "secrets", ("", "", ""));
        is("/api/v1/namespaces/kube-system/secrets/x", "secrets", ("kube-system", "x", ""));
        is("/api/v1/namespaces/kube-system", "namespaces", ("", "kube-system", ""));
        is(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
            "leases",
            ("kube-node-lease", "a", ""),
        );
        assert_eq!(named("/api/v1/secrets/x"), None);
        assert_eq!(named("/apis/apps/v1/deployments"), None);
        assert_eq!(named("/readyz"), None);
    }
}
