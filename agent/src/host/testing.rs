//! A host in a directory whose kernel, systemd and disk are played: faults can be put at any change.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::core::Known;
use crate::edge::exec::ExecError;
use crate::edge::fs;
use crate::host::facts::swap::{FstabLine, fstab_line, parse_swaps, swap_unit};
use crate::host::facts::sysctl::key_path;
use crate::host::{FSTAB, HostError, JOURNAL_NAME, Kept, Machine, Manager, Package, Reload, Scope, Tree};

/// What happens at the n-th change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before it.
    DieBefore,
    /// The process dies after it, before anybody is told.
    DieAfter,
    /// The process dies in the middle: a line of the journal is written in part, and a file that is put lies half written
    /// under its temporary name. Another change dies before it.
    Tear,
    /// The power goes before it, and what was added to the journal without a sync is lost.
    Lose,
    /// It fails with an I/O error, and the process goes on.
    Refuse,
}

/// A played host. A new one over the same directory is the same host after a restart of the agent.
pub struct PlayedMachine {
    tree: Tree,
    state_dir: PathBuf,
    /// Changes so far.
    pub changes: usize,
    /// What was told to read its files again.
    pub reloads: Vec<Reload>,
    /// A GPT swap partition that systemd's generator takes up once fstab has no swap line.
    pub gpt_swap: bool,
    /// Below this directory no file can be put.
    pub read_only: Option<&'static str>,
    /// None of the distribution's programs is there.
    pub toolless: bool,
    fault: Option<(usize, Fault)>,
    dead: bool,
    /// Bytes at the end of the journal that are not synced.
    lost: usize,
}

/// A temporary directory in memory where there is one: these tests sync thousands of files.
pub fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Copies a captured host, links as links.
pub fn copy_of(name: &str) -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host/trees").join(name);
    let directory = temporary();
    copy(&source, directory.path());
    directory
}

/// Copies a directory, links as links.
pub fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(source).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&source, &target);
        } else {
            std::fs::copy(source, target).unwrap();
        }
    }
}

/// Everything in a tree but the state directory: kind, mode, content or target. Active swap is compared by area and
/// priority, as turning it on again appends it.
pub fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    walk(root, root, &mut seen);
    seen
}

/// Paths at which two snapshots differ, short enough to read.
pub fn differences(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let short = |what: Option<&String>| {
        what.map_or("nothing".into(), |what| what.chars().take(300).collect::<String>())
    };
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}: {} | {}", short(one.get(name)), short(other.get(name))))
        .collect()
}

fn walk(root: &Path, directory: &Path, seen: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let kind = entry.file_type().unwrap();
        if name == "state" {
            continue;
        }
        let mode = entry.metadata().unwrap().permissions().mode();
        let what = if kind.is_symlink() {
            format!("link {}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            walk(root, &path, seen);
            format!("directory {mode:o}")
        } else if name == "proc/swaps" {
            let mut swaps: Vec<_> = parse_swaps(&text(root, "/proc/swaps"))
                .unwrap()
                .into_iter()
                .map(|swap| (swap.path, swap.priority))
                .collect();
            swaps.sort();
            format!("{swaps:?}")
        } else if ["proc/modules", "proc/filesystems", "etc/ufw/user.rules"].contains(&name.as_str()) {
            // In the order of loading, or of the rounds.
            let text = text(root, &name);
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            lines.join("; ")
        } else {
            format!("file {mode:o} {}", fs::read(&path).unwrap().unwrap().escape_ascii())
        };
        seen.insert(name, what);
    }
}

fn text(root: &Path, path: &str) -> String {
    fs::read_text(&root.join(path.trim_start_matches('/'))).unwrap().unwrap_or_default()
}

/// Writes a text into a tree, with its directories.
pub fn put(root: &Path, path: &str, text: &str) {
    let at = root.join(path.trim_start_matches('/'));
    fs::create_directory(at.parent().unwrap(), 0o755).unwrap();
    fs::write_volatile(&at, text.as_bytes(), 0o644).unwrap();
}

fn died() -> HostError {
    HostError::Way { path: "the test".into(), source: std::io::Error::other("injected") }
}

impl PlayedMachine {
    pub fn new(root: &Path) -> Self {
        Self {
            tree: Tree::new(root),
            state_dir: root.join("state"),
            changes: 0,
            reloads: Vec::new(),
            gpt_swap: false,
            read_only: None,
            toolless: false,
            fault: None,
            dead: false,
            lost: 0,
        }
    }

    pub fn failing(root: &Path, at: usize, fault: Fault) -> Self {
        Self { fault: Some((at, fault)), ..Self::new(root) }
    }

    pub fn journal_path(&self) -> PathBuf {
        self.state_dir.join(JOURNAL_NAME)
    }

    fn change(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), HostError>,
        torn: impl FnOnce(&mut Self),
    ) -> Result<(), HostError> {
        if self.dead {
            return Err(died());
        }
        self.changes += 1;
        match self.fault {
            Some((at, fault)) if at == self.changes => {
                self.dead = fault != Fault::Refuse;
                match fault {
                    Fault::DieAfter => act(self)?,
                    Fault::Tear => torn(self),
                    Fault::Lose => self.lose(),
                    Fault::DieBefore | Fault::Refuse => {}
                }
                Err(died())
            }
            _ => act(self),
        }
    }

    /// What was not synced never was.
    fn lose(&self) {
        if let Some(text) = fs::read_text(&self.journal_path()).unwrap() {
            fs::write_volatile(&self.journal_path(), &text.as_bytes()[..text.len() - self.lost], 0o600)
                .unwrap();
        }
    }

    /// What the kernel says of a change below a file system that is read-only.
    fn writable(&self, path: &str) -> Result<(), HostError> {
        match self.read_only {
            Some(directory) if path.starts_with(directory) => Err(HostError::Way {
                path: path.into(),
                source: std::io::Error::from_raw_os_error(libc::EROFS),
            }),
            _ => Ok(()),
        }
    }

    /// What starting a program says that is not there.
    fn tool(&self, command: &str) -> Result<(), ExecError> {
        if !self.toolless {
            return Ok(());
        }
        let source = std::io::Error::from_raw_os_error(libc::ENOENT);
        Err(ExecError::Start { command: command.to_owned(), source })
    }

    fn plain(&mut self, act: impl FnOnce(&mut Self) -> Result<(), HostError>) -> Result<(), HostError> {
        self.change(act, |_| ())
    }

    fn root(&self) -> &Path {
        self.tree.root()
    }

    fn lines(&self, path: &str, edit: impl FnOnce(&mut Vec<String>)) {
        let mut lines: Vec<String> = text(self.root(), path).lines().map(ToOwned::to_owned).collect();
        edit(&mut lines);
        put(self.root(), path, &lines.into_iter().map(|line| line + "\n").collect::<String>());
    }

    /// systemd's generators, as far as swap goes.
    fn generate(&self) {
        for directory in ["run/systemd/generator", "run/systemd/generator.late"] {
            let directory = self.root().join(directory);
            for name in fs::known_names(&directory).yes().into_iter().flatten() {
                if name.ends_with(".swap") && !name.contains("zram") {
                    fs::remove(&directory.join(name)).unwrap();
                }
            }
        }
        let _ = fs::remove_directory(&self.root().join("run/systemd/generator.late"));
        let fstab = text(self.root(), FSTAB);
        let specs: Vec<&str> = fstab
            .lines()
            .filter_map(|line| match fstab_line(line) {
                FstabLine::Swap(spec) => Some(spec),
                _ => None,
            })
            .collect();
        for spec in specs.iter().filter(|spec| spec.starts_with('/')) {
            put(self.root(), &format!("/run/systemd/generator/{}", swap_unit(spec)), "# generated\n");
        }
        if specs.is_empty() && self.gpt_swap {
            let unit = swap_unit("/dev/disk/by-diskseq/1-part5");
            put(self.root(), &format!("/run/systemd/generator.late/{unit}"), "# generated\n");
        }
    }
}

impl Machine for PlayedMachine {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn scope(&self) -> Scope {
        Scope::Live
    }

    fn journal(&self) -> Known<String> {
        fs::known_text(&self.journal_path())
    }

    fn journal_append(&mut self, line: &str, synced: bool) -> Result<(), HostError> {
        self.change(
            |machine| {
                fs::create_directory(&machine.state_dir, 0o700).unwrap();
                fs::append_volatile(&machine.journal_path(), line.as_bytes(), 0o600)?;
                machine.lost = if synced { 0 } else { machine.lost + line.len() };
                Ok(())
            },
            |machine| {
                fs::create_directory(&machine.state_dir, 0o700).unwrap();
                fs::append_volatile(&machine.journal_path(), &line.as_bytes()[..line.len() / 2], 0o600)
                    .unwrap();
            },
        )
    }

    fn journal_replace(&mut self, text: Option<&str>) -> Result<(), HostError> {
        self.plain(|machine| {
            match text {
                Some(text) => {
                    fs::write_atomic(&machine.journal_path(), text.as_bytes(), 0o600)?;
                    machine.lost = 0;
                }
                None => fs::remove_synced(&machine.journal_path())?,
            }
            Ok(())
        })
    }

    fn lock(&mut self) -> Result<(), HostError> {
        Ok(())
    }

    fn unlock(&mut self) {}

    fn put(&mut self, path: &str, state: Option<&Kept>) -> Result<(), HostError> {
        self.writable(path)?;
        self.change(
            |machine| machine.tree.put(path, state),
            |machine| {
                let left = machine.tree.at(path).unwrap().with_file_name(".muster-h4LfWr");
                match state {
                    Some(Kept::File { content, .. }) => {
                        let half = &content.bytes()[..content.bytes().len() / 2];
                        fs::write_volatile(&left, half, 0o600).unwrap();
                    }
                    Some(Kept::Link { target }) => std::os::unix::fs::symlink(target, left).unwrap(),
                    None => {}
                }
            },
        )
    }

    fn sweep(&mut self, path: &str) -> Result<(), HostError> {
        self.plain(|machine| machine.tree.sweep(path))
    }

    fn make_directory(&mut self, path: &str) -> Result<(), HostError> {
        self.writable(path)?;
        self.plain(|machine| Ok(fs::create_directory(&machine.tree.at(path)?, 0o755)?))
    }

    fn remove_directory(&mut self, path: &str) -> Result<(), HostError> {
        self.plain(|machine| Ok(fs::remove_directory(&machine.tree.at(path)?)?))
    }

    fn set_sysctl(&mut self, key: &str, value: &str) -> Result<(), HostError> {
        self.plain(|machine| {
            put(machine.root(), &format!("/proc/sys/{}", key_path(key)), &format!("{value}\n"));
            Ok(())
        })
    }

    async fn swap_off(&mut self, path: &str) -> Result<(), HostError> {
        self.plain(|machine| {
            machine.lines("/proc/swaps", |lines| {
                lines.retain(|line| line.split_whitespace().next() != Some(path))
            });
            Ok(())
        })
    }

    async fn swap_on(&mut self, path: &str, priority: i32) -> Result<(), HostError> {
        self.plain(|machine| {
            machine.lines("/proc/swaps", |lines| lines.push(format!("{path} file 1 0 {priority}")));
            Ok(())
        })
    }

    async fn load_module(&mut self, name: &str) -> Result<(), HostError> {
        let fail = |source| HostError::Module { way: "load", name: name.to_owned(), source };
        self.tool(&format!("modprobe -- {name}")).map_err(fail)?;
        self.plain(|machine| {
            machine.lines("/proc/modules", |lines| lines.push(format!("{name} 16384 0 - Live 0x0")));
            let root = machine.root();
            match name {
                "br_netfilter" => {
                    for key in ["iptables", "ip6tables"] {
                        put(root, &format!("/proc/sys/net/bridge/bridge-nf-call-{key}"), "0\n");
                    }
                }
                "nf_conntrack" => {
                    put(root, "/proc/sys/net/netfilter/nf_conntrack_max", "65536\n");
                    put(root, "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "432000\n");
                }
                "overlay" => machine.lines("/proc/filesystems", |lines| lines.push("nodev\toverlay".into())),
                "wireguard" => put(root, "/sys/module/wireguard/version", "1.0.0\n"),
                "ip_vs" => put(root, "/proc/net/ip_vs", "IP Virtual Server version 1.2.1 (size=4096)\n"),
                other => panic!("nobody asked for {other}"),
            }
            Ok(())
        })
    }

    async fn unload_module(&mut self, name: &str) -> Result<(), HostError> {
        self.plain(|machine| {
            machine
                .lines("/proc/modules", |lines| lines.retain(|line| !line.starts_with(&format!("{name} "))));
            #[expect(clippy::disallowed_methods, reason = "a played kernel takes its entries away")]
            let remove = |path: &str| std::fs::remove_dir_all(machine.root().join(path)).unwrap();
            match name {
                "br_netfilter" => remove("proc/sys/net/bridge"),
                "nf_conntrack" => remove("proc/sys/net/netfilter"),
                "wireguard" => remove("sys/module"),
                "ip_vs" => fs::remove(&machine.root().join("proc/net/ip_vs")).unwrap(),
                _ => machine
                    .lines("/proc/filesystems", |lines| lines.retain(|line| !line.ends_with("\toverlay"))),
            }
            Ok(())
        })
    }

    async fn install(&mut self, manager: Manager, name: &str) -> Result<(), HostError> {
        self.plain(|machine| {
            let all = Package::ALL.into_iter().find(|package| package.name(manager) == name);
            put(machine.root(), all.unwrap().programs()[0], "a program");
            Ok(())
        })
    }

    async fn uninstall(&mut self, manager: Manager, name: &str) -> Result<(), HostError> {
        self.plain(|machine| {
            let all = Package::ALL.into_iter().find(|package| package.name(manager) == name);
            fs::remove(&machine.root().join(&all.unwrap().programs()[0][1..])).unwrap();
            Ok(())
        })
    }

    async fn ufw(&mut self, allow: bool, rule: &str) -> Result<(), HostError> {
        self.plain(|machine| {
            let (protocol, port, from) = match rule.strip_prefix("from ") {
                Some(network) => ("any", "any", network),
                None => rule.split_once('/').map(|(port, protocol)| (protocol, port, "0.0.0.0/0")).unwrap(),
            };
            let tuple = format!("### tuple ### allow {protocol} {port} 0.0.0.0/0 any {from} in");
            machine.lines("/etc/ufw/user.rules", |lines| match allow {
                true => lines.push(format!("{tuple} comment=6d7573746572")),
                false => lines.retain(|line| !line.starts_with(&tuple)),
            });
            Ok(())
        })
    }

    async fn reload(&mut self, what: Reload) -> Result<(), HostError> {
        self.tool("systemctl daemon-reload").map_err(|source| HostError::Reload { what, source })?;
        self.plain(|machine| {
            machine.reloads.push(what);
            if what == Reload::Units {
                machine.generate();
            }
            Ok(())
        })
    }
}
