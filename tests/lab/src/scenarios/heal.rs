//! Clusters that lose servers and get them back, or others in their place.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::context::{Context, founder, without};
use crate::conf;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::probe;

/// What the scenarios set, so that they measure the remedy and not the patience: the shortest grace that is allowed, and a
/// Kubernetes that calls a silent Node not Ready after 20 s instead of 50.
pub(crate) fn quick(kubelet_args: &[String]) -> String {
    let list = |values: &[String]| serde_json::json!(values).to_string();
    let mut text = format!(
        "[healing]\ngrace-s = 5\ndrain-s = 10\n\n[k3s.server-config]\nkube-controller-manager-arg = {}\n",
        list(&["node-monitor-grace-period=20s".to_owned()])
    );
    // A table that is set later replaces the earlier one whole.
    if !kubelet_args.is_empty() {
        text.push_str(&format!("kubelet-arg = {}\n", list(kubelet_args)));
    }
    text
}

/// How long k3s may take to remove a member: its own Leases change hands after 45 s when their holder is the one that died.
pub(super) const NOTICED: u64 = 120;
/// From a vacancy to a new voter, k3s's start and etcd's 15-second look included.
pub(super) const FILLED: u64 = 60;

pub(super) fn up(ctx: &mut Context, hosts: u8, servers: u8) -> Result<Lab> {
    let spec = ctx.spec(hosts, servers);
    formed(ctx, &spec)
}

/// A cluster of hosts that are configured so, with short waits of healing.
pub(super) fn formed(ctx: &mut Context, spec: &Spec) -> Result<Lab> {
    let lab = ctx.lab(spec)?;
    for host in &lab.hosts {
        host.write(conf::DROP_IN, quick(&spec.conf.kubelet_args))?;
    }
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, usize::from(spec.conf.servers), 90)?;
    // The healer must know every machine before one of them can be missed, and every server who votes.
    ctx.until("every server's Node says whose machine it is, and its ledger who votes", 30, || {
        let servers: Vec<&Host> = lab.hosts.iter().filter(|host| role(host) == "server").collect();
        let known =
            |host: &Host| host.status().is_some_and(|status| status.k3s.voters.len() == servers.len());
        Ok(servers.iter().all(|host| marked(host) && known(host)).then_some(()))
    })?;
    Ok(lab)
}

/// A further machine with the same configuration, powered off.
pub(super) fn add(ctx: &mut Context, lab: &mut Lab, index: u8) -> Result<Host> {
    let fresh = ctx.add_host(lab, index, &format!("node{index}"))?;
    fresh.write(conf::DROP_IN, quick(&ctx.spec(1, 1).conf.kubelet_args))?;
    Ok(fresh)
}

fn marked(host: &Host) -> bool {
    let ask = format!("kubectl get node {} -o json", host.name);
    host.shell(&ask).is_ok_and(|text| text.contains("muster.internal/identity"))
}

pub(super) fn role(host: &Host) -> String {
    host.status().map(|status| status.node.role).unwrap_or_default()
}

/// Waits until etcd lists exactly these voters, as a living server says.
pub(super) fn voters(
    ctx: &Context,
    asked: &[Host],
    wanted: &dyn Fn(&[String]) -> bool,
    what: &str,
    seconds: u64,
) -> Result<()> {
    let mut last = String::new();
    let found = ctx.until(what, seconds, || {
        for host in asked.iter().filter(|host| role(host) == "server") {
            if let Ok(members) = probe::members(host) {
                let names = members.voting_nodes();
                if members.learners.is_empty() && wanted(&names) {
                    return Ok(Some(()));
                }
                last = format!("{} lists voters {names:?} and learners {:?}", host.name, members.learners);
            }
        }
        Ok(None)
    });
    found.with_context(|| last)
}

pub(super) fn with_spare(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 5, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let dead = founder(&lab, &certificate)?;
    let rest = without(&lab, &dead);
    ctx.fact("dead", dead.name.clone());
    let began = Instant::now();
    dead.power_cut()?;
    let gone = |names: &[String]| !names.contains(&dead.name);
    voters(ctx, &rest, &gone, "its member is removed", NOTICED)?;
    ctx.fact_seconds("removed_seconds", began);
    let vacant = Instant::now();
    let full = |names: &[String]| names.len() == 3 && !names.contains(&dead.name);
    voters(ctx, &rest, &full, "a spare votes in its place", FILLED)?;
    ctx.fact_seconds("vacancy_filled_seconds", vacant);
    ctx.formed(&lab, &rest, 3, 30)?;
    ensure!(ctx.certificate(&rest)?.identity() == certificate.identity(), "the certificate changed");
    let began = Instant::now();
    dead.start()?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("returned_seconds", began);
    ensure!(role(&dead) == "agent", "{} came back as {}", dead.name, role(&dead));
    let status = dead.status().context("the returned host does not speak")?;
    ensure!(status.node.id == certificate.founder, "it came back under another identity");
    // Nobody is left cordoned.
    let nodes =
        rest[0].shell("kubectl get nodes -o json").or_else(|_| rest[1].shell("kubectl get nodes -o json"))?;
    ensure!(!nodes.contains("muster.internal/cordoned"), "a machine was left cordoned");
    Ok(())
}

pub(super) fn without_spare(ctx: &mut Context) -> Result<()> {
    let mut lab = up(ctx, 3, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let dead = lab.hosts[2].clone();
    let rest = without(&lab, &dead);
    let began = Instant::now();
    dead.power_cut()?;
    let said = ctx.until("somebody says `no-spare`", NOTICED, || {
        let why = rest.iter().filter_map(Host::status).flat_map(|status| status.why);
        Ok(why.into_iter().find(|why| why.rule == "no-spare"))
    })?;
    ctx.fact("line", format!("{}: {}", said.rule, said.detail));
    ctx.fact_seconds("said_seconds", began);
    let kept = |names: &[String]| names.contains(&dead.name);
    voters(ctx, &rest, &kept, "its member is kept", 10)?;
    let began = Instant::now();
    let fresh = add(ctx, &mut lab, 4)?;
    fresh.start()?;
    let living: Vec<Host> = rest.iter().cloned().chain([fresh.clone()]).collect();
    let full =
        |names: &[String]| names.len() == 3 && names.contains(&fresh.name) && !names.contains(&dead.name);
    voters(ctx, &living, &full, "the new machine votes in its place", NOTICED + FILLED)?;
    ctx.fact_seconds("replaced_seconds", began);
    ctx.formed(&lab, &living, 3, 30)?;
    ensure!(ctx.certificate(&living)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

pub(super) fn quorum_lost(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 3, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let (left, off) = (lab.hosts[0].clone(), &lab.hosts[1..]);
    let began = Instant::now();
    for host in off {
        host.power_cut()?;
    }
    let why = ctx.says(&left, "quorum-lost", 60)?;
    ctx.fact_seconds("said_seconds", began);
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    for host in off {
        ensure!(why.detail.contains(&host.name), "`{}` does not name {}", why.detail, host.name);
    }
    // Nothing is done about it by itself.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(10) {
        ctx.unbroken()?;
        ensure!(role(&left) == "server", "{} gave its role up", left.name);
        std::thread::sleep(Duration::from_millis(250));
    }
    let began = Instant::now();
    off[0].start()?;
    let pair = [left, off[0].clone()];
    ctx.until("both serve again", 90, || {
        let serves = |host: &Host| host.status().is_some_and(|status| status.phase == "serving");
        Ok(pair.iter().all(serves).then_some(()))
    })?;
    ctx.fact_seconds("healed_seconds", began);
    off[1].start()?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

pub(super) fn leave(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let one = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &one);
    let began = Instant::now();
    one.shell("muster leave --reason workshop --yes")?;
    let full = |names: &[String]| names.len() == 3 && !names.contains(&one.name);
    voters(ctx, &rest, &full, "a spare votes in its place", FILLED + 30)?;
    ctx.fact_seconds("replaced_seconds", began);
    let why = ctx.says(&one, "left-cluster", 30)?;
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    ctx.formed(&lab, &rest, 3, 30)?;
    // It stays out over a reboot, too.
    one.reboot()?;
    ctx.says(&one, "left-cluster", 30)?;
    one.shell("muster leave --cancel")?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ensure!(role(&one) == "agent", "{} joined as {}", one.name, role(&one));
    agent_leaves(ctx, &rest, &one)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    // Two servers cannot both leave a cluster of three without a spare to spare: the second one is refused once it would cost the
    // quorum; here the last two stay.
    Ok(())
}

/// An agent moves its pods away by its own kubelet's certificate, and may be used again when that is taken back.
fn agent_leaves(ctx: &Context, rest: &[Host], agent: &Host) -> Result<()> {
    let server = rest.iter().find(|host| role(host) == "server").context("no server")?;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "moved" },
        "spec": { "nodeName": agent.name, "containers": [{ "name": "none", "image": "none.invalid/none" }] }
    });
    server.write("/root/pod.json", pod.to_string())?;
    let ask = "T=/var/lib/rancher/k3s/server/tls; curl -sf -m 10 -o /dev/null --cacert $T/server-ca.crt --cert $T/client-admin.crt \
               --key $T/client-admin.key -H 'Content-Type: application/json'";
    let pods = "https://127.0.0.1:6443/api/v1/namespaces/default/pods";
    server.shell(&format!("{ask} --data @/root/pod.json {pods}"))?;
    server.shell(&format!("{ask} {pods}/moved"))?;
    agent.shell("muster leave --reason workshop --yes")?;
    ctx.says(agent, "left-cluster", 60)?;
    ensure!(server.shell(&format!("{ask} {pods}/moved")).is_err(), "the pod of an agent that left is there");
    agent.shell("muster leave --cancel")?;
    ctx.until("the agent that came back takes pods again", 60, || {
        let node = server.shell(&format!("kubectl get node {} -o json", agent.name))?;
        let node: serde_json::Value = serde_json::from_str(&node).context("the Node")?;
        Ok((node["spec"]["unschedulable"] != serde_json::json!(true)).then_some(()))
    })
}

pub(super) fn paused(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let frozen = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &frozen);
    let began = Instant::now();
    frozen.freeze()?;
    let full = |names: &[String]| names.len() == 3 && !names.contains(&frozen.name);
    voters(ctx, &rest, &full, "a spare votes in its place", NOTICED + FILLED)?;
    ctx.fact_seconds("replaced_seconds", began);
    let began = Instant::now();
    frozen.thaw()?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ctx.fact_seconds("returned_seconds", began);
    ensure!(role(&frozen) == "agent", "{} came back as {}", frozen.name, role(&frozen));
    Ok(())
}

pub(super) fn data_lost(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 3, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let one = lab.hosts[1].clone();
    one.power_off()?;
    std::fs::remove_dir_all(one.path("/var/lib/rancher/k3s")).context("remove k3s's data")?;
    let began = Instant::now();
    one.start()?;
    ctx.formed(&lab, &lab.hosts, 3, 150)?;
    ctx.fact_seconds("healed_seconds", began);
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}

/// A machine that is powered off for good leaves first, if its unit is enabled; one that reboots does not.
pub(super) fn power_off(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let one = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &one);
    one.shell("systemctl enable --now muster-leave.service")?;
    one.reboot()?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ensure!(role(&one) == "server", "{} left because it rebooted", one.name);
    // Its unit is there again: it stands behind k3s's own start.
    ctx.until("its unit stands again", 60, || {
        Ok(one.shell("systemctl is-active muster-leave.service").ok().map(drop))
    })?;
    let began = Instant::now();
    one.shell("systemctl poweroff")?;
    let gone = |names: &[String]| !names.contains(&one.name);
    voters(ctx, &rest, &gone, "its member is out", 60)?;
    ctx.fact_seconds("left_seconds", began);
    let full = |names: &[String]| names.len() == 3 && !names.contains(&one.name);
    voters(ctx, &rest, &full, "a spare votes in its place", FILLED)?;
    ctx.fact_seconds("replaced_seconds", began);
    ctx.until("it is off", 200, || Ok(one.running().is_none().then_some(())))?;
    one.start()?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ensure!(role(&one) == "agent", "{} came back as {}", one.name, role(&one));
    Ok(())
}

pub(super) fn address(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 3, 3)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    let one = lab.hosts[2].clone();
    let (rest, id) = (without(&lab, &one), one.status().context("it does not speak")?.node.id);
    one.power_off()?;
    lab.net().readdress(one.index, &one.address(), "10.77.0.203")?;
    let began = Instant::now();
    one.start()?;
    ctx.until("it serves at its new address, as a voter", 150, || {
        let status = one.status().unwrap_or_default();
        let there = status.node.address.as_deref() == Some("10.77.0.203") && status.phase == "serving";
        Ok((there && status.k3s.voter == Some(true)).then_some(()))
    })?;
    ctx.fact_seconds("healed_seconds", began);
    let full = |names: &[String]| names.len() == 3 && names.contains(&one.name);
    voters(ctx, &rest, &full, "three voters", 30)?;
    let status = one.status().context("it does not speak")?;
    ensure!(status.node.id == id, "it came back under another identity");
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    Ok(())
}
