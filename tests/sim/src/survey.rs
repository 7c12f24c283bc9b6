//! What the agent does beside its loop for healing, as `engine/real/survey.rs` does it: the Lease, the Nodes and direct questions;
//! and the pods of a machine that are moved away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use muster::core::Known;
use muster::decide::K3sSeen;
use muster::heal::lease::{Memory, Seen, Todo};
use muster::heal::{HealSeen, Holder, LeaveRequest, NodeSeen, Reach, Watch};

use crate::machine::{Data, address};
use crate::world::World;

/// The paces and bounds of the real survey.
const CALM: Duration = Duration::from_secs(3);
const ALERT: Duration = Duration::from_secs(1);
const FRESH: Duration = Duration::from_secs(12);
const QUESTION: Duration = Duration::from_millis(2_500);

/// What one agent remembers of healing; a restart forgets it all.
#[derive(Debug, Default)]
pub struct Healer {
    /// Since when things are as they are.
    pub watch: Watch,
    /// The last look at k3s, which is not repeated at every turn.
    pub k3s: Option<(Duration, K3sSeen)>,
    /// A request to leave: on the disk, so that a restart keeps it.
    pub leave: Option<LeaveRequest>,
    /// Its k3s cannot run as a server, and nothing says so beforehand.
    pub unfit: bool,
    /// Until when it was last told that it may act, by its own clock.
    pub told_until: Option<Duration>,
    /// Since when, in truth, its member serves without a break.
    pub serves_since: Option<Duration>,
    /// When, in truth, it last served.
    pub served: Option<Duration>,
    running: Option<Memory>,
    ask: BTreeSet<IpAddr>,
    names: BTreeSet<String>,
    next: Option<Duration>,
    coming: Option<(Duration, Found)>,
    at: Duration,
    found: Option<Found>,
    draining: Option<(String, Duration)>,
    drained: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Found {
    lease: Known<Holder>,
    nodes: Known<Vec<NodeSeen>>,
    reach: BTreeMap<IpAddr, Reach>,
}

impl Healer {
    /// The agent starts anew.
    pub fn restart(&mut self) {
        let kept = std::mem::take(self);
        self.leave = kept.leave;
        self.unfit = kept.unfit;
        self.serves_since = kept.serves_since;
        self.served = kept.served;
    }

    /// When it does something next.
    pub fn next_event(&self, agent: bool) -> Option<Duration> {
        let at =
            [self.next, self.coming.as_ref().map(|(at, _)| *at), self.draining.as_ref().map(|(_, at)| *at)];
        at.into_iter().flatten().min().filter(|_| agent)
    }

    /// Runs while its server serves, and not otherwise.
    pub fn keep(&mut self, wanted: bool, (ask, names): (BTreeSet<IpAddr>, BTreeSet<String>), now: Duration) {
        (self.ask, self.names) = (ask, names);
        match (&self.running, wanted) {
            (None, true) => {
                self.running = Some(Memory::default());
                self.next = Some(now);
            }
            (Some(_), false) => {
                self.running = None;
                self.next = None;
                self.coming = None;
                self.found = None;
            }
            _ => {}
        }
    }

    /// The latest findings.
    pub fn fill(&self, clock: Duration, seen: &mut HealSeen) {
        seen.draining = self.draining.as_ref().map(|(name, _)| name.clone());
        seen.drained.clone_from(&self.drained);
        if clock.saturating_sub(self.at) > FRESH {
            return;
        }
        if let Some(found) = &self.found {
            seen.lease = found.lease.clone();
            seen.nodes = found.nodes.clone();
            seen.reach.clone_from(&found.reach);
        }
    }

    /// Begins to move a machine's pods away.
    pub fn drain(&mut self, name: &str, until: Duration) -> bool {
        if self.draining.is_some() {
            return false;
        }
        self.draining = Some((name.to_owned(), until));
        self.drained = None;
        true
    }

    /// A machine that is schedulable again is drained anew.
    pub fn forget_drain(&mut self, name: &str) {
        self.drained.take_if(|drained| drained == name);
    }

    /// Whether a machine was drained by this agent.
    pub fn is_drained(&self, name: &str) -> bool {
        self.drained.as_deref() == Some(name)
    }
}

impl World {
    /// Everything of the survey that is due.
    pub fn survey(&mut self, number: u8) {
        let now = self.now;
        let machine = self.machine(number);
        if !machine.agent {
            return;
        }
        let due = |at: &Duration| *at <= now;
        if machine.healer.coming.as_ref().is_some_and(|(at, _)| due(at))
            && let Some((_, found)) = machine.healer.coming.take()
        {
            self.found(number, found);
        }
        if self.machine(number).healer.draining.as_ref().is_some_and(|(_, at)| due(at)) {
            self.drained(number);
        }
        let machine = self.machine(number);
        if machine.agent && machine.healer.next.as_ref().is_some_and(due) {
            self.look_around(number);
        }
    }

    fn drained(&mut self, number: u8) {
        if self.heal_point(number) {
            return;
        }
        let Some((name, _)) = self.machine(number).healer.draining.take() else { return };
        let reached = self.api(number).is_some() || self.kubelet_reaches(number).is_some();
        let now = self.now;
        let machine = self.machine(number);
        machine.next = machine.next.min(now);
        if reached {
            self.say(number, || format!("{name} is drained"));
            self.machine(number).healer.drained = Some(name);
            self.heal_point(number);
        }
    }

    fn look_around(&mut self, number: u8) {
        let Some(mut memory) = self.machine(number).healer.running.take() else { return };
        let clock = self.clock(number);
        let lease = self.look_at_lease(number, &mut memory, clock);
        self.machine(number).healer.running = Some(memory);
        if !self.machine(number).agent {
            return;
        }
        let nodes = match self.api(number) {
            Some(cluster) => {
                let names = &self.machines[usize::from(number) - 1].healer.names;
                Known::Yes(self.etcds[cluster].kube.servers(names))
            }
            None => Known::unknown("the servers' Nodes", "no answer"),
        };
        let machine = &self.machines[usize::from(number) - 1];
        let own = machine.address();
        let reach: BTreeMap<IpAddr, Reach> = machine
            .healer
            .ask
            .iter()
            .filter(|at| **at != own)
            .map(|at| (*at, self.reach(number, *at)))
            .collect();
        // A machine that says nothing is waited for.
        let slow = reach.values().any(|reach| *reach == Reach::Silent);
        let at = self.now + if slow { QUESTION } else { Duration::ZERO };
        let found = Found { lease, nodes, reach };
        if slow {
            let healer = &mut self.machine(number).healer;
            healer.coming = Some((at, found));
            healer.next = None;
        } else {
            self.found(number, found);
        }
    }

    fn found(&mut self, number: u8, found: Found) {
        let (now, clock) = (self.now, self.clock(number));
        let target = self.settings[usize::from(number) - 1].servers;
        let machine = self.machine(number);
        let calm = is_calm(&found, target);
        let holder = |found: &Found| found.lease.yes().map(|one| (one.id.clone(), one.until.is_some()));
        let news = machine.healer.found.as_ref().is_none_or(|last| {
            holder(last) != holder(&found) || last.nodes != found.nodes || last.reach != found.reach
        });
        machine.healer.at = clock;
        machine.healer.found = Some(found);
        machine.healer.next = Some(now + if calm { CALM } else { ALERT });
        if news {
            machine.next = machine.next.min(now);
        }
    }

    /// One look at the Lease, and the write that follows from it.
    fn look_at_lease(&mut self, number: u8, memory: &mut Memory, clock: Duration) -> Known<Holder> {
        let identity = self.machine(number).disk.identity;
        let me = self.identities[usize::from(identity)].as_str().to_owned();
        let Some(cluster) = self.api(number) else {
            memory.lost();
            return Known::unknown("the Lease", "no answer");
        };
        let over = match memory.look(clock, &me, self.etcds[cluster].kube.lease.clone()) {
            Todo::Wait => None,
            Todo::Create => Some(None),
            Todo::Take(seen) | Todo::Renew(seen) => Some(Some(seen)),
        };
        if let Some(over) = over {
            // Refused because another wrote first; written, and the answer lost; written.
            let fate = self.dice.below(100);
            if fate > 0 {
                let now = self.now;
                let kube = &mut self.etcds[cluster].kube;
                kube.version += 1;
                let changes = over.as_ref().is_none_or(|seen| seen.holder != me);
                let before = over.as_ref().map_or(0, |seen| seen.transitions);
                kube.lease = Some(Seen {
                    holder: me.clone(),
                    renewed: now.as_millis().to_string(),
                    transitions: before + u64::from(changes),
                    version: kube.version.to_string(),
                });
                if changes {
                    self.coverage.remedy("lease-taken");
                    self.say(number, || "holds the Lease".to_owned());
                    self.heal_point(number);
                }
            }
            if fate > 1 {
                memory.written(clock);
                return Known::Yes(Holder { id: me, until: memory.until() });
            }
            memory.lost();
            self.coverage.remedy("lease-write-lost");
        }
        match memory.holder() {
            Some(holder) => Known::Yes(Holder { id: holder.to_owned(), until: memory.until() }),
            None => Known::Absent,
        }
    }

    /// What a direct question to an address brings now.
    pub fn reach(&self, from: u8, at: IpAddr) -> Reach {
        let there = |m: &&crate::machine::Machine| !m.gone && m.up && address(m.at) == at;
        let Some(machine) = self.machines.iter().find(there) else { return Reach::Silent };
        if machine.paused.is_some() || !self.linked(from, machine.number) {
            return Reach::Silent;
        }
        let serves = matches!(machine.disk.data, Data::Server { .. });
        match &machine.k3s {
            Some(k3s) if serves && !k3s.hangs && self.now >= k3s.ready => Reach::Answers,
            Some(k3s) if serves && k3s.hangs => Reach::Silent,
            _ => Reach::Refuses,
        }
    }
}

fn is_calm(found: &Found, target: usize) -> bool {
    let Known::Yes(nodes) = &found.nodes else { return false };
    let well = |node: &NodeSeen| {
        node.ready == Known::Yes(true) && node.order.is_none() && !node.cordoned && !node.deleting
    };
    found.lease.yes().is_some()
        && nodes.iter().filter(|node| node.server).count() == target
        && nodes.iter().all(well)
        && found.reach.values().all(|reach| *reach == Reach::Answers)
}
