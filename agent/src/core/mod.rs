//! The words every domain speaks: identities, what is known, phases, plans and reasons.
//!
//! Nothing here touches a socket, file, clock or dice.

mod ids;
mod known;
mod phase;
mod secret;
mod why;

pub use ids::{CaHash, ClusterId, IdError, NodeId, ParametersHash};
pub use known::{Known, Unread, brief};
pub use phase::Phase;
pub use secret::Secret;
pub use why::Why;
