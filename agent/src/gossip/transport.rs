//! chitchat's transport over a [`Wire`], every message sealed. What does not open, does not decode or is not wanted is noise:
//! counted, never an error, because an error from `recv` would end the gossip for good.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::network::Wire;
use super::seal::ping::Mark;
use super::seal::{Datagram, MAX_DATAGRAM, Opened, Sealer};
use super::view::{GossipCounters, MOST_MEMBERS};

/// Replies waiting to be sent; more are dropped, as a network would.
const MAX_OUTBOX: usize = 512;
/// Receive errors in a row after which the socket is taken for broken.
const MAX_ERRORS: u32 = 64;
/// Compressed blocks in one message. Each may unpack to 64 KiB; chitchat fills a block with 16 KiB, and its largest message holds some
/// 25 of them. Without a bound one message unpacks to gigabytes.
const MAX_BLOCKS: usize = 64;

/// Counters shared by the transport and its readers.
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_datagrams: AtomicU64,
    received_datagrams: AtomicU64,
    dropped_unopened: AtomicU64,
    dropped_replayed: AtomicU64,
    dropped_undecoded: AtomicU64,
    dropped_crowded: AtomicU64,
    challenged: AtomicU64,
    said_again: AtomicU64,
    send_failed: AtomicU64,
    probed: AtomicU64,
    pub(super) ignored_claims: AtomicU64,
    pub(super) restarts: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn snapshot(&self) -> GossipCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GossipCounters {
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            sent_datagrams: read(&self.sent_datagrams),
            received_datagrams: read(&self.received_datagrams),
            dropped_unopened: read(&self.dropped_unopened),
            dropped_replayed: read(&self.dropped_replayed),
            challenged: read(&self.challenged),
            said_again: read(&self.said_again),
            ignored_claims: read(&self.ignored_claims),
            restarts: read(&self.restarts),
            dropped_undecoded: read(&self.dropped_undecoded),
            dropped_crowded: read(&self.dropped_crowded),
            send_failed: read(&self.send_failed),
            probed: read(&self.probed),
        }
    }
}

/// How many of chitchat's own rounds go out. It greets three live members per interval whatever their number; in a small
/// group that is everybody, and the same news travels several times. Rounds that Muster asked for, and greetings of members
/// that are not live, always go out.
#[derive(Debug)]
struct Thinning {
    interval: Duration,
    live: HashSet<SocketAddr>,
    asked: HashMap<SocketAddr, u32>,
    since: Option<Instant>,
    greeted: usize,
}

impl Thinning {
    fn allows(&mut self, now: Instant, to: SocketAddr) -> bool {
        if let Some(times) = self.asked.get_mut(&to) {
            *times -= 1;
            if *times == 0 {
                self.asked.remove(&to);
            }
            return true;
        }
        if !self.live.contains(&to) {
            return true;
        }
        if self.since.is_none_or(|since| now.duration_since(since) * 2 >= self.interval) {
            self.since = Some(now);
            self.greeted = 0;
        }
        self.greeted += 1;
        self.greeted <= greetings(self.live.len())
    }
}

/// Live members greeted per interval in a group of so many live peers: enough for the failure detector to hear of each
/// member several times within its patience.
fn greetings(live: usize) -> usize {
    if live < 12 { 2 } else { 3 }
}

/// What the transport, the gossip task and the handle share; it outlives restarts of chitchat.
pub(super) struct Link {
    pub(super) counters: Counters,
    /// Rings after each message that chitchat has processed.
    pub(super) processed: Notify,
    sealer: Mutex<Sealer>,
    /// The wire of the present run, for probes. Not held: its address must be free for the next run.
    wire: Mutex<Option<Weak<dyn Wire>>>,
    here: broadcast::Sender<SocketAddr>,
    /// Incarnations that said they live since the last look.
    living: Mutex<HashSet<Mark>>,
    thinning: Mutex<Thinning>,
    started: Instant,
}

impl Link {
    pub(super) fn new(sealer: Sealer, interval: Duration) -> Self {
        let thinning =
            Thinning { interval, live: HashSet::new(), asked: HashMap::new(), since: None, greeted: 0 };
        Self {
            counters: Counters::default(),
            processed: Notify::new(),
            sealer: Mutex::new(sealer),
            wire: Mutex::new(None),
            here: broadcast::Sender::new(MAX_OUTBOX),
            living: Mutex::default(),
            thinning: Mutex::new(thinning),
            started: Instant::now(),
        }
    }

    pub(super) fn sealer(&self) -> MutexGuard<'_, Sealer> {
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thinning(&self) -> MutexGuard<'_, Thinning> {
        self.thinning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next greeting to this address goes out whatever the pace.
    pub(super) fn ask(&self, address: SocketAddr) {
        *self.thinning().asked.entry(address).or_default() += 1;
    }

    /// Tells which addresses are those of live members.
    pub(super) fn set_live(&self, live: HashSet<SocketAddr>) {
        self.thinning().live = live;
    }

    /// Sends a probe; `source` is the address that it leaves from.
    pub(super) async fn probe(&self, source: IpAddr, to: SocketAddr) -> io::Result<()> {
        let probe = self.sealer().probe(self.now(), source, to).map_err(io::Error::other)?;
        self.send(probe).await
    }

    /// Asks whether an incarnation lives.
    pub(super) async fn ping(&self, to: SocketAddr, mark: Mark) -> io::Result<()> {
        let ping = self.sealer().ping(self.now(), to, mark).map_err(io::Error::other)?;
        self.send(ping).await
    }

    async fn send(&self, datagram: Datagram) -> io::Result<()> {
        let wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade);
        let wire = wire.ok_or_else(|| io::Error::other("gossip is starting"))?;
        wire.send_to(&datagram.bytes, datagram.to).await?;
        add(&self.counters.sent_datagrams, 1);
        add(&self.counters.sent_bytes, datagram.bytes.len());
        Ok(())
    }

    fn lives(&self, mark: Mark) {
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        // Between two looks there are as many as were asked; a member that says more is not listened to.
        if living.len() < MAX_OUTBOX {
            living.insert(mark);
        }
        drop(living);
        self.processed.notify_one();
    }

    /// The incarnations that said they live since this was last called.
    pub(super) fn take_living(&self) -> HashSet<Mark> {
        std::mem::take(&mut *self.living.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The addresses that answer probes from here on.
    pub(super) fn here(&self) -> broadcast::Receiver<SocketAddr> {
        self.here.subscribe()
    }

    /// Forgets what was asked of a chitchat that is gone.
    pub(super) fn forget_asked(&self) {
        self.thinning().asked.clear();
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Gives chitchat a socket on a wire that is bound already.
pub(super) struct SealedTransport {
    pub(super) link: Arc<Link>,
    pub(super) wire: Arc<dyn Wire>,
}

#[async_trait]
impl Transport for SealedTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        *self.link.wire.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(&self.wire));
        Ok(Box::new(SealedSocket {
            link: Arc::clone(&self.link),
            wire: Arc::clone(&self.wire),
            outbox: VecDeque::new(),
            buffer: vec![0; MAX_DATAGRAM + 1].into_boxed_slice(),
            handed: false,
        }))
    }
}

struct SealedSocket {
    link: Arc<Link>,
    wire: Arc<dyn Wire>,
    /// Challenges and answers to them. They are kept here, not in the future of `recv`, which may be dropped at any time.
    outbox: VecDeque<Datagram>,
    buffer: Box<[u8]>,
    handed: bool,
}

impl SealedSocket {
    async fn put(&self, datagram: &Datagram) {
        let counters = &self.link.counters;
        // A peer that is down, a route that is missing, a full queue: the next round says it again.
        match self.wire.send_to(&datagram.bytes, datagram.to).await {
            Ok(()) => {
                add(&counters.sent_datagrams, 1);
                add(&counters.sent_bytes, datagram.bytes.len());
            }
            Err(_) => add(&counters.send_failed, 1),
        }
    }

    async fn flush(&mut self) {
        while let Some(datagram) = self.outbox.front() {
            self.put(datagram).await;
            self.outbox.pop_front();
        }
    }

    fn take(&mut self, length: usize, from: SocketAddr) -> Option<ChitchatMessage> {
        let counters = &self.link.counters;
        add(&counters.received_datagrams, 1);
        add(&counters.received_bytes, length);
        let mut replies = Vec::new();
        let now = self.link.now();
        let opened = self.link.sealer().open(now, from, &self.buffer[..length], &mut replies);
        let room = MAX_OUTBOX.saturating_sub(self.outbox.len());
        self.outbox.extend(replies.into_iter().take(room));
        match opened {
            Opened::Message(bytes) => {
                let message = decode(&bytes);
                if message.is_none() {
                    let crowded = is_crowded(&bytes);
                    add(if crowded { &counters.dropped_crowded } else { &counters.dropped_undecoded }, 1);
                }
                return message;
            }
            Opened::Challenged => add(&counters.challenged, 1),
            Opened::Unopened => add(&counters.dropped_unopened, 1),
            Opened::Replayed => add(&counters.dropped_replayed, 1),
            Opened::Probed => add(&counters.probed, 1),
            // Nobody listens while no sweep runs.
            Opened::Here(address) => drop(self.link.here.send(address)),
            Opened::Asked => add(&counters.said_again, 1),
            Opened::Lives(mark) => self.link.lives(mark),
            Opened::Partial | Opened::Answered | Opened::Pinged | Opened::Own => {}
        }
        None
    }

    /// Asks for what is missing of messages that came in part.
    fn ask(&mut self) {
        let mut questions = Vec::new();
        self.link.sealer().ask(self.link.now(), &mut questions);
        let room = MAX_OUTBOX.saturating_sub(self.outbox.len());
        self.outbox.extend(questions.into_iter().take(room));
    }
}

#[async_trait]
impl Socket for SealedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        if matches!(message, ChitchatMessage::Syn { .. }) && !self.link.thinning().allows(Instant::now(), to)
        {
            return Ok(());
        }
        let bytes = message.serialize_to_vec();
        let mut datagrams = Vec::new();
        let sealed = self.link.sealer().seal(self.link.now(), to, &bytes, &mut datagrams);
        if let Err(error) = sealed {
            add(&self.link.counters.send_failed, 1);
            tracing::debug!(%error, "gossip message not sent");
            return Ok(());
        }
        for datagram in &datagrams {
            self.put(datagram).await;
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        if std::mem::take(&mut self.handed) {
            self.link.processed.notify_one();
        }
        let mut errors = 0;
        loop {
            self.flush().await;
            let due = self.link.sealer().due().map(|due| self.link.started + due);
            let received = tokio::select! {
                received = self.wire.recv_from(&mut self.buffer) => received,
                () = sleep_until(due) => {
                    self.ask();
                    continue;
                }
            };
            match received {
                Ok((length, from)) => {
                    errors = 0;
                    if let Some(message) = self.take(length, from) {
                        self.handed = true;
                        return Ok((from, message));
                    }
                }
                Err(error) if errors < MAX_ERRORS && !is_fatal(&error) => {
                    errors += 1;
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Waits until then; without a moment for ever.
pub(super) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Errors after which the socket gives nothing any more. Everything else is weather: ICMP messages, memory, firewalls.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT))
        || error.kind() == io::ErrorKind::BrokenPipe
}

/// Reads a message; none for what chitchat does not understand, or would be harmed by.
pub(super) fn decode(bytes: &[u8]) -> Option<ChitchatMessage> {
    if is_crowded(bytes) || compressed_blocks(bytes)? > MAX_BLOCKS {
        return None;
    }
    // Only members get this far, but a decoder that panics would end the gossip all the same.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut rest = bytes;
        ChitchatMessage::deserialize(&mut rest).ok().filter(|_| rest.is_empty())
    }));
    read.ok().flatten()
}

/// Whether a message speaks of more members than a digest may have.
fn is_crowded(bytes: &[u8]) -> bool {
    // Magic number, protocol version, type; SYN and SYN-ACK go on with the number of members in the digest.
    matches!(bytes, [_, _, _, 0 | 1, low, high, ..] if u16::from_le_bytes([*low, *high]) > MOST_MEMBERS)
}

/// Counts the compressed blocks of a message without unpacking one; none when it ends before its blocks do.
fn compressed_blocks(bytes: &[u8]) -> Option<usize> {
    let (kind, mut rest) = bytes.get(3..)?.split_first()?;
    match kind {
        1 => rest = after_digest(rest)?,
        2 => {}
        _ => return Some(0),
    }
    let mut blocks = 0;
    loop {
        let (tag, after) = rest.split_first()?;
        if *tag == 0 {
            return Some(blocks);
        }
        blocks += usize::from(*tag == 1);
        rest = after_counted(after)?;
    }
}

/// What follows a digest: for each member its name, generation, address, port and three counters.
fn after_digest(bytes: &[u8]) -> Option<&[u8]> {
    let (members, mut rest) = bytes.split_first_chunk::<2>()?;
    for _ in 0..u16::from_le_bytes(*members) {
        rest = after_counted(rest)?.get(8..)?;
        let (family, after) = rest.split_first()?;
        let address = match family {
            4 => 4,
            6 => 16,
            _ => return None,
        };
        rest = after.get(address + 2 + 3 * 8..)?;
    }
    Some(rest)
}

/// What follows a length of two bytes and as many bytes as it says.
fn after_counted(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(usize::from(u16::from_le_bytes(*length))..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_group_is_greeted_twice_per_interval_and_whoever_was_asked_for_always() {
        let mut thinning = Thinning {
            interval: Duration::from_secs(1),
            live: (1..=4).map(address).collect(),
            asked: HashMap::new(),
            since: None,
            greeted: 0,
        };
        for _ in 0..3 {
            let now = Instant::now();
            let greeted = [1, 2, 3].map(|port| thinning.allows(now, address(port)));
            assert_eq!(greeted, [true, true, false]);
            assert!(thinning.allows(now, address(99)), "not live");
            thinning.asked.insert(address(3), 1);
            assert!(thinning.allows(now, address(3)), "asked for");
            assert!(!thinning.allows(now, address(3)), "once");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn only_whole_messages_of_a_sane_size_are_read() {
        let good = ChitchatMessage::BadCluster.serialize_to_vec();
        assert_eq!(decode(&good), Some(ChitchatMessage::BadCluster));
        assert_eq!(decode(&[&good[..], b"x"].concat()), None);
        let mut digest = good;
        digest[3] = 0;
        digest.extend_from_slice(&600_u16.to_le_bytes());
        assert!(!is_crowded(&digest));
        digest[4..6].copy_from_slice(&601_u16.to_le_bytes());
        assert!(is_crowded(&digest));
        assert_eq!(decode(&digest), None);
    }

    #[test]
    fn a_message_that_would_unpack_to_gigabytes_is_not_unpacked() {
        // A zstd frame of ten bytes for 65,535 times the byte 2, nine of which are an operation of a delta: 3 GB in one message.
        let block = [1, 10, 0, 0x28, 0xb5, 0x2f, 0xfd, 0, 0x30, 0xfb, 0xff, 7, 2];
        let message = |kind: &[u8], blocks: usize| {
            let mut bytes = [&45_139_u16.to_le_bytes()[..], &[0], kind].concat();
            bytes.extend(block.repeat(blocks));
            bytes.push(0);
            bytes
        };
        for kind in [&[2][..], &[1, 0, 0]] {
            assert_eq!(compressed_blocks(&message(kind, 5_000)), Some(5_000));
            assert_eq!(compressed_blocks(&message(kind, MAX_BLOCKS)), Some(MAX_BLOCKS));
            assert_eq!(decode(&message(kind, 5_000)), None);
        }
        assert_eq!(compressed_blocks(&message(&[2], 1)[..10]), None, "cut short");
    }

    proptest! {
        #[test]
        fn no_opened_bytes_end_the_gossip(kind in 0_u8..5, rest in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = 45_139_u16.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[0, kind]);
            bytes.extend_from_slice(&rest);
            let _ = decode(&bytes);
        }
    }
}
