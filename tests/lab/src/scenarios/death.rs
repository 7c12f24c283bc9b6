//! Hosts that die, lose their disks, and come back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::Rng;
use rand::seq::SliceRandom;

use super::context::{CLOSELY, Context, founder, without};
use crate::host::Host;
use crate::rules;

const DATA: &str = "/var/lib/rancher/k3s";

/// The founder dies as soon as its configuration is armed: with luck, with nothing on its disk yet.
pub(super) fn at_once(ctx: &mut Context) -> Result<()> {
    before(ctx, Host::armed).map(drop)
}

/// The founder dies when its provisional cluster is on its disk.
pub(super) fn before_choice(ctx: &mut Context) -> Result<()> {
    let dead = before(ctx, |host| host.path(&format!("{DATA}/server/db/etcd/member")).exists())?;
    let said = dead.journal(Some("muster.service"), &[])?;
    ensure!(said.contains(rules::DISCARDED), "{} never said `{}`", dead.name, rules::DISCARDED);
    let beside = std::fs::read_dir(dead.path("/var/lib/rancher")).context("read /var/lib/rancher")?;
    let names: Vec<String> =
        beside.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    ensure!(names.iter().any(|name| name.contains("discarded")), "nothing was moved aside: {names:?}");
    Ok(())
}

/// Kills the founder at some moment before the certificate is chosen, lets the rest form a cluster, and brings it back.
fn before(ctx: &mut Context, moment: impl Fn(&Host) -> bool) -> Result<Host> {
    let lab = ctx.up(5, 3)?;
    let began = Instant::now();
    let dead = ctx.until_every(CLOSELY, "a host is founding and no certificate exists", 60, || {
        ensure!(
            lab.hosts.iter().all(|host| host.certificate().is_none()),
            "chosen before the founder could die"
        );
        Ok(lab.hosts.iter().find(|host| phase(host) == "founding" && moment(host)).cloned())
    })?;
    dead.power_cut()?;
    ctx.fact("dead", dead.name.clone());
    ctx.fact_seconds("killed_after_seconds", began);
    let rest = without(&lab, &dead);
    ensure!(rest.iter().all(|host| host.certificate().is_none()), "the certificate was chosen meanwhile");
    let killed = Instant::now();
    ctx.formed(&lab, &rest, 3, 120)?;
    ctx.fact_seconds("formed_without_it_seconds", killed);
    let certificate = ctx.certificate(&rest)?;
    let founder = founder(&lab, &certificate)?;
    ensure!(founder.index != dead.index, "the dead host is named as the founder");
    ctx.fact("founder", founder.name);
    ctx.fact("armed", dead.armed());
    ctx.fact("provisional_data", dead.path(&format!("{DATA}/server/db")).exists());
    let began = Instant::now();
    dead.start()?;
    joins(ctx, &dead, 90, false)?;
    ensure!(!dead.armed(), "{} is still configured to found a cluster", dead.name);
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("returned_seconds", began);
    let now = ctx.certificate(&lab.hosts)?;
    ensure!(now.identity() == certificate.identity(), "the certificate changed when the dead host returned");
    Ok(dead)
}

pub(super) fn after_choice(ctx: &mut Context) -> Result<()> {
    let lab = ctx.up(5, 3)?;
    let certificate = ctx.until_every(CLOSELY, "a certificate appears anywhere", 90, || {
        Ok(lab.hosts.iter().find_map(Host::certificate))
    })?;
    let dead = founder(&lab, &certificate)?;
    dead.power_cut()?;
    ctx.fact("dead", dead.name.clone());
    let rest = without(&lab, &dead);
    let silent = Instant::now();
    // Everybody names the silent founder, or the server whose join comes first and who names it.
    let said = ctx.until(&format!("all others say `{}`", rules::FOUNDER_SILENT), 60, || {
        let says = |host: &Host, rule: &str| host.status().is_some_and(|status| status.says(rule));
        let silent = rest.iter().filter(|host| says(host, rules::FOUNDER_SILENT)).count();
        let queued = rest.iter().filter(|host| says(host, rules::SERIALISED)).count();
        Ok((silent + queued >= rest.len() && queued <= 1).then(|| rest.iter().find_map(Host::status)))
    })?;
    ctx.fact("line", said.map(|status| status.headline()).unwrap_or_default());
    ctx.fact_seconds("said_after_seconds", silent);
    // They go on waiting: nobody founds while the founder is away.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(8) {
        ctx.unbroken()?;
        for host in &rest {
            ensure!(phase(host) != "founding", "{} founds while the founder is away", host.name);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    dead.start()?;
    let began = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ctx.fact_seconds("formed_after_return_seconds", began);
    let now = ctx.certificate(&lab.hosts)?;
    ensure!(now.identity() == certificate.identity(), "another certificate than the one that was chosen");
    Ok(())
}

pub(super) fn wiped(ctx: &mut Context) -> Result<()> {
    let lab = ctx.up(5, 3)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let host = founder(&lab, &certificate)?;
    ctx.fact("wiped", host.name.clone());
    host.wipe()?;
    let began = Instant::now();
    host.start()?;
    joins(ctx, &host, 120, true)?;
    ctx.fact_seconds("joined_seconds", began);
    let status = host.status().context("the wiped host does not speak")?;
    ensure!(status.node.id != certificate.founder, "the wiped host kept the founder's identity");
    ctx.fact("role", status.node.role);
    let now = ctx.certificate(&lab.hosts)?;
    ensure!(now.identity() == certificate.identity(), "the certificate changed when the founder was wiped");
    Ok(())
}

/// Waits until a host serves. `never_founds`: it may not even begin to found on its way; else it may go on with its
/// provisional cluster until it has heard of the certificate.
fn joins(ctx: &Context, host: &Host, seconds: u64, never_founds: bool) -> Result<()> {
    let what = format!("{} serves", host.name);
    ctx.until_every(Duration::from_millis(50), &what, seconds, || {
        let status = host.status().unwrap_or_default();
        let founds = status.phase == "founding" && (never_founds || status.certificate.is_some());
        ensure!(!founds, "{} founds again", host.name);
        ensure!(!(never_founds && host.armed()), "{} is configured to found a cluster", host.name);
        let done = status.phase == "serving" && status.k3s.ready == Some(true);
        Ok(done.then_some(()))
    })
}

pub(super) fn power_cut(ctx: &mut Context) -> Result<()> {
    let lab = ctx.up(5, 3)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    let before = ctx.certificate(&lab.hosts)?;
    crate::lab::all(&lab.hosts, Host::power_cut)?;
    let mut order = lab.hosts.clone();
    order.shuffle(&mut ctx.dice);
    ctx.fact("order", order.iter().map(|host| host.name.clone()).collect::<Vec<_>>());
    let began = Instant::now();
    for host in &order {
        host.start()?;
        let pause = Duration::from_millis(ctx.dice.random_range(0..2500));
        std::thread::sleep(pause);
    }
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ctx.fact_seconds("formed_again_seconds", began);
    let after = ctx.certificate(&lab.hosts)?;
    ensure!(after.identity() == before.identity(), "another certificate after the power cut");
    ensure!(lab.hosts.iter().all(|host| !host.armed()), "a host is configured to found a cluster");
    Ok(())
}

fn phase(host: &Host) -> String {
    host.status().map(|status| status.phase).unwrap_or_default()
}
