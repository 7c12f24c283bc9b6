//! What can happen to whole agents, and what must hold.

use muster::decide::{Act, K3sWanted};
use muster::ledger::Data;
use stateright::{Model, Property};

use crate::models::{OVER, is_over};
use crate::whole::{Action, Machine, State, Whole, bare, ca, id};

impl Whole {
    /// A turn of one agent: the write, then what is said, then the steps. A crash may cut it after the write.
    fn turn(&self, last: &State, n: usize, view: u8, cut: bool) -> Option<State> {
        let (plan, record, claim) = last.decided(self, n, view)?;
        let mut state = last.clone();
        if let Some(certificate) = &record.certificate {
            let stored = (record.era, certificate.cluster_id.clone());
            if !state.stored.contains(&stored) {
                state.stored.push(stored);
                state.stored.sort();
            }
        }
        state.machines[n].record = record;
        if cut {
            return (plan.commit.is_some() && state != *last).then_some(state);
        }
        state.machines[n].said = Some(claim.into());
        for act in plan.acts {
            let machine = &mut state.machines[n];
            match act {
                Act::Configure { wanted } => {
                    let stays = self.armed && machine.config == Some(K3sWanted::Provisional);
                    if !stays {
                        machine.config = Some(wanted);
                    }
                }
                Act::Start { .. } => state.start(self, n),
                Act::Stop { .. } | Act::Retire { .. } => machine.running = false,
                Act::Discard { .. } => {
                    machine.config = None;
                    machine.running = false;
                    machine.data = None;
                }
                Act::RemoveNode { name, .. } => state.remove(n, &name),
                Act::PrepareHost
                | Act::FetchK3s
                | Act::Check { .. }
                | Act::AskMembers { .. }
                | Act::Enable { .. }
                | Act::Mark
                | Act::Restart { .. }
                | Act::Heal { .. }
                | Act::ResetEtcd { .. } => {}
            }
        }
        (state != *last).then_some(state)
    }

    /// Where it comes to when everybody hears everybody, one after the other, anybody may nominate itself, and nothing fails.
    fn settled(&self, mut state: State) -> State {
        let free = Whole { candidates: self.machines, ..self.clone() };
        let mut still = 0;
        for n in (0..self.machines).cycle() {
            let view = ((1_u8 << self.machines) - 1) & !(1 << n);
            match free.turn(&state, n, view, false) {
                Some(next) => (state, still) = (next, 0),
                None => still += 1,
            }
            if still == self.machines {
                break;
            }
        }
        state
    }

    fn views(&self, n: usize) -> Vec<u8> {
        let all = (1_u8 << self.machines) - 1;
        (0..=all).filter(|view| view & (1 << n) == 0).collect()
    }
}

/// How often one machine may give up what it has: for an annulled era, for lost data, for a place that is not its own any more.
const MOST_DISCARDS: u64 = 3;

/// Whether a machine is a member, by its own word, that has a majority.
fn serves(state: &State, n: usize) -> bool {
    matches!(state.machines[n].record.data, Data::Member { .. }) && state.votes(n)
}

impl Model for Whole {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let machine = Machine {
            record: bare(self.machines),
            said: None,
            data: None,
            config: None,
            running: false,
            up: true,
            annul: false,
        };
        let bare = State {
            machines: vec![machine; self.machines],
            clusters: Vec::new(),
            stored: Vec::new(),
            used: [false; 3],
            flaw: None,
        };
        vec![if self.formed { self.settled(bare) } else { bare }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.flaw.is_some() {
            return;
        }
        for (n, machine) in state.machines.iter().enumerate() {
            if !machine.up {
                actions.push(Action::On(n));
                continue;
            }
            for view in self.views(n) {
                actions.extend([Action::Turn(n, view), Action::Cut(n, view)]);
            }
            if self.annul.contains(&n) && !state.used[0] {
                actions.push(Action::Annul(n));
            }
            if self.away.contains(&n) && !state.used[1] {
                actions.push(Action::Off(n));
            }
            if self.lose && !state.used[2] && machine.data.is_some() {
                actions.push(Action::Lose(n));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Turn(n, view) => return self.turn(last, n, view, false),
            Action::Cut(n, view) => return self.turn(last, n, view, true),
            Action::Annul(n) => {
                state.used[0] = true;
                state.machines[n].annul = true;
            }
            Action::Off(n) => {
                state.used[1] = true;
                state.machines[n].up = false;
                state.machines[n].running = false;
            }
            Action::On(n) => {
                state.machines[n].up = true;
                if state.machines[n].data.is_some() {
                    state.start(self, n);
                }
            }
            Action::Lose(n) => {
                state.used[2] = true;
                state.machines[n].data = None;
                state.machines[n].running = false;
                // The unit is enabled: systemd starts k3s again before any agent looks.
                state.start(self, n);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("at most one certificate is believed in an era", |_, s: &State| {
                s.stored.windows(2).all(|two| two[0].0 != two[1].0)
            }),
            Property::always(
                "who knows a certificate never founds, and nothing starts alone",
                |_, s: &State| s.flaw.is_none(),
            ),
            Property::always("a member's cluster is the one on its certificate", |_, s: &State| {
                s.machines.iter().all(|m| match (&m.record.data, m.data, &m.record.certificate) {
                    (Data::Member { .. }, Some(cluster), Some(certificate)) => {
                        certificate.ca_hash == ca(cluster)
                    }
                    (Data::Member { .. }, Some(_), None) => false,
                    _ => true,
                })
            }),
            Property::always("a cluster that was not chosen has one member", |_, s: &State| {
                (0..s.clusters.len()).all(|cluster| {
                    let certified = |m: &Machine| {
                        m.record.certificate.as_ref().is_some_and(|c| c.ca_hash == ca(cluster as u8))
                    };
                    s.clusters[cluster].members.count_ones() < 2
                        || s.machines.iter().any(certified)
                        || s.used[0]
                })
            }),
            Property::always("what the ledger calls nothing does not run", |_, s: &State| {
                s.machines.iter().all(|m| m.record.data != Data::None || !m.running)
            }),
            // Without it a machine that goes round for ever makes a model without an end instead of a failure.
            Property::always("nobody gives its data up again and again", |_, s: &State| {
                s.machines.iter().all(|m| m.record.discarded <= MOST_DISCARDS)
            }),
            Property::sometimes(OVER, |m: &Whole, _| is_over(m.until)),
            Property::sometimes("everybody serves", |m: &Whole, s: &State| {
                (0..m.machines).all(|n| serves(s, n))
            }),
        ];
        if !self.annul.is_empty() {
            properties.push(Property::always(
                "who has heard that an era was annulled does not serve its cluster",
                |_, s: &State| {
                    s.machines.iter().all(|m| {
                        m.record.era == 1
                            || !matches!(m.record.data, Data::Member { .. })
                            || m.record.certificate.as_ref().is_some_and(|c| c.era == m.record.era)
                    })
                },
            ));
            if self.formed {
                properties.push(Property::always("a cluster of several is not annulled", |_, s: &State| {
                    s.machines
                        .iter()
                        .all(|m| m.record.era == 1 && matches!(m.record.data, Data::Member { .. }))
                }));
                properties.push(Property::sometimes(
                    "everybody serves after a word and a power cut",
                    |m: &Whole, s: &State| s.used[0] && s.used[1] && (0..m.machines).all(|n| serves(s, n)),
                ));
                return properties;
            }
            properties
                .push(Property::sometimes("everybody serves in the second era", |m: &Whole, s: &State| {
                    (0..m.machines).all(|n| serves(s, n) && s.machines[n].record.era == 2)
                }));
            properties.push(Property::sometimes(
                "the founder of the first era serves in the second as somebody else's server",
                |m: &Whole, s: &State| {
                    m.candidates < 2
                        || (0..m.machines).any(|n| {
                            let record = &s.machines[n].record;
                            let other = record.certificate.as_ref().is_some_and(|c| c.founder != id(n));
                            serves(s, n) && record.era == 2 && other && record.discarded > 0
                        })
                },
            ));
        }
        if self.lose {
            properties.push(Property::sometimes("who lost its data serves again", |m: &Whole, s: &State| {
                s.used[2] && (0..m.machines).any(|n| serves(s, n) && s.machines[n].record.discarded > 0)
            }));
        }
        properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whole::WHOLE;

    #[test]
    fn who_begins_formed_serves_from_the_start() {
        let formed: Vec<&Whole> = WHOLE.iter().filter(|model| model.formed).collect();
        assert!(!formed.is_empty());
        for model in formed {
            for state in model.init_states() {
                assert!((0..model.machines).all(|n| serves(&state, n)), "{}: {state:?}", model.name);
            }
        }
    }
}
