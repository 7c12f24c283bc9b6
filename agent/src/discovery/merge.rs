//! From what the sources said to the addresses that are greeted. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Facts, Origin};

/// Candidates that are greeted at most.
pub const MOST: usize = 256;

/// What one source said last.
#[derive(Debug, Clone)]
pub struct Said<'a> {
    /// Its name.
    pub source: &'a str,
    /// What stands behind it.
    pub origin: Origin,
    /// How old its answer is.
    pub age: Duration,
    /// The addresses in it.
    pub addresses: &'a [SocketAddr],
}

/// Somewhere to look for a peer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Candidate {
    /// Where.
    pub address: SocketAddr,
    /// Every source that named it, the best first.
    pub sources: Vec<String>,
    /// Age of the youngest answer that named it.
    #[serde(skip)]
    pub age: Duration,
}

/// Merges answers: what can be a peer's of this node's family, each address once, the youngest answers first (by the minute),
/// then the better origins, at most [`MOST`]. Each answer has room for its share of them, its best first: a source with a long list
/// must not push out another's one right address.
#[must_use]
pub fn merge(said: &[Said<'_>], own: SocketAddr) -> Vec<Candidate> {
    type Rank = (u64, Origin);
    /// The best rank, every source with its own, and the least age.
    type Best<'a> = (Rank, Vec<(Rank, &'a str)>, Duration);
    let mut best: BTreeMap<SocketAddr, Best<'_>> = BTreeMap::new();
    let mut lists: Vec<BTreeSet<SocketAddr>> = Vec::new();
    for one in said {
        let mut list = BTreeSet::new();
        let rank = (one.age.as_secs() / 60, one.origin);
        for address in one.addresses {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if !is_peer(address, own) {
                continue;
            }
            list.insert(address);
            let entry = best.entry(address).or_insert_with(|| (rank, Vec::new(), one.age));
            entry.0 = entry.0.min(rank);
            entry.2 = entry.2.min(one.age);
            if !entry.1.contains(&(rank, one.source)) {
                entry.1.push((rank, one.source));
            }
        }
        if !list.is_empty() {
            lists.push(list);
        }
    }
    let mut ranked: Vec<_> = best.into_iter().collect();
    ranked.sort_by_key(|(address, (rank, _, _))| (*rank, *address));
    if ranked.len() > MOST {
        let share = MOST / lists.len().max(1);
        let of_shares: BTreeSet<SocketAddr> = lists
            .iter()
            .flat_map(|list| {
                ranked.iter().map(|(address, _)| *address).filter(|a| list.contains(a)).take(share)
            })
            .collect();
        let mut room = MOST.saturating_sub(of_shares.len());
        ranked.retain(|(address, _)| {
            let shared = of_shares.contains(address);
            let fills = !shared && room > 0;
            room -= usize::from(fills);
            shared || fills
        });
    }
    let named = |mut sources: Vec<(Rank, &str)>| {
        sources.sort_unstable();
        sources.dedup_by_key(|(_, name)| *name);
        sources.into_iter().map(|(_, name)| name.to_owned()).collect()
    };
    ranked
        .into_iter()
        .map(|(address, (_, sources, age))| Candidate { address, sources: named(sources), age })
        .collect()
}

/// Whether an address can be a peer's: of one machine, of this node's family, and not this node.
#[must_use]
pub fn is_peer(address: SocketAddr, own: SocketAddr) -> bool {
    let ip = address.ip();
    address != own
        && address.port() != 0
        && ip.is_ipv4() == own.is_ipv4()
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
        && ip.is_loopback() == own.ip().is_loopback()
}

/// What all sources together know for certain. An address that any of them says is held is not a dead machine's, nor is this node's
/// own.
#[must_use]
pub fn facts<'a>(all: impl IntoIterator<Item = &'a Facts>, own: IpAddr) -> Facts {
    let mut merged = Facts::default();
    for facts in all {
        merged.zone = merged.zone.or_else(|| facts.zone.clone());
        merged.ending = merged.ending.or_else(|| facts.ending.clone());
        // Two groups of one machine: the larger one is what may come.
        merged.group_max = merged.group_max.max(facts.group_max);
        merged.held.extend(&facts.held);
        merged.terminated.extend(facts.terminated.clone());
    }
    merged.terminated.retain(|ip, _| *ip != own && !merged.held.contains(ip));
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn said<'a>(source: &'a str, origin: Origin, age: u64, addresses: &'a [SocketAddr]) -> Said<'a> {
        Said { source, origin, age: Duration::from_secs(age), addresses }
    }

    #[test]
    fn candidates_are_of_the_own_family_and_never_oneself() {
        let all = [
            "10.0.0.1:7846",
            "10.0.0.2:7846",
            "[fd00::1]:7846",
            "224.0.0.1:7846",
            "[::ffff:10.0.0.4]:7846",
            "0.0.0.0:7846",
            "255.255.255.255:7846",
            "127.0.0.1:7846",
            "10.0.0.3:0",
            "10.0.0.1:7847",
        ]
        .map(at);
        let merged = merge(&[said("static", Origin::Configured, 0, &all)], at("10.0.0.1:7846"));
        let found: Vec<String> = merged.iter().map(|candidate| candidate.address.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:7847", "10.0.0.2:7846", "10.0.0.4:7846"]);
        let six = merge(&[said("static", Origin::Configured, 0, &all)], at("[fd00::2]:7846"));
        assert_eq!(six.len(), 1);
    }

    #[test]
    fn the_young_and_the_well_founded_come_first_and_every_origin_is_named() {
        let (a, b, c) = ([at("10.0.0.2:1")], [at("10.0.0.3:1"), at("10.0.0.2:1")], [at("10.0.0.4:1")]);
        let merged = merge(
            &[
                said("remembered", Origin::Remembered, 0, &b),
                said("aws", Origin::Cloud, 5, &a),
                said("dns", Origin::Kept, 3_600, &c),
            ],
            at("10.0.0.1:1"),
        );
        let order: Vec<_> = merged.iter().map(|c| (c.address.to_string(), c.sources.join(" "))).collect();
        let wanted = [("10.0.0.2:1", "aws remembered"), ("10.0.0.3:1", "remembered"), ("10.0.0.4:1", "dns")];
        assert_eq!(order, wanted.map(|(address, sources)| (address.to_owned(), sources.to_owned())));
    }

    #[test]
    fn ten_thousand_addresses_become_a_bounded_list_in_which_the_better_ones_stand_first() {
        let many: Vec<SocketAddr> =
            (0..10_000_u16).map(|n| SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 7846))).collect();
        let sealed = [at("10.200.0.1:7846")];
        let merged = merge(
            &[said("dns", Origin::Kept, 0, &many), said("sweep", Origin::Sealed, 0, &sealed)],
            at("10.0.0.1:7846"),
        );
        assert_eq!((merged.len(), merged[0].address), (MOST, sealed[0]));
    }

    #[test]
    fn a_long_list_leaves_every_other_source_its_share() {
        let many: Vec<SocketAddr> =
            (0..1_000_u16).map(|n| SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 7846))).collect();
        let remembered: Vec<SocketAddr> =
            (1..100_u8).map(|n| SocketAddr::from(([10, 2, 0, n], 7846))).collect();
        let fixed = [at("10.3.0.1:7846"), at("10.3.0.2:7846")];
        let all = [
            said("exec", Origin::Kept, 0, &many),
            said("remembered", Origin::Remembered, 900, &remembered),
            said("static", Origin::Configured, 900, &fixed),
        ];
        let merged = merge(&all, at("10.0.0.1:7846"));
        let of = |name: &str| merged.iter().filter(|candidate| candidate.sources == [name]).count();
        // A third for each; what the seeds do not need goes to the best.
        assert_eq!((merged.len(), of("exec"), of("remembered"), of("static")), (256, 169, 85, 2));
        assert_eq!(merged[0].address, many[0], "the youngest stand first all the same");
    }

    #[test]
    fn an_address_that_is_in_use_is_no_dead_machines() {
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let dead = |n| (ip(n), format!("i-{n} is terminated"));
        let one = Facts { terminated: [dead(1), dead(2), dead(3)].into(), ..Facts::default() };
        let two = Facts { held: vec![ip(2)], group_max: Some(5), ..Facts::default() };
        let merged = facts([&one, &two], ip(1));
        assert_eq!(merged.terminated.keys().copied().collect::<Vec<_>>(), [ip(3)]);
        assert_eq!(merged.group_max, Some(5));
    }

    fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
        let four = (any::<[u8; 4]>(), 0_u16..3).prop_map(SocketAddr::from);
        let near = (0_u8..8, 1_u16..3).prop_map(|(host, port)| SocketAddr::from(([10, 0, 0, host], port)));
        let six = (any::<[u8; 16]>(), 0_u16..3).prop_map(SocketAddr::from);
        prop::collection::vec(prop_oneof![four, near, six], 0..150)
    }

    fn origin() -> impl Strategy<Value = Origin> {
        prop::sample::select(vec![
            Origin::Sealed,
            Origin::Cloud,
            Origin::Kept,
            Origin::Configured,
            Origin::Remembered,
        ])
    }

    proptest! {
        #[test]
        fn a_merge_invents_nothing_repeats_nothing_and_does_not_depend_on_order(
            lists in prop::collection::vec((origin(), 0_u64..300, addresses()), 0..8),
        ) {
            let own = at("10.0.0.1:1");
            let names: Vec<String> = (0..lists.len()).map(|n| n.to_string()).collect();
            let mut all: Vec<Said> = lists
                .iter()
                .zip(&names)
                .map(|((origin, age, addresses), name)| said(name, *origin, *age, addresses))
                .collect();
            let merged = merge(&all, own);
            prop_assert!(merged.len() <= MOST);
            for (n, candidate) in merged.iter().enumerate() {
                prop_assert!(is_peer(candidate.address, own));
                prop_assert!(candidate.address.ip().is_ipv4());
                prop_assert!(!merged[..n].iter().any(|earlier| earlier.address == candidate.address));
                for source in &candidate.sources {
                    let list = &lists[source.parse::<usize>().unwrap()].2;
                    let named = list.iter().any(|address| {
                        address.ip().to_canonical() == candidate.address.ip()
                            && address.port() == candidate.address.port()
                    });
                    prop_assert!(named);
                }
            }
            // Every source has its share.
            for one in &all {
                let plain = |a: &SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
                let fitting: BTreeSet<_> = one.addresses.iter().map(plain).filter(|a| is_peer(*a, own)).collect();
                let named = merged.iter().filter(|c| c.sources.iter().any(|name| name == one.source)).count();
                prop_assert!(named >= fitting.len().min(MOST / all.len().max(1)));
            }
            // Nothing that fits is lost.
            let fitting = all.iter().flat_map(|one| one.addresses).filter(|address| {
                is_peer(SocketAddr::new(address.ip().to_canonical(), address.port()), own)
            });
            for address in fitting {
                let ip = address.ip().to_canonical();
                let found = merged.iter().any(|c| c.address.ip() == ip && c.address.port() == address.port());
                prop_assert!(found || merged.len() == MOST);
            }
            all.reverse();
            prop_assert_eq!(merge(&all, own), merged);
        }
    }
}
