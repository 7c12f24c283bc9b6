//! The real world: the ledger on disk, gossip on the wire, k3s through systemd, all behind the one trait of the engine.
//!
//! [`Real`] owns everything; looks are in `look`, steps in `act`, long work runs beside the loop in `background` and wakes
//! it, and `start` brings it up from the configuration.

mod act;
mod background;
pub(crate) mod look;
pub mod start;
pub(crate) mod tell;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub use start::{Begun, StartFailure, begin};

use super::{ClaimInput, Outcome, Report, Watcher, World};
use crate::config::Settings;
use crate::core::{CaHash, Known, NodeId, Why};
use crate::decide::{Act, MemberSeen, Observed};
use crate::edge::http::Http;
use crate::edge::systemd::Init;
use crate::founding::Shared;
use crate::gossip::{Claim, Gossip, PeerView};
use crate::k3s::Paths;
use crate::k3s::facts::K3sFacts;
use crate::k3s::probe::Probe;
use crate::k3s::spec::Passwords;
use crate::ledger::{Ledger, Record};
use crate::report::Timeline;

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
    greeter: tokio::task::JoinHandle<()>,
    k3s: Option<(Duration, K3sFacts)>,
    checks: BTreeMap<IpAddr, (Duration, Known<CaHash>)>,
    members: Option<(Duration, Known<Vec<MemberSeen>>)>,
    api: BTreeMap<String, (Duration, Known<CaHash>)>,
    watcher: Watcher,
    claim: Option<Claim>,
    ordered: Option<Duration>,
    teller: tell::Teller,
    timeline: Timeline,
}

impl Real {
    /// Ends what runs beside the loop. k3s is not touched: the cluster outlives the agent.
    pub async fn shut_down(self) {
        self.greeter.abort();
        self.gossip.shutdown().await;
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

    async fn holds(&mut self, act: &Act, _seen: &Observed) -> Known<bool> {
        self.guard(act).await
    }

    async fn commit(&mut self, record: Record) -> Result<(), Why> {
        lock(&self.ledger).commit(record).map_err(|error| {
            let next =
                "nothing is promised, started or changed before it can be written; make the disk writable";
            Why::new("ledger-unwritable", chain(&error), next)
        })
    }

    async fn publish(&mut self, input: ClaimInput) {
        let generation = lock(&self.ledger).record().generation;
        let mut claim = input.claim;
        let counter =
            self.claim.as_ref().filter(|last| last.generation == generation).map_or(0, |last| last.counter);
        claim.generation = generation;
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
