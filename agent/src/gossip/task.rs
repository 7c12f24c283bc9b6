//! The handle on a running gossip, and the task that keeps it running.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::claim::Claim;
use super::keys::GossipKeys;
use super::knowledge::{CLAIM, Knowledge, MAX_VALUE, PARAMETERS};
use super::network::{Network, Wire};
use super::prober::Prober;
use super::run::{self, Ended, Run};
use super::seal::Sealer;
use super::signed::Signer;
use super::transport::{Link, add};
use super::view::{GossipCounters, PeerView};
use crate::core::NodeId;
use crate::edge::clock;
use crate::founding::Parameters;

/// Wait before the first restart, doubled for each further one, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A run longer than this counts as healthy: the next restart waits the short time again.
const HEALTHY: Duration = Duration::from_secs(60);

/// How long an end that was asked for is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives the next generation from the durable counter: incremented and synced before it returns. Called from a thread
/// that may block.
pub type NextGeneration = dyn Fn() -> Result<u64, Box<dyn std::error::Error + Send + Sync>> + Send + Sync;

/// What a gossip needs to run.
pub struct GossipConfig {
    /// Name of the cluster: part of every key and every signature.
    pub cluster: String,
    /// Generation of this start, from the durable counter.
    pub generation: u64,
    /// Gives the generation of each restart of the gossip within this process.
    pub next_generation: Arc<NextGeneration>,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others reach this node; port 0 stands for the port that was bound.
    pub advertise: SocketAddr,
    /// Keys of the datagrams.
    pub keys: GossipKeys,
    /// Key of the claims; its node id is this node's.
    pub signer: Signer,
    /// Time between rounds when nothing happens.
    pub interval: Duration,
    /// The host's UDP, or a network in memory.
    pub network: Arc<dyn Network>,
}

/// The gossip could not be started; nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not of this host.
    #[error("cannot listen for gossip on UDP {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel gave no random bytes for the session.
    #[error("cannot draw a gossip session")]
    Random(#[source] std::io::Error),
}

/// A claim that was not published; what was published before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is not this node's claim: others would ignore it.
    #[error("the claim's owner {0} is not this node")]
    Foreign(NodeId),
    /// It is not later than the last one, and differs from it: others would ignore it.
    #[error("claim {generation}.{counter} is not later than the published one")]
    NotLater {
        /// Generation of the refused claim.
        generation: u64,
        /// Counter of the refused claim.
        counter: u64,
    },
    /// It is too large for gossip.
    #[error("{what} of {bytes} bytes is over the bound of {MAX_VALUE}")]
    TooLarge {
        /// The claim, or the parameters.
        what: &'static str,
        /// Its size, signed.
        bytes: usize,
    },
    /// It has no text form.
    #[error("{0} cannot be written as JSON")]
    Text(&'static str),
}

/// What this node says: signed values by key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Published {
    number: (u64, u64),
    pub(super) values: [(&'static str, String); 2],
}

pub(super) enum Command {
    Meet(SocketAddr),
    Shutdown,
}

/// What handle, supervisor and runs share.
pub(super) struct Shared {
    pub(super) cluster: String,
    pub(super) node: NodeId,
    pub(super) interval: Duration,
    pub(super) signer: Signer,
    pub(super) link: Arc<Link>,
    pub(super) view: watch::Sender<Arc<PeerView>>,
    pub(super) published_anew: Notify,
    knowledge: Mutex<Knowledge>,
    published: Mutex<Option<Published>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        lock(&self.knowledge)
    }

    pub(super) fn published(&self) -> Option<Published> {
        lock(&self.published).clone()
    }

    /// Shows the present knowledge to readers, if it differs from what they see.
    pub(super) fn show(&self) {
        let mut view = self.knowledge().view();
        self.view.send_if_modified(|shown| {
            let same = shown.peers == view.peers && shown.echo == view.echo && shown.twin == view.twin;
            if !same {
                view.counters = self.link.counters.snapshot();
                *shown = Arc::new(std::mem::take(&mut view));
            }
            !same
        });
    }
}

/// A running gossip. Dropping it ends it.
pub struct Gossip {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    address: SocketAddr,
    supervisor: JoinHandle<()>,
}

impl Gossip {
    /// Binds the socket and starts gossiping. Nobody is greeted before [`Gossip::meet`].
    ///
    /// # Errors
    /// When the address cannot be bound, or the kernel has no random bytes.
    pub async fn start(config: GossipConfig) -> Result<Self, StartError> {
        let address = config.listen;
        let bound = config.network.bind(address).await;
        let bound = bound.and_then(|wire| wire.local_addr().map(|local| (wire, local)));
        let (wire, local) = bound.map_err(|source| StartError::Bind { address, source })?;
        let mut advertise = config.advertise;
        if advertise.port() == 0 {
            advertise.set_port(local.port());
        }
        let session = clock::random().map_err(StartError::Random)?;
        let secret = clock::random().map_err(StartError::Random)?;
        let dice = u64::from_be_bytes(clock::random().map_err(StartError::Random)?);
        let mut sealer = Sealer::new(&config.keys, &config.cluster, session, secret);
        sealer.set_address(advertise);
        let node = config.signer.node_id().clone();
        let shared = Arc::new(Shared {
            knowledge: Mutex::new(Knowledge::new(&config.cluster, node.clone())),
            cluster: config.cluster,
            node,
            interval: config.interval,
            signer: config.signer,
            link: Arc::new(Link::new(sealer, config.interval)),
            view: watch::Sender::new(Arc::new(PeerView::default())),
            published_anew: Notify::new(),
            published: Mutex::new(None),
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            commands: Arc::new(tokio::sync::Mutex::new(receiver)),
            network: config.network,
            listen: SocketAddr::new(config.listen.ip(), local.port()),
            advertise,
            next_generation: config.next_generation,
            dice,
        };
        let supervisor = tokio::spawn(supervisor.keep_running(config.generation, wire));
        Ok(Self { shared, commands, address: advertise, supervisor })
    }

    /// Where others reach this node.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        &self.shared.node
    }

    /// Signs and publishes what this node says. A claim that changed goes out at once. Publishing the same again does
    /// nothing. Whatever stands in the claim must be on the disk by now.
    ///
    /// # Errors
    /// When others would ignore it, or it is too large; nothing is published then.
    pub fn publish(&self, claim: &Claim, parameters: &Parameters) -> Result<(), PublishError> {
        let shared = &self.shared;
        if claim.owner != shared.node {
            return Err(PublishError::Foreign(claim.owner.clone()));
        }
        let text = serde_json::to_string(claim).map_err(|_| PublishError::Text("the claim"))?;
        let other = serde_json::to_string(parameters).map_err(|_| PublishError::Text("the parameters"))?;
        let number = (claim.generation, claim.counter);
        let values = [
            (CLAIM, shared.signer.sign(&shared.cluster, CLAIM, &text)),
            (PARAMETERS, shared.signer.sign(&shared.cluster, PARAMETERS, &other)),
        ];
        for (what, (_, value)) in ["the claim", "the parameters"].into_iter().zip(&values) {
            if value.len() > MAX_VALUE {
                return Err(PublishError::TooLarge { what, bytes: value.len() });
            }
        }
        let next = Published { number, values };
        let mut published = lock(&shared.published);
        if published.as_ref() == Some(&next) {
            return Ok(());
        }
        let claim_differs = |last: &Published| last.values[0] != next.values[0];
        if published.as_ref().is_some_and(|last| number <= last.number && claim_differs(last)) {
            let (generation, counter) = number;
            return Err(PublishError::NotLater { generation, counter });
        }
        shared.knowledge().say(claim, &text);
        *published = Some(next);
        drop(published);
        shared.published_anew.notify_one();
        Ok(())
    }

    /// What is known of the others. It changes when a claim, liveness or an address does, not with every datagram.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<PeerView>> {
        self.shared.view.subscribe()
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> GossipCounters {
        self.shared.link.counters.snapshot()
    }

    /// Greets an address now. Its own address is skipped.
    pub fn meet(&self, address: SocketAddr) {
        // The supervisor lives as long as this handle.
        let _ = self.commands.send(Command::Meet(address));
    }

    /// [`Gossip::meet`] for a task of its own.
    pub fn greeter(&self) -> impl Fn(SocketAddr) + Send + Sync + 'static {
        let commands = self.commands.clone();
        move |address| {
            let _ = commands.send(Command::Meet(address));
        }
    }

    /// Knocks at addresses from this gossip's own socket.
    #[must_use]
    pub fn prober(&self) -> Prober {
        Prober::of(Arc::clone(&self.shared.link))
    }

    /// Takes another key ring, without a restart.
    pub fn rotate(&self, keys: &GossipKeys) {
        self.shared.link.sealer().rotate(keys);
    }

    /// Ends it and waits until its socket is closed; a gossip that does not end within two seconds is cut off.
    pub async fn shutdown(mut self) {
        let _ = self.commands.send(Command::Shutdown);
        let _ = tokio::time::timeout(PATIENCE, &mut self.supervisor).await;
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    commands: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Command>>>,
    network: Arc<dyn Network>,
    listen: SocketAddr,
    advertise: SocketAddr,
    next_generation: Arc<NextGeneration>,
    dice: u64,
}

impl Supervisor {
    /// Runs the gossip, and again under a new generation whenever it ended or panicked.
    async fn keep_running(mut self, mut generation: u64, wire: Arc<dyn Wire>) {
        let mut wire = Some(wire);
        let mut backoff = BACKOFF.0;
        loop {
            let started = Instant::now();
            let bound = match wire.take() {
                Some(wire) => Ok(wire),
                None => self.network.bind(self.listen).await,
            };
            let cause = match bound {
                Ok(wire) => match self.run_once(generation, wire).await {
                    Some(cause) => cause,
                    None => return,
                },
                Err(error) => format!("cannot listen on UDP {}: {error}", self.listen),
            };
            if started.elapsed() > HEALTHY {
                backoff = BACKOFF.0;
            }
            tracing::warn!(cause, generation, wait = ?backoff, "gossip ended and starts again");
            add(&self.shared.link.counters.restarts, 1);
            loop {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
                let next = Arc::clone(&self.next_generation);
                match tokio::task::spawn_blocking(move || next()).await {
                    Ok(Ok(next)) if next > generation => {
                        generation = next;
                        break;
                    }
                    Ok(Ok(next)) => tracing::warn!(next, generation, "no later generation: gossip waits"),
                    Ok(Err(error)) => tracing::warn!(error, "no generation: gossip waits"),
                    Err(error) => tracing::warn!(%error, "no generation: gossip waits"),
                }
            }
        }
    }

    /// One run in a task of its own, so that a panic in it is an ending like any other. Gives why it ended; none when it was
    /// asked to.
    async fn run_once(&mut self, generation: u64, wire: Arc<dyn Wire>) -> Option<String> {
        self.dice = self.dice.wrapping_add(generation).rotate_left(17);
        let run = Run {
            shared: Arc::clone(&self.shared),
            listen: self.listen,
            advertise: self.advertise,
            generation,
            dice: self.dice,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(run::run(run, wire, Arc::clone(&self.commands)));
        let cause = match tasks.join_next().await {
            Some(Ok(Ended::Asked)) => return None,
            Some(Ok(ended)) => ended.to_string(),
            Some(Err(error)) if error.is_panic() => "it panicked".to_owned(),
            Some(Err(_)) | None => "it was cancelled".to_owned(),
        };
        self.shared.link.forget_asked();
        Some(cause)
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
