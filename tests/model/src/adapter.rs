//! From the small state to what [`judge`] takes, and back.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use muster::core::{CaHash, ClusterId, Known, NodeId};
use muster::founding::{self, Certificate, Judgement, LiveCheck, Move, Other, Own, Parameters, Terms, judge};

use crate::models::{Control, Founding};
use crate::state::{Ballot, Claim, Node, Step, Value};

/// One other node in a view: who, which of its claims, whether it is taken for live.
pub type Sight = (u8, Claim, bool);

/// What a founder's address answers: a value's incarnation by founder, or nothing where the founder is not in the list.
pub type Answers = Vec<(u8, u8)>;

fn id(n: u8) -> NodeId {
    NodeId::from_digest(&[n; 32])
}

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(four) => four.octets()[3],
        IpAddr::V6(_) => unreachable!("addresses are made above"),
    }
}

fn node(id: &NodeId) -> u8 {
    u8::from_str_radix(&id.as_str()[..2], 16).expect("identities are made above")
}

fn ca(founder: u8, incarnation: u8) -> CaHash {
    let mut digest = [0; 32];
    digest[..2].copy_from_slice(&[founder, incarnation]);
    CaHash::from_digest(&digest)
}

fn ballot((counter, node): Ballot) -> founding::Ballot {
    founding::Ballot { counter: counter.into(), node: id(node) }
}

fn small(ballot: &founding::Ballot) -> Ballot {
    (u8::try_from(ballot.counter).expect("counters are bounded"), node(&ballot.node))
}

fn certificate(value: Value) -> Arc<Certificate> {
    Arc::new(Certificate {
        cluster_id: ClusterId::from_digest(&[value.origin; 32]),
        era: 1,
        ca_hash: ca(value.founder, value.incarnation),
        founder: id(value.founder),
        founder_name: String::new(),
        founder_address: address(value.founder),
        first_servers: vec![id(value.founder)],
        parameters_hash: Parameters::default().hash(),
    })
}

fn value(certificate: &Certificate) -> Value {
    let byte = |text: &str, n: usize| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).expect("hexadecimal");
    Value {
        founder: node(&certificate.founder),
        incarnation: byte(certificate.ca_hash.as_str(), 1),
        origin: byte(certificate.cluster_id.as_str(), 0),
    }
}

fn register(claim: &Claim) -> founding::Register {
    founding::Register {
        promised: claim.promised.map(ballot),
        accepted: claim
            .accepted
            .map(|(b, v)| founding::Accepted { ballot: ballot(b), certificate: certificate(v) }),
    }
}

fn proposal(claim: &Claim) -> Option<founding::Proposal> {
    claim.proposal.map(|(b, v)| founding::Proposal { ballot: ballot(b), certificate: v.map(certificate) })
}

/// Under [`Control::NoLiveCheck`]: whatever was proposed is taken for served.
struct Believed<'a>(&'a [Other]);
impl LiveCheck for Believed<'_> {
    fn served(&self, address: IpAddr) -> Known<CaHash> {
        let proposals = self.0.iter().filter_map(|other| other.proposal.as_ref());
        let named = proposals.filter_map(|p| p.certificate.as_ref()).find(|c| c.founder_address == address);
        named.map_or(Known::Absent, |certificate| Known::Yes(certificate.ca_hash.clone()))
    }
}

struct Served<'a>(&'a Answers);
impl LiveCheck for Served<'_> {
    fn served(&self, address: IpAddr) -> Known<CaHash> {
        let founder = number(address);
        match self.0.iter().find(|(n, _)| *n == founder) {
            Some((_, incarnation)) => Known::Yes(ca(founder, *incarnation)),
            None => Known::Absent,
        }
    }
}

/// All that a judgement can depend on, what differs between models included.
type Key = (usize, Control, u8, Claim, u8, u8, Option<u8>, Vec<Sight>, Answers);

thread_local! {
    /// Judgements made before: the same question comes up in very many states. One thread may ask for several models.
    static MADE: RefCell<HashMap<Key, Option<Step>>> = RefCell::new(HashMap::new());
}

/// The step that node `who` takes in this view.
pub fn step(model: &Founding, who: u8, node: &Node, view: &[Sight], answers: &Answers) -> Option<Step> {
    let disk = node.disk;
    let (view_key, answers_key) = (view.to_vec(), answers.clone());
    let key: Key =
        (model.founders, model.control, who, disk, node.counter, node.heard, node.k3s, view_key, answers_key);
    if let Some(made) = MADE.with_borrow(|made| made.get(&key).copied()) {
        return made;
    }
    let step = ask(model, who, node, view, answers);
    MADE.with_borrow_mut(|made| made.insert(key, step));
    step
}

fn ask(model: &Founding, who: u8, node: &Node, view: &[Sight], answers: &Answers) -> Option<Step> {
    let own = Own {
        id: id(who),
        name: String::new(),
        address: address(who),
        era: 1,
        register: register(&node.disk),
        proposal: proposal(&node.disk),
        ballot_counter: node.counter.into(),
        heard: (0..8).filter(|n| node.heard & (1 << n) != 0).map(id).collect(),
        provisional: node.k3s.map_or(Known::Absent, |incarnation| Known::Yes(ca(who, incarnation))),
    };
    let others: Vec<Other> = view
        .iter()
        .map(|(n, claim, live)| Other {
            id: id(*n),
            live: *live,
            eligible: true,
            era: 1,
            parameters: Parameters::default().hash(),
            register: Some(register(claim)),
            proposal: proposal(claim),
            fitness: 1,
            zone: String::new(),
        })
        .collect();
    // Every clock has run out and every pause is over. Less time only takes moves away, and not to move is always possible
    // here, so this one reading covers all of them.
    let terms = Terms {
        founders: model.founders,
        servers: model.founders,
        parameters: Parameters::default().hash(),
        fitness: 1,
        zone: String::new(),
        settled_for: Duration::from_secs(1_000_000),
        settle: Duration::ZERO,
        nominee_watched_for: Duration::from_secs(1_000_000),
        patience: Duration::from_secs(1),
        may_retry: true,
        fresh_cluster: ClusterId::from_digest(&[node.disk.proposal.map_or(0, |(b, _)| b.0); 32]),
    };
    let judgement = controlled(model.control, &own, &others, &terms, &Served(answers));
    let durable = judgement.moves.into_iter().find(|m| !matches!(m, Move::Check(_)))?;
    Some(match durable {
        Move::Hear(heard) => {
            let bits: BTreeMap<u8, ()> = heard.iter().map(|id| (self::node(id), ())).collect();
            Step::Hear(bits.keys().fold(0, |mask, n| mask | (1 << n)))
        }
        Move::Store(certificate) => Step::Store(value(&certificate)),
        Move::Promise(b) => Step::Promise(small(&b)),
        Move::Accept(accepted) => Step::Accept(small(&accepted.ballot), value(&accepted.certificate)),
        Move::Nominate(b) => Step::Nominate(small(&b)),
        Move::Propose(certificate) => Step::Propose(value(&certificate)),
        Move::Withdraw => Step::Withdraw,
        Move::StartProvisional => Step::Start,
        Move::Check(_) => unreachable!("filtered above"),
    })
}

/// The shipped judgement, or the one that a control puts in its place.
fn controlled(
    control: Control,
    own: &Own,
    others: &[Other],
    terms: &Terms,
    check: &dyn LiveCheck,
) -> Judgement {
    match control {
        Control::VotesIgnored => {
            let judgement = judge(own, others, terms, check);
            if !matches!(&*judgement.why[0].rule, "carrying-on" | "voted-founder-silent") {
                return judgement;
            }
            let (mut own, mut others) = (own.clone(), others.to_vec());
            own.register.accepted = None;
            for register in others.iter_mut().filter_map(|other| other.register.as_mut()) {
                register.accepted = None;
            }
            judge(&own, &others, terms, check)
        }
        Control::LowestIdentity => {
            let mut judgement = judge(own, others, terms, check);
            judgement.moves.clear();
            let live = others.iter().filter(|other| other.live);
            if live.clone().count() + 1 >= terms.founders && live.clone().all(|other| own.id < other.id) {
                let value = Value { founder: node(&own.id), incarnation: 0, origin: 0 };
                judgement.moves.push(Move::Store(certificate(value)));
            }
            judgement
        }
        Control::NoLiveCheck => judge(own, others, terms, &Believed(others)),
        Control::LeaderKey => {
            let mut judgement = judge(own, others, terms, check);
            judgement.moves.clear();
            // The key in the registers of others: here, the vote that whoever took the lead published with it.
            let leaderless = others
                .iter()
                .all(|other| other.register.as_ref().is_none_or(|register| register.accepted.is_none()));
            let live = others.iter().filter(|other| other.live).count();
            if live + 1 >= terms.founders && leaderless {
                let value = Value { founder: node(&own.id), incarnation: 0, origin: 0 };
                judgement.moves.push(Move::Store(certificate(value)));
            }
            judgement
        }
        Control::None | Control::PromiseForgotten | Control::BallotReused | Control::PublishedFirst => {
            judge(own, others, terms, check)
        }
    }
}
