//! Every reason to stand still, each with a name, and what other nodes have settled already.

use std::sync::Arc;

use super::{Act, Observed, Plan, SOON, STEADY, WAITING, acts, commits, waits};
use crate::config::Settings;
use crate::core::{Phase, Why};
use crate::founding::{Annulment, Certificate};
use crate::gossip::{Claim, Role};
use crate::ledger::{Data, Record};

/// Reasons under which nothing may happen here.
pub(super) fn parked(seen: &Observed, settings: &Settings) -> Option<Plan> {
    let record = &seen.record;
    if record.cluster != settings.cluster {
        let detail = format!(
            "the ledger is of cluster {:?}, the configuration says {:?}",
            record.cluster, settings.cluster
        );
        let next = "put the old name back, or move the state directory away to start anew";
        return Some(waits(Phase::Parked, Why::new("cluster-renamed", detail, next), STEADY));
    }
    if let Some(echo) = seen.peers.echo
        && (echo.generation, echo.counter) > (seen.node.generation, seen.node.counter)
    {
        let detail = format!(
            "others hold a claim of this identity with generation {} counter {}, ahead of this disk's {} and {}",
            echo.generation, echo.counter, seen.node.generation, seen.node.counter
        );
        let next = "another machine runs with a copy of this disk, or this disk was rolled back; on the copy, stop muster, \
                    move its state directory away, and start it again";
        return Some(waits(Phase::Parked, Why::new("identity-cloned", detail, next), STEADY));
    }
    if seen.peers.twin {
        let detail = "another machine speaks under this node's identity and generation";
        let next = "a copy of this disk runs elsewhere: on the copy, stop muster, move its state directory away, start it again";
        return Some(waits(Phase::Parked, Why::new("identity-cloned", detail, next), STEADY));
    }
    let newcomer = matches!(record.data, Data::None);
    if let (true, Some(leave)) = (newcomer, &seen.heal.leave) {
        let next = "it stays out until that is taken back: muster leave --cancel";
        return Some(waits(Phase::Parked, Why::new("left-cluster", leave.reason.clone(), next), STEADY));
    }
    let namesake = claims_live(seen).find(|c| c.name == seen.node.name && c.address != seen.node.address);
    if let (true, Some(other)) = (newcomer, namesake) {
        let detail = format!("{} at {} has the same name as this node", other.name, other.address);
        let next = "give every machine a host name of its own, or set node-name; goes on by itself";
        return Some(waits(Phase::Parked, Why::new("duplicate-name", detail, next), WAITING));
    }
    if let Some(why) = seen.host.blocks_all.first() {
        let mut plan = waits(Phase::Parked, why.clone(), WAITING);
        plan.why = seen.host.blocks_all.clone();
        return Some(plan);
    }
    let other_role = seen.host.prepared && record.certificate.is_none() && record.data == Data::None;
    if other_role && seen.k3s.server_data.yes().is_some() {
        let detail = "there is k3s server data on this machine and no certificate in the ledger";
        let next = "an older cluster or a restored disk: move the data directory away to join as a new node, or put the \
                    ledger of its time back";
        return Some(waits(Phase::Parked, Why::new("unclaimed-data", detail, next), STEADY));
    }
    None
}

/// What gossip has settled: an annulment that opens the next era, a certificate that was chosen, data to be discarded.
pub(super) fn settled_by_others(seen: &Observed) -> Option<Plan> {
    let record = &seen.record;
    let claims = || seen.peers.peers.values().map(|peer| &*peer.claim);

    if let Data::Discarding { reason } = &record.data {
        return Some(discarding(seen, reason));
    }

    let said = claims().filter_map(|claim| claim.annulment.clone()).max_by_key(|annulment| annulment.era);
    let asked = seen.annul.as_ref().filter(|request| request.era == record.era).map(|request| Annulment {
        era: request.era,
        cluster_id: record.certificate.as_ref().map(|certificate| certificate.cluster_id.clone()),
        by: seen.node.id.clone(),
        reason: request.reason.clone(),
    });
    let serving = claims_live(seen).find(|claim| claim.role == Role::Server && claim.voter == Some(true));
    if let (Some(_), Some(server)) = (&asked, serving) {
        let detail = format!("{} serves the cluster of era {}", server.name, record.era);
        let next = "nothing is annulled while a server of it is live";
        return Some(waits(Phase::Degraded, Why::new("annulment-refused", detail, next), WAITING));
    }
    // No era follows the last one there can be: whoever claims its end would have it written anew with every look.
    let ends = |annulment: &Annulment| (record.era..u64::MAX).contains(&annulment.era);
    if let Some(annulment) = said.filter(ends).or(asked) {
        if let Some(cluster) = in_use(seen) {
            let detail = format!(
                "era {} was annulled by {}, and cluster {cluster} is in use here",
                annulment.era,
                annulment.by.short()
            );
            let next =
                "two clusters may exist: nothing is changed here; compare muster founding show on both sides";
            return Some(waits(Phase::Parked, Why::new("annulment-refused", detail, next), STEADY));
        }
        let mut next = Record::clone(record);
        next.open_next_era(annulment.clone());
        if next.data != Data::None {
            next.data = Data::Discarding {
                reason: format!("era {} was annulled: {}", annulment.era, annulment.reason),
            };
        }
        let detail = format!("{} annulled era {}: {}", annulment.by.short(), annulment.era, annulment.reason);
        return Some(commits(Phase::Seeking, Why::new("era-annulled", detail, "the next era begins"), next));
    }

    let certificates =
        || claims().filter_map(|claim| claim.certificate.as_ref()).filter(|c| c.era == record.era);
    let known = record.certificate.as_ref().or_else(|| certificates().next())?;
    if let Some(other) = certificates().find(|other| *other != known) {
        let detail = format!(
            "cluster {} of {} and cluster {} of {} both claim era {}",
            known.cluster_id.short(),
            known.founder_name,
            other.cluster_id.short(),
            other.founder_name,
            record.era
        );
        let next = "all automation is frozen; decide which cluster stays";
        return Some(waits(Phase::Parked, Why::new("two-clusters", detail, next), STEADY));
    }
    if record.certificate.is_none() {
        return Some(store(seen, known.clone()));
    }
    None
}

fn claims_live(seen: &Observed) -> impl Iterator<Item = &Claim> {
    seen.peers.peers.values().filter(|peer| peer.live).map(|peer| &*peer.claim)
}

/// Stores a certificate: the end of founding for this node.
pub(super) fn store(seen: &Observed, certificate: Arc<Certificate>) -> Plan {
    let mut next = Record::clone(&seen.record);
    let detail =
        format!("cluster {} founded by {}", certificate.cluster_id.short(), certificate.founder_name);
    if matches!(next.data, Data::Provisional { .. }) && certificate.founder != seen.node.id {
        // In the same write: from this moment on the gate does not let the provisional cluster start again.
        let reason = format!(
            "{} founded the cluster; this node's provisional one was not chosen",
            certificate.founder_name
        );
        next.data = Data::Discarding { reason };
    }
    next.certificate = Some(certificate);
    next.ever_certified = true;
    next.proposal = None;
    commits(Phase::Joining, Why::new("certificate-stored", detail, "this node never founds again"), next)
}

/// The cluster that would be lost if this node followed an annulment: one that it joined, or founded with others in it.
fn in_use(seen: &Observed) -> Option<String> {
    let certificate = seen.record.certificate.as_ref()?;
    let Data::Member { cluster, .. } = &seen.record.data else { return None };
    let founder = certificate.founder == seen.node.id;
    // Unknown is not alone: only a member list that shows this node alone lets a founder give up a cluster that has served. One that
    // shows another does not, whatever this node says of itself: the other may have come before it noticed that it serves.
    let gives_up = match seen.k3s.members.yes().map(Vec::len) {
        Some(members) => members <= 1,
        None => !seen.record.served,
    };
    (!founder || !gives_up).then(|| cluster.short().to_owned())
}

fn discarding(seen: &Observed, reason: &str) -> Plan {
    // The configuration too: a nominee that died between arming it and starting k3s has no data, and is armed all the same.
    let gone = seen.k3s.server_data.is_absent()
        && seen.k3s.agent_data.is_absent()
        && seen.k3s.configuration.is_absent();
    let why =
        |rule| Why::new(rule, reason.to_owned(), "k3s is stopped and its data moved aside, not deleted");
    if gone {
        let mut next = Record::clone(&seen.record);
        next.data = Data::None;
        // Where this machine voted is over, too: it may vote again at another address.
        next.voters.clear();
        next.discarded = next.discarded.saturating_add(1);
        return commits(Phase::Joining, why("provisional-discarded"), next);
    }
    let step = Act::Discard { number: seen.record.discarded.saturating_add(1) };
    acts(Phase::Joining, why("discarding"), vec![step], SOON)
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
