//! Looks for secrets where they must not be: command lines, environments, the journal, what Muster shows, files that others than
//! root can read, datagrams on the wire, core dumps.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::core::Secret;
use muster::identity::keys::ClusterKeys;

use crate::conf;
use crate::host::Host;
use crate::wire::Heard;

/// Files that hold secrets, or tell everything, and are for root alone. Those of k3s are there only in the role that needs them.
const OWNED: [&str; 6] = [
    conf::TOKEN_FILE,
    "/var/lib/muster/ledger.json",
    "/var/lib/muster/decisions.jsonl",
    "/etc/rancher/k3s/muster-server-token",
    "/etc/rancher/k3s/muster-agent-token",
    "/etc/rancher/k3s/k3s.yaml",
];
/// What Muster shows when it is asked.
const SHOWN: [&[&str]; 6] = [
    &["muster", "status", "--output", "json"],
    &["muster", "why"],
    &["muster", "config", "show"],
    &["muster", "founding", "show"],
    &["muster", "plan", "--output", "json"],
    &["muster", "log", "--output", "json"],
];
/// Reads the metrics without a program that a bare host may not have.
const METRICS: &str =
    "exec 3<>/dev/tcp/127.0.0.1/7847 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3";
/// Larger files are not read: no program writes a token into the middle of megabytes.
const LARGEST: u64 = 4 << 20;

/// One secret, in every form in which it could be found.
#[derive(Debug)]
pub struct Needle {
    /// What it is.
    pub name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Needle {
    fn text(name: &'static str, text: &str) -> Option<Self> {
        // A form this short would be found by chance.
        (text.len() >= 16).then(|| Self { name, forms: vec![text.into(), STANDARD.encode(text).into()] })
    }

    fn key(name: &'static str, key: &[u8; 32]) -> Self {
        Self { name, forms: vec![key.to_vec(), hex::encode(key).into(), STANDARD.encode(key).into()] }
    }

    /// Whether any of its forms is in there.
    #[must_use]
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.forms.iter().any(|form| memchr::memmem::find(text, form).is_some())
    }
}

/// The secrets of a host: its token, everything that is derived from it, and its kubeconfig's key.
///
/// # Errors
/// The host has no token.
pub fn needles(host: &Host) -> Result<Vec<Needle>> {
    let read = |path: &str| host.read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    let token = read(conf::TOKEN_FILE).with_context(|| format!("{} has no token", host.name))?;
    let keys = ClusterKeys::derive("lab", &Secret::new(token.clone()));
    let mut needles = vec![
        Needle::key("the gossip key", keys.gossip.expose()),
        Needle::key("the workers' gossip key", keys.worker_gossip.expose()),
    ];
    let kubeconfig = read("/etc/rancher/k3s/k3s.yaml").unwrap_or_default();
    let key = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("client-key-data:")).map(str::trim);
    let texts = [
        ("the token", token),
        ("the servers' password", keys.server_password.expose().to_owned()),
        ("the agents' password", keys.agent_password.expose().to_owned()),
        ("the workers' token", keys.worker_token.expose().to_owned()),
        ("the kubeconfig's key", key.unwrap_or_default().to_owned()),
    ];
    needles.extend(texts.iter().filter_map(|(name, text)| Needle::text(name, text)));
    Ok(needles)
}

/// What was looked at, and every hit as one line.
#[derive(Debug, Default)]
pub struct Report {
    /// Places looked at.
    pub places: u64,
    /// `SECRET is in PLACE of HOST`.
    pub hits: Vec<String>,
}

impl Report {
    fn look(&mut self, needles: &[Needle], place: &str, content: &[u8]) {
        self.places += 1;
        for needle in needles.iter().filter(|needle| needle.is_in(content)) {
            self.hits.push(format!("{} is in {place}", needle.name));
        }
    }

    /// Looks at a running host.
    ///
    /// # Errors
    /// A place cannot be looked at; a file that must be there is not, or is not for root alone.
    pub fn host(&mut self, host: &Host, needles: &[Needle]) -> Result<()> {
        let name = &host.name;
        for file in OWNED {
            match host.mode(file) {
                Some(0o600) => {}
                None if file.starts_with("/etc/rancher/") => {}
                None => bail!("{name}: there is no {file}"),
                Some(mode) => bail!("{name}: {file} has the mode {mode:o}, not 600"),
            }
        }
        for what in ["cmdline", "environ"] {
            let text = host.shell(&format!("cat /proc/[0-9]*/{what} 2>/dev/null | tr '\\0' '\\n'; true"))?;
            ensure!(!text.is_empty(), "{name}: no {what} of any process can be read");
            self.look(needles, &format!("{what} of a process of {name}"), text.as_bytes());
        }
        self.look(needles, &format!("the journal of {name}"), host.journal(None, &[])?.as_bytes());
        for command in SHOWN {
            let done = host.inside(command, Duration::from_secs(20))?;
            let text = [done.stdout, done.stderr].concat();
            ensure!(!text.is_empty(), "{name}: `{}` says nothing", command.join(" "));
            self.look(needles, &format!("`{}` of {name}", command.join(" ")), text.as_bytes());
        }
        let metrics = host.inside(&["bash", "-c", METRICS], Duration::from_secs(20))?;
        ensure!(metrics.stdout.contains("muster_phase{"), "{name}: no metrics: {}", metrics.stderr.trim());
        self.look(needles, &format!("the metrics of {name}"), metrics.stdout.as_bytes());
        let limits = host.shell("cat /proc/$(systemctl show -P MainPID muster.service)/limits")?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
        ensure!(core.split_whitespace().nth(5) == Some("0"), "{name}: the agent may dump its memory: {core}");
        for directory in host.written().into_iter().chain([host.path("/run/"), host.path("/tmp/")]) {
            self.files(&directory, needles, name)?;
        }
        Ok(())
    }

    /// Looks at every file below a directory that somebody else than root may read. Other file systems are not entered.
    fn files(&mut self, root: &Path, needles: &[Needle], host: &str) -> Result<()> {
        let device = fs::metadata(root).with_context(|| root.display().to_string())?.dev();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            // A directory of a running host may go away at any moment.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                let mode = meta.permissions().mode();
                // What is below a directory that only root may enter is as hidden as the directory.
                if meta.is_dir() && meta.dev() == device && mode & 0o011 != 0 {
                    directories.push(entry.path());
                } else if meta.is_file() && mode & 0o044 != 0 && meta.len() <= LARGEST {
                    let Ok(content) = fs::read(entry.path()) else { continue };
                    self.look(needles, &format!("{} of {host}", entry.path().display()), &content);
                }
            }
        }
        Ok(())
    }

    /// Looks at what was on the wire.
    pub fn wire(&mut self, heard: &[Heard], needles: &[Needle]) {
        for datagram in heard {
            self.look(needles, &format!("a datagram from {}", datagram.from), &datagram.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form_and_only_there() {
        let needle = Needle::key("key", &[7; 32]);
        assert!(needle.is_in(&[&[1, 2][..], &[7; 32], &[3]].concat()));
        assert!(needle.is_in(format!("key={}", "07".repeat(32)).as_bytes()));
        assert!(needle.is_in(STANDARD.encode([7; 32]).as_bytes()));
        assert!(!needle.is_in(&[7; 31]) && !needle.is_in(b""));
        assert!(Needle::text("none", "").is_none(), "an absent secret is in every text");
    }
}
