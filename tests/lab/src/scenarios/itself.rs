//! The lab itself: every fault that the other scenarios rely on is seen to do what it says, without Muster.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::context::Context;
use crate::faults::{self, Fault, Kind};
use crate::host::Host;
use crate::lab::Lab;

const MARK: &str = "/root/mark";

pub(super) fn itself(ctx: &mut Context) -> Result<()> {
    let mut spec = ctx.spec(3, 3);
    spec.enabled = false;
    let lab = ctx.lab(&spec)?;
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(60))?;
    network(ctx, &lab)?;
    processes(ctx, &lab.hosts[1])?;
    disks(&lab)
}

fn network(ctx: &Context, lab: &Lab) -> Result<()> {
    let (one, two, three) = (&lab.hosts[0], &lab.hosts[1], &lab.hosts[2]);
    let reaches = |from: &Host, to: &Host| -> Result<bool> {
        let ping = ["ping", "-n", "-c1", "-W1", &to.address()];
        Ok(from.inside(&ping, Duration::from_secs(5))?.success())
    };
    ensure!(reaches(one, two)? && reaches(two, three)?, "hosts on one switch do not reach each other");
    lab.set_faults(&faults::partition(&[vec![1], vec![2, 3]]))?;
    ensure!(!reaches(one, two)? && !reaches(three, one)?, "a partition lets frames through");
    ensure!(reaches(two, three)?, "a partition cuts within a side");
    // A datagram needs no answer: the open direction of a one-way cut lets it through. Addresses are known by now.
    lab.set_faults(&[Fault { from: 1, to: 2, kind: Kind::Cut }])?;
    ensure!(!reaches(one, two)?, "a one-way cut lets frames through");
    ensure!(datagram(ctx, two, one)?, "a one-way cut cuts both ways");
    lab.set_faults(&faults::among(&[1, 2, 3], Kind::Udp))?;
    ensure!(reaches(one, two)?, "a cut of UDP also cuts ICMP");
    ensure!(!datagram(ctx, two, one)?, "a cut of UDP lets datagrams through");
    lab.set_faults(&faults::among(&[1, 2, 3], Kind::Loss(50)))?;
    let ping = ["ping", "-n", "-q", "-c60", "-i0.01", "-W1", &two.address()];
    let said = one.inside(&ping, Duration::from_secs(20))?.stdout;
    let answers =
        said.split(" received").next().and_then(|head| head.rsplit(' ').next()?.parse::<u32>().ok());
    ensure!(
        answers.is_some_and(|n| (1..45).contains(&n)),
        "half the frames lost each way, and {answers:?} of 60 answered"
    );
    lab.heal()?;
    ensure!(reaches(one, two)?, "a healed network does not carry frames");
    Ok(())
}

/// Whether a datagram of UDP arrives.
fn datagram(ctx: &Context, from: &Host, to: &Host) -> Result<bool> {
    to.shell(
        "rm -f /root/got; systemd-run --quiet --collect --unit=ear socat -u UDP-RECV:9999 CREATE:/root/got",
    )?;
    let send = format!("echo there | socat -u - UDP-SENDTO:{}:9999", to.address());
    let heard = ctx.until("a datagram", 2, || {
        from.shell(&send)?;
        Ok(to.read("/root/got").filter(|got| !got.is_empty()))
    });
    to.shell("systemctl stop ear.service")?;
    Ok(heard.is_ok())
}

fn processes(ctx: &Context, host: &Host) -> Result<()> {
    host.shell(
        "systemd-run --quiet --unit=clock sh -c 'while :; do date +%N > /root/tick; sleep 0.05; done'",
    )?;
    let tick = || host.read("/root/tick").filter(|text| !text.is_empty());
    ctx.until("a clock ticks", 5, || Ok(tick()))?;
    host.freeze()?;
    let frozen = tick();
    std::thread::sleep(Duration::from_millis(500));
    ensure!(tick() == frozen, "a frozen host's clock ticks");
    host.thaw()?;
    ctx.until("a thawed host's clock ticks", 5, || Ok((tick() != frozen).then_some(())))?;
    host.freeze()?;
    host.power_cut()?;
    ensure!(
        host.running().is_none() && host.cgroup().processes().is_empty(),
        "something outlives a power cut"
    );
    host.start()?;
    host.booted(Duration::from_secs(30))?;
    let before = host.running();
    host.reboot()?;
    host.booted(Duration::from_secs(30))?;
    ensure!(host.running() != before, "a reboot left the same systemd running");
    Ok(())
}

fn disks(lab: &Lab) -> Result<()> {
    let (one, three) = (&lab.hosts[0], &lab.hosts[2]);
    let id = |host: &Host| host.read("/etc/machine-id");
    one.write(MARK, "kept")?;
    let first = id(one);
    one.power_cut()?;
    one.start()?;
    one.booted(Duration::from_secs(30))?;
    ensure!(one.read(MARK).is_some() && id(one) == first, "a power cut changed the disk");
    three.power_off()?;
    three.clone_disk(one)?;
    three.start()?;
    three.booted(Duration::from_secs(30))?;
    ensure!(three.read(MARK).is_some() && id(three) == first, "a clone has another disk");
    let name = three.shell("hostname")?;
    ensure!(name.trim() == three.name, "a clone is named {name}");
    one.wipe()?;
    one.start()?;
    one.booted(Duration::from_secs(30))?;
    ensure!(one.read(MARK).is_none() && id(one) != first, "a wiped host kept its disk");
    Ok(())
}
