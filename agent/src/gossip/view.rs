//! What gossip shows: every other node's latest claim that its owner signed, and whether the node is live.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::NodeId;
use crate::founding::Parameters;
use crate::gossip::Claim;

/// One other node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its latest claim with a good signature. Shared: a view is made anew for every change of any node, and a claim is large.
    pub claim: Arc<Claim>,
    /// Its parameters by name, once they have arrived and match the hash in the claim.
    pub parameters: Option<Parameters>,
    /// Whether the failure detector takes it for live. Local opinion, no more.
    pub live: bool,
    /// Where its gossip comes from.
    pub gossip_address: std::net::SocketAddr,
}

impl Peer {
    /// Its claim, to make another of it: no node changes what a peer has signed, only made-up worlds do.
    pub fn claim_mut(&mut self) -> &mut Claim {
        Arc::make_mut(&mut self.claim)
    }
}

/// A claim of *this* node's identity that others hold and this process has not published: of an earlier run, as a rule; higher
/// than what is on this disk means a clone or a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Echo {
    /// Generation in it.
    pub generation: u64,
    /// Counter in it.
    pub counter: u64,
}

/// Members of a group at most, those remembered as dead included: a message that speaks of more is dropped. chitchat asserts at about 890,
/// at fewer with IPv6 addresses.
pub const MOST_MEMBERS: u16 = 600;

/// Datagram counters since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GossipCounters {
    /// Bytes sent, UDP payload.
    pub sent_bytes: u64,
    /// Bytes received, UDP payload, whatever became of them.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
    /// Dropped: they did not open under any key (another token, or noise).
    pub dropped_unopened: u64,
    /// Dropped: seen before, or from a session that did not answer its challenge.
    pub dropped_replayed: u64,
    /// Challenges sent to unknown sessions.
    pub challenged: u64,
    /// Messages of which a peer had lost a part, and was sent it again.
    #[serde(default)]
    pub said_again: u64,
    /// Values ignored: unsigned, foreign, malformed or older than what is known.
    pub ignored_claims: u64,
    /// Times the gossip task was started again after it had died.
    pub restarts: u64,
    /// Dropped after opening: not a message that this version understands.
    #[serde(default)]
    pub dropped_undecoded: u64,
    /// Messages dropped because they speak of more than 600 members: such a group does not gossip.
    #[serde(default)]
    pub dropped_crowded: u64,
    /// Datagrams or messages that could not be sent.
    #[serde(default)]
    pub send_failed: u64,
    /// Probes of others that opened.
    #[serde(default)]
    pub probed: u64,
}

/// The whole view at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Every other node ever heard since the agent started, by identity: forgotten by the gossip does not mean forgotten here.
    pub peers: BTreeMap<NodeId, Peer>,
    /// The highest claim of this node's own identity that was heard and that this process has not published, if any.
    pub echo: Option<Echo>,
    /// Whether another machine speaks under this node's identity: a validly signed claim of this generation that this process
    /// has not published.
    pub twin: bool,
    /// Counters at the moment of the last change of anything else.
    pub counters: GossipCounters,
}
