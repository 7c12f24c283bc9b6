//! The command line of `cargo lab`.

mod bench;
mod rehearse;
mod scenario;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::setup::binaries::{self, Binaries, Profile};
use crate::setup::{self, packages, rootfs};
use crate::wait;

/// Hosts with real systemd on this machine, one cluster out of them, and rehearsals of failure.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
struct Cli {
    /// Name of the lab; several may stand side by side.
    #[arg(long, global = true, default_value = "lab")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For machines: one JSON document on standard output.
    Json,
}

/// What goes into the hosts.
#[derive(Debug, Clone, Args)]
struct Source {
    /// A k3s binary instead of the stand-in.
    #[arg(long, value_name = "PATH")]
    k3s: Option<PathBuf>,
    /// A `muster` binary instead of the one that is built here.
    #[arg(long, value_name = "PATH")]
    muster: Option<PathBuf>,
    /// How `muster` is built.
    #[arg(long, value_enum, default_value = "lab")]
    profile: Profile,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make identical hosts, power them on and watch one cluster form.
    Up(up::Up),
    /// What every node thinks.
    Status {
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Why a node stands where it stands: its own `muster why`.
    Why {
        /// Number or name, as in 2 or node2.
        host: String,
    },
    /// A host's journal: Muster and k3s.
    Logs {
        /// Number or name.
        host: String,
        /// Go on as lines come.
        #[arg(short, long)]
        follow: bool,
        /// Another unit.
        #[arg(short, long)]
        unit: Option<String>,
    },
    /// A shell in a host.
    Shell {
        /// Number or name.
        host: String,
        /// A command instead of a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// kubectl on a server of the cluster.
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Follow what happens until Ctrl-C.
    Watch,
    /// Cut a host's power.
    Kill {
        /// Number or name.
        host: String,
    },
    /// Power a host on.
    Start {
        /// Number or name.
        host: String,
    },
    /// Shut a host down in good order and power it on again.
    Reboot {
        /// Number or name.
        host: String,
    },
    /// Stop every process of a host where it stands.
    Freeze {
        /// Number or name.
        host: String,
    },
    /// Let a frozen host go on.
    Thaw {
        /// Number or name.
        host: String,
    },
    /// Image a host anew and power it on: same name, address and configuration, empty disk.
    Wipe {
        /// Number or name.
        host: String,
    },
    /// Add one more host with the same configuration and power it on.
    Add,
    /// Divide the network, as in 1,2|3,4,5.
    Partition {
        /// Groups of hosts, divided by `|`.
        groups: String,
    },
    /// Make the network whole.
    Heal,
    /// The acceptance tests, each on hosts of its own.
    Scenario(scenario::ScenarioArgs),
    /// Figures: how long a formation takes, and what Muster costs.
    Bench(bench::BenchArgs),
    /// Remove the lab: processes, mounts, namespaces, cgroups, files.
    Down {
        /// Every lab on this machine, also what a killed run left behind.
        #[arg(long)]
        all: bool,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let name = cli.name.as_str();
    match &cli.command {
        Command::Scenario(scenario) => return scenario.run(),
        Command::Bench(bench) => return bench.run(),
        Command::Up(up) => {
            root_and_interrupts()?;
            return up.run(name);
        }
        Command::Watch => root_and_interrupts()?,
        _ => setup::need_root()?,
    }
    match cli.command {
        Command::Up(_) | Command::Scenario(_) | Command::Bench(_) => {}
        Command::Status { output } => rehearse::status(name, output)?,
        Command::Why { host } => return rehearse::why(name, &host),
        Command::Logs { host, follow, unit } => return rehearse::logs(name, &host, follow, unit.as_deref()),
        Command::Shell { host, command } => return rehearse::shell(name, &host, &command),
        Command::Kubectl { args } => return rehearse::kubectl(name, &args),
        Command::Watch => rehearse::watch(name)?,
        Command::Kill { host } => rehearse::on_host(name, &host, "power cut", |host| host.power_cut())?,
        Command::Start { host } => {
            rehearse::on_host(name, &host, "powered on", |host| host.start().map(drop))?
        }
        Command::Reboot { host } => rehearse::on_host(name, &host, "rebooted", |host| host.reboot())?,
        Command::Freeze { host } => rehearse::on_host(name, &host, "frozen", |host| host.freeze())?,
        Command::Thaw { host } => rehearse::on_host(name, &host, "goes on", |host| host.thaw())?,
        Command::Wipe { host } => rehearse::on_host(name, &host, "imaged anew and powered on", |host| {
            host.wipe()?;
            host.start().map(drop)
        })?,
        Command::Add => rehearse::add(name)?,
        Command::Partition { groups } => rehearse::partition(name, &groups)?,
        Command::Heal => rehearse::heal(name)?,
        Command::Down { all } => rehearse::down(name, all)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses to go on without root, and makes Ctrl-C remove what was made.
fn root_and_interrupts() -> Result<()> {
    setup::need_root()?;
    wait::catch_interrupts()
}

/// Prepares this machine: packages, binaries, root file system.
fn prepare(source: &Source, tell: setup::Tell) -> Result<(Binaries, PathBuf)> {
    packages::ensure(tell)?;
    let binaries = binaries::build(source.profile, source.muster.clone(), source.k3s.clone(), tell)?;
    let rootfs = rootfs::ensure(tell)?;
    Ok((binaries, rootfs))
}
