//! Lost fragments of large messages: the receiver asks for them, the sender says them again. A digest of a hundred members is seven
//! fragments and what a newcomer is told of them is fifty; without this a group of that size takes some five times as long to come
//! together where a tenth of the datagrams is lost, and does not where three tenths are. A network without loss carries nothing more.
//!
//! ```text
//! question: kind | number of the message 4 | missing fragments, a bit for each 8
//! ```
//!
//! Only a session that has answered its challenge is asked, at its address, and only such a session is answered, with fragments of a
//! message that went to the very address it asks from a moment ago. Both are bounded for each message: by
//! [`QUESTIONS`](super::super::reassembly::QUESTIONS).

use std::collections::VecDeque;

use super::super::reassembly::QUESTIONS;
use super::{Datagram, Duration, KIND_MISSING, Opened, Sealer, SocketAddr, start};

/// How long a message may be asked about: its receiver does not wait longer for the rest.
const KEPT_FOR: Duration = Duration::from_secs(3);
/// Bytes of messages kept.
const MAX_BYTES: usize = 2 * 1024 * 1024;

struct Message {
    to: SocketAddr,
    number: u32,
    at: Duration,
    answers: u8,
    bytes: Vec<u8>,
}

/// Messages of several fragments that were sent a moment ago, the oldest first.
#[derive(Default)]
pub(super) struct Said {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Said {
    /// Keeps a message, at the expense of the oldest.
    pub(super) fn keep(&mut self, now: Duration, to: SocketAddr, number: u32, message: &[u8]) {
        self.bytes += message.len();
        self.messages.push_back(Message { to, number, at: now, answers: 0, bytes: message.to_vec() });
        while let Some(oldest) = self.messages.front() {
            if self.bytes <= MAX_BYTES && now.saturating_sub(oldest.at) <= KEPT_FOR {
                break;
            }
            self.bytes -= oldest.bytes.len();
            self.messages.pop_front();
        }
    }

    /// A message that was sent to this address lately and may be answered for once more.
    fn find(&mut self, now: Duration, to: SocketAddr, number: u32) -> Option<&[u8]> {
        let message =
            self.messages.iter_mut().rfind(|message| message.number == number && message.to == to)?;
        if message.answers >= QUESTIONS || now.saturating_sub(message.at) > KEPT_FOR {
            return None;
        }
        message.answers += 1;
        Some(&message.bytes)
    }
}

impl Sealer {
    /// When [`ask`](Self::ask) has something to do; none while nothing is missing.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.reassembly.due()
    }

    /// Adds questions for what has not come of messages that came in part.
    pub fn ask(&mut self, now: Duration, out: &mut Vec<Datagram>) {
        for (known, missing) in self.reassembly.missing(now) {
            let Some(to) = self.sessions.get(&known).map(|session| session.address) else { continue };
            let mut plain = start(KIND_MISSING, None);
            plain.extend_from_slice(&missing.message.to_be_bytes());
            plain.extend_from_slice(&missing.fragments.to_be_bytes());
            let Ok(bytes) = self.seal_one(&mut plain) else { return };
            out.push(Datagram { to, bytes });
        }
    }

    pub(super) fn say_missing(
        &mut self,
        now: Duration,
        from: SocketAddr,
        body: &[u8],
        out: &mut Vec<Datagram>,
    ) -> Opened {
        let Some((number, fragments)) = body.split_first_chunk::<4>() else { return Opened::Unopened };
        let Ok(fragments) = <[u8; 8]>::try_from(fragments) else { return Opened::Unopened };
        let number = u32::from_be_bytes(*number);
        let Some(message) = self.said.find(now, from, number).map(<[u8]>::to_vec) else {
            return Opened::Replayed;
        };
        match self.seal_fragments(from, None, number, &message, u64::from_be_bytes(fragments), out) {
            Ok(()) => Opened::Asked,
            Err(_) => Opened::Replayed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::keys::GossipKeys;
    use super::super::super::pace::Dice;
    use super::super::MAX_MESSAGE;
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 7846))
    }

    fn node(host: u8) -> Sealer {
        Sealer::new(&GossipKeys::single([1; 32]), "lab", [host; 16], [host; 32])
    }

    fn say(from: &mut Sealer, now: Duration, to: u8, message: &[u8]) -> Vec<Datagram> {
        let mut out = Vec::new();
        from.seal(now, at(to), message, &mut out).unwrap();
        out
    }

    fn open(node: &mut Sealer, now: Duration, from: u8, bytes: &[u8]) -> (Opened, Vec<Datagram>) {
        let mut out = Vec::new();
        let opened = node.open(now, at(from), bytes, &mut out);
        (opened, out)
    }

    fn ask(node: &mut Sealer, now: Duration) -> Vec<Datagram> {
        let mut out = Vec::new();
        node.ask(now, &mut out);
        out
    }

    /// Nodes 1 and 2, which have met.
    fn met() -> (Sealer, Sealer) {
        let (mut a, mut b) = (node(1), node(2));
        let hello = say(&mut a, NOW, 2, b"hello").remove(0).bytes;
        let challenge = open(&mut b, NOW, 1, &hello).1.remove(0).bytes;
        let again = open(&mut a, NOW, 2, &challenge).1.remove(0).bytes;
        assert_eq!(open(&mut b, NOW, 1, &again).0, Opened::Message(b"hello".to_vec()));
        (a, b)
    }

    #[test]
    fn lost_fragments_are_asked_for_and_said_again_and_no_others() {
        let (mut a, mut b) = met();
        let message: Vec<u8> = (0..MAX_MESSAGE).map(|n| (n / 7) as u8).collect();
        let mut fragments = say(&mut a, NOW, 2, &message);
        let count = fragments.len();
        for lost in [count - 1, 40, 0] {
            fragments.remove(lost);
        }
        for fragment in &fragments {
            assert_eq!(open(&mut b, NOW, 1, &fragment.bytes), (Opened::Partial, vec![]));
        }
        assert_eq!(ask(&mut b, NOW), [], "more may be on its way");
        let due = b.due().unwrap();
        let questions = ask(&mut b, due);
        assert_eq!((questions.len(), questions[0].to), (1, at(1)));
        let (opened, said) = open(&mut a, due, 2, &questions[0].bytes);
        assert_eq!((opened, said.len()), (Opened::Asked, 3));
        assert_eq!(open(&mut b, due, 1, &said[0].bytes).0, Opened::Partial);
        assert_eq!(open(&mut b, due, 1, &said[1].bytes).0, Opened::Partial);
        assert_eq!(open(&mut b, due, 1, &said[2].bytes).0, Opened::Message(message));
        assert_eq!(b.due(), None);
    }

    #[test]
    fn a_message_comes_through_where_three_in_ten_are_lost() {
        let (mut a, mut b) = met();
        let mut dice = Dice(1);
        let mut is_lost = || dice.roll() % 10 < 3;
        let mut whole = 0;
        for round in 0..200 {
            let mut now = NOW + Duration::from_secs(round * 10);
            let mut wire: Vec<_> = say(&mut a, now, 2, &[7; MAX_MESSAGE - 1]);
            for _ in 0..QUESTIONS {
                wire.retain(|_| !is_lost());
                let opened = wire.iter().map(|datagram| open(&mut b, now, 1, &datagram.bytes).0);
                whole += opened.filter(|opened| matches!(opened, Opened::Message(_))).count();
                let Some(due) = b.due() else { break };
                now = due;
                let mut questions = ask(&mut b, now);
                questions.retain(|_| !is_lost());
                wire =
                    questions.iter().flat_map(|question| open(&mut a, now, 2, &question.bytes).1).collect();
            }
        }
        assert!(whole >= 190, "{whole} of 200 came through");
    }

    #[test]
    fn only_who_was_spoken_to_is_answered_and_only_for_a_moment() {
        let (mut a, mut b) = met();
        let fragments = say(&mut a, NOW, 2, &[7; 5_000]);
        open(&mut b, NOW, 1, &fragments[0].bytes);
        let due = b.due().unwrap();
        let question = ask(&mut b, due).remove(0).bytes;
        assert_eq!(open(&mut a, due, 9, &question), (Opened::Replayed, vec![]), "from elsewhere");
        assert_eq!(open(&mut node(3), due, 2, &question), (Opened::Replayed, vec![]), "asked of a stranger");
        let mut now = due;
        let mut answered = 0;
        for _ in 0..2 * QUESTIONS {
            let mut plain = start(KIND_MISSING, None);
            plain.extend_from_slice(&1_u32.to_be_bytes());
            plain.extend_from_slice(&u64::MAX.to_be_bytes());
            let bytes = b.seal_one(&mut plain).unwrap();
            let (opened, said) = open(&mut a, now, 2, &bytes);
            answered += usize::from(opened == Opened::Asked);
            assert!(said.len() <= fragments.len());
            assert_eq!(open(&mut a, now, 2, &bytes), (Opened::Replayed, vec![]), "the same question");
            now += Duration::from_millis(1);
        }
        assert_eq!(answered, usize::from(QUESTIONS), "however often it is asked");
        say(&mut a, now, 2, &[7; 5_000]);
        let mut plain = start(KIND_MISSING, None);
        plain.extend_from_slice(&2_u32.to_be_bytes());
        plain.extend_from_slice(&1_u64.to_be_bytes());
        let bytes = b.seal_one(&mut plain).unwrap();
        let late = now + KEPT_FOR + Duration::from_millis(1);
        assert_eq!(open(&mut a, late, 2, &bytes), (Opened::Replayed, vec![]), "too late");
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_time() {
        let mut a = node(1);
        for n in 0..100_u64 {
            say(&mut a, NOW + Duration::from_millis(n), 2, &[0; 60_000]);
        }
        assert!(a.said.bytes <= MAX_BYTES && a.said.messages.len() == MAX_BYTES / 60_000);
        say(&mut a, NOW, 2, b"small");
        say(&mut a, NOW + Duration::from_secs(9), 2, &[0; 2_000]);
        assert_eq!((a.said.bytes, a.said.messages.len()), (2_000, 1));
    }
}
