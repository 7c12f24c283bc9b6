//! The last message for each address, kept for a moment: its receiver may answer with a challenge.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Times that one message is said again.
const REPEATS: u8 = 3;
/// Addresses remembered.
const MAX_ADDRESSES: usize = 1_024;
/// Bytes of messages remembered.
const MAX_BYTES: usize = 2 * 1024 * 1024;

struct Last {
    counters: RangeInclusive<u64>,
    message: Vec<u8>,
    at: Duration,
    repeats: u8,
}

#[derive(Default)]
pub(super) struct Pending {
    by_address: HashMap<SocketAddr, Last>,
    bytes: usize,
}

impl Pending {
    /// Remembers what was just sent. A challenge to anything sent to the address since the first unanswered message counts:
    /// it asks for the latest one.
    pub(super) fn sent(
        &mut self,
        now: Duration,
        to: SocketAddr,
        counters: RangeInclusive<u64>,
        message: &[u8],
    ) {
        let earlier = self.remove(&to).filter(|last| is_waiting(last, now));
        let first = earlier.map_or(*counters.start(), |last| *last.counters.start());
        let last = Last { counters: first..=*counters.end(), message: message.to_vec(), at: now, repeats: 0 };
        self.insert(now, to, last);
    }

    /// The message to say again because a challenge names a counter; none when nothing like it was sent there lately.
    pub(super) fn take(&mut self, now: Duration, from: SocketAddr, counter: u64) -> Option<Repeat> {
        let last = self.by_address.get(&from)?;
        if !is_waiting(last, now) || !last.counters.contains(&counter) || last.repeats >= REPEATS {
            return None;
        }
        self.remove(&from).map(|last| Repeat { message: last.message, repeats: last.repeats + 1 })
    }

    /// Remembers it again, under its new counters: older challenges no longer count.
    pub(super) fn said_again(
        &mut self,
        now: Duration,
        to: SocketAddr,
        counters: RangeInclusive<u64>,
        repeat: Repeat,
    ) {
        let Repeat { message, repeats } = repeat;
        self.insert(now, to, Last { counters, message, at: now, repeats });
    }

    fn insert(&mut self, now: Duration, to: SocketAddr, last: Last) {
        self.bytes += last.message.len();
        self.by_address.insert(to, last);
        if self.by_address.len() > MAX_ADDRESSES || self.bytes > MAX_BYTES {
            let waiting = |last: &Last| is_waiting(last, now);
            self.by_address.retain(|_, last| waiting(last));
            self.bytes = self.by_address.values().map(|last| last.message.len()).sum();
        }
        while self.by_address.len() > MAX_ADDRESSES || self.bytes > MAX_BYTES {
            let oldest = self.by_address.iter().min_by_key(|(_, last)| last.at).map(|(to, _)| *to);
            let Some(oldest) = oldest else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, address: &SocketAddr) -> Option<Last> {
        let last = self.by_address.remove(address)?;
        self.bytes -= last.message.len();
        Some(last)
    }
}

/// A message on its way out again.
pub(super) struct Repeat {
    message: Vec<u8>,
    repeats: u8,
}

impl std::ops::Deref for Repeat {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.message
    }
}

fn is_waiting(last: &Last, now: Duration) -> bool {
    now.saturating_sub(last.at) <= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(50);

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn only_what_was_sent_there_a_moment_ago_is_said_again() {
        let mut pending = Pending::default();
        pending.sent(NOW, address(1), 5..=7, b"hello");
        assert!(pending.take(NOW, address(2), 6).is_none(), "another address");
        assert!(pending.take(NOW, address(1), 8).is_none(), "a counter never sent there");
        assert!(pending.take(NOW + Duration::from_secs(4), address(1), 6).is_none(), "long ago");
        assert_eq!(&*pending.take(NOW, address(1), 6).unwrap(), b"hello");
    }

    #[test]
    fn a_challenge_to_the_message_before_asks_for_the_latest() {
        let mut pending = Pending::default();
        pending.sent(NOW, address(1), 1..=1, b"one");
        pending.sent(NOW, address(1), 4..=4, b"two");
        assert_eq!(&*pending.take(NOW, address(1), 1).unwrap(), b"two");
    }

    #[test]
    fn a_message_is_said_again_three_times_and_no_more() {
        let mut pending = Pending::default();
        pending.sent(NOW, address(1), 1..=1, b"one");
        for counter in 2..5 {
            let repeat = pending.take(NOW, address(1), counter - 1).unwrap();
            pending.said_again(NOW, address(1), counter..=counter, repeat);
        }
        assert!(pending.take(NOW, address(1), 4).is_none());
    }

    #[test]
    fn memory_is_bounded_in_addresses_and_bytes() {
        let mut pending = Pending::default();
        for n in 0..3_000_u16 {
            pending.sent(NOW + Duration::from_millis(n.into()), address(n), 1..=1, &[0; 10]);
        }
        assert_eq!((pending.by_address.len(), pending.bytes), (MAX_ADDRESSES, MAX_ADDRESSES * 10));
        for n in 0..100_u16 {
            pending.sent(NOW + Duration::from_secs(5), address(n), 1..=1, &[0; 65_000]);
        }
        assert!(pending.bytes <= MAX_BYTES, "{}", pending.bytes);
    }
}
