//! What a person or a unit file can ask for.

mod args;
mod boot;
mod config;
mod discover;
mod founding;
mod gate;
mod heal;
mod health;
mod host;
mod image;
mod log;
mod recover;
mod run;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use args::{Cli, Command, ConfigCommand, FoundingCommand, ImageCommand, OutputKind, TokenCommand};
use clap::Parser;

use crate::config::{Env, Flags, Loaded, load};

/// It went as asked.
pub const DONE: u8 = 0;
/// It failed; the message says what, and what to do.
pub const FAILED: u8 = 1;
/// The command line is wrong (clap's own code).
pub const USAGE: u8 = 2;
/// `why`, `up`, `health --ready`: the node waits for something, or is degraded.
pub const WAITING: u8 = 3;
/// `why`, `up`, `health`: the node is parked until a person acts or the named cause is gone.
pub const PARKED: u8 = 4;
/// `doctor`: the machine may be an agent, and is not told to be one.
pub const AGENT_ONLY: u8 = 5;
/// `doctor`: the machine may be neither server nor agent.
pub const NEITHER: u8 = 6;

/// The whole command line, for the generator of manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the command line and does what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let flags = cli.settings.flags();
    let json = cli.output == OutputKind::Json;
    // ring is the one provider; reqwest takes the process's default. A second install is refused, and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if cli.command.only_shows() {
        // Piped into `head`, it ends quietly. What changes something goes on to its end instead.
        sigpipe::reset();
    }
    let code = match cli.command {
        Command::Run => run::run(&flags),
        Command::Up => up::up(&flags),
        Command::Plan(args) => host::plan(&flags, &args.root, json),
        Command::Apply(args) => host::apply(&flags, &args.root, json),
        Command::Revert(args) => host::revert(&flags, &args.root, json),
        Command::Doctor { peers } => host::doctor(&flags, &peers, json),
        Command::Status => status::status(&flags, json),
        Command::Why => status::why(&flags, json),
        Command::Leave { on_poweroff: true, .. } => heal::leave_on_poweroff(&flags),
        Command::Leave { reason, yes, cancel, .. } => heal::leave(&flags, &reason, yes, cancel),
        Command::Log(args) => log::log(&flags, &args, json),
        Command::Discover => discover::discover(&flags, json),
        Command::Health { ready, wait } => {
            let wait = wait.map(std::time::Duration::from_secs);
            health::health(&flags, health::Asked { ready, wait }, json)
        }
        Command::Recover { survivor, destroyed, although_they_may_return, reason, yes } => {
            let may_return = although_they_may_return;
            recover::recover(&flags, recover::Word { survivor, destroyed, may_return, reason, yes })
        }
        Command::Fold { into, yes } => recover::fold(&flags, &into, yes),
        Command::Founding(FoundingCommand::Show) => founding::show(&flags, json),
        Command::Founding(FoundingCommand::Annul { reason, yes }) => founding::annul(&flags, &reason, yes),
        Command::Config(ConfigCommand::Show) => config::show(&flags, json),
        Command::Config(ConfigCommand::Check) => config::check(&flags, json),
        Command::Token(TokenCommand::New) => config::new_token(),
        Command::Gate { role, k3s_data_dir } => gate::gate(&flags, role, k3s_data_dir),
        Command::Clock => host::clock(),
        Command::Image(ImageCommand::Seal { image, this_machine }) => image::seal(&image, this_machine, json),
        Command::Image(ImageCommand::Verify { image }) => image::verify(&image, json),
        Command::Version => {
            println!("muster {}", env!("CARGO_PKG_VERSION"));
            Ok(DONE)
        }
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("muster: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// The state directory, also when the rest of the configuration does not hold: what is on disk must stay readable.
fn state_dir(flags: &Flags) -> PathBuf {
    let shown = match load(std::path::Path::new("/"), &Env::of_process(), flags) {
        Ok(loaded) => return loaded.settings.state_dir,
        Err(errors) => errors.shown,
    };
    let row = shown.iter().find(|row| row.key == "state-dir").and_then(|row| row.value.as_str());
    PathBuf::from(row.unwrap_or("/var/lib/muster"))
}

/// The whole configuration, or its problems as one error.
fn settings(flags: &Flags) -> anyhow::Result<Loaded> {
    load(std::path::Path::new("/"), &Env::of_process(), flags).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// A runtime for commands that wait for something.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Prints a value as JSON in one line.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
