//! The command line: its words, their help, and what they take.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::log;
use crate::config::Flags;

/// Turns identical machines into one highly available k3s cluster, and keeps it one.
#[derive(Parser)]
#[command(
    name = "muster",
    version,
    after_help = "Exit codes: 0 done (why, up: serving; health: well), 1 failed, 2 usage, 3 waiting or degraded (discover: no candidates),\n\
                  4 parked; doctor: 5 an agent only, 6 neither server nor agent.\n\n\
                  Examples:\n  \
                  muster up --servers 1            a single-server cluster on this machine\n  \
                  muster status                    where this node and its peers stand\n  \
                  muster why                       the one fact that blocks\n  \
                  muster log --since 2h            what this node decided lately\n  \
                  muster config show               every setting with its origin"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    /// How to print.
    #[arg(long, global = true, value_enum, default_value_t = OutputKind::Table, env = "MUSTER_OUTPUT")]
    pub(super) output: OutputKind,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputKind {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run the agent: the service's own command.
    Run,
    /// Install the agent as a service on this machine, start it, and follow it until it serves.
    #[command(
        after_help = "Example:\n  muster up --servers 1 --k3s-sources /root/k3s-dir --k3s-version v1.33.1+k3s1"
    )]
    Up,
    /// Show what would be changed on this host, and change nothing.
    Plan(HostArgs),
    /// Make the host fit for k3s, journalled.
    Apply(HostArgs),
    /// Undo exactly what apply did, from its journal.
    Revert(HostArgs),
    /// Say whether this machine may be a server, an agent or neither, the worst finding first. Changes nothing; writes and
    /// removes a few kilobytes where etcd will live.
    #[command(
        after_help = "Exit codes: 0 it may be what it is configured to be, 5 an agent only, 6 neither.\n\n\
                            Example:\n  muster doctor --peer 10.0.0.12 --peer 10.0.0.13:6443"
    )]
    Doctor {
        /// A machine whose ports 6443, 2379, 2380 and 10250, or this one port, are knocked at over TCP.
        #[arg(long = "peer", value_name = "ADDR[:PORT]", value_delimiter = ',')]
        peers: Vec<crate::host::Peer>,
    },
    /// Show where this node and its peers stand.
    Status,
    /// Name the one fact that blocks, and what happens next.
    Why,
    /// Take this machine out of the cluster: its pods move away, its member is removed, then k3s is stopped here and its data moved
    /// aside. It stays out, over reboots too, until that is taken back.
    #[command(
        after_help = "Examples:\n  muster leave --reason \"goes to the workshop\" --yes\n  muster leave --cancel"
    )]
    Leave {
        /// Why, for the log.
        #[arg(long, default_value = "muster leave")]
        reason: String,
        /// Do it. Without this the command only says what it would do.
        #[arg(long)]
        yes: bool,
        /// Take the request back: the machine stays, or joins again.
        #[arg(long, conflicts_with = "yes")]
        cancel: bool,
        /// Leave if the machine is being powered off, and wait until it is out; do nothing if it reboots. What
        /// muster-leave.service calls. It joins again when it is powered on.
        #[arg(long, conflicts_with_all = ["yes", "cancel"])]
        on_poweroff: bool,
    },
    /// Show what this node decided: verdicts, votes, remedies, refusals, phases. Needs root.
    #[command(
        after_help = "Examples:\n  muster log --since 2h\n  muster log --kind remedy,refusal\n  muster log --verify"
    )]
    Log(log::LogArgs),
    /// Ask every source of peers once and show what it answered. Works beside a running agent and without one; changes nothing.
    #[command(
        after_help = "Exit codes: 0 there are candidates, 3 there are none.\n\nExample:\n  muster discover --output json"
    )]
    Discover,
    /// Say by exit code whether this machine is well: for load balancers, autoscaling groups and scripts.
    #[command(
        after_help = "Exit codes: 0 well; 1 the agent does not run, hangs, or has said nothing since boot; 3 with --ready: it waits,\n\
                      or is degraded; 4 parked until a person acts.\n\n\
                      Example:\n  muster health --ready --wait 600"
    )]
    Health {
        /// Well only when it serves; without this a machine that waits or is degraded is well, too.
        #[arg(long)]
        ready: bool,
        /// Wait up to so many seconds until it is; ends sooner when the node has been parked for 15 seconds.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Give a lost quorum up: this server survives with its data, the others join it as new nodes. Shows the evidence; refuses while
    /// the cluster can be healed by starting servers.
    #[command(
        after_help = "Examples:\n  muster recover\n  muster recover --destroyed node2,node3 --survivor node1 --reason \"rack burnt\" --yes"
    )]
    Recover {
        /// This server's node name, as a confirmation.
        #[arg(long, value_name = "NAME")]
        survivor: Option<String>,
        /// Servers that will never start again with their disks.
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        destroyed: Vec<String>,
        /// Do it although silent servers are not known to be destroyed: a majority of them that returns unheard serves the old
        /// cluster until it hears of this.
        #[arg(long)]
        although_they_may_return: bool,
        /// Why: it is kept in the ledger of every node.
        #[arg(long, default_value = "muster recover")]
        reason: String,
        /// Do it. Without this the command only shows what it would do.
        #[arg(long)]
        yes: bool,
    },
    /// Two clusters under one certificate: move this machine to the other one. Shows what would be lost.
    #[command(after_help = "Example:\n  muster fold --into node2 --yes")]
    Fold {
        /// Node name or address of a server of the cluster that stays.
        #[arg(long, value_name = "NODE")]
        into: String,
        /// Do it. Without this the command only says what it would do.
        #[arg(long)]
        yes: bool,
    },
    /// The founding: its certificate, votes and eras.
    #[command(subcommand)]
    Founding(FoundingCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask whether k3s may start on this machine: called by its unit before every start. Local facts only.
    Gate {
        /// As what.
        #[arg(id = "start_as", value_name = "ROLE")]
        role: GateRole,
        /// k3s's data directory; with --state-dir the gate needs neither configuration nor token.
        #[arg(long)]
        k3s_data_dir: Option<PathBuf>,
    },
    /// Print how the kernel keeps the wall clock, as JSON: the agent asks by it from outside its sandbox.
    #[command(hide = true)]
    Clock,
    /// Images: remove what must not be copied, and refuse an image that carries it.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
pub(super) enum ImageCommand {
    /// Remove identity, tokens, k3s's data and traces from an image, look again, and say what is left. May be run again at any
    /// time.
    #[command(
        after_help = "Exit codes: 0 the image may be copied, 1 something is left or it could not be sealed.\n\n\
                            Example:\n  muster image seal --root /mnt/image"
    )]
    Seal {
        #[command(flatten)]
        image: ImageArgs,
        /// With --root /: this machine is to become the image. Never while k3s or the agent runs.
        #[arg(long)]
        this_machine: bool,
    },
    /// Refuse an image that carries a token, an identity or k3s's data. Changes nothing.
    #[command(
        after_help = "Exit codes: 0 the image may be copied, 1 it is refused, or could not be looked at.\n\n\
                            Example:\n  muster image verify --root /mnt/image --secret-file ~/cluster-token"
    )]
    Verify {
        #[command(flatten)]
        image: ImageArgs,
    },
}

#[derive(Args)]
pub(super) struct ImageArgs {
    /// The root of the image: a directory, or where its file system is mounted.
    #[arg(long, value_name = "DIR")]
    pub(super) root: PathBuf,
    /// A row that is left out, of those of the kind `trace`: docs/images.md. May be given several times.
    #[arg(long, value_name = "ROW")]
    pub(super) keep: Vec<String>,
    /// A file with a secret that must stand nowhere in the image, the token for one. Every file is searched for it.
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct HostArgs {
    /// Prepare a mounted image instead of this machine: files only, no running kernel.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(super) root: PathBuf,
}

#[derive(Subcommand)]
pub(super) enum FoundingCommand {
    /// Show the certificate, this node's register and the voters heard.
    Show,
    /// End an era whose founder is gone for good before anybody joined it, and open the next. Asks for --yes.
    #[command(after_help = "Example:\n  muster founding annul --reason \"node2 burnt\" --yes")]
    Annul {
        /// Why: it is kept in the ledger of every node.
        #[arg(long)]
        reason: String,
        /// Do it. Without this the command only says what it would end.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every setting with its origin, secrets masked.
    Show,
    /// Say whether the agent would take the configuration and the token, without starting anything. Exit code 1 when not.
    Check,
}

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Print a new random cluster token.
    New,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum GateRole {
    /// `k3s server`.
    Server,
    /// `k3s agent`.
    Agent,
}

/// Settings on the command line: above the environment and the files.
#[derive(Args, Default)]
#[command(next_help_heading = "Settings")]
pub(super) struct SettingsArgs {
    /// Read muster.toml and conf.d from this directory alone.
    #[arg(long, global = true, hide_short_help = true)]
    config_dir: Option<PathBuf>,
    /// Name of the cluster.
    #[arg(long, global = true, hide_short_help = true)]
    cluster: Option<String>,
    /// Wanted servers, an odd number.
    #[arg(long, global = true)]
    servers: Option<u64>,
    /// Votes a birth certificate needs; as many as servers unless said otherwise.
    #[arg(long, global = true, hide_short_help = true)]
    founders: Option<u64>,
    /// auto, server or agent.
    #[arg(long, global = true, hide_short_help = true)]
    role: Option<String>,
    /// auto or never.
    #[arg(long, global = true, hide_short_help = true)]
    founding: Option<String>,
    /// Addresses or names of peers, with commas.
    #[arg(long, global = true, value_delimiter = ',')]
    seeds: Option<Vec<String>>,
    /// File that holds the cluster token.
    #[arg(long, global = true)]
    token_file: Option<String>,
    /// Node name instead of the host name.
    #[arg(long, global = true, hide_short_help = true)]
    node_name: Option<String>,
    /// Node address instead of the default route's.
    #[arg(long, global = true, hide_short_help = true)]
    node_ip: Option<String>,
    /// Interface to take the node address from.
    #[arg(long, global = true, hide_short_help = true)]
    interface: Option<String>,
    /// UDP port of gossip.
    #[arg(long, global = true, hide_short_help = true)]
    gossip_port: Option<u64>,
    /// Durable state.
    #[arg(long, global = true, hide_short_help = true)]
    state_dir: Option<String>,
    /// State of this boot.
    #[arg(long, global = true, hide_short_help = true)]
    run_dir: Option<String>,
    /// Pinned k3s version.
    #[arg(long, global = true)]
    k3s_version: Option<String>,
    /// Files, directories or URLs the k3s binary may come from, with commas, tried in order.
    #[arg(long, global = true, value_delimiter = ',')]
    k3s_sources: Option<Vec<String>>,
    /// Checksum file to use instead of the one beside the binary.
    #[arg(long, global = true, hide_short_help = true)]
    k3s_checksums: Option<String>,
}

impl SettingsArgs {
    pub(super) fn flags(&self) -> Flags {
        Flags {
            config_dir: self.config_dir.clone(),
            cluster: self.cluster.clone(),
            servers: self.servers,
            founders: self.founders,
            role: self.role.clone(),
            founding: self.founding.clone(),
            seeds: self.seeds.clone(),
            token_file: self.token_file.clone(),
            node_name: self.node_name.clone(),
            node_ip: self.node_ip.clone(),
            interface: self.interface.clone(),
            gossip_port: self.gossip_port,
            state_dir: self.state_dir.clone(),
            run_dir: self.run_dir.clone(),
            k3s_version: self.k3s_version.clone(),
            k3s_sources: self.k3s_sources.clone(),
            k3s_checksums: self.k3s_checksums.clone(),
        }
    }
}

impl Command {
    /// Whether it changes nothing, and may be ended at any moment.
    pub(super) fn only_shows(&self) -> bool {
        match self {
            Self::Plan(_)
            | Self::Doctor { .. }
            | Self::Status
            | Self::Why
            | Self::Log(_)
            | Self::Discover
            | Self::Health { .. }
            | Self::Founding(FoundingCommand::Show)
            | Self::Config(ConfigCommand::Show | ConfigCommand::Check)
            | Self::Token(TokenCommand::New)
            | Self::Clock
            | Self::Image(ImageCommand::Verify { .. })
            | Self::Version => true,
            Self::Run
            | Self::Up
            | Self::Apply(_)
            | Self::Revert(_)
            | Self::Founding(FoundingCommand::Annul { .. })
            | Self::Leave { .. }
            | Self::Image(ImageCommand::Seal { .. })
            | Self::Recover { .. }
            | Self::Fold { .. }
            | Self::Gate { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// clap finds clashing names only when it runs.
    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
        for line in [
            "muster gate server",
            "muster gate agent",
            "muster up --servers 1",
            "muster discover --output json",
            "muster plan --root /mnt",
            "muster log --kind remedy,refusal --since 2h",
            "muster log --verify --output json",
            "muster image seal --root / --this-machine --keep logs --keep temporary",
            "muster image verify --root /mnt --secret-file /root/token",
            "muster doctor --peer 10.0.0.2,node3:6443 --peer [fd00::4]",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
