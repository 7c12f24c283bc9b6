//! What Kubernetes keeps in its etcd, for healing: the Lease and the Nodes. It can be read and written only through a server whose
//! etcd member votes among a majority; its controllers work only while there is such a server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster::core::Known;
use muster::heal::NodeSeen;
use muster::heal::Order;
use muster::heal::lease::Seen;

use crate::machine::{Data, Machine, address};
use crate::world::World;

/// A Node without its kubelet's word for so long is of unknown condition.
const SILENT: Duration = Duration::from_secs(40);

/// How long a deletion hangs that hangs.
const HANGS: Duration = Duration::from_secs(600);

/// The state of one cluster.
#[derive(Debug, Clone, Default)]
pub struct Kube {
    /// The Lease.
    pub lease: Option<Seen>,
    /// Every write has a version of its own.
    pub version: u64,
    /// The Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// When its controllers were last seen at work.
    worked: Option<Duration>,
}

/// A Node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Tells it from another of its name.
    pub uid: u64,
    /// The machine whose kubelet registered it.
    pub number: u8,
    /// The last part of its address.
    pub at: u8,
    /// The hash of its password, as it were.
    pub password: u64,
    /// Muster's mark.
    pub identity: Option<String>,
    /// It is to become a server.
    pub order: bool,
    /// Muster cordoned it.
    pub cordoned: bool,
    /// Its etcd member, while it is a server.
    pub member: Option<u64>,
    /// It lacks k3s's label for etcd: k3s removes no member with it.
    pub unlabelled: bool,
    /// For how long the controllers have not heard its kubelet.
    pub silent: Duration,
    /// When its deletion is over: the member goes first.
    pub deleting: Option<Duration>,
}

impl Node {
    /// The Ready condition.
    pub fn ready(&self) -> Known<bool> {
        if self.silent >= SILENT {
            Known::unknown("the Ready condition", "NodeStatusUnknown")
        } else {
            Known::Yes(true)
        }
    }

    fn labelled(&self) -> bool {
        self.member.is_some() && !self.unlabelled
    }

    fn seen(&self, name: &str) -> NodeSeen {
        NodeSeen {
            name: name.to_owned(),
            uid: self.uid.to_string(),
            ready: self.ready(),
            identity: self.identity.clone(),
            order: self.order.then_some(Order::Server),
            cordoned: self.cordoned,
            server: self.labelled(),
            deleting: self.deleting.is_some(),
            addresses: vec![address(self.at)],
        }
    }
}

impl Kube {
    /// Nodes of servers, Nodes that Muster cordoned, and the Nodes of these names.
    pub fn servers(&self, names: &BTreeSet<String>) -> Vec<NodeSeen> {
        let told = |name: &String, node: &Node| node.labelled() || node.cordoned || names.contains(name);
        let told = self.nodes.iter().filter(|(name, node)| told(name, node));
        told.map(|(name, node)| node.seen(name)).collect()
    }
}

impl World {
    /// The cluster whose API a machine's own server answers for: only with a majority.
    pub fn api(&self, number: u8) -> Option<usize> {
        let Data::Server { cluster, member } = self.machines[usize::from(number) - 1].disk.data else {
            return None;
        };
        let votes = self.etcds[cluster].members.iter().any(|m| m.id == member && !m.learner);
        (votes && self.member_up(number, cluster) && self.quorate(number, cluster)).then_some(cluster)
    }

    /// The cluster whose API a machine's kubelet reaches, through any server.
    pub fn kubelet_reaches(&self, number: u8) -> Option<usize> {
        let machine = &self.machines[usize::from(number) - 1];
        let running = machine.k3s.as_ref().is_some_and(|k3s| !k3s.hangs && self.now >= k3s.ready);
        if !machine.up || machine.paused.is_some() || !running {
            return None;
        }
        match machine.disk.data {
            Data::Server { .. } => self.api(number),
            Data::Agent { cluster } => {
                let mut members = self.etcds[cluster].members.iter();
                let serves = |m: &crate::k3s::Member| {
                    self.linked(number, m.number) && self.api(m.number) == Some(cluster)
                };
                members.any(serves).then_some(cluster)
            }
            Data::Empty => None,
        }
    }

    /// This machine's own Node, as its agent reads it.
    pub fn own_node(&self, number: u8) -> Option<Known<&Node>> {
        let cluster = self.kubelet_reaches(number)?;
        let node = self.etcds[cluster].kube.nodes.get(&self.machines[usize::from(number) - 1].name);
        Some(node.map_or(Known::Absent, Known::Yes))
    }

    /// Whether the own Node is Ready: registered by this very machine.
    pub fn own_node_ready(&self, number: u8) -> Known<bool> {
        match self.own_node(number) {
            Some(Known::Yes(node)) if node.number == number => node.ready(),
            Some(Known::Yes(_)) => Known::Yes(false),
            Some(Known::Absent) => Known::Absent,
            Some(Known::Unknown(unread)) => Known::Unknown(unread),
            None => Known::unknown("this node's Node", "no answer"),
        }
    }

    /// Whether the Node of this machine's name was registered with another password: an agent is turned away.
    pub fn password_differs(&self, machine: &Machine, cluster: usize) -> bool {
        let registered = machine.k3s.as_ref().is_none_or(|k3s| k3s.registered);
        let node = self.etcds[cluster].kube.nodes.get(&machine.name);
        !registered && node.is_some_and(|node| Some(node.password) != machine.disk.password)
    }

    /// Kubelets register and speak, the controllers count and delete.
    pub fn kubernetes(&mut self) {
        let now = self.now;
        for cluster in 0..self.etcds.len() {
            let members = &self.etcds[cluster].members;
            let works = members.iter().any(|m| self.api(m.number) == Some(cluster));
            let kube = &mut self.etcds[cluster].kube;
            let since = kube.worked.replace(now).map_or(Duration::ZERO, |at| now.saturating_sub(at));
            if !works {
                continue;
            }
            for node in kube.nodes.values_mut() {
                node.silent = node.silent.saturating_add(since);
            }
            self.finish_deletions(cluster);
        }
        for number in 1..=self.machines.len() as u8 {
            if self.machines[usize::from(number) - 1].k3s.is_some()
                && let Some(cluster) = self.kubelet_reaches(number)
            {
                self.kubelet(number, cluster);
            }
        }
        self.follow();
    }

    fn kubelet(&mut self, number: u8, cluster: usize) {
        let drawn = self.dice.next() | 1;
        let unlabelled = self.heals.is_some() && (drawn >> 8).is_multiple_of(100);
        let machine = &mut self.machines[usize::from(number) - 1];
        let Some(k3s) = &mut machine.k3s else { return };
        let member = match machine.disk.data {
            Data::Server { member, .. } => Some(member),
            Data::Empty | Data::Agent { .. } => None,
        };
        let kube = &mut self.etcds[cluster].kube;
        let name = &machine.name;
        if k3s.registered {
            // A kubelet whose Node was deleted registers again only when it starts again.
            if let Some(node) = kube.nodes.get_mut(name).filter(|node| node.number == number) {
                if node.silent >= SILENT {
                    machine.next = machine.next.min(self.now);
                }
                node.silent = Duration::ZERO;
            }
            return;
        }
        let password = *machine.disk.password.get_or_insert(drawn);
        let node = kube.nodes.get(name);
        // For a server another password is an event and no refusal (k3s-facts.md 3.4).
        if node.is_some_and(|node| (node.password != password && member.is_none()) || node.deleting.is_some())
        {
            return;
        }
        kube.version += 1;
        let uid = kube.version;
        let node = kube.nodes.entry(name.clone()).or_insert(Node {
            uid,
            number,
            at: machine.at,
            password,
            identity: None,
            order: false,
            cordoned: false,
            member: None,
            silent: Duration::ZERO,
            deleting: None,
            unlabelled,
        });
        node.number = number;
        node.at = machine.at;
        node.silent = Duration::ZERO;
        if member.is_some() {
            node.member = member;
            node.unlabelled = unlabelled;
            if unlabelled {
                self.coverage.fault("label-missing");
            }
        }
        k3s.registered = true;
        machine.next = machine.next.min(self.now);
        self.say(number, || "its Node is registered".to_owned());
    }

    /// A Node whose time has come: its member is removed, by a server other than itself, and then it is gone.
    fn finish_deletions(&mut self, cluster: usize) {
        let now = self.now;
        let due: Vec<String> = self.etcds[cluster]
            .kube
            .nodes
            .iter()
            .filter(|(_, node)| node.deleting.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let Some(node) = self.etcds[cluster].kube.nodes.get(&name).cloned() else { continue };
            if let Some(id) = node.member.filter(|_| !node.unlabelled) {
                let other = |m: &crate::k3s::Member| m.id != id && self.api(m.number) == Some(cluster);
                if !self.etcds[cluster].members.iter().any(other) {
                    continue;
                }
                self.etcds[cluster].members.retain(|member| member.id != id);
                self.say(0, || format!("k3s removes the member of {name}"));
            }
            self.etcds[cluster].kube.nodes.remove(&name);
            self.check_invariants();
        }
    }

    /// Asks the API to delete a Node: its finalizer waits for the member.
    pub fn delete_node(&mut self, cluster: usize, name: &str) -> bool {
        // k3s may lack on the Node what it needs to find the member: it tries until a person clears that.
        let hangs = self.heals.is_some() && self.dice.below(50) == 0;
        let takes = if hangs {
            self.coverage.fault("deletion-hangs");
            HANGS
        } else {
            Duration::from_millis(200 + self.dice.below(6_000))
        };
        let at = self.now + takes;
        match self.etcds[cluster].kube.nodes.get_mut(name) {
            Some(node) => {
                node.deleting.get_or_insert(at);
                true
            }
            None => false,
        }
    }
}
