//! What needs no network to be known: the seeds of the configuration, and the peers of the ledger.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::kept::{self, Kept};
use super::pace::Pace;
use super::{Failure, Found, Origin, Scene, Source};
use crate::config::Seed;

/// Longest time for one name.
const LOOKUP: Duration = Duration::from_secs(3);
/// Addresses taken from one name at most.
const PER_NAME: usize = 64;

/// The seeds: literal addresses, and names by the system's own resolver, all names at once.
pub(super) struct Static {
    seeds: Vec<Seed>,
    /// What each name gave last.
    kept: Kept,
}

impl Static {
    pub(super) fn new(seeds: Vec<Seed>) -> Self {
        Self { seeds, kept: Kept::default() }
    }
}

#[async_trait]
impl Source for Static {
    fn name(&self) -> String {
        "static".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Configured
    }

    fn pace(&self) -> Pace {
        Pace::of(4_000, 500, 10, 60)
    }

    async fn look(&mut self, _scene: &Scene) -> Result<Found, Failure> {
        let (mut addresses, mut earlier, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = tokio::task::JoinSet::new();
        for seed in &self.seeds {
            match seed.clone() {
                Seed::Address(address) => addresses.push(address),
                Seed::Name(name, port) => drop(names.spawn(async move {
                    let resolved = resolve(&name, port).await;
                    (format!("{name}:{port}"), resolved.map_err(|cause| format!("{name}: {cause}")))
                })),
            }
        }
        while let Some(resolved) = names.join_next().await {
            match resolved {
                Ok((name, Ok(found))) => {
                    self.kept.keep(&name, &found, Instant::now());
                    addresses.extend(found);
                }
                Ok((name, Err(cause))) => match self.kept.last(&name) {
                    Some((found, since)) => {
                        earlier.extend(found);
                        failed.push(kept::note(&cause, since));
                    }
                    None => failed.push(cause),
                },
                Err(error) => failed.push(error.to_string()),
            }
        }
        failed.sort_unstable();
        let failed = crate::core::brief(&failed.join("; "));
        if addresses.is_empty() {
            return Err(Failure::new(failed));
        }
        addresses.extend(earlier);
        Ok(Found { addresses, note: (!failed.is_empty()).then_some(failed), ..Found::default() })
    }
}

async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(found)) => Ok(found.take(PER_NAME).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOKUP.as_secs())),
    }
}

/// Gives the remembered peers at the moment.
pub type Memory = dyn Fn() -> Result<Vec<SocketAddr>, String> + Send + Sync;

/// The peers that the ledger remembers: a cold start works when every other source is dead.
pub(super) struct Remembered {
    pub(super) memory: Box<Memory>,
}

#[async_trait]
impl Source for Remembered {
    fn name(&self) -> String {
        "remembered".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Remembered
    }

    fn pace(&self) -> Pace {
        Pace::of(4_000, 1_000, 10, 300)
    }

    async fn look(&mut self, _scene: &Scene) -> Result<Found, Failure> {
        let addresses = (self.memory)().map_err(Failure::new)?;
        Ok(Found { addresses, ..Found::default() })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};

    use super::*;

    #[tokio::test]
    async fn a_seed_that_does_not_resolve_any_more_keeps_the_addresses_it_had() {
        let scene = Scene {
            own: "10.0.0.1:7846".parse().unwrap(),
            enough: watch::channel(false).1,
            tell: mpsc::unbounded_channel().0,
        };
        let (literal, earlier): (SocketAddr, SocketAddr) =
            ("10.0.0.2:1".parse().unwrap(), "10.0.0.3:7846".parse().unwrap());
        // A name that no resolver takes: its label is too long.
        let name = "a".repeat(64);
        let mut source = Static::new(vec![Seed::Address(literal), Seed::Name(name.clone(), 7846)]);
        let found = source.look(&scene).await.unwrap();
        assert_eq!(found.addresses, [literal]);
        assert!(found.note.unwrap().starts_with(&format!("{name}: ")));
        source.kept.keep(&format!("{name}:7846"), &[earlier], Instant::now());
        let found = source.look(&scene).await.unwrap();
        assert_eq!(found.addresses, [literal, earlier]);
        assert!(found.note.as_ref().unwrap().ends_with("; its answer of 0 s ago stands"), "{found:?}");
        // Nothing but old answers is no answer: its age must not be that of this look.
        source.seeds.remove(0);
        assert!(source.look(&scene).await.is_err());
    }
}
