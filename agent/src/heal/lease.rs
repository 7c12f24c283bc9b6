//! The Lease `kube-system/muster`: whose turn it is to heal.
//!
//! As in Kubernetes' own leader election: no clock is compared between machines. A holder that has not changed its Lease for a whole
//! duration, by the onlooker's own monotonic clock, has lost it; a holder stops acting well before that. Every write carries the
//! version it read, so that of two writers one is refused.

use std::time::Duration;

/// Name of the Lease in `kube-system`.
pub const NAME: &str = "muster";
/// Name of the Lease in `kube-system` of the one server that may restart its k3s.
pub const TURN: &str = "muster-restart";
/// How long a holder keeps it without renewing.
pub const DURATION: Duration = Duration::from_secs(15);
/// How often a holder renews.
pub const RENEW: Duration = Duration::from_secs(3);
/// How long after its last renewal a holder still acts: well before anybody else may take the Lease.
pub const ACTS: Duration = Duration::from_secs(9);

/// The Lease as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its holder: a node's identity.
    pub holder: String,
    /// When the holder says it renewed; only ever compared for equality.
    pub renewed: String,
    /// Times it changed hands.
    pub transitions: u64,
    /// Version that a write must name.
    pub version: String,
}

/// What the onlooker remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last state seen, and since when it is unchanged.
    last: Option<(Seen, Duration)>,
    /// When this node's own last renewal was sent.
    renewed: Option<Duration>,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// There is none: make it.
    Create,
    /// Its holder is silent: take it.
    Take(Seen),
    /// It is this node's: renew it.
    Renew(Seen),
    /// Nothing now.
    Wait,
}

impl Memory {
    /// Takes a look in.
    pub fn look(&mut self, now: Duration, me: &str, seen: Option<Seen>) -> Todo {
        let Some(seen) = seen else {
            self.last = None;
            return Todo::Create;
        };
        let since = match &self.last {
            Some((last, since)) if last.holder == seen.holder && last.renewed == seen.renewed => *since,
            _ => now,
        };
        self.last = Some((seen.clone(), since));
        if seen.holder == me {
            let due = self.renewed.is_none_or(|at| now.saturating_sub(at) >= RENEW);
            return if due { Todo::Renew(seen) } else { Todo::Wait };
        }
        self.renewed = None;
        if seen.holder.is_empty() || now.saturating_sub(since) >= DURATION {
            Todo::Take(seen)
        } else {
            Todo::Wait
        }
    }

    /// A write that was sent at this moment was taken.
    pub fn written(&mut self, sent: Duration) {
        self.renewed = Some(sent);
    }

    /// A write was refused, or its outcome is not known: this node holds nothing until a later one is taken.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Until when this node may act as the holder.
    #[must_use]
    pub fn until(&self) -> Option<Duration> {
        self.renewed.map(|at| at + ACTS)
    }

    /// The holder that was seen last.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.last.as_ref().map(|(seen, _)| seen.holder.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, renewed: u32) -> Option<Seen> {
        Some(Seen {
            holder: holder.into(),
            renewed: renewed.to_string(),
            transitions: 0,
            version: renewed.to_string(),
        })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_holder_loses_it_after_a_whole_duration_by_the_onlookers_clock() {
        let mut memory = Memory::default();
        assert_eq!(memory.look(at(100), "b", None), Todo::Create);
        assert_eq!(memory.look(at(100), "b", seen("a", 1)), Todo::Wait);
        assert_eq!(memory.look(at(110), "b", seen("a", 2)), Todo::Wait);
        assert_eq!(memory.look(at(124), "b", seen("a", 2)), Todo::Wait);
        assert!(matches!(memory.look(at(125), "b", seen("a", 2)), Todo::Take(_)));
        assert_eq!(memory.until(), None);
        // Given back by its holder: anybody's at once.
        assert!(matches!(memory.look(at(126), "b", seen("", 3)), Todo::Take(_)));
    }

    #[test]
    fn a_holder_acts_only_while_its_last_renewal_is_young() {
        let mut memory = Memory::default();
        assert!(matches!(memory.look(at(10), "a", seen("a", 1)), Todo::Renew(_)), "of an earlier run");
        assert_eq!(memory.until(), None);
        memory.written(at(10));
        assert_eq!(memory.until(), Some(at(19)));
        assert_eq!(memory.look(at(12), "a", seen("a", 2)), Todo::Wait);
        assert!(matches!(memory.look(at(13), "a", seen("a", 2)), Todo::Renew(_)));
        memory.lost();
        assert_eq!(memory.until(), None);
        memory.written(at(13));
        assert_eq!(memory.look(at(14), "a", seen("b", 3)), Todo::Wait, "taken by another");
        assert_eq!(memory.until(), None);
    }

    /// Nobody takes it while its holder may still act: the holder's last moment lies before any onlooker's first.
    #[test]
    fn the_holders_last_act_lies_before_the_next_holders_first() {
        assert!(ACTS + RENEW < DURATION);
    }
}
