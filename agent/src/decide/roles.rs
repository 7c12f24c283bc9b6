//! Which role a node takes in a cluster that exists. Pure, from the certificate, the claims and the member list.

use std::cmp::Reverse;
use std::time::Duration;

use super::{MemberSeen, Observed};
use crate::config::Settings;
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
    if let Some(why) = seen.host.blocks_server.first() {
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
    if listed {
        return as_listed();
    }
    // A first server that is live and not yet in the list has its place kept.
    let coming = claims(seen)
        .filter(|(claim, live)| *live && is_server(claim, certificate))
        .filter(|(claim, _)| members.iter().all(|member| member.node != claim.name))
        .count();
    let taken = members.len() + coming;
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
    let rank = |fitness: u8, wants: WantedRole, id: &NodeId| {
        (wants == WantedRole::Server, fitness, Reverse(id.clone()))
    };
    let mine = rank(seen.node.fitness, settings.role, me);
    let better = claims(seen)
        .filter(|(claim, live)| *live && claim.role == Role::Undecided && claim.eligible)
        .filter(|(claim, _)| !certificate.first_servers.contains(&claim.owner))
        .filter(|(claim, _)| rank(claim.fitness.class, claim.wants, &claim.owner) > mine)
        .count();
    if taken + better < settings.servers {
        let detail = format!("{taken} of {} servers", settings.servers);
        return Choice::Take(Role::Server, Why::new("server-vacancy", detail, "joins as a server"));
    }
    Choice::Take(Role::Agent, full(settings, taken + better))
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
    seen.peers.peers.values().map(|peer| (&peer.claim, peer.live))
}

fn is_server(claim: &Claim, certificate: &Certificate) -> bool {
    claim.role == Role::Server
        || (claim.role == Role::Undecided && certificate.first_servers.contains(&claim.owner))
}

/// A server of the cluster that can take a newcomer in, the founder first.
pub(super) fn target<'a>(seen: &'a Observed, certificate: &Certificate) -> Option<&'a Claim> {
    let serving =
        |claim: &Claim| claim.role == Role::Server && claim.voter == Some(true) && claim.api == Some(true);
    let same =
        |claim: &Claim| claim.certificate.as_ref().is_some_and(|c| c.cluster_id == certificate.cluster_id);
    claims(seen)
        .filter(|(claim, live)| *live && serving(claim) && same(claim))
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

/// A machine that was reimaged under the same name and address and asks for its name, if this server is the one to see to it:
/// its claim, and whether its old identity was seen dead.
pub(super) fn reimaged(seen: &Observed) -> Option<(&Claim, bool)> {
    let me = &seen.node.id;
    let serving =
        |claim: &Claim| claim.role == Role::Server && claim.voter == Some(true) && claim.api == Some(true);
    if claims(seen).any(|(claim, live)| live && serving(claim) && claim.owner < *me) {
        return None;
    }
    let newcomer = claims(seen).find(|(claim, live)| *live && claim.why == "name-held")?.0;
    // The dead identity of the same name and address is proof that the old machine is gone and not merely out of sight. Where
    // nobody remembers it, the address is asked of Kubernetes: see the guard of the step.
    let seen_dead = claims(seen).any(|(old, live)| {
        !live && old.owner != newcomer.owner && old.name == newcomer.name && old.address == newcomer.address
    });
    let alive = claims(seen)
        .any(|(other, live)| live && other.owner != newcomer.owner && other.name == newcomer.name);
    (!alive && newcomer.name != seen.node.name).then_some((newcomer, seen_dead))
}

/// Whether removing the member of a node that does not run leaves a majority of voters before and after. A learner does not
/// vote, so its removal costs nothing.
#[must_use]
pub(super) fn removal_keeps_quorum(members: &[MemberSeen], gone: &str, live_voters: usize) -> bool {
    let voters = members.iter().filter(|member| !member.learner).count();
    match members.iter().find(|member| member.node == gone) {
        None => true,
        Some(member) if member.learner => 2 * live_voters > voters,
        Some(_) => voters >= 2 && 2 * live_voters > voters && 2 * live_voters > voters - 1,
    }
}
