//! The overlay: every key with its last value and who set it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::fragment::Fragment;
use super::keys::{Key, Value};

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key, counted from 1.
        line: usize,
    },
    /// A parameter on the kernel's command line.
    Kernel(String),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
    /// Nobody: built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Kernel(name) => write!(f, "kernel parameter {name}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value and who set it.
#[derive(Clone, PartialEq)]
pub(super) struct Set {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Every key that has a value.
#[derive(Clone, PartialEq)]
pub(super) struct Merged(BTreeMap<Key, Set>);

impl Merged {
    /// What holds when nobody sets anything.
    pub(super) fn defaults() -> Self {
        let set = |key: &Key| Some((*key, Set { value: key.default()?, origin: Origin::Default }));
        Self(Key::ALL.iter().filter_map(set).collect())
    }

    /// Lays a file over what is there: a key that it sets replaces the earlier value whole, lists and tables too, so that what
    /// holds can be read off one place.
    pub(super) fn lay_file(&mut self, path: &Path, fragment: Fragment) {
        for (key, (value, line)) in fragment {
            self.set(key, value, Origin::File { path: path.to_owned(), line });
        }
    }

    /// Sets one value.
    pub(super) fn set(&mut self, key: Key, value: Value, origin: Origin) {
        self.0.insert(key, Set { value, origin });
    }

    /// The value of a key and who set it.
    pub(super) fn get(&self, key: Key) -> Option<&Set> {
        self.0.get(&key)
    }

    /// A text.
    pub(super) fn text(&self, key: Key) -> Option<&str> {
        match self.0.get(&key) {
            Some(Set { value: Value::Text(text), .. }) => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub(super) fn whole(&self, key: Key) -> Option<u64> {
        match self.0.get(&key) {
            Some(Set { value: Value::Whole(number), .. }) => Some(*number),
            _ => None,
        }
    }

    /// A list; empty when nobody set it.
    pub(super) fn list(&self, key: Key) -> &[String] {
        match self.0.get(&key) {
            Some(Set { value: Value::List(items), .. }) => items,
            _ => &[],
        }
    }

    /// A table; empty when nobody set it.
    pub(super) fn table(&self, key: Key) -> BTreeMap<String, serde_json::Value> {
        match self.0.get(&key) {
            Some(Set { value: Value::Table(table), .. }) => table.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Who set a key.
    pub(super) fn origin(&self, key: Key) -> Origin {
        self.0.get(&key).map_or(Origin::Default, |set| set.origin.clone())
    }
}
