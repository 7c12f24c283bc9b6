//! One history of healing: a cluster forms, things happen to it, and then peace, in which it must have its servers again.

use std::time::Duration;

use muster::config::Settings;
use muster::core::Phase;
use muster::gossip::WantedRole;

use crate::control::Control;
use crate::dice::Dice;
use crate::history::{History, Script, settings};
use crate::k3s::Etcd;
use crate::machine::{Data, Machine};
use crate::scene::{Heals, Scene};
use crate::world::World;

/// How long the cluster may take to form.
const FORMS: Duration = Duration::from_secs(600);
/// How long all must be at rest.
const REST: Duration = Duration::from_secs(12);
/// How long peace lasts before a person looks.
const PATIENCE: Duration = Duration::from_secs(420);
/// How long peace lasts.
const PEACE: Duration = Duration::from_secs(1_800);

/// Runs a history of healing.
pub fn run(script: Script) -> History {
    let mut dice = Dice::new(script.seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let learner = script.control == Control::LearnerPending;
    let founders = if dice.chance(250) || learner { 5 } else { 3 };
    let spares = [0, 1, 1, 2][dice.below(4) as usize];
    let spares = if script.scene.is_some() || learner { 2 } else { spares };
    let machines = founders + spares;
    let group: Vec<Settings> = (0..machines).map(|at| one(at, founders, script, &mut dice)).collect();
    let mut world = World::new(script.seed, group, script.control, script.tell);
    world.heals = Some(Heals::default());
    world.say(0, || format!("{machines} machines, {founders} servers wanted"));
    for number in 1..=machines as u8 {
        world.start(number);
    }
    let formed = if learner {
        until_learning(&mut world)
    } else {
        until(&mut world, FORMS, |_| {}, |world| world.is_whole())
    };
    let mut lost = false;
    let mut rested = None;
    if formed.is_some() {
        trouble(&mut world, script, &mut dice);
        (rested, lost) = peace(&mut world);
    }
    tell_ends(&mut world);
    let heals = world.heals.take().unwrap_or_default();
    History {
        seed: script.seed,
        violation: world.violation,
        stuck: rested.is_none() && !lost,
        lost_quorum: lost,
        too_few: false,
        formed_at: rested,
        effects: heals.points,
        filled_ms: heals.filled_ms,
        decided_ms: None,
        story: world.story.unwrap_or_default(),
        coverage: world.coverage,
    }
}

fn one(at: usize, founders: usize, script: Script, dice: &mut Dice) -> Settings {
    let mut settings = settings(at, founders, dice);
    settings.servers = founders;
    if script.scene.is_some() {
        settings.role = WantedRole::Auto;
    }
    settings.healing.grace = Duration::from_secs(30);
    settings.healing.patience = Duration::from_secs(60);
    settings.healing.drain = Duration::from_secs(10);
    settings
}

/// Goes on until a thing has been so for a while; how long that took, or none after the given time.
fn until(
    world: &mut World,
    most: Duration,
    mut each: impl FnMut(&mut World),
    is_so: impl Fn(&World) -> bool,
) -> Option<Duration> {
    let began = world.now;
    let mut look = began;
    let mut since = None;
    while world.now < began + most && world.violation.is_none() {
        if world.now >= look {
            look = world.now + Duration::from_millis(500);
            each(world);
            if is_so(world) {
                let since = *since.get_or_insert(world.now);
                if world.now >= since + REST {
                    return Some(since.saturating_sub(began));
                }
            } else {
                since = None;
            }
        }
        let next = world.next_event(look).max(world.now);
        world.step(next);
    }
    None
}

/// Goes on until three servers of five vote, the fourth learns, and spares serve: a learner by the certificate's word has no order,
/// which would be waited for before the rule about learners is asked.
fn until_learning(world: &mut World) -> Option<Duration> {
    let began = world.now;
    while world.now < began + FORMS && world.violation.is_none() {
        let learns = |etcd: &Etcd| {
            let learners = etcd.members.iter().filter(|member| member.learner).count();
            learners == 1 && etcd.members.len() == 4
        };
        let spare = |machine: &Machine| {
            machine.phase == Some(Phase::Serving) && matches!(machine.disk.data, Data::Agent { .. })
        };
        if world.etcds.iter().any(learns) && world.machines.iter().any(spare) {
            return Some(world.now - began);
        }
        let next = world.next_event(world.now + Duration::from_millis(500)).max(world.now);
        world.step(next);
    }
    None
}

fn trouble(world: &mut World, script: Script, dice: &mut Dice) {
    let voters = world.voters().len();
    if let Some(heals) = &mut world.heals {
        heals.begun = true;
        heals.voters_then = voters;
        heals.crash_at = script.calm.flatten();
    }
    world.outage = Duration::from_secs(5 + 60 * dice.below(2));
    if let Some(scene) = script.scene {
        world.play(scene, false);
        return;
    }
    if script.control == Control::LearnerPending {
        world.play(Scene::Killed, false);
        return;
    }
    let reckless = dice.chance(120);
    let mut next = world.now;
    let mut left = 1 + dice.below(5);
    while left > 0 && world.violation.is_none() {
        if world.now >= next {
            left -= 1;
            world.play_any(reckless);
            let pause = [2_000, 20_000, 90_000, 200_000][dice.below(4) as usize];
            next = world.now + Duration::from_millis(1 + dice.below(pause));
        }
        let event = world.next_event(next).max(world.now);
        world.step(event);
        world.come_back();
    }
}

/// Everybody is on who is not destroyed, and the network is whole: the cluster has its servers again, or nothing but a person with a
/// backup helps.
fn peace(world: &mut World) -> (Option<f64>, bool) {
    world.say(0, || "peace".to_owned());
    let began = world.now;
    let mut lost_since = None;
    let each = |world: &mut World| {
        world.peace(None);
        if world.now > began + PATIENCE {
            // What only a person mends.
            for machine in &mut world.machines {
                machine.healer.unfit = false;
            }
            world.remove_members_without_node();
        }
    };
    loop {
        let rested = until(world, Duration::from_secs(60), each, World::is_whole);
        if let Some(after) = rested {
            let before = (world.now - began).saturating_sub(REST).max(after);
            return (Some(before.as_secs_f64()), false);
        }
        let lost = world.lost_quorum() || world.voters().is_empty() || world.is_forgotten();
        if lost && lost_since.replace(world.now).is_some() {
            return (None, true);
        }
        if !lost {
            lost_since = None;
        }
        if world.violation.is_some() || world.now > began + PEACE {
            return (None, false);
        }
    }
}

impl World {
    /// Machines whose time off is over.
    fn come_back(&mut self) {
        for number in 1..=self.machines.len() as u8 {
            let machine = &self.machines[usize::from(number) - 1];
            if !machine.up && !machine.gone && machine.back <= self.now {
                self.start(number);
            }
        }
    }

    /// Whether the cluster has its servers: as many voters as are wanted, all serving, when enough machines may be one; nothing is
    /// under way; and everybody serves, or is parked with a reason.
    pub fn is_whole(&self) -> bool {
        let Some(target) = self.wanted() else { return false };
        let up = || self.machines.iter().filter(|machine| machine.up);
        let all = self.machines.iter().all(|machine| machine.up || machine.gone);
        if !all || up().any(|machine| machine.paused.is_some()) || !self.at_rest() {
            return false;
        }
        let may = up().filter(|machine| {
            let role = self.settings[usize::from(machine.number) - 1].role;
            role != WantedRole::Agent && machine.phase == Some(Phase::Serving) && !machine.healer.unfit
        });
        let able = may.count();
        let mut listed = self.etcds.iter().enumerate().filter(|(cluster, _)| self.is_in_use(*cluster));
        let Some((cluster, etcd)) = listed.next() else { return false };
        let serving = etcd.members.iter().filter(|m| !m.learner && self.serves(cluster, m)).count();
        let settled = etcd.members.iter().all(|m| !m.learner)
            && etcd.kube.nodes.values().all(|node| node.deleting.is_none() && !node.order && !node.cordoned);
        let full = if able >= target { etcd.members.len() == target } else { etcd.members.len() >= able };
        settled && full && serving == able.min(target)
    }

    fn is_in_use(&self, cluster: usize) -> bool {
        let of_it = |data: Data| match data {
            Data::Server { cluster: on, .. } | Data::Agent { cluster: on } => on == cluster,
            Data::Empty => false,
        };
        self.machines.iter().any(|m| m.up && m.phase == Some(Phase::Serving) && of_it(m.disk.data))
    }
}

fn tell_ends(world: &mut World) {
    for number in 1..=world.machines.len() as u8 {
        let machine = &world.machines[usize::from(number) - 1];
        let (up, gone) = (machine.up, machine.gone);
        let rules: Vec<String> =
            machine.why.iter().map(|why| format!("{}: {}", why.rule, why.detail)).collect();
        let text = format!("{:?} {:?}: {}", machine.phase, machine.disk.data, rules.join(" | "));
        if up {
            let serving = machine.phase == Some(Phase::Serving);
            let rule = if serving { "serving".to_owned() } else { machine.rule().to_owned() };
            world.coverage.rest(&rule);
        }
        world.say(number, || match (gone, up) {
            (true, _) => "in the end: destroyed".to_owned(),
            (_, false) => "in the end: off".to_owned(),
            _ => format!("in the end: {text}"),
        });
    }
    let members = world
        .etcds
        .iter()
        .map(|etcd| format!("{:?} {:?}", etcd.members, etcd.kube.nodes))
        .collect::<Vec<_>>();
    world.say(0, || members.join("\n"));
}
