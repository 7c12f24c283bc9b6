//! `cargo model`: explores the founding protocol over the code that ships, in every interleaving within each model's limits.
//!
//! A published claim stays readable for ever, in any order, by anyone or never: that is loss, delay, duplication, reordering,
//! stale reads and partitions at once. A node is its disk and nothing else: that is a crash and a restart at every point.

mod adapter;
mod explore;
mod models;
mod state;
mod views;
mod whole;
mod whole_model;

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use explore::ONE;
use models::{Founding, MODELS, OVER, Result};
use stateright::{Checker, HasDiscoveries, Model};
use whole::{WHOLE, Whole};

/// Explores the founding protocol in every interleaving.
#[derive(Parser)]
#[command(name = "cargo model", version)]
struct Cli {
    /// A model's name, `quick` (the set of the continuous integration), `all` (whatever has an end), or `list`.
    #[arg(default_value = "quick")]
    name: String,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Longest time for one model, in seconds.
    #[arg(long, default_value_t = 1800)]
    limit: u64,
    /// Highest ballot counter, instead of the model's own.
    #[arg(long)]
    counters: Option<u8>,
    /// How many nodes may nominate themselves, instead of the model's own.
    #[arg(long)]
    candidates: Option<u8>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Tell the shortest or first way to each violation.
    #[arg(long)]
    path: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What one model came to.
#[derive(serde::Serialize)]
struct Line {
    name: &'static str,
    expected: Result,
    found: Result,
    states: usize,
    depth: usize,
    seconds: f64,
}

/// A model that ends when the time given is over.
trait Limited {
    fn until(self, end: Instant) -> Self;
}

impl Limited for Founding {
    fn until(self, end: Instant) -> Self {
        Self { until: Some(end), ..self }
    }
}

impl Limited for Whole {
    fn until(self, end: Instant) -> Self {
        Self { until: Some(end), ..self }
    }
}

/// How often a search that takes long says how far it is.
const PROGRESS: Duration = Duration::from_secs(20);

/// Waits for a search, and says every now and then how far it is.
fn finish<M: Model>(mut checker: impl Checker<M>, title: &str, began: Instant) -> impl Checker<M> {
    let running = checker.handles();
    let mut said = began;
    while running.iter().any(|thread| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(20));
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            let (states, depth) = (checker.unique_state_count(), checker.max_depth());
            eprintln!("{title}: {states} states, depth {depth}, {} s", began.elapsed().as_secs());
        }
    }
    for thread in running {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    checker
}

fn run<M>(model: &M, (name, expected): (&'static str, Result), cli: &Cli) -> Line
where
    M: Model + Limited + Clone + Send + Sync + 'static,
    M::State: Clone + std::hash::Hash + PartialEq + std::fmt::Debug + Send + Sync,
    M::Action: Clone + PartialEq + std::fmt::Debug + Send + Sync,
{
    let title = name;
    let began = Instant::now();
    let model = model.clone().until(began + Duration::from_secs(cli.limit));
    let properties = model.properties();
    let failures = properties.iter().filter(|p| p.expectation.discovery_is_failure()).map(|p| p.name);
    let ends = HasDiscoveries::AnyOf(failures.chain([OVER]).collect());
    let checker = model.checker().threads(cli.threads).finish_when(ends);
    // Two clusters are looked for in depth; where none is expected, everything is explored, in breadth.
    let (discoveries, states, depth) = if expected == Result::Violated {
        let done = finish(checker.spawn_dfs(), title, began);
        (done.discoveries(), done.unique_state_count(), done.max_depth())
    } else {
        let done = finish(checker.spawn_bfs(), title, began);
        (done.discoveries(), done.unique_state_count(), done.max_depth())
    };
    let seconds = began.elapsed().as_secs_f64();
    let failed =
        |name: &str| properties.iter().any(|p| p.name == name && p.expectation.discovery_is_failure());
    let broken: Vec<&str> = discoveries.keys().copied().filter(|name| failed(name)).collect();
    for name in &broken {
        if *name != ONE || expected == Result::Holds {
            eprintln!("{title}: not so: {name}");
        }
        if cli.path {
            eprintln!("{}", discoveries[name]);
        }
    }
    let missing: Vec<&str> = properties
        .iter()
        .filter(|p| !p.expectation.discovery_is_failure() && !discoveries.contains_key(p.name))
        .map(|p| p.name)
        .filter(|name| *name != OVER)
        .collect();
    let found = if !broken.is_empty() {
        Result::Violated
    } else if discoveries.contains_key(OVER) {
        Result::Unfinished
    } else if missing.is_empty() {
        Result::Holds
    } else {
        eprintln!("{title}: never: {}", missing.join("; "));
        Result::Idle
    };
    Line { name, expected, found, states, depth, seconds: (seconds * 10.0).round() / 10.0 }
}

fn word(result: Result) -> &'static str {
    match result {
        Result::Holds => "holds",
        Result::Violated => "violated",
        Result::Unfinished => "unfinished",
        Result::Idle => "idle",
    }
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let cli = Cli::parse();
    if cli.name == "list" {
        let all = MODELS.iter().map(|model| (model.name, model.expected, model.what));
        for (name, expected, what) in all.chain(WHOLE.iter().map(|m| (m.name, m.expected, m.what))) {
            println!("{name:<28} {:<10} {what}", word(expected));
        }
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let wanted = |name: &str, quick: bool, expected: Result| match cli.name.as_str() {
        "all" => expected != Result::Unfinished,
        "quick" => quick,
        one => one == name,
    };
    let whole: Vec<Whole> =
        WHOLE.iter().filter(|model| wanted(model.name, model.quick, model.expected)).cloned().collect();
    let chosen: Vec<Founding> = MODELS
        .iter()
        .filter(|model| wanted(model.name, model.quick, model.expected))
        .map(|model| Founding {
            counters: cli.counters.unwrap_or(model.counters),
            candidates: cli.candidates.unwrap_or(model.candidates),
            ..model.clone()
        })
        .collect();
    anyhow::ensure!(
        !chosen.is_empty() || !whole.is_empty(),
        "there is no model {:?}: see `cargo model list`",
        cli.name
    );
    if cli.output == Output::Table {
        println!(
            "{:<28} {:<10} {:<10} {:>11} {:>6} {:>8}",
            "model", "expected", "found", "states", "depth", "seconds"
        );
    }
    let mut good = true;
    let votes = chosen.iter().map(|model| run(model, (model.name, model.expected), &cli));
    let agents = whole.iter().map(|model| run(model, (model.name, model.expected), &cli));
    for line in votes.chain(agents) {
        // What nobody has seen the end of may have one.
        let ended = line.expected == Result::Unfinished && line.found == Result::Holds;
        good &= line.found == line.expected || ended;
        match cli.output {
            Output::Json => println!("{}", serde_json::to_string(&line)?),
            Output::Table => println!(
                "{:<28} {:<10} {:<10} {:>11} {:>6} {:>8.1}",
                line.name,
                word(line.expected),
                word(line.found),
                line.states,
                line.depth,
                line.seconds
            ),
        }
    }
    Ok(if good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, limit: u64) -> Line {
        let cli = Cli::parse_from(["model", name, "--limit", &limit.to_string()]);
        let vote = MODELS.iter().find(|m| m.name == name).map(|m| run(m, (m.name, m.expected), &cli));
        let agents = || WHOLE.iter().find(|m| m.name == name).map(|m| run(m, (m.name, m.expected), &cli));
        vote.or_else(agents).unwrap()
    }

    #[test]
    fn the_time_given_ends_a_search_and_is_not_an_end_of_what_there_is() {
        for name in ["2-of-3", "whole-annulled"] {
            let line = named(name, 0);
            assert_eq!(line.found, Result::Unfinished, "{name}");
            assert!(line.states < 20_000, "{name}: {} states in no time", line.states);
        }
    }

    #[test]
    fn what_is_found_or_explored_in_time_is_said_to_be() {
        assert_eq!(named("2-of-3-any", 600).found, Result::Holds);
        assert_eq!(named("control-leader-key", 600).found, Result::Violated);
    }
}
