//! Sealing an image, and refusing one that is not sealed.
//!
//! ```text
//! ROWS (data) --> survey (read only) --> offences --+--> verify: findings, and nothing is changed
//!                      ^                            |
//!                      +---- look again <--- seal --+ (one act for each offence, the worst first)
//! ```
//!
//! Nothing says that an image was sealed: only what is in it counts, each time anew. So a seal that was cut off is found out, and
//! the next one goes on where it ended. An image is foreign data: [`ImageTree`] resolves every path of it within its root.

mod live;
mod look;
mod mounts;
mod render;
mod rows;
mod secrets;
mod tree;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::edge::fs;

pub use live::{Runner, refusal, runners};
pub use look::{Act, Offence, Survey, Unlooked, Wanted, survey};
pub use mounts::Mounts;
pub use render::{render_sealed, render_verified};
pub use rows::{Class, Place, ROWS, Row, document_table};
pub use tree::{Entry, ImageTree, Kind, TreeError};

/// Most looks that one sealing takes.
const ROUNDS: usize = 16;

/// An image that cannot be judged or must not be sealed. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Its files cannot be reached.
    #[error("{0}")]
    Tree(
        /// Which, and why.
        #[from]
        TreeError,
    ),
    /// Something of this machine's own cannot be read.
    #[error(
        "cannot read {what}, so what is mounted or running in the tree cannot be told; nothing was changed"
    )]
    Machine {
        /// What was to be read.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A directory of this machine is mounted in the tree.
    #[error("{} in the tree is also mounted elsewhere on this machine: unmount it and try again, nothing was changed", path.display())]
    Shared {
        /// The path within the tree.
        path: PathBuf,
    },
    /// The tree is in use, or is this machine's.
    #[error("{0}")]
    Refused(
        /// Why, and what to do.
        String,
    ),
    /// A row that is not to be kept, or does not exist.
    #[error("--keep {name}: {reason}")]
    Keep {
        /// The word.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with a secret to look for holds none.
    #[error("--secret-file {}: {reason}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// The image's root.
    pub root: PathBuf,
    /// Rows that are left out, by name.
    pub keep: Vec<String>,
    /// A file with a secret that must not be in the image.
    pub secret_file: Option<PathBuf>,
    /// The root of the machine that runs may be sealed.
    pub this_machine: bool,
}

/// One line about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The row.
    pub row: &'static str,
    /// How bad it is.
    pub class: Class,
    /// The path within the image; of several, the first.
    pub path: PathBuf,
    /// How many more paths of the row there are.
    pub more: usize,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// What verifying says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The image's root.
    pub root: PathBuf,
    /// None: the image may be copied.
    pub findings: Vec<Finding>,
    /// Rows that were left out.
    pub kept: Vec<&'static str>,
    /// Mounts in the tree that are no part of the image and were not looked at.
    pub volatile: Vec<PathBuf>,
}

/// What sealing did, and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// Removed or replaced, in this order.
    pub done: Vec<Done>,
    /// What a look afterwards says.
    pub verified: Verified,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The row.
    pub row: &'static str,
    /// The path within the image.
    pub path: PathBuf,
    /// `removed` or `replaced`.
    pub what: &'static str,
}

/// An image that is open, with what was asked.
#[derive(Debug)]
struct Opened {
    tree: ImageTree,
    mounts: Mounts,
    keep: Vec<&'static Row>,
    secret: Option<Vec<u8>>,
    live: bool,
}

impl Opened {
    fn of(order: &Order) -> Result<Self, ImageError> {
        let keep = order.keep.iter().map(|name| kept(name)).collect::<Result<_, _>>()?;
        let secret = order.secret_file.as_deref().map(secret_of).transpose()?;
        let tree = ImageTree::open(&order.root)?;
        let live = tree.number()? == ImageTree::open(Path::new("/"))?.number()?;
        let root = if live { Path::new("/") } else { tree.root() };
        let mountinfo = "/proc/self/mountinfo";
        let text = fs::read(Path::new(mountinfo)).map_err(|error| std::io::Error::from(error.io().kind()));
        let text = text.and_then(|text| text.ok_or_else(|| std::io::ErrorKind::NotFound.into()));
        let text = text.map_err(|source| ImageError::Machine { what: mountinfo, source })?;
        let mounts = Mounts::beneath(&text, root);
        Ok(Self { tree, mounts, keep, secret, live })
    }

    fn survey(&self) -> Survey {
        let wanted = Wanted { keep: &self.keep, secret: self.secret.as_deref(), live: self.live };
        survey(&self.tree, &self.mounts, &wanted)
    }

    fn verified(&self, failed: &[(PathBuf, String)]) -> Verified {
        Verified {
            root: self.tree.root().to_owned(),
            findings: findings(&self.survey(), failed),
            kept: self.keep.iter().map(|row| row.name).collect(),
            volatile: self.mounts.volatile.clone(),
        }
    }
}

/// Looks at an image and changes nothing.
///
/// # Errors
/// When it cannot be looked at as a whole.
pub fn verify(order: &Order) -> Result<Verified, ImageError> {
    Ok(Opened::of(order)?.verified(&[]))
}

/// Removes from an image what must not be copied, and looks again. What cannot be removed is among the findings, and the rest
/// goes all the same.
///
/// # Errors
/// When it cannot or must not be sealed; nothing was changed then.
pub fn seal(order: &Order) -> Result<Sealed, ImageError> {
    sealed(order, ImageTree::sync)
}

/// One sync at the end is enough: after a power cut before it, whatever came back is found by the next look.
fn sealed(
    order: &Order,
    sync: impl FnOnce(&ImageTree) -> Result<(), TreeError>,
) -> Result<Sealed, ImageError> {
    let opened = Opened::of(order)?;
    let seen = runners(Path::new("/proc"), opened.tree.number()?)
        .map_err(|source| ImageError::Machine { what: "/proc", source })?;
    if let Some(reason) = refusal(opened.live, order.this_machine, std::process::id(), &seen) {
        return Err(ImageError::Refused(reason));
    }
    if let Some(path) = opened.mounts.shared.first() {
        return Err(ImageError::Shared { path: path.clone() });
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    // What goes may have been what kept something else: a link to a directory, say. Each round but the last takes something away.
    for _ in 0..ROUNDS {
        let before = done.len();
        failed.clear();
        for offence in opened.survey().offences {
            match perform(&opened.tree, &offence) {
                Ok(Some(change)) => done.push(change),
                Ok(None) => {}
                Err(error) => failed.push((offence.path, format!("{error}: {}", error.source))),
            }
        }
        if done.len() == before {
            break;
        }
    }
    if let Err(error) = sync(&opened.tree) {
        failed.push((PathBuf::from("/"), format!("{error}: {}", error.source)));
    }
    Ok(Sealed { done, verified: opened.verified(&failed) })
}

fn perform(tree: &ImageTree, offence: &Offence) -> Result<Option<Done>, TreeError> {
    let what = match offence.act {
        Act::Remove => {
            tree.remove(&offence.path)?;
            "removed"
        }
        Act::Put(text) => {
            // The id is everybody's to read; what names an initiator is not.
            tree.put(&offence.path, text, if text.is_empty() { 0o444 } else { 0o600 })?;
            "replaced"
        }
        Act::Name(_) => return Ok(None),
    };
    Ok(Some(Done { row: offence.row.name, path: offence.path.clone(), what }))
}

/// One line for each row that is not met. [pure]
fn findings(survey: &Survey, failed: &[(PathBuf, String)]) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for offence in &survey.offences {
        let failure = failed.iter().find(|(path, _)| *path == offence.path).map(|(_, cause)| cause.as_str());
        let (what, next) = match (offence.act, failure) {
            (_, Some(cause)) => (cause.to_owned(), "mend that and seal again".to_owned()),
            (Act::Remove | Act::Put(_), None) => {
                (offence.row.reason.to_owned(), "`muster image seal` removes it".to_owned())
            }
            (Act::Name(words), None) => match words.split_once(": ") {
                Some((what, next)) => (what.to_owned(), next.to_owned()),
                None => (
                    words.to_owned(),
                    "take it out; whoever has had the image has the token: make a new one".to_owned(),
                ),
            },
        };
        // Lines of one row that say the same are one line.
        let same = |one: &&mut Finding| one.row == offence.row.name && one.what == what && one.next == next;
        match all.iter_mut().find(same) {
            Some(finding) => finding.more += 1,
            None => all.push(Finding {
                row: offence.row.name,
                class: offence.row.class,
                path: offence.path.clone(),
                more: 0,
                what,
                next,
            }),
        }
    }
    all.extend(survey.unlooked.iter().map(|unlooked| Finding {
        row: unlooked.row.name,
        class: unlooked.row.class,
        path: unlooked.path.clone(),
        more: 0,
        what: unlooked.cause.clone(),
        next: "what cannot be looked at is not taken for clean: mend it and verify again".to_owned(),
    }));
    let synced = |(path, _): &&(PathBuf, String)| path.as_path() == Path::new("/");
    all.extend(failed.iter().filter(synced).map(|(path, cause)| Finding {
        row: "sync",
        class: Class::Secret,
        path: path.clone(),
        more: 0,
        what: cause.clone(),
        next: "what was removed may come back after a power cut: mend the disk and seal again".to_owned(),
    }));
    all
}

fn kept(name: &str) -> Result<&'static Row, ImageError> {
    let fail = |reason: String| ImageError::Keep { name: name.to_owned(), reason };
    let may: Vec<&str> = ROWS.iter().filter(|row| row.class.may_stay()).map(|row| row.name).collect();
    match ROWS.iter().find(|row| row.name == name) {
        Some(row) if row.class.may_stay() => Ok(row),
        Some(row) => {
            Err(fail(format!("a {} is never kept in an image; {} may be", row.class.word(), may.join(", "))))
        }
        None => Err(fail(format!("there is no such row; {} may be kept", may.join(", ")))),
    }
}

fn secret_of(path: &Path) -> Result<Vec<u8>, ImageError> {
    let fail = |reason: &str| ImageError::Secret { path: path.to_owned(), reason: reason.to_owned() };
    let bytes = fs::read(path).map_err(|error| fail(&error.io().to_string()))?;
    let bytes = bytes.ok_or_else(|| fail("there is no such file"))?;
    let secret = bytes.trim_ascii();
    // Something short stands everywhere by chance.
    if secret.len() < 8 {
        return Err(fail("it holds fewer than 8 characters, which may stand anywhere by chance"));
    }
    Ok(secret.to_vec())
}

#[cfg(test)]
mod tests;
