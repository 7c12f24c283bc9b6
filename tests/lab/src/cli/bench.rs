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
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Output,
}

/// The agent that is measured.
#[derive(Debug, Args)]
struct Agent {
    /// A `muster` binary instead of the one that is built here.
    #[arg(long, value_name = "PATH")]
    muster: Option<PathBuf>,
    /// How `muster` is built.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

impl Agent {
    /// The binary that is given, or one that is built here.
    fn binary(&self, tell: Tell) -> Result<PathBuf> {
        match &self.muster {
            Some(path) => path.canonicalize().with_context(|| format!("find {}", path.display())),
            None => binaries::muster(self.profile, tell),
        }
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// The formation of three servers, by Muster and by hand, and what Muster costs when idle.
    #[command(mut_arg("profile", |profile| profile.default_value("release")))]
    Formation {
        #[command(flatten)]
        source: Source,
        /// Formations on each side.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
    /// Muster's gossip beside Serf's (Debian's package, encrypted): traffic, processor, memory, joining, noticing deaths.
    Gossip {
        #[command(flatten)]
        agent: Agent,
        /// Sizes of the groups.
        #[arg(long, value_delimiter = ',', default_value = "3,10,40", value_parser = clap::value_parser!(u8).range(3..=200))]
        nodes: Vec<u8>,
        /// Percentages of frames that are lost.
        #[arg(long, value_delimiter = ',', default_value = "0,10,30", value_parser = clap::value_parser!(u8).range(0..=90))]
        loss: Vec<u8>,
    },
    /// A server is lost, paused, imaged anew, or leaves: how long until three vote again, and what a client of the API sees, with Muster
    /// and with its agents stopped.
    #[command(mut_arg("profile", |profile| profile.default_value("release")))]
    Healing {
        /// These faults alone: follower_lost, etcd_leader_lost, server_paused, data_lost, imaged_anew, server_leaves.
        #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(healing::names()))]
        only: Vec<String>,
        /// Runs of each fault on each side; the medians and every outage are told.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        #[command(flatten)]
        source: Source,
    },
    /// The sweep of a /24 and of a /20: time to the first peer, time for all of it, frames a second.
    Sweep {
        #[command(flatten)]
        agent: Agent,
        /// Sweeps of each network.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
    /// The preparation of a host, by Muster and by the operator's guide as a script, first and with nothing left to do.
    Host {
        #[command(flatten)]
        agent: Agent,
        /// Runs on each side, beside one that warms the caches.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
}

impl BenchArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        super::root_and_interrupts()?;
        let tell = |text: &str| eprintln!("==> {text}");
        let (result, text) = match &self.what {
            What::Formation { source, runs } => {
                let (binaries, rootfs) = prepare(source, &tell)?;
                let bench = Bench { binaries: &binaries, rootfs: &rootfs, runs: *runs, tell: &tell };
                let result = bench.run()?;
                let text = table(&result);
                (result, text)
            }
            What::Gossip { agent, nodes, loss } => {
                packages::ensure(&tell)?;
                packages::also(&[("serf", "serf")], &tell)?;
                let muster = agent.binary(&tell)?;
                let result = gossip::Bench { muster: &muster, nodes, loss, tell: &tell }.run()?;
                let text = gossip::table(&result);
                (result, text)
            }
            What::Healing { only, runs, source } => {
                let (binaries, rootfs) = prepare(source, &tell)?;
                let result =
                    HealingBench { binaries: &binaries, rootfs: &rootfs, tell: &tell, only, runs: *runs }
                        .run()?;
                let text = healing::table(&result);
                (result, text)
            }
            What::Sweep { agent, runs } => {
                packages::ensure(&tell)?;
                let muster = agent.binary(&tell)?;
                let result = probes::Bench { muster: &muster, runs: *runs, tell: &tell }.run()?;
                let text = probes::table(&result);
                (result, text)
            }
            What::Host { agent, runs } => {
                let muster = agent.binary(&tell)?;
                let result = HostBench { muster: &muster, runs: *runs, tell: &tell }.run()?;
                let text = table(&result);
                (result, text)
            }
        };
        if self.output == Output::Json {
            println!("{result}");
        } else {
            print!("{text}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(result: &Value) -> String {
    let entries = result.as_object().into_iter().flatten();
    let lines: Vec<[String; 2]> = entries.map(|(key, value)| [key.clone(), value.to_string()]).collect();
    view::table(&lines)
}
