//! A network that is divided before there is a cluster.

use std::time::Instant;

use anyhow::{Result, ensure};
use rand::seq::SliceRandom;

use super::context::Context;
use crate::faults;
use crate::host::Host;
use crate::rules;

pub(super) fn partition(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(5, 3))?;
    let mut numbers = lab.numbers();
    numbers.shuffle(&mut ctx.dice);
    let (few, many) = numbers.split_at(2);
    ctx.fact("sides", format!("{few:?} | {many:?}"));
    lab.set_faults(&faults::partition(&[few.to_vec(), many.to_vec()]))?;
    let side = |side: &[u8]| -> Vec<Host> {
        lab.hosts.iter().filter(|host| side.contains(&host.index)).cloned().collect()
    };
    let (few, many) = (side(few), side(many));
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    ctx.formed(&lab, &many, 3, 120)?;
    ctx.fact_seconds("three_formed_seconds", began);
    for host in &few {
        let why = ctx.says(host, rules::WAITING, 30)?;
        ctx.fact("line", format!("{}: {}", why.rule, why.detail));
        ensure!(host.certificate().is_none(), "{} holds a certificate across the cut", host.name);
    }
    lab.heal()?;
    let healed = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("whole_after_heal_seconds", healed);
    ctx.certificate(&lab.hosts)?;
    Ok(())
}
