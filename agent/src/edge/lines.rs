//! A file of lines with one writer, which knows its length: a line that was not written whole is taken back, and a power cut
//! damages the end alone.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::fs::{self, FsError};

/// The open file. Not opened with `O_APPEND`: Linux would then ignore the position of a write, and with it the taking back.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: File,
    length: u64,
    mode: u32,
    /// A failed write may have left bytes behind `length`.
    dirty: bool,
}

impl LineFile {
    /// Opens the file, or makes an empty one with this mode; a new one's directory is synced.
    ///
    /// # Errors
    /// When it cannot be opened for reading and writing.
    pub fn open(path: &Path, mode: u32) -> Result<Self, FsError> {
        let fail = |doing| move |source| FsError::Change { path: path.to_owned(), doing, source };
        let fresh = fs::known_there(path).is_absent();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(mode)
            .open(path)
            .map_err(fail("open"))?;
        if fresh {
            // The mode of a new file passes through the umask.
            file.set_permissions(Permissions::from_mode(mode)).map_err(fail("set the mode of"))?;
            let directory = path.parent().unwrap_or_else(|| Path::new("/"));
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(fail("sync the directory of"))?;
        }
        let length = file.metadata().map_err(fail("look at"))?.len();
        Ok(Self { path: path.to_owned(), file, length, mode, dirty: false })
    }

    /// Its length in bytes, without what a failed write left.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its last bytes, at most this many.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tail(&self, most: u64) -> Result<Vec<u8>, FsError> {
        let size = self.length.min(most);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, self.length - size).map_err(self.fail("read the end of"))?;
        Ok(bytes)
    }

    /// Writes at the end. Not synced.
    ///
    /// # Errors
    /// When it could not be written whole: then the file is as it was, now or before the next write.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        if self.dirty {
            self.file.set_len(self.length).map_err(self.fail("take back the half-written end of"))?;
            self.dirty = false;
        }
        if let Err(source) = self.file.write_all_at(bytes, self.length) {
            self.dirty = self.file.set_len(self.length).is_err();
            return Err(FsError::Change { path: self.path.clone(), doing: "append to", source });
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Puts bytes in the place of the end from this position on, and syncs them. After a crash in between, they stand there
    /// whole, or the end is still no whole line.
    ///
    /// # Errors
    /// When any part fails; the file may then end in either.
    pub fn replace_end(&mut self, from: u64, bytes: &[u8]) -> Result<(), FsError> {
        self.file.write_all_at(bytes, from).map_err(self.fail("write"))?;
        self.sync()?;
        self.file.set_len(from + bytes.len() as u64).map_err(self.fail("shorten"))?;
        self.length = from + bytes.len() as u64;
        self.sync()
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// When the system cannot say so.
    pub fn sync(&self) -> Result<(), FsError> {
        self.file.sync_data().map_err(self.fail("sync"))
    }

    /// Looks whether the file is still there as it was left. One that was removed or replaced is opened anew, and one that
    /// somebody else wrote to is taken as it is: the next line then stands on a line of its own.
    ///
    /// # Errors
    /// When it cannot be looked at or opened.
    pub fn settle(&mut self) -> Result<(), FsError> {
        let meta = self.file.metadata().map_err(self.fail("look at"))?;
        if meta.nlink() == 0 {
            *self = Self::open(&self.path, self.mode)?;
        } else if self.dirty || meta.len() == self.length {
            return Ok(());
        } else {
            self.length = meta.len();
        }
        match self.tail(1)?.first() {
            None | Some(b'\n') => Ok(()),
            Some(_) => self.append(b"\n"),
        }
    }

    fn fail(&self, doing: &'static str) -> impl FnOnce(std::io::Error) -> FsError + use<> {
        let path = self.path.clone();
        move |source| FsError::Change { path, doing, source }
    }
}

/// Reads a file that its writer may rename at any moment together with the one it is renamed to: the older one first. What is
/// absent is none.
///
/// # Errors
/// When one is there and cannot be read, or the writer was quicker three times.
pub fn read_pair(older: &Path, newer: &Path) -> Result<[Option<Vec<u8>>; 2], FsError> {
    let fail = |source| FsError::Read { path: newer.to_owned(), source };
    for _ in 0..3 {
        let mut file = match File::open(newer) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail(error)),
        };
        let mut bytes = Vec::new();
        if let Some(file) = &mut file {
            file.read_to_end(&mut bytes).map_err(fail)?;
        }
        let before = fs::read(older)?;
        let now = std::fs::metadata(newer).ok().map(|meta| meta.ino());
        let then = file.as_ref().map(File::metadata).transpose().map_err(fail)?.map(|meta| meta.ino());
        if now == then {
            return Ok([before, file.map(|_| bytes)]);
        }
    }
    Err(fail(std::io::Error::other("it was renamed again and again while it was read")))
}
