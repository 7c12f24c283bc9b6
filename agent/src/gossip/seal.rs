//! The sealed envelope of every gossip datagram. No socket, clock or dice: bytes, time since boot and random numbers are
//! arguments, datagrams to send are results.
//!
//! ```text
//! version 1 | key id 4 | session 16 | counter 8 | AES-256-GCM( kind 1 | cookie 0 or 16 | body ) | tag 16
//! ```
//!
//! The header is authenticated; each boot session of a sender has a key of its own, so its counter is a sound nonce. A
//! receiver knows a session together with its address and a window of counters. Whatever comes from an unknown session, or
//! from a known one at another address, is answered with a challenge smaller than three times the request, and nothing
//! of it is delivered; the sender says its last message for that address again, this time with the challenge's cookie. The
//! cookie is a MAC over session, address and a coarse tick, so the receiver remembers nothing meanwhile. A challenge counts only
//! where it names a datagram that was sent to the very address it comes from a moment ago: it then proves its own session
//! fresh, too, and first contact costs one extra round trip for both sides together. Fragments that were lost on the way are asked for
//! by the receiver: see `repair`. A member that was silent for long is asked whether it lives: see `ping`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ring::aead::{Aad, LessSafeKey};
use ring::hmac;
use zeroize::Zeroize;

use super::envelope::{
    COOKIE, HEADER, KIND_ANSWER, KIND_CHALLENGE, KIND_FRAGMENT, KIND_MISSING, KIND_PING, KIND_PONG,
    KIND_PROBE, KIND_WHOLE, Known, PIECE, Sealed, TAG, VERSION, WITH_COOKIE, nonce, read_header, read_plain,
    unseal,
};
pub use super::envelope::{MAX_DATAGRAM, OVERHEAD};
use super::keys::{GossipKeys, Ring};
use super::pending::Pending;
use super::reassembly::{MAX_FRAGMENTS, Place, Reassembly};
use super::window::{SessionId, Window};

/// Largest message sealed or put together, in bytes.
pub const MAX_MESSAGE: usize = 65_536;
/// Sessions remembered; the one unused for longest makes room.
const MAX_SESSIONS: usize = 1_024;
/// How long a cookie is good: between one and two of these.
const COOKIE_TICK: Duration = Duration::from_secs(10);
/// Challenges in a burst, and per second.
const CHALLENGES: f64 = 256.0;

/// A message that cannot be sealed. Nothing was sent and no counter was used up in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is larger than what any receiver puts together.
    #[error("a gossip message of {0} bytes is over the bound of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// The counter of this boot session is used up, or the cipher refused its input: neither happens in a lifetime.
    #[error("the gossip session cannot seal any more")]
    Exhausted,
}

/// Bytes for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Where to.
    pub to: SocketAddr,
    /// UDP payload, at most [`MAX_DATAGRAM`] bytes.
    pub bytes: Vec<u8>,
}

/// What became of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A whole message from a session that has answered its challenge.
    Message(Vec<u8>),
    /// A part of one; more is to come.
    Partial,
    /// It opened, and its session or address is new: a challenge goes out, nothing was delivered.
    Challenged,
    /// It was a challenge to something said a moment ago, which is said again.
    Answered,
    /// It asked for lost fragments of a message to this address, which are said again where the message is still there.
    Asked,
    /// It was a probe: it was answered, where this node has an address to tell.
    Probed,
    /// It answers a probe of a moment ago: this address is to be greeted.
    Here(SocketAddr),
    /// It asked whether this incarnation lives: that is said.
    Pinged,
    /// It answers such a question of a moment ago: this incarnation lives.
    Lives(ping::Mark),
    /// It does not open under any key: dropped, no reply.
    Unopened,
    /// It was seen before, or nothing may be concluded from it: dropped, no reply.
    Replayed,
    /// It is this node's own: dropped, no reply.
    Own,
}

struct Session {
    key: LessSafeKey,
    address: SocketAddr,
    window: Window,
    used: Duration,
}

/// Seals what a node sends and opens what it receives.
pub struct Sealer {
    cluster: String,
    ring: Ring,
    session: SessionId,
    own_key: Option<LessSafeKey>,
    counter: u64,
    mac: hmac::Key,
    sessions: HashMap<Known, Session>,
    pending: Pending,
    reassembly: Reassembly<Known>,
    said: repair::Said,
    next_message: u32,
    challenges_left: f64,
    challenges_at: Duration,
    probes: probe::Probes,
    mark: Option<ping::Mark>,
}

impl Sealer {
    /// A sealer for one run of a node. `session` and `secret` must be fresh random bytes: a session used twice
    /// would use nonces twice.
    #[must_use]
    pub fn new(keys: &GossipKeys, cluster: &str, session: SessionId, mut secret: [u8; 32]) -> Self {
        let ring = Ring::new(keys, cluster);
        let own_key = ring.sealing().session(cluster, &session);
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        secret.zeroize();
        Self {
            cluster: cluster.to_owned(),
            ring,
            session,
            own_key,
            counter: 0,
            mac,
            sessions: HashMap::new(),
            pending: Pending::default(),
            reassembly: Reassembly::new(MAX_MESSAGE),
            said: repair::Said::default(),
            next_message: 0,
            challenges_left: CHALLENGES,
            challenges_at: Duration::ZERO,
            probes: probe::Probes::default(),
            mark: None,
        }
    }

    /// Takes another key ring from here on. Sessions whose key left the ring are forgotten; a peer sees this node's first
    /// datagram under a new key as a new session and challenges it.
    pub fn rotate(&mut self, keys: &GossipKeys) {
        self.ring = Ring::new(keys, &self.cluster);
        self.own_key = self.ring.sealing().session(&self.cluster, &self.session);
        self.sessions.retain(|(key, _), _| self.ring.by_id(key).is_some());
    }

    /// Sessions known at present.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Seals a message for an address, in as many datagrams as it takes, and remembers it for a moment in case the
    /// receiver answers with a challenge.
    ///
    /// # Errors
    /// When the message is over the bound; nothing is sent then.
    pub fn seal(
        &mut self,
        now: Duration,
        to: SocketAddr,
        message: &[u8],
        out: &mut Vec<Datagram>,
    ) -> Result<(), SealError> {
        if message.len() > MAX_MESSAGE {
            return Err(SealError::TooLarge(message.len()));
        }
        let first = self.counter + 1;
        self.seal_pieces(now, to, None, message, out)?;
        self.pending.sent(now, to, first..=self.counter, message);
        Ok(())
    }

    /// Opens what came from an address. Datagrams to send at once are added to `out`: a challenge, or an answer to one.
    pub fn open(
        &mut self,
        now: Duration,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Vec<Datagram>,
    ) -> Opened {
        let Some((known, counter)) = read_header(datagram) else { return Opened::Unopened };
        if known.1 == self.session {
            return Opened::Own;
        }
        let mut sealed = datagram[HEADER..].to_vec();
        let plain = match self.sessions.get(&known) {
            Some(session) => unseal(&session.key, counter, &datagram[..HEADER], &mut sealed),
            None => self
                .ring
                .by_id(&known.0)
                .and_then(|key| key.session(&self.cluster, &known.1))
                .and_then(|key| unseal(&key, counter, &datagram[..HEADER], &mut sealed)),
        };
        let Some(sealed) = plain.and_then(|plain| read_plain(known, counter, plain)) else {
            return Opened::Unopened;
        };
        // A challenge is used up by the message it names, not by the window: two nodes that call each other at once would
        // otherwise shut out the challenge that was overtaken by an answer.
        match sealed.kind {
            KIND_CHALLENGE => return self.answer(now, from, &sealed, out),
            KIND_PROBE => return self.answer_probe(now, from, &sealed, out),
            KIND_ANSWER => return self.read_answer(now, from, &sealed),
            _ => {}
        }
        if self.sessions.get(&known).is_some_and(|session| !session.window.is_fresh(counter)) {
            return Opened::Replayed;
        }
        if sealed.cookie.is_some_and(|cookie| self.is_cookie(now, &sealed.known.1, from, cookie)) {
            self.admit(now, sealed.known, from, counter);
        } else if self.sessions.get(&known).is_none_or(|session| session.address != from) {
            // Only who has met this node has something to ask it, and a challenge would be of no use to it.
            if matches!(sealed.kind, KIND_MISSING | KIND_PING | KIND_PONG) {
                return Opened::Replayed;
            }
            return self.challenge(now, from, &sealed, out);
        } else if let Some(session) = self.sessions.get_mut(&known) {
            session.window.mark(counter);
            session.used = now;
        }
        match sealed.kind {
            KIND_MISSING => self.say_missing(now, from, sealed.body, out),
            KIND_PING => self.answer_ping(from, &sealed, out),
            KIND_PONG => self.read_pong(now, &sealed),
            _ => self.deliver(now, &sealed),
        }
    }

    fn deliver(&mut self, now: Duration, sealed: &Sealed<'_>) -> Opened {
        if sealed.kind == KIND_WHOLE {
            return Opened::Message(sealed.body.to_vec());
        }
        let Some((head, part)) = sealed.body.split_at_checked(6) else { return Opened::Unopened };
        let message = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let place = Place { message, index: head[4], count: head[5] };
        self.reassembly.add(now, sealed.known, place, part).map_or(Opened::Partial, Opened::Message)
    }

    /// Lets a session in, or takes its new address.
    fn admit(&mut self, now: Duration, known: Known, address: SocketAddr, counter: u64) {
        if let Some(session) = self.sessions.get_mut(&known) {
            session.address = address;
            session.used = now;
            session.window.mark(counter);
            return;
        }
        let key = self.ring.by_id(&known.0).and_then(|key| key.session(&self.cluster, &known.1));
        let Some(key) = key else { return };
        if self.sessions.len() >= MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.sessions.remove(&oldest);
                self.reassembly.forget(oldest);
            }
        }
        let window = Window::starting_at(counter);
        self.sessions.insert(known, Session { key, address, window, used: now });
    }

    fn challenge(
        &mut self,
        now: Duration,
        from: SocketAddr,
        sealed: &Sealed<'_>,
        out: &mut Vec<Datagram>,
    ) -> Opened {
        // One challenge for all the fragments of a message.
        if sealed.kind == KIND_FRAGMENT && sealed.body.get(4) != Some(&0) {
            return Opened::Replayed;
        }
        let waited = now.saturating_sub(self.challenges_at).as_secs_f64();
        self.challenges_at = now;
        self.challenges_left = (self.challenges_left + waited * CHALLENGES).min(CHALLENGES);
        if self.challenges_left < 1.0 {
            return Opened::Replayed;
        }
        self.challenges_left -= 1.0;
        let mut plain = vec![KIND_CHALLENGE | WITH_COOKIE];
        plain.extend_from_slice(&self.cookie(ticks(now), &sealed.known.1, from));
        plain.extend_from_slice(&sealed.known.1);
        plain.extend_from_slice(&sealed.counter.to_be_bytes());
        match self.seal_one(&mut plain) {
            Ok(bytes) => {
                out.push(Datagram { to: from, bytes });
                Opened::Challenged
            }
            Err(_) => Opened::Replayed,
        }
    }

    fn answer(
        &mut self,
        now: Duration,
        from: SocketAddr,
        sealed: &Sealed<'_>,
        out: &mut Vec<Datagram>,
    ) -> Opened {
        let Some((session, counter)) = sealed.body.split_first_chunk::<16>() else { return Opened::Unopened };
        let (Ok(counter), Some(cookie)) = (<[u8; 8]>::try_from(counter), sealed.cookie) else {
            return Opened::Unopened;
        };
        if *session != self.session {
            return Opened::Replayed;
        }
        let Some(message) = self.pending.take(now, from, u64::from_be_bytes(counter)) else {
            return Opened::Replayed;
        };
        self.admit(now, sealed.known, from, sealed.counter);
        let first = self.counter + 1;
        if self.seal_pieces(now, from, Some(cookie), &message, out).is_err() {
            return Opened::Replayed;
        }
        self.pending.said_again(now, from, first..=self.counter, message);
        Opened::Answered
    }

    fn seal_pieces(
        &mut self,
        now: Duration,
        to: SocketAddr,
        cookie: Option<&[u8]>,
        message: &[u8],
        out: &mut Vec<Datagram>,
    ) -> Result<(), SealError> {
        if message.len() <= PIECE + 6 {
            let mut plain = start(KIND_WHOLE, cookie);
            plain.extend_from_slice(message);
            let bytes = self.seal_one(&mut plain)?;
            out.push(Datagram { to, bytes });
            return Ok(());
        }
        self.next_message = self.next_message.wrapping_add(1);
        self.said.keep(now, to, self.next_message, message);
        self.seal_fragments(to, cookie, self.next_message, message, u64::MAX, out)
    }

    /// Seals those fragments of a message whose bits are set, the lowest for the first.
    fn seal_fragments(
        &mut self,
        to: SocketAddr,
        cookie: Option<&[u8]>,
        number: u32,
        message: &[u8],
        which: u64,
        out: &mut Vec<Datagram>,
    ) -> Result<(), SealError> {
        let count = message.len().div_ceil(PIECE);
        let count = u8::try_from(count).map_err(|_| SealError::TooLarge(message.len()))?;
        let fragments = (0_u8..count).zip(message.chunks(PIECE));
        for (index, part) in fragments.filter(|(index, _)| which & (1 << index) != 0) {
            let mut plain = start(KIND_FRAGMENT, cookie);
            plain.extend_from_slice(&number.to_be_bytes());
            plain.extend_from_slice(&[index, count]);
            plain.extend_from_slice(part);
            let bytes = self.seal_one(&mut plain)?;
            out.push(Datagram { to, bytes });
        }
        Ok(())
    }

    fn seal_one(&mut self, plain: &mut Vec<u8>) -> Result<Vec<u8>, SealError> {
        let counter = self.counter.checked_add(1).ok_or(SealError::Exhausted)?;
        let key = self.own_key.as_ref().ok_or(SealError::Exhausted)?;
        let mut bytes = Vec::with_capacity(HEADER + plain.len() + TAG);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.ring.sealing().id);
        bytes.extend_from_slice(&self.session);
        bytes.extend_from_slice(&counter.to_be_bytes());
        // The counter is spent before the cipher sees it: no error path may use a nonce twice.
        self.counter = counter;
        key.seal_in_place_append_tag(nonce(counter), Aad::from(&bytes[..HEADER]), plain)
            .map_err(|_| SealError::Exhausted)?;
        bytes.append(plain);
        Ok(bytes)
    }

    fn cookie(&self, tick: u64, session: &SessionId, from: SocketAddr) -> [u8; COOKIE] {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(&tick.to_be_bytes());
        context.update(session);
        match from.ip() {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&from.port().to_be_bytes());
        let mut cookie = [0; COOKIE];
        cookie.copy_from_slice(&context.sign().as_ref()[..COOKIE]);
        cookie
    }

    fn is_cookie(&self, now: Duration, session: &SessionId, from: SocketAddr, cookie: &[u8]) -> bool {
        let tick = ticks(now);
        [tick, tick.saturating_sub(1)].into_iter().any(|tick| {
            let wanted = self.cookie(tick, session, from);
            // Constant time: no byte of a cookie may be learnt by trying.
            wanted.iter().zip(cookie).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
        })
    }
}

/// The beginning of what is sealed.
fn start(kind: u8, cookie: Option<&[u8]>) -> Vec<u8> {
    let mut plain = Vec::with_capacity(MAX_DATAGRAM);
    plain.push(kind | if cookie.is_some() { WITH_COOKIE } else { 0 });
    plain.extend_from_slice(cookie.unwrap_or_default());
    plain
}

fn ticks(now: Duration) -> u64 {
    now.as_secs() / COOKIE_TICK.as_secs()
}

const _: () = assert!(MAX_MESSAGE.div_ceil(PIECE) <= MAX_FRAGMENTS as usize);

#[path = "ping.rs"]
pub(super) mod ping;
#[path = "probe.rs"]
mod probe;
#[path = "repair.rs"]
mod repair;

#[cfg(any(test, fuzzing))]
#[path = "seal_fuzz.rs"]
pub(super) mod fuzz;
#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
