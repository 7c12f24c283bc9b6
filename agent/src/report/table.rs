//! The status for people.

use std::fmt::Write;

use super::Status;
use crate::core::Phase;
use crate::gossip::Role;

/// One row of the table of nodes.
struct Row {
    cells: [String; 7],
}

/// The status as a table: this node first, its reasons, its peers, the certificate.
#[must_use]
pub fn status_table(status: &Status) -> String {
    let mut text = String::new();
    let node = &status.node;
    let _ = writeln!(
        text,
        "{} in cluster {}: {} for {}",
        node.name,
        status.cluster,
        status.phase,
        for_people(status.since_seconds)
    );
    text.push_str(&why_text(status));
    for why in &status.notes {
        let _ = writeln!(text, "  {}: {}; {}", why.rule, why.detail, why.next);
    }
    let head = ["NODE", "ADDRESS", "ROLE", "PHASE", "VOTER", "READY", "WHY"].map(str::to_owned);
    let own = Row {
        cells: [
            format!("{} (this)", node.name),
            node.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            role(node.role).to_owned(),
            status.phase.word().to_owned(),
            fact(status.k3s.voter).to_owned(),
            fact(status.k3s.ready).to_owned(),
            status
                .why
                .first()
                .filter(|_| status.phase != Phase::Serving)
                .map_or("", |why| &*why.rule)
                .to_owned(),
        ],
    };
    let peers = status.peers.iter().map(|peer| Row {
        cells: [
            peer.name.clone(),
            peer.address.to_string(),
            role(peer.role).to_owned(),
            if peer.live { peer.phase.word().to_owned() } else { "silent".to_owned() },
            fact(peer.voter).to_owned(),
            fact(peer.ready).to_owned(),
            peer.why.clone(),
        ],
    });
    let rows: Vec<[String; 7]> =
        std::iter::once(head).chain(std::iter::once(own).chain(peers).map(|row| row.cells)).collect();
    text.push('\n');
    text.push_str(&columns(&rows));
    if let Some(certificate) = &status.certificate {
        let _ = writeln!(
            text,
            "\ncluster {} of era {}, founded by {} at {}, CA {}",
            certificate.cluster_id.short(),
            certificate.era,
            certificate.founder_name,
            certificate.founder_address,
            certificate.ca_hash
        );
    }
    if !status.k3s.voters.is_empty() {
        let voters: Vec<&str> = status.k3s.voters.keys().map(String::as_str).collect();
        let _ = writeln!(text, "voters, as last listed here: {}", voters.join(", "));
    }
    text
}

/// The reasons, one paragraph each, then what is wrong with the machine and blocks nothing.
#[must_use]
pub fn why_text(status: &Status) -> String {
    let mut text = String::new();
    for why in &status.why {
        let _ = writeln!(text, "  {}: {}", why.rule, why.detail);
        if !why.next.is_empty() {
            let _ = writeln!(text, "      next: {}", why.next);
        }
    }
    if status.phase == Phase::Seeking {
        for source in &status.discovery {
            let _ = writeln!(text, "  source {}", source.words());
        }
    }
    for why in &status.host {
        let _ = writeln!(text, "  {}: {}; {}", why.rule, why.detail, why.next);
    }
    text
}

/// Rows in columns, each as wide as its widest cell.
#[must_use]
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Undecided => "-",
        Role::Server => "server",
        Role::Agent => "agent",
    }
}

fn fact(fact: Option<bool>) -> &'static str {
    match fact {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

fn for_people(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{seconds:.1} s");
    }
    let minutes = seconds / 60.0;
    if minutes < 120.0 { format!("{minutes:.0} min") } else { format!("{:.0} h", minutes / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::SourceSeen;

    #[test]
    fn why_shows_each_source_with_its_answer_age_and_error_while_the_node_seeks() {
        let source = |source: &str, found, age_ms, error: Option<&str>| SourceSeen {
            source: source.to_owned(),
            found,
            age_ms,
            error: error.map(str::to_owned),
        };
        let mut status = crate::report::status::stuck("lab", "n1", Vec::new(), 0);
        status.phase = Phase::Seeking;
        status.discovery = vec![
            source("static", Some(2), Some(4_900), None),
            source("dns", Some(1), Some(61_000), Some("a.example: no answer")),
            source("aws", None, None, Some("DescribeInstances: not permitted")),
        ];
        assert_eq!(
            why_text(&status),
            "  source static: 2 addresses, 4 s ago\n  source dns: 1 address (a.example: no answer), 61 s ago\n  source aws: unknown \
             (DescribeInstances: not permitted)\n"
        );
        assert!(status_table(&status).contains("  source dns: 1 address"));
        status.phase = Phase::Serving;
        assert_eq!(why_text(&status), "");
    }
}
