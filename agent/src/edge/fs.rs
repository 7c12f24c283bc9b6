//! Files: one durable write, and reads that tell absent from unreadable.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::core::Known;

/// A file operation that failed; what is said of the file afterwards stands in each variant.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The file is there, or may be, and could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The new content is not in place; the old content, if any, is untouched.
    #[error("cannot write {} while {doing}; its old content is untouched", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The part of the write that failed.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file or directory is where it was.
    #[error("cannot {doing} {}", path.display())]
    Change {
        /// Which path.
        path: PathBuf,
        /// The verb.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl FsError {
    /// The system's own error.
    #[must_use]
    pub fn io(&self) -> &std::io::Error {
        match self {
            FsError::Read { source, .. } | FsError::Write { source, .. } | FsError::Change { source, .. } => {
                source
            }
        }
    }
}

/// Reads a whole file; `None` when it is not there.
///
/// # Errors
/// When it is there and cannot be read, or when that cannot be told.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FsError> {
    let fail = |source| FsError::Read { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(fail)?;
    Ok(Some(bytes))
}

/// Reads a whole text file; `None` when it is not there.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path) -> Result<Option<String>, FsError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|error| FsError::Read {
        path: path.to_owned(),
        source: std::io::Error::new(ErrorKind::InvalidData, error.utf8_error().to_string()),
    })
}

/// Reads a text that somebody else keeps, if it is a regular file of at most so many bytes; `None` when it is not there.
///
/// # Errors
/// As [`read_text`], and when it is no regular file or longer.
pub fn read_start(path: &Path, most: usize) -> std::io::Result<Option<String>> {
    // Without O_NONBLOCK a pipe in the place of the file would hold the reader for ever.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(std::io::Error::other(format!("it is longer than {most} bytes")));
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| std::io::Error::new(ErrorKind::InvalidData, "it is not text"))
}

/// Reads a text file into the three-valued answer.
#[must_use]
pub fn known_text(path: &Path) -> Known<String> {
    match read_text(path) {
        Ok(Some(text)) => Known::Yes(text),
        Ok(None) => Known::Absent,
        Err(error) => Known::unknown(path.display().to_string(), error.io().to_string()),
    }
}

/// Whether something stands at the path: yes, absent, or could not tell. Symbolic links are not followed.
#[must_use]
pub fn known_there(path: &Path) -> Known<()> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Known::Yes(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Known::Absent,
        Err(error) => Known::unknown(path.display().to_string(), error.to_string()),
    }
}

/// The names in a directory, sorted; absent when there is no such directory.
#[must_use]
pub fn known_names(path: &Path) -> Known<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Known::Absent,
        Err(error) => return Known::unknown(path.display().to_string(), error.to_string()),
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => names.push(entry.file_name().to_string_lossy().into_owned()),
            Err(error) => return Known::unknown(path.display().to_string(), error.to_string()),
        }
    }
    names.sort();
    Known::Yes(names)
}

/// How the name of a temporary file or link begins; six letters and digits follow.
const TEMPORARY: &str = ".muster-";

/// Whether a name is that of a temporary file or link of ours: one that stays is what a crash left.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(TEMPORARY).unwrap_or_default();
    random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Puts content in place so that after a crash either the old or the new content is there, whole: a temporary file beside the
/// target, its mode set before the rename, the file synced, renamed, and the directory synced.
///
/// # Errors
/// When any part fails; the old content is then untouched.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FsError> {
    let fail = |doing| move |source| FsError::Write { path: path.to_owned(), doing, source };
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(fail("making a temporary file beside it"))?;
    // The builder's permissions pass through the umask; the mode asked for is the mode that is wanted.
    temporary.as_file().set_permissions(Permissions::from_mode(mode)).map_err(fail("setting its mode"))?;
    temporary.write_all(content).map_err(fail("writing its content"))?;
    temporary.as_file().sync_all().map_err(fail("syncing it"))?;
    temporary.persist(path).map_err(|error| fail("renaming it into place")(error.error))?;
    sync_directory(directory).map_err(fail("syncing its directory"))
}

/// Writes a file that is only for this boot (status, run-time facts): whole or not at all for a reader, but not synced.
///
/// # Errors
/// When any part fails; the old content is then untouched.
pub fn write_volatile(path: &Path, content: &[u8], mode: u32) -> Result<(), FsError> {
    let fail = |doing| move |source| FsError::Write { path: path.to_owned(), doing, source };
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(directory)
        .map_err(fail("making a temporary file beside it"))?;
    temporary.as_file().set_permissions(Permissions::from_mode(mode)).map_err(fail("setting its mode"))?;
    temporary.write_all(content).map_err(fail("writing its content"))?;
    temporary.persist(path).map_err(|error| fail("renaming it into place")(error.error))?;
    Ok(())
}

/// Makes a directory and its missing parents with this mode; one that is there keeps its own.
///
/// # Errors
/// When one cannot be made.
pub fn create_directory(path: &Path, mode: u32) -> Result<(), FsError> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| FsError::Change {
        path: path.to_owned(),
        doing: "make the directory",
        source,
    })
}

/// Removes a file; one that is not there is removed already.
///
/// # Errors
/// When it stays.
#[expect(clippy::disallowed_methods, reason = "this is the edge that everybody else must use")]
pub fn remove(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FsError::Change { path: path.to_owned(), doing: "remove", source }),
    }
}

/// Removes an empty directory and syncs its parent; one that is not there is removed already.
///
/// # Errors
/// When it stays, because something is in it for one.
pub fn remove_directory(path: &Path) -> Result<(), FsError> {
    let fail = |source| FsError::Change { path: path.to_owned(), doing: "remove the directory", source };
    match std::fs::remove_dir(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_directory).map_err(fail),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(fail(source)),
    }
}

/// Moves a path to another place on the same file system and syncs both directories.
///
/// # Errors
/// When it stays where it was.
#[expect(clippy::disallowed_methods, reason = "this is the edge that everybody else must use")]
pub fn rename(from: &Path, to: &Path) -> Result<(), FsError> {
    let fail = |source| FsError::Change { path: from.to_owned(), doing: "move aside", source };
    std::fs::rename(from, to).map_err(fail)?;
    for directory in [from.parent(), to.parent()].into_iter().flatten() {
        sync_directory(directory).map_err(fail)?;
    }
    Ok(())
}

/// Copies a file to a place that is not there yet: whole and synced, or not at all. False when the source is no plain file.
///
/// # Errors
/// When it cannot be read or written; nothing stands at the target then.
pub fn copy_atomic(from: &Path, to: &Path, mode: u32) -> Result<bool, FsError> {
    let unread = |source| FsError::Read { path: from.to_owned(), source };
    let fail = |doing| move |source| FsError::Write { path: to.to_owned(), doing, source };
    let mut source = File::open(from).map_err(unread)?;
    if !source.metadata().map_err(unread)?.is_file() {
        return Ok(false);
    }
    let directory = to.parent().unwrap_or_else(|| Path::new("/"));
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(directory)
        .map_err(fail("making a temporary file beside it"))?;
    temporary.as_file().set_permissions(Permissions::from_mode(mode)).map_err(fail("setting its mode"))?;
    std::io::copy(&mut source, temporary.as_file_mut()).map_err(fail("copying its content"))?;
    temporary.as_file().sync_all().map_err(fail("syncing it"))?;
    temporary.persist(to).map_err(|error| fail("renaming it into place")(error.error))?;
    sync_directory(directory).map_err(fail("syncing its directory"))?;
    Ok(true)
}

/// Makes a symbolic link, unless something stands there already.
///
/// # Errors
/// When it cannot be made.
pub fn link_if_free(target: &Path, link: &Path) -> Result<bool, FsError> {
    match std::os::unix::fs::symlink(target, link) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(FsError::Change { path: link.to_owned(), doing: "make the link", source }),
    }
}

/// Opens a file for appending lines, made with this mode if it is new.
///
/// # Errors
/// When it cannot be opened.
pub fn open_append(path: &Path, mode: u32) -> Result<File, FsError> {
    OpenOptions::new().create(true).append(true).mode(mode).open(path).map_err(|source| FsError::Change {
        path: path.to_owned(),
        doing: "open for appending",
        source,
    })
}

/// As [`write_atomic`], for a file of a given owner and group, set before the rename.
///
/// # Errors
/// When any part fails; the old content is then untouched.
pub fn write_atomic_owned(path: &Path, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<(), FsError> {
    let fail = |doing| move |source| FsError::Write { path: path.to_owned(), doing, source };
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(fail("making a temporary file beside it"))?;
    let made = temporary.as_file().metadata().map_err(fail("looking at the temporary file"))?;
    if (made.uid(), made.gid()) != owner {
        std::os::unix::fs::fchown(temporary.as_file(), Some(owner.0), Some(owner.1))
            .map_err(fail("setting its owner"))?;
    }
    // After the owner: changing an owner clears the set-id bits.
    temporary.as_file().set_permissions(Permissions::from_mode(mode)).map_err(fail("setting its mode"))?;
    temporary.write_all(content).map_err(fail("writing its content"))?;
    temporary.as_file().sync_all().map_err(fail("syncing it"))?;
    temporary.persist(path).map_err(|error| fail("renaming it into place")(error.error))?;
    sync_directory(directory).map_err(fail("syncing its directory"))
}

/// Puts a symbolic link in place of whatever file or link stands there, atomically and synced.
///
/// # Errors
/// When any part fails; what stood there is then untouched.
pub fn link_atomic(target: &Path, link: &Path) -> Result<(), FsError> {
    let fail = |doing| move |source| FsError::Write { path: link.to_owned(), doing, source };
    let directory = link.parent().unwrap_or_else(|| Path::new("/"));
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .make_in(directory, |name| std::os::unix::fs::symlink(target, name))
        .map_err(fail("making a temporary link beside it"))?;
    temporary.persist(link).map_err(|error| fail("renaming it into place")(error.error))?;
    sync_directory(directory).map_err(fail("syncing its directory"))
}

/// Removes a file and syncs its directory; one that is not there is removed already.
///
/// # Errors
/// When it stays, or the directory cannot be synced.
pub fn remove_synced(path: &Path) -> Result<(), FsError> {
    remove(path)?;
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    match sync_directory(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(FsError::Change { path: path.to_owned(), doing: "sync the directory of", source: error })
        }
        _ => Ok(()),
    }
}

/// Appends to a file of this mode, made if needed, and syncs it; a new file's directory is synced too.
///
/// # Errors
/// When any part fails; a part of the bytes may then be in the file.
pub fn append_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let fail = |doing| move |source| FsError::Change { path: path.to_owned(), doing, source };
    let fresh = known_there(path).is_absent();
    let mut file = open_append(path, mode)?;
    if fresh {
        // The mode of a new file passes through the umask.
        file.set_permissions(Permissions::from_mode(mode)).map_err(fail("set the mode of"))?;
    }
    file.write_all(bytes).map_err(fail("append to"))?;
    file.sync_data().map_err(fail("sync"))?;
    if fresh {
        sync_directory(path.parent().unwrap_or_else(|| Path::new("/")))
            .map_err(fail("sync the directory of"))?;
    }
    Ok(())
}

/// Appends to a file that is there, without a sync: a power cut may lose it, whole or in part.
///
/// # Errors
/// When any part fails; a part of the bytes may then be in the file.
pub fn append_volatile(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let fail = |source| FsError::Change { path: path.to_owned(), doing: "append to", source };
    open_append(path, mode)?.write_all(bytes).map_err(fail)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_whole_with_its_mode_and_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.json");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(read_text(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(known_names(directory.path()), Known::Yes(vec!["ledger.json".into()]));
    }

    #[test]
    fn absent_and_unreadable_are_two_answers() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(&directory.path().join("nothing")).unwrap(), None);
        assert!(read(directory.path()).is_err());
        assert!(known_text(directory.path()).is_unknown());
        assert!(known_text(&directory.path().join("nothing")).is_absent());
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::create_dir(&path).unwrap();
        assert!(write_atomic(&path, b"x", 0o600).is_err());
        assert_eq!(known_names(directory.path()), Known::Yes(vec!["file".into()]));
    }
}
