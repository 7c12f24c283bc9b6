//! One run of chitchat: from the spawn of its task to its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::knowledge::{CLAIM, PARAMETERS, Verdict};
use super::network::Wire;
use super::pace::{Dice, FANOUT, Pulse, QUESTIONS, Rounds};
use super::seal::ping::{Mark, mark};
use super::task::{Command, Shared};
use super::transport::{SealedTransport, add, sleep_until};
use super::view::{GossipCounters, MOST_MEMBERS};
use crate::core::NodeId;

/// The same for everybody: clusters are told apart by their keys, not by this.
const CLUSTER_ID: &str = "muster";
/// How long chitchat remembers the dead. Every remembered member makes every message longer, and too many end it.
const DEAD_GRACE: Duration = Duration::from_secs(15 * 60);
/// Mean intervals without a heartbeat after which chitchat takes a member for dead: its own default. It only decides whom
/// chitchat's rounds choose; who counts as live is `Pulse`'s matter.
const PHI: f64 = 8.0;
/// Samples of the detector for each peer, instead of 1,000: 8 KB less each.
const SAMPLES: usize = 30;
/// How long news from others is collected before it is passed on, in milliseconds, at most.
const FORWARD_MS: u64 = 8;
/// Time between two greetings of members just heard of.
const ACQUAINT: Duration = Duration::from_millis(20);
/// Ticks between two greetings of a member that chitchat has forgotten: a partition may outlast its memory.
const REMIND_TICKS: u64 = 10;
/// Time between two log lines about dropped datagrams.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Versions above this leave no room to count on: only a hostile member writes them.
const POISONED: u64 = u64::MAX / 2;

/// What one run needs.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) listen: SocketAddr,
    pub(super) advertise: SocketAddr,
    pub(super) generation: u64,
    pub(super) dice: u64,
}

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("chitchat did not start: {0:#}")]
    NotStarted(anyhow::Error),
    #[error("chitchat ended: {0:#}")]
    Chitchat(anyhow::Error),
    #[error("chitchat ended")]
    Silently,
    #[error("it was asked to end")]
    Asked,
    #[error("a member has driven this node's version to its end")]
    Poisoned,
}

/// What a look at chitchat's state gave.
#[derive(Default)]
struct Look {
    heartbeats: Vec<(ChitchatId, u64)>,
    values: Vec<(Arc<str>, &'static str, String)>,
    poisoned: bool,
}

struct Driver {
    run: Run,
    chitchat: Arc<Mutex<Chitchat>>,
    handle: ChitchatHandle,
    own: ChitchatId,
    rounds: Rounds,
    pulse: Pulse,
    /// When a member has been silent for so long that something is due.
    silence: Option<Instant>,
    dice: Dice,
    /// Version of each value that was looked at.
    read: HashMap<ChitchatId, [u64; 2]>,
    known: HashSet<ChitchatId>,
    live: HashSet<SocketAddr>,
    ticks: u64,
    logged: (Instant, GossipCounters),
}

/// Runs chitchat until it ends.
pub(super) async fn run(
    run: Run,
    wire: Arc<dyn Wire>,
    commands: Arc<Mutex<mpsc::UnboundedReceiver<Command>>>,
) -> Ended {
    let mut commands = commands.lock().await;
    let shared = Arc::clone(&run.shared);
    let transport = SealedTransport { link: Arc::clone(&shared.link), wire };
    let config = config(&run);
    let own = config.chitchat_id.clone();
    let values = shared.published().map(|published| published.values.map(|(k, v)| (k.to_owned(), v)));
    let handle = match spawn_chitchat(config, values.into_iter().flatten().collect(), &transport).await {
        Ok(handle) => handle,
        Err(error) => return Ended::NotStarted(error),
    };
    drop(transport);
    shared.link.sealer().set_mark(named(&own));
    let now = Instant::now();
    let mut driver = Driver {
        chitchat: handle.chitchat(),
        rounds: Rounds::new(now, shared.interval),
        pulse: Pulse::new(shared.interval),
        silence: None,
        dice: Dice(run.dice),
        run,
        handle,
        own,
        read: HashMap::new(),
        known: HashSet::new(),
        live: HashSet::new(),
        ticks: 0,
        logged: (now, shared.link.counters.snapshot()),
    };
    let ended = driver.handle.termination_watcher();
    tokio::pin!(ended);
    let mut interval = tokio::time::interval(shared.interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    driver.greet_remembered(FANOUT);
    loop {
        let (due, silence) = (driver.rounds.due(), driver.silence);
        let outcome = tokio::select! {
            result = &mut ended => return result.map_or_else(Ended::Chitchat, |()| Ended::Silently),
            () = shared.published_anew.notified() => driver.say().await,
            () = shared.link.processed.notified() => driver.look().await,
            () = sleep_until(due) => {
                driver.round();
                Ok(())
            }
            () = sleep_until(silence) => driver.ask().await,
            command = commands.recv() => match command {
                Some(Command::Meet(address)) => {
                    driver.greet(address);
                    Ok(())
                }
                // chitchat's task owns the socket: it is waited for.
                Some(Command::Shutdown) | None => {
                    let _ = driver.handle.shutdown().await;
                    return Ended::Asked;
                }
            },
            _ = interval.tick() => driver.tick().await,
        };
        if let Err(cause) = outcome {
            return cause;
        }
    }
}

fn named(id: &ChitchatId) -> Mark {
    mark(&id.node_id, id.generation_id, id.gossip_advertise_addr)
}

fn config(run: &Run) -> ChitchatConfig {
    let interval = run.shared.interval;
    ChitchatConfig {
        chitchat_id: ChitchatId::new(run.shared.node.as_str(), run.generation, run.advertise),
        cluster_id: CLUSTER_ID.to_owned(),
        gossip_interval: interval,
        listen_addr: run.listen,
        // Seeds are the discovery loop's matter: chitchat drops the ones that do not resolve at the moment.
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig::new(
            PHI,
            SAMPLES,
            interval * 10,
            interval,
            DEAD_GRACE,
        ),
        marked_for_deletion_grace_period: DEAD_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}

impl Driver {
    /// Puts what this node says into its gossip state, and tells it at once where it changed.
    async fn say(&mut self) -> Result<(), Ended> {
        let Some(published) = self.run.shared.published() else { return Ok(()) };
        let mut chitchat = self.chitchat.lock().await;
        let state = chitchat.self_node_state();
        if state.max_version() > POISONED {
            return Err(Ended::Poisoned);
        }
        let before = state.max_version();
        for (key, value) in published.values {
            state.set(key, value);
        }
        let changed = state.max_version() != before;
        drop(chitchat);
        if changed {
            self.rounds.want(Instant::now(), Duration::ZERO);
        }
        Ok(())
    }

    /// Looks at what gossip has brought: new values are checked, liveness is judged, news is passed on.
    async fn look(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let look = self.peek().await;
        if look.poisoned {
            return Err(Ended::Poisoned);
        }
        let shared = Arc::clone(&self.run.shared);
        let mut knowledge = shared.knowledge();
        let mut news = false;
        for (node, key, value) in &look.values {
            match knowledge.offer(node, key, value) {
                Verdict::New => news = true,
                Verdict::Known => {}
                Verdict::Ignored => add(&shared.link.counters.ignored_claims, 1),
            }
        }
        for (id, heartbeat) in &look.heartbeats {
            self.pulse.beat(now, id, *heartbeat);
        }
        let living = shared.link.take_living();
        if !living.is_empty() {
            self.pulse.answered(now, |id| living.contains(&named(id)));
        }
        self.silence = self.pulse.due(now);
        let (live, addresses) = self.judge(now, &look);
        let changed = knowledge.set_live(&live, &addresses);
        drop(knowledge);
        if news {
            self.rounds.want(now, Duration::from_millis(1 + self.dice.roll() % FORWARD_MS));
        }
        if self.pulse.has_strangers() {
            self.rounds.want(now, ACQUAINT);
        }
        if news || changed {
            shared.show();
        }
        Ok(())
    }

    /// Copies what changed out of chitchat's state: its lock is held for as short as possible.
    async fn peek(&mut self) -> Look {
        let chitchat = self.chitchat.lock().await;
        let mut look = Look::default();
        let states = chitchat.node_states();
        if self.known.len() != states.len() || !states.keys().all(|id| self.known.contains(id)) {
            self.known = states.keys().cloned().collect();
            self.pulse.retain(&self.known);
            self.read.retain(|id, _| self.known.contains(id));
        }
        for (id, state) in states {
            if *id == self.own {
                look.poisoned = state.max_version() > POISONED;
            } else {
                look.heartbeats.push((id.clone(), state.heartbeat().into()));
            }
            let read = self.read.entry(id.clone()).or_insert([0; 2]);
            for (seen, key) in read.iter_mut().zip([CLAIM, PARAMETERS]) {
                let Some(value) = state.get_versioned(key) else { continue };
                if value.version != *seen && !value.is_deleted() {
                    *seen = value.version;
                    look.values.push((Arc::clone(&id.node_id), key, value.value.clone()));
                }
            }
        }
        look
    }

    /// Who is live, and where each node is: at the address of its latest live incarnation, else of its latest.
    fn judge(&mut self, now: Instant, look: &Look) -> (HashSet<NodeId>, BTreeMap<NodeId, SocketAddr>) {
        let mut best: BTreeMap<&str, (bool, u64, SocketAddr)> = BTreeMap::new();
        let mut live_addresses = HashSet::new();
        for (id, _) in &look.heartbeats {
            let is_live = self.pulse.is_beating(now, id);
            let is_own = *id.node_id == *self.own.node_id;
            if is_live && id.gossip_advertise_addr != self.own.gossip_advertise_addr {
                live_addresses.insert(id.gossip_advertise_addr);
            }
            let candidate = (is_live, id.generation_id, id.gossip_advertise_addr);
            let place = best.entry(&id.node_id).or_insert(candidate);
            if !is_own && candidate > *place {
                *place = candidate;
            }
        }
        if live_addresses != self.live {
            self.run.shared.link.set_live(live_addresses.clone());
            self.live = live_addresses;
        }
        let (mut live, mut addresses) = (HashSet::new(), BTreeMap::new());
        for (node, (is_live, _, address)) in best {
            let Ok(node) = node.parse::<NodeId>() else { continue };
            if is_live {
                live.insert(node.clone());
            }
            addresses.insert(node, address);
        }
        (live, addresses)
    }

    /// Greets some members now: first those just heard of, who are not live before their heartbeat was seen to advance, then
    /// live ones, who get what is new.
    fn round(&mut self) {
        if !self.rounds.take(Instant::now()) {
            return;
        }
        let strangers = self.dice.choose(self.pulse.strangers(), FANOUT);
        let mut targets: HashSet<SocketAddr> = strangers.iter().map(|id| id.gossip_advertise_addr).collect();
        for stranger in &strangers {
            self.pulse.greeted(stranger);
        }
        let others = self.live.difference(&targets).copied().collect();
        targets.extend(self.dice.choose(others, FANOUT - strangers.len()));
        for target in targets {
            self.greet(target);
        }
        if self.pulse.has_strangers() {
            self.rounds.want(Instant::now(), ACQUAINT);
        }
    }

    /// Asks some of those who were silent for long whether they live. It takes no token: it is bounded by itself.
    async fn ask(&mut self) -> Result<(), Ended> {
        let mut greeted = 0;
        for suspect in self.dice.choose(self.pulse.suspects(Instant::now()), QUESTIONS) {
            let address = suspect.gossip_advertise_addr;
            // One is always greeted: that also tells of the others, whose news are late, too.
            if self.pulse.questioned(&suspect) && greeted > 0 {
                // What is not sent is asked again in a moment.
                let _ = self.run.shared.link.ping(address, named(&suspect)).await;
            } else if greeted < FANOUT {
                greeted += 1;
                self.greet(address);
            }
        }
        self.look().await
    }

    fn greet(&self, address: SocketAddr) {
        if address == self.own.gossip_advertise_addr {
            return;
        }
        self.run.shared.link.ask(address);
        // An error means that chitchat has ended, which its watcher tells.
        let _ = self.handle.gossip(address);
    }

    /// Greets some remembered nodes: chitchat may have forgotten them, or be new.
    fn greet_remembered(&mut self, wanted: usize) {
        let remembered = self.run.shared.knowledge().addresses();
        let addresses = remembered.into_iter().map(|(_, address, _)| address);
        let forgotten = addresses
            .filter(|address| !self.known.iter().any(|id| id.gossip_advertise_addr == *address))
            .collect();
        for address in self.dice.choose(forgotten, wanted) {
            self.greet(address);
        }
    }

    async fn tick(&mut self) -> Result<(), Ended> {
        self.ticks += 1;
        // A member may have overwritten this node's state: its own disk is right, not gossip.
        self.say().await?;
        self.look().await?;
        if self.live.is_empty() {
            self.greet_remembered(FANOUT);
        } else if self.ticks.is_multiple_of(REMIND_TICKS) {
            self.greet_remembered(1);
        }
        self.log_drops();
        Ok(())
    }

    /// One line per minute about what was dropped, however much it was.
    fn log_drops(&mut self) {
        let (at, before) = self.logged;
        if at.elapsed() < LOG_EVERY {
            return;
        }
        let now = self.run.shared.link.counters.snapshot();
        self.logged = (Instant::now(), now);
        let unopened = now.dropped_unopened - before.dropped_unopened;
        let replayed = now.dropped_replayed - before.dropped_replayed;
        let undecoded = now.dropped_undecoded - before.dropped_undecoded;
        let ignored = now.ignored_claims - before.ignored_claims;
        if now.dropped_crowded > before.dropped_crowded {
            tracing::warn!(
                most = MOST_MEMBERS,
                "members speak of more nodes than gossip carries: they do not hear each other; run fewer agents, or groups of their own"
            );
        }
        if unopened + replayed + undecoded + ignored > 0 {
            tracing::info!(unopened, replayed, undecoded, ignored, "gossip dropped in the last minute");
        }
    }
}
