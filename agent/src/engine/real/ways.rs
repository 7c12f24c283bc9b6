//! The ways to the other machines: packets of the interface's size must get there, for flannel sizes its own by the interface alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::lock;
use crate::core::Why;
use crate::gossip::PeerView;
use crate::host::{self, PathSeen};

/// How soon the ways are measured after the machine itself was, and how often again when nobody was there to be measured; and
/// how often when somebody was. A way changes with cables and tunnels, not by itself.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));

/// Peers measured at once: a few datagrams to each. In a larger group the next ones get their turn an hour later.
const AT_ONCE: usize = 8;

/// The ways that are too narrow, by peer.
#[derive(Debug, Default)]
pub(super) struct Ways {
    narrow: BTreeMap<IpAddr, Why>,
}

impl Ways {
    /// What is to be shown.
    pub(super) fn short(&self) -> impl Iterator<Item = Why> {
        self.narrow.values().cloned()
    }

    /// Takes a look in: who was measured is judged anew, who is gone is forgotten, and the others stay as they were. Whether
    /// anything to show is another now.
    pub(super) fn take(&mut self, live: &BTreeSet<IpAddr>, seen: &[PathSeen]) -> bool {
        let before = self.narrow.clone();
        self.narrow.retain(|peer, _| live.contains(peer));
        for way in seen {
            let Ok(peer) = way.peer.parse() else { continue };
            match host::narrow(way) {
                Some(why) => {
                    if before.get(&peer) != Some(&why) {
                        tracing::warn!(rule = %why.rule, "{}: {}", why.detail, why.next);
                    }
                    self.narrow.insert(peer, why);
                }
                // What could not be told is on no side, as with every other measurement.
                None => drop(self.narrow.remove(&peer)),
            }
        }
        before != self.narrow
    }
}

/// Who has the turn.
fn turn(live: &BTreeSet<IpAddr>, round: usize) -> Vec<String> {
    let begin = if live.len() > AT_ONCE { round.wrapping_mul(AT_ONCE) % live.len() } else { 0 };
    live.iter().cycle().skip(begin).take(live.len().min(AT_ONCE)).map(IpAddr::to_string).collect()
}

/// Measures the ways again and again, for as long as its world is up.
pub(super) async fn watch_ways<S, F>(
    state: Weak<Mutex<S>>,
    ways: impl Fn(&mut S) -> &mut Ways,
    view: watch::Receiver<Arc<PeerView>>,
    wake: Arc<Notify>,
    measure: impl Fn(Vec<String>) -> F,
) where
    F: Future<Output = Vec<PathSeen>>,
{
    let mut round = 0;
    loop {
        tokio::time::sleep(if round == 0 { AGAIN.0 } else { AGAIN.1 }).await;
        let live = |view: &watch::Receiver<Arc<PeerView>>| -> BTreeSet<IpAddr> {
            let view = view.borrow();
            view.peers.values().filter(|peer| peer.live).map(|peer| peer.claim.address).collect()
        };
        let asked = turn(&live(&view), round);
        let seen = if asked.is_empty() { Vec::new() } else { measure(asked.clone()).await };
        round = if asked.is_empty() { 0 } else { round + 1 };
        let Some(state) = state.upgrade() else { return };
        // Who died meanwhile is gone by now.
        if ways(&mut lock(&state)).take(&live(&view), &seen) {
            wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Known;
    use crate::edge::path::PathMtu;
    use crate::gossip::testing::peer;

    /// When, in seconds, and who.
    type Asked = Vec<(u64, Vec<String>)>;

    fn seen(peer: &str, bytes: Option<u32>) -> PathSeen {
        let bytes = bytes.map_or_else(|| Known::unknown("the packets that get there", "silence"), Known::Yes);
        PathSeen { peer: peer.into(), mtu: PathMtu { bytes, own: Some(1_500), silent: false } }
    }

    fn addresses(last: impl IntoIterator<Item = u8>) -> BTreeSet<IpAddr> {
        last.into_iter().map(|last| IpAddr::from([10, 0, 0, last])).collect()
    }

    #[test]
    fn every_peer_of_a_large_group_has_its_turn_and_a_small_one_is_measured_whole() {
        assert_eq!(turn(&addresses([]), 3), Vec::<String>::new());
        for round in 0..3 {
            assert_eq!(turn(&addresses([2, 3]), round), ["10.0.0.2", "10.0.0.3"]);
        }
        let many = addresses(1..=20);
        let asked: Vec<Vec<String>> = (0..3).map(|round| turn(&many, round)).collect();
        assert!(asked.iter().all(|asked| asked.len() == AT_ONCE));
        assert_eq!(asked.into_iter().flatten().collect::<BTreeSet<_>>().len(), 20);
    }

    #[test]
    fn a_narrow_way_is_shown_until_it_is_wide_or_cannot_be_told_or_the_peer_is_gone() {
        let mut ways = Ways::default();
        let live = addresses([2, 3]);
        assert!(!ways.take(&live, &[seen("10.0.0.2", Some(1_500))]));
        assert!(ways.take(&live, &[seen("10.0.0.2", Some(1_420)), seen("10.0.0.3", Some(1_400))]));
        let said: Vec<Why> = ways.short().collect();
        assert_eq!((said.len(), &*said[0].rule), (2, "host.peer.mtu"));
        assert_eq!(
            said[0].detail,
            "the way to 10.0.0.2 carries packets of 1420 bytes, and the interface sends 1500"
        );
        assert!(
            !ways.take(&live, &[seen("10.0.0.2", Some(1_420))]),
            "nothing new, and who had no turn stays"
        );
        assert!(ways.take(&live, &[seen("10.0.0.2", None)]));
        assert!(ways.take(&addresses([2]), &[]));
        assert_eq!(ways.short().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_ways_are_measured_when_somebody_is_there_then_every_hour_and_no_more_when_the_world_is_down()
    {
        let begun = tokio::time::Instant::now();
        let (show, view) = watch::channel(Arc::new(PeerView::default()));
        let state = Arc::new(Mutex::new(Ways::default()));
        let wake = Arc::new(Notify::new());
        let asked: Arc<Mutex<Asked>> = Arc::default();
        let log = Arc::clone(&asked);
        let measure = move |peers: Vec<String>| {
            lock(&log).push((begun.elapsed().as_secs(), peers.clone()));
            async move { peers.iter().map(|peer| seen(peer, Some(1_420))).collect() }
        };
        let task =
            tokio::spawn(watch_ways(Arc::downgrade(&state), |ways| ways, view, Arc::clone(&wake), measure));
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(lock(&asked).len(), 0, "nobody is there");
        let mut there = PeerView::default();
        for (seed, live) in [(2, true), (3, false)] {
            let peer = peer(seed, IpAddr::from([10, 0, 0, seed]), live);
            there.peers.insert(peer.claim.owner.clone(), peer);
        }
        show.send(Arc::new(there)).unwrap();
        // One permit for one change; the second hour brings none.
        wake.notified().await;
        tokio::time::sleep(Duration::from_secs(3_700)).await;
        let hour = vec!["10.0.0.2".to_owned()];
        assert_eq!(*lock(&asked), [(180, hour.clone()), (3_780, hour)]);
        assert_eq!(lock(&state).short().count(), 1);
        drop(state);
        task.await.unwrap();
    }
}
