//! Hosts that find each other in one way alone. They are kept from founding: whom each of them sees is what is shown.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::context::Context;
use crate::conf;
use crate::host::Host;
use crate::lab::Lab;
use crate::net::{self, GATEWAY};
use crate::process::Process;
use crate::setup::layer;

/// What every host here is told beside where to look.
const NEVER: &str = "founding = \"never\"\n";

/// Hosts without seeds, each with this drop-in; they are not powered on.
fn lab(ctx: &mut Context, hosts: u8, told: &str) -> Result<Lab> {
    let mut spec = ctx.spec(hosts, 3);
    spec.conf.seeds = Vec::new();
    let lab = ctx.lab(&spec)?;
    for host in &lab.hosts {
        host.write(conf::DROP_IN, format!("{NEVER}{told}"))?;
    }
    Ok(lab)
}

/// Whether a host sees exactly these others live.
fn sees(host: &Host, group: &[Host]) -> bool {
    let status = host.status().unwrap_or_default();
    let live: BTreeSet<_> = status.peers.iter().filter(|p| p.live).map(|p| p.name.clone()).collect();
    let wanted: BTreeSet<_> =
        group.iter().filter(|other| other.index != host.index).map(|other| other.name.clone()).collect();
    live == wanted
}

/// Waits until all of a group see each other and nobody else.
fn meet(ctx: &Context, group: &[Host], seconds: u64) -> Result<()> {
    ctx.until("all see each other", seconds, || Ok(group.iter().all(|host| sees(host, group)).then_some(())))
}

/// What `muster discover` answers beside the running agent, by source.
fn discovered(host: &Host, source: &str) -> Result<Vec<String>> {
    let said = host.inside(&["muster", "discover", "--output", "json"], Duration::from_secs(30))?;
    let report: Value = serde_json::from_str(&said.stdout)
        .with_context(|| format!("muster discover: {} {}", said.stdout, said.stderr))?;
    let row = report["sources"].as_array().into_iter().flatten().find(|row| row["source"] == source);
    let row = row.with_context(|| format!("no source {source}: {report}"))?;
    let addresses = row["addresses"].as_array().with_context(|| format!("{source} gave no answer: {row}"))?;
    Ok(addresses.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Demands that a source names every other host.
fn names_all(host: &Host, source: &str, group: &[Host]) -> Result<()> {
    let found = discovered(host, source)?;
    for other in group.iter().filter(|other| other.index != host.index) {
        let address = format!("{}:7846", other.address());
        ensure!(found.contains(&address), "{source} on {} does not name {address}: {found:?}", host.name);
    }
    Ok(())
}

/// A token and nothing else: no seeds, no names, no list.
pub(super) fn sweep(ctx: &mut Context) -> Result<()> {
    let lab = lab(ctx, 5, "")?;
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    meet(ctx, &lab.hosts, 60)?;
    ctx.fact_seconds("met_seconds", began);
    // The hosts share one kernel and its table of neighbours, which five sweeps at once fill: a pass may miss somebody, and the next
    // one makes it good.
    let mut missing = String::new();
    let named = ctx.until("a sweep beside the agent names everybody", 30, || {
        match names_all(&lab.hosts[0], "sweep", &lab.hosts) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                missing = format!("{error:#}");
                Ok(None)
            }
        }
    });
    named.context(missing)
}

/// Two groups with two tokens sweep one segment: each finds itself alone.
pub(super) fn two_sweeps(ctx: &mut Context) -> Result<()> {
    let mut spec = ctx.spec(4, 1);
    spec.conf.seeds = Vec::new();
    spec.conf.founders = Some(2);
    let lab = Lab::create(&spec, &ctx.binaries, &ctx.rootfs)?;
    ctx.lab = Some(lab.clone());
    let (one, two) = lab.hosts.split_at(2);
    let token = layer::token();
    for host in &lab.hosts {
        host.write(conf::DROP_IN, format!("{NEVER}[discovery]\nsweep.networks = [\"local\"]\n"))?;
    }
    for host in two {
        host.write_mode(conf::TOKEN_FILE, format!("{token}\n"), 0o600)?;
    }
    lab.start(&lab.hosts)?;
    for group in [one, two] {
        meet(ctx, group, 60)?;
    }
    // An agent's sweep stops when its group is whole, perhaps before it came by the others. One beside it goes over every address.
    for group in [one, two] {
        let own = vec![format!("{}:7846", group[1].address())];
        // The hosts share one kernel's table of neighbours: a full one drops a knock, and the next sweep makes it good.
        ctx.until(&format!("the sweep of {} finds its own group", group[0].name), 30, || {
            let found = discovered(&group[0], "sweep")?;
            ensure!(found.iter().all(|one| own.contains(one)), "{} found {found:?}", group[0].name);
            Ok((found == own).then_some(()))
        })?;
    }
    for (group, others) in [(one, two), (two, one)] {
        let strangers: BTreeSet<_> = others.iter().map(|host| host.name.clone()).collect();
        for host in group {
            // The others have swept over this host by now: it has heard them, and they are noise.
            ctx.until(&format!("{} has been knocked at by strangers", host.name), 30, || {
                let heard = host.status().unwrap_or_default().gossip.dropped_unopened > 0;
                if !heard {
                    discovered(&others[0], "sweep")?;
                }
                Ok(heard.then_some(()))
            })?;
            let status = host.status().unwrap_or_default();
            let known = status.peers.iter().find(|peer| strangers.contains(&peer.name));
            ensure!(known.is_none(), "{} knows {:?} of the other group", host.name, known.map(|p| &p.name));
        }
    }
    Ok(())
}

pub(super) fn mdns(ctx: &mut Context) -> Result<()> {
    let lab = lab(ctx, 5, "[discovery]\nmdns = \"on\"\n")?;
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    meet(ctx, &lab.hosts, 60)?;
    ctx.fact_seconds("met_seconds", began);
    let found = discovered(&lab.hosts[0], "mdns")?;
    ensure!(!found.is_empty(), "beside the agent nobody is heard");
    Ok(())
}

/// A name server on the switch.
struct NameServer {
    child: Child,
    records: PathBuf,
}

impl NameServer {
    /// Starts one that knows `peers.lab` by these hosts, and a service by that name.
    fn start(lab: &Lab, hosts: &[Host]) -> Result<Self> {
        let records = crate::paths::run_dir(&lab.name).join("records");
        write_records(&records, hosts)?;
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &lab.net().switch(),
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
        ]);
        command.args([
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            "--local-ttl=1",
        ]);
        command
            .args([&format!("--listen-address={GATEWAY}"), &format!("--addn-hosts={}", records.display())]);
        command.args(["--local=/lab/", "--srv-host=_muster._udp.lab,peers.lab,7846"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("start dnsmasq")?, records })
    }

    /// Changes its records while it runs: it reads them again on a hang-up.
    fn change(&self, hosts: &[Host]) -> Result<()> {
        write_records(&self.records, hosts)?;
        let pid = i32::try_from(self.child.id()).context("process id")?;
        // `ip netns exec` becomes the program: the process is dnsmasq itself.
        let alive = Process::of(pid).is_some();
        ensure!(alive, "dnsmasq has ended");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP)
            .context("tell dnsmasq")
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn write_records(file: &std::path::Path, hosts: &[Host]) -> Result<()> {
    let text: String = hosts.iter().map(|host| format!("{} peers.lab\n", host.address())).collect();
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// Records that name some hosts first and all of them later, while hosts are still coming.
pub(super) fn dns(ctx: &mut Context) -> Result<()> {
    let told = format!(
        "[discovery.dns]\nnames = [\"_muster._udp.lab\", \"peers.lab\"]\nservers = [\"{GATEWAY}\"]\n"
    );
    let lab = lab(ctx, 5, &told)?;
    let (first, rest) = lab.hosts.split_at(2);
    let server = NameServer::start(&lab, first)?;
    lab.start(first)?;
    meet(ctx, first, 60)?;
    // The group's list now names nobody that is here already: newcomers cannot be found through old answers.
    server.change(&lab.hosts[1..])?;
    lab.start(rest)?;
    let began = Instant::now();
    meet(ctx, &lab.hosts, 60)?;
    ctx.fact_seconds("met_seconds", began);
    names_all(&lab.hosts[0], "dns", &lab.hosts)
}

pub(super) fn exec(ctx: &mut Context) -> Result<()> {
    let program = "/usr/local/bin/peers";
    let lab = lab(ctx, 5, &format!("[discovery.exec]\ncommand = [\"{program}\", \"lab\"]\n"))?;
    let lines: String =
        (1..=5).map(|index| format!("echo '{{\"address\":\"{}\"}}'\n", net::address(index))).collect();
    for host in &lab.hosts {
        host.write_mode(program, format!("#!/bin/sh\necho '# peers of' \"$1\"\n{lines}"), 0o755)?;
    }
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    meet(ctx, &lab.hosts, 60)?;
    ctx.fact_seconds("met_seconds", began);
    names_all(&lab.hosts[4], "exec", &lab.hosts)
}

/// Everything that was configured is dead; what the ledger remembers is enough.
pub(super) fn remembered(ctx: &mut Context) -> Result<()> {
    let mut spec = ctx.spec(2, 1);
    spec.conf.founders = Some(2);
    let lab = ctx.lab(&spec)?;
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 1, 90)?;
    for host in &lab.hosts {
        ctx.until(&format!("{} remembers", host.name), 30, || {
            Ok((!discovered(host, "remembered")?.is_empty()).then_some(()))
        })?;
    }
    for host in &lab.hosts {
        host.power_cut()?;
        // Nobody is at these addresses, no name server answers, the program fails, the file is not there.
        let dead = "seeds = [\"10.77.0.200\", \"no-such-host.invalid\"]\n[discovery]\nfile = \"/nowhere/peers\"\n\
                    dns.names = [\"peers.lab\"]\ndns.servers = [\"10.77.0.201\"]\nexec.command = [\"/bin/false\"]\n\
                    aws.find = \"group\"\naws.metadata = \"http://127.0.0.1:9\"\n";
        host.write(conf::DROP_IN, dead)?;
    }
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    meet(ctx, &lab.hosts, 60)?;
    ctx.fact_seconds("met_seconds", began);
    let said = lab.hosts[0].inside(&["muster", "discover"], Duration::from_secs(40))?;
    for words in ["remembered", "/nowhere/peers is not there", "unknown"] {
        ensure!(said.stdout.contains(words), "`muster discover` does not say `{words}`: {}", said.stdout);
    }
    Ok(())
}
