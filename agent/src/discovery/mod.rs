//! Where to look for peers: seeds by address and host name, and the peers remembered in the ledger.
//!
//! Gossip is handed literal addresses only: a dead name server delays nothing but its own name. While too few peers are
//! known everybody is greeted again and again, with a growing pause; once settled, now and then, so that two halves that
//! never met do meet.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::Seed;

/// Longest time for one name.
const LOOKUP: Duration = Duration::from_secs(3);
/// Addresses taken from one name at most.
const PER_NAME: usize = 64;

/// The pace of greetings while too few peers are known, by how often that was done: half a second, doubled up to ten.
#[must_use]
pub fn pause(times: u32) -> Duration {
    Duration::from_millis(500_u64.saturating_mul(1 << times.min(5))).min(Duration::from_secs(10))
}

/// The pace once enough peers are live.
pub const SETTLED: Duration = Duration::from_secs(60);

/// Resolves the seeds and adds what is remembered; this node's own address is left out. Names that do not resolve are
/// returned beside: a failed look-up is never "no peers".
pub async fn candidates(
    seeds: &[Seed],
    remembered: impl IntoIterator<Item = SocketAddr>,
    own: SocketAddr,
) -> (BTreeSet<SocketAddr>, Vec<String>) {
    let mut found: BTreeSet<SocketAddr> = remembered.into_iter().collect();
    let mut failed = Vec::new();
    for seed in seeds {
        match seed {
            Seed::Address(address) => {
                found.insert(*address);
            }
            Seed::Name(name, port) => {
                match tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name.as_str(), *port))).await {
                    Ok(Ok(addresses)) => found.extend(addresses.take(PER_NAME)),
                    Ok(Err(error)) => failed.push(format!("{name}: {error}")),
                    Err(_) => failed.push(format!("{name}: no answer within {} s", LOOKUP.as_secs())),
                }
            }
        }
    }
    found.retain(|address| *address != own && is_peer(address.ip(), own.ip()));
    (found, failed)
}

/// Whether an address can be a peer's: of this node's family, and of a machine.
fn is_peer(ip: IpAddr, own: IpAddr) -> bool {
    ip.is_ipv4() == own.is_ipv4()
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && (!ip.is_loopback() || own.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn candidates_are_of_the_own_family_and_never_oneself() {
        let seed = |text: &str| Seed::Address(text.parse().unwrap());
        let seeds =
            [seed("10.0.0.1:7846"), seed("10.0.0.2:7846"), seed("[fd00::1]:7846"), seed("224.0.0.1:7846")];
        let own = "10.0.0.1:7846".parse().unwrap();
        let remembered = ["10.0.0.3:7846".parse().unwrap()];
        let (found, failed) = candidates(&seeds, remembered, own).await;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:7846", "10.0.0.3:7846"]);
        assert_eq!(failed, Vec::<String>::new());
    }

    #[test]
    fn the_pause_grows_to_ten_seconds() {
        let pauses: Vec<u128> = (0..7).map(|times| pause(times).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10000, 10000]);
    }
}
