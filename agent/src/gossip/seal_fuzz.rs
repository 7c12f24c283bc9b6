//! Three nodes with one key on a network that belongs to the input: it says what is sent, delivered, altered, sent from elsewhere,
//! repeated and invented, by strangers and by members.

use std::collections::HashSet;

use super::*;
use crate::fuzz::Tape;

const NODES: usize = 3;
const MOST_STEPS: usize = 200;
const MOST_CARRIED: usize = 400;

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 7846))
}

fn ring(seal: u8) -> GossipKeys {
    GossipKeys { seal: [seal; 32], open: (1..=3).map(|key| [key; 32]).collect() }
}

struct World {
    nodes: Vec<Sealer>,
    now: Duration,
    carried: Vec<(usize, Vec<u8>)>,
    said: HashSet<(usize, Vec<u8>)>,
    taken: HashSet<(usize, Vec<u8>)>,
    lied: bool,
}

impl World {
    fn send(&mut self, from: usize, out: Vec<Datagram>) {
        for datagram in out {
            assert!(datagram.bytes.len() <= MAX_DATAGRAM);
            if self.carried.len() < MOST_CARRIED {
                self.carried.push((from, datagram.bytes));
            }
        }
    }

    /// Gives a node bytes from an address; `sealed_by` a node, or changed or invented by somebody without a key.
    fn receive(&mut self, node: usize, from: SocketAddr, sealed_by: Option<usize>, bytes: &[u8]) {
        let mut out = Vec::new();
        let opened = self.nodes[node].open(self.now, from, bytes, &mut out);
        let Some(sender) = sealed_by else {
            assert!(
                matches!(opened, Opened::Unopened | Opened::Own),
                "{opened:?} of bytes that nobody sealed"
            );
            assert!(out.is_empty(), "a reply to junk");
            return;
        };
        assert!(out.iter().all(|reply| reply.to == from), "a reply to somebody else");
        match opened {
            Opened::Message(message) => {
                assert!(message.len() <= MAX_MESSAGE);
                assert!(self.lied || self.said.contains(&(sender, message)), "a message that was not sealed");
                assert!(self.taken.insert((node, bytes.to_vec())), "a datagram counted twice");
                assert!(out.is_empty());
            }
            Opened::Partial => {
                assert!(self.taken.insert((node, bytes.to_vec())), "a fragment counted twice");
                assert!(out.is_empty());
            }
            Opened::Challenged => {
                assert_eq!(out.len(), 1);
                assert!(out[0].bytes.len() <= 3 * bytes.len(), "a challenge amplifies");
            }
            Opened::Answered => assert!(!out.is_empty()),
            Opened::Asked => {
                assert!(self.taken.insert((node, bytes.to_vec())), "a question answered twice");
                assert!(out.len() <= 64);
            }
            Opened::Probed => {
                assert_eq!(out.len(), 1);
                assert!(out[0].bytes.len() <= bytes.len(), "an answer amplifies");
                assert!(self.taken.insert((node, bytes.to_vec())), "a probe answered twice");
            }
            Opened::Pinged => {
                assert_eq!(out.len(), 1);
                assert!(out[0].bytes.len() <= bytes.len(), "an answer amplifies");
                assert!(self.taken.insert((node, bytes.to_vec())), "a question answered twice");
            }
            Opened::Lives(mark) => {
                assert!(out.is_empty());
                assert!(self.taken.insert((node, bytes.to_vec())), "an answer counted twice");
                assert!(self.lied || mark == [sender as u8; 16], "a mark that nobody has");
            }
            Opened::Here(_) => assert!(out.is_empty()),
            Opened::Unopened | Opened::Replayed | Opened::Own => assert!(out.is_empty(), "a reply to noise"),
        }
        assert!(self.nodes[node].sessions() <= MAX_SESSIONS);
        self.send(node, out);
    }
}

pub(in crate::gossip) fn datagram(data: &[u8]) {
    let node = |n: u8| {
        let mut sealer = Sealer::new(&ring(1), "lab", [n; 16], [n ^ 0x55; 32]);
        sealer.set_address(address(usize::from(n) - 1));
        sealer.set_mark([n - 1; 16]);
        sealer
    };
    let mut world = World {
        nodes: (1..=NODES as u8).map(node).collect(),
        now: Duration::from_secs(1_000),
        carried: Vec::new(),
        said: HashSet::new(),
        taken: HashSet::new(),
        lied: false,
    };
    let mut tape = Tape(data);
    for _ in 0..MOST_STEPS {
        if tape.is_over() {
            return;
        }
        let step = tape.below(8);
        let (from, to) = (tape.below(NODES), tape.below(NODES));
        let carried = |world: &World, index: u8| {
            let index = usize::from(index) % world.carried.len().max(1);
            world.carried.get(index).cloned()
        };
        match step {
            0 => {
                // Long messages from short inputs: only the length decides how they are split.
                let length = usize::from(tape.short());
                let fill = tape.byte();
                let mut message = vec![fill; length];
                let said = tape.take(8.min(length));
                message[..said.len()].copy_from_slice(said);
                let mut out = Vec::new();
                world.nodes[from].seal(world.now, address(to), &message, &mut out).expect("within the bound");
                world.said.insert((from, message));
                world.send(from, out);
            }
            1 | 2 => {
                if let Some((sender, bytes)) = carried(&world, tape.byte()) {
                    world.receive(to, address(sender), Some(sender), &bytes);
                }
            }
            3 => {
                if let Some((sender, bytes)) = carried(&world, tape.byte()) {
                    let elsewhere = SocketAddr::from(([10, 0, 0, 9], tape.short()));
                    world.receive(to, elsewhere, Some(sender), &bytes);
                }
            }
            4 => {
                if let Some((sender, mut bytes)) = carried(&world, tape.byte()) {
                    let at = usize::from(tape.short()) % bytes.len();
                    bytes[at] ^= tape.byte().max(1);
                    world.receive(to, address(sender), None, &bytes);
                    let cut = usize::from(tape.short()) % bytes.len();
                    world.receive(to, address(sender), None, &bytes[..cut]);
                }
            }
            5 => {
                let bytes = tape.piece();
                world.receive(to, address(from), None, bytes);
            }
            6 => {
                // A member may say anything under the key: only that it harms nobody is asked.
                let mut plain = tape.piece().to_vec();
                plain.truncate(MAX_DATAGRAM);
                let bytes = world.nodes[from].seal_one(&mut plain).expect("a seal");
                world.lied = true;
                world.receive(to, address(from), Some(from), &bytes);
            }
            _ => {
                let wait = u64::from(tape.byte());
                // The same byte for short and for long waits: what is missing is asked for after milliseconds.
                world.now += Duration::from_millis(if wait < 100 { wait } else { (wait - 99) * 100 });
                let mut questions = Vec::new();
                world.nodes[from].ask(world.now, &mut questions);
                assert!(questions.len() <= 4 * NODES, "a question for each unfinished message");
                world.send(from, questions);
                let seal = 1 + tape.below(3) as u8;
                world.nodes[from].rotate(&ring(seal));
                let probe = world.nodes[from].probe(world.now, address(from).ip(), address(to));
                let ping = world.nodes[from].ping(world.now, address(to), [to as u8; 16]);
                world.send(from, vec![probe.expect("a seal"), ping.expect("a seal")]);
            }
        }
    }
}
