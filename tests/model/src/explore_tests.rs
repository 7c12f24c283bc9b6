use std::collections::HashSet;

use super::*;
use crate::models::MODELS;

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
fn one_thread_may_ask_for_several_models() {
    // Paths are told on the thread that asks: what one model made of a view must not answer for another.
    let node = &named("2-of-3").init_states()[0].nodes[0];
    let view = vec![(1, crate::state::Claim::default(), true)];
    let ask = |model: &Founding| adapter::step(model, 0, node, &view, &Vec::new());
    assert_eq!(ask(&named("2-of-3")), Some(Step::Nominate((1, 0))));
    assert_eq!(ask(&named("3-of-4")), None);
    assert!(matches!(ask(&named("control-lowest-identity")), Some(Step::Store(_))));
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
