//! `cargo lab up`: from nothing to a cluster, with progress.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::{Output, Source, prepare};
use crate::lab::{Lab, Spec};
use crate::picture;
use crate::progress::Progress;
use crate::view::{self, Row};
use crate::wait;

/// Seconds that a formation may take with the stand-in; a real k3s gets four times as many.
const LIMIT: u64 = 120;

#[derive(Debug, Args)]
pub(super) struct Up {
    /// How many hosts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    hosts: u8,
    /// How many servers the configuration asks for.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    servers: u8,
    #[command(flatten)]
    source: Source,
    /// Seconds that the formation may take.
    #[arg(long)]
    limit: Option<u64>,
    /// Write the formation, as it was shown, to an SVG file.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl Up {
    pub(super) fn run(&self, name: &str) -> Result<ExitCode> {
        if self.servers > self.hosts {
            bail!("{0} servers need {0} hosts at least, and --hosts is {1}", self.servers, self.hosts);
        }
        let json = self.output == Output::Json;
        let tell = |text: &str| {
            if json {
                eprintln!("==> {text}");
            } else {
                println!("==> {text}");
            }
        };
        let (binaries, rootfs) = prepare(&self.source, &tell)?;
        let lab = Lab::create(&Spec::new(name, self.hosts, self.servers, &binaries), &binaries, &rootfs)?;
        let kind = if binaries.real { "k3s" } else { "the stand-in for k3s" };
        tell(&format!(
            "{} hosts, each with the same image, configuration and token; {kind} {}",
            self.hosts, binaries.version
        ));
        let mut progress = Progress::new(json);
        lab.start(&lab.hosts).inspect_err(|_| drop(lab.destroy()))?;
        progress.say(&format!("{} hosts powered on; nothing else tells a host who it is", self.hosts));
        let limit = self.limit.unwrap_or(if binaries.real { 4 * LIMIT } else { LIMIT });
        let formed = formed(&lab, &mut progress, Duration::from_secs(limit));
        let rows = match formed {
            Ok(rows) => rows,
            Err(_) if wait::stopping() => {
                lab.destroy()?;
                bail!("stopped by hand; the lab is removed");
            }
            Err(error) => {
                eprint!("{}", view::to_table(&view::rows(&lab)));
                eprintln!(
                    "The lab stands as it is: `cargo lab why HOST`, `cargo lab logs HOST`, `cargo lab down`."
                );
                return Err(error);
            }
        };
        let servers = rows.iter().filter(|row| row.role == "server").count();
        progress.say(&format!("one cluster: {servers} voters, {} agents, all Ready", rows.len() - servers));
        if let Some(file) = &self.picture {
            let picture = picture::svg("cargo lab up", &progress.events, &view::to_table(&rows));
            fs::write(file, picture).with_context(|| format!("write {}", file.display()))?;
        }
        if json {
            println!("{}", self.report(&lab, &rows, progress.seconds()));
        } else {
            self.show(&lab, &rows);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, lab: &Lab, rows: &[Row], seconds: f64) -> Value {
        let mut report = view::to_json(rows);
        let phases = |host: &crate::host::Host| -> Map<String, Value> {
            let status = host.status().unwrap_or_default();
            status.phases().into_iter().map(|(phase, seconds)| (phase, json!(seconds))).collect()
        };
        let phases: Map<String, Value> =
            lab.hosts.iter().map(|host| (host.name.clone(), Value::Object(phases(host)))).collect();
        report["seconds"] = json!(seconds);
        report["phases"] = Value::Object(phases);
        report
    }

    fn show(&self, lab: &Lab, rows: &[Row]) {
        print!("\n{}", view::to_table(rows));
        if let (Some(certificate), _) = view::certificate(rows) {
            print!("\nBirth certificate\n{}", view::certificate_text(certificate));
        }
        print!("\nSeconds in each phase\n{}", phases_table(lab));
        println!(
            "\nNext: cargo lab status | why HOST | logs HOST | shell HOST | kubectl get nodes | \
             kill HOST | partition '1,2|3,4,5' | down"
        );
    }
}

/// Follows a lab until its hosts are one cluster, by the nodes' word and by that of k3s itself.
pub(super) fn formed(lab: &Lab, progress: &mut Progress, within: Duration) -> Result<Vec<Row>> {
    let servers = usize::from(lab.servers).min(lab.hosts.len());
    let mut last = String::new();
    let result = wait::until("one cluster", within, Duration::from_millis(200), || {
        let rows = progress.look(lab);
        last = match view::missing(&rows, servers).or_else(|| view::contradicted(lab, &rows, servers)) {
            None => return Ok(Some(rows)),
            Some(reason) => reason,
        };
        Ok(None)
    });
    result.with_context(|| format!("the hosts are not one cluster: {last}"))
}

/// Hosts by phases: how long each stayed in each.
fn phases_table(lab: &Lab) -> String {
    let of: Vec<(String, Vec<(String, f64)>)> = lab
        .hosts
        .iter()
        .map(|host| (host.name.clone(), host.status().unwrap_or_default().phases()))
        .collect();
    let mut names: Vec<String> = Vec::new();
    for (phase, _) in of.iter().flat_map(|(_, phases)| phases) {
        if phase != "serving" && !names.contains(phase) {
            names.push(phase.clone());
        }
    }
    let mut lines =
        vec![[vec!["NODE".to_owned()], names.iter().map(|n| n.to_uppercase()).collect()].concat()];
    for (node, phases) in of {
        let cell = |name: &String| {
            let found = phases.iter().find(|(phase, _)| phase == name);
            found.map_or("-".to_owned(), |(_, seconds)| format!("{seconds:.1}"))
        };
        lines.push([vec![node], names.iter().map(cell).collect()].concat());
    }
    view::columns(&lines)
}
