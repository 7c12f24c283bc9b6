//! One machine's door to the simulated world: the same trait that the real world implements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster::core::{ClusterId, Known, Why};
use muster::decide::{Act, DiscoverySeen, HostSeen, K3sWanted, NodeFacts, Observed};
use muster::engine::{ClaimInput, Outcome, Report, World as Door};
use muster::gossip::Role;
use muster::ledger::{Data as Kept, Record};

use crate::control::Control;
use crate::machine::{Data, Token, Writes};
use crate::world::World;

/// Answers of other machines count this long.
const RECENT: Duration = Duration::from_secs(5);

/// The door of one machine.
pub struct One<'a> {
    /// The world.
    pub world: &'a mut World,
    /// Which machine.
    pub number: u8,
    /// Set when the agent ended in the middle of a tick.
    pub crashed: bool,
}

impl One<'_> {
    /// Counts an effect, after which everything must hold; true when the agent has just ended, so that nothing more happens.
    pub fn effect(&mut self) -> bool {
        if !self.crashed {
            self.world.check_invariants();
            self.crashed = self.world.crash_is_due(self.number);
        }
        self.crashed
    }

    fn refused(&self, changes_files: bool) -> Option<Outcome> {
        let machine = &self.world.machines[usize::from(self.number) - 1];
        let cause = match machine.writes {
            Writes::Succeed => return None,
            Writes::Full if changes_files => "no space left on device",
            Writes::Full => return None,
            Writes::ReadOnly => "read-only file system",
            Writes::Fail | Writes::FailLate => "input/output error",
        };
        Some(Outcome::Failed(cause.to_owned()))
    }

    fn configure(&mut self, wanted: K3sWanted) -> Outcome {
        let agent_alone = matches!(&wanted, K3sWanted::InCluster { role: Role::Agent, server: None, .. });
        let armed = self.world.control == Control::NoDisarm
            && self.world.machine(self.number).disk.config == Some(K3sWanted::Provisional)
            && wanted != K3sWanted::Provisional;
        // An agent keeps its file while no server is known.
        if agent_alone || armed {
            return Outcome::AlreadySo;
        }
        let token = match &wanted {
            K3sWanted::Provisional => Token::Password,
            K3sWanted::InCluster { role: Role::Agent, ca, .. } => Token::Pinned(ca.clone(), "node"),
            K3sWanted::InCluster { ca, .. } => Token::Pinned(ca.clone(), "server"),
        };
        let disk = &self.world.machine(self.number).disk;
        if disk.token.as_ref() == Some(&token) && disk.config.as_ref() == Some(&wanted) {
            return Outcome::AlreadySo;
        }
        if let Some(failed) = self.refused(true) {
            return failed;
        }
        // Two files, one after the other.
        self.world.machine(self.number).disk.token = Some(token);
        if !self.effect() {
            self.world.machine(self.number).disk.config = Some(wanted);
        }
        Outcome::Done
    }

    /// In the order of the agent: the configuration, the unit, the data.
    fn discard(&mut self) -> Outcome {
        if let Some(failed) = self.refused(false) {
            return failed;
        }
        if self.world.control == Control::NoDiscard {
            let machine = self.world.machine(self.number);
            let record = Record { data: Kept::None, ..Record::clone(&machine.record) };
            machine.record = Arc::new(record);
            machine.disk.record = Arc::clone(&machine.record);
            return Outcome::Done;
        }
        self.world.machine(self.number).disk.config = None;
        if self.effect() {
            return Outcome::Done;
        }
        let machine = self.world.machine(self.number);
        machine.k3s = None;
        machine.k3s_again = None;
        machine.disk.enabled = false;
        if self.effect() {
            return Outcome::Done;
        }
        let machine = self.world.machine(self.number);
        machine.disk.data = Data::Empty;
        machine.disk.token = None;
        machine.disk.tombstone = false;
        machine.disk.password = None;
        Outcome::Done
    }

    fn remove_node(&mut self, gone: &str, seen_dead: bool) -> Outcome {
        let number = self.number;
        let Data::Server { cluster, .. } = self.world.machine(number).disk.data else {
            return Outcome::AlreadySo;
        };
        let world = &*self.world;
        let named = |member: &crate::k3s::Member| world.machines[usize::from(member.number) - 1].name == gone;
        let up = world.etcds[cluster].members.iter().any(|m| named(m) && world.member_up(m.number, cluster));
        if (seen_dead || !up) && world.quorate(number, cluster) {
            let kept: Vec<_> =
                world.etcds[cluster].members.iter().filter(|member| !named(member)).cloned().collect();
            self.world.etcds[cluster].members = kept;
        }
        Outcome::Done
    }
}

impl Door for One<'_> {
    async fn observe(&mut self) -> Observed {
        let world = &mut *self.world;
        let fresh_cluster = ClusterId::from_digest(&world.dice.bytes());
        let dice = world.dice.next();
        let now = world.clock(self.number);
        let shared = Arc::clone(&world.parameters);
        let k3s = world.k3s_looked_at(self.number);
        let no_check = world.control == Control::NoLiveCheck;
        let machine = &mut world.machines[usize::from(self.number) - 1];
        let id = world.identities[usize::from(machine.disk.identity)].clone();
        if world.decision.quorate.is_none() {
            let may = |peer: &&muster::gossip::Peer| peer.live && peer.claim.eligible;
            let others = machine.ears.view.peers.values().filter(may).count();
            if others + 1 >= world.settings[usize::from(self.number) - 1].founders {
                world.decision.quorate = Some(world.now);
            }
        }
        let watch =
            machine.watcher.look(now, &machine.ears.view, &machine.record, &k3s, &k3s.server_data, dice);
        let recent = |at: &Duration| now.saturating_sub(*at) < RECENT;
        let mut checks: BTreeMap<_, _> = machine
            .checks
            .iter()
            .filter(|(_, at, _)| recent(at))
            .map(|(address, _, served)| (*address, served.clone()))
            .collect();
        if no_check {
            let proposals = machine.ears.view.peers.values().filter_map(|peer| peer.claim.proposal.as_ref());
            for certificate in proposals.filter_map(|proposal| proposal.certificate.as_ref()) {
                checks.insert(certificate.founder_address, Known::Yes(certificate.ca_hash.clone()));
            }
        }
        let mut seen = Observed {
            now,
            fresh_cluster,
            node: NodeFacts {
                id,
                name: machine.name.clone(),
                address: machine.address(),
                generation: machine.record.generation,
                counter: machine.counter,
                fitness: 2,
            },
            record: Arc::clone(&machine.record),
            annul: machine.annul.clone(),
            host: HostSeen { prepared: true, ..HostSeen::default() },
            peers: Arc::clone(&machine.ears.view),
            shared,
            watch,
            checks,
            members: match &machine.members {
                Some((at, members)) if recent(at) => Known::Yes(members.clone()),
                _ => Known::unknown("members", "not asked lately"),
            },
            api: BTreeMap::new(),
            k3s,
            heal: Arc::clone(&world.no_healing),
            discovery: DiscoverySeen::default(),
        };
        if self.world.heals.is_some() {
            self.look_at_healing(&mut seen);
        }
        seen
    }

    async fn holds(&mut self, act: &Act, seen: &Observed) -> Known<bool> {
        if self.world.heals.is_some()
            && let Some(word) = self.guard_healing(act, seen)
        {
            return word;
        }
        let machine = &self.world.machines[usize::from(self.number) - 1];
        let data = &machine.record.data;
        Known::Yes(match act {
            Act::Discard { .. } => matches!(data, Kept::Discarding { .. }),
            Act::Stop { role } => match data {
                Kept::Joining { .. } => true,
                Kept::Member { role: own, .. } => own == role && *own == Role::Agent,
                _ => false,
            },
            Act::Configure { wanted: K3sWanted::Provisional } => matches!(data, Kept::Provisional { .. }),
            Act::Start { .. } => !matches!(data, Kept::None | Kept::Discarding { .. }),
            Act::RemoveNode { name, address, .. } => *name != machine.name && *address != machine.address(),
            _ => true,
        })
    }

    async fn commit(&mut self, mut record: Record) -> Result<(), Why> {
        // A crash may fall before the write, or after it and before anything is said.
        if self.heal_point(false) || self.effect() {
            return Err(Why::new("power-cut", "", ""));
        }
        let fails = self.world.dice.chance(500);
        let number = self.number;
        let machine = self.world.machine(number);
        record.generation = record.generation.max(machine.record.generation);
        record.ballot_counter = record.ballot_counter.max(machine.record.ballot_counter);
        let cause = match machine.writes {
            Writes::Full => Some("no space left on device"),
            Writes::ReadOnly => Some("read-only file system"),
            Writes::Fail if fails => Some("input/output error"),
            Writes::FailLate if fails => {
                // The rename was done, the directory could not be synced: a restart may find the new content.
                machine.disk.record = Arc::new(record.clone());
                Some("input/output error after the rename")
            }
            Writes::Succeed | Writes::Fail | Writes::FailLate => None,
        };
        if let Some(cause) = cause {
            self.world.coverage.fault("ledger-write-failed");
            self.world.say(number, || format!("cannot write its ledger: {cause}"));
            return Err(Why::new("ledger-unwritable", cause, ""));
        }
        if self.world.control == Control::PublishedFirst {
            let now = self.world.now;
            let machine = self.world.machine(number);
            let before = machine.unsynced.take().filter(|(until, _)| now < *until).map(|(_, before)| before);
            let before = before.unwrap_or_else(|| Arc::clone(&machine.disk.record));
            machine.unsynced = Some((now + Duration::from_secs(5), before));
        }
        let record = Arc::new(record);
        let machine = self.world.machine(number);
        machine.disk.record = Arc::clone(&record);
        machine.record = record;
        self.world.durable(number);
        if self.heal_point(false) || self.effect() { Err(Why::new("power-cut", "", "")) } else { Ok(()) }
    }

    async fn publish(&mut self, input: ClaimInput) {
        if self.effect() {
            return;
        }
        let number = self.number;
        let machine = self.world.machine(number);
        let mut claim = input.claim;
        claim.generation = machine.record.generation;
        let last = machine.ears.said.last().filter(|said| said.claim.generation == claim.generation);
        claim.counter = last.map_or(0, |said| said.claim.counter);
        if last.is_some_and(|said| *said.claim == claim) {
            return;
        }
        claim.counter += 1;
        self.world.spoken(number, &claim);
        self.world.say_claim(number, claim);
    }

    async fn perform(&mut self, act: Act) -> Outcome {
        let heals = matches!(act, Act::Heal { .. } | Act::RemoveNode { .. });
        if self.heal_point(heals) || self.effect() {
            return Outcome::Failed("power cut".to_owned());
        }
        // What only asks, or is so already, leaves the last look at k3s as it is.
        let asks = matches!(act, Act::Check { .. } | Act::AskMembers { .. } | Act::Enable { .. });
        let number = self.number;
        let clock = self.world.clock(number);
        let outcome = match act {
            Act::PrepareHost | Act::FetchK3s => Outcome::Done,
            Act::Check { address } => {
                let served = match self.world.cluster_at(number, address) {
                    Some(cluster) => Known::Yes(self.world.etcds[cluster].ca.clone()),
                    None => Known::Absent,
                };
                if let Known::Yes(ca) = &served {
                    let voter = self.world.machine(number).voter;
                    self.world.truth.show(voter, ca);
                }
                let checks = &mut self.world.machine(number).checks;
                checks.retain(|(at, _, _)| *at != address);
                checks.push((address, clock, served));
                Outcome::Done
            }
            Act::AskMembers { address, ca } => match self.world.cluster_at(number, address) {
                Some(cluster) if self.world.etcds[cluster].ca == ca => {
                    let members = self.world.members(cluster);
                    self.world.machine(number).members = Some((clock, members));
                    Outcome::Done
                }
                _ => Outcome::Failed("no answer".to_owned()),
            },
            Act::Configure { wanted } => self.configure(wanted),
            Act::Start { .. } => {
                self.world.start_k3s(number);
                Outcome::Done
            }
            Act::Stop { .. } => {
                let machine = self.world.machine(number);
                machine.k3s = None;
                machine.k3s_again = None;
                Outcome::Done
            }
            Act::Enable { .. } => match self.refused(true) {
                Some(failed) if !self.world.machine(number).disk.enabled => failed,
                _ => {
                    self.world.machine(number).disk.enabled = true;
                    Outcome::Done
                }
            },
            Act::Discard { .. } => self.discard(),
            Act::RemoveNode { name, .. } if self.world.heals.is_some() => self.remove_newcomers_node(&name),
            Act::RemoveNode { name, seen_dead, .. } => self.remove_node(&name, seen_dead),
            Act::Retire { .. } => {
                let machine = self.world.machine(number);
                machine.k3s = None;
                machine.k3s_again = None;
                machine.disk.enabled = false;
                Outcome::Done
            }
            Act::Restart { .. } | Act::ResetEtcd { .. } => Outcome::Done,
            Act::Mark => self.mark(),
            Act::Heal { remedy, .. } => self.heal(&remedy),
        };
        if !asks && outcome == Outcome::Done {
            self.world.machine(number).healer.k3s = None;
        }
        let crashed = self.heal_point(heals) || self.effect();
        if crashed { Outcome::Failed("power cut".to_owned()) } else { outcome }
    }

    async fn report(&mut self, _seen: &Observed, _report: &Report) {}

    async fn wait(&mut self, _at_most: Duration) {}
}
