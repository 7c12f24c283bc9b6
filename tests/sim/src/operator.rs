//! What a person sees and does, and when a history is over.

use std::sync::Arc;
use std::time::Duration;

use muster::core::Phase;
use muster::decide::AnnulRequest;
use muster::ledger::{Data as Kept, Record};

use crate::control::Control;
use crate::machine::{Crash, Data, Machine};
use crate::world::World;

impl World {
    /// Whether the chosen cluster has lost its majority for good: more than half of its voters' disks are gone. Nothing may
    /// repair that by itself.
    pub fn lost_quorum(&self) -> bool {
        self.etcds.iter().enumerate().any(|(cluster, etcd)| {
            let voters = || etcd.members.iter().filter(|member| !member.learner);
            let kept = voters().filter(|member| {
                let machine = &self.machines[usize::from(member.number) - 1];
                !machine.gone
                    && machine.at == member.at
                    && machine.disk.data == Data::Server { cluster, member: member.id }
            });
            let certified =
                |m: &Machine| m.disk.record.certificate.as_ref().is_some_and(|c| c.ca_hash == etcd.ca);
            self.machines.iter().any(|m| !m.gone && certified(m)) && 2 * kept.count() <= voters().count()
        })
    }

    /// Whether every machine that knew of the cluster was imaged anew or destroyed: who is left founds another, or waits for founders.
    pub fn is_forgotten(&self) -> bool {
        self.machines.iter().filter(|m| !m.gone).all(|m| m.disk.record.certificate.is_none())
    }

    /// Whether somebody waits, by name, for a founder whose cluster is on no disk any more, or whose machine is not coming back
    /// soon: only an operator's word ends that.
    pub fn founder_gone(&self) -> bool {
        let silent = ["founder-silent", "voted-founder-silent", "name-held", "no-server-live"];
        let lives = |ca: &muster::core::CaHash| {
            self.machines.iter().any(|machine| match machine.disk.data {
                Data::Server { cluster, .. } => !machine.gone && machine.up && self.etcds[cluster].ca == *ca,
                _ => false,
            })
        };
        self.machines.iter().filter(|machine| machine.up).any(|machine| {
            let record = &machine.record;
            let votes = record.register.accepted.as_ref().map(|accepted| &accepted.certificate);
            let named = record.certificate.as_ref().or(votes);
            named.is_some_and(|c| !lives(&c.ca_hash)) && silent.contains(&machine.rule())
        })
    }

    /// Gives the operator's word, on every machine that is on.
    pub fn annul(&mut self) {
        let era = self.machines.iter().map(|machine| machine.record.era).max().unwrap_or(1);
        let reason = "its founder is gone".to_owned();
        let now = self.now;
        for machine in self.machines.iter_mut().filter(|machine| machine.up) {
            machine.annul = Some(AnnulRequest { era, reason: reason.clone() });
            machine.next = now;
        }
        self.coverage.fault("annulled");
        self.say(0, || format!("the operator annuls era {era}"));
    }

    /// Does what a machine asks a person for; `spare` says whether one more identity is within the bound.
    pub fn mend(&mut self, late: bool, mut spare: impl FnMut() -> bool) {
        for number in 1..=self.machines.len() as u8 {
            let machine = &self.machines[usize::from(number) - 1];
            if !machine.up {
                continue;
            }
            let (copy, identity) = (machine.copy, machine.disk.identity);
            match machine.rule().to_owned().as_str() {
                "identity-cloned" => {
                    let is_copy = |m: &&Machine| m.up && m.copy && m.disk.identity == identity;
                    match self.machines.iter().find(is_copy).map(|machine| machine.number) {
                        Some(copy) => self.make_new(copy, &mut spare),
                        // The original goes on under a later generation, once its copy is gone.
                        None => {
                            self.coverage.fault("mended-restart");
                            self.stop(number, Crash::Agent);
                            self.start_agent(number);
                        }
                    }
                }
                "ledger-unreadable" | "unclaimed-data" | "foreign-data" | "gate-tombstone" => {
                    self.make_new(number, &mut spare);
                }
                "duplicate-name" if copy => {
                    self.coverage.fault("mended-rename");
                    self.machine(number).name = crate::machine::name(number);
                }
                // The disk of a machine that is gone, in another one: its member answers at the old address only.
                _ if copy && late && machine.phase != Some(Phase::Serving) => {
                    self.make_new(number, &mut spare);
                }
                _ => {}
            }
        }
    }

    /// Makes a machine a new node; where that would be one identity too many, it is scrapped.
    fn make_new(&mut self, number: u8, spare: &mut impl FnMut() -> bool) {
        let knows = |m: &Machine| !m.gone && !m.disk.damaged && m.disk.record.certificate.is_some();
        let known = self.machines.iter().any(|machine| machine.number != number && knows(machine));
        self.stop(number, Crash::Power);
        if known || spare() {
            self.coverage.fault("mended-reimage");
            self.wipe(number);
            self.start(number);
        } else {
            self.coverage.fault("mended-scrapped");
            self.machine(number).gone = true;
            self.machine(number).copy = false;
        }
    }

    /// Whether every machine that is on serves, or is parked with a reason.
    pub fn at_rest(&self) -> bool {
        self.machines.iter().filter(|machine| machine.up).all(|machine| {
            match machine.phase {
                // A step that failed is tried again: not yet at rest.
                Some(Phase::Serving) => machine.rule() == "serving",
                Some(Phase::Parked) => !machine.why.is_empty(),
                _ => false,
            }
        })
    }

    /// Copies a machine's disk onto another that is off: with the identity, or with the fingerprint of its own that makes the
    /// agent take a new one.
    pub fn clone_disk(&mut self, from: u8, to: u8, with_identity: bool) {
        let original = &self.machines[usize::from(from) - 1];
        let (mut disk, voter) = (original.disk.clone(), original.voter);
        if with_identity {
            let voter = self.truth.new_voter(Some(voter));
            let name = original.name.clone();
            let same_name = self.dice.chance(300);
            let machine = self.machine(to);
            machine.voter = voter;
            machine.copy = true;
            if same_name {
                machine.name = name;
            }
            self.has_copies = true;
        } else {
            let own = &self.machines[usize::from(to) - 1].disk;
            disk.identity = own.identity;
            disk.record = Arc::clone(&own.record);
            disk.damaged = false;
        }
        let machine = self.machine(to);
        machine.record = Arc::clone(&disk.record);
        machine.disk = disk;
        self.say(to, || format!("boots from a copy of node{from}'s disk"));
    }

    /// Under the two controls that know no votes: a machine makes itself the founder.
    pub fn turn_without_votes(&mut self, number: u8) {
        let founders = self.settings[0].founders;
        let machine = &self.machines[usize::from(number) - 1];
        let me = self.identities[usize::from(machine.disk.identity)].clone();
        if machine.record.certificate.is_some() || machine.ears.heard.is_empty() {
            return;
        }
        let live = || machine.ears.view.peers.values().filter(|peer| peer.live);
        let enough = live().count() + 1 >= founders;
        let lowest = live().all(|peer| me < peer.claim.owner);
        let leaderless = machine.ears.view.peers.values().all(|peer| peer.claim.certificate.is_none());
        let takes = match self.control {
            Control::LowestIdentity => enough && lowest,
            _ => enough && leaderless && self.dice.chance(200),
        };
        if !takes {
            return;
        }
        let ca = muster::core::CaHash::from_digest(&self.dice.bytes());
        let machine = self.machine(number);
        let certificate = muster::founding::Certificate {
            cluster_id: muster::core::ClusterId::from_digest(ca.as_str().as_bytes()),
            era: 1,
            ca_hash: ca,
            founder: me.clone(),
            founder_name: machine.name.clone(),
            founder_address: machine.address(),
            first_servers: vec![me],
            parameters_hash: muster::founding::Parameters::default().hash(),
        };
        let record = Record {
            certificate: Some(certificate.into()),
            data: Kept::None,
            ..Record::clone(&machine.record)
        };
        machine.record = Arc::new(record);
        machine.disk.record = Arc::clone(&machine.record);
        self.durable(number);
    }

    /// Ends every fault that peace ends; a machine that is kept away stays off.
    pub fn peace(&mut self, away: Option<u8>) {
        let now = self.now;
        for number in 1..=self.machines.len() as u8 {
            self.machine(number).crash_in = None;
            if away != Some(number) && self.machine(number).back <= now {
                self.start(number);
            }
            let machine = self.machine(number);
            machine.writes = crate::machine::Writes::Succeed;
            machine.wrong_date = false;
            machine.k3s_dies = None;
            if let Some(k3s) = &mut machine.k3s {
                if k3s.hangs {
                    k3s.ready = now + Duration::from_secs(2);
                }
                k3s.hangs = false;
                k3s.lies = None;
            }
        }
        self.cut.fill(0);
        self.weather.loss = self.weather.loss.min(300);
        self.weather.delay = self.weather.delay.min(100);
    }
}
