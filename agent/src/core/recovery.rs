//! An operator's word that a lost quorum is given up: which server survives, and which decision it is.

use serde::{Deserialize, Serialize};

use super::{ClusterId, NodeId};

/// Longest reason that is kept, in characters: it travels in every claim.
pub const REASON: usize = 120;

/// A recovery decision. Written to the survivor's ledger before anything is done, spoken in its claims, and kept by every node
/// that hears it: servers of the time before it give their data up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Recovery {
    /// Grows by one with every decision about the cluster; the highest counts.
    pub number: u64,
    /// The cluster that it is about.
    pub cluster: ClusterId,
    /// The server whose data the cluster goes on with.
    pub survivor: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The operator's reason, of at most [`REASON`] characters.
    pub reason: String,
}

/// The number of a decision; 0 for none.
#[must_use]
pub fn number(recovery: Option<&Recovery>) -> u64 {
    recovery.map_or(0, |recovery| recovery.number)
}
