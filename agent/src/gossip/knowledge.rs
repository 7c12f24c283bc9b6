//! What is known of other nodes: the latest claim that each owner signed, whatever state the gossip holds. No socket, no
//! clock: values in, verdicts and a [`PeerView`] out.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use super::claim::Claim;
use super::signed;
use super::view::{Echo, Peer, PeerView};
use crate::core::NodeId;
use crate::founding::Parameters;

/// Key of the claim in a node's gossip state.
pub(super) const CLAIM: &str = "c";
/// Key of the parameters.
pub(super) const PARAMETERS: &str = "p";
/// Version of the claim's format.
const VERSION: u8 = 1;
/// Largest signed value published or read, in bytes.
pub(super) const MAX_VALUE: usize = 16 * 1024;
/// Nodes remembered.
const MAX_PEERS: usize = 5_000;
/// Parameters of one node that wait for the claim with their hash.
const MAX_CANDIDATES: usize = 3;
/// Own claims remembered, to tell an echo from a twin.
const MAX_SAID: usize = 256;

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It says something new.
    New,
    /// It was known.
    Known,
    /// Unsigned, foreign, malformed or older: it does not count.
    Ignored,
}

#[derive(Default)]
struct Entry {
    claim: Option<Arc<Claim>>,
    text: [u8; 32],
    candidates: VecDeque<Parameters>,
    live: bool,
    address: Option<SocketAddr>,
}

pub(super) struct Knowledge {
    cluster: String,
    own: NodeId,
    entries: BTreeMap<NodeId, Entry>,
    echo: Option<Echo>,
    twin: bool,
    said: BTreeMap<(u64, u64), [u8; 32]>,
}

impl Knowledge {
    pub(super) fn new(cluster: &str, own: NodeId) -> Self {
        Self {
            cluster: cluster.to_owned(),
            own,
            entries: BTreeMap::new(),
            echo: None,
            twin: false,
            said: BTreeMap::new(),
        }
    }

    /// Remembers a claim of this node's own, before it is published.
    pub(super) fn say(&mut self, claim: &Claim, text: &str) {
        self.said.insert((claim.generation, claim.counter), hash(text));
        while self.said.len() > MAX_SAID {
            self.said.pop_first();
        }
    }

    /// Looks at a value found in the gossip state of `node`.
    pub(super) fn offer(&mut self, node: &str, key: &str, value: &str) -> Verdict {
        if value.len() > MAX_VALUE {
            return Verdict::Ignored;
        }
        let Ok((owner, text)) = signed::open(&self.cluster, key, value) else { return Verdict::Ignored };
        if owner.as_str() != node || (owner != self.own && !self.has_room_for(&owner)) {
            return Verdict::Ignored;
        }
        match key {
            CLAIM => self.offer_claim(owner, text),
            PARAMETERS => self.offer_parameters(owner, text),
            _ => Verdict::Ignored,
        }
    }

    fn offer_claim(&mut self, owner: NodeId, text: &str) -> Verdict {
        let Ok(claim) = serde_json::from_str::<Claim>(text) else { return Verdict::Ignored };
        if claim.v != VERSION || claim.owner != owner {
            return Verdict::Ignored;
        }
        if owner == self.own {
            return self.hear_own(&claim, text);
        }
        let entry = self.entries.entry(owner).or_default();
        if let Some(known) = &entry.claim {
            let order = (claim.generation, claim.counter).cmp(&(known.generation, known.counter));
            if order.is_eq() && entry.text == hash(text) {
                return Verdict::Known;
            }
            if order.is_le() {
                return Verdict::Ignored;
            }
        }
        entry.text = hash(text);
        entry.claim = Some(Arc::new(claim));
        Verdict::New
    }

    fn hear_own(&mut self, claim: &Claim, text: &str) -> Verdict {
        if self.said.get(&(claim.generation, claim.counter)) == Some(&hash(text)) {
            return Verdict::Known;
        }
        let mut verdict = Verdict::Known;
        let echo = Echo { generation: claim.generation, counter: claim.counter };
        if self.echo.is_none_or(|known| echo > known) {
            self.echo = Some(echo);
            verdict = Verdict::New;
        }
        // What is older than everything remembered may have been said by this process, too.
        let is_remembered = self.said.first_key_value().is_some_and(|((generation, counter), _)| {
            *generation == claim.generation && *counter <= claim.counter
        });
        if is_remembered && !self.twin {
            self.twin = true;
            verdict = Verdict::New;
        }
        verdict
    }

    fn offer_parameters(&mut self, owner: NodeId, text: &str) -> Verdict {
        let Ok(parameters) = serde_json::from_str::<Parameters>(text) else { return Verdict::Ignored };
        if owner == self.own {
            return Verdict::Known;
        }
        let entry = self.entries.entry(owner).or_default();
        if entry.candidates.contains(&parameters) {
            return Verdict::Known;
        }
        entry.candidates.push_front(parameters);
        entry.candidates.truncate(MAX_CANDIDATES);
        Verdict::New
    }

    fn has_room_for(&mut self, owner: &NodeId) -> bool {
        if self.entries.len() < MAX_PEERS || self.entries.contains_key(owner) {
            return true;
        }
        let gone = self.entries.iter().find(|(_, entry)| !entry.live).map(|(id, _)| id.clone());
        gone.is_some_and(|id| self.entries.remove(&id).is_some())
    }

    /// Takes over who is live, and from where each node was heard last. Says whether anything changed.
    pub(super) fn set_live(
        &mut self,
        live: &HashSet<NodeId>,
        addresses: &BTreeMap<NodeId, SocketAddr>,
    ) -> bool {
        let mut changed = false;
        for (id, entry) in &mut self.entries {
            let is_live = live.contains(id);
            let address = addresses.get(id).copied().or(entry.address);
            changed |= entry.live != is_live || entry.address != address;
            entry.live = is_live;
            entry.address = address;
        }
        changed
    }

    /// Addresses of the remembered nodes, with whether each is live.
    pub(super) fn addresses(&self) -> Vec<(NodeId, SocketAddr, bool)> {
        let entries = self.entries.iter();
        entries.filter_map(|(id, entry)| Some((id.clone(), entry.address?, entry.live))).collect()
    }

    /// The view, without counters.
    pub(super) fn view(&self) -> PeerView {
        let mut view = PeerView { echo: self.echo, twin: self.twin, ..PeerView::default() };
        for (id, entry) in &self.entries {
            let (Some(claim), Some(address)) = (&entry.claim, entry.address) else { continue };
            let matching = entry.candidates.iter().find(|candidate| candidate.hash() == claim.parameters);
            let peer = Peer {
                claim: Arc::clone(claim),
                parameters: matching.cloned(),
                live: entry.live,
                gossip_address: address,
            };
            view.peers.insert(id.clone(), peer);
        }
        view
    }
}

fn hash(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
#[path = "knowledge_tests.rs"]
mod tests;
