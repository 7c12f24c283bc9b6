//! `cargo lab scenario`: the acceptance tests.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::{Output, Source, prepare};
use crate::scenarios::{self, ALL, LONG, NIGHTLY, runner};
use crate::view;

#[derive(Debug, Args)]
pub(super) struct ScenarioArgs {
    /// `list`, `list-long`, `list-nightly`, `all`, `long`, `nightly`, a name, or the beginning of names and a `*`.
    which: String,
    #[command(flatten)]
    source: Source,
    /// Seed of the scenarios' dice; without it one is thrown, and told.
    #[arg(long)]
    seed: Option<u64>,
    /// How many run at the same time; most of a scenario is waiting.
    #[arg(long, default_value_t = 5)]
    jobs: usize,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl ScenarioArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let listed = match self.which.as_str() {
            "list" => Some(ALL),
            "list-long" => Some(LONG),
            "list-nightly" => Some(NIGHTLY),
            _ => None,
        };
        if let Some(listed) = listed {
            let lines: Vec<[String; 2]> =
                listed.iter().map(|s| [s.name.to_owned(), s.about.to_owned()]).collect();
            print!("{}", view::table(&lines));
            return Ok(ExitCode::SUCCESS);
        }
        super::root_and_interrupts()?;
        let chosen = scenarios::select(&self.which)?;
        let (binaries, rootfs) = prepare(&self.source, &|text| eprintln!("==> {text}"))?;
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let kind = if binaries.real { "k3s" } else { "the stand-in for k3s" };
        eprintln!("==> {} scenarios with {kind} {}, --seed {seed}", chosen.len(), binaries.version);
        let began = Instant::now();
        let json = self.output == Output::Json;
        // With a real k3s one lab fills the machine.
        let jobs = if binaries.real { 1 } else { self.jobs };
        let reports = runner::run(&chosen, &binaries, &rootfs, seed, jobs, |report| {
            if json {
                println!("{}", report.to_json());
            } else {
                println!("{}", report.to_line());
            }
        });
        let failed = chosen.len() - reports.iter().filter(|report| report.passed).count();
        eprintln!(
            "==> {} passed, {failed} failed, {:.0} s, --seed {seed}",
            chosen.len() - failed,
            began.elapsed().as_secs_f64()
        );
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
