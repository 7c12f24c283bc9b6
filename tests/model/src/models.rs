//! The models: how many identities, what may fail, which control, and what must come out.

/// One thing broken on purpose, outside the shipped code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// Nothing.
    None,
    /// A restart forgets the promise.
    PromiseForgotten,
    /// A restart keeps the ballot, forgets what was proposed under it, and makes another provisional cluster.
    BallotReused,
    /// A proposer proposes its own cluster whatever was voted for.
    VotesIgnored,
    /// A move is published before it is synced.
    PublishedFirst,
    /// Whoever has the lowest identity in a view that is large enough founds.
    LowestIdentity,
    /// Whoever sees no leader makes itself the leader; of two, the later written wins.
    LeaderKey,
    /// A vote is cast without asking the founder's address.
    NoLiveCheck,
}

/// What must come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    /// Explored to the end: never two clusters, and everything that must be possible is.
    Holds,
    /// Two clusters were found.
    Violated,
    /// The time given was over first; nothing bad was found.
    Unfinished,
    /// Nothing bad, because what must be possible is not.
    Idle,
}

/// A model.
#[derive(Debug, Clone)]
pub struct Founding {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub what: &'static str,
    /// Votes a certificate needs.
    pub founders: usize,
    /// Identities that ever exist.
    pub identities: u8,
    /// How many of them may nominate themselves: the first so many.
    pub candidates: u8,
    /// Highest ballot counter.
    pub counters: u8,
    /// How many nodes may be destroyed for good.
    pub deaths: usize,
    /// Whether the last identity exists only after another was destroyed.
    pub replacement: bool,
    /// Whether the data of provisional clusters may be lost, once each.
    pub remakes: bool,
    /// Whether what was heard is part of the state; otherwise everybody has heard of everybody.
    pub hearing: bool,
    /// Whether storing is part of the state.
    pub storing: bool,
    /// Whether the network is cut in two from the start, even identities from odd ones.
    pub halves: bool,
    /// Every view instead of those that matter.
    pub all_views: bool,
    /// What is broken.
    pub control: Control,
    /// What must come out.
    pub expected: Result,
    /// Whether it is in the quick set.
    pub quick: bool,
    /// When the time given is over.
    pub until: Option<std::time::Instant>,
}

/// True of every state once the time given is over. stateright's own limit ends nothing with one thread: it closes a market at
/// which only several threads look.
pub const OVER: &str = "the time given is over";

/// Whether a moment is past.
pub fn is_over(until: Option<std::time::Instant>) -> bool {
    until.is_some_and(|until| std::time::Instant::now() >= until)
}

/// Without anything broken, two votes of three.
const BASE: Founding = Founding {
    name: "",
    what: "",
    founders: 2,
    identities: 3,
    candidates: 3,
    counters: 2,
    deaths: 0,
    replacement: false,
    remakes: false,
    hearing: false,
    storing: false,
    halves: false,
    all_views: false,
    control: Control::None,
    expected: Result::Holds,
    quick: true,
    until: None,
};

const CONTROL: Founding = Founding { expected: Result::Violated, candidates: 2, counters: 1, ..BASE };

/// Every model, in the order in which they are printed.
pub const MODELS: &[Founding] = &[
    Founding {
        name: "2-of-3",
        what: "three machines, two of them nominate themselves, twice each",
        candidates: 2,
        ..BASE
    },
    Founding {
        name: "2-of-3-any",
        what: "three machines, all of them nominate themselves, once each",
        counters: 1,
        ..BASE
    },
    Founding {
        name: "2-of-3-storing",
        what: "the same, with the nodes that store the certificate and fall silent",
        candidates: 2,
        storing: true,
        ..BASE
    },
    Founding {
        name: "2-of-3-deaths",
        what: "one machine is destroyed for good, at any point",
        candidates: 2,
        deaths: 1,
        ..BASE
    },
    Founding {
        name: "2-of-3-remade",
        what: "provisional clusters lose their data and come back with another CA",
        candidates: 2,
        remakes: true,
        ..BASE
    },
    Founding {
        name: "2-of-3-replaced",
        what: "two machines, one of which is destroyed and replaced by a new identity",
        deaths: 1,
        replacement: true,
        ..BASE
    },
    Founding {
        name: "2-of-3-hearing",
        what: "identities become known one by one",
        candidates: 2,
        hearing: true,
        ..BASE
    },
    Founding {
        name: "3-of-4",
        what: "one more machine than votes, two nominate themselves once",
        founders: 3,
        identities: 4,
        candidates: 2,
        counters: 1,
        ..BASE
    },
    Founding {
        name: "3-of-4-twice",
        what: "the same, twice each",
        founders: 3,
        identities: 4,
        candidates: 2,
        quick: false,
        ..BASE
    },
    Founding {
        name: "3-of-5",
        what: "the bound itself: five identities, three votes, two nominate themselves once",
        founders: 3,
        identities: 5,
        candidates: 2,
        counters: 1,
        ..BASE
    },
    Founding {
        name: "2-of-4",
        what: "one identity above the bound: two clusters must be found",
        identities: 4,
        hearing: true,
        ..CONTROL
    },
    Founding {
        name: "3-of-6",
        what: "one identity above the bound, the network cut in two from the start: two clusters must be found",
        founders: 3,
        identities: 6,
        hearing: true,
        halves: true,
        ..CONTROL
    },
    Founding {
        name: "control-promise-forgotten",
        what: "a restart forgets the promise",
        control: Control::PromiseForgotten,
        ..CONTROL
    },
    Founding {
        name: "control-ballot-reused",
        what: "a restart proposes another certificate under the same ballot",
        control: Control::BallotReused,
        counters: 2,
        ..CONTROL
    },
    Founding {
        name: "control-votes-ignored",
        what: "a proposer ignores what others voted for",
        control: Control::VotesIgnored,
        ..CONTROL
    },
    Founding {
        name: "control-published-first",
        what: "moves are published before they are synced",
        control: Control::PublishedFirst,
        ..CONTROL
    },
    Founding {
        name: "control-lowest-identity",
        what: "the lowest identity in a large enough view founds",
        control: Control::LowestIdentity,
        ..CONTROL
    },
    Founding {
        name: "control-leader-key",
        what: "whoever sees no leader writes itself, and the last writer wins",
        control: Control::LeaderKey,
        ..CONTROL
    },
    Founding {
        name: "control-no-live-check",
        what: "votes are cast for a CA that its voter did not see served",
        control: Control::NoLiveCheck,
        remakes: true,
        ..CONTROL
    },
];
