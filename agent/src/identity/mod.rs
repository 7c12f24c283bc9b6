//! Who this node is, and what it may prove.

mod node;

pub use node::{Fingerprint, KeyError, NodeKey, id_of};
