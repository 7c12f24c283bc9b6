//! The sweep: a sealed probe to every address of the local network, or of configured ones, at a bounded pace. Only holders of the
//! key answer. With IPv6 one probe to a link-local multicast group stands for all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::pace::Pace;
use super::{Failure, Found, MOST_OF_ONE, Origin, Scene, Source};
use crate::config::{Network, SweepNetwork, SweepSettings};
use crate::edge::netif;
use crate::gossip::Prober;

/// The multicast group of probes: link-local, of no registered meaning (RFC 4291 2.7: the transient flag).
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x6d75, 0x7374);
/// Probes sent together; the pace is kept between such groups.
const TOGETHER: u32 = 16;
/// How long answers are waited for after the last probe.
const LINGER: Duration = Duration::from_millis(300);
/// How far behind its pace a sweep may be and still make it good.
const CATCH_UP: Duration = Duration::from_millis(250);
/// Multicast probes of one look.
const CALLS: u32 = 3;

/// What the machine is asked.
pub trait Ground: Send + Sync {
    /// The network of this node's address, and the index of its interface.
    ///
    /// # Errors
    /// When it cannot be told.
    fn local(&self, own: IpAddr) -> Result<(Network, u32), String>;
    /// The address that a datagram to there leaves from.
    fn source(&self, to: SocketAddr) -> Option<IpAddr>;
}

/// The real machine.
pub struct Machine;

impl Ground for Machine {
    fn local(&self, own: IpAddr) -> Result<(Network, u32), String> {
        let (prefix, index) = netif::network_of(own)?;
        Ok((Network::around(own, prefix), index))
    }

    fn source(&self, to: SocketAddr) -> Option<IpAddr> {
        netif::source_toward(to)
    }
}

pub(super) struct Sweep {
    pub(super) settings: SweepSettings,
    pub(super) port: u16,
    pub(super) prober: Prober,
    pub(super) ground: Box<dyn Ground>,
    /// Draws the order of a pass.
    pub(super) dice: Box<dyn FnMut() -> u64 + Send>,
    /// The pass that was begun and not ended.
    pub(super) pass: Option<Pass>,
    /// Who answered in it so far.
    pub(super) met: Vec<SocketAddr>,
}

/// One pass over all addresses, in an order that differs from machine to machine and from pass to pass: `n -> start + n * step`
/// modulo the number of addresses, with a step that shares no factor with it, meets each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    networks: Vec<Network>,
    total: u64,
    step: u64,
    start: u64,
    next: u64,
}

impl Pass {
    /// A pass over these networks.
    #[must_use]
    pub fn over(networks: Vec<Network>, dice: u64) -> Self {
        let total: u64 = networks.iter().map(|network| network.hosts()).sum();
        let mut step = ((dice >> 32) % total.max(1)) | 1;
        while gcd(step, total.max(1)) != 1 {
            step += 1;
        }
        Self { start: dice % total.max(1), networks, total, step, next: 0 }
    }

    /// Addresses gone over so far, and all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.next, self.total)
    }
}

impl Iterator for Pass {
    type Item = Ipv4Addr;

    fn next(&mut self) -> Option<Ipv4Addr> {
        if self.next >= self.total {
            return None;
        }
        let mut place = (self.start + self.next * self.step) % self.total;
        self.next += 1;
        for network in &self.networks {
            if place < network.hosts() {
                return network.host(place);
            }
            place -= network.hosts();
        }
        None
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[async_trait]
impl Source for Sweep {
    fn name(&self) -> String {
        "sweep".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Sealed
    }

    fn pace(&self) -> Pace {
        // The largest network that is not refused, at this pace, and the wait for its last answers.
        let longest =
            (1 << 16) * self.settings.networks.len().max(1) as u64 / u64::from(self.settings.rate.max(1));
        Pace { deadline: Duration::from_secs(longest + 5), ..Pace::of(0, 2_000, 60, 1_800) }
    }

    async fn look(&mut self, scene: &Scene) -> Result<Found, Failure> {
        if scene.own.is_ipv6() { self.call(scene).await } else { self.walk(scene).await }
    }
}

impl Sweep {
    /// IPv6: asks the link.
    async fn call(&mut self, scene: &Scene) -> Result<Found, Failure> {
        let (_, interface) = self.ground.local(scene.own.ip()).map_err(Failure::new)?;
        let group = SocketAddr::V6(SocketAddrV6::new(GROUP, self.port, 0, interface));
        let source = self.ground.source(group).ok_or_else(|| {
            Failure::new(format!("no link-local address on interface {interface} to send from"))
        })?;
        let mut answers = self.prober.answers();
        let mut found = Found::default();
        for _ in 0..CALLS {
            let sent = self.prober.probe(source, group).await;
            sent.map_err(|error| Failure::new(format!("multicast to {GROUP}: {error}")))?;
            let end = Instant::now() + LINGER;
            while let Ok(answer) = tokio::time::timeout_at(end, answers.recv()).await {
                take(answer, &mut found.addresses, scene);
            }
        }
        Ok(found)
    }

    /// IPv4: knocks at every address.
    async fn walk(&mut self, scene: &Scene) -> Result<Found, Failure> {
        if self.pass.is_none() {
            self.pass = Some(Pass::over(self.networks(scene.own.ip())?, (self.dice)()));
            self.met.clear();
        }
        // When enough are known before it begins, this is the slow check, which looks for the half that was never met: a look that
        // ended at once would never find it.
        let check = *scene.enough.borrow();
        let Some(pass) = &mut self.pass else { return Err(Failure::new("no pass")) };
        let mut answers = self.prober.answers();
        let every = Duration::from_secs(1) * TOGETHER / self.settings.rate.max(TOGETHER);
        let mut beat = Instant::now();
        let (mut failed, mut sent, mut ended) = (None, 0_u64, false);
        while !ended && (check || !*scene.enough.borrow()) {
            tokio::time::sleep_until(beat).await;
            // What was late is caught up with, or a busy machine's /20 takes longer than it may; but no flood follows a long pause.
            beat = (beat + every).max(Instant::now().checked_sub(CATCH_UP).unwrap_or(beat));
            for _ in 0..TOGETHER {
                let Some(ip) = pass.next() else {
                    ended = true;
                    break;
                };
                let to = SocketAddr::from((ip, self.port));
                if to.ip() == scene.own.ip() {
                    continue;
                }
                let Some(source) = self.ground.source(to) else {
                    failed = Some(format!("no way to {ip}"));
                    continue;
                };
                match self.prober.probe(source, to).await {
                    Ok(()) => sent += 1,
                    Err(error) => failed = Some(format!("{ip}: {error}")),
                }
            }
            while let Ok(answer) = answers.try_recv() {
                take(Ok(answer), &mut self.met, scene);
            }
        }
        let end = Instant::now() + LINGER;
        while let Ok(answer) = tokio::time::timeout_at(end, answers.recv()).await {
            take(answer, &mut self.met, scene);
        }
        let (gone, total) = pass.progress();
        if !ended {
            let note = Some(format!("stopped after {gone} of {total} addresses: enough peers are known"));
            return Ok(Found { addresses: self.met.clone(), note, part: true, ..Found::default() });
        }
        self.pass = None;
        match failed {
            Some(cause) if sent == 0 => Err(Failure::new(cause)),
            _ => Ok(Found { addresses: std::mem::take(&mut self.met), ..Found::default() }),
        }
    }

    fn networks(&self, own: IpAddr) -> Result<Vec<Network>, Failure> {
        let mut networks: Vec<Network> = Vec::new();
        for wanted in &self.settings.networks {
            let network = match wanted {
                SweepNetwork::Local => self.ground.local(own).map_err(Failure::new)?.0,
                SweepNetwork::Of(network) => *network,
            };
            if let Some(reason) = network.unfit_for_sweep() {
                return Err(Failure::new(format!("{network}: {reason}")));
            }
            if !networks.iter().any(|known| known.overlaps(network)) {
                networks.push(network);
            }
        }
        Ok(networks)
    }
}

fn take(
    answer: Result<SocketAddr, tokio::sync::broadcast::error::RecvError>,
    met: &mut Vec<SocketAddr>,
    scene: &Scene,
) {
    let Ok(address) = answer else { return };
    if address != scene.own && !met.contains(&address) && met.len() < MOST_OF_ONE {
        met.push(address);
        // Nobody to tell means that the look is about to be dropped.
        let _ = scene.tell.send(address);
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
