//! Running scenarios, several at a time, each with its own lab, and reporting them.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{Context, Scenario};
use crate::lab::Lab;
use crate::setup::binaries::{self, Binaries};
use crate::{sweep, view, wait};

/// What came of one scenario.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Whether all was as it must be.
    pub passed: bool,
    /// How long it took, building up and tearing down included.
    pub seconds: f64,
    /// Why it failed; empty when it passed.
    pub why: String,
    /// What it found out.
    pub facts: Map<String, Value>,
}

impl Report {
    /// The report for machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "passed": self.passed, "seconds": (self.seconds * 10.0).round() / 10.0,
               "why": self.why, "facts": self.facts})
    }

    /// The report for people, on one line.
    #[must_use]
    pub fn to_line(&self) -> String {
        let facts: Vec<String> =
            self.facts.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
        let tail = if self.passed { facts.join("  ") } else { self.why.clone() };
        format!(
            "{} {:<27} {:>6.1}s  {tail}",
            if self.passed { "ok  " } else { "FAIL" },
            self.name,
            self.seconds
        )
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Runs scenarios, `jobs` at a time, and hands out each report as it comes.
pub fn run(
    scenarios: &[Scenario],
    binaries: &Binaries,
    rootfs: &Path,
    seed: u64,
    jobs: usize,
    each: impl Fn(&Report) + Sync,
) -> Vec<Report> {
    let queue = Mutex::new(scenarios.iter().copied().collect::<VecDeque<_>>());
    let reports = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !wait::stopping()
                    && let Some(scenario) = next()
                {
                    let report = one(scenario, binaries, rootfs, seed);
                    each(&report);
                    reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(report);
                }
            });
        }
    });
    reports.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn one(scenario: Scenario, binaries: &Binaries, rootfs: &Path, seed: u64) -> Report {
    let began = Instant::now();
    let name = format!("s{}-{}", std::process::id(), scenario.name);
    let mut ctx = Context::new(binaries, rootfs, name.clone(), seed);
    let mut result = (scenario.run)(&mut ctx);
    if let Some(checker) = ctx.checker.take() {
        let (looks, violations) = checker.finish();
        ctx.fact("looks", looks);
        if !violations.is_empty() {
            result = Err(anyhow::anyhow!("invariant broken: {}", violations.join("; ")));
        }
    }
    let mut why = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
    if let Some(lab) = &ctx.lab {
        if !why.is_empty() {
            match keep_logs(lab, scenario.name) {
                Ok(dir) => why = format!("{why} [logs: {}]", dir.display()),
                Err(error) => why = format!("{why} [logs could not be kept: {error:#}]"),
            }
        }
        if let Err(error) = sweep::remove(&name) {
            why = if why.is_empty() { format!("{error:#}") } else { format!("{why}; {error:#}") };
        }
    }
    Report {
        name: scenario.name.to_owned(),
        passed: why.is_empty(),
        seconds: began.elapsed().as_secs_f64(),
        why,
        facts: ctx.facts,
    }
}

/// Keeps what a person needs to find out why a scenario failed. Ledgers and token files stay behind: they are secret.
fn keep_logs(lab: &Lab, scenario: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| binaries::workspace().join("target"), PathBuf::from);
    let dir = target.join("lab-logs").join(scenario);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let put = |name: String, content: &[u8]| {
        let file = dir.join(name);
        fs::write(&file, content).with_context(|| format!("write {}", file.display()))
    };
    put("status.txt".to_owned(), view::to_table(&view::rows(lab)).as_bytes())?;
    for host in &lab.hosts {
        let name = format!("{}-{}", host.index, host.name);
        put(
            format!("{name}.journal"),
            host.journal(None, &[]).unwrap_or_else(|e| format!("{e:#}")).as_bytes(),
        )?;
        put(format!("{name}.console"), &fs::read(host.console()).unwrap_or_default())?;
        if let Some(text) = host.status_text() {
            put(format!("{name}.status.json"), text.as_bytes())?;
        }
        if let Some(text) = host.k3s_config() {
            put(format!("{name}.config.yaml"), text.as_bytes())?;
        }
    }
    Ok(dir)
}
