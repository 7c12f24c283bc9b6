//! Finds and reads what configures the agent: drop-ins, environment, flags, and files with tokens. The only place that reads
//! the environment. [edge]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::fingerprint::{Fingerprint, is_drop_in};
use super::fragment::{self, inline_secret, unknown_hint};
use super::kernel::{self, CommandLine, ToFetch};
use super::keys::{Key, Kind, Value};
use super::merge::{Merged, Origin};
use super::problem::ConfigError;
use crate::core::{Known, Secret};
use crate::edge::fs;

/// Name of the systemd credential that holds the cluster token.
pub(super) const CREDENTIAL: &str = "muster.token";

/// Variables of the agent's environment that set no key.
const OTHER_VARIABLES: [&str; 4] = ["MUSTER_TOKEN", "MUSTER_CONFIG_DIR", "MUSTER_LOG", "MUSTER_OUTPUT"];

/// The part of the environment that configures the agent. Its token is never shown.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, String>,
    unreadable: BTreeSet<String>,
    pub(super) token: Option<Secret>,
    pub(super) credentials: Option<PathBuf>,
    config_dir: Option<PathBuf>,
}

impl Env {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let mut env = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => env.take(name, value),
                Err(_) if name.starts_with("MUSTER_") => {
                    env.unreadable.insert(name);
                }
                Err(_) => {}
            }
        }
        env
    }

    /// An environment made of these variables.
    #[must_use]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let mut env = Self::default();
        for (name, value) in variables {
            env.take((*name).to_owned(), (*value).to_owned());
        }
        env
    }

    /// The same with the token that systemd would hand to the unit, for a command that is not the unit: the system's credential
    /// first, then the file in the credential store.
    #[must_use]
    pub fn with_credentials_of_the_unit(mut self, root: &Path) -> Self {
        let places = ["/run/credentials/@system", "/etc/credstore"];
        let file = |place: &str| root.join(place.trim_start_matches('/')).join(CREDENTIAL);
        let given = places.into_iter().find(|place| !fs::known_there(&file(place)).is_absent());
        self.credentials = self.credentials.or_else(|| given.map(PathBuf::from));
        self
    }

    fn take(&mut self, name: String, value: String) {
        match name.as_str() {
            "MUSTER_TOKEN" => self.token = Some(Secret::new(value)),
            "MUSTER_CONFIG_DIR" => self.config_dir = Some(value.into()),
            "CREDENTIALS_DIRECTORY" => self.credentials = Some(value.into()),
            name if name.starts_with("MUSTER_") => {
                self.variables.insert(name.to_owned(), value);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: a misspelt MUSTER_TOKEN is a variable like any other.
        f.debug_struct("Env")
            .field("variables", &self.variables.keys().collect::<Vec<_>>())
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// What the command line sets. There is none for a token: `ps` shows every command line to everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config-dir`: read this directory's `muster.toml` and `conf.d` alone, instead of the four places.
    pub config_dir: Option<PathBuf>,
    /// `--cluster`
    pub cluster: Option<String>,
    /// `--servers`
    pub servers: Option<u64>,
    /// `--founders`
    pub founders: Option<u64>,
    /// `--role`
    pub role: Option<String>,
    /// `--founding`
    pub founding: Option<String>,
    /// `--seeds`
    pub seeds: Option<Vec<String>>,
    /// `--token-file`
    pub token_file: Option<String>,
    /// `--node-name`
    pub node_name: Option<String>,
    /// `--node-ip`
    pub node_ip: Option<String>,
    /// `--interface`
    pub interface: Option<String>,
    /// `--gossip-port`
    pub gossip_port: Option<u64>,
    /// `--state-dir`
    pub state_dir: Option<String>,
    /// `--run-dir`
    pub run_dir: Option<String>,
    /// `--k3s-version`
    pub k3s_version: Option<String>,
    /// `--k3s-sources`
    pub k3s_sources: Option<Vec<String>>,
    /// `--k3s-checksums`
    pub k3s_checksums: Option<String>,
}

impl Flags {
    fn values(&self) -> Vec<(Key, Value)> {
        let texts = [
            (Key::Cluster, &self.cluster),
            (Key::Role, &self.role),
            (Key::Founding, &self.founding),
            (Key::TokenFile, &self.token_file),
            (Key::NodeName, &self.node_name),
            (Key::NodeIp, &self.node_ip),
            (Key::Interface, &self.interface),
            (Key::StateDir, &self.state_dir),
            (Key::RunDir, &self.run_dir),
            (Key::K3sVersion, &self.k3s_version),
            (Key::K3sChecksums, &self.k3s_checksums),
        ];
        let numbers = [
            (Key::Servers, self.servers),
            (Key::Founders, self.founders),
            (Key::GossipPort, self.gossip_port),
        ];
        let lists = [(Key::Seeds, &self.seeds), (Key::K3sSources, &self.k3s_sources)];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, Value::Text(text.clone()?))));
        let numbers = numbers.into_iter().filter_map(|(key, number)| Some((key, Value::Whole(number?))));
        let lists = lists.into_iter().filter_map(|(key, list)| Some((key, Value::List(list.clone()?))));
        texts.chain(numbers).chain(lists).collect()
    }
}

/// The places of configuration files beneath a root, in order of precedence: the later wins.
#[derive(Debug, Clone)]
pub(super) struct Places {
    root: PathBuf,
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
enum Place {
    /// One file.
    File(PathBuf),
    /// A directory of drop-ins.
    Directory(PathBuf),
}

impl Places {
    /// The four places, or the one directory that the command line or the environment names.
    pub(super) fn of(root: &Path, env: &Env, flags: &Flags) -> Self {
        let places = match flags.config_dir.as_ref().or(env.config_dir.as_ref()) {
            Some(only) => vec![Place::File(only.join("muster.toml")), Place::Directory(only.join("conf.d"))],
            None => vec![
                Place::Directory("/usr/lib/muster/conf.d".into()),
                Place::File("/etc/muster/muster.toml".into()),
                Place::Directory("/etc/muster/conf.d".into()),
                Place::Directory("/run/muster/conf.d".into()),
            ],
        };
        Self { root: root.to_owned(), places }
    }

    /// Where a configured path lies beneath the root.
    pub(super) fn beneath(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What they look like now.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        for place in &self.places {
            match place {
                Place::File(path) => files.push(self.beneath(path)),
                Place::Directory(path) => directories.push(self.beneath(path)),
            }
        }
        Fingerprint::take(directories, files)
    }

    /// The files to read in order of precedence, named as they are without the root. A file in a later directory replaces the one
    /// of the same name in an earlier directory.
    fn files(&self, problems: &mut Vec<ConfigError>) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut taken = BTreeSet::new();
        for place in self.places.iter().rev() {
            match place {
                Place::File(path) => files.push(path.clone()),
                Place::Directory(directory) => match fs::known_names(&self.beneath(directory)) {
                    Known::Absent => {}
                    Known::Unknown(unread) => problems.push(ConfigError::Unreadable {
                        path: directory.clone(),
                        source: io::Error::other(unread.cause),
                    }),
                    Known::Yes(names) => files.extend(
                        names
                            .into_iter()
                            .rev()
                            .filter(|name| is_drop_in(Path::new(name)) && taken.insert(name.clone()))
                            .map(|name| directory.join(name)),
                    ),
                },
            }
        }
        files.reverse();
        files
    }

    /// What the kernel's command line says; nothing in a container, where it is that of the machine outside, and nothing where there
    /// is no `/proc`.
    fn command_line(&self) -> Result<CommandLine, ConfigError> {
        let path = self.beneath(Path::new(kernel::COMMAND_LINE));
        if fs::known_there(&self.beneath(Path::new(kernel::CONTAINER))).yes().is_some() {
            return Ok(CommandLine::default());
        }
        match fs::read(&path) {
            // Bytes that are no text are some other parameter's.
            Ok(bytes) => Ok(CommandLine::parse(&String::from_utf8_lossy(&bytes.unwrap_or_default()))),
            Err(error) => Err(ConfigError::Unreadable {
                path: kernel::COMMAND_LINE.into(),
                source: io::Error::new(error.io().kind(), error.io().to_string()),
            }),
        }
    }

    /// Everything that is set, over the defaults; and the first problem of each file and of the environment.
    pub(super) fn merge(&self, env: &Env, flags: &Flags) -> (Merged, Vec<ConfigError>) {
        let mut merged = Merged::defaults();
        let mut problems = Vec::new();
        for path in self.files(&mut problems) {
            // A link to /dev/null reads as an empty file, which sets nothing: the file it replaces is gone.
            match fs::read_text(&self.beneath(&path)) {
                Ok(None) => {}
                Ok(Some(text)) => match fragment::parse(&path, &text) {
                    Ok(fragment) => merged.lay_file(&path, fragment),
                    Err(problem) => problems.push(problem),
                },
                Err(error) => problems.push(ConfigError::Unreadable {
                    path,
                    source: io::Error::new(error.io().kind(), error.io().to_string()),
                }),
            }
        }
        match self.command_line() {
            Ok(line) => {
                problems.extend(line.problems);
                for (key, value, origin) in line.values {
                    merged.set(key, value, origin);
                }
            }
            Err(problem) => problems.push(problem),
        }
        lay_environment(&mut merged, env, &mut problems);
        for (key, value) in flags.values() {
            merged.set(key, value, Origin::Flag(key.flag()));
        }
        (merged, problems)
    }
}

/// What the kernel's command line asks to be fetched before the configuration is read. What is wrong with the line is told when the
/// configuration is read.
#[must_use]
pub fn to_fetch(root: &Path) -> Vec<ToFetch> {
    let line = Places::of(root, &Env::default(), &Flags::default()).command_line();
    line.map(|line| ToFetch::of(&line)).unwrap_or_default()
}

fn lay_environment(merged: &mut Merged, env: &Env, problems: &mut Vec<ConfigError>) {
    let kind = |name: &str, wanted: &str, found: &str| ConfigError::Kind {
        place: Origin::Environment(name.to_owned()),
        key: name.to_owned(),
        wanted: wanted.to_owned(),
        found: found.to_owned(),
    };
    for name in &env.unreadable {
        problems.push(kind(name, "UTF-8", "other bytes"));
    }
    for (name, text) in &env.variables {
        if OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let place = Origin::Environment(name.clone());
        let Some(&key) = Key::ALL.iter().find(|key| key.variable() == *name) else {
            problems.push(unknown_variable(name, place));
            continue;
        };
        match key.kind() {
            Kind::Text => merged.set(key, Value::Text(text.clone()), place),
            Kind::Whole => match text.trim().parse() {
                Ok(number) => merged.set(key, Value::Whole(number), place),
                Err(_) => problems.push(kind(name, key.kind().words(), "other characters")),
            },
            Kind::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                merged.set(key, Value::List(items.map(str::to_owned).collect()), place);
            }
            Kind::Table => problems.push(kind(name, "a table in a file", "an environment variable")),
        }
    }
}

fn unknown_variable(name: &str, place: Origin) -> ConfigError {
    let plain = name.trim_start_matches("MUSTER_").to_ascii_lowercase().replace('_', "-");
    let dotted = match plain.split_once('-') {
        Some((section, rest)) if Key::is_section(section) => format!("{section}.{rest}"),
        _ => plain.clone(),
    };
    if let Some(hint) = inline_secret(&dotted) {
        return ConfigError::InlineSecret { place, key: name.to_owned(), hint };
    }
    let near = Key::nearest(&plain).and_then(Key::named).map(Key::variable);
    let others = OTHER_VARIABLES.map(str::to_owned).into_iter();
    let hint = others
        .chain(near)
        .min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name))
        .filter(|candidate| strsim::damerau_levenshtein(candidate, name) <= 4)
        .map_or_else(|| unknown_hint(&dotted), |candidate| format!("did you mean `{candidate}`?"));
    ConfigError::UnknownKey { place, key: name.to_owned(), hint }
}

/// What a file with a token holds.
pub(crate) enum TokenText {
    Absent,
    Unreadable(io::Error),
    /// Everybody can read or replace it: not read.
    Open(u32),
    Text(Zeroizing<String>),
}

/// Reads a file that holds a secret: a regular file that not every user can read or replace, judged on the file that is open.
pub(crate) fn read_token(path: &Path) -> TokenText {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    // Without O_NONBLOCK a pipe in the place of the file would hold the agent for ever.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return TokenText::Absent,
        Err(error) => return TokenText::Unreadable(error),
    };
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return TokenText::Unreadable(error),
    };
    if !metadata.is_file() {
        return TokenText::Unreadable(io::Error::other("it is not a regular file"));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o006 != 0 {
        return TokenText::Open(mode);
    }
    // One byte more than the longest token and its line end: what is longer is told from what fits.
    let limit = crate::identity::token::LONGEST + 16;
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
    if let Err(error) = file.take(limit as u64).read_to_end(&mut bytes) {
        return TokenText::Unreadable(error);
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => TokenText::Text(Zeroizing::new(text.to_owned())),
        Err(_) => TokenText::Unreadable(io::Error::new(io::ErrorKind::InvalidData, "it is not text")),
    }
}

/// Puts a new token in place, whole or not at all, mode 0600, and never over another one.
pub(super) fn keep_token(path: &Path, token: &Secret) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_directory(directory, 0o700)
        .map_err(|error| io::Error::new(error.io().kind(), error.io().to_string()))?;
    // `tempfile` makes its files with mode 0600.
    let mut file = tempfile::Builder::new().prefix(".muster-").tempfile_in(directory)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(token.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => std::fs::File::open(directory)?.sync_all(),
        // Another process of this machine was first: its token is the one.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}
