//! What a person does with a lab that stands: look at it, break it, remove it.

use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Output;
use crate::host::Host;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::run::Run;
use crate::{faults, net, sweep, view, wait};

pub(super) fn status(name: &str, output: Output) -> Result<()> {
    let lab = Lab::load(name)?;
    let rows = view::rows(&lab);
    if output == Output::Json {
        println!("{}", view::to_json(&rows));
        return Ok(());
    }
    print!("{}", view::to_table(&rows));
    match view::certificate(&rows) {
        (Some(certificate), true) => print!("\nBirth certificate\n{}", view::certificate_text(certificate)),
        (Some(_), false) => println!("\nThe nodes hold DIFFERENT certificates"),
        (None, _) => println!("\nNo birth certificate yet"),
    }
    Ok(())
}

pub(super) fn why(name: &str, host: &str) -> Result<ExitCode> {
    let lab = Lab::load(name)?;
    let host = lab.host(host)?;
    if host.running().is_none() {
        println!("{} is off: `cargo lab start {}`", host.name, host.name);
        return Ok(ExitCode::SUCCESS);
    }
    host.enter()?.args(["/usr/local/bin/muster", "why"]).interactive().map(code)
}

pub(super) fn logs(name: &str, host: &str, follow: bool, unit: Option<&str>) -> Result<ExitCode> {
    let lab = Lab::load(name)?;
    let host = lab.host(host)?;
    let mut run = Run::new("journalctl").arg("-D").arg(host.root().join("var/log/journal"));
    run = run.args(["-o", "short-monotonic", "--no-hostname", "-q"]);
    run = match unit {
        Some(unit) => run.args(["-u", unit]),
        None => run.args(["-u", "muster", "-u", "k3s", "-u", "k3s-agent"]),
    };
    if follow {
        run = run.arg("-f");
    }
    run.interactive().map(code)
}

pub(super) fn shell(name: &str, host: &str, command: &[String]) -> Result<ExitCode> {
    let lab = Lab::load(name)?;
    let run = lab.host(host)?.enter()?;
    let run = if command.is_empty() { run.args(["bash", "-l"]) } else { run.args(command) };
    run.interactive().map(code)
}

pub(super) fn kubectl(name: &str, args: &[String]) -> Result<ExitCode> {
    let lab = Lab::load(name)?;
    let rows = view::rows(&lab);
    let serving = rows.iter().find(|row| row.role == "server" && row.phase == "serving");
    let any = serving.or_else(|| rows.iter().find(|row| row.role == "server"));
    let Some(row) = any else { bail!("no host of this lab is a server yet: `cargo lab status`") };
    let run = lab.host(&row.name)?.enter()?.args(["/usr/local/bin/k3s", "kubectl"]).args(args);
    run.interactive().map(code)
}

pub(super) fn watch(name: &str) -> Result<()> {
    let lab = Lab::load(name)?;
    let mut progress = Progress::new(false);
    loop {
        progress.look(&lab);
        std::thread::sleep(Duration::from_millis(250));
        if wait::stopping() {
            return Ok(());
        }
    }
}

pub(super) fn on_host(name: &str, host: &str, done: &str, act: impl Fn(&Host) -> Result<()>) -> Result<()> {
    let lab = Lab::load(name)?;
    let host = lab.host(host)?;
    act(host)?;
    println!("{}: {done}", host.name);
    Ok(())
}

pub(super) fn add(name: &str) -> Result<()> {
    let mut lab = Lab::load(name)?;
    let index = lab.numbers().into_iter().max().unwrap_or_default() + 1;
    let host = lab.add_host(index, &format!("node{index}"))?;
    host.start()?;
    println!("{}: powered on at {}", host.name, net::address(index));
    Ok(())
}

pub(super) fn partition(name: &str, groups: &str) -> Result<()> {
    let lab = Lab::load(name)?;
    let groups = faults::parse_groups(groups, &lab.numbers())?;
    lab.set_faults(&faults::partition(&groups))?;
    let names = |group: &Vec<u8>| group.iter().map(|n| format!("node{n}")).collect::<Vec<_>>().join(" ");
    println!("{}", groups.iter().map(names).collect::<Vec<_>>().join("  |  "));
    Ok(())
}

pub(super) fn heal(name: &str) -> Result<()> {
    Lab::load(name)?.heal()?;
    println!("the network is whole");
    Ok(())
}

pub(super) fn down(name: &str, all: bool) -> Result<()> {
    let labs = sweep::labs();
    let gone: Vec<String> = if all { labs } else { labs.into_iter().filter(|lab| lab == name).collect() };
    if gone.is_empty() {
        println!("nothing to remove");
    }
    for lab in gone {
        if all && let Some(owner) = Lab::load(&lab).ok().and_then(|lab| lab.owner()) {
            println!("lab `{lab}` is left alone: process {owner} is at work in it");
            continue;
        }
        sweep::remove(&lab).with_context(|| format!("remove lab {lab}"))?;
        println!("lab `{lab}` removed");
    }
    Ok(())
}

fn code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
