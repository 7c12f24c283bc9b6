//! The whole way from sources to settings.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::check::{self, Secrets};
use super::fingerprint::Fingerprint;
use super::keys::Key;
use super::merge::Merged;
use super::problem::{ConfigError, ConfigErrors};
use super::settings::Settings;
use super::show::{Shown, shown, token_row};
use super::sources::{CREDENTIAL, Env, Flags, Places, TokenText, keep_token, read_token};
use crate::core::Secret;
use crate::identity::token::{self, K3sUser, TokenError};

/// Where the cluster token came from: the name of the source, never its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The file that `token-file` names.
    File(PathBuf),
    /// The systemd credential `muster.token`.
    Credential,
    /// The environment variable `MUSTER_TOKEN`.
    Environment,
    /// The file in the state directory that a single machine made for itself.
    Kept(PathBuf),
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::File(path) => write!(f, "file {}", path.display()),
            TokenSource::Credential => write!(f, "systemd credential {CREDENTIAL}"),
            TokenSource::Environment => f.write_str("environment MUSTER_TOKEN"),
            TokenSource::Kept(path) => write!(f, "state file {}", path.display()),
        }
    }
}

/// A configuration that holds.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked settings.
    pub settings: Settings,
    /// Every key with value and origin, secrets masked.
    pub shown: Vec<Shown>,
    /// Where the cluster token came from.
    pub token_source: TokenSource,
    /// The sources as they were just before they were read.
    pub fingerprint: Fingerprint,
}

/// Reads, merges and checks the whole configuration. `root` is `/`, except in tests: every file is looked for beneath it.
///
/// # Errors
/// With the first problem of each file and of the environment; or, when all could be read, with every value that is refused.
/// Nothing is changed.
pub fn load(root: &Path, env: &Env, flags: &Flags) -> Result<Loaded, ConfigErrors> {
    let places = Places::of(root, env, flags);
    let mut fingerprint = places.fingerprint();
    let (merged, problems) = places.merge(env, flags);
    if !problems.is_empty() {
        return Err(ConfigErrors { problems, shown: shown(&merged), fingerprint });
    }
    let mut tokens =
        Tokens { places: &places, merged: &merged, fingerprint: &mut fingerprint, problems: Vec::new() };
    let cluster = tokens.cluster(env);
    let previous = tokens.named(Key::PreviousTokenFile, token::parse);
    let k3s = tokens.named(Key::K3sTokenFile, |text| token::parse_k3s(text, K3sUser::Server));
    let k3s_agent = tokens.named(Key::K3sAgentTokenFile, |text| token::parse_k3s(text, K3sUser::Agent));
    let token_problems = tokens.problems;

    let source = cluster.as_ref().map(|(_, source)| source.clone());
    let secrets = cluster.map(|(token, _)| Secrets { token, previous, k3s, k3s_agent });
    let mut rows = vec![token_row("token", source.as_ref().map(ToString::to_string))];
    rows.extend(shown(&merged));
    let checked = check::settings(&merged, secrets);
    match (checked, source) {
        (Ok(settings), Some(token_source)) if token_problems.is_empty() => {
            Ok(Loaded { settings, shown: rows, token_source, fingerprint })
        }
        (checked, _) => {
            let mut problems = checked.err().unwrap_or_default();
            problems.extend(token_problems);
            Err(ConfigErrors { problems, shown: rows, fingerprint })
        }
    }
}

/// As [`load`]; and a single machine that was given no token (`servers = 1`, no seeds) makes one first and keeps it as
/// `<state-dir>/token`, mode 0600, never over another one. `draw` gives 32 random bytes.
///
/// # Errors
/// As [`load`], and when the token cannot be drawn or kept; nothing is left behind then.
pub fn load_making_token(
    root: &Path,
    env: &Env,
    flags: &Flags,
    draw: impl FnOnce() -> io::Result<[u8; 32]>,
) -> Result<Loaded, ConfigErrors> {
    let errors = match load(root, env, flags) {
        Ok(loaded) => return Ok(loaded),
        Err(errors) => errors,
    };
    let Some(path) = errors.lone_token().cloned() else { return Err(errors) };
    let beneath = Places::of(root, env, flags).beneath(&path);
    let kept = draw().and_then(|bytes| keep_token(&beneath, &token::generate(bytes)));
    match kept {
        Ok(()) => load(root, env, flags),
        Err(source) => {
            Err(ConfigErrors { problems: vec![ConfigError::KeepToken { path, source }], ..errors })
        }
    }
}

struct Tokens<'a> {
    places: &'a Places,
    merged: &'a Merged,
    fingerprint: &'a mut Fingerprint,
    problems: Vec<ConfigError>,
}

impl Tokens<'_> {
    /// The cluster token from the first source that is given; a source that is given and wrong is never passed over.
    fn cluster(&mut self, env: &Env) -> Option<(Secret, TokenSource)> {
        if self.merged.get(Key::TokenFile).is_some() {
            let path = PathBuf::from(self.merged.text(Key::TokenFile)?);
            let token = self.named(Key::TokenFile, token::parse)?;
            return Some((token, TokenSource::File(path)));
        }
        if let Some(directory) = &env.credentials {
            let what = || format!("the systemd credential {CREDENTIAL}");
            match self.read(&directory.join(CREDENTIAL), what, token::parse) {
                Read::Token(token) => return Some((token, TokenSource::Credential)),
                // `SetCredential=muster.token:` is how a unit says that it may be missing.
                Read::Absent | Read::Wrong(TokenError::Empty) => {}
                Read::Wrong(source) => return self.refuse(what(), source),
                Read::Failed => return None,
            }
        }
        if let Some(text) = &env.token {
            return match token::parse(text.expose()) {
                Ok(token) => Some((token, TokenSource::Environment)),
                Err(source) => {
                    self.refuse("the token in the environment variable MUSTER_TOKEN".into(), source)
                }
            };
        }
        let kept = Path::new(self.merged.text(Key::StateDir).unwrap_or_default()).join("token");
        let what = || format!("the token in {}", kept.display());
        match self.read(&kept, what, token::parse) {
            Read::Token(token) => Some((token, TokenSource::Kept(kept.clone()))),
            Read::Absent => {
                let lone = check::is_lone(self.merged);
                self.problems.push(ConfigError::NoToken { kept: kept.clone(), lone });
                None
            }
            Read::Wrong(source) => self.refuse(what(), source),
            Read::Failed => None,
        }
    }

    /// The token in the file that a key names; none when it names none, or when it is wrong, which is then a problem.
    fn named(&mut self, key: Key, parse: impl FnOnce(&str) -> Result<Secret, TokenError>) -> Option<Secret> {
        let path = Path::new(self.merged.text(key)?);
        if !path.is_absolute() {
            // Refused by the check of values.
            return None;
        }
        let what = || format!("the token in {} ({})", path.display(), key.name());
        match self.read(path, what, parse) {
            Read::Token(token) => Some(token),
            Read::Absent => {
                let place = self.merged.origin(key);
                self.problems.push(ConfigError::TokenAbsent {
                    key: key.name(),
                    path: path.to_owned(),
                    place,
                });
                None
            }
            Read::Wrong(source) => self.refuse(what(), source),
            Read::Failed => None,
        }
    }

    fn read(
        &mut self,
        path: &Path,
        what: impl Fn() -> String,
        parse: impl FnOnce(&str) -> Result<Secret, TokenError>,
    ) -> Read {
        let beneath = self.places.beneath(path);
        self.fingerprint.watch(&beneath);
        match read_token(&beneath) {
            TokenText::Absent => Read::Absent,
            TokenText::Text(text) => match parse(&text) {
                Ok(token) => Read::Token(token),
                Err(error) => Read::Wrong(error),
            },
            TokenText::Open(mode) => {
                self.problems.push(ConfigError::TokenOpen { what: what(), path: path.to_owned(), mode });
                Read::Failed
            }
            TokenText::Unreadable(source) => {
                self.problems.push(ConfigError::TokenUnreadable { what: what(), source });
                Read::Failed
            }
        }
    }

    fn refuse<T>(&mut self, what: String, source: TokenError) -> Option<T> {
        self.problems.push(ConfigError::Token { what, source });
        None
    }
}

enum Read {
    Absent,
    Token(Secret),
    Wrong(TokenError),
    /// A problem was noted.
    Failed,
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
