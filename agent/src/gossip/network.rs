//! The wire under the sealed transport: real UDP, or a network in memory for tests and the simulator.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

/// Sends and receives datagrams.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system cannot tell.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// Sends one datagram.
    ///
    /// # Errors
    /// Whatever the system said; the datagram was not sent.
    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()>;
    /// Receives one datagram, cut to the buffer. Cancel-safe.
    ///
    /// # Errors
    /// Whatever the system said.
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
}

/// Gives wires.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Binds an address; port 0 takes a free port.
    ///
    /// # Errors
    /// When the address is taken or not of this host.
    async fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn Wire>>;
}

/// The host's own UDP.
#[derive(Debug, Clone, Copy, Default)]
pub struct UdpNetwork;

/// The host's own UDP, in a multicast group of one interface beside: probes that are sent to the group reach it.
#[derive(Debug, Clone, Copy)]
pub struct GroupNetwork {
    /// The group.
    pub group: Ipv6Addr,
    /// Index of the interface.
    pub interface: u32,
}

#[async_trait]
impl Network for GroupNetwork {
    async fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn Wire>> {
        let socket = roomy(tokio::net::UdpSocket::bind(address).await?);
        // Gossip must go on without it: then this node is found in other ways.
        if let Err(error) = socket.join_multicast_v6(&self.group, self.interface) {
            tracing::warn!(group = %self.group, %error, "not in the multicast group: sweeps of others do not reach this node");
        }
        Ok(Arc::new(UdpWire { socket, six: address.is_ipv6() }))
    }
}

/// Bytes of datagrams that may wait in the kernel. What goes to a silent address of the link waits three seconds for its neighbour, and
/// counts against the socket: with the usual 208 KiB a sweep stands still after some 280 addresses, and all of gossip with it.
const WAITING: usize = 4 << 20;

/// The socket with room to wait. Without the right to that much it takes what the system allows.
fn roomy(socket: tokio::net::UdpSocket) -> tokio::net::UdpSocket {
    use nix::sys::socket::{setsockopt, sockopt};
    if setsockopt(&socket, sockopt::SndBufForce, &WAITING).is_err() {
        // Cut to the system's bound, never an error that matters.
        let _ = setsockopt(&socket, sockopt::SndBuf, &WAITING);
    }
    socket
}

struct UdpWire {
    socket: tokio::net::UdpSocket,
    six: bool,
}

#[async_trait]
impl Network for UdpNetwork {
    async fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn Wire>> {
        let socket = roomy(tokio::net::UdpSocket::bind(address).await?);
        Ok(Arc::new(UdpWire { socket, six: address.is_ipv6() }))
    }
}

#[async_trait]
impl Wire for UdpWire {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        // A socket bound to an IPv6 address reaches IPv4 only under a mapped address.
        let to = match to.ip() {
            IpAddr::V4(ip) if self.six => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        self.socket.send_to(bytes, to).await.map(|_| ())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, from) = self.socket.recv_from(buffer).await?;
        Ok((length, plain_address(from)))
    }
}

/// One form for each address: IPv4 never as mapped IPv6, no flow label; the scope stays where it names the interface.
fn plain_address(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(six) => match six.ip().to_ipv4_mapped() {
            Some(four) => SocketAddr::new(four.into(), six.port()),
            None => SocketAddrV6::new(*six.ip(), six.port(), 0, scope(six.ip(), six.scope_id())).into(),
        },
    }
}

fn scope(ip: &Ipv6Addr, scope: u32) -> u32 {
    if ip.is_unicast_link_local() { scope } else { 0 }
}

/// What becomes of a datagram on the way: how long each copy takes; an empty list loses it.
pub type Fate = dyn FnMut(SocketAddr, SocketAddr, &[u8]) -> Vec<Duration> + Send;

#[derive(Default)]
struct Switch {
    ports: HashMap<SocketAddr, mpsc::UnboundedSender<(SocketAddr, Vec<u8>)>>,
    fate: Option<Box<Fate>>,
    next_port: u16,
}

/// A network in memory, on tokio's clock: exact in virtual time, with loss, delay, duplication and partitions by a function.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<Switch>>);

impl MemoryNetwork {
    /// Sets what becomes of each datagram (from, to, bytes) from here on.
    pub fn set_fate(
        &self,
        fate: impl FnMut(SocketAddr, SocketAddr, &[u8]) -> Vec<Duration> + Send + 'static,
    ) {
        self.switch().fate = Some(Box::new(fate));
    }

    fn switch(&self) -> std::sync::MutexGuard<'_, Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemoryWire {
    network: MemoryNetwork,
    address: SocketAddr,
    inbox: tokio::sync::Mutex<mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>>,
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn bind(&self, mut address: SocketAddr) -> io::Result<Arc<dyn Wire>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut switch = self.switch();
        if address.port() == 0 {
            switch.next_port += 1;
            address.set_port(10_000 + switch.next_port);
        }
        if switch.ports.get(&address).is_some_and(|port| !port.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        switch.ports.insert(address, sender);
        drop(switch);
        let inbox = tokio::sync::Mutex::new(receiver);
        Ok(Arc::new(MemoryWire { network: self.clone(), address, inbox }))
    }
}

#[async_trait]
impl Wire for MemoryWire {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let mut switch = self.network.switch();
        let delays = match &mut switch.fate {
            Some(fate) => fate(self.address, to, bytes),
            None => vec![Duration::ZERO],
        };
        let Some(port) = switch.ports.get(&to).cloned() else { return Ok(()) };
        drop(switch);
        for delay in delays {
            let (port, from, copy) = (port.clone(), self.address, bytes.to_vec());
            if delay.is_zero() {
                let _ = port.send((from, copy));
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = port.send((from, copy));
                });
            }
        }
        Ok(())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut inbox = self.inbox.lock().await;
        let (from, bytes) = inbox.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        Ok((length, from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_one_form() {
        let plain = |text: &str| plain_address(text.parse().unwrap()).to_string();
        assert_eq!(plain("[::ffff:10.0.0.1]:7846"), "10.0.0.1:7846");
        assert_eq!(plain("10.0.0.1:7846"), "10.0.0.1:7846");
        assert_eq!(plain("[fe80::1%3]:7846"), "[fe80::1%3]:7846");
        assert_eq!(plain("[fd00::1%3]:7846"), "[fd00::1]:7846");
    }

    #[tokio::test]
    async fn a_dual_stack_socket_speaks_to_plain_ipv4() {
        let Ok(dual) = UdpNetwork.bind("[::]:0".parse().unwrap()).await else { return };
        let four = UdpNetwork.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        dual.send_to(b"hello", four.local_addr().unwrap()).await.unwrap();
        let mut buffer = [0; 32];
        let (_, from) = four.recv_from(&mut buffer).await.unwrap();
        four.send_to(b"back", from).await.unwrap();
        let (length, from) = dual.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (&b"back"[..], four.local_addr().unwrap()));
    }
}
