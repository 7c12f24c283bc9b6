//! Who this node is, and what the one secret that it was given makes of it.
//!
//! ```text
//! cluster token --HKDF--> gossip sealing key, k3s server password, worker token
//!                                                                       |
//!                                        worker gossip key, k3s agent password   (no way back)
//! ```

pub mod keys;
pub mod marks;
mod node;
pub mod token;

pub use marks::{MarkKey, Marks};
pub use node::{Fingerprint, KeyError, NodeKey, id_of};
