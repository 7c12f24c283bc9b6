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
        let live: BTreeSet<NodeId> = view
            .peers
            .values()
            .filter(|peer| peer.live && peer.claim.eligible)
            .map(|peer| peer.claim.owner.clone())
            .collect();
        if live != self.live {
            self.live = live;
            self.watch.settled_since = now;
        }
        let proposals =
            view.peers.values().filter(|peer| peer.live).filter_map(|peer| peer.claim.proposal.as_ref());
        let nominee = proposals.map(|proposal| &proposal.ballot).max().cloned();
        if nominee != self.nominee {
            self.nominee = nominee;
            self.watch.nominee_since = now;
        }
        // An own proposal that vanished without a certificate was overtaken: pause for 0.5 to 2.5 s, at random.
        let own = record.proposal.as_ref().map(|proposal| proposal.ballot.clone());
        if self.own.is_some() && own.is_none() && record.certificate.is_none() {
            self.watch.retry_at = now + Duration::from_millis(500 + dice % 2_000);
        }
        self.own = own;
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
            crate::gossip::Peer { claim: serves, parameters: None, live: true, gossip_address },
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
}
