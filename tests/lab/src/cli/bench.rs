//! `cargo lab bench`: figures, not a test.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Output, Source, prepare};
use crate::bench::{Bench, HostBench};
use crate::setup::binaries::{self, Profile};
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
    /// The preparation of a host, by Muster and by the operator's guide as a script, first and with nothing left to do.
    Host {
        /// A `muster` binary instead of the one that is built here.
        #[arg(long, value_name = "PATH")]
        muster: Option<PathBuf>,
        /// How `muster` is built.
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
        /// Runs on each side, beside one that warms the caches.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
}

impl BenchArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        super::root_and_interrupts()?;
        let tell = |text: &str| eprintln!("==> {text}");
        let (result, output) = match &self.what {
            What::Formation { k3s, muster, profile, runs, output } => {
                let source = Source { k3s: k3s.clone(), muster: muster.clone(), profile: *profile };
                let (binaries, rootfs) = prepare(&source, &tell)?;
                let bench = Bench { binaries: &binaries, rootfs: &rootfs, runs: *runs, tell: &tell };
                (bench.run()?, output)
            }
            What::Host { muster, profile, runs, output } => {
                let built = match muster {
                    Some(_) => None,
                    None => Some(binaries::build(*profile, None, None, &tell)?.muster),
                };
                let path = muster.clone().or(built).unwrap_or_default();
                let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
                (HostBench { muster: &path, runs: *runs, tell: &tell }.run()?, output)
            }
        };
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
