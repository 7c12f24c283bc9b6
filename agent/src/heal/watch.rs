//! Since when things are as they are: memory only, so that an agent that starts anew waits the whole grace again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{HealSeen, Judged, Own, Verdict, judge, on_their_way, strangers};
use crate::core::recovery::number;
use crate::core::{Known, NodeId};
use crate::decide::Observed;

/// Follows the verdicts from look to look.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    since: BTreeMap<String, (Verdict, Duration)>,
    on_way: BTreeMap<String, Duration>,
    silent: BTreeMap<NodeId, Duration>,
    strangers: BTreeMap<String, Duration>,
    uneven: Option<(bool, Duration)>,
    unheard: Option<Duration>,
}

impl Watch {
    /// Takes a whole look in, with what healing saw of it, and writes the ages into that. Gives the verdicts; none where the members or
    /// the Nodes are unread: unknown is no other verdict, and keeps the ages.
    pub fn take(&mut self, seen: &Observed, heal: &mut HealSeen, target: usize) -> Option<Vec<Judged>> {
        let (now, peers, members) = (seen.now, &seen.peers.peers, seen.k3s.members.yes());
        let silent = peers.values().filter(|peer| !peer.live).map(|peer| &peer.claim.owner);
        self.silent(now, silent);
        let unheard = heal.leave.is_some() && matches!(seen.k3s.ready, Known::Unknown(_));
        self.unheard = unheard.then(|| self.unheard.unwrap_or(now));
        let mut verdicts = None;
        if let Some(certificate) = &seen.record.certificate {
            let recovery = number(seen.record.recovery.as_ref());
            let strangers = members.map(|list| strangers(list, peers, &certificate.cluster_id, recovery));
            self.strangers(now, strangers);
            if let (Some(members), Known::Yes(nodes)) = (members, &heal.nodes) {
                let own = Own { id: &seen.node.id, name: &seen.node.name };
                let judged = judge(own, members, peers, heal);
                let ordered = nodes.iter().filter(|node| node.order.is_some());
                let coming =
                    on_their_way(peers, &certificate.cluster_id, &certificate.first_servers, members);
                let on_way: BTreeSet<&str> = ordered
                    .map(|node| node.name.as_str())
                    .chain(coming.map(|claim| claim.name.as_str()))
                    .collect();
                let voters = members.iter().filter(|member| !member.learner).count();
                let named = judged.iter().map(|one| (one.name.as_str(), one.verdict));
                self.look(now, named, on_way, Some(voters.cmp(&target)));
                verdicts = Some(judged);
            }
        }
        self.fill(heal);
        verdicts
    }

    /// Takes the verdicts by name, who is on its way, and how the number of voters compares with the wanted one (unknown keeps what
    /// was).
    fn look<'a>(
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
    fn silent<'a>(&mut self, now: Duration, silent: impl IntoIterator<Item = &'a NodeId>) {
        let known = std::mem::take(&mut self.silent);
        self.silent =
            silent.into_iter().map(|id| (id.clone(), known.get(id).copied().unwrap_or(now))).collect();
    }

    /// Which live servers say that they vote and are not in this server's own list; an unread list keeps what was.
    fn strangers<'a>(&mut self, now: Duration, strangers: Option<impl IntoIterator<Item = &'a str>>) {
        let Some(strangers) = strangers else { return };
        let known = std::mem::take(&mut self.strangers);
        self.strangers = strangers
            .into_iter()
            .map(|name| (name.to_owned(), known.get(name).copied().unwrap_or(now)))
            .collect();
    }

    /// Writes what is remembered into a look.
    fn fill(&self, seen: &mut HealSeen) {
        seen.since.clone_from(&self.since);
        seen.on_way.clone_from(&self.on_way);
        seen.silent.clone_from(&self.silent);
        seen.strangers.clone_from(&self.strangers);
        seen.uneven_since = self.uneven.map(|(_, at)| at);
        seen.unheard_since = self.unheard;
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
