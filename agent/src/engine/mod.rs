//! The only loop: observe, decide, write the ledger, speak, act, report. Wakes on change or at the plan's deadline.
//!
//! What is written before it is spoken is the rule that everything rests on: a claim is built from the record that
//! [`World::commit`] returned, never from the one that was planned.

mod claim;
pub mod real;
mod watch;

use std::time::Duration;

pub use claim::ClaimInput;
pub use real::look::gate_word;
pub use watch::Watcher;

use crate::config::Settings;
use crate::core::{Known, Unread, Why};
use crate::decide::{Act, Observed, Plan, decide};
use crate::ledger::Record;

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Something changed.
    Done,
    /// Nothing had to.
    AlreadySo,
    /// It goes on in the background; the world wakes the engine when it ends.
    Begun,
    /// The guard did not hold, or it could not be told whether it does: nothing was done.
    Refused(String),
    /// It failed; nothing half-done remains, and it is tried again after its back-off.
    Failed(String),
}

/// The only door to the outside. The real world, and the in-memory one of the tests, implement it.
#[expect(async_fn_in_trait, reason = "both implementations are ours and run on one task")]
pub trait World {
    /// Looks at everything a decision needs.
    async fn observe(&mut self) -> Observed;
    /// Asks an irreversible step's guard again, just before the step.
    async fn holds(&mut self, act: &Act, seen: &Observed) -> Known<bool>;
    /// Writes and syncs the ledger.
    ///
    /// # Errors
    /// One line for `muster why`, when the old content stands.
    async fn commit(&mut self, record: Record) -> Result<(), Why>;
    /// Publishes what this node says of itself, from the record on disk.
    async fn publish(&mut self, input: ClaimInput);
    /// Does one step.
    async fn perform(&mut self, act: Act) -> Outcome;
    /// Shows the report to people and programs.
    async fn report(&mut self, seen: &Observed, report: &Report);
    /// Waits until something changed or the time is over.
    async fn wait(&mut self, at_most: Duration);
}

/// What one tick did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The plan it followed, its reasons completed by what failed.
    pub plan: Plan,
    /// The steps taken, with their outcomes.
    pub done: Vec<(Act, Outcome)>,
}

/// One turn of the loop, without the wait at its end.
pub async fn tick<W: World>(world: &mut W, settings: &Settings) -> Report {
    let seen = world.observe().await;
    let mut plan = decide(&seen, settings);
    let mut done = Vec::new();
    if let Some(next) = plan.commit.take() {
        match world.commit((*next).clone()).await {
            Ok(()) => plan.commit = Some(next),
            Err(why) => {
                plan.why.insert(0, why);
                plan.acts.clear();
                plan.wake = Duration::from_secs(1);
            }
        }
    }
    let record = plan.commit.as_deref().unwrap_or(&seen.record);
    let input = ClaimInput::new(&seen, settings, &plan, record);
    world.publish(input).await;
    for act in std::mem::take(&mut plan.acts) {
        let outcome = match world.holds(&act, &seen).await {
            Known::Yes(true) => world.perform(act.clone()).await,
            Known::Yes(false) | Known::Absent => Outcome::Refused("its guard does not hold".to_owned()),
            Known::Unknown(Unread { what, cause }) => {
                Outcome::Refused(format!("cannot tell {what}: {cause}"))
            }
        };
        if let Outcome::Refused(cause) | Outcome::Failed(cause) = &outcome {
            plan.why.insert(0, Why::new(rule_of(&act), cause.clone(), "tried again"));
            done.push((act, outcome));
            // Later steps rest on earlier ones: a start without its configuration must not happen.
            break;
        }
        done.push((act, outcome));
    }
    let report = Report { plan, done };
    world.report(&seen, &report).await;
    report
}

/// Runs until the world's stop is asked for by dropping the future.
pub async fn run<W: World>(world: &mut W, settings: &Settings) {
    loop {
        let report = tick(world, settings).await;
        let wake = report.plan.wake;
        world.wait(wake).await;
    }
}

/// The rule name under which a failed step is reported.
fn rule_of(act: &Act) -> &'static str {
    match act {
        Act::PrepareHost => "host-preparation-failed",
        Act::FetchK3s => "k3s-unavailable",
        Act::Check { .. } => "founder-unproven",
        Act::AskMembers { .. } => "members-unknown",
        Act::Configure { .. } => "k3s-configuration-failed",
        Act::Start { .. } | Act::Stop { .. } | Act::Enable { .. } => "k3s-start-failed",
        Act::ResetEtcd { .. } => "recovery-reset-failed",
        Act::Discard { .. } => "discard-failed",
        Act::RemoveNode { .. } => "node-removal-refused",
        Act::Retire { .. } => "changing-role",
        Act::Restart { .. } => "certificate-renewal",
        Act::Mark => "mark-failed",
        Act::Heal { .. } => "remedy-failed",
    }
}
