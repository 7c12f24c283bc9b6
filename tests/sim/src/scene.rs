//! What happens to a cluster that serves: one scene after another, each with its name.

use std::collections::BTreeSet;
use std::time::Duration;

use muster::config::Settings;
use muster::heal::LeaveRequest;

use crate::kube::Node;
use crate::machine::{Crash, Data};
use crate::world::World;

/// What a world keeps for healing.
#[derive(Debug, Default)]
pub struct Heals {
    /// The cluster serves: from here on points are counted.
    pub begun: bool,
    /// Points so far, over all machines.
    pub points: u64,
    /// Crash at this point.
    pub crash_at: Option<(u64, Crash)>,
    /// Since when a server is gone for good.
    pub vacant_since: Option<Duration>,
    /// From such a loss to the full number of servers, in milliseconds.
    pub filled_ms: Vec<u64>,
    /// Dead voters removed since a voter was added.
    pub dead_removed: usize,
    /// Members whose removal is counted.
    pub counted: BTreeSet<u64>,
    /// Voters at that time.
    pub voters_then: usize,
    /// When something was last changed by hand.
    pub struck: Duration,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// A server is destroyed for good.
    Killed,
    /// A server is destroyed, and the autoscaler starts a new machine.
    Replaced,
    /// A server is reimaged in its place: another identity, its old name and address.
    Reimaged,
    /// A server is destroyed, and a new machine takes its name at another address.
    Renamed,
    /// A server loses k3s's data alone.
    DataLost,
    /// A machine boots with another address.
    Moved,
    /// A server is off for a while.
    Reboot,
    /// A server is off for longer than the grace, and returns.
    LongOff,
    /// A server's agent is stopped, and one other cannot reach its k3s; the server goes on.
    AgentOff,
    /// A machine stands still.
    Paused,
    /// A machine stands still until long after it was removed.
    PausedLong,
    /// A machine is told to leave.
    Leaves,
    /// A machine is told to leave while another server is down.
    LeavesTooLate,
    /// Another number of servers is wanted.
    Resized,
    /// The network parts.
    Parted,
    /// Some links are cut in one direction.
    OneWay,
    /// A link comes and goes.
    Flapping,
    /// A server's k3s dies.
    K3sDies,
    /// A server's k3s hangs.
    K3sHangs,
    /// An agent's k3s cannot be a server.
    Unfit,
    /// A person deletes the Node of a dead server by force: its member stays.
    NodeForced,
    /// A new machine comes.
    Joins,
    /// The network loses and delays gossip.
    Weather,
    /// Whoever heals next crashes in it.
    HealerCrashes,
}

impl Scene {
    /// All, the frequent ones more than once.
    const DRAWN: &[Scene] = &[
        Scene::Killed,
        Scene::Killed,
        Scene::Killed,
        Scene::Replaced,
        Scene::Replaced,
        Scene::Reimaged,
        Scene::Reimaged,
        Scene::Renamed,
        Scene::DataLost,
        Scene::DataLost,
        Scene::Moved,
        Scene::Reboot,
        Scene::LongOff,
        Scene::AgentOff,
        Scene::Paused,
        Scene::PausedLong,
        Scene::Leaves,
        Scene::Leaves,
        Scene::LeavesTooLate,
        Scene::Resized,
        Scene::Parted,
        Scene::OneWay,
        Scene::Flapping,
        Scene::K3sDies,
        Scene::K3sHangs,
        Scene::Unfit,
        Scene::NodeForced,
        Scene::Joins,
        Scene::Weather,
        Scene::HealerCrashes,
        Scene::HealerCrashes,
        Scene::HealerCrashes,
    ];

    /// Those whose every point is crashed in turn.
    pub const ENUMERATED: &[Scene] = &[
        Scene::Killed,
        Scene::Replaced,
        Scene::Reimaged,
        Scene::DataLost,
        Scene::LongOff,
        Scene::Leaves,
        Scene::Resized,
        Scene::Unfit,
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Scene::Killed => "server-destroyed",
            Scene::Replaced => "server-replaced",
            Scene::Reimaged => "same-name-same-address",
            Scene::Renamed => "same-name-other-address",
            Scene::DataLost => "k3s-data-lost",
            Scene::Moved => "address-changed",
            Scene::Reboot => "server-reboots",
            Scene::LongOff => "server-returns-late",
            Scene::AgentOff => "agent-off-and-unreachable",
            Scene::Paused => "paused",
            Scene::PausedLong => "paused-until-removed",
            Scene::Leaves => "leaves",
            Scene::LeavesTooLate => "leaves-beside-a-dead-server",
            Scene::Resized => "other-number-wanted",
            Scene::Parted => "partition",
            Scene::OneWay => "asymmetric-partition",
            Scene::Flapping => "flapping-link",
            Scene::K3sDies => "k3s-dies",
            Scene::K3sHangs => "k3s-hangs",
            Scene::Unfit => "spare-cannot-serve",
            Scene::NodeForced => "node-deleted-by-force",
            Scene::Joins => "machine-comes",
            Scene::Weather => "weather",
            Scene::HealerCrashes => "healer-crash-planned",
        }
    }
}

impl World {
    /// Voters of the cluster there is, by machine.
    pub fn voters(&self) -> Vec<u8> {
        let voters = |etcd: &crate::k3s::Etcd| {
            etcd.members.iter().filter(|m| !m.learner).map(|m| m.number).collect::<Vec<u8>>()
        };
        self.etcds.iter().map(voters).max_by_key(Vec::len).unwrap_or_default()
    }

    fn one_of(&mut self, numbers: &[u8]) -> Option<u8> {
        let at = self.dice.below(numbers.len() as u64) as usize;
        numbers.get(at).copied()
    }

    fn voter(&mut self) -> Option<u8> {
        let there: Vec<u8> =
            self.voters().into_iter().filter(|n| self.machines[usize::from(*n) - 1].up).collect();
        self.one_of(&there)
    }

    fn agent(&mut self) -> Option<u8> {
        let agents: Vec<u8> = self
            .machines
            .iter()
            .filter(|m| m.up && matches!(m.disk.data, Data::Agent { .. }))
            .map(|m| m.number)
            .collect();
        self.one_of(&agents)
    }

    /// Whether the living voters without this one are still a majority of all.
    fn spares(&self, number: u8) -> bool {
        let voters = self.voters();
        let kept = voters.iter().filter(|n| {
            let machine = &self.machines[usize::from(**n) - 1];
            let listed = |m: &crate::k3s::Member| m.number == **n && m.at == machine.at;
            let data = matches!(machine.disk.data, Data::Server { .. });
            **n != number && !machine.gone && data && self.etcds.iter().any(|e| e.members.iter().any(listed))
        });
        2 * kept.count() > voters.len()
    }

    /// Lets a scene happen; `reckless` may cost the cluster its quorum.
    pub fn play(&mut self, scene: Scene, reckless: bool) {
        let now = self.now;
        let Some(number) = self.voter() else { return };
        let destroys = matches!(
            scene,
            Scene::Killed
                | Scene::Replaced
                | Scene::Reimaged
                | Scene::Renamed
                | Scene::DataLost
                | Scene::Moved
        );
        if destroys && !reckless && !self.spares(number) {
            return;
        }
        self.coverage.fault(scene.word());
        self.say(number, || format!("scene: {}", scene.word()));
        if let Some(heals) = &mut self.heals {
            heals.struck = now;
            if destroys {
                heals.vacant_since.get_or_insert(now);
            }
        }
        match scene {
            Scene::Killed => self.destroy(number),
            Scene::Replaced => {
                self.destroy(number);
                let settings = (*self.settings[usize::from(number) - 1]).clone();
                self.come(settings, None);
            }
            Scene::Renamed => {
                self.destroy(number);
                let settings = (*self.settings[usize::from(number) - 1]).clone();
                let name = self.machine(number).name.clone();
                self.come(settings, Some(name));
            }
            Scene::Reimaged => {
                self.stop(number, Crash::Power);
                self.wipe(number);
                self.back_after(number, 60_000);
            }
            Scene::DataLost => {
                self.stop(number, Crash::Power);
                let disk = &mut self.machine(number).disk;
                disk.data = Data::Empty;
                disk.token = None;
                disk.tombstone = false;
                disk.password = None;
                self.back_after(number, 20_000);
            }
            Scene::Moved => {
                self.stop(number, Crash::Power);
                let at = 100 + self.machines.iter().map(|m| m.at % 100).max().unwrap_or(0) + 1;
                self.machine(number).at = at;
                self.back_after(number, 20_000);
            }
            Scene::Reboot => {
                self.stop(number, Crash::Power);
                self.back_after(number, 60_000);
            }
            Scene::LongOff => {
                self.stop(number, Crash::Power);
                let off = Duration::from_secs(100 + self.dice.below(100));
                self.machine(number).back = now + off;
            }
            Scene::AgentOff => {
                let off = Duration::from_secs(60 + self.dice.below(120));
                if self.machine(number).agent {
                    self.stop(number, Crash::Agent);
                    self.machine(number).agent_again = Some(now + off);
                }
                let others: Vec<u8> = self.voters().into_iter().filter(|other| *other != number).collect();
                if let Some(other) = self.one_of(&others) {
                    self.cut[usize::from(number) - 1] |= 1 << other;
                    self.cut[usize::from(other) - 1] |= 1 << number;
                }
            }
            Scene::Paused | Scene::PausedLong => {
                let long = scene == Scene::PausedLong;
                let ms =
                    if long { 110_000 + self.dice.below(60_000) } else { 1_000 + self.dice.below(60_000) };
                self.machine(number).paused = Some(now + Duration::from_millis(ms));
            }
            Scene::Leaves => {
                let agent = if self.dice.chance(250) { self.agent() } else { None };
                self.leave(agent.unwrap_or(number));
            }
            Scene::LeavesTooLate => {
                self.stop(number, Crash::Power);
                self.machine(number).back = now + Duration::from_secs(40);
                let others: Vec<u8> = self.voters().into_iter().filter(|other| *other != number).collect();
                if let Some(other) = self.one_of(&others) {
                    self.leave(other);
                }
            }
            Scene::Resized => self.resize(),
            Scene::Parted => {
                let side = self.dice.next() as u32;
                for (at, cut) in self.cut.iter_mut().enumerate() {
                    let mine = side >> (at + 1) & 1 == 1;
                    *cut = if mine { !side } else { side };
                }
            }
            Scene::OneWay | Scene::Flapping => {
                let all = self.machines.len() as u64;
                for _ in 0..=self.dice.below(3) {
                    let (from, to) = (self.dice.below(all) as usize, self.dice.below(all) as u8 + 1);
                    self.cut[from] ^= 1 << to;
                }
            }
            Scene::K3sDies => self.kill_k3s(number),
            Scene::K3sHangs => {
                if let Some(k3s) = &mut self.machine(number).k3s {
                    k3s.hangs = true;
                }
            }
            Scene::Unfit => {
                if let Some(agent) = self.agent() {
                    self.machine(agent).healer.unfit = true;
                }
                if self.spares(number) {
                    if let Some(heals) = &mut self.heals {
                        heals.vacant_since.get_or_insert(now);
                    }
                    self.destroy(number);
                }
            }
            Scene::NodeForced => {
                if self.spares(number) {
                    self.destroy(number);
                    self.force_node(number);
                }
            }
            Scene::Joins => {
                let settings = (*self.settings[usize::from(number) - 1]).clone();
                self.come(settings, None);
            }
            Scene::Weather => {
                self.weather.loss = [0, 100, 300][self.dice.below(3) as usize];
                self.weather.delay = [0, 200][self.dice.below(2) as usize];
                self.weather.longest = 2_000;
            }
            Scene::HealerCrashes => {
                let crash = if self.dice.chance(500) { Crash::Power } else { Crash::Agent };
                let after = 1 + self.dice.below(30);
                if let Some(heals) = &mut self.heals {
                    heals.crash_at = Some((heals.points + after, crash));
                }
            }
        }
        self.check_invariants();
    }

    /// One of the scenes.
    pub fn play_any(&mut self, reckless: bool) {
        let scene = Scene::DRAWN[self.dice.below(Scene::DRAWN.len() as u64) as usize];
        self.play(scene, reckless);
    }

    fn destroy(&mut self, number: u8) {
        self.stop(number, Crash::Power);
        self.machine(number).gone = true;
    }

    fn back_after(&mut self, number: u8, most_ms: u64) {
        let off = Duration::from_millis(1_000 + self.dice.below(most_ms));
        self.machine(number).back = self.now + off;
    }

    fn leave(&mut self, number: u8) {
        let now = self.now;
        let machine = self.machine(number);
        machine.healer.leave = Some(LeaveRequest { reason: "told to".to_owned() });
        machine.next = machine.next.min(now);
        self.say(number, || "is told to leave".to_owned());
    }

    /// A new machine, off until its time.
    fn come(&mut self, settings: Settings, name: Option<String>) {
        if self.machines.len() >= 24 {
            return;
        }
        let number = self.add(settings);
        if let Some(name) = name {
            self.machine(number).name = name;
        }
        self.back_after(number, 60_000);
    }

    /// All machines are configured with another number of servers, and their agents start anew.
    fn resize(&mut self) {
        let servers = if self.wanted() == Some(3) { 5 } else { 3 };
        for settings in &mut self.settings {
            let mut other = (**settings).clone();
            other.servers = servers;
            *settings = std::sync::Arc::new(other);
        }
        for number in 1..=self.machines.len() as u8 {
            if self.machine(number).agent {
                self.stop(number, Crash::Agent);
            }
        }
        self.say(0, || format!("{servers} servers are wanted"));
    }

    fn force_node(&mut self, number: u8) {
        let of_it = |node: &Node| node.number == number;
        for etcd in &mut self.etcds {
            etcd.kube.nodes.retain(|_, node| !of_it(node));
        }
    }

    /// What a person does about a member whose Node was deleted by force.
    pub fn remove_members_without_node(&mut self) {
        for cluster in 0..self.etcds.len() {
            let works = self.etcds[cluster].members.iter().any(|m| self.api(m.number) == Some(cluster));
            let kube = &self.etcds[cluster].kube;
            let orphan = self.etcds[cluster]
                .members
                .iter()
                .find(|m| {
                    !m.learner
                        && !self.serves(cluster, m)
                        && kube.nodes.values().all(|node| node.member != Some(m.id))
                })
                .map(|m| m.id);
            if let (true, Some(orphan)) = (works, orphan) {
                self.coverage.fault("member-removed-by-a-person");
                self.say(0, || "a person removes a member that has no Node".to_owned());
                self.etcds[cluster].members.retain(|m| m.id != orphan);
            }
        }
    }
}
