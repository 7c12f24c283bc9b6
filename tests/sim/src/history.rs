//! One history: a group, a script of faults, and then peace, in which everybody must come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use muster::config::{FoundingMode, HostSettings, K3sSettings, Seed, Settings, Source, Timing};
use muster::core::Secret;
use muster::gossip::WantedRole;

use crate::world::World;

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
    /// How often each rule spoke.
    pub rules: BTreeMap<String, u64>,
    /// How often each phase was entered.
    pub phases: BTreeMap<String, u64>,
    /// How often each fault struck.
    pub faults: BTreeMap<String, u64>,
}

impl History {
    /// One line at the end of the story.
    pub fn verdict(&self) -> String {
        match (&self.violation, self.stuck, self.formed_at) {
            (Some(violation), _, _) => format!("seed {}: VIOLATED: {violation}", self.seed),
            (None, true, _) => format!("seed {}: someone is stuck", self.seed),
            (None, false, Some(at)) => format!("seed {}: everybody at rest after {at:.1} s", self.seed),
            (None, false, None) if self.lost_quorum => {
                format!("seed {}: a majority of the voters' disks was destroyed", self.seed)
            }
            (None, false, None) => format!("seed {}: no cluster, everybody parked", self.seed),
        }
    }
}

/// Runs the history of a seed.
pub fn run(seed: u64, tell: bool) -> History {
    let mut dice = crate::dice::Dice::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let machines = 3 + dice.below(4) as usize;
    let settings: Vec<Settings> = (0..machines).map(|at| settings(machines, at, &mut dice)).collect();
    let mut world = World::new(seed, settings, tell);
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let all: Vec<u8> = (1..=machines as u8).collect();
    // Machines of one group come up within seconds, or one after another.
    let spread = [0, 2_000, 20_000][dice.below(3) as usize];
    let mut starts: Vec<(Duration, u8)> = all
        .iter()
        .map(|number| (world.now + Duration::from_millis(dice.below(spread + 1)), *number))
        .collect();
    world.loss = [0, 100, 300, 600][dice.below(4) as usize];
    let trouble = world.now + Duration::from_millis([0, 15_000, 40_000][dice.below(3) as usize]);
    let wipes = dice.below(2);
    let mut wiped = 0;
    let step = Duration::from_millis(100);
    while world.now < trouble && world.violation.is_none() {
        starts.retain(|(at, number)| {
            let due = *at <= world.now;
            if due {
                world.start(*number);
            }
            !due
        });
        if dice.chance(20) {
            let number = all[dice.below(all.len() as u64) as usize];
            match dice.below(7) {
                0 => {
                    *faults.entry("power-cut".to_owned()).or_default() += 1;
                    world.stop(number);
                }
                1 | 2 => {
                    *faults.entry("switched-on".to_owned()).or_default() += 1;
                    world.start(number);
                }
                3 => {
                    *faults.entry("crash-at-effect".to_owned()).or_default() += 1;
                    world.machine(number).crash_in = Some(dice.below(6) as u32);
                }
                4 => {
                    *faults.entry("partition".to_owned()).or_default() += 1;
                    let part: BTreeSet<u8> = all.iter().copied().filter(|_| dice.chance(500)).collect();
                    world.parts = Some(vec![part]);
                }
                5 => {
                    *faults.entry("heal".to_owned()).or_default() += 1;
                    world.parts = None;
                }
                _ if wiped < wipes && machines < 5 => {
                    *faults.entry("reimaged".to_owned()).or_default() += 1;
                    wiped += 1;
                    world.stop(number);
                    world.wipe(number);
                    world.start(number);
                }
                _ => {
                    *faults.entry("k3s-hangs".to_owned()).or_default() += 1;
                    if let Some(k3s) = &mut world.machine(number).k3s {
                        k3s.hangs = true;
                    }
                }
            }
        }
        world.step(step);
    }
    // Peace: everybody is on, the network is whole, and a hanging k3s is restarted by its unit.
    world.parts = None;
    world.loss = world.loss.min(300);
    let mut formed_at = None;
    let end = world.now + Duration::from_secs(900);
    let patience = world.now + Duration::from_secs(300);
    let mut annulled = false;
    while world.now < end && world.violation.is_none() {
        for number in &all {
            world.machine(*number).crash_in = None;
            world.start(*number);
            if let Some(k3s) = &mut world.machine(*number).k3s {
                k3s.hangs = false;
            }
        }
        world.step(step);
        if !annulled && world.now > patience && world.founder_gone() {
            annulled = true;
            *faults.entry("annulled".to_owned()).or_default() += 1;
            world.annul();
        }
        if world.at_rest() {
            formed_at = Some(world.now.as_secs_f64() - 10.0);
            break;
        }
    }
    let lost_quorum = formed_at.is_none() && world.lost_quorum();
    let served = world.machines.iter().any(|machine| machine.record.certificate.is_some());
    History {
        seed,
        violation: world.violation.map(|violation| violation.0),
        stuck: formed_at.is_none() && !lost_quorum,
        lost_quorum,
        formed_at: formed_at.filter(|_| served),
        rules: world.rules,
        phases: world.phases.into_iter().map(|(phase, count)| (phase.word().to_owned(), count)).collect(),
        faults,
        story: world.story,
    }
}

/// Settings of one machine of a group: the same for all but, now and then, the role.
fn settings(machines: usize, at: usize, dice: &mut crate::dice::Dice) -> Settings {
    let founders = if machines > 5 { 4 } else { 3 };
    let role = if at >= founders && dice.chance(100) { WantedRole::Agent } else { WantedRole::Auto };
    Settings {
        cluster: "sim".to_owned(),
        servers: 3,
        founders,
        role,
        founding: FoundingMode::Auto,
        seeds: vec![Seed::Name("seed".to_owned(), 7846)],
        token: Secret::new("simulated-token-of-no-use".to_owned()),
        previous_token: None,
        node_name: None,
        node_ip: None,
        interface: None,
        gossip_port: 7846,
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
    }
}
