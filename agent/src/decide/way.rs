//! The server by which a k3s finds its way in, or stays in. One that waits for a server that is gone would wait there for ever, and is
//! sent through another.

use std::net::IpAddr;
use std::time::Duration;

use super::roles;
use super::{Act, K3sWanted, Observed, Plan, SOON, acts};
use crate::core::{Known, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::{Peer, Role};

/// For how long a server must be gone before its k3s is called back from it.
const LEFT: Duration = Duration::from_secs(60);

/// Whether k3s is on its way in through a server that is not one any more, while there is another.
pub(super) fn is_left(seen: &Observed, role: Role, certificate: &Certificate) -> bool {
    // A server with data knows its members; an agent's balancer may know this one server alone, data or not.
    let fresh = role == Role::Agent || seen.k3s.server_data.is_absent();
    let Known::Yes(through) = &seen.k3s.configured_server else { return false };
    // A server that is only out of sight for seconds is waited for: k3s that is stopped between its request to become a learner
    // and its first start as one leaves a learner behind, which holds up all others until etcd's leader removes it.
    let for_long = seen.now.saturating_sub(seen.watch.settled_since) >= LEFT;
    for_long && fresh && !serves(seen, *through) && roles::target(seen, certificate).is_some()
}

/// Why k3s is called back on its way in.
pub(super) fn gone(seen: &Observed) -> Why {
    let through = seen.k3s.configured_server.yes();
    let place = through.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    let detail = format!("k3s joins through the server at {place}, which is none any more");
    Why::new("server-gone", detail, "k3s is stopped and joins through another one")
}

/// Sends an agent through another server when the one in its configuration is gone and its Node is not Ready. k3s's balancer
/// remembers all servers that it was told of, but one that joined through the first server alone may have been told of no other.
pub(super) fn cut_off(seen: &Observed, role: Role, running: bool, certificate: &Certificate) -> Option<Plan> {
    let Known::Yes(through) = &seen.k3s.configured_server else { return None };
    let well = seen.k3s.ready == Known::Yes(true);
    if role != Role::Agent || well || serves(seen, *through) || gone_for(seen, *through) < LEFT {
        return None;
    }
    let server = roles::target(seen, certificate)?;
    // It stands still before its file changes: by the file alone nobody could tell later that what runs still knows the old one.
    let steps = if running {
        vec![Act::Stop { role }]
    } else {
        let wanted =
            K3sWanted::InCluster { role, server: Some(server.address), ca: certificate.ca_hash.clone() };
        vec![Act::Configure { wanted }, Act::Start { role }]
    };
    let detail = format!(
        "its k3s was configured with the server {through}, which has been gone for {} s, and its Node is not Ready",
        gone_for(seen, *through).as_secs()
    );
    let next = format!("k3s restarts with {} at {}; pods run on", server.name, server.address);
    Some(acts(Phase::Degraded, Why::new("server-gone", detail, next), steps, SOON))
}

/// The server that a running agent was started with: its file keeps naming it, whatever has become of it, until the agent is sent
/// through another one. A server finds the others by its own members.
pub(super) fn running_through(seen: &Observed, role: Role, running: bool) -> Option<IpAddr> {
    let through = seen.k3s.configured_server.yes().copied();
    through.filter(|address| role == Role::Agent && running && *address != seen.node.address)
}

fn at(seen: &Observed, address: IpAddr) -> impl Iterator<Item = &Peer> {
    seen.peers.peers.values().filter(move |peer| peer.claim.address == address)
}

/// Whether a server lives there. One that is joining itself is not the one that was asked: whoever takes newcomers in has joined
/// long ago.
fn serves(seen: &Observed, address: IpAddr) -> bool {
    at(seen, address)
        .any(|peer| peer.live && peer.claim.role == Role::Server && peer.claim.phase != Phase::Joining)
}

/// For how long the machine at an address has been silent; where another lives there, or nobody was ever heard, for how long
/// nothing has changed among the others.
fn gone_for(seen: &Observed, address: IpAddr) -> Duration {
    let settled = seen.watch.settled_since;
    let since = |peer: &Peer| {
        let silent = seen.heal.silent.get(&peer.claim.owner).filter(|_| !peer.live);
        silent.copied().unwrap_or(settled)
    };
    let since = at(seen, address).map(since).max().unwrap_or(settled);
    seen.now.saturating_sub(since)
}

/// The server to name in a member's configuration: kept while it is one, so that the file does not change with every claim.
pub(super) fn lasting_server(seen: &Observed, certificate: &Certificate) -> Option<IpAddr> {
    let me = seen.node.address;
    // Servers of the time before a recovery are none: their clusters were given up.
    let known = |claim: &crate::gossip::Claim| roles::is_current(seen, claim);
    // The live owner of an address is asked first; the dead only where nobody lives: a place may have changed hands.
    let is_server = |address: &IpAddr| {
        let at = |live: bool| {
            let peers = seen.peers.peers.values();
            peers
                .filter(move |peer| peer.live == live && peer.claim.address == *address)
                .map(|peer| &*peer.claim)
        };
        let serves = |claim: &crate::gossip::Claim| claim.role == Role::Server && known(claim);
        if at(true).next().is_some() { at(true).any(serves) } else { at(false).any(serves) }
    };
    if let Known::Yes(address) = &seen.k3s.configured_server
        && *address != me
        && is_server(address)
    {
        return Some(*address);
    }
    if let Some(server) = roles::target(seen, certificate) {
        return Some(server.address);
    }
    // Before the second server has joined, its address on the certificate's list is still better than none: a founder that is
    // wiped then waits for it instead of standing alone.
    let listed = certificate
        .first_servers
        .iter()
        .filter_map(|id| seen.peers.peers.get(id))
        .filter(|peer| known(&peer.claim))
        .map(|peer| peer.claim.address);
    listed.chain(seen.k3s.configured_server.yes().copied()).find(|address| *address != me)
}

/// Why there is no server to join through: its founder is silent, or starting.
pub(super) fn no_server(seen: &Observed, certificate: &Certificate) -> Why {
    let founder = seen.peers.peers.get(&certificate.founder);
    let name = &certificate.founder_name;
    let address = certificate.founder_address;
    match founder {
        Some(peer) if peer.live => {
            let detail = format!("{name} at {address} founded the cluster and is not ready yet");
            Why::new("founder-starting", detail, "joins when its API is ready")
        }
        _ if certificate.founder == seen.node.id => Why::new(
            "no-server-live",
            "this node founded the cluster, its data is gone, and no other server is live",
            "waits for one",
        ),
        _ => {
            let detail = format!("the cluster was founded by {name} at {address}, which does not answer");
            let next = "waits for it; only if that machine is gone for good and nobody has joined: muster founding annul";
            Why::new("founder-silent", detail, next)
        }
    }
}
