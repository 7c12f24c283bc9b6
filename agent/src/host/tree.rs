//! A rooted file tree: the whole machine, or a mounted image that no link may lead out of. [edge]

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::core::Known;
use crate::edge::fs;
use crate::host::{Content, HostError, Kept};

/// The root that every path of the host is looked up under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A tree under a directory; `/` is this machine.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an absolute path of the host lies. The last component is not followed; for an image, a link on the way that
    /// leads outside is refused, so that preparing an image can never touch the machine that prepares it.
    ///
    /// # Errors
    /// When a link on the way leads outside, or that cannot be told.
    pub fn at(&self, path: &str) -> Result<PathBuf, HostError> {
        let inner = self.root.join(path.trim_start_matches('/'));
        if self.root == Path::new("/") {
            return Ok(inner);
        }
        let fail = |source| HostError::Way { path: inner.clone(), source };
        let root = self.root.canonicalize().map_err(fail)?;
        for ancestor in inner.ancestors().skip(1) {
            match ancestor.canonicalize() {
                Ok(real) if real.starts_with(&root) => return Ok(inner),
                Ok(_) => return Err(HostError::Outside { path: inner }),
                // Nothing there, or a link to nothing: then a link itself must not stand there.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if ancestor.symlink_metadata().is_ok() {
                        return Err(HostError::Outside { path: inner });
                    }
                }
                Err(error) => return Err(fail(error)),
            }
        }
        Err(HostError::Outside { path: inner })
    }

    /// What stands at a path; none when nothing does. Links are not followed.
    ///
    /// # Errors
    /// When it cannot be told, or is neither a file nor a link.
    pub fn look(&self, path: &str) -> Result<Option<Kept>, HostError> {
        let at = self.at(path)?;
        let fail = |source| fs::FsError::Read { path: at.clone(), source };
        let metadata = match std::fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(fail(error).into()),
        };
        if metadata.is_symlink() {
            let target = std::fs::read_link(&at).map_err(fail)?;
            return Ok(Some(Kept::Link { target: target.to_string_lossy().into_owned() }));
        }
        if !metadata.is_file() {
            return Err(HostError::NotAFile { path: at });
        }
        // Gone between the two looks: then nothing stands there.
        Ok(fs::read(&at)?.map(|bytes| Kept::File {
            content: Content::new(bytes),
            mode: metadata.permissions().mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }))
    }

    /// [`Tree::look`] as one of three answers.
    #[must_use]
    pub fn known(&self, path: &str) -> Known<Kept> {
        match self.look(path) {
            Ok(Some(kept)) => Known::Yes(kept),
            Ok(None) => Known::Absent,
            Err(error) => Known::unknown(path.to_owned(), error.cause()),
        }
    }

    /// The text behind a path, links followed as far as they stay inside; a link to `/dev/null` is an empty text.
    #[must_use]
    pub fn text(&self, path: &str) -> Known<String> {
        match self.inside(path) {
            Ok(Some(at)) => match fs::known_text(&at) {
                Known::Unknown(unread) => Known::unknown(path.to_owned(), unread.cause),
                known => known,
            },
            Ok(None) => Known::Absent,
            Err(HostError::Outside { .. }) if matches!(self.look(path), Ok(Some(kept)) if kept.masks()) => {
                Known::Yes(String::new())
            }
            Err(error) => Known::unknown(path.to_owned(), error.cause()),
        }
    }

    /// Whether something stands at a path, links followed as far as they stay inside.
    #[must_use]
    pub fn there(&self, path: &str) -> Known<()> {
        match self.inside(path) {
            Ok(Some(at)) => fs::known_there(&at),
            Ok(None) => Known::Absent,
            Err(error) => Known::unknown(path.to_owned(), error.cause()),
        }
    }

    /// Names in a directory, links to it followed as far as they stay inside.
    #[must_use]
    pub fn names(&self, path: &str) -> Known<Vec<String>> {
        match self.inside(path) {
            Ok(Some(at)) => match fs::known_names(&at) {
                Known::Unknown(unread) => Known::unknown(path.to_owned(), unread.cause),
                known => known,
            },
            Ok(None) => Known::Absent,
            Err(error) => Known::unknown(path.to_owned(), error.cause()),
        }
    }

    /// The real place behind a path; none when nothing stands there.
    fn inside(&self, path: &str) -> Result<Option<PathBuf>, HostError> {
        let inner = self.root.join(path.trim_start_matches('/'));
        if self.root == Path::new("/") {
            return Ok(Some(inner));
        }
        let fail = |source| HostError::Way { path: inner.clone(), source };
        let root = self.root.canonicalize().map_err(fail)?;
        match inner.canonicalize() {
            Ok(real) if real.starts_with(&root) => Ok(Some(real)),
            Ok(_) => Err(HostError::Outside { path: inner }),
            Err(error) if error.kind() == ErrorKind::NotFound => match inner.symlink_metadata() {
                Ok(_) => Err(HostError::Outside { path: inner }),
                Err(_) => Ok(None),
            },
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Puts a file or a link in place, or takes away what is there, so that after a crash the old or the new stands there.
    ///
    /// # Errors
    /// When it fails; what was there is then untouched, except that a directory may not be synced.
    pub fn put(&self, path: &str, state: Option<&Kept>) -> Result<(), HostError> {
        let at = self.at(path)?;
        match state {
            None => fs::remove_synced(&at)?,
            Some(Kept::Link { target }) => fs::link_atomic(Path::new(target), &at)?,
            Some(Kept::File { content, mode, uid, gid }) => {
                fs::write_atomic_owned(&at, content.bytes(), *mode, (*uid, *gid))?;
            }
        }
        Ok(())
    }

    /// Takes away what [`Tree::put`] to this path left beside it when its process died in the middle. Nothing else may be putting
    /// there: the lock of the host sees to that.
    ///
    /// # Errors
    /// When the directory cannot be listed, or something of it stays.
    pub fn sweep(&self, path: &str) -> Result<(), HostError> {
        let at = self.at(path)?;
        let Some(directory) = at.parent() else { return Ok(()) };
        let names = match fs::known_names(directory) {
            Known::Yes(names) => names,
            Known::Absent => return Ok(()),
            Known::Unknown(unread) => {
                let source = std::io::Error::other(unread.cause);
                return Err(fs::FsError::Read { path: directory.to_owned(), source }.into());
            }
        };
        for name in names.iter().filter(|name| fs::is_temporary(name)) {
            let left = directory.join(name);
            // A directory of such a name is none of ours.
            if std::fs::symlink_metadata(&left).is_ok_and(|seen| seen.is_file() || seen.is_symlink()) {
                fs::remove(&left)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_cannot_lead_outside_itself() {
        let outside = tempfile::tempdir().unwrap();
        let image = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), image.path().join("etc")).unwrap();
        let tree = Tree::new(image.path());
        let file = Kept::File { content: Content::new("x"), mode: 0o644, uid: 0, gid: 0 };
        assert!(matches!(tree.put("/etc/fstab", Some(&file)), Err(HostError::Outside { .. })));
        assert!(tree.known("/etc/fstab").is_unknown());
        assert!(tree.names("/etc").is_unknown());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_a_put_left_is_swept() {
        let image = tempfile::tempdir().unwrap();
        let etc = image.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::create_dir(etc.join(".muster-dIrect")).unwrap();
        for name in [".muster-Ab12Cd", ".muster-notes.txt", ".muster-abc", "muster-Ab12Cd", "fstab"] {
            fs::write_volatile(&etc.join(name), b"x", 0o600).unwrap();
        }
        std::os::unix::fs::symlink("/dev/null", etc.join(".muster-xyzXYZ")).unwrap();
        let tree = Tree::new(image.path());
        tree.sweep("/etc/fstab").unwrap();
        tree.sweep("/not/there/at/all").unwrap();
        let left = tree.names("/etc");
        let left = left.yes().unwrap();
        assert_eq!(left, &[".muster-abc", ".muster-dIrect", ".muster-notes.txt", "fstab", "muster-Ab12Cd"]);
    }

    #[test]
    fn links_inside_are_followed_for_reading_and_a_null_link_is_empty() {
        let image = tempfile::tempdir().unwrap();
        let etc = image.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        fs::write_atomic(&etc.join("sysctl.conf"), b"a=1", 0o644).unwrap();
        std::os::unix::fs::symlink("sysctl.conf", etc.join("99.conf")).unwrap();
        std::os::unix::fs::symlink("/dev/null", etc.join("off.conf")).unwrap();
        let tree = Tree::new(image.path());
        assert_eq!(tree.text("/etc/99.conf"), Known::Yes("a=1".into()));
        assert_eq!(tree.text("/etc/off.conf"), Known::Yes(String::new()));
        assert_eq!(tree.known("/etc/off.conf"), Known::Yes(Kept::null_link()));
        assert_eq!(tree.text("/etc/none/at/all"), Known::Absent);
    }
}
