//! The host: what it is, what it should be, the difference, and how the difference is closed and opened again.
//!
//! ```text
//! probe(root) --> HostFacts --> plan(facts, wanted) --> HostPlan { rows, steps, findings }
//!                                  ^ pure                  |
//!                                  |                       v
//!                         profile::ROWS (data)    apply: journal, change, journal      revert: the journal backwards
//! ```
//!
//! The wanted host is the table [`ROWS`]; each row says why, whose need it is, how it is probed, changed and undone, and
//! what its absence means for the node's part in the cluster. The same plan serves a running machine and a mounted image:
//! an image has no running kernel, so only its files are judged and changed.
//!
//! `facts`, `profile`, `plan` and `render` are pure. `tree`, `machine`, `probe`, `measure`, `examine` and `clock` touch the machine. Every
//! change is written to the journal, synced, before it is made.

mod apply;
mod clock;
mod content;
mod doctor;
mod error;
mod examine;
mod facts;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod journal;
mod ledgered;
mod machine;
mod measure;
mod plan;
mod probe;
mod profile;
mod render;
mod revert;
mod standing;
mod table;
mod tree;

#[cfg(test)]
mod bad_input_tests;
#[cfg(test)]
mod boot_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use apply::{Outcome, Prepared, StepReport, apply, prepare};
pub use clock::clock;
pub use content::{Content, Kept};
pub use doctor::{Diagnosis, Fit, Identity, diagnose, render_diagnosis};
pub use error::HostError;
pub(crate) use examine::certificates;
pub use examine::{PEER_PORTS, Peer, examine, knock, paths};
pub use facts::examined::{fitness, shortcomings};
pub use facts::{
    ActiveSwap, Answer, CertificateSeen, Cgroups, Examined, FileFacts, HostFacts, InitLimits, Link, Listener,
    LiveFacts, OsRelease, PathSeen, PeerAnswer, Protocol, Scope, SysctlFile, UnitSeen, ZramConfig,
};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::host_journal as fuzz;
pub use journal::{Change, Entry, Journal, JournalError, Record};
pub use machine::{LocalMachine, Machine, Reload};
pub use measure::{Measured, class, measure};
pub use plan::{Finding, HostAct, HostPlan, HostStep, HostWanted, RowState, Verdict, narrow, plan};
pub use probe::{container, name_owners, probe, probe_as};
pub use profile::{
    Applies, Blocks, Check, Effect, Kind, Level, Manager, Need, Opening, PORTS, Package, Port, ROWS, Row,
    Wish, document_ports, nearest_row, row,
};
pub use revert::revert;
pub use table::{document_table, render_reports, render_table};
pub use tree::Tree;

/// Where the modules to load at boot are kept.
pub const MODULES_FILE: &str = "/etc/modules-load.d/muster.conf";
/// Where the sysctls to set at boot are kept.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/90-muster.conf";
/// Where NetworkManager is told to leave k3s's interfaces alone.
pub const NETWORK_MANAGER_FILE: &str = "/etc/NetworkManager/conf.d/90-muster.conf";
/// firewalld policies of ours: towards the host, and through it.
pub const FIREWALLD_FILES: [&str; 2] =
    ["/etc/firewalld/policies/muster-host.xml", "/etc/firewalld/policies/muster-pods.xml"];
/// The file system table.
pub const FSTAB: &str = "/etc/fstab";
/// Name of the journal in the state directory.
pub const JOURNAL_NAME: &str = "host-journal.jsonl";
