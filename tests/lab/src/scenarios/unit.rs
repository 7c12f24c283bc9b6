//! The unit itself, on a host with a real systemd: a token that it hands on as a credential, and an agent that hangs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::context::Context;
use super::first_boot::replaced;
use super::packages::pid;
use crate::conf;

/// The place for a token that no file of Muster's configuration names.
const CREDENTIAL: &str = "/etc/credstore/muster.token";

/// The token lies in systemd's store of credentials alone, for root alone.
pub(super) fn credential(ctx: &mut Context) -> Result<()> {
    let spec = ctx.spec(1, 1);
    let lab = ctx.lab(&spec)?;
    let host = &lab.hosts[0];
    let text = replaced(&spec.conf.render(), &format!("token-file = \"{}\"\n", conf::TOKEN_FILE), "")?;
    host.write(conf::CONFIG_FILE, text)?;
    let token = host.read(conf::TOKEN_FILE).context("the token of the lab")?;
    fs::remove_file(host.path(conf::TOKEN_FILE)).context("remove the token's file")?;
    host.write_mode(CREDENTIAL, token, 0o400)?;
    fs::set_permissions(host.path("/etc/credstore"), Permissions::from_mode(0o700))
        .context("close its directory")?;
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    // A machine alone makes a token of its own where it is given none: then the credential did not arrive.
    for file in [conf::TOKEN_FILE, "/var/lib/muster/token"] {
        ensure!(!host.path(file).exists(), "the token came from {file}");
    }
    host.reboot()?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    Ok(())
}

/// An agent that hangs is ended and started again by systemd's watchdog, beside a k3s that does not notice.
pub(super) fn watchdog(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(1, 1))?;
    let host = &lab.hosts[0];
    // As shipped it is minutes: a test has no time for that.
    host.write("/etc/systemd/system/muster.service.d/10-watchdog.conf", "[Service]\nWatchdogSec=10s\n")?;
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    let (agent, k3s) = (pid(host, "muster.service")?, pid(host, "k3s.service")?);
    ensure!(agent != "0" && k3s != "0", "agent {agent}, k3s {k3s}: one does not run");
    // An agent that is well is left alone for longer than that.
    let began = Instant::now();
    ctx.until("twice the watchdog's time has passed", 30, || {
        Ok((began.elapsed().as_secs() >= 20).then_some(()))
    })?;
    ensure!(pid(host, "muster.service")? == agent, "the watchdog ended an agent that was well");
    let began = Instant::now();
    host.shell(&format!("kill -STOP {agent}"))?;
    ctx.until("systemd starts another agent", 60, || {
        let now = pid(host, "muster.service")?;
        Ok((now != "0" && now != agent).then_some(()))
    })?;
    ctx.fact_seconds("restarted_seconds", began);
    let log = host.journal(Some("muster.service"), &[])?;
    ensure!(log.contains("Watchdog timeout"), "it was not the watchdog: {log}");
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    let after = pid(host, "k3s.service")?;
    ensure!(after == k3s, "k3s was started anew with the agent: {k3s}, then {after}");
    Ok(())
}
