//! Bad input that lies in the host: a taken port, no route, a bad name, a disk that takes nothing.
//!
//! Each is one machine that would be a cluster of its own: it names what is wrong, and goes on when that is gone.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::context::Context;
use crate::host::Host;
use crate::lab::Lab;
use crate::rules::{self, Complaint};

/// Boots one machine without its agent, breaks it, starts the agent, hears the complaint, mends, and sees it serve.
pub(super) fn one(
    ctx: &mut Context,
    complaint: &Complaint,
    spoil: impl FnOnce(&Lab, &Host) -> Result<()>,
    mend: impl FnOnce(&Lab, &Host) -> Result<()>,
) -> Result<()> {
    let mut spec = ctx.spec(1, 1);
    spec.enabled = false;
    let lab = ctx.lab(&spec)?;
    let host = &lab.hosts[0];
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(30))?;
    spoil(&lab, host).context("break the host")?;
    host.shell("systemctl start --no-block muster.service")?;
    ctx.complains(host, complaint, 30)?;
    let began = std::time::Instant::now();
    mend(&lab, host).context("mend the host")?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ctx.fact_seconds("serving_after_mending_seconds", began);
    Ok(())
}

fn taken(ctx: &mut Context, complaint: &Complaint, listen: &str, port: u16) -> Result<()> {
    // The unit counts as started before its program has bound the port.
    let block = format!(
        "systemd-run --quiet --unit=blocker socat -u {listen} OPEN:/dev/null
         for i in $(seq 100); do ss -lntu | grep -q ':{port} ' && exit 0; sleep 0.1; done; exit 1"
    );
    one(
        ctx,
        complaint,
        |_, host| host.shell(&block).map(drop),
        |_, host| host.shell("systemctl stop blocker.service").map(drop),
    )
}

pub(super) fn api_port(ctx: &mut Context) -> Result<()> {
    taken(ctx, &rules::API_PORT, "TCP-LISTEN:6443,fork,reuseaddr", 6443)
}

pub(super) fn gossip_port(ctx: &mut Context) -> Result<()> {
    taken(ctx, &rules::GOSSIP_PORT, "UDP-RECV:7846", 7846)
}

pub(super) fn no_default_route(ctx: &mut Context) -> Result<()> {
    one(
        ctx,
        &rules::NO_ROUTE,
        |lab, host| lab.net().default_route(host.index, false),
        |lab, host| lab.net().default_route(host.index, true),
    )
}

pub(super) fn host_name(ctx: &mut Context) -> Result<()> {
    let rename = |host: &Host, name: &str| -> Result<()> {
        host.write("/etc/hostname", format!("{name}\n"))?;
        host.shell(&format!("hostname {name}")).map(drop)
    };
    one(ctx, &rules::HOST_NAME, |_, host| rename(host, "localhost"), |_, host| rename(host, "node1"))
}

pub(super) fn read_only_state(ctx: &mut Context) -> Result<()> {
    one(
        ctx,
        &rules::READ_ONLY,
        |_, host| {
            let mount =
                "mkdir -p /var/lib/muster && mount -t tmpfs -o mode=0700,size=8m tmpfs /var/lib/muster";
            // As after an error of the disk: the file system is read-only, the mount is not. A read-only mount would be
            // copied into the agent's own mount namespace and stay there.
            let ro = "mount -o remount,ro /var/lib/muster && mount -o remount,bind,rw /var/lib/muster";
            host.shell(&format!("{mount} && {ro}")).map(drop)
        },
        |_, host| host.shell("mount -o remount,rw /var/lib/muster").map(drop),
    )
}

pub(super) fn full_state(ctx: &mut Context) -> Result<()> {
    one(
        ctx,
        &rules::FULL,
        |_, host| {
            let mount =
                "mkdir -p /var/lib/muster && mount -t tmpfs -o mode=0700,size=256k tmpfs /var/lib/muster";
            // dd ends with an error: that is what a full disk is.
            host.shell(&format!(
                "{mount} && dd if=/dev/zero of=/var/lib/muster/ballast bs=4k 2>/dev/null; true"
            ))
            .map(drop)
        },
        |_, host| host.shell("rm /var/lib/muster/ballast").map(drop),
    )
}
