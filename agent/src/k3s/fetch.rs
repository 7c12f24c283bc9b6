//! Brings the k3s binary in: the wanted sum first, then the bytes into a part file in the target directory, then sum,
//! machine and version are checked, and only then it takes its name.
//!
//! A part file is named after the wanted sum, so that a download goes on where it stopped, also after a restart, and never
//! mixes two releases. When a source fails, the next one is tried; when all fail, all their reasons are told together.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use ring::digest::{Context, SHA256};
use tokio::sync::watch;

use super::facts::parse_version;
use super::release::{Arch, Candidate, Place, Sha256, candidate, check_elf, sum_of};
pub use super::transfer::{AttemptError, Progress};
use super::transfer::{blocking, copy, download, get, read_error, write_error};
use crate::config::{K3sSettings, Source};
use crate::edge::exec::{self, ExecError};
use crate::edge::fs::{self, FsError};

/// How long a binary may take to tell its version.
const VERSION: Duration = Duration::from_secs(20);
/// Most bytes of a checksum file.
const SUMS_BYTES: usize = 1024 * 1024;
/// What an installation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// The binary with the wanted sum was there; nothing was written.
    AlreadySo {
        /// Its sum.
        sha256: Sha256,
    },
    /// It was brought in.
    Done {
        /// Its sum.
        sha256: Sha256,
        /// Where it came from.
        source: String,
    },
}

/// No source served; what was installed before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The settings name no source.
    #[error("no source for the k3s binary is configured: set k3s.sources")]
    NoSource,
    /// k3s is not released for this machine.
    #[error("k3s is not released for this machine ({0})")]
    Machine(&'static str),
    /// Another process installs at this moment.
    #[error("another process is installing into {}", directory.display())]
    Busy {
        /// The directory it has locked.
        directory: PathBuf,
    },
    /// The target directory cannot be made or locked.
    #[error("cannot use {}: {cause}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        cause: String,
    },
    /// Every source failed.
    #[error("k3s {version} could not be installed: {}", list(attempts))]
    Sources {
        /// Wanted version.
        version: String,
        /// Each source as it was written, and its failure.
        attempts: Vec<(String, AttemptError)>,
    },
}

fn list(attempts: &[(String, AttemptError)]) -> String {
    attempts.iter().map(|(source, error)| format!("[{source}] {error}")).collect::<Vec<_>>().join("; ")
}

/// Asks a binary for its version.
#[async_trait]
pub trait AskVersion: Send + Sync {
    /// The first line of `<path> --version`.
    ///
    /// # Errors
    /// When it does not run.
    async fn version_line(&self, path: &Path) -> Result<String, ExecError>;
}

/// Runs the binary.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunIt;

#[async_trait]
impl AskVersion for RunIt {
    async fn version_line(&self, path: &Path) -> Result<String, ExecError> {
        let program = path.display().to_string();
        let run = || async { exec::run(&program, &["--version"], VERSION).await };
        // A process that this one is just starting may still hold the file open for writing, for the blink between fork and
        // exec; the kernel then refuses to run it.
        let busy = |error: &ExecError| matches!(error, ExecError::Start { source, .. } if source.kind() == std::io::ErrorKind::ExecutableFileBusy);
        let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(2)).with_max_times(8);
        let out = run.retry(pauses).when(busy).await?;
        Ok(out.stdout.lines().next().unwrap_or_default().to_owned())
    }
}

/// What is wanted, and where it goes.
pub struct Wanted<'a> {
    /// Version, sources and checksums.
    pub settings: &'a K3sSettings,
    /// The binary's path.
    pub target: &'a Path,
    /// This machine.
    pub arch: Arch,
}

/// Installs the binary, and the links `kubectl`, `crictl` and `ctr` beside it where these names are free.
///
/// # Errors
/// When no source serves; what was installed before is then untouched.
pub async fn install(
    wanted: &Wanted<'_>,
    ask: &dyn AskVersion,
    progress: &watch::Sender<Progress>,
) -> Result<Installed, InstallError> {
    if wanted.settings.sources.is_empty() {
        return Err(InstallError::NoSource);
    }
    let directory = wanted.target.parent().unwrap_or_else(|| Path::new("/"));
    // Held to the end: what one process has verified, another must not write to before it is renamed.
    let _lock = lock(directory)?;
    let mut attempts = Vec::new();
    for source in &wanted.settings.sources {
        let name = match source {
            Source::Path(path) => path.display().to_string(),
            Source::Url(url) => url.clone(),
        };
        progress.send_replace(Progress { source: name.clone(), ..Progress::default() });
        match attempt(source, wanted, ask, progress).await {
            Ok(installed) => {
                link(wanted.target);
                return Ok(installed);
            }
            Err(error) => {
                tracing::warn!(source = %name, %error, "k3s source did not serve");
                attempts.push((name, error));
            }
        }
    }
    Err(InstallError::Sources { version: wanted.settings.version.clone(), attempts })
}

fn lock(directory: &Path) -> Result<File, InstallError> {
    let fail = |cause: String| InstallError::Directory { directory: directory.to_owned(), cause };
    fs::create_directory(directory, 0o755).map_err(|error| fail(error.io().to_string()))?;
    let file = File::open(directory).map_err(|error| fail(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(InstallError::Busy { directory: directory.to_owned() }),
        Err(std::fs::TryLockError::Error(error)) => Err(fail(error.to_string())),
    }
}

async fn attempt(
    source: &Source,
    wanted: &Wanted<'_>,
    ask: &dyn AskVersion,
    progress: &watch::Sender<Progress>,
) -> Result<Installed, AttemptError> {
    let is_directory = matches!(source, Source::Path(path) if path.is_dir());
    let candidate =
        candidate(source, is_directory, wanted.settings, wanted.arch).map_err(AttemptError::Source)?;
    let sha256 = wanted_sum(&candidate).await?;
    let place = candidate.artefact.to_string();
    if sum_of_file(wanted.target).await.is_ok_and(|found| found.as_deref() == Some(sha256.as_str())) {
        return Ok(Installed::AlreadySo { sha256 });
    }
    let path = part_path(wanted.target, &sha256);
    let part = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| write_error(&path, &error))?;
    let brought = match &candidate.artefact {
        Place::File(from) => copy(from, &part, &path, progress).await,
        Place::Url(url) => download(url, &part, &path, progress).await,
    };
    if let Err(error) = brought {
        // Only a transfer that brought something is a beginning; a copy starts anew in any case.
        let empty = part.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if empty || matches!(candidate.artefact, Place::File(_)) {
            let _ = fs::remove(&path);
        }
        return Err(error);
    }
    part.sync_all().map_err(|error| write_error(&path, &error))?;
    drop(part);
    match verify(&path, &place, &sha256, wanted, ask).await {
        Ok(()) => {}
        Err(error) => {
            // Bytes that are wrong as a whole are worth nothing as a beginning.
            let _ = fs::remove(&path);
            return Err(error);
        }
    }
    fs::rename(&path, wanted.target).map_err(|error| write_error(wanted.target, error.io()))?;
    sweep(wanted.target);
    Ok(Installed::Done { sha256, source: place })
}

/// The sum that the checksum file promises for the binary.
async fn wanted_sum(candidate: &Candidate) -> Result<Sha256, AttemptError> {
    let place = candidate.sums.to_string();
    let text = match &candidate.sums {
        Place::File(path) => match fs::read_text(path) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(AttemptError::Missing { place }),
            Err(error) => return Err(AttemptError::Read { place, cause: error.io().to_string() }),
        },
        Place::Url(url) => {
            let mut response = get(url, 0).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| read_error(url, &error))? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > SUMS_BYTES {
                    return Err(AttemptError::Read {
                        place,
                        cause: "it is too long for a checksum file".into(),
                    });
                }
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }
    };
    let names: Vec<&str> = candidate.names.iter().map(String::as_str).collect();
    sum_of(&text, &names).ok_or_else(|| AttemptError::NoSum { place, name: names[0].to_owned() })
}

fn part_path(target: &Path, sha256: &Sha256) -> PathBuf {
    target.with_file_name(format!(".muster-k3s-{}.part", &sha256.as_str()[..16]))
}

async fn verify(
    path: &Path,
    place: &str,
    sha256: &Sha256,
    wanted: &Wanted<'_>,
    ask: &dyn AskVersion,
) -> Result<(), AttemptError> {
    let unreadable = |error: &FsError| write_error(path, error.io());
    let found = sum_of_file(path).await.map_err(|error| unreadable(&error))?.unwrap_or_default();
    let place = place.to_owned();
    if found != sha256.as_str() {
        return Err(AttemptError::Sum { place, wanted: sha256.clone(), found });
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(|error| write_error(path, &error))?;
    file.take(64).read_to_end(&mut head).map_err(|error| write_error(path, &error))?;
    check_elf(&head, wanted.arch).map_err(|cause| AttemptError::Machine { place: place.clone(), cause })?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755))
        .map_err(|error| write_error(path, &error))?;
    let version = &wanted.settings.version;
    let found = match ask.version_line(path).await {
        Ok(line) if parse_version(&line) == Some(version.as_str()) => return Ok(()),
        Ok(line) => line,
        Err(error) => error.to_string(),
    };
    Err(AttemptError::Version { place, wanted: version.clone(), found })
}

/// The SHA-256 of a file in hexadecimal; none when it is not there.
///
/// # Errors
/// When it is there and cannot be read.
pub async fn sum_of_file(path: &Path) -> Result<Option<String>, FsError> {
    let path = path.to_owned();
    blocking(move || {
        let fail = |source| FsError::Read { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0_u8; 256 * 1024];
        loop {
            let count = file.read(&mut buffer).map_err(fail)?;
            if count == 0 {
                return Ok(Some(hex::encode(context.finish())));
            }
            context.update(&buffer[..count]);
        }
    })
    .await
}

/// Links the names that k3s answers to, where they are free. A name that is taken belongs to somebody.
fn link(target: &Path) {
    for name in ["kubectl", "crictl", "ctr"] {
        if let Err(error) = fs::link_if_free(target, &target.with_file_name(name)) {
            tracing::warn!(%error, "a link to k3s could not be made; k3s itself works without it");
        }
    }
}

/// Removes part files of other releases: once one is installed they are nobody's.
fn sweep(target: &Path) {
    let Some(directory) = target.parent() else { return };
    for name in fs::known_names(directory).yes().into_iter().flatten() {
        if name.starts_with(".muster-k3s-") && name.ends_with(".part") {
            let _ = fs::remove(&directory.join(name));
        }
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
