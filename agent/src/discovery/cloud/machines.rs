//! The machines of a group over time: who holds which address, and whose owner is gone for good. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Machine, State};

/// Machines that are no longer listed, asked for by name in one look.
const MOST_MISSING: usize = 8;
/// Machines remembered, and dead ones.
const MOST_KNOWN: usize = 1_024;

#[derive(Default)]
pub(super) struct Machines {
    /// The cloud, as it is named beside a dead machine.
    word: &'static str,
    /// Addresses of machines that were listed, by id.
    known: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses that listed machines have which are not gone.
    pub(super) held: Vec<IpAddr>,
    /// Addresses of machines that are gone, and who says so.
    pub(super) dead: BTreeMap<IpAddr, String>,
    /// The last of those that were asked for by name.
    asked: String,
}

impl Machines {
    pub(super) fn of(word: &'static str) -> Self {
        Self { word, ..Self::default() }
    }

    /// Takes a list in. Gives the addresses of those that run.
    pub(super) fn take(&mut self, listed: &[Machine]) -> Vec<IpAddr> {
        let mut running = Vec::new();
        self.held.clear();
        for machine in listed {
            if machine.state == State::Gone {
                let ips = self.known.remove(&machine.id).unwrap_or_default();
                let words = format!("{}: {} is terminated", self.word, machine.id);
                self.bury(ips.into_iter().chain(machine.ips.iter().copied()), &words);
                continue;
            }
            self.held.extend(&machine.ips);
            if machine.state == State::Running {
                running.extend(&machine.ips);
            }
            // A machine that ends may be listed without its addresses: those it had are still to be told.
            let room = self.known.len() < MOST_KNOWN || self.known.contains_key(&machine.id);
            if room && !machine.ips.is_empty() {
                self.known.insert(machine.id.clone(), machine.ips.clone());
            }
        }
        self.settle();
        running
    }

    /// Known machines that are not listed any more, some of them, in turn.
    pub(super) fn missing(&mut self, listed: &[Machine]) -> Vec<String> {
        let listed: BTreeSet<&str> = listed.iter().map(|machine| machine.id.as_str()).collect();
        let missing = || self.known.keys().filter(|id| !listed.contains(id.as_str()));
        let after = missing().filter(|id| **id > self.asked);
        let before = missing().filter(|id| **id <= self.asked);
        let turn: Vec<String> = after.chain(before).take(MOST_MISSING).cloned().collect();
        if let Some(last) = turn.last() {
            self.asked.clone_from(last);
        }
        turn
    }

    /// Takes the answer to a question after a missing machine.
    pub(super) fn told(&mut self, id: &str, gone: bool) {
        let ips = self.known.remove(id).unwrap_or_default();
        if gone {
            let words = format!("{}: {id} no longer exists", self.word);
            self.bury(ips, &words);
            self.settle();
        }
    }

    fn bury(&mut self, ips: impl IntoIterator<Item = IpAddr>, words: &str) {
        self.dead.extend(ips.into_iter().map(|ip| (ip, words.to_owned())));
    }

    /// An address that any machine has now is no dead one's, whether it runs or is stopped.
    fn settle(&mut self) {
        self.dead.retain(|ip, _| !self.held.contains(ip));
        while self.dead.len() > MOST_KNOWN {
            self.dead.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u16) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    fn machine(id: &str, n: u16, state: State) -> Machine {
        Machine { id: id.to_owned(), ips: vec![ip(n)], state }
    }

    fn bare(id: &str, state: State) -> Machine {
        Machine { id: id.to_owned(), ips: Vec::new(), state }
    }

    #[test]
    fn an_address_is_a_dead_machines_until_any_other_has_it() {
        let mut machines = Machines::of("aws");
        let first =
            [machine("a", 1, State::Running), machine("b", 2, State::Other), machine("c", 3, State::Running)];
        assert_eq!(machines.take(&first), [ip(1), ip(3)]);
        // `a` is on its way out and has no address any more in the list; nobody is gone yet.
        let ending = [bare("a", State::Other), bare("b", State::Gone), machine("c", 3, State::Running)];
        machines.take(&ending);
        assert_eq!(
            machines.dead.keys().copied().collect::<Vec<_>>(),
            [ip(2)],
            "one that never ran is known, too"
        );
        machines.take(&[bare("a", State::Gone), machine("c", 3, State::Running)]);
        assert_eq!(machines.dead[&ip(1)], "aws: a is terminated");
        // A stopped machine has the address now: it may be started.
        machines.take(&[machine("d", 1, State::Other), machine("c", 3, State::Running)]);
        assert_eq!(machines.dead.keys().copied().collect::<Vec<_>>(), [ip(2)]);
        assert_eq!(machines.held, [ip(1), ip(3)]);
    }

    #[test]
    fn those_that_are_missing_are_asked_for_in_turn() {
        let mut machines = Machines::of("gcp");
        let all: Vec<Machine> = (0..12).map(|n| machine(&format!("m{n:02}"), n, State::Running)).collect();
        machines.take(&all);
        machines.take(&all[..1]);
        let one = machines.missing(&all[..1]);
        assert_eq!((one.len(), one[0].as_str()), (MOST_MISSING, "m01"));
        // None of them was answered: the others come first all the same.
        assert_eq!(machines.missing(&all[..1])[..3], ["m09", "m10", "m11"]);
        machines.told("m09", true);
        machines.told("m10", false);
        assert_eq!(machines.dead[&ip(9)], "gcp: m09 no longer exists");
        assert_eq!(machines.dead.len(), 1);
        assert!(!machines.missing(&all[..1]).iter().any(|id| id == "m09" || id == "m10"));
    }

    #[test]
    fn memory_is_bounded_and_a_known_machine_that_moves_is_known_at_its_new_address() {
        let mut machines = Machines::of("aws");
        let many: Vec<Machine> =
            (0..2_000).map(|n| machine(&format!("m{n:04}"), n, State::Running)).collect();
        machines.take(&many);
        assert_eq!(machines.known.len(), MOST_KNOWN);
        machines.take(&[machine("m0000", 5_000, State::Running)]);
        machines.take(&[bare("m0000", State::Gone)]);
        assert_eq!(machines.dead.keys().copied().collect::<Vec<_>>(), [ip(5_000)]);
        let gone: Vec<Machine> = (0..2_000).map(|n| machine(&format!("m{n:04}"), n, State::Gone)).collect();
        machines.take(&gone);
        assert_eq!(machines.dead.len(), MOST_KNOWN);
    }
}
