//! One machine's door to the simulated world: the same trait that the real world implements.

use std::collections::BTreeMap;
use std::time::Duration;

use muster::core::{ClusterId, Known, Why};
use muster::decide::{Act, Binary, HostSeen, K3sSeen, K3sWanted, MemberSeen, Observed, UnitSeen};
use muster::engine::{ClaimInput, Outcome, Report, World as Door};
use muster::ledger::{Data, Record};

use crate::machine::{Disk, name};
use crate::world::World;

/// The door of one machine.
pub struct One<'a> {
    /// The world.
    pub world: &'a mut World,
    /// Which machine.
    pub number: u8,
    /// Set when the machine lost power in the middle of a tick.
    pub crashed: bool,
}

impl One<'_> {
    /// Counts an effect; true when the machine has just lost power, so that nothing more happens.
    fn effect(&mut self) -> bool {
        if self.crashed {
            return true;
        }
        let machine = self.world.machine(self.number);
        match &mut machine.crash_in {
            Some(0) => {
                self.crashed = true;
                self.world.stop(self.number);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

/// The gate's word: local facts only.
pub fn gate(world: &mut World, number: u8) -> bool {
    let machine = world.machine(number);
    match (&machine.record.data, &machine.disk, &machine.config) {
        (Data::Provisional { .. }, _, Some(K3sWanted::Provisional)) => true,
        (Data::Provisional { .. }, Disk::Server { .. }, Some(_)) => true,
        (
            Data::Joining { .. } | Data::Member { .. },
            Disk::Empty,
            Some(K3sWanted::InCluster { server, .. }),
        ) => server.is_some(),
        (Data::Joining { .. } | Data::Member { .. }, Disk::Server { .. } | Disk::Agent { .. }, Some(_)) => {
            true
        }
        _ => false,
    }
}

impl Door for One<'_> {
    async fn observe(&mut self) -> Observed {
        let fresh_cluster = ClusterId::from_digest(&self.world.dice.bytes());
        let dice = self.world.dice.next();
        let now = self.world.now;
        let number = self.number;
        let k3s = k3s_seen(self.world, number);
        let machine = self.world.machine(number);
        let watch = machine.watcher.look(now, &machine.view, &machine.record, dice);
        let recent = |at: &Duration| now.saturating_sub(*at) < Duration::from_secs(5);
        Observed {
            now,
            fresh_cluster,
            node: machine.node.clone(),
            record: machine.record.clone(),
            annul: machine.annul.clone(),
            host: HostSeen { prepared: true, ..HostSeen::default() },
            peers: machine.view.clone(),
            watch,
            checks: machine
                .checks
                .iter()
                .filter(|(_, (at, _))| recent(at))
                .map(|(a, (_, k))| (*a, k.clone()))
                .collect(),
            members: match &machine.members {
                Some((at, members)) if recent(at) => Known::Yes(members.clone()),
                _ => Known::unknown("members", "not asked lately"),
            },
            api: BTreeMap::new(),
            k3s,
        }
    }

    async fn holds(&mut self, _act: &Act, _seen: &Observed) -> Known<bool> {
        Known::Yes(true)
    }

    async fn commit(&mut self, record: Record) -> Result<(), Why> {
        // A crash may fall before the write, or after it and before anything is said.
        if self.effect() {
            return Err(Why::new("power-cut", "", ""));
        }
        self.world.machine(self.number).record = record;
        if self.effect() {
            return Err(Why::new("power-cut", "", ""));
        }
        Ok(())
    }

    async fn publish(&mut self, input: ClaimInput) {
        if self.effect() {
            return;
        }
        let machine = self.world.machine(self.number);
        let mut claim = input.claim;
        if let Some(last) = &machine.claim {
            claim.counter = last.counter;
            claim.generation = last.generation;
        }
        if machine.claim.as_ref() != Some(&claim) {
            claim.counter += 1;
            machine.node.counter = claim.counter;
            machine.claim = Some(claim);
        }
    }

    async fn perform(&mut self, act: Act) -> Outcome {
        if self.effect() {
            return Outcome::Failed("power cut".to_owned());
        }
        let now = self.world.now;
        let number = self.number;
        match act {
            Act::PrepareHost | Act::FetchK3s => {}
            Act::Check { address } => {
                let served = match self.world.cluster_at(number, address) {
                    Some(cluster) => Known::Yes(self.world.etcds[cluster].ca.clone()),
                    None => Known::Absent,
                };
                self.world.machine(number).checks.insert(address, (now, served));
            }
            Act::AskMembers { address, .. } => {
                if let Some(cluster) = self.world.cluster_at(number, address) {
                    let members = members(self.world, cluster);
                    self.world.machine(number).members = Some((now, members));
                }
            }
            Act::Configure { wanted } => self.world.machine(number).config = Some(wanted),
            Act::Start { .. } => self.world.start_k3s(number),
            Act::Enable { .. } => self.world.machine(number).enabled = true,
            Act::Discard { .. } => {
                let machine = self.world.machine(number);
                machine.k3s = None;
                machine.disk = Disk::Empty;
                machine.config = None;
                machine.enabled = false;
            }
            Act::RemoveNode { name: gone, seen_dead, .. } => {
                let Disk::Server { cluster, .. } = self.world.machine(number).disk else {
                    return Outcome::AlreadySo;
                };
                let dead = |member: &(u64, u8, bool)| {
                    name(member.1) != gone || !self.world.member_up(member.1, cluster)
                };
                let proven = seen_dead || self.world.etcds[cluster].members.iter().all(dead);
                if proven && self.world.quorate(number, cluster) {
                    self.world.etcds[cluster].members.retain(|member| name(member.1) != gone);
                }
            }
        }
        if self.effect() { Outcome::Failed("power cut".to_owned()) } else { Outcome::Done }
    }

    async fn report(&mut self, _seen: &Observed, _report: &Report) {}

    async fn wait(&mut self, _at_most: Duration) {}
}

fn members(world: &World, cluster: usize) -> Vec<MemberSeen> {
    let list = world.etcds[cluster].members.iter();
    list.map(|(_, machine, learner)| MemberSeen {
        node: name(*machine),
        learner: *learner,
        address: Some(crate::machine::address(*machine)),
    })
    .collect()
}

fn k3s_seen(world: &mut World, number: u8) -> K3sSeen {
    let machine = &world.machines[usize::from(number) - 1];
    let (server, agent) =
        (matches!(machine.disk, Disk::Server { .. }), matches!(machine.disk, Disk::Agent { .. }));
    let there = |yes: bool| if yes { Known::Yes(()) } else { Known::Absent };
    let mut seen = K3sSeen {
        binary: Binary::Ready,
        server_unit: Known::Yes(UnitSeen::Inactive),
        agent_unit: Known::Yes(UnitSeen::Inactive),
        server_data: there(server),
        agent_data: there(agent),
        disk_ca: Known::Absent,
        served_ca: Known::Absent,
        voter: Known::Absent,
        members: Known::Absent,
        api: Known::Absent,
        ready: Known::Absent,
        configuration: there(machine.config.is_some()),
        configured_server: match &machine.config {
            Some(K3sWanted::InCluster { server: Some(server), .. }) => Known::Yes(*server),
            _ => Known::Absent,
        },
        trouble: Vec::new(),
    };
    match machine.disk {
        Disk::Server { cluster, member } => {
            let ca = world.etcds[cluster].ca.clone();
            seen.disk_ca = Known::Yes(ca.clone());
            if machine.k3s.is_some() {
                let up = world.member_up(number, cluster);
                let listed = world.etcds[cluster].members.iter().find(|m| m.0 == member);
                let voter = up && world.quorate(number, cluster) && listed.is_some_and(|m| !m.2);
                seen.served_ca = Known::Yes(ca);
                seen.server_unit = Known::Yes(if voter { UnitSeen::Active } else { UnitSeen::Starting });
                seen.voter = Known::Yes(voter);
                seen.api = Known::Yes(voter);
                seen.ready = Known::Yes(voter);
                if voter {
                    seen.members = Known::Yes(members(world, cluster));
                }
            }
        }
        Disk::Agent { cluster } if machine.k3s.is_some() => {
            let served = world.etcds[cluster].members.iter().any(|m| {
                world.linked(number, m.1) && world.member_up(m.1, cluster) && world.quorate(m.1, cluster)
            });
            seen.agent_unit = Known::Yes(if served { UnitSeen::Active } else { UnitSeen::Starting });
            seen.ready = Known::Yes(served);
        }
        Disk::Agent { .. } | Disk::Empty => {}
    }
    seen
}
