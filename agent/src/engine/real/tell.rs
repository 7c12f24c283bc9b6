//! What is shown after each tick: the status file, systemd's status line, and the log of what changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Real, chain, lock};
use crate::core::Phase;
use crate::decide::Observed;
use crate::edge::{clock, fs};
use crate::engine::{Outcome, Report};
use crate::report::{Fixed, Status, status};

/// The status is written anew at least this often, so that its age tells whether the agent lives.
const AT_LEAST: Duration = Duration::from_secs(5);

/// Remembers what was shown last.
pub(super) struct Teller {
    path: PathBuf,
    last: Option<(Duration, Phase, Vec<crate::core::Why>, String)>,
    ready: bool,
}

impl Teller {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { path: status_path(run_dir), last: None, ready: false }
    }
}

/// Where the status file is.
#[must_use]
pub(crate) fn status_path(run_dir: &Path) -> PathBuf {
    run_dir.join("status.json")
}

/// Writes a status where people and programs look for it. It holds no secrets and may be read by everybody.
pub(crate) fn write_status(path: &Path, status: &Status) {
    let written = serde_json::to_vec(status).map_err(|error| error.to_string()).and_then(|mut text| {
        text.push(b'\n');
        let directory = path.parent().unwrap_or(Path::new("/"));
        let made = fs::create_directory(directory, 0o755);
        made.and_then(|()| fs::write_volatile(path, &text, 0o644)).map_err(|error| chain(&error))
    });
    if let Err(error) = written {
        tracing::warn!(%error, "the status file was not written");
    }
}

impl Real {
    pub(super) fn tell(&mut self, seen: &Observed, report: &Report) {
        let now = clock::since_boot();
        let plan = &report.plan;
        let entered = self.timeline.note(now, plan.phase);
        self.scribe.after(now, &self.name, report);
        let record = lock(&self.ledger).record().clone();
        let fixed = Fixed {
            cluster: self.settings.cluster.clone(),
            k3s_version: self.settings.k3s.version.clone(),
            wall_seconds: clock::wall_seconds(),
            notes: self.scribe.why().into_iter().chain(self.metrics.why()).collect(),
            decisions: self.scribe.status(),
        };
        let status = status::status(seen, plan, &record, &self.timeline, &fixed);
        let key = shape(&status);
        let due = self.teller.last.as_ref().is_none_or(|(at, _, why, shape)| {
            *shape != key || *why != plan.why || now.saturating_sub(*at) >= AT_LEAST
        });
        let first_rule =
            |why: &[crate::core::Why]| why.first().map(|why| (why.rule.clone(), why.detail.clone()));
        let other_reason =
            self.teller.last.as_ref().is_none_or(|(_, _, why, _)| first_rule(why) != first_rule(&plan.why));
        if (entered || other_reason)
            && let Some(why) = plan.why.first()
        {
            tracing::info!(phase = %plan.phase, rule = %why.rule, "{}", why.detail);
        }
        for (act, outcome) in &report.done {
            match outcome {
                Outcome::Failed(cause) | Outcome::Refused(cause) if other_reason => {
                    tracing::warn!(step = ?act, %cause, "step not done");
                }
                Outcome::Done => tracing::debug!(step = ?act, "step done"),
                Outcome::AlreadySo | Outcome::Begun | Outcome::Failed(_) | Outcome::Refused(_) => {}
            }
        }
        if due {
            write_status(&self.teller.path, &status);
            self.metrics.show(&status);
            self.teller.last = Some((now, plan.phase, plan.why.clone(), key));
        }
        let mut states = vec![sd_notify::NotifyState::Watchdog];
        let line = plan
            .why
            .first()
            .map_or_else(|| plan.phase.to_string(), |why| format!("{}: {}", plan.phase, why.detail));
        if due {
            states.push(sd_notify::NotifyState::Status(&line));
        }
        if !self.teller.ready {
            self.teller.ready = true;
            states.push(sd_notify::NotifyState::Ready);
        }
        // Without systemd there is nobody to tell, and that is fine.
        let _ = sd_notify::notify(&states);
    }
}

/// What must be shown at once when it changes: everything but times and counters.
fn shape(status: &Status) -> String {
    let peers: Vec<_> = status
        .peers
        .iter()
        .map(|peer| (&peer.id, peer.role, peer.phase, peer.voter, peer.ready, peer.live, &peer.why))
        .collect();
    let k3s = &status.k3s;
    let certificate = status.certificate.as_ref().map(|certificate| certificate.cluster_id.to_string());
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        status.phase,
        status.node.role,
        peers,
        (&k3s.unit, k3s.voter, k3s.ready, k3s.api),
        certificate
    )
}
