//! What healing looks at, beside what every decision looks at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::labels::Labelled;
use super::{FoldRequest, RecoverRequest, ResetSeen, Verdict};
use crate::core::{Known, NodeId};

/// Who holds the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The holder's identity, as the Lease says it.
    pub id: String,
    /// Until when this node may act as the holder, since boot; none when it is not the holder.
    pub until: Option<Duration>,
}

/// What a direct question to a server's address brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Its supervisor, or its etcd, answers.
    Answers,
    /// The machine says that nothing listens there.
    Refuses,
    /// No answer at all.
    Silent,
}

/// The role that the healer wants a machine to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// An agent becomes a server.
    Server,
}

impl Order {
    /// The label's value.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Order::Server => "server",
        }
    }

    /// Reads the label's value; another one is nobody's order.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        (word == Order::Server.word()).then_some(Order::Server)
    }
}

/// A Node that is a server or carries an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Its uid: tells it from another one that took its name.
    pub uid: String,
    /// Its Ready condition; unknown when Kubernetes says so.
    pub ready: Known<bool>,
    /// The identity that served under this name.
    pub identity: Option<String>,
    /// Its order.
    pub order: Option<Order>,
    /// Whether Muster cordoned it.
    pub cordoned: bool,
    /// Whether it has an etcd member.
    pub server: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What `muster leave` left for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// Why, for the log.
    pub reason: String,
}

/// Everything healing looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealSeen {
    /// The Lease.
    pub lease: Known<Holder>,
    /// Nodes of servers, and Nodes with an order; looked at by the holder alone.
    pub nodes: Known<Vec<NodeSeen>>,
    /// All Nodes with their labels, while the configuration asks for any; looked at once a minute by the holder.
    pub labelled: Option<Vec<Labelled>>,
    /// What a direct question to the addresses of the members brought.
    pub reach: BTreeMap<IpAddr, Reach>,
    /// Since when each server has had its verdict, by name; kept in memory, so that a restart begins to count anew.
    pub since: BTreeMap<String, (Verdict, Duration)>,
    /// Since when each machine has been on its way to be a server, by name.
    pub on_way: BTreeMap<String, Duration>,
    /// Since when each silent peer has been silent.
    pub silent: BTreeMap<NodeId, Duration>,
    /// Since when each live server that says it votes has not been in this server's own list of members, by name.
    pub strangers: BTreeMap<String, Duration>,
    /// Since when there have been too many, or too few servers.
    pub uneven_since: Option<Duration>,
    /// Since when this machine, which was asked to leave, has heard nothing of its own Node.
    pub unheard_since: Option<Duration>,
    /// Addresses whose machine is terminated for good, with who said so.
    pub terminated: BTreeMap<IpAddr, String>,
    /// Seconds until the first of this machine's own certificates of k3s ends.
    pub leaf_ends: Known<i64>,
    /// The Lease of the one server that may restart its k3s now.
    pub turn: Known<Holder>,
    /// When this agent last restarted k3s for new certificates.
    pub restarted: Option<Duration>,
    /// The order on this node's own Node.
    pub order: Option<Order>,
    /// Whether this node's own Node says whose machine it is.
    pub marked: Known<NodeId>,
    /// Whether etcd's log is on this disk.
    pub wal: Known<()>,
    /// Whether etcd left a tombstone here: the cluster has removed this member.
    pub tombstone: Known<()>,
    /// The machine that is being drained now.
    pub draining: Option<String>,
    /// The machine that was drained last by this agent.
    pub drained: Option<String>,
    /// An operator's word, or a termination notice, that this machine leaves.
    pub leave: Option<LeaveRequest>,
    /// An operator's word that the quorum is given up and this server survives.
    pub recover: Option<RecoverRequest>,
    /// An operator's word that this machine goes over to another cluster.
    pub fold: Option<FoldRequest>,
    /// Where k3s's reset stands; looked at while the ledger says that it is due.
    pub reset: ResetSeen,
}

impl Default for HealSeen {
    fn default() -> Self {
        let not_yet = "not looked at yet";
        Self {
            lease: Known::unknown("the Lease kube-system/muster", not_yet),
            nodes: Known::unknown("the servers' Nodes", not_yet),
            labelled: None,
            reach: BTreeMap::new(),
            since: BTreeMap::new(),
            on_way: BTreeMap::new(),
            silent: BTreeMap::new(),
            strangers: BTreeMap::new(),
            uneven_since: None,
            unheard_since: None,
            terminated: BTreeMap::new(),
            leaf_ends: Known::unknown("k3s's certificates", not_yet),
            turn: Known::unknown("the Lease kube-system/muster-restart", not_yet),
            restarted: None,
            order: None,
            marked: Known::unknown("this node's Node", not_yet),
            wal: Known::unknown("etcd's log", not_yet),
            tombstone: Known::Absent,
            draining: None,
            drained: None,
            leave: None,
            recover: None,
            fold: None,
            reset: ResetSeen::NotRun,
        }
    }
}

impl HealSeen {
    /// Whether this node may act as the healer now.
    #[must_use]
    pub fn is_mine(&self, now: Duration) -> bool {
        self.lease.yes().and_then(|holder| holder.until).is_some_and(|until| now < until)
    }
}
