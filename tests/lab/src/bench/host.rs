//! How long Muster takes to prepare a host, against the operator's guide as a script: side by side, on the same files, in a
//! mount and a network namespace of their own, so that nothing of this machine is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::{median, rounded};
use crate::paths;
use crate::setup::Tell;

/// The guide, without `apt-get install`, which is a matter of mirrors. It keeps modules and sysctls for the next boot, as Muster
/// does, and sets its own file alone, not every file of the machine.
const GUIDE: &str = "#!/bin/bash\n\
    swapoff -a\n\
    sed -i '/swap/d' /etc/fstab\n\
    printf 'overlay\\nbr_netfilter\\n' >/etc/modules-load.d/k3s.conf\n\
    modprobe overlay 2>/dev/null\n\
    modprobe br_netfilter 2>/dev/null\n\
    printf 'net.bridge.bridge-nf-call-iptables = 1\\nnet.bridge.bridge-nf-call-ip6tables = 1\\nnet.ipv4.ip_forward = 1\\n' \
    >/etc/sysctl.d/k3s.conf\n\
    sysctl -p /etc/sysctl.d/k3s.conf >/dev/null\n";

const FSTAB: &str = "# swap was on /dev/vda5 during installation\n\
    UUID=3b6f2c1e-0d1f-4a5e-9a54-1de3f0a0c001 / ext4 errors=remount-ro 0 1\n\
    UUID=9c1e7a52-5a0c-4d64-8f63-3f2c8f1a0002 none swap sw 0 0\n\
    /swapfile none swap sw 0 0\n";

/// The sysctls of the guide, which are also the only ones of Muster's table that belong to a network namespace and are set here.
const KEYS: [&str; 3] =
    ["net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];

/// The goals: how much faster the first run is to be, and how long a run with nothing to do may take, in milliseconds.
const GOALS: (f64, f64) = (5.0, 10.0);

/// What is measured with.
#[derive(Clone, Copy)]
pub struct HostBench<'a> {
    /// The binary.
    pub muster: &'a Path,
    /// Pairs of runs on each side.
    pub runs: u32,
    /// Who is told how it goes.
    pub tell: Tell<'a>,
}

/// The four times of one round, in milliseconds.
#[derive(Debug, Default)]
struct Times {
    guide_first: Vec<f64>,
    guide_again: Vec<f64>,
    muster_first: Vec<f64>,
    muster_again: Vec<f64>,
}

impl HostBench<'_> {
    /// Runs both in turn, each first on a host that needs everything and then on one that needs nothing.
    ///
    /// # Errors
    /// This machine has swap on, which the guide's script would turn off, or a side does not do its work.
    pub fn run(&self) -> Result<Value> {
        let swaps = fs::read_to_string("/proc/swaps").context("read /proc/swaps")?;
        ensure!(
            swaps.lines().count() <= 1,
            "swap is on here, and the guide's script turns it off: not on this machine"
        );
        let work = PathBuf::from(paths::WORK).join(format!("bench-host-{}", std::process::id()));
        fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        // This thread's, and with it its children's alone.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("make namespaces")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("keep our mounts to ourselves")?;
        let result = self.rounds(&work);
        let _ = umount2("/etc", MntFlags::MNT_DETACH);
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        result
    }

    fn rounds(&self, work: &Path) -> Result<Value> {
        let mut times = Times::default();
        let skip = self.skipped()?;
        for round in 0..=self.runs {
            let mut now = Times::default();
            for guide in if round % 2 == 0 { [true, false] } else { [false, true] } {
                let state = fresh(work)?;
                let (first, again) = if guide {
                    fs::write(work.join("guide"), GUIDE).context("write the guide's script")?;
                    let act = || timed(Command::new("bash").arg(work.join("guide")));
                    (act()?, act()?)
                } else {
                    let act = || timed(self.muster(&state, &skip).args(["apply", "--output", "json"]));
                    (act()?, act()?)
                };
                for key in KEYS {
                    let is = fs::read_to_string(path_of(key)).unwrap_or_default();
                    ensure!(is.trim() == "1" || is.is_empty(), "{key} is {is:?} afterwards");
                }
                let fstab = fs::read_to_string("/etc/fstab").context("read the fstab")?;
                let swap = fstab.lines().any(|line| !line.starts_with('#') && line.contains(" swap "));
                ensure!(!swap, "there is swap in the fstab afterwards: {fstab}");
                let (firsts, agains) = if guide {
                    (&mut now.guide_first, &mut now.guide_again)
                } else {
                    (&mut now.muster_first, &mut now.muster_again)
                };
                firsts.push(first);
                agains.push(again);
            }
            // The first round warms the caches of both.
            if round > 0 {
                (self.tell)(&format!(
                    "run {round}: guide {:.1} and {:.1} ms, Muster {:.1} and {:.1} ms",
                    now.guide_first[0], now.guide_again[0], now.muster_first[0], now.muster_again[0]
                ));
                times.guide_first.extend(now.guide_first);
                times.guide_again.extend(now.guide_again);
                times.muster_first.extend(now.muster_first);
                times.muster_again.extend(now.muster_again);
            }
        }
        let of = |times: &[f64]| rounded(median(times));
        let list = |times: &[f64]| times.iter().copied().map(rounded).collect::<Vec<_>>();
        let ratio = median(&times.guide_first) / median(&times.muster_first);
        let nothing = median(&times.muster_again);
        Ok(json!({
            "guide_first_ms": of(&times.guide_first),
            "muster_first_ms": of(&times.muster_first),
            "first_ratio": rounded(ratio),
            "guide_nothing_to_do_ms": of(&times.guide_again),
            "muster_nothing_to_do_ms": of(&times.muster_again),
            "nothing_to_do_ratio": rounded(median(&times.guide_again) / nothing),
            "goals": {
                "first_ratio": { "at_least": GOALS.0, "met": ratio >= GOALS.0 },
                "muster_nothing_to_do_ms": { "at_most": GOALS.1, "met": nothing <= GOALS.1 },
            },
            "runs": self.runs,
            "guide_first_runs": list(&times.guide_first),
            "muster_first_runs": list(&times.muster_first),
            "guide_nothing_to_do_runs": list(&times.guide_again),
            "muster_nothing_to_do_runs": list(&times.muster_again),
            "left_out": "packages; sysctls of the whole machine, which a namespace cannot keep to itself",
        }))
    }

    fn muster(&self, state: &Path, skip: &str) -> Command {
        let mut command = Command::new(self.muster);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("MUSTER_TOKEN", "a-token-of-the-bench-alone").env("MUSTER_NODE_IP", "10.0.0.5");
        command.env("MUSTER_STATE_DIR", state).env("MUSTER_HOST_SKIP", skip);
        command
    }

    /// The rows that would change the machine itself: sysctls that no namespace keeps apart.
    fn skipped(&self) -> Result<String> {
        let nowhere = Path::new("/nonexistent");
        let mut asked = self.muster(nowhere, "");
        asked.env_remove("MUSTER_HOST_SKIP");
        let output = asked.args(["plan", "--output", "json"]).output().context("run muster plan")?;
        let plan: Value = serde_json::from_slice(&output.stdout).context("read the plan")?;
        let rows = plan["rows"].as_array().context("a plan has rows")?.iter();
        let names = rows.filter_map(|row| row["row"].as_str());
        let global =
            names.filter(|name| name.strip_prefix("sysctl.").is_some_and(|key| !KEYS.contains(&key)));
        Ok(global.collect::<Vec<_>>().join(","))
    }
}

/// A host that needs everything: an `/etc` of its own over this machine's, sysctls at 0, an empty state directory.
fn fresh(work: &Path) -> Result<PathBuf> {
    let _ = umount2("/etc", MntFlags::MNT_DETACH);
    let made = |name: &str| -> Result<PathBuf> {
        let path = work.join(name);
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    };
    let (upper, below, state) = (made("upper")?, made("below")?, made("state")?);
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), below.display());
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("lay an /etc over this machine's")?;
    for directory in ["/etc/modules-load.d", "/etc/sysctl.d"] {
        fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    }
    for file in ["/etc/modules-load.d/muster.conf", "/etc/sysctl.d/90-muster.conf"] {
        drop(fs::remove_file(file));
    }
    fs::write("/etc/fstab", FSTAB).context("write an fstab")?;
    for key in KEYS {
        // Absent where the bridge module is not there yet: then its loading is part of the first run.
        if Path::new(&path_of(key)).exists() {
            fs::write(path_of(key), "0").with_context(|| format!("set {key} to 0"))?;
        }
    }
    // Both begin with nothing left to be written by what came before.
    nix::unistd::sync();
    Ok(state)
}

fn path_of(key: &str) -> String {
    // The dots of these keys are all separators.
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let millis = began.elapsed().as_secs_f64() * 1_000.0;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(millis)
}
