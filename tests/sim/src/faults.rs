//! The faults, by name and weight, and what each does to the world.

use std::time::Duration;

use muster::gossip::WantedRole;

use crate::control::Control;
use crate::machine::{Crash, Lie, Writes};
use crate::world::World;

/// What may still go wrong in one history.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Identities that may still begin to exist before a certificate is chosen.
    pub identities: usize,
    /// Disks that may still be lost or copied.
    pub disks: usize,
    /// Machines that there may ever be.
    pub machines: usize,
}

impl World {
    /// A machine that is there.
    fn any(&mut self) -> u8 {
        loop {
            let number = self.dice.below(self.machines.len() as u64) as u8 + 1;
            if !self.machine(number).gone {
                return number;
            }
        }
    }

    fn struck(&mut self, number: u8, name: &'static str) {
        self.coverage.fault(name);
        self.say(number, || format!("fault: {name}"));
    }

    /// Lets one fault of chance happen.
    pub fn strike(&mut self, budget: &mut Budget) {
        let number = self.any();
        let kind = self.dice.below(100);
        match kind {
            0..8 => {
                self.struck(number, "power-cut");
                self.stop(number, Crash::Power);
            }
            8..12 => {
                self.struck(number, "agent-dies");
                if self.machine(number).agent {
                    self.stop(number, Crash::Agent);
                }
            }
            12..27 => {
                self.coverage.fault("switched-on");
                self.start(number);
            }
            27..37 => {
                let crash = if self.dice.chance(600) { Crash::Power } else { Crash::Agent };
                self.coverage.fault("crash-at-effect");
                self.machine(number).crash_in = Some((self.dice.below(8) as u32, crash));
            }
            37..43 => self.part(),
            43..49 => self.part_one_way(),
            49..55 => {
                self.struck(0, "heal");
                self.cut.fill(0);
            }
            55..60 => self.change_weather(),
            60..64 => {
                self.coverage.fault("old-claim-replayed");
                self.replay_old(number);
            }
            64..74 => self.trouble_k3s(number),
            74..80 => self.trouble_disk(number),
            80..83 => {
                self.struck(number, "clock-leaps-years");
                self.machine(number).leap += Duration::from_secs(3 * 365 * 86_400);
            }
            83..85 => {
                self.struck(number, "date-years-off");
                let machine = self.machine(number);
                machine.wrong_date = !machine.wrong_date;
            }
            85..88 => {
                if self.machine(number).up {
                    self.struck(number, "paused");
                    let until = self.now + Duration::from_millis(1_000 + self.dice.below(40_000));
                    self.machine(number).paused = Some(until);
                }
            }
            88..96 => self.replace(number, budget),
            _ => self.lose_disk(number, budget),
        }
        self.check_invariants();
    }

    fn part(&mut self) {
        self.struck(0, "partition");
        let side = self.dice.next() as u32;
        for (at, cut) in self.cut.iter_mut().enumerate() {
            let mine = side >> (at + 1) & 1 == 1;
            *cut = if mine { !side } else { side };
        }
    }

    fn part_one_way(&mut self) {
        self.struck(0, "asymmetric-partition");
        for _ in 0..=self.dice.below(3) {
            let (from, to) = (self.any(), self.any());
            self.cut[usize::from(from) - 1] |= 1 << to;
            self.say(from, || format!("is not heard by node{to}"));
        }
    }

    fn change_weather(&mut self) {
        self.struck(0, "weather-changes");
        self.weather.loss = [0, 100, 300, 600][self.dice.below(4) as usize];
        self.weather.delay = [0, 0, 200, 600][self.dice.below(4) as usize];
        self.weather.longest = [100, 2_000, 20_000][self.dice.below(3) as usize];
        self.weather.twice = [0, 100, 400][self.dice.below(3) as usize];
    }

    fn trouble_k3s(&mut self, number: u8) {
        let now = self.now;
        match self.dice.below(5) {
            0 => {
                if let Some(k3s) = &mut self.machine(number).k3s {
                    k3s.hangs = true;
                    self.struck(number, "k3s-hangs");
                }
            }
            1 => {
                if self.machine(number).k3s.is_some() {
                    self.struck(number, "k3s-dies");
                    self.kill_k3s(number);
                }
            }
            2 => {
                let after = Duration::from_millis(self.dice.below(4_000));
                self.coverage.fault("k3s-dies-later");
                self.machine(number).k3s_dies = Some(now + after);
            }
            3 => {
                let lie = if self.dice.chance(500) { Lie::Ready } else { Lie::Failed };
                if let Some(k3s) = &mut self.machine(number).k3s {
                    k3s.lies = Some(lie);
                    self.struck(number, "k3s-lies");
                }
            }
            _ => {
                if self.remake_ca(number) {
                    self.struck(number, "k3s-other-ca");
                }
            }
        }
    }

    fn trouble_disk(&mut self, number: u8) {
        let (writes, name) = [
            (Writes::Full, "disk-full"),
            (Writes::ReadOnly, "disk-read-only"),
            (Writes::Fail, "writes-fail"),
            (Writes::FailLate, "writes-fail-after-rename"),
            (Writes::Succeed, "disk-well"),
            (Writes::Succeed, "disk-well"),
        ][self.dice.below(6) as usize];
        self.struck(number, name);
        self.machine(number).writes = writes;
    }

    /// A machine is reimaged in place, or the autoscaler destroys it and starts another one.
    fn replace(&mut self, number: u8, budget: &mut Budget) {
        if budget.identities == 0 || budget.disks == 0 {
            return;
        }
        budget.disks -= 1;
        budget.identities -= 1;
        self.stop(number, Crash::Power);
        if self.dice.chance(500) || self.machines.len() >= budget.machines {
            self.struck(number, "reimaged");
            self.wipe(number);
            self.start(number);
            return;
        }
        self.struck(number, "replaced-by-autoscaler");
        self.machine(number).gone = true;
        let mut settings = (*self.settings[usize::from(number) - 1]).clone();
        settings.role = WantedRole::Auto;
        let number = self.add(settings);
        self.start(number);
    }

    fn lose_disk(&mut self, number: u8, budget: &mut Budget) {
        if budget.disks == 0 {
            return;
        }
        match self.dice.below(4) {
            0 => {
                self.struck(number, "ledger-torn");
                budget.disks -= 1;
                self.stop(number, Crash::Power);
                self.machine(number).disk.damaged = true;
            }
            1 => {
                self.struck(number, "k3s-data-lost");
                budget.disks -= 1;
                self.stop(number, Crash::Power);
                self.machine(number).disk.data = crate::machine::Data::Empty;
                self.machine(number).disk.token = None;
                self.machine(number).disk.tombstone = false;
            }
            // A copy with its identity is one more voter, whatever it calls itself.
            with => {
                let fits = self.machines.len() < budget.machines && budget.identities > 0;
                if !fits || self.control != Control::None && with == 2 {
                    return;
                }
                budget.identities -= 1;
                budget.disks -= 1;
                let copied = self.settings[usize::from(number) - 1].as_ref().clone();
                let to = self.add(copied);
                let with_identity = with == 2;
                self.struck(to, if with_identity { "cloned-with-identity" } else { "cloned-disk" });
                self.clone_disk(number, to, with_identity);
                if self.dice.chance(300) {
                    // As a cloned image: the original never ran beside it.
                    self.stop(number, Crash::Power);
                }
                self.start(to);
            }
        }
    }
}
