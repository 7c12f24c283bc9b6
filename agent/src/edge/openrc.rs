//! OpenRC, the init system of Alpine.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::systemd::{ASK, Init, InitError, InitKind, ORDER, UnitState};
use crate::core::Known;
use crate::edge::{exec, fs};

/// OpenRC, by `rc-service` and `rc-update`; logs are the files that our init scripts write.
#[derive(Debug, Clone)]
pub struct OpenRc {
    /// `/etc/init.d`.
    scripts: PathBuf,
    /// `/etc/runlevels/default`.
    runlevel: PathBuf,
    /// `/var/log`.
    logs: PathBuf,
}

impl Default for OpenRc {
    fn default() -> Self {
        Self::at(Path::new("/"))
    }
}

impl OpenRc {
    /// OpenRC whose files stand under this root.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            scripts: root.join("etc/init.d"),
            runlevel: root.join("etc/runlevels/default"),
            logs: root.join("var/log"),
        }
    }

    async fn order(
        &self,
        doing: &'static str,
        program: &str,
        args: &[&str],
        within: Duration,
    ) -> Result<(), InitError> {
        let service = args.iter().find(|arg| arg.starts_with("k3s")).copied().unwrap_or(program).to_owned();
        match exec::run(program, args, within).await {
            Ok(_) => Ok(()),
            Err(source) => Err(InitError::Command { doing, service, source }),
        }
    }

    async fn state(&self, service: &str) -> Known<UnitState> {
        match fs::known_there(&self.scripts.join(service)) {
            Known::Yes(()) => {}
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread),
        }
        let enabled = fs::known_there(&self.runlevel.join(service)).yes().is_some();
        match exec::output("rc-service", &[service, "status"], ASK).await {
            Err(error) => Known::unknown(format!("service {service}"), error.to_string()),
            Ok(out) => match rc_status(out.code) {
                Some((active, sub)) => Known::Yes(UnitState {
                    active: active.to_owned(),
                    sub: sub.to_owned(),
                    enabled,
                    ..UnitState::default()
                }),
                None => {
                    Known::unknown(format!("service {service}"), format!("rc-service status: {:?}", out.code))
                }
            },
        }
    }
}

/// What the exit code of `rc-service NAME status` means, in systemd's words (OpenRC's `runscript` codes).
fn rc_status(code: Option<i32>) -> Option<(&'static str, &'static str)> {
    match code? {
        0 => Some(("active", "running")),
        3 => Some(("inactive", "dead")),
        4 => Some(("deactivating", "stopping")),
        8 => Some(("activating", "starting")),
        16 => Some(("inactive", "inactive")),
        32 => Some(("failed", "crashed")),
        _ => None,
    }
}

#[async_trait]
impl Init for OpenRc {
    fn kind(&self) -> InitKind {
        InitKind::OpenRc
    }

    async fn states(&self, services: &[&str]) -> Vec<Known<UnitState>> {
        let mut states = Vec::new();
        for service in services {
            states.push(self.state(service).await);
        }
        states
    }

    async fn reload(&self) -> Result<(), InitError> {
        // OpenRC reads a script at each start; there is nothing to tell it.
        Ok(())
    }

    async fn start(&self, service: &str) -> Result<(), InitError> {
        // Our script runs k3s under supervise-daemon, so that the start returns at once.
        self.order("start", "rc-service", &["--nodeps", service, "start"], ORDER).await
    }

    async fn stop(&self, service: &str, within: Duration) -> Result<(), InitError> {
        self.order("stop", "rc-service", &["--nodeps", service, "stop"], within).await
    }

    async fn enable(&self, service: &str) -> Result<(), InitError> {
        self.order("enable", "rc-update", &["add", service, "default"], ORDER).await
    }

    async fn disable(&self, service: &str) -> Result<(), InitError> {
        if fs::known_there(&self.runlevel.join(service)).is_absent() {
            return Ok(());
        }
        self.order("disable", "rc-update", &["del", service, "default"], ORDER).await
    }

    async fn tail(&self, service: &str, lines: usize) -> Known<String> {
        let path = self.logs.join(format!("{service}.log"));
        match read_end(&path) {
            Ok(text) => {
                let all: Vec<&str> = text.lines().collect();
                Known::Yes(all[all.len().saturating_sub(lines)..].join("\n"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Known::Absent,
            Err(error) => Known::unknown(path.display().to_string(), error.to_string()),
        }
    }
}

/// The last 64 KiB of a log, from the first whole line on: the file may be large.
fn read_end(path: &Path) -> std::io::Result<String> {
    const MOST: u64 = 64 * 1024;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(MOST);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if skipped == 0 {
        text
    } else {
        text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrc_codes_are_told_in_systemd_words() {
        assert_eq!(rc_status(Some(32)), Some(("failed", "crashed")));
        assert_eq!(rc_status(Some(0)), Some(("active", "running")));
        assert_eq!(rc_status(Some(1)), None);
        assert_eq!(rc_status(None), None);
    }
}
