//! Who runs from an image's tree: what is being sealed must not be written to by anybody else. [edge]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::edge::fs;

/// A process that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel keeps it: at most 15 bytes.
    pub name: String,
    /// Whether its root is the tree's.
    pub within: bool,
}

/// Every process of this machine that can be seen.
///
/// # Errors
/// When `/proc` cannot be read: then nobody can say that nothing runs.
pub fn runners(proc: &Path, root: (u64, u64)) -> std::io::Result<Vec<Runner>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Gone meanwhile, or a kernel thread: neither has a root of its own.
        let Ok(Some(name)) = fs::read_text(&entry.path().join("comm")) else { continue };
        let within =
            std::fs::metadata(entry.path().join("root/.")).is_ok_and(|at| (at.dev(), at.ino()) == root);
        all.push(Runner { pid, name: name.trim_end().to_owned(), within });
    }
    all.sort_by_key(|runner| runner.pid);
    Ok(all)
}

/// Why a tree must not be sealed now; none when it may be. [pure]
#[must_use]
pub fn refusal(live: bool, this_machine: bool, me: u32, runners: &[Runner]) -> Option<String> {
    let within: Vec<&Runner> = runners.iter().filter(|runner| runner.within && runner.pid != me).collect();
    if !live {
        let runner = within.first()?;
        return Some(format!(
            "`{}` (process {}) runs from this tree; stop what runs in it and try again, nothing was changed",
            runner.name, runner.pid
        ));
    }
    // k3s gives its processes names that begin so; a shim outlives it, and holds pods.
    let k3s = |name: &str| name.starts_with("k3s") || name.starts_with("containerd-shim");
    if let Some(runner) = within.iter().find(|runner| k3s(&runner.name)) {
        return Some(format!(
            "this machine serves: `{}` (process {}) runs; a node is never sealed, nothing was changed. Make the image of a \
             machine that has not joined a cluster, or take this one out of its cluster and run k3s-killall.sh first",
            runner.name, runner.pid
        ));
    }
    if let Some(runner) = within.iter().find(|runner| runner.name == "muster") {
        return Some(format!(
            "the agent runs (process {}) and would write its ledger again; `systemctl stop muster.service` first, nothing was \
             changed",
            runner.pid
        ));
    }
    (!this_machine).then(|| {
        "this is the root of the machine that runs; add --this-machine if it is to become an image: its identity, logs and \
         keys are removed at once, and it is to be switched off afterwards. Nothing was changed"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_never_sealed_and_this_machine_only_when_it_is_named() {
        let runner = |pid, name: &str, within| Runner { pid, name: name.into(), within };
        let quiet = [runner(1, "systemd", true), runner(9, "muster", true), runner(50, "k3s-server", false)];
        for (what, live, this_machine, runners, words) in [
            ("an image nobody runs from", false, false, vec![runner(1, "systemd", false)], None),
            (
                "a daemon in a chroot",
                false,
                true,
                vec![runner(40, "cron", true)],
                Some("`cron` (process 40)"),
            ),
            ("this machine, unnamed", true, false, quiet.to_vec(), Some("--this-machine")),
            ("this machine, named; k3s is another root's", true, true, quiet.to_vec(), None),
            ("k3s", true, true, vec![runner(7, "k3s-server", true)], Some("never sealed")),
            ("pods", true, true, vec![runner(7, "containerd-shim", true)], Some("never sealed")),
            ("another agent", true, true, vec![runner(8, "muster", true)], Some("systemctl stop muster")),
        ] {
            let said = refusal(live, this_machine, 9, &runners);
            match words {
                None => assert_eq!(said, None, "{what}"),
                Some(words) => {
                    assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{what}: {said:?}")
                }
            }
        }
    }

    #[test]
    fn this_process_runs_from_this_root() {
        let at = std::fs::metadata("/").unwrap();
        let all = runners(Path::new("/proc"), (at.dev(), at.ino())).unwrap();
        assert!(all.iter().any(|runner| runner.pid == std::process::id() && runner.within));
        assert!(runners(Path::new("/no/such/proc"), (0, 0)).is_err());
    }
}
