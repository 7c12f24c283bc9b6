//! What can be learnt about a cluster without asking Muster: from the switch, and from k3s itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host::Host;
use crate::net::Net;
use crate::paths;

/// The members of etcd as one server's k3s tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Names of the voters.
    pub voters: Vec<String>,
    /// Names of the learners.
    pub learners: Vec<String>,
}

impl Members {
    /// The nodes of the voters: etcd's names are the nodes' names and eight digits.
    #[must_use]
    pub fn voting_nodes(&self) -> Vec<String> {
        let node = |name: &String| name.rsplit_once('-').map_or(name.clone(), |(node, _)| node.to_owned());
        self.voters.iter().map(node).collect()
    }
}

/// SHA-256 of what the host serves at `/cacerts`, asked from the switch; nothing when it serves none.
#[must_use]
pub fn ca_hash(host: &Host) -> Option<String> {
    let url = format!("https://{}:6443/cacerts", host.address());
    let line = format!(
        "set -o pipefail; /usr/bin/curl -sSfk --connect-timeout 1 --max-time 3 {url} | sha256sum | cut -d' ' -f1"
    );
    let net = Net::new(&paths::prefix(&host.lab));
    let run = net.on_switch("bash").args(["-c", &line]).within(Duration::from_secs(6));
    let done = run.output().ok()?;
    done.success().then(|| done.stdout.trim().to_owned())
}

/// The members of etcd, asked of a server's own k3s (loopback needs no password).
///
/// # Errors
/// The host is down, its k3s does not answer, or the answer is no member list.
pub fn members(host: &Host) -> Result<Members> {
    let curl = ["/usr/bin/curl", "-sSfk", "--max-time", "4", "https://127.0.0.1:6443/db/info"];
    let done = host.inside(&curl, Duration::from_secs(6))?;
    let answer: Value = serde_json::from_str(&done.stdout)
        .with_context(|| format!("{}: /db/info: {}", host.name, done.stderr.trim()))?;
    Ok(parse_members(&answer))
}

fn parse_members(answer: &Value) -> Members {
    let mut members = Members::default();
    for member in answer["members"].as_array().into_iter().flatten() {
        let name = member["name"].as_str().unwrap_or_default().to_owned();
        let learner = member["isLearner"].as_bool().unwrap_or_default();
        if learner { members.learners.push(name) } else { members.voters.push(name) }
    }
    members
}

/// Every Node object and whether it is Ready, asked of a server's own k3s.
///
/// # Errors
/// The host is down, or kubectl fails.
pub fn nodes(host: &Host) -> Result<BTreeMap<String, bool>> {
    let kubectl = ["/usr/local/bin/k3s", "kubectl", "get", "nodes", "-o", "json"];
    let done = host.inside(&kubectl, Duration::from_secs(15))?;
    let answer: Value = serde_json::from_str(&done.stdout)
        .with_context(|| format!("{}: kubectl get nodes: {}", host.name, done.stderr.trim()))?;
    Ok(parse_nodes(&answer))
}

fn parse_nodes(answer: &Value) -> BTreeMap<String, bool> {
    let ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let items = answer["items"].as_array().into_iter().flatten();
    items.filter_map(|node| Some((node["metadata"]["name"].as_str()?.to_owned(), ready(node)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_nodes_are_read_as_k3s_writes_them() {
        let info = serde_json::json!({"members": [
            {"ID": 1, "name": "node1-abc", "peerURLs": ["https://10.77.0.1:2380"]},
            {"ID": 2, "name": "node2-def", "isLearner": true}]});
        let members = parse_members(&info);
        assert_eq!((members.voters, members.learners), (vec!["node1-abc".into()], vec!["node2-def".into()]));
        let list = serde_json::json!({"items": [
            {"metadata": {"name": "node1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "node2"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}]});
        assert_eq!(parse_nodes(&list), BTreeMap::from([("node1".into(), true), ("node2".into(), false)]));
    }
}
