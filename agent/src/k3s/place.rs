//! Puts rendered files in place, each whole or not at all, and only those that differ.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::render::WantedFile;
use crate::core::{Known, Secret};
use crate::edge::fs::{self, FsError};

/// The files among these that do not stand as wanted, in their order: content or mode differ, or it cannot be told.
#[must_use]
pub fn differing(files: &[WantedFile]) -> Vec<&WantedFile> {
    let stands = |file: &&WantedFile| {
        let content = fs::known_text(&file.path).map(Secret::new);
        let mode = std::fs::symlink_metadata(&file.path).map(|metadata| metadata.mode() & 0o7777);
        content == Known::Yes(file.content.clone()) && mode.is_ok_and(|mode| mode == file.mode)
    };
    files.iter().filter(|file| !stands(file)).collect()
}

/// Writes the files that differ, in order, and gives their paths; none when all stood as wanted.
///
/// # Errors
/// At the first file that cannot be written; those before it are in place, it and those after it are as they were.
pub fn put(files: &[WantedFile]) -> Result<Vec<PathBuf>, FsError> {
    let mut written = Vec::new();
    for file in differing(files) {
        fs::create_directory(file.path.parent().unwrap_or(Path::new("/")), 0o755)?;
        fs::write_atomic(&file.path, file.content.expose().as_bytes(), file.mode)?;
        written.push(file.path.clone());
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::fs::{read_text, write_atomic};

    #[test]
    fn only_what_differs_is_written_and_the_second_time_nothing() {
        let root = tempfile::tempdir().unwrap();
        let names = ["same", "mode", "text", "new/gone"];
        let file = |name: &&str| WantedFile {
            path: root.path().join(name),
            content: Secret::new("content\n".into()),
            mode: 0o600,
        };
        let wanted: Vec<WantedFile> = names.iter().map(file).collect();
        write_atomic(&wanted[0].path, b"content\n", 0o600).unwrap();
        write_atomic(&wanted[1].path, b"content\n", 0o644).unwrap();
        write_atomic(&wanted[2].path, b"other\n", 0o600).unwrap();
        let written = put(&wanted).unwrap();
        assert_eq!(written, wanted[1..].iter().map(|file| file.path.clone()).collect::<Vec<_>>());
        assert_eq!(put(&wanted).unwrap(), Vec::<PathBuf>::new());
        for file in &wanted {
            assert_eq!(read_text(&file.path).unwrap().as_deref(), Some("content\n"));
            assert_eq!(std::fs::metadata(&file.path).unwrap().mode() & 0o7777, 0o600);
        }
    }

    #[test]
    fn a_failure_leaves_what_comes_after_it_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        write_atomic(&root.path().join("file"), b"", 0o600).unwrap();
        let file = |name: &str| WantedFile {
            path: root.path().join(name),
            content: Secret::new(String::new()),
            mode: 0o600,
        };
        let wanted = [file("token"), file("file/below"), file("config.yaml")];
        assert!(put(&wanted).is_err());
        assert!(fs::known_there(&wanted[0].path).yes().is_some());
        assert!(fs::known_there(&wanted[2].path).is_absent());
    }
}
