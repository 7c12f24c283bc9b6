//! What the agent remembers of its own watching: since when the view is as it is. Advice for when to try, nothing more.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::NodeId;
use crate::decide::Watch;
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
        let watch = Watch { settled_since: now, nominee_since: now, retry_at: Duration::ZERO, started: now };
        Self { watch, ..Self::default() }
    }

    /// Takes a look in; `dice` spreads the pause after an overtaken ballot.
    pub fn look(&mut self, now: Duration, view: &PeerView, record: &Record, dice: u64) -> Watch {
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
