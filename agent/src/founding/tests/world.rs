//! A world of machines that have only [`judge`](super::super::judge): disks that survive crashes and are wiped, published
//! claims of which a reader sees any earlier one, partitions, opinions about who is live, provisional clusters that come up,
//! die and are lost. A history is one seed: a stormy part in which anything happens, then a calm part in which faults stop.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::testing::id;
use super::super::{
    Ballot, Certificate, Judgement, LiveCheck, Move, Other, Own, Parameters, Proposal, Register, Terms, judge,
};
use super::checker::{Checker, Violation};
use crate::core::{CaHash, ClusterId, Known, NodeId, ParametersHash};

pub(super) const SETTLE: u64 = 2;
pub(super) const PATIENCE: u64 = 8;

/// SplitMix64: small, seeded, the same everywhere.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a node runs. The shipped rules are the default of every method; a control breaks exactly one.
pub(super) trait Rules {
    fn judge(&self, own: &Own, others: &[Other], terms: &Terms, check: &dyn LiveCheck) -> Judgement {
        judge(own, others, terms, check)
    }
    /// What a restart does to the disk.
    fn restart(&self, _own: &mut Own) {}
    /// Whether a move is published before it is synced, so that a crash between the two loses it here and not elsewhere.
    fn publishes_first(&self) -> bool {
        false
    }
    /// Identities that may ever exist for this many founders.
    fn identities(&self, founders: usize) -> usize {
        2 * founders - 1
    }
}

pub(super) struct Shipped;
impl Rules for Shipped {}

/// k3s on one machine, before there is a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
enum K3s {
    Never,
    Starting(CaHash),
    Up(CaHash),
    /// Its data is there and nothing runs.
    Stopped(CaHash),
}

/// What one claim says, as far as founding reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    eligible: bool,
    parameters: ParametersHash,
    fitness: u8,
    register: Option<Register>,
    proposal: Option<Proposal>,
    certificate: Option<Arc<Certificate>>,
}

struct Machine {
    identity: usize,
    own: Own,
    certificate: Option<Arc<Certificate>>,
    up: bool,
    eligible: bool,
    k3s: K3s,
    /// k3s never becomes healthy here.
    lame: bool,
    /// k3s runs here, and nobody else reaches it.
    walled: bool,
    fitness: u8,
    parameters: ParametersHash,
    founders: usize,
    /// By identity: which snapshot of it was read last.
    seen: BTreeMap<usize, usize>,
    live_set: (BTreeSet<NodeId>, u64),
    watched: (Option<Ballot>, u64),
    retry_at: u64,
    last_rule: String,
    last_detail: String,
}

/// How a history ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) violations: Vec<Violation>,
    /// Every machine that is up holds the certificate.
    pub(super) formed: bool,
    /// Why not, where the reason is one that the protocol allows.
    pub(super) blocked: Option<String>,
    /// Whether it was chosen in the stormy part already.
    pub(super) chosen_in_storm: bool,
    pub(super) rules: BTreeMap<String, usize>,
    pub(super) story: String,
}

pub(super) struct World<'a> {
    rules: &'a dyn Rules,
    dice: Dice,
    founders: usize,
    most: usize,
    machines: Vec<Machine>,
    /// By identity.
    published: Vec<Vec<Snapshot>>,
    /// By identity: the machine it lives on, if it still does.
    home: Vec<Option<usize>>,
    reach: Vec<Vec<bool>>,
    fresh: u8,
    now: u64,
    /// Few faults, many links that change: see [`World::storm`].
    contest: bool,
    calm: bool,
    checker: Checker,
    seen_rules: BTreeMap<String, usize>,
    story: Option<String>,
}

fn address(machine: usize) -> IpAddr {
    [10, 0, 0, u8::try_from(machine).unwrap() + 1].into()
}

struct Answers(BTreeMap<IpAddr, Known<CaHash>>);
impl LiveCheck for Answers {
    fn served(&self, address: IpAddr) -> Known<CaHash> {
        self.0.get(&address).cloned().unwrap_or(Known::Absent)
    }
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, rules: &'a dyn Rules, tell: bool) -> Self {
        let mut dice = Dice::new(seed);
        let contest = dice.one_in(2);
        let founders = 2 + dice.below(3).min(dice.below(3)).min(if contest { dice.below(2) } else { 2 });
        let most = rules.identities(founders);
        let count = (founders + dice.below(most - founders + 1)).min(most);
        let odd = if founders > 2 && !contest && dice.one_in(8) { Some(dice.below(count)) } else { None };
        let mut world = World {
            rules,
            dice,
            founders,
            most,
            machines: Vec::new(),
            published: Vec::new(),
            home: Vec::new(),
            reach: vec![vec![true; count]; count],
            fresh: 0,
            now: 0,
            contest,
            calm: false,
            checker: Checker::new(founders),
            seen_rules: BTreeMap::new(),
            story: tell.then(String::new),
        };
        let trouble = !contest && world.dice.one_in(2);
        let healthy = world.dice.below(count);
        for machine in 0..count {
            let trouble = trouble && machine != healthy;
            let mut parameters = Parameters::default();
            let mut founders = founders;
            if odd == Some(machine) {
                founders -= 1;
                parameters.0.insert("founders".into(), founders.to_string());
            }
            let own = world.born(machine);
            let machine = Machine {
                identity: world.home.len() - 1,
                own,
                certificate: None,
                up: true,
                eligible: true,
                k3s: K3s::Never,
                lame: trouble && world.dice.one_in(3),
                walled: trouble && world.dice.one_in(4),
                fitness: 1 + u8::try_from(world.dice.below(2)).unwrap(),
                parameters: parameters.hash(),
                founders,
                seen: BTreeMap::new(),
                live_set: (BTreeSet::new(), 0),
                watched: (None, 0),
                retry_at: 0,
                last_rule: String::new(),
                last_detail: String::new(),
            };
            world.machines.push(machine);
        }
        world
    }

    fn born(&mut self, machine: usize) -> Own {
        let n = u8::try_from(self.home.len()).unwrap();
        self.home.push(Some(machine));
        self.published.push(Vec::new());
        Own {
            id: id(n),
            name: format!("node{n}"),
            address: address(machine),
            era: 1,
            register: Register::default(),
            proposal: None,
            ballot_counter: 0,
            heard: BTreeSet::from([id(n)]),
            provisional: Known::Absent,
        }
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let _ = writeln!(story, "{:>4} {}", self.now, text());
        }
    }

    /// The whole history.
    pub(super) fn run(mut self) -> Ended {
        let steps = 40 + self.dice.below(200);
        for _ in 0..steps {
            self.now += 1;
            self.storm();
        }
        let chosen_in_storm = self.checker.chosen().is_some();
        let blocked = self.calm();
        let formed = self.machines.iter().filter(|m| self.counts(m)).all(|m| m.certificate.is_some());
        Ended {
            violations: self.checker.violations,
            formed: formed && blocked.is_none(),
            blocked,
            chosen_in_storm,
            rules: self.seen_rules,
            story: self.story.unwrap_or_default(),
        }
    }

    /// Machines that the end of the history is measured by.
    fn counts(&self, machine: &Machine) -> bool {
        machine.up && machine.founders == self.founders
    }

    fn storm(&mut self) {
        let i = self.dice.below(self.machines.len());
        if self.contest {
            // Nothing fails but links and agents: the shortest way to two nominees with an acceptor between them.
            return match self.dice.below(100) {
                0..=81 => self.tick(i),
                82..=89 => self.k3s(i),
                90..=93 => self.restart(i),
                _ => self.partition(),
            };
        }
        match self.dice.below(100) {
            0..=79 => self.tick(i),
            80..=90 => self.k3s(i),
            91..=92 => {
                self.machines[i].up = !self.machines[i].up;
                let up = self.machines[i].up;
                self.tell(|| format!("machine {i} is {}", if up { "up" } else { "down" }));
                if up {
                    self.restart(i);
                }
            }
            93..=94 => self.restart(i),
            95 => {
                if self.home.len() < self.most {
                    self.wipe(i);
                }
            }
            96..=98 => self.partition(),
            _ => {
                self.machines[i].eligible = !self.machines[i].eligible;
                self.publish(i);
            }
        }
    }

    fn restart(&mut self, i: usize) {
        self.tell(|| format!("machine {i} restarts"));
        self.rules.restart(&mut self.machines[i].own);
        self.machines[i].seen.clear();
        self.publish(i);
    }

    /// The disk is gone: whatever comes up is a new identity with a new k3s.
    fn wipe(&mut self, i: usize) {
        let old = self.machines[i].identity;
        self.home[old] = None;
        let own = self.born(i);
        self.tell(|| format!("machine {i} is wiped: node{old} is gone, {} is new", own.name));
        let machine = &mut self.machines[i];
        machine.identity = self.home.len() - 1;
        machine.own = own;
        machine.certificate = None;
        machine.k3s = K3s::Never;
        machine.seen.clear();
        machine.live_set.1 = self.now;
        machine.watched = (None, self.now);
    }

    fn partition(&mut self) {
        let n = self.machines.len();
        let kind = self.dice.below(6);
        // Mostly just as many machines as can found are together, and later as many others: that is where a split would be.
        let mut sides = vec![false; n];
        for _ in 0..self.founders {
            let next = self.dice.below(n);
            sides[next] = true;
        }
        for from in 0..n {
            for to in 0..n {
                self.reach[from][to] = match kind {
                    0 => true,
                    1 => !self.dice.one_in(3),
                    _ => from == to || sides[from] == sides[to],
                };
            }
        }
        self.tell(|| format!("links change ({kind}): {sides:?}"));
    }

    fn k3s(&mut self, i: usize) {
        let roll = self.dice.below(16);
        let fresh = self.fresh_ca();
        let machine = &mut self.machines[i];
        let was = machine.k3s.clone();
        machine.k3s = match machine.k3s.clone() {
            K3s::Never => K3s::Never,
            K3s::Starting(ca) if !machine.lame && roll < 14 => K3s::Up(ca),
            K3s::Starting(ca) => K3s::Starting(ca),
            K3s::Up(ca) if roll < 2 => K3s::Stopped(ca),
            K3s::Up(ca) => K3s::Up(ca),
            K3s::Stopped(ca) if roll < 8 => K3s::Starting(ca),
            // Its data was lost: the next start makes another CA.
            K3s::Stopped(_) if roll == 15 => K3s::Starting(fresh),
            K3s::Stopped(ca) => K3s::Stopped(ca),
        };
        if machine.k3s != was {
            let now = machine.k3s.clone();
            self.tell(|| format!("k3s on machine {i}: {now:?}"));
        }
    }

    fn fresh_ca(&mut self) -> CaHash {
        self.fresh = self.fresh.wrapping_add(1);
        CaHash::from_digest(&[self.fresh; 32])
    }

    fn publish(&mut self, i: usize) {
        let machine = &self.machines[i];
        let snapshot = Snapshot {
            eligible: machine.eligible,
            parameters: machine.parameters.clone(),
            fitness: machine.fitness,
            register: machine.certificate.is_none().then(|| machine.own.register.clone()),
            proposal: machine.own.proposal.clone().filter(|_| machine.certificate.is_none()),
            certificate: machine.certificate.clone(),
        };
        let list = &mut self.published[machine.identity];
        if list.last() != Some(&snapshot) {
            list.push(snapshot);
        }
    }

    /// What machine `i` reads now: identity, whether live, and which snapshot.
    fn view(&mut self, i: usize) -> Vec<(usize, bool, usize)> {
        let mut view = Vec::new();
        for j in 0..self.published.len() {
            if j == self.machines[i].identity || self.published[j].is_empty() {
                continue;
            }
            let latest = self.published[j].len() - 1;
            let home = self.home[j];
            if self.calm {
                let live = home.is_some_and(|m| self.machines[m].up);
                view.push((j, live, latest));
                continue;
            }
            // A claim of a machine that is gone still goes round.
            let reached = home.map_or_else(|| self.dice.one_in(2), |m| self.reach[m][i]);
            if reached {
                let read = if self.dice.one_in(6) { self.dice.below(latest + 1) } else { latest };
                self.machines[i].seen.insert(j, read);
            }
            if let Some(read) = self.machines[i].seen.get(&j).copied() {
                let live = if reached { !self.dice.one_in(12) } else { self.dice.one_in(8) };
                view.push((j, live, read));
            }
        }
        view
    }

    /// What `/cacerts` says at every machine, asked from machine `i`.
    fn answers(&mut self, i: usize) -> Answers {
        let mut answers = BTreeMap::new();
        for m in 0..self.machines.len() {
            let target = &self.machines[m];
            let open = m == i || (self.reach[i][m] && !target.walled);
            let truth = match &target.k3s {
                K3s::Up(ca) if open && target.up => Known::Yes(ca.clone()),
                _ => Known::Absent,
            };
            let said = match if self.calm { 15 } else { self.dice.below(16) } {
                0 => Known::unknown("a founder's address", "no clear answer"),
                1 => Known::Absent,
                _ => truth,
            };
            answers.insert(address(m), said);
        }
        Answers(answers)
    }

    fn terms(&mut self, i: usize, others: &[Other]) -> Terms {
        let (now, dice, calm) = (self.now, &mut self.dice, self.calm);
        let machine = &mut self.machines[i];
        let (settled, watched, may_retry) = if calm {
            let live: BTreeSet<NodeId> =
                others.iter().filter(|o| o.live && o.eligible).map(|o| o.id.clone()).collect();
            if live != machine.live_set.0 {
                machine.live_set = (live, now);
            }
            let top = others
                .iter()
                .filter(|o| o.live && o.eligible)
                .filter_map(|o| o.proposal.as_ref().map(|p| p.ballot.clone()))
                .max();
            if top != machine.watched.0 {
                machine.watched = (top, now);
            }
            (now - machine.live_set.1, now - machine.watched.1, now >= machine.retry_at)
        } else {
            let some = [0, SETTLE, PATIENCE, 1000, 1000, 1000];
            (some[dice.below(6)], some[dice.below(6)], !dice.one_in(4))
        };
        let mut draw = [0; 32];
        draw[..8].copy_from_slice(&dice.next().to_be_bytes());
        Terms {
            founders: machine.founders,
            servers: 3,
            parameters: machine.parameters.clone(),
            fitness: machine.fitness,
            zone: String::new(),
            settled_for: Duration::from_secs(settled),
            settle: Duration::from_secs(SETTLE),
            nominee_watched_for: Duration::from_secs(watched),
            patience: Duration::from_secs(PATIENCE),
            may_retry,
            fresh_cluster: ClusterId::from_digest(&draw),
        }
    }

    /// One tick of the agent on machine `i`.
    fn tick(&mut self, i: usize) {
        if !self.machines[i].up {
            return;
        }
        let view = self.view(i);
        // A claim that carries a chosen certificate is believed, unless the parameters differ: those machines park.
        let told = view.iter().find_map(|(j, _, read)| self.published[*j][*read].certificate.clone());
        if self.machines[i].certificate.is_none()
            && let Some(certificate) = told
            && certificate.parameters_hash == self.machines[i].parameters
        {
            self.store(i, certificate);
        }
        if self.machines[i].certificate.is_some() || !self.machines[i].eligible {
            self.publish(i);
            return;
        }
        let others: Vec<Other> = view
            .iter()
            .map(|(j, live, read)| {
                let snapshot = self.published[*j][*read].clone();
                Other {
                    id: id(u8::try_from(*j).unwrap()),
                    live: *live,
                    eligible: snapshot.eligible,
                    era: 1,
                    parameters: snapshot.parameters,
                    register: snapshot.register,
                    proposal: snapshot.proposal,
                    fitness: snapshot.fitness,
                    zone: String::new(),
                }
            })
            .collect();
        let terms = self.terms(i, &others);
        let answers = self.answers(i);
        let machine = &mut self.machines[i];
        machine.own.provisional = match &machine.k3s {
            K3s::Up(ca) => Known::Yes(ca.clone()),
            K3s::Starting(_) => Known::unknown("the provisional cluster", "etcd is not healthy"),
            K3s::Never | K3s::Stopped(_) => Known::Absent,
        };
        let judgement = self.rules.judge(&machine.own, &others, &terms, &answers);
        if let Some(why) = judgement.why.first() {
            *self.seen_rules.entry(why.rule.to_string()).or_default() += 1;
            machine.last_rule = why.rule.to_string();
            machine.last_detail = why.detail.to_string();
        }
        let durable =
            judgement.moves.iter().filter(|m| !matches!(m, Move::Check(_) | Move::StartProvisional));
        assert!(durable.count() <= 1, "more than one durable move: {judgement:?}");
        if self.story.is_some() {
            let name = self.machines[i].own.name.clone();
            self.tell(|| format!("{name}: {} {:?}", judgement.why[0].rule, judgement.moves));
        }
        for step in judgement.moves {
            self.perform(i, step);
        }
        self.publish(i);
    }

    fn perform(&mut self, i: usize, step: Move) {
        let fresh = self.fresh_ca();
        let machine = &mut self.machines[i];
        let before = machine.own.clone();
        match step {
            Move::Check(_) => return,
            Move::StartProvisional => {
                machine.k3s = match machine.k3s.clone() {
                    K3s::Never if self.contest => K3s::Up(fresh),
                    K3s::Never => K3s::Starting(fresh),
                    K3s::Stopped(ca) => K3s::Starting(ca),
                    running => running,
                };
                return;
            }
            Move::Store(certificate) => return self.store(i, certificate),
            Move::Hear(heard) => machine.own.heard.extend(heard),
            Move::Promise(ballot) => {
                self.checker.promised(machine.identity, &ballot);
                machine.own.register.promised = Some(ballot);
            }
            Move::Accept(accepted) => {
                self.checker.accepted(machine.identity, &accepted);
                machine.own.register.accepted = Some(accepted);
            }
            Move::Nominate(ballot) => {
                self.checker.promised(machine.identity, &ballot);
                machine.own.ballot_counter = ballot.counter;
                machine.own.register.promised = Some(ballot.clone());
                machine.own.proposal = Some(Proposal { ballot, certificate: None });
            }
            Move::Propose(certificate) => {
                let proposal = machine.own.proposal.as_mut().unwrap();
                self.checker.proposed(&proposal.ballot, &certificate);
                proposal.certificate = Some(certificate);
            }
            Move::Withdraw => {
                machine.own.proposal = None;
                let pause = 1 + self.dice.below(5) as u64;
                self.machines[i].retry_at = self.now + pause;
            }
        }
        if !self.calm && self.dice.one_in(12) {
            // Between the sync and the publishing, or the wrong way round between the publishing and the sync.
            if self.rules.publishes_first() {
                self.publish(i);
                self.machines[i].own = before;
            }
            self.tell(|| format!("machine {i} crashes in the middle of it"));
            self.rules.restart(&mut self.machines[i].own);
            self.machines[i].seen.clear();
        }
    }

    fn store(&mut self, i: usize, certificate: Arc<Certificate>) {
        self.checker.stored(&certificate);
        let machine = &mut self.machines[i];
        let ours = certificate.founder == machine.own.id;
        let same = |ca: &CaHash| ours && *ca == certificate.ca_hash;
        if !matches!(&machine.k3s, K3s::Starting(ca) | K3s::Up(ca) | K3s::Stopped(ca) if same(ca)) {
            machine.k3s = K3s::Never;
        }
        let name = machine.own.name.clone();
        machine.certificate = Some(certificate);
        let certificate = machine.certificate.clone();
        self.tell(|| format!("{name} stores {certificate:?}"));
    }

    /// Faults stop: links heal, machines return (but for one that may be gone for good), opinions are true, k3s starts where
    /// it can. Returns the reason when nothing is founded although that is allowed.
    fn calm(&mut self) -> Option<String> {
        self.calm = true;
        let n = self.machines.len();
        self.reach = vec![vec![true; n]; n];
        let gone = if self.dice.one_in(3) { Some(self.dice.below(n)) } else { None };
        for i in 0..n {
            let back = !self.machines[i].up;
            self.machines[i].up = gone != Some(i);
            self.machines[i].eligible = true;
            if back && self.machines[i].up {
                self.rules.restart(&mut self.machines[i].own);
            }
        }
        self.tell(|| format!("faults stop; machine {gone:?} is gone for good"));
        for i in 0..n {
            if self.machines[i].up {
                self.publish(i);
            }
        }
        let rounds = (PATIENCE + 8) * (2 * n as u64 + 2);
        for _ in 0..rounds {
            self.now += 1;
            for i in 0..n {
                let machine = &mut self.machines[i];
                machine.k3s = match machine.k3s.clone() {
                    K3s::Starting(ca) | K3s::Stopped(ca) if !machine.lame => K3s::Up(ca),
                    same => same,
                };
                self.tick(i);
            }
            if self.machines.iter().filter(|m| self.counts(m)).all(|m| m.certificate.is_some()) {
                return None;
            }
        }
        let waiting: Vec<&Machine> = self.machines.iter().filter(|m| self.counts(m)).collect();
        let able = waiting.iter().any(|m| !m.lame && !m.walled);
        // A vote binds while what was voted for may have been chosen: only a quorum without such votes may go on. A vote that
        // nobody but the founder ever cast is no excuse.
        let unbound = waiting.iter().filter(|m| {
            m.own.register.accepted.as_ref().is_none_or(|vote| {
                let founder =
                    self.machines.iter().find(|f| f.own.address == vote.certificate.founder_address);
                let served = founder
                    .is_some_and(|f| f.up && !f.walled && f.k3s == K3s::Up(vote.certificate.ca_hash.clone()));
                served || !self.checker.others_voted(&vote.certificate)
            })
        });
        let reason = if waiting.len() < self.founders {
            Some("too few machines are up")
        } else if !able {
            Some("no machine can serve its k3s")
        } else if unbound.count() < self.founders {
            Some("machines that have votes do not serve what was voted for")
        } else {
            None
        };
        if reason.is_none() {
            let rules =
                waiting.iter().map(|m| format!("{}: {} ({})", m.own.name, m.last_rule, m.last_detail));
            self.checker.violations.push(Violation::Stalled(rules.collect::<Vec<_>>().join("; ")));
        }
        Some(reason.unwrap_or("stalled").to_owned())
    }
}
