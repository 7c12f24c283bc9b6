//! The founding judgement: a pure function from what this node has on disk and what the others signed to the next moves.
//!
//! The same function runs in the agent, in the tests of every interleaving, and in the simulator. It says at most one durable
//! move at a time; the caller writes it, sees it written, publishes it, and asks again.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::quorum::{self, Free, Registers};
use super::{Accepted, Ballot, Certificate, Judgement, LiveCheck, Move, Other, Own, Register, Terms};
use crate::core::zones::Zones;
use crate::core::{Known, NodeId, Phase, Why};

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

    // How many votes a certificate needs is one of the parameters: votes cast under others are counted by those who share them.
    let voted =
        |register: &Register| register.accepted.as_ref().is_some_and(|a| fits(&a.certificate, own, terms));
    let ours: Registers = registers.iter().filter(|(_, r)| voted(r)).map(|(id, r)| (*id, *r)).collect();
    if let Some(certificate) = quorum::chosen(&ours, terms.founders) {
        let detail = format!("{} voters accepted {}", terms.founders, certificate.founder_name);
        let step = Move::Store(Arc::clone(certificate));
        return Judgement::go(
            Phase::Electing,
            step,
            "certificate-chosen",
            detail,
            "the certificate is stored",
        );
    }

    // Whoever has been heard counts against the bound for ever, so it is written down before anything is promised.
    // Whoever promised or voted counts although it is not eligible any more, and so does a nominee known by its ballot only.
    let eligible = others.iter().filter(same_era).filter(|other| other.eligible).map(|other| &other.id);
    let known = registers.iter().flat_map(|(owner, register)| {
        let promised = register.promised.iter().flat_map(|promised| [*owner, &promised.node]);
        promised.chain(register.accepted.iter().map(|accepted| &accepted.ballot.node))
    });
    let heard = eligible.chain([&own.id]).chain(known);
    let new: BTreeSet<NodeId> = heard.filter(|id| !own.heard.contains(*id)).cloned().collect();
    if !new.is_empty() {
        let detail = format!("{} identities heard in era {}", new.len() + own.heard.len(), own.era);
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
    match vote(own, &voters, &registers, terms, check) {
        // A certificate that cannot be proven must not hold up the rest: this node may still withdraw, or go next itself.
        Some(unproven) if !unproven.is_durable() => {
            let other = propose(own, &voters, &registers, terms, check);
            if other.is_durable() { other } else { unproven }
        }
        Some(judgement) => judgement,
        None => propose(own, &voters, &registers, terms, check),
    }
}

/// Whether a certificate is of this node's era and parameters.
fn fits(certificate: &Certificate, own: &Own, terms: &Terms) -> bool {
    certificate.era == own.era && certificate.parameters_hash == terms.parameters
}

/// The acceptor's part: answers the highest proposal that is in front of it, its own included.
fn vote(
    own: &Own,
    voters: &[&Other],
    registers: &Registers,
    terms: &Terms,
    check: &dyn LiveCheck,
) -> Option<Judgement> {
    // A ballot is unique because only the node it names proposes under it.
    let proposals = voters
        .iter()
        .filter_map(|other| other.proposal.as_ref().filter(|proposal| proposal.ballot.node == other.id))
        .chain(own.proposal.as_ref());
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
    if !fits(certificate, own, terms) {
        return Some(Judgement::wait(
            Phase::Electing,
            "certificate-refused",
            format!("{by} proposes a certificate of another era or with other parameters"),
            "this node does not vote for it",
        ));
    }
    // The founder votes last: its own vote for a cluster that nobody else can reach would bind every later ballot to it.
    if certificate.founder == own.id && votes(registers, ballot) + 1 < terms.founders {
        return None;
    }
    let address = certificate.founder_address;
    match check.served(address) {
        Known::Yes(served) if served == certificate.ca_hash => {
            let accepted = Accepted { ballot: ballot.clone(), certificate: Arc::clone(certificate) };
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

/// Votes cast under a ballot.
fn votes(registers: &Registers, ballot: &Ballot) -> usize {
    registers.values().filter(|r| r.accepted.as_ref().is_some_and(|a| a.ballot == *ballot)).count()
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
            let detail = format!(
                "{} of {} votes for ballot {}",
                votes(registers, &proposal.ballot),
                terms.founders,
                proposal.ballot.counter
            );
            return Judgement::wait(
                Phase::Founding,
                "waiting-for-votes",
                detail,
                "voters check the CA and vote, the founder last",
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
    // A nominee that used up its time hands on to the next in rank, round and round: two machines that cannot start k3s must
    // not hand the turn to each other for ever. Whoever's turn it is may be stuck as well: the one after it waits once more.
    let key = |fitness: u8, id: &NodeId| (fitness, Reverse(id.clone()));
    let spent = nominee.map(|other| key(other.fitness, &other.id));
    let turn = |fitness: u8, id: &NodeId| {
        let key = key(fitness, id);
        let round = spent.as_ref().map_or(0, |spent| match key.cmp(spent) {
            Ordering::Less => 2,
            Ordering::Greater => 1,
            Ordering::Equal => 0,
        });
        (round, key)
    };
    let mine = turn(terms.fitness, &own.id);
    let ahead = voters.iter().filter(|other| turn(other.fitness, &other.id) > mine);
    if let Some(best) = ahead.clone().max_by_key(|other| turn(other.fitness, &other.id)) {
        let waits = terms.patience.saturating_mul(u32::try_from(ahead.count()).unwrap_or(u32::MAX));
        let waited = match nominee {
            Some(_) => terms.nominee_watched_for.saturating_sub(terms.patience),
            None => terms.settled_for.saturating_sub(terms.settle),
        };
        if waited < waits {
            let detail = format!("it is the turn of {} among {seen}", best.id.short());
            let next = "it nominates itself; the next in rank goes on if it does not";
            return Judgement::wait(Phase::Electing, "founding-elsewhere", detail, next);
        }
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
    // A ballot is never used twice, so the last one there is ends the matter. Only a member that lies gets counters there.
    let Some(counter) = highest.checked_add(1) else {
        return Judgement::wait(
            Phase::Parked,
            "ballots-used-up",
            format!("a ballot with counter {highest} was promised"),
            "no higher one exists: muster founding annul opens the next era",
        );
    };
    let ballot = Ballot { counter, node: own.id.clone() };
    let detail = format!("it is this node's turn among {seen}; ballot {}", ballot.counter);
    Judgement::go(Phase::Electing, Move::Nominate(ballot), "nominating", detail, "it asks for promises")
}

/// Chooses what to propose once a quorum has promised.
fn value(
    own: &Own,
    voters: &[&Other],
    terms: &Terms,
    check: &dyn LiveCheck,
    own_allowed: bool,
    adopt: &[&Arc<Certificate>],
) -> Judgement {
    // A vote that was cast for a founder that answers is carried on: it may already be chosen, and it is nearest to it.
    let adopt: Vec<&Arc<Certificate>> = adopt.iter().copied().filter(|c| fits(c, own, terms)).collect();
    let proven = adopt.iter().find(|c| check.served(c.founder_address) == Known::Yes(c.ca_hash.clone()));
    if let Some(certificate) = proven {
        let detail = format!("votes for {} were cast before and it answers", certificate.founder_name);
        let step = Move::Propose(Arc::clone(certificate));
        return Judgement::go(Phase::Electing, step, "carrying-on", detail, "voters check the CA and vote");
    }
    let unasked = adopt.iter().find(|c| check.served(c.founder_address).is_unknown());
    if let Some(certificate) = unasked {
        let detail = format!("votes for {} were cast before", certificate.founder_name);
        let step = Move::Check(certificate.founder_address);
        return Judgement::go(Phase::Electing, step, "carrying-on", detail, "its address is asked first");
    }
    if !own_allowed {
        let Some(first) = adopt.first() else {
            return Judgement::wait(
                Phase::Electing,
                "voted-parameters-differ",
                "certificates that may have been chosen carry other parameters than this node has now"
                    .to_owned(),
                "give every machine the parameters of the time of the vote; if that is out of the question: muster founding annul",
            );
        };
        let (name, address) = (&first.founder_name, first.founder_address);
        return Judgement {
            moves: adopt.iter().map(|c| Move::Check(c.founder_address)).collect(),
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
                Move::Propose(Arc::new(certificate)),
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

/// The founder first, then the best-ranked live voters, as many as servers are wanted, spread over the zones.
fn first_servers(own: &Own, voters: &[&Other], terms: &Terms) -> Vec<NodeId> {
    let mut left: Vec<&Other> = voters.to_vec();
    let mut zones = Zones::of([terms.zone.as_str()]);
    let mut chosen = vec![own.id.clone()];
    while chosen.len() < terms.servers {
        let best = (0..left.len())
            .max_by_key(|at| (zones.rank(&left[*at].zone, left[*at].fitness), Reverse(&left[*at].id)));
        let Some(best) = best.map(|at| left.swap_remove(at)) else { break };
        zones.take(&best.zone);
        chosen.push(best.id.clone());
    }
    chosen
}
