//! `muster health`: one exit code for whatever asks whether this machine is well: a load balancer, an autoscaling group, a script.
//!
//! It reads what the agent last wrote and judges it; it asks nobody, so that it is as quick on a bad day as on a good one.

use std::path::Path;
use std::time::Duration;

use super::status::{OLD, code, path};
use super::{DONE, FAILED, PARKED, print_json, runtime};
use crate::config::Flags;
use crate::core::Phase;
use crate::edge::{clock, fs};
use crate::report::Status;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(500);
/// A cause of parking that mends itself within this time is not worth the end of a wait.
const BRIEF: Duration = Duration::from_secs(15);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Whether the node must serve, and not only be on its way.
    pub(super) ready: bool,
    /// How long a yes is waited for; none looks once.
    pub(super) wait: Option<Duration>,
}

/// What the status file gave.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// No status, or none that can be read.
    Nothing(String),
    /// What it says, and how long ago it was written, in seconds; negative when the clock was set back since.
    Word { phase: Phase, name: String, why: String, age: i64 },
}

/// A judgement: the exit code, and one line for a person.
#[derive(Debug, Clone, PartialEq)]
struct Health {
    code: u8,
    line: String,
}

pub(super) fn health(flags: &Flags, asked: Asked, json: bool) -> anyhow::Result<u8> {
    let (seen, health) = runtime()?.block_on(awaited(&path(flags), asked));
    if json {
        let (phase, age) = match &seen {
            Seen::Nothing(_) => (None, None),
            Seen::Word { phase, age, .. } => (Some(*phase), Some(*age)),
        };
        let healthy = health.code == DONE;
        print_json(&serde_json::json!({
            "healthy": healthy, "code": health.code, "phase": phase, "age_seconds": age, "line": health.line
        }))?;
    } else {
        println!("{}", health.line);
    }
    Ok(health.code)
}

/// Looks until the answer is yes or the wait is over.
async fn awaited(path: &Path, asked: Asked) -> (Seen, Health) {
    let began = clock::since_boot();
    let mut parked_since = None;
    loop {
        let seen = look(path);
        let health = judge(&seen, asked.ready);
        let now = clock::since_boot();
        parked_since = (health.code == PARKED).then(|| parked_since.unwrap_or(now));
        let parked = parked_since.map(|since| now.saturating_sub(since));
        if health.code == DONE || !goes_on(asked.wait, now.saturating_sub(began), parked) {
            return (seen, health);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a wait that has lasted so long looks again.
fn goes_on(wait: Option<Duration>, waited: Duration, parked: Option<Duration>) -> bool {
    wait.is_some_and(|wait| waited < wait) && parked.is_none_or(|parked| parked < BRIEF)
}

fn look(path: &Path) -> Seen {
    let text = match fs::read_text(path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Seen::Nothing(format!(
                "{} is not there: the agent has not run since boot",
                path.display()
            ));
        }
        Err(error) => return Seen::Nothing(error.to_string()),
    };
    let Ok(status) = serde_json::from_str::<Status>(&text) else {
        return Seen::Nothing(format!("{} is not a status of this version", path.display()));
    };
    let why = status.why.first().map(|why| format!(": {}: {}", why.rule, why.detail)).unwrap_or_default();
    Seen::Word {
        phase: status.phase,
        name: status.node.name,
        why,
        age: clock::wall_seconds().saturating_sub(status.written_unix),
    }
}

/// The rule. A machine that waits is kept: replacing it would only make it wait anew.
fn judge(seen: &Seen, ready: bool) -> Health {
    let (phase, name, why, age) = match seen {
        Seen::Nothing(line) => return Health { code: FAILED, line: line.clone() },
        Seen::Word { phase, name, why, age } => (*phase, name, why, *age),
    };
    // An agent that runs writes every few seconds, also after the clock was set back.
    if age.abs() > OLD {
        let line = format!("{name}: the agent's last word is {age} s old: it does not run, or hangs");
        return Health { code: FAILED, line };
    }
    let code = if ready || phase == Phase::Parked { code(phase) } else { DONE };
    let reason = if phase == Phase::Serving { "" } else { why };
    Health { code, line: format!("{name}: {phase}{reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::WAITING;

    fn word(phase: Phase, age: i64) -> Seen {
        Seen::Word { phase, name: "node1".into(), why: ": some-rule: detail".into(), age }
    }

    #[test]
    fn every_phase_has_its_code_with_and_without_ready() {
        let cases = [
            (Phase::Preparing, DONE, WAITING),
            (Phase::Seeking, DONE, WAITING),
            (Phase::Electing, DONE, WAITING),
            (Phase::Founding, DONE, WAITING),
            (Phase::Joining, DONE, WAITING),
            (Phase::Serving, DONE, DONE),
            (Phase::Degraded, DONE, WAITING),
            (Phase::Parked, PARKED, PARKED),
        ];
        for (phase, alive, ready) in cases {
            assert_eq!(judge(&word(phase, 3), false).code, alive, "{phase}");
            assert_eq!(judge(&word(phase, 3), true).code, ready, "{phase} --ready");
        }
    }

    #[test]
    fn a_silent_agent_is_not_well_whatever_it_said_last() {
        for age in [31, 86_400, -31] {
            let health = judge(&word(Phase::Serving, age), true);
            assert_eq!(health.code, FAILED, "{age}");
            assert!(health.line.contains(&format!("{age} s old")), "{}", health.line);
        }
        for age in [-30, 0, 30] {
            assert_eq!(judge(&word(Phase::Serving, age), true).code, DONE, "{age}");
        }
        assert_eq!(judge(&Seen::Nothing("gone".into()), false), Health { code: FAILED, line: "gone".into() });
    }

    #[test]
    fn the_line_names_what_blocks_and_nothing_when_nothing_does() {
        assert_eq!(judge(&word(Phase::Serving, 0), true).line, "node1: serving");
        assert_eq!(judge(&word(Phase::Parked, 0), true).line, "node1: parked: some-rule: detail");
    }

    #[test]
    fn a_wait_ends_at_its_bound_and_soon_when_a_person_is_needed() {
        let seconds = Duration::from_secs;
        let cases = [
            (None, 0, None, false),
            (Some(60), 0, None, true),
            (Some(60), 59, None, true),
            (Some(60), 60, None, false),
            (Some(60), 20, Some(14), true),
            (Some(60), 20, Some(15), false),
        ];
        for (wait, waited, parked, expected) in cases {
            let said = goes_on(wait.map(seconds), seconds(waited), parked.map(seconds));
            assert_eq!(said, expected, "{wait:?} {waited} {parked:?}");
        }
    }

    #[test]
    fn a_status_that_is_not_there_or_not_one_is_said_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let nothing = |seen: Seen| match seen {
            Seen::Nothing(line) => line,
            Seen::Word { .. } => panic!("a status was read"),
        };
        assert!(nothing(look(&path)).contains("has not run since boot"));
        crate::edge::fs::write_atomic(&path, b"{\"version\"", 0o644).unwrap();
        assert!(nothing(look(&path)).contains("is not a status"));
    }
}
