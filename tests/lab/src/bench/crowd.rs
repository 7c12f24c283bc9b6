//! Many nodes of one kind, each in a network namespace of its own on one switch: agents of Muster, or of Serf.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use rand::Rng;
use serde_json::json;

use crate::net::{self, Net};
use crate::process;
use crate::setup::layer;
use crate::status::Status;

/// How often Muster's word is read. Serf tells by itself.
const EVERY: Duration = Duration::from_millis(50);

/// Whose nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole agents of Muster, as members that neither vote nor found.
    Muster,
    /// Debian's Serf, encrypted, with its profile for local networks.
    Serf,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Muster => "muster",
            Self::Serf => "serf",
        }
    }
}

/// What a node says of another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    /// The node that says it.
    pub(super) by: u8,
    /// The node it is about.
    pub(super) of: u8,
    /// Whether that one lives.
    pub(super) lives: bool,
    /// When it was said.
    pub(super) at: Instant,
}

/// The nodes, and what they say.
pub(super) struct Crowd {
    nodes: Vec<(u8, Child)>,
    /// What they have said since it was last read.
    pub(super) said: Receiver<Said>,
    directory: tempfile::TempDir,
}

impl Crowd {
    /// Starts nodes 1 to `count`, all at once. Their namespaces are there already.
    pub(super) fn start(kind: Kind, muster: &Path, net: &Net, count: u8) -> Result<Self> {
        let directory = tempfile::tempdir().context("a directory for the nodes")?;
        let (tell, said) = channel();
        let mut crowd = Self { nodes: Vec::new(), said, directory };
        let secret = match kind {
            Kind::Muster => layer::token(),
            Kind::Serf => base64::engine::general_purpose::STANDARD.encode(rand::rng().random::<[u8; 32]>()),
        };
        for index in 1..=count {
            let dir = crowd.directory.path().join(index.to_string());
            fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
            let command = match kind {
                Kind::Muster => muster_node(muster, &dir, index, count, &secret)?,
                Kind::Serf => serf_node(&dir, index, count, &secret)?,
            };
            let mut child = Command::new("ip");
            child.args(["netns", "exec", &net.host(index)]).args(command).stdin(Stdio::null());
            child.stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = child.spawn().with_context(|| format!("start node {index}"))?;
            let (out, tell) = (child.stdout.take().context("the node's output")?, tell.clone());
            crowd.nodes.push((index, child));
            // The threads end with their node, or with the receiver.
            match kind {
                Kind::Serf => drop(std::thread::spawn(move || serf_says(index, out, &tell))),
                Kind::Muster => {
                    std::thread::spawn(move || drop(std::io::copy(&mut { out }, &mut std::io::sink())));
                    let status = dir.join("run/status.json");
                    std::thread::spawn(move || muster_says(index, &status, &tell));
                }
            }
        }
        Ok(crowd)
    }

    /// The living nodes.
    pub(super) fn living(&self) -> Vec<u8> {
        self.nodes.iter().map(|(index, _)| *index).collect()
    }

    /// Kills the last node without a word to the others; gives its number and when it died.
    pub(super) fn kill_last(&mut self) -> Result<(u8, Instant)> {
        let (index, mut child) = self.nodes.pop().context("nobody is left to kill")?;
        child.kill().context("kill a node")?;
        let died = Instant::now();
        child.wait().context("wait for a killed node")?;
        fs::remove_file(self.directory.path().join(index.to_string()).join("run/status.json"))
            .unwrap_or_default();
        Ok((index, died))
    }

    /// Processor time of all nodes so far, clock ticks.
    pub(super) fn ticks(&self) -> u64 {
        self.stats().map(|stat| stat.cpu_ticks).sum()
    }

    /// Resident memory of each node, bytes.
    pub(super) fn memory(&self) -> Vec<u64> {
        self.nodes
            .iter()
            .filter_map(|(_, child)| super::measure::rss(i32::try_from(child.id()).ok()?))
            .collect()
    }

    fn stats(&self) -> impl Iterator<Item = process::Stat> {
        self.nodes.iter().filter_map(|(_, child)| process::stat(i32::try_from(child.id()).ok()?))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for (_, child) in &mut self.nodes {
            drop(child.kill());
        }
        for (_, child) in &mut self.nodes {
            drop(child.wait());
        }
    }
}

/// The command line of one agent. Nothing of this machine is prepared, and no k3s is there to be installed.
fn muster_node(muster: &Path, dir: &Path, index: u8, count: u8, token: &str) -> Result<Vec<String>> {
    let seeds: Vec<String> = (1..=count.min(3)).map(net::address).collect();
    let path = |name: &str| dir.join(name).display().to_string();
    let rows: Vec<&str> = muster::host::ROWS.iter().map(|row| row.name).collect();
    let text = format!(
        "cluster = \"bench\"\nservers = 3\nrole = \"agent\"\nfounding = \"never\"\nnode-name = \"n{index}\"\n\
         node-ip = \"{}\"\nstate-dir = {}\nrun-dir = {}\ntoken-file = {}\nseeds = {}\n\
         [host]\nskip = {}\n[k3s]\nsources = [{}]\n",
        net::address(index),
        json!(path("state")),
        json!(path("run")),
        json!(path("token")),
        json!(seeds),
        json!(rows),
        json!(path("no-k3s")),
    );
    fs::write(dir.join("muster.toml"), text).context("write the configuration")?;
    secret(&dir.join("token"), token)?;
    // A service manager must seem to run, or the agent parks before it gossips. The mounts are the node's own.
    let script =
        "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec \"$0\" run --config-dir \"$1\"";
    let command =
        ["unshare", "--mount", "sh", "-c", script, &muster.display().to_string(), &dir.display().to_string()];
    Ok(command.map(str::to_owned).to_vec())
}

fn serf_node(dir: &Path, index: u8, count: u8, key: &str) -> Result<Vec<String>> {
    let seeds: Vec<String> = (1..=count.min(3)).map(net::address).collect();
    let config = json!({
        "node_name": format!("n{index}"), "bind": format!("{}:7946", net::address(index)), "encrypt_key": key,
        "retry_join": seeds, "retry_interval": "1s", "profile": "lan", "log_level": "info",
        "rpc_addr": "127.0.0.1:7373",
    });
    let file = dir.join("serf.json");
    secret(&file, &config.to_string())?;
    Ok(["serf", "agent", "-config-file", &file.display().to_string()].map(str::to_owned).to_vec())
}

fn secret(file: &PathBuf, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).context("make it private")
}

/// Reads Serf's log: `EventMemberJoin: n3 10.77.0.3`.
fn serf_says(by: u8, out: impl std::io::Read, tell: &Sender<Said>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let at = Instant::now();
        for (of, lives) in serf_events(&line) {
            if of != by && tell.send(Said { by, of, lives, at }).is_err() {
                return;
            }
        }
    }
}

/// Every event on a line, in its order: threads of Serf may write theirs without a line break between them.
fn serf_events(line: &str) -> Vec<(u8, bool)> {
    let words = [("Join: ", true), ("Failed: ", false), ("Leave: ", false)];
    let event = |rest: &str| {
        let (rest, lives) =
            words.iter().find_map(|(word, lives)| Some((rest.strip_prefix(word)?, *lives)))?;
        Some((rest.split_whitespace().next()?.strip_prefix('n')?.parse().ok()?, lives))
    };
    line.split("EventMember").skip(1).filter_map(event).collect()
}

/// Reads a node's status whenever it is written anew.
fn muster_says(by: u8, status: &Path, tell: &Sender<Said>) {
    let (mut written, mut lives) = (None, std::collections::BTreeMap::new());
    loop {
        std::thread::sleep(EVERY);
        let Ok(changed) = fs::metadata(status).and_then(|meta| meta.modified()) else {
            // Not written yet, or the node was killed: then the whole directory goes soon, and the receiver with it.
            if written.is_some() {
                return;
            }
            continue;
        };
        if written == Some(changed) {
            continue;
        }
        let at = Instant::now();
        let Some(said) = fs::read(status).ok().and_then(|text| serde_json::from_slice::<Status>(&text).ok())
        else {
            continue;
        };
        written = Some(changed);
        for peer in said.peers {
            let Some(of) = peer.name.strip_prefix('n').and_then(|n| n.parse::<u8>().ok()) else { continue };
            if lives.insert(of, peer.live) == Some(peer.live) {
                continue;
            }
            if tell.send(Said { by, of, lives: peer.live, at }).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serfs_events_are_read_out_of_its_log() {
        let line = |event: &str| format!("2026/11/22 10:00:00 [INFO] serf: {event}: n12 10.77.0.12");
        assert_eq!(serf_events(&line("EventMemberJoin")), [(12, true)]);
        assert_eq!(serf_events(&line("EventMemberFailed")), [(12, false)]);
        assert_eq!(serf_events(&line("EventMemberUpdate")), []);
        let two = format!("{}{}", line("EventMemberJoin"), line("EventMemberLeave"));
        assert_eq!(serf_events(&two), [(12, true), (12, false)]);
        assert_eq!(serf_events("[INFO] memberlist: Suspect n12 has failed, no acks received"), []);
    }
}
