//! How the wall clock is kept, asked of the kernel: by this process, or outside the sandbox that keeps the agent from asking. [edge]

use std::path::Path;
use std::time::Duration;

use crate::core::Known;
use crate::edge::clock::{Discipline, discipline};
use crate::edge::{exec, fs};

/// Starting one small process by way of systemd takes a tenth of a second; a machine that boots may be slow.
const ASKING: Duration = Duration::from_secs(30);

/// Asks the kernel. `ProtectClock=` of the agent's unit forbids the call, reading included; then a transient unit of this same
/// program asks, without any capability.
pub async fn clock() -> Known<Discipline> {
    let refused = match discipline() {
        Ok(discipline) => return Known::Yes(discipline),
        Err(error) => error.to_string(),
    };
    let unknown = |cause: String| Known::unknown("the discipline of the clock", cause);
    if fs::known_there(Path::new("/run/systemd/system")).yes().is_none() {
        return unknown(refused);
    }
    let program = match std::env::current_exe() {
        Ok(program) => program.display().to_string(),
        Err(error) => return unknown(format!("{refused}; this program's path: {error}")),
    };
    match exec::run("systemd-run", &outside(&program), ASKING).await {
        Ok(said) => parse(&said.stdout).map_or_else(unknown, Known::Yes),
        Err(error) => unknown(format!("{refused}; outside the sandbox: {error}")),
    }
}

/// The transient unit's command line: silent in the journal, and able to do nothing but ask.
fn outside(program: &str) -> Vec<&str> {
    vec![
        "--quiet",
        "--collect",
        "--wait",
        "--pipe",
        "--property=LogLevelMax=notice",
        "--property=CapabilityBoundingSet=",
        "--property=NoNewPrivileges=yes",
        "--property=ProtectSystem=strict",
        "--",
        program,
        "clock",
    ]
}

/// What `muster clock` prints.
fn parse(text: &str) -> Result<Discipline, String> {
    serde_json::from_str(text).map_err(|error| format!("an answer that is none: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_process_prints_is_what_was_asked() {
        let seen = Discipline { synchronised: true, offset_micros: 1_234 };
        let printed = serde_json::to_string(&seen).unwrap();
        assert_eq!(parse(&(printed + "\n")), Ok(seen));
        for bad in ["", "{}", "muster: what?", "{\"synchronised\":true,\"offset_micros\":-1}"] {
            assert!(parse(bad).unwrap_err().starts_with("an answer that is none"), "{bad}");
        }
    }

    #[test]
    fn the_unit_outside_holds_no_capability_and_says_nothing() {
        let line = outside("/usr/local/bin/muster").join(" ");
        assert!(line.contains("CapabilityBoundingSet= ") && line.contains("LogLevelMax=notice"), "{line}");
        assert!(line.ends_with(" -- /usr/local/bin/muster clock"), "{line}");
    }
}
