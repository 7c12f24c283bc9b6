//! What Muster costs while nothing happens: memory, processor, and gossip as it is on the wire.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::net::Net;
use crate::{process, wait};

/// Clock ticks in a second, as `/proc` counts them on every Linux of today.
const TICKS: f64 = 100.0;

/// The costs of an idle cluster.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Resident memory of the largest agent, bytes.
    pub(super) rss_bytes: u64,
    /// Processor time of the busiest agent, percent of one core.
    pub(super) cpu_percent: f64,
    /// Bytes of gossip that a node sends in a second, with IP and UDP headers, mean of all nodes.
    pub(super) gossip_bytes: f64,
}

/// Lets a cluster settle and then watches it.
pub(super) fn idle(lab: &Lab, settle: Duration, watch: Duration) -> Result<Idle> {
    pause("the cluster settles", settle)?;
    lab.net().load_rules(&meters(&lab.numbers()))?;
    let agents = agents(lab)?;
    let ticks =
        || -> Vec<u64> { agents.iter().filter_map(|pid| Some(process::stat(*pid)?.cpu_ticks)).collect() };
    let (bytes_before, ticks_before, began) = (sent(lab)?, ticks(), Instant::now());
    pause("an idle cluster is watched", watch)?;
    let (bytes_after, ticks_after, seconds) = (sent(lab)?, ticks(), began.elapsed().as_secs_f64());
    ensure!(ticks_before.len() == ticks_after.len(), "an agent ended while it was watched");
    let used = ticks_before.iter().zip(&ticks_after).map(|(before, after)| after - before).max();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let idle = Idle {
        rss_bytes: agents.iter().filter_map(|pid| rss(*pid)).max().context("no agent has memory")?,
        cpu_percent: used.unwrap_or_default() as f64 / TICKS / seconds * 100.0,
        gossip_bytes: (bytes_after - bytes_before) as f64 / seconds / lab.hosts.len() as f64,
    };
    Ok(idle)
}

fn pause(what: &str, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    wait::until(what, time + Duration::from_secs(1), Duration::from_millis(200), || {
        Ok((Instant::now() >= end).then_some(()))
    })
}

/// The ids of `muster run` in each host, as this machine counts them.
fn agents(lab: &Lab) -> Result<Vec<i32>> {
    let of = |host: &crate::host::Host| {
        let all = host.cgroup().processes().into_iter();
        let mut found =
            all.filter(|pid| process::stat(*pid).is_some_and(|stat| stat.comm.starts_with("muster")));
        found.next().with_context(|| format!("no muster runs in {}", host.name))
    };
    lab.hosts.iter().map(of).collect()
}

pub(super) fn rss(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// One counter for all gossip that comes out of any host.
fn meters(hosts: &[u8]) -> String {
    let mut text = String::from("table bridge toll {\n counter gossip {\n }\n chain passing {\n");
    text.push_str("  type filter hook prerouting priority 0;\n");
    for host in hosts {
        let port = Net::port(*host);
        writeln!(text, "  iifname \"{port}\" udp dport 7846 counter name \"gossip\"").unwrap_or_default();
    }
    text.push_str(" }\n}\n");
    text
}

fn sent(lab: &Lab) -> Result<u64> {
    counter(&lab.net(), "gossip")
}

/// Bytes that a counter of the switch has counted.
pub(super) fn counter(net: &Net, name: &str) -> Result<u64> {
    let said = net.on_switch("nft").args(["-j", "list", "counter", "bridge", "toll", name]).ok()?;
    let value: Value = serde_json::from_str(&said).context("read nft's counter")?;
    let counters = value["nftables"].as_array().into_iter().flatten();
    counters.filter_map(|item| item["counter"]["bytes"].as_u64()).next().context("nft names no counter")
}
