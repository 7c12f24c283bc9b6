//! Two clusters under one certificate: a machine of the side that is given up goes over to the other, by an operator's word.

use super::{Act, Observed, Plan, SOON, WAITING, acts, commits};
use crate::core::{Known, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::{Claim, Role};
use crate::ledger::{Data, Fold, Record};

/// What `muster fold` asked for: a plan, or why it is not done.
pub(super) fn decide(seen: &Observed, certificate: &Certificate) -> Result<Option<Plan>, Why> {
    let Some(request) = &seen.heal.fold else { return Ok(None) };
    let refused = |cause: String| {
        Err(Why::new("fold-refused", cause, "nothing was changed; the request lapses after 5 minutes"))
    };
    let named = |claim: &&Claim| claim.name == request.into || claim.address.to_string() == request.into;
    let live = seen.peers.peers.values().filter(|peer| peer.live).map(|peer| &*peer.claim);
    let Some(server) = live.filter(named).max_by_key(|claim| claim.voter == Some(true)) else {
        return refused(format!("{} is not live in gossip", request.into));
    };
    if seen.record.fold.as_ref().is_some_and(|fold| fold.address == server.address) {
        return Ok(None);
    }
    match &server.certificate {
        Some(theirs) if theirs.cluster_id == certificate.cluster_id => {}
        Some(theirs) => {
            return refused(format!(
                "{} is of cluster {}, and this machine's certificate is of {}: a machine changes its certificate only by a new \
                 identity (docs/healing.md)",
                server.name,
                theirs.cluster_id.short(),
                certificate.cluster_id.short()
            ));
        }
        None => return refused(format!("{} knows of no cluster", server.name)),
    }
    if server.role != Role::Server || server.voter != Some(true) || server.api != Some(true) {
        return refused(format!("{} does not serve as a server now", server.name));
    }
    let role = match &seen.record.data {
        Data::Member { role, .. } | Data::Joining { role, .. } => *role,
        Data::Recovering { .. } => Role::Server,
        Data::None | Data::Provisional { .. } | Data::Discarding { .. } => Role::Undecided,
    };
    let why = |detail: String| {
        let next = "it must show the certificate's CA and a list of its members";
        Why::new("fold-asks", detail, next)
    };
    match seen.checks.get(&server.address) {
        Some(Known::Yes(ca)) if *ca == certificate.ca_hash => {}
        Some(Known::Yes(ca)) => {
            return refused(format!("{} serves CA {}, not the certificate's", server.name, ca.short()));
        }
        _ => {
            let ask = Act::Check { address: server.address };
            let why = why(format!("asking {} for its CA", server.name));
            return Ok(Some(acts(Phase::Degraded, why, vec![ask], SOON)));
        }
    }
    let Known::Yes(theirs) = &seen.members else {
        let ask = Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() };
        let why = why(format!("asking {} for its members", server.name));
        return Ok(Some(acts(Phase::Degraded, why, vec![ask], WAITING)));
    };
    if role == Role::Server {
        // One cluster is no two: only a list of this server's own without the other one tells them apart.
        let lists_me = theirs.iter().any(|member| member.node == seen.node.name);
        let apart = seen
            .k3s
            .members
            .yes()
            .is_some_and(|mine| !mine.is_empty() && mine.iter().all(|member| member.node != server.name));
        if lists_me && !apart {
            return refused(format!(
                "{} lists this machine among its members, and no list of this machine's own shows another cluster: muster leave \
                 takes a member out",
                server.name
            ));
        }
    }
    let reason = format!("goes over to the cluster of {} at {}", server.name, server.address);
    let mut next = Record::clone(&seen.record);
    if next.data != Data::None {
        next.data = Data::Discarding { reason: reason.clone() };
    }
    next.fold = Some(Fold { name: server.name.clone(), address: server.address });
    next.recovery.clone_from(&server.recovery);
    next.voters.clear();
    let then = "k3s is stopped, its data moved aside, not deleted, and it joins through that server alone";
    Ok(Some(commits(Phase::Joining, Why::new("folding", reason, then), next)))
}
