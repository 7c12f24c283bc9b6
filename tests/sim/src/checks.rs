//! The promises, checked after every event against the whole truth, which no agent sees.

use std::sync::Arc;

use muster::core::{CaHash, ClusterId, NodeId};
use muster::decide::{K3sWanted, REMOVED_FROM};
use muster::founding::{Ballot, Certificate, Register};
use muster::ledger::{Data as Kept, Record};

use crate::machine::Data;
use crate::world::World;

/// What was voted for and stored, by whom, over the whole history.
#[derive(Debug, Default)]
pub struct Truth {
    /// Era, ballot and certificate, with the voters.
    votes: Vec<(u64, Ballot, Arc<Certificate>, Vec<usize>)>,
    /// Certificates that have been chosen.
    chosen: Vec<Arc<Certificate>>,
    /// Certificates that have been stored.
    stored: Vec<(u64, ClusterId)>,
    /// By voter: the era and the register it published last.
    published: Vec<(u64, Register)>,
    /// By voter: the CAs that answered it.
    shown: Vec<(usize, CaHash)>,
    /// What each ballot carried.
    carried: Vec<(u64, Ballot, ClusterId)>,
}

impl Truth {
    /// A ledger of its own begins to exist.
    pub fn new_voter(&mut self, copied_from: Option<usize>) -> usize {
        let register = copied_from.map(|voter| self.published[voter].clone()).unwrap_or_default();
        self.published.push(register);
        let voter = self.published.len() - 1;
        let seen: Vec<CaHash> = self
            .shown
            .iter()
            .filter(|(who, _)| Some(*who) == copied_from)
            .map(|(_, ca)| ca.clone())
            .collect();
        self.shown.extend(seen.into_iter().map(|ca| (voter, ca)));
        voter
    }

    /// The CA that an address showed to a voter.
    pub fn show(&mut self, voter: usize, ca: &CaHash) {
        if !self.shown.iter().any(|(who, shown)| *who == voter && shown == ca) {
            self.shown.push((voter, ca.clone()));
        }
    }

    /// Whether a certificate with this CA was chosen.
    pub fn is_chosen(&self, ca: &CaHash) -> bool {
        self.chosen.iter().any(|certificate| certificate.ca_hash == *ca)
    }
}

impl World {
    /// Notes a violation, the first of a history.
    pub fn broken(&mut self, text: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let text = text();
            self.say(0, || format!("VIOLATED: {text}"));
            self.violation = Some(text);
        }
    }

    /// A record is durable on a machine: written, or found at a start.
    pub fn durable(&mut self, number: u8) {
        let machine = &self.machines[usize::from(number) - 1];
        let (voter, record) = (machine.voter, std::sync::Arc::clone(&machine.record));
        let me = self.identities[usize::from(machine.disk.identity)].clone();
        let identity = usize::from(machine.disk.identity);
        self.vote_counts(voter, identity, &record, &me);
        self.certificate_counts(&record);
        self.data_counts(number, &record);
    }

    /// Nobody gives up, as those of a member that was removed, the data of one that its cluster lists where it is.
    fn data_counts(&mut self, number: u8, record: &Record) {
        let Kept::Discarding { reason } = &record.data else { return };
        let machine = &self.machines[usize::from(number) - 1];
        let Data::Server { cluster, member } = machine.disk.data else { return };
        let listed = self.etcds[cluster].members.iter().any(|m| m.id == member && m.at == machine.at);
        if listed && reason.starts_with(REMOVED_FROM) {
            let name = machine.name.clone();
            self.broken(|| format!("{name} gives up the data of a member that its cluster lists"));
        }
    }

    /// Votes count by identity, as their readers count them: two copies of one ledger have one vote between them.
    fn vote_counts(&mut self, voter: usize, identity: usize, record: &Record, me: &NodeId) {
        let Some(accepted) = &record.register.accepted else { return };
        let (era, ballot) = (record.era, &accepted.ballot);
        let votes = &mut self.truth.votes;
        let at = votes.iter().position(|(e, b, c, _)| *e == era && b == ballot && *c == accepted.certificate);
        let at = at.unwrap_or_else(|| {
            votes.push((era, ballot.clone(), accepted.certificate.clone(), Vec::new()));
            votes.len() - 1
        });
        if votes[at].3.contains(&identity) {
            return;
        }
        votes[at].3.push(identity);
        let enough = votes[at].3.len() >= self.settings[0].founders;
        let certificate = &accepted.certificate;
        if enough && !self.truth.chosen.contains(certificate) {
            let other =
                self.truth.chosen.iter().any(|c| c.era == era && c.cluster_id != certificate.cluster_id);
            let founder = certificate.founder_name.clone();
            self.truth.chosen.push(certificate.clone());
            self.decision.choose(self.now, &certificate.ca_hash);
            self.say(0, || format!("chosen: the certificate of {founder}"));
            if other {
                self.broken(|| format!("two certificates were chosen in era {era}"));
            }
        }
        let shown = self.truth.shown.iter().any(|(who, ca)| *who == voter && *ca == certificate.ca_hash);
        if !shown && certificate.founder != *me {
            self.broken(|| "a vote was cast for a CA that its voter never saw served".to_owned());
        }
    }

    fn certificate_counts(&mut self, record: &Record) {
        let Some(certificate) = &record.certificate else { return };
        let stored = (record.era, certificate.cluster_id.clone());
        if self.truth.stored.contains(&stored) {
            return;
        }
        if self.truth.stored.iter().any(|(era, _)| *era == record.era) {
            self.broken(|| format!("two certificates are believed in era {}", record.era));
        }
        let chosen = self.truth.chosen.iter().any(|c| c.cluster_id == certificate.cluster_id);
        if !chosen && !self.control.without_votes() {
            self.broken(|| "a certificate was stored that was not chosen".to_owned());
        }
        self.truth.stored.push(stored);
    }

    /// What a machine says must be on its disk, and never behind what it said before.
    pub fn spoken(&mut self, number: u8, claim: &muster::gossip::Claim) {
        let machine = &self.machines[usize::from(number) - 1];
        let voter = machine.voter;
        let Some(register) = &claim.register else { return };
        let at_least = |disk: &Register, said: &Register| {
            let ballot = |register: &Register| register.accepted.as_ref().map(|a| a.ballot.clone());
            disk.promised >= said.promised && ballot(disk) >= ballot(said)
        };
        // A write that failed after its rename leaves more on the disk than is said.
        if machine.disk.record.era == claim.era && !at_least(&machine.disk.record.register, register) {
            self.broken(|| format!("node{number} spoke of a promise or a vote that is not on its disk"));
            return;
        }
        let (era, last) = &self.truth.published[voter];
        let ballot = |register: &Register| register.accepted.as_ref().map(|a| a.ballot.clone());
        let behind = *era == claim.era
            && last != register
            && (register.promised < last.promised || ballot(register) < ballot(last));
        let era_behind = *era > claim.era;
        if behind {
            self.broken(|| format!("node{number} went back behind its promise or its vote"));
        }
        if era_behind {
            self.broken(|| format!("node{number} went back to era {}", claim.era));
        }
        if self.truth.published[voter] != (claim.era, register.clone()) {
            self.truth.published[voter] = (claim.era, register.clone());
        }
        if let Some((ballot, certificate)) =
            claim.proposal.as_ref().and_then(|p| Some((&p.ballot, p.certificate.as_ref()?)))
        {
            let carried = &mut self.truth.carried;
            match carried.iter().find(|(era, b, _)| *era == claim.era && b == ballot) {
                Some((_, _, cluster)) if *cluster != certificate.cluster_id && !self.has_copies => {
                    self.broken(|| "one ballot carried two certificates".to_owned());
                }
                Some(_) => {}
                None => carried.push((claim.era, ballot.clone(), certificate.cluster_id.clone())),
            }
        }
    }

    /// k3s makes a cluster of its own on this machine.
    pub fn founds(&mut self, number: u8) {
        let record = &self.machines[usize::from(number) - 1].disk.record;
        if record.certificate.is_some() {
            self.broken(|| format!("node{number} knows a certificate and founds all the same"));
        } else if !matches!(record.data, Kept::Provisional { .. }) {
            self.broken(|| format!("node{number} founds without its ledger's word"));
        }
    }

    /// Everything that must hold at every moment.
    pub fn check_invariants(&mut self) {
        self.coverage.checks += 1;
        let mut serving: Option<(u64, usize)> = None;
        let mut broken = None;
        for machine in &self.machines {
            let record = &machine.disk.record;
            if let (Kept::Member { .. }, Data::Server { cluster, .. } | Data::Agent { cluster }) =
                (&record.data, machine.disk.data)
            {
                let certified = record.certificate.as_ref().map(|c| &c.ca_hash);
                if certified != Some(&self.etcds[cluster].ca) {
                    broken = Some(format!("{} serves a cluster without its certificate", machine.name));
                }
                match serving {
                    Some((era, other)) if era == record.era && other != cluster => {
                        broken = Some(format!("two clusters have members in era {era}"));
                    }
                    _ => serving = Some((record.era, cluster)),
                }
            }
            if record.data == Kept::None && machine.k3s.is_some() && !machine.disk.damaged {
                broken = Some(format!("{} runs k3s without its ledger's word", machine.name));
            }
            // Once a certificate is known, only its founder may still be configured to found.
            let other = record
                .certificate
                .as_ref()
                .is_some_and(|c| c.founder != self.identities[usize::from(machine.disk.identity)]);
            let given_up = !matches!(record.data, Kept::Discarding { .. });
            if other && given_up && machine.disk.config == Some(K3sWanted::Provisional) {
                broken = Some(format!("{} is armed beside the cluster there is", machine.name));
            }
        }
        for etcd in &self.etcds {
            if etcd.members.len() > 1 && !self.truth.is_chosen(&etcd.ca) && !self.control.without_votes() {
                broken = Some("a cluster that was not chosen was joined".to_owned());
            }
        }
        if self.heals.is_some() {
            broken = broken.or_else(|| self.two_healers());
        }
        if let Some(broken) = broken {
            self.broken(|| broken);
        }
    }

    /// Everything that must hold when all have come to rest.
    pub fn check_rest(&mut self) {
        let mut clusters: Vec<usize> = Vec::new();
        let mut broken = None;
        for machine in self.machines.iter().filter(|machine| machine.up) {
            let data = match machine.disk.data {
                Data::Server { cluster, .. } | Data::Agent { cluster } => cluster,
                Data::Empty => continue,
            };
            let serving = machine.phase == Some(muster::core::Phase::Serving);
            if serving && machine.disk.config == Some(K3sWanted::Provisional) {
                broken = Some(format!("{} serves and is still armed to found", machine.name));
            }
            if serving && !clusters.contains(&data) {
                clusters.push(data);
            }
            let parked = machine.phase == Some(muster::core::Phase::Parked);
            if !serving && !parked && machine.k3s.is_some() && !self.truth.is_chosen(&self.etcds[data].ca) {
                broken = Some(format!("{} still runs a cluster that was not chosen", machine.name));
            }
        }
        if clusters.len() > 1 {
            broken = Some("two clusters serve at the end".to_owned());
        }
        if let Some(machine) =
            self.machines.iter().find(|machine| machine.up && machine.rule() == "two-clusters")
        {
            broken = Some(format!("{} sees two clusters", machine.name));
        }
        if let Some(broken) = broken {
            self.broken(|| broken);
        }
    }
}
