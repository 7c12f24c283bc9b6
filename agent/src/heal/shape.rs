//! How many servers there are beside how many are wanted, once nobody is lost.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::input::{Advice, Input};
use super::labels::missing;
use super::quorum::{self, Change};
use super::remedy::{Remedy, SURPLUS, VACANT};
use super::verdict::Verdict;
use crate::core::Why;
use crate::gossip::{Claim, Role, WantedRole};

/// More voters than wanted, all of them alive.
pub(super) fn surplus(input: &Input<'_>, voters: usize) -> Advice {
    let detail = format!("{voters} servers vote and {} are wanted", input.target);
    let lasts = input.seen.uneven_since.map_or(Duration::ZERO, |since| input.now.saturating_sub(since));
    let mut living: Vec<&Claim> =
        input.of_cluster().filter(|claim| claim.role == Role::Server && claim.voter == Some(true)).collect();
    // A Node that was deleted without k3s's label leaves a member that goes on: it is not healthy, and it is the one to go.
    let nodeless = |name: &str| input.seen.nodes.yes().is_some() && input.node(name).is_none();
    let left = |name: &str| nodeless(name) && living.iter().any(|claim| claim.name == name);
    let healthy = input.judged.iter().all(|one| one.verdict == Verdict::Healthy || left(&one.name));
    if lasts < SURPLUS || !healthy {
        let next = format!("one is demoted when all are healthy and this has lasted {} s", SURPLUS.as_secs());
        return Advice::wait(Why::new("servers-surplus", detail, next));
    }
    // One without a Node goes first, then an unfit one, then one of the fullest zone, then the least fit; among equals the one with
    // the highest identity.
    let zones = input.zones();
    living.sort_by_key(|claim| {
        let rank = zones.rank(&claim.zone, claim.fitness.class);
        (!nodeless(&claim.name), claim.wants == WantedRole::Server, rank, Reverse(claim.owner.clone()))
    });
    for claim in living {
        let uid = match input.node(&claim.name) {
            Some(node) if !node.deleting => node.uid.clone(),
            None if nodeless(&claim.name) => String::new(),
            _ => continue,
        };
        match quorum::allows(input.members, &input.alive(), &Change::RemoveLiving(&claim.name)) {
            Ok(()) => {
                let remedy = Remedy::Demote { name: claim.name.clone(), uid };
                let why =
                    Why::new("surplus-demoted", format!("{detail}: {}", claim.name), "it becomes an agent");
                return Advice::act(why, remedy);
            }
            Err(refusal) => {
                return Advice::wait(Why::new("removal-refused", format!("{detail}; {refusal}"), "waits"));
            }
        }
    }
    Advice::wait(Why::new("servers-surplus", detail, "none of them can be named yet"))
}

/// Fewer voters than wanted.
pub(super) fn vacancy(input: &Input<'_>, voters: usize) -> Advice {
    if voters >= input.target {
        return labels(input);
    }
    let detail = format!("{voters} of {} servers", input.target);
    if let Some(claim) = input.coming().first() {
        let next = format!("{} is on its way", claim.name);
        return Advice::wait(Why::new("server-joining", detail, next));
    }
    let lasts = input.seen.uneven_since.map_or(Duration::ZERO, |since| input.now.saturating_sub(since));
    let spares = input.spares();
    let Some(spare) = spares.first() else {
        let next = "no agent can become a server: start a machine, and it joins by itself";
        return Advice::wait(Why::new("servers-missing", detail, next));
    };
    if lasts < VACANT {
        return Advice::wait(Why::new("servers-missing", detail, "a spare is promoted when this lasts"));
    }
    let why = Why::new(
        "spare-promoted",
        format!("{detail}: {} becomes a server", spare.name),
        "its pods are moved away first",
    );
    Advice::act(why, Remedy::Promote { name: spare.name.clone() })
}

/// With nothing else to do.
fn labels(input: &Input<'_>) -> Advice {
    let told = input.of_cluster().map(|claim| (claim.name.as_str(), claim.zone.as_str()));
    let zones: BTreeMap<&str, &str> =
        told.chain([(input.own.name, input.zone)]).filter(|(_, zone)| !zone.is_empty()).collect();
    let lacking = input.seen.labelled.as_ref().and_then(|nodes| missing(nodes, input.labels, &zones));
    let Some((name, labels)) = lacking else { return Advice::default() };
    let words: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let why = Why::new("labels-set", format!("{name} lacks {}", words.join(", ")), "set through the API");
    Advice::act(why, Remedy::Label { name, labels })
}
