//! Work that takes seconds to minutes, beside the loop: it shows its state and wakes the loop when it ends.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::ways::{Ways, watch_ways};
use super::{chain, lock};
use crate::config::{Limits, Settings};
use crate::core::{Known, Why};
use crate::decide::{Binary, HostSeen};
use crate::edge::clock::{self, Discipline};
use crate::gossip::PeerView;
use crate::host::{self, Blocks, Examined, HostWanted, LocalMachine};
use crate::k3s::Paths;
use crate::k3s::fetch::{self, Progress, RunIt, Wanted};
use crate::k3s::release::Arch;

/// How soon a host that blocks is looked at again: what a person mends must show within seconds.
const HOST_AGAIN: Duration = Duration::from_secs(2);
/// First pause after a fetch that failed, and the longest: local sources are cheap to try, mirrors are not to be hammered.
const FETCH_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Host preparation.
pub(super) struct Host {
    state: Arc<Mutex<HostState>>,
    view: watch::Receiver<Arc<PeerView>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct HostState {
    seen: HostSeen,
    examined: Option<Examined>,
    limits: Limits,
    ways: Ways,
    running: bool,
    ended: Duration,
}

impl HostState {
    fn class(&self) -> Option<u8> {
        self.examined.as_ref().and_then(|seen| host::fitness(seen, &self.limits))
    }

    /// A narrow way is shown and takes nothing from the class: it lies between two machines, and neither is the worse one for it.
    fn short(&self) -> Vec<Why> {
        let own = self.examined.as_ref().map(|seen| host::shortcomings(seen, &self.limits));
        own.unwrap_or_default().into_iter().chain(self.ways.short()).collect()
    }
}

impl Host {
    pub(super) fn new(view: watch::Receiver<Arc<PeerView>>, wake: Arc<Notify>) -> Self {
        Self { state: Arc::default(), view, wake }
    }

    /// What the last pass found.
    pub(super) fn seen(&self) -> HostSeen {
        let state = lock(&self.state);
        HostSeen { short: state.short(), ..state.seen.clone() }
    }

    /// The machine's class; the middle one until it is measured.
    pub(super) fn class(&self) -> u8 {
        lock(&self.state).class().unwrap_or(1)
    }

    /// Whether a pass is due because something blocks.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        let state = lock(&self.state);
        let blocked = !state.seen.blocks_all.is_empty() || !state.seen.blocks_server.is_empty();
        state.seen.prepared && blocked && !state.running && now.saturating_sub(state.ended) >= HOST_AGAIN
    }

    /// Starts a pass, unless one runs.
    pub(super) fn begin(&self, settings: &Settings, k3s_runs: bool) -> bool {
        {
            let mut state = lock(&self.state);
            if state.running {
                return false;
            }
            state.running = true;
        }
        let wanted = HostWanted::of(settings, k3s_runs, true);
        let limits = settings.host.limits;
        let (state_dir, data_dir) = (settings.state_dir.clone(), settings.k3s.data_dir.clone());
        let (state, view, wake) = (Arc::clone(&self.state), self.view.clone(), Arc::clone(&self.wake));
        tokio::spawn(async move {
            let seen = pass(&state_dir, &wanted).await;
            let unmeasured = lock(&state).class().is_none();
            let examined = if unmeasured { measured(data_dir, limits).await } else { None };
            let keep = unmeasured && examined.is_some();
            let changed = {
                let mut state = lock(&state);
                let before = (std::mem::replace(&mut state.seen, seen), state.class());
                if let Some(examined) = examined {
                    state.examined = Some(examined);
                    state.limits = limits;
                }
                state.running = false;
                state.ended = clock::since_boot();
                before != (state.seen.clone(), state.class())
            };
            if changed {
                wake.notify_one();
            }
            if keep {
                tokio::spawn(watch_clock(Arc::downgrade(&state), Arc::clone(&wake)));
                let measure = |peers: Vec<String>| async move { host::paths(&peers).await };
                tokio::spawn(watch_ways(
                    Arc::downgrade(&state),
                    |state: &mut HostState| &mut state.ways,
                    view,
                    wake,
                    measure,
                ));
            }
        });
        true
    }
}

async fn pass(state_dir: &std::path::Path, wanted: &HostWanted) -> HostSeen {
    let mut machine = LocalMachine::live(state_dir);
    match host::prepare(&mut machine, wanted).await {
        Ok(prepared) => {
            for report in prepared.reports.iter().filter(|report| !report.succeeded()) {
                tracing::warn!(row = %report.row, what = %report.what, outcome = ?report.outcome, "host step did not succeed");
            }
            let of = |blocks| {
                let findings = prepared.plan.findings.iter().filter(move |finding| finding.blocks == blocks);
                findings.map(|finding| finding.why.clone()).collect()
            };
            HostSeen {
                prepared: true,
                blocks_all: of(Blocks::Everything),
                blocks_server: of(Blocks::Server),
                short: Vec::new(),
            }
        }
        Err(error) => {
            let next = "nothing runs here before the host could be looked at; tried again";
            HostSeen {
                prepared: true,
                blocks_all: vec![Why::new("host-preparation-failed", chain(&error), next)],
                blocks_server: Vec::new(),
                short: Vec::new(),
            }
        }
    }
}

/// What was measured; none when it gives no class.
async fn measured(data_dir: PathBuf, limits: Limits) -> Option<Examined> {
    let seen = tokio::task::spawn_blocking(move || host::examine(&data_dir)).await.ok()?;
    let class = host::fitness(&seen, &limits)?;
    if let Known::Yes(measured) = &seen.measured {
        tracing::info!(
            class,
            fdatasync_p99_us = measured.fdatasync_p99_micros,
            memory_mib = measured.memory_mib,
            cores = measured.cores,
            disk_free_mib = seen.disk_free_mib.yes(),
            "machine measured"
        );
    }
    warn(&host::shortcomings(&seen, &limits));
    Some(seen)
}

fn warn(short: &[Why]) {
    for why in short {
        tracing::warn!(rule = %why.rule, "{}: {}", why.detail, why.next);
    }
}

/// First pause between looks at the clock, and the longest: it settles in the minutes after a boot, and drifts in days.
const CLOCK_AGAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// Looks at the clock again and again, for as long as its world is up. A machine whose clock is off yields until it is set.
async fn watch_clock(state: Weak<Mutex<HostState>>, wake: Arc<Notify>) {
    let mut pause = CLOCK_AGAIN.0;
    let mut told = false;
    loop {
        let seen = host::clock().await;
        if !told {
            told = true;
            tracing::info!(clock = ?seen, "clock asked");
        }
        let Some(state) = state.upgrade() else { return };
        if take_clock(&mut lock(&state), seen) {
            wake.notify_one();
        }
        drop(state);
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(CLOCK_AGAIN.1);
    }
}

/// Takes a look at the clock in; whether the machine's class or what speaks against it is another one now.
fn take_clock(state: &mut HostState, seen: Known<Discipline>) -> bool {
    let rules = |state: &HostState| state.short().into_iter().map(|why| why.rule).collect::<Vec<_>>();
    let before = (state.class(), rules(state));
    let Some(examined) = &mut state.examined else { return false };
    examined.clock = seen;
    let changed = before != (state.class(), rules(state));
    if changed {
        warn(&state.short());
    }
    changed
}

/// Bringing the k3s binary in.
pub(super) struct Fetch {
    state: Arc<Mutex<FetchState>>,
    progress: watch::Sender<Progress>,
    wake: Arc<Notify>,
}

struct FetchState {
    binary: Binary,
    failures: u32,
    again: Duration,
}

impl Fetch {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        let state = FetchState { binary: Binary::Wanted, failures: 0, again: Duration::ZERO };
        Self { state: Arc::new(Mutex::new(state)), progress: watch::Sender::new(Progress::default()), wake }
    }

    /// Where it stands. A failed fetch becomes wanted again when its pause is over.
    pub(super) fn binary(&self, now: Duration) -> Binary {
        let mut state = lock(&self.state);
        if matches!(state.binary, Binary::Failed { .. }) && now >= state.again {
            // The reason stays in view until the next attempt has ended.
            return Binary::Wanted;
        }
        if let Binary::Fetching { progress } = &mut state.binary {
            *progress = text(&self.progress.borrow());
        }
        state.binary.clone()
    }

    /// The failure of the last attempt, for the status while the next one is on its way.
    pub(super) fn failure(&self) -> Option<Why> {
        match &lock(&self.state).binary {
            Binary::Failed { cause } => {
                Some(Why::new("k3s-unavailable", cause.clone(), "every source is tried again"))
            }
            Binary::Wanted | Binary::Fetching { .. } | Binary::Ready => None,
        }
    }

    /// Starts an attempt, unless one runs.
    pub(super) fn begin(&self, settings: &Settings, paths: &Paths) {
        {
            let mut state = lock(&self.state);
            if matches!(state.binary, Binary::Fetching { .. } | Binary::Ready) {
                return;
            }
            state.binary = Binary::Fetching { progress: "looking at the sources".to_owned() };
        }
        let k3s = settings.k3s.clone();
        let target = paths.binary.clone();
        let (state, progress, wake) =
            (Arc::clone(&self.state), self.progress.clone(), Arc::clone(&self.wake));
        tokio::spawn(async move {
            let result = match Arch::here() {
                Some(arch) => {
                    let wanted = Wanted { settings: &k3s, target: &target, arch };
                    fetch::install(&wanted, &RunIt, &progress).await.map_err(|error| error.to_string())
                }
                None => Err("k3s is not released for this machine's processor".to_owned()),
            };
            let mut state = lock(&state);
            match result {
                Ok(installed) => {
                    tracing::info!(?installed, "k3s binary in place");
                    state.failures = 0;
                    state.binary = Binary::Ready;
                }
                Err(cause) => {
                    let pause = FETCH_AGAIN.0.saturating_mul(1 << state.failures.min(8)).min(FETCH_AGAIN.1);
                    state.failures += 1;
                    state.again = clock::since_boot() + pause;
                    state.binary = Binary::Failed { cause };
                }
            }
            wake.notify_one();
        });
    }

    /// The binary is gone from the disk: it is wanted again.
    pub(super) fn gone(&self) {
        let mut state = lock(&self.state);
        if state.binary == Binary::Ready {
            state.binary = Binary::Wanted;
        }
    }
}

fn text(progress: &Progress) -> String {
    const MIB: u64 = 1 << 20;
    match progress.total {
        Some(total) if total > 0 => {
            let percent = progress.done.saturating_mul(100) / total;
            format!("{} of {} MiB ({percent} %) from {}", progress.done / MIB, total / MIB, progress.source)
        }
        _ => format!("{} MiB from {}", progress.done / MIB, progress.source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Measured;

    #[test]
    fn a_clock_that_is_off_takes_the_class_away_until_it_is_set() {
        let measured = Measured {
            fdatasync_p99_micros: 900,
            fdatasync_median_micros: 500,
            writes: 30,
            memory_mib: 3_900,
            cores: 2,
        };
        let examined = Examined {
            measured: Known::Yes(measured),
            disk_free_mib: Known::Yes(20_000),
            clock: Known::unknown("the discipline of the clock", "Operation not permitted"),
            peers: vec![],
            paths: vec![],
            certificates: Known::Absent,
        };
        let clock = |offset_micros| Known::Yes(Discipline { synchronised: true, offset_micros });
        let mut state = HostState { examined: Some(examined), ..HostState::default() };
        assert_eq!((state.class(), state.short().len()), (Some(3), 0));
        assert!(!take_clock(&mut state, clock(300)));
        assert!(take_clock(&mut state, clock(9_000_000)));
        assert_eq!((state.class(), &*state.short()[0].rule), (Some(0), "host.time.offset"));
        assert!(!take_clock(&mut state, clock(8_000_000)), "nothing new to act on");
        assert!(take_clock(&mut state, Known::unknown("the discipline of the clock", "gone")));
        assert_eq!(state.class(), Some(3), "what is not known is on no side");
        let way = crate::edge::path::PathMtu { bytes: Known::Yes(1_420), own: Some(1_500), silent: false };
        let way = host::PathSeen { peer: "10.0.0.2".into(), mtu: way };
        assert!(state.ways.take(&["10.0.0.2".parse().unwrap()].into(), &[way]));
        assert_eq!((state.class(), &*state.short()[0].rule), (Some(3), "host.peer.mtu"));
    }
}
