//! Since when things are as they are: memory only, so that an agent that starts anew waits the whole grace again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{HealSeen, Verdict};
use crate::core::NodeId;

/// Follows the verdicts from look to look.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    since: BTreeMap<String, (Verdict, Duration)>,
    on_way: BTreeMap<String, Duration>,
    silent: BTreeMap<NodeId, Duration>,
    strangers: BTreeMap<String, Duration>,
    uneven: Option<(bool, Duration)>,
}

impl Watch {
    /// Takes a look in: the verdicts by name, who is on its way, who is silent, and how the number of voters compares with the
    /// wanted one (unknown keeps what was).
    pub fn look<'a>(
        &mut self,
        now: Duration,
        verdicts: impl IntoIterator<Item = (&'a str, Verdict)>,
        on_way: impl IntoIterator<Item = &'a str>,
        uneven: Option<std::cmp::Ordering>,
    ) {
        let mut since = BTreeMap::new();
        for (name, verdict) in verdicts {
            let at = match self.since.get(name) {
                Some((last, at)) if *last == verdict => *at,
                _ => now,
            };
            since.insert(name.to_owned(), (verdict, at));
        }
        self.since = since;
        let known = std::mem::take(&mut self.on_way);
        self.on_way = on_way
            .into_iter()
            .map(|name| (name.to_owned(), known.get(name).copied().unwrap_or(now)))
            .collect();
        self.uneven = match uneven {
            None => self.uneven,
            Some(std::cmp::Ordering::Equal) => None,
            Some(order) => {
                let more = order == std::cmp::Ordering::Greater;
                let at = self.uneven.filter(|(was, _)| *was == more).map_or(now, |(_, at)| at);
                Some((more, at))
            }
        };
    }

    /// Who is silent in gossip now.
    pub fn silent<'a>(&mut self, now: Duration, silent: impl IntoIterator<Item = &'a NodeId>) {
        let known = std::mem::take(&mut self.silent);
        self.silent =
            silent.into_iter().map(|id| (id.clone(), known.get(id).copied().unwrap_or(now))).collect();
    }

    /// Which live servers say that they vote and are not in this server's own list; an unread list keeps what was.
    pub fn strangers<'a>(&mut self, now: Duration, strangers: Option<impl IntoIterator<Item = &'a str>>) {
        let Some(strangers) = strangers else { return };
        let known = std::mem::take(&mut self.strangers);
        self.strangers = strangers
            .into_iter()
            .map(|name| (name.to_owned(), known.get(name).copied().unwrap_or(now)))
            .collect();
    }

    /// Writes what is remembered into a look.
    pub fn fill(&self, seen: &mut HealSeen) {
        seen.since.clone_from(&self.since);
        seen.on_way.clone_from(&self.on_way);
        seen.silent.clone_from(&self.silent);
        seen.strangers.clone_from(&self.strangers);
        seen.uneven_since = self.uneven.map(|(_, at)| at);
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    #[test]
    fn an_age_begins_anew_with_every_other_verdict() {
        let mut watch = Watch::default();
        let at = Duration::from_secs;
        let mut look = |now, verdict, uneven| {
            watch.look(at(now), [("a", verdict)], [], uneven);
            let mut seen = HealSeen::default();
            watch.fill(&mut seen);
            (seen.since["a"].1, seen.uneven_since)
        };
        assert_eq!(look(1, Verdict::Dead, Some(Ordering::Less)), (at(1), Some(at(1))));
        assert_eq!(look(5, Verdict::Dead, None), (at(1), Some(at(1))));
        assert_eq!(look(6, Verdict::Suspect, Some(Ordering::Less)), (at(6), Some(at(1))));
        assert_eq!(look(7, Verdict::Dead, Some(Ordering::Greater)), (at(7), Some(at(7))));
        assert_eq!(look(8, Verdict::Dead, Some(Ordering::Equal)), (at(7), None));
    }
}
