//! What the agent remembers of its own watching: since when the view is as it is. Advice for when to try, nothing more.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::{Known, NodeId};
use crate::decide::{GAVE_UP, K3sSeen, UnitSeen, Watch, says_removed};
use crate::founding::Ballot;
use crate::gossip::{PeerView, Role};
use crate::ledger::{Data, Record};

/// Follows the view from tick to tick.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    watch: Watch,
    live: BTreeSet<NodeId>,
    nominee: Option<Ballot>,
    own: Option<Ballot>,
    last: Duration,
}

impl Watcher {
    /// Begins to watch.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        let watch = Watch { settled_since: now, nominee_since: now, started: now, ..Watch::default() };
        Self { watch, last: now, ..Self::default() }
    }

    /// Takes a look in; `dice` spreads the pause after an overtaken ballot.
    pub fn look(
        &mut self,
        now: Duration,
        view: &PeerView,
        record: &Record,
        k3s: &K3sSeen,
        wal: &Known<()>,
        dice: u64,
    ) -> Watch {
        let since = |before: Option<Duration>, holds: bool| holds.then_some(before.unwrap_or(now));
        self.watch.out_since = since(self.watch.out_since, says_removed(&k3s.trouble));
        let running = matches!(k3s.server_unit, Known::Yes(UnitSeen::Active | UnitSeen::Starting));
        // From etcd's first start on: before it, k3s may wait for long to be added, and a list of that time proves nothing.
        let voteless = running && wal.yes().is_some() && k3s.voter != Known::Yes(true);
        self.watch.voteless_since = since(self.watch.voteless_since, voteless);
        self.tries(now, view, record, k3s);
        let live =
            || view.peers.iter().filter(|(_, peer)| peer.live && peer.claim.eligible).map(|(owner, _)| owner);
        if !live().eq(&self.live) {
            self.live = live().cloned().collect();
            self.watch.settled_since = now;
        }
        let proposals =
            view.peers.values().filter(|peer| peer.live).filter_map(|peer| peer.claim.proposal.as_ref());
        let nominee = proposals.map(|proposal| &proposal.ballot).max();
        if nominee != self.nominee.as_ref() {
            self.nominee = nominee.cloned();
            self.watch.nominee_since = now;
        }
        // An own proposal that vanished without a certificate was overtaken: pause for 0.5 to 2.5 s, at random.
        let own = record.proposal.as_ref().map(|proposal| &proposal.ballot);
        if self.own.is_some() && own.is_none() && record.certificate.is_none() {
            self.watch.retry_at = now + Duration::from_millis(500 + dice % 2_000);
        }
        if own != self.own.as_ref() {
            self.own = own.cloned();
        }
        self.watch
    }

    /// How long it has tried to become a server: over data that were moved aside meanwhile, too, as those of a learner that was removed.
    fn tries(&mut self, now: Duration, view: &PeerView, record: &Record, k3s: &K3sSeen) {
        let passed = now.saturating_sub(std::mem::replace(&mut self.last, now));
        let votes = k3s.voter == Known::Yes(true);
        match &record.data {
            Data::Joining { role: Role::Server, .. } if !votes => {
                let serves = view.peers.values().filter(|peer| peer.live).any(|peer| {
                    let claim = &peer.claim;
                    claim.role == Role::Server && claim.voter == Some(true) && claim.api == Some(true)
                });
                let runs = matches!(
                    k3s.server_unit,
                    Known::Yes(UnitSeen::Active | UnitSeen::Starting | UnitSeen::Failed)
                );
                if serves && runs {
                    self.watch.trying_for += passed;
                }
            }
            Data::Discarding { reason } => {
                if reason.starts_with(GAVE_UP) {
                    self.watch.gave_up = Some(now);
                }
            }
            Data::None => {}
            _ => self.watch.trying_for = Duration::ZERO,
        }
        if record.certificate.is_none() {
            (self.watch.trying_for, self.watch.gave_up) = (Duration::ZERO, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_vote_counts_from_etcds_first_start_on() {
        let (view, record) = (PeerView::default(), Record::new("lab"));
        let mut seen = crate::decide::tests::quiet();
        (seen.server_unit, seen.voter) = (Known::Yes(UnitSeen::Starting), Known::Yes(false));
        let mut watcher = Watcher::new(Duration::ZERO);
        let mut at = |seconds, seen: &K3sSeen, wal: &Known<()>| {
            watcher.look(Duration::from_secs(seconds), &view, &record, seen, wal, 0).voteless_since
        };
        assert_eq!(at(1, &seen, &Known::Absent), None, "it waits to be added");
        assert_eq!(at(40, &seen, &Known::unknown("etcd's log", "unread")), None);
        assert_eq!(at(41, &seen, &Known::Yes(())), Some(Duration::from_secs(41)));
        assert_eq!(at(50, &seen, &Known::Yes(())), Some(Duration::from_secs(41)));
        seen.voter = Known::Yes(true);
        assert_eq!(at(51, &seen, &Known::Yes(())), None);
    }

    #[test]
    fn the_time_of_trying_counts_while_it_runs_beside_a_server_that_serves() {
        use crate::founding::testing::{certificate, id};
        use crate::gossip::testing::claim;
        let (born, mut record) = (certificate(2), Record::new("lab"));
        let joining = Data::Joining { role: Role::Server, cluster: born.cluster_id.clone() };
        let member = Data::Member { role: Role::Server, cluster: born.cluster_id.clone() };
        let gave_up = Data::Discarding { reason: format!("{GAVE_UP} in 330 s") };
        record.certificate = Some(born);
        let alone = PeerView::default();
        let mut beside = PeerView::default();
        let mut serves = claim(&id(2), 1, 1);
        (serves.role, serves.voter, serves.api) = (Role::Server, Some(true), Some(true));
        let gossip_address = ([10, 0, 0, 2], 7846).into();
        beside.peers.insert(
            id(2),
            crate::gossip::Peer { claim: serves.into(), parameters: None, live: true, gossip_address },
        );
        let mut seen = crate::decide::tests::quiet();
        let mut watcher = Watcher::new(Duration::ZERO);
        let (up, off) = (UnitSeen::Starting, UnitSeen::Inactive);
        // Every ten seconds: what the ledger says, the unit, who is there; then: seconds of trying.
        for (step, (data, unit, view, tried)) in [
            (&joining, up, &beside, 10),
            (&joining, off, &beside, 10),
            (&joining, up, &alone, 10),
            (&joining, UnitSeen::Failed, &beside, 20),
            // A learner that was removed has its data moved aside, and tries again.
            (&Data::Discarding { reason: "removed".into() }, off, &beside, 20),
            (&Data::None, off, &beside, 20),
            (&joining, up, &beside, 30),
            (&member, up, &beside, 0),
            (&joining, up, &beside, 10),
            (&gave_up, off, &beside, 10),
            (&Data::None, off, &beside, 10),
        ]
        .into_iter()
        .enumerate()
        {
            record.data = data.clone();
            seen.server_unit = Known::Yes(unit);
            let now = Duration::from_secs(10 * (step as u64 + 1));
            let watch = watcher.look(now, view, &record, &seen, &Known::Absent, 0);
            assert_eq!(watch.trying_for.as_secs(), tried, "step {step}");
            let at = if step < 9 { None } else { Some(Duration::from_secs(100)) };
            assert_eq!(watch.gave_up, at, "step {step}");
        }
        // Another era knows nothing of it.
        record.certificate = None;
        let watch = watcher.look(Duration::from_secs(120), &beside, &record, &seen, &Known::Absent, 0);
        assert_eq!((watch.trying_for, watch.gave_up), (Duration::ZERO, None));
    }

    #[test]
    fn what_is_watched_begins_anew_with_every_change_of_the_view() {
        use crate::founding::Proposal;
        use crate::founding::testing::{ballot, id};
        use crate::gossip::{Peer, testing};
        // Who there is: whether it is live, whether it may vote, and the counter of its ballot.
        type Node = (u8, bool, bool, Option<u64>);
        let view = |nodes: &[Node]| {
            let mut view = PeerView::default();
            for (n, live, eligible, counter) in nodes {
                let mut claim = testing::claim(&id(*n), 1, 1);
                claim.eligible = *eligible;
                claim.proposal = counter.map(|c| Proposal { ballot: ballot(c, *n), certificate: None });
                let gossip_address = ([10, 0, 0, *n], 7846).into();
                view.peers.insert(
                    id(*n),
                    Peer { claim: claim.into(), parameters: None, live: *live, gossip_address },
                );
            }
            view
        };
        let two = (2, true, true, None);
        // At each second what is seen; then since when the voters are the same, and since when the highest ballot is.
        let steps: &[(&[Node], u64, u64)] = &[
            (&[], 0, 0),
            (&[two], 2, 0),
            (&[two], 2, 0),
            (&[two, (3, true, true, None)], 4, 0),
            (&[two, (3, true, true, Some(1))], 4, 5),
            (&[two, (3, true, true, Some(1))], 4, 5),
            (&[(2, true, true, Some(1)), (3, true, true, Some(1))], 4, 5),
            (&[(2, true, true, Some(2)), (3, true, true, Some(1))], 4, 8),
            // The dead neither vote nor count as a nominee; who may not vote may still have proposed.
            (&[(2, false, true, Some(2)), (3, true, true, Some(1))], 9, 9),
            (&[(2, false, true, Some(2)), (3, true, false, Some(1))], 10, 9),
            (&[(2, true, true, None), (3, true, false, None)], 11, 11),
            (&[(2, true, true, None), (3, false, false, None)], 11, 11),
            (&[(4, true, true, None)], 13, 11),
        ];
        let (record, seen) = (Record::new("lab"), crate::decide::tests::quiet());
        let mut watcher = Watcher::new(Duration::ZERO);
        for (step, (nodes, settled, nominee)) in steps.iter().enumerate() {
            let now = Duration::from_secs(step as u64 + 1);
            let watch = watcher.look(now, &view(nodes), &record, &seen, &Known::Absent, 0);
            let since = (watch.settled_since.as_secs(), watch.nominee_since.as_secs());
            assert_eq!(since, (*settled, *nominee), "second {}", step + 1);
        }
    }

    #[test]
    fn an_own_ballot_that_was_overtaken_is_followed_by_a_pause() {
        use crate::founding::Proposal;
        use crate::founding::testing::{ballot, certificate};
        let own = |counter| Some(Proposal { ballot: ballot(counter, 1), certificate: None });
        let (view, seen) = (PeerView::default(), crate::decide::tests::quiet());
        let look = |watcher: &mut Watcher, seconds, record: &Record, dice| {
            let now = Duration::from_secs(seconds);
            watcher.look(now, &view, record, &seen, &Known::Absent, dice).retry_at
        };
        for (dice, pause) in [(0, 500), (1_999, 2_499), (2_000, 500)] {
            let mut watcher = Watcher::new(Duration::ZERO);
            let mut record = Record::new("lab");
            record.proposal = own(1);
            assert_eq!(look(&mut watcher, 1, &record, dice), Duration::ZERO);
            record.proposal = own(2);
            assert_eq!(look(&mut watcher, 2, &record, dice), Duration::ZERO);
            record.proposal = None;
            let until = Duration::from_millis(3_000 + pause);
            assert_eq!(look(&mut watcher, 3, &record, dice), until);
            assert_eq!(look(&mut watcher, 4, &record, dice), until, "once");
            record.proposal = own(3);
            look(&mut watcher, 5, &record, dice);
            (record.proposal, record.certificate) = (None, Some(certificate(1)));
            assert_eq!(look(&mut watcher, 6, &record, dice), until, "it was not overtaken, it was chosen");
        }
    }
}
