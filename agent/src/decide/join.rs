//! With a certificate: take a role, join one at a time, serve, and say what is missing.

use std::net::IpAddr;
use std::time::Duration;

use super::roles::{self, Choice};
use super::{Act, K3sWanted, Observed, Plan, SOON, STEADY, WAITING, acts, commits, waits};
use crate::config::Settings;
use crate::core::{Known, Phase, Why};
use crate::decide::{Binary, UnitSeen};
use crate::founding::Certificate;
use crate::gossip::{Role, WantedRole};
use crate::ledger::{Data, Record};

/// For how long nothing has changed among the others before a k3s on its way in is called back from a server that is gone.
const LEFT: Duration = Duration::from_secs(60);

pub(super) fn decide(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Plan {
    match &seen.record.data {
        Data::Provisional { .. } => provisional(seen, certificate),
        Data::None => newcomer(seen, settings, certificate),
        Data::Joining { cluster, .. } | Data::Member { cluster, .. }
            if *cluster != certificate.cluster_id =>
        {
            discard(
                seen,
                format!("its data is of cluster {}, which is not the one that was chosen", cluster.short()),
            )
        }
        Data::Joining { role, .. } => joining(seen, *role, certificate),
        Data::Member { role, .. } => member(seen, settings, *role, certificate),
        // Handled before: kept so that a new state cannot be forgotten here.
        Data::Discarding { reason } => {
            waits(Phase::Joining, Why::new("discarding", reason.clone(), ""), SOON)
        }
    }
}

/// A nominee whose certificate was chosen is a founder; any other discards what it started.
fn provisional(seen: &Observed, certificate: &Certificate) -> Plan {
    if certificate.founder != seen.node.id {
        return discard(
            seen,
            format!(
                "{} founded the cluster; this node's provisional one was not chosen",
                certificate.founder_name
            ),
        );
    }
    match &seen.k3s.disk_ca {
        Known::Yes(ca) if *ca == certificate.ca_hash => {
            let mut next = Record::clone(&seen.record);
            next.data = Data::Member { role: Role::Server, cluster: certificate.cluster_id.clone() };
            let detail = "the provisional cluster of this node was chosen";
            commits(
                Phase::Founding,
                Why::new("founded", detail, "its configuration is disarmed: it can only join from now on"),
                next,
            )
        }
        Known::Yes(_) | Known::Absent => {
            discard(seen, "the CA on this disk is not the one on the certificate".to_owned())
        }
        Known::Unknown(unread) => {
            waits(Phase::Founding, Why::new("data-unknown", unread.to_string(), "looked at again"), WAITING)
        }
    }
}

fn discard(seen: &Observed, reason: String) -> Plan {
    let mut next = Record::clone(&seen.record);
    next.data = Data::Discarding { reason: reason.clone() };
    commits(
        Phase::Joining,
        Why::new("discarding", reason, "k3s is stopped and its data moved aside, not deleted"),
        next,
    )
}

/// A node with a certificate and no data of its own yet.
fn newcomer(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Plan {
    for (data, what) in [(&seen.k3s.server_data, "server"), (&seen.k3s.agent_data, "agent")] {
        match data {
            Known::Absent => {}
            Known::Yes(()) => {
                let detail =
                    format!("there is k3s {what} data on this machine that the ledger does not know");
                let next = "move the data directory away; the node then joins";
                return waits(Phase::Parked, Why::new("foreign-data", detail, next), STEADY);
            }
            Known::Unknown(unread) => {
                return waits(
                    Phase::Joining,
                    Why::new("data-unknown", unread.to_string(), "looked at again"),
                    WAITING,
                );
            }
        }
    }
    if let Some(plan) = not_ready_to_run(seen) {
        return plan;
    }
    match roles::choose(seen, settings, certificate) {
        Choice::Take(role, why) => {
            let mut next = Record::clone(&seen.record);
            next.data = Data::Joining { role, cluster: certificate.cluster_id.clone() };
            commits(Phase::Joining, why, next)
        }
        Choice::Ask => match roles::target(seen, certificate) {
            Some(server) => {
                let detail = format!("asking {} for the cluster's members", server.name);
                let step = Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() };
                let why = Why::new("asking-members", detail, "the role follows from the answer");
                acts(Phase::Joining, why, vec![step], WAITING)
            }
            None => waits(Phase::Joining, no_server(seen, certificate), WAITING),
        },
        Choice::Wait(why) => {
            let step = roles::target(seen, certificate)
                .map(|server| Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() });
            acts(Phase::Joining, why, step.into_iter().collect(), WAITING)
        }
    }
}

/// What must be in place before k3s can run at all.
fn not_ready_to_run(seen: &Observed) -> Option<Plan> {
    if !seen.host.prepared {
        let detail = "swap, modules and sysctls are being put in order";
        return Some(waits(Phase::Preparing, Why::new("preparing-host", detail, "goes on by itself"), SOON));
    }
    let why = match &seen.k3s.binary {
        Binary::Ready => return None,
        Binary::Wanted => Why::new("k3s-wanted", "the k3s binary is not in place yet", "it is fetched"),
        Binary::Fetching { progress } => Why::new("fetching-k3s", progress.clone(), "goes on by itself"),
        Binary::Failed { cause } => Why::new("k3s-unavailable", cause.clone(), "every source is tried again"),
    };
    Some(waits(Phase::Preparing, why, WAITING))
}

/// A node on its way in: nothing is started before a live server of this very cluster has been seen.
fn joining(seen: &Observed, role: Role, certificate: &Certificate) -> Plan {
    if let Some(plan) = not_ready_to_run(seen) {
        return plan;
    }
    if is_ready(seen, role) {
        let mut next = Record::clone(&seen.record);
        next.data = Data::Member { role, cluster: certificate.cluster_id.clone() };
        next.served = true;
        return commits(
            Phase::Joining,
            Why::new("joined", "this node is in the cluster and Ready", "it serves"),
            next,
        );
    }
    let unit = unit_of(seen, role);
    let running = matches!(unit, Known::Yes(UnitSeen::Active | UnitSeen::Starting));
    let left = running && is_left(seen, role, certificate);
    if running && seen.k3s.trouble.is_empty() && !left {
        let mut plan = waits(Phase::Joining, starting(seen, role), SOON);
        if roles::target(seen, certificate).is_none() {
            plan.why.insert(0, no_server(seen, certificate));
        }
        return plan;
    }
    if let Known::Yes(ca) = &seen.k3s.disk_ca
        && *ca != certificate.ca_hash
    {
        return discard(seen, format!("the disk holds CA {}, which is not the certificate's", ca.short()));
    }
    // A machine that lost power while it joined may be a voter by now that the others cannot do without: on data of this very
    // cluster it starts again and asks nobody.
    let begun = seen.k3s.server_data.yes().is_some() && seen.k3s.configured_server.yes().is_some();
    if role == Role::Server && !running && begun && seen.k3s.disk_ca.yes().is_some() {
        let mut plan = acts(Phase::Joining, starting(seen, role), vec![Act::Start { role }], SOON);
        // What k3s or the gate says stands first: a member that the cluster has removed waits for a person here.
        plan.why.splice(0..0, seen.k3s.trouble.iter().cloned());
        return plan;
    }
    // While no server can take anybody in, that is the fact that blocks, and not the order of those who wait.
    let Some(server) = roles::target(seen, certificate) else {
        let mut plan = waits(Phase::Joining, no_server(seen, certificate), WAITING);
        plan.why.extend(seen.k3s.trouble.iter().cloned());
        return plan;
    };
    if role == Role::Server
        && !running
        && let Some(first) = roles::ahead(seen, certificate)
    {
        let detail = format!("{} joins before this node; k3s admits one learner at a time", first.name);
        let why = Why::new("joins-serialised", detail, "goes on when it votes, or is gone");
        let ask = Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() };
        return acts(Phase::Joining, why, vec![ask], WAITING);
    }
    // It was configured to join before and has no data: what it became then may still be a member under this name, and k3s joins
    // no second one.
    if role == Role::Server && !running && seen.k3s.configuration.yes().is_some() {
        let ask = Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() };
        match &seen.members {
            Known::Yes(members) => {
                if let Some(why) = roles::name_held(seen, members) {
                    let mut plan = acts(Phase::Joining, why, vec![ask], WAITING);
                    plan.why.extend(seen.k3s.trouble.iter().cloned());
                    return plan;
                }
            }
            Known::Absent | Known::Unknown(_) => {
                let detail = format!("asking {} for the cluster's members", server.name);
                let why = Why::new("asking-members", detail, "joins when its name is free");
                let mut plan = acts(Phase::Joining, why, vec![ask], SOON);
                plan.why.extend(seen.k3s.trouble.iter().cloned());
                return plan;
            }
        }
    }
    let check = Act::Check { address: server.address };
    let mut plan = match seen.checks.get(&server.address) {
        Some(Known::Yes(ca)) if *ca == certificate.ca_hash => {
            let wanted =
                K3sWanted::InCluster { role, server: Some(server.address), ca: certificate.ca_hash.clone() };
            let mut steps = vec![Act::Configure { wanted }];
            if left {
                steps.push(Act::Stop { role });
            } else if !running {
                steps.push(Act::Start { role });
            }
            acts(Phase::Joining, starting(seen, role), steps, SOON)
        }
        Some(Known::Yes(ca)) => {
            let detail = format!(
                "{} at {} serves CA {} and the certificate says {}",
                server.name,
                server.address,
                ca.short(),
                certificate.ca_hash.short()
            );
            let next = "nothing is joined there; look at that machine";
            acts(Phase::Joining, Why::new("wrong-ca", detail, next), vec![check], WAITING)
        }
        _ => {
            let detail = format!("asking {} at {} for its CA", server.name, server.address);
            acts(
                Phase::Joining,
                Why::new("server-unproven", detail, "joins when it shows the certificate's CA"),
                vec![check],
                SOON,
            )
        }
    };
    // What k3s itself says stands first: it is the fact that blocks.
    let said = std::mem::take(&mut plan.why);
    plan.why = seen.k3s.trouble.iter().cloned().chain(said).collect();
    plan
}

/// Whether k3s is on its way in through a server that is not one any more, while there is another: it would wait there for ever.
fn is_left(seen: &Observed, role: Role, certificate: &Certificate) -> bool {
    let data = if role == Role::Server { &seen.k3s.server_data } else { &seen.k3s.agent_data };
    let Known::Yes(through) = &seen.k3s.configured_server else { return false };
    // A server that is joining itself is not the one that was asked: whoever takes newcomers in has joined long ago.
    let is_there = |peer: &crate::gossip::Peer| {
        let claim = &peer.claim;
        peer.live && claim.address == *through && claim.role == Role::Server && claim.phase != Phase::Joining
    };
    // A server that is only out of sight for seconds is waited for: k3s that is stopped between its request to become a learner
    // and its first start as one leaves a learner behind, which holds up all others until etcd's leader removes it.
    let for_long = seen.now.saturating_sub(seen.watch.settled_since) >= LEFT;
    for_long
        && data.is_absent()
        && !seen.peers.peers.values().any(is_there)
        && roles::target(seen, certificate).is_some()
}

/// A member: keeps its configuration such that it can only ever join, keeps its unit enabled, and tells whether it serves.
fn member(seen: &Observed, settings: &Settings, role: Role, certificate: &Certificate) -> Plan {
    // What runs already needs neither the binary's source nor a prepared host.
    let running = matches!(unit_of(seen, role), Known::Yes(UnitSeen::Active | UnitSeen::Starting));
    if let (false, Some(plan)) = (running, not_ready_to_run(seen)) {
        return plan;
    }
    if role == Role::Server && seen.k3s.server_data.is_absent() {
        return discard(seen, "its k3s data is gone from the disk".to_owned());
    }
    let ca = certificate.ca_hash.clone();
    let wanted = K3sWanted::InCluster { role, server: lasting_server(seen, certificate), ca };
    let mut steps = vec![Act::Configure { wanted }, Act::Enable { role }];
    if matches!(unit_of(seen, role), Known::Yes(UnitSeen::Inactive | UnitSeen::Failed)) {
        steps.push(Act::Start { role });
    }
    if role == Role::Server
        && let Known::Yes(members) = &seen.k3s.members
        && let Some((newcomer, seen_dead)) = roles::reimaged(seen)
    {
        let voters = live_voters(seen);
        if roles::removal_keeps_quorum(members, &newcomer.name, voters) {
            steps.push(Act::RemoveNode {
                name: newcomer.name.clone(),
                address: newcomer.address,
                by: newcomer.owner.clone(),
                seen_dead,
            });
        }
    }
    if is_ready(seen, role) {
        if !seen.record.served {
            let mut next = Record::clone(&seen.record);
            next.served = true;
            return commits(
                Phase::Joining,
                Why::new("joined", "this node is in the cluster and Ready", "it serves"),
                next,
            );
        }
        let mut plan = acts(Phase::Serving, serving(settings, role), steps, STEADY);
        if settings.role == WantedRole::Server && role == Role::Agent {
            let detail = format!("role = \"server\", and {} servers are wanted and there", settings.servers);
            plan.why.push(Why::new("servers-full", detail, "this node serves as an agent"));
        }
        return plan;
    }
    let phase = match (seen.record.served, certificate.founder == seen.node.id) {
        (true, _) => Phase::Degraded,
        (false, true) => Phase::Founding,
        (false, false) => Phase::Joining,
    };
    let mut plan = acts(phase, starting(seen, role), steps, SOON);
    let said = std::mem::take(&mut plan.why);
    plan.why = seen.k3s.trouble.iter().cloned().chain(said).collect();
    plan
}

/// The server to name in a member's configuration: kept while it is one, so that the file does not change with every claim.
fn lasting_server(seen: &Observed, certificate: &Certificate) -> Option<IpAddr> {
    let me = seen.node.address;
    let is_server = |address: &IpAddr| {
        seen.peers
            .peers
            .values()
            .any(|peer| peer.claim.address == *address && peer.claim.role == Role::Server)
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
        .map(|peer| peer.claim.address);
    listed.chain(seen.k3s.configured_server.yes().copied()).find(|address| *address != me)
}

fn live_voters(seen: &Observed) -> usize {
    let others = seen.peers.peers.values().filter(|peer| peer.live && peer.claim.voter == Some(true)).count();
    others + usize::from(seen.k3s.voter == Known::Yes(true))
}

fn unit_of(seen: &Observed, role: Role) -> &Known<UnitSeen> {
    if role == Role::Server { &seen.k3s.server_unit } else { &seen.k3s.agent_unit }
}

/// Joined means: own member votes and is healthy, the API is ready, and the Node is Ready; for an agent the last alone.
fn is_ready(seen: &Observed, role: Role) -> bool {
    let yes = |fact: &Known<bool>| *fact == Known::Yes(true);
    let k3s = &seen.k3s;
    match role {
        Role::Server => yes(&k3s.voter) && yes(&k3s.api) && yes(&k3s.ready),
        Role::Agent => yes(&k3s.ready),
        Role::Undecided => false,
    }
}

/// Names the one fact that k3s has not shown yet.
fn starting(seen: &Observed, role: Role) -> Why {
    let k3s = &seen.k3s;
    let next = "goes on by itself; k3s tries again every few seconds";
    if !matches!(unit_of(seen, role), Known::Yes(UnitSeen::Active | UnitSeen::Starting)) {
        return Why::new("k3s-starting", "the k3s unit is not running yet", next);
    }
    let missing = match role {
        Role::Server if k3s.voter != Known::Yes(true) => "its etcd member does not vote yet",
        Role::Server if k3s.api != Known::Yes(true) => "its API is not ready yet",
        _ => "its Kubernetes node is not Ready yet",
    };
    Why::new("k3s-starting", missing, next)
}

fn serving(settings: &Settings, role: Role) -> Why {
    let word = if role == Role::Server { "server" } else { "agent" };
    Why::new("serving", format!("{word} of cluster {}", settings.cluster), "nothing to do")
}

/// Why there is no server to join through: its founder is silent, or starting.
fn no_server(seen: &Observed, certificate: &Certificate) -> Why {
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
