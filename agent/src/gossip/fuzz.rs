//! Entry points of the fuzzer into gossip: see `crate::fuzz`.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chitchat::{ChitchatMessage, Deserializable, Serializable};
use tokio::time::{Instant, timeout};

use super::claim::Claim;
use super::knowledge::{CLAIM, Knowledge, PARAMETERS, Verdict};
use super::network::Wire;
use super::seal::{Datagram, Opened, Sealer};
use super::testing::{claim, parameters, signer};
use super::{Gossip, GossipConfig, GossipKeys, MemoryNetwork, Network, reassembly, seal, signed, transport};
use crate::core::NodeId;
use crate::founding::Parameters;
use crate::fuzz::Tape;

pub(crate) fn datagram(data: &[u8]) {
    seal::fuzz::datagram(data);
}

pub(crate) fn fragments(data: &[u8]) {
    reassembly::fuzz::fragments(data);
}

/// Bytes as they come out of the seal, on their way to chitchat.
pub(crate) fn message(data: &[u8]) {
    let Some(message) = transport::decode(data) else { return };
    // A delta asserts that it is packed as it came; it is never sent on, so only what has none is written again.
    if matches!(message, ChitchatMessage::Syn { .. } | ChitchatMessage::BadCluster) {
        let bytes = message.serialize_to_vec();
        let mut rest = &bytes[..];
        assert_eq!(ChitchatMessage::deserialize(&mut rest).ok().as_ref(), Some(&message));
        assert!(rest.is_empty());
    }
}

/// Messages that the member of the target below says at most.
pub(crate) const MEMBER_SAYS: usize = 6;

/// A member with the key says anything in a few messages; afterwards the node still gossips, whatever became of its chitchat.
pub(crate) fn member(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let network = MemoryNetwork::default();
        let victim = SocketAddr::from(([10, 0, 0, 1], 7846));
        let generations = AtomicU64::new(1);
        let gossip = Gossip::start(GossipConfig {
            cluster: "lab".into(),
            generation: 1,
            next_generation: Arc::new(move || Ok(generations.fetch_add(1, Ordering::SeqCst) + 1)),
            listen: victim,
            advertise: victim,
            keys: GossipKeys::single([7; 32]),
            signer: signer(1),
            interval: Duration::from_secs(1),
            network: Arc::new(network.clone()),
        });
        let gossip = gossip.await.expect("a gossip");
        gossip.publish(&claim(gossip.node_id(), 1, 1), &parameters()).expect("a claim");
        let mut rogue = Rogue::new(&network).await;
        let mut tape = Tape(data);
        for _ in 0..MEMBER_SAYS {
            if tape.is_over() {
                break;
            }
            let wait = Duration::from_millis(u64::from(tape.byte()) * 20);
            let bytes = tape.piece();
            rogue.say(victim, bytes).await;
            rogue.hear(wait).await;
        }
        let syn = rogue.greeting();
        for _ in 0..60 {
            rogue.say(victim, &syn).await;
            if rogue.hear(Duration::from_secs(3)).await {
                return;
            }
        }
        panic!("the node does not answer any more; it was restarted {} times", gossip.counters().restarts);
    });
}

/// What three nodes with claims really say to a newcomer.
#[cfg(test)]
pub(crate) async fn real_messages() -> Vec<Vec<u8>> {
    let network = MemoryNetwork::default();
    let mut nodes = Vec::new();
    for n in 1..=3 {
        let address = SocketAddr::from(([10, 0, 0, n], 7846));
        let gossip = Gossip::start(GossipConfig {
            cluster: "lab".into(),
            generation: 1,
            next_generation: Arc::new(|| Ok(2)),
            listen: address,
            advertise: address,
            keys: GossipKeys::single([7; 32]),
            signer: signer(n),
            interval: Duration::from_secs(1),
            network: Arc::new(network.clone()),
        });
        let gossip = gossip.await.unwrap();
        gossip.publish(&claim(gossip.node_id(), 1, 1), &parameters()).unwrap();
        gossip.meet(([10, 0, 0, 1], 7846).into());
        nodes.push(gossip);
    }
    nodes[2].view().wait_for(|view| view.peers.len() == 2).await.unwrap();
    let mut rogue = Rogue::new(&network).await;
    let member =
        [&[4, 0][..], b"afar", &[1, 0, 0, 0, 0, 0, 0, 0, 4, 10, 0, 0, 99], &7846_u16.to_le_bytes()].concat();
    let digest = [&[1, 0][..], &member, &[5, 0, 0, 0, 0, 0, 0, 0], &[0; 16]].concat();
    let syn = [&45_139_u16.to_le_bytes()[..], &[0, 0], &digest, &[6, 0], b"muster"].concat();
    let syn_ack = [&45_139_u16.to_le_bytes()[..], &[0, 1], &digest, &[0]].concat();
    let mut messages = vec![syn.clone(), syn_ack.clone()];
    for said in [syn, syn_ack] {
        rogue.say(([10, 0, 0, 1], 7846).into(), &said).await;
        let until = Instant::now() + Duration::from_secs(3);
        let mut buffer = [0; 2_000];
        while let Ok(received) = tokio::time::timeout_at(until, rogue.wire.recv_from(&mut buffer)).await {
            let (length, from) = received.unwrap();
            let mut out = Vec::new();
            let opened = rogue.sealer.open(rogue.started.elapsed(), from, &buffer[..length], &mut out);
            rogue.put(out).await;
            if let Opened::Message(message) = opened {
                messages.push(message);
            }
        }
    }
    messages
}

struct Rogue {
    wire: Arc<dyn Wire>,
    sealer: Sealer,
    started: Instant,
}

impl Rogue {
    async fn new(network: &dyn Network) -> Self {
        let wire = network.bind(([10, 0, 0, 99], 7846).into()).await.expect("an address");
        let sealer = Sealer::new(&GossipKeys::single([7; 32]), "lab", [9; 16], [9; 32]);
        Self { wire, sealer, started: Instant::now() }
    }

    /// A SYN that knows nobody.
    fn greeting(&self) -> Vec<u8> {
        let mut bytes = 45_139_u16.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 0, 6, 0]);
        bytes.extend_from_slice(b"muster");
        bytes
    }

    async fn say(&mut self, to: SocketAddr, message: &[u8]) {
        let mut out = Vec::new();
        self.sealer.seal(self.started.elapsed(), to, message, &mut out).expect("within the bound");
        self.put(out).await;
    }

    async fn put(&self, out: Vec<Datagram>) {
        for datagram in out {
            self.wire.send_to(&datagram.bytes, datagram.to).await.expect("a network in memory");
        }
    }

    /// Answers challenges for a while; whether a SYN-ACK came.
    async fn hear(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut buffer = [0; 2_000];
        let mut answered = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // The answer is there at once or not at all: what is waited for is only its first part.
            let left = if answered { Duration::ZERO } else { left };
            let Ok(received) = timeout(left, self.wire.recv_from(&mut buffer)).await else { return answered };
            let (length, from) = received.expect("a network in memory");
            let mut out = Vec::new();
            let opened = self.sealer.open(self.started.elapsed(), from, &buffer[..length], &mut out);
            self.put(out).await;
            if let Opened::Message(message) = opened {
                answered |= matches!(transport::decode(&message), Some(ChitchatMessage::SynAck { .. }));
            }
        }
    }
}

/// Values in the gossip state of members, signed and not: none counts but its owner's latest.
pub(crate) fn claims(data: &[u8]) {
    let signers = [signer(1), signer(2), signer(3)];
    let ids: Vec<NodeId> = signers.iter().map(|signer| signer.node_id().clone()).collect();
    let mut knowledge = Knowledge::new("lab", ids[0].clone());
    let mut latest: BTreeMap<NodeId, Claim> = BTreeMap::new();
    let mut tape = Tape(data);
    for _ in 0..24 {
        if tape.is_over() {
            break;
        }
        let (by, node) = (tape.below(3), tape.below(3));
        let key = [CLAIM, PARAMETERS, "x"][tape.below(3)];
        let how = tape.below(4);
        let text = if how == 0 {
            let said = claim(&ids[node], u64::from(tape.byte() % 4), u64::from(tape.byte() % 4));
            serde_json::to_string(&Claim { why: tape.byte().to_string().into(), ..said })
                .expect("a claim has a text")
        } else {
            let Ok(text) = std::str::from_utf8(tape.piece()) else { continue };
            text.to_owned()
        };
        let is_signed = how < 3;
        let value = if is_signed { signers[by].sign("lab", key, &text) } else { text.clone() };
        check_opening(&signers, key, &value);
        let verdict = knowledge.offer(ids[node].as_str(), key, &value);
        let read = serde_json::from_str::<Claim>(&text).ok();
        if let Some(read) = &read {
            let again = serde_json::to_string(read).expect("a claim has a text");
            assert_eq!(serde_json::from_str::<Claim>(&again).ok().as_ref(), Some(read));
        }
        if let Ok(read) = serde_json::from_str::<Parameters>(&text) {
            let again = serde_json::to_string(&read).expect("parameters have a text");
            let again = serde_json::from_str::<Parameters>(&again).expect("what was written can be read");
            assert_eq!((again.hash(), &again), (read.hash(), &read));
        }
        // What was sent unsigned may hold a signature all the same, of an earlier run: `check_opening` has looked at it.
        if !is_signed {
            continue;
        }
        if by != node || key == "x" {
            assert_eq!(verdict, Verdict::Ignored, "{value}");
        }
        if verdict == Verdict::New && key == CLAIM && node != 0 {
            let read = read.expect("what is no claim does not count");
            assert_eq!((read.v, &read.owner), (1, &ids[node]));
            let before = latest.insert(read.owner.clone(), read.clone());
            let number = |claim: &Claim| (claim.generation, claim.counter);
            assert!(before.is_none_or(|before| number(&before) < number(&read)), "an older claim counted");
        }
    }
    let addresses = ids.iter().map(|id| (id.clone(), SocketAddr::from(([10, 0, 0, 1], 7846)))).collect();
    knowledge.set_live(&HashSet::new(), &addresses);
    let view = knowledge.view();
    for (id, peer) in &view.peers {
        assert_ne!(id, &ids[0], "a node is no peer of its own");
        assert!(latest.get(id).is_none_or(|claim| *claim == *peer.claim), "not the latest claim");
        assert!(peer.parameters.as_ref().is_none_or(|shown| shown.hash() == peer.claim.parameters));
    }
}

/// What opens is, to the letter, what one of the signers signs.
fn check_opening(signers: &[super::Signer], key: &str, value: &str) {
    if let Ok((owner, text)) = signed::open("lab", key, value) {
        let signer = signers.iter().find(|signer| *signer.node_id() == owner).expect("nobody's signature");
        assert_eq!(signer.sign("lab", key, text), value);
    }
}
