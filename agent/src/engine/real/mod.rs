//! The real world: the ledger on disk, gossip on the wire, k3s through systemd, all behind the one trait of the engine.
//!
//! [`Real`] owns everything; looks are in `look`, steps in `act`, long work runs beside the loop in `background` and wakes
//! it, and `start` brings it up from the configuration.

mod act;
mod alike;
mod background;
mod heal;
pub(crate) mod look;
pub(crate) mod metrics;
mod recover;
mod scribe;
pub mod start;
mod survey;
pub(crate) mod tell;
mod ways;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub(crate) use heal::leave_path;
pub(crate) use recover::{fold_path, recover_path};
pub use start::{Begun, StartFailure, begin};

use super::{ClaimInput, Outcome, Report, Watcher, World};
use crate::config::Settings;
use crate::core::{CaHash, Known, NodeId, Why};
use crate::decide::{Act, MemberSeen, Observed};
use crate::discovery::Discovery;
use crate::edge::http::Http;
use crate::edge::systemd::Init;
use crate::founding::Shared;
use crate::gossip::{Claim, Gossip, PeerView, Role};
use crate::heal::RENEW_NOW;
use crate::heal::quorum::Change;
use crate::identity::Marks;
use crate::k3s::Paths;
use crate::k3s::facts::K3sFacts;
use crate::k3s::probe::Probe;
use crate::k3s::spec::Passwords;
use crate::ledger::{Ledger, Record};
use crate::report::Timeline;
use crate::report::decisions::derive::of_record;

/// The ledger is shared with gossip, which takes a new generation from it when its task must be restarted.
pub(crate) type SharedLedger = Arc<Mutex<Ledger>>;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The real world of one agent.
pub struct Real {
    settings: Settings,
    shared: Arc<Shared>,
    paths: Paths,
    id: NodeId,
    name: String,
    address: IpAddr,
    second: Option<IpAddr>,
    ledger: SharedLedger,
    gossip: Gossip,
    view: watch::Receiver<Arc<PeerView>>,
    wake: Arc<Notify>,
    http: Arc<Http>,
    init: Arc<dyn Init>,
    probe: Probe,
    passwords: Passwords,
    host: background::Host,
    fetch: background::Fetch,
    discovery: Discovery,
    k3s: Option<(Duration, K3sFacts)>,
    checks: BTreeMap<IpAddr, (Duration, Known<CaHash>)>,
    members: Option<(Duration, Known<Vec<MemberSeen>>)>,
    api: BTreeMap<String, (Duration, Known<CaHash>)>,
    watcher: Watcher,
    claim: Option<Claim>,
    marks: Marks,
    alike: Vec<Why>,
    ordered: Option<Duration>,
    survey: survey::Survey,
    reset: recover::Reset,
    healing: crate::heal::Watch,
    certificates: Option<(Duration, Known<i64>)>,
    restarted: Option<Duration>,
    verdicts: BTreeMap<String, crate::heal::Verdict>,
    teller: tell::Teller,
    scribe: scribe::Scribe,
    metrics: metrics::Metrics,
    timeline: Timeline,
}

impl Real {
    /// Ends what runs beside the loop. k3s is not touched: the cluster outlives the agent.
    pub async fn shut_down(mut self) {
        drop(self.discovery);
        self.survey.stop();
        self.gossip.shutdown().await;
    }

    /// Shows every status in these metrics, too.
    pub(crate) fn show_in(&mut self, metrics: metrics::Metrics) {
        self.metrics = metrics;
    }

    /// Where gossip is reached.
    #[must_use]
    pub fn gossip_address(&self) -> SocketAddr {
        self.gossip.address()
    }
}

impl World for Real {
    async fn observe(&mut self) -> Observed {
        self.look().await
    }

    async fn holds(&mut self, act: &Act, seen: &Observed) -> Known<bool> {
        match act {
            Act::Heal { remedy, .. } => self.guard_remedy(remedy, seen).await,
            Act::RemoveNode { name, .. } => match self.quorum_holds(&Change::RemoveDead(name)).await {
                Known::Yes(true) => self.guard(act).await,
                refused => refused,
            },
            // A voter that restarts is no voter for a while: the others must be enough, and are asked now. Alone, or at the very end of
            // its certificates, it restarts all the same.
            Act::Restart { role: Role::Server } if waits_for_others(seen) => {
                let change = Change::RemoveLiving(&seen.node.name);
                match self.quorum_holds(&change).await {
                    Known::Yes(true) => self.guard(act).await,
                    refused => refused,
                }
            }
            _ => self.guard(act).await,
        }
    }

    async fn commit(&mut self, record: Record) -> Result<(), Why> {
        let (old, new) = {
            let mut ledger = lock(&self.ledger);
            let old = ledger.record().clone();
            ledger.commit(record).map_err(|error| {
                let next =
                    "nothing is promised, started or changed before it can be written; make the disk writable";
                Why::new("ledger-unwritable", chain(&error), next)
            })?;
            (old, ledger.record().clone())
        };
        // After the ledger: the log tells of what is so. The line of the next start stands for what a crash keeps from it here.
        for decision in of_record(&self.id, &old, &new) {
            self.scribe.note(&decision);
        }
        Ok(())
    }

    async fn publish(&mut self, input: ClaimInput) {
        let generation = lock(&self.ledger).record().generation;
        let mut claim = input.claim;
        let counter =
            self.claim.as_ref().filter(|last| last.generation == generation).map_or(0, |last| last.counter);
        claim.generation = generation;
        claim.marks = self.marks;
        claim.counter = counter;
        if self.claim.as_ref() == Some(&claim) {
            return;
        }
        claim.counter = counter + 1;
        match self.gossip.publish(&claim, &input.shared.values) {
            Ok(()) => self.claim = Some(claim),
            Err(error) => tracing::warn!(%error, "the claim was not published"),
        }
    }

    async fn perform(&mut self, act: Act) -> Outcome {
        self.scribe.before(&act);
        self.act(act).await
    }

    async fn report(&mut self, seen: &Observed, report: &Report) {
        self.tell(seen, report);
    }

    async fn wait(&mut self, at_most: Duration) {
        let at_most = at_most.max(Duration::from_millis(20));
        tokio::select! {
            () = self.wake.notified() => {}
            // A closed channel means that gossip is gone for good; the deadline still turns the loop.
            changed = self.view.changed() => if changed.is_err() { tokio::time::sleep(at_most).await },
            () = tokio::time::sleep(at_most) => {}
        }
    }
}

fn waits_for_others(seen: &Observed) -> bool {
    let voters = seen.k3s.members.yes().into_iter().flatten().filter(|member| !member.learner).count();
    voters > 1 && seen.heal.leaf_ends.yes().is_none_or(|left| *left > RENEW_NOW)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
