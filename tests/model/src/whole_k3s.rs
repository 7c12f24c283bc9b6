//! k3s and its gate in small, for whole agents.

use muster::core::Known;
use muster::decide::{Binary, K3sSeen, K3sWanted, MemberSeen, UnitSeen};
use muster::engine::gate_word;
use muster::gossip::Role;
use muster::k3s::facts::DiskFacts;
use muster::k3s::gate::{GateFacts, may_start};
use muster::k3s::{ConfigFile, K3sRole, TokenFile, TokenForm};

use crate::whole::{Cluster, MOST_CLUSTERS, Machine, State, Whole, address, ca, settings};

impl State {
    /// The members of a cluster.
    pub fn list(&self, cluster: u8) -> Vec<MemberSeen> {
        let members = self.clusters[usize::from(cluster)].members;
        let of = |n: usize| MemberSeen {
            node: format!("node{}", n + 1),
            learner: false,
            address: Some(address(n)),
        };
        (0..self.machines.len()).filter(|n| members & (1 << n) != 0).map(of).collect()
    }

    /// What a machine's agent sees of its k3s.
    pub fn k3s_seen(&self, n: usize) -> K3sSeen {
        let machine = &self.machines[n];
        let there = |yes: bool| if yes { Known::Yes(()) } else { Known::Absent };
        let votes = self.votes(n);
        let fact = || if machine.running { Known::Yes(votes) } else { Known::Absent };
        let unit = match (machine.running, votes) {
            (true, true) => UnitSeen::Active,
            (true, false) => UnitSeen::Starting,
            (false, _) => UnitSeen::Inactive,
        };
        K3sSeen {
            binary: Binary::Ready,
            server_unit: Known::Yes(unit),
            agent_unit: Known::Yes(UnitSeen::Inactive),
            server_data: there(machine.data.is_some()),
            agent_data: Known::Absent,
            disk_ca: machine.data.map_or(Known::Absent, |c| Known::Yes(ca(c))),
            served_ca: machine.data.filter(|_| machine.running).map_or(Known::Absent, |c| Known::Yes(ca(c))),
            voter: fact(),
            members: match machine.data {
                Some(cluster) if votes => Known::Yes(self.list(cluster)),
                _ => Known::Absent,
            },
            api: fact(),
            ready: fact(),
            configuration: there(machine.config.is_some()),
            configured_server: match &machine.config {
                Some(K3sWanted::InCluster { server: Some(server), .. }) => Known::Yes(*server),
                _ => Known::Absent,
            },
            trouble: Vec::new(),
        }
    }

    /// The gate's word, by the shipped rule.
    pub fn may_start(&self, model: &Whole, n: usize) -> bool {
        let machine = &self.machines[n];
        let there = |yes: bool| if yes { Known::Yes(()) } else { Known::Absent };
        let Some(config) = &machine.config else { return false };
        let (_, _, paths) = settings();
        let form = match config {
            K3sWanted::Provisional => TokenForm::Short,
            K3sWanted::InCluster { role, ca, .. } => {
                let user = if *role == Role::Agent { "node" } else { "server" };
                TokenForm::Full { ca: ca.clone(), user: user.to_owned() }
            }
        };
        let facts = GateFacts {
            ledger: Known::Yes(gate_word(&machine.record)),
            config: Known::Yes(ConfigFile {
                cluster_init: *config == K3sWanted::Provisional,
                server: match config {
                    K3sWanted::InCluster { server: Some(server), .. } => Some(server.to_string()),
                    _ => None,
                },
                data_dir: Some(paths.data_dir.clone()),
                ..ConfigFile::default()
            }),
            token: Known::Yes(TokenFile { form, password_hash12: String::new() }),
            disk: DiskFacts {
                wal: there(machine.data.is_some()),
                sqlite: Known::Absent,
                tombstone: Known::Absent,
                reset_flag: Known::Absent,
                ca: machine.data.map_or(Known::Absent, |c| Known::Yes(ca(c))),
                etcd_name: Known::Absent,
                kubelet_certificate: Known::Absent,
                node_password: Known::Absent,
            },
            foreign: Known::Yes(Vec::new()),
        };
        model.armed || may_start(K3sRole::Server, &facts, paths).is_ok()
    }

    /// k3s starts with what is on the disk, if the gate allows it.
    pub fn start(&mut self, model: &Whole, n: usize) {
        if !self.may_start(model, n) {
            return;
        }
        let machine = &self.machines[n];
        let joined = match (machine.data, &machine.config) {
            (Some(_), _) => machine.data,
            (None, Some(K3sWanted::Provisional)) if self.clusters.len() < MOST_CLUSTERS => {
                if machine.record.certificate.is_some() {
                    self.flaw = Some("founds with a certificate in its ledger");
                }
                self.clusters.push(Cluster { members: 0 });
                Some(self.clusters.len() as u8 - 1)
            }
            (None, Some(K3sWanted::InCluster { server: None, role: Role::Server, .. })) => {
                self.flaw = Some("starts a lone cluster");
                None
            }
            (None, Some(K3sWanted::InCluster { server: Some(server), ca: pinned, .. })) => {
                let through = (0..self.machines.len()).find(|m| address(*m) == *server && self.votes(*m));
                let cluster = through.and_then(|m| self.machines[m].data).filter(|c| ca(*c) == *pinned);
                let free = |c: &u8| self.clusters[usize::from(*c)].members & (1 << n) == 0;
                cluster.filter(free)
            }
            (None, _) => None,
        };
        if let Some(cluster) = joined {
            if machine_is_new(&self.machines[n]) {
                self.clusters[usize::from(cluster)].members |= 1 << n;
            }
            self.machines[n].data = Some(cluster);
            self.machines[n].running = true;
        }
    }

    /// A member's Node is deleted, because its machine asks for its name with nothing on its disk.
    pub fn remove(&mut self, by: usize, name: &str) {
        let Some(cluster) = self.machines[by].data.filter(|_| self.votes(by)) else { return };
        for n in 0..self.machines.len() {
            if format!("node{}", n + 1) == name && self.machines[n].data != Some(cluster) {
                self.clusters[usize::from(cluster)].members &= !(1 << n);
            }
        }
    }
}

fn machine_is_new(machine: &Machine) -> bool {
    machine.data.is_none()
}
