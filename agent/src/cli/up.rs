//! `muster up`: installs the agent as a service of this machine, starts it, and follows it until it serves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{FAILED, run, runtime, status};
use crate::config::{Env, Flags, load_making_token};
use crate::core::{Known, Phase};
use crate::edge::systemd::{self, InitKind};
use crate::edge::{clock, fs};
use crate::k3s::PACKAGED;
use crate::report::Status;

/// The units, as the image builds ship them.
const SYSTEMD_UNIT: &str = include_str!("../../../images/systemd/muster.service");
const LEAVE_UNIT: &str = include_str!("../../../images/systemd/muster-leave.service");
const OPENRC_SCRIPT: &str = include_str!("../../../images/openrc/muster");
/// Where the units look for the binary.
const BINARY: &str = "/usr/local/bin/muster";
/// Where the settings of the command line are kept for the service.
const KEPT: &str = "/etc/muster/conf.d/50-up.toml";

pub(super) fn up(flags: &Flags) -> anyhow::Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        bail!("muster up installs a service and needs root");
    }
    let loaded = load_making_token(Path::new("/"), &Env::of_process(), flags, clock::random)
        .map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let settings = loaded.settings;
    if flags.config_dir.is_some() {
        bail!(
            "the service reads /etc/muster: copy the files of --config-dir there, and run muster up without it"
        );
    }
    let kept = kept_flags(flags);
    if !kept.is_empty() {
        fs::create_directory(Path::new("/etc/muster/conf.d"), 0o755)?;
        fs::write_atomic(Path::new(KEPT), kept.as_bytes(), 0o644)?;
        println!("settings of this command line are kept in {KEPT}");
    } else {
        fs::create_directory(Path::new("/etc/muster"), 0o755)?;
    }
    install_binary()?;
    let status_file = run::status_file(&settings);
    // An old status must not be taken for the new agent's.
    fs::remove(&status_file)?;
    runtime()?.block_on(async {
        start_service().await?;
        println!("muster runs as a service; following it (Ctrl-C leaves it running)");
        follow(&status_file).await
    })
}

/// The flags as a drop-in: what was said once on the command line must hold after a reboot.
fn kept_flags(flags: &Flags) -> String {
    let text = |value: &str| serde_json::Value::String(value.to_owned()).to_string();
    let list = |values: &[String]| {
        let items: Vec<String> = values.iter().map(|value| text(value)).collect();
        format!("[{}]", items.join(", "))
    };
    let mut lines = Vec::new();
    let mut put =
        |key: &str, value: Option<String>| lines.extend(value.map(|value| format!("{key} = {value}\n")));
    for (key, value) in [
        ("cluster", &flags.cluster),
        ("role", &flags.role),
        ("founding", &flags.founding),
        ("token-file", &flags.token_file),
        ("node-name", &flags.node_name),
        ("node-ip", &flags.node_ip),
        ("interface", &flags.interface),
        ("state-dir", &flags.state_dir),
        ("run-dir", &flags.run_dir),
    ] {
        put(key, value.as_deref().map(text));
    }
    for (key, value) in
        [("servers", flags.servers), ("founders", flags.founders), ("gossip-port", flags.gossip_port)]
    {
        put(key, value.map(|value| value.to_string()));
    }
    put("seeds", flags.seeds.as_deref().map(list));
    let k3s = [
        ("version", flags.k3s_version.as_deref().map(text)),
        ("sources", flags.k3s_sources.as_deref().map(list)),
        ("checksums", flags.k3s_checksums.as_deref().map(text)),
    ];
    let k3s: String =
        k3s.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?))).collect();
    let mut all = lines.concat();
    if !k3s.is_empty() {
        all.push_str("[k3s]\n");
        all.push_str(&k3s);
    }
    if all.is_empty() { all } else { format!("# Written by muster up.\n{all}") }
}

fn install_binary() -> anyhow::Result<()> {
    // A package's binary stays where it is: its unit calls it there.
    if std::env::current_exe().is_ok_and(|program| program == Path::new(PACKAGED)) {
        return Ok(());
    }
    let own = PathBuf::from("/proc/self/exe");
    let bytes = fs::read(&own)?.context("this program cannot be read")?;
    let target = Path::new(BINARY);
    if fs::read(target)?.as_deref() == Some(bytes.as_slice()) {
        return Ok(());
    }
    fs::write_atomic(target, &bytes, 0o755)?;
    println!("installed {BINARY}");
    Ok(())
}

async fn start_service() -> anyhow::Result<()> {
    let init = match systemd::detect() {
        Known::Yes(init) => init,
        Known::Absent => {
            bail!("neither systemd nor OpenRC runs here: start `muster run` under your own supervisor")
        }
        Known::Unknown(unread) => bail!("{unread}"),
    };
    let files: &[(&str, &str, u32)] = match init.kind() {
        // The second one is there to be enabled, and is not enabled here.
        InitKind::Systemd => &[
            ("/etc/systemd/system/muster.service", SYSTEMD_UNIT, 0o644),
            ("/etc/systemd/system/muster-leave.service", LEAVE_UNIT, 0o644),
        ],
        InitKind::OpenRc => &[("/etc/init.d/muster", OPENRC_SCRIPT, 0o755)],
    };
    // A unit that an image or a package brought along stands in /usr/lib and is kept.
    let packaged = fs::known_there(Path::new("/usr/lib/systemd/system/muster.service")).yes().is_some();
    for (path, text, mode) in files {
        if !packaged && fs::read_text(Path::new(path))?.as_deref() != Some(*text) {
            fs::write_atomic(Path::new(path), text.as_bytes(), *mode)?;
            println!("installed {path}");
        }
    }
    init.reload().await?;
    init.enable("muster").await?;
    // A running agent of an older binary or configuration is replaced; k3s is not touched by that.
    init.stop("muster", Duration::from_secs(30)).await?;
    init.start("muster").await?;
    Ok(())
}

/// Prints each phase and reason as it comes, until the node serves or is parked.
async fn follow(path: &Path) -> anyhow::Result<u8> {
    let started = clock::since_boot();
    let mut last = None;
    let mut parked_since = None;
    loop {
        let now = clock::since_boot();
        let status: Option<Status> = fs::read_text(path)?.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(status) = status {
            let why =
                status.why.first().map(|why| (why.rule.clone(), why.detail.clone())).unwrap_or_default();
            let line = (status.phase, why.clone());
            if last.as_ref() != Some(&line) {
                println!("{:7.1} s  {:10} {}: {}", (now - started).as_secs_f64(), status.phase, why.0, why.1);
                last = Some(line);
            }
            if status.phase == Phase::Serving {
                return Ok(status::code(status.phase));
            }
            // A cause that mends itself within seconds is not worth a failed command.
            let since = *parked_since.get_or_insert(now);
            if status.phase != Phase::Parked {
                parked_since = None;
            } else if now.saturating_sub(since) > Duration::from_secs(15) {
                eprintln!("muster: parked; the service keeps looking, muster why tells");
                return Ok(status::code(status.phase));
            }
        } else if now.saturating_sub(started) > Duration::from_secs(60) {
            eprintln!("muster: the service wrote no status within a minute; systemctl status muster");
            return Ok(FAILED);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
