//! Sources at work: one task each, a board with what each said last, and the task that greets.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::merge::{self, Said};
use super::pace::{self, Census};
use super::{Facts, Failure, Found, MOST_OF_ONE, Origin, Scene, Source};
use crate::core::NodeId;
use crate::decide::{DiscoverySeen, SourceSeen};
use crate::gossip::PeerView;

/// Candidates greeted together; the rest have their turn in the next round.
const TOGETHER: usize = 64;
/// How long a peer that was lost counts as one of the group.
const LOST: Duration = Duration::from_secs(60 * 60);

/// How many make a group.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Votes that a founding needs.
    pub founders: usize,
    /// Wanted servers.
    pub servers: usize,
}

/// What discovery works with.
pub struct Surroundings {
    /// This node's gossip address.
    pub own: SocketAddr,
    /// How many make a group.
    pub counts: Counts,
    /// The peers that gossip sees.
    pub view: watch::Receiver<Arc<PeerView>>,
    /// Greets an address.
    pub meet: Box<dyn Fn(SocketAddr) + Send + Sync>,
    /// Draws.
    pub dice: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Rung when something changed that a decision may want to see.
    pub changed: Arc<Notify>,
}

/// What one source said last.
struct Slot {
    name: String,
    origin: Origin,
    addresses: Vec<SocketAddr>,
    facts: Facts,
    answered: Option<Instant>,
    error: Option<String>,
}

type Board = Arc<Mutex<Vec<Slot>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Running discovery. Dropping it ends it.
pub struct Discovery {
    board: Board,
    own: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Discovery {
    /// Starts every source.
    #[must_use]
    pub fn start(sources: Vec<Box<dyn Source>>, around: Surroundings) -> Self {
        let slot = |source: &dyn Source| Slot {
            name: source.name(),
            origin: source.origin(),
            addresses: Vec::new(),
            facts: Facts::default(),
            answered: None,
            error: None,
        };
        let board: Board = Arc::new(Mutex::new(sources.iter().map(|source| slot(source.as_ref())).collect()));
        let own = around.own;
        let (settled, enough) = watch::channel(false);
        let (tell, told) = mpsc::unbounded_channel();
        let fresh = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        for (place, source) in sources.into_iter().enumerate() {
            let asker = Asker {
                place,
                board: Arc::clone(&board),
                scene: Scene { own, enough: enough.clone(), tell: tell.clone() },
                settled: enough.clone(),
                fresh: Arc::clone(&fresh),
                dice: Arc::clone(&around.dice),
                changed: Arc::clone(&around.changed),
            };
            tasks.spawn(asker.ask_again_and_again(source));
        }
        let greeter =
            Greeter { board: Arc::clone(&board), around, settled, told, fresh, greeted: HashMap::new() };
        tasks.spawn(greeter.greet());
        Self { board, own, _tasks: tasks }
    }

    /// What the sources say, and what they know for certain.
    #[must_use]
    pub fn seen(&self) -> DiscoverySeen {
        let board = lock(&self.board);
        let facts = merge::facts(board.iter().map(|slot| &slot.facts), self.own.ip());
        let age = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let sources = board.iter().map(|slot| SourceSeen {
            source: slot.name.clone(),
            found: slot.answered.map(|_| slot.addresses.len()),
            age_ms: slot.answered.map(age),
            error: slot.error.clone(),
        });
        DiscoverySeen {
            zone: facts.zone,
            group_max: facts.group_max,
            terminated: facts.terminated,
            ending: facts.ending,
            sources: sources.collect(),
        }
    }
}

/// Asks one source.
struct Asker {
    place: usize,
    board: Board,
    scene: Scene,
    settled: watch::Receiver<bool>,
    fresh: Arc<Notify>,
    dice: Arc<dyn Fn() -> u64 + Send + Sync>,
    changed: Arc<Notify>,
}

impl Asker {
    async fn ask_again_and_again(mut self, mut source: Box<dyn Source>) {
        let mut times = 0;
        loop {
            let answer = ask(source.as_mut(), &self.scene).await;
            let wish = match &answer {
                Ok(found) => found.good_for,
                Err(failure) => failure.again,
            };
            self.note(answer);
            let settled = *self.settled.borrow_and_update();
            let pause = pace::pause(&source.pace(), times, settled, wish, (self.dice)());
            times = if settled { 0 } else { times.saturating_add(1) };
            let until = Instant::now() + pause;
            // Lost peers are looked for at once, but for a source that asked to be left alone.
            let left_alone = Instant::now() + wish.unwrap_or_default();
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    changed = self.settled.changed(), if settled => {
                        if changed.is_err() || !*self.settled.borrow_and_update() {
                            tokio::time::sleep_until(left_alone.min(until)).await;
                            break;
                        }
                    }
                }
            }
        }
    }

    fn note(&self, answer: Result<Found, Failure>) {
        let mut board = lock(&self.board);
        let Some(slot) = board.get_mut(self.place) else { return };
        let before = (slot.facts.clone(), slot.error.clone());
        let failed = answer.is_err();
        match answer {
            Ok(mut found) => {
                // A part in which nobody was is no answer of its own: the age stays that of the answer before.
                if !found.part || !found.addresses.is_empty() {
                    slot.answered = Some(Instant::now());
                }
                if found.part {
                    let new = |address: &SocketAddr| !found.addresses.contains(address);
                    let before: Vec<SocketAddr> = slot.addresses.iter().copied().filter(new).collect();
                    found.addresses.extend(before);
                }
                found.addresses.truncate(MOST_OF_ONE);
                slot.addresses = found.addresses;
                slot.facts = found.facts;
                slot.error = found.note;
            }
            Err(failure) => {
                // What it said before stays: a failed look-up is never "no peers".
                if let Some(facts) = failure.facts {
                    slot.facts = *facts;
                }
                slot.error = Some(failure.cause);
            }
        }
        if before.1 != slot.error
            && let Some(cause) = &slot.error
        {
            match failed {
                true => tracing::warn!(source = %slot.name, %cause, "a source of peers did not answer"),
                false => tracing::info!(source = %slot.name, note = %cause, "a source of peers answered"),
            }
        }
        let changed = before.0 != slot.facts;
        drop(board);
        self.fresh.notify_one();
        if changed {
            self.changed.notify_one();
        }
    }
}

/// Asks a source once, within its deadline.
pub(super) async fn ask(source: &mut dyn Source, scene: &Scene) -> Result<Found, Failure> {
    let deadline = source.pace().deadline;
    match tokio::time::timeout(deadline, source.look(scene)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::new(format!("no answer within {:.1} s", deadline.as_secs_f64()))),
    }
}

struct Greeter {
    board: Board,
    around: Surroundings,
    settled: watch::Sender<bool>,
    told: mpsc::UnboundedReceiver<SocketAddr>,
    fresh: Arc<Notify>,
    /// How often each candidate was greeted.
    greeted: HashMap<SocketAddr, u32>,
}

impl Greeter {
    async fn greet(mut self) {
        let mut seen: BTreeMap<NodeId, Instant> = BTreeMap::new();
        let mut times = 0;
        let mut next = Instant::now();
        let mut warned = false;
        loop {
            let live = self.census(&mut seen);
            let settled = !pace::is_seeking(live);
            self.settled.send_if_modified(|shown| std::mem::replace(shown, settled) != settled);
            if Instant::now() >= next {
                self.round(false);
                next = Instant::now() + if settled { pace::GREETING_SETTLED } else { pace::greeting(times) };
                times = if live.live == 0 { times.min(2) + 1 } else { times.saturating_add(1) };
            }
            if !warned {
                warned = self.warn_of_a_large_group();
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.fresh.notified() => self.round(true),
                Some(address) = self.told.recv() => {
                    if merge::is_peer(address, self.around.own) && !self.greeted.contains_key(&address) {
                        self.greeted.insert(address, 1);
                        (self.around.meet)(address);
                    }
                }
                changed = self.around.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Peers were lost: greet again soon.
                    if settled && pace::is_seeking(self.census(&mut seen)) {
                        times = 0;
                        next = Instant::now();
                    }
                }
            }
        }
    }

    /// Greets candidates, those first that were greeted least; only those never greeted where that is asked for.
    fn round(&mut self, only_new: bool) {
        let board = lock(&self.board);
        let said: Vec<Said> = board
            .iter()
            .map(|slot| Said {
                source: &slot.name,
                origin: slot.origin,
                age: slot.answered.map(|at| at.elapsed()).unwrap_or_default(),
                addresses: &slot.addresses,
            })
            .collect();
        let candidates = merge::merge(&said, self.around.own);
        drop(board);
        self.greeted.retain(|address, _| candidates.iter().any(|candidate| candidate.address == *address));
        let count = |address: &SocketAddr| self.greeted.get(address).copied().unwrap_or_default();
        let mut due: Vec<SocketAddr> = candidates.iter().map(|candidate| candidate.address).collect();
        if only_new {
            due.retain(|address| count(address) == 0);
        }
        // Stable: candidates of one count stay in their rank.
        due.sort_by_key(count);
        due.truncate(TOGETHER);
        for address in due {
            *self.greeted.entry(address).or_default() += 1;
            (self.around.meet)(address);
        }
    }

    fn census(&mut self, seen: &mut BTreeMap<NodeId, Instant>) -> Census {
        let now = Instant::now();
        let view = self.around.view.borrow_and_update();
        let mut live = 0;
        for peer in view.peers.values().filter(|peer| peer.live) {
            live += 1;
            seen.insert(peer.claim.owner.clone(), now);
        }
        drop(view);
        seen.retain(|_, at| now.duration_since(*at) <= LOST);
        let Counts { founders, servers } = self.around.counts;
        Census { live, lost: seen.len() - live, founders, servers }
    }

    fn warn_of_a_large_group(&self) -> bool {
        let board = lock(&self.board);
        let most = crate::founding::quorum::most_voters(self.around.counts.founders);
        let large = board.iter().find_map(|slot| slot.facts.group_max.filter(|max| *max as usize > most));
        if let Some(max) = large {
            tracing::warn!(max, most, "the group may grow beyond what founders is safe for");
        }
        large.is_some()
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
