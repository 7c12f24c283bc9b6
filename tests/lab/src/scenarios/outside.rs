//! Hosts that must stay outside: another token, other parameters.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::context::Context;
use crate::conf;
use crate::host::Host;
use crate::lab::Lab;
use crate::rules;
use crate::setup::layer;
use crate::status::Why;

pub(super) fn wrong_token(ctx: &mut Context) -> Result<()> {
    let mut lab = ctx.lab(&ctx.spec(3, 3))?;
    let stranger = ctx.add_host(&mut lab, 4, "node4")?;
    stranger.write_mode(conf::TOKEN_FILE, format!("{}\n", layer::token()), 0o600)?;
    lab.start(&lab.hosts)?;
    let members = &lab.hosts[..3];
    ctx.formed(&lab, members, 3, 90)?;
    let why = ctx.says(&stranger, rules::NO_PEER, 30)?;
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    let dropped = |host: &Host| host.status().map_or(0, |status| status.gossip.dropped_unopened);
    // Whom the stranger asks is its own choice: together they must see it knocking, and count it.
    let total = || members.iter().map(dropped).sum::<u64>();
    let before = total();
    let after = ctx.until("the members count more of the stranger's datagrams", 60, || {
        let now = total();
        Ok((now > before).then_some(now))
    })?;
    ctx.fact("dropped_unopened", after);
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(5) {
        let status = stranger.status().unwrap_or_default();
        ensure!(status.certificate.is_none(), "the stranger holds a certificate");
        ensure!(status.says(rules::NO_PEER), "the stranger no longer says `{}`", rules::NO_PEER);
        let known =
            members.iter().filter_map(Host::status).any(|s| s.peers.iter().any(|p| p.name == "node4"));
        ensure!(!known, "a member knows the stranger");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

pub(super) fn different_parameters(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(3, 3))?;
    let odd = &lab.hosts[2];
    odd.write(conf::DROP_IN, "servers = 5\n")?;
    lab.start(&lab.hosts)?;
    differ(ctx, &lab, "servers", rules::SERVERS_KEYS, ["3", "5"])?;
    odd.write(conf::DROP_IN, "[k3s]\ncluster-cidr = \"10.52.0.0/16\"\n")?;
    odd.shell("systemctl restart --no-block muster.service")?;
    differ(ctx, &lab, "cluster_cidr", &["cluster-cidr"], ["10.42.0.0/16", "10.52.0.0/16"])?;
    odd.unlink(conf::DROP_IN);
    odd.shell("systemctl restart --no-block muster.service")?;
    let mended = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("formed_after_mending_seconds", mended);
    Ok(())
}

/// Every host, on both sides, names the key and both values, and nobody votes meanwhile.
fn differ(ctx: &mut Context, lab: &Lab, fact: &str, keys: &[&str], values: [&str; 2]) -> Result<()> {
    let began = Instant::now();
    for host in &lab.hosts {
        let what = format!("{} says `{}` with one of {keys:?} and {values:?}", host.name, rules::PARAMETERS);
        let why = ctx.until(&what, 45, || {
            let fits =
                |why: &Why| why.rule == rules::PARAMETERS && keys.iter().any(|key| why.detail.contains(key));
            let both = |why: &Why| values.iter().all(|value| why.detail.contains(value));
            let status = host.status().unwrap_or_default();
            Ok(status.why.into_iter().find(|why| fits(why) && both(why)))
        })?;
        ctx.fact(&format!("line_{fact}_{}", host.name), why.detail);
    }
    ctx.fact_seconds(&format!("{fact}_said_after_seconds"), began);
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(4) {
        for host in &lab.hosts {
            ensure!(host.certificate().is_none(), "{} holds a certificate: somebody voted", host.name);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
