//! Putting sealed fragments together, within bounds in time, number and bytes. What is missing is asked for again a few times: a
//! message is whole only with all of its fragments, and of sixty every one comes through a network that loses a tenth once in 550 times.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long the rest of a message is waited for. Its sender says it again one gossip interval later.
const PATIENCE: Duration = Duration::from_secs(2);
/// Unfinished messages per session.
const PER_SESSION: usize = 4;
/// Bytes held for all unfinished messages together.
pub(super) const TOTAL_BYTES: usize = 4 * 1024 * 1024;
/// Fragments of one message: one bit each in `Partial::got`.
pub(super) const MAX_FRAGMENTS: u8 = 64;
/// How long nothing of a message has come when the rest is asked for: its fragments are sent together. Doubled by every question that
/// brings nothing, since the way there and back may be longer.
const ASK_AFTER: Duration = Duration::from_millis(30);
/// Times that the rest of one message is asked for.
pub(super) const QUESTIONS: u8 = 10;
/// Messages remembered as whole. Where the way is long, a question is asked twice and answered twice: what comes after the message was
/// whole must not begin it anew, which would ask for all of it.
const REMEMBERED: usize = 256;

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The sender's number for the message.
    pub(super) message: u32,
    /// Which fragment this is, from 0.
    pub(super) index: u8,
    /// How many there are.
    pub(super) count: u8,
}

struct Partial {
    count: u8,
    got: u64,
    bytes: usize,
    since: Duration,
    parts: Vec<Vec<u8>>,
    asked: u8,
    wait: Duration,
    ask_at: Duration,
}

/// What of a message has not come: a bit for each fragment, the lowest for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// The sender's number for the message.
    pub(super) message: u32,
    /// Its fragments that are missing.
    pub(super) fragments: u64,
}

/// Unfinished messages of all sessions, by a session's key and the message's number.
pub(super) struct Reassembly<K> {
    partials: HashMap<(K, u32), Partial>,
    whole: VecDeque<(K, u32)>,
    bytes: usize,
    largest: usize,
}

impl<K: Copy + Eq + std::hash::Hash> Reassembly<K> {
    /// No message above `largest` bytes is put together.
    pub(super) fn new(largest: usize) -> Self {
        Self { partials: HashMap::new(), whole: VecDeque::new(), bytes: 0, largest }
    }

    /// Takes one fragment; gives the message when it was the last one missing. Fragments that contradict each other drop
    /// their message; the oldest unfinished messages are dropped where a bound is reached.
    pub(super) fn add(&mut self, now: Duration, from: K, place: Place, part: &[u8]) -> Option<Vec<u8>> {
        let Place { message, index, count } = place;
        if !(2..=MAX_FRAGMENTS).contains(&count) || index >= count || part.is_empty() {
            return None;
        }
        self.expire(now);
        let key = (from, message);
        if self.whole.contains(&key) {
            return None;
        }
        if self.partials.get(&key).is_some_and(|partial| partial.count != count) {
            self.drop_one(&key);
        }
        if !self.partials.contains_key(&key) {
            self.make_room(from);
            let parts = vec![Vec::new(); usize::from(count)];
            let partial = Partial {
                count,
                got: 0,
                bytes: 0,
                since: now,
                parts,
                asked: 0,
                wait: ASK_AFTER,
                ask_at: now + ASK_AFTER,
            };
            self.partials.insert(key, partial);
        }
        while self.bytes + part.len() > TOTAL_BYTES {
            let oldest = self.oldest(|other| *other != key)?;
            self.drop_one(&oldest);
        }
        let partial = self.partials.get_mut(&key)?;
        if partial.got & (1 << index) != 0 {
            return None;
        }
        if partial.bytes + part.len() > self.largest {
            self.drop_one(&key);
            return None;
        }
        partial.got |= 1 << index;
        partial.bytes += part.len();
        partial.wait = ASK_AFTER;
        partial.ask_at = now + ASK_AFTER;
        partial.parts[usize::from(index)] = part.to_vec();
        self.bytes += part.len();
        if partial.got.count_ones() < u32::from(count) {
            return None;
        }
        let whole = self.partials.remove(&key)?;
        self.bytes -= whole.bytes;
        self.whole.push_back(key);
        if self.whole.len() > REMEMBERED {
            self.whole.pop_front();
        }
        Some(whole.parts.concat())
    }

    /// When the rest of some message is to be asked for; none while nothing is missing that was not asked for often enough.
    pub(super) fn due(&self) -> Option<Duration> {
        self.partials.values().filter(|partial| partial.asked < QUESTIONS).map(|partial| partial.ask_at).min()
    }

    /// What is to be asked for now, and of whom. Each counts as asked for.
    pub(super) fn missing(&mut self, now: Duration) -> Vec<(K, Missing)> {
        self.expire(now);
        let mut missing = Vec::new();
        for ((from, message), partial) in &mut self.partials {
            if partial.asked >= QUESTIONS || partial.ask_at > now {
                continue;
            }
            partial.asked += 1;
            partial.wait *= 2;
            partial.ask_at = now + partial.wait;
            let all = u64::MAX >> (MAX_FRAGMENTS - partial.count);
            missing.push((*from, Missing { message: *message, fragments: all & !partial.got }));
        }
        missing
    }

    /// Forgets what a session left unfinished.
    pub(super) fn forget(&mut self, from: K) {
        let keys: Vec<_> = self.partials.keys().filter(|(owner, _)| *owner == from).copied().collect();
        for key in keys {
            self.drop_one(&key);
        }
    }

    fn expire(&mut self, now: Duration) {
        let late: Vec<_> = self
            .partials
            .iter()
            .filter(|(_, partial)| now.saturating_sub(partial.since) > PATIENCE)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.drop_one(&key);
        }
    }

    fn make_room(&mut self, from: K) {
        while self.partials.keys().filter(|(owner, _)| *owner == from).count() >= PER_SESSION {
            let Some(oldest) = self.oldest(|(owner, _)| *owner == from) else { return };
            self.drop_one(&oldest);
        }
    }

    fn oldest(&self, which: impl Fn(&(K, u32)) -> bool) -> Option<(K, u32)> {
        let candidates = self.partials.iter().filter(|(key, _)| which(key));
        candidates.min_by_key(|(key, partial)| (partial.since, key.1)).map(|(key, _)| *key)
    }

    fn drop_one(&mut self, key: &(K, u32)) {
        if let Some(partial) = self.partials.remove(key) {
            self.bytes -= partial.bytes;
        }
    }
}

#[cfg(any(test, fuzzing))]
#[path = "reassembly_fuzz.rs"]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn place(message: u32, index: u8, count: u8) -> Place {
        Place { message, index, count }
    }

    #[test]
    fn fragments_in_any_order_make_the_message() {
        let mut reassembly = Reassembly::new(100);
        assert_eq!(reassembly.add(NOW, 1, place(9, 2, 3), b"c"), None);
        assert_eq!(reassembly.add(NOW, 1, place(9, 0, 3), b"a"), None);
        assert_eq!(
            reassembly.add(NOW, 2, place(9, 1, 3), b"x"),
            None,
            "another session's fragment fills no gap"
        );
        assert_eq!(reassembly.add(NOW, 1, place(9, 0, 3), b"z"), None, "a second copy changes nothing");
        assert_eq!(reassembly.add(NOW, 1, place(9, 1, 3), b"b"), Some(b"abc".to_vec()));
        assert_eq!(reassembly.bytes, 1);
    }

    #[test]
    fn the_rest_is_not_waited_for_long() {
        let mut reassembly = Reassembly::new(100);
        reassembly.add(NOW, 1, place(9, 0, 2), b"a");
        let late = NOW + PATIENCE + Duration::from_millis(1);
        assert_eq!(reassembly.add(late, 1, place(9, 1, 2), b"b"), None);
        assert_eq!(reassembly.bytes, 1, "the first fragment is gone");
    }

    #[test]
    fn what_is_missing_is_asked_for_when_nothing_more_comes_and_ten_times_at_most() {
        let ms = Duration::from_millis;
        let mut reassembly = Reassembly::new(100);
        assert_eq!(reassembly.due(), None);
        reassembly.add(NOW, 1, place(9, 1, 64), b"b");
        reassembly.add(NOW + ms(20), 1, place(9, 3, 64), b"d");
        reassembly.add(NOW + ms(25), 1, place(9, 3, 64), b"d");
        assert_eq!(reassembly.due(), Some(NOW + ms(50)), "30 ms after the last that was new");
        assert_eq!(reassembly.missing(NOW + ms(49)), []);
        let missing = Missing { message: 9, fragments: !0b1010 };
        assert_eq!(reassembly.missing(NOW + ms(50)), [(1, missing)]);
        assert_eq!(reassembly.due(), Some(NOW + ms(110)), "twice as long after a question");
        reassembly.add(NOW + ms(60), 1, place(9, 0, 64), b"a");
        assert_eq!(reassembly.due(), Some(NOW + ms(90)), "an answer has come");
        let mut asked = 1;
        while let Some(due) = reassembly.due() {
            assert_eq!(reassembly.missing(due).len(), 1);
            asked += 1;
            reassembly.add(due + ms(1), 1, place(9, 4 + asked, 64), b"x");
        }
        assert_eq!(asked, QUESTIONS);
    }

    #[test]
    fn what_has_come_whole_or_is_given_up_is_not_asked_for() {
        let mut reassembly = Reassembly::new(100);
        reassembly.add(NOW, 1, place(1, 0, 2), b"a");
        reassembly.add(NOW, 1, place(1, 1, 2), b"b");
        assert_eq!(reassembly.due(), None, "whole");
        assert_eq!(reassembly.add(NOW, 1, place(1, 1, 2), b"b"), None);
        assert_eq!(reassembly.due(), None, "a second answer begins nothing");
        for message in 100..100 + 2 * REMEMBERED as u32 {
            reassembly.add(NOW, 1, place(message, 0, 2), b"a");
            reassembly.add(NOW, 1, place(message, 1, 2), b"b");
        }
        assert_eq!((reassembly.whole.len(), reassembly.bytes), (REMEMBERED, 0));
        reassembly.add(NOW, 1, place(2, 0, 2), b"a");
        let late = NOW + PATIENCE + Duration::from_millis(1);
        assert_eq!(
            (reassembly.missing(late), reassembly.due(), reassembly.bytes),
            (Vec::new(), None, 0),
            "too late"
        );
        reassembly.add(late, 1, place(3, 0, 2), b"a");
        reassembly.forget(1);
        assert_eq!(reassembly.due(), None, "the session is gone");
    }

    #[test]
    fn a_fifth_unfinished_message_of_a_session_drops_its_oldest() {
        let mut reassembly = Reassembly::new(100);
        for message in 0..5_u32 {
            reassembly.add(NOW + Duration::from_millis(message.into()), 1, place(message, 0, 2), b"a");
        }
        assert_eq!(reassembly.partials.len(), 4);
        assert!(!reassembly.partials.contains_key(&(1, 0)));
    }

    #[test]
    fn a_message_over_the_bound_is_never_made() {
        let mut reassembly = Reassembly::new(5);
        reassembly.add(NOW, 1, place(1, 0, 2), b"aaa");
        assert_eq!(reassembly.add(NOW, 1, place(1, 1, 2), b"bbb"), None);
        assert_eq!((reassembly.bytes, reassembly.partials.len()), (0, 0));
    }

    #[test]
    fn all_sessions_together_stay_under_the_total() {
        let mut reassembly = Reassembly::new(65_536);
        let part = vec![0_u8; 1_000];
        for session in 0..2_000_u32 {
            for message in 0..4 {
                reassembly.add(NOW, session, place(message, 0, 60), &part);
            }
        }
        assert!(reassembly.bytes <= TOTAL_BYTES, "{}", reassembly.bytes);
        let held: usize = reassembly.partials.values().map(|partial| partial.bytes).sum();
        assert_eq!(held, reassembly.bytes);
    }

    proptest! {
        #[test]
        fn bounds_hold_for_any_fragments(
            steps in prop::collection::vec((0_u64..9_000, 0_u8..3, 0_u32..6, any::<u8>(), any::<u8>(), 0_usize..40), 0..200),
        ) {
            let mut reassembly = Reassembly::new(64);
            let mut now = NOW;
            for (wait, session, message, index, count, length) in steps {
                now += Duration::from_millis(wait / 10);
                let whole = reassembly.add(now, session, place(message, index % 8, count % 8), &vec![1; length]);
                prop_assert!(whole.is_none_or(|bytes| bytes.len() <= 64));
                let held: usize = reassembly.partials.values().map(|partial| partial.bytes).sum();
                prop_assert_eq!(held, reassembly.bytes);
                for owner in 0..3 {
                    prop_assert!(reassembly.partials.keys().filter(|key| key.0 == owner).count() <= PER_SESSION);
                }
            }
        }
    }
}
