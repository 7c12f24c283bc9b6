//! The layer that is the same on every host of a lab: binary, unit, configuration, token, k3s.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::Rng;

use super::binaries::{self, Binaries};
use crate::conf::{self, Conf};
use crate::net;
use crate::run::Run;
use crate::{cgroup, paths};

/// What the common layer holds.
#[derive(Debug)]
pub struct Layer<'a> {
    /// The lab's name.
    pub lab: &'a str,
    /// The binaries.
    pub binaries: &'a Binaries,
    /// The configuration.
    pub conf: &'a Conf,
    /// Whether `muster.service` is started at boot.
    pub enabled: bool,
    /// Whether k3s is already installed, for a cluster that is made by hand.
    pub bare_k3s: bool,
}

impl Layer<'_> {
    /// Writes the layer and gives its directory.
    ///
    /// # Errors
    /// Something cannot be written, or the unit is missing from the sources.
    pub fn build(&self) -> Result<PathBuf> {
        let root = paths::work_dir(self.lab).join("layer");
        let put = |path: &str, mode: u32, content: &[u8]| put(&root, path, mode, content);
        let copy = |path: &str, from: &Path| -> Result<()> {
            let to = target(&root, path)?;
            fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).context("make it executable")
        };
        copy("usr/local/bin/muster", &self.binaries.muster)?;
        put(conf::CONFIG_FILE, 0o644, self.conf.render().as_bytes())?;
        put(conf::TOKEN_FILE, 0o600, format!("{}\n", token()).as_bytes())?;
        // As in an image: both are there, the second one is not enabled.
        for name in ["muster.service", "muster-leave.service"] {
            let unit = binaries::workspace().join("images/systemd").join(name);
            let unit = fs::read(&unit).with_context(|| format!("read {}", unit.display()))?;
            put(&format!("etc/systemd/system/{name}"), 0o644, &unit)?;
        }
        if self.enabled {
            enable(&root, "muster.service")?;
        }
        let (name, sums) = k3s_names();
        let k3s = format!("{}/{name}", conf::K3S_SOURCE);
        copy(&k3s, &self.binaries.k3s)?;
        put(
            &format!("{}/{sums}", conf::K3S_SOURCE),
            0o644,
            format!("{}  {name}\n", sha256(&self.binaries.k3s)?).as_bytes(),
        )?;
        if self.bare_k3s {
            copy("usr/local/bin/k3s", &self.binaries.k3s)?;
        }
        put("etc/hosts", 0o644, hosts_file().as_bytes())?;
        // With this directory the journal outlives a power cut.
        fs::create_dir_all(root.join("var/log/journal")).context("make the journal's directory")?;
        if self.binaries.real && cgroup::mode() == cgroup::Mode::V1 {
            put("etc/systemd/system/lab-cgroups.service", 0o644, cgroups_unit().as_bytes())?;
            enable(&root, "lab-cgroups.service")?;
        }
        Ok(root)
    }
}

/// The file names of a k3s release for this machine's architecture: the binary and its checksums.
#[must_use]
pub fn k3s_names() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("k3s-arm64", "sha256sum-arm64.txt"),
        "arm" => ("k3s-armhf", "sha256sum-arm.txt"),
        _ => ("k3s", "sha256sum-amd64.txt"),
    }
}

/// A new token, as a person would make one.
#[must_use]
pub fn token() -> String {
    hex::encode(rand::rng().random::<[u8; 32]>())
}

/// SHA-256 of a file, 64 hex digits.
///
/// # Errors
/// It cannot be read.
pub fn sha256(file: &Path) -> Result<String> {
    let said = Run::new("sha256sum").arg(file).ok()?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

fn target(root: &Path, path: &str) -> Result<PathBuf> {
    let to = root.join(path.trim_start_matches('/'));
    let dir = to.parent().unwrap_or(root);
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(to)
}

fn put(root: &Path, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let to = target(root, path)?;
    fs::write(&to, content).with_context(|| format!("write {}", to.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(mode)).context("set its mode")
}

fn enable(root: &Path, unit: &str) -> Result<()> {
    let link = target(root, &format!("etc/systemd/system/multi-user.target.wants/{unit}"))?;
    symlink(format!("/etc/systemd/system/{unit}"), &link).with_context(|| format!("enable {unit}"))
}

fn hosts_file() -> String {
    let nodes = (1..=20).map(|index| format!("{} node{index}\n", net::address(index)));
    std::iter::once("127.0.0.1 localhost\n::1 localhost\n".to_owned()).chain(nodes).collect()
}

/// On cgroup v1 nspawn mounts the controllers read-only; a kubelet needs to write them, in every boot anew.
fn cgroups_unit() -> String {
    let remount = cgroup::v1_controllers()
        .into_iter()
        .map(|c| format!("ExecStart=-/bin/mount -o remount,bind,rw /sys/fs/cgroup/{c}\n"))
        .collect::<String>();
    format!(
        "[Unit]\nDescription=Make the v1 cgroup controllers writable\nDefaultDependencies=no\n\
         Before=muster.service k3s.service k3s-agent.service\n\n[Service]\nType=oneshot\n\
         RemainAfterExit=yes\n{remount}"
    )
}
