//! What this node says of itself: built from the record on disk and the plan in force.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::Settings;
use crate::core::{Known, Phase};
use crate::decide::{Observed, Plan, zone};
use crate::founding::Shared;
use crate::gossip::{Claim, Fitness, Role};
use crate::identity::Marks;
use crate::ledger::{Data, Record};

/// A claim without generation and counter, which its publisher adds when the content has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimInput {
    /// The claim; generation and counter are those of the last one.
    pub claim: Claim,
    /// The parameters by name.
    pub shared: Arc<Shared>,
}

impl ClaimInput {
    /// Builds it. `record` is what is on disk now.
    #[must_use]
    pub fn new(seen: &Observed, settings: &Settings, plan: &Plan, record: &Record) -> Self {
        let fact = |known: &Known<bool>| known.yes().copied();
        let role = match &record.data {
            Data::Joining { role, .. } | Data::Member { role, .. } => *role,
            // A provisional cluster is not announced: nobody may mistake it for a server of anything.
            // Nor is a server that becomes a cluster of one: nobody joins it before it is.
            Data::Provisional { .. } | Data::Recovering { .. } | Data::None | Data::Discarding { .. } => {
                Role::Undecided
            }
        };
        let in_cluster = matches!(record.data, Data::Joining { .. } | Data::Member { .. });
        let server = in_cluster && role == Role::Server;
        let certified = record.certificate.is_some();
        let claim = Claim {
            v: 1,
            owner: seen.node.id.clone(),
            generation: seen.node.generation,
            counter: seen.node.counter,
            name: seen.node.name.clone(),
            address: seen.node.address,
            wants: settings.role,
            eligible: plan.eligible,
            fitness: Fitness { class: seen.node.fitness },
            zone: zone(seen, settings).to_owned(),
            parameters: seen.shared.hash.clone(),
            era: record.era,
            register: (!certified).then(|| record.register.clone()),
            proposal: record.proposal.clone().filter(|_| !certified),
            certificate: record.certificate.clone(),
            annulment: record.annulment.clone(),
            recovery: record.recovery.clone(),
            // Data that are still being moved aside may still be served: only what has been moved is fenced.
            fenced: record.recovery.is_some()
                && !matches!(record.data, Data::Discarding { .. } | Data::Recovering { .. }),
            phase: plan.phase,
            role,
            voter: fact(&seen.k3s.voter).filter(|_| server),
            api: fact(&seen.k3s.api).filter(|_| server),
            ready: fact(&seen.k3s.ready).filter(|_| in_cluster),
            // Who publishes it knows the machine.
            marks: Marks::default(),
            why: blocking(plan),
        };
        Self { claim, shared: Arc::clone(&seen.shared) }
    }
}

/// The rule that blocks; nothing for a node that serves.
fn blocking(plan: &Plan) -> Cow<'static, str> {
    match plan.why.first() {
        Some(why) if plan.phase != Phase::Serving => why.rule.clone(),
        _ => Cow::Borrowed(""),
    }
}
