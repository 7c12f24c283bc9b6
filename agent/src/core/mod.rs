//! The words every domain speaks: identities, what is known, phases, plans and reasons.
//!
//! Nothing here touches a socket, file, clock or dice.

mod ids;
mod known;
mod phase;
pub mod recovery;
mod secret;
mod why;
pub mod zones;

pub use ids::{CaHash, ClusterId, IdError, NodeId, ParametersHash};
pub use known::{Known, Unread, brief};
pub use phase::Phase;
pub use recovery::Recovery;
pub use secret::Secret;
pub use why::Why;
