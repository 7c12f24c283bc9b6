//! What the agent remembers of its own watching: since when the view is as it is. Advice for when to try, nothing more.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::{Known, NodeId};
use crate::decide::{K3sSeen, UnitSeen, Watch, says_removed};
use crate::founding::Ballot;
use crate::gossip::PeerView;
use crate::ledger::Record;

/// Follows the view from tick to tick.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    watch: Watch,
    live: BTreeSet<NodeId>,
    nominee: Option<Ballot>,
    own: Option<Ballot>,
}

impl Watcher {
    /// Begins to watch.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        let watch = Watch { settled_since: now, nominee_since: now, started: now, ..Watch::default() };
        Self { watch, ..Self::default() }
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
}
