//! Every source once, for `muster discover`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::merge::{self, Candidate, Said};
use super::{Facts, Scene, Source, run};

/// What one source said.
#[derive(Debug, Clone, Serialize)]
pub struct Looked {
    /// Its name.
    pub source: String,
    /// Its answer; none when it gave none, which is not "no peers".
    pub addresses: Option<Vec<SocketAddr>>,
    /// How long ago it was given, in milliseconds.
    pub age_ms: Option<u64>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// When the first address was there, in milliseconds since it was asked, where it tells addresses as it finds them.
    pub first_ms: Option<u64>,
    /// Why there is no answer, or what is missing from it.
    pub error: Option<String>,
}

/// What all of them said.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every source, in the order of the configuration.
    pub sources: Vec<Looked>,
    /// What would be greeted, the best first.
    pub candidates: Vec<Candidate>,
    /// The zone of this machine.
    pub zone: Option<String>,
    /// The most machines that its group may have.
    pub group_max: Option<u32>,
    /// Addresses of machines that are gone for good, and who says so.
    pub terminated: BTreeMap<IpAddr, String>,
    /// The notice that this machine will be taken away.
    pub ending: Option<String>,
}

/// Asks every source once, all at the same time.
pub async fn look_once(sources: Vec<Box<dyn Source>>, own: SocketAddr) -> Report {
    // Nobody stops a look here.
    let (_keep, enough) = watch::channel(false);
    let mut looks = Vec::new();
    for mut source in sources {
        let (tell, mut told) = mpsc::unbounded_channel();
        let scene = Scene { own, enough: enough.clone(), tell };
        looks.push(tokio::spawn(async move {
            let (name, origin, began) = (source.name(), source.origin(), Instant::now());
            // What was found before a deadline was found.
            let early = tokio::spawn(async move {
                let (mut early, mut first) = (Vec::new(), None);
                while let Some(address) = told.recv().await {
                    first.get_or_insert_with(Instant::now);
                    early.push(address);
                }
                (early, first)
            });
            let answer = run::ask(source.as_mut(), &scene).await;
            let ended = Instant::now();
            drop(scene);
            let (early, first) = early.await.unwrap_or_default();
            (name, origin, began, ended, answer, early, first)
        }));
    }
    let mut said = Vec::new();
    let mut facts: Vec<Facts> = Vec::new();
    let mut rows = Vec::new();
    for look in looks {
        // A source that panics is a defect; the others' answers are worth showing all the same.
        let Ok((name, origin, began, ended, answer, early, first)) = look.await else { continue };
        let took_ms = millis(ended.duration_since(began));
        let (addresses, error) = match answer {
            Ok(found) => {
                facts.push(found.facts);
                (Some(found.addresses), found.note)
            }
            Err(failure) => {
                facts.extend(failure.facts.map(|facts| *facts));
                ((!early.is_empty()).then_some(early), Some(failure.cause))
            }
        };
        said.push((name.clone(), origin, ended, addresses.clone().unwrap_or_default()));
        let age_ms = addresses.as_ref().map(|_| millis(ended.elapsed()));
        let first_ms = first.map(|first| millis(first.duration_since(began)));
        rows.push(Looked { source: name, addresses, age_ms, took_ms, first_ms, error });
    }
    let said: Vec<Said> = said
        .iter()
        .map(|(source, origin, at, addresses)| Said { source, origin: *origin, age: at.elapsed(), addresses })
        .collect();
    let facts = merge::facts(&facts, own.ip());
    Report {
        candidates: merge::merge(&said, own),
        sources: rows,
        zone: facts.zone,
        group_max: facts.group_max,
        terminated: facts.terminated,
        ending: facts.ending,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Addresses of one source that a table shows.
const SHOWN: usize = 8;

/// The report for people.
#[must_use]
pub fn report_table(report: &Report) -> String {
    let mut rows = vec![["SOURCE", "ANSWER", "AGE", "ERROR"].map(str::to_owned)];
    for look in &report.sources {
        let answer = match &look.addresses {
            None => "unknown".to_owned(),
            Some(addresses) if addresses.is_empty() => "no addresses".to_owned(),
            Some(addresses) => {
                let shown: Vec<String> = addresses.iter().take(SHOWN).map(ToString::to_string).collect();
                let more = addresses.len().saturating_sub(SHOWN);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{}{more}", shown.join(" "))
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
        let age = look.age_ms.map_or("-".to_owned(), |age| format!("{:.1} s", age as f64 / 1_000.0));
        rows.push([look.source.clone(), answer, age, look.error.clone().unwrap_or_default()]);
    }
    let mut text = crate::report::columns(&rows);
    if let Some(zone) = &report.zone {
        let _ = writeln!(text, "zone: {zone}");
    }
    if let Some(max) = report.group_max {
        let _ = writeln!(text, "largest size of the group: {max}");
    }
    for (ip, words) in &report.terminated {
        let _ = writeln!(text, "gone for good: {ip} ({words})");
    }
    if let Some(ending) = &report.ending {
        let _ = writeln!(text, "this machine is about to end: {ending}");
    }
    let shown: Vec<String> = report
        .candidates
        .iter()
        .map(|candidate| format!("{} ({})", candidate.address, candidate.sources.join(", ")))
        .collect();
    let _ = match shown.is_empty() {
        true => writeln!(text, "candidates: none"),
        false => writeln!(text, "candidates: {}", shown.join("; ")),
    };
    text
}
