//! Gossip of large groups: the agent's own tasks, seals and signatures over a network in memory, in paused time.
//!
//! Virtual time is exact whatever the machine; processor time is this machine's, for all nodes of the group together.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster::config::Timing;
use muster::core::Phase;
use muster::discovery::pace;
use muster::founding::Parameters;
use muster::gossip::{
    Claim, Fitness, Gossip, GossipConfig, GossipKeys, MemoryNetwork, PeerView, Role, Signer, WantedRole,
};
use ring::signature::Ed25519KeyPair;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dice::Dice;

/// What one size showed.
struct Row {
    nodes: usize,
    wire: Wire,
    converged: Option<f64>,
    idle_bytes: f64,
    /// Pairs of which one took the other for dead although all lived, while nothing happened.
    false_deaths: usize,
    detected_first: Option<f64>,
    detected_last: Option<f64>,
    processor: f64,
}

/// What the network does.
#[derive(Clone, Copy)]
pub struct Wire {
    /// Datagrams lost, per mille.
    pub loss: u32,
    /// How long a datagram takes.
    pub one_way: Duration,
}

/// How long a group may take to converge, or to see a death.
const LIMIT: Duration = Duration::from_secs(120);
/// How long it is left idle and measured.
const IDLE: Duration = Duration::from_secs(20);

/// Measures groups of these sizes.
pub fn bench(sizes: &[usize], wire: Wire, as_json: bool) -> ExitCode {
    if !as_json {
        println!(
            "nodes   all know all   bytes a node a second   false deaths   death seen by first, last   processor a node"
        );
    }
    for nodes in sizes {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let row = match runtime {
            Ok(runtime) => runtime.block_on(group(*nodes, wire)),
            Err(error) => Err(anyhow::Error::new(error)),
        };
        match row {
            Ok(row) => row.print(as_json),
            Err(error) => {
                eprintln!("a group of {nodes} could not be measured: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

impl Row {
    fn print(&self, as_json: bool) {
        if as_json {
            println!(
                "{}",
                json!({
                    "nodes": self.nodes, "loss_permille": self.wire.loss,
                    "one_way_ms": self.wire.one_way.as_millis() as u64, "converged_seconds": self.converged,
                    "idle_bytes_per_node_per_second": self.idle_bytes.round(), "false_deaths": self.false_deaths,
                    "death_seen_first_seconds": self.detected_first, "death_seen_last_seconds": self.detected_last,
                    "processor_percent_per_node": self.processor,
                })
            );
            return;
        }
        let seconds = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |s| format!("{s:.2} s"));
        println!(
            "{:>5}   {:>12}   {:>21.0}   {:>12}   {:>12}, {:>12}   {:>12.2} %",
            self.nodes,
            seconds(self.converged),
            self.idle_bytes,
            self.false_deaths,
            seconds(self.detected_first),
            seconds(self.detected_last),
            self.processor
        );
    }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8 + 1], 7846))
}

fn claim(owner: &muster::core::NodeId, n: usize, parameters: &Parameters) -> Claim {
    Claim {
        v: 1,
        owner: owner.clone(),
        generation: 1,
        counter: 1,
        name: format!("node{n}"),
        address: address(n).ip(),
        wants: WantedRole::Auto,
        eligible: true,
        fitness: Fitness { class: 2 },
        parameters: parameters.hash(),
        era: 1,
        register: None,
        proposal: None,
        certificate: None,
        annulment: None,
        recovery: None,
        fenced: false,
        phase: Phase::Seeking,
        role: Role::Undecided,
        voter: None,
        api: None,
        ready: None,
        zone: String::new(),
        marks: muster::identity::Marks::default(),
        why: "".into(),
    }
}

async fn start(n: usize, network: &MemoryNetwork) -> anyhow::Result<Gossip> {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(n as u64).to_be_bytes());
    let key = Ed25519KeyPair::from_seed_unchecked(&seed)
        .map_err(|_| anyhow::anyhow!("no key can be made of the seed"))?;
    let config = GossipConfig {
        cluster: "large".to_owned(),
        generation: 1,
        next_generation: Arc::new(|| Ok(2)),
        listen: address(n),
        advertise: address(n),
        keys: GossipKeys { seal: [9; 32], open: Vec::new() },
        signer: Signer::new(key),
        interval: Duration::from_millis(Timing::default().gossip_interval_ms),
        network: Arc::new(network.clone()),
    };
    let gossip = Gossip::start(config).await?;
    let parameters = Parameters::default();
    gossip.publish(&claim(gossip.node_id(), n, &parameters), &parameters)?;
    Ok(gossip)
}

/// Waits until this holds of every node; the moments at which it first held of one and of all.
async fn until(nodes: &[Gossip], holds: impl Fn(&PeerView) -> bool) -> (Option<f64>, Option<f64>) {
    let began = Instant::now();
    let views: Vec<_> = nodes.iter().map(Gossip::view).collect();
    let mut done = vec![false; nodes.len()];
    let (mut first, mut left) = (None, nodes.len());
    while began.elapsed() < LIMIT {
        for (view, done) in views.iter().zip(&mut done).filter(|(_, done)| !**done) {
            if holds(&view.borrow()) {
                *done = true;
                left -= 1;
            }
        }
        let now = began.elapsed().as_secs_f64();
        if left < nodes.len() && first.is_none() {
            first = Some(now);
        }
        if left == 0 {
            return (first, Some(now));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (first, None)
}

/// Looks on for so long; how many pairs there are of which one took the other for dead.
async fn false_deaths(nodes: &[Gossip], time: Duration) -> usize {
    let views: Vec<_> = nodes.iter().map(Gossip::view).collect();
    let mut pairs = HashSet::new();
    let began = Instant::now();
    while began.elapsed() < time {
        for (n, view) in views.iter().enumerate() {
            let dead = view.borrow();
            let dead = dead.peers.iter().filter(|(_, peer)| !peer.live);
            pairs.extend(dead.map(|(id, _)| (n, id.clone())));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    pairs.len()
}

/// Everybody is given the same seeds, as one image for all would, and greets them until somebody is there, at the pace of the agent's
/// discovery: a first greeting is lost now and then, with all that it leads to.
async fn greet_seeds<G: Fn(SocketAddr)>(nodes: Vec<(G, watch::Receiver<Arc<PeerView>>)>, seeds: usize) {
    for times in 0.. {
        let alone =
            |view: &watch::Receiver<Arc<PeerView>>| !view.borrow().peers.values().any(|peer| peer.live);
        for (greet, _) in nodes.iter().filter(|(_, view)| alone(view)) {
            (0..seeds).for_each(|seed| greet(address(seed)));
        }
        tokio::time::sleep(pace::greeting(times)).await;
    }
}

async fn group(size: usize, wire: Wire) -> anyhow::Result<Row> {
    let network = MemoryNetwork::default();
    let bytes = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&bytes);
    let dice = std::sync::Mutex::new(Dice::new(size as u64));
    network.set_fate(move |_, _, datagram| {
        sum.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        let lost = |mut dice: std::sync::MutexGuard<'_, Dice>| dice.chance(wire.loss.into());
        if wire.loss > 0 && dice.lock().is_ok_and(lost) { Vec::new() } else { vec![wire.one_way] }
    });
    let mut nodes = Vec::with_capacity(size);
    for n in 0..size {
        nodes.push(start(n, &network).await?);
    }
    let others = size - 1;
    let greeters = nodes.iter().map(|node| (node.greeter(), node.view())).collect();
    let greeting = tokio::spawn(greet_seeds(greeters, size.min(3)));
    let (_, converged) =
        until(&nodes, |view| view.peers.values().filter(|peer| peer.live).count() == others).await;
    // What is left of the burst of the beginning is no idling.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (before, busy) = (bytes.load(Ordering::Relaxed), processor());
    let false_deaths = false_deaths(&nodes, IDLE).await;
    let idle = (bytes.load(Ordering::Relaxed) - before) as f64;
    let busy = (processor() - busy).as_secs_f64();
    greeting.abort();
    let dead = nodes.pop();
    let (mut first, mut last) = (None, None);
    if let Some(dead) = dead {
        let id = dead.node_id().clone();
        dead.shutdown().await;
        (first, last) = until(&nodes, |view| view.peers.get(&id).is_some_and(|peer| !peer.live)).await;
    }
    for node in nodes {
        node.shutdown().await;
    }
    let a_node = size as f64 * IDLE.as_secs_f64();
    Ok(Row {
        nodes: size,
        wire,
        converged,
        idle_bytes: idle / a_node,
        false_deaths,
        detected_first: first,
        detected_last: last,
        processor: 100.0 * busy / a_node,
    })
}

fn processor() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}
