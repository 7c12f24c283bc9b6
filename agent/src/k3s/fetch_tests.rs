//! Installations from files and from a server that misbehaves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::edge::fs::write_atomic;
use crate::k3s::testing::{Reply, Server, closed_port, reply};

const VERSION: &str = "v1.33.1+k3s1";
/// Transfers that one attempt makes when each is cut.
const BROKEN: usize = 6;

/// Says a version without running anything, and notes what it was asked about.
#[derive(Default)]
struct Says(Mutex<Vec<PathBuf>>, &'static str);

fn says(line: &'static str) -> Says {
    Says(Mutex::default(), line)
}

#[async_trait]
impl AskVersion for Says {
    async fn version_line(&self, path: &Path) -> Result<String, ExecError> {
        self.0.lock().unwrap().push(path.to_owned());
        Ok(self.1.to_owned())
    }
}

const RIGHT: &str = "k3s version v1.33.1+k3s1 (99d91538)";

fn elf(machine: u8, tail: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; 64];
    bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    bytes[18] = machine;
    bytes.extend((0..tail).map(|at| (at * 31 % 251) as u8));
    bytes
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&SHA256, bytes))
}

struct Host {
    root: tempfile::TempDir,
    settings: K3sSettings,
}

impl Host {
    fn new(sources: Vec<Source>) -> Self {
        let settings = K3sSettings {
            version: VERSION.into(),
            sources,
            checksums: None,
            data_dir: "/var/lib/rancher/k3s".into(),
            cluster_cidr: String::new(),
            service_cidr: String::new(),
            cluster_dns: None,
            cluster_domain: String::new(),
            flannel_backend: String::new(),
            disable: Vec::new(),
            tls_san: Vec::new(),
            token: None,
            agent_token: None,
            server_config: Default::default(),
            agent_config: Default::default(),
        };
        Self { root: tempfile::tempdir().unwrap(), settings }
    }

    fn bin(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    fn target(&self) -> PathBuf {
        self.bin().join("k3s")
    }

    fn source(&mut self, name: &str, binary: &[u8], sums: &str) -> PathBuf {
        let directory = self.root.path().join(name);
        fs::create_directory(&directory, 0o755).unwrap();
        write_atomic(&directory.join("k3s"), binary, 0o644).unwrap();
        write_atomic(&directory.join("sha256sum-amd64.txt"), sums.as_bytes(), 0o644).unwrap();
        self.settings.sources.push(Source::Path(directory.clone()));
        directory
    }

    async fn install(&self, ask: &Says) -> Result<Installed, InstallError> {
        self.install_with(ask, &watch::Sender::new(Progress::default())).await
    }

    async fn install_with(
        &self,
        ask: &Says,
        progress: &watch::Sender<Progress>,
    ) -> Result<Installed, InstallError> {
        let target = self.target();
        let wanted = Wanted { settings: &self.settings, target: &target, arch: Arch::Amd64 };
        install(&wanted, ask, progress).await
    }

    fn names(&self) -> Vec<String> {
        fs::known_names(&self.bin()).yes().cloned().unwrap_or_default()
    }

    fn installed(&self) -> Option<Vec<u8>> {
        fs::read(&self.target()).unwrap()
    }
}

#[tokio::test]
async fn a_directory_serves_and_the_second_time_nothing_is_written() {
    let mut host = Host::new(Vec::new());
    let binary = elf(62, 600_000);
    host.source("opt", &binary, &format!("{}  k3s\n", sum(&binary)));
    let (ask, progress) = (says(RIGHT), watch::Sender::new(Progress::default()));
    let done = host.install_with(&ask, &progress).await.unwrap();
    assert!(matches!(&done, Installed::Done { source, .. } if source.ends_with("opt/k3s")), "{done:?}");
    let total = binary.len() as u64;
    assert_eq!((progress.borrow().done, progress.borrow().total), (total, Some(total)));
    assert_eq!(host.installed().unwrap(), binary);
    let mode = std::fs::metadata(host.target()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(host.names(), ["crictl", "ctr", "k3s", "kubectl"]);
    // The version was asked before the binary had its name.
    assert!(ask.0.lock().unwrap()[0].display().to_string().ends_with(".part"));
    assert!(matches!(host.install(&says("never asked")).await.unwrap(), Installed::AlreadySo { .. }));
}

#[tokio::test]
async fn every_bad_source_is_named_and_what_was_installed_stays() {
    let mut host = Host::new(Vec::new());
    let (good, arm) = (elf(62, 1_000), elf(183, 1_000));
    fs::create_directory(&host.bin(), 0o755).unwrap();
    write_atomic(&host.target(), b"the old one", 0o755).unwrap();
    host.source("tampered", b"other bytes", &format!("{}  k3s\n", sum(&good)));
    host.source("arm", &arm, &format!("{}  k3s\n", sum(&arm)));
    host.source("unlisted", &good, "nothing of use\n");
    let gone = host.source("gone", &good, &format!("{}  k3s\n", sum(&good)));
    fs::remove(&gone.join("k3s")).unwrap();
    host.settings.sources.push(Source::Path(host.root.path().join("nowhere")));
    host.settings.sources.push(Source::Url("ftp://mirror".into()));
    let error = host.install(&says(RIGHT)).await.unwrap_err();
    let InstallError::Sources { attempts, .. } = &error else { panic!("{error}") };
    let kinds: Vec<&str> = attempts
        .iter()
        .map(|(_, error)| match error {
            AttemptError::Sum { .. } => "sum",
            AttemptError::Machine { .. } => "machine",
            AttemptError::NoSum { .. } => "no sum",
            AttemptError::Missing { .. } => "missing",
            AttemptError::Source(_) => "source",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["sum", "machine", "no sum", "missing", "missing", "source"]);
    let text = error.to_string();
    for part in
        [&sum(b"other bytes"), &sum(&good), "arm64, wanted amd64", "/gone/k3s is not there", "ftp://mirror"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(host.installed().unwrap(), b"the old one");
    assert_eq!(host.names(), ["k3s"], "no part file of wrong bytes, no links");
    // The next source is tried.
    host.source("good", &good, &format!("{}  k3s\n", sum(&good)));
    assert!(matches!(host.install(&says(RIGHT)).await, Ok(Installed::Done { .. })));
}

#[tokio::test]
async fn another_release_is_refused_although_its_sum_is_right() {
    let mut host = Host::new(Vec::new());
    let binary = elf(62, 10);
    host.source("opt", &binary, &format!("{}  k3s\n", sum(&binary)));
    let error = host.install(&says("k3s version v1.32.0+k3s1 (x)")).await.unwrap_err().to_string();
    assert!(error.contains("says it is k3s version v1.32.0+k3s1 (x), wanted v1.33.1+k3s1"), "{error}");
    assert_eq!(host.names(), Vec::<String>::new());
}

#[tokio::test]
async fn names_that_are_taken_are_left_alone() {
    let mut host = Host::new(Vec::new());
    let binary = elf(62, 10);
    host.source("opt", &binary, &format!("{}  k3s\n", sum(&binary)));
    fs::create_directory(&host.bin(), 0o755).unwrap();
    write_atomic(&host.bin().join("kubectl"), b"the operator's own", 0o755).unwrap();
    host.install(&says(RIGHT)).await.unwrap();
    assert_eq!(fs::read_text(&host.bin().join("kubectl")).unwrap().as_deref(), Some("the operator's own"));
    assert_eq!(std::fs::read_link(host.bin().join("ctr")).unwrap(), host.target());
}

#[tokio::test]
async fn two_installations_at_once_do_not_write_the_same_file() {
    let mut host = Host::new(Vec::new());
    let binary = elf(62, 10);
    host.source("opt", &binary, &format!("{}  k3s\n", sum(&binary)));
    fs::create_directory(&host.bin(), 0o755).unwrap();
    let other = File::open(host.bin()).unwrap();
    other.try_lock().unwrap();
    assert!(matches!(host.install(&says(RIGHT)).await, Err(InstallError::Busy { .. })));
    drop(other);
    assert!(host.install(&says(RIGHT)).await.is_ok());
}

/// A mirror that serves one binary with ranges and cuts each of the first `cuts` transfers after `step` bytes.
async fn mirror(binary: Vec<u8>, cuts: usize, step: usize) -> Server {
    let served = AtomicUsize::new(0);
    Server::start(None, move |seen| {
        let from: usize = seen
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        if from >= binary.len() {
            return reply(416, "");
        }
        let part = binary[from..].to_vec();
        let cut = served.fetch_add(1, Ordering::SeqCst) < cuts;
        Reply {
            status: if from > 0 { 206 } else { 200 },
            headers: format!("content-range: bytes {from}-{}/{}\r\n", binary.len() - 1, binary.len()),
            cut_at: cut.then_some(step.min(part.len())),
            body: part,
        }
    })
    .await
}

fn with_mirror(server: &Server, binary: &[u8]) -> Host {
    let mut host = Host::new(vec![Source::Url(format!("http://{}/k3s", server.at))]);
    let sums = host.root.path().join("sums");
    write_atomic(&sums, format!("{}  k3s\n", sum(binary)).as_bytes(), 0o644).unwrap();
    host.settings.checksums = Some(Source::Path(sums));
    host
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let binary = elf(62, 300_000);
    let server = mirror(binary.clone(), 2, 100_000).await;
    let host = with_mirror(&server, &binary);
    host.install(&says(RIGHT)).await.unwrap();
    assert_eq!(host.installed().unwrap(), binary);
    let seen = server.seen.lock().unwrap().clone();
    let ranges: Vec<Option<&str>> = seen.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=200000-")]);
    assert_eq!(seen[0].path, "/k3s/v1.33.1%2Bk3s1/k3s");
}

#[tokio::test]
async fn what_came_before_a_crash_is_not_fetched_again() {
    let binary = elf(62, 300_000);
    // The line is cut more often than one attempt takes it up again, and then stays cut.
    let server = mirror(binary.clone(), usize::MAX, 10_000).await;
    let host = with_mirror(&server, &binary);
    let error = host.install(&says(RIGHT)).await.unwrap_err().to_string();
    assert!(error.contains("cannot read http://"), "{error}");
    assert_eq!(host.installed(), None);
    let first = server.seen.lock().unwrap().len();
    assert_eq!(first, BROKEN);
    drop(server);
    let again = mirror(binary.clone(), 0, 0).await;
    // The same host, the same sum, another mirror.
    let url = Source::Url(format!("http://{}/k3s", again.at));
    let host = Host { settings: K3sSettings { sources: vec![url], ..host.settings }, ..host };
    host.install(&says(RIGHT)).await.unwrap();
    assert_eq!(host.installed().unwrap(), binary);
    let range = again.seen.lock().unwrap()[0].header("range").map(str::to_owned);
    assert_eq!(range, Some(format!("bytes={}-", 10_000 * BROKEN)));
}

#[tokio::test]
async fn a_whole_part_file_left_by_a_crash_is_verified_and_used() {
    let binary = elf(62, 5_000);
    let server = mirror(binary.clone(), 0, 0).await;
    let host = with_mirror(&server, &binary);
    fs::create_directory(&host.bin(), 0o755).unwrap();
    let part = part_path(&host.target(), &Sha256::parse(&sum(&binary)).unwrap());
    write_atomic(&part, &binary, 0o600).unwrap();
    host.install(&says(RIGHT)).await.unwrap();
    assert_eq!(host.installed().unwrap(), binary);
    assert!(host.names().iter().all(|name| !name.ends_with(".part")));
}

#[tokio::test]
async fn an_absent_release_and_a_dead_mirror_are_told_apart() {
    let server = Server::start(None, |_| reply(404, "Not Found")).await;
    let host = with_mirror(&server, b"x");
    let error = host.install(&says(RIGHT)).await.unwrap_err().to_string();
    assert!(error.contains("is not there"), "{error}");
    let nowhere = Source::Url(format!("http://127.0.0.1:{}/k3s", closed_port()));
    let host = Host { settings: K3sSettings { sources: vec![nowhere], ..host.settings }, ..host };
    let error = host.install(&says(RIGHT)).await.unwrap_err().to_string();
    assert!(error.contains("nothing listens at"), "{error}");
    assert_eq!(host.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_binary_is_asked_for_its_version_by_running_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("k3s");
    write_atomic(&path, b"#!/bin/sh\necho 'k3s version v1.33.1+k3s1 (stand-in)'\necho go\n", 0o755).unwrap();
    assert_eq!(RunIt.version_line(&path).await.unwrap(), "k3s version v1.33.1+k3s1 (stand-in)");
    assert!(RunIt.version_line(&root.path().join("none")).await.is_err());
}

#[tokio::test]
async fn no_source_at_all_says_what_to_set() {
    let error = Host::new(Vec::new()).install(&says(RIGHT)).await.unwrap_err().to_string();
    assert!(error.contains("k3s.sources"), "{error}");
}
