//! What can happen in a model of the vote, and what must hold in it.

use stateright::{Model, Property};

use crate::adapter;
use crate::models::{Control, Founding, OVER, is_over};
use crate::state::{Action, Flaw, Node, State, Step, Value};
use crate::views;

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

    /// Whether somebody is without a certificate for ever although a nominee has a ballot left. Where nodes die or lose data that
    /// may be right, and where storing is no part of the state it cannot be seen.
    fn is_stuck(&self, state: &State) -> bool {
        let calm = self.control == Control::None && self.storing && self.deaths == 0 && !self.remakes;
        let left = (0..self.identities)
            .any(|n| self.may_nominate(n) && state.nodes[usize::from(n)].counter < self.counters);
        calm && left && state.nodes.iter().any(|node| node.stored.is_none())
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
        // Whoever stored it tells it, and a certificate that is heard is stored: a vote may have been overwritten by a later one.
        if self.storing && self.control == Control::None {
            for value in state.nodes.iter().filter_map(|node| node.stored) {
                if !steps.contains(&Step::Store(value)) {
                    steps.push(Step::Store(value));
                }
            }
        }
        for step in steps {
            let allowed = match step {
                Step::Nominate((counter, _)) => counter <= self.counters && self.may_nominate(who),
                Step::Store(_) => {
                    self.storing || matches!(self.control, Control::LowestIdentity | Control::LeaderKey)
                }
                Step::Start => node.k3s.is_none(),
                _ => true,
            };
            if let Step::Store(value) = step
                && self.control == Control::None
                && !state.chosen(self.founders).contains(&value)
            {
                actions.push(Action::Broken(Flaw::StoredUnchosen));
            }
            if let Step::Accept(_, value) = step
                && value.founder != who
                && state.nodes[usize::from(value.founder)].k3s != Some(value.incarnation)
            {
                actions.push(Action::Broken(Flaw::Unserved));
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

fn perform(control: Control, node: &mut Node, step: Step) -> Option<Flaw> {
    let below = |ballot| node.disk.promised.is_some_and(|promised| promised > ballot);
    let mut flaw = None;
    match step {
        Step::Hear(mask) => node.heard |= mask,
        Step::Store(value) => {
            node.stored = Some(value);
            if control == Control::LeaderKey {
                node.disk.accepted = Some(((0, value.founder), value));
            }
        }
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
        if actions.is_empty() && self.is_stuck(state) {
            actions.push(Action::Broken(Flaw::Stuck));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let node = |state: &mut State, n: u8| std::mem::take(&mut state.nodes[usize::from(n)]);
        match action {
            Action::Move(who, step) => {
                let flaw = perform(self.control, &mut state.nodes[usize::from(who)], step);
                // A control is broken on purpose: there only the harm that it leads to counts.
                state.flaw = flaw.filter(|_| self.control == Control::None);
            }
            Action::Lost(who, step) => {
                let before = node(&mut state, who);
                let mut after = before.clone();
                perform(self.control, &mut after, step);
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
        properties.push(Property::always("nobody votes for a CA that is not served", |_, s: &State| {
            s.flaw != Some(Flaw::Unserved)
        }));
        properties.push(Property::sometimes(OVER, |m: &Founding, _| is_over(m.until)));
        if self.control != Control::None {
            return properties;
        }
        properties.push(Property::always(
            "in the end everybody has the certificate, or every ballot is used up",
            |_, s: &State| s.flaw != Some(Flaw::Stuck),
        ));
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
#[path = "explore_tests.rs"]
mod tests;
