//! The group: virtual time, a network that loses and parts, etcd clusters, and the faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster::config::Settings;
use muster::core::{CaHash, NodeId, Phase};
use muster::engine::{Watcher, tick};
use muster::gossip::{Peer, PeerView};
use muster::ledger::{Data, Record};

use crate::dice::Dice;
use crate::machine::{Disk, Machine, address, name};
use crate::one::One;

/// An etcd cluster, as it truly is.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// Its CA.
    pub ca: CaHash,
    /// Members: number, machine, whether it is still a learner.
    pub members: Vec<(u64, u8, bool)>,
    /// Since when its learner makes no progress.
    pub stalled: Option<Duration>,
}

/// A learner without progress for this long is removed by the etcd leader, as in k3s.
const STALLED: Duration = Duration::from_secs(300);

/// A violated promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// The whole world.
pub struct World {
    /// Virtual time since the start.
    pub now: Duration,
    /// Chance.
    pub dice: Dice,
    /// The machines.
    pub machines: Vec<Machine>,
    /// Each machine's settings.
    pub settings: Vec<Settings>,
    /// Groups that hear each other, while the network is parted.
    pub parts: Option<Vec<BTreeSet<u8>>>,
    /// Loss of claims, per mille.
    pub loss: u64,
    /// All etcd clusters that ever were.
    pub etcds: Vec<Etcd>,
    /// Certificates ever stored anywhere, by era.
    pub stored: BTreeMap<u64, BTreeSet<String>>,
    /// The story.
    pub story: Vec<String>,
    /// Whether the story is kept.
    pub tell: bool,
    /// How often each rule spoke.
    pub rules: BTreeMap<String, u64>,
    /// How often each phase was entered.
    pub phases: BTreeMap<Phase, u64>,
    /// The first violation.
    pub violation: Option<Violation>,
    next_member: u64,
}

impl World {
    /// A group of bare machines, none switched on.
    pub fn new(seed: u64, settings: Vec<Settings>, tell: bool) -> Self {
        let mut world = Self {
            now: Duration::from_secs(10),
            dice: Dice::new(seed),
            machines: Vec::new(),
            settings,
            parts: None,
            loss: 0,
            etcds: Vec::new(),
            stored: BTreeMap::new(),
            story: Vec::new(),
            tell,
            rules: BTreeMap::new(),
            phases: BTreeMap::new(),
            violation: None,
            next_member: 1,
        };
        for number in 1..=u8::try_from(world.settings.len()).unwrap_or(u8::MAX) {
            let machine = world.bare(number);
            world.machines.push(machine);
        }
        world
    }

    fn bare(&mut self, number: u8) -> Machine {
        let cluster = self.settings[usize::from(number) - 1].cluster.clone();
        Machine {
            number,
            up: false,
            node: muster::decide::NodeFacts {
                id: NodeId::from_digest(&self.dice.bytes()),
                name: name(number),
                address: address(number),
                generation: 0,
                counter: 0,
                fitness: 2,
            },
            record: Record::new(&cluster),
            disk: Disk::Empty,
            config: None,
            enabled: false,
            k3s: None,
            claim: None,
            view: PeerView::default(),
            heard: BTreeMap::new(),
            checks: BTreeMap::new(),
            members: None,
            watcher: Watcher::new(self.now),
            next: self.now,
            phase: None,
            why: Vec::new(),
            annul: None,
            crash_in: None,
        }
    }

    /// Adds a line to the story.
    pub fn say(&mut self, number: u8, text: impl FnOnce() -> String) {
        if self.tell {
            let line = format!("{:9.3} {} {}", self.now.as_secs_f64(), name(number), text());
            self.story.push(line);
        }
    }

    /// The machine of a number.
    pub fn machine(&mut self, number: u8) -> &mut Machine {
        &mut self.machines[usize::from(number) - 1]
    }

    /// Whether two machines hear each other.
    pub fn linked(&self, a: u8, b: u8) -> bool {
        let up = |n: u8| self.machines[usize::from(n) - 1].up;
        let together = |part: &BTreeSet<u8>| part.contains(&a) == part.contains(&b);
        up(a) && up(b) && (a == b || self.parts.as_ref().is_none_or(|parts| parts.iter().all(together)))
    }

    /// Switches a machine on: the agent starts with what is on disk.
    pub fn start(&mut self, number: u8) {
        let now = self.now;
        let machine = self.machine(number);
        if machine.up {
            return;
        }
        machine.up = true;
        machine.record.generation += 1;
        machine.node.generation = machine.record.generation;
        machine.node.counter = 0;
        machine.claim = None;
        machine.view = PeerView::default();
        machine.heard.clear();
        machine.checks.clear();
        machine.members = None;
        machine.watcher = Watcher::new(now);
        machine.next = now;
        machine.crash_in = None;
        let enabled = machine.enabled;
        self.say(number, || "is switched on".to_owned());
        if enabled {
            self.start_k3s(number);
        }
    }

    /// Cuts the power.
    pub fn stop(&mut self, number: u8) {
        let machine = self.machine(number);
        machine.up = false;
        machine.k3s = None;
        self.say(number, || "loses power".to_owned());
    }

    /// Reimages a machine that is off: a bare disk, and so a new identity.
    pub fn wipe(&mut self, number: u8) {
        let machine = self.bare(number);
        *self.machine(number) = machine;
        self.say(number, || "is reimaged".to_owned());
    }

    /// Delivers claims and runs the agents that are due, one step of virtual time.
    pub fn step(&mut self, by: Duration) {
        self.now += by;
        self.gossip();
        self.etcd();
        for number in 1..=u8::try_from(self.machines.len()).unwrap_or(u8::MAX) {
            let now = self.now;
            let machine = self.machine(number);
            if machine.up && machine.next <= now {
                self.tick(number);
            }
            if self.violation.is_some() {
                return;
            }
        }
    }

    fn tick(&mut self, number: u8) {
        let settings = self.settings[usize::from(number) - 1].clone();
        let report = {
            let mut one = One { world: self, number, crashed: false };
            let report = ready(tick(&mut one, &settings));
            if one.crashed { None } else { Some(report) }
        };
        if let Some(report) = report {
            let now = self.now;
            for why in &report.plan.why {
                *self.rules.entry(why.rule.clone()).or_default() += 1;
            }
            let machine = self.machine(number);
            machine.next = now + report.plan.wake.max(Duration::from_millis(50));
            let rules: Vec<String> = report.plan.why.iter().map(|why| why.rule.clone()).collect();
            let changed = machine.phase != Some(report.plan.phase) || machine.why.first() != rules.first();
            let entered = machine.phase != Some(report.plan.phase);
            machine.phase = Some(report.plan.phase);
            machine.why = rules;
            if entered {
                *self.phases.entry(report.plan.phase).or_default() += 1;
            }
            if changed {
                let why = report
                    .plan
                    .why
                    .first()
                    .map_or_else(String::new, |why| format!("{}: {}", why.rule, why.detail));
                let phase = report.plan.phase;
                self.say(number, || format!("{phase}: {why}"));
            }
        }
        self.check_invariants();
    }

    fn gossip(&mut self) {
        let numbers: Vec<u8> = self.machines.iter().map(|machine| machine.number).collect();
        for &from in &numbers {
            for &to in &numbers {
                if from == to
                    || !self.linked(from, to)
                    || self.dice.chance(self.loss)
                    || !self.dice.chance(400)
                {
                    continue;
                }
                let Some(claim) = self.machine(from).claim.clone() else { continue };
                let parameters = self.settings[usize::from(from) - 1].parameters();
                let now = self.now;
                let receiver = self.machine(to);
                receiver.heard.insert(claim.owner.clone(), now);
                let changed = receiver
                    .view
                    .peers
                    .get(&claim.owner)
                    .is_none_or(|peer| peer.claim != claim || !peer.live);
                if changed {
                    receiver.next = now;
                    let gossip_address = std::net::SocketAddr::new(claim.address, 7846);
                    let peer = Peer { claim, parameters: Some(parameters), live: true, gossip_address };
                    receiver.view.peers.insert(peer.claim.owner.clone(), peer);
                }
            }
        }
        let now = self.now;
        for machine in self.machines.iter_mut().filter(|machine| machine.up) {
            for (id, peer) in &mut machine.view.peers {
                let silent =
                    machine.heard.get(id).is_none_or(|at| now.saturating_sub(*at) > Duration::from_secs(6));
                if silent && peer.live {
                    peer.live = false;
                    machine.next = now;
                }
            }
        }
    }

    /// Whether a member of an etcd cluster runs and has had its time to start.
    pub fn member_up(&self, number: u8, cluster: usize) -> bool {
        let machine = &self.machines[usize::from(number) - 1];
        let own = matches!(machine.disk, Disk::Server { cluster: on_disk, .. } if on_disk == cluster);
        machine.up
            && own
            && machine.k3s.as_ref().is_some_and(|k3s| !k3s.hangs && self.now >= k3s.since + k3s.slow)
    }

    /// Whether a member sees a majority of the voters.
    pub fn quorate(&self, number: u8, cluster: usize) -> bool {
        let voters: Vec<u8> = self.etcds[cluster].members.iter().filter(|m| !m.2).map(|m| m.1).collect();
        let seen = voters.iter().filter(|v| self.linked(number, **v) && self.member_up(**v, cluster)).count();
        2 * seen > voters.len()
    }

    fn etcd(&mut self) {
        for cluster in 0..self.etcds.len() {
            let learner = self.etcds[cluster].members.iter().position(|member| member.2);
            if let Some(at) = learner {
                let number = self.etcds[cluster].members[at].1;
                let member = self.etcds[cluster].members[at].0;
                let own = self.machine(number).disk == Disk::Server { cluster, member };
                let progress = own && self.member_up(number, cluster) && self.quorate(number, cluster);
                let now = self.now;
                if progress {
                    self.etcds[cluster].stalled = None;
                } else if now.saturating_sub(*self.etcds[cluster].stalled.get_or_insert(now)) > STALLED {
                    self.etcds[cluster].stalled = None;
                    self.etcds[cluster].members.remove(at);
                    self.say(number, || "its stalled learner is removed by the leader".to_owned());
                    continue;
                }
                if progress && self.dice.chance(300) {
                    self.etcds[cluster].members[at].2 = false;
                    self.machine(number).next = self.now;
                }
            }
        }
    }

    /// Starts k3s with what is configured, as k3s itself would decide on this disk.
    pub fn start_k3s(&mut self, number: u8) {
        use muster::decide::K3sWanted;
        use muster::gossip::Role;
        if !crate::one::gate(self, number) {
            return;
        }
        let slow = Duration::from_millis(300 + self.dice.below(3_000));
        let hangs = false;
        let since = self.now;
        let fresh = CaHash::from_digest(&self.dice.bytes());
        let (disk, config) = {
            let machine = self.machine(number);
            (machine.disk.clone(), machine.config.clone())
        };
        let member = self.next_member;
        let placed = match (disk, config) {
            (Disk::Server { .. } | Disk::Agent { .. }, Some(_)) => true,
            (Disk::Empty, Some(K3sWanted::Provisional)) => {
                self.next_member += 1;
                self.etcds.push(Etcd { ca: fresh, members: vec![(member, number, false)], stalled: None });
                let cluster = self.etcds.len() - 1;
                self.machine(number).disk = Disk::Server { cluster, member };
                true
            }
            (Disk::Empty, Some(K3sWanted::InCluster { role: Role::Server, server: None, .. })) => {
                self.etcds.push(Etcd { ca: fresh, members: vec![(0, number, false)], stalled: None });
                self.violation = Some(Violation(format!("{} started a lone cluster", name(number))));
                true
            }
            (Disk::Empty, Some(K3sWanted::InCluster { role, server: Some(server), ca })) => {
                let through = self.cluster_at(number, server);
                match through {
                    Some(cluster) if self.etcds[cluster].ca == ca => {
                        if role == Role::Agent {
                            self.machine(number).disk = Disk::Agent { cluster };
                            true
                        } else if self.etcds[cluster].members.iter().any(|m| m.2 || m.1 == number) {
                            false
                        } else {
                            self.next_member += 1;
                            self.etcds[cluster].members.push((member, number, true));
                            self.machine(number).disk = Disk::Server { cluster, member };
                            true
                        }
                    }
                    _ => false,
                }
            }
            (_, None) => false,
            (Disk::Empty, Some(K3sWanted::InCluster { role: Role::Undecided | Role::Agent, .. })) => false,
        };
        if placed {
            self.machine(number).k3s = Some(Running { since, slow, hangs });
            self.say(number, || "k3s starts".to_owned());
        }
    }

    /// The etcd cluster whose supervisor answers at an address, as seen from a machine.
    pub fn cluster_at(&self, from: u8, at: std::net::IpAddr) -> Option<usize> {
        let machine = self.machines.iter().find(|machine| machine.node.address == at)?;
        let Disk::Server { cluster, .. } = machine.disk else { return None };
        (self.linked(from, machine.number) && machine.k3s.as_ref().is_some_and(|k3s| !k3s.hangs))
            .then_some(cluster)
    }

    fn check_invariants(&mut self) {
        for machine in &self.machines {
            if let Some(certificate) = &machine.record.certificate {
                self.stored.entry(certificate.era).or_default().insert(certificate.cluster_id.to_string());
            }
        }
        let mut broken = None;
        for (era, ids) in &self.stored {
            if ids.len() > 1 {
                broken = Some(format!("{} certificates in era {era}", ids.len()));
            }
        }
        let mut clusters = BTreeSet::new();
        for machine in &self.machines {
            let member = matches!(machine.record.data, Data::Member { .. });
            if let (true, Disk::Server { cluster, .. } | Disk::Agent { cluster }) = (member, &machine.disk) {
                clusters.insert((machine.record.era, *cluster));
                let certified = machine.record.certificate.as_ref().map(|c| &c.ca_hash);
                if certified != Some(&self.etcds[*cluster].ca) {
                    broken =
                        Some(format!("{} serves a cluster without its certificate", name(machine.number)));
                }
            }
        }
        let eras: BTreeSet<u64> = clusters.iter().map(|(era, _)| *era).collect();
        if clusters.len() > eras.len() {
            broken = Some("two clusters have members in one era".to_owned());
        }
        for machine in &self.machines {
            // Once a certificate is known, only its founder may still be configured to found.
            let other = machine.record.certificate.as_ref().is_some_and(|c| c.founder != machine.node.id);
            let given_up = !matches!(machine.record.data, Data::Discarding { .. });
            if other && given_up && machine.config == Some(muster::decide::K3sWanted::Provisional) {
                broken = Some(format!("{} is armed beside the cluster there is", name(machine.number)));
            }
        }
        for etcd in &self.etcds {
            // Nobody may be a member beside the founder of a cluster that was not chosen.
            if etcd.members.len() > 1 && !self.certified(&etcd.ca) {
                broken = Some("a cluster that was not chosen was joined".to_owned());
            }
        }
        if self.violation.is_none() {
            self.violation = broken.map(Violation);
        }
    }

    fn certified(&self, ca: &CaHash) -> bool {
        self.machines.iter().any(|m| m.record.certificate.as_ref().is_some_and(|c| c.ca_hash == *ca))
            || self.stored.values().any(|ids| !ids.is_empty())
    }

    /// Whether the chosen cluster has lost its majority for good: more than half of its voters' disks are gone. Nothing may
    /// repair that by itself.
    pub fn lost_quorum(&self) -> bool {
        self.etcds.iter().enumerate().any(|(at, etcd)| {
            let voters: Vec<_> = etcd.members.iter().filter(|member| !member.2).collect();
            let kept = voters.iter().filter(|(member, number, _)| {
                self.machines[usize::from(*number) - 1].disk == Disk::Server { cluster: at, member: *member }
            });
            self.machines.iter().any(|m| m.record.certificate.as_ref().is_some_and(|c| c.ca_hash == etcd.ca))
                && 2 * kept.count() <= voters.len()
        })
    }

    /// Whether somebody waits, by name, for a founder whose disk is gone for good: only an operator's word ends that.
    pub fn founder_gone(&self) -> bool {
        let here: BTreeSet<&NodeId> = self.machines.iter().map(|machine| &machine.node.id).collect();
        let silent = ["founder-silent", "voted-founder-silent", "name-held", "no-server-live"];
        self.machines.iter().any(|machine| {
            let votes = machine.record.register.accepted.as_ref().map(|accepted| &accepted.certificate);
            let named = machine.record.certificate.as_ref().or(votes);
            named.is_some_and(|c| !here.contains(&c.founder))
                && machine.why.iter().any(|why| silent.contains(&why.as_str()))
        })
    }

    /// Gives the operator's word on the first machine.
    pub fn annul(&mut self) {
        let era = self.machines.iter().map(|machine| machine.record.era).max().unwrap_or(1);
        let request = muster::decide::AnnulRequest { era, reason: "its founder's disk is gone".to_owned() };
        for machine in &mut self.machines {
            machine.annul = Some(request.clone());
            machine.next = self.now;
        }
        self.say(1, || format!("the operator annuls era {era}"));
    }

    /// Whether every machine that is on serves, or is parked with a reason.
    pub fn at_rest(&self) -> bool {
        self.machines.iter().filter(|machine| machine.up).all(|machine| {
            matches!(machine.phase, Some(Phase::Serving | Phase::Parked)) && !machine.why.is_empty()
        })
    }
}

pub use crate::machine::Running;

/// Runs a future that never waits: the in-memory world answers at once.
fn ready<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
