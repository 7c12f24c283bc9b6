//! Where k3s keeps its files, and how it writes them.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The files under one data directory (`/var/lib/rancher/k3s`).
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// For this data directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// A file under `server/`.
    pub fn server(&self, name: &str) -> PathBuf {
        self.root.join("server").join(name)
    }
    /// A file under `server/tls/`.
    pub fn tls(&self, name: &str) -> PathBuf {
        self.server("tls").join(name)
    }
    /// A file under `agent/`.
    pub fn agent(&self, name: &str) -> PathBuf {
        self.root.join("agent").join(name)
    }
    /// etcd's data directory.
    pub fn etcd(&self) -> PathBuf {
        self.server("db/etcd")
    }
    /// Existence of this directory is k3s's test for "this server has a datastore".
    pub fn wal(&self) -> PathBuf {
        self.etcd().join("member/wal")
    }
    /// The etcd member's name.
    pub fn etcd_name(&self) -> PathBuf {
        self.etcd().join("name")
    }
    /// Written when this member was removed from its cluster.
    pub fn tombstone(&self) -> PathBuf {
        self.etcd().join("tombstone")
    }
    /// Written by a cluster reset before the single-member etcd is up.
    pub fn reset_flag(&self) -> PathBuf {
        self.server("db/reset-flag")
    }
    /// The lone cluster's store.
    pub fn state_db(&self) -> PathBuf {
        self.server("db/state.db")
    }
}

/// Writes a file of mode 0600 (or as given) in one step, making its directory 0700 if absent.
///
/// # Errors
/// The path and the cause.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("failed to write {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(fail)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)
}

/// [`write()`] for secrets and everything else k3s keeps to itself.
///
/// # Errors
/// As [`write()`].
pub fn write_secret(path: &Path, content: &str) -> Result<(), String> {
    write(path, content.as_bytes(), 0o600)
}

/// Makes a directory and its parents, 0700.
///
/// # Errors
/// The path and the cause.
pub fn make_dir(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| format!("mkdir {}: {e}", path.display()))
}

/// Reads a text file.
///
/// # Errors
/// In Go's words, path first.
pub fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("open {}: {}", path.display(), go_error(&e)))
}

/// The operating system's words as Go prints them.
pub fn go_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
