//! What of the table is not met in an image: read only, and the same for sealing and for verifying.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::image::rows::{Class, K3S_STAYS, Place, ROWS, Row};
use crate::image::secrets::{self, Configured};
use crate::image::{ImageTree, Kind, Mounts, TreeError};

/// Largest file that is searched for the text of a token.
const LARGEST: u64 = 4 << 20;
/// Largest file that is searched for a secret that is known, and largest empty-to-be file.
const SMALL: u64 = 64 << 10;
/// Directories at the root that are not searched for the text of tokens, but for the second list within them.
const NOT_SEARCHED: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "lost+found"];
const SEARCHED_IN_USR: [&str; 2] = ["/usr/local", "/usr/lib/muster"];
/// Deepest directory that is searched.
const DEEPEST: usize = 64;
/// Where configuration of Muster lies in an image.
const CONFIG_FILE: &str = "/etc/muster/muster.toml";
const CONFIG_DIRS: [&str; 3] = ["/usr/lib/muster/conf.d", "/etc/muster/conf.d", "/run/muster/conf.d"];

/// What sealing does about one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is removed, with everything in it.
    Remove,
    /// A file with this text takes its place.
    Put(&'static str),
    /// Nothing: a person must act.
    Name(&'static str),
}

/// One path that keeps a row from being met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// The row.
    pub row: &'static Row,
    /// The path within the image.
    pub path: PathBuf,
    /// What sealing does about it.
    pub act: Act,
}

/// Something that could not be looked at: the image is not known to be clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlooked {
    /// The row.
    pub row: &'static Row,
    /// The path within the image.
    pub path: PathBuf,
    /// Why, and what to do.
    pub cause: String,
}

/// Everything that was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// In the order of the table.
    pub offences: Vec<Offence>,
    /// The same.
    pub unlooked: Vec<Unlooked>,
}

/// What a look is to find, beside the table.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// Rows that are not looked at: what `--keep` names.
    pub keep: &'a [&'static Row],
    /// A secret that must stand nowhere in the image.
    pub secret: Option<&'a [u8]>,
    /// The tree is this machine's: what a volatile file system hides cannot be seen, and is no fault.
    pub live: bool,
}

/// Looks at an image.
#[must_use]
pub fn survey(tree: &ImageTree, mounts: &Mounts, wanted: &Wanted) -> Survey {
    let mut look = Look {
        tree,
        mounts,
        wanted,
        row: &ROWS[0],
        found: Survey::default(),
        configured: Configured::default(),
    };
    look.configuration();
    for row in ROWS.iter().filter(|row| !wanted.keep.iter().any(|kept| kept.name == row.name)) {
        look.row = row;
        for place in row.places {
            look.place(place);
        }
    }
    look.found
}

struct Look<'a> {
    tree: &'a ImageTree,
    mounts: &'a Mounts,
    wanted: &'a Wanted<'a>,
    row: &'static Row,
    found: Survey,
    configured: Configured,
}

impl Look<'_> {
    fn offend(&mut self, path: PathBuf, act: Act) {
        // A path within one that goes anyway is not told twice.
        if !self.found.offences.iter().any(|other| other.act == Act::Remove && path.starts_with(&other.path))
        {
            self.found.offences.push(Offence { row: self.row, path, act });
        }
    }

    fn unlooked(&mut self, path: &Path, cause: String) {
        self.found.unlooked.push(Unlooked { row: self.row, path: path.to_owned(), cause });
    }

    /// The value, or a note that it could not be told.
    fn told<T>(&mut self, path: &Path, said: Result<Option<T>, TreeError>) -> Option<T> {
        match said {
            Ok(value) => value,
            Err(error) => {
                self.unlooked(path, format!("{error}: {}", error.source));
                None
            }
        }
    }

    /// Whether something that is no part of the image stands in the way.
    fn hidden(&mut self, path: &Path) -> bool {
        if !self.mounts.hides(path) {
            return false;
        }
        if !self.wanted.live {
            let cause =
                "a file system that no boot keeps is mounted over it; unmount it and look again".to_owned();
            self.unlooked(path, cause);
        }
        true
    }

    /// What the image's configuration says; one that cannot be read is told under the row of tokens.
    fn configuration(&mut self) {
        let mut files = vec![PathBuf::from(CONFIG_FILE)];
        for directory in CONFIG_DIRS.map(Path::new) {
            let names = self.tree.names(directory);
            let names = self.told(directory, names).unwrap_or_default();
            files.extend(names.into_iter().map(|entry| directory.join(entry.name)));
        }
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "toml")) {
            let read = self.tree.read(file, LARGEST);
            let Some(bytes) = self.told(file, read) else { continue };
            let added = match std::str::from_utf8(&bytes) {
                Ok(text) => self.configured.add(text),
                Err(_) => Err("it is not UTF-8".to_owned()),
            };
            if let Err(cause) = added {
                self.unlooked(
                    file,
                    format!("where it puts its token cannot be told, it is no TOML: {cause}"),
                );
            }
        }
    }

    fn place(&mut self, place: &Place) {
        match *place {
            Place::Gone(pattern) => {
                for path in self.matching(pattern) {
                    self.gone(path);
                }
            }
            Place::Bare(path, stays) => self.bare(Path::new(path), "", stays),
            Place::NoFiles(path) => self.no_files(Path::new(path), 0),
            Place::Blank(path) => self.blank(Path::new(path)),
            Place::LinkTo(path, target) => self.link(Path::new(path), Path::new(target)),
            Place::Renewed(path, text, unless) => self.renewed(Path::new(path), text, Path::new(unless)),
            Place::ConfiguredTokens => self.configured_tokens(),
            Place::ConfiguredState => self.configured_state(),
            Place::TokenText => self.token_text(),
        }
    }

    /// Every path of the image that a pattern means; its last component may be anything, links included.
    fn matching(&mut self, pattern: &'static str) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::from("/")];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let Some((before, after)) = part.split_once('*') else {
                paths.iter_mut().for_each(|path| path.push(part));
                continue;
            };
            let mut next = Vec::new();
            for directory in paths {
                let names = self.tree.names(&directory);
                for entry in self.told(&directory, names).unwrap_or_default() {
                    let name = entry.name.as_encoded_bytes();
                    let fits = name.len() >= before.len() + after.len()
                        && name.starts_with(before.as_bytes())
                        && name.ends_with(after.as_bytes());
                    if fits {
                        next.push(directory.join(&entry.name));
                    }
                }
            }
            paths = next;
        }
        paths
    }

    fn gone(&mut self, path: PathBuf) {
        if self.hidden(&path) {
            return;
        }
        let kind = self.tree.kind(&path);
        let Some(kind) = self.told(&path, kind) else { return };
        if kind == Kind::Link && self.row.class != Class::Trace && self.behind(&path) {
            return;
        }
        self.offend(path, Act::Remove);
    }

    /// A link is only the way to a secret or an identity: the file that it leads to goes first. A directory that it leads to
    /// may hold anything, so a person is asked, and the link stays, because without it the next look would find nothing. Gives
    /// whether that is so.
    fn behind(&mut self, link: &Path) -> bool {
        let real = self.tree.real(link);
        let Some(real) = self.told(link, real) else { return false };
        let kind = self.tree.kind(&real);
        match self.told(&real, kind) {
            Some(Kind::File) if self.row.class != Class::K3s && !self.hidden(&real) => {
                self.offend(real, Act::Remove);
                false
            }
            Some(Kind::Directory) if !link.parent().is_some_and(|parent| real.starts_with(parent)) => {
                self.offend(link.to_owned(), Act::Name("a link to a directory elsewhere: remove both"));
                true
            }
            _ => false,
        }
    }

    fn bare(&mut self, path: &Path, within: &str, stays: &[&str]) {
        if self.hidden(path) {
            return;
        }
        let names = self.tree.names(path);
        for entry in self.told(path, names).unwrap_or_default() {
            let name = entry.name.to_string_lossy();
            let inner = if within.is_empty() { name.into_owned() } else { format!("{within}/{name}") };
            let at = path.join(&entry.name);
            if stays.contains(&inner.as_str()) {
                continue;
            }
            let leads = stays
                .iter()
                .any(|stay| stay.strip_prefix(inner.as_str()).is_some_and(|rest| rest.starts_with('/')));
            if leads && entry.kind == Kind::Directory {
                self.bare(&at, &inner, stays);
            } else {
                self.gone(at);
            }
        }
    }

    fn no_files(&mut self, path: &Path, depth: usize) {
        if self.hidden(path) {
            return;
        }
        if depth > DEEPEST {
            self.unlooked(path, format!("it lies more than {DEEPEST} directories deep; remove it"));
            return;
        }
        let names = self.tree.names(path);
        for entry in self.told(path, names).unwrap_or_default() {
            let at = path.join(&entry.name);
            match entry.kind {
                Kind::Directory => self.no_files(&at, depth + 1),
                Kind::Link => {}
                Kind::File | Kind::Other => self.offend(at, Act::Remove),
            }
        }
    }

    fn blank(&mut self, path: &Path) {
        // systemd follows a link there; so the file behind it is what counts.
        let real = self.tree.real(path);
        let Some(real) = self.told(path, real) else { return };
        if self.hidden(&real) {
            return;
        }
        // Two rows that each want another text in one file would take turns for ever: an empty file takes the place of the link.
        if self.is_renewed(&real) {
            return self.offend(path.to_owned(), Act::Put(""));
        }
        let kind = self.tree.kind(&real);
        match self.told(&real, kind) {
            None => return,
            Some(Kind::File) => {}
            // A bind mount of a file, or a device in the place of the file.
            Some(_) => {
                return self.unlooked(&real, "it is no regular file; put an empty one there".to_owned());
            }
        }
        let read = self.tree.read(&real, SMALL);
        let Some(bytes) = self.told(&real, read) else { return };
        if !matches!(bytes.as_slice(), b"" | b"uninitialized" | b"uninitialized\n") {
            self.offend(real, Act::Put(""));
        }
    }

    /// Whether a file is one that some row gives a text of its own. A row whose path cannot be resolved gives nothing to anything, and
    /// says so itself.
    fn is_renewed(&self, real: &Path) -> bool {
        ROWS.iter().flat_map(|row| row.places).any(|place| match place {
            Place::Renewed(path, ..) => {
                self.tree.real(Path::new(path)).is_ok_and(|renewed| renewed.as_deref() == Some(real))
            }
            _ => false,
        })
    }

    fn link(&mut self, path: &Path, target: &Path) {
        let kind = self.tree.kind(path);
        let Some(kind) = self.told(path, kind) else { return };
        if kind == Kind::Link {
            let real = self.tree.real(path);
            let (real, wanted) = (self.told(path, real), self.tree.real(target).ok().flatten());
            let said = self.tree.target(path).ok().flatten();
            if (real.is_some() && real == wanted) || said.as_deref() == Some(target) {
                return;
            }
        }
        self.gone(path.to_owned());
    }

    fn renewed(&mut self, path: &Path, text: &'static str, unless: &Path) {
        let kind = self.tree.kind(path);
        let Some(kind) = self.told(path, kind) else { return };
        let made = self.tree.kind(unless);
        if self.told(unless, made).is_some() {
            return self.gone(path.to_owned());
        }
        let read = self.tree.read(path, SMALL);
        let same = kind == Kind::File && self.told(path, read).as_deref() == Some(text.as_bytes());
        if !same {
            if kind == Kind::Link && self.behind(path) {
                return;
            }
            self.offend(path.to_owned(), if kind == Kind::Directory { Act::Remove } else { Act::Put(text) });
        }
    }

    fn configured_tokens(&mut self) {
        for path in self.configured.tokens.clone() {
            let path = inner(&path);
            let kind = self.tree.kind(&path);
            // A directory is no token, and an image's configuration does not say what else of it is removed.
            if matches!(self.told(&path, kind), Some(Kind::File | Kind::Link | Kind::Other)) {
                self.gone(path);
            }
        }
    }

    fn configured_state(&mut self) {
        for path in self.configured.state_dirs.clone() {
            // By name: an image whose configuration says `/etc` does not have its `/etc` emptied.
            let state = inner(&path);
            let names = self.tree.names(&state);
            for entry in self.told(&state, names).unwrap_or_default() {
                let name = entry.name.to_string_lossy();
                if name.starts_with("ledger.json")
                    || ["lock", "token", "annul.json", "host.lock"].contains(&&*name)
                {
                    self.gone(state.join(&entry.name));
                }
            }
        }
        for path in self.configured.data_dirs.clone() {
            let data = inner(&path);
            for part in ["server", "agent"] {
                self.bare(&data.join(part), part, K3S_STAYS);
            }
        }
    }

    fn token_text(&mut self) {
        let mut todo: BTreeMap<PathBuf, usize> = BTreeMap::new();
        todo.insert(PathBuf::from("/"), 0);
        for path in SEARCHED_IN_USR {
            todo.insert(path.into(), 0);
        }
        let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
        while let Some((directory, depth)) = todo.pop_first() {
            if self.mounts.hides(&directory) || !seen.insert(directory.clone()) {
                continue;
            }
            if depth > DEEPEST {
                self.unlooked(&directory, format!("it lies more than {DEEPEST} directories deep; remove it"));
                continue;
            }
            let names = self.tree.names(&directory);
            for entry in self.told(&directory, names).unwrap_or_default() {
                let at = directory.join(&entry.name);
                let skipped =
                    directory == Path::new("/") && NOT_SEARCHED.iter().any(|name| entry.name == *name);
                match entry.kind {
                    // With a known secret the whole image is searched.
                    Kind::Directory if !skipped || self.wanted.secret.is_some() => {
                        todo.insert(at, depth + 1);
                    }
                    Kind::File if entry.size > 0 => self.file(&at, entry.size),
                    _ => {}
                }
            }
        }
    }

    fn file(&mut self, at: &Path, size: u64) {
        // k3s's own programs and images are checked by their sums; a secret in one would need a person who put it there.
        if self.wanted.secret.is_none() && size > LARGEST {
            return;
        }
        let in_usr = at.starts_with("/usr") && !SEARCHED_IN_USR.iter().any(|path| at.starts_with(path));
        if let Some(secret) = self.wanted.secret {
            let holds = self.tree.file(at).and_then(|file| {
                let Some(file) = file else { return Ok(None) };
                secrets::stream_holds(file, secret).map(Some).map_err(|source| TreeError::read(at, source))
            });
            if self.told(at, holds) == Some(true) {
                return self.offend(at.to_owned(), Act::Name("the secret of --secret-file: remove it"));
            }
        }
        if !in_usr && size <= LARGEST {
            let read = self.tree.read(at, LARGEST);
            if let Some(what) = self.told(at, read).as_deref().and_then(secrets::token_in) {
                self.offend(at.to_owned(), Act::Name(what));
            }
        }
    }
}

/// A configured path as one of the image: `..` in it is the kernel's to resolve, within the image.
fn inner(path: &str) -> PathBuf {
    Path::new("/").join(path.trim_start_matches('/'))
}
