//! The founding judgement: a pure function from what this node has on disk and what the others signed to the next moves.
//!
//! The same function runs in the agent, in the tests of every interleaving, and in the simulator. It says at most one durable
//! move at a time; the caller writes it, sees it written, publishes it, and asks again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::quorum::{self, Free, Registers};
use super::{Accepted, Ballot, Certificate, Proposal, Register};
use crate::core::{CaHash, ClusterId, Known, NodeId, ParametersHash, Phase, Why};

/// What this node has on its own disk. Never taken from gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// This node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The era it is in.
    pub era: u64,
    /// Its acceptor's register.
    pub register: Register,
    /// Its proposal.
    pub proposal: Option<Proposal>,
    /// Highest ballot counter it ever used.
    pub ballot_counter: u64,
    /// Server-eligible identities ever heard in this era, its own included, as they stand on disk.
    pub heard: BTreeSet<NodeId>,
    /// The CA of the provisional cluster that runs here, once its etcd is healthy: the proof that it can be founded.
    pub provisional: Known<CaHash>,
}

/// Another server-eligible node, as its own signed claim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The node.
    pub id: NodeId,
    /// Whether the failure detector takes it for live.
    pub live: bool,
    /// Whether it may vote and found, by its own word.
    pub eligible: bool,
    /// The era it is in.
    pub era: u64,
    /// Hash of its parameters.
    pub parameters: ParametersHash,
    /// Its register, if it published one.
    pub register: Option<Register>,
    /// Its proposal.
    pub proposal: Option<Proposal>,
    /// Rank by fitness; more is better.
    pub fitness: u8,
}

/// What is agreed beforehand, and this node's present standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Votes a certificate needs.
    pub founders: usize,
    /// Servers the certificate lists at most.
    pub servers: usize,
    /// Hash of this node's parameters.
    pub parameters: ParametersHash,
    /// This node's fitness.
    pub fitness: u8,
    /// How long the set of live eligible nodes has been unchanged.
    pub settled_for: Duration,
    /// How long it must be.
    pub settle: Duration,
    /// How long the highest proposal of another live node has been watched without an outcome.
    pub nominee_watched_for: Duration,
    /// How long a nominee may take.
    pub patience: Duration,
    /// Whether this node's pause after an overtaken ballot is over.
    pub may_retry: bool,
    /// Random bits for the id of a cluster that this node may propose.
    pub fresh_cluster: ClusterId,
}

/// What `/cacerts` at a founder's address was found to hold, if it has been asked lately.
pub trait LiveCheck {
    /// The hash served at an address: yes, absent (nothing answers), unknown (not asked yet, or no clear answer).
    fn served(&self, address: IpAddr) -> Known<CaHash>;
}

/// One move. All but [`Move::Check`] and [`Move::StartProvisional`] change the ledger and are synced before they are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Note identities heard, before anything is promised in their presence.
    Hear(BTreeSet<NodeId>),
    /// Store the certificate that was chosen.
    Store(Certificate),
    /// Promise a ballot.
    Promise(Ballot),
    /// Vote.
    Accept(Accepted),
    /// Nominate this node: take this ballot counter, promise it here, and publish the proposal.
    Nominate(Ballot),
    /// Propose this certificate under the ballot that was promised.
    Propose(Certificate),
    /// Give up the own ballot: a higher one was promised elsewhere.
    Withdraw,
    /// Ask what a founder's address serves.
    Check(IpAddr),
    /// Start the provisional cluster.
    StartProvisional,
}

/// The judgement: the moves, the phase they belong to, and the reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// At most one durable move, and checks.
    pub moves: Vec<Move>,
    /// Seeking, electing or founding.
    pub phase: Phase,
    /// Why.
    pub why: Vec<Why>,
}

impl Judgement {
    fn wait(phase: Phase, rule: &str, detail: String, next: &str) -> Self {
        Self { moves: Vec::new(), phase, why: vec![Why::new(rule, detail, next)] }
    }
    fn go(phase: Phase, step: Move, rule: &str, detail: String, next: &str) -> Self {
        Self { moves: vec![step], phase, why: vec![Why::new(rule, detail, next)] }
    }
}

/// Judges the founding for a node that knows no certificate and whose own checks (host, ledger, fence) have passed.
#[must_use]
pub fn judge(own: &Own, others: &[Other], terms: &Terms, check: &dyn LiveCheck) -> Judgement {
    let same_era = |other: &&Other| other.era == own.era;
    let registers: Registers = others
        .iter()
        .filter(same_era)
        .filter_map(|other| Some((&other.id, other.register.as_ref()?)))
        .chain([(&own.id, &own.register)])
        .collect();

    if let Some(certificate) = quorum::chosen(&registers, terms.founders) {
        let detail = format!("{} voters accepted {}", terms.founders, certificate.founder_name);
        let step = Move::Store(certificate.clone());
        return Judgement::go(
            Phase::Electing,
            step,
            "certificate-chosen",
            detail,
            "the certificate is stored",
        );
    }

    // Whoever has been heard counts against the bound for ever, so it is written down before anything is promised.
    let mut heard: BTreeSet<NodeId> =
        others.iter().filter(same_era).filter(|other| other.eligible).map(|other| other.id.clone()).collect();
    heard.insert(own.id.clone());
    if !heard.is_subset(&own.heard) {
        let new = heard.difference(&own.heard).cloned().collect();
        let detail = format!("{} identities heard in era {}", heard.union(&own.heard).count(), own.era);
        return Judgement::go(
            Phase::Seeking,
            Move::Hear(new),
            "voters-heard",
            detail,
            "they are written to the ledger",
        );
    }
    let most = quorum::most_voters(terms.founders);
    if own.heard.len() > most {
        return Judgement::wait(
            Phase::Parked,
            "too-many-founders",
            format!(
                "{} server-eligible identities were heard, and founders = {} is safe for at most {most}",
                own.heard.len(),
                terms.founders
            ),
            "set founders to at least half of the largest group plus one, on every machine, or give machines role = \"agent\"",
        );
    }

    let voters: Vec<&Other> = others
        .iter()
        .filter(same_era)
        .filter(|o| o.live && o.eligible && o.parameters == terms.parameters)
        .collect();
    if let Some(judgement) = vote(own, &voters, terms, check) {
        return judgement;
    }
    propose(own, &voters, &registers, terms, check)
}

/// The acceptor's part: answers the highest proposal that is in front of it, its own included.
fn vote(own: &Own, voters: &[&Other], terms: &Terms, check: &dyn LiveCheck) -> Option<Judgement> {
    let proposals = voters.iter().filter_map(|other| other.proposal.as_ref()).chain(own.proposal.as_ref());
    let proposal = proposals.max_by_key(|proposal| &proposal.ballot)?;
    let ballot = &proposal.ballot;
    if own.register.promised.as_ref().is_some_and(|promised| promised > ballot) {
        return None;
    }
    let by = if ballot.node == own.id { "this node" } else { ballot.node.short() };
    if own.register.promised.as_ref() != Some(ballot) {
        let detail = format!("ballot {} of {by}", ballot.counter);
        return Some(Judgement::go(
            Phase::Electing,
            Move::Promise(ballot.clone()),
            "promising",
            detail,
            "no lower ballot is accepted here any more",
        ));
    }
    let certificate = proposal.certificate.as_ref()?;
    if own.register.accepted.as_ref().is_some_and(|accepted| accepted.ballot == *ballot) {
        return None;
    }
    if certificate.era != own.era || certificate.parameters_hash != terms.parameters {
        return Some(Judgement::wait(
            Phase::Electing,
            "certificate-refused",
            format!("{by} proposes a certificate of another era or with other parameters"),
            "this node does not vote for it",
        ));
    }
    let address = certificate.founder_address;
    match check.served(address) {
        Known::Yes(served) if served == certificate.ca_hash => {
            let accepted = Accepted { ballot: ballot.clone(), certificate: certificate.clone() };
            let detail = format!("{} at {address} serves the proposed CA", certificate.founder_name);
            Some(Judgement::go(
                Phase::Electing,
                Move::Accept(accepted),
                "voting",
                detail,
                "the vote is published",
            ))
        }
        Known::Yes(served) => Some(Judgement::go(
            Phase::Electing,
            Move::Check(address),
            "founder-unproven",
            format!(
                "{address} serves CA {} and the certificate says {}",
                served.short(),
                certificate.ca_hash.short()
            ),
            "no vote; the address is asked again",
        )),
        Known::Absent | Known::Unknown(_) => Some(Judgement::go(
            Phase::Electing,
            Move::Check(address),
            "founder-unproven",
            format!("{} at {address} has not shown its CA yet", certificate.founder_name),
            "the address is asked again",
        )),
    }
}

/// The proposer's part: nominates this node when it is the best that is live, and carries its ballot through.
fn propose(
    own: &Own,
    voters: &[&Other],
    registers: &Registers,
    terms: &Terms,
    check: &dyn LiveCheck,
) -> Judgement {
    let seen = voters.len() + 1;
    let missing = |found: usize| format!("{found} of {} founders seen under this token", terms.founders);
    if let Some(proposal) = &own.proposal {
        // Only a live voter's promise stands in the way: a register whose owner is gone can be done without.
        let overtaken = voters
            .iter()
            .filter_map(|other| other.register.as_ref())
            .chain([&own.register])
            .any(|register| register.promised.as_ref() > Some(&proposal.ballot));
        if overtaken {
            let detail = format!("a ballot above {} was promised", proposal.ballot.counter);
            return Judgement::go(
                Phase::Electing,
                Move::Withdraw,
                "overtaken",
                detail,
                "the other nominee goes first",
            );
        }
        if proposal.certificate.is_some() {
            let votes = registers
                .values()
                .filter(|register| register.accepted.as_ref().is_some_and(|a| a.ballot == proposal.ballot))
                .count();
            let detail =
                format!("{votes} of {} votes for ballot {}", terms.founders, proposal.ballot.counter);
            return Judgement::wait(
                Phase::Founding,
                "waiting-for-votes",
                detail,
                "voters check the CA and vote",
            );
        }
        return match quorum::free(registers, &proposal.ballot, terms.founders) {
            Free::Promises(count) => Judgement::wait(
                Phase::Electing,
                if seen < terms.founders { "waiting-for-founders" } else { "waiting-for-promises" },
                format!("{count} of {} promises for ballot {}", terms.founders, proposal.ballot.counter),
                "goes on by itself when enough nodes answer",
            ),
            Free::Enough { own: own_allowed, adopt } => value(own, voters, terms, check, own_allowed, &adopt),
        };
    }

    if seen < terms.founders {
        return Judgement::wait(
            Phase::Seeking,
            "waiting-for-founders",
            missing(seen),
            "goes on by itself when enough server-eligible nodes with the same parameters are up at once",
        );
    }
    if terms.settled_for < terms.settle {
        let detail =
            format!("{seen} nodes seen; the view must be unchanged for {} ms", terms.settle.as_millis());
        return Judgement::wait(
            Phase::Seeking,
            "view-settling",
            detail,
            "the best-ranked node then nominates itself",
        );
    }
    let nominee = voters
        .iter()
        .filter(|other| {
            other.proposal.as_ref().is_some_and(|p| Some(&p.ballot) >= own.register.promised.as_ref())
        })
        .max_by_key(|other| other.proposal.as_ref().map(|p| &p.ballot));
    if let Some(nominee) = nominee
        && terms.nominee_watched_for < terms.patience
    {
        let detail = format!("{} is nominated and brings its provisional cluster up", nominee.id.short());
        return Judgement::wait(
            Phase::Electing,
            "founding-elsewhere",
            detail,
            "this node votes when it has seen the CA",
        );
    }
    // A nominee that used up its time goes last, so that a machine that cannot start k3s does not hold up the rest.
    let spent = nominee.map(|other| &other.id);
    let rank = |fitness: u8, id: &NodeId| (Some(id) != spent, fitness, std::cmp::Reverse(id.clone()));
    let mine = rank(terms.fitness, &own.id);
    if let Some(better) = voters.iter().find(|other| rank(other.fitness, &other.id) > mine) {
        let best = voters.iter().max_by_key(|other| rank(other.fitness, &other.id)).unwrap_or(better);
        let detail = format!("{} ranks first of {seen}", best.id.short());
        return Judgement::wait(Phase::Electing, "founding-elsewhere", detail, "it nominates itself");
    }
    if !terms.may_retry {
        let detail = "this node's last ballot was overtaken".to_owned();
        return Judgement::wait(
            Phase::Electing,
            "ballot-pause",
            detail,
            "it tries again after a random pause",
        );
    }
    let highest =
        quorum::highest_promise(registers).map_or(0, |ballot| ballot.counter).max(own.ballot_counter);
    let ballot = Ballot { counter: highest.saturating_add(1), node: own.id.clone() };
    let detail = format!("this node ranks first of {seen}; ballot {}", ballot.counter);
    Judgement::go(Phase::Electing, Move::Nominate(ballot), "nominating", detail, "it asks for promises")
}

/// Chooses what to propose once a quorum has promised.
fn value(
    own: &Own,
    voters: &[&Other],
    terms: &Terms,
    check: &dyn LiveCheck,
    own_allowed: bool,
    adopt: &[&Certificate],
) -> Judgement {
    // A vote that was cast for a founder that answers is carried on: it may already be chosen, and it is nearest to it.
    let proven = adopt.iter().find(|c| check.served(c.founder_address) == Known::Yes(c.ca_hash.clone()));
    if let Some(certificate) = proven {
        let detail = format!("votes for {} were cast before and it answers", certificate.founder_name);
        let step = Move::Propose((*certificate).clone());
        return Judgement::go(Phase::Electing, step, "carrying-on", detail, "voters check the CA and vote");
    }
    let unasked = adopt.iter().find(|c| check.served(c.founder_address).is_unknown());
    if let Some(certificate) = unasked {
        let detail = format!("votes for {} were cast before", certificate.founder_name);
        let step = Move::Check(certificate.founder_address);
        return Judgement::go(Phase::Electing, step, "carrying-on", detail, "its address is asked first");
    }
    if !own_allowed {
        let (step, name, address) = match adopt.first() {
            Some(c) => {
                (vec![Move::Check(c.founder_address)], c.founder_name.clone(), c.founder_address.to_string())
            }
            None => (Vec::new(), "another node".to_owned(), "an unknown address".to_owned()),
        };
        return Judgement {
            moves: step,
            phase: Phase::Electing,
            why: vec![Why::new(
                "voted-founder-silent",
                format!("{name} at {address} already has votes, may have been chosen, and does not answer"),
                "waits for it, or for another voter without such a vote; if that machine is gone for good: muster founding annul",
            )],
        };
    }
    match &own.provisional {
        Known::Yes(ca_hash) => {
            let certificate = Certificate {
                cluster_id: terms.fresh_cluster.clone(),
                era: own.era,
                ca_hash: ca_hash.clone(),
                founder: own.id.clone(),
                founder_name: own.name.clone(),
                founder_address: own.address,
                first_servers: first_servers(own, voters, terms),
                parameters_hash: terms.parameters.clone(),
            };
            let detail = format!("the provisional cluster is up with CA {}", ca_hash.short());
            Judgement::go(
                Phase::Founding,
                Move::Propose(certificate),
                "proposing",
                detail,
                "voters check the CA and vote",
            )
        }
        Known::Absent => {
            let detail = format!("{} promises are in", terms.founders);
            let step = Move::StartProvisional;
            Judgement::go(
                Phase::Founding,
                step,
                "starting-provisional",
                detail,
                "k3s starts with cluster-init; nobody joins it yet",
            )
        }
        Known::Unknown(unread) => Judgement::go(
            Phase::Founding,
            Move::StartProvisional,
            "provisional-starting",
            format!("k3s is starting: {}", unread.cause),
            "the certificate is proposed when its datastore is healthy",
        ),
    }
}

/// The founder first, then the best-ranked live voters, as many as servers are wanted.
fn first_servers(own: &Own, voters: &[&Other], terms: &Terms) -> Vec<NodeId> {
    let mut ranked: Vec<&&Other> = voters.iter().collect();
    ranked.sort_by_key(|other| (std::cmp::Reverse(other.fitness), other.id.clone()));
    let rest = ranked.into_iter().take(terms.servers.saturating_sub(1)).map(|other| other.id.clone());
    std::iter::once(own.id.clone()).chain(rest).collect()
}
