//! A member that its cluster may have removed: what tells it so, whom it asks, and when it joins anew.

use std::time::Duration;

use super::heal::alive;
use super::{Act, Observed, Plan, WAITING, acts, commits, roles, waits};
use crate::core::{Known, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::Role;
use crate::heal::quorum::majority;
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
    trouble.iter().find(|why| REMOVED.contains(&&*why.rule))
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
    let said = says.map_or(silent, |why| &*why.detail);
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
    let reason = match members.iter().find(|member| roles::is_this(seen, member)) {
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
