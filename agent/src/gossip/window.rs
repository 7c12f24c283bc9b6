//! What has been received from one session: a sliding window over its counters.

/// A boot session of a sender: 128 random bits.
pub type SessionId = [u8; 16];

/// Counters below the highest one seen by this much or more are taken for replays.
pub const WINDOW: u64 = 1_024;
const WORDS: usize = (WINDOW / 64) as usize;

/// Counters seen in one session. Everything up to the counter it starts with counts as seen: what was sent before the session
/// was let in is either known already or no longer wanted.
#[derive(Debug, Clone)]
pub struct Window {
    top: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// A window whose newest seen counter is `top`.
    #[must_use]
    pub fn starting_at(top: u64) -> Self {
        Self { top, seen: [u64::MAX; WORDS] }
    }

    /// Whether a counter was neither seen nor left behind.
    #[must_use]
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter > self.top {
            return true;
        }
        if self.top - counter >= WINDOW {
            return false;
        }
        let (word, bit) = place(counter);
        self.seen[word] & bit == 0
    }

    /// Marks a counter as seen.
    pub fn mark(&mut self, counter: u64) {
        if counter > self.top {
            if counter - self.top >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.top + 1..=counter {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.top = counter;
        } else if self.top - counter >= WINDOW {
            return;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let index = counter % WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everything_up_to_the_start_counts_as_seen() {
        let mut window = Window::starting_at(5_000);
        assert!(!window.is_fresh(5_000) && !window.is_fresh(4_900) && !window.is_fresh(1));
        assert!(window.is_fresh(5_001));
        window.mark(5_010);
        assert!(window.is_fresh(5_001) && !window.is_fresh(5_010) && !window.is_fresh(4_999));
    }

    #[test]
    fn the_ends_of_the_counter_are_ordinary() {
        let mut window = Window::starting_at(0);
        window.mark(u64::MAX);
        assert!(!window.is_fresh(u64::MAX) && window.is_fresh(u64::MAX - 1) && !window.is_fresh(1));
    }

    proptest! {
        /// The window against a plain set of everything ever seen.
        #[test]
        fn no_counter_is_fresh_twice(start in 0_u64..3_000, steps in prop::collection::vec(0_u64..6_000, 1..300)) {
            let mut window = Window::starting_at(start);
            let mut seen = BTreeSet::new();
            let mut top = start;
            for counter in steps {
                let expected = counter > start && counter + WINDOW > top && !seen.contains(&counter);
                prop_assert_eq!(window.is_fresh(counter), expected, "counter {}, top {}", counter, top);
                if expected {
                    window.mark(counter);
                    seen.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
