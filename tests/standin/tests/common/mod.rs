//! Network namespaces for the stand-in's ports, which are fixed as k3s's are, and processes whose log is waited on.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything: etcd's elections alone may take ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is missing to run these tests, if anything.
pub fn missing() -> Option<&'static str> {
    let runs = |program: &str, argument: &str| {
        Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    if !runs("etcd", "--version") {
        return Some("etcd is not installed (Debian: etcd-server)");
    }
    if !runs("ip", "-V") {
        return Some("ip is not installed (Debian: iproute2)");
    }
    (!nix::unistd::geteuid().is_root()).then_some("network namespaces need root")
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Some hosts on one switch, with a directory each.
pub struct Net {
    pub dir: tempfile::TempDir,
    prefix: String,
    hosts: usize,
}

impl Net {
    pub fn new(hosts: usize) -> Self {
        let net = Self {
            dir: tempfile::tempdir().unwrap(),
            prefix: format!("standin-{}", std::process::id()),
            hosts,
        };
        let switch = format!("{}-sw", net.prefix);
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add br0 type bridge"));
        ip(&format!("-n {switch} link set br0 up"));
        for n in 1..=hosts {
            let host = net.name(n);
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
            ip(&format!("-n {switch} link add p{n} type veth peer name eth0 netns {host}"));
            ip(&format!("-n {switch} link set p{n} master br0 up"));
            ip(&format!("-n {host} addr add {}/24 dev eth0", net.address(n)));
            ip(&format!("-n {host} link set eth0 up"));
            std::fs::create_dir(net.path(n, "")).unwrap();
        }
        net
    }

    fn name(&self, n: usize) -> String {
        format!("{}-{n}", self.prefix)
    }
    pub fn address(&self, n: usize) -> String {
        format!("10.99.0.{n}")
    }
    pub fn path(&self, n: usize, name: &str) -> PathBuf {
        self.dir.path().join(n.to_string()).join(name)
    }

    fn command(&self, n: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(n), env!("CARGO_BIN_EXE_k3s-standin")]);
        command.env("K3S_STANDIN_NODE_DIR", self.path(n, "node"));
        command.env("K3S_STANDIN_LEARNER_SECONDS", "1");
        command.env("KUBECONFIG", self.path(n, "kubeconfig"));
        for name in ["K3S_TOKEN", "K3S_URL", "K3S_CONFIG_FILE"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts a server or agent with this config.yaml (JSON is YAML).
    pub fn start(&self, n: usize, role: &str, config: &str) -> Host {
        self.start_as(n, &format!("node{n}"), role, config)
    }

    /// The same under another node name.
    pub fn start_as(&self, n: usize, name: &str, role: &str, config: &str) -> Host {
        std::fs::write(self.path(n, "config.yaml"), config).unwrap();
        let socket = self.path(n, "notify");
        let _ = std::fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = self.command(n);
        command.arg(role).arg("--config").arg(self.path(n, "config.yaml"));
        command.arg("--data-dir").arg(self.path(n, "data"));
        command.args(["--node-name", name, "--node-ip", &self.address(n)]);
        if role == "server" {
            command.arg("--write-kubeconfig").arg(self.path(n, "kubeconfig"));
        }
        command.env("NOTIFY_SOCKET", &socket);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Host { child, lines, seen: Vec::new(), notify }
    }

    pub fn kubectl(&self, n: usize, arguments: &[&str]) -> Output {
        self.command(n).arg("kubectl").args(arguments).output().unwrap()
    }

    /// A document read with the administrator's certificate.
    pub fn raw(&self, n: usize, path: &str) -> serde_json::Value {
        let output = self.kubectl(n, &["get", "--raw", path]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Asks again, as fast as the answers come, until one is good.
    pub fn until(&self, what: &str, good: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !good() {
            assert!(Instant::now() < end, "never: {what}");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in 1..=self.hosts {
            let _ = Command::new("ip").args(["netns", "del", &self.name(n)]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &format!("{}-sw", self.prefix)]).status();
    }
}

/// A running stand-in.
pub struct Host {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    notify: UnixDatagram,
}

impl Host {
    /// Waits for a log line with this fragment and returns it.
    pub fn logs(&mut self, fragment: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(fragment);
                    self.seen.push(line);
                    if found {
                        return self.seen.last().cloned().unwrap();
                    }
                }
                Err(e) => {
                    let own = self.seen.iter().filter(|l| l.starts_with("time=")).cloned();
                    let why = if e == RecvTimeoutError::Timeout { "in time" } else { "before it ended" };
                    panic!("no {fragment:?} {why}; its log:\n{}", own.collect::<Vec<_>>().join("\n"));
                }
            }
        }
    }

    /// Whether a line with this fragment has come by.
    pub fn has_logged(&self, fragment: &str) -> bool {
        self.seen.iter().any(|line| line.contains(fragment))
    }

    /// Waits for READY=1.
    pub fn ready(&self) {
        let mut text = [0_u8; 256];
        let length = self.notify.recv(&mut text).expect("READY in time");
        assert_eq!(String::from_utf8_lossy(&text[..length]).trim(), "READY=1");
    }

    /// Waits for the end and returns the exit status.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// SIGTERM, then the exit status.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.code()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a secret file and checks that nobody else can.
pub fn secret(path: &Path) -> String {
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}
