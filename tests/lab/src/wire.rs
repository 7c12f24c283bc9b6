//! A stranger on the lab's switch: hears what goes over it, and sends what it likes. It holds no token.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::net::{GATEWAY, Net};

/// The port of gossip, where nobody configured another.
pub const GOSSIP: u16 = 7846;
/// Bytes of a challenge, the only answer that whoever replays a datagram of the group may get.
const CHALLENGE: usize = 86;
/// Datagrams kept of each tap; the oldest go first.
const KEPT: usize = 20_000;
/// `PACKET_OUTGOING` of `linux/if_packet.h`: the copy of a frame that leaves by another port of the switch.
const OUTGOING: u8 = 4;

/// One datagram that was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// What was in it.
    pub bytes: Vec<u8>,
}

/// Hears every datagram of UDP to one port that crosses the switch.
#[derive(Debug)]
pub struct Tap {
    heard: Arc<Mutex<VecDeque<Heard>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Begins to listen.
    ///
    /// # Errors
    /// The switch's namespace cannot be entered, or no packet socket is to be had.
    pub fn start(net: &Net, port: u16) -> Result<Self> {
        let fd = on_switch(net, || {
            let (family, kind) = (AddressFamily::Packet, SockType::Datagram);
            let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(200))?;
            Ok(fd)
        })?;
        let mut tap = Self { heard: Arc::default(), stop: Arc::default(), thread: None };
        let (heard, stop) = (Arc::clone(&tap.heard), Arc::clone(&tap.stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0_u8; 65_536];
            while !stop.load(Ordering::Relaxed) {
                // An error is the timeout: the next look at `stop`.
                let Ok((length, from)) = recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut buffer) else { continue };
                if from.is_some_and(|from| from.pkttype() == OUTGOING) {
                    continue;
                }
                let Some(datagram) = udp(&buffer[..length], port) else { continue };
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.len() == KEPT {
                    heard.pop_front();
                }
                heard.push_back(datagram);
            }
        });
        tap.thread = Some(thread);
        Ok(tap)
    }

    /// What was heard so far, the oldest first.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Reads a packet as IPv4 and UDP to this port.
fn udp(packet: &[u8], port: u16) -> Option<Heard> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else {
        return None;
    };
    let header = ip.header();
    (udp.destination_port() == port).then(|| Heard {
        from: SocketAddrV4::new(header.source_addr(), udp.source_port()),
        to: SocketAddrV4::new(header.destination_addr(), udp.destination_port()),
        bytes: udp.payload().to_vec(),
    })
}

/// A socket of the switch: a machine of the segment that belongs to no group.
#[derive(Debug)]
pub struct Stranger {
    socket: UdpSocket,
    /// Bytes sent.
    pub sent: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// What came back, as far as it was read.
    pub answers: Answers,
}

/// What came back to a stranger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams of another length than a challenge's.
    pub others: u64,
}

impl Stranger {
    /// Takes a port of its own at the switch's address.
    ///
    /// # Errors
    /// The switch's namespace cannot be entered.
    pub fn new(net: &Net) -> Result<Self> {
        let address: Ipv4Addr = GATEWAY.parse().context("the switch's address")?;
        let socket = on_switch(net, || Ok(UdpSocket::bind(SocketAddrV4::new(address, 0))?))?;
        socket.set_nonblocking(true).context("not to wait for answers")?;
        Ok(Self { socket, sent: 0, datagrams: 0, answers: Answers::default() })
    }

    /// Sends; what a full queue of the kernel swallows is not counted.
    pub fn send(&mut self, bytes: &[u8], to: SocketAddrV4) {
        if self.socket.send_to(bytes, to).is_ok() {
            self.sent += bytes.len() as u64;
            self.datagrams += 1;
        }
    }

    /// Counts what has come back. Called often: what the socket's buffer has no room for is lost, and would not be counted.
    pub fn read(&mut self) {
        let mut buffer = [0_u8; 2_048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.answers.datagrams += 1;
            self.answers.bytes += length as u64;
            self.answers.others += u64::from(length != CHALLENGE);
        }
    }

    /// Waits a moment for answers that are on their way, and counts them too.
    pub fn read_last(&mut self) {
        std::thread::sleep(Duration::from_millis(500));
        self.read();
    }
}

/// Does something in the switch's namespace. A thread of its own enters it; what it opens stays there.
pub(crate) fn on_switch<T: Send>(net: &Net, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(net.switch());
    let enter = move || {
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))?;
        act()
    };
    std::thread::scope(|scope| scope.spawn(enter).join())
        .map_err(|_| anyhow!("the thread in the switch's namespace failed"))?
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn only_datagrams_to_the_port_are_heard() {
        let packet = |port: u16| {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4([10, 77, 0, 1], [10, 77, 0, 2], 64).udp(4_000, port);
            builder.write(&mut packet, b"sealed").unwrap();
            packet
        };
        let heard = udp(&packet(GOSSIP), GOSSIP).unwrap();
        assert_eq!(heard.from, "10.77.0.1:4000".parse().unwrap());
        assert_eq!((heard.to, heard.bytes), ("10.77.0.2:7846".parse().unwrap(), b"sealed".to_vec()));
        assert_eq!(udp(&packet(53), GOSSIP), None);
        assert_eq!(udp(&packet(GOSSIP)[..30], GOSSIP), None);
    }
}
