//! Looking into a host: commands, files, journal, and what its node says about itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::run::{Done, Run};
use crate::status::{Certificate, Status};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Host {
    /// A program that runs in the host, as root, with a plain environment.
    ///
    /// # Errors
    /// The host is down.
    pub fn enter(&self) -> Result<Run> {
        let running = self.running().with_context(|| format!("{} does not run", self.name))?;
        let run = Run::new("nsenter").args(["-t", &running.leader.pid.to_string(), "-a", "--"]);
        let term = format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned()));
        Ok(run.args(["env", "-i", PATH, "HOME=/root", "LANG=C.UTF-8", &term]))
    }

    /// Runs a program in the host; it is killed there at the deadline.
    ///
    /// # Errors
    /// The host is down, or the program is still there after the deadline.
    pub fn inside(&self, command: &[&str], within: Duration) -> Result<Done> {
        let seconds = within.as_secs_f64().max(0.1).to_string();
        let run = self.enter()?.args(["timeout", "-k", "1", &seconds]).args(command);
        run.within(within + Duration::from_secs(3)).output().with_context(|| format!("in {}", self.name))
    }

    /// Runs a shell line in the host and demands exit code 0.
    ///
    /// # Errors
    /// As [`Host::inside`], and any other exit code.
    pub fn shell(&self, line: &str) -> Result<String> {
        let run = self.enter()?.args(["timeout", "-k", "1", "60", "sh", "-c", line]);
        run.within(Duration::from_secs(65)).ok().with_context(|| format!("in {}", self.name))
    }

    /// Reads a file of the host; nothing when it is not there.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// Writes a file of the host, with its directories, mode 0644.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.write_mode(path, content, 0o644)
    }

    /// Writes a file of the host, with its directories, in one step: a reader sees the old text or the new.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_mode(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let file = self.path(path);
        let dir = file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let part = dir.join(".part");
        fs::write(&part, content).with_context(|| format!("write {}", part.display()))?;
        fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
        fs::rename(&part, &file).with_context(|| format!("write {}", file.display()))
    }

    /// Removes a file of the host, if it is there.
    pub fn unlink(&self, path: &str) {
        drop(fs::remove_file(self.path(path)));
    }

    /// What the node says; nothing when the host is down or its agent has not written yet.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.running()?;
        serde_json::from_slice(&self.read("/run/muster/status.json")?).ok()
    }

    /// The file as it stands, for a report.
    #[must_use]
    pub fn status_text(&self) -> Option<String> {
        self.running()?;
        String::from_utf8(self.read("/run/muster/status.json")?).ok()
    }

    /// The certificate that the node says it holds.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        self.status()?.certificate
    }

    /// The host's journal as text, with seconds of this machine's clock; `unit` narrows it. Works for a host that is down.
    ///
    /// # Errors
    /// There is no journal.
    pub fn journal(&self, unit: Option<&str>, more: &[&str]) -> Result<String> {
        let mut run = Run::new("journalctl").arg("-D").arg(self.root().join("var/log/journal"));
        run = run.args(["-o", "short-monotonic", "--no-pager", "--no-hostname", "-q"]).args(more);
        if let Some(unit) = unit {
            run = run.args(["-u", unit]);
        }
        run.within(Duration::from_secs(60)).ok()
    }

    /// The text of k3s's configuration, if there is one.
    #[must_use]
    pub fn k3s_config(&self) -> Option<String> {
        String::from_utf8(self.read("/etc/rancher/k3s/config.yaml")?).ok()
    }

    /// Whether k3s's configuration tells it to found a cluster.
    #[must_use]
    pub fn armed(&self) -> bool {
        self.k3s_config().is_some_and(|text| is_armed(&text))
    }

    /// The mode of a file, if it is there.
    #[must_use]
    pub fn mode(&self, path: &str) -> Option<u32> {
        Some(fs::metadata(self.path(path)).ok()?.permissions().mode() & 0o7777)
    }
}

/// Whether a configuration, in YAML or JSON, holds `cluster-init: true`.
#[must_use]
pub fn is_armed(config: &str) -> bool {
    config.split("cluster-init").skip(1).any(|rest| {
        let value = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':');
        value.is_some_and(|value| value.trim_start().trim_start_matches('"').starts_with("true"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_configuration_is_known_in_yaml_and_json() {
        assert!(is_armed("token-file: /x\ncluster-init: true\n"));
        assert!(is_armed(r#"{"cluster-init": true, "node-name": "a"}"#));
        assert!(is_armed(r#"{"cluster-init":true}"#));
        assert!(!is_armed("cluster-init: false\n"));
        assert!(!is_armed("server: https://10.77.0.1:6443\n"));
        assert!(!is_armed("# cluster-init was here\n"));
    }
}
