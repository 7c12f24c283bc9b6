//! A recovery decision: heard, taken, and carried out on the surviving server in steps that a crash resumes.
//!
//! ```text
//!  request --> ledger: decision, Recovering(Fencing) --> every live server gave its data up --> Resetting --> Starting --> Member
//!  claims with a higher number --> ledger: decision; servers of the time before: Discarding --> join as new nodes
//! ```
//!
//! Sources: `k3s-facts.md` part 4.1, hazards 33-35 and 38, rule 7 of part 13.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{
    Act, K3sWanted, Observed, Plan, SOON, STEADY, UnitSeen, WAITING, acts, commits, fence, fold, waits,
};
use crate::config::Settings;
use crate::core::recovery::{REASON, number};
use crate::core::{Known, Phase, Recovery, Why};
use crate::founding::Certificate;
use crate::gossip::{Claim, Role};
use crate::heal::recover::{Witness, lost};
use crate::heal::{RecoverRequest, ResetSeen};
use crate::ledger::{Data, Record, RecoveryStep};

/// How long the agent must have listened before it takes a silent machine for silent.
const HEARD: Duration = Duration::from_secs(15);
/// How soon a reset that failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// Resets that are tried before a person must look: the result was not a cluster of one.
const ATTEMPTS: u32 = 3;

/// What recovery says: a plan that stands before every other, or a word about why what was asked for is not done.
pub(super) fn decide(seen: &Observed, settings: &Settings) -> Result<Option<Plan>, Why> {
    let Some(certificate) = &seen.record.certificate else { return Ok(None) };
    if seen.record.cluster != settings.cluster || matches!(seen.record.data, Data::Discarding { .. }) {
        return Ok(None);
    }
    let folds = fold::decide(seen, certificate);
    if let Ok(Some(plan)) = folds {
        return Ok(Some(plan));
    }
    // Before everything that parks: a machine that stands still must not keep serving a cluster that was given up.
    if let Some(plan) = heard(seen, certificate) {
        return Ok(Some(plan));
    }
    folds?;
    if fence::parked(seen, settings).is_some() {
        return Ok(None);
    }
    if let Data::Recovering { number, attempt, step, .. } = &seen.record.data {
        return Ok(Some(survive(seen, certificate, *number, *attempt, *step)));
    }
    match &seen.heal.recover {
        Some(request) if request.after == number(seen.record.recovery.as_ref()) => {
            asked(seen, certificate, request).map(Some)
        }
        _ => Ok(None),
    }
}

/// A decision of a higher number, or two of the same.
fn heard(seen: &Observed, certificate: &Certificate) -> Option<Plan> {
    let own = seen.record.recovery.as_ref();
    let said = seen.peers.peers.values().filter_map(|peer| peer.claim.recovery.as_ref()).chain(own);
    let said: BTreeSet<&Recovery> =
        said.filter(|recovery| recovery.cluster == certificate.cluster_id).collect();
    let highest = said.iter().map(|recovery| recovery.number).max()?;
    let latest: Vec<&Recovery> = said.into_iter().filter(|recovery| recovery.number == highest).collect();
    // A machine that goes over to one side has chosen.
    if seen.record.fold.is_none()
        && let [one, other, ..] = latest.as_slice()
    {
        let detail = format!(
            "recovery {highest} names {} as the survivor ({}), and {} ({})",
            one.name, one.reason, other.name, other.reason
        );
        let next = "nothing is changed here; keep one of them: on every machine of the other, muster fold --into the one that stays";
        return Some(waits(Phase::Parked, Why::new("two-recoveries", detail, next), STEADY));
    }
    let recovery = latest.first().filter(|recovery| recovery.number > number(own))?;
    if recovery.survivor == seen.node.id {
        let detail = format!(
            "others know of recovery {highest}, in which this server survived, and this disk does not: it is older than that"
        );
        let next = "a disk that was rolled back: stop muster, move its state directory and k3s's data away, start it again";
        return Some(waits(Phase::Parked, Why::new("recovery-rolled-back", detail, next), STEADY));
    }
    let mut next = Record::clone(&seen.record);
    next.recovery = Some(Recovery::clone(recovery));
    next.voters.clear();
    let detail = format!("recovery {highest}: {} survives ({})", recovery.name, recovery.reason);
    let server = matches!(
        next.data,
        Data::Provisional { .. }
            | Data::Recovering { .. }
            | Data::Member { role: Role::Server, .. }
            | Data::Joining { role: Role::Server, .. }
    );
    let then = if server {
        // In the same write: from this moment on the gate does not let the old member start.
        next.data = Data::Discarding { reason: detail.clone() };
        "k3s is stopped, its data moved aside, not deleted, and this machine joins as a new node"
    } else {
        "kept; nothing else changes here"
    };
    Some(commits(Phase::Joining, Why::new("recovery-heard", detail, then), next))
}

/// What `muster recover` asked for.
fn asked(seen: &Observed, certificate: &Certificate, request: &RecoverRequest) -> Result<Plan, Why> {
    let refused = |cause: String| {
        let next = "nothing was changed; the request lapses after 5 minutes";
        Why::new("recovery-refused", cause, next)
    };
    if request.survivor != seen.node.name {
        let cause = format!("--survivor {} was said, and this is {}", request.survivor, seen.node.name);
        return Err(refused(cause));
    }
    let member = matches!(&seen.record.data, Data::Member { role: Role::Server, cluster } if *cluster == certificate.cluster_id);
    if !member || seen.k3s.server_data.yes().is_none() {
        return Err(refused("this machine holds no data of a server that was a member".to_owned()));
    }
    let voters: BTreeSet<String> = seen.record.voters.keys().cloned().collect();
    let missing = lost(
        &seen.node.name,
        seen.k3s.voter.yes().copied(),
        &voters,
        &witnesses(seen, certificate),
        &request.destroyed,
        request.may_return,
    )
    .map_err(|reason| refused(reason.to_string()))?;
    if seen.now.saturating_sub(seen.watch.started) < HEARD {
        let next = format!("goes on when the agent has listened for {} s", HEARD.as_secs());
        return Err(Why::new("recovery-waits-for-gossip", "who is silent is not known yet", next));
    }
    let recovery = Recovery {
        number: request.after.saturating_add(1),
        cluster: certificate.cluster_id.clone(),
        survivor: seen.node.id.clone(),
        name: seen.node.name.clone(),
        reason: request.reason.chars().take(REASON).collect(),
    };
    let mut next = Record::clone(&seen.record);
    next.data = Data::Recovering {
        cluster: certificate.cluster_id.clone(),
        number: recovery.number,
        attempt: 1,
        step: RecoveryStep::Fencing,
    };
    let detail = format!(
        "recovery {}: this server survives, {} given up",
        recovery.number,
        if missing.is_empty() { "the others are".to_owned() } else { missing.join(", ") }
    );
    next.recovery = Some(recovery);
    let then = "k3s stops here, and every other server that lives gives its data up first";
    Ok(commits(Phase::Degraded, Why::new("recovering", detail, then), next))
}

fn witnesses(seen: &Observed, certificate: &Certificate) -> Vec<Witness> {
    of_cluster(seen, certificate)
        .map(|(claim, live)| Witness {
            name: claim.name.clone(),
            live,
            server: claim.role == Role::Server,
            votes: claim.voter == Some(true),
        })
        .collect()
}

fn of_cluster<'a>(
    seen: &'a Observed,
    certificate: &'a Certificate,
) -> impl Iterator<Item = (&'a Claim, bool)> {
    let peers = seen.peers.peers.values().map(|peer| (&*peer.claim, peer.live));
    peers.filter(|(claim, _)| {
        claim.certificate.as_ref().is_some_and(|one| one.cluster_id == certificate.cluster_id)
    })
}

/// A live machine that may still run a server of the time before.
fn unfenced<'a>(seen: &'a Observed, certificate: &'a Certificate) -> Option<&'a Claim> {
    let recovery = seen.record.recovery.as_ref();
    of_cluster(seen, certificate)
        .filter(|(claim, live)| *live && claim.role != Role::Agent)
        .map(|(claim, _)| claim)
        .find(|claim| !(claim.fenced && claim.recovery.as_ref() == recovery))
}

/// The steps of the surviving server.
fn survive(
    seen: &Observed,
    certificate: &Certificate,
    number: u64,
    attempt: u32,
    step: RecoveryStep,
) -> Plan {
    let at = |part: u8, doing: &str| {
        let detail = format!("recovery {number}, step {part} of 3: {doing}");
        Why::new("recovering", detail, "goes on by itself, over a crash or a reboot too")
    };
    let moved = |attempt: u32, step: RecoveryStep, why: Why| {
        let mut next = Record::clone(&seen.record);
        let cluster = certificate.cluster_id.clone();
        next.data = Data::Recovering { cluster, number, attempt, step };
        commits(Phase::Degraded, why, next)
    };
    if step == RecoveryStep::Starting {
        return starts(seen, certificate, attempt, &at(3, "k3s starts as a cluster of one"), moved);
    }
    match &seen.k3s.server_unit {
        Known::Yes(UnitSeen::Inactive | UnitSeen::Failed) => {}
        Known::Yes(UnitSeen::Active | UnitSeen::Starting) => {
            let stop = Act::Stop { role: Role::Server };
            return acts(Phase::Degraded, at(1, "k3s is stopped"), vec![stop], SOON);
        }
        Known::Absent | Known::Unknown(_) => {
            return waits(Phase::Degraded, at(1, "it cannot be told whether k3s runs"), WAITING);
        }
    }
    // A reset that has begun is ended: whoever comes now hears the decision, which is older than it.
    let begun = step == RecoveryStep::Resetting && seen.heal.reset != ResetSeen::NotRun;
    if !begun && let Some(other) = unfenced(seen, certificate) {
        let detail = format!(
            "{} at {} is live and has not given its data up yet (it says: {})",
            other.name,
            other.address,
            if other.why.is_empty() { "nothing" } else { &*other.why }
        );
        let next = "goes on when it has, or is silent: it may be switched off";
        return waits(Phase::Degraded, Why::new("recovery-waits-for-fence", detail, next), WAITING);
    }
    if !begun && seen.now.saturating_sub(seen.watch.started) < HEARD {
        let why = at(1, "listening for other servers first");
        return waits(Phase::Degraded, why, WAITING);
    }
    if step == RecoveryStep::Fencing {
        return moved(attempt, RecoveryStep::Resetting, at(2, "k3s resets the members of etcd to this one"));
    }
    let reset = Act::ResetEtcd { number, attempt };
    let doing = at(2, "k3s resets the members of etcd to this one");
    match &seen.heal.reset {
        ResetSeen::NotRun => acts(Phase::Degraded, doing, vec![reset], SOON),
        ResetSeen::Running => waits(Phase::Degraded, doing, SOON),
        ResetSeen::Succeeded => {
            moved(attempt, RecoveryStep::Starting, at(3, "the membership has been reset"))
        }
        ResetSeen::Failed(cause, since) => {
            let next = format!("tried again every {} s; its log is in the state directory", AGAIN.as_secs());
            let why = Why::new("recovery-reset-failed", cause.clone(), next);
            let due = since.is_none_or(|since| since >= AGAIN);
            acts(Phase::Degraded, why, if due { vec![reset] } else { Vec::new() }, WAITING)
        }
        ResetSeen::Unknown(cause) => {
            let next = "nothing follows from what cannot be told; looked at again";
            let why = Why::new("recovery-reset-failed", format!("it cannot be told: {cause}"), next);
            waits(Phase::Degraded, why, WAITING)
        }
    }
}

/// The last step: the only member, a voter, the API ready.
fn starts(
    seen: &Observed,
    certificate: &Certificate,
    attempt: u32,
    why: &Why,
    moved: impl Fn(u32, RecoveryStep, Why) -> Plan,
) -> Plan {
    if let Known::Yes(members) = &seen.k3s.members
        && !members.is_empty()
    {
        let others: Vec<&str> = members
            .iter()
            .filter(|member| member.node != seen.node.name)
            .map(|member| member.node.as_str())
            .collect();
        if !others.is_empty() {
            let detail = format!("etcd still lists {} after the reset", others.join(", "));
            if attempt >= ATTEMPTS {
                let next =
                    "a person must look: its logs are in the state directory; every copy of the data is kept";
                return waits(Phase::Degraded, Why::new("recovery-not-alone", detail, next), STEADY);
            }
            let why = Why::new("recovery-not-alone", detail, "the reset is run again");
            return moved(attempt.saturating_add(1), RecoveryStep::Resetting, why);
        }
        if seen.k3s.voter == Known::Yes(true) && seen.k3s.api == Known::Yes(true) {
            let mut next = Record::clone(&seen.record);
            next.data = Data::Member { role: Role::Server, cluster: certificate.cluster_id.clone() };
            next.served = true;
            next.voters = BTreeMap::from([(seen.node.name.clone(), seen.node.address)]);
            let detail = "this server is the only member, votes, and its API is ready";
            return commits(
                Phase::Degraded,
                Why::new("recovered", detail, "the others join it one at a time"),
                next,
            );
        }
    }
    let ca = certificate.ca_hash.clone();
    let mut steps =
        vec![Act::Configure { wanted: K3sWanted::InCluster { role: Role::Server, server: None, ca } }];
    if matches!(seen.k3s.server_unit, Known::Yes(UnitSeen::Inactive | UnitSeen::Failed)) {
        steps.push(Act::Start { role: Role::Server });
    }
    let mut plan = acts(Phase::Degraded, why.clone(), steps, SOON);
    plan.why.extend(seen.k3s.trouble.iter().cloned());
    plan
}
