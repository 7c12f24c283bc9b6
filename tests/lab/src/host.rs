//! One host: a root file system of its own, a network namespace, a cgroup and a real systemd.
//!
//! All that is known about a running host is on disk, so a later command, or another thread, can take over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::net::{self, Net};
use crate::paths;
use crate::process::{self, Process};
use crate::run::Run;

/// Puts the shell into the cgroups that are named before `--`, then becomes nspawn in a session of its own.
const ENTER: &str =
    r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit 90; shift; done; shift; exec setsid "$@""#;

/// Directories of a host with a real k3s that lie beside its overlay: containerd's own overlays cannot lie on one.
const BESIDE: [(&str, &str); 2] = [("rancher", "var/lib/rancher"), ("kubelet", "var/lib/kubelet")];
/// What a host's disk consists of on this machine.
const DISK: [&str; 4] = ["upper", "work", "rancher", "kubelet"];

/// One host of a lab. Cheap to copy; it holds names, not processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// The lab's name.
    pub lab: String,
    /// Number, from 1; also the last octet of the address.
    pub index: u8,
    /// Host name.
    pub name: String,
    /// Layers below the host's own, topmost first.
    pub layers: Vec<PathBuf>,
    /// Whether k3s is a real one, which needs more from its host.
    pub real: bool,
}

/// A host that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The supervising nspawn.
    pub nspawn: Process,
    /// The host's systemd.
    pub leader: Process,
}

impl Host {
    /// The address.
    #[must_use]
    pub fn address(&self) -> String {
        net::address(self.index)
    }

    fn dir(&self) -> PathBuf {
        paths::work_dir(&self.lab).join(format!("h{}", self.index))
    }

    /// Where the host's root is mounted on this machine, whether it runs or not.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    fn running_file(&self) -> PathBuf {
        paths::run_dir(&self.lab).join(format!("h{}.json", self.index))
    }

    /// The host's console, from all its boots.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir().join("console.log")
    }

    /// The host's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> Cgroup {
        Cgroup::new(&paths::cgroup(&self.lab, self.index))
    }

    fn net(&self) -> Net {
        Net::new(&paths::prefix(&self.lab))
    }

    /// The running host, if it runs.
    #[must_use]
    pub fn running(&self) -> Option<Running> {
        let text = fs::read(self.running_file()).ok()?;
        let running: Running = serde_json::from_slice(&text).ok()?;
        running.leader.alive().then_some(running)
    }

    /// Makes the host's disk: an empty layer over the common ones, with a host name and nothing else.
    ///
    /// # Errors
    /// The overlay cannot be mounted.
    pub fn create_disk(&self) -> Result<()> {
        let dir = self.dir();
        for sub in DISK.into_iter().chain(["root"]) {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("make {}", sub.display()))?;
        }
        self.mount()?;
        let file = self.root().join("etc/hostname");
        fs::write(&file, format!("{}\n", self.name)).with_context(|| format!("write {}", file.display()))
    }

    fn mount(&self) -> Result<()> {
        let (dir, root) = (self.dir(), self.root());
        if is_mount(&root) {
            return Ok(());
        }
        let lower: Vec<_> = self.layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            dir.join("upper").display(),
            dir.join("work").display()
        );
        Run::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&root).ok().map(drop)
    }

    fn unmount(&self) -> Result<()> {
        if is_mount(&self.root()) {
            Run::new("umount").arg(self.root()).ok()?;
        }
        Ok(())
    }

    /// Powers the host on and returns once its systemd is process 1 of the host.
    ///
    /// # Errors
    /// It already runs, or no systemd appears within 15 seconds (the console's last lines are quoted).
    pub fn start(&self) -> Result<Running> {
        if self.running().is_some() {
            bail!("{} already runs", self.name);
        }
        self.mount()?;
        let console = self.console();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&console)
            .with_context(|| format!("open {}", console.display()))?;
        let before = log.metadata().map(|m| m.len()).unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "sh"]).args(self.cgroup().create()?).arg("--").arg("systemd-nspawn");
        command.args(["--quiet", "--register=no", "--keep-unit", "--capability=all", "--resolv-conf=off"]);
        command.args(["--link-journal=no", "--timezone=off", "--boot"]);
        command.arg("-D").arg(self.root()).arg("-M").arg(format!("{}-{}", self.lab, self.index));
        command.arg(format!("--hostname={}", self.hostname()));
        command.arg(format!("--network-namespace-path={}", self.net().host_path(self.index).display()));
        // `network`: a host's net.* sysctls are its own. A kubelet also sets vm.* and kernel.*: then they are the
        // machine's own, which is why only a real k3s gets `yes`.
        command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", if self.real { "yes" } else { "network" });
        if self.real {
            command.arg("--bind=/dev/kmsg");
            for (sub, inside) in BESIDE {
                command.arg(format!("--bind={}:/{inside}", self.dir().join(sub).display()));
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the console")?).stderr(log);
        let mut child = command.spawn().context("start systemd-nspawn")?;
        let pid = i32::try_from(child.id()).context("process id")?;
        let nspawn = Process::of(pid).context("systemd-nspawn ended at once")?;
        // Reaps it, should it end while this program still runs.
        std::thread::spawn(move || drop(child.wait()));
        let leader = self.await_leader(nspawn).with_context(|| {
            let text = fs::read(&console).unwrap_or_default();
            let new = text.get(usize::try_from(before).unwrap_or_default()..).unwrap_or_default();
            let said = crate::run::last_lines(&String::from_utf8_lossy(new), 4);
            format!("power {} on; its console says: {said}", self.name)
        })?;
        let running = Running { nspawn, leader };
        let file = self.running_file();
        fs::write(&file, serde_json::to_vec(&running)?)
            .with_context(|| format!("write {}", file.display()))?;
        Ok(running)
    }

    fn hostname(&self) -> String {
        let text = fs::read_to_string(self.root().join("etc/hostname")).unwrap_or_default();
        if text.trim().is_empty() { self.name.clone() } else { text.trim().to_owned() }
    }

    fn await_leader(&self, nspawn: Process) -> Result<Process> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            for pid in process::children(nspawn.pid) {
                if process::stat(pid).is_some_and(|stat| stat.comm == "systemd")
                    && let Some(leader) = Process::of(pid)
                {
                    return Ok(leader);
                }
            }
            if !nspawn.alive() {
                bail!("systemd-nspawn ended");
            }
            if Instant::now() > deadline {
                nspawn.kill();
                bail!("no systemd in it after 15 s");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until systemd has done its boot: `running`, or `degraded` when some unit failed.
    ///
    /// # Errors
    /// The host is down, or still booting at the deadline.
    pub fn booted(&self, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            let state = self.inside(&["systemctl", "is-system-running"], Duration::from_secs(10))?;
            let word = state.stdout.trim().to_owned();
            if word == "running" || word == "degraded" {
                return Ok(word);
            }
            if Instant::now() > deadline {
                bail!("{} is still `{word}` after {within:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Cuts the power: everything in the host dies at once. The leader is killed, not nspawn: that would leave
    /// the host's systemd running as an orphan.
    ///
    /// # Errors
    /// The host is down, or something of it is left after 20 seconds.
    pub fn power_cut(&self) -> Result<()> {
        let running = self.need_running()?;
        // A frozen process takes no signal.
        drop(self.cgroup().freeze(false));
        running.leader.kill();
        self.ended(running, Duration::from_secs(20))
    }

    /// Shuts the host down in good order.
    ///
    /// # Errors
    /// The host is down, or still there after 100 seconds.
    pub fn power_off(&self) -> Result<()> {
        let running = self.need_running()?;
        // SIGRTMIN+4 asks systemd to power off.
        Run::new("kill").args(["-38", &running.leader.pid.to_string()]).ok()?;
        self.ended(running, Duration::from_secs(100))
    }

    /// Shuts the host down in good order and powers it on again.
    ///
    /// # Errors
    /// As [`Host::power_off`] and [`Host::start`].
    pub fn reboot(&self) -> Result<()> {
        let running = self.need_running()?;
        // systemctl's own exit code tells nothing: the host may be gone before it can answer.
        drop(self.inside(&["systemctl", "reboot"], Duration::from_secs(20)));
        self.ended(running, Duration::from_secs(100))?;
        self.start().map(drop)
    }

    fn need_running(&self) -> Result<Running> {
        self.running().with_context(|| format!("{} does not run", self.name))
    }

    fn ended(&self, running: Running, within: Duration) -> Result<()> {
        running.leader.gone(within).with_context(|| format!("{} does not end", self.name))?;
        running
            .nspawn
            .gone(within)
            .with_context(|| format!("the supervisor of {} does not end", self.name))?;
        drop(fs::remove_file(self.running_file()));
        Ok(())
    }

    /// Stops every process in the host where it stands.
    ///
    /// # Errors
    /// The host is down, or the freezer does not do it.
    pub fn freeze(&self) -> Result<()> {
        self.need_running()?;
        self.cgroup().freeze(true)
    }

    /// Lets a frozen host go on.
    ///
    /// # Errors
    /// The host is down, or the freezer does not do it.
    pub fn thaw(&self) -> Result<()> {
        self.need_running()?;
        self.cgroup().freeze(false)
    }

    /// Images the host anew: cuts the power if it runs, and gives it an empty disk over the same common layers.
    /// Name, address and configuration stay.
    ///
    /// # Errors
    /// The old disk cannot be removed or the new one made.
    pub fn wipe(&self) -> Result<()> {
        if self.running().is_some() {
            self.power_cut()?;
        }
        self.unmount()?;
        for sub in DISK {
            let sub = self.dir().join(sub);
            if sub.exists() {
                fs::remove_dir_all(&sub).with_context(|| format!("remove {}", sub.display()))?;
            }
        }
        self.create_disk()
    }

    /// Gives this host a copy of another one's disk, as a captured image would; only the host name is its own.
    ///
    /// # Errors
    /// This host runs, or the copy fails.
    pub fn clone_disk(&self, from: &Host) -> Result<()> {
        if self.running().is_some() {
            bail!("{} runs: a running host's disk is not replaced", self.name);
        }
        self.wipe()?;
        self.unmount()?;
        for sub in DISK.into_iter().filter(|sub| *sub != "work") {
            let (source, target) = (from.dir().join(sub).join("."), self.dir().join(sub));
            let copy = Run::new("cp").arg("-a").arg(source).arg(target).within(Duration::from_secs(300));
            copy.ok().context("copy the disk")?;
        }
        self.create_disk()
    }

    /// A file of the host as it is on this machine, for reading or changing, whether the host runs or not.
    /// `/run` and `/tmp` exist only while it runs.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let relative = path.trim_start_matches('/');
        let beside = BESIDE.iter().filter(|_| self.real);
        for (sub, inside) in beside {
            if let Some(rest) = relative.strip_prefix(inside) {
                return self.dir().join(sub).join(rest.trim_start_matches('/'));
            }
        }
        if relative.starts_with("run/") || relative.starts_with("tmp/") {
            let leader = self.running().map_or(0, |running| running.leader.pid);
            return Path::new("/proc").join(leader.to_string()).join("root").join(relative);
        }
        self.root().join(relative)
    }

    /// The directories of this machine that hold what the host has written to its disk, and nothing of its image.
    #[must_use]
    pub fn written(&self) -> Vec<PathBuf> {
        let beside = BESIDE.iter().filter(|_| self.real).map(|(sub, _)| self.dir().join(sub));
        std::iter::once(self.dir().join("upper")).chain(beside).collect()
    }

    /// Removes all that the host leaves on this machine but its namespace; see [`crate::sweep`] for the whole.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if self.running().is_some() {
            self.power_cut()?;
        }
        self.unmount()?;
        self.cgroup().remove()?;
        let dir = self.dir();
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
    }
}

/// Whether something is mounted at exactly this place.
#[must_use]
pub fn is_mount(dir: &Path) -> bool {
    mounts().iter().any(|mount| mount == dir)
}

/// Every mount point of this machine.
#[must_use]
pub fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}
