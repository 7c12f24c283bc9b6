//! The decision of one tick: [`Observed`] and settings in, [`Plan`] out. Pure.
//!
//! ```text
//!  fences (host, identity, another cluster's ledger) --> what gossip settled (annulment, certificate)
//!      --> no certificate: founding::judge      --> certificate: join, serve
//! ```

mod fence;
mod fold;
mod heal;
mod join;
mod late;
mod observed;
mod plan;
mod recover;
mod removed;
mod roles;
mod seek;
#[cfg(test)]
pub(crate) mod tests;
mod way;

use std::collections::BTreeMap;
use std::time::Duration;

pub use late::GAVE_UP;
pub use observed::{
    AnnulRequest, Binary, DiscoverySeen, HostSeen, K3sSeen, MemberSeen, NodeFacts, Observed, SourceSeen,
    UnitSeen, Watch,
};
pub use plan::{Act, K3sWanted, Plan};
pub use removed::{REMOVED_FROM, says_removed};

use crate::config::Settings;
use crate::core::{NodeId, Phase, Why};
use crate::gossip::{Peer, Role, WantedRole};
use crate::ledger::{Data, Record, Remembered};

/// Looks again soon: something local is on its way and nothing will wake the agent when it arrives.
const SOON: Duration = Duration::from_millis(250);
/// Looks again now and then while waiting for others; their claims wake the agent.
const WAITING: Duration = Duration::from_secs(1);
/// The pace of a node that serves.
const STEADY: Duration = Duration::from_secs(5);

/// Decides what to do about what was seen.
#[must_use]
pub fn decide(seen: &Observed, settings: &Settings) -> Plan {
    let recovery = recover::decide(seen, settings);
    let mut plan = if let Ok(Some(plan)) = &recovery {
        plan.clone()
    } else if let Some(plan) = fence::parked(seen, settings) {
        plan
    } else if let Some(plan) = fence::settled_by_others(seen) {
        plan
    } else if let Some(certificate) = &seen.record.certificate {
        join::decide(seen, settings, certificate)
    } else {
        seek::decide(seen, settings)
    };
    // What was asked for and is not done stands first; everything else goes on.
    if let Err(refused) = recovery {
        plan.why.insert(0, refused);
    }
    remember(seen, &mut plan);
    plan.role = role_of(&seen.record);
    plan.eligible = plan.phase != Phase::Parked && may_vote(seen, settings) && late::gave_up(seen).is_none();
    // The host and the binary are prepared while the peers are still being looked for.
    if plan.commit.is_none() && plan.phase != Phase::Parked {
        if !seen.host.prepared {
            plan.acts.insert(0, Act::PrepareHost);
        }
        if seen.k3s.binary == Binary::Wanted {
            plan.acts.push(Act::FetchK3s);
        }
    }
    plan
}

/// Most peers kept for a cold start.
const REMEMBERED: usize = 64;

/// Keeps the addresses of live peers in the ledger, with whatever is written anyway and once this node serves: a cold start
/// then works when every seed is dead.
fn remember(seen: &Observed, plan: &mut Plan) {
    if plan.commit.is_none() && plan.phase != Phase::Serving {
        return;
    }
    let live = || seen.peers.peers.values().filter(|peer| peer.live).take(REMEMBERED);
    let known = &seen.record.peers;
    let is_known = |peer: &Peer| {
        let kept = known.get(&peer.claim.owner);
        kept.is_some_and(|kept| kept.name == peer.claim.name && kept.address == peer.gossip_address)
    };
    if live().all(is_known) {
        return;
    }
    let live: BTreeMap<NodeId, Remembered> = live()
        .map(|peer| {
            let claim = &peer.claim;
            (claim.owner.clone(), Remembered { name: claim.name.clone(), address: peer.gossip_address })
        })
        .collect();
    let mut peers = live;
    for (id, peer) in known {
        // A peer that came back under another identity has the same address: only the newer one is kept.
        let superseded = peers.values().any(|newer| newer.address == peer.address);
        if !superseded && peers.len() < REMEMBERED {
            peers.entry(id.clone()).or_insert_with(|| peer.clone());
        }
    }
    match &mut plan.commit {
        Some(record) => record.peers = peers,
        None if plan.phase == Phase::Serving => {
            plan.commit = Some(Box::new(Record { peers, ..Record::clone(&seen.record) }));
        }
        None => {}
    }
}

/// Whether this node may vote and found as far as its configuration and its host go.
fn may_vote(seen: &Observed, settings: &Settings) -> bool {
    settings.role != WantedRole::Agent
        && seen.host.prepared
        && seen.host.blocks_all.is_empty()
        && seen.host.blocks_server.is_empty()
}

/// The failure domain of this machine: as it was told, or as a cloud's metadata says; empty when neither is known. A name that cannot
/// be a label's value is nobody's zone.
pub(crate) fn zone<'a>(seen: &'a Observed, settings: &'a Settings) -> &'a str {
    let found = || seen.discovery.zone.as_deref().filter(|zone| crate::heal::labels::zone(zone).is_ok());
    settings.zone.as_deref().or_else(found).unwrap_or_default()
}

fn role_of(record: &Record) -> Role {
    match &record.data {
        Data::Provisional { .. } | Data::Recovering { .. } => Role::Server,
        Data::Joining { role, .. } | Data::Member { role, .. } => *role,
        Data::None | Data::Discarding { .. } => Role::Undecided,
    }
}

/// A plan that only waits.
fn waits(phase: Phase, why: Why, wake: Duration) -> Plan {
    Plan {
        phase,
        why: vec![why],
        commit: None,
        acts: Vec::new(),
        eligible: false,
        role: Role::Undecided,
        wake,
    }
}

/// A plan that writes the ledger and looks again.
fn commits(phase: Phase, why: Why, record: Record) -> Plan {
    Plan { commit: Some(Box::new(record)), ..waits(phase, why, Duration::ZERO) }
}

/// A plan that acts.
fn acts(phase: Phase, why: Why, acts: Vec<Act>, wake: Duration) -> Plan {
    Plan { acts, ..waits(phase, why, wake) }
}
