//! Removing all that a lab leaves on this machine, by name alone: it works for a lab whose program was killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::process::Process;
use crate::run::Run;
use crate::{host, net, paths};

/// The names of all labs that have something on this machine.
#[must_use]
pub fn labs() -> Vec<String> {
    let mut found = BTreeSet::new();
    for dir in [paths::RUN, paths::WORK] {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        found.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
    }
    let names = net::namespaces(paths::MARK).unwrap_or_default();
    let cgroups = Cgroup::named(paths::MARK);
    found.extend(names.iter().chain(&cgroups).filter_map(|name| paths::lab_of(name)).map(str::to_owned));
    found.into_iter().collect()
}

/// Removes one lab: processes (each by its id, out of the lab's own cgroups), mounts, namespaces, cgroups, files.
///
/// # Errors
/// Something is left; the rest is removed all the same.
pub fn remove(lab: &str) -> Result<()> {
    let mut left = Vec::new();
    let prefix = paths::prefix(lab);
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            left.push(format!("{what}: {error:#}"));
        }
    };
    let cgroups: Vec<Cgroup> = Cgroup::named(&prefix).iter().map(|name| Cgroup::new(name)).collect();
    for cgroup in &cgroups {
        drop(cgroup.freeze(false));
        let processes: Vec<Process> = cgroup.processes().into_iter().filter_map(Process::of).collect();
        processes.iter().for_each(|process| process.kill());
        for process in processes {
            note("process", process.gone(Duration::from_secs(20)));
        }
    }
    let (work, run) = (paths::work_dir(lab), paths::run_dir(lab));
    let mut mounts: Vec<_> = host::mounts().into_iter().filter(|mount| mount.starts_with(&work)).collect();
    mounts.sort();
    for mount in mounts.iter().rev() {
        note("mount", Run::new("umount").arg(mount).ok().map(drop));
    }
    match net::namespaces(&prefix) {
        Ok(names) => names.iter().for_each(|name| note("namespace", net::remove_namespace(name))),
        Err(error) => note("namespaces", Err(error)),
    }
    for cgroup in &cgroups {
        note("cgroup", cgroup.remove());
    }
    if host::mounts().iter().any(|mount| mount.starts_with(&work)) {
        note("files", Err(anyhow::anyhow!("{} still has mounts", work.display())));
    } else {
        note("files", remove_dir(&work));
    }
    note("files", remove_dir(&run));
    if !left.is_empty() {
        bail!("lab `{lab}` is not gone: {}", left.join("; "));
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}
