//! Which role a node takes in a cluster that exists. Pure, from the certificate, the claims and the member list.

use std::cmp::Reverse;
use std::time::Duration;

use super::{MemberSeen, Observed};
use crate::config::Settings;
use crate::core::recovery::number;
use crate::core::zones::Zones;
use crate::core::{Known, NodeId, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::{Claim, Role, WantedRole};

/// How long the view must be unchanged before the place of a silent first server is given away.
const PLACE_KEPT: Duration = Duration::from_secs(15);

/// The role, or what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Take this role; the reason is kept for the status.
    Take(Role, Why),
    /// The member list must be asked for first.
    Ask,
    /// Something must end first: another machine of this name is still a member, or a place is still kept.
    Wait(Why),
}

/// Chooses the role of a node that holds no data yet.
pub(super) fn choose(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Choice {
    let me = &seen.node.id;
    if settings.role == WantedRole::Agent {
        return Choice::Take(
            Role::Agent,
            Why::new("role-agent", "role = \"agent\" in the configuration", "joins as an agent"),
        );
    }
    if let Some(why) = super::late::unfit(seen) {
        let detail = format!("no server may run here: {}", why.detail);
        return Choice::Take(Role::Agent, Why::new("host-unfit-for-server", detail, "joins as an agent"));
    }
    let listed = certificate.first_servers.contains(me) && certificate.founder != *me;
    let as_listed = || {
        let detail = "named among the first servers on the certificate";
        Choice::Take(Role::Server, Why::new("first-server", detail, "joins as a server"))
    };
    // Where data were moved aside, the member that they were may still be in the cluster under this node's name, and k3s joins no
    // second one of a name: the list is asked first.
    if listed && seen.record.discarded == 0 {
        return as_listed();
    }
    // While every first server is accounted for by its own word, the servers are full without asking anybody.
    let servers = || claims(seen).filter(|(claim, live)| *live && is_server(claim, certificate));
    if !listed && servers().count() >= settings.servers {
        return Choice::Take(Role::Agent, full(settings, servers().count()));
    }
    let Known::Yes(members) = &seen.members else { return Choice::Ask };
    if let Some(why) = name_held(seen, members) {
        return Choice::Wait(why);
    }
    // A first server that is live and not yet in the list has its place kept.
    let coming = claims(seen)
        .filter(|(claim, live)| *live && is_server(claim, certificate))
        .filter(|(claim, _)| members.iter().all(|member| member.node != claim.name))
        .count();
    let taken = members.len() + coming;
    // A first server that was removed since, and whose place was filled, has none any more: as a server it would be demoted again,
    // for ever.
    if listed && taken < settings.servers {
        return as_listed();
    }
    if taken >= settings.servers {
        return Choice::Take(Role::Agent, full(settings, taken));
    }
    // A first server that is silent keeps its place for a while: a slow machine must not cost the cluster its odd number.
    let silent =
        certificate.first_servers.iter().filter(|id| *id != me).any(|id| {
            seen.peers.peers.get(id).is_none_or(|peer| !peer.live && peer.claim.voter != Some(true))
        });
    if silent && seen.now.saturating_sub(seen.watch.settled_since) < PLACE_KEPT {
        let detail = format!("a first server is silent; {taken} of {} servers", settings.servers);
        let next = format!("its place is free when nothing has changed for {} s", PLACE_KEPT.as_secs());
        return Choice::Wait(Why::new("place-kept", detail, next));
    }
    // Vacancies go to the best-ranked newcomers; all see the same ranks, and etcd's own list settles a tie of views.
    let there = claims(seen).filter(|(claim, live)| *live && is_server(claim, certificate));
    let zones = Zones::of(there.map(|(claim, _)| claim.zone.as_str()));
    let rank = |zone: &str, fitness: u8, wants: WantedRole, id: &NodeId| {
        (wants == WantedRole::Server, zones.rank(zone, fitness), Reverse(id.clone()))
    };
    let mine = rank(super::zone(seen, settings), seen.node.fitness, settings.role, me);
    let better = claims(seen)
        .filter(|(claim, live)| *live && claim.role == Role::Undecided && claim.eligible)
        .filter(|(claim, _)| !certificate.first_servers.contains(&claim.owner))
        .filter(|(claim, _)| rank(&claim.zone, claim.fitness.class, claim.wants, &claim.owner) > mine)
        .count();
    if taken + better < settings.servers {
        let detail = format!("{taken} of {} servers", settings.servers);
        return Choice::Take(Role::Server, Why::new("server-vacancy", detail, "joins as a server"));
    }
    Choice::Take(Role::Agent, full(settings, taken + better))
}

/// Whether a member is this machine: one that has not written its name yet is known by its place.
pub(super) fn is_this(seen: &Observed, member: &MemberSeen) -> bool {
    member.node == seen.node.name || (member.node.is_empty() && member.address == Some(seen.node.address))
}

/// Why this node may not join yet, if a member of its name is still in the list.
pub(super) fn name_held(seen: &Observed, members: &[MemberSeen]) -> Option<Why> {
    let member = members.iter().find(|member| member.node == seen.node.name)?;
    let place = member.address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
    let detail = format!("a member named {} at {place} is still in the cluster", member.node);
    let next =
        "a server removes it once its old identity is dead and its address is this one; then this node joins";
    Some(Why::new("name-held", detail, next))
}

fn full(settings: &Settings, taken: usize) -> Why {
    let detail = format!("{taken} of {} servers are there or on their way", settings.servers);
    Why::new("servers-full", detail, "this node joins as an agent")
}

fn claims(seen: &Observed) -> impl Iterator<Item = (&Claim, bool)> {
    seen.peers.peers.values().map(|peer| (&*peer.claim, peer.live))
}

fn is_server(claim: &Claim, certificate: &Certificate) -> bool {
    claim.role == Role::Server
        || (claim.role == Role::Undecided && certificate.first_servers.contains(&claim.owner))
}

/// Whether a machine knows of the recovery that this one knows of: a server that does not is one of the time before it.
pub(super) fn is_current(seen: &Observed, claim: &Claim) -> bool {
    number(claim.recovery.as_ref()) >= number(seen.record.recovery.as_ref())
}

/// A server of the cluster that can take a newcomer in, the founder first.
pub(super) fn target<'a>(seen: &'a Observed, certificate: &Certificate) -> Option<&'a Claim> {
    let serving =
        |claim: &Claim| claim.role == Role::Server && claim.voter == Some(true) && claim.api == Some(true);
    let same =
        |claim: &Claim| claim.certificate.as_ref().is_some_and(|c| c.cluster_id == certificate.cluster_id);
    claims(seen)
        .filter(|(claim, live)| *live && serving(claim) && same(claim) && is_current(seen, claim))
        .filter(|(claim, _)| seen.record.fold.as_ref().is_none_or(|fold| fold.address == claim.address))
        .map(|(claim, _)| claim)
        .max_by_key(|claim| (claim.owner == certificate.founder, Reverse(&claim.owner)))
}

/// The server that must become a voter before this one may join: k3s admits one learner at a time, and from one to two
/// members is the most fragile moment of a cluster. A server that takes newcomers in lists a new voter seconds before the voter
/// itself can tell (k3s answers for the member list only when its own API serves), and etcd promotes once in 15 seconds: who
/// waits for the voter's own word misses a promotion.
pub(super) fn ahead<'a>(seen: &'a Observed, certificate: &Certificate) -> Option<&'a Claim> {
    let place = |id: &NodeId| {
        let position = certificate.first_servers.iter().position(|server| server == id);
        (position.unwrap_or(usize::MAX), id.clone())
    };
    let mine = place(&seen.node.id);
    let listed = |claim: &Claim| {
        let members = seen.members.yes().into_iter().flatten();
        members.filter(|member| !member.learner).any(|member| member.node == claim.name)
    };
    claims(seen)
        .filter(|(claim, live)| *live && is_server(claim, certificate) && claim.voter != Some(true))
        // Who is parked waits for a person, and nobody waits for it.
        .filter(|(claim, _)| place(&claim.owner) < mine && !listed(claim) && claim.phase != Phase::Parked)
        .map(|(claim, _)| claim)
        .min_by_key(|claim| place(&claim.owner))
}

/// Whether this server is the one to see to newcomers' names: it holds the Lease, or nobody is known to and its identity is the lowest.
fn sees_to_names(seen: &Observed) -> bool {
    if seen.heal.lease.yes().is_some() {
        return seen.heal.is_mine(seen.now);
    }
    let serving =
        |claim: &Claim| claim.role == Role::Server && claim.voter == Some(true) && claim.api == Some(true);
    !claims(seen).any(|(claim, live)| live && serving(claim) && claim.owner < seen.node.id)
}

/// A machine that was reimaged under the same name and asks for it, if this server is the one to see to it: its claim, and whether
/// its old identity was seen dead.
pub(super) fn reimaged(seen: &Observed) -> Option<(&Claim, bool)> {
    if !sees_to_names(seen) {
        return None;
    }
    claims(seen).filter(|(claim, live)| *live && claim.why == "name-held").find_map(|(newcomer, _)| {
        // The dead identity of the same name and address is proof that the old machine is gone and not merely out of sight. Where
        // nobody remembers it, the address is asked of Kubernetes: see the guard of the step.
        let seen_dead = claims(seen).any(|(old, live)| {
            !live
                && old.owner != newcomer.owner
                && old.name == newcomer.name
                && old.address == newcomer.address
        });
        // One whose namesake lives is nobody's to let in, and keeps no other waiting.
        let alive = claims(seen)
            .any(|(other, live)| live && other.owner != newcomer.owner && other.name == newcomer.name);
        // An agent asks with its k3s running: its new Node appears as soon as the old one is gone, while its word may still be the
        // old one. So there Kubernetes must say that it does not hear the kubelet, or the new one would be deleted under a living one.
        let seen_dead = seen_dead && newcomer.role != Role::Agent;
        (!alive && newcomer.name != seen.node.name).then_some((newcomer, seen_dead))
    })
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
