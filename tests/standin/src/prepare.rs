//! What a server does before anything runs: which datastore, whose CA, whose bootstrap data, which files.

use crate::access::{Access, Options};
use crate::datastore::Choice;
use crate::paths::Paths;
use crate::settings::Server;
use crate::shared::Shared;
use crate::{bootstrap, clock, document, join, logs, material};

/// How many etcd directories of removed members are kept.
const BACKUPS: usize = 5;

/// Driver, token, remote CA, bootstrap data: everything before the listener opens. Returns access to the server that is
/// joined or reconciled with, if any, and the password in force.
///
/// # Errors
/// The text k3s dies with.
pub async fn prepare(
    settings: &Server,
    paths: &Paths,
    choice: Choice,
) -> Result<(Option<Access>, String), String> {
    let url = &settings.agent.server_url;
    let token = &settings.agent.token;
    let ca = paths.tls("server-ca.crt");
    let options = Options { user: Some("server"), ca_file: Some(&ca), ..Options::default() };
    match choice {
        Choice::External => Err("an external datastore is not served by the stand-in".to_owned()),
        Choice::TokenRequired => {
            Err("failed to check if bootstrap data has been initialized: token is required to join a cluster"
                .to_owned())
        }
        Choice::Lone => Ok((None, material::server_password(paths, token)?)),
        Choice::Found => {
            logs::info("Managed etcd cluster initializing");
            Ok((None, material::server_password(paths, token)?))
        }
        Choice::Existing => {
            logs::info("Managed etcd cluster bootstrap already complete and initialized");
            let password = material::server_password(paths, token)?;
            if settings.cluster_reset {
                return Ok((None, password));
            }
            let mut access = None;
            if !url.is_empty() && !token.is_empty() {
                access = Access::validate(url, token, options).await.ok();
            }
            if let Some(remote) = &access {
                match http_bootstrap(remote, paths).await {
                    Ok(()) => {
                        logs::info("Successfully reconciled with remote datastore");
                        return Ok((access, password));
                    }
                    Err(e) => logs::warn(format!("Unable to reconcile with remote datastore: {e}")),
                }
            }
            let data = bootstrap::from_local_datastore(paths, &password);
            data.and_then(|data| bootstrap::reconcile(paths, &data, false))
                .map_err(|e| format!("failed to reconcile with local datastore: {e}"))?;
            logs::info("Successfully reconciled with local datastore");
            Ok((access, password))
        }
        Choice::Join => {
            let access = Access::validate(url, token, options).await.map_err(|e| {
                format!(
                    "failed to check if bootstrap data has been initialized: failed to validate token: {e}"
                )
            })?;
            logs::info("Managed etcd cluster not yet initialized");
            compare(settings, paths)
                .await
                .map_err(|e| format!("failed to validate server configuration: {e}"))?;
            http_bootstrap(&access, paths).await?;
            let password = access.password().to_owned();
            Ok((Some(access), password))
        }
    }
}

async fn http_bootstrap(access: &Access, paths: &Paths) -> Result<(), String> {
    let data = access.get("/v1-k3s/server-bootstrap").await?;
    bootstrap::reconcile(paths, &data, false)
}

/// Compares the critical settings with those of the contacted server.
async fn compare(settings: &Server, paths: &Paths) -> Result<(), String> {
    let token = match settings.agent_token.as_str() {
        "" => &settings.agent.token,
        token => token,
    };
    let ca = paths.tls("server-ca.crt");
    let options = Options { user: Some("node"), ca_file: Some(&ca), ..Options::default() };
    let access = Access::validate(&settings.agent.server_url, token, options).await?;
    let theirs: serde_json::Value = match access.get("/v1-k3s/config").await {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| e.to_string())?,
        Err(e) => {
            logs::warn(format!("Skipping cluster configuration validation: {e}"));
            return Ok(());
        }
    };
    let mine = document::critical(&settings.critical);
    let flags = different(&mine, &theirs);
    for flag in &flags {
        logs::warn(format!("critical configuration mismatched: {flag}"));
    }
    if flags.is_empty() {
        Ok(())
    } else {
        Err("critical configuration value mismatch between servers".to_owned())
    }
}

/// The options behind the fields that differ.
fn different(mine: &serde_json::Value, theirs: &serde_json::Value) -> Vec<&'static str> {
    const FLAGS: &[(&str, &str)] = &[
        ("ClusterDNSs", "cluster-dns"),
        ("ClusterIPRanges", "cluster-cidr"),
        ("ClusterDomain", "cluster-domain"),
        ("DisableCCM", "disable-cloud-controller"),
        ("DisableHelmController", "disable-helm-controller"),
        ("DisableNPC", "disable-network-policy"),
        ("EncryptSecrets", "secrets-encryption"),
        ("EncryptProvider", "secrets-encryption-provider"),
        ("EmbeddedRegistry", "embedded-registry"),
        ("FlannelBackend", "flannel-backend"),
        ("FlannelIPv6Masq", "flannel-ipv6-masq"),
        ("FlannelExternalIP", "flannel-external-ip"),
        ("EgressSelectorMode", "egress-selector-mode"),
        ("ServiceIPRanges", "service-cidr"),
        ("SupervisorMetrics", "supervisor-metrics"),
    ];
    FLAGS.iter().filter(|(field, _)| mine[field] != theirs[field]).map(|(_, flag)| *flag).collect()
}

/// Makes certificates, passwords and tokens, and returns the agents' password.
///
/// # Errors
/// When a file cannot be written or an authority cannot be used.
pub fn generate(settings: &Server, paths: &Paths, password: &str) -> Result<String, String> {
    material::certificates(paths, settings)?;
    material::passwords_and_tokens(paths, settings, password)
}

/// A tombstone means: this member was removed. With a server to join the old data moves aside, without one the start
/// ends here. Returns the name of the local member.
///
/// # Errors
/// k3s's text, or a failure of the file system.
pub fn tombstone_and_name(shared: &Shared) -> Result<String, String> {
    let paths = &shared.paths;
    if paths.tombstone().exists() && !shared.settings.cluster_reset {
        if shared.settings.agent.server_url.is_empty() {
            return Err("tombstone file has been detected but --server is empty: backup and delete \
                        ${datadir}/server/db to create a new cluster, or set --server to rejoin the cluster"
                .to_owned());
        }
        logs::info("tombstone file has been detected, removing ${datadir}/server/db to rejoin the cluster");
        let backup = paths.server(&format!("db/etcd-backup-{}", clock::unix_now()));
        std::fs::rename(paths.etcd(), &backup).map_err(|e| format!("rename {}: {e}", backup.display()))?;
        prune_backups(paths);
    }
    join::member_name(paths, &shared.settings.agent.node_name, false)
}

fn prune_backups(paths: &Paths) {
    let Ok(entries) = std::fs::read_dir(paths.server("db")) else { return };
    let mut backups: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("etcd-backup-")))
        .collect();
    backups.sort();
    for old in backups.iter().rev().skip(BACKUPS) {
        let _ = std::fs::remove_dir_all(old);
    }
}
