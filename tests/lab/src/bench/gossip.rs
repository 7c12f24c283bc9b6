//! Muster's gossip beside Serf's: the same namespaces, the same loss, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::crowd::{Crowd, Kind, Said};
use crate::net::Net;
use crate::setup::Tell;
use crate::{paths, sweep};

/// How long a crowd has to come together. Serf's repair of what was lost comes once in 60 to 90 s in a crowd of more than 32.
const JOIN: Duration = Duration::from_secs(300);
/// How long a death has to be noticed by all.
const DEATH: Duration = Duration::from_secs(180);
/// Quiet time before something is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// How long an idle crowd is watched.
const WATCH: Duration = Duration::from_secs(30);
/// Deaths in a crowd, as long as three nodes are left to notice.
const DEATHS: u8 = 3;

/// What is compared.
pub struct Bench<'a> {
    /// The `muster` binary.
    pub muster: &'a Path,
    /// Sizes of the crowds.
    pub nodes: &'a [u8],
    /// Percentages of frames lost.
    pub loss: &'a [u8],
    /// Who is told how it goes.
    pub tell: Tell<'a>,
}

/// What is known of a crowd so far, from what its nodes say.
#[derive(Default)]
struct Knowledge {
    lives: BTreeMap<(u8, u8), bool>,
    /// When a node was first called dead by another one.
    noticed: BTreeMap<(u8, u8), Instant>,
    dead: BTreeSet<u8>,
    false_deaths: u64,
    /// Whether deaths are counted yet: while a crowd comes together they are not.
    counts: bool,
}

impl Knowledge {
    fn hear(&mut self, said: Said) {
        let before = self.lives.insert((said.by, said.of), said.lives);
        if said.lives || before != Some(true) {
            return;
        }
        if self.dead.contains(&said.of) {
            self.noticed.entry((said.by, said.of)).or_insert(said.at);
        } else if self.counts {
            self.false_deaths += 1;
        }
    }

    /// How many pairs of these there are of which one does not see the other.
    fn missing(&self, nodes: &[u8]) -> usize {
        let pairs = nodes.iter().flat_map(|by| nodes.iter().map(move |of| (*by, *of)));
        pairs.filter(|(by, of)| by != of).filter(|pair| self.lives.get(pair) != Some(&true)).count()
    }
}

impl Bench<'_> {
    /// Measures every cell of the table. A crowd that does not come together is a cell, too.
    ///
    /// # Errors
    /// The kernel's table of neighbours is too small and cannot be made larger, or a network cannot be removed.
    pub fn run(&self) -> Result<Value> {
        let mut cells = Vec::new();
        let _neighbours = Neighbours::raise()?;
        for &nodes in self.nodes {
            for &loss in self.loss {
                for kind in [Kind::Muster, Kind::Serf] {
                    let cell = self.cell(kind, nodes, loss)?;
                    (self.tell)(&cell.to_string());
                    cells.push(cell);
                }
            }
        }
        Ok(json!({ "cells": cells }))
    }

    fn cell(&self, kind: Kind, nodes: u8, loss: u8) -> Result<Value> {
        let lab = format!("g{}", std::process::id());
        let net = Net::new(&paths::prefix(&lab));
        let result = network(&net, nodes).and_then(|()| self.measure(kind, &net, nodes, loss));
        // Namespaces alone: nothing of this lab is on a disk.
        sweep::remove(&lab)?;
        // One bad cell must not cost the whole table.
        Ok(result.unwrap_or_else(|error| {
            json!({ "software": kind.name(), "nodes": nodes, "loss_percent": loss, "failed": format!("{error:#}") })
        }))
    }

    fn measure(&self, kind: Kind, net: &Net, nodes: u8, loss: u8) -> Result<Value> {
        net.load_rules(&rules(nodes, loss))?;
        let began = Instant::now();
        let mut crowd = Crowd::start(kind, self.muster, net, nodes)?;
        let mut known = Knowledge::default();
        let living = crowd.living();
        if !hear(&crowd, &mut known, JOIN, |known| known.missing(&living) == 0) {
            let missing = known.missing(&living);
            return Ok(json!({
                "software": kind.name(), "nodes": nodes, "loss_percent": loss, "converged_seconds": null,
                "missing_pairs": missing, "of_pairs": usize::from(nodes) * usize::from(nodes - 1),
            }));
        }
        let converged = began.elapsed();
        listen(&crowd, &mut known, SETTLE);
        known.counts = true;
        let (ticks, bytes, watched) = (crowd.ticks(), sent(net)?, Instant::now());
        listen(&crowd, &mut known, WATCH);
        let (ticks, bytes, seconds) =
            (crowd.ticks() - ticks, sent(net)? - bytes, watched.elapsed().as_secs_f64());
        let memory = crowd.memory();
        ensure!(memory.len() == usize::from(nodes), "a node ended while it was watched");
        let (mut times, mut unnoticed) = (Vec::new(), 0);
        for _ in 0..DEATHS.min(nodes - 2) {
            let (dead, died) = crowd.kill_last()?;
            known.dead.insert(dead);
            let living = crowd.living();
            let all = |known: &Knowledge| living.iter().all(|by| known.noticed.contains_key(&(*by, dead)));
            hear(&crowd, &mut known, DEATH, all);
            for by in &living {
                match known.noticed.get(&(*by, dead)) {
                    Some(at) => times.push(at.duration_since(died).as_secs_f64()),
                    None => unnoticed += 1,
                }
            }
            listen(&crowd, &mut known, Duration::from_secs(5));
        }
        times.sort_by(f64::total_cmp);
        let per_node = |total: f64| (total / seconds / f64::from(nodes) * 100.0).round() / 100.0;
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let cell = json!({
            "software": kind.name(), "nodes": nodes, "loss_percent": loss,
            "converged_seconds": rounded(converged.as_secs_f64()),
            "bytes_per_node_second": per_node(bytes as f64),
            // A hundred clock ticks are a second: ticks per second are percent of a core.
            "cpu_percent_per_node": per_node(ticks as f64),
            "rss_bytes": memory.iter().max(),
            "detection_p50_seconds": rounded(rank(&times, 0.5)), "detection_p99_seconds": rounded(rank(&times, 0.99)),
            "detections": times.len(), "unnoticed": unnoticed, "false_deaths": known.false_deaths,
        });
        Ok(cell)
    }
}

/// The smallest value that at least this share of all values does not exceed; the values are sorted.
fn rank(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small"
    )]
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Takes in what is said until it is as wanted; whether it was so in time.
fn hear(crowd: &Crowd, known: &mut Knowledge, within: Duration, wanted: impl Fn(&Knowledge) -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        crowd.said.try_iter().for_each(|said| known.hear(said));
        if wanted(known) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes in what is said for so long.
fn listen(crowd: &Crowd, known: &mut Knowledge, time: Duration) {
    hear(crowd, known, time, |_| false);
}

/// Room in the kernel's table of neighbours, which all namespaces share: forty nodes that know each other are 1,560 entries, and
/// the kernel keeps 1,024. Dropping it puts the old sizes back.
struct Neighbours(Vec<(String, String)>);

impl Neighbours {
    fn raise() -> Result<Self> {
        let mut old = Self(Vec::new());
        for (name, least) in [("gc_thresh3", 16_384_u64), ("gc_thresh2", 8_192)] {
            let path = format!("/proc/sys/net/ipv4/neigh/default/{name}");
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            if text.trim().parse::<u64>().with_context(|| format!("understand {path}"))? >= least {
                continue;
            }
            fs::write(&path, least.to_string()).with_context(|| format!("write {path}"))?;
            old.0.push((path, text));
        }
        Ok(old)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        // The other way round: the kernel wants the second below the third.
        for (path, text) in self.0.iter().rev() {
            drop(fs::write(path, text));
        }
    }
}

fn network(net: &Net, nodes: u8) -> Result<()> {
    net.create()?;
    (1..=nodes).try_for_each(|index| net.add_host(index))
}

/// Everything that comes out of a node is counted; then so many frames of a hundred are lost on the way.
fn rules(nodes: u8, loss: u8) -> String {
    let mut text = String::from("table bridge toll {\n counter tally {\n }\n chain passing {\n");
    text.push_str("  type filter hook prerouting priority 0;\n");
    for index in 1..=nodes {
        let port = Net::port(index);
        writeln!(text, "  iifname \"{port}\" meta protocol ip counter name \"tally\"").unwrap_or_default();
    }
    text.push_str(" }\n chain between {\n  type filter hook forward priority 0;\n");
    if loss > 0 {
        writeln!(text, "  meta protocol ip numgen random mod 100 < {loss} drop").unwrap_or_default();
    }
    text.push_str(" }\n}\n");
    text
}

fn sent(net: &Net) -> Result<u64> {
    super::measure::counter(net, "tally")
}

/// The table for people, and for the documentation.
#[must_use]
pub fn table(result: &Value) -> String {
    let mut text = String::from(
        "| nodes | loss | | joined | bytes per node per second | CPU per node | RSS | death noticed P50 | P99 | false deaths |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for cell in result["cells"].as_array().into_iter().flatten() {
        if cell["converged_seconds"].is_null() {
            let (missing, pairs) = (&cell["missing_pairs"], &cell["of_pairs"]);
            let what = match cell["failed"].as_str() {
                Some(failed) => failed.to_owned(),
                None => format!("not within {} s: {missing} of {pairs} pairs missing", JOIN.as_secs()),
            };
            let software = cell["software"].as_str().unwrap_or_default();
            let (nodes, loss) = (&cell["nodes"], &cell["loss_percent"]);
            writeln!(text, "| {nodes} | {loss}% | {software} | {what} | | | | | | |").unwrap_or_default();
            continue;
        }
        let mib = cell["rss_bytes"].as_u64().unwrap_or_default() / 100_000;
        writeln!(
            text,
            "| {} | {}% | {} | {} s | {} | {}% | {}.{} MB | {} s | {} s | {} |",
            cell["nodes"],
            cell["loss_percent"],
            cell["software"].as_str().unwrap_or_default(),
            cell["converged_seconds"],
            cell["bytes_per_node_second"],
            cell["cpu_percent_per_node"],
            mib / 10,
            mib % 10,
            cell["detection_p50_seconds"],
            cell["detection_p99_seconds"],
            cell["false_deaths"],
        )
        .unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_told_from_false_deaths() {
        let (mut known, at) = (Knowledge { counts: true, ..Knowledge::default() }, Instant::now());
        let said = |by, of, lives| Said { by, of, lives, at };
        for (by, of) in [(1, 2), (2, 1), (1, 3), (2, 3), (3, 1), (3, 2)] {
            known.hear(said(by, of, true));
        }
        assert_eq!(known.missing(&[1, 2, 3]), 0);
        assert_eq!(known.missing(&[1, 2, 3, 4]), 6, "nobody and number 4 see each other");
        known.hear(said(1, 2, false));
        known.hear(said(1, 2, true));
        assert_eq!((known.false_deaths, known.missing(&[1, 2, 3])), (1, 0));
        known.dead.insert(3);
        known.hear(said(1, 3, false));
        assert_eq!((known.false_deaths, known.noticed.len()), (1, 1));
    }

    #[test]
    fn ranks_are_values_that_were_seen() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((rank(&times, 0.5), rank(&times, 0.99), rank(&times[..1], 0.99)), (50.0, 99.0, 1.0));
    }
}
