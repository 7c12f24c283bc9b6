//! The one door through which the host is changed. [edge]
//!
//! Looking goes by the [`Tree`], also for `/proc`; only changes go through the trait, so that a test can stop the world
//! after any of them.

use std::ffi::CString;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::Known;
use crate::edge::{exec, fs};
use crate::host::facts::sysctl::key_path;
use crate::host::{HostError, JOURNAL_NAME, Kept, Manager, Scope, Tree};

/// Programs that keep files in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reload {
    /// systemd and its generators.
    Units,
    /// NetworkManager.
    NetworkManager,
    /// firewalld.
    Firewalld,
}

impl std::fmt::Display for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reload::Units => "systemd",
            Reload::NetworkManager => "NetworkManager",
            Reload::Firewalld => "firewalld",
        })
    }
}

/// A host that can be changed. One suite of tests runs over the real one (an image) and over one with scripted faults.
pub trait Machine: Send {
    /// Where its files are, `/proc` included on a running one.
    fn tree(&self) -> &Tree;
    /// Running machine or image.
    fn scope(&self) -> Scope;
    /// The journal's text; absent when there is none.
    fn journal(&self) -> Known<String>;
    /// Adds lines to the journal, synced or not.
    ///
    /// # Errors
    /// When they are not there, or, synced, not surely on disk.
    fn journal_append(&mut self, lines: &str, synced: bool) -> Result<(), HostError>;
    /// Puts another text in place of the journal, or takes it away.
    ///
    /// # Errors
    /// When the old one is still there.
    fn journal_replace(&mut self, text: Option<&str>) -> Result<(), HostError>;
    /// Keeps other processes from changing the host until [`Machine::unlock`].
    ///
    /// # Errors
    /// When another one is at it.
    fn lock(&mut self) -> Result<(), HostError>;
    /// Lets others.
    fn unlock(&mut self);
    /// Puts a file or link in place, or takes it away.
    ///
    /// # Errors
    /// As [`Tree::put`].
    fn put(&mut self, path: &str, state: Option<&Kept>) -> Result<(), HostError>;
    /// Takes away what a [`Machine::put`] to this path left beside it when its process died in the middle.
    ///
    /// # Errors
    /// When something of it stays.
    fn sweep(&mut self, path: &str) -> Result<(), HostError>;
    /// Makes one directory, mode 0755.
    ///
    /// # Errors
    /// When it is not there afterwards.
    fn make_directory(&mut self, path: &str) -> Result<(), HostError>;
    /// Takes away one empty directory.
    ///
    /// # Errors
    /// When it stays, not being empty included.
    fn remove_directory(&mut self, path: &str) -> Result<(), HostError>;
    /// Sets a sysctl of the running kernel.
    ///
    /// # Errors
    /// What the kernel said.
    fn set_sysctl(&mut self, key: &str, value: &str) -> Result<(), HostError>;
    /// Turns swap off; takes as long as moving its pages back takes.
    fn swap_off(&mut self, path: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Turns swap on; a negative priority leaves it to the kernel.
    fn swap_on(&mut self, path: &str, priority: i32) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Loads a module with what it depends on. An error is no proof of failure: the effect is.
    fn load_module(&mut self, name: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Takes a module out that nothing uses.
    fn unload_module(&mut self, name: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Installs a package.
    fn install(&mut self, manager: Manager, name: &str)
    -> impl Future<Output = Result<(), HostError>> + Send;
    /// Removes a package, and nothing that came with it.
    fn uninstall(
        &mut self,
        manager: Manager,
        name: &str,
    ) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Adds a rule to ufw, or takes it away.
    fn ufw(&mut self, allow: bool, rule: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Makes a program read its files again; one that does not run needs nothing.
    fn reload(&mut self, what: Reload) -> impl Future<Output = Result<(), HostError>> + Send;
}

/// This machine, or an image mounted on it.
#[derive(Debug)]
pub struct LocalMachine {
    tree: Tree,
    scope: Scope,
    state_dir: PathBuf,
    lock: Option<File>,
}

impl LocalMachine {
    /// The running machine, with its state directory.
    #[must_use]
    pub fn live(state_dir: &Path) -> Self {
        Self::new(Path::new("/"), Scope::Live, state_dir.to_owned())
    }

    /// An image mounted at `root`; the journal goes into the image, below the same state directory.
    #[must_use]
    pub fn image(root: &Path, state_dir: &Path) -> Self {
        let inside = root.join(state_dir.strip_prefix("/").unwrap_or(state_dir));
        Self::new(root, Scope::Image, inside)
    }

    /// The running machine for `/`, an image for any other root.
    #[must_use]
    pub fn at(root: &Path, state_dir: &Path) -> Self {
        if root == Path::new("/") { Self::live(state_dir) } else { Self::image(root, state_dir) }
    }

    fn new(root: &Path, scope: Scope, state_dir: PathBuf) -> Self {
        Self { tree: Tree::new(root), scope, state_dir, lock: None }
    }

    /// Runs a tool of the distribution, outside the agent's sandbox where systemd runs: package managers write to `/usr`.
    async fn outside(&self, line: &[String], deadline: Duration) -> Result<(), exec::ExecError> {
        let mut words: Vec<&str> = line.iter().map(String::as_str).collect();
        if self.tree.there("/run/systemd/system").yes().is_some() {
            let service = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--"];
            words.splice(0..0, service);
        }
        let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
        exec::run(program, arguments, deadline).await.map(drop)
    }

    fn journal_path(&self) -> PathBuf {
        self.state_dir.join(JOURNAL_NAME)
    }

    fn write_failed(&self, error: fs::FsError) -> HostError {
        let source = std::io::Error::new(error.io().kind(), error.io().to_string());
        HostError::JournalWrite { path: self.journal_path(), source }
    }
}

/// From `linux/swap.h`; the libc crate has only the calls.
const SWAP_FLAG_PREFER: i32 = 0x8000;
const SWAP_FLAG_PRIO_MASK: i32 = 0x7fff;

/// Loading a module reads a few files; minutes mean that something hangs.
const MODPROBE: Duration = Duration::from_secs(30);
/// Downloads and the scripts of packages; longer means that something asks or hangs.
const PACKAGES: Duration = Duration::from_secs(600);
/// Generators run in this time.
const SYSTEMCTL: Duration = Duration::from_secs(90);

impl Machine for LocalMachine {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn journal(&self) -> Known<String> {
        fs::known_text(&self.journal_path())
    }

    fn journal_append(&mut self, lines: &str, synced: bool) -> Result<(), HostError> {
        let append = if synced { fs::append_synced } else { fs::append_volatile };
        append(&self.journal_path(), lines.as_bytes(), 0o600).map_err(|error| self.write_failed(error))
    }

    fn journal_replace(&mut self, text: Option<&str>) -> Result<(), HostError> {
        match text {
            Some(text) => fs::write_atomic(&self.journal_path(), text.as_bytes(), 0o600),
            None => fs::remove_synced(&self.journal_path()),
        }
        .map_err(|error| self.write_failed(error))
    }

    fn lock(&mut self) -> Result<(), HostError> {
        fs::create_directory(&self.state_dir, 0o700).map_err(|error| self.write_failed(error))?;
        let path = self.state_dir.join("host.lock");
        let file = fs::open_append(&path, 0o600).map_err(|error| self.write_failed(error))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(())
            }
            Err(std::fs::TryLockError::WouldBlock) => Err(HostError::Busy { path }),
            Err(std::fs::TryLockError::Error(source)) => Err(HostError::JournalWrite { path, source }),
        }
    }

    fn unlock(&mut self) {
        self.lock = None;
    }

    fn put(&mut self, path: &str, state: Option<&Kept>) -> Result<(), HostError> {
        self.tree.put(path, state)
    }

    fn sweep(&mut self, path: &str) -> Result<(), HostError> {
        self.tree.sweep(path)
    }

    fn make_directory(&mut self, path: &str) -> Result<(), HostError> {
        Ok(fs::create_directory(&self.tree.at(path)?, 0o755)?)
    }

    fn remove_directory(&mut self, path: &str) -> Result<(), HostError> {
        Ok(fs::remove_directory(&self.tree.at(path)?)?)
    }

    fn set_sysctl(&mut self, key: &str, value: &str) -> Result<(), HostError> {
        let fail = |source| HostError::Sysctl { key: key.to_owned(), value: value.to_owned(), source };
        let path = self.tree.at(&format!("/proc/sys/{}", key_path(key)))?;
        let mut file = File::options().write(true).open(path).map_err(fail)?;
        file.write_all(value.as_bytes()).map_err(fail)
    }

    async fn swap_off(&mut self, path: &str) -> Result<(), HostError> {
        swap_call("off", path.to_owned(), |area| {
            // SAFETY: the pointer is to a string that ends in NUL and outlives the call; the kernel only reads it.
            #[expect(unsafe_code, reason = "no safe wrapper of this call exists")]
            unsafe {
                libc::swapoff(area.as_ptr())
            }
        })
        .await
    }

    async fn swap_on(&mut self, path: &str, priority: i32) -> Result<(), HostError> {
        let flags = match priority {
            0.. => SWAP_FLAG_PREFER | (priority & SWAP_FLAG_PRIO_MASK),
            _ => 0,
        };
        swap_call("on", path.to_owned(), move |area| {
            // SAFETY: the pointer is to a string that ends in NUL and outlives the call; the kernel only reads it.
            #[expect(unsafe_code, reason = "no safe wrapper of this call exists")]
            unsafe {
                libc::swapon(area.as_ptr(), flags)
            }
        })
        .await
    }

    async fn load_module(&mut self, name: &str) -> Result<(), HostError> {
        match exec::run("modprobe", &["--", name], MODPROBE).await {
            Ok(_) => Ok(()),
            Err(source) => Err(HostError::Module { way: "load", name: name.to_owned(), source }),
        }
    }

    async fn unload_module(&mut self, name: &str) -> Result<(), HostError> {
        match exec::run("modprobe", &["-r", "--", name], MODPROBE).await {
            Ok(_) => Ok(()),
            Err(source) => Err(HostError::Module { way: "take out", name: name.to_owned(), source }),
        }
    }

    async fn install(&mut self, manager: Manager, name: &str) -> Result<(), HostError> {
        let mut lines = manager.install(name);
        let Some(last) = lines.pop() else { return Ok(()) };
        for line in lines {
            // Lists that cannot be brought up to date matter only if the package is not in the old ones.
            let _ = self.outside(&line, PACKAGES).await;
        }
        let done = self.outside(&last, PACKAGES).await;
        done.map_err(|source| HostError::Tool { what: format!("install {name}"), source })
    }

    async fn uninstall(&mut self, manager: Manager, name: &str) -> Result<(), HostError> {
        let done = self.outside(&manager.remove(name), PACKAGES).await;
        done.map_err(|source| HostError::Tool { what: format!("remove {name}"), source })
    }

    async fn ufw(&mut self, allow: bool, rule: &str) -> Result<(), HostError> {
        let mut line = vec!["ufw".to_owned()];
        line.extend(if allow { vec![] } else { vec!["delete".to_owned()] });
        line.extend(["allow".to_owned()].into_iter().chain(rule.split(' ').map(ToOwned::to_owned)));
        if allow {
            line.extend(["comment".to_owned(), "muster".to_owned()]);
        }
        let done = self.outside(&line, SYSTEMCTL).await;
        done.map_err(|source| HostError::Tool { what: format!("let ufw take the rule {rule}"), source })
    }

    async fn reload(&mut self, what: Reload) -> Result<(), HostError> {
        // The directory that systemd's own sd_booted(3) asks for; an image has nothing that runs.
        if self.scope == Scope::Image || self.tree.there("/run/systemd/system").is_absent() {
            return Ok(());
        }
        let arguments: &[&str] = match what {
            Reload::Units => &["daemon-reload"],
            Reload::NetworkManager => &["try-reload-or-restart", "NetworkManager.service"],
            Reload::Firewalld => &["try-reload-or-restart", "firewalld.service"],
        };
        match exec::run("systemctl", arguments, SYSTEMCTL).await {
            Ok(_) => Ok(()),
            Err(source) => Err(HostError::Reload { what, source }),
        }
    }
}

/// A blocking swap call on a thread of its own: turning swap off moves every page of it back to memory.
async fn swap_call(
    way: &'static str,
    path: String,
    call: impl FnOnce(&CString) -> i32 + Send + 'static,
) -> Result<(), HostError> {
    let area = path.clone();
    let called = tokio::task::spawn_blocking(move || {
        let area = CString::new(area).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        if call(&area) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    })
    .await
    .unwrap_or_else(|error| Err(std::io::Error::other(error)));
    called.map_err(|source| HostError::Swap { way, path, source })
}
