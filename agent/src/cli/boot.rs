//! What the kernel's command line points to, fetched once a boot and kept in `/run/muster` before the configuration is read. [edge]
//!
//! A file that was fetched in this boot is not fetched again, so that a restart of the agent needs no boot server. Until it has
//! come, the node says so and asks again: nothing else can be decided without it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::redirect;

use super::run::{park, ready_and_alive};
use crate::config::{Flags, ToFetch, to_fetch};
use crate::core::{Known, Why};
use crate::edge::{fs, http};
use crate::engine::real::metrics::Metrics;

/// Bound on one exchange.
const DEADLINE: Duration = Duration::from_secs(20);
/// How soon a fetch is tried again, and at most how late.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often the watchdog hears from an agent that waits.
const ALIVE: Duration = Duration::from_secs(2);

/// Fetches what is not there yet, however long it takes.
pub(super) async fn fetched(flags: &Flags) {
    let mut shown = None;
    for wanted in to_fetch(Path::new("/")) {
        let mut pause = AGAIN.0;
        loop {
            match once(&wanted).await {
                Ok(false) => break,
                Ok(true) => {
                    if wanted.url.is_plain() {
                        tracing::warn!(url = %wanted.url, "fetched by plain http: whoever is on that network reads it and could change it");
                    }
                    tracing::info!(url = %wanted.url, file = %wanted.file.display(), "fetched for this boot");
                    break;
                }
                Err(cause) => {
                    let run_dir =
                        flags.run_dir.as_ref().map_or_else(|| PathBuf::from("/run/muster"), PathBuf::from);
                    let cluster = flags.cluster.as_deref().unwrap_or("");
                    let said = [why(&wanted, &cause)];
                    let name = flags.node_name.as_deref();
                    park(&run_dir, cluster, name, &said, &Metrics::begin(None), &mut shown);
                }
            }
            let mut left = pause;
            while !left.is_zero() {
                ready_and_alive();
                let part = left.min(ALIVE);
                tokio::time::sleep(part).await;
                left -= part;
            }
            pause = (pause * 2).min(AGAIN.1);
        }
    }
}

fn why(wanted: &ToFetch, cause: &str) -> Why {
    let what = if wanted.secret { "muster.token-url" } else { "muster.config-url" };
    Why::new(
        "boot-url-unfetched",
        format!("{what}={} on the kernel's command line: {cause}", wanted.url),
        "have the boot server answer there; the agent asks again by itself, and needs it once a boot",
    )
}

/// One try; whether something was fetched. The error's text holds nothing of what came.
async fn once(wanted: &ToFetch) -> Result<bool, String> {
    match fs::known_there(&wanted.file) {
        Known::Yes(()) => return Ok(false),
        Known::Absent => {}
        Known::Unknown(unread) => return Err(unread.to_string()),
    }
    let text = get(wanted).await?;
    wanted.accept(&text)?;
    let (mode, directory_mode) = if wanted.secret { (0o600, 0o755) } else { (0o644, 0o755) };
    let directory = wanted.file.parent().unwrap_or(Path::new("/"));
    let fail = |error: fs::FsError| format!("{error}: {}", error.io());
    fs::create_directory(directory, directory_mode).map_err(fail)?;
    fs::write_volatile(&wanted.file, text.as_bytes(), mode).map_err(fail)?;
    Ok(true)
}

async fn get(wanted: &ToFetch) -> Result<zeroize::Zeroizing<String>, String> {
    let url = wanted.url.as_str();
    let fail = |error: &reqwest::Error| http::why_failed(url, DEADLINE, error).to_string();
    // No redirects: what is fetched is fetched from where the command line says. No proxy: the boot server is near.
    let client = http::plain_builder().no_proxy().redirect(redirect::Policy::none()).timeout(DEADLINE);
    let client = client.build().map_err(|error| fail(&error))?;
    let mut response = client.get(url).send().await.map_err(|error| fail(&error))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| fail(&error))? {
        if bytes.len() + chunk.len() > wanted.most_bytes() {
            return Err(format!("what is there is longer than {} bytes", wanted.most_bytes()));
        }
        bytes.extend_from_slice(&chunk);
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(zeroize::Zeroizing::new(text.to_owned())),
        Err(_) => Err("what is there is not text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::to_fetch;

    /// A boot server that answers once with these bytes, and its port.
    fn server(answer: &'static [u8]) -> (u16, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            assert!(stream.read(&mut asked).unwrap() > 0);
            stream.write_all(answer).unwrap();
        });
        (port, thread)
    }

    fn wanted(port: u16, directory: &Path, secret: bool) -> ToFetch {
        let root = directory.join("root");
        fs::create_directory(&root.join("proc"), 0o755).unwrap();
        let line = format!(
            "quiet muster.token-url=http://127.0.0.1:{port}/t muster.config-url=http://127.0.0.1:{port}/c"
        );
        fs::write_volatile(&root.join("proc/cmdline"), line.as_bytes(), 0o644).unwrap();
        let one = to_fetch(&root).into_iter().find(|one| one.secret == secret).unwrap();
        ToFetch { file: directory.join("kept/file"), ..one }
    }

    async fn tried(answer: &'static [u8], secret: bool) -> (Result<bool, String>, Option<String>, u32) {
        let directory = tempfile::tempdir().unwrap();
        let (port, thread) = server(answer);
        let wanted = wanted(port, directory.path(), secret);
        let said = once(&wanted).await;
        thread.join().unwrap();
        let kept = fs::read_text(&wanted.file).unwrap();
        let mode =
            std::fs::metadata(&wanted.file).map(|at| at.permissions().mode() & 0o777).unwrap_or_default();
        if kept.is_some() {
            // Nobody listens any more: what is there is not asked for again.
            assert_eq!(once(&wanted).await, Ok(false));
        }
        (said, kept, mode)
    }

    #[tokio::test]
    async fn what_comes_is_kept_for_this_boot_and_a_token_is_for_root_alone() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 29\r\nConnection: close\r\n\r\ncorrect-horse-battery-staple\n";
        let (said, kept, mode) = tried(answer, true).await;
        assert_eq!((said, kept.as_deref(), mode), (Ok(true), Some("correct-horse-battery-staple\n"), 0o600));
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nservers = 3\n";
        let (said, kept, mode) = tried(answer, false).await;
        assert_eq!((said, kept.as_deref(), mode), (Ok(true), Some("servers = 3\n"), 0o644));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_not_kept() {
        for (answer, words) in [
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".as_slice(), "404"),
            (b"HTTP/1.1 302 Found\r\nLocation: http://1.1.1.1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "302"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret", "6 characters"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\nConnection: close\r\n\r\ncut off", "no answer"),
        ] {
            let (said, kept, _) = tried(answer, true).await;
            let said = said.unwrap_err();
            assert!(said.contains(words), "{said}");
            assert!(!said.contains("secret") && kept.is_none(), "{said}");
        }
    }

    #[tokio::test]
    async fn a_boot_server_that_is_down_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = wanted(listener.local_addr().unwrap().port(), directory.path(), false);
        drop(listener);
        let cause = once(&wanted).await.unwrap_err();
        let why = why(&wanted, &cause);
        assert_eq!(why.rule, "boot-url-unfetched");
        assert!(why.detail.contains("muster.config-url=http://127.0.0.1:"), "{}", why.detail);
    }
}
