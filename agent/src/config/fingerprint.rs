//! What the sources looked like when they were read, to notice that they have changed. [edge]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the system says of one path; times in seconds and nanoseconds of the wall clock, compared and never ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stamp {
    Absent,
    Unreadable(Option<i32>),
    There { inode: u64, device: u64, mode: u32, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

/// The sources of a configuration as they were at one moment: paths, times, sizes, modes. Two that differ mean that loading again
/// may give another answer.
///
/// Taken just before the sources are read, so that a change while they are read is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    stamps: Stamps,
}

/// By path, and whether a link there was followed.
type Stamps = BTreeMap<(PathBuf, bool), Stamp>;

impl Fingerprint {
    /// Looks at these files, and at these directories with everything in them that could be a drop-in.
    pub(super) fn take(directories: Vec<PathBuf>, files: Vec<PathBuf>) -> Self {
        let mut stamps = Stamps::new();
        for directory in &directories {
            // The directory's own times change with every temporary file in it; its entries are what counts.
            let names = match std::fs::read_dir(directory) {
                Ok(entries) => entries
                    .filter_map(Result::ok)
                    .map(|entry| entry.path())
                    .filter(|path| is_drop_in(path))
                    .collect(),
                Err(error) => {
                    stamps.insert((directory.clone(), true), failed(&error));
                    Vec::new()
                }
            };
            for path in names {
                look(&path, &mut stamps);
            }
        }
        for path in &files {
            look(path, &mut stamps);
        }
        Self { directories, files, stamps }
    }

    /// The same sources as they are now.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::take(self.directories.clone(), self.files.clone())
    }

    /// Whether the sources are still as they were.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.again() == *self
    }

    /// One more file that the configuration depends on, looked at now: call it before the file is read.
    pub(super) fn watch(&mut self, path: &Path) {
        look(path, &mut self.stamps);
        self.files.push(path.to_owned());
    }
}

/// Whether a path is taken as a drop-in: `*.toml`, and not a hidden file, as which editors and `muster` itself write what is not
/// finished.
pub(super) fn is_drop_in(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.ends_with(".toml") && !name.starts_with('.'))
}

fn look(path: &Path, stamps: &mut Stamps) {
    // Both the link and what it leads to: either may be exchanged.
    let stamp = |metadata: std::io::Result<std::fs::Metadata>| match metadata {
        Ok(at) if at.is_file() || at.is_symlink() => Stamp::There {
            inode: at.ino(),
            device: at.dev(),
            mode: at.mode(),
            size: at.size(),
            modified: (at.mtime(), at.mtime_nsec()),
            changed: (at.ctime(), at.ctime_nsec()),
        },
        // Times of a directory or a device (`/dev/null`) change without its content.
        Ok(at) => Stamp::There {
            inode: at.ino(),
            device: at.dev(),
            mode: at.mode(),
            size: 0,
            modified: (0, 0),
            changed: (0, 0),
        },
        Err(error) => failed(&error),
    };
    let link = std::fs::symlink_metadata(path);
    if link.as_ref().is_ok_and(std::fs::Metadata::is_symlink) {
        stamps.insert((path.to_owned(), true), stamp(std::fs::metadata(path)));
    }
    stamps.insert((path.to_owned(), false), stamp(link));
}

fn failed(error: &std::io::Error) -> Stamp {
    match error.kind() {
        std::io::ErrorKind::NotFound => Stamp::Absent,
        _ => Stamp::Unreadable(error.raw_os_error()),
    }
}
