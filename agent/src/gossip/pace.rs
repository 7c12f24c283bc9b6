//! When to gossip beside the interval, with whom, and who counts as live. Time and chance are arguments.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chitchat::ChitchatId;
use tokio::time::Instant;

/// Peers told in one round.
pub(super) const FANOUT: usize = 5;
/// Rounds in a burst: a whole founding goes through without waiting for an interval.
const BURST: f64 = 40.0;
/// Rounds earned per interval after a burst.
const EARNED: f64 = 4.0;
/// Shortest time between two rounds: news that arrives together is told together.
const APART: Duration = Duration::from_millis(10);
/// Advances of a heartbeat before its node counts as live: the first may be an old copy of a dead node's.
const ADVANCES: u8 = 2;
/// Times that a member just heard of is greeted to see its heartbeat advance.
const GREETINGS: u8 = 3;
/// Intervals without an advance after which a node is asked directly, as SWIM does with a suspect: in a group of forty news of a
/// heartbeat takes two rounds, and at 10% loss one of them is often lost.
const SUSPECT: f64 = 1.5;
/// How often a suspect is asked per interval. Eight times before it counts as dead: at 10% loss all eight fail twice in a million.
const ASKED: u32 = 5;
/// Suspects asked at a time: a question and its answer are a small datagram each.
pub(super) const QUESTIONS: usize = 16;
/// Light questions to a suspect before it is greeted instead: a greeting works also where the sessions have not met, and with an
/// agent that knows no light question.
const LIGHT: u8 = 4;
/// Intervals without an advance after which a node no longer counts as live. A fixed time and not chitchat's estimate: a burst of
/// rounds teaches that to expect heartbeats every few milliseconds, and it would take the calm afterwards for death.
const HOLD: u32 = 3;

/// Decides when an extra round is due. News makes one due; a bucket of tokens bounds them.
pub(super) struct Rounds {
    interval: Duration,
    tokens: f64,
    counted: Instant,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(now: Instant, interval: Duration) -> Self {
        Self { interval, tokens: BURST, counted: now, last: None, due: None }
    }

    /// Asks for a round after a delay, or earlier where one is due already.
    pub(super) fn want(&mut self, now: Instant, delay: Duration) {
        let at = self.last.map_or(now + delay, |last| (now + delay).max(last + APART));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to look again; none while nothing is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a round goes out now. Without a token the news waits for chitchat's own round, at most one interval away.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        let intervals = now.duration_since(self.counted).as_secs_f64() / self.interval.as_secs_f64();
        self.counted = now;
        self.tokens = (self.tokens + intervals * EARNED).min(BURST);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        self.last = Some(now);
        true
    }
}

struct Beat {
    heartbeat: u64,
    advances: u8,
    greetings: u8,
    /// Questions since it was last heard of.
    asked: u8,
    at: Instant,
}

impl Beat {
    fn is_live(&self, now: Instant, hold: Duration) -> bool {
        self.advances >= ADVANCES && now.duration_since(self.at) <= hold
    }
}

/// Heartbeats as this node sees them advance.
pub(super) struct Pulse {
    suspect: Duration,
    asked: Duration,
    hold: Duration,
    beats: HashMap<ChitchatId, Beat>,
}

impl Pulse {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            suspect: interval.mul_f64(SUSPECT),
            asked: interval / ASKED,
            hold: interval * HOLD,
            beats: HashMap::new(),
        }
    }

    /// Takes a heartbeat in.
    pub(super) fn beat(&mut self, now: Instant, id: &ChitchatId, heartbeat: u64) {
        match self.beats.get_mut(id) {
            Some(beat) if heartbeat > beat.heartbeat => {
                beat.heartbeat = heartbeat;
                beat.advances = beat.advances.saturating_add(1);
                beat.at = now;
                beat.asked = 0;
            }
            Some(_) => {}
            None => {
                self.beats
                    .insert(id.clone(), Beat { heartbeat, advances: 0, greetings: 0, asked: 0, at: now });
            }
        }
    }

    /// Whether a heartbeat has advanced lately.
    pub(super) fn is_beating(&self, now: Instant, id: &ChitchatId) -> bool {
        self.beats.get(id).is_some_and(|beat| self.is_live(now, beat))
    }

    fn is_live(&self, now: Instant, beat: &Beat) -> bool {
        beat.is_live(now, self.hold)
    }

    /// Live members that will soon not be, unless they answer when asked.
    pub(super) fn suspects(&self, now: Instant) -> Vec<ChitchatId> {
        let live = self.beats.iter().filter(|(_, beat)| self.is_live(now, beat));
        live.filter(|(_, beat)| now.duration_since(beat.at) >= self.suspect)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Counts a question; whether it is to be a light one.
    pub(super) fn questioned(&mut self, id: &ChitchatId) -> bool {
        self.beats.get_mut(id).is_some_and(|beat| {
            beat.asked = beat.asked.saturating_add(1);
            beat.asked <= LIGHT
        })
    }

    /// Takes in that those live who are named so. It keeps who is live alive; who is not must show its heartbeat.
    pub(super) fn answered(&mut self, now: Instant, named: impl Fn(&ChitchatId) -> bool) {
        let hold = self.hold;
        for (_, beat) in self.beats.iter_mut().filter(|(id, beat)| beat.is_live(now, hold) && named(id)) {
            beat.at = now;
            beat.asked = 0;
        }
    }

    /// When to look again although nothing has come: a member becomes a suspect, is to be asked once more, or stops being live.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let live = self.beats.values().filter(|beat| self.is_live(now, beat));
        live.map(|beat| match now.duration_since(beat.at) {
            age if age < self.suspect => beat.at + self.suspect,
            _ => (now + self.asked).min(beat.at + self.hold + APART),
        })
        .min()
    }

    /// Members whose heartbeat has not advanced enough to call them live, and who were not greeted often enough yet to
    /// leave them to chitchat's own rounds.
    pub(super) fn strangers(&self) -> Vec<ChitchatId> {
        let strangers = self.beats.iter().filter(|(_, beat)| is_stranger(beat));
        strangers.map(|(id, _)| id.clone()).collect()
    }

    /// Whether there are any.
    pub(super) fn has_strangers(&self) -> bool {
        self.beats.values().any(is_stranger)
    }

    /// Counts a greeting.
    pub(super) fn greeted(&mut self, id: &ChitchatId) {
        if let Some(beat) = self.beats.get_mut(id) {
            beat.greetings = beat.greetings.saturating_add(1);
        }
    }

    /// Forgets members that chitchat has forgotten.
    pub(super) fn retain(&mut self, known: &HashSet<ChitchatId>) {
        self.beats.retain(|id, _| known.contains(id));
    }
}

fn is_stranger(beat: &Beat) -> bool {
    beat.advances < ADVANCES && beat.greetings < GREETINGS
}

/// SplitMix64: enough to choose peers, which nobody gains by guessing.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Some of the items, each as likely as any other.
    pub(super) fn choose<T>(&mut self, mut items: Vec<T>, wanted: usize) -> Vec<T> {
        for at in 0..wanted.min(items.len()) {
            let left = (items.len() - at) as u64;
            let other = at + usize::try_from(self.roll() % left).unwrap_or_default();
            items.swap(at, other);
        }
        items.truncate(wanted);
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn id(node: &str) -> ChitchatId {
        ChitchatId::new(node, 1, ([10, 0, 0, 1], 7846).into())
    }

    #[test]
    fn news_goes_out_at_once_and_news_that_comes_together_goes_together() {
        let start = Instant::now();
        let mut rounds = Rounds::new(start, SECOND);
        assert!(!rounds.take(start), "nothing to tell");
        rounds.want(start, Duration::ZERO);
        assert!(rounds.take(start));
        rounds.want(start, MS);
        rounds.want(start + 2 * MS, MS);
        assert_eq!(rounds.due(), Some(start + APART));
        assert!(!rounds.take(start + 9 * MS));
        assert!(rounds.take(start + 10 * MS) && !rounds.take(start + 11 * MS));
    }

    #[test]
    fn rounds_are_bounded_however_much_news_there_is() {
        let start = Instant::now();
        let mut rounds = Rounds::new(start, SECOND);
        let mut taken = 0;
        for n in 0..10_000 {
            let now = start + n * MS;
            rounds.want(now, Duration::ZERO);
            taken += usize::from(rounds.take(now));
        }
        assert!((70..=81).contains(&taken), "{taken} rounds in 10 s: a burst of 40, then 4 a second");
    }

    #[test]
    fn a_node_is_live_after_two_advances_and_for_three_intervals_after_the_last() {
        let start = Instant::now();
        let mut pulse = Pulse::new(SECOND);
        for (heartbeat, live) in [(7, false), (7, false), (9, false), (9, false), (10, true)] {
            pulse.beat(start, &id("a"), heartbeat);
            assert_eq!(pulse.is_beating(start, &id("a")), live, "{heartbeat}");
        }
        pulse.beat(start + SECOND, &id("a"), 4);
        assert!(pulse.is_beating(start + 3 * SECOND, &id("a")));
        assert!(!pulse.is_beating(start + 3 * SECOND + MS, &id("a")), "a lower heartbeat is no advance");
        pulse.retain(&HashSet::new());
        pulse.beat(start, &id("a"), 11);
        assert!(!pulse.is_beating(start, &id("a")));
    }

    #[test]
    fn a_silent_member_is_asked_eight_times_before_it_is_dead() {
        let start = Instant::now();
        let mut pulse = Pulse::new(SECOND);
        for heartbeat in 1..=3 {
            pulse.beat(start, &id("silent"), heartbeat);
        }
        pulse.beat(start, &id("heard of"), 9);
        let (mut now, mut asked) = (start, 0);
        while let Some(due) = pulse.due(now) {
            assert!(due > now, "time goes on");
            now = due;
            asked += pulse.suspects(now).len();
        }
        assert_eq!(asked, 8, "from 1.5 s on, five times a second");
        assert_eq!(now, start + 3 * SECOND + APART);
        assert!(!pulse.is_beating(now, &id("silent")));
        pulse.beat(now, &id("silent"), 4);
        assert!(pulse.suspects(now).is_empty() && pulse.is_beating(now, &id("silent")));
    }

    #[test]
    fn a_suspect_is_asked_lightly_and_then_greeted() {
        let (start, silent) = (Instant::now(), id("silent"));
        let mut pulse = Pulse::new(SECOND);
        assert!(!pulse.questioned(&silent), "who is not known is not asked");
        (1..=3).for_each(|heartbeat| pulse.beat(start, &silent, heartbeat));
        let light = |pulse: &mut Pulse| (0..6).filter(|_| pulse.questioned(&silent)).count();
        assert_eq!(light(&mut pulse), 4);
        assert_eq!(light(&mut pulse), 0);
        pulse.beat(start, &silent, 4);
        assert_eq!(light(&mut pulse), 4, "what was heard of it begins the count anew");
        pulse.answered(start, |_| true);
        assert_eq!(light(&mut pulse), 4, "and so does an answer");
    }

    #[test]
    fn an_answer_keeps_the_live_alive_and_revives_nobody() {
        let start = Instant::now();
        let mut pulse = Pulse::new(SECOND);
        (1..=3).for_each(|heartbeat| pulse.beat(start, &id("live"), heartbeat));
        (1..=3).for_each(|heartbeat| pulse.beat(start, &id("other"), heartbeat));
        pulse.beat(start, &id("heard of"), 9);
        pulse.answered(start + 2 * SECOND, |id| &*id.node_id != "other");
        let later = start + 4 * SECOND;
        assert!(pulse.is_beating(later, &id("live")) && pulse.suspects(later).len() == 1);
        assert!(!pulse.is_beating(later, &id("other")), "nobody named it");
        assert!(!pulse.is_beating(later, &id("heard of")), "its heartbeat was never seen to advance");
        pulse.answered(later, |_| true);
        assert!(!pulse.is_beating(later, &id("other")), "the dead must show their heartbeat");
    }

    #[test]
    fn a_stranger_is_greeted_three_times_or_until_it_is_live() {
        let now = Instant::now();
        let mut pulse = Pulse::new(SECOND);
        pulse.beat(now, &id("dead"), 7);
        pulse.beat(now, &id("new"), 1);
        for round in 0..3 {
            assert_eq!(pulse.strangers().len(), if round < 2 { 2 } else { 1 });
            for stranger in pulse.strangers() {
                pulse.greeted(&stranger);
            }
            pulse.beat(now, &id("new"), 2 + round);
        }
        assert!(!pulse.has_strangers());
    }

    #[test]
    fn every_peer_is_chosen_now_and_then_and_none_twice() {
        let mut dice = Dice(1);
        let mut times = [0; 7];
        for _ in 0..700 {
            let chosen = dice.choose((0..7).collect(), 3);
            assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 3);
            chosen.into_iter().for_each(|n: usize| times[n] += 1);
        }
        assert!(times.iter().all(|n| (200..400).contains(n)), "{times:?}");
        assert_eq!(dice.choose(vec![1, 2], 5).len(), 2);
    }
}
