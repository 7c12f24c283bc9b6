//! The group: virtual time, who reaches whom, machines that come and go, and the turn of each agent.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use muster::config::Settings;
use muster::core::{Known, NodeId};
use muster::engine::{Watcher, tick};
use muster::founding::Shared;
use muster::heal::HealSeen;
use muster::k3s::Paths;
use muster::ledger::Record;

use crate::checks::Truth;
use crate::control::Control;
use crate::coverage::Coverage;
use crate::decision::Decision;
use crate::dice::Dice;
use crate::gossip::{Ears, Packet, Said, Weather};
use crate::k3s::Etcd;
use crate::machine::{Crash, Data, Disk, Machine, Writes, identity, name};
use crate::one::One;
use crate::scene::Heals;
use crate::survey::Healer;

/// The whole world.
pub struct World {
    /// Virtual time since the start.
    pub now: Duration,
    /// Chance.
    pub dice: Dice,
    /// The machines; a destroyed one keeps its place.
    pub machines: Vec<Machine>,
    /// Each machine's settings.
    pub settings: Vec<Arc<Settings>>,
    /// What all machines share.
    pub parameters: Arc<Shared>,
    /// Where k3s's files are: the same everywhere.
    pub paths: Arc<Paths>,
    /// Every identity there ever was.
    pub identities: Vec<NodeId>,
    /// By sender: a bit for every machine that does not get what it sends.
    pub cut: Vec<u32>,
    /// What the network does to gossip.
    pub weather: Weather,
    /// Datagrams on their way.
    pub packets: Vec<Packet>,
    /// When the first of them arrives.
    pub next_packet: Duration,
    /// Old claims, for replays.
    pub old: Vec<Rc<Said>>,
    /// All etcd clusters that ever were.
    pub etcds: Vec<Etcd>,
    /// The number of the next etcd member.
    pub next_member: u64,
    /// What truly happened.
    pub truth: Truth,
    /// Whether some machine is a copy of another.
    pub has_copies: bool,
    /// How the founding came to its decision.
    pub decision: Decision,
    /// What is broken on purpose.
    pub control: Control,
    /// Effects so far, over all machines.
    pub effects: u64,
    /// Crash at this effect.
    pub crash_at: Option<(u64, Crash)>,
    /// How long a machine that lost power stays off in peace.
    pub outage: Duration,
    /// The story, while it is kept.
    pub story: Option<Vec<String>>,
    /// What healing sees where only the founding is looked at.
    pub no_healing: Arc<HealSeen>,
    /// Counts.
    pub coverage: Coverage,
    /// The first violation.
    pub violation: Option<String>,
    /// What healing adds: none where only the founding is looked at.
    pub heals: Option<Heals>,
    next_etcd: Duration,
}

impl World {
    /// A group of bare machines, none switched on.
    pub fn new(seed: u64, settings: Vec<Settings>, control: Control, tell: bool) -> Self {
        let mut world = Self {
            now: Duration::from_secs(10),
            dice: Dice::new(seed),
            machines: Vec::new(),
            parameters: Arc::new(settings[0].parameters().into()),
            paths: Arc::new(Paths::under(std::path::Path::new("/nowhere"))),
            settings: Vec::new(),
            identities: Vec::new(),
            cut: Vec::new(),
            weather: Weather::default(),
            packets: Vec::new(),
            next_packet: Duration::MAX,
            old: Vec::new(),
            etcds: Vec::new(),
            next_member: 1,
            truth: Truth::default(),
            has_copies: false,
            decision: Decision::default(),
            control,
            effects: 0,
            crash_at: None,
            outage: Duration::ZERO,
            story: tell.then(Vec::new),
            no_healing: Arc::new(HealSeen { nodes: Known::Yes(Vec::new()), ..HealSeen::default() }),
            coverage: Coverage::default(),
            violation: None,
            heals: None,
            next_etcd: Duration::ZERO,
        };
        for settings in settings {
            world.add(settings);
        }
        world
    }

    /// A new bare machine.
    pub fn add(&mut self, settings: Settings) -> u8 {
        let number = u8::try_from(self.machines.len() + 1).unwrap_or(u8::MAX);
        self.settings.push(Arc::new(settings));
        self.cut.push(0);
        let disk = self.bare(number);
        let machine = Machine {
            number,
            at: number,
            gone: false,
            up: false,
            agent: false,
            paused: None,
            record: Arc::clone(&disk.record),
            disk,
            writes: Writes::Succeed,
            leap: Duration::ZERO,
            wrong_date: false,
            voter: self.truth.new_voter(None),
            copy: false,
            back: Duration::ZERO,
            unsynced: None,
            name: name(number),
            k3s: None,
            k3s_again: None,
            k3s_dies: None,
            ears: Ears::default(),
            counter: 0,
            checks: Vec::new(),
            members: None,
            watcher: Watcher::new(self.now),
            next: self.now,
            agent_again: None,
            phase: None,
            why: Vec::new(),
            annul: None,
            healer: Healer::default(),
            crash_in: None,
        };
        self.machines.push(machine);
        number
    }

    /// The disk of a machine that has never done anything: a new identity.
    pub fn bare(&mut self, number: u8) -> Disk {
        let cluster = &self.settings[usize::from(number) - 1].cluster;
        let record = Arc::new(Record::new(cluster));
        self.identities.push(identity(&self.dice.bytes()));
        let identity = u8::try_from(self.identities.len() - 1).unwrap_or(u8::MAX);
        Disk {
            identity,
            record,
            damaged: false,
            data: Data::Empty,
            config: None,
            token: None,
            tombstone: false,
            enabled: false,
            password: None,
        }
    }

    /// Adds a line to the story; number 0 is nobody.
    pub fn say(&mut self, number: u8, text: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let who = if number == 0 { "-----".to_owned() } else { name(number) };
            story.push(format!("{:9.3} {who} {}", self.now.as_secs_f64(), text()));
        }
    }

    /// The machine of a number.
    pub fn machine(&mut self, number: u8) -> &mut Machine {
        &mut self.machines[usize::from(number) - 1]
    }

    /// Time since boot as a machine's agent reads it.
    pub fn clock(&self, number: u8) -> Duration {
        self.now + self.machines[usize::from(number) - 1].leap
    }

    /// Whether a datagram from one machine reaches the agent of another.
    pub fn hears(&self, from: u8, to: u8) -> bool {
        let agent = |n: u8| {
            let machine = &self.machines[usize::from(n) - 1];
            machine.agent && machine.paused.is_none()
        };
        agent(from) && agent(to) && self.cut[usize::from(from) - 1] & (1 << to) == 0
    }

    /// Whether two machines can hold a connection: both ways.
    pub fn linked(&self, a: u8, b: u8) -> bool {
        let up = |n: u8| self.machines[usize::from(n) - 1].up;
        let reaches = |from: u8, to: u8| self.cut[usize::from(from) - 1] & (1 << to) == 0;
        up(a) && up(b) && (a == b || (reaches(a, b) && reaches(b, a)))
    }

    /// The next moment at which something happens by itself, at most a given one.
    pub fn next_event(&self, limit: Duration) -> Duration {
        let mut next = limit;
        for machine in self.machines.iter().filter(|machine| machine.up) {
            if let Some(until) = machine.paused {
                next = next.min(until);
                continue;
            }
            if machine.agent {
                next = next.min(machine.next).min(machine.ears.next);
            }
            let heals = machine.healer.next_event(machine.agent);
            for at in [machine.agent_again, machine.k3s_again, machine.k3s_dies, heals].into_iter().flatten()
            {
                next = next.min(at);
            }
        }
        next = next.min(self.next_packet);
        if self.has_learners() || self.heals.is_some() {
            next = next.min(self.next_etcd);
        }
        next
    }

    /// Goes to a moment, and lets everything happen that is due then.
    pub fn step(&mut self, to: Duration) {
        self.now = self.now.max(to);
        let now = self.now;
        self.deliver();
        if now >= self.next_etcd {
            self.etcd();
            if self.heals.is_some() {
                self.kubernetes();
            }
            self.next_etcd = now + Duration::from_millis(300);
        }
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        for number in 1..=u8::try_from(self.machines.len()).unwrap_or(u8::MAX) {
            let machine = self.machine(number);
            if !machine.up {
                continue;
            }
            if machine.paused.is_some() {
                if due(machine.paused) {
                    machine.paused = None;
                    self.say(number, || "goes on".to_owned());
                }
                continue;
            }
            let (again, dies, agent) = (machine.k3s_again, machine.k3s_dies, machine.agent_again);
            if due(dies) {
                self.kill_k3s(number);
                self.check_invariants();
            }
            if due(again) {
                self.start_k3s(number);
                self.check_invariants();
            }
            if due(agent) {
                self.start_agent(number);
            }
            let machine = self.machine(number);
            if machine.agent && machine.ears.next <= now {
                if machine.ears.is_round(now) { self.gossip(number) } else { self.gossip_news(number) }
            }
            if self.heals.is_some() {
                self.survey(number);
            }
            let machine = self.machine(number);
            if machine.agent && machine.next <= now && self.violation.is_none() {
                self.turn(number);
            }
        }
    }

    /// One turn of an agent's loop.
    fn turn(&mut self, number: u8) {
        self.coverage.ticks += 1;
        if self.control.without_votes() {
            self.turn_without_votes(number);
        }
        let settings = Arc::clone(&self.settings[usize::from(number) - 1]);
        let mut one = One { world: self, number, crashed: false };
        let report = ready(tick(&mut one, &settings));
        if one.crashed {
            return;
        }
        let plan = report.plan;
        self.coverage.why(&plan.why);
        let now = self.now;
        let machine = self.machine(number);
        machine.next = now + plan.wake.max(Duration::from_millis(50));
        let entered = machine.phase != Some(plan.phase);
        let told = entered || machine.rule() != plan.why.first().map_or("", |why| &*why.rule);
        machine.phase = Some(plan.phase);
        machine.why = plan.why;
        if entered {
            self.coverage.phase(plan.phase);
        }
        if told && self.story.is_some() {
            let why = self.machine(number).why.first().cloned();
            let text = why.map_or_else(String::new, |why| format!("{}: {}", why.rule, why.detail));
            self.say(number, || format!("{}: {text}", plan.phase));
        }
        self.check_invariants();
    }
}

/// Runs a future that never waits: the in-memory world answers at once.
fn ready<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
