//! With a certificate: take a role, join one at a time, serve, and say what is missing.

use super::heal;
use super::late;
use super::removed;
use super::roles::{self, Choice};
use super::way;
use super::{Act, K3sWanted, Observed, Plan, SOON, STEADY, WAITING, acts, commits, waits};
use crate::config::Settings;
use crate::core::{Known, Phase, Why};
use crate::decide::{Binary, UnitSeen};
use crate::founding::Certificate;
use crate::gossip::{Role, WantedRole};
use crate::heal::NodeSeen;
use crate::heal::quorum::{self, Change};
use crate::ledger::{Data, Record};

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
        Data::Joining { role, .. } => {
            let mut plan = joining(seen, settings, *role, certificate);
            let asks = late::asks(seen, settings, certificate).filter(|ask| !plan.acts.contains(ask));
            plan.acts.extend(asks.filter(|_| plan.commit.is_none()));
            plan
        }
        Data::Member { role, .. } => member(seen, settings, *role, certificate),
        // Handled before, as what parks is; kept for the moment at which something else stands in its way.
        Data::Recovering { number, .. } => {
            let detail = format!("recovery {number} waits");
            waits(Phase::Degraded, Why::new("recovering", detail, "goes on by itself"), WAITING)
        }
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
            None => waits(Phase::Joining, way::no_server(seen, certificate), WAITING),
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
fn joining(seen: &Observed, settings: &Settings, role: Role, certificate: &Certificate) -> Plan {
    if let Some(plan) = not_ready_to_run(seen) {
        return plan;
    }
    // A machine that changes its role stops the old one first; what runs in its pods goes on under containerd.
    let other = if role == Role::Server { Role::Agent } else { Role::Server };
    if matches!(unit_of(seen, other), Known::Yes(UnitSeen::Active | UnitSeen::Starting)) {
        let detail = "k3s stops in its old role before it starts in the new one";
        let step = vec![Act::Retire { role: other }];
        return acts(Phase::Joining, Why::new("changing-role", detail, "goes on by itself"), step, SOON);
    }
    if seen.heal.leave.is_some() {
        return discard(seen, "asked to leave while it was on its way in".to_owned());
    }
    if role == Role::Server
        && let Some(plan) = removed::removed(seen, certificate)
            .or_else(|| heal::superfluous(seen, settings, certificate))
            .or_else(|| late::gives_up(seen, settings))
    {
        return plan;
    }
    if is_ready(seen, role) {
        let mut next = Record::clone(&seen.record);
        next.data = Data::Member { role, cluster: certificate.cluster_id.clone() };
        next.served = true;
        next.fold = None;
        return commits(
            Phase::Joining,
            Why::new("joined", "this node is in the cluster and Ready", "it serves"),
            next,
        );
    }
    let unit = unit_of(seen, role);
    let running = matches!(unit, Known::Yes(UnitSeen::Active | UnitSeen::Starting));
    let left = running && way::is_left(seen, role, certificate);
    if running && seen.k3s.trouble.is_empty() && !left {
        let steps = removed::asks(seen, certificate).into_iter().collect();
        let mut plan = acts(Phase::Joining, starting(seen, role), steps, SOON);
        if roles::target(seen, certificate).is_none() {
            plan.why.insert(0, way::no_server(seen, certificate));
        }
        return plan;
    }
    if left {
        return acts(Phase::Joining, way::gone(seen), vec![Act::Stop { role }], SOON);
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
        let mut plan = waits(Phase::Joining, way::no_server(seen, certificate), WAITING);
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
            if !running {
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

/// A member: keeps its configuration such that it can only ever join, keeps its unit enabled, and tells whether it serves.
fn member(seen: &Observed, settings: &Settings, role: Role, certificate: &Certificate) -> Plan {
    // What runs already needs neither the binary's source nor a prepared host.
    let running = matches!(unit_of(seen, role), Known::Yes(UnitSeen::Active | UnitSeen::Starting));
    if let (false, Some(plan)) = (running, not_ready_to_run(seen)) {
        return plan;
    }
    // Without etcd's log a server has lost its data, whatever k3s has made anew beside it meanwhile.
    let lost = seen.k3s.server_data.is_absent() || seen.heal.wal.is_absent();
    if role == Role::Server && lost && seen.k3s.voter != Known::Yes(true) {
        // While nobody serves, nobody can take it in again, and a disk that is mounted late would be given up for nothing.
        if roles::target(seen, certificate).is_none() {
            let detail = "this server's k3s data is not on the disk, and no server that serves is in sight";
            let next = "waits for the data or for a server; if its disk is mounted by hand, mount it";
            return waits(Phase::Degraded, Why::new("data-missing", detail, next), WAITING);
        }
        return discard(seen, "its k3s data is gone from the disk".to_owned());
    }
    if role == Role::Agent && seen.k3s.agent_data.is_absent() && !is_ready(seen, role) {
        // Without data its k3s knows one server alone, and waits for that one for ever: it joins as at first, through one that lives.
        let mut next = Record::clone(&seen.record);
        next.data = Data::Joining { role, cluster: certificate.cluster_id.clone() };
        let why =
            Why::new("joining-again", "its k3s data is gone from the disk", "it joins again as an agent");
        return commits(Phase::Joining, why, next);
    }
    if let Some(plan) = way::cut_off(seen, role, running, certificate) {
        return plan;
    }
    let mut refused = None;
    match heal::leaves(seen, role, certificate) {
        Some(Ok(plan)) => return plan,
        Some(Err(why)) => refused = Some(why),
        None => {}
    }
    let amiss = match role {
        Role::Server => removed::removed(seen, certificate),
        Role::Agent => heal::promoted(seen, settings, certificate),
        Role::Undecided => None,
    };
    if let Some(plan) = amiss {
        return plan;
    }
    let ca = certificate.ca_hash.clone();
    let server = way::running_through(seen, role, running).or_else(|| way::lasting_server(seen, certificate));
    let wanted = K3sWanted::InCluster { role, server, ca };
    let mut steps = vec![Act::Configure { wanted }, Act::Enable { role }];
    if matches!(unit_of(seen, role), Known::Yes(UnitSeen::Inactive | UnitSeen::Failed)) {
        steps.push(Act::Start { role });
    }
    let split = if role == Role::Server { heal::split(seen, certificate) } else { None };
    let mut newcomers_node = None;
    if role == Role::Server
        && split.is_none()
        && let (Known::Yes(members), Known::Yes(nodes)) = (&seen.k3s.members, &seen.heal.nodes)
        && let Some((newcomer, seen_dead)) = roles::reimaged(seen)
    {
        let change = Change::RemoveDead(&newcomer.name);
        // One change at a time: whoever is on its way out counts as living until it is gone.
        let going = |node: &NodeSeen| node.deleting && node.name != newcomer.name;
        let listed = |node: &NodeSeen| members.iter().any(|member| member.node == node.name);
        let alone = !nodes.iter().any(|node| going(node) && listed(node));
        if alone && quorum::allows(members, &heal::alive(seen, certificate), &change).is_ok() {
            newcomers_node = Some(Act::RemoveNode {
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
        if let Some(why) = split {
            // Not `serving`: whoever looks, and whatever counts on this machine, must see it.
            let mut plan = waits(Phase::Degraded, why, STEADY);
            plan.why.push(serving(settings, role));
            plan.why.extend(refused);
            return plan;
        }
        let voters = (role == Role::Server).then(|| heal::voters_changed(seen)).flatten();
        let mut plan = acts(Phase::Serving, serving(settings, role), steps, STEADY);
        plan.commit = voters.map(|voters| Box::new(Record { voters, ..Record::clone(&seen.record) }));
        if role == Role::Server {
            heal::cluster(seen, settings, certificate, &mut plan);
        }
        heal::renews(seen, role, certificate, &mut plan);
        // Last: its guard may refuse for as long as that machine asks, and no other step waits for that.
        plan.acts.extend(newcomers_node);
        plan.why.extend(refused);
        plan.why.extend(late::gave_up(seen).filter(|_| role == Role::Agent));
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
    steps.extend(newcomers_node);
    steps.extend(removed::asks(seen, certificate));
    let mut plan = acts(phase, starting(seen, role), steps, SOON);
    // The fact that blocks stands first: a lost quorum explains everything else.
    let lost = (role == Role::Server).then(|| heal::quorum_lost(seen)).flatten();
    let said = std::mem::take(&mut plan.why);
    let first = lost.into_iter().chain(split);
    plan.why = first.chain(seen.k3s.trouble.iter().cloned()).chain(said).chain(refused).collect();
    plan
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

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
