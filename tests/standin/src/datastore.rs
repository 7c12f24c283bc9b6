//! Which datastore a server start ends up with. This is the table that decides between joining, founding and silently
//! becoming a cluster of one, so it is a function of its own.

/// What is known at the start.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Start<'a> {
    pub wal_exists: bool,
    pub cluster_init: bool,
    pub server_url: &'a str,
    pub token: &'a str,
    pub endpoint: &'a str,
}

/// What the start becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Embedded etcd, a member already.
    Existing,
    /// Embedded etcd, a new cluster.
    Found,
    /// Embedded etcd, joining the cluster at the URL.
    Join,
    /// `--cluster-init` with `--server` and no token: fatal.
    TokenRequired,
    /// kine/sqlite: a standalone cluster, whatever the URL says.
    Lone,
    /// An external datastore.
    External,
}

/// The table.
pub fn choose(start: &Start<'_>) -> Choice {
    let joins = !start.server_url.is_empty() && !start.token.is_empty();
    if start.wal_exists {
        Choice::Existing
    } else if !start.endpoint.is_empty() {
        Choice::External
    } else if !start.cluster_init && !joins {
        Choice::Lone
    } else if start.server_url.is_empty() {
        Choice::Found
    } else if start.token.is_empty() {
        Choice::TokenRequired
    } else {
        Choice::Join
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let start = |wal_exists, cluster_init, server_url, token, endpoint| {
            choose(&Start { wal_exists, cluster_init, server_url, token, endpoint })
        };
        let url = "https://10.0.0.1:6443";
        // An existing WAL beats everything.
        assert_eq!(start(true, true, "", "t", "postgres://x"), Choice::Existing);
        assert_eq!(start(true, false, url, "t", ""), Choice::Existing);
        assert_eq!(start(true, false, "", "", ""), Choice::Existing);
        assert_eq!(start(false, true, "", "t", ""), Choice::Found);
        assert_eq!(start(false, true, "", "", ""), Choice::Found);
        assert_eq!(start(false, false, url, "t", ""), Choice::Join);
        // The URL wins over cluster-init.
        assert_eq!(start(false, true, url, "t", ""), Choice::Join);
        assert_eq!(start(false, true, url, "", ""), Choice::TokenRequired);
        // The dangerous row: a server URL with no token is ignored.
        assert_eq!(start(false, false, url, "", ""), Choice::Lone);
        assert_eq!(start(false, false, "", "t", ""), Choice::Lone);
        assert_eq!(start(false, false, "", "", "postgres://x"), Choice::External);
        assert_eq!(start(false, true, url, "t", "postgres://x"), Choice::External);
    }
}
