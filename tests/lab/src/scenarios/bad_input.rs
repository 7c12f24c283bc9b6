//! Bad input that lies in files and names: a wrong binary, half a configuration, a torn ledger, a taken name.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::bad_host::one;
use super::context::Context;
use crate::conf;
use crate::faults;
use crate::host::Host;
use crate::lab::Spec;
use crate::rules;
use crate::setup::layer;

const LEDGER: &str = "/var/lib/muster/ledger.json";

fn sums_file() -> String {
    format!("{}/{}", conf::K3S_SOURCE, layer::k3s_names().1)
}

pub(super) fn checksum(ctx: &mut Context) -> Result<()> {
    let (file, (name, _)) = (sums_file(), layer::k3s_names());
    let right = format!("{}  {name}\n", layer::sha256(&ctx.binaries.k3s)?);
    let wrong = format!("{}  {name}\n", "0123456789abcdef".repeat(4));
    one(
        ctx,
        &rules::CHECKSUM,
        |_, host| host.write(&file, wrong),
        |_, host| {
            ensure!(!host.path("/usr/local/bin/k3s").exists(), "the wrong binary was installed");
            host.write(&file, right)
        },
    )
}

pub(super) fn architecture(ctx: &mut Context) -> Result<()> {
    let (name, _) = layer::k3s_names();
    let binary = format!("{}/{name}", conf::K3S_SOURCE);
    let right = std::fs::read(&ctx.binaries.k3s).context("read the k3s binary")?;
    let right_sum = format!("{}  {name}\n", layer::sha256(&ctx.binaries.k3s)?);
    let mut wrong = right.clone();
    // e_machine of the ELF header: 183 is AArch64, 62 is x86-64.
    let machine = if std::env::consts::ARCH == "aarch64" { 62 } else { 183 };
    *wrong.get_mut(18).context("the k3s binary is shorter than an ELF header")? = machine;
    one(
        ctx,
        &rules::ARCHITECTURE,
        |_, host| {
            host.write_mode(&binary, &wrong, 0o755)?;
            let sum = layer::sha256(&host.path(&binary))?;
            host.write(&sums_file(), format!("{sum}  {name}\n"))
        },
        |_, host| {
            ensure!(!host.path("/usr/local/bin/k3s").exists(), "the wrong binary was installed");
            host.write_mode(&binary, &right, 0o755)?;
            host.write(&sums_file(), right_sum)
        },
    )
}

pub(super) fn half_configuration(ctx: &mut Context) -> Result<()> {
    let mut whole = Vec::new();
    let keep = &mut whole;
    one(
        ctx,
        &rules::CONFIGURATION,
        |_, host| {
            let text = host.read(conf::CONFIG_FILE).context("there is no configuration")?;
            // In the middle of a list: what is before it is whole, so that no shorter file is good by chance.
            let list =
                text.windows(2).rposition(|pair| pair == b"[\"").context("no list in the configuration")?;
            host.write(conf::CONFIG_FILE, text.get(..list + 4).unwrap_or_default())?;
            host.write("/root/whole.toml", text)
        },
        |_, host| {
            *keep = host.read("/root/whole.toml").unwrap_or_default();
            host.write(conf::CONFIG_FILE, keep.as_slice())
        },
    )
}

/// Every kind of string that is no cluster token, one after the other in the same file; `muster why` names each.
pub(super) fn token(ctx: &mut Context) -> Result<()> {
    let spec = Spec { enabled: false, ..ctx.spec(1, 1) };
    let lab = ctx.lab(&spec)?;
    let host = &lab.hosts[0];
    let whole = host.read(conf::TOKEN_FILE).context("there is no token")?;
    let cases = [
        ("", 0o600, &rules::TOKEN_EMPTY),
        ("hunter2", 0o600, &rules::TOKEN_SHORT),
        ("K10deadbeef::server:0123456789abcdef", 0o600, &rules::TOKEN_K10),
        ("abcdef.0123456789abcdef", 0o600, &rules::TOKEN_BOOTSTRAP),
        ("a-token-of-24-characters", 0o644, &rules::TOKEN_OPEN),
    ];
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(30))?;
    for (at, (token, mode, complaint)) in cases.into_iter().enumerate() {
        host.write_mode(conf::TOKEN_FILE, format!("{token}\n"), mode)?;
        if at == 0 {
            host.shell("systemctl start --no-block muster.service")?;
        }
        ctx.complains(host, complaint, 30)?;
        let said = host.inside(&["muster", "why"], Duration::from_secs(10))?;
        let text = [said.stdout, said.stderr].concat();
        ensure!(!said.status.success(), "`muster why` of a parked node exits with 0");
        ensure!(text.contains("token"), "`muster why` does not name the token: {text}");
        ensure!(token.is_empty() || !text.contains(token), "`muster why` shows the refused token: {text}");
    }
    host.write_mode(conf::TOKEN_FILE, whole, 0o600)?;
    let began = Instant::now();
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ctx.fact_seconds("serving_after_mending_seconds", began);
    Ok(())
}

pub(super) fn torn_ledger(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(1, 1))?;
    let host = &lab.hosts[0];
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    let before = ctx.certificate(&lab.hosts)?;
    let running = pid(host)?;
    host.shell("systemctl stop muster.service")?;
    let whole = host.read(LEDGER).context("there is no ledger")?;
    host.write_mode(LEDGER, whole.get(..whole.len() / 2).unwrap_or_default(), 0o600)?;
    // The old word must not be taken for a new one.
    host.unlink("/run/muster/status.json");
    host.shell("systemctl start --no-block muster.service")?;
    ctx.complains(host, &rules::LEDGER, 30)?;
    ensure!(!host.armed(), "the node is configured to found a cluster");
    ensure!(pid(host)? == running, "k3s did not run on");
    host.write_mode(LEDGER, whole, 0o600)?;
    let began = Instant::now();
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ctx.fact_seconds("serving_after_mending_seconds", began);
    ensure!(ctx.certificate(&lab.hosts)?.identity() == before.identity(), "another certificate");
    Ok(())
}

fn pid(host: &Host) -> Result<String> {
    host.shell("systemctl show --value -p MainPID k3s.service")
}

pub(super) fn duplicate_name(ctx: &mut Context) -> Result<()> {
    let mut lab = ctx.up(3, 3)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    let twin = ctx.add_host(&mut lab, 4, "node2")?;
    twin.start()?;
    ctx.complains(&twin, &rules::NAME_TAKEN, 45)?;
    ctx.formed(&lab, &lab.hosts[..3], 3, 10).context("the rest was disturbed")?;
    twin.write("/etc/hostname", "node4\n")?;
    twin.shell("hostname node4")?;
    let began = Instant::now();
    let four = Host { name: "node4".to_owned(), ..twin };
    let all = [&lab.hosts[..3], std::slice::from_ref(&four)].concat();
    ctx.formed(&lab, &all, 3, 60)?;
    ctx.fact_seconds("joined_after_renaming_seconds", began);
    Ok(())
}

pub(super) fn seeds(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(3, 3))?;
    lab.set_faults(&faults::partition(&[vec![1], vec![2], vec![3]]))?;
    lab.start(&lab.hosts)?;
    for host in &lab.hosts {
        ctx.complains(host, &rules::SEEDS, 30)?;
    }
    std::thread::sleep(Duration::from_secs(2));
    lab.heal()?;
    let began = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("formed_after_mending_seconds", began);
    Ok(())
}
