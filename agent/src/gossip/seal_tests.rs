use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(1_000);

fn address(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn sealer(key: u8, session: u8) -> Sealer {
    Sealer::new(&GossipKeys::single([key; 32]), "lab", [session; 16], [session ^ 0x55; 32])
}

/// Nodes joined by a wire that loses nothing and keeps everything.
struct Wire {
    nodes: Vec<Sealer>,
    delivered: Vec<(usize, Vec<u8>)>,
    carried: Vec<(usize, Datagram)>,
}

impl Wire {
    fn new(nodes: Vec<Sealer>) -> Self {
        Self { nodes, delivered: Vec::new(), carried: Vec::new() }
    }

    fn address(node: usize) -> SocketAddr {
        address(u16::try_from(node).unwrap() + 1)
    }

    fn say(&mut self, from: usize, to: usize, message: &[u8]) {
        let mut out = Vec::new();
        self.nodes[from].seal(NOW, Self::address(to), message, &mut out).unwrap();
        self.carry(from, out);
    }

    fn carry(&mut self, from: usize, out: Vec<Datagram>) {
        let mut queue: std::collections::VecDeque<_> =
            out.into_iter().map(|datagram| (from, datagram)).collect();
        while let Some((from, datagram)) = queue.pop_front() {
            assert!(datagram.bytes.len() <= MAX_DATAGRAM);
            self.carried.push((from, datagram.clone()));
            assert!(self.carried.len() < 10_000, "the wire never falls silent");
            let to = usize::from(datagram.to.port()) - 1;
            let mut replies = Vec::new();
            let opened = self.nodes[to].open(NOW, Self::address(from), &datagram.bytes, &mut replies);
            if let Opened::Message(message) = opened {
                self.delivered.push((to, message));
            }
            queue.extend(replies.into_iter().map(|reply| (to, reply)));
        }
    }
}

#[test]
fn first_contact_costs_one_extra_round_trip_for_both_sides() {
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    wire.say(0, 1, b"syn");
    assert_eq!(wire.delivered, [(1, b"syn".to_vec())]);
    assert_eq!(wire.carried.len(), 3, "message, challenge, message with cookie");
    wire.say(1, 0, b"syn-ack");
    wire.say(0, 1, b"ack");
    assert_eq!(wire.carried.len(), 5, "no challenge the other way");
    assert_eq!(wire.delivered.len(), 3);
}

#[test]
fn two_nodes_that_call_each_other_at_once_both_get_through() {
    let (mut a, mut b) = (sealer(1, 1), sealer(1, 2));
    let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
    a.seal(NOW, address(2), b"from a", &mut from_a).unwrap();
    b.seal(NOW, address(1), b"from b", &mut from_b).unwrap();
    let mut wire = Wire::new(vec![a, b]);
    let mut replies = Vec::new();
    assert_eq!(wire.nodes[1].open(NOW, address(1), &from_a[0].bytes, &mut replies), Opened::Challenged);
    let crossing = std::mem::take(&mut replies);
    assert_eq!(wire.nodes[0].open(NOW, address(2), &from_b[0].bytes, &mut replies), Opened::Challenged);
    wire.carry(1, crossing);
    wire.carry(0, replies);
    wire.delivered.sort();
    assert_eq!(wire.delivered, [(0, b"from b".to_vec()), (1, b"from a".to_vec())]);
}

#[test]
fn a_challenge_is_never_three_times_its_request() {
    let (mut a, mut b) = (sealer(1, 1), sealer(1, 2));
    for length in [0, 1, 40, 1_000, 30_000] {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        a.seal(NOW, address(2), &vec![0; length], &mut request).unwrap();
        for datagram in &request {
            b.open(NOW, address(1), &datagram.bytes, &mut reply);
        }
        assert_eq!(reply.len(), 1, "one challenge per message, however many fragments");
        assert!(reply[0].bytes.len() <= 3 * request[0].bytes.len(), "{length}");
        assert_eq!(reply[0].bytes.len(), 86);
    }
    assert_eq!(b.sessions(), 0, "nothing is remembered of a session that was only challenged");
}

#[test]
fn different_keys_and_different_cluster_names_never_meet() {
    let other_cluster = Sealer::new(&GossipKeys::single([1; 32]), "prod", [3; 16], [3; 32]);
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(2, 2), other_cluster]);
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2)] {
        wire.say(from, to, b"hello");
    }
    assert!(wire.delivered.is_empty());
    assert_eq!(wire.carried.len(), 5, "no reply to any of them");
}

#[test]
fn any_flipped_bit_is_dropped_without_a_reply() {
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    wire.say(0, 1, b"met");
    let mut out = Vec::new();
    wire.nodes[0].seal(NOW, address(2), b"hello", &mut out).unwrap();
    let good = out.remove(0).bytes;
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let opened = wire.nodes[1].open(NOW, address(1), &bad, &mut out);
        assert_eq!((opened, out.len()), (Opened::Unopened, 0), "bit {bit}");
    }
    assert_eq!(wire.nodes[1].open(NOW, address(1), &good, &mut out), Opened::Message(b"hello".to_vec()));
}

#[test]
fn replays_bring_nothing_and_cost_nothing() {
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    wire.say(0, 1, b"syn");
    wire.say(0, 1, &[7; 5_000]);
    wire.say(1, 0, b"syn-ack");
    let captured = wire.carried.clone();
    for (from, datagram) in captured {
        for source in [Wire::address(from), address(666)] {
            let to = usize::from(datagram.to.port()) - 1;
            let mut out = Vec::new();
            let opened = wire.nodes[to].open(NOW, source, &datagram.bytes, &mut out);
            assert!(matches!(opened, Opened::Replayed), "{opened:?}");
            assert!(out.is_empty());
        }
    }
}

#[test]
fn after_a_restart_replays_are_only_challenged() {
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    wire.say(0, 1, b"syn");
    wire.say(0, 1, &[7; 5_000]);
    let captured: Vec<_> =
        wire.carried.iter().filter(|(from, _)| *from == 0).map(|(_, d)| d.bytes.clone()).collect();
    let mut restarted = sealer(1, 9);
    let mut sent = 0;
    for source in [address(1), address(666)] {
        for datagram in &captured {
            let mut out = Vec::new();
            let opened = restarted.open(NOW, source, datagram, &mut out);
            assert!(matches!(opened, Opened::Challenged | Opened::Replayed), "{opened:?}");
            let bytes: usize = out.iter().map(|reply| reply.bytes.len()).sum();
            assert!(bytes <= 3 * datagram.len());
            sent += out.len();
        }
    }
    assert_eq!(restarted.sessions(), 0);
    assert!(sent > 0, "the live peer must get its challenge");
    // The peer itself goes on, and what it said before the restart stays shut out.
    wire.nodes[1] = restarted;
    wire.delivered.clear();
    wire.say(0, 1, b"again");
    assert_eq!(wire.delivered, [(1, b"again".to_vec())]);
    for datagram in &captured {
        let mut out = Vec::new();
        assert_eq!(wire.nodes[1].open(NOW, address(1), datagram, &mut out), Opened::Replayed);
        assert!(out.is_empty());
    }
}

#[test]
fn a_cookie_is_bound_to_its_address_and_its_time() {
    let (mut a, mut b) = (sealer(1, 1), sealer(1, 2));
    let (mut to_b, mut to_a, mut answer) = (Vec::new(), Vec::new(), Vec::new());
    a.seal(NOW, address(2), b"syn", &mut to_b).unwrap();
    b.open(NOW, address(1), &to_b[0].bytes, &mut to_a);
    assert_eq!(a.open(NOW, address(2), &to_a[0].bytes, &mut answer), Opened::Answered);
    let mut out = Vec::new();
    assert_eq!(b.open(NOW, address(77), &answer[0].bytes, &mut out), Opened::Challenged, "another address");
    let late = NOW + 2 * COOKIE_TICK;
    assert_eq!(b.open(late, address(1), &answer[0].bytes, &mut out), Opened::Challenged, "too late");
    assert_eq!(b.sessions(), 0);
    assert_eq!(b.open(NOW, address(1), &answer[0].bytes, &mut out), Opened::Message(b"syn".to_vec()));
}

#[test]
fn a_challenge_nobody_asked_for_moves_nothing() {
    let (mut a, mut b, mut c) = (sealer(1, 1), sealer(1, 2), sealer(1, 3));
    let (mut to_b, mut challenge, mut out) = (Vec::new(), Vec::new(), Vec::new());
    a.seal(NOW, address(2), b"for b", &mut to_b).unwrap();
    b.open(NOW, address(1), &to_b[0].bytes, &mut challenge);
    let challenge = &challenge[0].bytes;
    assert_eq!(
        a.open(NOW, address(66), challenge, &mut out),
        Opened::Replayed,
        "from where nothing was sent"
    );
    assert_eq!(c.open(NOW, address(2), challenge, &mut out), Opened::Replayed, "for another session");
    assert_eq!((out.len(), a.sessions(), c.sessions()), (0, 0, 0));
    assert_eq!(a.open(NOW, address(2), challenge, &mut out), Opened::Answered);
    assert_eq!(a.open(NOW, address(2), challenge, &mut out), Opened::Replayed, "twice");
    assert_eq!(out.len(), 1);
}

#[test]
fn a_new_address_of_a_known_session_is_challenged_first() {
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    wire.say(0, 1, b"syn");
    let mut out = Vec::new();
    wire.nodes[0].seal(NOW, address(2), b"moved", &mut out).unwrap();
    let mut challenge = Vec::new();
    let moved = address(900);
    assert_eq!(wire.nodes[1].open(NOW, moved, &out[0].bytes, &mut challenge), Opened::Challenged);
    assert_eq!(challenge[0].to, moved);
    let mut answer = Vec::new();
    assert_eq!(wire.nodes[0].open(NOW, address(2), &challenge[0].bytes, &mut answer), Opened::Answered);
    let mut none = Vec::new();
    assert_eq!(
        wire.nodes[1].open(NOW, moved, &answer[0].bytes, &mut none),
        Opened::Message(b"moved".to_vec())
    );
    wire.nodes[0].seal(NOW, address(2), b"more", &mut answer).unwrap();
    let opened = wire.nodes[1].open(NOW, moved, &answer[1].bytes, &mut none);
    assert_eq!(opened, Opened::Message(b"more".to_vec()));
    assert!(none.is_empty());
}

#[test]
fn keys_rotate_without_a_gap() {
    let ring = |seal: u8, open: &[u8]| GossipKeys {
        seal: [seal; 32],
        open: open.iter().map(|key| [*key; 32]).collect(),
    };
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    let both_ways = |wire: &mut Wire, what: &str| {
        wire.delivered.clear();
        wire.say(0, 1, b"there");
        wire.say(1, 0, b"back");
        assert_eq!(wire.delivered.len(), 2, "{what}");
    };
    both_ways(&mut wire, "old key");
    wire.nodes[0].rotate(&ring(1, &[2]));
    both_ways(&mut wire, "one opens the new key");
    wire.nodes[1].rotate(&ring(1, &[2]));
    wire.nodes[0].rotate(&ring(2, &[1]));
    both_ways(&mut wire, "one seals with the new key");
    wire.nodes[1].rotate(&ring(2, &[1]));
    wire.nodes[0].rotate(&ring(2, &[]));
    both_ways(&mut wire, "one has dropped the old key");
    wire.nodes[1].rotate(&ring(2, &[]));
    both_ways(&mut wire, "new key");
    wire.nodes[1].rotate(&ring(3, &[]));
    wire.delivered.clear();
    wire.say(0, 1, b"there");
    wire.say(1, 0, b"back");
    assert!(wire.delivered.is_empty(), "no common key");
}

#[test]
fn large_messages_are_split_and_put_together() {
    let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
    for length in [PIECE + 5, PIECE + 6, PIECE + 7, 2 * PIECE, 2 * PIECE + 1, 40_000, MAX_MESSAGE] {
        wire.delivered.clear();
        let message: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        wire.say(0, 1, &message);
        assert_eq!(wire.delivered, [(1, message)], "{length}");
    }
    let mut out = Vec::new();
    let error = wire.nodes[0].seal(NOW, address(2), &vec![0; MAX_MESSAGE + 1], &mut out).unwrap_err();
    assert_eq!((error, out.len()), (SealError::TooLarge(MAX_MESSAGE + 1), 0));
}

#[test]
fn its_own_datagrams_are_dropped() {
    let mut a = sealer(1, 1);
    let mut out = Vec::new();
    a.seal(NOW, address(1), b"me", &mut out).unwrap();
    let mine = out.remove(0);
    assert_eq!(a.open(NOW, address(1), &mine.bytes, &mut out), Opened::Own);
    assert!(out.is_empty());
}

#[test]
fn sessions_are_bounded_and_the_least_used_goes_first() {
    let mut receiver = sealer(1, 200);
    let mut kept_session = None;
    for n in 0..=MAX_SESSIONS {
        let now = NOW + Duration::from_millis(n as u64 * 10);
        let mut session = [0_u8; 16];
        session[..8].copy_from_slice(&(n as u64).to_be_bytes());
        session[15] = 1;
        let mut peer = Sealer::new(&GossipKeys::single([1; 32]), "lab", session, [0; 32]);
        let from = address(u16::try_from(n).unwrap() + 1);
        let (mut first, mut challenge, mut answer, mut none) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        peer.seal(now, address(60_000), b"x", &mut first).unwrap();
        receiver.open(now, from, &first[0].bytes, &mut challenge);
        peer.open(now, address(60_000), &challenge[0].bytes, &mut answer);
        assert_eq!(receiver.open(now, from, &answer[0].bytes, &mut none), Opened::Message(b"x".to_vec()));
        if n == 0 {
            kept_session = Some((peer, from));
        } else if n == MAX_SESSIONS / 2 {
            let (peer, from) = kept_session.as_mut().unwrap();
            let mut more = Vec::new();
            peer.seal(now, address(60_000), b"still here", &mut more).unwrap();
            receiver.open(now, *from, &more[0].bytes, &mut none);
        }
    }
    assert_eq!(receiver.sessions(), MAX_SESSIONS);
    let (peer, from) = kept_session.as_mut().unwrap();
    let mut more = Vec::new();
    peer.seal(NOW, address(60_000), b"known", &mut more).unwrap();
    assert_eq!(
        receiver.open(NOW, *from, &more[0].bytes, &mut Vec::new()),
        Opened::Message(b"known".to_vec())
    );
}

#[test]
fn challenges_are_limited_in_number() {
    let mut receiver = sealer(1, 200);
    let mut out = Vec::new();
    for n in 0..2_000_u16 {
        let mut peer = sealer(1, 7);
        let mut first = Vec::new();
        peer.seal(NOW, address(60_000), &n.to_be_bytes(), &mut first).unwrap();
        receiver.open(NOW, address(n), &first[0].bytes, &mut out);
    }
    assert_eq!(out.len(), 256);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_reply(datagrams in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..1_400)), 1..40)) {
        let mut receiver = sealer(1, 1);
        let mut out = Vec::new();
        for (port, bytes) in datagrams {
            prop_assert_eq!(receiver.open(NOW, address(port), &bytes, &mut out), Opened::Unopened);
        }
        prop_assert!(out.is_empty());
        prop_assert_eq!(receiver.sessions(), 0);
    }

    /// Whoever holds the key may say anything: still no panic, and no message that was not sent.
    #[test]
    fn sealed_nonsense_does_not_panic(plain in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..30), known in any::<bool>()) {
        let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
        if known {
            wire.say(0, 1, b"syn");
        }
        for mut bytes in plain {
            let bytes = wire.nodes[0].seal_one(&mut bytes).unwrap();
            let mut out = Vec::new();
            wire.nodes[1].open(NOW, address(1), &bytes, &mut out);
            prop_assert!(out.iter().map(|reply| reply.bytes.len()).sum::<usize>() <= 3 * bytes.len());
        }
    }

    /// Loss, duplication and reordering never deliver twice and never deliver what was not said.
    #[test]
    fn a_bad_wire_delivers_each_message_once_at_most(
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        lengths in prop::collection::vec(1_usize..4_000, 1..8),
    ) {
        let mut wire = Wire::new(vec![sealer(1, 1), sealer(1, 2)]);
        wire.say(0, 1, b"syn");
        let mut out = Vec::new();
        let mut said = Vec::new();
        for (n, length) in lengths.into_iter().enumerate() {
            let message = vec![n as u8; length];
            wire.nodes[0].seal(NOW, address(2), &message, &mut out).unwrap();
            said.push(message);
        }
        let mut heard = Vec::new();
        for index in order {
            let datagram = index.get(&out).clone();
            let mut none = Vec::new();
            if let Opened::Message(message) = wire.nodes[1].open(NOW, address(1), &datagram.bytes, &mut none) {
                heard.push(message);
            }
            prop_assert!(none.is_empty());
        }
        for message in &heard {
            prop_assert!(said.contains(message));
            prop_assert_eq!(heard.iter().filter(|other| *other == message).count(), 1);
        }
    }
}
