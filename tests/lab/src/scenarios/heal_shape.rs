//! The shape that a cluster keeps: how many servers, in which zones, with which labels, with certificates that have not run out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::context::{Context, without};
use super::heal::{FILLED, NOTICED, quick, role, up, voters};
use crate::conf;
use crate::host::Host;
use crate::lab::{self, Lab};
use crate::probe;

/// What a scenario adds to a host's configuration, beside what all of healing's set.
fn reconfigure(ctx: &Context, host: &Host, more: &str) -> Result<()> {
    // Keys of the top level stand before every table.
    host.write(conf::DROP_IN, format!("{more}\n{}", quick(&ctx.spec(1, 1).conf.kubelet_args)))
}

fn agents(lab: &Lab, verb: &str) -> Result<()> {
    lab::all(&lab.hosts, |host| host.shell(&format!("systemctl {verb} muster.service")).map(drop))
}

pub(super) fn surplus(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 5, 5)?;
    let certificate = ctx.certificate(&lab.hosts)?;
    // An operator wants three from now on: on every machine, as the documents say.
    agents(&lab, "stop")?;
    for host in &lab.hosts {
        reconfigure(ctx, host, "servers = 3")?;
    }
    agents(&lab, "start")?;
    let began = Instant::now();
    let most = Duration::from_secs(2 * (NOTICED + FILLED));
    voters(ctx, &lab.hosts, &|names| names.len() == 3, "three of five vote", most.as_secs())?;
    ctx.fact_seconds("demoted_seconds", began);
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ensure!(ctx.certificate(&lab.hosts)?.identity() == certificate.identity(), "the certificate changed");
    let cordoned = kubectl(&lab.hosts, "kubectl get nodes -o json")?.contains("muster.internal/cordoned");
    ensure!(!cordoned, "a machine was left cordoned");
    Ok(())
}

pub(super) fn zones(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 5, 3)?;
    let (servers, mut spares): (Vec<Host>, Vec<Host>) =
        lab.hosts.iter().cloned().partition(|host| role(host) == "server");
    // The spare that would be taken without zones stands where most servers stay.
    spares.sort_by_key(|host| host.status().map(|status| status.node.id));
    ensure!(servers.len() == 3 && spares.len() == 2, "{} servers, {} spares", servers.len(), spares.len());
    let places =
        [(&servers[0], "a"), (&servers[1], "b"), (&servers[2], "b"), (&spares[0], "b"), (&spares[1], "a")];
    agents(&lab, "stop")?;
    for (host, zone) in places {
        let labels = "[labels]\non-servers = [\"example.com/tier=gold\"]\non-agents = [\"node-role.kubernetes.io/worker=true\"]\n";
        reconfigure(ctx, host, &format!("zone = \"{zone}\"\n\n{labels}"))?;
    }
    agents(&lab, "start")?;
    ctx.formed(&lab, &lab.hosts, 3, 60)?;
    let labelled = |hosts: &[Host], name: &str, wanted: &[(&str, &str)]| -> Result<bool> {
        let nodes: serde_json::Value =
            serde_json::from_str(&kubectl(hosts, "kubectl get nodes -o json")?).context("the Nodes")?;
        let items = nodes["items"].as_array().context("a list of Nodes")?;
        let node = items.iter().find(|node| node["metadata"]["name"] == name);
        Ok(node
            .is_some_and(|node| wanted.iter().all(|(key, value)| node["metadata"]["labels"][key] == *value)))
    };
    let began = Instant::now();
    ctx.until("every Node has its zone and the labels of its role", 120, || {
        for (host, zone) in places {
            let of_role = if role(host) == "server" {
                ("example.com/tier", "gold")
            } else {
                ("node-role.kubernetes.io/worker", "true")
            };
            let wanted = [("topology.kubernetes.io/zone", zone), of_role];
            if !labelled(&lab.hosts, &host.name, &wanted)? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    ctx.fact_seconds("labelled_seconds", began);
    let (dead, expected) = (&servers[0], &spares[1]);
    dead.power_cut()?;
    let rest = without(&lab, dead);
    let full = |names: &[String]| names.len() == 3 && names.contains(&expected.name);
    voters(ctx, &rest, &full, "the spare of the empty zone votes", NOTICED + FILLED)?;
    ctx.fact("promoted", expected.name.clone());
    Ok(())
}

pub(super) fn certificates(ctx: &mut Context) -> Result<()> {
    let spec = ctx.spec(3, 3);
    let lab = ctx.lab(&spec)?;
    const SHORT: &str = "/etc/systemd/system/k3s.service.d/50-scenario.conf";
    for host in &lab.hosts {
        host.write(conf::DROP_IN, quick(&spec.conf.kubelet_args))?;
        host.write(SHORT, "[Service]\nEnvironment=CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS=20\n")?;
    }
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    for host in &lab.hosts {
        let days = leaf_days(host)?;
        ensure!(days <= 20, "{}: a leaf for {days} days", host.name);
    }
    // From now on k3s signs for a year, and every agent reads the certificates when it starts.
    for host in &lab.hosts {
        host.shell(&format!("rm {SHORT} && systemctl daemon-reload"))?;
    }
    let pids = |hosts: &[Host]| -> Result<BTreeMap<String, String>> {
        let pid = |host: &Host| {
            Ok((host.name.clone(), host.shell("systemctl show -P MainPID k3s.service")?.trim().to_owned()))
        };
        hosts.iter().map(pid).collect()
    };
    let before = pids(&lab.hosts)?;
    agents(&lab, "restart")?;
    let (began, mut least) = (Instant::now(), usize::MAX);
    ctx.until("every server's k3s was started anew, and votes", 240, || {
        let vote = |host: &&Host| host.status().is_some_and(|status| status.k3s.voter == Some(true));
        least = least.min(lab.hosts.iter().filter(vote).count());
        let now = pids(&lab.hosts)?;
        let anew = now.iter().all(|(name, pid)| pid != "0" && before.get(name) != Some(pid));
        Ok((anew && lab.hosts.iter().filter(vote).count() == 3).then_some(()))
    })?;
    ctx.fact_seconds("renewed_seconds", began);
    ctx.fact("least_voters", least);
    ensure!(least >= 2, "only {least} voted at a time");
    ctx.formed(&lab, &lab.hosts, 3, 60)?;
    for host in &lab.hosts {
        let days = leaf_days(host)?;
        ensure!(days > 300, "{}: still a leaf for {days} days", host.name);
    }
    Ok(())
}

/// For how many days the API's certificate is good.
fn leaf_days(host: &Host) -> Result<i64> {
    let file = "/var/lib/rancher/k3s/server/tls/serving-kube-apiserver.crt";
    let text = host.read(file).with_context(|| format!("{} has no {file}", host.name))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).context("the certificate's PEM")?;
    let leaf = pem.parse_x509().context("the certificate")?;
    let ends = leaf.validity().not_after.timestamp();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok((ends - i64::try_from(now)?) / 86_400)
}

pub(super) fn member_without_node(ctx: &mut Context) -> Result<()> {
    let lab = up(ctx, 4, 3)?;
    let dead = lab.hosts.iter().find(|host| role(host) == "server").context("no server")?.clone();
    let rest = without(&lab, &dead);
    dead.power_cut()?;
    // As when a Node is deleted past its finalizers, or a machine dies before its kubelet has registered: straight from etcd, where no
    // controller comes between.
    let line = format!(
        "T=/var/lib/rancher/k3s/server/tls/etcd; K=$(printf %s /registry/minions/{} | base64 -w0); \
         for P in 2382 2379; do curl -sf -m 5 -o /dev/null --cacert $T/server-ca.crt --cert $T/client.crt --key $T/client.key \
         -d \"{{\\\"key\\\":\\\"$K\\\"}}\" https://127.0.0.1:$P/v3/kv/deleterange && exit 0; done; exit 1",
        dead.name
    );
    let server = rest.iter().find(|host| role(host) == "server").context("no server is left")?;
    // The dead one may have led etcd: until another does, nothing is written.
    ctx.until("its Node is deleted from etcd", 60, || Ok(server.shell(&line).is_ok().then_some(())))?;
    let nodes = probe::nodes(server)?;
    ensure!(!nodes.contains_key(&dead.name), "its Node is still there: {nodes:?}");
    let members = probe::members(server)?;
    ensure!(members.voters.len() == 3, "its member went with its Node: {members:?}");
    let began = Instant::now();
    let full = |names: &[String]| names.len() == 3 && !names.contains(&dead.name);
    voters(ctx, &rest, &full, "the member is removed, and a spare votes in its place", NOTICED + FILLED)?;
    ctx.fact_seconds("replaced_seconds", began);
    let log = rest
        .iter()
        .any(|host| host.shell("muster log --output json").is_ok_and(|log| log.contains("remove-member")));
    ensure!(log, "no decision log tells of the removal");
    Ok(())
}

/// Asks whichever of them answers.
pub(super) fn kubectl(hosts: &[Host], line: &str) -> Result<String> {
    let servers = hosts.iter().filter(|host| role(host) == "server");
    let mut last = None;
    for host in servers {
        match host.shell(line) {
            Ok(text) => return Ok(text),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no server runs")?)
}
