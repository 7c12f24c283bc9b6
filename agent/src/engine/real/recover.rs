//! The effects of a recovery and of a fold: what was asked for, and k3s's reset as a service of its own.
//!
//! The reset is no child of the agent: it would run in the agent's sandbox and die with it. It is a service that the agent writes,
//! bounded in time by the init system, and judged by its log and its files, never by its exit code (`k3s-facts.md` part 4.1,
//! hazards 34 and 35).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Real, chain, lock};
use crate::core::recovery::number;
use crate::core::{Known, brief};
use crate::decide::{K3sWanted, Observed};
use crate::edge::systemd::Init;
use crate::edge::{clock, fs};
use crate::engine::Outcome;
use crate::gossip::Role;
use crate::heal::recover::REQUEST_LASTS;
use crate::heal::{FoldRequest, RecoverRequest, ResetSeen};
use crate::k3s::reset::{self, ResetFiles};
use crate::k3s::{K3sRole, place};
use crate::ledger::{Data, Record, RecoveryStep};

/// How long a service that was started may take to show itself.
const SHOWS: Duration = Duration::from_secs(15);

/// Where `muster recover` leaves its request: in the state directory, which only root may write.
pub(crate) fn recover_path(state_dir: &Path) -> PathBuf {
    state_dir.join("recover.json")
}

/// Where `muster fold` leaves its request.
pub(crate) fn fold_path(state_dir: &Path) -> PathBuf {
    state_dir.join("fold.json")
}

/// A reset on its way beside the loop: copies may take minutes.
#[derive(Default)]
pub(super) struct Reset {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    prepares: bool,
    begun: Option<Duration>,
    failure: Option<String>,
}

impl Real {
    /// Completes a look by what was asked for, and by the reset while it is due.
    pub(super) async fn look_at_recovery(&mut self, seen: &mut Observed, record: &Record) {
        let state_dir = &self.settings.state_dir;
        let heal = Arc::make_mut(&mut seen.heal);
        let known = number(record.recovery.as_ref());
        heal.recover = request(&recover_path(state_dir), |request: &RecoverRequest| {
            request.after == known && is_fresh(request.asked_unix)
        });
        heal.fold = request(&fold_path(state_dir), |request: &FoldRequest| {
            record.fold.is_none() && is_fresh(request.asked_unix)
        });
        if let Data::Recovering { number, attempt, step: RecoveryStep::Resetting, .. } = record.data {
            heal.reset = self.reset_seen(&ResetFiles::new(&self.paths, number, attempt)).await;
        }
    }

    async fn reset_seen(&self, files: &ResetFiles) -> ResetSeen {
        let (begun, failure) = {
            let state = lock(&self.reset.state);
            if state.prepares {
                return ResetSeen::Running;
            }
            (state.begun, state.failure.clone())
        };
        let since = begun.map(|begun| clock::since_boot().saturating_sub(begun));
        if let Some(cause) = failure {
            return ResetSeen::Failed(cause, since);
        }
        match self.init.states(&[reset::SERVICE]).await.first() {
            Some(Known::Yes(state)) if !state.is_down() => return ResetSeen::Running,
            Some(Known::Yes(_) | Known::Absent) => {}
            Some(Known::Unknown(unread)) => return ResetSeen::Unknown(unread.to_string()),
            None => return ResetSeen::Unknown("the init system said nothing".to_owned()),
        }
        let log = match fs::known_names(files.log.parent().unwrap_or(Path::new("/"))) {
            // A log of k3s may hold bytes that are no text.
            Known::Yes(_) => match fs::read(&files.log) {
                Ok(bytes) => bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) => return ResetSeen::Unknown(chain(&error)),
            },
            Known::Absent => None,
            Known::Unknown(unread) => return ResetSeen::Unknown(unread.to_string()),
        };
        let wal = fs::known_there(&self.paths.data_dir.join("server/db/etcd/member/wal"));
        match reset::judge(log.as_deref(), &wal) {
            reset::Judged::NotRun => ResetSeen::NotRun,
            reset::Judged::Succeeded => ResetSeen::Succeeded,
            reset::Judged::Failed(cause) => ResetSeen::Failed(brief(&cause), since),
        }
    }

    /// Whether k3s's own service is down.
    pub(super) async fn server_is_down(&self) -> Known<bool> {
        match self.init.states(&[K3sRole::Server.service()]).await.into_iter().next() {
            Some(Known::Yes(state)) => Known::Yes(state.is_down()),
            Some(Known::Absent) => Known::Yes(true),
            Some(Known::Unknown(unread)) => Known::Unknown(unread),
            None => Known::unknown("k3s's service", "the init system said nothing"),
        }
    }

    /// Begins: snapshots are copied aside first, then the reset's service is written and started.
    pub(super) fn reset_etcd(&mut self, number: u64, attempt: u32) -> Outcome {
        let Some(ca) = lock(&self.ledger).record().certificate.as_ref().map(|one| one.ca_hash.clone()) else {
            return Outcome::Refused("there is no certificate".to_owned());
        };
        let spec = match self.spec(&K3sWanted::InCluster { role: Role::Server, server: None, ca }) {
            Ok(Some(spec)) => spec,
            Ok(None) => return Outcome::Refused("there is no configuration for a server".to_owned()),
            Err(error) => return Outcome::Failed(chain(&error)),
        };
        {
            let mut state = lock(&self.reset.state);
            if state.prepares {
                return Outcome::AlreadySo;
            }
            *state = State { prepares: true, begun: Some(clock::since_boot()), failure: None };
        }
        let files = ResetFiles::new(&self.paths, number, attempt);
        let rendered = reset::files(&spec, &self.paths, &files, self.init.kind());
        let log = files.log.clone();
        let (paths, init) = (self.paths.clone(), Arc::clone(&self.init));
        let (state, wake) = (Arc::clone(&self.reset.state), Arc::clone(&self.wake));
        tokio::spawn(async move {
            let prepared = tokio::task::spawn_blocking(move || {
                let copied = reset::keep_snapshots(&paths, number).map_err(|error| chain(&error))?;
                if copied > 0 {
                    tracing::warn!(copied, "snapshots were copied aside before etcd's members are reset");
                }
                // What an earlier attempt left would be taken for this one's, or refuse it.
                for left in [&files.log, &paths.data_dir.join("server/db/reset-flag")] {
                    fs::remove(left).map_err(|error| chain(&error))?;
                }
                place::put(&rendered).map_err(|error| chain(&error))?;
                Ok::<_, String>(())
            })
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
            let result = match prepared {
                Ok(()) => start(init.as_ref(), &log).await,
                Err(cause) => Err(cause),
            };
            let mut state = lock(&state);
            state.prepares = false;
            state.failure = result.err();
            wake.notify_one();
        });
        Outcome::Begun
    }
}

/// Starts the reset's service and waits until it shows itself: a start is only ordered, and what has not begun must not look as
/// if it had ended.
async fn start(init: &dyn Init, log: &Path) -> Result<(), String> {
    init.reload().await.map_err(|error| chain(&error))?;
    init.start(reset::SERVICE).await.map_err(|error| chain(&error))?;
    let until = clock::since_boot() + SHOWS;
    while clock::since_boot() < until {
        let up = matches!(init.states(&[reset::SERVICE]).await.first(), Some(Known::Yes(state)) if !state.is_down());
        // One that has ended already has left its log.
        if up || fs::known_there(log).yes().is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{} did not start within {} s", reset::SERVICE, SHOWS.as_secs()))
}

fn is_fresh(asked: i64) -> bool {
    (clock::wall_seconds().saturating_sub(asked)).abs() <= REQUEST_LASTS
}

/// A request that counts; one that does not is cleared, so that it cannot come true later.
fn request<T: serde::de::DeserializeOwned>(path: &Path, counts: impl Fn(&T) -> bool) -> Option<T> {
    let text = fs::known_text(path);
    let request: Option<T> = serde_json::from_str(text.yes()?).ok();
    match request {
        Some(request) if counts(&request) => Some(request),
        _ => {
            if let Err(error) = fs::remove(path) {
                tracing::warn!(%error, "a request that lapsed or was carried out could not be cleared");
            }
            None
        }
    }
}
