//! What can fail when the host is looked at or changed.

use std::path::PathBuf;

use crate::edge::{exec, fs};
use crate::host::{JournalError, Reload};

/// A change of the host, or a look at it, that failed. Unless a variant says otherwise, nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] fs::FsError),
    /// A path whose way cannot be looked at.
    #[error("cannot follow the way to {}", path.display())]
    Way {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A link in the image leads outside it; the file there belongs to another machine.
    #[error("{} leads outside the image through a link", path.display())]
    Outside {
        /// Which path.
        path: PathBuf,
    },
    /// A directory or device where a file should be.
    #[error("{} is neither a file nor a link", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// Swap could not be turned off or on.
    #[error("cannot turn {way} swap on {path}")]
    Swap {
        /// `off` or `on`.
        way: &'static str,
        /// Which area.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A sysctl could not be set. A bad value and a read-only `/proc/sys` both come here, told apart by the source.
    #[error("cannot set {key} to {value}")]
    Sysctl {
        /// Its key.
        key: String,
        /// The value it was to have.
        value: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A module could not be loaded or taken out.
    #[error("cannot {way} the module {name}")]
    Module {
        /// `load` or `take out`.
        way: &'static str,
        /// Which module.
        name: String,
        /// What modprobe said.
        #[source]
        source: exec::ExecError,
    },
    /// A tool of the distribution failed: a package manager, or ufw. What stands there tells how far it came.
    #[error("cannot {what}")]
    Tool {
        /// What it was to do.
        what: String,
        /// What the tool said.
        #[source]
        source: exec::ExecError,
    },
    /// A program that keeps files in memory did not read them again. The files are changed; the next pass tells it again.
    #[error("cannot make {what} read its files again")]
    Reload {
        /// Who.
        what: Reload,
        /// What systemctl said.
        #[source]
        source: exec::ExecError,
    },
    /// The journal cannot be trusted: nothing is changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal cannot be written: the change it should have announced was not made.
    #[error("cannot write the host journal {}", path.display())]
    JournalWrite {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process is changing the host just now.
    #[error("another muster is changing this host (it holds {})", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
}

impl HostError {
    /// The innermost cause in words, for a status line.
    #[must_use]
    pub fn cause(&self) -> String {
        let mut error: &dyn std::error::Error = self;
        while let Some(source) = error.source() {
            error = source;
        }
        error.to_string()
    }

    /// The whole chain in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut error: &dyn std::error::Error = self;
        while let Some(source) = error.source() {
            text = format!("{text}: {source}");
            error = source;
        }
        text
    }
}
