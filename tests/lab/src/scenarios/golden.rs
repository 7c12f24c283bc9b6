//! One image, made of a machine that was in use: refused as it is, sealed, and booted several times.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::context::Context;
use super::first_boot::{self, TOKEN_LINE, blank, example, replaced, seed};
use crate::conf;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::run::{Done, Run};
use crate::setup::layer;

/// A machine that is a cluster of its own, so that its disk holds all that an image must not hold.
const ALONE: &str = "servers = 1\nfounders = 1\nseeds = []\n";
/// Rows that the disk of such a machine must be refused for.
const BAKED: [&str; 8] =
    ["token", "kubeconfig", "ledger", "node-password", "k3s-data", "k3s-units", "machine-id", "host-name"];
/// What only the machine that it was made of may have had.
const OWN: [&str; 7] = [
    "/var/lib/muster/ledger.json",
    "/var/lib/rancher/k3s/server/db",
    "/var/lib/rancher/k3s/server/tls",
    "/var/lib/rancher/k3s/server/token",
    "/etc/rancher/node",
    "/etc/rancher/k3s",
    conf::TOKEN_FILE,
];

pub(super) fn golden_image(ctx: &mut Context) -> Result<()> {
    if ctx.binaries.real {
        // Its data lie beside the host's tree on this machine, out of sight of what seals the tree.
        ctx.fact("not_run", "with a real k3s a host's tree is not whole");
        return Ok(());
    }
    let mut lab = ctx.lab(&ctx.spec(3, 3))?;
    // The machine that the image is made of is not watched: it is another cluster's, on purpose.
    let model = lab.add_host(4, "node4")?;
    ctx.lab = Some(lab.clone());
    model.write(conf::DROP_IN, ALONE)?;
    let token = model.read(conf::TOKEN_FILE).context("the token of the lab")?;
    model.start()?;
    ctx.formed(&lab, std::slice::from_ref(&model), 1, 60)?;
    let foreign = model.certificate().context("the model holds no certificate")?;
    let used = model.status().unwrap_or_default().node.id;
    let machine_id = id_of(&model)?;

    // It serves: nobody seals it, from without or from within.
    let running = image(ctx, "seal", &model.root(), &[])?;
    ensure!(!running.success() && running.stderr.contains("runs from this tree"), "{}", running.stderr);
    let within =
        model.inside(&["muster", "image", "seal", "--root", "/", "--this-machine"], ctx.limit(20))?;
    ensure!(!within.success() && within.stderr.contains("never sealed"), "{}", within.stderr);
    model.power_off()?;

    let refused = verified(&image(ctx, "verify", &model.root(), &["--output", "json"])?)?;
    let missing: Vec<_> = BAKED.iter().filter(|row| !refused.contains(**row)).collect();
    ensure!(missing.is_empty(), "a used disk is not refused for {missing:?}, only for {refused:?}");
    ctx.fact("refused_for", refused.len());

    // Sealed, and then looked at by other eyes than its own.
    let secret = ctx_file(&lab.hosts[0], "secret", &token)?;
    fs::remove_file(model.path(conf::DROP_IN))?;
    let began = Instant::now();
    let sealed = image(ctx, "seal", &model.root(), &["--secret-file", &secret])?;
    ensure!(sealed.success(), "{}{}", sealed.stdout, sealed.stderr);
    ctx.fact_seconds("sealed_seconds", began);
    ctx.fact("removed", sealed.stdout.lines().filter(|line| line.starts_with("removed")).count());
    for path in OWN {
        ensure!(!model.path(path).exists(), "{path} is in a sealed image");
    }
    for path in ["/usr/local/bin/muster", "/opt/muster/k3s", conf::CONFIG_FILE] {
        ensure!(model.path(path).exists(), "sealing took {path}");
    }
    for needle in [String::from_utf8_lossy(&token).trim(), used.as_str(), machine_id.trim()] {
        let found = Run::new("grep").args(["-rlaF", "--", needle]).args(model.written()).output()?;
        ensure!(found.stdout.is_empty(), "a sealed image holds what it must not, in {}", found.stdout);
    }
    let again = image(ctx, "seal", &model.root(), &["--secret-file", &secret])?;
    ensure!(again.success() && again.stdout.starts_with("nothing to remove"), "{}", again.stdout);

    // A token that somebody bakes in afterwards is found, by its place or as text.
    model.write_mode("/etc/credstore/muster.token", &token, 0o600)?;
    model.write_mode("/root/setup.sh", [b"install ".as_slice(), token.as_slice()].concat(), 0o700)?;
    let baked =
        verified(&image(ctx, "verify", &model.root(), &["--secret-file", &secret, "--output", "json"])?)?;
    ensure!(
        baked == ["token", "token-text"].map(str::to_owned).into(),
        "a baked token is refused for {baked:?}"
    );
    for path in ["/etc/credstore/muster.token", "/root/setup.sh"] {
        fs::remove_file(model.path(path))?;
    }

    // Three machines from the one image; the token comes with each one's user-data.
    let began = Instant::now();
    let members = lab.hosts[..3].to_vec();
    for host in &members {
        host.clone_disk(&model)?;
        ensure!(host.read(conf::TOKEN_FILE).is_none(), "the image brought a token");
        host.write_mode(conf::TOKEN_FILE, &token, 0o600)?;
    }
    lab.start(&members)?;
    ctx.formed(&lab, &members, 3, 90)?;
    ctx.fact_seconds("formed_seconds", began);
    let cluster = ctx.certificate(&members)?;
    ensure!(
        cluster.ca_hash != foreign.ca_hash,
        "the copies serve the CA of the machine that the image was made of"
    );
    let mut ids: BTreeSet<String> = [used].into();
    let mut machine_ids: BTreeSet<String> = [machine_id].into();
    for host in &members {
        ids.insert(host.status().unwrap_or_default().node.id);
        machine_ids.insert(id_of(host)?);
    }
    ensure!(
        ids.len() == 4 && machine_ids.len() == 4,
        "identities {ids:?}, machine-ids {machine_ids:?}: not four of each"
    );
    Ok(())
}

/// A used server's disk, captured without sealing and booted on another machine, with user-data of another cluster.
pub(super) fn baked(ctx: &mut Context) -> Result<()> {
    if ctx.binaries.real {
        ctx.fact("not_run", "with a real k3s a host's disk is not whole");
        return Ok(());
    }
    let lab = Lab::create(&Spec { enabled: false, ..ctx.spec(2, 1) }, &ctx.binaries, &ctx.rootfs)?;
    ctx.lab = Some(lab.clone());
    let [model, copy] = lab.hosts.as_slice() else { anyhow::bail!("two hosts expected") };
    model.write(conf::DROP_IN, ALONE)?;
    model.start()?;
    model.booted(ctx.limit(30))?;
    model.shell("systemctl enable --now --no-block muster.service")?;
    ctx.formed(&lab, std::slice::from_ref(model), 1, 60)?;
    let used = model.status().unwrap_or_default().node.id;
    model.power_off()?;

    copy.clone_disk(model)?;
    // Another machine: what it was made of is not to be seen in the hardware.
    copy.write("/etc/machine-id", format!("{}\n", "0123456789abcdef".repeat(2)))?;
    let text = replaced(&example("user-data.yaml")?, TOKEN_LINE, &layer::token())?;
    let waits = "muster.service]\n  - [muster, health, --ready, --wait, \"20\"]";
    let text = replaced(&text, "muster.service]", waits)?;
    blank(ctx, &lab, copy, false)?;
    seed(copy, &text, "first")?;
    copy.start()?;
    first_boot::says(ctx, copy, "runcmd", "unclaimed-data", "no certificate in the ledger")?;
    let now = copy.status().unwrap_or_default().node.id;
    ensure!(!now.is_empty() && now != used, "the copy is {now}, as the machine that it was made of");
    ensure!(!copy.armed(), "k3s may start on the data of another machine");
    let k3s = copy.inside(&["systemctl", "is-active", "k3s.service"], ctx.limit(10))?;
    ensure!(!k3s.success(), "k3s runs on the data of another machine: {}", k3s.stdout);
    Ok(())
}

/// What `muster image` says of a tree on this machine.
pub(super) fn image(ctx: &Context, verb: &str, root: &Path, more: &[&str]) -> Result<Done> {
    let run = Run::new(&ctx.binaries.muster.display().to_string()).args(["image", verb, "--root"]).arg(root);
    run.args(more).within(ctx.limit(60)).output()
}

/// The rows that a tree was refused for.
pub(super) fn verified(said: &Done) -> Result<BTreeSet<String>> {
    let json: Value = serde_json::from_str(&said.stdout)
        .with_context(|| format!("read `{}{}`", said.stdout, said.stderr))?;
    let findings = json["findings"].as_array().context("no findings")?;
    ensure!(said.success() == findings.is_empty(), "exit {} and {} findings", said.status, findings.len());
    Ok(findings.iter().filter_map(|finding| finding["row"].as_str()).map(str::to_owned).collect())
}

fn id_of(host: &Host) -> Result<String> {
    let id = host.read("/etc/machine-id").context("no machine-id")?;
    let id = String::from_utf8_lossy(&id).trim().to_owned();
    ensure!(id.len() == 32, "{} has the machine-id `{id}`", host.name);
    Ok(id)
}

/// A file of this machine beside the hosts' disks.
fn ctx_file(beside: &Host, name: &str, content: &[u8]) -> Result<String> {
    let root = beside.root();
    let file = root.ancestors().nth(2).unwrap_or(&root).join(name);
    fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
    Ok(file.display().to_string())
}
