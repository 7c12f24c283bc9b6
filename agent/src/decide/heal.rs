//! Healing as part of a member's tick: its own remedies, and the cluster's when this node holds the Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Act, Observed, Plan, SOON, STEADY, WAITING, acts, commits, roles, waits};
use crate::config::{HealingMode, Settings};
use crate::core::{Known, NodeId, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::{Role, WantedRole};
use crate::heal::quorum::{self, Change, majority};
use crate::heal::{self, Input, Order, Own, Remedy};
use crate::ledger::{Data, Record};

/// What k3s says when the cluster has removed this member, or never took it in.
const REMOVED: [&str; 6] = [
    "gate-tombstone",
    "k3s-removed",
    "k3s-tombstone-no-server",
    "k3s-not-a-member",
    "k3s-members-differ",
    "k3s-learner-stalled",
];

/// How long k3s must say so without a break. The lists that are asked for are up to some seconds old, and a member that was added a
/// moment ago says the same until etcd has written its name into the list.
const OUT: Duration = Duration::from_secs(10);

/// How long a member must run without a vote before the others are asked whether it is one: longer than a start takes.
const VOTELESS: Duration = Duration::from_secs(30);

/// The question to a server that serves, while this member runs without a vote and no answer is young enough.
pub(super) fn asks(seen: &Observed, certificate: &Certificate) -> Option<Act> {
    let due = is_voteless(seen) && seen.members.yes().is_none();
    let server = roles::target(seen, certificate).filter(|_| due)?;
    Some(Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() })
}

/// Whether this member runs and has not voted for long. k3s does not always say that it was removed: an etcd that learns of it while it
/// starts may end without a word that lasts, and its k3s waits for ever.
fn is_voteless(seen: &Observed) -> bool {
    // On its way in, too: its etcd has run, so it was added, and may have been removed since.
    let member = matches!(
        seen.record.data,
        Data::Member { role: Role::Server, .. } | Data::Joining { role: Role::Server, .. }
    );
    let long = seen.watch.voteless_since.is_some_and(|since| seen.now.saturating_sub(since) >= VOTELESS);
    member && long
}

/// Whether k3s says that its cluster has removed this member, or never took it in.
pub fn says_removed(trouble: &[Why]) -> bool {
    word_of_removal(trouble).is_some()
}

fn word_of_removal(trouble: &[Why]) -> Option<&Why> {
    trouble.iter().find(|why| REMOVED.contains(&why.rule.as_str()))
}

/// How a member's reason to give its data up begins when its cluster has removed it.
pub const REMOVED_FROM: &str = "the cluster has removed this member";

/// What a server or a machine on its way does about itself, before anything else: `None` when nothing is amiss.
///
/// A member that the cluster has removed makes itself a new node, once a server that serves has shown, under the certificate's CA,
/// a list of members without it. A machine whose address changed does the same: the cluster holds its member at an address
/// that it does not have any more.
pub(super) fn removed(seen: &Observed, certificate: &Certificate) -> Option<Plan> {
    let says = word_of_removal(&seen.k3s.trouble);
    let tombstone = seen.heal.tombstone.yes().is_some();
    let moved = seen.record.voters.get(&seen.node.name).is_some_and(|address| *address != seen.node.address);
    // A member whose address changed may vote by the connections that it opens itself; its API never serves.
    let well = seen.k3s.voter == Known::Yes(true) && !(moved && seen.k3s.api != Known::Yes(true));
    let voteless = is_voteless(seen);
    if well || (says.is_none() && !tombstone && !moved && !voteless) {
        return None;
    }
    let silent = match (moved, tombstone) {
        (true, _) => "its address is not the one under which it voted",
        (false, true) => "its etcd left a tombstone",
        (false, false) => "its etcd runs and does not vote",
    };
    let said = says.map_or(silent, |why| why.detail.as_str());
    // Where nothing but the missing vote speaks for it, no answer is none: it goes on as a member, and asks beside that.
    if says.is_none()
        && !tombstone
        && !moved
        && (seen.members.yes().is_none() || roles::target(seen, certificate).is_none())
    {
        return None;
    }
    let Some(server) = roles::target(seen, certificate) else {
        let detail = format!("{said}; no server that serves is in sight to ask");
        let next = "goes on when one answers: its member list decides";
        return Some(waits(Phase::Degraded, Why::new("removal-unverified", detail, next), WAITING));
    };
    let ask = Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() };
    let asking = |detail: String| {
        let next = "its member list decides whether this machine joins anew";
        Some(acts(Phase::Degraded, Why::new("removal-unverified", detail, next), vec![ask.clone()], WAITING))
    };
    let Known::Yes(members) = &seen.members else {
        return asking(format!("{said}; asking {} for the cluster's members", server.name));
    };
    // A list without any voter is nobody's.
    if !members.iter().any(|member| !member.learner) {
        return asking(format!("{said}; {} lists no voters", server.name));
    }
    // One that has not written its name yet is known by its place.
    let is_this = |member: &&super::MemberSeen| {
        member.node == seen.node.name || (member.node.is_empty() && member.address == Some(seen.node.address))
    };
    let reason = match members.iter().find(is_this) {
        None if !tombstone
            && !moved
            && !voteless
            && seen.watch.out_since.is_none_or(|since| seen.now.saturating_sub(since) < OUT) =>
        {
            return asking(format!("{said}; {} lists {}", server.name, names(members)));
        }
        None => format!("{REMOVED_FROM}, and {} lists {}", server.name, names(members)),
        Some(member) if member.address.is_some_and(|address| address != seen.node.address) => {
            // It may still vote: it gives its data up only when the others are a majority without it.
            let mut others = alive(seen, certificate);
            others.remove(&seen.node.name);
            let voters = members.iter().filter(|member| !member.learner).count();
            if others.len() < majority(voters) {
                return asking(format!("{said}; {} of {voters} voters live without it", others.len()));
            }
            format!(
                "the cluster knows this member at {}, and its address is {} now",
                member.address.map_or_else(String::new, |address| address.to_string()),
                seen.node.address
            )
        }
        // Listed where it is: k3s goes on trying, and its own words stand in the plan.
        Some(_) => return None,
    };
    let mut next = Record::clone(&seen.record);
    next.data = Data::Discarding { reason: reason.clone() };
    let why =
        Why::new("rejoining", reason, "its data is moved aside, not deleted, and it joins as a new node");
    Some(commits(Phase::Joining, why, next))
}

fn names(members: &[super::MemberSeen]) -> String {
    members.iter().map(|member| member.node.as_str()).collect::<Vec<_>>().join(", ")
}

/// An agent that was ordered to become a server.
pub(super) fn promoted(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Option<Plan> {
    if seen.heal.order != Some(Order::Server) || settings.role == WantedRole::Agent {
        return None;
    }
    if let Some(why) = seen.host.blocks_server.first() {
        let detail = format!("ordered to become a server, and none may run here: {}", why.detail);
        let next = "another spare is tried when the order is taken back";
        return Some(waits(Phase::Serving, Why::new("host-unfit-for-server", detail, next), STEADY));
    }
    let server = roles::target(seen, certificate)?;
    let mut next = Record::clone(&seen.record);
    next.data = Data::Joining { role: Role::Server, cluster: certificate.cluster_id.clone() };
    let detail = format!("ordered to become a server; it joins through {}", server.name);
    Some(commits(Phase::Joining, Why::new("promoted", detail, "k3s changes its role on this machine"), next))
}

/// A promoted machine, or one of several that raced for a place, which finds the servers complete before it became one.
pub(super) fn superfluous(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Option<Plan> {
    if !seen.k3s.server_data.is_absent() || certificate.first_servers.contains(&seen.node.id) {
        return None;
    }
    let members = seen.members.yes()?;
    let voters = members.iter().filter(|member| !member.learner).count();
    if voters < settings.servers || members.iter().any(|member| member.node == seen.node.name) {
        return None;
    }
    let reason = format!("{voters} of {} servers are there without this one", settings.servers);
    let mut next = Record::clone(&seen.record);
    next.data = Data::Discarding { reason: reason.clone() };
    Some(commits(Phase::Joining, Why::new("servers-full", reason, "joins as an agent"), next))
}

/// What `muster leave` or a termination notice asks of a member.
pub(super) fn leaves(seen: &Observed, role: Role, certificate: &Certificate) -> Option<Result<Plan, Why>> {
    let request = seen.heal.leave.as_ref()?;
    let discard = |reason: String| {
        let mut next = Record::clone(&seen.record);
        next.data = Data::Discarding { reason: reason.clone() };
        let why = Why::new("leaving", reason, "k3s is stopped and its data moved aside, not deleted");
        Some(Ok(commits(Phase::Joining, why, next)))
    };
    if role == Role::Agent {
        return discard(format!("this agent leaves: {}", request.reason));
    }
    let refused = |cause: String| {
        let detail = format!(
            "asked to leave ({}), and that would cost the cluster its quorum: {cause}",
            request.reason
        );
        let next = "it stays; start another server first, or take the request back: muster leave --cancel";
        Some(Err(Why::new("leave-refused", detail, next)))
    };
    let asked = roles::target(seen, certificate);
    if let (Some(_), Known::Yes(members)) = (asked, &seen.members)
        && members.iter().any(|member| !member.learner)
        && members.iter().all(|member| member.node != seen.node.name)
    {
        return discard(format!("this server has left: {}", request.reason));
    }
    let Known::Yes(members) = &seen.k3s.members else {
        let listed =
            seen.members.yes().and_then(|list| list.iter().find(|member| member.node == seen.node.name));
        if let Some(member) = listed {
            // Its address changed: this member cannot come back, and the healer removes it when its machine says so.
            if member.address.is_some_and(|address| address != seen.node.address) {
                return discard(format!("this server leaves, and its address changed: {}", request.reason));
            }
            // It leaves as it would serve: by its own API, when k3s runs again.
            let next = "k3s is started here first; its member is removed when it serves";
            return Some(Err(Why::new("leaving", format!("this server leaves: {}", request.reason), next)));
        }
        let ask =
            asked.map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() });
        let why = Why::new("leaving", "asking whether this member is out", "then k3s is stopped here");
        return Some(Ok(acts(Phase::Degraded, why, ask.into_iter().collect(), SOON)));
    };
    if members.iter().all(|member| member.node != seen.node.name) {
        // Its own list does not count: it may be the one that was left behind.
        let ask =
            asked.map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() });
        let why = Why::new("leaving", "its member is out of its own list", "another server confirms it");
        return Some(Ok(acts(Phase::Degraded, why, ask.into_iter().collect(), SOON)));
    }
    if let Some(first) = leaves_first(seen) {
        let why = format!("this server leaves: {}", request.reason);
        let next = format!("waits for {first}: one server leaves at a time");
        return Some(Err(Why::new("leaving-waits", why, next)));
    }
    if let Err(refusal) =
        quorum::allows(members, &alive(seen, certificate), &Change::RemoveLiving(&seen.node.name))
    {
        return refused(refusal.to_string());
    }
    if asked.is_none() {
        return refused("no other server that serves is in sight".to_owned());
    }
    let why = Why::new(
        "leaving",
        format!("this server leaves: {}", request.reason),
        "its pods move away, its member is removed, then k3s is stopped here",
    );
    let step = Act::Heal {
        remedy: Remedy::Demote { name: seen.node.name.clone(), uid: String::new() },
        why: why.clone(),
    };
    let mut steps = vec![step];
    steps.extend(
        asked.map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() }),
    );
    // Not `serving`: the others must see what its cordon is for.
    Some(Ok(acts(Phase::Degraded, why, steps, WAITING)))
}

/// Another server that leaves, or is being removed, and comes before this one: two that count on each other would both go.
fn leaves_first(seen: &Observed) -> Option<&str> {
    let deleting = seen.heal.nodes.yes().into_iter().flatten().filter(|node| node.server && node.deleting);
    let peers = seen.peers.peers.values().filter(|peer| peer.live).map(|peer| &peer.claim);
    let leaves = peers.filter(|claim| claim.why == "leaving" && claim.owner < seen.node.id);
    deleting
        .map(|node| node.name.as_str())
        .filter(|name| *name != seen.node.name)
        .chain(leaves.map(|claim| claim.name.as_str()))
        .next()
}

pub(super) fn alive(seen: &Observed, certificate: &Certificate) -> BTreeSet<String> {
    let same = |claim: &&crate::gossip::Claim| {
        claim.certificate.as_ref().is_some_and(|one| one.cluster_id == certificate.cluster_id)
    };
    seen.peers
        .peers
        .values()
        .filter(|peer| peer.live)
        .map(|peer| &peer.claim)
        .filter(same)
        .filter(|claim| claim.role == Role::Server && claim.voter == Some(true))
        .map(|claim| claim.name.clone())
        .chain((seen.k3s.voter == Known::Yes(true)).then(|| seen.node.name.clone()))
        .collect()
}

/// The voters to be kept in the ledger, when the list has changed: without a quorum nobody can be asked who they were.
pub(super) fn voters_changed(seen: &Observed) -> Option<BTreeMap<String, IpAddr>> {
    let members = seen.k3s.members.yes()?;
    if seen.k3s.voter != Known::Yes(true) {
        return None;
    }
    // Beside a learner too: the power may go while one is on its way.
    let voters: BTreeMap<String, IpAddr> = members
        .iter()
        .filter(|member| !member.learner)
        .filter_map(|member| Some((member.node.clone(), member.address?)))
        .collect();
    (!voters.is_empty() && voters != seen.record.voters).then_some(voters)
}

/// Says that the quorum is lost, who is missing since when, and what would bring it back.
pub(super) fn quorum_lost(seen: &Observed) -> Option<Why> {
    let voters = &seen.record.voters;
    if voters.len() < 2 || seen.k3s.api == Known::Yes(true) || seen.k3s.voter == Known::Yes(true) {
        return None;
    }
    // A machine of that name that is no server, or not yet, does not stand in for the one that voted.
    let peer = |name: &str| {
        let mut peers = seen.peers.peers.values();
        peers.find(|peer| peer.claim.name == name && peer.live && peer.claim.role == Role::Server)
    };
    let missing: Vec<String> = voters
        .iter()
        .filter(|(name, _)| **name != seen.node.name && peer(name).is_none())
        .map(|(name, address)| {
            let known = seen.peers.peers.values().find(|peer| peer.claim.name == *name);
            let since = known.and_then(|peer| seen.heal.silent.get(&peer.claim.owner));
            match since {
                Some(since) => {
                    format!(
                        "{name} at {address}, silent since {} s",
                        seen.now.saturating_sub(*since).as_secs()
                    )
                }
                None => format!("{name} at {address}, not heard since this agent started"),
            }
        })
        .collect();
    let (living, needed) = (voters.len() - missing.len(), majority(voters.len()));
    if living >= needed {
        return None;
    }
    let detail = format!(
        "{living} of {} servers live and {needed} are needed; missing: {}",
        voters.len(),
        missing.join("; ")
    );
    let next = format!(
        "nothing is changed by itself; start {} of them; only if they are gone for good: muster recover",
        needed - living
    );
    Some(Why::new("quorum-lost", detail, next))
}

/// Two clusters under one certificate: by this server's own list, or by the word of another one that has seen it. While it lasts
/// nothing is removed, promoted, demoted or restarted on either side.
pub(super) fn split(seen: &Observed, certificate: &Certificate) -> Option<Why> {
    let next = "two clusters may exist under one certificate, and nothing is changed: compare the members of both sides; keep one, \
                and on every machine of the other: muster fold --into";
    let age = |since: &Duration| seen.now.saturating_sub(*since);
    if let Some((name, since)) = seen.heal.strangers.iter().find(|(_, since)| age(since) >= heal::SPLIT) {
        let detail = format!(
            "{name} says that it votes, and has not been in this node's list of members for {} s",
            age(since).as_secs()
        );
        return Some(Why::new("members-split", detail, next));
    }
    let mut peers = seen.peers.peers.values().filter(|peer| peer.live).map(|peer| &peer.claim);
    let told = peers.find(|claim| {
        let ours = claim.certificate.as_ref().is_some_and(|one| one.cluster_id == certificate.cluster_id);
        ours && roles::is_current(seen, claim) && claim.why == "members-split"
    })?;
    let detail = format!("{} says that a server votes that is not in its list of members", told.name);
    Some(Why::new("members-split-told", detail, next))
}

/// Agents, which were all made on one day as a rule, spread their restarts over so long.
const SPREAD: i64 = 5 * 86_400;
/// Restarts k3s when its certificates are about to end: servers one at a time, each only while all others vote, so that each votes
/// again before the next.
pub(super) fn renews(seen: &Observed, role: Role, certificate: &Certificate, plan: &mut Plan) {
    let Known::Yes(left) = &seen.heal.leaf_ends else { return };
    let spread = if role == Role::Agent { place(&seen.node.id) % SPREAD } else { 0 };
    if *left > heal::RENEW_BEFORE - spread {
        return;
    }
    let detail = format!("the first of k3s's certificates on this machine ends in {} days", left / 86_400);
    if !heal::renewal_due(&seen.heal.leaf_ends, seen.heal.restarted, seen.now) {
        let next = "k3s was restarted for it less than a day ago: another restart follows if that does not renew it; muster doctor";
        plan.why.push(Why::new("certificate-renewal", detail, next));
        return;
    }
    if role == Role::Server {
        let Known::Yes(members) = &seen.k3s.members else { return };
        let voters = members.iter().filter(|member| !member.learner).count();
        let mut living = alive(seen, certificate);
        let all_vote = members.len() == voters && living.len() >= voters;
        living.remove(&seen.node.name);
        let enough = *left <= heal::RENEW_SOON && living.len() >= majority(voters);
        let may = all_vote || enough || *left <= heal::RENEW_NOW;
        let turn = seen.heal.turn.yes().and_then(|holder| holder.until).is_some_and(|until| seen.now < until);
        if !may || !turn {
            let next = match (may, *left <= heal::RENEW_SOON) {
                (true, _) => "waits for its turn",
                (false, true) => "waits until a majority votes without this server",
                (false, false) => "waits until every other server votes",
            };
            plan.why.push(Why::new("certificate-renewal", detail, next));
            return;
        }
    }
    plan.why.push(Why::new(
        "certificate-renewal",
        detail,
        "k3s is restarted, which renews them; pods run on",
    ));
    plan.acts.push(Act::Restart { role });
}

/// A number of this machine's own, the same every time.
fn place(id: &NodeId) -> i64 {
    id.as_str().bytes().fold(0, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000_003)
}

/// The cluster's remedies: only the holder of the Lease has any.
pub(super) fn cluster(seen: &Observed, settings: &Settings, certificate: &Certificate, plan: &mut Plan) {
    if seen.k3s.voter == Known::Yes(true)
        && seen.k3s.api == Known::Yes(true)
        && matches!(&seen.heal.marked, Known::Absent)
        || matches!(&seen.heal.marked, Known::Yes(id) if *id != seen.node.id)
    {
        plan.acts.push(Act::Mark);
    }
    if settings.healing.mode == HealingMode::Off || !seen.heal.is_mine(seen.now) {
        return;
    }
    let Known::Yes(members) = &seen.k3s.members else { return };
    if !matches!(seen.heal.nodes, Known::Yes(_)) {
        return;
    }
    let own = Own { id: &seen.node.id, name: &seen.node.name };
    let judged = heal::judge(own, members, &seen.peers.peers, &seen.heal);
    let advice = heal::choose(&Input {
        now: seen.now,
        own,
        zone: super::zone(seen, settings),
        votes: seen.k3s.voter == Known::Yes(true),
        cluster: &certificate.cluster_id,
        target: settings.servers,
        grace: settings.healing.grace,
        patience: settings.healing.patience,
        first: &certificate.first_servers,
        labels: &settings.labels,
        members,
        judged: &judged,
        peers: &seen.peers.peers,
        seen: &seen.heal,
    });
    // What blocks the cluster does not block this node, whose own reason stands first.
    plan.why.extend(advice.why);
    if let Some((why, remedy)) = advice.remedy {
        plan.why.push(why.clone());
        plan.acts.push(Act::Heal { remedy, why });
        plan.wake = plan.wake.min(WAITING);
    }
}

#[cfg(test)]
#[path = "heal_tests.rs"]
mod tests;
