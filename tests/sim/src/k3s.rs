//! k3s and its etcd, as they truly are: which clusters exist, who is a member, who votes, and what a start does on this disk.

use std::time::Duration;

use muster::core::{CaHash, Known, Why};
use muster::decide::{Binary, K3sSeen, K3sWanted, MemberSeen, UnitSeen};
use muster::engine::gate_word;
use muster::gossip::Role;
use muster::k3s::facts::DiskFacts;
use muster::k3s::gate::{GateFacts, may_start};
use muster::k3s::{ConfigFile, K3sRole, Paths, TokenFile, TokenForm};

use crate::control::Control;
use crate::kube::Kube;
use crate::machine::{Data, Lie, Machine, Running, Token, Writes, address};
use crate::world::World;

/// How long a member that was added has no name in the list: etcd writes it there once the member runs.
const NAMELESS: Duration = Duration::from_secs(3);

/// For how long after its start an etcd that learns of its removal takes its k3s's word along.
const SETTING_UP: Duration = Duration::from_secs(2);

/// A member of an etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number in all clusters.
    pub id: u64,
    /// Its machine.
    pub number: u8,
    /// Not a voter yet.
    pub learner: bool,
    /// The last part of the address of its peer URL.
    pub at: u8,
}

/// An etcd cluster.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// Its CA.
    pub ca: CaHash,
    /// Its members.
    pub members: Vec<Member>,
    /// Since when its learner makes no progress.
    pub stalled: Option<Duration>,
    /// What Kubernetes keeps in it.
    pub kube: Kube,
}

/// A learner without progress for this long is removed by the etcd leader, as in k3s.
const STALLED: Duration = Duration::from_secs(300);
/// systemd's pause before it starts a dead k3s again.
const AGAIN: Duration = Duration::from_secs(5);

impl World {
    /// The gate's word: the shipped rule, on this machine's disk.
    fn gate(&mut self, number: u8, role: K3sRole) -> bool {
        let paths = std::sync::Arc::clone(&self.paths);
        let machine = &self.machines[usize::from(number) - 1];
        let facts = self.gate_facts(machine, &paths);
        match may_start(role, &facts, &paths) {
            Ok(()) => true,
            Err(why) => {
                self.coverage.gate(&why.rule);
                self.say(number, || format!("the gate refuses: {}: {}", why.rule, why.detail));
                self.control == Control::NoGate
            }
        }
    }

    fn gate_facts(&self, machine: &Machine, paths: &Paths) -> GateFacts {
        let there = |yes: bool| if yes { Known::Yes(()) } else { Known::Absent };
        let server = match machine.disk.data {
            Data::Server { cluster, .. } => Some(self.etcds[cluster].ca.clone()),
            Data::Empty | Data::Agent { .. } => None,
        };
        let disk = DiskFacts {
            wal: there(server.is_some()),
            sqlite: Known::Absent,
            tombstone: there(machine.disk.tombstone),
            reset_flag: Known::Absent,
            ca: server.map_or(Known::Absent, Known::Yes),
            etcd_name: Known::Absent,
            kubelet_certificate: there(matches!(machine.disk.data, Data::Agent { .. })),
            node_password: Known::Absent,
        };
        let config = match &machine.disk.config {
            None => Known::Absent,
            Some(wanted) => Known::Yes(ConfigFile {
                cluster_init: *wanted == K3sWanted::Provisional,
                server: match wanted {
                    K3sWanted::InCluster { server: Some(server), .. } => Some(server.to_string()),
                    _ => None,
                },
                data_dir: Some(paths.data_dir.clone()),
                ..ConfigFile::default()
            }),
        };
        let form = |form| Known::Yes(TokenFile { form, password_hash12: String::new() });
        let token = match &machine.disk.token {
            None => Known::Absent,
            Some(Token::Password) => form(TokenForm::Short),
            Some(Token::Pinned(ca, user)) => {
                form(TokenForm::Full { ca: ca.clone(), user: (*user).to_owned() })
            }
        };
        let ledger = if machine.disk.damaged {
            Known::unknown("the ledger", "its content does not have its checksum")
        } else {
            Known::Yes(gate_word(&machine.disk.record))
        };
        GateFacts { ledger, config, token, disk, foreign: Known::Yes(Vec::new()) }
    }

    /// Whether a member of an etcd cluster runs and has had its time to start.
    pub fn member_up(&self, number: u8, cluster: usize) -> bool {
        let machine = &self.machines[usize::from(number) - 1];
        let own = matches!(machine.disk.data, Data::Server { cluster: on_disk, .. } if on_disk == cluster);
        let works = !matches!(machine.writes, Writes::Full | Writes::ReadOnly) && !machine.wrong_date;
        let running = |k3s: &Running| !k3s.hangs && self.now >= k3s.ready;
        // A member that moved is not where the others call it.
        let moved = || self.etcds[cluster].members.iter().any(|m| m.number == number && m.at != machine.at);
        machine.up
            && machine.paused.is_none()
            && own
            && works
            && machine.k3s.as_ref().is_some_and(running)
            && !moved()
    }

    /// Whether a member sees a majority of the voters.
    pub fn quorate(&self, number: u8, cluster: usize) -> bool {
        let voters = || self.etcds[cluster].members.iter().filter(|member| !member.learner);
        let seen = voters().filter(|m| self.linked(number, m.number) && self.member_up(m.number, cluster));
        2 * seen.count() > voters().count()
    }

    /// Whether some cluster has a learner, so that time moves it.
    pub fn has_learners(&self) -> bool {
        self.etcds.iter().any(|etcd| etcd.members.iter().any(|member| member.learner))
    }

    /// Lets learners progress, or fall, and the removed find out.
    pub fn etcd(&mut self) {
        let now = self.now;
        for at in 0..self.machines.len() {
            self.find_removed(at as u8 + 1);
        }
        for cluster in 0..self.etcds.len() {
            let Some(at) = self.etcds[cluster].members.iter().position(|member| member.learner) else {
                continue;
            };
            let Member { id: member, number, .. } = self.etcds[cluster].members[at];
            let own = self.machine(number).disk.data == Data::Server { cluster, member };
            let progress = own && self.member_up(number, cluster) && self.quorate(number, cluster);
            if progress {
                self.etcds[cluster].stalled = None;
            } else if now.saturating_sub(*self.etcds[cluster].stalled.get_or_insert(now)) > STALLED {
                self.etcds[cluster].stalled = None;
                self.etcds[cluster].members.remove(at);
                self.say(number, || "its stalled learner is removed by the leader".to_owned());
                continue;
            }
            // Where a learner must be seen beside a death, the fourth server's takes its time.
            let slow = self.control == Control::LearnerPending && self.etcds[cluster].members.len() > 3;
            if progress && self.dice.chance(if slow { 4 } else { 500 }) {
                self.etcds[cluster].members[at].learner = false;
                self.voter_added(cluster);
                self.machine(number).next = now;
            }
        }
    }

    /// A member that runs, is in nobody's list any more and reaches the others leaves a tombstone and dies.
    fn find_removed(&mut self, number: u8) {
        let machine = &self.machines[usize::from(number) - 1];
        let Data::Server { cluster, member } = machine.disk.data else { return };
        let listed = self.etcds[cluster].members.iter().any(|m| m.id == member);
        if listed || machine.disk.tombstone || !self.member_up(number, cluster) {
            return;
        }
        let told = |m: &Member| self.linked(number, m.number) && self.quorate(m.number, cluster);
        if !self.etcds[cluster].members.iter().any(told) {
            return;
        }
        let starts = machine.k3s.as_ref().is_some_and(|k3s| self.now < k3s.ready + SETTING_UP);
        if starts {
            // As k3s does at times: the word is lost, and it waits for ever.
            self.coverage.fault("member-found-itself-removed-and-hangs");
            self.say(number, || "its etcd finds that it was removed, and k3s hangs".to_owned());
            if let Some(k3s) = &mut self.machine(number).k3s {
                k3s.hangs = true;
            }
            return;
        }
        self.coverage.fault("member-found-itself-removed");
        self.machine(number).disk.tombstone = true;
        self.say(number, || "its etcd finds that it was removed".to_owned());
        self.kill_k3s(number);
    }

    /// The etcd cluster whose supervisor answers at an address, as seen from a machine.
    pub fn cluster_at(&self, from: u8, at: std::net::IpAddr) -> Option<usize> {
        let machine = self.machines.iter().find(|machine| !machine.gone && machine.address() == at)?;
        let Data::Server { cluster, .. } = machine.disk.data else { return None };
        let answers = machine.paused.is_none() && machine.k3s.as_ref().is_some_and(|k3s| !k3s.hangs);
        (self.linked(from, machine.number) && answers).then_some(cluster)
    }

    /// systemd starts k3s: at boot, on the agent's order, or again after a death.
    pub fn start_k3s(&mut self, number: u8) {
        let machine = self.machine(number);
        machine.k3s_again = None;
        if machine.k3s.is_some() || machine.writes == Writes::ReadOnly {
            return;
        }
        let role = match &machine.disk.config {
            Some(wanted) if wanted.role() == Role::Agent => K3sRole::Agent,
            _ => K3sRole::Server,
        };
        if !self.gate(number, role) {
            return;
        }
        let ready = self.now + Duration::from_millis(300 + self.dice.below(3_000));
        let fresh = CaHash::from_digest(&self.dice.bytes());
        let machine = self.machine(number);
        let (data, config) = (machine.disk.data, machine.disk.config.clone());
        let placed = match (data, config) {
            // An agent that becomes a server keeps its name and its Node.
            (
                Data::Agent { .. },
                Some(K3sWanted::InCluster { role: Role::Server, server: Some(server), ca }),
            ) => {
                let through = self.cluster_at(number, server);
                through.is_some_and(|cluster| {
                    self.etcds[cluster].ca == ca && self.join(number, Role::Server, cluster)
                })
            }
            (Data::Server { cluster, member }, Some(_)) if self.has_moved(number, cluster, member) => false,
            (Data::Server { .. } | Data::Agent { .. }, Some(_)) => true,
            (Data::Empty, Some(K3sWanted::Provisional)) => {
                self.founds(number);
                self.decision.founding(&fresh, ready - self.now);
                self.make_cluster(number, fresh);
                true
            }
            (Data::Empty, Some(K3sWanted::InCluster { role: Role::Server, server: None, .. })) => {
                self.make_cluster(number, fresh);
                self.broken(|| format!("node{number} started a lone cluster"));
                true
            }
            (Data::Empty, Some(K3sWanted::InCluster { role, server: Some(server), ca })) => {
                let wrong_date = self.machine(number).wrong_date;
                let through = self.cluster_at(number, server).filter(|_| !wrong_date);
                through
                    .is_some_and(|cluster| self.etcds[cluster].ca == ca && self.join(number, role, cluster))
            }
            (Data::Empty, _) | (_, None) => false,
        };
        if placed {
            let hangs = false;
            self.machine(number).k3s = Some(Running { ready, hangs, lies: None, registered: false });
            self.say(number, || "k3s starts".to_owned());
        } else {
            // A join that fails ends the process; systemd tries again, and so does the agent.
            self.machine(number).k3s_again = Some(self.now + AGAIN);
        }
    }

    fn make_cluster(&mut self, number: u8, ca: CaHash) {
        let id = self.next_member;
        self.next_member += 1;
        let at = self.machine(number).at;
        let members = vec![Member { id, number, learner: false, at }];
        self.etcds.push(Etcd { ca, members, stalled: None, kube: Kube::default() });
        self.machine(number).disk.data = Data::Server { cluster: self.etcds.len() - 1, member: id };
    }

    fn join(&mut self, number: u8, role: Role, cluster: usize) -> bool {
        if role == Role::Agent {
            self.machine(number).disk.data = Data::Agent { cluster };
            return true;
        }
        let name = self.machine(number).name.clone();
        let taken =
            |member: &Member| member.learner || self.machines[usize::from(member.number) - 1].name == name;
        let unfit = self.machines[usize::from(number) - 1].healer.unfit;
        if role != Role::Server || unfit || self.etcds[cluster].members.iter().any(taken) {
            return false;
        }
        let id = self.next_member;
        self.next_member += 1;
        let at = self.machine(number).at;
        self.etcds[cluster].members.push(Member { id, number, learner: true, at });
        self.machine(number).disk.data = Data::Server { cluster, member: id };
        true
    }

    /// Whether a member's machine has another address than its member.
    fn has_moved(&self, number: u8, cluster: usize, member: u64) -> bool {
        let at = self.machines[usize::from(number) - 1].at;
        self.etcds[cluster].members.iter().any(|m| m.id == member && m.at != at)
    }

    /// The process ends by itself.
    pub fn kill_k3s(&mut self, number: u8) {
        let again = self.now + AGAIN;
        let machine = self.machine(number);
        machine.k3s_dies = None;
        if machine.k3s.take().is_some() {
            machine.k3s_again = Some(again);
            self.say(number, || "k3s dies".to_owned());
        }
    }

    /// A provisional cluster that nobody joined comes up with another CA: its keys were lost before anything else was.
    pub fn remake_ca(&mut self, number: u8) -> bool {
        let Data::Server { cluster, .. } = self.machine(number).disk.data else { return false };
        let machine = &self.machines[usize::from(number) - 1];
        let provisional =
            |record: &muster::ledger::Record| matches!(record.data, muster::ledger::Data::Provisional { .. });
        let unused = self.etcds[cluster].members.len() == 1;
        if !unused || !provisional(&machine.disk.record) || !provisional(&machine.record) {
            return false;
        }
        let fresh = CaHash::from_digest(&self.dice.bytes());
        self.make_cluster(number, fresh);
        self.say(number, || "k3s comes up with another CA".to_owned());
        true
    }

    /// The members of a cluster, as its servers list them.
    pub fn members(&self, cluster: usize) -> Vec<MemberSeen> {
        let list = self.etcds[cluster].members.iter();
        list.map(|member| {
            let machine = &self.machines[usize::from(member.number) - 1];
            let nameless = self.is_young(machine, cluster, member.id);
            MemberSeen {
                node: if nameless { String::new() } else { machine.name.clone() },
                learner: member.learner,
                address: Some(address(member.at)),
            }
        })
        .collect()
    }

    /// What a machine's agent sees of its k3s.
    pub fn k3s_seen(&self, number: u8) -> K3sSeen {
        let machine = &self.machines[usize::from(number) - 1];
        let data = machine.disk.data;
        let there = |yes: bool| if yes { Known::Yes(()) } else { Known::Absent };
        let mut seen = K3sSeen {
            binary: Binary::Ready,
            server_unit: Known::Yes(UnitSeen::Inactive),
            agent_unit: Known::Yes(UnitSeen::Inactive),
            server_data: there(matches!(data, Data::Server { .. })),
            agent_data: there(matches!(data, Data::Agent { .. })),
            disk_ca: Known::Absent,
            served_ca: Known::Absent,
            voter: Known::Absent,
            members: Known::Absent,
            api: Known::Absent,
            ready: Known::Absent,
            configuration: there(machine.disk.config.is_some()),
            configured_server: match &machine.disk.config {
                Some(K3sWanted::InCluster { server: Some(server), .. }) => Known::Yes(*server),
                _ => Known::Absent,
            },
            trouble: self.k3s_says(machine),
        };
        let unit = |working: bool| match machine.k3s.as_ref().map(|k3s| k3s.lies) {
            Some(Some(Lie::Ready)) => UnitSeen::Active,
            Some(Some(Lie::Failed)) => UnitSeen::Failed,
            Some(None) if working => UnitSeen::Active,
            Some(None) => UnitSeen::Starting,
            None if machine.k3s_again.is_some() => UnitSeen::Starting,
            None => UnitSeen::Inactive,
        };
        match data {
            Data::Server { cluster, member } => {
                let ca = &self.etcds[cluster].ca;
                seen.disk_ca = Known::Yes(ca.clone());
                let mut voter = false;
                if let Some(k3s) = &machine.k3s {
                    let listed =
                        self.etcds[cluster].members.iter().find(|m| m.id == member && m.number == number);
                    voter = listed.is_some_and(|m| !m.learner)
                        && self.member_up(number, cluster)
                        && self.quorate(number, cluster);
                    if !k3s.hangs {
                        seen.served_ca = Known::Yes(ca.clone());
                    }
                    seen.voter = Known::Yes(voter);
                    seen.api = Known::Yes(voter);
                    seen.ready = Known::Yes(voter);
                    if voter {
                        seen.members = Known::Yes(self.members(cluster));
                    }
                }
                seen.server_unit = Known::Yes(unit(voter));
            }
            Data::Agent { cluster } => {
                let served = machine.k3s.as_ref().is_some_and(|k3s| !k3s.hangs)
                    && self.etcds[cluster].members.iter().any(|m| {
                        self.linked(number, m.number)
                            && self.member_up(m.number, cluster)
                            && self.quorate(m.number, cluster)
                    });
                // Which unit starts again follows from the file that it was started with, not from what an earlier one left.
                let as_server = matches!(&machine.disk.config, Some(wanted) if wanted.role() == Role::Server);
                if machine.k3s.is_none() && as_server {
                    seen.server_unit = Known::Yes(unit(false));
                } else {
                    seen.agent_unit = Known::Yes(unit(served));
                }
                if machine.k3s.is_some() {
                    seen.ready = Known::Yes(served);
                }
            }
            Data::Empty if machine.k3s_again.is_some() => match &machine.disk.config {
                Some(wanted) if wanted.role() == Role::Agent => seen.agent_unit = Known::Yes(unit(false)),
                _ => seen.server_unit = Known::Yes(unit(false)),
            },
            Data::Empty => {}
        }
        if self.heals.is_some() && seen.ready == Known::Yes(true) {
            seen.ready = self.own_node_ready(number);
        }
        seen
    }

    /// Whether a machine's etcd is a learner that has just started.
    fn is_young(&self, machine: &Machine, cluster: usize, member: u64) -> bool {
        let learner = |m: &Member| m.id == member && m.learner;
        let started = machine.k3s.as_ref().is_some_and(|k3s| self.now < k3s.ready + NAMELESS);
        started && self.etcds[cluster].members.iter().any(learner)
    }

    /// What k3s, or its gate, says is in its way.
    fn k3s_says(&self, machine: &Machine) -> Vec<Why> {
        if machine.disk.tombstone && machine.k3s.is_none() && machine.k3s_again.is_none() {
            return vec![Why::new("gate-tombstone", "the cluster has removed this member", "")];
        }
        if self.heals.is_none() {
            return Vec::new();
        }
        match machine.disk.data {
            Data::Server { cluster, member } if self.has_moved(machine.number, cluster, member) => {
                vec![Why::new("k3s-not-a-member", "this server is not a member of the etcd cluster", "")]
            }
            // One that was added a moment ago does not find its own name in the list yet, and says what a removed one says.
            Data::Server { cluster, member } if self.is_young(machine, cluster, member) => {
                vec![Why::new("k3s-not-a-member", "this server is not a member of the etcd cluster", "")]
            }
            Data::Agent { cluster } if self.password_differs(machine, cluster) => {
                vec![Why::new("name-held", "Node password rejected, duplicate hostname", "")]
            }
            _ => Vec::new(),
        }
    }
}
