//! Agents broken on purpose: each must be caught, or the checks prove nothing.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Control {
    /// Nothing: the agents that ship.
    None,
    /// Whoever has the lowest identity in a view that is large enough founds.
    LowestIdentity,
    /// A leader key in gossip: whoever sees none writes itself, and the later writing wins.
    LeaderKey,
    /// What is written is spoken of before the disk has it: a power cut takes the last write back.
    PublishedFirst,
    /// Votes without having seen the founder's CA.
    NoLiveCheck,
    /// A restart forgets the promise.
    PromiseForgotten,
    /// A founder whose certificate was chosen keeps its configuration to found.
    NoDisarm,
    /// A provisional cluster that was not chosen is kept.
    NoDiscard,
    /// k3s starts whatever the gate says.
    NoGate,
    /// More identities than the bound allows, and nobody counts them.
    BeyondBound,
    /// Healing: a server is removed as soon as it is called dead.
    NoGrace,
    /// Healing: nobody counts the living voters before a member is removed.
    NoQuorumCheck,
    /// Healing: every server acts, whoever holds the Lease.
    WithoutLease,
    /// Healing: a member is removed while another one is still a learner.
    LearnerPending,
    /// Healing: what could not be learnt about a server is taken for its death.
    UnknownIsDead,
}

impl Control {
    /// Every control.
    pub const ALL: &[Control] = &[
        Control::LowestIdentity,
        Control::LeaderKey,
        Control::PublishedFirst,
        Control::NoLiveCheck,
        Control::PromiseForgotten,
        Control::NoDisarm,
        Control::NoDiscard,
        Control::NoGate,
        Control::BeyondBound,
    ];

    /// Every control of healing.
    pub const HEALING: &[Control] = &[
        Control::NoGrace,
        Control::NoQuorumCheck,
        Control::WithoutLease,
        Control::LearnerPending,
        Control::UnknownIsDead,
    ];

    /// Whether it breaks healing, and not the founding.
    pub fn heals(self) -> bool {
        Self::HEALING.contains(&self)
    }

    /// Whether certificates are made without votes here, so that only two of them are a violation.
    pub fn without_votes(self) -> bool {
        matches!(self, Control::LowestIdentity | Control::LeaderKey)
    }
}
