//! The sweep: how soon the first peer is found in a network of a given size, and how many frames that takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng;
use serde_json::{Value, json};

use super::{median, rounded};
use crate::net::Net;
use crate::run::Run;
use crate::setup::{Tell, layer};
use crate::{paths, sweep, wait};

/// What is swept.
#[derive(Clone, Copy)]
enum Ground {
    /// Every address of a network of IPv4 with this prefix.
    Every(u8),
    /// A link of IPv6, by multicast.
    Link,
}

/// The networks, and the goal for all of a sweep, the wait for its last answers included, in seconds.
const GROUNDS: [(Ground, f64); 3] =
    [(Ground::Every(24), 1.0), (Ground::Every(20), 10.0), (Ground::Link, 2.0)];

impl Ground {
    fn name(self) -> String {
        match self {
            Ground::Every(prefix) => format!("/{prefix}"),
            Ground::Link => "fd77::/64, multicast".to_owned(),
        }
    }

    /// The addresses of who sweeps and of the peer, which is anywhere, but neither first nor last.
    fn addresses(self) -> [String; 2] {
        let Ground::Every(prefix) = self else { return ["fd77::1".to_owned(), "fd77::2".to_owned()] };
        // 10.77.0.0 with its gateway is of every size.
        let hosts = (1_u32 << (32 - u32::from(prefix))) - 2;
        let place = rand::rng().random_range(3..hosts - 2);
        let place = if place == 254 { 253 } else { place };
        ["10.77.0.1".to_owned(), format!("10.77.{}.{}", place >> 8, place & 255)]
    }

    /// What `ip` is told for a host with that address.
    fn script(self, address: &str) -> String {
        let flush = "addr flush dev host0 scope global\n";
        match self {
            Ground::Every(prefix) => {
                format!("{flush}addr add {address}/{prefix} dev host0\nroute add default via 10.77.0.254\n")
            }
            Ground::Link => format!(
                "{flush}addr add {address}/64 dev host0 nodad\nroute add default via fd77::fe dev host0\n"
            ),
        }
    }
}

/// What is measured.
pub struct Bench<'a> {
    /// The `muster` binary.
    pub muster: &'a Path,
    /// Sweeps of each network.
    pub runs: u32,
    /// Who is told how it goes.
    pub tell: Tell<'a>,
}

impl Bench<'_> {
    /// Sweeps each network from one host, with one peer at a place drawn anew each time.
    ///
    /// # Errors
    /// The network cannot be made, or the peer is not found.
    pub fn run(&self) -> Result<Value> {
        let mut rows = Vec::new();
        for (ground, goal) in GROUNDS {
            let (mut first, mut whole, mut rates, mut packets) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for _ in 0..self.runs {
                let lab = format!("w{}", std::process::id());
                let net = Net::new(&paths::prefix(&lab));
                let result = self.one(&net, ground);
                sweep::remove(&lab)?;
                let (found, took, sent) = result.with_context(|| ground.name())?;
                (self.tell)(&format!(
                    "{}: first peer after {found:.2} s, all of it in {took:.2} s, {sent} frames",
                    ground.name()
                ));
                #[expect(clippy::cast_precision_loss, reason = "packets far below 2^52")]
                rates.push(sent as f64 / took);
                first.push(found);
                whole.push(took);
                packets = sent;
            }
            let slowest = whole.iter().copied().fold(0.0, f64::max);
            rows.push(json!({
                "network": ground.name(), "runs": self.runs, "frames": packets,
                "first_peer_seconds": rounded(median(&first)), "whole_seconds": rounded(median(&whole)),
                "slowest_seconds": rounded(slowest),
                "goal": { "below_seconds": goal, "met": slowest < goal },
                "frames_per_second": rounded(median(&rates)),
            }));
        }
        Ok(json!({ "networks": rows }))
    }

    /// Seconds to the first peer, seconds in all, frames sent: for a silent address they are questions of the kernel for a neighbour.
    fn one(&self, net: &Net, ground: Ground) -> Result<(f64, f64, u64)> {
        net.create()?;
        let addresses = ground.addresses();
        for (index, address) in (1_u8..).zip(&addresses) {
            net.add_host(index)?;
            let on = net.host(index);
            Run::new("ip").args(["-n", &on, "-batch", "-"]).input(ground.script(address)).ok()?;
            if matches!(ground, Ground::Link) {
                // Multicast leaves from the link-local address, which is looked for on the link before it is taken.
                wait::until(
                    "a link-local address",
                    Duration::from_secs(20),
                    Duration::from_millis(50),
                    || {
                        let said = Run::new("ip")
                            .args(["-n", &on, "-6", "addr", "show", "dev", "host0", "scope", "link"])
                            .ok()?;
                        Ok((said.contains("fe80") && !said.contains("tentative")).then_some(()))
                    },
                )?;
            }
        }
        let port = Net::port(1);
        net.load_rules(&format!(
            "table bridge toll {{\n counter tally {{\n }}\n chain passing {{\n  type filter hook prerouting priority 0;\n  \
             iifname \"{port}\" counter name \"tally\"\n }}\n}}\n"
        ))?;
        let directory = tempfile::tempdir().context("a directory for the nodes")?;
        let token = layer::token();
        let mut peer = Node(self.node(directory.path(), net, 2, &addresses[1], &token, "run")?);
        // Whoever sweeps must not be faster than the peer's start.
        let status = directory.path().join("2/run/status.json");
        wait::until("the peer is up", Duration::from_secs(20), Duration::from_millis(20), || {
            ensure!(peer.0.try_wait()?.is_none(), "the peer has ended");
            let text = fs::read_to_string(&status).unwrap_or_default();
            Ok(text.contains("no-peer-answers").then_some(()))
        })?;
        let child = self.node(directory.path(), net, 1, &addresses[0], &token, "discover")?;
        let out = child.wait_with_output().context("wait for the sweep")?;
        let report: Value = serde_json::from_slice(&out.stdout)
            .with_context(|| format!("muster discover: {}", String::from_utf8_lossy(&out.stderr)))?;
        let row = report["sources"].as_array().into_iter().flatten().find(|row| row["source"] == "sweep");
        let row = row.with_context(|| format!("no sweep: {report}"))?;
        let seconds = |name: &str| row[name].as_f64().map(|ms| ms / 1_000.0);
        let first = seconds("first_ms").with_context(|| format!("the peer was not found: {row}"))?;
        let whole = seconds("took_ms").context("no time")?;
        Ok((first, whole, packets(net)?))
    }

    fn node(
        &self,
        top: &Path,
        net: &Net,
        index: u8,
        address: &str,
        token: &str,
        verb: &str,
    ) -> Result<Child> {
        let dir = top.join(index.to_string());
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let path = |name: &str| json!(dir.join(name).display().to_string());
        let rows: Vec<&str> = muster::host::ROWS.iter().map(|row| row.name).collect();
        let text = format!(
            "cluster = \"bench\"\nservers = 3\nrole = \"agent\"\nfounding = \"never\"\nnode-name = \"n{index}\"\n\
             node-ip = \"{address}\"\nstate-dir = {}\nrun-dir = {}\ntoken-file = {}\n{}[host]\nskip = {}\n[k3s]\nsources = [{}]\n{}",
            path("state"),
            path("run"),
            path("token"),
            // The peer only answers.
            match (verb, address.contains(':')) {
                ("run", false) => "seeds = [\"10.77.0.1\"]\n",
                ("run", true) => "seeds = [\"fd77::1\"]\n",
                _ => "",
            },
            json!(rows),
            path("no-k3s"),
            // A node's address is of its pods' family.
            if address.contains(':') {
                "cluster-cidr = \"fd42::/56\"\nservice-cidr = \"fd43::/112\"\n"
            } else {
                ""
            },
        );
        fs::write(dir.join("muster.toml"), text).context("write the configuration")?;
        fs::write(dir.join("token"), token).context("write the token")?;
        fs::set_permissions(dir.join("token"), fs::Permissions::from_mode(0o600)).context("its mode")?;
        // A service manager must seem to run, or the agent parks before it gossips. The mounts are the node's own.
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec \"$0\" \"$1\" --config-dir \"$2\" --output json";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.host(index), "unshare", "--mount", "sh", "-c", script]);
        command.arg(self.muster).arg(verb).arg(&dir).stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(if verb == "run" { Stdio::null() } else { Stdio::piped() });
        if verb == "run" {
            command.stderr(Stdio::null());
        }
        command.spawn().with_context(|| format!("start node {index}"))
    }
}

/// A node that ends with the measurement.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn packets(net: &Net) -> Result<u64> {
    let said = net.on_switch("nft").args(["-j", "list", "counter", "bridge", "toll", "tally"]).ok()?;
    let value: Value = serde_json::from_str(&said).context("read nft's counter")?;
    let counters = value["nftables"].as_array().into_iter().flatten();
    counters.filter_map(|item| item["counter"]["packets"].as_u64()).next().context("nft names no counter")
}

/// The table for people, and for the documentation.
#[must_use]
pub fn table(result: &Value) -> String {
    let mut text = String::from(
        "| network | first peer | all of it | slowest | goal | frames a second |\n|---|---|---|---|---|---|\n",
    );
    for row in result["networks"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "| {} | {} s | {} s | {} s | below {} s: {} | {} |\n",
            row["network"].as_str().unwrap_or_default(),
            row["first_peer_seconds"],
            row["whole_seconds"],
            row["slowest_seconds"],
            row["goal"]["below_seconds"],
            if row["goal"]["met"] == true { "met" } else { "missed" },
            row["frames_per_second"]
        ));
    }
    text
}
