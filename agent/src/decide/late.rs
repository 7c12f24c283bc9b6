//! A machine that was to become a server and cannot. While it tries, k3s adds it to etcd as a learner again and again, and a learner
//! keeps every other machine out: it gives up, serves as an agent, and may be chosen again later.

use std::time::Duration;

use super::{Act, Observed, Plan, commits, roles};
use crate::config::Settings;
use crate::core::{Known, Phase, Why};
use crate::founding::Certificate;
use crate::gossip::Role;
use crate::ledger::{Data, Record};

/// Beyond the healer's patience, so that an order is taken back first.
const MARGIN: Duration = Duration::from_secs(30);

/// How long a machine that gave up is no spare.
const AGAIN: Duration = Duration::from_secs(600);

/// How the reason of one that gave up begins.
pub const GAVE_UP: &str = "this machine could not become a server";

/// Whether it has tried for long enough.
pub(super) fn is_late(seen: &Observed, settings: &Settings) -> bool {
    matches!(seen.record.data, Data::Joining { role: Role::Server, .. })
        && seen.k3s.voter != Known::Yes(true)
        && seen.watch.trying_for >= settings.healing.patience + MARGIN
}

/// The question whether it votes after all, while no answer is young enough.
pub(super) fn asks(seen: &Observed, settings: &Settings, certificate: &Certificate) -> Option<Act> {
    let due = is_late(seen, settings) && seen.members.yes().is_none();
    let server = roles::target(seen, certificate).filter(|_| due)?;
    Some(Act::AskMembers { address: server.address, ca: certificate.ca_hash.clone() })
}

/// Gives up, when a server that serves has shown that this machine is no voter. One whose etcd has run may be promoted at any moment:
/// it goes on until the cluster removes it, and gives up before it is added again.
pub(super) fn gives_up(seen: &Observed, settings: &Settings) -> Option<Plan> {
    if !is_late(seen, settings) || !seen.heal.wal.is_absent() {
        return None;
    }
    let members = seen.members.yes()?;
    let mut voters = members.iter().filter(|member| !member.learner).peekable();
    if voters.peek().is_none() || voters.any(|member| roles::is_this(seen, member)) {
        return None;
    }
    let cause = seen.k3s.trouble.first().map_or("k3s does not come up", |why| &*why.detail);
    let reason = format!("{GAVE_UP} in {} s: {cause}", seen.watch.trying_for.as_secs());
    let mut next = Record::clone(&seen.record);
    next.data = Data::Discarding { reason: reason.clone() };
    let then = "it joins as an agent, and another machine is tried";
    Some(commits(Phase::Joining, Why::new("server-start-failed", reason, then), next))
}

/// Why this machine gave up a while ago, and is no spare meanwhile.
pub(super) fn gave_up(seen: &Observed) -> Option<Why> {
    let ago = seen.now.saturating_sub(seen.watch.gave_up?);
    let left = AGAIN.checked_sub(ago).filter(|left| !left.is_zero())?;
    let detail = format!("{GAVE_UP}, {} s ago", ago.as_secs());
    let next = format!("it may be tried again in {} s; `muster log` has the cause", left.as_secs());
    Some(Why::new("server-start-failed", detail, next))
}

/// Why no server may run here, if so.
pub(super) fn unfit(seen: &Observed) -> Option<Why> {
    seen.host.blocks_server.first().cloned().or_else(|| gave_up(seen))
}

#[cfg(test)]
#[path = "late_tests.rs"]
mod tests;
