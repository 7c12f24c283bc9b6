use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::network::{MemoryNetwork, UdpNetwork};
use super::super::seal::{Datagram, Opened};
use super::super::testing::{claim, parameters, signer};
use super::*;

const INTERVAL: Duration = Duration::from_secs(1);

fn config(seed: u8, network: Arc<dyn Network>, listen: SocketAddr) -> GossipConfig {
    let generations = AtomicU64::new(1);
    GossipConfig {
        cluster: "lab".into(),
        generation: 1,
        next_generation: Arc::new(move || Ok(generations.fetch_add(1, Ordering::SeqCst) + 1)),
        listen,
        advertise: listen,
        keys: GossipKeys::single([7; 32]),
        signer: signer(seed),
        interval: INTERVAL,
        network,
    }
}

fn memory_address(seed: u8) -> SocketAddr {
    ([10, 0, 0, seed], 7846).into()
}

async fn start(config: GossipConfig) -> Gossip {
    let generation = config.generation;
    let gossip = Gossip::start(config).await.unwrap();
    gossip.publish(&claim(gossip.node_id(), generation, 1), &parameters()).unwrap();
    gossip
}

async fn in_memory(network: &MemoryNetwork, seeds: impl IntoIterator<Item = u8>) -> Vec<Gossip> {
    let mut nodes = Vec::new();
    for seed in seeds {
        nodes.push(start(config(seed, Arc::new(network.clone()), memory_address(seed))).await);
    }
    for node in &nodes[1..] {
        node.meet(nodes[0].address());
    }
    nodes
}

/// Waits until a view is as wanted; the time it took.
async fn until(gossip: &Gossip, what: &str, wanted: impl Fn(&PeerView) -> bool) -> Duration {
    let start = Instant::now();
    let mut view = gossip.view();
    let found = tokio::time::timeout(Duration::from_secs(120), view.wait_for(|view| wanted(view)));
    assert!(found.await.is_ok(), "never {what}: {:?}", gossip.view().borrow());
    start.elapsed()
}

fn sees(view: &PeerView, peers: usize) -> bool {
    view.peers.len() == peers && view.peers.values().all(|peer| peer.live && peer.parameters.is_some())
}

/// The suite for every network: nodes that know one address find each other, and news spreads, in how long.
async fn converges(network: Arc<dyn Network>, addresses: &[SocketAddr]) -> Duration {
    let mut nodes = Vec::new();
    for (seed, address) in (1..).zip(addresses) {
        nodes.push(start(config(seed, Arc::clone(&network), *address)).await);
    }
    for node in &nodes[1..] {
        node.meet(nodes[0].address());
    }
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, nodes.len() - 1)).await;
    }
    let said = claim(nodes[0].node_id(), 1, 2);
    nodes[0].publish(&said, &parameters()).unwrap();
    let mut slowest = Duration::ZERO;
    for node in &nodes[1..] {
        let id = nodes[0].node_id();
        slowest = slowest
            .max(until(node, "the news is everywhere", |view| view.peers[id].claim.as_ref() == &said).await);
    }
    for node in nodes {
        assert_eq!(node.view().borrow().echo, None);
        assert!(!node.view().borrow().twin);
        let address = node.address();
        node.shutdown().await;
        assert!(network.bind(address).await.is_ok(), "its socket is closed");
    }
    slowest
}

#[tokio::test]
async fn nodes_converge_over_udp_on_ipv4() {
    converges(Arc::new(UdpNetwork), &["127.0.0.1:0".parse().unwrap(); 4]).await;
}

#[tokio::test]
async fn nodes_converge_over_udp_on_ipv6() {
    converges(Arc::new(UdpNetwork), &["[::1]:0".parse().unwrap(); 4]).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_converge_in_memory() {
    let addresses: Vec<_> = (1..=12).map(memory_address).collect();
    let slowest = converges(Arc::new(MemoryNetwork::default()), &addresses).await;
    assert!(slowest < INTERVAL / 4, "news waits for no interval: {slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_fragment_costs_milliseconds_and_not_the_message() {
    let network = MemoryNetwork::default();
    let nodes = in_memory(&network, 1..=2).await;
    for node in &nodes {
        until(node, "the other is live", |view| sees(view, 1)).await;
    }
    let large = AtomicU64::new(0);
    network.set_fate(move |_, _, bytes| match bytes.len() {
        // Of the fragments, but for a message's last, every third is lost, of those said again as well.
        1_000.. if large.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) => vec![],
        _ => vec![Duration::from_millis(1)],
    });
    let mut dice = super::super::pace::Dice(1);
    let why = (0..800).map(|_| format!("{:016x}", dice.roll())).collect();
    let said = Claim { why, ..claim(nodes[0].node_id(), 1, 2) };
    nodes[0].publish(&said, &parameters()).unwrap();
    let id = nodes[0].node_id();
    let took = until(&nodes[1], "the news has come", |view| view.peers[id].claim.as_ref() == &said).await;
    assert!(took < INTERVAL / 4, "{took:?}");
    assert!(nodes[0].counters().said_again > 0, "nothing was lost: the case shows nothing");
}

#[tokio::test(start_paused = true)]
async fn five_nodes_meet_in_milliseconds() {
    let network = MemoryNetwork::default();
    network.set_fate(|_, _, _| vec![Duration::from_millis(1)]);
    let start = Instant::now();
    let nodes = in_memory(&network, 1..=5).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 4)).await;
    }
    let took = start.elapsed();
    println!("five nodes met after {took:?}");
    assert!(took < INTERVAL / 2, "{took:?}");
}

#[tokio::test]
async fn another_token_stays_outside_and_is_counted() {
    let any = "127.0.0.1:0".parse().unwrap();
    let insider = start(config(1, Arc::new(UdpNetwork), any)).await;
    let friend = start(config(2, Arc::new(UdpNetwork), any)).await;
    let keys = GossipKeys::single([8; 32]);
    let stranger = start(GossipConfig { keys, ..config(3, Arc::new(UdpNetwork), any) }).await;
    for _ in 0..20 {
        stranger.meet(insider.address());
        insider.meet(stranger.address());
    }
    friend.meet(insider.address());
    until(&insider, "the friend is live", |view| sees(view, 1)).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while insider.counters().dropped_unopened < 20 || stranger.counters().dropped_unopened < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(insider.view().borrow().peers.len(), 1);
    assert!(stranger.view().borrow().peers.is_empty());
    assert_eq!(stranger.counters().challenged, 0);
}

#[tokio::test(start_paused = true)]
async fn claims_of_forty_nodes_are_split_and_arrive() {
    let network = MemoryNetwork::default();
    let largest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&largest);
    network.set_fate(move |_, _, bytes| {
        seen.fetch_max(bytes.len() as u64, Ordering::SeqCst);
        vec![Duration::from_millis(1)]
    });
    let nodes = in_memory(&network, 1..=40).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 39)).await;
    }
    assert_eq!(largest.load(Ordering::SeqCst), 1_200, "full fragments, and nothing larger");
}

#[tokio::test(start_paused = true)]
async fn a_bad_network_only_takes_longer() {
    let network = MemoryNetwork::default();
    let mut n = 0_u64;
    network.set_fate(move |_, _, _| {
        n += 1;
        match n % 10 {
            0 | 3 | 7 => vec![],
            1 | 5 => vec![Duration::from_millis(80), Duration::from_millis(3)],
            _ => vec![Duration::from_millis(n % 17)],
        }
    });
    let nodes = in_memory(&network, 1..=7).await;
    let (first, others) = (nodes[0].address(), &nodes[1..]);
    let discovery = async {
        loop {
            others.iter().for_each(|node| node.meet(first));
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let everybody = async {
        for node in &nodes {
            until(node, "all peers are live", |view| sees(view, 6)).await;
        }
    };
    tokio::select! {
        () = discovery => {}
        () = everybody => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_dies_stays_known_and_returns_with_a_later_generation() {
    let network = MemoryNetwork::default();
    let mut nodes = in_memory(&network, 1..=5).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 4)).await;
    }
    // Calm: the failure detector has seen the burst of the beginning and many intervals after it.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let last = nodes.pop().unwrap();
    let id = last.node_id().clone();
    last.shutdown().await;
    let took = until(&nodes[0], "the stopped node is not live", |view| !view.peers[&id].live).await;
    println!("a stopped node of 5 is noticed after {took:?}");
    assert!(took <= Duration::from_secs(7), "{took:?}");
    assert_eq!(nodes[0].view().borrow().peers.values().filter(|peer| peer.live).count(), 3);
    tokio::time::sleep(Duration::from_secs(20 * 60)).await;
    assert!(!nodes[0].view().borrow().peers[&id].live, "known, although chitchat has forgotten it");
    let returned = GossipConfig { generation: 2, ..config(5, Arc::new(network.clone()), memory_address(5)) };
    let returned = start(returned).await;
    returned.meet(nodes[2].address());
    until(&nodes[0], "it is back", |view| {
        view.peers[&id].live && view.peers[&id].claim.generation == 2 && sees(view, 4)
    })
    .await;
    until(&returned, "it sees everybody", |view| sees(view, 4)).await;
    let echo = Some(crate::gossip::Echo { generation: 1, counter: 1 });
    assert!([None, echo].contains(&returned.view().borrow().echo), "its earlier run at most");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_network_kills_nobody() {
    for (count, loss, seconds) in [(5, 0_u64, 300), (3, 10, 300), (5, 10, 300), (40, 10, 30), (5, 30, 300)] {
        let network = MemoryNetwork::default();
        let nodes = in_memory(&network, 1..=count).await;
        for node in &nodes {
            until(node, "all peers are live", |view| sees(view, usize::from(count) - 1)).await;
        }
        let mut dice = super::super::pace::Dice(loss + 1);
        network.set_fate(
            move |_, _, _| {
                if dice.roll() % 100 < loss { vec![] } else { vec![Duration::from_millis(1)] }
            },
        );
        // A burst of news, which the failure detector must not take for the usual rhythm.
        for counter in 2..40 {
            nodes[0].publish(&claim(nodes[0].node_id(), 1, counter), &parameters()).unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        let mut deaths = 0;
        let mut views: Vec<_> = nodes.iter().map(Gossip::view).collect();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            for view in &mut views {
                if view.has_changed().unwrap() {
                    deaths += view.borrow_and_update().peers.values().filter(|peer| !peer.live).count();
                }
            }
        }
        println!("{count} nodes, {loss}% loss, {seconds} s: {deaths} false deaths");
        assert!(loss > 10 || deaths == 0, "{count} nodes, {loss}% loss: {deaths} false deaths");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_heals_by_itself_even_after_chitchat_has_forgotten() {
    let network = MemoryNetwork::default();
    let nodes = in_memory(&network, 1..=5).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 4)).await;
    }
    let side = |address: SocketAddr| address < memory_address(3);
    network.set_fate(move |from, to, _| if side(from) == side(to) { vec![Duration::ZERO] } else { vec![] });
    let live = |view: &PeerView| view.peers.values().filter(|peer| peer.live).count();
    until(&nodes[0], "the other side is gone", |view| live(view) == 1).await;
    until(&nodes[4], "the other side is gone", |view| live(view) == 2).await;
    tokio::time::sleep(Duration::from_secs(30 * 60)).await;
    network.set_fate(|_, _, _| vec![Duration::ZERO]);
    for node in &nodes {
        until(node, "everybody is back", |view| sees(view, 4)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cloned_nodes_notice_each_other() {
    let network = MemoryNetwork::default();
    let witness = start(config(1, Arc::new(network.clone()), memory_address(1))).await;
    let first = start(config(2, Arc::new(network.clone()), memory_address(2))).await;
    let second = Gossip::start(config(2, Arc::new(network.clone()), memory_address(3))).await.unwrap();
    let mut other = claim(second.node_id(), 1, 1);
    other.address = [10, 0, 0, 3].into();
    second.publish(&other, &parameters()).unwrap();
    first.meet(witness.address());
    second.meet(witness.address());
    until(&first, "the twin is heard", |view| view.twin).await;
    until(&second, "the twin is heard", |view| view.twin).await;
    assert!(!witness.view().borrow().twin);
}

#[tokio::test(start_paused = true)]
async fn keys_rotate_while_running() {
    let network = MemoryNetwork::default();
    let nodes = in_memory(&network, 1..=3).await;
    let ring = |seal: u8, open: &[u8]| GossipKeys {
        seal: [seal; 32],
        open: open.iter().map(|k| [*k; 32]).collect(),
    };
    let mut counter = 1;
    for step in [ring(7, &[9]), ring(9, &[7]), ring(9, &[])] {
        for node in &nodes {
            node.rotate(&step);
            counter += 1;
            let said = claim(node.node_id(), 1, counter);
            node.publish(&said, &parameters()).unwrap();
            for other in nodes.iter().filter(|other| other.node_id() != node.node_id()) {
                until(other, "the news arrives under any mix of keys", |view| {
                    sees(view, 2) && view.peers[node.node_id()].claim.as_ref() == &said
                })
                .await;
            }
        }
    }
    assert!(nodes.iter().all(|node| node.counters().dropped_unopened == 0));
}

#[tokio::test]
async fn what_others_would_ignore_is_refused() {
    let any = "127.0.0.1:0".parse().unwrap();
    let node = start(config(1, Arc::new(UdpNetwork), any)).await;
    let mine = |counter| claim(node.node_id(), 1, counter);
    let other = signer(2).node_id().clone();
    assert_eq!(node.publish(&claim(&other, 1, 5), &parameters()), Err(PublishError::Foreign(other)));
    node.publish(&mine(5), &parameters()).unwrap();
    node.publish(&mine(5), &parameters()).unwrap();
    let refused = Err(PublishError::NotLater { generation: 1, counter: 4 });
    assert_eq!(node.publish(&mine(4), &parameters()), refused);
    let changed = Claim { name: "x".into(), ..mine(5) };
    assert!(node.publish(&changed, &parameters()).is_err());
    let huge = Claim { why: "x".repeat(MAX_VALUE).into(), ..mine(6) };
    assert!(matches!(node.publish(&huge, &parameters()), Err(PublishError::TooLarge { .. })));
    let taken = Gossip::start(config(2, Arc::new(UdpNetwork), node.address())).await;
    let text = taken.err().unwrap().to_string();
    assert_eq!(text, format!("cannot listen for gossip on UDP {}", node.address()));
}

/// A member with the key and bad manners: speaks chitchat's messages byte by byte.
struct Rogue {
    wire: Arc<dyn Wire>,
    sealer: Sealer,
    started: Instant,
}

impl Rogue {
    async fn new(network: &dyn Network, address: SocketAddr) -> Self {
        let wire = network.bind(address).await.unwrap();
        let sealer = Sealer::new(&GossipKeys::single([7; 32]), "lab", [9; 16], [9; 32]);
        Self { wire, sealer, started: Instant::now() }
    }

    async fn send(&mut self, to: SocketAddr, message: &[u8]) {
        let mut out = Vec::new();
        self.sealer.seal(self.started.elapsed(), to, message, &mut out).unwrap();
        self.put(out).await;
    }

    async fn put(&self, out: Vec<Datagram>) {
        for datagram in out {
            self.wire.send_to(&datagram.bytes, datagram.to).await.unwrap();
        }
    }

    /// The next message, challenges answered on the way.
    async fn message(&mut self) -> Vec<u8> {
        loop {
            let mut buffer = [0; 2_000];
            let (length, from) = self.wire.recv_from(&mut buffer).await.unwrap();
            let mut out = Vec::new();
            let opened = self.sealer.open(self.started.elapsed(), from, &buffer[..length], &mut out);
            self.put(out).await;
            if let Opened::Message(message) = opened {
                return message;
            }
        }
    }

    /// A SYN whose digest names so many members that do not exist.
    fn syn(members: std::ops::Range<u32>) -> Vec<u8> {
        let mut bytes = 45_139_u16.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&u16::try_from(members.len()).unwrap().to_le_bytes());
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        for member in members {
            text(&mut bytes, &format!("{member:032x}"));
            bytes.extend_from_slice(&1_u64.to_le_bytes());
            bytes.extend_from_slice(&[4, 10, 9, 9, 9, 0x10, 0x20]);
            for number in [5_u64, 0, 0] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        text(&mut bytes, "muster");
        bytes
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_chitchat_restarts_it_under_a_new_generation() {
    let network = MemoryNetwork::default();
    let nodes = in_memory(&network, 1..=3).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 2)).await;
    }
    // Others must not learn of the invented members, or they would end the same way.
    let victim = nodes[0].address();
    let rogue_address = memory_address(99);
    network.set_fate(move |from, to, _| {
        let rogue_speaks = from == rogue_address || to == rogue_address;
        if rogue_speaks || (from != victim && to != victim) { vec![Duration::ZERO] } else { vec![] }
    });
    let mut rogue = Rogue::new(&network, rogue_address).await;
    rogue.send(victim, &Rogue::syn(0..500)).await;
    rogue.message().await;
    rogue.send(victim, &Rogue::syn(500..1_000)).await;
    let restarted = async {
        while nodes[0].counters().restarts == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = restarted => {}
        _ = async { loop { rogue.message().await; } } => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it never ended"),
    }
    network.set_fate(|_, _, _| vec![Duration::ZERO]);
    nodes[0].publish(&claim(nodes[0].node_id(), 1, 2), &parameters()).unwrap();
    let id = nodes[0].node_id();
    for node in &nodes[1..] {
        until(node, "the restarted one is heard again", |view| {
            view.peers[id].live && view.peers[id].claim.counter == 2
        })
        .await;
    }
    until(&nodes[0], "it has found the others again by itself", |view| sees(view, 2)).await;
    assert_eq!(nodes[0].counters().restarts, 1);
}

#[tokio::test]
async fn junk_and_replays_are_never_answered() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let network = MemoryNetwork::default();
    let captured = Arc::new(Mutex::new(Vec::new()));
    let tap = Arc::clone(&captured);
    network.set_fate(move |_, to, bytes| {
        lock(&tap).push((to, bytes.to_vec()));
        vec![Duration::ZERO]
    });
    let nodes = in_memory(&network, 1..=3).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 2)).await;
    }
    // The same member again over real UDP: what was captured from the others is sent to it from a foreign socket.
    let victim = start(config(4, Arc::new(UdpNetwork), any)).await;
    let attacker = tokio::net::UdpSocket::bind(any).await.unwrap();
    let mut junk = Vec::new();
    for n in 0..400_usize {
        junk.push((0..n * 3).map(|at| ((at * 31) ^ n) as u8).collect::<Vec<_>>());
    }
    let before = victim.counters();
    for bytes in &junk {
        attacker.send_to(bytes, victim.address()).await.unwrap();
        tokio::task::yield_now().await;
    }
    drain(&victim, before.received_datagrams + junk.len() as u64).await;
    let after = victim.counters();
    assert_eq!(after.sent_bytes, before.sent_bytes, "no byte out for junk");
    assert_eq!(after.dropped_unopened - before.dropped_unopened, junk.len() as u64);

    let captured: Vec<_> = lock(&captured).iter().map(|(_, bytes)| bytes.clone()).collect();
    assert!(captured.len() > 10);
    let mut received = 0;
    for bytes in &captured {
        attacker.send_to(bytes, victim.address()).await.unwrap();
        received += 1;
        drain(&victim, after.received_datagrams + received).await;
    }
    let end = victim.counters();
    let (out, of) = (end.sent_bytes - after.sent_bytes, captured.iter().map(Vec::len).sum::<usize>() as u64);
    assert!(end.challenged > after.challenged && out == 86 * (end.challenged - after.challenged));
    assert!(out <= 3 * of, "{out} bytes out for {of} in");
    assert!(victim.view().borrow().peers.is_empty(), "nothing of it was believed");
}

async fn drain(gossip: &Gossip, received: u64) {
    let wait = async {
        while gossip.counters().received_datagrams < received {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("all datagrams arrive");
}

#[tokio::test(start_paused = true)]
async fn replays_to_the_very_receiver_change_nothing_from_any_port() {
    let network = MemoryNetwork::default();
    let captured = Arc::new(Mutex::new(Vec::new()));
    let tap = Arc::clone(&captured);
    network.set_fate(move |from, to, bytes| {
        lock(&tap).push((from, to, bytes.to_vec()));
        vec![Duration::ZERO]
    });
    let nodes = in_memory(&network, 1..=3).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 2)).await;
    }
    let victim = &nodes[0];
    let attacker = network.bind(memory_address(66)).await.unwrap();
    let (of_attacker, to_attacker) = (attacker.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&to_attacker);
    network.set_fate(move |_, to, bytes| {
        if to == of_attacker {
            count.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        vec![Duration::ZERO]
    });
    let captured: Vec<_> = std::mem::take(&mut *lock(&captured));
    let before = victim.counters();
    let to_victim: Vec<_> = captured.iter().filter(|(_, to, _)| *to == victim.address()).collect();
    for (_, _, bytes) in &to_victim {
        attacker.send_to(bytes, victim.address()).await.unwrap();
    }
    drain(victim, before.received_datagrams + to_victim.len() as u64).await;
    // The first message of each peer was only challenged, never delivered: it is challenged again, and no more than that.
    assert!(to_attacker.load(Ordering::SeqCst) <= 2 * 86, "{to_attacker:?}");
    assert!(victim.counters().dropped_replayed >= before.dropped_replayed + to_victim.len() as u64 - 2);
}

/// When a node is seen to be no longer live.
async fn notices(mut view: watch::Receiver<Arc<PeerView>>, id: NodeId) -> Instant {
    view.wait_for(|view| !view.peers[&id].live).await.unwrap();
    Instant::now()
}

/// How soon a stopped node is noticed by the others, at 10% loss, and that nobody else is taken for dead meanwhile.
#[tokio::test(start_paused = true)]
async fn the_dead_are_noticed_soon_and_only_the_dead() {
    for (count, deaths) in [(3_u8, 1), (5, 2), (10, 4), (40, 4)] {
        let network = MemoryNetwork::default();
        let mut dice = super::super::pace::Dice(count.into());
        let mut nodes = Vec::new();
        for seed in 1..=count {
            // Not in step: machines do not boot on the same millisecond.
            tokio::time::sleep(Duration::from_millis(dice.roll() % 1_000)).await;
            nodes.push(start(config(seed, Arc::new(network.clone()), memory_address(seed))).await);
            nodes[usize::from(seed) - 1].meet(nodes[0].address());
        }
        for node in &nodes {
            until(node, "all peers are live", |view| sees(view, usize::from(count) - 1)).await;
        }
        let mut loss = super::super::pace::Dice(count.into());
        network.set_fate(
            move |_, _, _| {
                if loss.roll() % 100 < 10 { vec![] } else { vec![Duration::from_millis(1)] }
            },
        );
        let mut times = Vec::new();
        for _ in 0..deaths {
            // Calm: what the death before has stirred up is over.
            tokio::time::sleep(Duration::from_millis(10_000 + dice.roll() % 1_000)).await;
            let dead = nodes.pop().unwrap();
            let id = dead.node_id().clone();
            let died = Instant::now();
            dead.shutdown().await;
            // At once for all: each tells its own time.
            let notices: Vec<_> =
                nodes.iter().map(|node| tokio::spawn(notices(node.view(), id.clone()))).collect();
            for notice in notices {
                times.push(notice.await.unwrap().duration_since(died));
            }
            for node in &nodes {
                let others = node.view().borrow().peers.values().filter(|peer| peer.live).count();
                assert_eq!(others, nodes.len() - 1, "{count} nodes: a living node was taken for dead");
            }
        }
        times.sort_unstable();
        let (half, last) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{count} nodes, 10% loss: noticed after {half:?} (median), {last:?} (the last of {})",
            times.len()
        );
        assert!(last < Duration::from_secs(7), "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn agents_that_know_no_light_question_are_not_taken_for_dead() {
    const QUESTION: usize = 86;
    let network = MemoryNetwork::default();
    network.set_fate(|_, _, _| vec![Duration::from_millis(1)]);
    let nodes = in_memory(&network, 1..=40).await;
    for node in &nodes {
        until(node, "all peers are live", |view| sees(view, 39)).await;
    }
    let (questions, counted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let asked = Arc::clone(&questions);
    network.set_fate(move |_, _, datagram| {
        // To such an agent a question is noise.
        if datagram.len() == QUESTION {
            asked.fetch_add(1, Ordering::Relaxed);
            return vec![];
        }
        vec![Duration::from_millis(1)]
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let watched = nodes.iter().map(|node| {
        let (mut view, counted) = (node.view(), Arc::clone(&counted));
        tokio::spawn(async move {
            while view.changed().await.is_ok() {
                if view.borrow_and_update().peers.values().any(|peer| !peer.live) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    let watched: Vec<_> = watched.collect();
    tokio::time::sleep(Duration::from_secs(30)).await;
    watched.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(questions.load(Ordering::Relaxed) > 0, "nobody was asked: the test shows nothing");
    assert_eq!(counted.load(Ordering::Relaxed), 0, "a living node was taken for dead");
}

/// Not a check but the figures of the documentation: run with `--nocapture`.
#[tokio::test(start_paused = true)]
async fn idle_traffic_is_small() {
    for (count, bound) in [(3, 2_000), (5, 3_000), (10, 5_000), (40, 28_000)] {
        let network = MemoryNetwork::default();
        network.set_fate(|_, _, _| vec![Duration::from_millis(1)]);
        let nodes = in_memory(&network, 1..=count).await;
        for node in &nodes {
            until(node, "all peers are live", |view| sees(view, usize::from(count) - 1)).await;
        }
        let formed: u64 = nodes.iter().map(|node| node.counters().sent_bytes).sum();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let sent = |nodes: &[Gossip]| nodes.iter().map(|node| node.counters().sent_bytes).sum::<u64>();
        let (before, seconds) = (sent(&nodes), 20);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let rate = (sent(&nodes) - before) / u64::from(count) / seconds;
        println!(
            "{count} nodes: {rate} bytes per node per second idle; {} bytes per node to form",
            formed / u64::from(count)
        );
        assert!(rate < bound, "{count} nodes: {rate} bytes per node per second");
        let ids: BTreeSet<_> = nodes.iter().map(|node| node.node_id().clone()).collect();
        assert_eq!(ids.len(), usize::from(count));
    }
}
