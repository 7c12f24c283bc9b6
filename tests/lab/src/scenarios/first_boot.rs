//! First boots with a real cloud-init: the examples of `cloud-init/` as they stand, with nothing changed but what they say is to be
//! replaced, and user-data that is wrong.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::context::Context;
use super::packages::BY_HAND;
use crate::check::Checker;
use crate::conf;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::run::Run;
use crate::setup::binaries::workspace;
use crate::setup::layer;
use crate::setup::rootfs::CLOUD_INIT_OFF;
use crate::shelf::{Files, Shelf};

const SEED: &str = "/var/lib/cloud/seed/nocloud";
/// The line of every example that a person replaces.
pub(super) const TOKEN_LINE: &str = "<replace this line: the output of muster token new>";
/// The lines of the examples for a group of three, and the place from which they download.
pub(super) const GROUP: [&str; 2] = ["servers = 3", "seeds = [\"10.0.0.11\", \"10.0.0.12\", \"10.0.0.13\"]"];
const DOWNLOADS: &str = "https://downloads.example.com/muster";
const SUM: &str = "<sha256 of it>";

/// One of the examples in `cloud-init/`.
pub(super) fn example(name: &str) -> Result<String> {
    let path = workspace().join("cloud-init").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Replaces, and fails when there is nothing to replace: an example that was changed must not go untested.
pub(super) fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "the example does not hold `{from}`");
    Ok(text.replace(from, to))
}

/// Makes a host one that has never heard of Muster's configuration and runs cloud-init at its next start. A plain one has not even
/// the program.
pub(super) fn blank(ctx: &Context, lab: &Lab, host: &Host, plain: bool) -> Result<()> {
    let mut gone = vec!["/etc/muster"];
    if plain {
        gone.push("/opt/muster");
        gone.extend(BY_HAND);
    }
    for path in gone {
        let path = host.path(path);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| format!("remove {}", path.display()))?;
    }
    host.unlink(CLOUD_INIT_OFF);
    host.write(
        "/etc/cloud/cloud.cfg.d/90-lab.cfg",
        "datasource_list: [ NoCloud, None ]\nnetwork: {config: disabled}\n",
    )?;
    if lab.real {
        // What the lab cannot give a real k3s, and its version.
        let conf = ctx.spec(3, 3).conf;
        let text = format!(
            "[k3s]\nversion = {:?}\ndisable = {:?}\n\n[k3s.server-config]\nkubelet-arg = {:?}\n",
            lab.version, conf.disable, conf.kubelet_args
        );
        host.write("/etc/muster/conf.d/10-lab.toml", text)?;
    }
    Ok(())
}

/// Gives a host its seed of the data source NoCloud.
pub(super) fn seed(host: &Host, user_data: &str, instance: &str) -> Result<()> {
    let meta = example("nocloud/meta-data")?;
    let meta = replaced(&meta, "instance-id: node1", &format!("instance-id: {}-{instance}", host.name))?;
    let meta = replaced(&meta, "local-hostname: node1", &format!("local-hostname: {}", host.name))?;
    host.write(&format!("{SEED}/meta-data"), meta)?;
    host.write_mode(&format!("{SEED}/user-data"), user_data, 0o600)
}

/// Waits until cloud-init has ended, and gives what it says of itself.
pub(super) fn ended(ctx: &Context, host: &Host, seconds: u64) -> Result<String> {
    ctx.until(&format!("cloud-init has ended on {}", host.name), seconds, || {
        let final_stage =
            host.inside(&["systemctl", "is-active", "cloud-final.service"], Duration::from_secs(10))?;
        if !["active", "failed"].contains(&final_stage.stdout.trim()) {
            return Ok(None);
        }
        let said = host.inside(&["cloud-init", "status", "--long"], Duration::from_secs(20))?;
        let over = said.stdout.contains("status: done") || said.stdout.contains("status: error");
        Ok(over.then_some(said.stdout))
    })
}

pub(super) fn done(ctx: &Context, host: &Host) -> Result<()> {
    let said = ended(ctx, host, 180)?;
    ensure!(said.contains("status: done"), "cloud-init on {}: {said}", host.name);
    Ok(())
}

/// The published user-data, the same on three machines; and a second boot, which does nothing.
pub(super) fn image(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&Spec { enabled: false, ..ctx.spec(3, 3) })?;
    let user_data = replaced(&example("nocloud/user-data")?, TOKEN_LINE, &layer::token())?;
    for host in &lab.hosts {
        blank(ctx, &lab, host, false)?;
        seed(host, &user_data, "first")?;
    }
    let began = Instant::now();
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ctx.fact_seconds("formed_seconds", began);
    for host in &lab.hosts {
        done(ctx, host)?;
        ensure!(host.mode(conf::TOKEN_FILE) == Some(0o600), "the token's mode on {}", host.name);
    }
    let before = ctx.certificate(&lab.hosts)?;
    lab.hosts[2].reboot()?;
    done(ctx, &lab.hosts[2])?;
    ctx.formed(&lab, &lab.hosts, 3, 90)?;
    ensure!(ctx.certificate(&lab.hosts)?.identity() == before.identity(), "the certificate changed");
    let judged = schema(&lab.hosts[0])?;
    ctx.fact("examples_judged", judged);
    Ok(())
}

/// Every example that is a cloud-config, judged by cloud-init itself; and a broken one, which it must refuse.
fn schema(host: &Host) -> Result<usize> {
    let judge = |text: &str| -> Result<(bool, String)> {
        host.write_mode("/root/judged.yaml", text, 0o600)?;
        let command = ["cloud-init", "schema", "--config-file", "/root/judged.yaml"];
        let said = host.inside(&command, Duration::from_secs(30))?;
        Ok((said.success(), [said.stdout, said.stderr].concat()))
    };
    let mut judged = 0;
    let mut folders = vec![workspace().join("cloud-init")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if !text.starts_with("#cloud-config\n") {
                continue;
            }
            let (good, said) = judge(&text)?;
            ensure!(good, "{}: {said}", path.display());
            let broken = text.replacen("permissions: \"0600\"", "permissions: 0600", 1);
            ensure!(broken == text || !judge(&broken)?.0, "a broken {} is taken", path.display());
            judged += 1;
        }
    }
    ensure!(judged >= 4, "only {judged} examples were found");
    Ok(judged)
}

/// A plain image: the archive is downloaded by checksum, and k3s from a mirror, all from one web server.
pub(super) fn download(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&Spec { enabled: false, ..ctx.spec(3, 3) })?;
    let made = tempfile::tempdir().context("a place for the archive")?;
    let build = Run::new(&workspace().join("images/packages/build").display().to_string());
    build
        .args(["--only", "tar", "--out"])
        .arg(made.path())
        .arg("--binary")
        .arg(&ctx.binaries.muster)
        .within(Duration::from_secs(120))
        .ok()
        .context("make the archive")?;
    let archive = fs::read_dir(made.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "gz"))
        .context("there is no archive")?;
    let name = archive.file_name().and_then(|name| name.to_str()).context("the archive's name")?.to_owned();
    let files: Files = [
        (format!("/{name}"), archive.clone()),
        (format!("/k3s/{}/{}", lab.version, layer::k3s_names().0), ctx.binaries.k3s.clone()),
    ]
    .into();
    let shelf = Shelf::open(&lab.net(), files)?;
    let sum = layer::sha256(&archive)?;
    let text = example("user-data-download.yaml")?;
    let text = replaced(&text, TOKEN_LINE, &layer::token())?;
    let text = replaced(&text, GROUP[1], "seeds = [\"10.77.0.1\", \"10.77.0.2\", \"10.77.0.3\"]")?;
    let text = replaced(&text, DOWNLOADS, &shelf.url)?;
    let good = replaced(&text, SUM, &sum)?;
    let wrong = replaced(&text, SUM, &"0123456789abcdef".repeat(4))?;
    let k3s_sum = layer::sha256(&ctx.binaries.k3s)?;
    for host in &lab.hosts {
        blank(ctx, &lab, host, true)?;
        // The mirror for k3s is the lab's matter and not the example's.
        let sums = format!("{k3s_sum}  {}\n", layer::k3s_names().0);
        host.write("/etc/muster/k3s.sums", sums)?;
        let mirror =
            format!("[k3s]\nsources = [\"{}/k3s\"]\nchecksums = \"/etc/muster/k3s.sums\"\n", shelf.url);
        host.write("/etc/muster/conf.d/20-mirror.toml", mirror)?;
    }
    // First another archive than the one that was meant: nothing of it may be installed, and it must be said.
    let first = &lab.hosts[0];
    seed(first, &wrong, "wrong")?;
    first.start()?;
    let said = ended(ctx, first, 180)?;
    ensure!(said.contains("muster-was-not-installed"), "cloud-init does not say so: {said}");
    ensure!(!first.path("/usr/local/bin/muster").exists(), "a wrong archive was unpacked");
    let log = first.journal(Some("cloud-final.service"), &[])?;
    ensure!(log.contains("FAILED"), "sha256sum does not speak in the journal: {log}");
    first.power_off()?;
    for host in &lab.hosts {
        seed(host, &good, "first")?;
    }
    let began = Instant::now();
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 3, 120)?;
    ctx.fact_seconds("formed_seconds", began);
    for host in &lab.hosts {
        done(ctx, host)?;
    }
    let leaves =
        lab.hosts[0].inside(&["systemctl", "is-enabled", "muster-leave.service"], Duration::from_secs(10))?;
    ensure!(leaves.stdout.trim() == "disabled", "muster-leave.service of the archive: {leaves:?}");
    ctx.fact("downloads", shelf.asked().len());
    Ok(())
}

/// Vendor-data as a script, beside a user-data with lists of its own; those of a cloud-config would be lost.
pub(super) fn vendor(ctx: &mut Context) -> Result<()> {
    let lab = ctx.lab(&Spec { enabled: false, ..ctx.spec(1, 1) })?;
    let host = &lab.hosts[0];
    blank(ctx, &lab, host, false)?;
    let text = replaced(&example("vendor-data.sh")?, TOKEN_LINE, &layer::token())?;
    let text = replaced(&replaced(&text, GROUP[0], "servers = 1")?, GROUP[1], "")?;
    let users = "#cloud-config\nwrite_files:\n  - path: /root/mine\n    content: mine\nruncmd:\n  - [touch, /root/ran]\n";
    seed(host, users, "first")?;
    host.write_mode(&format!("{SEED}/vendor-data"), text, 0o600)?;
    lab.start(&lab.hosts)?;
    ctx.formed(&lab, &lab.hosts, 1, 90)?;
    done(ctx, host)?;
    ensure!(host.path("/root/mine").exists() && host.path("/root/ran").exists(), "the user's own was lost");
    ensure!(host.mode(conf::TOKEN_FILE) == Some(0o600), "the token's mode");
    Ok(())
}

/// User-data that is wrong, each on a machine of its own: a clear line in cloud-init's status, the journal and `muster why`.
pub(super) fn bad(ctx: &mut Context) -> Result<()> {
    let spec = Spec { enabled: false, ..ctx.spec(6, 1) };
    let lab = Lab::create(&spec, &ctx.binaries, &ctx.rootfs)?;
    ctx.lab = Some(lab.clone());
    let text = replaced(&example("user-data.yaml")?, GROUP[0], "servers = 1")?;
    let text = replaced(&text, &format!("      {}\n", GROUP[1]), "")?;
    let whole = || replaced(&text, TOKEN_LINE, &layer::token());
    let token = text.find("  - path: /etc/muster/token").context("no token in the example")?;
    let after = text.find("  - path: /etc/muster/muster.toml").context("no configuration in the example")?;
    let unreachable =
        "token-file = \"/etc/muster/token\"\n\n      [k3s]\n      sources = [\"https://10.77.0.253/k3s\"]";
    let waits = "muster.service]\n  - [muster, health, --ready, --wait, \"20\"]";
    let source = replaced(&whole()?, "token-file = \"/etc/muster/token\"", unreachable)?;
    let texts = [
        [&text[..token], &text[after..]].concat(),
        replaced(&text, TOKEN_LINE, "abcde")?,
        whole()?.replace('\n', "\r\n"),
        // The same text twice, as a careless paste gives it.
        whole()?.repeat(2),
        replaced(&source, "muster.service]", waits)?,
        whole()?,
    ];
    for (host, text) in lab.hosts.iter().zip(&texts) {
        blank(ctx, &lab, host, false)?;
        seed(host, text, "first")?;
    }
    let [no_token, short, windows, twice, source, early] = lab.hosts.as_slice() else {
        anyhow::bail!("six hosts expected");
    };
    let checkers: Vec<Checker> =
        lab.hosts.iter().map(|host| Checker::start(std::slice::from_ref(host))).collect();
    // Its network comes later than its agent.
    lab.net().default_route(early.index, false)?;
    lab.start(&lab.hosts)?;
    let refused = "muster-refused-its-configuration";
    says(ctx, no_token, refused, "configuration-refused", "there is no such file")?;
    says(ctx, short, refused, "configuration-refused", "the token has 5 characters, at least 16")?;
    says(ctx, source, "runcmd", "k3s-unavailable", "10.77.0.253")?;
    ctx.says(early, "no-default-route", 60)?;
    done(ctx, early)?;
    lab.net().default_route(early.index, true)?;
    // What cloud-init and Muster both read as it was meant: no harm, one cluster.
    for host in [windows, twice, early] {
        ctx.formed(&lab, std::slice::from_ref(host), 1, 60).with_context(|| host.name.clone())?;
        done(ctx, host)?;
    }
    // Given once more, as to a new instance on the same disk: the same cluster.
    let before = ctx.certificate(std::slice::from_ref(twice))?;
    seed(twice, &texts[3], "second")?;
    twice.reboot()?;
    done(ctx, twice)?;
    ctx.formed(&lab, std::slice::from_ref(twice), 1, 60)?;
    let again = ctx.certificate(std::slice::from_ref(twice))?;
    ensure!(again.identity() == before.identity(), "user-data that came again made another cluster");
    for checker in checkers {
        let (looks, violations) = checker.finish();
        ensure!(looks > 0 && violations.is_empty(), "invariant broken: {}", violations.join("; "));
    }
    Ok(())
}

/// The three places where a person looks.
pub(super) fn says(ctx: &mut Context, host: &Host, script: &str, rule: &str, words: &str) -> Result<()> {
    let status = ended(ctx, host, 90)?;
    ensure!(
        status.contains("status: error") && status.contains(&format!("({script})")),
        "cloud-init on {} does not name `{script}`: {status}",
        host.name
    );
    let detail = status.lines().find(|line| line.contains(script)).unwrap_or_default().trim().to_owned();
    ctx.fact(&format!("{}_status", host.name), detail);
    ctx.says(host, rule, 30)?;
    let why = host.inside(&["muster", "why"], Duration::from_secs(10))?;
    ensure!(!why.success() && why.stdout.contains(words), "`muster why` on {}: {}", host.name, why.stdout);
    for unit in ["cloud-final.service", "muster.service"] {
        let log = host.journal(Some(unit), &[])?;
        let line = log.lines().find(|line| line.contains(words));
        ensure!(line.is_some(), "the journal of {unit} on {} does not say `{words}`: {log}", host.name);
        ensure!(!log.contains("abcde"), "the journal of {unit} on {} shows the refused token", host.name);
    }
    let kept = why.stdout.lines().nth(1).unwrap_or_default().trim().to_owned();
    ctx.fact(&format!("{}_why", host.name), kept);
    Ok(())
}
