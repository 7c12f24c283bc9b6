//! `cargo lab bench`: figures, not a test.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Output, Source, prepare};
use crate::bench::{Bench, HealingBench, HostBench, gossip, healing, probes};
use crate::setup::binaries::{self, Profile};
use crate::setup::{Tell, packages};
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
    /// Muster's gossip beside Serf's (Debian's package, encrypted): traffic, processor, memory, joining, noticing deaths.
    Gossip {
        /// A `muster` binary instead of the one that is built here.
        #[arg(long, value_name = "PATH")]
        muster: Option<PathBuf>,
        /// Sizes of the groups.
        #[arg(long, value_delimiter = ',', default_value = "3,10,40", value_parser = clap::value_parser!(u8).range(3..=200))]
        nodes: Vec<u8>,
        /// Percentages of frames that are lost.
        #[arg(long, value_delimiter = ',', default_value = "0,10,30", value_parser = clap::value_parser!(u8).range(0..=90))]
        loss: Vec<u8>,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// A server is lost, paused, imaged anew, or leaves: how long until three vote again, and what a client of the API sees, with Muster
    /// and with its agents stopped.
    Healing {
        /// These faults alone: follower_lost, etcd_leader_lost, server_paused, data_lost, imaged_anew, server_leaves.
        #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(healing::names()))]
        only: Vec<String>,
        /// A k3s binary instead of the stand-in.
        #[arg(long, value_name = "PATH")]
        k3s: Option<PathBuf>,
        /// A `muster` binary instead of the one that is built here.
        #[arg(long, value_name = "PATH")]
        muster: Option<PathBuf>,
        /// How `muster` is built.
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// The sweep of a /24 and of a /20: time to the first peer, time for all of it, frames a second.
    Sweep {
        /// A `muster` binary instead of the one that is built here.
        #[arg(long, value_name = "PATH")]
        muster: Option<PathBuf>,
        /// How `muster` is built.
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
        /// Sweeps of each network.
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
        let (result, text, output) = match &self.what {
            What::Formation { k3s, muster, profile, runs, output } => {
                let source = Source { k3s: k3s.clone(), muster: muster.clone(), profile: *profile };
                let (binaries, rootfs) = prepare(&source, &tell)?;
                let bench = Bench { binaries: &binaries, rootfs: &rootfs, runs: *runs, tell: &tell };
                let result = bench.run()?;
                let text = table(&result);
                (result, text, output)
            }
            What::Gossip { muster, nodes, loss, output } => {
                packages::ensure(&tell)?;
                packages::also(&[("serf", "serf")], &tell)?;
                let muster = agent(muster.as_ref(), Profile::Release, &tell)?;
                let result = gossip::Bench { muster: &muster, nodes, loss, tell: &tell }.run()?;
                let text = gossip::table(&result);
                (result, text, output)
            }
            What::Healing { only, k3s, muster, profile, output } => {
                let source = Source { k3s: k3s.clone(), muster: muster.clone(), profile: *profile };
                let (binaries, rootfs) = prepare(&source, &tell)?;
                let result =
                    HealingBench { binaries: &binaries, rootfs: &rootfs, tell: &tell, only }.run()?;
                let text = healing::table(&result);
                (result, text, output)
            }
            What::Sweep { muster, profile, runs, output } => {
                packages::ensure(&tell)?;
                let muster = agent(muster.as_ref(), *profile, &tell)?;
                let result = probes::Bench { muster: &muster, runs: *runs, tell: &tell }.run()?;
                let text = probes::table(&result);
                (result, text, output)
            }
            What::Host { muster, profile, runs, output } => {
                let muster = agent(muster.as_ref(), *profile, &tell)?;
                let result = HostBench { muster: &muster, runs: *runs, tell: &tell }.run()?;
                let text = table(&result);
                (result, text, output)
            }
        };
        if *output == Output::Json {
            println!("{result}");
        } else {
            print!("{text}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The binary that is given, or one that is built here.
fn agent(given: Option<&PathBuf>, profile: Profile, tell: Tell) -> Result<PathBuf> {
    match given {
        Some(path) => path.canonicalize().with_context(|| format!("find {}", path.display())),
        None => binaries::muster(profile, tell),
    }
}

fn table(result: &Value) -> String {
    let entries = result.as_object().into_iter().flatten();
    let lines: Vec<[String; 2]> = entries.map(|(key, value)| [key.clone(), value.to_string()]).collect();
    view::table(&lines)
}
