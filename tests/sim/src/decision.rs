//! How long a founding takes to be decided, once there are enough machines to decide it.

use std::process::ExitCode;
use std::time::Duration;

use muster::core::CaHash;
use serde_json::json;

use crate::history::Script;
use crate::run::{Totals, run_all};

/// Datagrams lost, per mille, and the gossip intervals within which the decision is to come in 99 of 100 histories.
const RUNS: [(u64, Option<f64>); 3] = [(0, Some(5.0)), (100, None), (300, Some(15.0))];

/// When what happened, in one history.
#[derive(Debug, Default)]
pub struct Decision {
    /// When some agent first saw as many live machines that may vote, itself among them, as votes are needed.
    pub quorate: Option<Duration>,
    /// From the start of k3s to a datastore that can vote, of every founding.
    founding: Vec<(CaHash, Duration)>,
    /// When a certificate was chosen first, and how long the k3s of its founder took of that.
    chosen: Option<(Duration, Duration)>,
}

impl Decision {
    /// k3s begins to found a cluster.
    pub fn founding(&mut self, ca: &CaHash, takes: Duration) {
        self.founding.push((ca.clone(), takes));
    }

    /// A certificate is chosen.
    pub fn choose(&mut self, now: Duration, ca: &CaHash) {
        let takes = self.founding.iter().find(|(of, _)| of == ca).map(|(_, takes)| *takes);
        self.chosen.get_or_insert((now, takes.unwrap_or_default()));
    }

    /// From the quorate view to the choice, the time of k3s taken out; none where there was no choice.
    pub fn took(&self) -> Option<Duration> {
        let ((chosen, k3s), quorate) = (self.chosen?, self.quorate?);
        Some(chosen.saturating_sub(quorate).saturating_sub(k3s))
    }
}

/// Measures it in histories without faults but loss, and sets the goals beside it.
pub fn bench(histories: usize, seed: u64, threads: usize, as_json: bool) -> ExitCode {
    let mut rows = Vec::new();
    let mut good = true;
    if !as_json {
        println!("loss   histories   decided   intervals P50     P99   goal of P99");
    }
    for (loss, goal) in RUNS {
        let script = |place: usize| Script { calm: Some(None), loss, ..Script::of(seed + place as u64) };
        let totals = run_all(histories, threads, &script);
        good &= totals.is_clean();
        // The simulator's interval is one second, as the agent's own is by default.
        let (p50, p99) = (totals.decided(50), totals.decided(99));
        let met = goal.zip(p99).map(|(goal, p99)| p99 <= goal);
        if as_json {
            rows.push(json!({
                "loss_percent": loss / 10, "histories": totals.histories, "decided": totals.decided_ms.len(),
                "intervals_p50": p50, "intervals_p99": p99, "goal_p99": goal, "met": met,
                "violations": totals.violations.len(), "stuck": totals.stuck.len(),
            }));
        } else {
            row(loss, &totals, goal, met);
        }
    }
    if as_json {
        println!("{}", json!({ "decision": rows }));
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row(loss: u64, totals: &Totals, goal: Option<f64>, met: Option<bool>) {
    let shown = |p| totals.decided(p).map_or_else(|| "-".to_owned(), |intervals| format!("{intervals:.1}"));
    let goal = match (goal, met) {
        (Some(goal), Some(true)) => format!("{goal}: met"),
        (Some(goal), _) => format!("{goal}: MISSED"),
        (None, _) => "none".to_owned(),
    };
    println!(
        "{:>3}%   {:>9}   {:>7}   {:>13}   {:>5}   {goal}",
        loss / 10,
        totals.histories,
        totals.decided_ms.len(),
        shown(50),
        shown(99)
    );
    for (place, violation) in totals.violations.iter().take(5) {
        println!("  history {place}: {violation}");
    }
}
