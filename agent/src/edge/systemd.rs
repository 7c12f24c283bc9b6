//! The init system: unit state, start, stop, enable. Starting never waits: k3s reports READY only when the cluster has a
//! quorum, and that may need other nodes that wait for us.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::core::Known;
use crate::edge::clock;
use crate::edge::exec::{self, ExecError};
use crate::edge::fs::{self, FsError};
use crate::edge::openrc::OpenRc;

/// How long a question to the init system may take.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// How long an order may take to be taken; the work itself is not waited for.
pub(super) const ORDER: Duration = Duration::from_secs(15);

/// Which init system runs this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitKind {
    /// systemd.
    Systemd,
    /// OpenRC.
    OpenRc,
}

/// An order to the init system that failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The command did not do it; the unit's state is to be looked at again.
    #[error("cannot {doing} {service}")]
    Command {
        /// The verb.
        doing: &'static str,
        /// The service.
        service: String,
        /// What the command said.
        #[source]
        source: ExecError,
    },
    /// A file of the service could not be changed.
    #[error("cannot {doing} {service}")]
    File {
        /// The verb.
        doing: &'static str,
        /// The service.
        service: String,
        /// Which file, and why.
        #[source]
        source: FsError,
    },
}

/// Where a unit stands, in systemd's words; OpenRC's states are told in the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitState {
    /// `active`, `activating`, `deactivating`, `inactive`, `failed`, `reloading`.
    pub active: String,
    /// `running`, `start`, `auto-restart`, `dead`, ...
    pub sub: String,
    /// `success`, `exit-code`, `exec-condition`, `oom-kill`, ...
    pub result: String,
    /// Automatic restarts since the unit was last started by order.
    pub restarts: u32,
    /// Exit status of the last main process. k3s's lie: a failed join may end with 0.
    pub main_status: i32,
    /// Main process, 0 when there is none.
    pub main_pid: u32,
    /// Whether it starts at boot.
    pub enabled: bool,
    /// When it entered its present state, microseconds of the monotonic clock; 0 when it never left the first one.
    pub since_monotonic_us: u64,
}

impl UnitState {
    /// A process of the unit runs, or is about to: endpoints are worth asking.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "reloading")
    }

    /// Nothing runs and nothing will start by itself.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// The gate said no to the last start: the unit is down and systemd does not try again by itself.
    #[must_use]
    pub fn was_gated(&self) -> bool {
        self.result == "exec-condition"
    }
}

/// Reads the blocks that `systemctl show` prints, one for each unit asked, in that order.
#[must_use]
pub fn parse_show(text: &str, asked: usize) -> Vec<Known<UnitState>> {
    let mut blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    (0..asked).map(|_| blocks.next().map_or_else(|| unread("no block for it"), parse_block)).collect()
}

fn unread<T>(cause: &'static str) -> Known<T> {
    Known::unknown("the output of systemctl show", cause)
}

fn parse_block(block: &str) -> Known<UnitState> {
    let value = |key: &str| {
        block
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::trim)
            .unwrap_or_default()
    };
    match value("LoadState") {
        "" => return unread("no LoadState"),
        "not-found" => return Known::Absent,
        _ => {}
    }
    let active = value("ActiveState");
    if active.is_empty() {
        return unread("no ActiveState");
    }
    Known::Yes(UnitState {
        active: active.to_owned(),
        sub: value("SubState").to_owned(),
        result: value("Result").to_owned(),
        restarts: value("NRestarts").parse().unwrap_or(0),
        main_status: value("ExecMainStatus").parse().unwrap_or(0),
        main_pid: value("MainPID").parse().unwrap_or(0),
        enabled: value("UnitFileState").starts_with("enabled"),
        since_monotonic_us: value("StateChangeTimestampMonotonic").parse().unwrap_or(0),
    })
}

/// The orders an init system takes. Service names come without a suffix: `k3s`, `k3s-agent`.
#[async_trait]
pub trait Init: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> InitKind;
    /// Where the services stand, in the order asked; absent when there is no such service.
    async fn states(&self, services: &[&str]) -> Vec<Known<UnitState>>;
    /// Makes it read changed service files.
    ///
    /// # Errors
    /// When it did not; the old files stay in force.
    async fn reload(&self) -> Result<(), InitError>;
    /// Asks for a start and does not wait for it.
    ///
    /// # Errors
    /// When the order was not taken.
    async fn start(&self, service: &str) -> Result<(), InitError>;
    /// Stops the service and waits until its main process is gone. Pods keep running.
    ///
    /// # Errors
    /// When it is not known to be stopped within the bound.
    async fn stop(&self, service: &str, within: Duration) -> Result<(), InitError>;
    /// Starts it at boot from now on.
    ///
    /// # Errors
    /// When that was not changed.
    async fn enable(&self, service: &str) -> Result<(), InitError>;
    /// Does not start it at boot any more.
    ///
    /// # Errors
    /// When that was not changed.
    async fn disable(&self, service: &str) -> Result<(), InitError>;
    /// The last lines the service wrote.
    async fn tail(&self, service: &str, lines: usize) -> Known<String>;
}

/// The init system of this machine; absent when it is neither of the two.
#[must_use]
pub fn detect() -> Known<Arc<dyn Init>> {
    let systemd = fs::known_there(Path::new("/run/systemd/system"));
    if systemd.yes().is_some() {
        return Known::Yes(Arc::new(Systemd));
    }
    let openrc = fs::known_there(Path::new("/run/openrc"));
    if openrc.yes().is_some() {
        return Known::Yes(Arc::new(OpenRc::default()));
    }
    match (systemd, openrc) {
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Known::Unknown(unread),
        _ => Known::Absent,
    }
}

/// systemd, by `systemctl` and `journalctl`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Systemd;

impl Systemd {
    async fn order(&self, doing: &'static str, args: &[&str], within: Duration) -> Result<(), InitError> {
        let service = args.last().copied().unwrap_or("systemd").to_owned();
        match exec::run("systemctl", args, within).await {
            Ok(_) => Ok(()),
            Err(source) => Err(InitError::Command { doing, service, source }),
        }
    }
}

fn unit(service: &str) -> String {
    format!("{service}.service")
}

#[async_trait]
impl Init for Systemd {
    fn kind(&self) -> InitKind {
        InitKind::Systemd
    }

    async fn states(&self, services: &[&str]) -> Vec<Known<UnitState>> {
        const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,\
            MainPID,UnitFileState,StateChangeTimestampMonotonic";
        let units: Vec<String> = services.iter().map(|service| unit(service)).collect();
        let mut args = vec!["show", PROPERTIES];
        args.extend(units.iter().map(String::as_str));
        match exec::run("systemctl", &args, ASK).await {
            Ok(out) => parse_show(&out.stdout, services.len()),
            Err(error) => services
                .iter()
                .map(|name| Known::unknown(format!("unit {name}"), error.to_string()))
                .collect(),
        }
    }

    async fn reload(&self) -> Result<(), InitError> {
        self.order("reload units with", &["daemon-reload"], ORDER).await
    }

    async fn start(&self, service: &str) -> Result<(), InitError> {
        // A unit that failed too often takes no start; clearing that is part of the order. It fails for a unit that was
        // never loaded, which the start then reports.
        let _ = exec::run("systemctl", &["reset-failed", &unit(service)], ASK).await;
        self.order("start", &["start", "--no-block", &unit(service)], ORDER).await
    }

    async fn stop(&self, service: &str, within: Duration) -> Result<(), InitError> {
        self.order("stop", &["stop", &unit(service)], within).await
    }

    async fn enable(&self, service: &str) -> Result<(), InitError> {
        self.order("enable", &["enable", &unit(service)], ORDER).await
    }

    async fn disable(&self, service: &str) -> Result<(), InitError> {
        self.order("disable", &["disable", &unit(service)], ORDER).await
    }

    async fn tail(&self, service: &str, lines: usize) -> Known<String> {
        let (unit, lines) = (unit(service), lines.to_string());
        // Not `-b`: in a container the boot's id in the sandbox is not the one under which the journal was written.
        let boot = clock::wall_seconds() - i64::try_from(clock::since_boot().as_secs()).unwrap_or(0);
        let since = format!("--since=@{}", boot.max(0));
        // Backwards: with `--since`, journalctl (seen with systemd 252) takes `-n` for the first lines, not the last.
        let args = ["-u", &unit, "-r", "-n", &lines, "-o", "cat", "--no-pager", "-q", &since];
        match exec::run("journalctl", &args, ASK).await {
            Ok(out) if out.stdout.trim().is_empty() => Known::Absent,
            Ok(out) => {
                Known::Yes(out.stdout.lines().rev().fold(String::new(), |tail, line| tail + line + "\n"))
            }
            Err(error) => Known::unknown(format!("the journal of {unit}"), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = include_str!("../../testdata/k3s/systemctl-show-debian12.txt");

    #[test]
    fn two_units_are_read_in_the_order_asked() {
        let states = parse_show(TWO, 2);
        let server = states[0].yes().unwrap();
        assert_eq!((server.active.as_str(), server.sub.as_str()), ("activating", "auto-restart"));
        assert_eq!((server.result.as_str(), server.restarts, server.main_status), ("exit-code", 17, 1));
        assert!(server.enabled && server.is_up() && !server.is_down());
        assert_eq!(states[1], Known::Absent);
    }

    #[test]
    fn a_gated_unit_is_down_and_says_so() {
        let text = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=exec-condition\n";
        let states = parse_show(text, 1);
        let state = states[0].yes().unwrap();
        assert!(state.was_gated() && state.is_down() && !state.enabled);
    }

    #[test]
    fn a_missing_answer_is_unknown_and_not_absent() {
        assert!(parse_show("", 1)[0].is_unknown());
        assert!(parse_show("ActiveState=active\n", 1)[0].is_unknown());
        assert!(parse_show("LoadState=loaded\n", 1)[0].is_unknown());
    }
}
