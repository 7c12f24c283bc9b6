//! Machines and agents that start, end and are wiped.

use std::sync::Arc;
use std::time::Duration;

use muster::core::Phase;
use muster::engine::Watcher;

use crate::control::Control;
use crate::machine::{Crash, Writes};
use crate::world::World;

impl World {
    /// Switches a machine on: k3s and the agent start with what is on disk.
    pub fn start(&mut self, number: u8) {
        let machine = self.machine(number);
        if machine.up || machine.gone {
            return;
        }
        machine.up = true;
        machine.leap = Duration::ZERO;
        let enabled = machine.disk.enabled;
        self.say(number, || "is switched on".to_owned());
        if enabled {
            self.start_k3s(number);
        }
        self.start_agent(number);
    }

    /// The agent starts, with a generation of its own.
    pub fn start_agent(&mut self, number: u8) {
        let (now, forgets) = (self.now, self.control == Control::PromiseForgotten);
        let clock = self.clock(number);
        let machine = self.machine(number);
        if machine.agent || !machine.up || machine.paused.is_some() {
            return;
        }
        let why = if machine.disk.damaged {
            Some("ledger-unreadable")
        } else {
            (machine.writes != Writes::Succeed).then_some("ledger-unwritable")
        };
        if let Some(why) = why {
            // Nothing runs without its ledger; what is in the way is looked at again by itself.
            machine.agent_again = Some(now + Duration::from_secs(2));
            machine.phase = Some(Phase::Parked);
            machine.why = vec![muster::core::Why::new(why, "", "")];
            return;
        }
        machine.agent_again = None;
        machine.agent = true;
        let record = Arc::make_mut(&mut machine.disk.record);
        record.generation += 1;
        if forgets {
            record.register.promised = None;
        }
        machine.record = Arc::clone(&machine.disk.record);
        machine.ears.begin(now);
        machine.counter = 0;
        machine.checks.clear();
        machine.members = None;
        machine.watcher = Watcher::new(clock);
        machine.healer.restart();
        machine.next = now;
        machine.crash_in = None;
        self.durable(number);
    }

    /// Ends the agent, or cuts the power.
    pub fn stop(&mut self, number: u8, crash: Crash) {
        let now = self.now;
        if crash == Crash::Power
            && let Some((until, before)) = self.machine(number).unsynced.take()
            && now < until
        {
            self.machine(number).disk.record = before;
        }
        let again = self.now + Duration::from_secs(2);
        let back = self.now + self.outage;
        let machine = self.machine(number);
        machine.back = back;
        machine.agent = false;
        machine.phase = None;
        machine.crash_in = None;
        if crash == Crash::Power {
            machine.up = false;
            machine.paused = None;
            machine.agent_again = None;
            machine.k3s = None;
            machine.k3s_again = None;
            machine.k3s_dies = None;
            self.say(number, || "loses power".to_owned());
        } else {
            machine.agent_again = Some(again);
            self.say(number, || "its agent dies".to_owned());
        }
    }

    /// Whether a crash falls after the effect that was just made, and if so, makes it.
    pub fn crash_is_due(&mut self, number: u8) -> bool {
        self.effects += 1;
        self.coverage.effects += 1;
        let planned = self.crash_at.filter(|(at, _)| *at == self.effects).map(|(_, crash)| crash);
        let sampled = match &mut self.machine(number).crash_in {
            Some((0, crash)) => Some(*crash),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        let crash = planned.or(sampled);
        if let Some(crash) = crash {
            self.stop(number, crash);
        }
        crash.is_some()
    }

    /// Gives a machine that is off a bare disk, and so a new identity.
    pub fn wipe(&mut self, number: u8) {
        let disk = self.bare(number);
        let voter = self.truth.new_voter(None);
        let machine = self.machine(number);
        machine.disk = disk;
        machine.voter = voter;
        machine.copy = false;
        machine.record = Arc::clone(&machine.disk.record);
        machine.annul = None;
        machine.healer.leave = None;
        self.say(number, || "is reimaged".to_owned());
    }
}
