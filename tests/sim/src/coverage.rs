//! What histories went through: a simulator in which nothing happens proves nothing.

use std::collections::{BTreeMap, HashMap};

use muster::core::{Phase, Why};
use serde_json::json;

/// Counts by name.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    rules: HashMap<String, u64>,
    phases: BTreeMap<Phase, u64>,
    faults: BTreeMap<&'static str, u64>,
    rests: HashMap<String, u64>,
    gates: HashMap<String, u64>,
    remedies: BTreeMap<&'static str, u64>,
    /// Effects done.
    pub effects: u64,
    /// Turns of the agents' loops.
    pub ticks: u64,
    /// Times the invariants were checked.
    pub checks: u64,
}

fn count(map: &mut HashMap<String, u64>, name: &str, times: u64) {
    match map.get_mut(name) {
        Some(count) => *count += times,
        None => {
            map.insert(name.to_owned(), times);
        }
    }
}

impl Coverage {
    /// The rules of a plan.
    pub fn why(&mut self, why: &[Why]) {
        for why in why {
            count(&mut self.rules, &why.rule, 1);
        }
    }

    /// A phase that was entered.
    pub fn phase(&mut self, phase: Phase) {
        *self.phases.entry(phase).or_default() += 1;
    }

    /// A fault that struck.
    pub fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    /// How a machine came to rest.
    pub fn rest(&mut self, name: &str) {
        count(&mut self.rests, name, 1);
    }

    /// A start that the gate refused.
    pub fn gate(&mut self, rule: &str) {
        count(&mut self.gates, rule, 1);
    }

    /// Something that healing did, or refused to do just before.
    pub fn remedy(&mut self, name: &'static str) {
        *self.remedies.entry(name).or_default() += 1;
    }

    /// How often each remedy was done or refused.
    pub fn remedies(&self) -> &BTreeMap<&'static str, u64> {
        &self.remedies
    }

    /// How often a rule spoke.
    pub fn times(&self, rule: &str) -> u64 {
        self.rules.get(rule).copied().unwrap_or_default()
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Coverage) {
        for (from, into) in [
            (&other.rules, &mut self.rules),
            (&other.rests, &mut self.rests),
            (&other.gates, &mut self.gates),
        ] {
            for (name, times) in from {
                count(into, name, *times);
            }
        }
        for (phase, times) in &other.phases {
            *self.phases.entry(*phase).or_default() += times;
        }
        for (remedy, times) in &other.remedies {
            *self.remedies.entry(*remedy).or_default() += times;
        }
        for (fault, times) in &other.faults {
            *self.faults.entry(fault).or_default() += times;
        }
        self.effects += other.effects;
        self.ticks += other.ticks;
        self.checks += other.checks;
    }

    /// The counts by kind, sorted by name.
    pub fn groups(&self) -> Vec<(&'static str, BTreeMap<String, u64>)> {
        let sorted = |map: &HashMap<String, u64>| map.iter().map(|(k, v)| (k.clone(), *v)).collect();
        vec![
            ("faults", self.faults.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect()),
            ("phases", self.phases.iter().map(|(phase, times)| (phase.word().to_owned(), *times)).collect()),
            ("rules", sorted(&self.rules)),
            ("rests", sorted(&self.rests)),
            ("gate", sorted(&self.gates)),
            ("remedies", self.remedies.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect()),
        ]
    }

    /// As JSON.
    pub fn json(&self) -> serde_json::Value {
        let mut all = serde_json::Map::new();
        for (title, counts) in self.groups() {
            all.insert(title.to_owned(), json!(counts));
        }
        all.insert("effects".to_owned(), json!(self.effects));
        all.insert("ticks".to_owned(), json!(self.ticks));
        all.insert("checks".to_owned(), json!(self.checks));
        all.into()
    }
}
