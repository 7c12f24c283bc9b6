//! How long a formation takes by Muster, against the same k3s started by hand in the best order.

mod crowd;
pub mod gossip;
pub mod healing;
mod host;
mod measure;
mod oracle;
pub mod probes;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

pub use healing::HealingBench;
pub use host::HostBench;

use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::probe;
use crate::setup::Tell;
use crate::setup::binaries::Binaries;
use crate::{sweep, wait};

/// How often both sides are asked whether the cluster is there.
const EVERY: Duration = Duration::from_millis(100);
/// The servers of the cluster that is timed.
const SERVERS: u8 = 3;

/// What is measured with.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// What the hosts run.
    pub binaries: &'a Binaries,
    /// The hosts' lowest layer.
    pub rootfs: &'a Path,
    /// Formations on each side.
    pub runs: u32,
    /// Who is told how it goes.
    pub tell: Tell<'a>,
}

/// One formation by Muster.
#[derive(Debug, Default)]
struct Formation {
    seconds: f64,
    founder: Vec<(String, f64)>,
    last: Vec<(String, f64)>,
}

impl Bench<'_> {
    /// Forms clusters in turn by hand and by Muster, then measures an idle one of five hosts.
    ///
    /// # Errors
    /// A cluster does not form, or a person asks to stop.
    pub fn run(&self) -> Result<Value> {
        let (mut by_hand, mut steps_by_hand, mut by_muster) = (Vec::new(), Vec::new(), Vec::new());
        for run in 1..=self.runs {
            // The first of a pair may find colder caches: it is not always the same side.
            for oracle in if run % 2 == 1 { [true, false] } else { [false, true] } {
                if oracle {
                    let (seconds, steps) =
                        self.in_lab("oracle", true, |lab| oracle::form(lab, self.limit()))?;
                    (self.tell)(&format!("run {run}: by hand {seconds:.1} s"));
                    by_hand.push(seconds);
                    steps_by_hand.push(steps);
                } else {
                    let formation = self.in_lab("muster", false, |lab| self.form(lab))?;
                    (self.tell)(&format!("run {run}: by Muster {:.1} s", formation.seconds));
                    by_muster.push(formation);
                }
            }
        }
        (self.tell)("an idle cluster of five hosts for a minute");
        let idle = self.idle()?;
        let oracle = median(&by_hand);
        let muster_runs: Vec<f64> = by_muster.iter().map(|formation| formation.seconds).collect();
        let muster = median(&muster_runs);
        let binary = std::fs::metadata(&self.binaries.muster).context("size of the binary")?.len();
        Ok(json!({
            "oracle_seconds": rounded(oracle),
            "muster_seconds": rounded(muster),
            "over_seconds": rounded(muster - oracle),
            "ratio": rounded(muster / oracle),
            "phases": {
                "by_hand": phases(steps_by_hand.iter()),
                "founder": phases(by_muster.iter().map(|formation| &formation.founder)),
                "last_server": phases(by_muster.iter().map(|formation| &formation.last)),
            },
            "rss_bytes": idle.rss_bytes,
            "cpu_percent": rounded(idle.cpu_percent),
            "binary_bytes": binary,
            "gossip_bytes_per_node_second": rounded(idle.gossip_bytes),
            "runs": self.runs,
            "oracle_runs": by_hand.iter().copied().map(rounded).collect::<Vec<_>>(),
            "muster_runs": muster_runs.into_iter().map(rounded).collect::<Vec<_>>(),
            "k3s": self.binaries.version,
            "stand_in": !self.binaries.real,
        }))
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(if self.binaries.real { 900 } else { 180 })
    }

    /// Boots three hosts without any cluster, does something with them, and removes them.
    fn in_lab<T>(&self, side: &str, bare_k3s: bool, act: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
        let name = format!("b{}-{side}", std::process::id());
        let spec = Spec {
            enabled: false,
            bare_k3s,
            owned: true,
            ..Spec::new(&name, SERVERS, SERVERS, self.binaries)
        };
        let lab = Lab::create(&spec, self.binaries, self.rootfs)?;
        let result = boot(&lab).and_then(|()| act(&lab));
        sweep::remove(&name)?;
        result.with_context(|| format!("side `{side}`"))
    }

    fn form(&self, lab: &Lab) -> Result<Formation> {
        let began = Instant::now();
        crate::lab::all(&lab.hosts, |host| {
            host.shell("systemctl start --no-block muster.service").map(drop)
        })?;
        whole(&lab.hosts, self.limit())?;
        let seconds = began.elapsed().as_secs_f64();
        // The last server may need a moment to notice what is already true.
        wait::until("every node says that it serves", self.limit(), EVERY, || {
            let serves = |host: &Host| host.status().is_some_and(|status| status.phase == "serving");
            Ok(lab.hosts.iter().all(serves).then_some(()))
        })?;
        let mut formation = Formation { seconds, ..Formation::default() };
        let mut latest = -1.0;
        for host in &lab.hosts {
            let status = host.status().unwrap_or_default();
            let founder = status.certificate.as_ref().is_some_and(|c| c.founder == status.node.id);
            let at = status.timeline.iter().rfind(|s| s.phase == "serving").map_or(0.0, |s| s.at_seconds);
            let phases = || status.phases().into_iter().filter(|(phase, _)| phase != "serving").collect();
            if founder {
                formation.founder = phases();
            }
            if at > latest {
                latest = at;
                formation.last = phases();
            }
        }
        Ok(formation)
    }

    fn idle(&self) -> Result<measure::Idle> {
        let name = format!("b{}-idle", std::process::id());
        let spec = Spec { owned: true, ..Spec::new(&name, 5, SERVERS, self.binaries) };
        let lab = Lab::create(&spec, self.binaries, self.rootfs)?;
        let result = lab.start(&lab.hosts).and_then(|()| {
            wait::until("five hosts are one cluster", self.limit(), Duration::from_millis(500), || {
                let rows = crate::view::rows(&lab);
                Ok(crate::view::missing(&rows, usize::from(SERVERS)).is_none().then_some(()))
            })?;
            measure::idle(&lab, Duration::from_secs(10), Duration::from_secs(60))
        });
        sweep::remove(&name)?;
        result
    }
}

fn boot(lab: &Lab) -> Result<()> {
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(60))
}

/// Waits until all hosts are voters and all are Ready, by k3s's own word; Muster is not asked.
fn whole(hosts: &[Host], within: Duration) -> Result<()> {
    let mut last = String::new();
    let result = wait::until("all are voters and Ready", within, EVERY, || {
        for host in hosts {
            let members = match probe::members(host) {
                Ok(members) => members,
                Err(error) => {
                    last = format!("{error:#}");
                    continue;
                }
            };
            if members.voters.len() != hosts.len() {
                last = format!("{} voters", members.voters.len());
                return Ok(None);
            }
            let nodes = probe::nodes(host).unwrap_or_default();
            last = format!("Nodes: {nodes:?}");
            let ready = nodes.values().filter(|ready| **ready).count();
            return Ok((ready == hosts.len()).then_some(()));
        }
        Ok(None)
    });
    result.context(last)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The median of each phase over several formations.
fn phases<'a>(runs: impl Iterator<Item = &'a Vec<(String, f64)>>) -> Map<String, Value> {
    let runs: Vec<&Vec<(String, f64)>> = runs.collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in runs.iter().copied().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of =
        |run: &Vec<(String, f64)>, name: &str| run.iter().find(|(n, _)| n == name).map_or(0.0, |(_, s)| *s);
    names
        .into_iter()
        .map(|name| {
            let values: Vec<f64> = runs.iter().map(|run| of(run, name)).collect();
            (name.clone(), json!(rounded(median(&values))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_phase_and_a_phase_that_was_skipped_counts_as_nothing() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        let runs = [vec![("a".to_owned(), 1.0)], vec![("a".to_owned(), 3.0), ("b".to_owned(), 1.0)], vec![]];
        assert_eq!(Value::Object(phases(runs.iter())), json!({"a": 1.0, "b": 0.0}));
    }
}
