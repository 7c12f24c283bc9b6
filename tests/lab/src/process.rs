//! Processes by id, told from later ones that got the same id by the time of their start.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it was started, clock ticks after the machine's boot.
    pub started: u64,
}

/// What `/proc/<pid>/stat` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name of the program.
    pub comm: String,
    /// One letter: `R`, `S`, `Z`, ...
    pub state: char,
    /// Id of the parent.
    pub parent: i32,
    /// Clock ticks spent in user mode and in the kernel.
    pub cpu_ticks: u64,
    /// When it was started, clock ticks after the machine's boot.
    pub started: u64,
}

impl Process {
    /// The process that now has the id `pid`.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (stat.state != 'Z').then_some(Self { pid, started: stat.started })
    }

    /// This very process.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether it still lives; a zombie does not.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills it at once, if it is still that process.
    pub fn kill(self) {
        if self.alive() {
            // It may end between the look and the signal: that is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It is still there at the deadline.
    pub fn gone(self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while self.alive() {
            if Instant::now() > deadline {
                bail!("process {} is still there after {within:?}", self.pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Reads `/proc/<pid>/stat`.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold spaces and parentheses: it ends at the last `)`.
    let (head, tail) = text.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Stat {
        comm,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: number(11)? + number(12)?,
        started: number(19)?,
    })
}

/// Ids of the children of `parent`, whichever of its threads made them.
#[must_use]
pub fn children(parent: i32) -> Vec<i32> {
    let numbers = |dir: &str| -> Vec<i32> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    // The kernel keeps a list for each thread where it was built so; else every process is asked for its parent.
    if std::path::Path::new("/proc/self/task").join(std::process::id().to_string()).join("children").exists()
    {
        let threads = numbers(&format!("/proc/{parent}/task"));
        let lists = threads.iter().map(|tid| format!("/proc/{parent}/task/{tid}/children"));
        let texts: Vec<String> = lists.filter_map(|file| fs::read_to_string(file).ok()).collect();
        return texts
            .iter()
            .flat_map(|text| text.split_whitespace())
            .filter_map(|pid| pid.parse().ok())
            .collect();
    }
    numbers("/proc").into_iter().filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_name() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 987654 1000 10";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.comm.as_str(), stat.state, stat.parent), ("a) b (c", 'S', 7));
        assert_eq!((stat.cpu_ticks, stat.started), (42, 987_654));
    }

    #[test]
    fn a_child_is_found_killed_and_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children(i32::try_from(std::process::id()).unwrap()).contains(&pid));
        let process = Process::of(pid).unwrap();
        process.kill();
        // Nobody has waited for it: a zombie counts as gone.
        process.gone(Duration::from_secs(5)).unwrap();
        child.wait().unwrap();
        assert!(!Process { started: process.started + 1, ..process }.alive());
    }
}
