//! A cluster as a person sees it: one row for a host, the certificate, and whether it is formed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::host::Host;
use crate::lab::Lab;
use crate::probe;
use crate::status::{Certificate, Status, Why};

/// One host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Number of the host.
    pub index: u8,
    /// Name of the host.
    pub name: String,
    /// Address of the host.
    pub address: String,
    /// `server`, `agent`, `undecided`, or nothing when the node does not speak.
    pub role: String,
    /// The node's phase; `off` when the host is down, `booting` when its agent has not spoken yet.
    pub phase: String,
    /// Whether it votes in etcd; nothing when unknown.
    pub voter: Option<bool>,
    /// Whether its Node object is Ready; nothing when unknown.
    pub ready: Option<bool>,
    /// Seconds in the phase.
    pub since: f64,
    /// The reasons.
    pub why: Vec<Why>,
    /// The certificate it holds.
    pub certificate: Option<Certificate>,
}

impl Row {
    /// The row of a host, as it is now.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let base =
            Self { index: host.index, name: host.name.clone(), address: host.address(), ..Self::default() };
        if host.running().is_none() {
            return Self { phase: "off".to_owned(), ..base };
        }
        match host.status() {
            None => Self { phase: "booting".to_owned(), ..base },
            Some(status) => Self::with(base, status),
        }
    }

    fn with(base: Self, status: Status) -> Self {
        Self {
            since: status.since(),
            role: status.node.role,
            phase: status.phase,
            voter: status.k3s.voter,
            ready: status.k3s.ready,
            why: status.why,
            certificate: status.certificate,
            ..base
        }
    }

    /// The most important reason on one line.
    #[must_use]
    pub fn headline(&self) -> String {
        self.why.first().map(|why| format!("{}: {}", why.rule, why.detail)).unwrap_or_default()
    }
}

/// The rows of all hosts of a lab.
#[must_use]
pub fn rows(lab: &Lab) -> Vec<Row> {
    lab.hosts.iter().map(Row::of).collect()
}

/// The certificate that the nodes hold, and whether all that hold one hold the same.
#[must_use]
pub fn certificate(rows: &[Row]) -> (Option<&Certificate>, bool) {
    let held = || rows.iter().filter_map(|row| row.certificate.as_ref());
    let distinct: BTreeSet<_> = held().map(Certificate::identity).collect();
    (held().next(), distinct.len() <= 1)
}

/// What still keeps these hosts from being one cluster with `servers` voters, by the nodes' own words.
#[must_use]
pub fn missing(rows: &[Row], servers: usize) -> Option<String> {
    for row in rows {
        let state = format!("{} is `{}`", row.name, row.phase);
        let why = if row.why.is_empty() { String::new() } else { format!(" ({})", row.headline()) };
        if row.phase != "serving" {
            return Some(state + &why);
        }
        if row.ready != Some(true) {
            return Some(format!("{} is not Ready{why}", row.name));
        }
        if row.certificate.is_none() {
            return Some(format!("{} holds no certificate", row.name));
        }
        if row.role == "server" && row.voter != Some(true) {
            return Some(format!("{} is a server and no voter{why}", row.name));
        }
    }
    if !certificate(rows).1 {
        return Some("the nodes hold different certificates".to_owned());
    }
    let found = rows.iter().filter(|row| row.role == "server").count();
    let wanted = servers.min(rows.len());
    (found != wanted).then(|| format!("{found} servers, {wanted} wanted"))
}

/// What k3s itself says against the cluster being formed: Muster's word is not taken for it.
#[must_use]
pub fn contradicted(lab: &Lab, rows: &[Row], servers: usize) -> Option<String> {
    let server = rows.iter().find(|row| row.role == "server")?;
    let host = lab.hosts.iter().find(|host| host.index == server.index)?;
    let running: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    match probe::members(host) {
        Err(error) => return Some(format!("{error:#}")),
        Ok(members) if members.voters.len() != servers || !members.learners.is_empty() => {
            return Some(format!(
                "etcd has {} voters and {} learners, {servers} voters wanted",
                members.voters.len(),
                members.learners.len()
            ));
        }
        Ok(_) => {}
    }
    match probe::nodes(host) {
        Err(error) => Some(format!("{error:#}")),
        Ok(nodes) => running.iter().find_map(|name| match nodes.get(*name) {
            None => Some(format!("there is no Node {name}")),
            Some(false) => Some(format!("Node {name} is not Ready by the API's word")),
            Some(true) => None,
        }),
    }
}

/// The cluster for machines: `{"nodes":[...],"certificate":...}`.
#[must_use]
pub fn to_json(rows: &[Row]) -> Value {
    let nodes: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({"name": row.name, "role": row.role, "phase": row.phase,
                   "voter": row.voter, "ready": row.ready, "why": row.why})
        })
        .collect();
    json!({"nodes": nodes, "certificate": certificate(rows).0})
}

/// The cluster for people.
#[must_use]
pub fn to_table(rows: &[Row]) -> String {
    let mut lines =
        vec![["NODE", "ADDRESS", "ROLE", "PHASE", "VOTER", "READY", "SINCE", "WHY"].map(str::to_owned)];
    for row in rows {
        let settled = row.phase == "serving" && row.ready == Some(true);
        lines.push([
            row.name.clone(),
            row.address.clone(),
            or_dash(&row.role),
            row.phase.clone(),
            if row.role == "agent" { "-".to_owned() } else { yes_no(row.voter) },
            yes_no(row.ready),
            if row.role.is_empty() { "-".to_owned() } else { seconds(row.since) },
            if settled { String::new() } else { row.headline() },
        ]);
    }
    table(&lines)
}

/// The birth certificate for people.
#[must_use]
pub fn certificate_text(certificate: &Certificate) -> String {
    let lines = [
        ("cluster", certificate.cluster_id.clone()),
        ("era", certificate.era.to_string()),
        ("founder", format!("{} ({})", certificate.founder_name, certificate.founder_address)),
        ("CA hash", certificate.ca_hash.clone()),
        ("parameters", certificate.parameters_hash.clone()),
    ];
    lines.iter().map(|(key, value)| format!("  {key:<11} {value}\n")).collect()
}

/// Lines of cells, set in columns as wide as they need.
#[must_use]
pub fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let rows: Vec<Vec<String>> = lines.iter().map(|line| line.to_vec()).collect();
    columns(&rows)
}

/// As [`table`], for a number of columns that is not known before.
#[must_use]
pub fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |n: usize| lines.iter().filter_map(|line| line.get(n)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|n| width(n).unwrap_or_default()).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A stretch of time for people: `4.2s`, `3m10s`, `2h05m`.
#[must_use]
pub fn seconds(value: f64) -> String {
    if value < 60.0 {
        return format!("{value:.1}s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole seconds, not negative"
    )]
    let whole = value.round() as u64;
    if whole < 3600 {
        format!("{}m{:02}s", whole / 60, whole % 60)
    } else {
        format!("{}h{:02}m", whole / 3600, whole % 3600 / 60)
    }
}

fn yes_no(value: Option<bool>) -> String {
    match value {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => "-".to_owned(),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
