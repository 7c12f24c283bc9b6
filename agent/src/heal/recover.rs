//! Whether a quorum is lost, told from who is live: the same rule for `muster recover` and for the agent that carries it out.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::quorum::majority;

/// How long a request counts, in seconds of the wall clock: what was refused must not come true days later.
pub const REQUEST_LASTS: i64 = 300;

/// What `muster recover` left for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// The number of the latest decision that the operator saw; the new one is one more. Another one makes the request stale.
    pub after: u64,
    /// The name of the surviving server: this machine's.
    pub survivor: String,
    /// Why, for everybody's ledger.
    pub reason: String,
    /// Servers that will never start again with their old disks, by the operator's word.
    pub destroyed: BTreeSet<String>,
    /// The operator's word that the others may return, and what that means.
    pub may_return: bool,
    /// When it was asked, in seconds since 1970.
    pub asked_unix: i64,
}

/// What `muster fold` left for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldRequest {
    /// Name or address of a server of the cluster that stays.
    pub into: String,
    /// When it was asked, in seconds since 1970.
    pub asked_unix: i64,
}

/// Where k3s's reset stands, as far as it can be told from its unit and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetSeen {
    /// It was not run yet.
    NotRun,
    /// It runs, or is being prepared.
    Running,
    /// Its log says that the membership has been reset, and etcd's files are there.
    Succeeded,
    /// It ended otherwise; its last word, and how long ago it was begun, if this agent began it.
    Failed(String, Option<Duration>),
    /// It cannot be told; nothing follows from that.
    Unknown(String),
}

/// Another machine, as gossip knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name.
    pub name: String,
    /// Whether it is live.
    pub live: bool,
    /// Whether it says that it is a server, or on its way to be one.
    pub server: bool,
    /// Whether it says that its etcd member votes.
    pub votes: bool,
}

/// Why there is nothing to recover, or not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLost {
    /// This server's own member votes.
    OwnVotes,
    /// A live server says that it votes.
    Serves(String),
    /// This machine is none of the voters.
    NotAVoter(Vec<String>),
    /// Enough voters live: k3s must only be started on them.
    Startable {
        /// The voters that live, this one among them.
        live: Vec<String>,
        /// How many voters there are.
        voters: usize,
    },
    /// Others are silent, and nobody said that they are destroyed or may return.
    Unconfirmed(Vec<String>),
    /// Nobody ever listed the voters here, and the operator did not say that others may return.
    VotersUnknown,
}

impl fmt::Display for NotLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotLost::OwnVotes => write!(f, "this server's etcd member votes: the quorum is not lost"),
            NotLost::Serves(name) => {
                write!(f, "{name} is live and its etcd member votes: the quorum is not lost")
            }
            NotLost::NotAVoter(voters) => {
                write!(f, "this machine is none of the voters; they are {}", voters.join(", "))
            }
            NotLost::Startable { live, voters } => write!(
                f,
                "{} of {voters} voters live ({}), which is a majority: start k3s on them (systemctl start k3s; muster why)",
                live.len(),
                live.join(", ")
            ),
            NotLost::Unconfirmed(names) => write!(
                f,
                "{} silent, and not known to be destroyed: start enough of them, or say --destroyed {}, or --although-they-may-return",
                match names.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                },
                names.join(",")
            ),
            NotLost::VotersUnknown => write!(
                f,
                "the voters were never listed on this machine: look for a server that knows them, or say --although-they-may-return"
            ),
        }
    }
}

/// Whether the quorum is lost and this server may be the survivor: the voters that are missing. `voters` are those that were last
/// seen listed; `own_votes` is none where it cannot be told.
///
/// # Errors
/// With the reason why nothing is to be recovered, or not here.
pub fn lost(
    own: &str,
    own_votes: Option<bool>,
    voters: &BTreeSet<String>,
    others: &[Witness],
    destroyed: &BTreeSet<String>,
    may_return: bool,
) -> Result<Vec<String>, NotLost> {
    if own_votes == Some(true) {
        return Err(NotLost::OwnVotes);
    }
    if let Some(other) = others.iter().find(|other| other.live && other.server && other.votes) {
        return Err(NotLost::Serves(other.name.clone()));
    }
    if voters.len() < 2 {
        return if may_return { Ok(Vec::new()) } else { Err(NotLost::VotersUnknown) };
    }
    if !voters.contains(own) {
        return Err(NotLost::NotAVoter(voters.iter().cloned().collect()));
    }
    // A machine that gave its data up has the name of a voter and is none.
    let lives = |name: &String| {
        *name == own || others.iter().any(|other| other.name == *name && other.live && other.server)
    };
    let (live, missing): (Vec<String>, Vec<String>) = voters.iter().cloned().partition(lives);
    if live.len() >= majority(voters.len()) {
        return Err(NotLost::Startable { live, voters: voters.len() });
    }
    let unconfirmed: Vec<String> =
        missing.iter().filter(|name| !destroyed.contains(*name)).cloned().collect();
    if !may_return && !unconfirmed.is_empty() {
        return Err(NotLost::Unconfirmed(unconfirmed));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// `b` is a live server, `b!` one that votes, `b-` a silent one, `b~` a live machine that is no server any more.
    fn witnesses(text: &str) -> Vec<Witness> {
        let one = |word: &str| Witness {
            name: word.trim_end_matches(['!', '-', '~']).to_owned(),
            live: !word.ends_with('-'),
            server: !word.ends_with('~'),
            votes: word.ends_with('!') || word.ends_with('-'),
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn a_quorum_is_lost_only_when_nobody_serves_and_starting_the_living_would_not_help() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        type Case<'a> =
            (&'a str, Option<bool>, &'a str, &'a str, &'a str, bool, Result<Vec<String>, NotLost>);
        let cases: &[Case<'_>] = &[
            ("a b c", Some(false), "b- c-", "b c", "both are destroyed", false, Ok(list("b c"))),
            ("a b c", None, "b- c-", "b c", "own vote unknown: k3s is down", false, Ok(list("b c"))),
            ("a b c", Some(false), "", "b c", "never heard since the agent started", false, Ok(list("b c"))),
            ("a b c", Some(true), "b- c-", "b c", "it votes", false, Err(NotLost::OwnVotes)),
            ("a b c", Some(false), "b! c-", "b c", "one serves", true, Err(NotLost::Serves("b".into()))),
            ("a b c", Some(false), "x! b- c-", "b c", "a new one", true, Err(NotLost::Serves("x".into()))),
            (
                "a b c",
                Some(false),
                "b c-",
                "b c",
                "two live: start them",
                true,
                Err(NotLost::Startable { live: list("a b"), voters: 3 }),
            ),
            ("a b c", Some(false), "b~ c-", "b c", "b lives and holds nothing", false, Ok(list("b c"))),
            (
                "a b c",
                Some(false),
                "b- c-",
                "b",
                "one is not destroyed",
                false,
                Err(NotLost::Unconfirmed(list("c"))),
            ),
            ("a b c", Some(false), "b- c-", "", "said that they may return", true, Ok(list("b c"))),
            ("b c", Some(false), "b- c-", "b c", "not a voter", true, Err(NotLost::NotAVoter(list("b c")))),
            ("", None, "b- c-", "b c", "never listed", false, Err(NotLost::VotersUnknown)),
            ("", None, "b- c-", "", "never listed, confirmed", true, Ok(Vec::new())),
            ("a b", Some(false), "b-", "b", "one of two", false, Ok(list("b"))),
            ("a b c d e", Some(false), "b c- d- e-", "c d e", "two of five", false, Ok(list("c d e"))),
        ];
        for (voters, own, others, destroyed, about, may_return, wanted) in cases {
            let found = lost("a", *own, &names(voters), &witnesses(others), &names(destroyed), *may_return);
            assert_eq!(found, *wanted, "{about}");
        }
    }

    proptest! {
        /// Whatever is said to be confirmed: no recovery while a majority of the voters lives.
        #[test]
        fn no_word_of_the_operator_recovers_a_cluster_that_could_be_started(
            live in proptest::collection::vec(any::<bool>(), 1..6), may_return in any::<bool>(),
        ) {
            let name = |n: usize| format!("s{n}");
            let voters: BTreeSet<String> = (0..=live.len()).map(name).collect();
            let others: Vec<Witness> = live
                .iter()
                .enumerate()
                .map(|(n, live)| Witness { name: name(n + 1), live: *live, server: true, votes: false })
                .collect();
            let found = lost(&name(0), None, &voters, &others, &voters, may_return);
            let living = 1 + live.iter().filter(|live| **live).count();
            prop_assert_eq!(found.is_ok(), living < majority(voters.len()));
        }
    }
}
