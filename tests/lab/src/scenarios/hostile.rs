//! A hostile segment: noise, replays, a path that drops what it likes, another group, copied disks, and a search for secrets.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::context::{CLOSELY, Context};
use super::golden;
use crate::check::Checker;
use crate::conf;
use crate::faults::{self, Kind};
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::rules;
use crate::scan::{self, Report};
use crate::setup::layer;
use crate::wire::{GOSSIP, Stranger, Tap};

/// Datagrams of each kind in one volley, to each host; a volley every ten milliseconds.
const VOLLEY: usize = 5;

fn gossip(host: &Host) -> Result<SocketAddrV4> {
    Ok(SocketAddrV4::new(host.address().parse().context("a host's address")?, GOSSIP))
}

/// What the stranger sends, each kind from a port of its own, so that answers are told apart.
struct Noise {
    /// Random bytes of any length.
    junk: Stranger,
    /// Datagrams of the group with some bytes changed.
    changed: Stranger,
    /// Datagrams of the group as they were.
    replayed: Stranger,
}

impl Noise {
    fn volley(&mut self, tap: &Tap, targets: &[SocketAddrV4], dice: &mut StdRng) {
        let heard = tap.heard();
        for &target in targets {
            for _ in 0..VOLLEY {
                let mut junk = vec![0_u8; dice.random_range(0..1_400)];
                dice.fill(&mut junk[..]);
                self.junk.send(&junk, target);
                if heard.is_empty() {
                    continue;
                }
                let own = &heard[dice.random_range(0..heard.len())];
                if own.bytes.is_empty() {
                    continue;
                }
                self.replayed.send(&own.bytes, target);
                let mut changed = own.bytes.clone();
                for _ in 0..dice.random_range(1..4) {
                    let at = dice.random_range(0..changed.len());
                    changed[at] ^= dice.random_range(1..=255_u8);
                }
                changed.truncate(dice.random_range(changed.len() / 2..=changed.len()));
                self.changed.send(&changed, target);
            }
        }
        for stranger in [&mut self.junk, &mut self.changed, &mut self.replayed] {
            stranger.read();
        }
    }
}

pub(super) fn noise(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(3, 3))?;
    let tap = Tap::start(&lab.net(), GOSSIP)?;
    let stranger = || Stranger::new(&lab.net());
    let noise = Noise { junk: stranger()?, changed: stranger()?, replayed: stranger()? };
    let targets: Vec<_> = lab.hosts.iter().map(gossip).collect::<Result<_>>()?;
    let (noise, stop) = (Mutex::new(noise), AtomicBool::new(false));
    let mut dice = StdRng::seed_from_u64(ctx.dice.random());
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                noise
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .volley(&tap, &targets, &mut dice);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let result = under_noise(ctx, &lab);
        stop.store(true, Ordering::Relaxed);
        result
    });
    result?;
    let mut noise = noise.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, stranger) in
        [("junk", &mut noise.junk), ("changed", &mut noise.changed), ("replayed", &mut noise.replayed)]
    {
        stranger.read_last();
        let (sent, answers) = (stranger.sent, stranger.answers);
        ctx.fact(&format!("{name}_datagrams"), stranger.datagrams);
        ctx.fact(&format!("{name}_bytes"), sent);
        ctx.fact(&format!("{name}_answers"), answers.datagrams);
        ctx.fact(&format!("{name}_answered_bytes"), answers.bytes);
        ensure!(stranger.datagrams > 500, "only {} {name} datagrams were sent", stranger.datagrams);
        // A replay from an address that its sender never had is challenged, which takes the key to answer. Nothing else is answered.
        if name == "replayed" {
            ensure!(
                answers.datagrams > 0,
                "no replay was challenged: the answers were not looked at, or nothing was replayed"
            );
            ensure!(answers.others == 0, "{} answers to replays are no challenges", answers.others);
            ensure!(answers.bytes <= 3 * sent, "{} bytes answer {sent} bytes of replays", answers.bytes);
        } else {
            ensure!(answers.datagrams == 0, "{answers:?} to {sent} bytes of {name}");
        }
    }
    let dropped: u64 = lab.hosts.iter().filter_map(Host::status).map(|s| s.gossip.dropped_unopened).sum();
    ctx.fact("dropped_unopened", dropped);
    ensure!(dropped > 1_000, "the hosts have counted only {dropped} dropped datagrams");
    Ok(())
}

/// The group forms, loses a machine that replays cannot bring back, and takes it back when it really returns.
fn under_noise(ctx: &mut Context, lab: &Lab) -> Result<()> {
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    ctx.formed(lab, &lab.hosts, 3, 120)?;
    ctx.fact_seconds("formed_seconds", began);
    let (dead, others) = (&lab.hosts[2], &lab.hosts[..2]);
    let id = dead.status().unwrap_or_default().node.id;
    let sees =
        |host: &Host| host.status()?.peers.into_iter().find(|peer| peer.id == id).map(|peer| peer.live);
    dead.power_cut()?;
    for host in others {
        ctx.until(&format!("{} notices the death", host.name), 30, || {
            Ok((sees(host) == Some(false)).then_some(()))
        })?;
    }
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(8) {
        for host in others {
            ensure!(sees(host) == Some(false), "replays brought {} back to life on {}", dead.name, host.name);
        }
        std::thread::sleep(CLOSELY);
    }
    dead.start()?;
    ctx.formed(lab, &lab.hosts, 3, 120)?;
    Ok(())
}

/// Somebody on the path lets the small datagrams of one machine through and drops the large ones, which carry what it says.
pub(super) fn selective_path(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(3, 3))?;
    let deaf = [(1, 2), (1, 3)].map(|(from, to)| faults::Fault { from, to, kind: Kind::Large(300) });
    lab.set_faults(&deaf)?;
    lab.start(&lab.hosts)?;
    let why = ctx.says(&lab.hosts[1], rules::WAITING, 60)?;
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(8) {
        let holder = lab.hosts.iter().find(|host| host.certificate().is_some());
        ensure!(
            holder.is_none(),
            "{:?} holds a certificate: a vote was cast unheard",
            holder.map(|h| &h.name)
        );
        std::thread::sleep(CLOSELY);
    }
    lab.heal()?;
    let healed = Instant::now();
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ctx.fact_seconds("formed_after_heal_seconds", healed);
    Ok(())
}

/// Two groups of two machines on one segment, each given the addresses of all four.
pub(super) fn two_groups(ctx: &mut Context) -> Result<()> {
    let mut spec = ctx.spec(4, 1);
    spec.conf.founders = Some(2);
    let lab = Lab::create(&spec, &ctx.binaries, &ctx.rootfs)?;
    ctx.lab = Some(lab.clone());
    let (one, two) = lab.hosts.split_at(2);
    let token = layer::token();
    for host in two {
        host.write_mode(conf::TOKEN_FILE, format!("{token}\n"), 0o600)?;
    }
    ctx.checker = Some(Checker::start(one));
    let second = Checker::start(two);
    lab.start(&lab.hosts)?;
    let began = Instant::now();
    for group in [one, two] {
        ctx.formed(&lab, group, 1, 90)?;
    }
    ctx.fact_seconds("both_formed_seconds", began);
    let (looks, violations) = second.finish();
    ensure!(looks > 0 && violations.is_empty(), "invariant broken: {}", violations.join("; "));
    let certificates = [ctx.certificate(one)?, ctx.certificate(two)?];
    ensure!(certificates[0].identity() != certificates[1].identity(), "two tokens, and one cluster");
    // Who has found its group asks no seed again for minutes, and a host that listens later than all others is never asked: an agent of
    // each group is started again, and asks everybody.
    for (asks, hear) in [(&one[0], two), (&two[0], one)] {
        asks.shell("systemctl restart muster.service")?;
        for host in hear {
            ctx.until(&format!("{} hears the other group", host.name), 60, || {
                Ok(host.status().filter(|status| status.gossip.dropped_unopened > 0))
            })?;
        }
    }
    for (group, others) in [(one, two), (two, one)] {
        let strangers: BTreeSet<_> = others.iter().map(|host| host.name.clone()).collect();
        for host in group {
            let status = ctx.until(&format!("{} says whom it knows", host.name), 30, || Ok(host.status()))?;
            let known = status.peers.iter().find(|peer| strangers.contains(&peer.name));
            ensure!(known.is_none(), "{} knows {:?} of the other group", host.name, known.map(|p| &p.name));
        }
    }
    Ok(())
}

/// A machine that is a copy of another one, identity and all, switched on beside it.
pub(super) fn copied_disk(ctx: &mut Context) -> Result<()> {
    let mut lab = ctx.up(3, 3)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    let before = ctx.certificate(&lab.hosts)?;
    // The copy is not watched: that it has the original's identity is the point.
    let copy = lab.add_host(4, "node4")?;
    ctx.lab = Some(lab.clone());
    let original = lab.hosts[2].clone();
    copy.clone_disk(&original)?;
    copy.start()?;
    let (who, why) = ctx.until("the copy or the original says that it is not alone", 60, || {
        let found = [&copy, &original].into_iter().find_map(|host| {
            let why = host.status()?.why.into_iter().find(|why| why.rule == rules::CLONED)?;
            Some((host.name.clone(), why))
        });
        Ok(found)
    })?;
    ctx.fact("who", who);
    ctx.fact("line", format!("{}: {}", why.rule, why.detail));
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(10) {
        let serves = copy.status().is_some_and(|status| status.phase == "serving");
        ensure!(!serves, "the copy serves beside the original");
        std::thread::sleep(CLOSELY);
    }
    copy.power_off()?;
    // Nobody had to boot it to know: as an image it is refused.
    let refused = golden::verified(&golden::image(ctx, "verify", &copy.root(), &["--output", "json"])?)?;
    ensure!(
        refused.contains("ledger"),
        "the copied disk is not refused for its ledger, only for {refused:?}"
    );
    // The copy has made claims that this disk never made: the original is given later ones by a start of its agent, or two.
    let members = lab.hosts[..3].to_vec();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(3));
        if original.status().is_some_and(|status| status.says(rules::CLONED)) {
            original.shell("systemctl restart muster.service")?;
        }
    }
    ctx.formed(&lab, &members, 3, 90)?;
    ensure!(ctx.certificate(&members)?.identity() == before.identity(), "the certificate changed");
    Ok(())
}

/// A disk that has run once, ledger and all, and was never sealed is put into a second machine before there is a cluster.
pub(super) fn copied_first_boot(ctx: &mut Context) -> Result<()> {
    let lab = Lab::create(&ctx.spec(3, 3), &ctx.binaries, &ctx.rootfs)?;
    ctx.lab = Some(lab.clone());
    let [original, copy, third] = lab.hosts.as_slice() else { bail!("three hosts were asked for") };
    // The copy is not watched: that it has the original's identity is the point.
    ctx.checker = Some(Checker::start(&[original.clone(), third.clone()]));
    original.start()?;
    let alone = ctx.says(original, rules::NO_PEER, 60)?;
    ctx.fact("alone", alone.rule);
    original.power_off()?;
    copy.clone_disk(original)?;
    lab.start(&lab.hosts)?;
    for host in [original, copy] {
        let why = ctx.says(host, rules::CLONED, 60)?;
        ctx.fact(&format!("{}_line", host.name), format!("{}: {}", why.rule, why.detail));
    }
    let id = |host: &Host| host.status().unwrap_or_default().node.id;
    ensure!(id(original) == id(copy) && !id(copy).is_empty(), "the copy has an identity of its own");
    // Two machines are left that differ, and three votes are needed: nobody may count the copy as one of them.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(10) {
        let holder = lab.hosts.iter().find(|host| host.certificate().is_some() || host.armed());
        ensure!(holder.is_none(), "{:?} founds or holds a certificate", holder.map(|host| &host.name));
        std::thread::sleep(CLOSELY);
    }
    // As its line says.
    copy.shell("systemctl stop muster.service && mv /var/lib/muster /var/lib/muster-copied && systemctl start muster.service")?;
    ctx.until("the copy has an identity of its own", 30, || {
        let mine = id(copy);
        Ok((!mine.is_empty() && mine != id(original)).then_some(()))
    })?;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(3));
        if original.status().is_some_and(|status| status.says(rules::CLONED)) {
            original.shell("systemctl restart muster.service")?;
        }
    }
    if let Some(checker) = &ctx.checker {
        checker.add(copy);
    }
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ctx.certificate(&lab.hosts)?;
    Ok(())
}

/// After a formation no secret stands anywhere it must not; and the search finds what is planted.
pub(super) fn secrets(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&Spec { ..ctx.spec(4, 3) })?;
    let tap = Tap::start(&lab.net(), GOSSIP)?;
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    let heard = tap.heard();
    ensure!(heard.len() > 100, "only {} datagrams were heard", heard.len());
    let mut report = Report::default();
    for host in &lab.hosts {
        let needles = scan::needles(host)?;
        report.host(host, &needles)?;
        report.wire(&heard, &needles);
    }
    ctx.fact("places", report.places);
    ctx.fact("datagrams", heard.len());
    ensure!(report.hits.is_empty(), "{}", report.hits.join("; "));
    no_core(ctx, &lab.hosts[1])?;
    plant(ctx, &lab, &tap)
}

/// Core files on a host's disk, wherever they are.
fn cores(host: &Host) -> Result<BTreeSet<String>> {
    let found =
        host.shell("find / -xdev -type f -regex '.*/core\\(\\.[0-9]+\\)?' -size +0 2>/dev/null; true")?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// An agent that is made to dump its memory does not; a program beside it that may does.
fn no_core(ctx: &mut Context, host: &Host) -> Result<()> {
    let before = cores(host)?;
    let abort = "pid=$(systemctl show -P MainPID muster.service); readlink /proc/$pid/cwd; kill -ABRT $pid; \
                 while [ -e /proc/$pid ]; do sleep 0.1; done";
    let place = host.shell(abort)?.trim().to_owned();
    let result = host.journal(Some("muster.service"), &[])?;
    ensure!(result.contains("ABRT"), "the agent did not die of SIGABRT");
    let left: Vec<String> = cores(host)?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "the agent has left its memory in {}", left.join(", "));
    let planted = format!(
        "systemd-run --quiet --wait --collect -p LimitCORE=infinity -p WorkingDirectory={place} sh -c 'kill -ABRT $$$$'; true"
    );
    host.shell(&planted)?;
    let found: Vec<String> = cores(host)?.difference(&before).cloned().collect();
    ctx.fact("cores_of_another_program", found.len());
    ensure!(!found.is_empty(), "no program leaves a core here: that the agent left none shows nothing");
    for core in found {
        host.unlink(&core);
    }
    Ok(())
}

/// Puts the token where it must not be, in each kind of place, and searches again.
fn plant(ctx: &mut Context, lab: &Lab, tap: &Tap) -> Result<()> {
    let host = &lab.hosts[0];
    let needles = scan::needles(host)?;
    let token = String::from_utf8_lossy(&host.read(conf::TOKEN_FILE).unwrap_or_default()).trim().to_owned();
    host.write("/var/lib/planted", &token)?;
    host.write_mode("/root/planted", format!("[Service]\nEnvironment=PLANTED={token}\n"), 0o600)?;
    host.shell(&format!(
        "logger planted {token}; systemd-run --quiet --collect --unit=planted sh -c 'sleep 600; : {token}'; \
         PLANTED={token} systemd-run --quiet --collect --unit=planted-env --setenv=PLANTED sleep 600"
    ))?;
    let say = format!("printf %s {token} | socat -u - UDP-SENDTO:{}:{GOSSIP}", host.address());
    lab.hosts[1].shell(&say)?;
    std::thread::sleep(Duration::from_secs(1));
    let mut report = Report::default();
    report.host(host, &needles)?;
    report.wire(&tap.heard(), &needles);
    ctx.fact("planted_found", report.hits.len());
    for place in ["/var/lib/planted", "cmdline", "environ", "journal", "datagram"] {
        let found = report.hits.iter().any(|hit| hit.starts_with("the token") && hit.contains(place));
        ensure!(found, "the token was planted and not found: {place}; found: {}", report.hits.join("; "));
    }
    ensure!(!report.hits.iter().any(|hit| hit.contains("/root/planted")), "a file of mode 600 is no hit");
    Ok(())
}
