//! Gossip between server-eligible nodes: claims in, a [`PeerView`] out, over datagrams sealed with a key from the token.
//!
//! ```text
//! Gossip (handle) -> supervisor -> run: chitchat + driver
//!                                   chitchat <-> transport (sealed datagrams) <-> network (UDP, or memory)
//!                                   driver: values -> knowledge (signatures, order) -> PeerView
//! ```

mod claim;
mod envelope;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod keys;
mod knowledge;
pub mod network;
pub mod note;
mod pace;
mod pending;
mod prober;
mod reassembly;
mod run;
pub mod seal;
pub mod signed;
mod task;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
mod transport;
mod view;
mod window;

pub use claim::{Claim, Fitness, Role, WantedRole};
pub use keys::GossipKeys;
pub use network::{GroupNetwork, MemoryNetwork, Network, UdpNetwork};
pub use prober::Prober;
pub use signed::Signer;
pub use task::{Gossip, GossipConfig, NextGeneration, PublishError, StartError};
pub use view::{Echo, GossipCounters, MOST_MEMBERS, Peer, PeerView};
pub use window::SessionId;
