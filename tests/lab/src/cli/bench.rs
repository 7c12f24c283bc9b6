//! `cargo lab bench`: figures, not a test.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Output, Source, prepare};
use crate::bench::Bench;
use crate::setup::binaries::Profile;
use crate::view;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The formation of three servers, by Muster and by hand, and what Muster costs when idle.
    Formation {
        /// A k3s binary instead of the stand-in.
        #[arg(long, value_name = "PATH")]
        k3s: Option<PathBuf>,
        /// A `muster` binary instead of the one that is built here.
        #[arg(long, value_name = "PATH")]
        muster: Option<PathBuf>,
        /// How `muster` is built.
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
        /// Formations on each side.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
}

impl BenchArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        super::root_and_interrupts()?;
        let What::Formation { k3s, muster, profile, runs, output } = &self.what;
        let tell = |text: &str| eprintln!("==> {text}");
        let source = Source { k3s: k3s.clone(), muster: muster.clone(), profile: *profile };
        let (binaries, rootfs) = prepare(&source, &tell)?;
        let bench = Bench { binaries: &binaries, rootfs: &rootfs, runs: *runs, tell: &tell };
        let result = bench.run()?;
        if *output == Output::Json {
            println!("{result}");
        } else {
            print!("{}", table(&result));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(result: &Value) -> String {
    let entries = result.as_object().into_iter().flatten();
    let lines: Vec<[String; 2]> = entries.map(|(key, value)| [key.clone(), value.to_string()]).collect();
    view::table(&lines)
}
