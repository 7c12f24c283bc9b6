//! What a node says about itself: `/run/muster/status.json`, read from outside the host.
//!
//! Every field has a default: a node that leaves something out is shown with less, not refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of `muster`.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Wall clock when the file was written, seconds since 1970.
    pub written_unix: i64,
    /// The node itself.
    pub node: Node,
    /// Where it stands: `preparing`, `seeking`, `electing`, `founding`, `joining`, `serving`, `degraded`, `parked`.
    pub phase: String,
    /// Seconds in that phase.
    pub since_seconds: f64,
    /// Why it stands there, most important first.
    pub why: Vec<Why>,
    /// What is wrong with its machine and blocks nothing.
    pub host: Vec<Why>,
    /// The birth certificate, when the node knows one.
    pub certificate: Option<Certificate>,
    /// The other nodes it knows.
    pub peers: Vec<Peer>,
    /// Its k3s.
    pub k3s: K3s,
    /// The phases it went through.
    pub timeline: Vec<Stretch>,
    /// Counters of the gossip.
    pub gossip: Gossip,
}

/// A node's idea of itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Identity: the hash of its public key.
    pub id: String,
    /// Host name.
    pub name: String,
    /// Address that others reach it by; nothing while it is unknown.
    pub address: Option<String>,
    /// `server`, `agent` or `undecided`.
    pub role: String,
    /// Era that it lives in.
    pub era: u64,
    /// Generation of its gossip session.
    pub generation: u64,
}

/// One reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Why {
    /// The rule's name.
    pub rule: String,
    /// What was seen.
    pub detail: String,
    /// What happens next, or what a person can do.
    pub next: String,
}

/// The birth certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Era, counted from 1.
    pub era: u64,
    /// Hash of the cluster's CA, 64 hex digits.
    pub ca_hash: String,
    /// Identity of the founder.
    pub founder: String,
    /// Name of the founder.
    pub founder_name: String,
    /// Address of the founder.
    pub founder_address: String,
    /// Identities of the first servers.
    pub first_servers: Vec<String>,
    /// Hash of the parameters that every node shares.
    pub parameters_hash: String,
}

/// Another node, as this one sees it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Identity.
    pub id: String,
    /// Host name.
    pub name: String,
    /// Phase, by its own claim.
    pub phase: String,
    /// Whether it answers.
    pub live: bool,
    /// Its most important rule, or nothing.
    pub why: String,
}

/// The node's k3s.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct K3s {
    /// State of the unit.
    pub unit: String,
    /// Version that is installed.
    pub version: String,
    /// Whether it is a voting member of etcd; nothing when unknown.
    pub voter: Option<bool>,
    /// Whether its Node object is Ready; nothing when unknown.
    pub ready: Option<bool>,
    /// Whether the API answers.
    pub api: Option<bool>,
    /// The voters that its ledger keeps, with their addresses.
    pub voters: BTreeMap<String, String>,
}

/// A stay in one phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stretch {
    /// The phase.
    pub phase: String,
    /// When it began, seconds after the agent's start.
    pub at_seconds: f64,
    /// How long it lasted so far, seconds.
    pub seconds: f64,
}

/// Counters of the gossip since the agent's start.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Gossip {
    /// Bytes of payload sent.
    pub sent_bytes: u64,
    /// Bytes of payload received.
    pub received_bytes: u64,
    /// Datagrams that did not open under the token's keys.
    pub dropped_unopened: u64,
}

impl Certificate {
    /// What tells one certificate from another.
    #[must_use]
    pub fn identity(&self) -> (&str, u64, &str, &str, &str) {
        (&self.cluster_id, self.era, &self.ca_hash, &self.founder, &self.parameters_hash)
    }
}

impl Status {
    /// Seconds in the present phase, up to now: the file is written when something changes, not every second.
    #[must_use]
    pub fn since(&self) -> f64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
        let written = self.written_unix as f64;
        self.since_seconds + if self.written_unix > 0 { (now.as_secs_f64() - written).max(0.0) } else { 0.0 }
    }

    /// Whether some reason has this rule name.
    #[must_use]
    pub fn says(&self, rule: &str) -> bool {
        self.why.iter().any(|why| why.rule == rule)
    }

    /// The most important reason, on one line.
    #[must_use]
    pub fn headline(&self) -> String {
        self.why.first().map(|why| format!("{}: {}", why.rule, why.detail)).unwrap_or_default()
    }

    /// Seconds spent in each phase, in the order in which they were first entered.
    #[must_use]
    pub fn phases(&self) -> Vec<(String, f64)> {
        let mut sums: Vec<(String, f64)> = Vec::new();
        for stretch in &self.timeline {
            match sums.iter_mut().find(|(phase, _)| *phase == stretch.phase) {
                Some((_, seconds)) => *seconds += stretch.seconds,
                None => sums.push((stretch.phase.clone(), stretch.seconds)),
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_read_and_unknown_keys_are_passed_over() {
        let status: Status = serde_json::from_str(
            r#"{"phase":"seeking","new":1,"why":[{"rule":"no-peer-answers","detail":"3 seeds"}],
                "timeline":[{"phase":"seeking","seconds":1.5},{"phase":"electing","seconds":1},{"phase":"seeking","seconds":2}]}"#,
        )
        .unwrap();
        assert!(status.says("no-peer-answers"));
        assert_eq!(status.headline(), "no-peer-answers: 3 seeds");
        assert_eq!(status.certificate, None);
        assert_eq!(status.phases(), [("seeking".to_owned(), 3.5), ("electing".to_owned(), 1.0)]);
    }
}
