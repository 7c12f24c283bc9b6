//! Where a node stands. Computed from what is seen on every tick, never remembered.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The phase of a node, as `muster status` and the lab print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The host is being made fit: swap, modules, sysctls, the k3s binary.
    Preparing,
    /// No certificate, and too few peers to vote.
    Seeking,
    /// Enough peers: nominating or voting.
    Electing,
    /// This node runs a provisional cluster, or is about to.
    Founding,
    /// A certificate is known and k3s on this node is on its way into that cluster.
    Joining,
    /// k3s runs here in its role and the node is ready.
    Serving,
    /// It served, and something it needs is missing now.
    Degraded,
    /// Nothing more happens without a person, or until the named cause is gone.
    Parked,
}

impl Phase {
    /// The word printed for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Phase::Preparing => "preparing",
            Phase::Seeking => "seeking",
            Phase::Electing => "electing",
            Phase::Founding => "founding",
            Phase::Joining => "joining",
            Phase::Serving => "serving",
            Phase::Degraded => "degraded",
            Phase::Parked => "parked",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
