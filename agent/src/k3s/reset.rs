//! `k3s server --cluster-reset`: etcd's members become this one alone. What is written for it, what is kept, and how it is judged.
//!
//! Sources: `k3s-facts.md` part 4.1 and hazards 33 to 36.

use std::path::{Path, PathBuf};

use super::render::{UNSET, WantedFile, config_text, unit_path};
use super::spec::K3sSpec;
use super::{Paths, discard};
use crate::core::{Known, Secret};
use crate::edge::fs::{self, FsError};
use crate::edge::systemd::InitKind;

/// Name of the service that runs it: not beginning with `k3s`, which k3s's own scripts take for one of theirs.
pub const SERVICE: &str = "muster-reset";
/// What k3s says when it is done.
pub const DONE: &str = "Managed etcd cluster membership has been reset";
/// Longest run, in seconds, after which the init system ends it.
const BOUND: u32 = 300;

/// Files of one reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetFiles {
    /// Configuration of k3s for it, with a name of its own so that no drop-in of the usual one is read.
    pub config: PathBuf,
    /// What k3s says.
    pub log: PathBuf,
}

impl ResetFiles {
    /// Their places in the state directory.
    #[must_use]
    pub fn new(paths: &Paths, number: u64, attempt: u32) -> Self {
        let name = |end: &str| paths.state_dir.join(format!("recovery-{number}-{attempt}.{end}"));
        Self { config: name("yaml"), log: name("log") }
    }
}

/// Everything that is written for it, in order: token files, its configuration, its service. `spec` names no server.
#[must_use]
pub fn files(spec: &K3sSpec, paths: &Paths, files: &ResetFiles, kind: InitKind) -> Vec<WantedFile> {
    let mut written: Vec<WantedFile> = spec
        .secrets
        .iter()
        .map(|(name, secret)| WantedFile {
            path: paths.config_dir().join(name),
            content: Secret::new(format!("{}\n", secret.expose())),
            mode: 0o600,
        })
        .collect();
    written.push(WantedFile {
        path: files.config.clone(),
        content: Secret::new(config_text(spec)),
        mode: 0o600,
    });
    let (path, text, mode) = match kind {
        // Gone with the next boot: a reset is never found there by chance.
        InitKind::Systemd => (
            paths.root.join("run/systemd/system").join(format!("{SERVICE}.service")),
            unit(paths, files),
            0o644,
        ),
        InitKind::OpenRc => (paths.root.join("etc/init.d").join(SERVICE), script(paths, files), 0o755),
    };
    written.push(WantedFile { path, content: Secret::new(text), mode });
    written
}

fn unit(paths: &Paths, files: &ResetFiles) -> String {
    let (k3s, config) = (unit_path(&paths.binary), unit_path(&files.config));
    let log = files.log.display().to_string().replace('%', "%%");
    format!(
        "# Written by muster for one recovery.
[Unit]
Description=k3s resets the members of etcd to this server

[Service]
Type=simple
UnsetEnvironment={UNSET}
UMask=0077
ExecStart={k3s} server --cluster-reset --config {config}
StandardOutput=append:{log}
StandardError=append:{log}
Restart=no
RuntimeMaxSec={BOUND}
TimeoutStopSec=20
"
    )
}

fn script(paths: &Paths, files: &ResetFiles) -> String {
    let (k3s, config, log) = (
        super::render::shell_word(&paths.binary),
        super::render::shell_word(&files.config),
        files.log.display(),
    );
    format!(
        r#"#!/sbin/openrc-run
# Written by muster for one recovery.

description="k3s resets the members of etcd to this server"
command=/bin/sh
command_args="-c 'umask 077; unset {UNSET}; exec timeout {BOUND} {k3s} server --cluster-reset --config {config}'"
command_background=yes
output_log="{log}"
error_log="{log}"
pidfile=/run/{SERVICE}.pid
"#
    )
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// There is no log.
    NotRun,
    /// It said that it is done, and etcd's log is there.
    Succeeded,
    /// Anything else; its last word.
    Failed(String),
}

/// Judges a reset that does not run any more by its log and its files. The exit code says nothing, and neither does the flag that
/// k3s leaves before it has begun.
#[must_use]
pub fn judge(log: Option<&str>, wal: &Known<()>) -> Judged {
    let Some(log) = log else { return Judged::NotRun };
    if !log.contains(DONE) {
        let error = |line: &&str| line.contains("level=fatal") || line.contains("level=error");
        let last =
            log.lines().rev().find(error).or_else(|| log.lines().rev().find(|line| !line.trim().is_empty()));
        return Judged::Failed(match last {
            Some(line) => format!("the reset ended without its success: {}", line.trim()),
            None => "the reset ended and said nothing".to_owned(),
        });
    }
    match wal {
        Known::Yes(()) => Judged::Succeeded,
        Known::Absent => Judged::Failed("the reset says it is done, and there is no data of etcd".to_owned()),
        Known::Unknown(unread) => Judged::Failed(format!("the reset says it is done; {unread}")),
    }
}

/// Where the snapshots of a recovery are copied to: beside the data directory, or in it when it is a file system of its own.
#[must_use]
pub fn kept_snapshots(data: &Path, number: u64, data_is_mount: bool) -> PathBuf {
    if data_is_mount {
        return data.join(format!("recovery-{number}/snapshots"));
    }
    let name = data.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    data.parent().unwrap_or(Path::new("/")).join(format!("{name}-recovery-{number}")).join("snapshots")
}

/// Copies the snapshots aside, each whole or not at all; those that are there already stay. Gives how many were copied.
///
/// # Errors
/// At the first that cannot be copied; nothing of k3s's was changed.
pub fn keep_snapshots(paths: &Paths, number: u64) -> Result<usize, FsError> {
    let from = paths.data_dir.join("server/db/snapshots");
    let names = match fs::known_names(&from) {
        Known::Yes(names) => names,
        Known::Absent => return Ok(0),
        Known::Unknown(unread) => {
            let source = std::io::Error::other(unread.cause);
            return Err(FsError::Read { path: from, source });
        }
    };
    let to = kept_snapshots(&paths.data_dir, number, discard::is_mount(&paths.data_dir));
    let mut copied = 0;
    for name in names {
        let target = to.join(&name);
        if fs::known_there(&target).yes().is_some() {
            continue;
        }
        fs::create_directory(&to, 0o700)?;
        if fs::copy_atomic(&from.join(&name), &target, 0o600)? {
            copied += 1;
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_judged_by_its_words_and_its_files() {
        let wal = Known::Yes(());
        let done = format!("level=error msg=\"Shutdown request received: {DONE}, restart without\"\n");
        assert_eq!(judge(None, &wal), Judged::NotRun);
        assert_eq!(judge(Some(&done), &wal), Judged::Succeeded);
        // Hazard 34: its flag was left by an attempt that may not have come to its end.
        let again =
            "level=fatal msg=\"Managed etcd cluster membership was previously reset, please remove\"\n";
        for (log, wal) in [
            (again, &wal),
            ("", &wal),
            ("level=info msg=\"Starting etcd for new cluster, cluster-reset=true\"\n", &wal),
            (done.as_str(), &Known::Absent),
            (done.as_str(), &Known::unknown("etcd", "I/O error")),
        ] {
            assert!(matches!(judge(Some(log), wal), Judged::Failed(_)), "{log}");
        }
        let Judged::Failed(cause) = judge(Some("level=fatal msg=\"no token\"\nlevel=info msg=end\n"), &wal)
        else {
            panic!("a failure is none");
        };
        assert!(cause.contains("no token"), "{cause}");
    }

    #[test]
    fn snapshots_are_copied_once_and_never_lost() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert_eq!(keep_snapshots(&paths, 1).unwrap(), 0);
        let from = paths.data_dir.join("server/db/snapshots");
        for name in ["one", "two"] {
            fs::create_directory(&from, 0o700).unwrap();
            fs::write_atomic(&from.join(name), name.as_bytes(), 0o600).unwrap();
        }
        assert_eq!(keep_snapshots(&paths, 1).unwrap(), 2);
        assert_eq!(keep_snapshots(&paths, 1).unwrap(), 0);
        let kept = kept_snapshots(&paths.data_dir, 1, false);
        assert_eq!(kept, root.path().join("var/lib/rancher/k3s-recovery-1/snapshots"));
        assert_eq!(fs::read_text(&kept.join("two")).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::read_text(&from.join("two")).unwrap().as_deref(), Some("two"));
    }

    #[test]
    fn the_service_names_no_secret_and_no_server_and_is_bounded() {
        let paths = Paths::new(Path::new("/var/lib/rancher/k3s"), Path::new("/var/lib/muster"));
        let files = ResetFiles::new(&paths, 2, 1);
        for text in [unit(&paths, &files), script(&paths, &files)] {
            assert!(text.contains(
                "/usr/local/bin/k3s server --cluster-reset --config /var/lib/muster/recovery-2-1.yaml"
            ));
            assert!(text.contains("300") && text.contains("K3S_URL"), "{text}");
            assert!(!text.contains("--token") && !text.contains("--server"), "{text}");
        }
    }
}
