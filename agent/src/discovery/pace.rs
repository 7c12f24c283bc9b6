//! When to look, when to greet, and when it is enough. Time and chance are arguments.

use std::time::Duration;

/// How often a source may be asked, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Longest time for one look.
    pub deadline: Duration,
    /// Pause after the first look while too few peers are known; doubled each time.
    pub first: Duration,
    /// The longest of those pauses.
    pub longest: Duration,
    /// Pause once enough peers are live.
    pub settled: Duration,
}

impl Pace {
    /// A pace in milliseconds (the deadline and the first pause) and seconds (the longest and the settled one).
    #[must_use]
    pub const fn of(deadline_ms: u64, first_ms: u64, longest: u64, settled: u64) -> Self {
        Self {
            deadline: Duration::from_millis(deadline_ms),
            first: Duration::from_millis(first_ms),
            longest: Duration::from_secs(longest),
            settled: Duration::from_secs(settled),
        }
    }
}

/// Longest pause that a source's own wish can bring about.
const MOST: Duration = Duration::from_secs(600);

/// The pause after a look: doubled with each look since the group was last whole, or the settled one; never shorter than what the
/// source wished, within ten minutes; then up to a fifth longer or shorter by chance, so that machines that start together do not
/// ask together.
#[must_use]
pub fn pause(pace: &Pace, times: u32, settled: bool, wish: Option<Duration>, dice: u64) -> Duration {
    let doubled = pace.first.saturating_mul(1 << times.min(16)).min(pace.longest);
    let base = if settled { pace.settled } else { doubled };
    let jittered = base.saturating_mul(80 + u32::try_from(dice % 41).unwrap_or(20)) / 100;
    jittered.max(wish.unwrap_or_default().min(MOST))
}

/// The pace of greetings while too few peers are known, by how often that was done: half a second, doubled up to ten.
#[must_use]
pub fn greeting(times: u32) -> Duration {
    Duration::from_millis(500_u64.saturating_mul(1 << times.min(5))).min(Duration::from_secs(10))
}

/// The pace of greetings once enough peers are live.
pub const GREETING_SETTLED: Duration = Duration::from_secs(60);

/// Who is there, of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Peers live now, without this node.
    pub live: usize,
    /// Peers that were live within the last hour and are not now.
    pub lost: usize,
    /// Votes that a founding needs.
    pub founders: usize,
    /// Wanted servers.
    pub servers: usize,
}

/// Whether peers are looked for: this node is alone, or those it sees are too few to found, or no majority of the wanted servers or
/// of whoever was there within the hour. So two halves that lost each other do meet soon. Two that never met, each large enough for
/// itself, miss nobody: they meet by the slow check.
#[must_use]
pub fn is_seeking(census: Census) -> bool {
    let here = census.live + 1;
    let majority = |of: usize| of / 2 + 1;
    let lone = census.servers == 1 && census.founders == 1;
    let wanted = census.founders.max(majority(census.servers)).max(majority(here + census.lost));
    here < if lone { wanted } else { wanted.max(2) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace::of(1_000, 500, 10, 60);

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_is_long_once_settled() {
        let even = 20;
        let pauses: Vec<u128> =
            (0..7).map(|times| pause(&PACE, times, false, None, even).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10000, 10000]);
        assert_eq!(pause(&PACE, 3, true, None, even), Duration::from_secs(60));
        let greetings: Vec<u128> = (0..7).map(|times| greeting(times).as_millis()).collect();
        assert_eq!(greetings, [500, 1000, 2000, 4000, 8000, 10000, 10000]);
    }

    #[test]
    fn a_minority_seeks_and_a_majority_does_not() {
        let seeking = |live, lost, founders, servers| is_seeking(Census { live, lost, founders, servers });
        assert!(seeking(0, 0, 3, 3), "alone");
        assert!(seeking(1, 0, 3, 3), "too few to found");
        assert!(!seeking(2, 0, 3, 3));
        assert!(!seeking(2, 2, 3, 3), "three of five");
        assert!(seeking(2, 3, 3, 3), "three of six");
        assert!(seeking(1, 0, 1, 5), "two of five servers");
        assert!(!seeking(0, 0, 1, 1), "one machine for itself");
        assert!(seeking(0, 0, 1, 3));
    }

    /// Who was never seen is not missed: two halves that are each whole do not seek. The slow check is what they meet by, so it
    /// comes however often it found nobody, and nothing but a source's own wish puts it off.
    #[test]
    fn two_whole_halves_that_never_met_do_not_seek_and_have_the_slow_check() {
        for (here, founders, servers) in [(3, 3, 3), (2, 2, 3), (2, 1, 2), (3, 3, 5), (5, 3, 3)] {
            let half = Census { live: here - 1, lost: 0, founders, servers };
            assert!(!is_seeking(half), "{half:?}");
        }
        for times in [0, 1, 1_000, u32::MAX] {
            assert!(pause(&PACE, times, true, None, 40) <= PACE.settled * 12 / 10);
        }
    }

    proptest! {
        #[test]
        fn a_pause_stays_near_its_base_and_honours_a_wish(
            times in 0_u32..40, settled: bool, wish in proptest::option::of(0_u64..10_000), dice: u64,
        ) {
            let wish = wish.map(Duration::from_secs);
            let paused = pause(&PACE, times, settled, wish, dice);
            let even = pause(&PACE, times, settled, None, 20);
            prop_assert!(paused >= even * 8 / 10 && paused <= (even * 12 / 10).max(MOST));
            prop_assert!(paused >= wish.unwrap_or_default().min(MOST));
        }

        /// Two halves that lost each other: when both thought that they are whole, only the slow check would bring them together.
        #[test]
        fn of_two_halves_at_least_one_seeks(one in 1_usize..50, two in 1_usize..50, founders in 1_usize..5) {
            let half = |here: usize, lost: usize| {
                is_seeking(Census { live: here - 1, lost, founders, servers: 3 })
            };
            prop_assert!(half(one, two) || half(two, one));
        }
    }
}
