//! The steps of a plan: values, so that they can be printed, compared and tested.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::core::Why;
use crate::host::{Kept, Level, Manager, Package};

/// One change of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAct {
    /// Swap off on one area.
    SwapOff {
        /// Path of the area, as the kernel names it.
        path: String,
        /// Its priority, to put back.
        priority: i32,
    },
    /// A file or link put in place, or taken away.
    PutFile {
        /// Absolute path on the host.
        path: String,
        /// What stands there now: asked again just before.
        before: Option<Kept>,
        /// What shall stand there.
        after: Option<Kept>,
        /// For people: what this does.
        does: String,
        /// For people: what changes in it, never a whole file.
        lines: Vec<String>,
    },
    /// systemd told to read its units again.
    ReloadUnits,
    /// A module loaded.
    LoadModule {
        /// Its name.
        name: &'static str,
    },
    /// A package installed.
    Install {
        /// What it is wanted for.
        package: Package,
        /// By which manager.
        manager: Manager,
    },
    /// A rule added to ufw.
    UfwAllow {
        /// As `ufw allow` takes it.
        rule: String,
    },
    /// A sysctl set in the running kernel.
    SetSysctl {
        /// Its key, with dots.
        key: &'static str,
        /// Its value now: asked again just before.
        before: String,
        /// Its value then.
        after: String,
    },
}

impl fmt::Display for HostAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostAct::SwapOff { path, .. } => write!(f, "turn off swap on {path}"),
            HostAct::PutFile { does, .. } => f.write_str(does),
            HostAct::ReloadUnits => f.write_str("let systemd read its units again"),
            HostAct::Install { package, manager } => {
                write!(f, "install the package {}", package.name(*manager))
            }
            HostAct::UfwAllow { rule } => write!(f, "ufw allow {rule}"),
            HostAct::LoadModule { name } => write!(f, "load the module {name}"),
            HostAct::SetSysctl { key, before, after } => write!(f, "set {key} from {before} to {after}"),
        }
    }
}

/// One step of a plan, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostStep {
    /// The row it serves.
    pub row: &'static str,
    /// Needed or wished.
    pub level: Level,
    /// What is done.
    pub act: HostAct,
    /// Why.
    pub why: Why,
}

/// For people and machines alike: what it does and why, never the content of a file.
impl Serialize for HostStep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lines = match &self.act {
            HostAct::PutFile { lines, .. } => lines.as_slice(),
            _ => &[],
        };
        let mut fields = serializer.serialize_struct("HostStep", 5)?;
        fields.serialize_field("row", self.row)?;
        fields.serialize_field("level", &self.level)?;
        fields.serialize_field("does", &self.act.to_string())?;
        fields.serialize_field("lines", lines)?;
        fields.serialize_field("why", &self.why)?;
        fields.end()
    }
}
