//! One history: a group, a script of faults, and then peace, in which everybody must come to rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use muster::config::{FoundingMode, Healing, HostSettings, K3sSettings, Seed, Settings, Source, Timing};
use muster::core::{Phase, Secret};
use muster::gossip::WantedRole;

use crate::control::Control;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::faults::Budget;
use crate::machine::Crash;
use crate::world::World;

/// What a history is made from.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// The seed.
    pub seed: u64,
    /// What is broken on purpose.
    pub control: Control,
    /// No faults of chance; a crash after this effect, if any.
    pub calm: Option<Option<(u64, Crash)>>,
    /// Whether the story is kept.
    pub tell: bool,
    /// Without faults of chance: datagrams lost all the same, per mille.
    pub loss: u64,
    /// Whether it is a history of healing.
    pub heals: bool,
    /// With it: this one scene, and a crash at a point of it under [`Script::calm`], instead of scenes of chance.
    pub scene: Option<crate::scene::Scene>,
}

impl Script {
    /// The history of a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, control: Control::None, calm: None, tell: false, loss: 0, heals: false, scene: None }
    }
}

/// What became of a history.
pub struct History {
    /// The seed.
    pub seed: u64,
    /// The story, if it was asked for.
    pub story: Vec<String>,
    /// The promise that was broken.
    pub violation: Option<String>,
    /// Whether someone waits without end in peace.
    pub stuck: bool,
    /// When every machine that was on served, in virtual seconds.
    pub formed_at: Option<f64>,
    /// Whether the faults destroyed a majority of the voters' disks: then waiting is right.
    pub lost_quorum: bool,
    /// Whether too few machines are left to vote: then waiting is right.
    pub too_few: bool,
    /// Effects, over all machines.
    pub effects: u64,
    /// From the loss of a server for good to the full number, in milliseconds.
    pub filled_ms: Vec<u64>,
    /// From a quorate view to the choice, k3s's own time taken out, in milliseconds.
    pub decided_ms: Option<u64>,
    /// What it went through.
    pub coverage: Coverage,
}

impl History {
    /// One line at the end of the story.
    pub fn verdict(&self) -> String {
        let seed = self.seed;
        match (&self.violation, self.stuck, self.formed_at) {
            (Some(violation), _, _) => format!("seed {seed}: VIOLATED: {violation}"),
            (None, true, _) => format!("seed {seed}: someone is stuck"),
            (None, false, Some(at)) => format!("seed {seed}: everybody at rest after {at:.1} s"),
            (None, false, None) if self.lost_quorum => {
                format!("seed {seed}: a majority of the voters' disks was destroyed")
            }
            (None, false, None) if self.too_few => format!("seed {seed}: too few machines are left to vote"),
            (None, false, None) => format!("seed {seed}: no cluster, everybody parked"),
        }
    }
}

/// How long peace lasts before an operator looks.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long peace lasts.
const PEACE: Duration = Duration::from_secs(1_500);

/// Runs a history.
pub fn run(script: Script) -> History {
    if script.heals {
        return crate::healing::run(script);
    }
    let mut dice = Dice::new(script.seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let founders = [2, 3, 3, 3, 3, 3, 4, 5][dice.below(8) as usize];
    let most = if script.control == Control::BeyondBound { 2 * founders + 1 } else { 2 * founders - 1 };
    let beyond = script.control == Control::BeyondBound;
    let machines = if beyond { most } else { founders + dice.below((most - founders + 1) as u64) as usize };
    let group: Vec<Settings> = (0..machines).map(|at| settings(at, founders, &mut dice)).collect();
    let mut world = World::new(script.seed, group, script.control, script.tell);
    world.say(0, || format!("{machines} machines, founders = {founders}"));
    let mut budget = Budget { identities: most - machines, disks: 0, machines: most + 1 };
    // Machines of one group come up within seconds, or one after another.
    let spread = [0, 2_000, 20_000][dice.below(3) as usize];
    let mut starts: Vec<(Duration, u8)> = (1..=machines as u8)
        .map(|number| (world.now + Duration::from_millis(dice.below(spread + 1)), number))
        .collect();
    starts.sort();
    starts.reverse();
    let mut trouble = world.now;
    if script.calm.is_none() {
        world.weather.loss = [0, 100, 300, 600][dice.below(4) as usize];
        world.weather.delay = [0, 0, 200, 600][dice.below(4) as usize];
        world.weather.longest = [100, 2_000, 10_000][dice.below(3) as usize];
        world.weather.twice = [0, 0, 200][dice.below(3) as usize];
        trouble += Duration::from_millis([0, 15_000, 40_000, 40_000][dice.below(4) as usize]);
        budget.disks = dice.below(3) as usize;
    }
    world.crash_at = script.calm.flatten();
    if script.calm.is_some() {
        world.weather.loss = script.loss;
        world.outage = Duration::from_millis([0, 20_000, 90_000][dice.below(3) as usize]);
    }
    if beyond {
        trouble += Duration::from_secs(60);
        world.strike_halves();
    }
    trouble_time(&mut world, trouble, &mut starts, &mut budget, &mut dice);
    // Whoever was to start later starts with the peace.
    let away = (script.calm.is_none() && dice.chance(60)).then(|| 1 + dice.below(machines as u64) as u8);
    let formed_at = peace(&mut world, &starts, away, &mut budget, script);
    let lost_quorum = formed_at.is_none() && world.lost_quorum();
    let too_few = formed_at.is_none() && world.too_few(founders);
    if formed_at.is_some() {
        world.check_rest();
        for machine in world.machines.iter().filter(|machine| machine.up) {
            let serving = machine.phase == Some(Phase::Serving);
            world.coverage.rest(if serving { "serving" } else { machine.rule() });
        }
    }
    for number in 1..=world.machines.len() as u8 {
        let machine = &world.machines[usize::from(number) - 1];
        let (up, gone, phase, rule) = (machine.up, machine.gone, machine.phase, machine.rule().to_owned());
        world.say(number, || match (gone, up, phase) {
            (true, _, _) => "in the end: destroyed".to_owned(),
            (_, false, _) => "in the end: off".to_owned(),
            (_, _, None) => "in the end: without an agent".to_owned(),
            (_, _, Some(phase)) => format!("in the end: {phase} {rule}"),
        });
    }
    let served = world.machines.iter().any(|machine| machine.record.certificate.is_some());
    History {
        seed: script.seed,
        violation: world.violation,
        stuck: formed_at.is_none() && !lost_quorum && !too_few,
        lost_quorum,
        too_few,
        formed_at: formed_at.filter(|_| served),
        effects: world.effects,
        filled_ms: Vec::new(),
        decided_ms: world.decision.took().map(|took| took.as_millis() as u64),
        story: world.story.unwrap_or_default(),
        coverage: world.coverage,
    }
}

fn start_due(world: &mut World, starts: &mut Vec<(Duration, u8)>) {
    while starts.last().is_some_and(|(at, _)| *at <= world.now) {
        if let Some((_, number)) = starts.pop() {
            world.start(number);
        }
    }
}

fn trouble_time(
    world: &mut World,
    until: Duration,
    starts: &mut Vec<(Duration, u8)>,
    budget: &mut Budget,
    dice: &mut Dice,
) {
    let mut fault = world.now + Duration::from_millis(dice.below(6_000));
    while world.now < until && world.violation.is_none() {
        let start = starts.last().map_or(until, |(at, _)| *at);
        let next = world.next_event(until.min(fault).min(start)).max(world.now);
        world.step(next);
        start_due(world, starts);
        if world.now >= fault {
            world.strike(budget);
            fault = world.now + Duration::from_millis(1 + dice.below(6_000));
        }
    }
}

/// Peace: everybody is on but one who may be kept away, and the network is whole. When all are at rest for ten seconds, or an
/// end cannot come, it is over.
fn peace(
    world: &mut World,
    starts: &[(Duration, u8)],
    away: Option<u8>,
    budget: &mut Budget,
    script: Script,
) -> Option<f64> {
    let mut starts = starts.to_vec();
    let began = world.now;
    let mut away = away.filter(|number| !world.machine(*number).gone);
    if let Some(number) = away {
        world.coverage.fault("founder-away");
        world.stop(number, Crash::Power);
    }
    world.say(0, || "peace".to_owned());
    let mut annulled = None;
    let mut look = world.now;
    let mut rest_since = None;
    while world.now < began + PEACE && world.violation.is_none() {
        if world.now >= look {
            look = world.now + Duration::from_millis(500);
            if script.calm.is_none() {
                starts.clear();
            }
            if starts.is_empty() {
                world.peace(away);
            }
            let silent = world.now > began + PATIENCE;
            // Two words at most: an era whose founder is gone as well needs its own.
            if silent && annulled.is_none_or(|at| world.now > at + PATIENCE) && world.founder_gone() {
                annulled = Some(world.now);
                world.annul();
            }
            if world.now > began + Duration::from_secs(60) {
                let identities = &mut budget.identities;
                world.mend(world.now > began + PATIENCE, || {
                    identities.checked_sub(1).map(|left| *identities = left).is_some()
                });
            }
            // Whoever was away returns to a group that went on, or waited.
            if away.is_some() && world.now > began + 2 * PATIENCE {
                away = None;
                rest_since = None;
            }
            // Nothing but a person with a backup ends this, and no fault is left to make it worse.
            if world.now > began + Duration::from_secs(120) && world.lost_quorum() {
                return None;
            }
            if world.at_rest() && starts.is_empty() {
                let since = *rest_since.get_or_insert(world.now);
                if world.now >= since + Duration::from_secs(2) {
                    if away.take().is_none() {
                        return Some(since.as_secs_f64() - 10.0);
                    }
                    rest_since = None;
                }
            } else {
                rest_since = None;
            }
        }
        let start = starts.last().map_or(look, |(at, _)| *at);
        let next = world.next_event(look.min(start)).max(world.now);
        world.step(next);
        start_due(world, &mut starts);
    }
    None
}

impl World {
    /// The network is in two from the start, under the control that needs it.
    fn strike_halves(&mut self) {
        for (at, cut) in self.cut.iter_mut().enumerate() {
            *cut = if at % 2 == 0 { 0x5555_5555 } else { 0xaaaa_aaaa };
        }
    }

    /// Whether fewer machines than votes are left that may vote, and no certificate is known.
    fn too_few(&self, founders: usize) -> bool {
        let mut voters: Vec<u8> = Vec::new();
        for machine in self.machines.iter().filter(|machine| machine.up) {
            let settings = &self.settings[usize::from(machine.number) - 1];
            let may = settings.role != WantedRole::Agent && machine.phase != Some(Phase::Parked);
            if may && !voters.contains(&machine.disk.identity) {
                voters.push(machine.disk.identity);
            }
        }
        let known = self.machines.iter().any(|m| !m.gone && m.disk.record.certificate.is_some());
        !known && voters.len() < founders
    }
}

/// Settings of one machine of a group: the same for all but, now and then, the role.
pub fn settings(at: usize, founders: usize, dice: &mut Dice) -> Settings {
    let role = if at >= founders && dice.chance(100) { WantedRole::Agent } else { WantedRole::Auto };
    Settings {
        cluster: "sim".to_owned(),
        servers: if founders > 3 { 5 } else { 3 },
        founders,
        role,
        zone: None,
        founding: FoundingMode::Auto,
        seeds: vec![Seed::Name("seed".to_owned(), 7846)],
        token: Secret::new("simulated-token-of-no-use".to_owned()),
        previous_token: None,
        node_name: None,
        node_ips: Vec::new(),
        interface: None,
        gossip_port: 7846,
        metrics_listen: None,
        state_dir: PathBuf::from("/nowhere"),
        run_dir: PathBuf::from("/nowhere"),
        k3s: K3sSettings {
            version: "v1.33.1+k3s1".to_owned(),
            sources: vec![Source::Path(PathBuf::from("/nowhere"))],
            checksums: None,
            data_dir: PathBuf::from("/nowhere"),
            cluster_cidr: "10.42.0.0/16".to_owned(),
            service_cidr: "10.43.0.0/16".to_owned(),
            cluster_dns: None,
            cluster_domain: "cluster.local".to_owned(),
            flannel_backend: "vxlan".to_owned(),
            disable: Vec::new(),
            tls_san: Vec::new(),
            token: None,
            agent_token: None,
            server_config: BTreeMap::new(),
            agent_config: BTreeMap::new(),
        },
        host: HostSettings::default(),
        api_addresses: Vec::new(),
        timing: Timing { nominee_patience_ms: 60_000, ..Timing::default() },
        healing: Healing::default(),
        discovery: Default::default(),
        labels: Default::default(),
    }
}
