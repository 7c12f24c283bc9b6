//! What the judgement is given and what it gives back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Accepted, Ballot, Certificate, Proposal, Register};
use crate::core::{CaHash, ClusterId, Known, NodeId, ParametersHash, Phase, Why};

/// What this node has on its own disk. Never taken from gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// This node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The era it is in.
    pub era: u64,
    /// Its acceptor's register.
    pub register: Register,
    /// Its proposal.
    pub proposal: Option<Proposal>,
    /// Highest ballot counter it ever used.
    pub ballot_counter: u64,
    /// Server-eligible identities ever heard in this era, its own included, as they stand on disk.
    pub heard: BTreeSet<NodeId>,
    /// The CA of the provisional cluster that runs here, once its etcd is healthy: the proof that it can be founded.
    pub provisional: Known<CaHash>,
}

/// Another server-eligible node, as its own signed claim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The node.
    pub id: NodeId,
    /// Whether the failure detector takes it for live.
    pub live: bool,
    /// Whether it may vote and found, by its own word.
    pub eligible: bool,
    /// The era it is in.
    pub era: u64,
    /// Hash of its parameters.
    pub parameters: ParametersHash,
    /// Its register, if it published one.
    pub register: Option<Register>,
    /// Its proposal.
    pub proposal: Option<Proposal>,
    /// Rank by fitness; more is better.
    pub fitness: u8,
    /// Its failure domain; empty when it knows none.
    pub zone: String,
}

/// What is agreed beforehand, and this node's present standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Votes a certificate needs.
    pub founders: usize,
    /// Servers the certificate lists at most.
    pub servers: usize,
    /// Hash of this node's parameters.
    pub parameters: ParametersHash,
    /// This node's fitness.
    pub fitness: u8,
    /// This node's failure domain; empty when it knows none.
    pub zone: String,
    /// How long the set of live eligible nodes has been unchanged.
    pub settled_for: Duration,
    /// How long it must be.
    pub settle: Duration,
    /// How long the highest proposal of another live node has been watched without an outcome.
    pub nominee_watched_for: Duration,
    /// How long a nominee may take.
    pub patience: Duration,
    /// Whether this node's pause after an overtaken ballot is over.
    pub may_retry: bool,
    /// Random bits for the id of a cluster that this node may propose.
    pub fresh_cluster: ClusterId,
}

/// What `/cacerts` at a founder's address was found to hold, if it has been asked lately.
pub trait LiveCheck {
    /// The hash served at an address: yes, absent (nothing answers), unknown (not asked yet, or no clear answer).
    fn served(&self, address: IpAddr) -> Known<CaHash>;
}

/// One move. All but [`Move::Check`] and [`Move::StartProvisional`] change the ledger and are synced before they are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Note identities heard, before anything is promised in their presence.
    Hear(BTreeSet<NodeId>),
    /// Store the certificate that was chosen.
    Store(Arc<Certificate>),
    /// Promise a ballot.
    Promise(Ballot),
    /// Vote.
    Accept(Accepted),
    /// Nominate this node: take this ballot counter, promise it here, and publish the proposal.
    Nominate(Ballot),
    /// Propose this certificate under the ballot that was promised.
    Propose(Arc<Certificate>),
    /// Give up the own ballot: a higher one was promised elsewhere.
    Withdraw,
    /// Ask what a founder's address serves.
    Check(IpAddr),
    /// Start the provisional cluster.
    StartProvisional,
}

impl Move {
    /// Whether it changes the ledger: it is synced before it is published.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !matches!(self, Move::Check(_) | Move::StartProvisional)
    }
}

/// The judgement: the moves, the phase they belong to, and the reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// At most one durable move, and checks.
    pub moves: Vec<Move>,
    /// Seeking, electing or founding.
    pub phase: Phase,
    /// Why.
    pub why: Vec<Why>,
}

impl Judgement {
    /// Whether it changes the ledger.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.moves.iter().any(Move::is_durable)
    }

    pub(super) fn wait(phase: Phase, rule: &'static str, detail: String, next: &'static str) -> Self {
        Self { moves: Vec::new(), phase, why: vec![Why::new(rule, detail, next)] }
    }
    pub(super) fn go(
        phase: Phase,
        step: Move,
        rule: &'static str,
        detail: String,
        next: &'static str,
    ) -> Self {
        Self { moves: vec![step], phase, why: vec![Why::new(rule, detail, next)] }
    }
}
