//! What happens in a lab, as lines that a person can follow, one for each event.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Instant;

use crate::lab::Lab;
use crate::status::Certificate;
use crate::view::{self, Row};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Seconds since the beginning.
    pub at: f64,
    /// The host, or nothing for the whole cluster.
    pub node: String,
    /// The host's phase at that moment.
    pub phase: String,
    /// What happened.
    pub text: String,
}

/// Follows a lab and tells each change once.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    before: BTreeMap<u8, Row>,
    certificate: Option<Certificate>,
    /// All events so far.
    pub events: Vec<Event>,
    to_stderr: bool,
    colour: bool,
}

impl Progress {
    /// A follower whose time begins now. With `to_stderr` the lines leave standard output alone.
    #[must_use]
    pub fn new(to_stderr: bool) -> Self {
        let terminal =
            if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self {
            began: Instant::now(),
            before: BTreeMap::new(),
            certificate: None,
            events: Vec::new(),
            to_stderr,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// Seconds since the beginning.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Looks at all hosts, prints what changed, and gives the rows.
    pub fn look(&mut self, lab: &Lab) -> Vec<Row> {
        let rows = view::rows(lab);
        let (events, certificate) =
            changes(&self.before, &rows, self.certificate.as_ref(), self.began.elapsed().as_secs_f64());
        self.certificate = certificate;
        for event in events {
            self.print(&event);
            self.events.push(event);
        }
        self.before = rows.iter().map(|row| (row.index, row.clone())).collect();
        rows
    }

    /// Prints one line about the whole.
    pub fn say(&mut self, text: &str) {
        let event =
            Event { at: self.seconds(), node: String::new(), phase: String::new(), text: text.to_owned() };
        self.print(&event);
        self.events.push(event);
    }

    fn print(&self, event: &Event) {
        let line = line(event);
        let line = if self.colour { format!("\x1b[{}m{line}\x1b[0m", ansi(event)) } else { line };
        if self.to_stderr { eprintln!("{line}") } else { println!("{line}") }
    }
}

/// An event as a line of text.
#[must_use]
pub fn line(event: &Event) -> String {
    if event.node.is_empty() {
        return format!("{:>6.1}s  {}", event.at, event.text);
    }
    let line = format!("{:>6.1}s  {:<7} {:<10} {}", event.at, event.node, event.phase, event.text);
    line.trim_end().to_owned()
}

fn ansi(event: &Event) -> &'static str {
    match event.phase.as_str() {
        "" => "1",
        "serving" => "32",
        "founding" => "33",
        "joining" => "36",
        "degraded" | "parked" | "off" => "31",
        _ => "0",
    }
}

fn changes(
    before: &BTreeMap<u8, Row>,
    rows: &[Row],
    known: Option<&Certificate>,
    at: f64,
) -> (Vec<Event>, Option<Certificate>) {
    let mut events = Vec::new();
    let mut certificate = known.cloned();
    let nothing = Row::default();
    for row in rows {
        if let Some(found) = &row.certificate
            && certificate.as_ref().map(Certificate::identity) != Some(found.identity())
        {
            let text = format!(
                "the cluster is born: {} founded by {} ({}), era {}",
                short(&found.cluster_id),
                found.founder_name,
                found.founder_address,
                found.era
            );
            events.push(Event { at, node: String::new(), phase: String::new(), text });
            certificate = Some(found.clone());
        }
    }
    for row in rows.iter().filter(|row| row.phase != "booting") {
        let old = before.get(&row.index).unwrap_or(&nothing);
        let mut news: Vec<String> = Vec::new();
        if row.role != old.role && matches!(row.role.as_str(), "server" | "agent") {
            news.push(format!("is {} {}", if row.role == "agent" { "an" } else { "a" }, row.role));
        }
        if row.voter == Some(true) && old.voter != Some(true) {
            news.push("votes in etcd".to_owned());
        }
        if row.ready == Some(true) && old.ready != Some(true) {
            news.push("Ready".to_owned());
        }
        let rule = |row: &Row| row.why.first().map(|why| why.rule.clone()).unwrap_or_default();
        let settled = row.phase == "serving" && row.ready == Some(true);
        if !row.why.is_empty() && !settled && (rule(row) != rule(old) || row.phase != old.phase) {
            news.push(row.headline());
        }
        if row.phase != old.phase || !news.is_empty() {
            let text = news.join(", ");
            events.push(Event { at, node: row.name.clone(), phase: row.phase.clone(), text });
        }
    }
    (events, certificate)
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Why;

    #[test]
    fn each_change_is_told_once_and_a_birth_is_told_once_for_all() {
        let mut row = Row { index: 1, name: "node1".into(), phase: "seeking".into(), ..Row::default() };
        row.why = vec![Why { rule: "no-peer-answers".into(), detail: "3 seeds".into(), next: String::new() }];
        let (events, none) = changes(&BTreeMap::new(), std::slice::from_ref(&row), None, 1.25);
        assert_eq!(events.len(), 1);
        assert_eq!(line(&events[0]), "   1.2s  node1   seeking    no-peer-answers: 3 seeds");
        let before = BTreeMap::from([(1, row.clone())]);
        assert!(changes(&before, std::slice::from_ref(&row), None, 2.0).0.is_empty());
        row.phase = "serving".into();
        row.role = "server".into();
        (row.voter, row.ready) = (Some(true), Some(true));
        row.certificate =
            Some(Certificate { cluster_id: "0123456789".into(), era: 1, ..Certificate::default() });
        let (events, found) = changes(&before, std::slice::from_ref(&row), none.as_ref(), 3.0);
        assert_eq!(line(&events[0]), "   3.0s  the cluster is born: 01234567 founded by  (), era 1");
        assert_eq!(line(&events[1]), "   3.0s  node1   serving    is a server, votes in etcd, Ready");
        let again = changes(&BTreeMap::from([(1, row.clone())]), &[row], found.as_ref(), 4.0);
        assert!(again.0.is_empty());
    }
}
