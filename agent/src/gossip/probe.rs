//! Probes of a sweep: a sealed knock at an address that nobody was heard from, and a sealed answer no larger. Neither side's sessions,
//! windows or pending messages change by either.
//!
//! ```text
//! probe:  kind | cookie of the address knocked at | address it is sent from, 16 | padding, 18
//! answer: kind | the same cookie                  | session of the probe, 16    | address to greet, 16, and port, 2
//! ```
//!
//! Who has no key sees noise, and gets no answer: a probe that was recorded names the address it was sent from, so it is answered
//! there and nowhere else, and once. Who knocked remembers nothing: the cookie is a MAC over the address, good for some seconds.

use std::collections::{HashSet, VecDeque};
use std::net::Ipv6Addr;

use super::{
    COOKIE, Datagram, Duration, IpAddr, KIND_ANSWER, KIND_PROBE, Opened, SealError, Sealed, Sealer,
    SessionId, SocketAddr, WITH_COOKIE, ticks,
};

/// Bytes after the cookie, in a probe as in its answer.
const BODY: usize = 16 + 16 + 2;
/// Probes remembered, so that none is answered twice.
const REMEMBERED: usize = 4_096;
/// Answers in a burst, and per second.
const ANSWERS: f64 = 256.0;

/// What a node keeps of the probes that it has answered, and of those it sends itself.
#[derive(Default)]
pub(super) struct Probes {
    seen: HashSet<(SessionId, u64)>,
    order: VecDeque<(SessionId, u64)>,
    spent: f64,
    counted: Duration,
    /// Where this node is to be greeted.
    own: Option<SocketAddr>,
    /// The multicast address that was knocked at: its answers come from others.
    group: Option<SocketAddr>,
}

impl Probes {
    /// Whether a probe may be answered: a new one, within the budget.
    fn admits(&mut self, now: Duration, probe: (SessionId, u64)) -> bool {
        let waited = now.saturating_sub(self.counted).as_secs_f64();
        self.counted = now;
        self.spent = (self.spent - waited * ANSWERS).max(0.0);
        if self.spent > ANSWERS - 1.0 || !self.seen.insert(probe) {
            return false;
        }
        self.spent += 1.0;
        self.order.push_back(probe);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

fn bytes_of(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Sealer {
    /// Says where this node is to be greeted: told to whoever knocks.
    pub fn set_address(&mut self, own: SocketAddr) {
        self.probes.own = Some(own);
    }

    /// A probe for an address, which may be a multicast one. `source` is the address it will leave from.
    ///
    /// # Errors
    /// When the session cannot seal any more.
    pub fn probe(&mut self, now: Duration, source: IpAddr, to: SocketAddr) -> Result<Datagram, SealError> {
        if to.ip().is_multicast() {
            self.probes.group = Some(to);
        }
        let mut plain = vec![KIND_PROBE | WITH_COOKIE];
        plain.extend_from_slice(&self.cookie(ticks(now), &self.session, to));
        plain.extend_from_slice(&bytes_of(source));
        plain.resize(1 + COOKIE + BODY, 0);
        Ok(Datagram { to, bytes: self.seal_one(&mut plain)? })
    }

    pub(super) fn answer_probe(
        &mut self,
        now: Duration,
        from: SocketAddr,
        sealed: &Sealed<'_>,
        out: &mut Vec<Datagram>,
    ) -> Opened {
        let (Some(cookie), true) = (sealed.cookie, sealed.body.len() == BODY) else {
            return Opened::Unopened;
        };
        if sealed.body[..16] != bytes_of(from.ip()) {
            return Opened::Replayed;
        }
        let Some(own) = self.probes.own else { return Opened::Probed };
        if !self.probes.admits(now, (sealed.known.1, sealed.counter)) {
            return Opened::Replayed;
        }
        let mut plain = vec![KIND_ANSWER | WITH_COOKIE];
        plain.extend_from_slice(cookie);
        plain.extend_from_slice(&sealed.known.1);
        plain.extend_from_slice(&bytes_of(own.ip()));
        plain.extend_from_slice(&own.port().to_be_bytes());
        match self.seal_one(&mut plain) {
            Ok(bytes) => {
                out.push(Datagram { to: from, bytes });
                Opened::Probed
            }
            Err(_) => Opened::Replayed,
        }
    }

    pub(super) fn read_answer(&self, now: Duration, from: SocketAddr, sealed: &Sealed<'_>) -> Opened {
        let (Some(cookie), true) = (sealed.cookie, sealed.body.len() == BODY) else {
            return Opened::Unopened;
        };
        let (session, address) = sealed.body.split_at(16);
        let knocked = |at: SocketAddr| self.is_cookie(now, &self.session, at, cookie);
        if session != self.session || !(knocked(from) || self.probes.group.is_some_and(knocked)) {
            return Opened::Replayed;
        }
        let Some((ip, port)) = address.split_first_chunk::<16>() else { return Opened::Unopened };
        let Ok(port) = <[u8; 2]>::try_from(port) else { return Opened::Unopened };
        let told = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical(), u16::from_be_bytes(port));
        // By multicast it answers from its link-local address; another family's says nothing about the way here.
        let greets = from.ip().is_ipv6() && told.ip().is_ipv6();
        Opened::Here(if greets { told } else { from })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::keys::GossipKeys;
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 7846))
    }

    fn node(key: u8, host: u8) -> Sealer {
        let mut sealer = Sealer::new(&GossipKeys::single([key; 32]), "lab", [host; 16], [host; 32]);
        sealer.set_address(at(host));
        sealer
    }

    fn open(node: &mut Sealer, now: Duration, from: SocketAddr, bytes: &[u8]) -> (Opened, Vec<Datagram>) {
        let mut out = Vec::new();
        let opened = node.open(now, from, bytes, &mut out);
        (opened, out)
    }

    #[test]
    fn a_probe_is_answered_with_no_more_bytes_and_leaves_nothing_behind() {
        let (mut a, mut b) = (node(1, 1), node(1, 2));
        let probe = a.probe(NOW, at(1).ip(), at(2)).unwrap();
        let (opened, out) = open(&mut b, NOW, at(1), &probe.bytes);
        assert_eq!((opened, out.len(), out[0].to), (Opened::Probed, 1, at(1)));
        assert!(out[0].bytes.len() <= probe.bytes.len(), "{} for {}", out[0].bytes.len(), probe.bytes.len());
        assert_eq!(open(&mut a, NOW, at(2), &out[0].bytes), (Opened::Here(at(2)), vec![]));
        assert_eq!((a.sessions(), b.sessions()), (0, 0));
    }

    #[test]
    fn a_stranger_gets_no_answer_and_a_recorded_probe_is_of_no_use() {
        let (mut a, mut b, mut stranger) = (node(1, 1), node(1, 2), node(2, 3));
        let foreign = stranger.probe(NOW, at(3).ip(), at(2)).unwrap();
        assert_eq!(open(&mut b, NOW, at(3), &foreign.bytes), (Opened::Unopened, vec![]));
        let probe = a.probe(NOW, at(1).ip(), at(2)).unwrap();
        assert_eq!(open(&mut b, NOW, at(9), &probe.bytes), (Opened::Replayed, vec![]), "from elsewhere");
        assert_eq!(open(&mut b, NOW, at(1), &probe.bytes).0, Opened::Probed);
        assert_eq!(open(&mut b, NOW, at(1), &probe.bytes), (Opened::Replayed, vec![]), "twice");
        assert_eq!(open(&mut a, NOW, at(1), &probe.bytes), (Opened::Own, vec![]));
    }

    #[test]
    fn only_an_answer_from_where_was_knocked_lately_counts() {
        let (mut a, mut b) = (node(1, 1), node(1, 2));
        let probe = a.probe(NOW, at(1).ip(), at(2)).unwrap();
        let answer = open(&mut b, NOW, at(1), &probe.bytes).1.remove(0).bytes;
        assert_eq!(open(&mut a, NOW, at(7), &answer).0, Opened::Replayed, "from elsewhere");
        let late = NOW + Duration::from_secs(30);
        assert_eq!(open(&mut a, late, at(2), &answer).0, Opened::Replayed, "too late");
        let mut other = node(1, 4);
        assert_eq!(open(&mut other, NOW, at(2), &answer).0, Opened::Replayed, "of another's probe");
        assert_eq!(open(&mut a, NOW, at(2), &answer).0, Opened::Here(at(2)));
    }

    #[test]
    fn answers_have_a_budget_and_memory_a_bound() {
        let (mut a, mut b) = (node(1, 1), node(1, 2));
        let mut answered = |now| {
            let probe = a.probe(now, at(1).ip(), at(2)).unwrap();
            open(&mut b, now, at(1), &probe.bytes).0 == Opened::Probed
        };
        assert_eq!((0..1_000).filter(|_| answered(NOW)).count(), 256);
        assert!(answered(NOW + Duration::from_secs(1)));
        for second in 2..40 {
            (0..256).for_each(|_| assert!(answered(NOW + Duration::from_secs(second))));
        }
        assert_eq!((b.probes.seen.len(), b.probes.order.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn by_multicast_the_address_to_greet_is_told() {
        let six = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (mut a, mut b) = (node(1, 1), node(1, 2));
        b.set_address(six("[fd00::2]:7846"));
        let group = six("[ff12::6d75:7374]:7846");
        let probe = a.probe(NOW, six("[fe80::1]:0").ip(), group).unwrap();
        let (_, out) = open(&mut b, NOW, six("[fe80::1%3]:7846"), &probe.bytes);
        let (opened, _) = open(&mut a, NOW, six("[fe80::2%3]:7846"), &out[0].bytes);
        assert_eq!(opened, Opened::Here(six("[fd00::2]:7846")));
    }
}
