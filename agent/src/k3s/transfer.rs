//! Bytes from a file or a mirror into a part file, with progress, and taken up again where they stopped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{StatusCode, header, redirect};
use tokio::sync::watch;

use super::release::{ElfError, Sha256, SourceError};
use crate::edge::http::{plain_builder, why_failed};

/// A transfer that stands still for this long is broken off; there is no bound on the whole.
const STILL: Duration = Duration::from_secs(30);
/// Most bytes of a binary: several times the largest release.
const BINARY_BYTES: u64 = 1024 * 1024 * 1024;
/// Times that a broken transfer is taken up again within one attempt, if it brought something.
const RESUMES: usize = 5;

/// How far an installation is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The source in use; empty before the first.
    pub source: String,
    /// Bytes in hand.
    pub done: u64,
    /// Bytes in all, once known.
    pub total: Option<u64>,
}

/// Why one source did not serve. Nothing took the target's name.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The source cannot be used as it is written in the settings.
    #[error("{0}")]
    Source(SourceError),
    /// The checksum file or the binary is not there.
    #[error("{place} is not there")]
    Missing {
        /// What was looked for.
        place: String,
    },
    /// It could not be read or fetched to its end. What came is kept for the next attempt.
    #[error("cannot read {place}: {cause}")]
    Read {
        /// What was being read.
        place: String,
        /// The cause.
        cause: String,
    },
    /// The checksum file does not list the binary.
    #[error("{place} lists no SHA-256 for {name}")]
    NoSum {
        /// The checksum file.
        place: String,
        /// The binary's name.
        name: String,
    },
    /// The bytes are not those that the checksum file promises. They are removed.
    #[error("{place} has SHA-256 {found}, wanted {wanted}")]
    Sum {
        /// The binary.
        place: String,
        /// What the checksum file says.
        wanted: Sha256,
        /// What came.
        found: String,
    },
    /// The binary is for another machine, or none. It is removed.
    #[error("{place} cannot run here: {cause}")]
    Machine {
        /// The binary.
        place: String,
        /// What it is instead.
        cause: ElfError,
    },
    /// The binary is of another release. It is removed.
    #[error("{place} says it is {found}, wanted {wanted}")]
    Version {
        /// The binary.
        place: String,
        /// The pinned version.
        wanted: String,
        /// What it says.
        found: String,
    },
    /// The part file or the target could not be written.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
}

pub(super) fn write_error(path: &Path, error: &std::io::Error) -> AttemptError {
    AttemptError::Write { path: path.to_owned(), cause: error.to_string() }
}

pub(super) fn read_error(url: &str, error: &reqwest::Error) -> AttemptError {
    AttemptError::Read { place: url.to_owned(), cause: why_failed(url, STILL, error).to_string() }
}

/// Copies a file whole, from its beginning.
pub(super) async fn copy(
    from: &Path,
    part: &File,
    path: &Path,
    progress: &watch::Sender<Progress>,
) -> Result<(), AttemptError> {
    let (from, path, progress) = (from.to_owned(), path.to_owned(), progress.clone());
    let mut part = part.try_clone().map_err(|error| write_error(&path, &error))?;
    let place = from.display().to_string();
    let read = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => AttemptError::Missing { place: place.clone() },
        _ => AttemptError::Read { place: place.clone(), cause: error.to_string() },
    };
    let mut source = File::open(&from).map_err(|error| read(&error))?;
    let total = source.metadata().map_err(|error| read(&error))?.len();
    let work = move || -> Result<(), (bool, std::io::Error)> {
        part.set_len(0).map_err(|error| (false, error))?;
        part.seek(SeekFrom::Start(0)).map_err(|error| (false, error))?;
        let mut buffer = vec![0_u8; 256 * 1024];
        let mut done = 0;
        loop {
            let count = source.read(&mut buffer).map_err(|error| (true, error))?;
            if count == 0 {
                return Ok(());
            }
            part.write_all(&buffer[..count]).map_err(|error| (false, error))?;
            done += count as u64;
            progress.send_modify(|progress| (progress.done, progress.total) = (done, Some(total)));
        }
    };
    match blocking(work).await {
        Ok(()) => Ok(()),
        Err((true, error)) => Err(read(&error)),
        Err((false, error)) => Err(write_error(&path, &error)),
    }
}

/// Appends to the part file until the source has no more. A transfer that breaks off is taken up again while it brings
/// something; then what came is left for the next attempt.
pub(super) async fn download(
    url: &str,
    part: &File,
    path: &Path,
    progress: &watch::Sender<Progress>,
) -> Result<(), AttemptError> {
    let mut resumes = 0;
    loop {
        let have = part.metadata().map_err(|error| write_error(path, &error))?.len();
        match transfer(url, part, path, have, progress).await {
            Ok(()) => return Ok(()),
            Err(error @ AttemptError::Read { .. }) => {
                let now = part.metadata().map_err(|error| write_error(path, &error))?.len();
                resumes += 1;
                if now <= have || resumes > RESUMES {
                    return Err(error);
                }
                tracing::info!(url, bytes = now, "download broke off; going on");
            }
            Err(error) => return Err(error),
        }
    }
}

async fn transfer(
    url: &str,
    mut part: &File,
    path: &Path,
    have: u64,
    progress: &watch::Sender<Progress>,
) -> Result<(), AttemptError> {
    let mut response = get(url, have).await?;
    let mut done = match response.status() {
        // All of it was here already; the sum will tell.
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(()),
        StatusCode::PARTIAL_CONTENT if begins_at(&response, have) => have,
        StatusCode::PARTIAL_CONTENT => {
            let cause = format!("it sent another range than the one from byte {have} on");
            return Err(AttemptError::Read { place: url.to_owned(), cause });
        }
        _ => 0,
    };
    let total = response.content_length().map(|left| done + left);
    part.set_len(done).map_err(|error| write_error(path, &error))?;
    part.seek(SeekFrom::Start(done)).map_err(|error| write_error(path, &error))?;
    progress.send_modify(|progress| (progress.done, progress.total) = (done, total));
    while let Some(chunk) = response.chunk().await.map_err(|error| read_error(url, &error))? {
        done += chunk.len() as u64;
        if done > BINARY_BYTES {
            return Err(AttemptError::Write {
                path: path.to_owned(),
                cause: "the download is too large".into(),
            });
        }
        part.write_all(&chunk).map_err(|error| write_error(path, &error))?;
        progress.send_modify(|progress| progress.done = done);
    }
    match total {
        Some(total) if done < total => Err(AttemptError::Read {
            place: url.to_owned(),
            cause: format!("it ended after {done} of {total} bytes"),
        }),
        _ => Ok(()),
    }
}

fn begins_at(response: &reqwest::Response, have: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()) == Some(have)
}

/// Asks for a URL from a byte on. Proxies of the environment are used here and for cloud APIs: mirrors may be behind one.
pub(super) async fn get(url: &str, from: u64) -> Result<reqwest::Response, AttemptError> {
    let secure = url.starts_with("https://");
    let client = plain_builder()
        .read_timeout(STILL)
        .https_only(secure)
        .redirect(redirect::Policy::limited(5))
        .build()
        .map_err(|error| read_error(url, &error))?;
    let mut request = client.get(url);
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let response = request.send().await.map_err(|error| read_error(url, &error))?;
    match response.status() {
        status if status.is_success() => Ok(response),
        StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(AttemptError::Missing { place: url.to_owned() }),
        status => {
            Err(AttemptError::Read { place: url.to_owned(), cause: format!("the server answered {status}") })
        }
    }
}

/// Runs file work off the event loop.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work does not panic and is not cancelled; if it did panic, so does the caller.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
