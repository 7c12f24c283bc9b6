//! `cargo model`: explores the founding protocol over the code that ships, in every interleaving within each model's limits.
//!
//! A published claim stays readable for ever, in any order, by anyone or never: that is loss, delay, duplication, reordering,
//! stale reads and partitions at once. A node is its disk and nothing else: that is a crash and a restart at every point.

mod adapter;
mod models;
mod state;
mod views;

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use models::{Founding, MODELS, ONE, Result};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores the founding protocol in every interleaving.
#[derive(Parser)]
#[command(name = "cargo model", version)]
struct Cli {
    /// A model's name, `quick` (the set of the continuous integration), `all`, or `list`.
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

fn run(model: &Founding, limit: u64, threads: usize, path: bool) -> Line {
    let began = Instant::now();
    let checker = model.clone().checker().threads(threads).timeout(Duration::from_secs(limit));
    // Two clusters are looked for in depth; where none is expected, everything is explored, in breadth.
    let (discoveries, states, depth) = if model.expected == Result::Violated {
        let done = checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
        (done.discoveries(), done.unique_state_count(), done.max_depth())
    } else {
        let done = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        (done.discoveries(), done.unique_state_count(), done.max_depth())
    };
    let seconds = began.elapsed().as_secs_f64();
    let properties = model.properties();
    let failed =
        |name: &str| properties.iter().any(|p| p.name == name && p.expectation.discovery_is_failure());
    let broken: Vec<&str> = discoveries.keys().copied().filter(|name| failed(name)).collect();
    for name in &broken {
        if *name != ONE || model.expected == Result::Holds {
            eprintln!("{}: not so: {name}", model.name);
        }
        if path {
            eprintln!("{}", discoveries[name]);
        }
    }
    let missing: Vec<&str> = properties
        .iter()
        .filter(|p| !p.expectation.discovery_is_failure() && !discoveries.contains_key(p.name))
        .map(|p| p.name)
        .collect();
    let found = if !broken.is_empty() {
        Result::Violated
    } else if seconds >= limit as f64 {
        Result::Unfinished
    } else if missing.is_empty() {
        Result::Holds
    } else {
        eprintln!("{}: never: {}", model.name, missing.join("; "));
        Result::Idle
    };
    Line {
        name: model.name,
        expected: model.expected,
        found,
        states,
        depth,
        seconds: (seconds * 10.0).round() / 10.0,
    }
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
        for model in MODELS {
            println!("{:<28} {:<9} {}", model.name, word(model.expected), model.what);
        }
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let chosen: Vec<Founding> = MODELS
        .iter()
        .filter(|model| match cli.name.as_str() {
            "all" => true,
            "quick" => model.quick,
            name => model.name == name,
        })
        .map(|model| Founding {
            counters: cli.counters.unwrap_or(model.counters),
            candidates: cli.candidates.unwrap_or(model.candidates),
            ..model.clone()
        })
        .collect();
    anyhow::ensure!(!chosen.is_empty(), "there is no model {:?}: see `cargo model list`", cli.name);
    if cli.output == Output::Table {
        println!(
            "{:<28} {:<10} {:<10} {:>11} {:>6} {:>8}",
            "model", "expected", "found", "states", "depth", "seconds"
        );
    }
    let mut good = true;
    for model in &chosen {
        let line = run(model, cli.limit, cli.threads, cli.path);
        good &= line.found == line.expected;
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
