//! The closer look: measures the disk, asks the kernel about clock and space, knocks at peers, reads k3s's certificates. [edge]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::core::Known;
use crate::edge::path::{self, PathMtu};
use crate::edge::{clock, fs};
use crate::host::facts::examined::{Answer, CertificateSeen, Examined, PathSeen, PeerAnswer, parse_validity};
use crate::host::measure;

/// The ports that k3s's nodes need of each other over TCP.
pub const PEER_PORTS: [u16; 4] = [6443, 2379, 2380, 10250];

/// A peer to knock at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Address or name.
    pub host: String,
    /// This port alone, or all of [`PEER_PORTS`].
    pub port: Option<u16>,
}

impl std::str::FromStr for Peer {
    type Err = String;

    /// `ADDR`, `ADDR:PORT`, `[V6]`, `[V6]:PORT`, `V6`, `NAME`, `NAME:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an address or name, with or without a port");
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or_else(bad);
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(port(rest.strip_prefix(':').ok_or_else(bad)?)?)),
            None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, rest)) => (host, Some(port(rest)?)),
                None => (text, None),
            },
        };
        let named =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_' | b'%');
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(named) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Resolving a name and each knock: longer means that a node would not get through either.
const KNOCK: Duration = Duration::from_secs(2);

/// Looks at everything but peers. Writes for at most about 3 s below `data_dir`, and leaves nothing there.
#[must_use]
pub fn examine(data_dir: &Path) -> Examined {
    Examined {
        measured: measure(data_dir),
        disk_free_mib: disk_free(data_dir),
        clock: match clock::discipline() {
            Ok(discipline) => Known::Yes(discipline),
            Err(error) => Known::unknown("the discipline of the clock", error.to_string()),
        },
        peers: Vec::new(),
        paths: Vec::new(),
        certificates: certificates(data_dir),
    }
}

/// Knocks at every port of every peer at once; takes a few seconds at most, however many are silent.
pub async fn knock(peers: &[Peer]) -> Vec<PeerAnswer> {
    let mut knocks = JoinSet::new();
    let all = peers.iter().flat_map(|peer| {
        let ports = peer.port.map_or_else(|| PEER_PORTS.to_vec(), |port| vec![port]);
        ports.into_iter().map(move |port| (peer.host.clone(), port))
    });
    for (at, (host, port)) in all.enumerate() {
        knocks.spawn(async move {
            let answer = one(&host, port).await;
            (at, PeerAnswer { peer: host, port, answer })
        });
    }
    let mut answers = knocks.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Measures the largest packet that gets to each peer, all at once; takes about 5 s at most.
pub async fn paths(peers: &[String]) -> Vec<PathSeen> {
    let mut ways = JoinSet::new();
    for (at, peer) in peers.iter().cloned().enumerate() {
        ways.spawn(async move {
            let mtu = way(&peer).await;
            (at, PathSeen { peer, mtu })
        });
    }
    let mut seen = ways.join_all().await;
    seen.sort_by_key(|(at, _)| *at);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

async fn way(host: &str) -> PathMtu {
    let unknown = |cause: String| PathMtu {
        bytes: Known::unknown("the packets that get there", cause),
        own: None,
        silent: false,
    };
    // The port is the measurement's own affair.
    let address = match timeout(KNOCK, lookup_host((host, 0))).await {
        Err(_) => return unknown("its name was not resolved in time".to_owned()),
        Ok(Err(error)) => return unknown(error.to_string()),
        Ok(Ok(mut found)) => match found.next() {
            Some(address) => address.ip(),
            None => return unknown("its name has no address".to_owned()),
        },
    };
    let measured = tokio::task::spawn_blocking(move || path::measure(address)).await;
    measured.unwrap_or_else(|error| unknown(error.to_string()))
}

async fn one(host: &str, port: u16) -> Answer {
    let address: SocketAddr = match timeout(KNOCK, lookup_host((host, port))).await {
        Err(_) => return Answer::Unreachable("its name was not resolved in time".to_owned()),
        Ok(Err(error)) => return Answer::Unreachable(error.to_string()),
        Ok(Ok(mut found)) => match found.next() {
            Some(address) => address,
            None => return Answer::Unreachable("its name has no address".to_owned()),
        },
    };
    match timeout(KNOCK, TcpStream::connect(address)).await {
        Err(_) => Answer::Silent,
        Ok(Ok(_)) => Answer::Open,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Answer::Refused,
        Ok(Err(error)) => Answer::Unreachable(error.to_string()),
    }
}

/// Free space for root's processes, in the nearest directory above that exists.
fn disk_free(dir: &Path) -> Known<u64> {
    let Some(place) = dir.ancestors().find(|place| fs::known_there(place).yes().is_some()) else {
        return Known::unknown(dir.display().to_string(), "no directory above it exists");
    };
    match nix::sys::statvfs::statvfs(place) {
        Ok(seen) => Known::Yes(seen.blocks_available().saturating_mul(seen.fragment_size()) >> 20),
        Err(error) => Known::unknown(format!("the free space of {}", place.display()), error.to_string()),
    }
}

/// The certificates of k3s that end within years; its CAs stand beside them and are looked at too.
pub(crate) fn certificates(data_dir: &Path) -> Known<Vec<CertificateSeen>> {
    let mut seen = Vec::new();
    for part in ["server/tls", "server/tls/etcd", "agent"] {
        let directory = data_dir.join(part);
        let names = match fs::known_names(&directory) {
            Known::Yes(names) => names,
            Known::Absent => continue,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        for name in names.iter().filter(|name| name.ends_with(".crt")) {
            let path = directory.join(name);
            let unknown = |cause: String| Known::unknown(path.display().to_string(), cause);
            match fs::read(&path) {
                Ok(Some(bytes)) => match parse_validity(&bytes) {
                    Ok((begins, ends)) => {
                        seen.push(CertificateSeen { path: path.display().to_string(), begins, ends });
                    }
                    Err(cause) => return unknown(cause),
                },
                // Being replaced just now.
                Ok(None) => {}
                Err(error) => return unknown(error.io().to_string()),
            }
        }
    }
    if seen.is_empty() { Known::Absent } else { Known::Yes(seen) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_addresses_or_names_with_or_without_a_port() {
        for (text, host, port) in [
            ("10.0.0.5", "10.0.0.5", None),
            ("10.0.0.5:6443", "10.0.0.5", Some(6443)),
            ("fd00::5", "fd00::5", None),
            ("[fd00::5]", "fd00::5", None),
            ("[fd00::5]:2380", "fd00::5", Some(2380)),
            ("node2.example", "node2.example", None),
            ("node2:1", "node2", Some(1)),
        ] {
            assert_eq!(text.parse(), Ok(Peer { host: host.to_owned(), port }), "{text}");
        }
        for text in
            ["", ":6443", "node2:", "node2:0", "node2:65536", "[fd00::5", "[fd00::5]x", "a b", "-x", "a/b"]
        {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_open_port_a_closed_one_and_a_name_that_is_none_are_told_apart() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap().port();
        let (open_port, closed_port) = (port(&open), port(&closed));
        drop(closed);
        let peer = |port| Peer { host: "127.0.0.1".into(), port: Some(port) };
        let answers = knock(&[peer(open_port), peer(closed_port)]).await;
        let seen: Vec<_> = answers.iter().map(|answer| (answer.port, answer.answer.clone())).collect();
        assert_eq!(seen, [(open_port, Answer::Open), (closed_port, Answer::Refused)]);
        let none = knock(&["nobody.invalid:1".parse().unwrap()]).await;
        assert!(!none[0].is_reached(), "{none:?}");
    }

    #[test]
    fn certificates_are_found_where_k3s_keeps_them_and_a_broken_one_is_named() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(certificates(data.path()), Known::Absent);
        let tls = data.path().join("server/tls/etcd");
        fs::create_directory(&tls, 0o755).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let pem =
            rcgen::CertificateParams::new(vec!["etcd".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        fs::write_volatile(&tls.join("client.crt"), pem.as_bytes(), 0o644).unwrap();
        fs::write_volatile(&tls.join("client.key"), b"no certificate", 0o600).unwrap();
        let seen = certificates(data.path());
        let seen = seen.yes().unwrap();
        assert!(seen.len() == 1 && seen[0].path.ends_with("server/tls/etcd/client.crt"), "{seen:?}");
        fs::write_volatile(&data.path().join("server/tls/broken.crt"), b"x", 0o644).unwrap();
        let seen = certificates(data.path());
        assert!(matches!(&seen, Known::Unknown(unread) if unread.what.ends_with("broken.crt")), "{seen:?}");
    }

    #[test]
    fn a_look_at_this_machine_finds_space_and_a_clock() {
        let directory = tempfile::tempdir().unwrap();
        let seen = examine(&directory.path().join("not/yet"));
        assert!(seen.disk_free_mib.yes().is_some(), "{seen:?}");
        assert!(seen.measured.yes().is_some() && seen.certificates.is_absent(), "{seen:?}");
    }
}
