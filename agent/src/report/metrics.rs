//! The metrics: the status as gauges and counters in the text format of Prometheus. No secrets, and no label whose values others
//! can make up without bound.

use std::fmt::{Display, Write};

use super::Status;
use super::decisions::Kind;
use crate::core::Phase;

/// Rules under which all automation of this node stands still because there may be two clusters.
pub const FROZEN: [&str; 5] =
    ["two-clusters", "annulment-refused", "members-split", "members-split-told", "two-recoveries"];

/// The phases, in the order in which they are shown.
const PHASES: [Phase; 8] = [
    Phase::Preparing,
    Phase::Seeking,
    Phase::Electing,
    Phase::Founding,
    Phase::Joining,
    Phase::Serving,
    Phase::Degraded,
    Phase::Parked,
];

/// The text of a status.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut page = Page(String::new());
    let k3s = &status.k3s;
    page.head("muster_info", "gauge", "The agent: always 1.");
    page.labelled(
        "muster_info",
        &[
            ("version", &status.version),
            ("cluster", &status.cluster),
            ("node", &status.node.name),
            ("id", &status.node.id),
        ],
        1,
    );
    page.head("muster_phase", "gauge", "1 for the phase in which the node stands, 0 for the others.");
    for phase in PHASES {
        page.labelled("muster_phase", &[("phase", phase.word())], u8::from(phase == status.phase));
    }
    page.head("muster_why", "gauge", "1 with the rule that speaks first; absent when none does.");
    if let Some(why) = status.why.first() {
        page.labelled("muster_why", &[("rule", &rule(&why.rule))], 1);
    }
    let frozen = status.why.iter().any(|why| FROZEN.contains(&&*why.rule));
    page.gauge(
        "muster_frozen",
        "1 while nothing is done because there may be two clusters.",
        u8::from(frozen),
    );
    page.gauge("muster_era", "The founding this node is in.", status.node.era);
    page.gauge("muster_generation", "Starts of gossip under this identity.", status.node.generation);
    page.gauge(
        "muster_certificate",
        "1 when a birth certificate is known.",
        u8::from(status.certificate.is_some()),
    );
    page.head("muster_peers", "gauge", "Other nodes ever heard since the agent started.");
    let live = status.peers.iter().filter(|peer| peer.live).count();
    page.labelled("muster_peers", &[("state", "live")], live);
    page.labelled("muster_peers", &[("state", "silent")], status.peers.len() - live);
    page.known(
        "muster_voter",
        "Whether the own etcd member votes; absent when unknown or no server.",
        k3s.voter,
    );
    page.known(
        "muster_api_ready",
        "Whether the own API is ready; absent when unknown or no server.",
        k3s.api,
    );
    page.known("muster_node_ready", "Whether the own node is Ready; absent when unknown.", k3s.ready);
    page.gauge(
        "muster_status_written_seconds",
        "Wall clock of this status, seconds since 1970.",
        status.written_unix,
    );
    gossip(&mut page, status);
    decisions(&mut page, status);
    page.0
}

fn gossip(page: &mut Page, status: &Status) {
    let counters = &status.gossip;
    for (name, help, value) in [
        ("sent_bytes", "UDP payload sent.", counters.sent_bytes),
        ("received_bytes", "UDP payload received.", counters.received_bytes),
        ("sent_datagrams", "Datagrams sent.", counters.sent_datagrams),
        ("received_datagrams", "Datagrams received.", counters.received_datagrams),
        ("dropped_unopened", "Datagrams that opened under no key.", counters.dropped_unopened),
        ("dropped_replayed", "Datagrams seen before, or of no session.", counters.dropped_replayed),
        ("dropped_undecoded", "Datagrams that are no message of this version.", counters.dropped_undecoded),
        (
            "dropped_crowded",
            "Messages that speak of more than 600 members: such a group does not gossip.",
            counters.dropped_crowded,
        ),
        ("challenged", "Challenges sent to unknown sessions.", counters.challenged),
        (
            "said_again",
            "Messages of which a peer had lost a part, and was sent it again.",
            counters.said_again,
        ),
        ("ignored_claims", "Values unsigned, foreign, malformed or old.", counters.ignored_claims),
        ("send_failed", "Datagrams or messages that could not be sent.", counters.send_failed),
        ("restarts", "Restarts of the gossip task.", counters.restarts),
    ] {
        page.counter(&format!("muster_gossip_{name}_total"), help, value);
    }
}

fn decisions(page: &mut Page, status: &Status) {
    let log = &status.decisions;
    page.head("muster_decisions_total", "counter", "Decisions since the agent started.");
    for kind in Kind::ALL {
        let count = log.by_kind.get(&kind).copied().unwrap_or(0);
        page.labelled("muster_decisions_total", &[("kind", kind.word())], count);
    }
    page.counter("muster_decisions_lost_total", "Decisions that could not be written to the log.", log.lost);
    page.gauge("muster_decision_log_last", "Number of the last line of the decision log.", log.last);
}

/// A rule's name as a label: what is no name is not shown.
fn rule(name: &str) -> String {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    if name.len() <= 64 && name.chars().all(is_part) { name.to_owned() } else { "other".to_owned() }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// What is not known is not shown: an absent series is neither yes nor no.
    fn known(&mut self, name: &str, help: &str, value: Option<bool>) {
        if let Some(value) = value {
            self.gauge(name, help, u8::from(value));
        }
    }
}

/// As the format wants it, and short.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for c in value.chars().take(128) {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::Why;
    use crate::founding::testing::certificate;
    use crate::report::status::stuck;

    fn status() -> Status {
        stuck("lab", "node1", vec![Why::new("two-clusters", "secret-words-of-a-detail", "do")], 17)
    }

    #[test]
    fn each_state_has_its_values() {
        let mut seen = status();
        let shown = text(&seen);
        for line in [
            "muster_phase{phase=\"parked\"} 1",
            "muster_phase{phase=\"serving\"} 0",
            "muster_why{rule=\"two-clusters\"} 1",
            "muster_frozen 1",
            "muster_certificate 0",
            "muster_peers{state=\"live\"} 0",
            "muster_decisions_total{kind=\"remedy\"} 0",
            "muster_status_written_seconds 17",
        ] {
            assert!(shown.lines().any(|other| other == line), "{line} is not in\n{shown}");
        }
        for name in ["muster_voter", "muster_api_ready", "muster_node_ready"] {
            assert!(!shown.contains(name), "{name} is not known");
        }
        seen.why = vec![Why::new("serving", "", "")];
        (seen.phase, seen.k3s.voter, seen.k3s.api) = (Phase::Serving, Some(true), Some(false));
        seen.certificate = Some(certificate(1));
        seen.decisions.by_kind.insert(Kind::Remedy, 3);
        seen.gossip.sent_bytes = 99;
        let shown = text(&seen);
        for line in [
            "muster_phase{phase=\"parked\"} 0",
            "muster_phase{phase=\"serving\"} 1",
            "muster_frozen 0",
            "muster_certificate 1",
            "muster_voter 1",
            "muster_api_ready 0",
            "muster_decisions_total{kind=\"remedy\"} 3",
            "muster_gossip_sent_bytes_total 99",
        ] {
            assert!(shown.lines().any(|other| other == line), "{line} is not in\n{shown}");
        }
    }

    #[test]
    fn every_line_is_of_the_format_and_every_series_stands_once() {
        let mut seen = status();
        seen.cluster = "a\"b\\c\nd".to_owned();
        let shown = text(&seen);
        assert!(shown.contains(r#"cluster="a\"b\\c\nd""#), "{shown}");
        let mut series = BTreeSet::new();
        for line in shown.lines() {
            if let Some(told) = line.strip_prefix("# ") {
                assert!(told.starts_with("HELP muster_") || told.starts_with("TYPE muster_"), "{line}");
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(name.starts_with("muster_") && value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(name.to_owned()), "{name} stands twice");
        }
        assert!(series.len() > 30);
    }

    #[test]
    fn words_of_others_are_not_shown() {
        let mut seen = status();
        let canary = "canary-0123456789abcdef";
        seen.why.insert(0, Why::new("Rule of\nSomebody", canary, canary));
        seen.host.push(Why::new("host.x", canary, canary));
        seen.notes.push(Why::new("x", canary, canary));
        canary.clone_into(&mut seen.k3s.unit);
        let shown = text(&seen);
        assert!(shown.contains("muster_why{rule=\"other\"} 1") && !shown.contains(canary), "{shown}");
        assert!(!shown.contains("secret-words-of-a-detail"));
    }
}
