//! The machine itself, under a real systemd: ids that two machines share, the way between them, the clock, a package on request.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::context::Context;
use crate::conf;
use crate::host::Host;
use crate::rules;

/// Any id will do, as long as both have it.
const ID: &str = "0123456789abcdef0123456789abcdef\n";

pub(super) fn copied_id(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&ctx.spec(2, 3))?;
    for host in &lab.hosts {
        host.write("/etc/machine-id", ID)?;
    }
    lab.start(&lab.hosts)?;
    let (one, two) = (&lab.hosts[0], &lab.hosts[1]);
    for (host, other) in [(one, two), (two, one)] {
        let why = ctx.until(&format!("{} says whose id it has", host.name), 30, || {
            let status = host.status().unwrap_or_default();
            Ok(status.host.into_iter().find(|why| why.rule == rules::SHARED_ID))
        })?;
        ensure!(why.detail.contains(&other.name), "{} names somebody else: {}", host.name, why.detail);
        let said = host.inside(&["muster", "why"], Duration::from_secs(5))?.stdout;
        ensure!(said.contains(rules::SHARED_ID), "`muster why` does not say it: {said}");
    }
    // The uuid is that of the machine outside, the hardware addresses are their own.
    let others = one.status().unwrap_or_default().host;
    ensure!(
        others.iter().all(|why| !why.rule.ends_with("-shared") || why.rule == rules::SHARED_ID),
        "{others:?}"
    );
    ctx.until("the agent has heard of its clock from outside its sandbox", 30, || {
        let said = one.journal(Some("muster.service"), &[])?;
        Ok(said.lines().find(|line| line.contains("clock asked clock=Yes(")).map(str::to_owned))
    })?;
    way(ctx, one, two)
}

/// The doctor on the way between two hosts, whole and with an interface that swallows large packets.
fn way(ctx: &mut Context, from: &Host, to: &Host) -> Result<()> {
    let address = to.address();
    let seen = || -> Result<Value> {
        let command = ["muster", "--output", "json", "doctor", "--peer", &address];
        let said = from.inside(&command, Duration::from_secs(30))?.stdout;
        serde_json::from_str(&said).with_context(|| format!("the doctor printed {said}"))
    };
    let measured = |said: &Value| {
        let path = &said["examined"]["paths"][0];
        (path["bytes"]["Yes"].as_u64(), path["silent"].as_bool())
    };
    let shared = |said: &Value| {
        let findings = said["findings"].as_array().cloned().unwrap_or_default();
        findings.iter().any(|finding| finding["row"] == "machine-id")
    };
    let whole = seen()?;
    ensure!(measured(&whole) == (Some(1_500), Some(false)), "the whole way: {}", whole["examined"]["paths"]);
    ensure!(shared(&whole), "the doctor does not repeat what the agent heard: {}", whole["findings"]);
    to.shell("ip link set dev \"$(ip -o -4 route show default | cut -d' ' -f5)\" mtu 1400")?;
    let narrow = seen()?;
    ensure!(
        measured(&narrow) == (Some(1_400), Some(true)),
        "the narrow way: {}",
        narrow["examined"]["paths"]
    );
    let findings = narrow["findings"].as_array().cloned().unwrap_or_default();
    let found =
        findings.iter().find(|finding| finding["row"] == "peer.mtu").context("no finding on the way")?;
    ctx.fact("line", found["why"]["detail"].clone());
    Ok(())
}

/// A repository of one small package in a file system: what apt sees of a mirror, without a network.
const REPOSITORY: &str = r#"set -e
mkdir -p /root/deb/DEBIAN /root/deb/usr/sbin /opt/repository
printf '#!/bin/sh\n' >/root/deb/usr/sbin/mount.nfs
chmod 755 /root/deb/usr/sbin/mount.nfs
printf 'Package: nfs-common\nVersion: 99\nArchitecture: all\nMaintainer: lab <lab@localhost>\nDescription: one file\n' >/root/deb/DEBIAN/control
cd /opt/repository
dpkg-deb --root-owner-group --build /root/deb nfs-common.deb >/dev/null
{ cat /root/deb/DEBIAN/control
  echo "Filename: ./nfs-common.deb"
  echo "Size: $(stat -c %s nfs-common.deb)"
  echo "SHA256: $(sha256sum nfs-common.deb | cut -d' ' -f1)"; } >Packages
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/opt/repository ./' >/etc/apt/sources.list"#;

pub(super) fn package(ctx: &mut Context) -> Result<()> {
    let mut spec = ctx.spec(1, 1);
    spec.enabled = false;
    let lab = ctx.lab(&spec)?;
    let host = &lab.hosts[0];
    host.write(conf::DROP_IN, "[host]\npackages = [\"nfs\"]\n")?;
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(30))?;
    host.shell(REPOSITORY).context("make a repository")?;
    let state =
        || host.inside(&["dpkg-query", "-W", "-f=${db:Status-Abbrev}", "nfs-common"], Duration::from_secs(5));
    ensure!(!state()?.stdout.starts_with("ii"), "the package is there before anybody asked for it");
    // The agent's own sandbox cannot write to /usr: apt runs outside of it.
    host.shell("systemctl start --no-block muster.service")?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ensure!(state()?.stdout.starts_with("ii"), "the agent did not install the package");
    host.shell("test -x /usr/sbin/mount.nfs")?;
    let journal = host.read("/var/lib/muster/host-journal.jsonl").unwrap_or_default();
    ensure!(String::from_utf8_lossy(&journal).contains("\"package\""), "the journal does not name it");
    host.shell("systemctl stop muster.service && muster revert >/root/reverted")?;
    ensure!(!state()?.stdout.starts_with("ii"), "revert left the package that Muster installed");
    // A package that was there before is not Muster's to remove.
    host.shell("apt-get -q -y install nfs-common >/dev/null 2>&1 && muster apply >/root/applied && muster revert >>/root/reverted")?;
    ensure!(state()?.stdout.starts_with("ii"), "revert removed a package that Muster had not installed");
    Ok(())
}
