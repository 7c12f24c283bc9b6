//! The packages on hosts with real systemd: installed, upgraded, removed and purged beside a running cluster, which must not notice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::context::Context;
use super::first_boot::{blank, done, example, replaced, seed};
use crate::conf;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::run::Run;
use crate::setup::binaries::workspace;
use crate::setup::layer;

/// What the second version is called.
const LATER: &str = "+1";
const STATE: &str = "/var/lib/muster/ledger.json";
const ASK_NOT: &str = "/etc/systemd/system/k3s.service.d/90-without-muster.conf";
/// What makes a machine leave when it is powered off: shipped, and left to whoever wants it.
const LEAVES: &str = "/usr/lib/systemd/system/muster-leave.service";
/// What the lab puts into a host as a person would by hand.
pub(super) const BY_HAND: [&str; 3] = [
    "/usr/local/bin/muster",
    "/etc/systemd/system/muster.service",
    "/etc/systemd/system/muster-leave.service",
];
const DATA: &str = "/var/lib/rancher/k3s/server/db";

/// Packages around the lab's binary, in a directory that goes with this.
struct Made(tempfile::TempDir);

impl Made {
    /// Makes them by the command that makes the published ones.
    fn new(ctx: &Context, forms: &str, suffixes: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir().context("a place for the packages")?;
        for suffix in suffixes {
            let build = Run::new(&workspace().join("images/packages/build").display().to_string());
            let build = build.args(["--only", forms, "--out"]).arg(dir.path()).arg("--binary");
            let build = build.arg(&ctx.binaries.muster).within(Duration::from_secs(1_800));
            let build = if suffix.is_empty() { build } else { build.args(["--version-suffix", suffix]) };
            build.ok().context("make the packages")?;
        }
        Ok(Self(dir))
    }

    fn path(&self, end: &str, later: bool) -> Result<PathBuf> {
        let fits = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.ends_with(end) && name.contains(LATER) == later
        };
        let mut paths = std::fs::read_dir(self.0.path())?.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(fits).with_context(|| format!("no {end} was made"))
    }

    /// Puts one into a host and gives its path there.
    fn hand(&self, host: &Host, end: &str, later: bool) -> Result<String> {
        let path = self.path(end, later)?;
        let there = format!("/root/{}{end}", if later { "later" } else { "first" });
        host.write(&there, std::fs::read(&path).context("read the package")?)?;
        Ok(there)
    }
}

pub(super) fn pid(host: &Host, unit: &str) -> Result<String> {
    Ok(host.shell(&format!("systemctl show --value -p MainPID {unit}"))?.trim().to_owned())
}

/// One machine with a k3s in its image, no Muster, and a booted systemd.
fn bare(ctx: &mut Context) -> Result<(Lab, Host)> {
    let lab = ctx.lab(&Spec { enabled: false, ..ctx.spec(1, 1) })?;
    let host = lab.hosts[0].clone();
    for file in [conf::CONFIG_FILE, conf::TOKEN_FILE].into_iter().chain(BY_HAND) {
        std::fs::remove_file(host.path(file)).with_context(|| format!("remove {file}"))?;
    }
    std::fs::remove_dir(host.path("/etc/muster")).context("remove /etc/muster")?;
    lab.start(&lab.hosts)?;
    lab.booted(&lab.hosts, Duration::from_secs(30))?;
    Ok((lab, host))
}

/// The configuration, as a person writes it after the installation.
fn configure(ctx: &Context, host: &Host) -> Result<()> {
    host.write(conf::CONFIG_FILE, ctx.spec(1, 1).conf.render())?;
    host.write_mode(conf::TOKEN_FILE, format!("{}\n", layer::token()), 0o600)
}

/// Does something with the package and sees that k3s is the same process afterwards.
fn unnoticed(host: &Host, line: &str) -> Result<String> {
    let before = pid(host, "k3s.service")?;
    ensure!(before != "0", "k3s does not run before `{line}`");
    let said = host.shell(&format!("{line} 2>&1"))?;
    let after = pid(host, "k3s.service")?;
    ensure!(after == before, "`{line}` changed k3s's process from {before} to {after}: {said}");
    Ok(said)
}

/// One kind of package, by its commands.
struct Kind {
    end: &'static str,
    install: &'static str,
    upgrade: &'static str,
    remove: &'static str,
    version: &'static str,
}

const DEB: Kind = Kind {
    end: ".deb",
    install: "dpkg -i",
    upgrade: "dpkg -i",
    remove: "dpkg -r muster",
    version: "dpkg-query -W -f '${Version}' muster",
};
const RPM: Kind = Kind {
    end: ".rpm",
    install: "rpm --force-debian --nodeps -i",
    upgrade: "rpm --force-debian --nodeps -U",
    remove: "rpm --nodeps -e muster",
    version: "rpm -q --qf '%{VERSION}' muster",
};

pub(super) fn deb(ctx: &mut Context) -> Result<()> {
    let (made, lab, host) = life(ctx, &DEB)?;
    let said = unnoticed(&host, "dpkg -P muster")?;
    ensure!(said.contains("/var/lib/rancher/k3s"), "the purge does not say what it leaves: {said}");
    ensure!(!host.path("/var/lib/muster").exists(), "the purge left Muster's state");
    ensure!(!host.path("/etc/muster").exists(), "the purge left the token");
    ensure!(!enabled_to_leave(&host)?, "the purge left muster-leave.service enabled");
    let example = "./usr/share/doc/muster/examples/muster.openrc";
    let script =
        format!("dpkg-deb --fsys-tarfile '{}' | tar -xO {example}", made.path(".deb", false)?.display());
    let script =
        Run::new("sh").args(["-c", &script]).ok().context("read the OpenRC script of the package")?;
    ensure!(
        script.contains("\ncommand=/usr/bin/muster\n"),
        "the packaged OpenRC script calls another program"
    );
    ensure!(host.path(DATA).is_dir(), "the purge removed k3s's data");
    drop((made, lab));
    Ok(())
}

pub(super) fn rpm(ctx: &mut Context) -> Result<()> {
    let (_made, _lab, host) = life(ctx, &RPM)?;
    unnoticed(&host, RPM.remove)?;
    ensure!(host.path(STATE).exists() && host.path(DATA).is_dir(), "the removal took something with it");
    Ok(())
}

/// Installed, configured, upgraded, removed, installed again.
fn life(ctx: &mut Context, kind: &Kind) -> Result<(Made, Lab, Host)> {
    let made = Made::new(ctx, &kind.end[1..], &["", LATER])?;
    let (lab, host) = bare(ctx)?;
    let first = made.hand(&host, kind.end, false)?;
    host.shell(&format!("{} {first} 2>&1", kind.install))?;
    for file in [
        "/usr/lib/systemd/system/muster.service",
        LEAVES,
        "/usr/lib/muster/conf.d/10-package.toml",
        "/usr/share/man/man1/muster-health.1.gz",
        "/usr/share/bash-completion/completions/muster",
        "/usr/share/fish/vendor_completions.d/muster.fish",
    ] {
        // The lab's hosts are made without manual pages: dpkg leaves them out by its own rule.
        let left_out = file.contains("/man/") && kind.end == ".deb";
        ensure!(left_out || host.path(file).exists(), "the package brought no {file}");
    }
    host.shell("bash -n /usr/share/bash-completion/completions/muster")?;
    ensure!(pid(&host, "muster.service")? == "0", "an agent runs without a configuration");
    leaves_when_asked(&host)?;
    configure(ctx, &host)?;
    host.shell("systemctl enable --now --no-block muster.service")?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    let before = ctx.certificate(&lab.hosts)?;
    let unit = host.shell("cat /etc/systemd/system/k3s.service")?;
    ensure!(unit.contains("ExecCondition=/usr/bin/muster gate"), "k3s asks another muster: {unit}");

    let agent = pid(&host, "muster.service")?;
    let later = made.hand(&host, kind.end, true)?;
    unnoticed(&host, &format!("{} {later}", kind.upgrade))?;
    let version = host.shell(kind.version)?;
    ensure!(version.contains(LATER), "the upgrade gave {version}");
    ctx.until("the upgraded agent runs", 20, || {
        let now = pid(&host, "muster.service")?;
        Ok((now != "0" && now != agent).then_some(()))
    })?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;

    // Enabled, it is stopped with the package and must not take the machine out of its cluster.
    host.shell("systemctl enable --now muster-leave.service")?;
    let said = unnoticed(&host, kind.remove)?;
    // A .deb keeps what was enabled until it is purged.
    ensure!(kind.end == ".deb" || !enabled_to_leave(&host)?, "the removal left muster-leave.service enabled");
    ensure!(said.contains("starts from now on without asking"), "the removal does not say so: {said}");
    ensure!(host.path(STATE).exists(), "the removal took the ledger");
    ensure!(!host.path("/usr/bin/muster").exists(), "the removal left the program");
    // A member of a cluster outlives Muster: it starts again after a crash or a reboot.
    host.shell("systemctl restart k3s.service")?;
    ctx.until("k3s is Ready without Muster", 60, || {
        let said = host.inside(&["k3s", "kubectl", "get", "nodes"], Duration::from_secs(10))?;
        Ok(said.stdout.contains(" Ready").then_some(()))
    })?;

    unnoticed(&host, &format!("{} {later}", kind.install))?;
    ensure!(!host.path(ASK_NOT).exists(), "installed again, and k3s still starts without asking");
    host.shell("systemctl enable --now --no-block muster.service")?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ensure!(ctx.certificate(&lab.hosts)?.identity() == before.identity(), "the certificate changed");
    host.shell("systemctl restart k3s.service")?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    Ok((made, lab, host))
}

fn enabled_to_leave(host: &Host) -> Result<bool> {
    let link = "/etc/systemd/system/multi-user.target.wants/muster-leave.service";
    Ok(host.inside(&["test", "-L", link], Duration::from_secs(10))?.success())
}

/// The unit for leaving is there, finds its program, and is neither enabled nor running.
fn leaves_when_asked(host: &Host) -> Result<()> {
    let text = host.read(LEAVES).with_context(|| format!("read {LEAVES}"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let paths: Vec<&str> = text.lines().filter(|line| line.contains("/bin/muster")).collect();
    ensure!(
        paths == ["ConditionPathExists=/usr/bin/muster", "ExecStop=/usr/bin/muster leave --on-poweroff"],
        "{LEAVES} looks for another program: {paths:?}"
    );
    let is = |word: &str| host.inside(&["systemctl", word, "muster-leave.service"], Duration::from_secs(10));
    let (enabled, active) = (is("is-enabled")?.stdout, is("is-active")?.stdout);
    ensure!(
        enabled.trim() == "disabled" && active.trim() == "inactive",
        "muster-leave.service is {} and {} after an installation",
        enabled.trim(),
        active.trim()
    );
    Ok(())
}

/// A package on a machine where a person has put the program and its unit, and where a cluster runs.
pub(super) fn over_hand(ctx: &mut Context) -> Result<()> {
    let made = Made::new(ctx, "deb", &[""])?;
    let lab = ctx.up(1, 1)?;
    let host = &lab.hosts[0];
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    let before = ctx.certificate(&lab.hosts)?;
    host.shell("systemctl enable --now muster-leave.service")?;
    let agent = pid(host, "muster.service")?;
    let package = made.hand(host, ".deb", false)?;
    let said = unnoticed(host, &format!("dpkg -i {package}"))?;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("installed by hand")).collect();
    ensure!(lines.len() == BY_HAND.len(), "it is not said what was done with what was there: {said}");
    ctx.fact("line", lines[0].to_owned());
    ensure!(host.path("/usr/local/bin/muster.by-hand").exists(), "the old program is gone");
    ctx.until("the packaged agent runs", 20, || {
        let now = pid(host, "muster.service")?;
        Ok((now != "0" && now != agent).then_some(()))
    })?;
    let program = host.shell(&format!("readlink /proc/{}/exe", pid(host, "muster.service")?))?;
    ensure!(program.trim() == "/usr/bin/muster", "the agent is {program}");
    let leaves =
        host.shell("systemctl is-enabled muster-leave.service; systemctl cat muster-leave.service")?;
    ensure!(
        leaves.starts_with("enabled") && leaves.contains("ExecStop=/usr/bin/muster leave"),
        "muster-leave.service was enabled by hand and is now {leaves}"
    );
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    // The gate that the old one wrote into k3s's unit still finds a program.
    host.reboot()?;
    ctx.formed(&lab, &lab.hosts, 1, 60)?;
    ensure!(ctx.certificate(&lab.hosts)?.identity() == before.identity(), "the certificate changed");
    Ok(())
}

/// The published user-data for a repository, with the repository as a directory of the host.
pub(super) fn first_boot(ctx: &mut Context) -> Result<()> {
    let made = Made::new(ctx, "deb", &[""])?;
    let lab = ctx.lab(&Spec { enabled: false, ..ctx.spec(3, 3) })?;
    let text = example("user-data-package.yaml")?;
    let from = text.find("      source: ").context("no source in the example")?;
    let to = text.find("packages: [muster]").context("no package in the example")?;
    let text =
        format!("{}      source: \"deb [trusted=yes] file:/srv/muster ./\"\n{}", &text[..from], &text[to..]);
    let text = replaced(&text, "<replace this line: the output of muster token new>", &layer::token())?;
    let text = replaced(
        &text,
        "[\"10.0.0.11\", \"10.0.0.12\", \"10.0.0.13\"]",
        "[\"10.77.0.1\", \"10.77.0.2\", \"10.77.0.3\"]",
    )?;
    let deb = made.path(".deb", false)?;
    let index = index(&deb)?;
    for host in &lab.hosts {
        for file in BY_HAND {
            std::fs::remove_file(host.path(file)).with_context(|| format!("remove {file}"))?;
        }
        blank(ctx, &lab, host, false)?;
        // The lab has no mirror of Debian.
        host.write("/etc/cloud/cloud.cfg.d/91-apt.cfg", "apt: {preserve_sources_list: true}\n")?;
        host.write("/etc/apt/sources.list", "")?;
        host.write("/srv/muster/muster.deb", std::fs::read(&deb).context("read the package")?)?;
        host.write("/srv/muster/Packages", &index)?;
        seed(host, &text, "first")?;
    }
    let began = std::time::Instant::now();
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 3, 150)?;
    ctx.fact_seconds("formed_seconds", began);
    for host in &lab.hosts {
        done(ctx, host)?;
    }
    Ok(())
}

/// The index of a repository of one package.
fn index(deb: &Path) -> Result<String> {
    let control = Run::new("dpkg-deb").arg("-f").arg(deb).ok().context("read the package's control")?;
    let size = std::fs::metadata(deb)?.len();
    let sum = layer::sha256(deb)?;
    Ok(format!("{}\nFilename: ./muster.deb\nSize: {size}\nSHA256: {sum}\n", control.trim_end()))
}
