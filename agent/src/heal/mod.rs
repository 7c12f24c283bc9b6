//! Membership that heals itself: what is known of every server, what may be changed about the members, and what is to be done.
//!
//! ```text
//!  survey [edge]: Lease, Nodes, direct questions ─┐
//!  gossip, member list, discovery ────────────────┴─> verdict (per server, with an age) ─> remedy (one) ─> quorum (may it?)
//! ```
//!
//! Once a cluster exists, coordination is Kubernetes' own: one server holds the Lease `kube-system/muster` and alone removes,
//! promotes and demotes, one change at a time. Everything here is a function from values to values; the effects are in
//! `engine/real`.

mod input;
pub mod labels;
pub mod lease;
pub mod quorum;
pub mod recover;
mod remedy;
mod seen;
mod shape;
pub mod table;
mod verdict;
mod watch;

use std::time::Duration;

use crate::core::Known;

pub use input::{Advice, Input, on_their_way};
pub use recover::{FoldRequest, RecoverRequest, ResetSeen};
pub use remedy::{Remedy, SPLIT, choose};
pub use seen::{HealSeen, Holder, LeaveRequest, NodeSeen, Order, Reach};
pub use verdict::{Evidence, Judged, Own, Verdict, is_left_behind, judge, strangers};
pub use watch::Watch;

/// How many seconds before the end of its certificates k3s is restarted, which renews them in the last 120 days of their year
/// (`k3s-facts.md` part 9): late enough to leave it to ordinary restarts, and early enough for a cluster of any size.
pub const RENEW_BEFORE: i64 = 30 * 86_400;
/// From here on a server no longer waits for every other voter, only for a majority without itself.
pub const RENEW_SOON: i64 = 7 * 86_400;
/// From here on it waits for nobody but its turn: an outage of seconds is less than a server whose certificates have run out.
pub const RENEW_NOW: i64 = 2 * 86_400;

/// A restart of k3s that did not renew its certificates is not tried again sooner.
const RESTART_AGAIN: Duration = Duration::from_secs(86_400);

/// Whether k3s may be restarted for certificates that end in so many seconds.
#[must_use]
pub fn renewal_due(left: &Known<i64>, restarted: Option<Duration>, now: Duration) -> bool {
    let again = restarted.is_none_or(|at| now.saturating_sub(at) >= RESTART_AGAIN);
    again && left.yes().is_some_and(|left| *left <= RENEW_BEFORE)
}

/// Node annotation with the identity of the machine that serves under this name: it tells a replaced machine from a renamed one.
pub const IDENTITY: &str = "muster.internal/identity";
/// Node label with the role that the healer wants a machine to take.
pub const ORDER: &str = "muster.internal/order";
/// Node label of a machine that Muster cordoned, and that Muster makes schedulable again.
pub const CORDONED: &str = "muster.internal/cordoned";
