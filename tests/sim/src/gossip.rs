//! Gossip in memory: every claim a node knows travels with every exchange, as chitchat's state does, and what is heard is judged
//! by the agent's rules: the later claim of a generation and counter stays, an own claim that was never said is an echo or a
//! twin, and a node is live while its heartbeat advances.
//!
//! A claim arrives any number of times, late, early, through others or not at all; loss, delay, duplication, reordering and
//! replay are all that.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use muster::gossip::{Claim, Echo, Peer, PeerView};

use crate::world::World;

/// A claim as it was published.
#[derive(Debug)]
pub struct Said {
    /// The claim.
    pub claim: Arc<Claim>,
    /// Whose: an index of [`World::identities`].
    pub owner: u8,
}

impl Said {
    fn order(&self) -> (u64, u64) {
        (self.claim.generation, self.claim.counter)
    }
}

/// What is known of one identity.
#[derive(Debug, Clone)]
pub struct Heard {
    said: Rc<Said>,
    /// The latest heartbeat, as the moment at which its owner made it, in nanoseconds: this is what is compared most often of all.
    beat: u64,
    /// When a heartbeat arrived that was later than the one before, in nanoseconds.
    at: u64,
    live: bool,
}

/// What a process hears and said.
#[derive(Debug, Default)]
pub struct Ears {
    /// By identity.
    pub heard: Vec<Option<Heard>>,
    /// The view, as the agent gets it.
    pub view: Arc<PeerView>,
    /// Own claims since the process began.
    pub said: Vec<Rc<Said>>,
    /// When it gossips next: with the interval, or earlier because there is news.
    pub next: Duration,
    round: Duration,
    /// Rounds it may make before its interval is over.
    pub rounds: u32,
}

/// A datagram on its way.
#[derive(Debug, Clone)]
pub struct Packet {
    to: u8,
    /// When it arrives.
    pub at: Duration,
    news: Vec<(Rc<Said>, u64)>,
}

fn nanoseconds(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// The interval of gossip.
const INTERVAL: Duration = Duration::from_secs(1);
/// Rounds before the interval is over, and rounds earned with each interval: as the agent's own.
const BURST: u32 = 40;
const EARNED: u32 = 4;
/// Peers told in a round.
const FANOUT: u64 = 5;
/// A node without a heartbeat for this long is taken for dead.
const SILENT: Duration = Duration::from_secs(6);
/// Own claims remembered.
const REMEMBERED: usize = 64;
/// Claims kept for a replay.
const KEPT: usize = 48;

/// What the network does to gossip beside parting it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Datagrams lost, per mille.
    pub loss: u64,
    /// Datagrams delayed by up to `longest`, per mille.
    pub delay: u64,
    /// The longest delay, in milliseconds.
    pub longest: u64,
    /// Datagrams that come twice, per mille.
    pub twice: u64,
}

impl World {
    /// Publishes a claim.
    pub fn say_claim(&mut self, number: u8, claim: Claim) {
        let now = self.now;
        let machine = self.machine(number);
        let said = Rc::new(Said { owner: machine.disk.identity, claim: Arc::new(claim) });
        machine.counter = said.claim.counter;
        let ears = &mut machine.ears;
        if ears.said.len() >= REMEMBERED {
            ears.said.remove(0);
        }
        ears.said.push(Rc::clone(&said));
        ears.hurry(now);
        if self.old.len() < KEPT {
            self.old.push(said);
        } else {
            let at = self.dice.below(KEPT as u64) as usize;
            self.old[at] = said;
        }
    }

    /// One round of a machine: it tells some others all it knows, and they answer with all they know.
    pub fn gossip(&mut self, number: u8) {
        let now = self.now;
        let ears = &mut self.machine(number).ears;
        ears.round = now + INTERVAL;
        ears.next = ears.round;
        ears.rounds = ears.rounds.min(BURST - EARNED) + EARNED;
        self.detect(number);
        self.tell_some(number);
    }

    /// A round between intervals, because there is news.
    pub fn gossip_news(&mut self, number: u8) {
        let ears = &mut self.machine(number).ears;
        ears.rounds = ears.rounds.saturating_sub(1);
        ears.next = ears.round;
        self.tell_some(number);
    }

    fn tell_some(&mut self, number: u8) {
        let others = self.machines.len() as u64;
        let first = self.dice.below(others);
        for step in 0..others.min(FANOUT + 1) {
            let to = ((first + step) % others) as u8 + 1;
            if to != number && self.machine(to).agent && self.send(number, to) {
                self.send(to, number);
            }
        }
    }

    /// Sends all that one machine knows to another; whether it arrived at once.
    fn send(&mut self, from: u8, to: u8) -> bool {
        let weather = self.weather;
        if !self.hears(from, to) || (weather.loss > 0 && self.dice.chance(weather.loss)) {
            return false;
        }
        let late = weather.delay > 0 && self.dice.chance(weather.delay);
        let again = weather.twice > 0 && self.dice.chance(weather.twice);
        if late || again {
            let at = self.now + Duration::from_millis(1 + self.dice.below(weather.longest));
            let packet = Packet { to, at, news: self.news(from) };
            self.coverage.fault(if late { "gossip-delayed" } else { "gossip-duplicated" });
            self.next_packet = self.next_packet.min(at);
            self.packets.push(packet);
        }
        if late {
            return false;
        }
        self.hear_all(from, to);
        true
    }

    fn news(&self, from: u8) -> Vec<(Rc<Said>, u64)> {
        let machine = &self.machines[usize::from(from) - 1];
        let own = machine.ears.said.last().map(|said| (Rc::clone(said), nanoseconds(self.now)));
        let others = machine.ears.heard.iter().flatten().map(|heard| (Rc::clone(&heard.said), heard.beat));
        others.chain(own).collect()
    }

    fn hear_all(&mut self, from: u8, to: u8) {
        let now = nanoseconds(self.now);
        let (from, to) = (usize::from(from) - 1, usize::from(to) - 1);
        let [sender, receiver] = match self.machines.get_disjoint_mut([from, to]) {
            Ok(both) => both,
            Err(_) => return,
        };
        let own = receiver.disk.identity;
        let mut changed = false;
        for (owner, heard) in sender.ears.heard.iter().enumerate() {
            let Some(heard) = heard else { continue };
            // Nothing but a heartbeat is new of a live node, as a rule: `hear` comes to the same, step by step.
            if let Some(Some(known)) = receiver.ears.heard.get_mut(owner)
                && known.live
                && owner != usize::from(own)
                && Rc::ptr_eq(&known.said, &heard.said)
            {
                if heard.beat > known.beat {
                    (known.beat, known.at) = (heard.beat, now);
                }
                continue;
            }
            changed |= receiver.ears.hear(own, owner, &heard.said, heard.beat, now, &self.parameters);
        }
        if let Some(said) = sender.ears.said.last() {
            let owner = usize::from(said.owner);
            changed |= receiver.ears.hear(own, owner, said, now, now, &self.parameters);
        }
        if changed {
            receiver.next = receiver.next.min(self.now);
        }
    }

    /// Delivers what is due.
    pub fn deliver(&mut self) {
        let now = self.now;
        if self.next_packet > now {
            return;
        }
        let mut at = 0;
        while at < self.packets.len() {
            if self.packets[at].at > now {
                at += 1;
                continue;
            }
            let packet = self.packets.swap_remove(at);
            let parameters = Arc::clone(&self.parameters);
            let machine = self.machine(packet.to);
            if !machine.agent || machine.paused.is_some() {
                continue;
            }
            let own = machine.disk.identity;
            for (said, beat) in &packet.news {
                let (owner, at) = (usize::from(said.owner), nanoseconds(now));
                if machine.ears.hear(own, owner, said, *beat, at, &parameters) {
                    machine.next = machine.next.min(now);
                }
            }
        }
        self.next_packet = self.packets.iter().map(|packet| packet.at).min().unwrap_or(Duration::MAX);
    }

    /// Some old claim of anybody reaches a machine, with a heartbeat of its time.
    pub fn replay_old(&mut self, to: u8) {
        if self.old.is_empty() {
            return;
        }
        let at = self.dice.below(self.old.len() as u64) as usize;
        let packet = Packet { to, at: self.now, news: vec![(Rc::clone(&self.old[at]), 0)] };
        self.packets.push(packet);
        self.next_packet = self.now;
        self.deliver();
    }

    /// Takes the silent for dead.
    fn detect(&mut self, number: u8) {
        let now = self.now;
        let machine = self.machine(number);
        let ears = &mut machine.ears;
        for heard in ears.heard.iter_mut().flatten() {
            if heard.live && now.saturating_sub(Duration::from_nanos(heard.at)) > SILENT {
                heard.live = false;
                if let Some(peer) = Arc::make_mut(&mut ears.view).peers.get_mut(&heard.said.claim.owner) {
                    peer.live = false;
                }
                machine.next = machine.next.min(now);
            }
        }
    }
}

impl Ears {
    /// A process that begins.
    pub fn begin(&mut self, now: Duration) {
        self.heard.clear();
        self.view = Arc::default();
        self.said.clear();
        self.next = now;
        self.round = now;
        self.rounds = BURST;
    }

    /// Whether its interval is over.
    pub fn is_round(&self, now: Duration) -> bool {
        self.round <= now
    }

    fn hurry(&mut self, now: Duration) {
        if self.rounds > 0 {
            self.next = self.next.min(now + Duration::from_millis(10));
        }
    }

    /// Takes in one claim and heartbeat of an identity; whether the view changed. Times are nanoseconds.
    fn hear(
        &mut self,
        own: u8,
        at: usize,
        said: &Rc<Said>,
        beat: u64,
        now: u64,
        parameters: &muster::founding::Shared,
    ) -> bool {
        if at == usize::from(own) {
            return self.hear_own(said);
        }
        if self.heard.len() <= at {
            self.heard.resize(at + 1, None);
        }
        match &mut self.heard[at] {
            Some(known) => {
                let advanced = beat > known.beat;
                let newer = !Rc::ptr_eq(said, &known.said) && said.order() > known.said.order();
                let revived = advanced && !known.live;
                if advanced {
                    (known.beat, known.at, known.live) = (beat, now, true);
                }
                if newer {
                    known.said = Rc::clone(said);
                }
                if !newer && !revived {
                    return false;
                }
                if let Some(peer) = Arc::make_mut(&mut self.view).peers.get_mut(&said.claim.owner) {
                    peer.live = known.live;
                    if newer {
                        peer.claim = Arc::clone(&said.claim);
                    }
                }
            }
            none => {
                *none = Some(Heard { said: Rc::clone(said), beat, at: now, live: true });
                let claim = Arc::clone(&said.claim);
                let gossip_address = std::net::SocketAddr::new(claim.address, 7846);
                let parameters = Some(parameters.values.clone());
                let peer = Peer { claim, parameters, live: true, gossip_address };
                Arc::make_mut(&mut self.view).peers.insert(said.claim.owner.clone(), peer);
            }
        }
        self.hurry(Duration::from_nanos(now));
        true
    }

    /// A claim of the own identity: said by this process, by an earlier one, or by a copy.
    fn hear_own(&mut self, said: &Rc<Said>) -> bool {
        // Each claim is published once: what was said here is this very one.
        if self.said.iter().rev().any(|own| Rc::ptr_eq(own, said)) {
            return false;
        }
        let (generation, counter) = said.order();
        let echo = Echo { generation, counter };
        let ahead = self.view.echo.is_none_or(|known| echo > known);
        let twin = !self.view.twin
            && self.said.first().is_some_and(|own| own.order().0 == generation && own.order().1 <= counter);
        if ahead || twin {
            let view = Arc::make_mut(&mut self.view);
            view.echo = view.echo.max(Some(echo));
            view.twin |= twin;
        }
        ahead || twin
    }
}
