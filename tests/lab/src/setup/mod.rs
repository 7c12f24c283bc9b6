//! Everything a lab needs on a fresh machine: packages, binaries, a root file system, the layer common to all hosts.

pub mod binaries;
pub mod layer;
pub mod packages;
pub mod rootfs;

use anyhow::{Result, bail};

/// Who is told what the set-up does.
pub type Tell<'a> = &'a (dyn Fn(&str) + Sync);

/// Refuses to go on without root, in one line.
///
/// # Errors
/// The effective user is not root.
pub fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and boots systemd hosts: run it as root");
    }
    Ok(())
}
