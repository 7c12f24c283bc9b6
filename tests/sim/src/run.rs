//! Many histories on several threads, added up so that the sum does not depend on which thread ran what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::coverage::Coverage;
use crate::history::{History, Script, run};

/// What many histories came to.
#[derive(Debug, Default)]
pub struct Totals {
    /// How many.
    pub histories: u64,
    /// How many formed a cluster.
    pub formed: u64,
    /// How many lost a majority of their voters' disks.
    pub lost_quorum: u64,
    /// How many had too few machines left.
    pub too_few: u64,
    /// Place in the list of scripts, and what was violated.
    pub violations: Vec<(usize, String)>,
    /// Places of the stuck.
    pub stuck: Vec<usize>,
    /// Virtual seconds until all served, in milliseconds so that they can be sorted.
    pub formed_ms: Vec<u64>,
    /// From the loss of a server for good to the full number, in milliseconds.
    pub filled_ms: Vec<u64>,
    /// From a quorate view to the choice, k3s's own time taken out, in milliseconds.
    pub decided_ms: Vec<u64>,
    /// What they went through.
    pub coverage: Coverage,
    /// Time of the processor that it took.
    pub processor: Duration,
}

impl Totals {
    fn take(&mut self, place: usize, history: History) {
        self.histories += 1;
        self.formed += u64::from(history.formed_at.is_some());
        self.lost_quorum += u64::from(history.lost_quorum);
        self.too_few += u64::from(history.too_few);
        self.formed_ms.extend(history.formed_at.map(|seconds| (seconds * 1_000.0) as u64));
        self.filled_ms.extend(&history.filled_ms);
        self.decided_ms.extend(history.decided_ms);
        if let Some(violation) = history.violation {
            self.violations.push((place, violation));
        } else if history.stuck {
            self.stuck.push(place);
        }
        self.coverage.add(&history.coverage);
    }

    /// Adds others.
    pub fn add(&mut self, other: Totals) {
        self.histories += other.histories;
        self.formed += other.formed;
        self.lost_quorum += other.lost_quorum;
        self.too_few += other.too_few;
        self.violations.extend(other.violations);
        self.stuck.extend(other.stuck);
        self.formed_ms.extend(other.formed_ms);
        self.filled_ms.extend(other.filled_ms);
        self.decided_ms.extend(other.decided_ms);
        self.coverage.add(&other.coverage);
        self.processor += other.processor;
        self.violations.sort();
        self.stuck.sort_unstable();
        self.formed_ms.sort_unstable();
        self.filled_ms.sort_unstable();
        self.decided_ms.sort_unstable();
    }

    /// A percentile of the virtual seconds to all serving.
    pub fn percentile(&self, p: usize) -> Option<f64> {
        percentile(&self.formed_ms, p)
    }

    /// A percentile of the virtual seconds from a loss for good to the full number of servers.
    pub fn filled(&self, p: usize) -> Option<f64> {
        percentile(&self.filled_ms, p)
    }

    /// A percentile of the virtual seconds from a quorate view to the choice.
    pub fn decided(&self, p: usize) -> Option<f64> {
        percentile(&self.decided_ms, p)
    }

    /// Whether nothing was violated and nobody is stuck.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.stuck.is_empty()
    }
}

fn percentile(sorted_ms: &[u64], p: usize) -> Option<f64> {
    let at = sorted_ms.len().saturating_sub(1) * p / 100;
    sorted_ms.get(at).map(|ms| *ms as f64 / 1_000.0)
}

/// Histories taken by a thread at a time.
const CHUNK: usize = 32;

/// Runs `count` scripts, each made from its place.
pub fn run_all(count: usize, threads: usize, script: &(impl Fn(usize) -> Script + Sync)) -> Totals {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut totals = Totals::default();
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= count {
                break;
            }
            for place in from..count.min(from + CHUNK) {
                totals.take(place, run(script(place)));
            }
        }
        totals.processor = thread_time();
        totals
    };
    let mut sum = Totals::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in running {
            match thread.join() {
                Ok(totals) => sum.add(totals),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    sum
}

/// Time of the processor that this thread has taken.
fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}
