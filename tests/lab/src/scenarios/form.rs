//! Clusters that form as they should.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::context::{Context, founder};
use crate::conf;
use crate::lab::Spec;
use crate::rules;

pub(super) fn formation(ctx: &mut Context) -> Result<()> {
    let began = Instant::now();
    let lab = ctx.up(5, 3)?;
    let rows = ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("formed_seconds", began);
    let certificate = ctx.certificate(&lab.hosts)?;
    ensure!(certificate.era == 1, "the first cluster is of era {}", certificate.era);
    ensure!(certificate.ca_hash.len() == 64, "`{}` is no SHA-256", certificate.ca_hash);
    let founder = founder(&lab, &certificate)?;
    ctx.fact("founder", founder.name.clone());
    ctx.fact("cluster_id", certificate.cluster_id.clone());
    let agents: Vec<String> = rows.iter().filter(|r| r.role == "agent").map(|r| r.name.clone()).collect();
    ensure!(agents.len() == 2, "two agents expected, found {agents:?}");
    ctx.fact("agents", agents);
    for host in &lab.hosts {
        ensure!(!host.armed(), "{} is still configured to found a cluster", host.name);
    }
    let phases: serde_json::Map<String, serde_json::Value> = founder
        .status()
        .unwrap_or_default()
        .phases()
        .into_iter()
        .map(|(phase, seconds)| (phase, seconds.into()))
        .collect();
    ctx.fact("founder_phases", phases);
    Ok(())
}

pub(super) fn one_machine(ctx: &mut Context) -> Result<()> {
    let began = Instant::now();
    let lab = ctx.lab(&ctx.spec(1, 1))?;
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ctx.fact_seconds("formed_seconds", began);
    let certificate = ctx.certificate(&lab.hosts)?;
    let host = &lab.hosts[0];
    let etcd = host.path("/var/lib/rancher/k3s/server/db/etcd").is_dir();
    ensure!(etcd, "there is no embedded etcd on {}", host.name);
    ctx.fact("cluster_id", certificate.cluster_id);
    Ok(())
}

/// A machine without any configuration, where a person has put the binary and a k3s and types one command.
pub(super) fn by_hand(ctx: &mut Context) -> Result<()> {
    let spec = Spec { enabled: false, ..ctx.spec(1, 1) };
    let lab = ctx.lab(&spec)?;
    let host = &lab.hosts[0];
    for file in [conf::CONFIG_FILE, conf::TOKEN_FILE, "/etc/systemd/system/muster.service"] {
        fs::remove_file(host.path(file))?;
    }
    fs::rename(host.path("/usr/local/bin/muster"), host.path("/root/muster"))?;
    if lab.real {
        // What the lab cannot give a real k3s: images, and on some machines control groups of version 2.
        let list = |values: &[String]| serde_json::json!(values).to_string();
        let text = format!(
            "[k3s]\ndisable = {}\n\n[k3s.server-config]\nkubelet-arg = {}\n",
            list(&spec.conf.disable),
            list(&spec.conf.kubelet_args)
        );
        host.write("/etc/muster/conf.d/10-lab.toml", text)?;
    }
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, ctx.limit(30))?;
    let began = Instant::now();
    let command = [
        "/root/muster",
        "up",
        "--servers",
        "1",
        "--k3s-version",
        &lab.version,
        "--k3s-sources",
        conf::K3S_SOURCE,
    ];
    let said = host.inside(&command, ctx.limit(60))?;
    ensure!(said.success(), "muster up: {}\n{}\n{}", said.status, said.stdout, said.stderr);
    ctx.fact_seconds("formed_seconds", began);
    // Without a service manager's word and without progress a person would not know what goes on.
    for words in ["installed /usr/local/bin/muster", "founding", "serving"] {
        ensure!(said.stdout.contains(words), "`muster up` does not say `{words}`: {}", said.stdout);
    }
    ctx.fact("lines", said.stdout.lines().count());
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    // It holds without the command: after a reboot the same cluster serves.
    let before = ctx.certificate(&lab.hosts)?;
    host.reboot()?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ensure!(ctx.certificate(&lab.hosts)?.identity() == before.identity(), "the certificate changed");
    let nodes = host.shell("kubectl get nodes")?;
    ensure!(nodes.contains("node1"), "kubectl shows no node: {nodes}");
    let again = host.inside(&["muster", "up", "--servers", "1"], ctx.limit(60))?;
    ensure!(again.success(), "muster up, once more: {}\n{}", again.stdout, again.stderr);
    Ok(())
}

pub(super) fn late_joiner(ctx: &mut Context) -> Result<()> {
    let mut lab = ctx.up(3, 3)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    let before = ctx.certificate(&lab.hosts)?;
    let began = Instant::now();
    let late = ctx.add_host(&mut lab, 4, "node4")?;
    let eager = ctx.add_host(&mut lab, 5, "node5")?;
    eager.write(conf::DROP_IN, "role = \"server\"\n")?;
    lab.start(&[late.clone(), eager.clone()])?;
    let why = ctx.says(&eager, rules::SERVERS_FULL, 60)?;
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    let rows = ctx.formed(&lab, &lab.hosts, 3, 60)?;
    ctx.fact_seconds("joined_seconds", began);
    for host in [&late, &eager] {
        let row = rows.iter().find(|row| row.index == host.index);
        let role = row.map(|row| row.role.clone()).unwrap_or_default();
        ensure!(role == "agent", "{} became `{role}`, not an agent", host.name);
    }
    ensure!(ctx.certificate(&lab.hosts)?.identity() == before.identity(), "the certificate changed");
    // The joined host is a working part: it reaches the API of the cluster by its own agent's way.
    let ping = late.inside(&["ping", "-c1", "-W2", "node1"], Duration::from_secs(5))?;
    ensure!(ping.success(), "{} does not reach node1", late.name);
    Ok(())
}
