//! Firewalls on request, with the real programs: opened by `muster apply`, listed by themselves, closed again by `muster revert`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::context::Context;
use crate::conf;
use crate::host::Host;
use crate::run::Run;

/// What apt fetches of a package for a host: the package itself and what the host lacks of its dependencies. The hosts have no way to
/// a mirror, so it is fetched outside, for the host's own list of packages.
fn hand(host: &Host, package: &str) -> Result<()> {
    let dir = tempfile::tempdir().context("a place for packages")?;
    let status = dir.path().join("status");
    std::fs::write(&status, host.read("/var/lib/dpkg/status").context("the host has no list of packages")?)
        .context("copy the list of packages")?;
    std::fs::create_dir(dir.path().join("partial")).context("a place for packages on their way")?;
    let fetch = || {
        Run::new("apt-get")
            .args(["-qq", "-y", "install", "--no-install-recommends", "--download-only"])
            .args(["-o", "APT::Sandbox::User=root", "-o"])
            .arg(format!("Dir::Cache::archives={}", dir.path().display()))
            .args(["-o", &format!("Dir::State::status={}", status.display()), package])
            .within(Duration::from_secs(300))
            .ok()
    };
    if fetch().is_err() {
        Run::new("apt-get").args(["-qq", "update"]).within(Duration::from_secs(300)).ok()?;
        fetch().with_context(|| format!("fetch {package}"))?;
    }
    let files = std::fs::read_dir(dir.path()).context("look at the packages")?;
    let files = files.filter_map(|entry| Some(entry.ok()?.path()));
    for path in files.filter(|path| path.extension().is_some_and(|end| end == "deb")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let there = Path::new("/root/debs").join(name).display().to_string();
        host.write(&there, std::fs::read(&path).context("read a package")?)?;
    }
    let install = "DEBIAN_FRONTEND=noninteractive dpkg -i /root/debs/*.deb >/root/installed 2>&1 || { tail -n 20 /root/installed >&2; false; }";
    let done = host.inside(&["sh", "-c", install], Duration::from_secs(120))?;
    ensure!(done.success(), "install {package}: {}", done.stderr);
    host.shell("rm -r /root/debs").map(drop)
}

/// What the host says of its firewall before, between and after.
struct Said {
    open: &'static str,
    rules: &'static str,
}

/// Opens and closes, and gives what was listed in between. Nothing may be left, and what was there before stays.
fn cycle(host: &Host, said: &Said) -> Result<(String, String)> {
    let list = || -> Result<(String, String)> { Ok((host.shell(said.open)?, host.shell(said.rules)?)) };
    let before = list()?;
    ensure!(!before.0.contains("6443"), "it is open before anybody asked: {}", before.0);
    host.shell("muster apply >/root/applied 2>&1")?;
    let open = list()?;
    let again = host.shell("muster plan")?;
    ensure!(!again.contains("ufw allow") && !again.contains("firewalld"), "not all was done: {again}");
    host.shell("muster revert >/root/reverted 2>&1")?;
    let after = list()?;
    ensure!(after == before, "revert left something: before {before:?}, after {after:?}");
    ensure!(host.read("/var/lib/muster/host-journal.jsonl").is_none(), "the journal is still there");
    Ok(open)
}

pub(super) fn on_request(ctx: &mut Context) -> Result<()> {
    let mut spec = ctx.spec(2, 1);
    spec.enabled = false;
    let lab = ctx.lab(&spec)?;
    for host in &lab.hosts {
        host.write(conf::DROP_IN, "[host]\nfirewall = \"open\"\n")?;
    }
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(30))?;
    let (ufw, firewalld) = (&lab.hosts[0], &lab.hosts[1]);

    hand(ufw, "ufw").context("install ufw")?;
    ufw.shell("ufw allow 22/tcp >/dev/null && ufw --force enable >/dev/null")?;
    let said = Said {
        open: "ufw status",
        rules: "iptables -S | grep -e ufw-user && cat /etc/ufw/user.rules /etc/ufw/user6.rules",
    };
    let (open, rules) = cycle(ufw, &said).context("ufw")?;
    for line in ["22/tcp", "6443/tcp", "2379:2380/tcp", "10250/tcp", "8472/udp", "10.42.0.0/16", "# muster"] {
        ensure!(open.contains(line), "ufw does not list {line}: {open}");
    }
    ensure!(rules.contains("--dport 6443 -j ACCEPT"), "the kernel has no such rule: {rules}");

    hand(firewalld, "firewalld").context("install firewalld")?;
    firewalld.shell(
        "systemctl enable --now firewalld.service >/dev/null 2>&1 && firewall-cmd --state >/dev/null",
    )?;
    let said = Said {
        open: "for policy in $(firewall-cmd --get-policies); do firewall-cmd --info-policy \"$policy\"; done",
        rules: "nft -s list ruleset",
    };
    let (open, rules) = cycle(firewalld, &said).context("firewalld")?;
    for line in ["muster-host", "muster-pods", "6443/tcp", "2379-2380/tcp", "8472/udp", "10.42.0.0/16"] {
        ensure!(open.contains(line), "firewalld does not list {line}: {open}");
    }
    ensure!(rules.contains("dport 6443"), "the kernel has no such rule: {rules}");
    Ok(())
}
