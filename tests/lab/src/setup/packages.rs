//! The Debian packages that the lab needs on this machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Tell;
use crate::run::Run;

/// Package, and a program that shows that it is there.
const NEEDED: [(&str, &str); 8] = [
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-container", "systemd-nspawn"),
    ("nftables", "nft"),
    ("iproute2", "ip"),
    ("util-linux", "nsenter"),
    ("procps", "kill"),
    ("curl", "curl"),
    ("dnsmasq-base", "dnsmasq"),
];

/// Installs the packages that are missing.
///
/// # Errors
/// Something is missing and there is no apt, or apt fails.
pub fn ensure(tell: Tell) -> Result<()> {
    also(&NEEDED, tell)
}

/// The same for other packages, each with a program that shows that it is there.
///
/// # Errors
/// As [`ensure`].
pub fn also(needed: &[(&str, &str)], tell: Tell) -> Result<()> {
    let missing: Vec<&str> =
        needed.iter().filter(|(_, program)| !on_path(program)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !on_path("apt-get") {
        bail!("missing: {}; there is no apt-get here, so install them by hand", missing.join(", "));
    }
    tell(&format!("packages: apt-get install {}", missing.join(" ")));
    let apt = |args: &[&str]| {
        let run = Run::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args);
        run.within(Duration::from_secs(900)).ok()
    };
    // Lists may be old or absent on a fresh machine, and one dead third-party source must not stop us here:
    // the install that follows tells whether what we need can be had.
    drop(apt(&["-qq", "update"]));
    apt(&[
        &["-qq", "-y", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends", "install"],
        missing.as_slice(),
    ]
    .concat())
    .context("install the packages that the lab needs")?;
    match needed.iter().find(|(_, program)| !on_path(program)) {
        Some((package, program)) => bail!("{package} is installed, but there is no `{program}` on the path"),
        None => Ok(()),
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|dir| Path::new(dir).join(program));
    std::env::split_paths(&path).map(|dir| dir.join(program)).chain(system).any(|file| file.is_file())
}
