//! One cgroup per host, on cgroup v1, hybrid and v2 machines.
//!
//! With `--keep-unit`, nspawn makes its own cgroups under the one it was started from; two hosts started from one
//! cgroup would share them. So each host gets a cgroup of its own in every hierarchy before nspawn starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const ROOT: &str = "/sys/fs/cgroup";
/// The v1 controllers that a host is confined to. Others (hugetlb, perf_event, net_cls) stay with the machine.
const V1: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio"];

/// The cgroup of one host: one directory per mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    name: String,
}

/// How cgroups are mounted on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only cgroup v2, at `/sys/fs/cgroup`.
    V2,
    /// v1 controllers, perhaps with v2 at `/sys/fs/cgroup/unified`.
    V1,
}

/// How cgroups are mounted here.
#[must_use]
pub fn mode() -> Mode {
    if Path::new(ROOT).join("cgroup.controllers").exists() { Mode::V2 } else { Mode::V1 }
}

/// The v1 controllers that are mounted here; a real kubelet wants them writable inside a host.
#[must_use]
pub fn v1_controllers() -> Vec<&'static str> {
    V1.into_iter().filter(|c| Path::new(ROOT).join(c).join("cgroup.procs").exists()).collect()
}

impl Cgroup {
    /// The cgroup named `name`; nothing is made yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn hierarchies() -> Vec<PathBuf> {
        let root = Path::new(ROOT);
        match mode() {
            Mode::V2 => vec![root.to_owned()],
            Mode::V1 => ["systemd", "unified"]
                .into_iter()
                .chain(v1_controllers())
                .map(|name| root.join(name))
                .filter(|dir| dir.join("cgroup.procs").exists())
                .collect(),
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        Self::hierarchies().into_iter().map(|dir| dir.join(&self.name)).collect()
    }

    /// Makes the directories; gives the `cgroup.procs` files that a process must write itself to.
    ///
    /// # Errors
    /// A directory cannot be made, or a v1 cpuset cannot be filled (a cpuset is born empty and takes nobody).
    pub fn create(&self) -> Result<Vec<PathBuf>> {
        if mode() == Mode::V2 {
            // Best effort: on a machine whose root hands out nothing, hosts run without controllers.
            drop(fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+cpu +memory +pids +io +cpuset"));
        }
        let mut procs = Vec::new();
        for dir in self.dirs() {
            fs::create_dir_all(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
            if mode() == Mode::V1 && dir.parent().is_some_and(|p| p.ends_with("cpuset")) {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let from = Path::new(ROOT).join("cpuset").join(file);
                    let value = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
                    let to = dir.join(file);
                    fs::write(&to, value).with_context(|| format!("write {}", to.display()))?;
                }
            }
            procs.push(dir.join("cgroup.procs"));
        }
        Ok(procs)
    }

    /// Stops every process of the host where it stands, or lets all go on.
    ///
    /// # Errors
    /// The machine has no freezer, or it does not reach the wanted state within 10 seconds.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, value, probe, want) = match mode() {
            Mode::V2 => {
                let dir = Path::new(ROOT).join(&self.name);
                let want = if frozen { "frozen 1" } else { "frozen 0" };
                (dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }, dir.join("cgroup.events"), want)
            }
            Mode::V1 => {
                let file = Path::new(ROOT).join("freezer").join(&self.name).join("freezer.state");
                let word = if frozen { "FROZEN" } else { "THAWED" };
                (file.clone(), word, file, word)
            }
        };
        fs::write(&file, value).with_context(|| format!("write {value} to {}", file.display()))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let state = fs::read_to_string(&probe).with_context(|| format!("read {}", probe.display()))?;
            if state.lines().any(|line| line.trim() == want) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} did not become `{want}` within 10 s (is `{}`)", probe.display(), state.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Every process in the cgroup and below, by id.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for dir in self.dirs() {
            collect(&dir, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the directories; processes must be gone. Says what could not be removed.
    ///
    /// # Errors
    /// A directory is still there afterwards.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let dirs = self.dirs();
            for dir in &dirs {
                remove_tree(dir);
            }
            let Some(left) = dirs.into_iter().find(|dir| dir.exists()) else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("cgroup {} cannot be removed: processes {:?}", left.display(), self.processes());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Names of all cgroups on this machine that start with `prefix`.
    #[must_use]
    pub fn named(prefix: &str) -> Vec<String> {
        let mut names = Vec::new();
        for dir in Self::hierarchies() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
                if name.starts_with(prefix) {
                    names.push(name);
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
    }
    for sub in subdirs(dir) {
        collect(&sub, pids);
    }
}

fn remove_tree(dir: &Path) {
    for sub in subdirs(dir) {
        remove_tree(&sub);
    }
    drop(fs::remove_dir(dir));
}
