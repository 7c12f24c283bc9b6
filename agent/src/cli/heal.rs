//! `muster leave`.

use std::time::Duration;

use anyhow::Context;

use super::{DONE, FAILED, runtime, state_dir};
use crate::config::Flags;
use crate::core::Phase;
use crate::edge::{clock, exec, fs};
use crate::engine::real::leave_path;
use crate::gossip::Role;
use crate::heal::LeaveRequest;
use crate::ledger::{self, Data};

/// Bound on systemd's answer.
const ASK: Duration = Duration::from_secs(10);
/// How often the agent's word is read.
const LOOK: Duration = Duration::from_millis(250);
/// How long a machine that goes down may take to leave: less than its unit's own bound.
const LEAVES: Duration = Duration::from_secs(220);

/// Leaves if systemd is on its way to power off or to halt, and waits until the agent says that it is out, or that it stays.
pub(super) fn leave_on_poweroff(flags: &Flags) -> anyhow::Result<u8> {
    runtime()?.block_on(leaves_on_poweroff(flags))
}

async fn leaves_on_poweroff(flags: &Flags) -> anyhow::Result<u8> {
    let jobs = exec::run("systemctl", &["list-jobs", "--no-legend", "--plain"], ASK)
        .await
        .context("ask systemd what it is about to do")?;
    if !goes_down(&jobs.stdout) {
        println!("this machine is not being powered off: it stays a member");
        return Ok(DONE);
    }
    let run_dir = super::status::path(flags).parent().map(std::path::Path::to_owned).unwrap_or_default();
    // On a file system of this boot: a machine that is powered on again joins.
    let text = serde_json::to_vec(&LeaveRequest { reason: "powered off".to_owned() })?;
    fs::write_volatile(&leave_path(&run_dir), &text, 0o600)?;
    let end = clock::since_boot() + LEAVES;
    while clock::since_boot() < end {
        let status = super::status::read(flags)?;
        let says = |rule: &str| status.why.iter().find(|why| why.rule == rule);
        if let Some(why) = says("leave-refused") {
            println!("this machine goes down as a member: {}", why.detail);
            return Ok(FAILED);
        }
        // Its member is out, and another server has confirmed it. The rest, moving its data aside, waits for k3s's own end, which
        // waits for this command: it is done at the next start.
        let out = says("leaving").is_some() && status.phase == Phase::Joining;
        if out || says("left-cluster").is_some() {
            println!("this machine has left the cluster");
            return Ok(DONE);
        }
        tokio::time::sleep(LOOK).await;
    }
    println!(
        "this machine goes down as a member: it was not out of the cluster after {} s",
        LEAVES.as_secs()
    );
    Ok(FAILED)
}

/// Whether a list of jobs is one of a machine that is powered off or halted, and does not start again.
fn goes_down(jobs: &str) -> bool {
    let starts = |unit: &str| {
        jobs.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next() == Some(unit) && words.next() == Some("start")
        })
    };
    starts("poweroff.target") || starts("halt.target")
}

pub(super) fn leave(flags: &Flags, reason: &str, yes: bool, cancel: bool) -> anyhow::Result<u8> {
    let state_dir = state_dir(flags);
    let path = leave_path(&state_dir);
    if cancel {
        if fs::known_there(&path).is_absent() {
            println!("nothing was to be taken back: this machine was not told to leave");
            return Ok(DONE);
        }
        fs::remove(&path)?;
        println!("Taken back. The agent of this machine joins again by itself, or stays; see muster why.");
        return Ok(DONE);
    }
    let record = ledger::peek(&state_dir)?.context("there is no ledger here: the agent has not run")?;
    match &record.data {
        Data::Member { role: Role::Server, .. } => {
            let others = record.voters.len().saturating_sub(1);
            println!(
                "This machine is one of {} servers; {others} would be left.",
                record.voters.len().max(1)
            );
            println!("Its pods are moved away, its etcd member is removed, then k3s is stopped here.");
            println!("It stays if that would cost the cluster its quorum, and says so: muster why.");
        }
        Data::Member { .. } => {
            println!("This machine is an agent. k3s is stopped here; drain it first if its pods matter.")
        }
        _ => println!("This machine is in no cluster now; it will not join one."),
    }
    if !yes {
        println!("Nothing was done. Say --yes to do it.");
        return Ok(FAILED);
    }
    let text = serde_json::to_vec(&LeaveRequest { reason: reason.trim().to_owned() })?;
    fs::write_atomic(&path, &text, 0o600)?;
    println!(
        "The agent of this machine carries it out. See muster why; muster leave --cancel takes it back."
    );
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_machine_that_does_not_start_again_leaves() {
        let jobs = |target: &str| {
            format!(
                "  1 {target} start waiting\n 12 muster-leave.service stop running\n 13 k3s.service stop waiting\n"
            )
        };
        assert!(goes_down(&jobs("poweroff.target")) && goes_down(&jobs("halt.target")));
        for target in ["reboot.target", "kexec.target", "soft-reboot.target", "rescue.target"] {
            assert!(!goes_down(&jobs(target)), "{target}");
        }
        assert!(!goes_down("7 poweroff.target stop waiting"));
        assert!(!goes_down("No jobs running.\n"));
    }
}
