//! A light question to a member that was silent for long: does this very incarnation live? Only sessions that have met ask and answer.
//!
//! ```text
//! ping: kind | mark of the incarnation, 16 | when it was asked, 8 | padding, 16
//! pong: kind | the same mark               | the same time        | session of who asked, 16
//! ```
//!
//! The windows of both sessions drop what is repeated. The time is the asker's own and comes back sealed: an answer that was held back
//! on the way is too old, and a dead member is not kept alive by it. Whoever took the address of another has another mark and says nothing.

use ring::digest;

use super::{Datagram, Duration, KIND_PING, KIND_PONG, Opened, SealError, Sealed, Sealer, SocketAddr};

/// Names one incarnation of a node.
pub type Mark = [u8; 16];

/// Bytes of both.
const BODY: usize = 16 + 8 + 16;
/// How long an answer is good for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The mark of a node's generation at an address: copies of one disk may share the rest.
#[must_use]
pub fn mark(node: &str, generation: u64, address: SocketAddr) -> Mark {
    let mut text = digest::Context::new(&digest::SHA256);
    text.update(b"muster incarnation\0");
    text.update(&generation.to_be_bytes());
    text.update(address.to_string().as_bytes());
    text.update(b"\0");
    text.update(node.as_bytes());
    let mut mark = [0; 16];
    mark.copy_from_slice(&text.finish().as_ref()[..16]);
    mark
}

fn millis(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Sealer {
    /// Says which incarnation this is, from here on: questions after another are not answered.
    pub fn set_mark(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }

    /// A question to a member.
    ///
    /// # Errors
    /// When the session cannot seal any more.
    pub fn ping(&mut self, now: Duration, to: SocketAddr, mark: Mark) -> Result<Datagram, SealError> {
        let mut plain = vec![KIND_PING];
        plain.extend_from_slice(&mark);
        plain.extend_from_slice(&millis(now).to_be_bytes());
        plain.resize(1 + BODY, 0);
        Ok(Datagram { to, bytes: self.seal_one(&mut plain)? })
    }

    /// Answers a question of a session that has met this one.
    pub(super) fn answer_ping(
        &mut self,
        from: SocketAddr,
        sealed: &Sealed<'_>,
        out: &mut Vec<Datagram>,
    ) -> Opened {
        if sealed.body.len() != BODY {
            return Opened::Unopened;
        }
        if self.mark.is_none_or(|own| own != sealed.body[..16]) {
            return Opened::Replayed;
        }
        let mut plain = vec![KIND_PONG];
        plain.extend_from_slice(&sealed.body[..24]);
        plain.extend_from_slice(&sealed.known.1);
        match self.seal_one(&mut plain) {
            Ok(bytes) => {
                out.push(Datagram { to: from, bytes });
                Opened::Pinged
            }
            Err(_) => Opened::Replayed,
        }
    }

    /// Reads an answer.
    pub(super) fn read_pong(&self, now: Duration, sealed: &Sealed<'_>) -> Opened {
        let Some((mark, rest)) = sealed.body.split_first_chunk::<16>() else { return Opened::Unopened };
        let Some((asked, session)) = rest.split_first_chunk::<8>() else { return Opened::Unopened };
        let asked = u64::from_be_bytes(*asked);
        let age = millis(now).checked_sub(asked);
        let is_late = age.is_none_or(|age| u128::from(age) > PATIENCE.as_millis());
        if *session != self.session || is_late {
            return Opened::Replayed;
        }
        Opened::Lives(*mark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::keys::GossipKeys;
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const LATER: Duration = Duration::from_millis(101_100);

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 7846))
    }

    fn own(host: u8) -> Mark {
        mark(&format!("node{host}"), 7, at(host))
    }

    fn node(host: u8) -> Sealer {
        let mut sealer = Sealer::new(&GossipKeys::single([1; 32]), "lab", [host; 16], [host; 32]);
        sealer.set_mark(own(host));
        sealer
    }

    fn open(node: &mut Sealer, now: Duration, from: SocketAddr, bytes: &[u8]) -> (Opened, Vec<Datagram>) {
        let mut out = Vec::new();
        let opened = node.open(now, from, bytes, &mut out);
        (opened, out)
    }

    /// Two nodes that have met.
    fn met() -> (Sealer, Sealer) {
        let (mut a, mut b) = (node(1), node(2));
        let mut out = Vec::new();
        a.seal(NOW, at(2), b"hello", &mut out).unwrap();
        let challenge = open(&mut b, NOW, at(1), &out[0].bytes).1.remove(0);
        let again = open(&mut a, NOW, at(2), &challenge.bytes).1.remove(0);
        assert_eq!(open(&mut b, NOW, at(1), &again.bytes).0, Opened::Message(b"hello".to_vec()));
        (a, b)
    }

    #[test]
    fn a_member_says_that_it_lives_with_no_more_bytes_and_once() {
        let (mut a, mut b) = met();
        let ping = a.ping(NOW, at(2), own(2)).unwrap();
        let (opened, out) = open(&mut b, NOW, at(1), &ping.bytes);
        assert_eq!((opened, out.len(), out[0].to), (Opened::Pinged, 1, at(1)));
        assert_eq!(out[0].bytes.len(), ping.bytes.len());
        assert_eq!(open(&mut b, NOW, at(1), &ping.bytes), (Opened::Replayed, vec![]), "twice");
        assert_eq!(open(&mut a, NOW, at(2), &out[0].bytes), (Opened::Lives(own(2)), vec![]));
        assert_eq!(open(&mut a, NOW, at(2), &out[0].bytes), (Opened::Replayed, vec![]), "an answer twice");
    }

    #[test]
    fn another_incarnation_does_not_speak_for_the_one_that_was_asked() {
        let (mut a, mut b) = met();
        for other in [own(3), mark("node2", 6, at(2)), mark("node2", 8, at(2)), mark("node2", 7, at(3))] {
            let ping = a.ping(NOW, at(2), other).unwrap();
            assert_eq!(open(&mut b, NOW, at(1), &ping.bytes), (Opened::Replayed, vec![]));
        }
    }

    #[test]
    fn an_answer_that_was_held_back_and_one_to_somebody_else_show_nothing() {
        let (mut a, mut b) = met();
        let pong = |a: &mut Sealer, b: &mut Sealer| {
            let ping = a.ping(NOW, at(2), own(2)).unwrap();
            open(b, NOW, at(1), &ping.bytes).1.remove(0).bytes
        };
        let (first, second, third) = (pong(&mut a, &mut b), pong(&mut a, &mut b), pong(&mut a, &mut b));
        assert_eq!(open(&mut a, LATER, at(2), &first).0, Opened::Replayed, "held back");
        assert_eq!(open(&mut a, NOW - PATIENCE, at(2), &second).0, Opened::Replayed, "from what is to come");
        assert_eq!(open(&mut a, NOW, at(9), &third), (Opened::Replayed, vec![]), "from elsewhere");
        // A third node that has met the second, too, hears the answer that was meant for the first.
        let mut c = node(3);
        let mut out = Vec::new();
        c.seal(NOW, at(2), b"hello", &mut out).unwrap();
        let challenge = open(&mut b, NOW, at(3), &out[0].bytes).1.remove(0);
        assert_eq!(open(&mut c, NOW, at(2), &challenge.bytes).0, Opened::Answered);
        let fourth = pong(&mut a, &mut b);
        assert_eq!(open(&mut c, NOW, at(2), &fourth), (Opened::Replayed, vec![]), "to somebody else");
    }

    #[test]
    fn who_has_not_met_is_neither_answered_nor_challenged() {
        let (mut a, mut b) = (node(1), node(2));
        let ping = a.ping(NOW, at(2), own(2)).unwrap();
        assert_eq!(open(&mut b, NOW, at(1), &ping.bytes), (Opened::Replayed, vec![]));
        let (mut a, mut b) = met();
        let ping = a.ping(NOW, at(2), own(2)).unwrap();
        assert_eq!(open(&mut b, NOW, at(9), &ping.bytes), (Opened::Replayed, vec![]), "from elsewhere");
        // A body of another length is nobody's question.
        let short = a.seal_one(&mut [&[KIND_PING][..], &own(2)].concat()).unwrap();
        assert_eq!(open(&mut b, NOW, at(1), &short), (Opened::Unopened, vec![]));
        let short = b.seal_one(&mut [&[KIND_PONG][..], &own(2)].concat()).unwrap();
        assert_eq!(open(&mut a, NOW, at(2), &short), (Opened::Unopened, vec![]));
    }
}
