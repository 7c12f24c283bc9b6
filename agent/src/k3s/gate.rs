//! May k3s start here, now? Asked before every start, by `ExecCondition=`, from local facts alone.
//!
//! Left to itself k3s founds, joins or quietly runs alone, depending on what is left on disk (`k3s-facts.md` parts 2.1, 3.2). The
//! rule here: on an empty data directory nothing starts without the ledger's word; on existing data nothing starts that is
//! another cluster's. A member with its data may always start, with no network and no peer in sight.
//!
//! A file that cannot be read counts as either of its possible states, and the start is allowed only if it would be under
//! both. That keeps a member of a running cluster alive when only Muster's own ledger is damaged.

use std::borrow::Cow;

use super::config_file::ConfigFile;
use super::facts::{DiskFacts, Foreign, ForeignKind};
use super::token::{TokenFile, TokenForm};
use super::{K3sRole, Paths};
use crate::core::{CaHash, Known, Why};

/// What the ledger says about this node, as far as a start goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateLedger {
    /// The CA hash of the certificate this node knows to be chosen.
    pub certificate: Option<CaHash>,
    /// The node may run a provisional cluster: written before its first start, cleared when it is chosen or discarded.
    pub provisional_armed: bool,
    /// The node has been seen as a member of the certificate's cluster.
    pub member: bool,
    /// The certificate was annulled and no later one is known.
    pub annulled: bool,
    /// The role the node has taken.
    pub role: Option<K3sRole>,
    /// Why a recovery of the cluster keeps k3s from starting as a server here.
    pub fenced: Option<String>,
}

/// Everything the gate looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateFacts {
    /// The ledger; absent when this node has none.
    pub ledger: Known<GateLedger>,
    /// config.yaml; unknown also when it is half-written.
    pub config: Known<ConfigFile>,
    /// The token file that config.yaml names.
    pub token: Known<TokenFile>,
    /// The data directory.
    pub disk: DiskFacts,
    /// What else k3s or its unit would read.
    pub foreign: Known<Vec<Foreign>>,
}

const PARKED: &str = "nothing starts until a person has looked; see `muster why`";
const MUSTER_WRITES: &str = "muster writes it and starts k3s when the node's part in the cluster is known";

/// The rule.
///
/// # Errors
/// The reason for which k3s must not start.
pub fn may_start(role: K3sRole, facts: &GateFacts, paths: &Paths) -> Result<(), Why> {
    let config = match &facts.config {
        Known::Yes(config) => config,
        Known::Absent => return refuse("gate-no-config", "there is no config.yaml", MUSTER_WRITES),
        Known::Unknown(unread) => return refuse("gate-config-unreadable", unread.to_string(), MUSTER_WRITES),
    };
    check_config(config, paths)?;
    match role {
        K3sRole::Agent => agent(config, facts),
        K3sRole::Server => {
            // What cannot be told may be either: both answers must allow the start.
            for wal in possible(&facts.disk.wal) {
                for tombstone in possible(&facts.disk.tombstone) {
                    server(config, facts, wal, tombstone)?;
                }
            }
            Ok(())
        }
    }
}

/// The values a fact may have: one when it is known, both when it is not.
fn possible(fact: &Known<()>) -> Vec<bool> {
    match fact {
        Known::Yes(()) => vec![true],
        Known::Absent => vec![false],
        Known::Unknown(_) => vec![true, false],
    }
}

fn refuse(rule: &'static str, detail: impl Into<Cow<'static, str>>, next: &'static str) -> Result<(), Why> {
    Err(Why::new(rule, detail, next))
}

/// What no configuration of ours says, whatever the role and the data.
fn check_config(config: &ConfigFile, paths: &Paths) -> Result<(), Why> {
    if config.cluster_reset {
        let detail = "config.yaml asks for a cluster-reset";
        return refuse(
            "gate-cluster-reset",
            detail,
            "a reset is run by a person, on one server, with the unit stopped",
        );
    }
    if let Some(argument) = &config.argument {
        let detail = format!("config.yaml has the argument {argument}");
        return refuse("gate-argument", detail, MUSTER_WRITES);
    }
    if config.external_datastore {
        return refuse("gate-datastore", "config.yaml names an external datastore", PARKED);
    }
    if config.inline_token {
        return refuse("gate-token-in-config", "config.yaml holds a token itself", MUSTER_WRITES);
    }
    let default = std::path::Path::new("/var/lib/rancher/k3s");
    let named = config.data_dir.as_deref().unwrap_or(default);
    if named != paths.data_dir {
        let detail = format!(
            "config.yaml says data-dir {}, muster's configuration says {}",
            named.display(),
            paths.data_dir.display()
        );
        return refuse("gate-data-dir", detail, MUSTER_WRITES);
    }
    Ok(())
}

/// Whether a key of a drop-in moves the data or is laid over them at every start.
fn overrides_data(key: &str) -> bool {
    ["cluster-reset", "etcd-arg:", "kube-apiserver-arg:"].iter().any(|begin| key.starts_with(begin))
        || ["data-dir", "d", "rootless"].contains(&key)
}

/// Drop-ins can say anything that config.yaml does not. Where data decide, only the keys that override data matter.
fn check_foreign(facts: &GateFacts, has_data: bool) -> Result<(), Why> {
    let foreign = match &facts.foreign {
        Known::Yes(foreign) => foreign.as_slice(),
        Known::Absent => &[],
        Known::Unknown(_) if has_data => &[],
        Known::Unknown(unread) => return refuse("gate-foreign-config", unread.to_string(), PARKED),
    };
    for file in foreign.iter().filter(|file| file.kind == ForeignKind::ConfigDropIn) {
        let harmful = |key: &&String| !has_data || overrides_data(key);
        if let Some(key) = file.keys.iter().find(harmful) {
            let detail = format!("{} sets {key}", file.path.display());
            return refuse("gate-foreign-config", detail, "remove that key: muster alone decides it");
        }
    }
    Ok(())
}

fn server(config: &ConfigFile, facts: &GateFacts, wal: bool, tombstone: bool) -> Result<(), Why> {
    check_foreign(facts, wal)?;
    check_token(facts, wal)?;
    if tombstone {
        // Even with `server:` set: if that peer does not answer at this very restart, k3s has moved its database away and
        // may go on alone (k3s-facts.md 3.2).
        let detail = "the cluster has removed this member, and its etcd left a tombstone";
        return refuse(
            "gate-tombstone",
            detail,
            "make the machine a new node (docs/operations.md), or leave it off",
        );
    }
    let ledger = match &facts.ledger {
        Known::Yes(ledger) => ledger,
        Known::Absent if wal => {
            let detail = "there is k3s data but no certificate: an older cluster, or a restored disk";
            return refuse("gate-data-without-certificate", detail, PARKED);
        }
        Known::Absent => {
            return refuse("gate-no-word", "the ledger does not know of any cluster", MUSTER_WRITES);
        }
        Known::Unknown(unread) => return unreadable_ledger(config, wal, unread),
    };
    if let Some(cause) = &ledger.fenced {
        return refuse("gate-fenced", cause.clone(), "muster starts k3s when that is done; see `muster why`");
    }
    if ledger.role == Some(K3sRole::Agent) {
        return refuse("gate-other-role", "the ledger says that this node is an agent", MUSTER_WRITES);
    }
    if ledger.annulled {
        let detail = "the certificate of this cluster was annulled";
        return refuse(
            "gate-annulled",
            detail,
            "muster moves the data aside and takes part in the next founding",
        );
    }
    if ledger.certificate.is_some() && ledger.role.is_none() {
        // A copied disk under an identity of its own, or data that is being moved aside: the certificate alone is no word.
        let detail = "the ledger has taken no role in the cluster";
        return refuse("gate-no-word", detail, MUSTER_WRITES);
    }
    match (&ledger.certificate, wal) {
        (Some(ca), true) => member(ca, ledger, facts),
        (Some(ca), false) => joining(ca, config, facts),
        (None, true) if ledger.provisional_armed => Ok(()),
        (None, true) => {
            let detail = "there is k3s data, but neither a certificate nor a founding of this node";
            refuse("gate-data-without-certificate", detail, PARKED)
        }
        (None, false) if ledger.provisional_armed => founding(config, facts),
        (None, false) => {
            refuse("gate-no-word", "the ledger gives no word to found or to join", MUSTER_WRITES)
        }
    }
}

/// Data of a member and a configuration that can only join: k3s starts the same member again and can do nothing else, so a
/// ledger that cannot be read does not keep it down. Muster writes `server:` only with a certificate in hand.
fn unreadable_ledger(config: &ConfigFile, wal: bool, unread: &crate::core::Unread) -> Result<(), Why> {
    if wal && config.server.is_some() && !config.cluster_init {
        return Ok(());
    }
    refuse(
        "gate-ledger-unreadable",
        unread.to_string(),
        "nothing is founded or joined on a ledger that cannot be read",
    )
}

fn member(ca: &CaHash, ledger: &GateLedger, facts: &GateFacts) -> Result<(), Why> {
    match &facts.disk.ca {
        Known::Yes(found) if found == ca => Ok(()),
        Known::Yes(found) => other_cluster(ca, found),
        // k3s writes the CA again from its own datastore. Before this node was ever seen as a member, the data may be a
        // provisional cluster's.
        Known::Absent | Known::Unknown(_) if ledger.member => Ok(()),
        Known::Absent => {
            let detail = "there is k3s data without a CA, and this node was never seen as a member";
            refuse("gate-data-of-unknown-cluster", detail, "muster moves the data aside and joins")
        }
        Known::Unknown(unread) => refuse("gate-data-of-unknown-cluster", unread.to_string(), PARKED),
    }
}

fn other_cluster(ca: &CaHash, found: &CaHash) -> Result<(), Why> {
    let detail =
        format!("the data directory holds the CA {}, the certificate names {}", found.short(), ca.short());
    refuse("gate-other-cluster", detail, "muster moves the data aside and joins")
}

fn joining(ca: &CaHash, config: &ConfigFile, facts: &GateFacts) -> Result<(), Why> {
    if config.cluster_init {
        let detail = "a certificate exists, and config.yaml still says cluster-init with no data on disk";
        return refuse("gate-armed-after-founding", detail, MUSTER_WRITES);
    }
    if config.server.is_none() {
        let detail = "there is no data on disk, and config.yaml names no server to join: k3s would run alone";
        return refuse("gate-no-server", detail, MUSTER_WRITES);
    }
    check_pinned(ca, facts, "server")?;
    if !facts.disk.sqlite.is_absent() {
        let detail = "the data directory holds a single-server (sqlite) database, or that cannot be told";
        return refuse("gate-sqlite", detail, PARKED);
    }
    match &facts.disk.ca {
        // k3s takes a CA left on disk instead of the one it downloads.
        Known::Yes(found) if found != ca => other_cluster(ca, found),
        Known::Unknown(unread) => refuse("gate-data-of-unknown-cluster", unread.to_string(), PARKED),
        Known::Yes(_) | Known::Absent => Ok(()),
    }
}

fn founding(config: &ConfigFile, facts: &GateFacts) -> Result<(), Why> {
    if !config.cluster_init || config.server.is_some() {
        let detail = "this node is to found, and config.yaml does not say cluster-init alone";
        return refuse("gate-not-armed", detail, MUSTER_WRITES);
    }
    if !facts.disk.sqlite.is_absent() {
        let detail =
            "the data directory holds a single-server (sqlite) database, which cluster-init would take over";
        return refuse("gate-sqlite", detail, PARKED);
    }
    Ok(())
}

fn check_token(facts: &GateFacts, has_data: bool) -> Result<(), Why> {
    let empty = "k3s takes an empty token for none, and may then run alone";
    match &facts.token {
        Known::Yes(token) if token.form == TokenForm::Empty => {
            refuse("gate-token-missing", empty, MUSTER_WRITES)
        }
        Known::Yes(token) if token.form == TokenForm::Broken => refuse(
            "gate-token-missing",
            "the token file does not hold a token that k3s can read",
            MUSTER_WRITES,
        ),
        Known::Absent => {
            refuse("gate-token-missing", "config.yaml names no token file, or it is not there", MUSTER_WRITES)
        }
        Known::Unknown(unread) if !has_data => {
            refuse("gate-token-missing", unread.to_string(), MUSTER_WRITES)
        }
        Known::Yes(_) | Known::Unknown(_) => Ok(()),
    }
}

/// A first join pins the CA: a bare password joins whatever cluster answers.
fn check_pinned(ca: &CaHash, facts: &GateFacts, user: &str) -> Result<(), Why> {
    match &facts.token {
        Known::Yes(TokenFile { form: TokenForm::Full { ca: pinned, user: named }, .. })
            if pinned == ca && named == user =>
        {
            Ok(())
        }
        Known::Yes(TokenFile { form: TokenForm::Full { ca: pinned, user: named }, .. }) => {
            let detail = format!(
                "the token is {named}'s for the CA {}, wanted {user}'s for {}",
                pinned.short(),
                ca.short()
            );
            refuse("gate-token-not-pinned", detail, MUSTER_WRITES)
        }
        _ => refuse("gate-token-not-pinned", "the token does not pin the cluster's CA", MUSTER_WRITES),
    }
}

/// An agent makes no cluster; what must not happen is that it joins another one.
fn agent(config: &ConfigFile, facts: &GateFacts) -> Result<(), Why> {
    check_foreign(facts, false)?;
    if config.cluster_init || config.server.is_none() {
        return refuse(
            "gate-no-server",
            "config.yaml is not an agent's: it names no server, or says cluster-init",
            MUSTER_WRITES,
        );
    }
    check_token(facts, false)?;
    let ledger = match &facts.ledger {
        Known::Yes(ledger) => ledger,
        // The pinned token came from a certificate, and k3s checks it against what answers.
        Known::Unknown(_) if pins_something(facts) => return Ok(()),
        Known::Unknown(unread) => return refuse("gate-ledger-unreadable", unread.to_string(), PARKED),
        Known::Absent => {
            return refuse("gate-no-word", "the ledger does not know of any cluster", MUSTER_WRITES);
        }
    };
    if ledger.role == Some(K3sRole::Server) {
        return refuse("gate-other-role", "the ledger says that this node is a server", MUSTER_WRITES);
    }
    if ledger.role.is_none() {
        let detail = "the ledger has taken no role in the cluster";
        return refuse("gate-no-word", detail, MUSTER_WRITES);
    }
    match &ledger.certificate {
        Some(_) if ledger.annulled => refuse(
            "gate-annulled",
            "the certificate of this cluster was annulled",
            "muster takes part in the next founding",
        ),
        Some(ca) => check_pinned(ca, facts, "node"),
        None => refuse("gate-no-word", "the ledger does not know of any cluster", MUSTER_WRITES),
    }
}

fn pins_something(facts: &GateFacts) -> bool {
    matches!(&facts.token, Known::Yes(TokenFile { form: TokenForm::Full { user, .. }, .. }) if user == "node")
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
