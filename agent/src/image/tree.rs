//! The only door to an image's files: every path is resolved as if the image's root were `/`, by the kernel. [edge]
//!
//! An image is somebody else's data. Its links may point anywhere, absolute ones most of all: `openat2` with
//! `RESOLVE_IN_ROOT` resolves them within the image, `..` included, so that nothing here can read, write or remove a file of
//! the machine that seals it. What is removed is named by an open directory and one name in it, never by a path.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};

/// Deepest tree that is removed: every level holds a directory open.
const DEEPEST: usize = 200;

/// Something of an image that could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {} in the image", path.display())]
pub struct TreeError {
    /// The verb.
    pub doing: &'static str,
    /// The path within the image.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

impl TreeError {
    /// A file that could not be read.
    #[must_use]
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        Self { doing: "read", path: path.to_owned(), source }
    }
}

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A socket, a pipe or a device.
    Other,
}

impl Kind {
    fn of(mode: u32) -> Self {
        let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
        match kind {
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFLNK => Self::Link,
            _ => Self::Other,
        }
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// What stands there.
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
}

/// The files of an image, or of this machine when the root is `/`.
#[derive(Debug)]
pub struct ImageTree {
    root: OwnedFd,
    path: PathBuf,
}

impl ImageTree {
    /// The tree under a directory.
    ///
    /// # Errors
    /// When it is no directory that can be opened.
    pub fn open(root: &Path) -> Result<Self, TreeError> {
        let fail =
            |source: std::io::Error| TreeError { doing: "open as a root", path: root.to_owned(), source };
        let path = root.canonicalize().map_err(fail)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&path, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        Ok(Self { root: fd, path })
    }

    /// The directory, without links on the way.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// Device and number of the root: two paths to one directory have the same.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn number(&self) -> Result<(u64, u64), TreeError> {
        let stat = fstat(&self.root).map_err(|errno| error("look at", Path::new("/"), errno))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Opens what a path leads to, links followed within the image; none when nothing stands there.
    fn resolve(&self, path: &Path, flags: OFlag) -> Result<Option<OwnedFd>, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let inner = path.strip_prefix("/").unwrap_or(path);
        let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
        // EAGAIN: somebody renames directories beneath us; the kernel asks for another try.
        for _ in 0..16 {
            match openat2(&self.root, inner, how) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The directory that holds a path's last component.
    fn parent<'a>(&self, path: &'a Path) -> Result<Option<(OwnedFd, &'a OsStr)>, Errno> {
        let Some(name) = path.file_name() else { return Err(Errno::EINVAL) };
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok(self.resolve(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?.map(|fd| (fd, name)))
    }

    /// What stands at a path; its last component is not followed.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn kind(&self, path: &Path) -> Result<Option<Kind>, TreeError> {
        let fail = |errno| error("look at", path, errno);
        let Some((parent, name)) = self.parent(path).map_err(fail)? else { return Ok(None) };
        Ok(stat_in(&parent, name).map_err(fail)?.map(|stat| Kind::of(stat.st_mode)))
    }

    /// The names in a directory, in their order; none when there is no such directory.
    ///
    /// # Errors
    /// When they cannot be told.
    pub fn names(&self, path: &Path) -> Result<Option<Vec<Entry>>, TreeError> {
        let fail = |errno| error("list", path, errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let Some(directory) = self.resolve(path, flags).map_err(fail)? else { return Ok(None) };
        entries(&directory).map(Some).map_err(fail)
    }

    /// The path that a path ends at within the image once all links are followed; none when they lead to nothing.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn real(&self, path: &Path) -> Result<Option<PathBuf>, TreeError> {
        let fail = |source| TreeError { doing: "follow", path: path.to_owned(), source };
        let Some(fd) = self.resolve(path, OFlag::O_PATH).map_err(|errno| fail(errno.into()))? else {
            return Ok(None);
        };
        let outer = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(fail)?;
        match outer.strip_prefix(&self.path) {
            Ok(inner) => Ok(Some(Path::new("/").join(inner))),
            Err(_) => Err(fail(std::io::Error::other("it was moved meanwhile"))),
        }
    }

    /// A regular file, open for reading, links followed within the image; none when nothing, or no regular file, stands there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(&self, path: &Path) -> Result<Option<std::fs::File>, TreeError> {
        // Without O_NONBLOCK a pipe would hold us for ever.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = match self.resolve(path, flags) {
            Ok(Some(fd)) => fd,
            // A socket, or a device without a driver.
            Ok(None) | Err(Errno::ENXIO | Errno::ENODEV) => return Ok(None),
            Err(errno) => return Err(error("read", path, errno)),
        };
        let stat = fstat(&fd).map_err(|errno| error("read", path, errno))?;
        Ok((Kind::of(stat.st_mode) == Kind::File).then(|| std::fs::File::from(fd)))
    }

    /// At most `limit` bytes of such a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|source| TreeError::read(path, source))?;
        Ok(Some(bytes))
    }

    /// Where a link points, as it is written; none when no link stands there.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn target(&self, path: &Path) -> Result<Option<PathBuf>, TreeError> {
        let fail = |errno| error("read the link", path, errno);
        let Some((parent, name)) = self.parent(path).map_err(fail)? else { return Ok(None) };
        match nix::fcntl::readlinkat(&parent, name) {
            Ok(target) => Ok(Some(target.into())),
            Err(Errno::EINVAL | Errno::ENOENT) => Ok(None),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// Removes what stands at a path, with everything in it; a link is removed and not followed. Nothing there: done. It is on the
    /// disk after [`ImageTree::sync`].
    ///
    /// # Errors
    /// When something stays; what was removed before it is gone.
    pub fn remove(&self, path: &Path) -> Result<(), TreeError> {
        let fail = |errno| error("remove", path, errno);
        let Some((parent, name)) = self.parent(path).map_err(fail)? else { return Ok(()) };
        remove_in(&parent, name, 0).map_err(fail)
    }

    /// Puts a small file in place of whatever file or link a path names, so that whoever reads it finds the old or the new. It is on the
    /// disk after [`ImageTree::sync`].
    ///
    /// # Errors
    /// When it fails; what stood there is untouched.
    pub fn put(&self, path: &Path, content: &str, mode: u32) -> Result<(), TreeError> {
        use std::io::Write;
        let fail = |errno| error("write", path, errno);
        let Some((parent, name)) = self.parent(path).map_err(fail)? else {
            return Err(fail(Errno::ENOENT));
        };
        let temporary = [b".muster-seal-".as_slice(), name.as_bytes()].concat();
        let temporary = OsStr::from_bytes(&temporary);
        // Left by a seal that was cut off.
        remove_in(&parent, temporary, 0).map_err(fail)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&parent, temporary, flags, Mode::from_bits_truncate(0o600)).map_err(fail)?;
        let mut file = std::fs::File::from(file);
        let io = |source| TreeError { doing: "write", path: path.to_owned(), source };
        file.write_all(content.as_bytes()).map_err(io)?;
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(fail)?;
        renameat(&parent, temporary, &parent, name).map_err(fail)
    }

    /// Everything that was changed is on the disk afterwards.
    ///
    /// # Errors
    /// When the file system says that it is not.
    pub fn sync(&self) -> Result<(), TreeError> {
        syncfs(&self.root).map_err(|errno| error("sync", Path::new("/"), errno))
    }
}

fn error(doing: &'static str, path: &Path, errno: Errno) -> TreeError {
    let source = match errno {
        Errno::ENOSYS => std::io::Error::other("this kernel has no openat2 (Linux 5.6)"),
        errno => errno.into(),
    };
    TreeError { doing, path: path.to_owned(), source }
}

fn stat_in(parent: &impl AsFd, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn entries(directory: &OwnedFd) -> Result<Vec<Entry>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // A descriptor of its own: reading moves its position.
    let mut listed = Dir::openat(directory, ".", flags, Mode::empty())?;
    let mut all = Vec::new();
    for entry in listed.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        // Gone since it was listed: then it is not there.
        if let Some(stat) = stat_in(directory, name)? {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            all.push(Entry { name: name.to_owned(), kind: Kind::of(stat.st_mode), size });
        }
    }
    all.sort();
    Ok(all)
}

fn remove_in(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    if depth >= DEEPEST {
        return Err(Errno::ENAMETOOLONG);
    }
    // A directory: what is in it goes first. It is not followed if it has become a link meanwhile.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => {
            for entry in entries(&directory)? {
                remove_in(&directory, &entry.name, depth + 1)?;
            }
        }
        Err(Errno::ENOENT) => return Ok(()),
        // A file that cannot be removed (an immutable one) said EPERM, too.
        Err(Errno::ENOTDIR) => return Err(Errno::EPERM),
        Err(errno) => return Err(errno),
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
