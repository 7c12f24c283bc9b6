//! Where API objects live: etcd, or for a lone cluster one file (k3s has sqlite there).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::etcd::{Client, Entry};
use crate::paths;

/// etcd gives up by itself after 15 s without a quorum; until then a request hangs, as it does behind an apiserver.
const LIMIT: Duration = Duration::from_secs(20);

/// The store behind the API.
pub enum Store {
    /// A quorum.
    Etcd(Client),
    /// This file alone.
    Lone(Lone),
}

/// The lone cluster's store: everything in memory, written out at each change.
pub struct Lone {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    revision: i64,
    entries: BTreeMap<String, (String, i64)>,
}

impl Lone {
    /// Opens or begins the file.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub fn open(file: PathBuf) -> Result<Self, String> {
        let state = if file.exists() {
            serde_json::from_str(&paths::read(&file)?).map_err(|e| format!("{}: {e}", file.display()))?
        } else {
            State::default()
        };
        Ok(Self { file, state: Mutex::new(state) })
    }

    fn change(&self, key: &str, value: Option<&str>, expected: Option<i64>) -> Result<Option<i64>, String> {
        let mut state = self.state.lock().map_err(|_| "the store is poisoned".to_owned())?;
        let current = state.entries.get(key).map_or(0, |(_, revision)| *revision);
        if expected.is_some_and(|expected| expected != current) {
            return Ok(None);
        }
        state.revision += 1;
        let revision = state.revision;
        match value {
            Some(value) => drop(state.entries.insert(key.to_owned(), (value.to_owned(), revision))),
            None => drop(state.entries.remove(key)),
        }
        let text = serde_json::to_string(&*state).map_err(|e| e.to_string())?;
        paths::write_secret(&self.file, &text)?;
        Ok(Some(revision))
    }
}

impl Store {
    /// One key.
    ///
    /// # Errors
    /// etcd's text.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, String> {
        match self {
            Self::Etcd(client) => client.get(key, LIMIT).await,
            Self::Lone(lone) => {
                let state = lone.state.lock().map_err(|_| "the store is poisoned".to_owned())?;
                Ok(state.entries.get(key).map(|(value, revision)| Entry {
                    key: key.to_owned(),
                    value: value.clone(),
                    revision: *revision,
                }))
            }
        }
    }

    /// Every key with a prefix, in order, and the store's revision.
    ///
    /// # Errors
    /// etcd's text.
    pub async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, i64), String> {
        match self {
            Self::Etcd(client) => client.list(prefix, LIMIT).await,
            Self::Lone(lone) => {
                let state = lone.state.lock().map_err(|_| "the store is poisoned".to_owned())?;
                let found = state.entries.iter().filter(|(key, _)| key.starts_with(prefix));
                let entry = |(key, (value, revision)): (&String, &(String, i64))| Entry {
                    key: key.clone(),
                    value: value.clone(),
                    revision: *revision,
                };
                Ok((found.map(entry).collect(), state.revision))
            }
        }
    }

    /// Writes if the revision is as expected (0: absent). `None` when it is not.
    ///
    /// # Errors
    /// etcd's text.
    pub async fn put_if(&self, key: &str, value: &str, expected: i64) -> Result<Option<i64>, String> {
        match self {
            Self::Etcd(client) => client.put_if(key, value, expected, LIMIT).await,
            Self::Lone(lone) => lone.change(key, Some(value), Some(expected)),
        }
    }

    /// Deletes if the revision is as expected. `None` when it is not.
    ///
    /// # Errors
    /// etcd's text.
    pub async fn delete_if(&self, key: &str, expected: i64) -> Result<Option<i64>, String> {
        match self {
            Self::Etcd(client) => client.delete_if(key, expected, LIMIT).await,
            Self::Lone(lone) => lone.change(key, None, Some(expected)),
        }
    }

    /// Proves that the store can be read now, with a quorum behind it.
    pub async fn healthy(&self) -> bool {
        match self {
            Self::Etcd(client) => client.get("health", Duration::from_secs(4)).await.is_ok(),
            Self::Lone(_) => true,
        }
    }

    /// Writes with a time to live (the lone store keeps it for ever).
    ///
    /// # Errors
    /// etcd's text.
    pub async fn put_for(&self, key: &str, value: &str, seconds: u64) -> Result<(), String> {
        match self {
            Self::Etcd(client) => {
                let lease = client.lease(seconds, LIMIT).await?;
                client.put(key, value, Some(&lease), LIMIT).await
            }
            Self::Lone(lone) => lone.change(key, Some(value), None).map(|_| ()),
        }
    }

    /// Deletes whatever is there.
    ///
    /// # Errors
    /// etcd's text.
    pub async fn delete(&self, key: &str) -> Result<(), String> {
        match self {
            Self::Etcd(client) => client.delete(key, LIMIT).await,
            Self::Lone(lone) => lone.change(key, None, None).map(|_| ()),
        }
    }
}
