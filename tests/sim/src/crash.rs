//! A crash after every single effect, one after another: nothing is left to chance here.

use crate::history::{Script, run};
use crate::machine::Crash;
use crate::run::{Totals, run_all};
use crate::scene::Scene;

/// What the enumeration came to.
pub struct Points {
    /// Histories without faults that it started from.
    pub bases: usize,
    /// Effects in them: each was crashed after twice, taking the machine and taking the agent alone.
    pub effects: usize,
    /// Histories run.
    pub points: usize,
    /// Their sum; places are those of [`Points::scripts`].
    pub totals: Totals,
    /// What was run.
    pub scripts: Vec<Script>,
}

/// Crashes `bases` calm histories after each of their effects.
pub fn enumerate(bases: usize, seed: u64, threads: usize) -> Points {
    let mut scripts = Vec::new();
    let mut effects = 0;
    for base in 0..bases as u64 {
        let calm = Script { calm: Some(None), ..Script::of(seed + base) };
        let all = run(calm).effects;
        effects += all as usize;
        for at in 1..=all {
            for crash in [Crash::Power, Crash::Agent] {
                scripts.push(Script { calm: Some(Some((at, crash))), ..calm });
            }
        }
    }
    let totals = run_all(scripts.len(), threads, &|place| scripts[place]);
    Points { bases, effects, points: scripts.len(), totals, scripts }
}

/// Crashes whoever heals, or is being healed, at every point of one history of each scene.
pub fn enumerate_healing(seed: u64, threads: usize) -> Points {
    let mut scripts = Vec::new();
    let mut effects = 0;
    for (at, scene) in Scene::ENUMERATED.iter().enumerate() {
        let base =
            Script { heals: true, scene: Some(*scene), calm: Some(None), ..Script::of(seed + at as u64) };
        let all = run(base).effects;
        effects += all as usize;
        for at in 1..=all {
            for crash in [Crash::Power, Crash::Agent] {
                scripts.push(Script { calm: Some(Some((at, crash))), ..base });
            }
        }
    }
    let totals = run_all(scripts.len(), threads, &|place| scripts[place]);
    Points { bases: Scene::ENUMERATED.len(), effects, points: scripts.len(), totals, scripts }
}
