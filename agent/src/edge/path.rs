//! The largest packet that gets to another machine whole. Datagrams that nobody may cut in pieces go to a UDP port where nothing
//! listens: the machine's word that nothing does is the proof that they arrived. No raw socket, no right beyond sending.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::clock;
use crate::core::Known;

/// Where traceroute begins: closed on nearly every machine, and let through by many firewalls.
const PORT: u16 = 33_434;
/// A packet of this size gets through every link that IPv4 or IPv6 may use.
const SMALL: [u32; 2] = [576, 1_280];
/// IP and UDP headers.
const HEADERS: [u32; 2] = [28, 48];
/// Sizes that links have, the largest first: where packets are lost without a word, the answer is one of them.
const USUAL: [u32; 17] = [
    8_951, 8_942, 1_500, 1_492, 1_480, 1_472, 1_460, 1_450, 1_440, 1_420, 1_400, 1_380, 1_350, 1_320, 1_300,
    1_280, 576,
];
/// How long an answer may take, and how often a size is tried: machines answer a few such datagrams at once, then one a second.
const TRIES: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1_100)];
/// No size is begun after this time.
const LIMIT: Duration = Duration::from_secs(5);

/// What was found out about the way to a machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PathMtu {
    /// The largest packet that got there, IP header included, in bytes. A lower bound where the larger ones are lost in silence.
    pub bytes: Known<u32>,
    /// What this machine's own interface would send, in bytes; none when it could not be told.
    pub own: Option<u32>,
    /// Whether larger packets are lost on the way and nobody says so.
    pub silent: bool,
}

impl PathMtu {
    fn unknown(own: Option<u32>, cause: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { bytes: Known::unknown("the packets that get there", cause), own, silent: false }
    }
}

/// What became of one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// The machine said something.
    Arrived,
    /// Nothing came back.
    Silence,
    /// This machine or one on the way says that it is too large for the way from here on; the kernel knows the size.
    TooLarge,
}

/// A way on which datagrams are tried: the real one, or one of a test.
trait Way {
    /// The size that the kernel holds for right at the moment.
    fn believed(&mut self) -> std::io::Result<u32>;
    /// Sends a packet of this many bytes and waits.
    fn send(&mut self, bytes: u32) -> std::io::Result<Sent>;
    /// Whether the time is up.
    fn is_over(&self) -> bool;
}

/// Measures the way to an address. Blocks for about 5 s at most.
#[must_use]
pub fn measure(to: IpAddr) -> PathMtu {
    match Socket::connect(SocketAddr::new(to, PORT)) {
        Ok(mut socket) => find(&mut socket, SMALL[usize::from(to.is_ipv6())]),
        Err(error) => PathMtu::unknown(None, error.to_string()),
    }
}

fn find(way: &mut impl Way, small: u32) -> PathMtu {
    let own = match way.believed() {
        Ok(own) => own,
        Err(error) => return PathMtu::unknown(None, error.to_string()),
    };
    search(way, small, own).unwrap_or_else(|error| PathMtu::unknown(Some(own), error.to_string()))
}

fn search(way: &mut impl Way, small: u32, own: u32) -> std::io::Result<PathMtu> {
    if way.send(small.min(own))? != Sent::Arrived {
        return Ok(PathMtu::unknown(Some(own), "the machine does not say when a datagram arrives"));
    }
    let known = |bytes, silent| PathMtu { bytes: Known::Yes(bytes), own: Some(own), silent };
    // Routers that speak are believed at once: each word lowers what the kernel believes in.
    let mut most = own;
    loop {
        match way.send(most)? {
            Sent::Arrived => return Ok(known(most, false)),
            Sent::TooLarge => match way.believed()? {
                less if less < most => most = less,
                _ => {
                    return Ok(PathMtu::unknown(
                        Some(own),
                        "the kernel refuses packets of the size it names",
                    ));
                }
            },
            Sent::Silence => break,
        }
    }
    // Silence: the largest of the usual sizes that arrives, by halving.
    let mut arrived = small.min(own);
    let mut sizes: Vec<u32> = USUAL.into_iter().filter(|size| *size < most && *size > arrived).collect();
    while !sizes.is_empty() && !way.is_over() {
        let middle = sizes.len() / 2;
        if way.send(sizes[middle])? == Sent::Arrived {
            arrived = sizes[middle];
            sizes.truncate(middle);
        } else {
            sizes.drain(..=middle);
        }
    }
    Ok(known(arrived, true))
}

/// A connected UDP socket whose datagrams are not cut in pieces.
struct Socket {
    socket: UdpSocket,
    v6: bool,
    begun: Duration,
}

impl Socket {
    fn connect(to: SocketAddr) -> std::io::Result<Self> {
        let v6 = to.is_ipv6();
        let any: IpAddr = if v6 { [0_u16; 8].into() } else { [0_u8; 4].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        let (level, option) = Self::names(v6, libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER);
        // The value is the same for both families.
        let whole: libc::c_int = libc::IP_PMTUDISC_DO;
        // SAFETY: the pointer is to an int that outlives the call, and the length is its own.
        #[expect(unsafe_code, reason = "no safe wrapper of this option exists")]
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const whole).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set < 0 {
            return Err(std::io::Error::last_os_error());
        }
        socket.connect(to)?;
        Ok(Self { socket, v6, begun: clock::since_boot() })
    }

    fn names(v6: bool, four: libc::c_int, six: libc::c_int) -> (libc::c_int, libc::c_int) {
        if v6 { (libc::IPPROTO_IPV6, six) } else { (libc::IPPROTO_IP, four) }
    }
}

impl Way for Socket {
    fn believed(&mut self) -> std::io::Result<u32> {
        let (level, option) = Self::names(self.v6, libc::IP_MTU, libc::IPV6_MTU);
        let mut mtu: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: both pointers are to values that outlive the call; the kernel writes no more than the length it is told.
        #[expect(unsafe_code, reason = "no safe wrapper of this option exists for both families")]
        let got = unsafe {
            libc::getsockopt(self.socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut length)
        };
        if got < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // No datagram is larger, whatever the loopback's links carry.
        Ok(u32::try_from(mtu).unwrap_or(0).min(65_535))
    }

    fn send(&mut self, bytes: u32) -> std::io::Result<Sent> {
        let payload = vec![0_u8; (bytes.saturating_sub(HEADERS[usize::from(self.v6)])) as usize];
        let mut answer = [0_u8; 16];
        for wait in TRIES {
            // An answer to an earlier one that came late is an error of this call: then it is sent again.
            let sent = match self.socket.send(&payload) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.socket.send(&payload),
                sent => sent,
            };
            match sent {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Sent::TooLarge),
                Err(error) => return Err(error),
            }
            self.socket.set_read_timeout(Some(wait))?;
            match self.socket.recv(&mut answer) {
                Ok(_) => return Ok(Sent::Arrived),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Sent::Arrived),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Sent::TooLarge),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            if self.is_over() {
                break;
            }
        }
        Ok(Sent::Silence)
    }

    fn is_over(&self) -> bool {
        clock::since_boot().saturating_sub(self.begun) > LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network: what the own interface sends, what a router that speaks lets through, what gets through at all.
    struct Network {
        own: u32,
        told: u32,
        carried: u32,
        heard: bool,
        believed: u32,
        sent: u32,
    }

    fn network(own: u32, told: u32, carried: u32) -> Network {
        Network { own, told, carried, heard: true, believed: own, sent: 0 }
    }

    impl Way for Network {
        fn believed(&mut self) -> std::io::Result<u32> {
            Ok(self.believed)
        }

        fn send(&mut self, bytes: u32) -> std::io::Result<Sent> {
            self.sent += 1;
            assert!(bytes <= self.own, "{bytes} bytes do not fit the interface");
            if bytes > self.believed {
                return Ok(Sent::TooLarge);
            }
            if bytes > self.told {
                self.believed = self.told;
                return Ok(Sent::TooLarge);
            }
            Ok(if self.heard && bytes <= self.carried { Sent::Arrived } else { Sent::Silence })
        }

        fn is_over(&self) -> bool {
            self.sent > 20
        }
    }

    #[test]
    fn the_way_is_measured_whether_its_routers_speak_or_not() {
        for (name, mut way, bytes, silent) in [
            ("plain", network(1_500, 1_500, 1_500), 1_500, false),
            ("jumbo", network(9_000, 9_000, 9_000), 9_000, false),
            ("a tunnel whose router speaks", network(1_500, 1_420, 1_420), 1_420, false),
            ("a tunnel that swallows", network(1_500, 1_500, 1_420), 1_420, true),
            ("an odd size is bounded from below", network(1_500, 1_500, 1_437), 1_420, true),
            ("jumbo into a plain network", network(9_000, 9_000, 1_500), 1_500, true),
            ("a small link of its own", network(1_280, 1_280, 1_280), 1_280, false),
            ("barely anything", network(1_500, 1_500, 600), 576, true),
            ("speaks first, swallows then", network(1_500, 1_480, 1_400), 1_400, true),
        ] {
            let own = way.own;
            let seen = find(&mut way, 576);
            assert_eq!(seen, PathMtu { bytes: Known::Yes(bytes), own: Some(own), silent }, "{name}");
            assert!(way.sent <= 8, "{name}: {} datagrams", way.sent);
        }
    }

    #[test]
    fn a_machine_that_says_nothing_leaves_it_unknown() {
        let mut way = Network { heard: false, ..network(1_500, 1_500, 1_500) };
        let seen = find(&mut way, 576);
        assert!(
            matches!(&seen.bytes, Known::Unknown(_)) && seen.own == Some(1_500) && !seen.silent,
            "{seen:?}"
        );
        assert_eq!(way.sent, 1);
    }

    #[test]
    fn the_kernel_answers_for_this_machine_itself() {
        // The loopback's port is closed on every machine that runs tests; where it is not, nothing can be said.
        let seen = measure([127, 0, 0, 1].into());
        assert!(seen.bytes == Known::Yes(65_535) || seen.bytes.yes().is_none(), "{seen:?}");
        assert!(seen.own.is_some() && !seen.silent, "{seen:?}");
    }
}
