//! Clouds: small clients of their documented APIs. What is the same for all is here: when what is asked, what is said of this machine
//! and its group while a question fails, and (in `machines.rs`) the memory by which an address is told to be a dead machine's.
//!
//! The metadata service of the machine itself gives zone and notices, and needs no permission: it is asked at each look. Addresses
//! come from an API, which does: it is asked less often, and left alone when it wants to be; each file names the calls it makes.

mod api;
mod aws;
mod azure;
mod digitalocean;
mod gcp;
mod hetzner;
mod machines;
mod openstack;
pub mod sigv4;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::{
    Api, Kept, METADATA, MOST_PAGES, Request, accept, base, bearer, encoded, endless, ip, items, next_page,
    read_json, said, secret_file, text,
};
use async_trait::async_trait;
use machines::Machines;
use tokio::time::{Instant, timeout, timeout_at};

use super::pace::Pace;
use super::{Facts, Failure, Found, MOST_OF_ONE, Origin, Scene, Source};
use crate::config::{CloudKind, CloudSettings, Find};
use crate::edge::clock;
use crate::edge::web::Web;

/// Longest time for a look; for the metadata service in it; and kept of it for what follows the list.
const DEADLINE: Duration = Duration::from_secs(25);
const NEAR: Duration = Duration::from_secs(8);
const RESERVE: Duration = Duration::from_secs(2);
/// Longest time for questions after machines that are no longer listed: the list itself must not wait for them.
const MISSING_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between lists once enough peers are live, and while they are not: the first, doubled up to the longest.
const SETTLED: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
/// Looks come up to a fifth early: a list that is due within this time is asked for.
const SOON: Duration = Duration::from_secs(5);
/// Longest time that an API is left alone at its own wish.
const MOST_ALONE: Duration = Duration::from_secs(600);
/// How long a fact stands for itself while the question for it fails.
const LASTS: Duration = Duration::from_secs(60 * 60);

/// Seconds since 1970: signatures carry them.
pub type Wall = dyn Fn() -> i64 + Send + Sync;

/// The wall clock.
#[must_use]
pub fn wall() -> i64 {
    clock::wall_seconds()
}

/// What a cloud says of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It runs, or is on its way.
    Running,
    /// It is gone and never comes back under this id.
    Gone,
    /// Stopped, or something else that may end.
    Other,
}

/// One machine of a list.
#[derive(Debug, Clone)]
struct Machine {
    id: String,
    ips: Vec<IpAddr>,
    state: State,
}

/// What the metadata service says.
#[derive(Debug, Clone)]
struct Here {
    zone: Option<String>,
    /// The notice that this machine will be taken away, where there is one. A failure is not its absence.
    ending: Result<Option<String>, Failure>,
}

impl Here {
    /// From a service that gives no notices.
    fn of(zone: Option<String>) -> Self {
        Self { zone, ending: Ok(None) }
    }
}

/// A whole list.
#[derive(Debug, Clone)]
struct Listing {
    machines: Vec<Machine>,
    /// The group's largest size, where it has one. A failure is not its absence.
    group_max: Result<Option<u32>, Failure>,
}

impl Listing {
    fn new() -> Self {
        Self { machines: Vec::new(), group_max: Ok(None) }
    }
}

/// One cloud's API.
#[async_trait]
trait Provider: Send {
    /// Zone and notices, from the metadata service.
    async fn here(&mut self, api: &Api) -> Result<Here, Failure>;
    /// All machines that are asked for.
    async fn list(&mut self, api: &Api) -> Result<Listing, Failure>;
    /// Whether the machine of this id, which is no longer listed, is gone for good.
    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure>;
}

/// A fact that may change, which a failed question neither states nor takes back.
struct Lasting<T>(Option<(T, Instant)>);

impl<T: Clone> Lasting<T> {
    fn take(&mut self, answer: Result<Option<T>, Failure>) -> Result<(), Failure> {
        self.0 = answer?.map(|value| (value, Instant::now()));
        Ok(())
    }

    fn now(&self) -> Option<T> {
        self.0.as_ref().filter(|(_, at)| at.elapsed() <= LASTS).map(|(value, _)| value.clone())
    }
}

/// A cloud as a source.
pub(super) struct Cloud {
    settings: CloudSettings,
    port: u16,
    api: Result<Api, String>,
    provider: Box<dyn Provider>,
    zone: Option<String>,
    ending: Lasting<String>,
    group_max: Lasting<u32>,
    machines: Machines,
    listed: Listed,
}

/// How the last list went.
#[derive(Default)]
struct Listed {
    /// When it was asked for.
    at: Option<Instant>,
    /// How many were since enough peers were live.
    times: u32,
    /// Until when the API wants to be left alone.
    left_alone: Option<Instant>,
    /// Why there was none.
    failed: Option<String>,
    /// What was missing from it.
    note: Option<String>,
}

impl Listed {
    fn is_due(&self, now: Instant, settled: bool) -> bool {
        let doubled = FIRST.saturating_mul(1 << self.times.min(16)).min(LONGEST);
        let pause = if settled { SETTLED } else { doubled };
        self.left_alone.is_none_or(|until| now >= until) && self.at.is_none_or(|at| now + SOON >= at + pause)
    }

    fn heed(&mut self, failure: &Failure) {
        self.left_alone = failure.again.map(|again| Instant::now() + again.min(MOST_ALONE));
    }
}

impl Cloud {
    pub(super) fn new(
        settings: CloudSettings,
        port: u16,
        web: Result<Arc<Web>, String>,
        wall: Arc<Wall>,
    ) -> Self {
        let provider: Box<dyn Provider> = match settings.kind {
            CloudKind::Aws => Box::new(aws::Aws::new(settings.clone())),
            CloudKind::Gcp => Box::new(gcp::Gcp::new(settings.clone())),
            CloudKind::Azure => Box::new(azure::Azure::new(settings.clone())),
            CloudKind::Hetzner => Box::new(hetzner::Hetzner::new(settings.clone())),
            CloudKind::OpenStack => Box::new(openstack::OpenStack::new(settings.clone())),
            CloudKind::DigitalOcean => Box::new(digitalocean::DigitalOcean::new(settings.clone())),
        };
        let api = web.map(|web| Api { web, wall });
        let machines = Machines::of(settings.kind.word());
        let (ending, group_max, listed) = (Lasting(None), Lasting(None), Listed::default());
        Self { settings, port, api, provider, zone: None, ending, group_max, machines, listed }
    }

    /// What is known now, whatever has failed meanwhile.
    fn facts(&self) -> Facts {
        Facts {
            zone: self.zone.clone(),
            group_max: self.group_max.now(),
            held: self.machines.held.clone(),
            terminated: self.machines.dead.clone(),
            ending: self.ending.now(),
        }
    }

    /// Asks for the list, and after those who are missing from it.
    async fn list(&mut self, api: &Api, end: Instant) -> Result<Vec<SocketAddr>, Failure> {
        let answer = timeout_at(end, self.provider.list(api)).await;
        let listing =
            answer.unwrap_or_else(|_| Err(Failure::new("the list did not come to its end in time")))?;
        self.listed.note = match self.group_max.take(listing.group_max) {
            Ok(()) => None,
            Err(failure) => {
                self.listed.heed(&failure);
                Some(format!("the largest size of the group is not known: {}", failure.cause))
            }
        };
        let running = self.machines.take(&listing.machines);
        let end = (Instant::now() + MISSING_PATIENCE).min(end + RESERVE / 2);
        for id in self.machines.missing(&listing.machines) {
            match timeout_at(end, self.provider.is_gone(api, &id)).await {
                Ok(Ok(gone)) => self.machines.told(&id, gone),
                // A failed question says nothing: it is asked again, after the others.
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
        let addresses = running.into_iter().map(|ip| SocketAddr::new(ip, self.port));
        Ok(addresses.take(MOST_OF_ONE).collect())
    }
}

#[async_trait]
impl Source for Cloud {
    fn name(&self) -> String {
        self.settings.kind.word().to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Cloud
    }

    fn pace(&self) -> Pace {
        // Notices come two minutes ahead at best, and 30 seconds on Google's. The API has a pace of its own.
        Pace { deadline: DEADLINE, ..Pace::of(0, 2_000, 10, 10) }
    }

    async fn look(&mut self, scene: &Scene) -> Result<Found, Failure> {
        let api = match &self.api {
            Ok(api) => api.clone(),
            Err(cause) => return Err(Failure::new(format!("no web client: {cause}"))),
        };
        let (began, settled) = (Instant::now(), *scene.enough.borrow());
        let here = timeout(NEAR, self.provider.here(&api)).await;
        let here = here.unwrap_or_else(|_| {
            Err(Failure::new(format!("metadata: no answer within {} s", NEAR.as_secs())))
        });
        let (near, silent) = match here {
            Ok(here) => {
                self.zone = here.zone.or(self.zone.take());
                (self.ending.take(here.ending).err(), false)
            }
            Err(failure) => (Some(failure), true),
        };
        if self.settings.find == Find::Metadata {
            return match near {
                Some(failure) if silent => Err(Failure { facts: Some(Box::new(self.facts())), ..failure }),
                near => {
                    let note = near.map(|failure| failure.cause);
                    Ok(Found { facts: self.facts(), note, ..Found::default() })
                }
            };
        }
        if settled {
            self.listed.times = 0;
        }
        let mut addresses = None;
        if self.listed.is_due(began, settled) {
            self.listed.at = Some(began);
            self.listed.times = self.listed.times.saturating_add(1);
            self.listed.left_alone = None;
            match self.list(&api, began + DEADLINE - RESERVE).await {
                Ok(found) => {
                    addresses = Some(found);
                    self.listed.failed = None;
                }
                // Only the API is left alone: the next notice may be a minute away.
                Err(failure) => {
                    self.listed.heed(&failure);
                    self.listed.failed = Some(failure.cause);
                }
            }
        }
        if let Some(cause) = &self.listed.failed {
            return Err(Failure { facts: Some(Box::new(self.facts())), ..Failure::new(cause) });
        }
        let notes = [self.listed.note.clone(), near.map(|failure| failure.cause)];
        let notes: Vec<String> = notes.into_iter().flatten().collect();
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        // Between lists the addresses of the last one stand, with their age.
        let part = addresses.is_none();
        let addresses = addresses.unwrap_or_default();
        Ok(Found { addresses, facts: self.facts(), note, part, ..Found::default() })
    }
}
