//! Gossip between server-eligible nodes: claims in, a [`PeerView`] out, over datagrams sealed with a key from the token.

mod claim;
mod view;

pub use claim::{Claim, Fitness, Role, WantedRole};
pub use view::{Echo, GossipCounters, Peer, PeerView};
