//! The views in which a node may find itself: for every other node nothing, or any claim it ever published, live or not.
//!
//! All of them are far too many from four nodes on. [`few`] gives a small set that leads to the same moves, by what a move can
//! depend on; that it leaves nothing out is tested where [`all`] can still be explored.

use crate::adapter::{Answers, Sight};
use crate::models::Founding;
use crate::state::{Claim, State};

/// A view, and what addresses answer.
pub type Scene = (Vec<Sight>, Answers);

fn claims(state: &State, n: u8) -> std::slice::Iter<'_, Claim> {
    state.nodes[usize::from(n)].published.iter()
}

fn peers(model: &Founding, who: u8) -> Vec<u8> {
    (0..model.identities).filter(|n| *n != who && (!model.halves || n % 2 == who % 2)).collect()
}

/// What addresses answer in truth.
fn truth(state: &State) -> Answers {
    let up = |(n, node): (usize, &crate::state::Node)| {
        node.k3s.filter(|_| !node.gone).map(|k| (u8::try_from(n).expect("few nodes"), k))
    };
    state.nodes.iter().enumerate().filter_map(up).collect()
}

/// Every part of a list.
fn parts<T: Clone>(list: &[T]) -> impl Iterator<Item = Vec<T>> {
    (0..1_u32 << list.len()).map(|mask| {
        list.iter().enumerate().filter(|(n, _)| mask & (1 << n) != 0).map(|(_, t)| t.clone()).collect()
    })
}

/// One choice from each list, in every combination.
fn product<T: Clone>(lists: &[Vec<T>]) -> Vec<Vec<T>> {
    lists.iter().fold(vec![Vec::new()], |made, list| {
        made.iter()
            .flat_map(|head| list.iter().map(move |t| head.iter().cloned().chain([t.clone()]).collect()))
            .collect()
    })
}

/// Every view there is, with every truth answered or withheld.
pub fn all(model: &Founding, state: &State, who: u8) -> Vec<Scene> {
    let lists: Vec<Vec<Option<Sight>>> = peers(model, who)
        .into_iter()
        .map(|n| {
            let empty = Claim::default();
            let known = claims(state, n).chain([&empty]);
            let sights = known.flat_map(|c| [Some((n, *c, true)), Some((n, *c, false))]);
            sights.chain([None]).collect()
        })
        .collect();
    let answers: Vec<Answers> = parts(&truth(state)).collect();
    product(&lists)
        .into_iter()
        .map(|view| view.into_iter().flatten().collect::<Vec<_>>())
        .flat_map(|view| answers.iter().map(move |a| (view.clone(), a.clone())))
        .collect()
}

/// The views that matter.
pub fn few(model: &Founding, state: &State, who: u8) -> Vec<Scene> {
    let own = &state.nodes[usize::from(who)].disk;
    let peers = peers(model, who);
    let truth = truth(state);
    let mut scenes: Vec<Scene> = Vec::new();

    // To promise, to vote, to withdraw: one claim of one node is enough, for the highest proposal in view is what is answered.
    scenes.push((Vec::new(), truth.clone()));
    for n in &peers {
        if model.hearing {
            scenes.push((vec![(*n, Claim::default(), true)], Answers::new()));
        }
        for claim in claims(state, *n) {
            let view = vec![(*n, *claim, true)];
            // Where a vote is possible, withdrawing takes a founder that does not answer.
            scenes.push((view.clone(), Answers::new()));
            scenes.push((view, truth.clone()));
        }
    }

    // To store, and for a founder to vote: every vote cast under one ballot, with or without a live proposer.
    let mut votes: Vec<_> = peers.iter().flat_map(|n| claims(state, *n)).filter_map(|c| c.accepted).collect();
    votes.extend(own.accepted);
    votes.sort_unstable();
    votes.dedup();
    for vote in votes {
        let cast = |live: bool| -> Vec<Sight> {
            let with = |n: &u8| {
                let mut claims = claims(state, *n).filter(|c| c.accepted == Some(vote));
                let proposing = |c: &&Claim| c.proposal == Some((vote.0, Some(vote.1)));
                let claim = claims.clone().find(proposing).or_else(|| claims.next());
                claim.map(|c| (*n, *c, live && vote.0.1 == *n))
            };
            peers.iter().filter_map(with).collect()
        };
        scenes.push((cast(false), truth.clone()));
        scenes.push((cast(true), truth.clone()));
        // The proposer may not have voted yet when its proposal is read.
        let mut asked = cast(false);
        if let Some(claim) = claims(state, vote.0.1).find(|c| c.proposal == Some((vote.0, Some(vote.1))))
            && vote.0.1 != who
        {
            asked.retain(|(n, ..)| *n != vote.0.1);
            asked.push((vote.0.1, *claim, true));
            scenes.push((asked, truth.clone()));
        }
    }

    match own.proposal {
        // To propose: any set of promises for the ballot, and each founder that has votes answering or not.
        Some((ballot, None)) => {
            let lists: Vec<Vec<Option<Sight>>> = peers
                .iter()
                .map(|n| {
                    let promises = claims(state, *n).filter(|c| c.promised == Some(ballot));
                    promises.map(|c| Some((*n, *c, false))).chain([None]).collect()
                })
                .collect();
            for view in product(&lists) {
                let view: Vec<Sight> = view.into_iter().flatten().collect();
                scenes.extend(parts(&truth).map(|answers| (view.clone(), answers)));
            }
        }
        Some((_, Some(_))) => {}
        // To nominate: just enough live nodes, and one claim that may carry the highest promise, of one of them or of another.
        None if model.may_nominate(who) => {
            for live in parts(&peers).filter(|live| live.len() + 1 == model.founders) {
                let plain: Vec<Sight> = live.iter().map(|n| (*n, Claim::default(), true)).collect();
                scenes.push((plain.clone(), Answers::new()));
                for n in &peers {
                    for claim in claims(state, *n) {
                        let mut view = plain.clone();
                        view.retain(|(other, ..)| other != n);
                        view.push((*n, *claim, live.contains(n)));
                        scenes.push((view, Answers::new()));
                    }
                }
            }
        }
        None => {}
    }
    scenes
}

/// Views in which `founders` votes under one ballot are seen, with everybody live besides: storing is all that may follow.
pub fn decided(model: &Founding, state: &State, who: u8) -> Vec<Scene> {
    let own = &state.nodes[usize::from(who)].disk;
    let peers = peers(model, who);
    let mut votes: Vec<_> =
        state.nodes.iter().flat_map(|n| &n.published).filter_map(|c| c.accepted).collect();
    votes.sort_unstable();
    votes.dedup();
    let mut scenes = Vec::new();
    for vote in votes {
        let voters: Vec<Sight> = peers
            .iter()
            .filter_map(|n| claims(state, *n).find(|c| c.accepted == Some(vote)).map(|c| (*n, *c, true)))
            .collect();
        if voters.len() + usize::from(own.accepted == Some(vote)) >= model.founders {
            let silent = peers.iter().filter(|n| voters.iter().all(|(voter, ..)| voter != *n));
            let others = silent.map(|n| {
                (*n, state.nodes[usize::from(*n)].published.last().cloned().unwrap_or_default(), true)
            });
            scenes.push((voters.iter().cloned().chain(others).collect(), truth(state)));
        }
    }
    scenes
}
