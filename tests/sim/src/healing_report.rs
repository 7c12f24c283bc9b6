//! Many histories of healing, and what they came to.

use std::process::ExitCode;

use serde_json::json;

use crate::control::Control;
use crate::history::Script;
use crate::run::{Totals, run_all};
use crate::{Cli, Output, crash};

/// Seeds that once failed: replayed first, every time.
const FAILED_ONCE: &[u64] = &[];

/// What must have been done or refused at least once in a run that is large enough to say so.
const REMEDIES: &[&str] = &[
    "remove",
    "demote",
    "leave",
    "promote",
    "withdraw",
    "settle",
    "drain",
    "lease-taken",
    "lease-write-lost",
];

/// What must have been said at least once.
const RULES: &[&str] = &[
    "draining",
    "members-differ",
    "order-done",
    "spare-failed",
    "promoting",
    "cordon-left",
    "heal-waits-for-learner",
    "server-silent",
    "no-spare",
    "removal-refused",
    "member-without-node",
    "removing",
    "server-removed",
    "servers-surplus",
    "surplus-demoted",
    "servers-missing",
    "server-joining",
    "spare-promoted",
    "removal-unverified",
    "rejoining",
    "promoted",
    "servers-full",
    "leaving",
    "leave-refused",
    "left-cluster",
    "name-held",
    "quorum-lost",
    "remedy-failed",
];

/// Histories from which on everything must have occurred.
const ENOUGH: u64 = 400;

/// Runs them and prints.
pub fn run(cli: &Cli, threads: usize) -> ExitCode {
    let seed_of = |place: usize| match FAILED_ONCE.get(place) {
        Some(seed) => *seed,
        None => cli.seed + (place - FAILED_ONCE.len()) as u64,
    };
    #[expect(clippy::disallowed_methods, reason = "the rate is wall-clock time")]
    let started = std::time::Instant::now();
    let script = |place: usize| Script { heals: true, control: cli.control, ..Script::of(seed_of(place)) };
    let totals = run_all(cli.histories + FAILED_ONCE.len(), threads, &script);
    let seconds = started.elapsed().as_secs_f64();
    if cli.control != Control::None {
        return crate::caught(cli.control, &totals, &seed_of);
    }
    let points = (cli.crash_points > 0).then(|| crash::enumerate_healing(cli.seed, threads));
    let missing = missing(&totals);
    let clean = totals.is_clean()
        && points.as_ref().is_none_or(|points| points.totals.is_clean())
        && missing.is_empty();
    let per_core = totals.histories as f64 / totals.processor.as_secs_f64().max(1e-9);
    if cli.output == Output::Json {
        let first = totals.violations.first().map(|(place, text)| (seed_of(*place), text));
        let report = json!({
            "histories": totals.histories, "rested": totals.formed, "lost_quorum": totals.lost_quorum,
            "violations": totals.violations.len() + points.as_ref().map_or(0, |p| p.totals.violations.len()),
            "stuck": totals.stuck.len() + points.as_ref().map_or(0, |p| p.totals.stuck.len()),
            "first_violation": first, "first_stuck": totals.stuck.first().map(|place| seed_of(*place)),
            "per_second": (totals.histories as f64 / seconds).round(),
            "per_second_per_core": per_core.round(), "threads": threads,
            "remedies": totals.coverage.remedies(), "never_seen": missing,
            "filled_seconds": {
                "count": totals.filled_ms.len(), "p50": totals.filled(50), "p99": totals.filled(99),
                "grace": 30,
            },
            "crash_points": points.as_ref().map(|p| p.points),
            "coverage": totals.coverage.json(),
        });
        println!("{report}");
    } else {
        println!(
            "{} histories of healing in {seconds:.1} s on {threads} threads: {per_core:.0} a second of one core",
            totals.histories
        );
        println!(
            "{} at rest with their servers; {} violations, {} stuck; {} lost a majority for good",
            totals.formed,
            totals.violations.len(),
            totals.stuck.len(),
            totals.lost_quorum
        );
        println!(
            "{} vacancies filled; virtual seconds from the loss, 30 s of them grace: P50 {:.1}, P99 {:.1}",
            totals.filled_ms.len(),
            totals.filled(50).unwrap_or_default(),
            totals.filled(99).unwrap_or_default()
        );
        print_bad(&totals, &seed_of);
        if let Some(points) = &points {
            print_points(points);
        }
        for (title, counts) in totals.coverage.groups() {
            println!("{title}:");
            for (name, count) in counts {
                println!("  {name:28} {count}");
            }
        }
        for name in &missing {
            println!("never seen: {name}");
        }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_bad(totals: &Totals, seed_of: &dyn Fn(usize) -> u64) {
    for (place, violation) in totals.violations.iter().take(8) {
        let seed = seed_of(*place);
        println!("  seed {seed}: {violation}   (cargo sim --healing --replay {seed})");
    }
    for place in totals.stuck.iter().take(8) {
        let seed = seed_of(*place);
        println!("  seed {seed}: stuck   (cargo sim --healing --replay {seed})");
    }
}

fn print_points(points: &crash::Points) {
    println!(
        "crash points: {} at the {} points of {} scenes, machine and agent alone; {} violations, {} stuck",
        points.points,
        points.effects,
        points.bases,
        points.totals.violations.len(),
        points.totals.stuck.len()
    );
    let stuck = points.totals.stuck.iter().map(|place| (*place, "stuck"));
    let violated = points.totals.violations.iter().map(|(place, text)| (*place, text.as_str()));
    for (place, text) in violated.chain(stuck).take(8) {
        let script = &points.scripts[place];
        let (at, kind) = script.calm.flatten().unwrap_or((0, crate::machine::Crash::Power));
        let only = if kind == crate::machine::Crash::Agent { " --agent-only" } else { "" };
        let scene = crate::scene::Scene::ENUMERATED.iter().position(|scene| Some(*scene) == script.scene);
        let scene = scene.unwrap_or_default();
        let seed = script.seed;
        println!("  {text}   (cargo sim --healing --replay {seed} --crash-after {at} --scene {scene}{only})");
    }
}

/// What never occurred, in a run that is large enough for it.
fn missing(totals: &Totals) -> Vec<&'static str> {
    if totals.histories < ENOUGH {
        return Vec::new();
    }
    let undone = REMEDIES.iter().filter(|name| !totals.coverage.remedies().contains_key(**name));
    let unsaid = RULES.iter().filter(|name| totals.coverage.times(name) == 0);
    undone.chain(unsaid).copied().collect()
}
