//! k3s on this node: the binary, its configuration, its units, the gate before every start, and what it says of itself.
//!
//! ```text
//! settings, certificate --> spec --> render --> files and units (pure) --> place [edge]
//! settings --> release (which artefact, which sum) --> fetch [edge]    (verified, then renamed into place)
//! disk, units, endpoints --> probe [edge] --> facts --> the planner, and gate (local facts only)
//! journal --> logtext --> a row of the hazard table
//! data that must not be used again --> discard --> moves, performed one by one
//! ```
//!
//! k3s is never a child of the agent: units run it, and each start asks `muster gate` first.

mod ca;
mod config_file;
pub mod discard;
pub mod etcd;
pub mod facts;
pub mod fetch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod gate;
pub mod kube;
pub mod kube_heal;
pub mod logtext;
pub mod place;
pub mod probe;
pub mod release;
pub mod render;
pub mod reset;
pub mod spec;
pub mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
mod token;
mod transfer;

use std::fmt;
use std::path::{Path, PathBuf};

pub use ca::{CaBundle, CaError};
#[cfg(test)]
pub(crate) use config_file::{CRITICAL, CRITICAL_FAMILIES};
pub use config_file::{ConfigError, ConfigFile, is_critical_key};
pub use token::{TokenError, TokenFile, TokenForm, full_agent_token, full_server_token};

/// What k3s runs as on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum K3sRole {
    /// `k3s server`.
    Server,
    /// `k3s agent`.
    Agent,
}

impl K3sRole {
    /// Name of its service, without suffix.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            K3sRole::Server => "k3s",
            K3sRole::Agent => "k3s-agent",
        }
    }

    /// Its subcommand, and the word that `muster gate` takes.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            K3sRole::Server => "server",
            K3sRole::Agent => "agent",
        }
    }
}

impl fmt::Display for K3sRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where things stand on this host. Everything hangs on one root, so that a test has a host of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Root of the host: `/`.
    pub root: PathBuf,
    /// k3s's data directory.
    pub data_dir: PathBuf,
    /// The k3s binary.
    pub binary: PathBuf,
    /// The muster binary, as units call it.
    pub muster: PathBuf,
    /// Where the ledger is: the units name it, so that the gate needs neither configuration nor token.
    pub state_dir: PathBuf,
}

/// Where a package puts the program.
pub const PACKAGED: &str = "/usr/bin/muster";

impl Paths {
    /// The usual places, with this data directory and this state directory.
    #[must_use]
    pub fn new(data_dir: &Path, state_dir: &Path) -> Self {
        Self {
            root: PathBuf::from("/"),
            data_dir: data_dir.to_owned(),
            binary: PathBuf::from("/usr/local/bin/k3s"),
            muster: PathBuf::from("/usr/local/bin/muster"),
            state_dir: state_dir.to_owned(),
        }
    }

    /// The same with units that call `muster` where it is installed: `/usr/bin` when this program runs from there, as a package
    /// puts it; else the usual place, whatever copy a person has started. Units outlive the run that wrote them.
    #[must_use]
    pub fn with_muster_run_from(self, program: Option<&Path>) -> Self {
        match program {
            Some(program) if program == Path::new(PACKAGED) => Self { muster: program.to_owned(), ..self },
            _ => self,
        }
    }

    /// The usual places under another root.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            data_dir: root.join("var/lib/rancher/k3s"),
            binary: root.join("usr/local/bin/k3s"),
            muster: root.join("usr/local/bin/muster"),
            state_dir: root.join("var/lib/muster"),
        }
    }

    /// `/etc/rancher/k3s`.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.root.join("etc/rancher/k3s")
    }

    /// `/etc/rancher/k3s/config.yaml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.config_dir().join("config.yaml")
    }

    /// The file that holds the token with which this node joins, or founds.
    #[must_use]
    pub fn token_file(&self, role: K3sRole) -> PathBuf {
        match role {
            K3sRole::Server => self.config_dir().join("muster-server-token"),
            K3sRole::Agent => self.config_dir().join("muster-agent-token"),
        }
    }

    /// The file that tells a server which password agents use. Its content differs from that of an agent's own token file,
    /// so a server has both names.
    #[must_use]
    pub fn agent_password_file(&self) -> PathBuf {
        self.config_dir().join("muster-agent-token")
    }

    /// `/etc/rancher/node/password`.
    #[must_use]
    pub fn node_password(&self) -> PathBuf {
        self.root.join("etc/rancher/node/password")
    }
}
