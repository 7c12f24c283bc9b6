//! Clusters whose quorum is gone for good: what `muster recover` makes of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::context::Context;
use super::heal::{FILLED, NOTICED, add, role, up, voters};
use crate::faults;
use crate::host::Host;
use crate::lab::Lab;
use crate::probe;

/// Longer than the grace of these scenarios and what follows it.
const FROZEN: Duration = Duration::from_secs(25);

/// A host that runs as a server, and those that run as such beside it.
fn one_and_others(lab: &Lab) -> Result<(Host, Vec<Host>)> {
    let servers: Vec<Host> = lab.hosts.iter().filter(|host| role(host) == "server").cloned().collect();
    let (one, others) = servers.split_last().context("no server")?;
    ensure!(others.len() == 2, "{} servers besides {}", others.len(), one.name);
    Ok((one.clone(), others.to_vec()))
}

fn only(host: &Host) -> impl Fn(&[String]) -> bool + '_ {
    move |names| names == [host.name.clone()]
}

/// Makes this host the survivor, and waits until it is a cluster of one and says that it serves.
fn recover(ctx: &mut Context, survivor: &Host, words: &str) -> Result<()> {
    ctx.says(survivor, "quorum-lost", 60)?;
    let began = Instant::now();
    survivor.shell(&format!("muster recover {words} --survivor {} --reason lab --yes", survivor.name))?;
    let members = |names: &[String]| names.contains(&survivor.name) && names.len() < 3;
    voters(ctx, std::slice::from_ref(survivor), &members, "etcd is reset", 90)?;
    ctx.until("the survivor serves", 90, || {
        Ok(survivor.status().is_some_and(|status| status.phase == "serving").then_some(()))
    })?;
    ctx.fact_seconds("recovered_seconds", began);
    Ok(())
}

/// Two of three servers are destroyed; one of their disks turns up later.
pub(super) fn recovered(ctx: &mut Context) -> Result<()> {
    let mut lab = up(ctx, 4, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let (survivor, destroyed) = one_and_others(&lab)?;
    // While the cluster serves there is nothing to recover.
    let all = format!("--destroyed {},{}", destroyed[0].name, destroyed[1].name);
    let ask = |words: &str| {
        let line = format!("muster recover {words} --survivor {} --yes; true", survivor.name);
        survivor.shell(&line)
    };
    let said = ask(&all)?;
    ensure!(said.contains("the quorum is not lost"), "{said}");
    survivor.shell("mkdir -p /var/lib/rancher/k3s/server/db/snapshots && echo kept > /var/lib/rancher/k3s/server/db/snapshots/one")?;
    for host in &destroyed {
        host.power_cut()?;
    }
    ctx.says(&survivor, "quorum-lost", 60)?;
    let said = ask("")?;
    ensure!(said.contains("--although-they-may-return"), "{said}");
    recover(ctx, &survivor, &all)?;
    ensure!(
        survivor.read("/var/lib/rancher/k3s-recovery-1/snapshots/one").is_some_and(|text| text == b"kept\n"),
        "the snapshot was not copied aside"
    );
    let began = Instant::now();
    let fresh = add(ctx, &mut lab, 5)?;
    fresh.start()?;
    let living: Vec<Host> = lab
        .hosts
        .iter()
        .filter(|host| !destroyed.iter().any(|one| one.index == host.index))
        .cloned()
        .collect();
    let full =
        |names: &[String]| names.len() == 3 && destroyed.iter().all(|host| !names.contains(&host.name));
    voters(ctx, &living, &full, "three voters again", 120)?;
    ctx.fact_seconds("three_voters_seconds", began);
    // What was given up keeps its Node until a person removes it.
    for host in &destroyed {
        survivor.shell(&format!("kubectl delete node {}", host.name))?;
    }
    let began = Instant::now();
    let old = &destroyed[0];
    old.start()?;
    let all: Vec<Host> = living.iter().chain([old]).cloned().collect();
    ctx.formed(&lab, &all, 3, 150)?;
    ctx.fact_seconds("old_disk_rejoined_seconds", began);
    // Server or agent: whichever place was free when it came.
    ctx.fact("old_disk_role", role(old));
    ensure!(ctx.certificate(&all)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

/// Both old servers return together, and hear nothing of the recovery for a while.
pub(super) fn old_pair(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 3, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let (survivor, old) = one_and_others(&lab)?;
    for host in &old {
        host.power_cut()?;
    }
    recover(ctx, &survivor, "--although-they-may-return")?;
    voters(ctx, std::slice::from_ref(&survivor), &only(&survivor), "it is the only member", 30)?;
    let groups = [vec![survivor.index], old.iter().map(|host| host.index).collect()];
    lab.set_faults(&faults::partition(&groups))?;
    for host in &old {
        host.start()?;
    }
    // The window that the documentation names: a majority of the old servers that hears nothing serves the old cluster.
    ctx.until("the old pair serves, unheard", 90, || {
        let serves = |host: &Host| host.status().is_some_and(|status| status.phase == "serving");
        Ok(old.iter().all(serves).then_some(()))
    })?;
    let began = Instant::now();
    lab.heal()?;
    ctx.until("the old pair gave up", 60, || {
        // One may be back as a new node before the other has heard.
        let gave_up = |host: &Host| host.path("/var/lib/rancher/k3s-discarded-1").exists();
        Ok(old.iter().all(gave_up).then_some(()))
    })?;
    ctx.fact_seconds("old_pair_gave_up_seconds", began);
    ctx.formed(&lab, &lab.hosts, 3, 180)?;
    ctx.fact_seconds("three_voters_seconds", began);
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

/// One server is cut off and replaced, and somebody who knows k3s resets its etcd by hand: two clusters under one certificate, which
/// meet again. While the others still list it, etcd itself makes one of both again (docs/healing.md).
pub(super) fn split(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let (one, _) = one_and_others(&lab)?;
    let rest: Vec<Host> = lab.hosts.iter().filter(|host| host.index != one.index).cloned().collect();
    let groups = [vec![one.index], rest.iter().map(|host| host.index).collect()];
    lab.set_faults(&faults::partition(&groups))?;
    ctx.says(&one, "quorum-lost", 60)?;
    let replaced = |names: &[String]| names.len() == 3 && !names.contains(&one.name);
    voters(ctx, &rest, &replaced, "the others replace the server that is cut off", NOTICED + FILLED)?;
    one.shell(
        "systemctl stop muster k3s && grep -v ^server: /etc/rancher/k3s/config.yaml >/root/reset.yaml && chmod 600 /root/reset.yaml \
         && { k3s server --cluster-reset --config /root/reset.yaml >/root/reset.log 2>&1; \
         grep -q 'Managed etcd cluster membership has been reset' /root/reset.log; } && systemctl start muster",
    )?;
    voters(
        ctx,
        std::slice::from_ref(&one),
        &only(&one),
        "the server that was reset is a cluster of its own",
        90,
    )?;
    lab.heal()?;
    let began = Instant::now();
    let servers: Vec<&Host> = lab.hosts.iter().filter(|host| role(host) == "server").collect();
    ensure!(servers.len() == 4, "{} servers on both sides", servers.len());
    for host in &servers {
        let why = ctx.says(host, "members-split", 90)?;
        ensure!(host.shell("muster health --ready").is_err(), "{} calls itself ready", host.name);
        ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    }
    ctx.fact_seconds("split_said_seconds", began);
    // For longer than a dead server is given: the sides stay as they are.
    std::thread::sleep(FROZEN);
    ensure!(probe::members(&one)?.voting_nodes() == [one.name.clone()], "the side that goes was changed");
    let stays = rest.iter().find(|host| role(host) == "server").context("no server stays")?;
    ensure!(replaced(&probe::members(stays)?.voting_nodes()), "the side that stays was changed");
    let shown = one.shell(&format!("muster fold --into {}; true", stays.name))?;
    ensure!(shown.contains("namespaces") && shown.contains("Nothing was done"), "{shown}");
    let began = Instant::now();
    one.shell(&format!("muster fold --into {} --yes", stays.name))?;
    ctx.until("what the server that goes over had is moved aside", 60, || {
        Ok(one.path("/var/lib/rancher/k3s-discarded-1").exists().then_some(()))
    })?;
    ctx.formed(&lab, &lab.hosts, 3, 180)?;
    ctx.fact_seconds("folded_seconds", began);
    ensure!(role(&one) == "agent", "{} is {}, and the servers are complete", one.name, role(&one));
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}
