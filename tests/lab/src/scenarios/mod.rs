//! The product's acceptance tests: each on hosts of its own, watched for invariants while it runs.

mod bad_host;
mod bad_input;
mod context;
mod death;
mod divide;
mod form;
mod hostile;
mod itself;
mod outside;
pub mod runner;

pub use context::Context;

use anyhow::Result;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    run: fn(&mut Context) -> Result<()>,
}

/// All scenarios, the longest first: they are run in this order.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "founder-dies-before-choice",
        about: "the founder dies while its cluster is provisional: another founds, the dead one comes back and joins",
        run: death::before_choice,
    },
    Scenario {
        name: "founder-dies-at-once",
        about: "the same with nothing on its disk yet: what was told to found must not found when it comes back",
        run: death::at_once,
    },
    Scenario {
        name: "founder-dies-after-choice",
        about: "the founder dies with the certificate just chosen: the rest wait, say why, and go on when it returns",
        run: death::after_choice,
    },
    Scenario {
        name: "founder-wiped",
        about: "the founder is imaged anew: it joins and never founds again",
        run: death::wiped,
    },
    Scenario {
        name: "power-cut",
        about: "all hosts lose power and return in any order: the same cluster, the same certificate",
        run: death::power_cut,
    },
    Scenario {
        name: "partition-before-founding",
        about: "two hosts cut off from three: at most one side founds, the other waits; healed, one cluster",
        run: divide::partition,
    },
    Scenario {
        name: "different-parameters",
        about: "hosts with other parameters: no vote, and both sides name the key and both values",
        run: outside::different_parameters,
    },
    Scenario {
        name: "late-joiner",
        about: "a later host becomes an agent, and so does one that wants to be a server when servers are full",
        run: form::late_joiner,
    },
    Scenario {
        name: "hostile-noise",
        about: "junk, changed and replayed datagrams by the thousand: nothing is answered, nobody comes back from the dead",
        run: hostile::noise,
    },
    Scenario {
        name: "copied-disk",
        about: "a copy of a running server, identity and all, is switched on beside it: named, and it does not serve",
        run: hostile::copied_disk,
    },
    Scenario {
        name: "selective-path",
        about: "somebody on the path drops what one machine says: nobody votes unheard, and why is said",
        run: hostile::selective_path,
    },
    Scenario {
        name: "secrets",
        about: "after a formation no secret is in arguments, environments, journals, answers, open files or on the wire",
        run: hostile::secrets,
    },
    Scenario {
        name: "two-groups",
        about: "two groups with two tokens on one segment, each seeded with the other: two clusters, no word between them",
        run: hostile::two_groups,
    },
    Scenario {
        name: "wrong-token",
        about: "a host with another token stays outside, and its datagrams are dropped and counted",
        run: outside::wrong_token,
    },
    Scenario {
        name: "formation",
        about: "five identical hosts become three voters and two agents, with one certificate",
        run: form::formation,
    },
    Scenario {
        name: "bad-duplicate-name",
        about: "a host with another one's name is kept out by name, and joins when it is renamed",
        run: bad_input::duplicate_name,
    },
    Scenario {
        name: "bad-seeds",
        about: "no seed answers: said by name, and the cluster forms when they do",
        run: bad_input::seeds,
    },
    Scenario {
        name: "bad-torn-ledger",
        about: "a torn ledger parks the node; k3s runs on; the whole file brings it back",
        run: bad_input::torn_ledger,
    },
    Scenario {
        name: "lab-itself",
        about: "partitions, loss, freezing, power cuts, clones and wipes do what they say; no Muster in it",
        run: itself::itself,
    },
    Scenario { name: "one-machine", about: "one host, one server, embedded etcd", run: form::one_machine },
    Scenario {
        name: "one-machine-by-hand",
        about: "a machine without configuration: `muster up --servers 1`, and a reboot",
        run: form::by_hand,
    },
    Scenario {
        name: "bad-token",
        about: "five kinds of token that are none: each is named, none is shown",
        run: bad_input::token,
    },
    Scenario { name: "bad-api-port", about: "port 6443 is taken", run: bad_host::api_port },
    Scenario { name: "bad-gossip-port", about: "the gossip port is taken", run: bad_host::gossip_port },
    Scenario {
        name: "bad-no-default-route",
        about: "there is no default route",
        run: bad_host::no_default_route,
    },
    Scenario { name: "bad-host-name", about: "the host is named localhost", run: bad_host::host_name },
    Scenario {
        name: "bad-read-only-state",
        about: "the state directory is read-only",
        run: bad_host::read_only_state,
    },
    Scenario { name: "bad-full-state", about: "the state directory is full", run: bad_host::full_state },
    Scenario {
        name: "bad-k3s-checksum",
        about: "the k3s binary has another checksum",
        run: bad_input::checksum,
    },
    Scenario {
        name: "bad-k3s-architecture",
        about: "the k3s binary is for another machine",
        run: bad_input::architecture,
    },
    Scenario {
        name: "bad-half-configuration",
        about: "the configuration ends in the middle",
        run: bad_input::half_configuration,
    },
];

/// The scenarios that a word on the command line means: `all`, a name, or the beginning of names and a `*`.
///
/// # Errors
/// It means none.
pub fn select(word: &str) -> Result<Vec<Scenario>> {
    let start = word.strip_suffix('*');
    let chosen: Vec<Scenario> = ALL
        .iter()
        .filter(|s| word == "all" || s.name == word || start.is_some_and(|start| s.name.starts_with(start)))
        .copied()
        .collect();
    if chosen.is_empty() {
        anyhow::bail!("there is no scenario `{word}`: see `cargo lab scenario list`");
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_name_of_a_lab() {
        let mut names: Vec<&str> = ALL.iter().map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            crate::paths::check_name(&format!("s1234567-{name}")).unwrap();
        }
    }

    #[test]
    fn a_word_means_one_some_or_all() {
        assert_eq!(select("all").unwrap().len(), ALL.len());
        assert_eq!(select("formation").unwrap().len(), 1);
        assert!(select("bad-*").unwrap().len() > 5);
        assert!(select("nonsense").is_err());
    }
}
