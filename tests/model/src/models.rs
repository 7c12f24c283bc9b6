//! The models: how many identities, what may fail, which control, and what must come out.

use stateright::{Model, Property};

use crate::adapter;
use crate::state::{Action, Flaw, Node, State, Step, Value};
use crate::views;

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
}

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
        what: "three machines, all of them nominate themselves, twice each",
        quick: false,
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
];

impl Founding {
    /// Whether a node may nominate itself in this model.
    #[must_use]
    pub fn may_nominate(&self, who: u8) -> bool {
        who < self.candidates || (self.replacement && who + 1 == self.identities)
    }

    fn exists(&self, state: &State, who: u8) -> bool {
        let waits = self.replacement && who + 1 == self.identities;
        !waits || state.nodes.iter().any(|node| node.gone)
    }

    fn moves(&self, state: &State, who: u8, actions: &mut Vec<Action>) {
        let node = &state.nodes[usize::from(who)];
        let scenes = if self.all_views { views::all(self, state, who) } else { views::few(self, state, who) };
        let mut steps: Vec<Step> = Vec::new();
        for (view, answers) in scenes {
            if let Some(step) = adapter::step(self, who, node, &view, &answers)
                && !steps.contains(&step)
            {
                steps.push(step);
            }
        }
        for step in steps {
            let allowed = match step {
                Step::Nominate((counter, _)) => counter <= self.counters && self.may_nominate(who),
                Step::Store(_) => self.storing || self.control == Control::LowestIdentity,
                Step::Start => node.k3s.is_none(),
                _ => true,
            };
            if let Step::Store(value) = step
                && self.control == Control::None
                && !state.chosen(self.founders).contains(&value)
            {
                actions.push(Action::Broken(Flaw::StoredUnchosen));
            }
            if allowed {
                actions.push(Action::Move(who, step));
                if self.control == Control::PublishedFirst {
                    actions.push(Action::Lost(who, step));
                }
            }
        }
        if self.control == Control::None {
            for (view, answers) in views::decided(self, state, who) {
                if !matches!(adapter::step(self, who, node, &view, &answers), Some(Step::Store(_))) {
                    actions.push(Action::Broken(Flaw::ActedAfterChosen));
                }
            }
        }
    }
}

fn perform(node: &mut Node, step: Step) -> Option<Flaw> {
    let below = |ballot| node.disk.promised.is_some_and(|promised| promised > ballot);
    let mut flaw = None;
    match step {
        Step::Hear(mask) => node.heard |= mask,
        Step::Store(value) => node.stored = Some(value),
        Step::Promise(ballot) => {
            flaw = below(ballot).then_some(Flaw::BelowPromise);
            node.disk.promised = Some(ballot);
        }
        Step::Accept(ballot, value) => {
            flaw = below(ballot).then_some(Flaw::BelowPromise);
            node.disk.accepted = Some((ballot, value));
        }
        Step::Nominate(ballot) => {
            flaw = (below(ballot) || ballot.0 <= node.counter).then_some(Flaw::BelowPromise);
            node.counter = ballot.0;
            node.disk.promised = Some(ballot);
            node.disk.proposal = Some((ballot, None));
        }
        Step::Propose(value) => {
            let (ballot, _) = node.disk.proposal?;
            let before = node.published.iter().filter_map(|claim| claim.proposal);
            let other = |(b, v): (_, Option<Value>)| b == ballot && v.is_some_and(|v| v != value);
            flaw = before.into_iter().any(other).then_some(Flaw::BallotTwice);
            node.disk.proposal = Some((ballot, Some(value)));
        }
        Step::Withdraw => node.disk.proposal = None,
        Step::Start => node.k3s = node.k3s.or(Some(0)),
    }
    node.publish(node.disk);
    flaw
}

impl Model for Founding {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let everybody = u8::MAX >> (8 - self.identities);
        let node = |n: u8| Node { heard: if self.hearing { 1 << n } else { everybody }, ..Node::default() };
        vec![State { nodes: (0..self.identities).map(node).collect(), flaw: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.flaw.is_some() {
            return;
        }
        let dead = state.nodes.iter().filter(|node| node.gone).count();
        for who in 0..self.identities {
            let node = &state.nodes[usize::from(who)];
            if node.gone || node.stored.is_some() || !self.exists(state, who) {
                continue;
            }
            self.moves(state, who, actions);
            if dead < self.deaths && (!self.replacement || who + 1 < self.identities) {
                actions.push(Action::Destroy(who));
            }
            if self.remakes && node.k3s == Some(0) {
                actions.push(Action::Remake(who));
            }
            let restart = match self.control {
                Control::PromiseForgotten => node.disk.promised.is_some(),
                Control::BallotReused => {
                    node.k3s == Some(0) && matches!(node.disk.proposal, Some((_, Some(_))))
                }
                _ => false,
            };
            if restart {
                actions.push(Action::Restart(who));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let node = |state: &mut State, n: u8| std::mem::take(&mut state.nodes[usize::from(n)]);
        match action {
            Action::Move(who, step) => {
                let flaw = perform(&mut state.nodes[usize::from(who)], step);
                // A control is broken on purpose: there only the harm that it leads to counts.
                state.flaw = flaw.filter(|_| self.control == Control::None);
            }
            Action::Lost(who, step) => {
                let before = node(&mut state, who);
                let mut after = before.clone();
                perform(&mut after, step);
                state.nodes[usize::from(who)] = Node { published: after.published, ..before };
            }
            Action::Destroy(who) => {
                let node = &mut state.nodes[usize::from(who)];
                node.gone = true;
                node.k3s = None;
            }
            Action::Remake(who) => state.nodes[usize::from(who)].k3s = Some(1),
            Action::Restart(who) => {
                let node = &mut state.nodes[usize::from(who)];
                match self.control {
                    Control::PromiseForgotten => node.disk.promised = None,
                    _ => {
                        node.disk.proposal = node.disk.proposal.map(|(ballot, _)| (ballot, None));
                        node.k3s = Some(1);
                    }
                }
                node.publish(node.disk);
            }
            Action::Broken(flaw) => state.flaw = Some(flaw),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties =
            vec![Property::always(ONE, |m: &Founding, s: &State| s.clusters(m.founders).len() <= 1)];
        if self.control != Control::None {
            return properties;
        }
        properties.push(Property::always("only the chosen certificate is stored", |_, s: &State| {
            s.flaw != Some(Flaw::StoredUnchosen)
        }));
        properties.push(Property::always(
            "whoever knows the certificate never nominates, promises or votes",
            |_, s: &State| s.flaw != Some(Flaw::ActedAfterChosen),
        ));
        properties.push(Property::always("nobody promises or votes below its promise", |_, s: &State| {
            s.flaw != Some(Flaw::BelowPromise)
        }));
        properties.push(Property::always("a ballot carries one certificate", |_, s: &State| {
            s.flaw != Some(Flaw::BallotTwice)
        }));
        properties.push(Property::sometimes("a certificate is chosen", |m: &Founding, s: &State| {
            chosen(m, s).is_some()
        }));
        properties.push(Property::sometimes("chosen with one voter missing", |m: &Founding, s: &State| {
            chosen(m, s).is_some() && s.nodes.iter().any(|n| n.disk.promised.is_none())
        }));
        if self.deaths > 0 {
            properties.push(Property::sometimes(
                "chosen after the first nominee died",
                |m: &Founding, s: &State| {
                    let died = |n: &Node| n.gone && n.counter == 1;
                    chosen(m, s).is_some_and(|value| {
                        s.nodes
                            .iter()
                            .enumerate()
                            .any(|(n, node)| died(node) && n != usize::from(value.founder))
                    })
                },
            ));
        }
        if self.replacement {
            properties.push(Property::sometimes(
                "chosen with the vote of the replacement",
                |m: &Founding, s: &State| {
                    chosen(m, s).is_some() && s.nodes.last().is_some_and(|n| n.disk.accepted.is_some())
                },
            ));
        }
        if self.storing {
            properties.push(Property::sometimes("everybody stored", |_, s: &State| {
                s.nodes.iter().all(|n| n.stored.is_some())
            }));
        }
        properties
    }
}

/// The property that everything is about.
pub const ONE: &str = "at most one certificate is chosen";

fn chosen(model: &Founding, state: &State) -> Option<Value> {
    state.chosen(model.founders).first().copied()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn named(name: &str) -> Founding {
        MODELS.iter().find(|model| model.name == name).unwrap().clone()
    }

    /// Every state that can be reached.
    fn reachable(model: &Founding) -> Vec<State> {
        let mut states = model.init_states();
        let mut seen: HashSet<State> = states.iter().cloned().collect();
        let mut next = 0;
        while next < states.len() {
            let more: Vec<State> = model.next_states(&states[next]);
            states.extend(more.into_iter().filter(|state| seen.insert(state.clone())));
            next += 1;
        }
        states
    }

    #[test]
    fn the_views_that_matter_lead_to_every_action_that_all_views_lead_to() {
        for few in [
            Founding { counters: 1, candidates: 2, ..named("2-of-3") },
            Founding { counters: 1, candidates: 2, ..named("2-of-3-storing") },
            Founding { counters: 1, candidates: 2, ..named("2-of-3-deaths") },
            Founding { counters: 1, candidates: 1, ..named("2-of-3-hearing") },
        ] {
            let all = Founding { all_views: true, ..few.clone() };
            let states = reachable(&all);
            for state in &states {
                let actions = |model: &Founding| {
                    let mut actions = Vec::new();
                    model.actions(state, &mut actions);
                    actions.into_iter().collect::<HashSet<_>>()
                };
                let (all, few) = (actions(&all), actions(&few));
                // To hear of two at once is to hear of one and then of the other.
                let together = |action: &&Action| {
                    let Action::Move(who, Step::Hear(mask)) = action else { return false };
                    let parts = few.iter().filter_map(|few| match few {
                        Action::Move(n, Step::Hear(part)) if n == who && part & mask == *part => Some(*part),
                        _ => None,
                    });
                    parts.fold(0, |heard, part| heard | part) == *mask
                };
                let missed: Vec<_> = all.difference(&few).filter(|action| !together(action)).collect();
                assert!(missed.is_empty(), "{}: {missed:?} missed in {state:?}", few.len());
                assert!(few.is_subset(&all));
            }
            println!("{}: {} states", few.name, states.len());
        }
    }
}
