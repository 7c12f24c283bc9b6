//! The status: what `muster status` prints and the file in the run directory holds. No secrets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::{Known, Phase, Why};
use crate::decide::{Observed, Plan, SourceSeen, UnitSeen};
use crate::founding::Certificate;
use crate::gossip::{GossipCounters, Role};
use crate::ledger::Record;
use crate::report::decisions::Kind;

/// The whole status of one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Wall clock of the last change, seconds since 1970: for people.
    pub written_unix: i64,
    /// This node.
    pub node: StatusNode,
    /// Where it stands.
    pub phase: Phase,
    /// How long it has stood there, in seconds, when the file was written.
    pub since_seconds: f64,
    /// Why, the blocking fact first.
    pub why: Vec<Why>,
    /// What is wrong with this machine and blocks nothing: limits for which it yields to others, what it shares with another.
    #[serde(default)]
    pub host: Vec<Why>,
    /// What does not work and stops nothing: the decision log cannot be written, the metrics are not served.
    #[serde(default)]
    pub notes: Vec<Why>,
    /// The decision log.
    #[serde(default)]
    pub decisions: StatusDecisions,
    /// The certificate it knows.
    pub certificate: Option<Arc<Certificate>>,
    /// The other nodes.
    pub peers: Vec<StatusPeer>,
    /// k3s here.
    pub k3s: StatusK3s,
    /// The sources of peers, and what each said last.
    #[serde(default)]
    pub discovery: Vec<SourceSeen>,
    /// The phases passed since the agent started.
    pub timeline: Vec<Passed>,
    /// Datagram counters.
    pub gossip: GossipCounters,
}

/// This node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusNode {
    /// Its identity; empty while the ledger cannot be read.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address, if it is known.
    pub address: Option<IpAddr>,
    /// Its role.
    pub role: Role,
    /// Its era.
    pub era: u64,
    /// Its generation.
    pub generation: u64,
}

/// Another node, by its own word.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusPeer {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its role.
    pub role: Role,
    /// Its phase.
    pub phase: Phase,
    /// Whether its etcd member votes; none when unknown.
    pub voter: Option<bool>,
    /// Whether it is Ready; none when unknown.
    pub ready: Option<bool>,
    /// Whether the failure detector takes it for live.
    pub live: bool,
    /// For how many seconds it has been silent; none when it is live, or was never live since this agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u64>,
    /// The rule that blocks it; empty when none does.
    pub why: String,
}

/// k3s here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatusK3s {
    /// State of its unit: inactive, starting, active, failed, unknown.
    pub unit: String,
    /// The pinned version.
    pub version: String,
    /// Whether the own etcd member votes; none when unknown or not a server.
    pub voter: Option<bool>,
    /// Whether the own node is Ready; none when unknown.
    pub ready: Option<bool>,
    /// Whether the API is ready; none when unknown or not a server.
    pub api: Option<bool>,
    /// The voters as the ledger keeps them, names with addresses: what a lost quorum is counted by. Empty on an agent.
    #[serde(default)]
    pub voters: BTreeMap<String, IpAddr>,
}

/// The decision log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusDecisions {
    /// Number of its last line.
    pub last: u64,
    /// Hash of its last line; empty while the log cannot be opened.
    pub head: String,
    /// Decisions since the agent started, by kind.
    pub by_kind: BTreeMap<Kind, u64>,
    /// Decisions since the agent started that could not be written.
    pub lost: u64,
}

/// A phase that was entered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// Which.
    pub phase: Phase,
    /// When, in seconds since the agent started.
    pub at_seconds: f64,
    /// How long it lasted, in seconds; up to now for the last one.
    pub seconds: f64,
}

/// Follows the phases.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    started: Duration,
    entered: Vec<(Phase, Duration)>,
}

/// Phases kept: a node that flaps for weeks must not grow its status.
const KEPT: usize = 64;

impl Timeline {
    /// Begins at the start of the agent.
    #[must_use]
    pub fn new(started: Duration) -> Self {
        Self { started, entered: Vec::new() }
    }

    /// Notes the phase of a tick; true when it is another one.
    pub fn note(&mut self, now: Duration, phase: Phase) -> bool {
        if self.entered.last().is_some_and(|(last, _)| *last == phase) {
            return false;
        }
        if self.entered.len() == KEPT {
            self.entered.remove(1);
        }
        self.entered.push((phase, now));
        true
    }

    /// Time in the present phase.
    #[must_use]
    pub fn since(&self, now: Duration) -> Duration {
        self.entered.last().map_or(Duration::ZERO, |(_, at)| now.saturating_sub(*at))
    }

    /// The phases passed.
    #[must_use]
    pub fn passed(&self, now: Duration) -> Vec<Passed> {
        let ends = self.entered.iter().skip(1).map(|(_, at)| *at).chain([now]);
        let entries = self.entered.iter().zip(ends);
        entries
            .map(|((phase, at), end)| Passed {
                phase: *phase,
                at_seconds: seconds(at.saturating_sub(self.started)),
                seconds: seconds(end.saturating_sub(*at)),
            })
            .collect()
    }
}

/// Seconds with milliseconds, no more: what is printed must not change in digits nobody reads.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// Builds the status of a tick.
#[must_use]
pub fn status(seen: &Observed, plan: &Plan, record: &Record, timeline: &Timeline, fixed: &Fixed) -> Status {
    let fact = |known: &Known<bool>| known.yes().copied();
    let unit = if plan.role == Role::Agent { &seen.k3s.agent_unit } else { &seen.k3s.server_unit };
    let server = plan.role == Role::Server;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: fixed.cluster.clone(),
        written_unix: fixed.wall_seconds,
        node: StatusNode {
            id: seen.node.id.to_string(),
            name: seen.node.name.clone(),
            address: Some(seen.node.address),
            role: plan.role,
            era: record.era,
            generation: seen.node.generation,
        },
        phase: plan.phase,
        since_seconds: seconds(timeline.since(seen.now)),
        why: plan.why.clone(),
        host: seen.host.short.clone(),
        notes: fixed.notes.clone(),
        decisions: fixed.decisions.clone(),
        certificate: record.certificate.clone(),
        peers: seen
            .peers
            .peers
            .values()
            .map(|peer| StatusPeer {
                id: peer.claim.owner.to_string(),
                name: peer.claim.name.clone(),
                address: peer.claim.address,
                role: peer.claim.role,
                phase: peer.claim.phase,
                voter: peer.claim.voter,
                ready: peer.claim.ready,
                live: peer.live,
                silent_seconds: (!peer.live)
                    .then(|| seen.heal.silent.get(&peer.claim.owner))
                    .flatten()
                    .map(|since| seen.now.saturating_sub(*since).as_secs()),
                why: peer.claim.why.to_string(),
            })
            .collect(),
        k3s: StatusK3s {
            unit: unit_word(unit).to_owned(),
            version: fixed.k3s_version.clone(),
            voter: fact(&seen.k3s.voter).filter(|_| server),
            ready: fact(&seen.k3s.ready),
            api: fact(&seen.k3s.api).filter(|_| server),
            voters: if server { record.voters.clone() } else { BTreeMap::new() },
        },
        discovery: seen.discovery.sources.clone(),
        timeline: timeline.passed(seen.now),
        gossip: seen.peers.counters,
    }
}

/// What does not come from the tick.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// Name of the cluster.
    pub cluster: String,
    /// Pinned k3s version.
    pub k3s_version: String,
    /// Wall clock, seconds since 1970.
    pub wall_seconds: i64,
    /// What does not work and stops nothing.
    pub notes: Vec<Why>,
    /// The decision log.
    pub decisions: StatusDecisions,
}

fn unit_word(unit: &Known<UnitSeen>) -> &'static str {
    match unit {
        Known::Yes(UnitSeen::Inactive) | Known::Absent => "inactive",
        Known::Yes(UnitSeen::Starting) => "starting",
        Known::Yes(UnitSeen::Active) => "active",
        Known::Yes(UnitSeen::Failed) => "failed",
        Known::Unknown(_) => "unknown",
    }
}

/// A status for a node that cannot even tick: no configuration, no ledger, no address.
#[must_use]
pub fn stuck(cluster: &str, name: &str, why: Vec<Why>, wall_seconds: i64) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.to_owned(),
        written_unix: wall_seconds,
        node: StatusNode {
            id: String::new(),
            name: name.to_owned(),
            address: None,
            role: Role::Undecided,
            era: 0,
            generation: 0,
        },
        phase: Phase::Parked,
        since_seconds: 0.0,
        why,
        host: Vec::new(),
        notes: Vec::new(),
        decisions: StatusDecisions::default(),
        certificate: None,
        peers: Vec::new(),
        k3s: StatusK3s { unit: "unknown".to_owned(), ..StatusK3s::default() },
        discovery: Vec::new(),
        timeline: Vec::new(),
        gossip: GossipCounters::default(),
    }
}
