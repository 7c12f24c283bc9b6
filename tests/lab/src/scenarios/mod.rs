//! The product's acceptance tests: each on hosts of its own, watched for invariants while it runs.

mod bad_host;
mod bad_input;
mod clouds;
mod context;
mod death;
mod discover;
mod divide;
mod firewall;
mod first_boot;
mod form;
mod golden;
mod heal;
mod heal_long;
mod heal_shape;
mod host;
mod hostile;
mod itself;
mod liar;
mod outside;
mod packages;
mod recover;
pub mod runner;
mod unit;

pub use context::Context;
pub(crate) use heal::quick;

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
        name: "heal-split",
        about: "a server that was cut off is reset by hand: two clusters, both freeze when they meet; one is folded into the other",
        run: recover::split,
    },
    Scenario {
        name: "heal-with-spare",
        about: "a server dies for good: its member is removed, a spare takes its place; returned, it joins as an agent",
        run: heal::with_spare,
    },
    Scenario {
        name: "heal-without-spare",
        about: "a server dies and nobody can take its place: said, its member kept; a new machine takes it",
        run: heal::without_spare,
    },
    Scenario {
        name: "heal-zones",
        about: "zones and labels on every Node; a server dies, and the spare of the zone without servers takes its place",
        run: heal_shape::zones,
    },
    Scenario {
        name: "heal-member-without-node",
        about: "a dead server's Node is gone and its member is not: etcd itself removes it, a spare takes its place",
        run: heal_shape::member_without_node,
    },
    Scenario {
        name: "heal-certificates",
        about: "k3s's certificates are about to end: one server after the other restarts, and each votes before the next",
        run: heal_shape::certificates,
    },
    Scenario {
        name: "heal-quorum-lost",
        about: "two of three servers are off: said who is missing; one returns, and the cluster serves again",
        run: heal::quorum_lost,
    },
    Scenario {
        name: "heal-recover-old-pair",
        about: "both given-up servers return together, unheard: they serve the old cluster until they hear of the recovery",
        run: recover::old_pair,
    },
    Scenario {
        name: "heal-leave",
        about: "a server leaves by hand and a spare takes its place; taken back, it joins again",
        run: heal::leave,
    },
    Scenario {
        name: "heal-notice",
        about: "a cloud tells a server that its machine will be taken away: it leaves before that, and a spare takes its place",
        run: clouds::notice,
    },
    Scenario {
        name: "heal-power-off",
        about: "a server that reboots stays a member; powered off for good, with its unit enabled, it leaves first",
        run: heal::power_off,
    },
    Scenario {
        name: "heal-address",
        about: "a server comes back with another address: its old member is removed, and it joins again",
        run: heal::address,
    },
    Scenario {
        name: "heal-data-lost",
        about: "a server loses k3s's data and nothing else: its old member is removed, and it joins again",
        run: heal::data_lost,
    },
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
        name: "cloud-init-bad",
        about: "user-data without token, with a short one, with Windows line ends, twice, without a way to k3s, before the network",
        run: first_boot::bad,
    },
    Scenario {
        name: "cloud-init",
        about: "one user-data on three hosts with a real cloud-init: one cluster; a second boot; every example by its schema",
        run: first_boot::image,
    },
    Scenario {
        name: "cloud-init-baked",
        about: "an image that was made of a used server and not sealed, booted with user-data: it serves nothing, and says why",
        run: golden::baked,
    },
    Scenario {
        name: "cloud-init-download",
        about: "the same on plain hosts: another archive than the one that was meant is refused, the right one makes a cluster",
        run: first_boot::download,
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
        name: "golden-image",
        about: "a used machine's disk is refused as an image, sealed, and three machines made of it are three nodes",
        run: golden::golden_image,
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
        name: "copied-first-boot",
        about: "two machines with one identity from their first formation on: named, neither votes; mended, one cluster",
        run: hostile::copied_first_boot,
    },
    Scenario {
        name: "lying-member",
        about: "a holder of the token takes a server's name and place, then shows a second certificate: named, nothing removed",
        run: liar::lying_member,
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
        name: "only-remembered",
        about: "every source is dead but the ledger: after a power cut the hosts find each other",
        run: discover::remembered,
    },
    Scenario {
        name: "only-sweep",
        about: "five hosts that know a token and nothing else find each other",
        run: discover::sweep,
    },
    Scenario {
        name: "two-sweeps",
        about: "two tokens on one segment, both swept: each group finds itself and nobody else",
        run: discover::two_sweeps,
    },
    Scenario { name: "only-mdns", about: "five hosts find each other by multicast DNS", run: discover::mdns },
    Scenario {
        name: "only-dns",
        about: "five hosts find each other by a real name server whose records change while they join",
        run: discover::dns,
    },
    Scenario { name: "only-exec", about: "five hosts find each other by a program", run: discover::exec },
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
    Scenario {
        name: "cloud-init-vendor",
        about: "vendor-data as a script, beside a user-data with lists of its own",
        run: first_boot::vendor,
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
    Scenario {
        name: "copied-machine-id",
        about: "two hosts of one machine-id both say so; the doctor measures a way that swallows large packets",
        run: host::copied_id,
    },
    Scenario {
        name: "package-on-request",
        about: "the agent has a real apt install a package from a local repository; revert removes it, and only it",
        run: host::package,
    },
    Scenario {
        name: "unit-credential",
        about: "a token in systemd's store of credentials alone, for root alone: a cluster of one, over a reboot",
        run: unit::credential,
    },
    Scenario {
        name: "unit-watchdog",
        about: "an agent that hangs is started again by systemd's watchdog; k3s does not notice",
        run: unit::watchdog,
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

/// Scenarios of several minutes each: for the night.
pub const LONG: &[Scenario] = &[
    Scenario {
        name: "heal-surplus",
        about: "five servers of which three are wanted from now on: two are drained and become agents, one after the other",
        run: heal_shape::surplus,
    },
    Scenario {
        name: "heal-recover",
        about: "two of three servers are destroyed: one is made the survivor, three voters again; an old disk joins as a new node",
        run: recover::recovered,
    },
    Scenario {
        name: "heal-rolling",
        about: "every server is terminated in turn and a fresh machine comes in its place, three full rounds",
        run: heal_long::rolling,
    },
    Scenario {
        name: "heal-healer-killed",
        about: "a server dies, and the agents of the others are killed every few seconds until it is replaced",
        run: heal_long::healer_killed,
    },
    Scenario {
        name: "heal-five-lose-two",
        about: "five servers lose two with one spare: both are removed, the spare votes, and the fifth place is said to be free",
        run: heal_long::five_lose_two,
    },
    Scenario {
        name: "heal-odd-nodes",
        about: "a dead server's Node has lost k3s's labels, another's deletion never ends: etcd itself removes both members",
        run: heal_long::odd_nodes,
    },
    Scenario {
        name: "heal-flapping",
        about: "the link of a server comes and goes: it is never removed",
        run: heal_long::flapping,
    },
    Scenario {
        name: "heal-asymmetric",
        about: "a server hears everybody and nobody hears it: replaced; healed, it joins as an agent",
        run: heal_long::asymmetric,
    },
    Scenario {
        name: "heal-paused",
        about: "a server is frozen until it was replaced, and wakes: it serves nobody, and joins as an agent",
        run: heal::paused,
    },
    Scenario {
        name: "heal-imaged-anew",
        about: "a server is imaged anew, same name, same address: its old member is removed, and it joins",
        run: heal_long::imaged_anew,
    },
    Scenario {
        name: "heal-spare-fails",
        about: "the fittest spare cannot become a server: its order is taken back and another spare becomes one",
        run: heal_long::spare_fails,
    },
    Scenario {
        name: "cloud-init-clouds",
        about: "the user-data for AWS, Google, Azure, Hetzner and OpenStack, with played stores; AWS's from a metadata service, which gives notice",
        run: clouds::clouds,
    },
];

/// Scenarios that first build tools or packages for minutes: run by name, or all of them by `nightly`.
pub const NIGHTLY: &[Scenario] = &[
    Scenario {
        name: "package-deb",
        about: "the .deb installed, upgraded, removed, installed again and purged beside a k3s that does not notice",
        run: packages::deb,
    },
    Scenario {
        name: "package-rpm",
        about: "the same with the .rpm, which knows no purge",
        run: packages::rpm,
    },
    Scenario {
        name: "package-over-hand",
        about: "the .deb over a program and a unit that were installed by hand",
        run: packages::over_hand,
    },
    Scenario {
        name: "package-cloud-init",
        about: "the user-data that installs the package from a repository, on three hosts",
        run: packages::first_boot,
    },
    Scenario {
        name: "firewall-on-request",
        about: "real ufw and real firewalld: opened by apply, listed by themselves and the kernel, closed by revert",
        run: firewall::on_request,
    },
];

/// The scenarios that a word on the command line means: `all`, `long`, `nightly`, a name, or the beginning of names and a `*`.
///
/// # Errors
/// It means none.
pub fn select(word: &str) -> Result<Vec<Scenario>> {
    let start = word.strip_suffix('*');
    let named = |s: &&Scenario| s.name == word || start.is_some_and(|start| s.name.starts_with(start));
    let chosen: Vec<Scenario> = match word {
        "all" => ALL.to_vec(),
        "long" => LONG.to_vec(),
        "nightly" => NIGHTLY.to_vec(),
        _ => ALL.iter().chain(LONG).chain(NIGHTLY).filter(named).copied().collect(),
    };
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
        let mut names: Vec<&str> = ALL.iter().chain(LONG).chain(NIGHTLY).map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len() + LONG.len() + NIGHTLY.len());
        for name in names {
            crate::paths::check_name(&format!("s1234567-{name}")).unwrap();
        }
    }

    #[test]
    fn a_word_means_one_some_or_all() {
        assert_eq!(select("all").unwrap().len(), ALL.len());
        assert_eq!(select("long").unwrap().len(), LONG.len());
        assert_eq!(select("heal-rolling").unwrap().len(), 1);
        assert_eq!(select("nightly").unwrap().len(), NIGHTLY.len());
        assert_eq!(select("formation").unwrap().len(), 1);
        let packages = select("package-*").unwrap();
        for list in [ALL, NIGHTLY] {
            assert!(
                packages.iter().any(|one| list.iter().any(|s| s.name == one.name)),
                "names of every list"
            );
        }
        assert!(select("bad-*").unwrap().len() > 5);
        assert!(select("nonsense").is_err());
    }
}
