//! Who waits for traffic on this machine, asked of the kernel by `sock_diag`, as `ss` asks: it walks the table of listeners alone.
//! Behind `/proc/net/tcp` it walks the table of all connections, for milliseconds on a machine with much memory.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// A socket that waits: listening TCP, or UDP that is connected to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// TCP, and not UDP.
    pub tcp: bool,
    /// The address it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The socket's inode.
    pub inode: u64,
}

/// All of them, in this process's network namespace.
///
/// # Errors
/// The kernel has no `sock_diag`, or its answer is not understood.
pub fn waiting() -> io::Result<Vec<Waiting>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut all = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        for (tcp, protocol, states) in
            [(true, IPPROTO_TCP, StateFlags::LISTEN), (false, IPPROTO_UDP, StateFlags::CLOSE)]
        {
            let (socket_id, extensions) = (socket_id.clone(), ExtensionFlags::empty());
            let request = InetRequest { family, protocol, extensions, states, socket_id };
            ask(&socket, request, tcp, &mut all)?;
        }
    }
    Ok(all)
}

fn ask(socket: &Socket, request: InetRequest, tcp: bool, all: &mut Vec<Waiting>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(one)) => {
                    let at = &one.header.socket_id;
                    let inode = u64::from(one.header.inode);
                    all.push(Waiting { tcp, address: at.source_address, port: at.source_port, inode });
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            // Messages are aligned to four bytes; one of no length would be read for ever.
            rest = rest.get(length.max(1).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_wait_are_found_and_connected_ones_are_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let found = waiting().unwrap();
        let has = |tcp: bool, at: std::net::SocketAddr| {
            found
                .iter()
                .any(|one| (one.tcp, one.address, one.port) == (tcp, at.ip(), at.port()) && one.inode > 0)
        };
        assert!(has(true, at), "{found:?}");
        assert!(has(false, udp.local_addr().unwrap()), "{found:?}");
        assert!(!has(true, client.local_addr().unwrap()), "{found:?}");
        assert!(!has(false, connected.local_addr().unwrap()), "{found:?}");
    }
}
