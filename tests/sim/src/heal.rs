//! Healing as an agent sees and does it: the in-memory half of `engine/real/heal.rs`, line by line.

use std::collections::BTreeSet;
use std::time::Duration;

use muster::core::{Known, NodeId};
use muster::decide::{Act, K3sSeen, MemberSeen, Observed};
use muster::engine::Outcome;
use muster::gossip::Role;
use muster::heal::quorum::{self, Change};
use muster::heal::{HealSeen, Holder, Order, Reach, Remedy, is_left_behind};
use muster::ledger::Data as Kept;

use crate::control::Control;
use crate::kube::Node;
use crate::one::One;
use crate::removal::Removal;
use crate::world::World;

impl World {
    /// k3s as the agent looks at it: several times a second while it comes up, every few seconds else.
    pub fn k3s_looked_at(&mut self, number: u8) -> K3sSeen {
        if self.heals.is_none() {
            return self.k3s_seen(number);
        }
        let clock = self.clock(number);
        let machine = &self.machines[usize::from(number) - 1];
        if let Some((at, seen)) = &machine.healer.k3s {
            let pace = match &machine.record.data {
                Kept::None => Duration::from_secs(2),
                Kept::Member { .. } if machine.record.served && seen.ready == Known::Yes(true) => {
                    Duration::from_secs(4)
                }
                _ => Duration::from_millis(400),
            };
            if clock.saturating_sub(*at) < pace {
                return seen.clone();
            }
        }
        let seen = self.k3s_seen(number);
        self.machine(number).healer.k3s = Some((clock, seen.clone()));
        seen
    }
}

impl One<'_> {
    /// Completes a look by what healing looks at.
    pub fn look_at_healing(&mut self, seen: &mut Observed) {
        let number = self.number;
        let control = self.world.control;
        let record = &seen.record;
        let server = matches!(record.data, Kept::Member { role: Role::Server, .. });
        let serves = server && seen.k3s.voter == Known::Yes(true) && seen.k3s.api == Known::Yes(true);
        if control == Control::LearnerPending
            && let Known::Yes(members) = &mut seen.k3s.members
        {
            members.retain(|member| !member.learner);
        }
        if control == Control::NoQuorumCheck {
            let peers = std::sync::Arc::make_mut(&mut seen.peers);
            for peer in peers.peers.values_mut().filter(|peer| peer.claim.role == Role::Server) {
                peer.live = true;
                peer.claim_mut().voter = Some(true);
                peer.claim_mut().api = Some(true);
            }
        }
        let members = seen.k3s.members.yes();
        let ask = members.into_iter().flatten().filter_map(|member| member.address).collect();
        let names = members.into_iter().flatten().map(|member| member.node.clone()).collect();
        let now = self.world.now;
        let own = self.world.own_node(number);
        let marked = own.as_ref().map(marked);
        let order = own.and_then(|node| node.yes().and_then(|node| node.order.then_some(Order::Server)));
        let machine = self.world.machine(number);
        machine.healer.keep(serves, (ask, names), now);
        let mut heal = HealSeen { leave: machine.healer.leave.clone(), order, ..HealSeen::default() };
        if heal.leave.is_none() {
            machine.healer.forget_drain(&machine.name);
        }
        machine.healer.fill(seen.now, &mut heal);
        if let Some(marked) = marked {
            heal.marked = marked;
        }
        heal.tombstone = if machine.disk.tombstone { Known::Yes(()) } else { Known::Absent };
        heal.wal = seen.k3s.server_data.clone();
        if control == Control::WithoutLease && serves {
            let id = seen.node.id.as_str().to_owned();
            heal.lease = Known::Yes(Holder { id, until: Some(seen.now + Duration::from_secs(9)) });
        }
        if control == Control::UnknownIsDead {
            unknown_is_dead(&mut heal);
        }
        let target = self.world.settings[usize::from(number) - 1].servers;
        let healer = &mut self.world.machine(number).healer;
        healer.watch.take(seen, &mut heal, target);
        if control == Control::NoGrace {
            for (_, since) in heal.since.values_mut() {
                *since = Duration::ZERO;
            }
        }
        healer.told_until = heal.lease.yes().and_then(|holder| holder.until);
        seen.heal = heal.into();
    }

    /// The guard of what healing does; none for other steps.
    pub fn guard_healing(&mut self, act: &Act, seen: &Observed) -> Option<Known<bool>> {
        let number = self.number;
        match act {
            Act::Heal { remedy, .. } => Some(self.guard_remedy(remedy, seen)),
            Act::RemoveNode { name, address, seen_dead, .. } => {
                let machine = &self.world.machines[usize::from(number) - 1];
                if *name == machine.name || *address == machine.address() {
                    return Some(Known::Yes(false));
                }
                let (name, address) = (name.clone(), *address);
                match self.quorum_holds(&Change::RemoveDead(&name)) {
                    Known::Yes(true) => {}
                    refused => return Some(refused),
                }
                let Some(cluster) = self.world.api(number) else {
                    return Some(Known::unknown("the Node", "no answer"));
                };
                let node = self.world.etcds[cluster].kube.nodes.get(&name);
                Some(Known::Yes(node.is_some_and(|node| {
                    let silent = is_left_behind(&node.ready());
                    let same_place = crate::machine::address(node.at) == address;
                    let agent = node.member.is_none();
                    let allowed = if same_place { *seen_dead || silent } else { agent && silent };
                    node.deleting.is_none() && allowed
                })))
            }
            Act::Retire { role } => {
                let data = &self.world.machines[usize::from(number) - 1].record.data;
                Some(Known::Yes(matches!(data, Kept::Joining { role: wanted, .. } if wanted != role)))
            }
            _ => None,
        }
    }

    /// Whether the members may change so: as in the real world, who counts as living must answer now.
    fn quorum_holds(&mut self, change: &Change<'_>) -> Known<bool> {
        let number = self.number;
        let control = self.world.control;
        let Some(cluster) = self.world.api(number) else { return Known::unknown("the members", "no answer") };
        let members: Vec<MemberSeen> = self.world.members(cluster);
        let machine = &self.world.machines[usize::from(number) - 1];
        let own = machine.name.clone();
        let said: BTreeSet<String> = machine
            .ears
            .view
            .peers
            .values()
            .filter(|peer| peer.live && peer.claim.role == Role::Server && peer.claim.voter == Some(true))
            .map(|peer| peer.claim.name.clone())
            .collect();
        let answers = |member: &&MemberSeen| {
            let at = member.address.filter(|_| said.contains(&member.node));
            at.is_some_and(|at| self.world.reach(number, at) == Reach::Answers)
        };
        let alive: BTreeSet<String> = members
            .iter()
            .filter(answers)
            .map(|member| member.node.clone())
            .chain(std::iter::once(own))
            .collect();
        let unguarded = matches!(control, Control::NoQuorumCheck | Control::LearnerPending);
        if quorum::allows(&members, &alive, change).is_err() && !unguarded {
            self.world.coverage.remedy("guard: quorum");
            return Known::Yes(false);
        }
        Known::Yes(true)
    }

    fn guard_remedy(&mut self, remedy: &Remedy, seen: &Observed) -> Known<bool> {
        let number = self.number;
        let machine = &self.world.machines[usize::from(number) - 1];
        let leaves = matches!(remedy, Remedy::Demote { name, .. } | Remedy::DrainSelf { name } if *name == machine.name);
        if !leaves && !seen.heal.is_mine(self.world.clock(number)) {
            self.world.coverage.remedy("guard: no Lease");
            return Known::Yes(false);
        }
        let (change, address) = match remedy {
            Remedy::Settle { .. }
            | Remedy::Withdraw { .. }
            | Remedy::Label { .. }
            | Remedy::DrainSelf { .. }
            | Remedy::Promote { .. } => return Known::Yes(true),
            Remedy::Remove { name, address, .. } => (Change::RemoveDead(name), *address),
            Remedy::RemoveMember { name, address, .. } => (Change::RemoveDead(name), Some(*address)),
            Remedy::Demote { name, .. } => (Change::RemoveLiving(name), None),
        };
        match self.quorum_holds(&change) {
            Known::Yes(true) => {}
            refused => return refused,
        }
        if let Some(address) = address
            && self.world.reach(number, address) == Reach::Answers
        {
            self.world.coverage.remedy("guard: answers");
            return Known::Yes(false);
        }
        Known::Yes(true)
    }

    fn node(&self, name: &str) -> Result<(usize, Node), Outcome> {
        let Some(cluster) = self.world.api(self.number) else {
            return Err(Outcome::Failed("no answer".to_owned()));
        };
        let node = self.world.etcds[cluster].kube.nodes.get(name).cloned();
        node.map(|node| (cluster, node)).ok_or(Outcome::AlreadySo)
    }

    /// A remedy.
    pub fn heal(&mut self, remedy: &Remedy) -> Outcome {
        if self.world.heals.is_none() {
            return Outcome::Done;
        }
        if let Remedy::DrainSelf { name } = remedy {
            let known = |world: &World, cluster: &usize| world.etcds[*cluster].kube.nodes.contains_key(name);
            return match self.world.kubelet_reaches(self.number).filter(|cluster| known(self.world, cluster))
            {
                Some(cluster) => self.begin_drain(cluster, name),
                None => Outcome::Failed("no answer".to_owned()),
            };
        }
        let (name, uid) = match remedy {
            Remedy::Remove { name, uid, .. } | Remedy::Demote { name, uid } => (name, uid.as_str()),
            Remedy::Promote { name }
            | Remedy::DrainSelf { name }
            | Remedy::Withdraw { name }
            | Remedy::Label { name, .. }
            | Remedy::RemoveMember { name, .. }
            | Remedy::Settle { name } => (name, ""),
        };
        let (cluster, node) = match (self.node(name), remedy) {
            (Ok((_, node)), Remedy::RemoveMember { name, address, .. }) if node.deleting.is_some() => {
                return self.remove_member(name, Some(*address), Removal::Nodeless);
            }
            (Ok(found), _) => found,
            (Err(Outcome::AlreadySo), Remedy::RemoveMember { name, address, .. }) => {
                return self.remove_member(name, Some(*address), Removal::Nodeless);
            }
            (Err(Outcome::AlreadySo), Remedy::Demote { name, .. }) => {
                let leaves = *name == self.world.machine(self.number).name;
                return self.remove_member(
                    name,
                    None,
                    if leaves { Removal::Leaves } else { Removal::Surplus },
                );
            }
            (Err(outcome), _) => return outcome,
        };
        if !uid.is_empty() && node.uid.to_string() != uid {
            self.world.coverage.remedy("refused: another Node");
            return Outcome::Refused(format!("another Node has the name {name} now"));
        }
        let unknown_is_dead = self.world.control == Control::UnknownIsDead;
        let leaves = *name == self.world.machine(self.number).name;
        match remedy {
            Remedy::Remove { .. } if node.ready() == Known::Yes(true) && !unknown_is_dead => {
                self.world.coverage.remedy("refused: Ready");
                Outcome::Refused(format!("node {name} is Ready"))
            }
            Remedy::RemoveMember { .. } => Outcome::Refused(format!("there is a Node named {name}")),
            Remedy::Remove { .. } => self.delete(cluster, name, Removal::Dead),
            Remedy::Demote { .. } if self.world.machine(self.number).healer.is_drained(name) => {
                let kind = if leaves { Removal::Leaves } else { Removal::Surplus };
                self.delete(cluster, name, kind)
            }
            Remedy::Promote { .. } if self.world.machine(self.number).healer.is_drained(name) => {
                self.world.coverage.remedy("promote");
                self.change(cluster, name, |node| node.order = true)
            }
            Remedy::Demote { .. } | Remedy::Promote { .. } | Remedy::DrainSelf { .. } => {
                self.begin_drain(cluster, name)
            }
            // No history asks for labels.
            Remedy::Label { .. } => Outcome::Done,
            Remedy::Withdraw { .. } | Remedy::Settle { .. } => {
                let withdraws = matches!(remedy, Remedy::Withdraw { .. });
                self.world.machine(self.number).healer.forget_drain(name);
                self.world.coverage.remedy(if withdraws { "withdraw" } else { "settle" });
                self.change(cluster, name, |node| (node.order, node.cordoned) = (false, false))
            }
        }
    }

    /// etcd is told to remove a member that has no Node.
    fn remove_member(&mut self, name: &str, at: Option<std::net::IpAddr>, kind: Removal) -> Outcome {
        let number = self.number;
        let Some(cluster) = self.world.api(number) else { return Outcome::Failed("no answer".to_owned()) };
        let is_it = |member: &MemberSeen| member.node == name && (at.is_none() || member.address == at);
        let list = self.world.members(cluster);
        let Some(place) = list.iter().position(is_it) else { return Outcome::AlreadySo };
        let member = self.world.etcds[cluster].members[place].clone();
        self.world.check_member(number, cluster, &member, name, kind);
        self.world.coverage.remedy(Removal::Nodeless.word());
        self.world.say(number, || format!("tells etcd to remove the member of {name}"));
        self.world.etcds[cluster].members.retain(|other| other.id != member.id);
        Outcome::Done
    }

    fn begin_drain(&mut self, cluster: usize, name: &str) -> Outcome {
        let most = self.world.settings[usize::from(self.number) - 1].healing.drain;
        let takes = Duration::from_millis(500 + self.world.dice.below(most.as_millis() as u64));
        let until = self.world.now + takes;
        if !self.world.machine(self.number).healer.drain(name, until) {
            self.world.coverage.remedy("refused: another drain");
            return Outcome::Refused("another machine is being drained".to_owned());
        }
        self.world.coverage.remedy("drain");
        self.change(cluster, name, |node| node.cordoned = true);
        Outcome::Begun
    }

    fn change(&mut self, cluster: usize, name: &str, change: impl FnOnce(&mut Node)) -> Outcome {
        let number = self.number;
        if let Some(node) = self.world.etcds[cluster].kube.nodes.get_mut(name) {
            change(node);
            let text = format!("{name}: order {}, cordoned {}", node.order, node.cordoned);
            self.world.say(number, || text);
        }
        Outcome::Done
    }

    fn delete(&mut self, cluster: usize, name: &str, kind: Removal) -> Outcome {
        let number = self.number;
        self.world.check_removal(number, cluster, name, kind);
        self.world.coverage.remedy(kind.word());
        self.world.say(number, || format!("deletes the Node {name} ({})", kind.word()));
        if self.world.delete_node(cluster, name) { Outcome::Done } else { Outcome::AlreadySo }
    }

    /// The Node of a machine that was reimaged goes.
    pub fn remove_newcomers_node(&mut self, name: &str) -> Outcome {
        match self.node(name) {
            Ok((cluster, _)) => self.delete(cluster, name, Removal::Newcomer),
            Err(outcome) => outcome,
        }
    }

    /// Writes this machine's identity on its Node.
    pub fn mark(&mut self) -> Outcome {
        let machine = &self.world.machines[usize::from(self.number) - 1];
        if self.world.heals.is_none() {
            return Outcome::Done;
        }
        if !matches!(machine.record.data, Kept::Member { role: Role::Server, .. }) {
            return Outcome::Refused("this node is no server".to_owned());
        }
        let me = self.world.identities[usize::from(machine.disk.identity)].as_str().to_owned();
        let name = machine.name.clone();
        match self.node(&name) {
            Ok((cluster, _)) => self.change(cluster, &name, |node| node.identity = Some(me)),
            Err(Outcome::AlreadySo) => Outcome::Failed("no such Node".to_owned()),
            Err(outcome) => outcome,
        }
    }

    /// A point at which a healer, or a machine that is being healed, may be crashed; true when the agent has just ended.
    pub fn heal_point(&mut self, heals: bool) -> bool {
        let data = &self.world.machines[usize::from(self.number) - 1].record.data;
        if !self.crashed && (heals || matches!(data, Kept::Joining { .. } | Kept::Discarding { .. })) {
            self.crashed = self.world.heal_point(self.number);
        }
        self.crashed
    }
}

fn marked(node: &Known<&Node>) -> Known<NodeId> {
    match node {
        Known::Yes(node) => match node.identity.as_ref().map(|text| text.parse()) {
            Some(Ok(id)) => Known::Yes(id),
            Some(Err(_)) | None => Known::Absent,
        },
        Known::Absent => Known::unknown("this node's Node", "there is none"),
        Known::Unknown(unread) => Known::Unknown(unread.clone()),
    }
}

/// The broken agent that takes every answer it did not get for a death.
fn unknown_is_dead(heal: &mut HealSeen) {
    if let Known::Yes(nodes) = &mut heal.nodes {
        for node in nodes {
            node.ready = Known::unknown("the Ready condition", "not asked");
        }
    }
}
