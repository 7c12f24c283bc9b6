//! The state that is explored: what is on every disk, and everything that was ever published.

/// A ballot: counter and proposer.
pub type Ballot = (u8, u8);

/// A certificate, in canonical form: two proposals of one founder differ by the counter of the ballot that first carried them,
/// two provisional clusters of one founder by their incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The founder.
    pub founder: u8,
    /// Which of its provisional clusters.
    pub incarnation: u8,
    /// Counter of the ballot under which it was proposed first.
    pub origin: u8,
}

/// What a node has on disk and publishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// The promise.
    pub promised: Option<Ballot>,
    /// The vote.
    pub accepted: Option<(Ballot, Value)>,
    /// The proposal, and its certificate.
    pub proposal: Option<(Ballot, Option<Value>)>,
}

/// One identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its disk.
    pub disk: Claim,
    /// Highest ballot counter it used, on disk.
    pub counter: u8,
    /// Identities it noted, one bit each, on disk. Everything from the start where the bound is not what is looked at.
    pub heard: u8,
    /// Its provisional cluster, by incarnation.
    pub k3s: Option<u8>,
    /// The certificate it stored, where storing is part of the state.
    pub stored: Option<Value>,
    /// Destroyed for good.
    pub gone: bool,
    /// Everything it ever published but the empty claim of its birth, sorted: readers see any of it in any order.
    pub published: Vec<Claim>,
}

impl Node {
    /// Makes the disk readable by all, for ever.
    pub fn publish(&mut self, claim: Claim) {
        if let Err(place) = self.published.binary_search(&claim)
            && claim != Claim::default()
        {
            self.published.insert(place, claim);
        }
    }
}

/// Something that must never happen and is seen in one step rather than in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A certificate was stored that is not chosen.
    StoredUnchosen,
    /// With the votes of a quorum in view, something else than storing was decided.
    ActedAfterChosen,
    /// A promise or a vote below the promise on disk.
    BelowPromise,
    /// One ballot carried two certificates.
    BallotTwice,
    /// A vote for a CA that its founder does not serve.
    Unserved,
    /// Nothing can happen any more, ballots are left, and somebody has no certificate.
    Stuck,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// By identity.
    pub nodes: Vec<Node>,
    /// What went wrong in a step.
    pub flaw: Option<Flaw>,
}

impl State {
    /// Every value that has `founders` votes under one ballot, over all votes ever published, and every value stored.
    #[must_use]
    pub fn clusters(&self, founders: usize) -> Vec<Value> {
        let mut clusters = self.chosen(founders);
        clusters.extend(self.nodes.iter().filter_map(|node| node.stored));
        clusters.sort_unstable();
        clusters.dedup();
        clusters
    }

    /// Every value that has `founders` votes under one ballot.
    #[must_use]
    pub fn chosen(&self, founders: usize) -> Vec<Value> {
        let mut votes: Vec<(Ballot, Value)> = Vec::new();
        for node in &self.nodes {
            let from = votes.len();
            for vote in node.published.iter().filter_map(|claim| claim.accepted) {
                if !votes[from..].contains(&vote) {
                    votes.push(vote);
                }
            }
        }
        votes.sort_unstable();
        let mut chosen: Vec<Value> = votes
            .chunk_by(|a, b| a == b)
            .filter(|same| same.len() >= founders)
            .map(|same| same[0].1)
            .collect();
        chosen.dedup();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

/// One durable move of one node, in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Note identities.
    Hear(u8),
    /// Store a certificate.
    Store(Value),
    /// Promise.
    Promise(Ballot),
    /// Vote.
    Accept(Ballot, Value),
    /// Nominate.
    Nominate(Ballot),
    /// Propose.
    Propose(Value),
    /// Give the ballot up.
    Withdraw,
    /// Start the provisional cluster.
    Start,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A node makes the move that it judged right in some view.
    Move(u8, Step),
    /// The move is published, and a crash loses it from the disk: only under the control that publishes first.
    Lost(u8, Step),
    /// A node is destroyed for good.
    Destroy(u8),
    /// The data of a provisional cluster is lost: its next start makes another CA.
    Remake(u8),
    /// A restart, where a control makes one matter.
    Restart(u8),
    /// A step that must never be.
    Broken(Flaw),
}
