//! Without a certificate: look for peers, vote, found.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Act, Observed, Plan, SOON, WAITING, commits, fence, waits};
use crate::config::{FoundingMode, Settings};
use crate::core::{CaHash, Known, Phase, Why};
use crate::decide::{Binary, K3sWanted, SourceSeen, UnitSeen};
use crate::founding::{self, LiveCheck, Move, Other, Own, Proposal, Terms};
use crate::gossip::{MOST_MEMBERS, Role, WantedRole};
use crate::ledger::{Data, Record};

/// Peers with other parameters that are named at most: one line must stay one.
const MOST_NAMED: usize = 4;

struct Checks<'a>(&'a BTreeMap<IpAddr, Known<CaHash>>);

impl LiveCheck for Checks<'_> {
    fn served(&self, address: IpAddr) -> Known<CaHash> {
        match self.0.get(&address) {
            Some(Known::Yes(ca)) => Known::Yes(ca.clone()),
            // Asked, and no CA was shown: a time-out is no vote, and must not keep a nominee asking for ever either. Nothing
            // that safety rests on follows from it.
            Some(Known::Absent | Known::Unknown(_)) => Known::Absent,
            None => Known::unknown(address.to_string(), "not asked yet"),
        }
    }
}

pub(super) fn decide(seen: &Observed, settings: &Settings) -> Plan {
    // A provisional cluster runs, or is brought up, whatever the vote is doing: a crash resumes it here.
    let keep_up = keep_provisional(seen);
    let mut plan = match fenced(seen, settings) {
        Some((phase, why)) => waits(phase, why, WAITING),
        None => judged(seen, settings),
    };
    if plan.commit.is_none() && plan.phase != Phase::Parked {
        plan.acts.extend(keep_up);
    }
    plan.why.extend(large_group(seen, settings));
    if matches!(seen.record.data, Data::Provisional { .. }) {
        plan.wake = plan.wake.min(SOON);
        // What k3s says stands first while it is what is waited for, here as everywhere.
        let at = if plan.phase == Phase::Founding { 0 } else { plan.why.len() };
        plan.why.splice(at..at, seen.k3s.trouble.iter().cloned());
    }
    plan
}

/// Why this node may neither vote nor found, if so. It goes on listening: a certificate of the others ends the wait.
fn fenced(seen: &Observed, settings: &Settings) -> Option<(Phase, Why)> {
    if settings.founders == 1 && settings.role == WantedRole::Auto && settings.looks_for_peers() {
        let detail = "founders = 1, a place to look for others, and role = \"auto\": every machine with this file could found a cluster of its own";
        let next = "set founders to more than half of the group, or role = \"server\" on one machine and \"agent\" on the others";
        return Some((Phase::Parked, Why::new("one-founder-many-machines", detail, next)));
    }
    if seen.peers.peers.is_empty() && (settings.founders > 1 || settings.role == WantedRole::Agent) {
        let dropped = seen.peers.counters.dropped_unopened;
        let mut detail = "no peer answers under this token".to_owned();
        if dropped > 0 {
            detail.push_str(&format!("; {dropped} datagrams arrived that it does not open"));
        }
        let crowded = seen.peers.counters.dropped_crowded;
        if crowded > 0 {
            detail.push_str(&format!(
                "; {crowded} messages speak of more than {MOST_MEMBERS} members, and gossip carries no more"
            ));
        }
        let sources: Vec<String> = seen.discovery.sources.iter().map(SourceSeen::state).collect();
        if !sources.is_empty() {
            detail.push_str(&format!("; asked: {}", sources.join("; ")));
        }
        let mut next = "every source is asked again and again; check the token and the cluster name, what muster discover shows, and UDP on \
                        the gossip port"
            .to_owned();
        if !settings.seeds.is_empty() {
            next.push_str("; if the machines named as seeds are gone for good, name living ones, or none and the network is swept");
        }
        return Some((Phase::Seeking, Why::new("no-peer-answers", detail, next)));
    }
    let live = || seen.peers.peers.values().filter(|peer| peer.live);
    let mine = &seen.shared.values;
    let differing: Vec<String> = live()
        .filter(|peer| peer.claim.wants != WantedRole::Agent && peer.claim.parameters != seen.shared.hash)
        .take(MOST_NAMED)
        .map(|peer| match peer.parameters.as_ref().and_then(|theirs| mine.first_difference(theirs)) {
            Some((key, here, there)) => format!("{key} is {here} here and {there} on {}", peer.claim.name),
            None => format!("{} has other parameters; their values have not arrived yet", peer.claim.name),
        })
        .collect();
    if !differing.is_empty() {
        let detail = differing.join("; ");
        let next = "no vote until every machine has the same values; correct the configuration and restart muster there";
        return Some((Phase::Seeking, Why::new("parameters-differ", detail, next)));
    }
    if settings.role == WantedRole::Agent {
        let detail = "role = \"agent\": this node neither votes nor founds";
        return Some((
            Phase::Seeking,
            Why::new("waiting-for-certificate", detail, "joins when the servers have founded"),
        ));
    }
    if settings.founding == FoundingMode::Never {
        let next =
            "joins the cluster that its peers know; if there is none, set founding = \"auto\" on purpose";
        return Some((
            Phase::Seeking,
            Why::new("founding-never", "founding = \"never\" in the configuration", next),
        ));
    }
    if seen.record.ever_certified && seen.record.annulment.is_none() {
        let detail = "this node has held a certificate that is not in its ledger any more";
        return Some((
            Phase::Parked,
            Why::new("certificate-lost", detail, "restore the ledger, or move the state directory away"),
        ));
    }
    if let Some((address, _)) = seen.api.iter().find(|(_, answer)| answer.yes().is_some()) {
        let detail = format!("a cluster already answers at {address}");
        let next = "this node joins it when a peer knows its certificate; nothing is founded while the address answers";
        return Some((Phase::Seeking, Why::new("api-answers", detail, next)));
    }
    if let Some((address, _)) = seen.api.iter().find(|(_, answer)| answer.is_unknown()) {
        let detail = format!("it could not be told whether a cluster answers at {address}");
        return Some((Phase::Seeking, Why::new("api-unknown", detail, "asked again")));
    }
    if !seen.host.prepared {
        let detail = "swap, modules and sysctls are being put in order";
        return Some((Phase::Preparing, Why::new("preparing-host", detail, "goes on by itself")));
    }
    if let Some(why) = seen.host.blocks_server.first() {
        return Some((Phase::Parked, why.clone()));
    }
    match &seen.k3s.binary {
        Binary::Ready => {}
        Binary::Wanted => {
            return Some((
                Phase::Preparing,
                Why::new("k3s-wanted", "the k3s binary is not in place yet", "it is fetched"),
            ));
        }
        Binary::Fetching { progress } => {
            return Some((Phase::Preparing, Why::new("fetching-k3s", progress.clone(), "goes on by itself")));
        }
        Binary::Failed { cause } => {
            return Some((
                Phase::Preparing,
                Why::new("k3s-unavailable", cause.clone(), "every source is tried again"),
            ));
        }
    }
    if let Known::Unknown(unread) = &seen.k3s.server_data {
        let detail = unread.to_string();
        return Some((
            Phase::Parked,
            Why::new("data-unknown", detail, "nothing is founded on a disk that cannot be read"),
        ));
    }
    None
}

fn judged(seen: &Observed, settings: &Settings) -> Plan {
    let own = own(seen);
    let others: Vec<Other> = seen.peers.peers.values().map(other).collect();
    let terms = terms(seen, settings);
    let judgement = founding::judge(&own, &others, &terms, &Checks(&seen.checks));
    let mut plan = waits(judgement.phase, Why::new("", "", ""), WAITING);
    plan.why = judgement.why;
    // The protocol speaks of identities; people know their machines by name.
    for peer in seen.peers.peers.values() {
        for why in &mut plan.why {
            let short = peer.claim.owner.short();
            if why.detail.contains(short) {
                why.detail = why.detail.replace(short, &peer.claim.name).into();
            }
        }
    }
    let record = &seen.record;
    for step in judgement.moves {
        let mut next = Record::clone(record);
        match step {
            Move::Check(address) => {
                plan.acts.push(Act::Check { address });
                plan.wake = SOON;
                continue;
            }
            Move::StartProvisional => {
                plan.wake = SOON;
                let Some(proposal) = &record.proposal else { continue };
                if matches!(record.data, Data::Provisional { .. }) {
                    continue;
                }
                // Only a directory that is known to be empty may be founded in.
                if !seen.k3s.server_data.is_absent() || !seen.k3s.agent_data.is_absent() {
                    plan.why.insert(
                        0,
                        Why::new("data-not-empty", "k3s's data directory is not empty", "move it away"),
                    );
                    continue;
                }
                next.data = Data::Provisional { ballot: proposal.ballot.clone() };
            }
            Move::Store(certificate) => return fence::store(seen, certificate),
            Move::Hear(new) => next.heard.extend(new),
            Move::Promise(ballot) => next.register.promised = Some(ballot),
            Move::Accept(accepted) => {
                next.register.promised = Some(accepted.ballot.clone());
                next.register.accepted = Some(accepted);
            }
            Move::Nominate(ballot) => {
                next.ballot_counter = ballot.counter;
                next.register.promised = Some(ballot.clone());
                next.proposal = Some(Proposal { ballot, certificate: None });
            }
            Move::Propose(certificate) => {
                if let Some(proposal) = &mut next.proposal {
                    proposal.certificate = Some(certificate);
                }
            }
            Move::Withdraw => next.proposal = None,
        }
        let why = plan.why.first().cloned().unwrap_or_else(|| Why::new("founding", "", ""));
        return commits(plan.phase, why, next);
    }
    plan
}

fn own(seen: &Observed) -> Own {
    let record = &seen.record;
    let k3s = &seen.k3s;
    let provisional = match (&record.data, &k3s.disk_ca, &k3s.served_ca, &k3s.voter) {
        (Data::Provisional { .. }, Known::Yes(disk), Known::Yes(served), Known::Yes(true))
            if disk == served =>
        {
            Known::Yes(disk.clone())
        }
        (Data::Provisional { .. }, ..) => {
            Known::unknown("the provisional cluster", "its datastore is not healthy yet")
        }
        _ => Known::Absent,
    };
    Own {
        id: seen.node.id.clone(),
        name: seen.node.name.clone(),
        address: seen.node.address,
        era: record.era,
        register: record.register.clone(),
        proposal: record.proposal.clone(),
        ballot_counter: record.ballot_counter,
        heard: record.heard.clone(),
        provisional,
    }
}

fn other(peer: &crate::gossip::Peer) -> Other {
    let claim = &peer.claim;
    Other {
        id: claim.owner.clone(),
        live: peer.live,
        eligible: claim.eligible,
        era: claim.era,
        parameters: claim.parameters.clone(),
        register: claim.register.clone(),
        proposal: claim.proposal.clone(),
        fitness: claim.fitness.class,
        zone: claim.zone.clone(),
    }
}

fn terms(seen: &Observed, settings: &Settings) -> Terms {
    Terms {
        founders: settings.founders,
        servers: settings.servers,
        parameters: seen.shared.hash.clone(),
        fitness: seen.node.fitness,
        zone: super::zone(seen, settings).to_owned(),
        settled_for: seen.now.saturating_sub(seen.watch.settled_since),
        settle: Duration::from_millis(settings.timing.settle_ms),
        nominee_watched_for: seen.now.saturating_sub(seen.watch.nominee_since),
        patience: Duration::from_millis(settings.timing.nominee_patience_ms),
        may_retry: seen.now >= seen.watch.retry_at,
        fresh_cluster: seen.fresh_cluster.clone(),
    }
}

/// What is wrong with the size that this machine's group may grow to. It stops nothing: identities heard are counted on disk, and the
/// count stops the node in time. But who reads it now can mend it before a machine too many comes.
fn large_group(seen: &Observed, settings: &Settings) -> Option<Why> {
    let max = usize::try_from(seen.discovery.group_max?).ok()?;
    let most = founding::quorum::most_voters(settings.founders);
    if max <= most || settings.role == WantedRole::Agent || settings.founding == FoundingMode::Never {
        return None;
    }
    let detail = format!(
        "this machine's group may have {max} machines, and founders = {} is safe for {most} that ever vote",
        settings.founders
    );
    let next = format!("set founders = {} on every machine, or lower the group's largest size", max / 2 + 1);
    Some(Why::new("group-exceeds-founders", detail, next))
}

/// Steps that keep a provisional cluster running.
fn keep_provisional(seen: &Observed) -> Vec<Act> {
    if !matches!(seen.record.data, Data::Provisional { .. }) {
        return Vec::new();
    }
    let mut steps = vec![Act::Configure { wanted: K3sWanted::Provisional }];
    if matches!(seen.k3s.server_unit, Known::Yes(UnitSeen::Inactive | UnitSeen::Failed)) {
        steps.push(Act::Start { role: Role::Server });
    }
    steps
}
