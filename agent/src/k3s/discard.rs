//! Data that must not be used again is moved aside, never deleted: a provisional cluster that was not chosen, a removed
//! member's database, the leftovers of another cluster.
//!
//! ```text
//! names on disk --> plan (pure) --> moves, one rename each --> perform
//! ```
//!
//! What stays where it is: images and charts that were baked in, the operator's manifests, and the container runtime's own
//! directory (a kubelet of the next cluster removes pods that it does not know). Crash-safe: each move is one rename; what was
//! moved is gone from the next plan, what was not is in it again, under a new number. The database moves first, so that no
//! interruption leaves it beside another cluster's keys.

use std::path::{Path, PathBuf};

use super::Paths;
use crate::core::Known;
use crate::edge::fs::{self, FsError};

/// One rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: PathBuf,
    /// To there, on the same file system.
    pub to: PathBuf,
}

/// What is to be moved aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everything that ties this host to a cluster: database, keys, tokens, the kubelet's identity, the node password.
    WholeCluster,
    /// The etcd database alone: a removed member that joins the same cluster again keeps its keys and its node.
    Database,
}

/// What stands on disk, as far as a discard goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// In the parent of the data directory: tells which numbers are taken.
    pub beside: Vec<String>,
    /// In the data directory.
    pub data: Vec<String>,
    /// In `server`.
    pub server: Vec<String>,
    /// In `server/db`.
    pub db: Vec<String>,
    /// In `agent`.
    pub agent: Vec<String>,
    /// Whether there is a node password.
    pub node_password: bool,
    /// The data directory is a file system of its own: nothing in it can be renamed to a place beside it.
    pub data_is_mount: bool,
    /// So is `server/db`: a disk for etcd.
    pub db_is_mount: bool,
}

/// Names in `server` that an image may have brought along; k3s writes its own files in them anew.
const SERVER_STAYS: [&str; 2] = ["manifests", "static"];
/// Names in `agent` that an image may have brought along, and the container runtime's.
const AGENT_STAYS: [&str; 3] = ["images", "pod-manifests", "containerd"];
/// Snapshots stay where they are when only the database goes: they are the cluster's, not the member's.
const DB_STAYS: [&str; 2] = ["snapshots", ".metadata"];

/// The moves, in the order in which they are to be made; none when there is nothing to move.
#[must_use]
pub fn plan(reach: Reach, names: &Names, paths: &Paths) -> Vec<Move> {
    let data = &paths.data_dir;
    let aside = aside(names, data);
    let db = data.join("server/db");
    let mut moves = Vec::new();
    let mut push = |from: PathBuf, to: PathBuf| moves.push(Move { from, to });
    let has_db = names.server.iter().any(|name| name == "db");
    // A file system of its own cannot be renamed, nor its content to another one: what is in it moves within it.
    let (db_aside, db_whole) = if names.db_is_mount {
        (db.join(format!("discarded-{}", next_number(&names.db, "discarded-"))), false)
    } else {
        (aside.join("server/db"), reach == Reach::WholeCluster)
    };
    if has_db && db_whole {
        push(db.clone(), db_aside);
    } else if has_db {
        for name in &names.db {
            let stays = DB_STAYS.contains(&name.as_str()) && reach == Reach::Database;
            let kept = name == "lost+found" || name.starts_with("discarded-");
            if !stays && !kept {
                push(db.join(name), db_aside.join(name));
            }
        }
    }
    if reach == Reach::WholeCluster {
        for name in names.server.iter().filter(|name| *name != "db" && !SERVER_STAYS.contains(&name.as_str()))
        {
            push(data.join("server").join(name), aside.join("server").join(name));
        }
        // `agent/etc` goes too: the agent's remembered server addresses lead back to the old cluster.
        for name in names.agent.iter().filter(|name| !AGENT_STAYS.contains(&name.as_str())) {
            push(data.join("agent").join(name), aside.join("agent").join(name));
        }
        if names.node_password {
            let from = paths.node_password();
            let directory = from.parent().unwrap_or(Path::new("/")).to_owned();
            let number = aside_number(names, data);
            push(from, directory.join(format!("password-discarded-{number}")));
        }
    }
    moves
}

fn data_name(data: &Path) -> String {
    data.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where moved things go: beside the data directory, or inside it when it is a file system of its own.
fn aside(names: &Names, data: &Path) -> PathBuf {
    let number = aside_number(names, data);
    if names.data_is_mount {
        return data.join(format!("discarded-{number}"));
    }
    let parent = data.parent().unwrap_or(Path::new("/"));
    parent.join(format!("{}-discarded-{number}", data_name(data)))
}

fn aside_number(names: &Names, data: &Path) -> u64 {
    if names.data_is_mount {
        next_number(&names.data, "discarded-")
    } else {
        next_number(&names.beside, &format!("{}-discarded-", data_name(data)))
    }
}

/// One more than the highest number that names with this prefix carry; 1 when there is none.
fn next_number(names: &[String], prefix: &str) -> u64 {
    let numbers = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse::<u64>().ok());
    numbers.max().map_or(1, |highest| highest.saturating_add(1))
}

/// Looks at the disk for a plan. Unknown when any part cannot be told: nothing is moved on half a view.
#[must_use]
pub fn look(paths: &Paths) -> Known<Names> {
    let data = &paths.data_dir;
    let names = |path: &Path| match fs::known_names(path) {
        Known::Yes(names) => Ok(names),
        Known::Absent => Ok(Vec::new()),
        Known::Unknown(unread) => Err(unread),
    };
    let there = |path: &Path| match fs::known_there(path) {
        Known::Yes(()) => Ok(true),
        Known::Absent => Ok(false),
        Known::Unknown(unread) => Err(unread),
    };
    let (server, db) = (data.join("server"), data.join("server/db"));
    let all = || {
        Ok(Names {
            beside: names(data.parent().unwrap_or(Path::new("/")))?,
            data: names(data)?,
            server: names(&server)?,
            db: names(&db)?,
            agent: names(&data.join("agent"))?,
            node_password: there(&paths.node_password())?,
            data_is_mount: is_mount(data),
            db_is_mount: is_mount(&db),
        })
    };
    all().map_or_else(Known::Unknown, Known::Yes)
}

/// Whether a directory is the root of a file system: its device is not its parent's. One that is not there is none.
pub(super) fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parent)) => own != parent,
        _ => false,
    }
}

/// Makes the moves in order. A source that is gone was moved already.
///
/// # Errors
/// At the first move that fails; what is before it was moved, what is after it was not, and a new plan goes on from there.
pub fn perform(moves: &[Move]) -> Result<(), FsError> {
    for step in moves {
        if fs::known_there(&step.from).is_absent() {
            continue;
        }
        if let Some(directory) = step.to.parent() {
            fs::create_directory(directory, 0o700)?;
        }
        fs::rename(&step.from, &step.to)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "discard_tests.rs"]
mod tests;
