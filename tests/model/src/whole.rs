//! Whole agents in small: the decision that ships, on ledgers, with k3s and its gate, over annulment, a founder that is away and
//! comes back, and data that are lost. The votes themselves are explored further in [`crate::explore`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use muster::config::{Env, Flags, Settings};
use muster::core::{CaHash, ClusterId, Known, NodeId, Phase};
use muster::decide::{
    AnnulRequest, Binary, DiscoverySeen, HostSeen, K3sSeen, K3sWanted, MemberSeen, NodeFacts, Observed, Plan,
    UnitSeen, Watch, decide,
};
use muster::engine::{ClaimInput, gate_word};
use muster::founding::Shared;
use muster::gossip::{Claim, Peer, PeerView, Role};
use muster::k3s::facts::DiskFacts;
use muster::k3s::gate::{GateFacts, may_start};
use muster::k3s::{ConfigFile, K3sRole, Paths, TokenFile, TokenForm};
use muster::ledger::Record;

use crate::models::Result;

/// A model of whole agents.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub what: &'static str,
    /// Machines; two votes are needed.
    pub machines: usize,
    /// How many of them nominate themselves.
    pub candidates: usize,
    /// On which machines an operator may annul the first era; it happens once at most, at any moment.
    pub annul: &'static [usize],
    /// Which machines may lose power: one of them, once, and it comes back or not.
    pub away: &'static [usize],
    /// Whether everybody serves from the start; how they came to it is another model's matter.
    pub formed: bool,
    /// Whether the data of k3s on one machine are lost once.
    pub lose: bool,
    /// Whether a founder stays configured to found, and the gate is not asked.
    pub armed: bool,
    /// Whether an annulment is followed by founding again without discarding what was there.
    pub keeps: bool,
    /// What must come out; `Unfinished` where nobody has seen the end: it runs by its name alone, for as long as `--limit` says.
    pub expected: Result,
    /// Whether it is in the quick set.
    pub quick: bool,
    /// When the time given is over.
    pub until: Option<std::time::Instant>,
}

const WHOLE_BASE: Whole = Whole {
    name: "",
    what: "",
    machines: 3,
    candidates: 1,
    annul: &[],
    away: &[],
    formed: false,
    lose: false,
    armed: false,
    keeps: false,
    expected: Result::Holds,
    quick: true,
    until: None,
};

/// Every model of whole agents.
pub const WHOLE: &[Whole] = &[
    Whole {
        name: "whole-lost-data",
        what: "whole agents: three machines, one of them loses k3s's data at any point and joins again",
        lose: true,
        quick: false,
        ..WHOLE_BASE
    },
    Whole {
        name: "whole-annulled",
        what: "whole agents: two machines, the first era is annulled at any point, on either",
        machines: 2,
        candidates: 2,
        annul: &[0, 1],
        ..WHOLE_BASE
    },
    Whole {
        name: "whole-away-two",
        what: "whole agents: two machines, one loses power at any point, the era is annulled on either, it returns",
        machines: 2,
        candidates: 2,
        annul: &[0, 1],
        away: &[0, 1],
        ..WHOLE_BASE
    },
    Whole {
        name: "whole-away-founder",
        what: "whole agents: three machines, the founder loses power at any point, another annuls, it returns",
        annul: &[1],
        away: &[0],
        quick: false,
        expected: Result::Unfinished,
        ..WHOLE_BASE
    },
    Whole {
        name: "whole-away-other",
        what: "whole agents: three machines, another than the founder loses power at any point, the founder annuls, it returns",
        annul: &[0],
        away: &[1],
        quick: false,
        expected: Result::Unfinished,
        ..WHOLE_BASE
    },
    Whole {
        name: "whole-formed",
        what: "whole agents: three that serve, one loses power at any point, an operator annuls on any, it returns",
        annul: &[0, 1, 2],
        away: &[0, 1, 2],
        formed: true,
        ..WHOLE_BASE
    },
    Whole {
        name: "control-no-disarm",
        what: "a founder stays configured to found, the gate is not asked, and its data are lost",
        machines: 2,
        lose: true,
        armed: true,
        expected: Result::Violated,
        ..WHOLE_BASE
    },
    Whole {
        name: "control-no-discard",
        what: "after an annulment what the first era left is not discarded",
        machines: 2,
        annul: &[0, 1],
        keeps: true,
        expected: Result::Violated,
        ..WHOLE_BASE
    },
];

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Its ledger on disk.
    pub record: Record,
    /// Its last claim.
    pub said: Option<Arc<Claim>>,
    /// k3s's data: of this cluster.
    pub data: Option<u8>,
    /// k3s's configuration.
    pub config: Option<K3sWanted>,
    /// k3s runs.
    pub running: bool,
    /// It has power.
    pub up: bool,
    /// An operator asked for an annulment here.
    pub annul: bool,
}

/// A k3s cluster: who founded it, and who is in it, a bit for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Voters.
    pub members: u8,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The machines.
    pub machines: Vec<Machine>,
    /// The clusters that ever were.
    pub clusters: Vec<Cluster>,
    /// Every certificate that was stored anywhere, by era.
    pub stored: Vec<(u64, ClusterId)>,
    /// The operator has spoken, the power was cut, the data were lost.
    pub used: [bool; 3],
    /// What must never happen and did.
    pub flaw: Option<&'static str>,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A turn of an agent that hears these, a bit for each.
    Turn(usize, u8),
    /// The same, and a crash between the write and all that follows it.
    Cut(usize, u8),
    /// The operator annuls the first era here.
    Annul(usize),
    /// Power is lost.
    Off(usize),
    /// Power is back.
    On(usize),
    /// k3s's data are lost.
    Lose(usize),
}

/// Most clusters and ballots looked at.
pub const MOST_CLUSTERS: usize = 3;
const MOST_BALLOTS: u64 = 2;

/// The identity of a machine.
pub fn id(n: usize) -> NodeId {
    NodeId::from_digest(&[n as u8 + 1; 32])
}

fn address(n: usize) -> IpAddr {
    [10, 0, 0, n as u8 + 1].into()
}

/// The CA of a cluster.
pub fn ca(cluster: u8) -> CaHash {
    CaHash::from_digest(&[0x40 + cluster; 32])
}

fn settings() -> &'static (Settings, Arc<Shared>, Paths) {
    static MADE: OnceLock<(Settings, Arc<Shared>, Paths)> = OnceLock::new();
    MADE.get_or_init(|| {
        let env = [
            ("MUSTER_TOKEN", "a-token-for-models-only-0123456789"),
            ("MUSTER_SEEDS", "10.0.0.9"),
            ("MUSTER_FOUNDERS", "2"),
        ];
        let nowhere = std::path::Path::new("/nowhere/at/all");
        let loaded =
            muster::config::load(nowhere, &Env::of(&env), &Flags::default()).expect("settings of a model");
        let shared = Arc::new(loaded.settings.parameters().into());
        let paths = Paths::under(nowhere);
        (loaded.settings, shared, paths)
    })
}

/// The record of a bare machine: everybody has been heard of, because hearing is explored elsewhere.
pub fn bare(machines: usize) -> Record {
    let mut record = Record::new(&settings().0.cluster);
    record.heard = (0..machines).map(id).collect();
    record
}

impl State {
    /// Whether a machine's k3s is a member that has a majority.
    pub fn votes(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        let Some(cluster) = machine.data.filter(|_| machine.running && machine.up) else { return false };
        let members = self.clusters[usize::from(cluster)].members;
        let runs = |m: &Machine| m.up && m.running && m.data == Some(cluster);
        let seen = (0..self.machines.len()).filter(|m| members & (1 << m) != 0 && runs(&self.machines[*m]));
        members & (1 << n) != 0 && 2 * seen.count() > members.count_ones() as usize
    }

    fn seen(&self, n: usize, view: u8) -> Observed {
        let machine = &self.machines[n];
        let (_, shared, _) = settings();
        let mut peers = PeerView::default();
        let mut checks = BTreeMap::new();
        for (other, peer) in self.machines.iter().enumerate().filter(|(other, _)| *other != n) {
            let answers = peer.up && peer.running && view & (1 << other) != 0;
            let served = peer.data.filter(|_| answers).map_or(Known::Absent, |c| Known::Yes(ca(c)));
            checks.insert(address(other), served);
            if let Some(claim) = peer.said.clone().filter(|_| view & (1 << other) != 0) {
                let gossip_address = std::net::SocketAddr::new(claim.address, 7846);
                let live = peer.up;
                let owner = claim.owner.clone();
                peers.peers.insert(owner, Peer { claim, parameters: None, live, gossip_address });
            }
        }
        if let Some(cluster) = machine.data.filter(|_| machine.running) {
            checks.insert(address(n), Known::Yes(ca(cluster)));
        }
        let asked = (0..self.machines.len())
            .filter(|other| view & (1 << other) != 0 && self.votes(*other))
            .find_map(|other| self.machines[other].data);
        let long_ago = Duration::ZERO;
        let fresh = [n as u8, machine.record.era as u8, machine.record.ballot_counter as u8];
        let mut digest = [0; 32];
        digest[..3].copy_from_slice(&fresh);
        Observed {
            now: Duration::from_secs(1_000_000),
            fresh_cluster: ClusterId::from_digest(&digest),
            node: NodeFacts {
                id: id(n),
                name: format!("node{}", n + 1),
                address: address(n),
                generation: 1,
                counter: 1,
                fitness: 2,
            },
            record: Arc::new(machine.record.clone()),
            annul: machine.annul.then(|| AnnulRequest { era: 1, reason: "asked".to_owned() }),
            host: HostSeen { prepared: true, ..HostSeen::default() },
            peers: Arc::new(peers),
            shared: Arc::clone(shared),
            watch: Watch {
                settled_since: long_ago,
                nominee_since: long_ago,
                retry_at: long_ago,
                started: long_ago,
                // k3s says nothing here; what etcd ran, and has no vote, has had none for long.
                out_since: None,
                voteless_since: (machine.running && machine.data.is_some() && !self.votes(n))
                    .then_some(long_ago),
                // How long a start may take is no part of this.
                trying_for: Duration::ZERO,
                gave_up: None,
            },
            checks,
            members: asked
                .map_or_else(|| Known::unknown("members", "no answer"), |c| Known::Yes(self.list(c))),
            api: BTreeMap::new(),
            k3s: self.k3s_seen(n),
            heal: Arc::new(muster::heal::HealSeen {
                nodes: Known::Yes(Vec::new()),
                ..muster::heal::HealSeen::default()
            }),
            discovery: DiscoverySeen::default(),
        }
    }

    fn list(&self, cluster: u8) -> Vec<MemberSeen> {
        let members = self.clusters[usize::from(cluster)].members;
        let of = |n: usize| MemberSeen {
            node: format!("node{}", n + 1),
            learner: false,
            address: Some(address(n)),
        };
        (0..self.machines.len()).filter(|n| members & (1 << n) != 0).map(of).collect()
    }

    fn k3s_seen(&self, n: usize) -> K3sSeen {
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

    /// The decision of a machine, and the claim that follows from it; none where it goes beyond what is looked at.
    pub fn decided(&self, model: &Whole, n: usize, view: u8) -> Option<(Plan, Record, Claim)> {
        let seen = self.seen(n, view);
        let plan = decide(&seen, &settings().0);
        let mut record = plan.commit.as_deref().cloned().unwrap_or_else(|| self.machines[n].record.clone());
        record.peers.clear();
        record.heard.clone_from(&bare(self.machines.len()).heard);
        if model.keeps && record.era > self.machines[n].record.era {
            record.data = muster::ledger::Data::None;
        }
        let nominates = record.ballot_counter > self.machines[n].record.ballot_counter;
        if record.ballot_counter > MOST_BALLOTS || (nominates && n >= model.candidates) {
            return None;
        }
        let mut claim = ClaimInput::new(&seen, &settings().0, &plan, &record).claim;
        claim.phase = Phase::Seeking;
        if claim.why != "name-held" {
            claim.why = "".into();
        }
        Some((plan, record, claim))
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
