//! A member that lies: it holds the token, so what it says is opened, and it may say anything under its own name.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use muster::core::{CaHash, ClusterId};
use muster::founding::Certificate;
use serde_json::json;

use super::context::{CLOSELY, Context};
use crate::conf;
use crate::host::Host;
use crate::lab::Lab;
use crate::member::Member;
use crate::probe;
use crate::rules;
use crate::wire::GOSSIP;

/// How long each lie is left to do its worst: longer than a death's grace and all that a healer waits for.
const LIE: Duration = Duration::from_secs(25);

/// What must stay as it is while somebody lies.
struct Before {
    /// The certificate on every disk.
    certificate: crate::status::Certificate,
    /// Process and host of every k3s.
    k3s: Vec<(String, String)>,
    /// The voters.
    voters: BTreeSet<String>,
}

impl Before {
    fn look(ctx: &Context, lab: &Lab) -> Result<Self> {
        // Which of them is the agent, the founding decides.
        let server = lab.hosts.iter().find(|host| host.status().is_some_and(|s| s.node.role == "server"));
        let voters = probe::members(server.context("no server")?)?.voters.into_iter().collect();
        Ok(Self { certificate: ctx.certificate(&lab.hosts)?, k3s: k3s(lab)?, voters })
    }

    fn still(&self, ctx: &Context, lab: &Lab) -> Result<()> {
        ctx.unbroken()?;
        let now = Self::look(ctx, lab)?;
        ensure!(now.certificate.identity() == self.certificate.identity(), "the certificate changed");
        ensure!(now.k3s == self.k3s, "k3s was started anew or stopped: {:?}, was {:?}", now.k3s, self.k3s);
        ensure!(now.voters == self.voters, "the voters are {:?}, were {:?}", now.voters, self.voters);
        Ok(())
    }
}

/// The main process of k3s on every host.
fn k3s(lab: &Lab) -> Result<Vec<(String, String)>> {
    let pid = |host: &Host| {
        let line = "systemctl show -P MainPID k3s.service k3s-agent.service 2>/dev/null | grep -v '^0*$'";
        Ok((host.name.clone(), host.shell(line)?.trim().to_owned()))
    };
    lab.hosts.iter().map(pid).collect()
}

pub(super) fn lying_member(ctx: &mut Context) -> Result<()> {
    let lab = ctx.up(4, 3)?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    let before = Before::look(ctx, &lab)?;
    ensure!(
        before.voters.len() == 3 && before.k3s.iter().all(|(_, pid)| !pid.is_empty()),
        "{:?}",
        before.k3s
    );
    let real: Certificate = serde_json::from_value(json!(before.certificate)).context("the certificate")?;
    let token =
        String::from_utf8_lossy(&lab.hosts[0].read(conf::TOKEN_FILE).unwrap_or_default()).trim().to_owned();
    let mut peers = Vec::new();
    for host in &lab.hosts {
        peers.push(SocketAddr::new(host.address().parse().context("a host's address")?, GOSSIP));
    }
    let mut liar = Member::join(&lab.net(), "lab", &token, peers)?;

    // A server's name and place, under an identity of its own: it cannot sign under that server's.
    let victim = lab
        .hosts
        .iter()
        .find(|host| {
            host.status().is_some_and(|s| s.node.role == "server" && s.node.id != before.certificate.founder)
        })
        .context("no server but the founder")?;
    let place: IpAddr = victim.address().parse().context("a host's address")?;
    let mut claim = liar.claim(1, real.parameters_hash.clone(), real.clone());
    claim.name.clone_from(&victim.name);
    claim.address = place;
    liar.say(claim.clone())?;
    let knows = |host: &Host| {
        let status = host.status().unwrap_or_default();
        status.peers.iter().any(|peer| peer.id == liar.id.to_string())
    };
    ctx.until("everybody knows the liar", 30, || Ok(lab.hosts.iter().all(knows).then_some(())))?;
    let named = watch(ctx, &lab, &before)?;
    ctx.fact("under_a_name", json!(named));

    // A second certificate of the same era.
    claim.counter = 2;
    claim.name = "liar".to_owned();
    claim.address = liar.address;
    let made_up = Certificate {
        cluster_id: ClusterId::from_digest(&[0x66; 32]),
        ca_hash: CaHash::from_digest(&[0x66; 32]),
        founder: liar.id.clone(),
        founder_name: "liar".to_owned(),
        founder_address: liar.address,
        first_servers: vec![liar.id.clone()],
        ..real
    };
    claim.certificate = Some(made_up.into());
    liar.say(claim)?;
    for host in &lab.hosts {
        ctx.says(host, rules::TWO_CLUSTERS, 30)?;
    }
    let named = watch(ctx, &lab, &before)?;
    ctx.fact("under_two_certificates", json!(named));
    liar.end()?;

    // What an agent has heard it keeps until it starts anew, and tells the others: all of them are off for a moment.
    for verb in ["stop", "start"] {
        for host in &lab.hosts {
            host.shell(&format!("systemctl {verb} muster.service"))?;
        }
    }
    let mended = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("mended_seconds", mended);
    before.still(ctx, &lab)
}

/// Watches for a while that nothing changes; the rules that were given as reasons meanwhile.
fn watch(ctx: &Context, lab: &Lab, before: &Before) -> Result<BTreeSet<String>> {
    let (watched, mut rules) = (Instant::now(), BTreeSet::new());
    while watched.elapsed() < LIE {
        for status in lab.hosts.iter().filter_map(Host::status) {
            rules.extend(status.why.into_iter().map(|why| why.rule));
        }
        std::thread::sleep(50 * CLOSELY);
        before.still(ctx, lab)?;
    }
    Ok(rules)
}
