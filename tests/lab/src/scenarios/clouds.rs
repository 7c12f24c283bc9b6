//! The user-data for the clouds, booted as it stands in `cloud-init/`: with programs that answer as the clouds' secret stores do, and
//! for AWS with a metadata service at its address.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::context::Context;
use super::first_boot::{TOKEN_LINE, blank, done, example, replaced, seed};
use super::heal;
use crate::check::Checker;
use crate::conf;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::setup::binaries::workspace;
use crate::setup::layer;
use crate::shelf::{Files, Shelf};

/// Clouds with a secret store, the program that their user-data fetches the token with, and those that have the token in the user-data.
const STORES: [(&str, &str); 3] = [("aws", "aws"), ("gcp", "curl"), ("azure", "curl")];
const PLAIN: [&str; 2] = ["hetzner", "openstack"];
/// What the played stores hold.
const STORED: &str = "a-token-from-the-store";
/// Where clouds have their metadata service.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// What the group's autoscaling means to do with the machine, as the metadata service tells it.
const STATE: &str = "/latest/meta-data/autoscaling/target-lifecycle-state";

/// One machine for each cloud, each a cluster of its own; and AWS's is told that it will be terminated.
pub(super) fn clouds(ctx: &mut Context) -> Result<()> {
    let count = STORES.len() + PLAIN.len();
    let spec = Spec { enabled: false, ..ctx.spec(u8::try_from(count)?, 1) };
    let lab = Lab::create(&spec, &ctx.binaries, &ctx.rootfs)?;
    ctx.lab = Some(lab.clone());
    let checkers: Vec<Checker> =
        lab.hosts.iter().map(|host| Checker::start(std::slice::from_ref(host))).collect();
    let token = layer::token();
    for (host, (cloud, program)) in lab.hosts.iter().zip(STORES) {
        alone(ctx, &lab, host, &format!("[discovery.{cloud}]\nfind = \"none\"\n"))?;
        let played =
            fs::read(workspace().join("tests/clouds").join(program)).context("read the played program")?;
        host.write_mode(&format!("/usr/local/bin/{program}"), played, 0o755)?;
        if cloud != "aws" {
            seed(host, &example(&format!("{cloud}/user-data.yaml"))?, "first")?;
        }
    }
    for (host, cloud) in lab.hosts[STORES.len()..].iter().zip(PLAIN) {
        alone(ctx, &lab, host, "")?;
        seed(host, &replaced(&example(&format!("{cloud}/user-data.yaml"))?, TOKEN_LINE, &token)?, "first")?;
    }
    let on_aws = &lab.hosts[0];
    let held = tempfile::tempdir().context("a place for what the metadata service tells")?;
    on_aws.write(
        "/etc/cloud/cloud.cfg.d/95-ec2.cfg",
        "datasource_list: [ Ec2 ]\ndatasource: {Ec2: {strict_id: false, timeout: 3, max_wait: 20}}\n",
    )?;
    let metadata = ec2(&lab, on_aws, held.path())?;

    let began = Instant::now();
    lab.start(&lab.hosts)?;
    for host in &lab.hosts {
        ctx.formed(&lab, std::slice::from_ref(host), 1, 120).with_context(|| host.name.clone())?;
        done(ctx, host)?;
        ensure!(host.mode(conf::TOKEN_FILE) == Some(0o600), "the token's mode on {}", host.name);
    }
    ctx.fact_seconds("formed_seconds", began);
    for (host, (cloud, _)) in lab.hosts.iter().zip(STORES) {
        ensure!(is(host, conf::TOKEN_FILE, STORED), "{cloud}'s token is not what the store holds");
        let log = host.journal(Some("cloud-final.service"), &[])?;
        ensure!(
            log.contains("cannot be read; looked again"),
            "{cloud}: a store that failed once is not told of"
        );
        ensure!(
            !log.contains(STORED) && !log.contains("bearer-secret"),
            "{cloud}: a secret is in the journal"
        );
        let unit = host
            .shell("systemctl is-enabled muster-leave.service; systemctl is-active muster-leave.service")?;
        ensure!(unit == "enabled\nactive\n", "{cloud}: muster-leave.service is {unit}");
    }
    for (host, cloud) in lab.hosts[STORES.len()..].iter().zip(PLAIN) {
        ensure!(is(host, conf::TOKEN_FILE, &token), "{cloud}'s token is not that of the user-data");
        let rules = host.shell("nft list table inet muster_metadata")?;
        ensure!(
            rules.contains("hook forward") && rules.contains("ip daddr 169.254.169.254 drop"),
            "{cloud}: pods reach the metadata service: {rules}"
        );
        let answered =
            host.inside(&["curl", "-fsS", "--max-time", "5", &metadata.url], Duration::from_secs(10))?;
        ensure!(
            answered.stderr.contains("404"),
            "{cloud}: the machine itself is kept out: {}",
            answered.stderr
        );
        let unit =
            host.inside(&["systemctl", "is-enabled", "muster-leave.service"], Duration::from_secs(10))?;
        ensure!(unit.stdout.trim() == "disabled", "{cloud}: muster-leave.service is {}", unit.stdout);
    }
    // Without Amazon's hardware under it cloud-init calls a metadata service of this kind `ec2`.
    let source = on_aws.shell("cloud-id; cat /var/lib/cloud/data/instance-id")?;
    ensure!(
        (source.starts_with("aws") || source.starts_with("ec2")) && source.contains("i-0123456789abcdef0"),
        "cloud-init's source is {source}"
    );

    // The notice is a leave request; the only server of a cluster refuses it, and says why.
    fs::write(held.path().join("state"), "Terminated").context("tell of the end")?;
    let began = Instant::now();
    let why = ctx.says(on_aws, "leave-refused", 60)?;
    ctx.fact_seconds("noticed_seconds", began);
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    for checker in checkers {
        let (looks, violations) = checker.finish();
        ensure!(looks > 0 && violations.is_empty(), "invariant broken: {}", violations.join("; "));
    }
    Ok(())
}

/// A cloud tells a server that its machine will be taken away: it leaves before that, and a spare takes its place.
pub(super) fn notice(ctx: &mut Context) -> Result<()> {
    let lab = heal::up(ctx, 4, 3)?;
    let one = lab.hosts.iter().find(|host| heal::role(host) == "server").context("no server")?.clone();
    let rest: Vec<Host> = lab.hosts.iter().filter(|host| host.index != one.index).cloned().collect();
    let held = tempfile::tempdir().context("a place for what the metadata service tells")?;
    let _metadata = ec2(&lab, &one, held.path())?;
    one.write("/etc/muster/conf.d/60-cloud.toml", "[discovery.aws]\nfind = \"none\"\n")?;
    one.shell("systemctl restart muster")?;
    ctx.formed(&lab, &lab.hosts, 3, 60)?;
    fs::write(held.path().join("state"), "Terminated").context("tell of the end")?;
    let began = Instant::now();
    let full = |names: &[String]| names.len() == 3 && !names.contains(&one.name);
    heal::voters(ctx, &rest, &full, "a spare votes in its place", heal::FILLED + 60)?;
    ctx.fact_seconds("replaced_seconds", began);
    let why = ctx.says(&one, "left-cluster", 30)?;
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    // The machine ends, and nothing is left of it that would have to be healed.
    one.power_cut()?;
    ctx.formed(&lab, &rest, 3, 30)?;
    Ok(())
}

/// A host that has not heard of Muster, and a drop-in for what the lab needs beside the user-data: a cluster of this machine alone.
fn alone(ctx: &Context, lab: &Lab, host: &Host, more: &str) -> Result<()> {
    blank(ctx, lab, host, false)?;
    host.write("/etc/muster/conf.d/50-alone.toml", format!("servers = 1\nfounders = 1\nseeds = []\n{more}"))
}

fn is(host: &Host, file: &str, content: &str) -> bool {
    host.read(file).is_some_and(|found| String::from_utf8_lossy(&found).trim() == content)
}

/// EC2's metadata service at its address, as far as cloud-init and the agent ask it. The user-data is not in the host.
fn ec2(lab: &Lab, host: &Host, held: &Path) -> Result<Shelf> {
    let old = "/2009-04-04";
    let told = [
        (format!("{old}/meta-data/"), "instance-id\nlocal-hostname"),
        (format!("{old}/meta-data/instance-id"), "i-0123456789abcdef0"),
        (format!("{old}/meta-data/local-hostname"), host.name.as_str()),
        ("/latest/api/token".to_owned(), "a-token-for-the-metadata"),
        (
            "/latest/dynamic/instance-identity/document".to_owned(),
            r#"{"instanceId":"i-0123456789abcdef0","region":"eu-lab-1","availabilityZone":"eu-lab-1a"}"#,
        ),
    ];
    let mut files = Files::new();
    for (index, (path, content)) in told.into_iter().enumerate() {
        let file = held.join(index.to_string());
        fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
        files.insert(path, file);
    }
    files.insert(format!("{old}/user-data"), workspace().join("cloud-init/aws/user-data.yaml"));
    let state = held.join("state");
    fs::write(&state, "InService").context("write the state")?;
    files.insert(STATE.to_owned(), state);
    lab.net().on_switch("ip").args(["address", "add", &format!("{METADATA}/32"), "dev", "br0"]).ok()?;
    Shelf::open_at(&lab.net(), SocketAddrV4::new(METADATA, 80), files)
}
