//! Healing that takes minutes: whole rounds of replacements, healers that are killed, links that come and go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::Rng;

use super::context::{Context, without};
use super::heal::{FILLED, NOTICED, add, formed, role, up, voters};
use super::heal_shape::kubectl;
use crate::faults::{Fault, Kind};
use crate::host::Host;
use crate::wait;

/// After so long etcd's leader removes a learner that made no progress, with some time to notice.
const LEARNER: u64 = 360;
/// Rounds of replacing every server.
const ROUNDS: usize = 3;

pub(super) fn rolling(ctx: &mut Context) -> Result<()> {
    // As a group of machines that come and go is configured: no address is worth naming, the network is swept.
    let mut spec = ctx.spec(3, 3);
    spec.conf.seeds.clear();
    let mut lab = formed(ctx, &spec)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let mut living = lab.hosts.clone();
    let (mut next, mut took) = (4_u8, Vec::new());
    for _ in 0..ROUNDS {
        for old in living.clone() {
            let began = Instant::now();
            old.power_cut()?;
            let fresh = add(ctx, &mut lab, next)?;
            next += 1;
            fresh.start()?;
            living.retain(|host| host.index != old.index);
            living.push(fresh.clone());
            let full = |names: &[String]| {
                names.len() == 3 && names.contains(&fresh.name) && !names.contains(&old.name)
            };
            let what = format!("{} votes in the place of {}", fresh.name, old.name);
            voters(ctx, &living, &full, &what, NOTICED + FILLED)?;
            ctx.formed(&lab, &living, 3, 60)?;
            took.push((began.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        }
    }
    ctx.fact("replacements_seconds", took);
    ensure!(ctx.certificate(&living)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

pub(super) fn healer_killed(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 5, 3)?;
    let dead = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &dead);
    let began = Instant::now();
    dead.power_cut()?;
    let mut kills = 0;
    // Their service managers start them again two seconds later; nobody is spared for a minute and a half.
    while began.elapsed() < Duration::from_secs(90) {
        let pause = Duration::from_millis(ctx.dice.random_range(1_500..6_000));
        std::thread::sleep(pause);
        ctx.unbroken()?;
        let servers: Vec<&Host> = rest.iter().filter(|host| role(host) == "server").collect();
        if !servers.is_empty() {
            let one = servers[ctx.dice.random_range(0..servers.len())];
            drop(one.shell("systemctl kill -s KILL muster.service"));
            kills += 1;
        }
    }
    ctx.fact("kills", kills);
    let full = |names: &[String]| names.len() == 3 && !names.contains(&dead.name);
    voters(ctx, &rest, &full, "a spare votes in its place", NOTICED + FILLED)?;
    ctx.formed(&lab, &rest, 3, 60)?;
    ctx.fact_seconds("healed_seconds", began);
    let nodes = rest
        .iter()
        .find_map(|host| host.shell("kubectl get nodes -o json").ok())
        .context("no API answers")?;
    ctx.until("nobody is left cordoned", 60, || {
        Ok((!nodes.contains("muster.internal/cordoned")).then_some(()))
    })?;
    Ok(())
}

pub(super) fn five_lose_two(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 6, 5)?;
    let mut servers = lab.hosts.iter().filter(|host| role(host) == "server");
    let dead = [servers.next().context("no server")?.clone(), servers.next().context("one server")?.clone()];
    let rest: Vec<Host> =
        lab.hosts.iter().filter(|host| dead.iter().all(|dead| dead.index != host.index)).cloned().collect();
    for host in &dead {
        host.power_cut()?;
    }
    let began = Instant::now();
    // etcd takes nobody in while a member does not answer: both are out before the spare can come.
    let spare = |names: &[String]| names.len() == 4 && rest.iter().all(|host| names.contains(&host.name));
    voters(ctx, &rest, &spare, "both are removed, and the spare votes", NOTICED + FILLED)?;
    ctx.fact_seconds("replaced_seconds", began);
    let said = ctx.until("somebody says `servers-missing`", 60, || {
        let why = rest.iter().filter_map(Host::status).flat_map(|status| status.why);
        Ok(why.into_iter().find(|why| why.rule == "servers-missing"))
    })?;
    ctx.fact("line", format!("{}: {}", said.rule, said.detail));
    for host in &dead {
        host.start()?;
    }
    ctx.formed(&lab, &lab.hosts, 5, 150)?;
    Ok(())
}

pub(super) fn flapping(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let one = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let others: Vec<u8> =
        lab.hosts.iter().map(|host| host.index).filter(|index| *index != one.index).collect();
    let cut: Vec<Fault> = others
        .iter()
        .flat_map(|other| [(one.index, *other), (*other, one.index)])
        .map(|(from, to)| Fault { from, to, kind: Kind::Cut })
        .collect();
    let rest = without(&lab, &one);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(90) {
        lab.set_faults(&cut)?;
        std::thread::sleep(Duration::from_millis(ctx.dice.random_range(2_000..9_000)));
        lab.heal()?;
        std::thread::sleep(Duration::from_millis(ctx.dice.random_range(2_000..6_000)));
        ctx.unbroken()?;
    }
    let kept = |names: &[String]| names.len() == 3 && names.contains(&one.name);
    voters(ctx, &rest, &kept, "it is still a member", 60)?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ensure!(role(&one) == "server", "{} is `{}` now", one.name, role(&one));
    Ok(())
}

pub(super) fn asymmetric(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let one = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &one);
    let mute: Vec<Fault> =
        rest.iter().map(|host| Fault { from: one.index, to: host.index, kind: Kind::Cut }).collect();
    lab.set_faults(&mute)?;
    let began = Instant::now();
    let full = |names: &[String]| names.len() == 3 && !names.contains(&one.name);
    voters(ctx, &rest, &full, "a spare votes in its place", NOTICED + FILLED)?;
    ctx.fact_seconds("replaced_seconds", began);
    lab.heal()?;
    let began = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 150)?;
    ctx.fact_seconds("returned_seconds", began);
    ensure!(role(&one) == "agent", "{} came back as {}", one.name, role(&one));
    Ok(())
}

pub(super) fn imaged_anew(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 3, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let one = lab.hosts[1].clone();
    one.wipe()?;
    one.write(crate::conf::DROP_IN, super::heal::quick(&ctx.spec(1, 1).conf.kubelet_args))?;
    let began = Instant::now();
    one.start()?;
    ctx.formed(&lab, &lab.hosts, 3, 150)?;
    ctx.fact_seconds("healed_seconds", began);
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

/// The spare that would be chosen has no room for a server: its k3s never comes up as one.
pub(super) fn spare_fails(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 5, 3)?;
    let mut spares: Vec<Host> = lab.hosts.iter().filter(|host| role(host) == "agent").cloned().collect();
    spares.sort_by_key(|host| host.status().map(|status| status.node.id));
    let (bad, good) = (spares[0].clone(), spares[1].clone());
    // Its etcd's port is another program's: k3s starts again and again.
    bad.shell("systemd-run --unit=squatter python3 -c 'import socket,time; s=socket.socket(); s.bind((\"0.0.0.0\",2380)); s.listen(); time.sleep(9999)' || systemd-run --unit=squatter perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalPort => 2380, Listen => 5); sleep 9999'")?;
    let dead = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &dead);
    dead.power_cut()?;
    let began = Instant::now();
    let full =
        |names: &[String]| names.len() == 3 && names.contains(&good.name) && !names.contains(&bad.name);
    voters(ctx, &rest, &full, "the other spare votes in its place", NOTICED + LEARNER + 2 * FILLED + 60)?;
    ctx.fact_seconds("replaced_seconds", began);
    bad.shell("systemctl stop squatter")?;
    wait::until("the failed spare is an agent again", ctx.limit(120), Duration::from_secs(1), || {
        let status = bad.status().unwrap_or_default();
        Ok((status.phase == "serving" && status.node.role == "agent").then_some(()))
    })?;
    Ok(())
}

/// After so long a deletion that does not end counts as stuck, beyond the grace.
const STUCK: u64 = 60;

pub(super) fn odd_nodes(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 5, 3)?;
    let mut rest = lab.hosts.clone();
    for (what, verb, changes, more) in [
        // k3s does not know it for a server, and keeps its member when the Node goes.
        (
            "unlabelled",
            "label",
            "node-role.kubernetes.io/etcd- node-role.kubernetes.io/control-plane- node-role.kubernetes.io/master-",
            0,
        ),
        // k3s needs this to remove the member, and tries for ever: the Node's deletion does not end.
        ("stuck", "annotate", "etcd.k3s.cattle.io/node-name-", STUCK),
    ] {
        let dead = rest.iter().find(|host| role(host) == "server").context("no server")?.clone();
        rest.retain(|host| host.index != dead.index);
        let began = Instant::now();
        dead.power_cut()?;
        // The dead one may have led etcd: until another does, nothing is written.
        let line = format!("k3s kubectl {verb} node {} {changes}", dead.name);
        ctx.until("its Node is changed", 60, || Ok(kubectl(&rest, &line).is_ok().then_some(())))?;
        let full = |names: &[String]| names.len() == 3 && !names.contains(&dead.name);
        let said = format!("{} ({what}) is removed, and a spare votes in its place", dead.name);
        voters(ctx, &rest, &full, &said, NOTICED + more + FILLED)?;
        ctx.fact_seconds(&format!("{what}_replaced_seconds"), began);
        ctx.formed(&lab, &rest, 3, 60)?;
        let told = format!("remove-member.*{0}|{0}.*remove-member", dead.name);
        let log = format!("muster log --output json | grep -qE '{told}'");
        let logged = rest.iter().any(|host| host.shell(&log).is_ok());
        ensure!(logged, "no decision log tells that etcd was told to remove {}", dead.name);
    }
    Ok(())
}
