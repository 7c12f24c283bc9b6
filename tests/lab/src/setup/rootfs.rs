//! The root file system that all hosts share as their lowest layer: built once, then found in a cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Tell;
use crate::paths;
use crate::run::Run;

/// The Debian release inside the hosts.
const SUITE: &str = "bookworm";
/// What a host needs: systemd, what a person reaches for when something is wrong, what k3s and its stand-in call, cloud-init,
/// which does nothing in hosts that are not told to run it, and rpm, to try the other kind of package with.
const PACKAGES: [&str; 17] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "kmod",
    "procps",
    "ca-certificates",
    "iputils-ping",
    "nftables",
    "iptables",
    "conntrack",
    "ethtool",
    "socat",
    "curl",
    "etcd-server",
    "cloud-init",
    "rpm",
];
/// With this file cloud-init stays out of the boot.
pub const CLOUD_INIT_OFF: &str = "etc/cloud/cloud-init.disabled";
/// Units that must not run in a host: etcd belongs to k3s; the others only cost time.
const MASKED: [&str; 9] = [
    "etcd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "console-getty.service",
    "systemd-networkd-wait-online.service",
];
/// Raised when the steps below change, so that an old cache is not used.
const RECIPE: u32 = 2;

/// The root file system, built now if the cache has none for this list of packages.
///
/// # Errors
/// mmdebstrap fails: no network, or no room.
pub fn ensure(tell: Tell) -> Result<PathBuf> {
    let target = Path::new(paths::CACHE).join(format!("rootfs-{SUITE}-{:016x}", key()));
    if target.exists() {
        return Ok(target);
    }
    let started = Instant::now();
    tell(&format!("root file system: mmdebstrap {SUITE} into {} (once)", target.display()));
    fs::create_dir_all(paths::CACHE).with_context(|| format!("make {}", paths::CACHE))?;
    let part = Path::new(paths::CACHE).join(format!("part-{}", std::process::id()));
    let mut run = Run::new("mmdebstrap").args(["--quiet", "--variant=minbase"]);
    run = run.arg(format!("--include={}", PACKAGES.join(",")));
    for option in proxy_options() {
        run = run.arg(format!("--aptopt={option}"));
    }
    run = run.arg("--dpkgopt=path-exclude=/usr/share/man/*").arg("--dpkgopt=path-exclude=/usr/share/doc/*");
    run = run.arg(SUITE).arg(&part);
    if let Ok(mirror) = std::env::var("MUSTER_LAB_MIRROR") {
        run = run.arg(mirror);
    }
    let built = run.within(Duration::from_secs(1800)).ok().context("build the hosts' root file system");
    if let Err(error) = built.and_then(|_| finish(&part)) {
        drop(fs::remove_dir_all(&part));
        return Err(error);
    }
    fs::rename(&part, &target).with_context(|| format!("name the whole one {}", target.display()))?;
    tell(&format!("root file system: built in {:.0} s", started.elapsed().as_secs_f64()));
    Ok(target)
}

/// What the builder's own machine left in it goes; what must not start is masked.
fn finish(root: &Path) -> Result<()> {
    fs::write(root.join("etc/machine-id"), "").context("empty the machine id")?;
    for name in ["etc/hostname", "etc/resolv.conf"] {
        drop(fs::remove_file(root.join(name)));
    }
    fs::write(root.join(CLOUD_INIT_OFF), "").context("switch cloud-init off")?;
    // Without it cloud-init wants to generate a locale, and fails.
    fs::write(root.join("etc/default/locale"), "LANG=C.UTF-8\n").context("set the locale")?;
    for unit in MASKED {
        let link = root.join("etc/systemd/system").join(unit);
        drop(fs::remove_file(&link));
        symlink("/dev/null", &link).with_context(|| format!("mask {unit}"))?;
    }
    Ok(())
}

/// The machine's own apt may know a proxy; mmdebstrap does not ask it.
fn proxy_options() -> Vec<String> {
    let Ok(text) = Run::new("apt-config").args(["dump", "Acquire"]).ok() else { return Vec::new() };
    let proxies = text.lines().filter(|line| line.to_ascii_lowercase().contains("::proxy \""));
    proxies.map(|line| line.trim_end_matches(';').to_owned()).collect()
}

/// FNV-1a over all that decides what is built: stable from run to run and from release to release.
fn key() -> u64 {
    let text = format!("{RECIPE} {SUITE} {} {}", PACKAGES.join(" "), MASKED.join(" "));
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
