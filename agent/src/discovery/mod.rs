//! Finding peers: several sources, each asked at its own pace and for itself, their answers merged into candidates to greet.
//!
//! ```text
//! static, dns, remembered, sweep, mdns, exec, file, aws ...   one Source each, one task each (run.rs)
//!      answer or failure --> board (what each said last) --> merge (pure) --> greeted over gossip
//!                                  +--> facts and states (DiscoverySeen) --> decide, status, `muster discover`
//! ```
//!
//! A failed look-up is never "no peers": what a source said before stays, with its age, and the failure is shown beside it. No
//! source waits for another. Gossip is handed literal addresses only, and greeting proves nothing: who has another token is noise.

pub mod cloud;
mod dns;
mod exec;
mod file;
mod fixed;
mod kept;
pub mod lines;
mod mdns;
pub mod merge;
pub mod pace;
mod run;
mod sources;
pub mod sweep;
mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

pub use run::{Counts, Discovery, Surroundings};
pub use sources::{Means, sources};
pub use table::{Looked, Report, look_once, report_table};

/// Answers of one source that are kept; a list that is longer is a mistake or worse.
pub const MOST_OF_ONE: usize = 1_024;

/// What a look gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Where peers may be; not checked yet.
    pub addresses: Vec<SocketAddr>,
    /// What the source knows beside them.
    pub facts: Facts,
    /// How long the answer holds by its own word: no sooner is it asked again.
    pub good_for: Option<Duration>,
    /// Something to show beside the answer: what was left out of it, or how far it got.
    pub note: Option<String>,
    /// Whether the addresses are those of a part: they add to what was said before, and take nothing away.
    pub part: bool,
}

/// What an authority knows beside addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The zone of this machine.
    pub zone: Option<String>,
    /// The most machines that its group may have.
    pub group_max: Option<u32>,
    /// Addresses that machines have now which are not gone, whether they run or are stopped.
    pub held: Vec<IpAddr>,
    /// Addresses of machines that are gone for good, and who says so.
    pub terminated: BTreeMap<IpAddr, String>,
    /// The notice that this machine will be taken away.
    pub ending: Option<String>,
}

/// A look that failed: nothing is known of the peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// What was asked of whom, and what came instead of an answer. Never a secret.
    pub cause: String,
    /// When the source itself asked to be left alone for so long.
    pub again: Option<Duration>,
    /// What is known all the same, in the place of what was known before; none leaves that as it is.
    pub facts: Option<Box<Facts>>,
}

impl Failure {
    /// A failure with its words; somebody else's are made brief.
    pub fn new(cause: impl AsRef<str>) -> Self {
        Self { cause: crate::core::brief(cause.as_ref()), ..Self::default() }
    }
}

/// Where a look happens.
pub struct Scene {
    /// This node's gossip address.
    pub own: SocketAddr,
    /// Whether enough peers are known: a look that takes long may end.
    pub enough: watch::Receiver<bool>,
    /// Takes what is found while a look goes on.
    pub tell: mpsc::UnboundedSender<SocketAddr>,
}

/// How trustworthy an origin is in what it says of now; earlier is better. Breaks ties between answers of one age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// It answered under this cluster's key.
    Sealed,
    /// A cloud's word on its own machines.
    Cloud,
    /// A name server, a program, a list: kept by somebody.
    Kept,
    /// Written into the configuration.
    Configured,
    /// Met once.
    Remembered,
}

/// One place to look for peers.
#[async_trait]
pub trait Source: Send {
    /// Its name, as the configuration has it.
    fn name(&self) -> String;
    /// What stands behind its answers.
    fn origin(&self) -> Origin;
    /// How often it may be asked, and how long it may take.
    fn pace(&self) -> pace::Pace;
    /// Asks it once. May be dropped at any await: it must be able to begin again.
    ///
    /// # Errors
    /// When it has no answer; that says nothing about peers.
    async fn look(&mut self, scene: &Scene) -> Result<Found, Failure>;
}
