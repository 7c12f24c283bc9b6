//! Keys from the cluster token: HKDF-SHA256 (RFC 5869), one label for each use.
//!
//! | input | label | output |
//! |---|---|---|
//! | cluster token | `gossip sealing key` | 32 bytes that seal datagrams between server-eligible nodes |
//! | cluster token | `k3s server password` | 64 hexadecimal characters |
//! | cluster token | `worker token` | 64 hexadecimal characters after `muster-worker.` |
//! | cluster token | `marks of machines` | key of the hashes that tell copied machines |
//! | worker token | `k3s agent password` | 64 hexadecimal characters |
//! | worker token | `worker gossip sealing key` | 32 bytes that seal datagrams between workers and servers |
//! | a sealing key | `public key id` | 4 bytes that stand in clear on every datagram |
//!
//! The salt is `muster/v1`; the info is the label, a zero byte and the cluster's name, so that one token used for two clusters
//! gives two sets of keys. Every label is part of the format: changing one locks every node out of its own cluster.
//! A leaked sealing key gives no password, and a worker token neither the cluster token nor the servers' password: HKDF has no
//! way back. `ring` keeps its intermediate key in memory that it does not wipe; what is handed out here is wiped.

use std::fmt;

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::{Zeroize, Zeroizing};

use super::token::WORKER_PREFIX;
use crate::core::Secret;

const SALT: &[u8] = b"muster/v1";

/// A length that HKDF is asked for.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

pub(super) fn derive<const N: usize>(input: &[u8], label: &str, cluster: &str) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0_u8; N]);
    let info = [label.as_bytes(), b"\0", cluster.as_bytes()];
    let key = Salt::new(HKDF_SHA256, SALT).extract(input);
    // Both calls fail only for more than 255 blocks or for two lengths that differ: N is 32 or 4 here, and given once.
    key.expand(&info, Length(N))
        .and_then(|okm| okm.fill(&mut out[..]))
        .expect("HKDF gives up to 8,160 bytes");
    out
}

fn derive_hex(input: &[u8], label: &str, cluster: &str, prefix: &str) -> Secret {
    let bytes = derive::<32>(input, label, cluster);
    let mut text = String::with_capacity(prefix.len() + 64);
    text.push_str(prefix);
    let mut digits = hex::encode(&bytes[..]);
    text.push_str(&digits);
    digits.zeroize();
    Secret::new(text)
}

/// Names a sealing key in clear on a datagram, so that the receiver tries the right one first. Says nothing of the key.
pub type KeyId = [u8; 4];

/// A key that seals and opens datagrams: wiped when dropped, shown by its public id alone.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
}

impl SealingKey {
    fn new(bytes: Zeroizing<[u8; 32]>, cluster: &str) -> Self {
        let id = *derive::<4>(&bytes[..], "public key id", cluster);
        Self { id, bytes }
    }

    /// Its public id. Two keys may share one: an id chooses what is tried first, opening decides.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself: goes to the cipher and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({}, ***)", hex::encode(self.id))
    }
}

/// What a server-eligible node makes of the cluster token.
#[derive(Debug, Clone)]
pub struct ClusterKeys {
    /// Seals gossip between server-eligible nodes.
    pub gossip: SealingKey,
    /// Password of k3s servers.
    pub server_password: Secret,
    /// Password of k3s agents.
    pub agent_password: Secret,
    /// The weaker token for machines that only ever work.
    pub worker_token: Secret,
    /// Seals what workers and servers say to each other.
    pub worker_gossip: SealingKey,
}

impl ClusterKeys {
    /// All keys of a cluster.
    #[must_use]
    pub fn derive(cluster: &str, token: &Secret) -> Self {
        let input = token.expose().as_bytes();
        let worker_token = derive_hex(input, "worker token", cluster, WORKER_PREFIX);
        let WorkerKeys { gossip: worker_gossip, agent_password } = WorkerKeys::derive(cluster, &worker_token);
        Self {
            gossip: SealingKey::new(derive(input, "gossip sealing key", cluster), cluster),
            server_password: derive_hex(input, "k3s server password", cluster, ""),
            agent_password,
            worker_token,
            worker_gossip,
        }
    }
}

/// What a worker makes of its worker token.
#[derive(Debug, Clone)]
pub struct WorkerKeys {
    /// Seals what workers and servers say to each other.
    pub gossip: SealingKey,
    /// Password of k3s agents.
    pub agent_password: Secret,
}

impl WorkerKeys {
    /// All keys of a worker.
    #[must_use]
    pub fn derive(cluster: &str, worker_token: &Secret) -> Self {
        let input = worker_token.expose().as_bytes();
        Self {
            gossip: SealingKey::new(derive(input, "worker gossip sealing key", cluster), cluster),
            agent_password: derive_hex(input, "k3s agent password", cluster, ""),
        }
    }
}

/// The sealing keys of a node: one seals, all of them open, so that a token can be changed one machine after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// The first one seals.
    keys: Vec<SealingKey>,
}

impl KeyRing {
    /// The ring of the gossip between server-eligible nodes: the current token's key seals; the previous token's, if one is
    /// given and it is another, opens too.
    #[must_use]
    pub fn gossip(cluster: &str, current: &Secret, previous: Option<&Secret>) -> Self {
        let key = |token: &Secret| {
            SealingKey::new(derive(token.expose().as_bytes(), "gossip sealing key", cluster), cluster)
        };
        let mut keys = vec![key(current)];
        keys.extend(previous.map(key).filter(|previous| *previous != keys[0]));
        Self { keys }
    }

    /// The key that seals.
    #[must_use]
    pub fn sealing(&self) -> &SealingKey {
        &self.keys[0]
    }

    /// The keys that may open a datagram with this id: none for a datagram of another token.
    pub fn opening(&self, id: KeyId) -> impl Iterator<Item = &SealingKey> {
        self.keys.iter().filter(move |key| key.id == id)
    }

    /// All keys, the sealing one first.
    pub fn iter(&self) -> impl Iterator<Item = &SealingKey> {
        self.keys.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn shown(keys: &ClusterKeys) -> [String; 7] {
        [
            hex::encode(keys.gossip.expose()),
            hex::encode(keys.gossip.id()),
            keys.server_password.expose().to_owned(),
            keys.agent_password.expose().to_owned(),
            keys.worker_token.expose().to_owned(),
            hex::encode(keys.worker_gossip.expose()),
            hex::encode(keys.worker_gossip.id()),
        ]
    }

    /// Computed apart from this program, by RFC 5869 written out over an HMAC of another library.
    #[test]
    fn the_vectors_hold() {
        let token = secret("correct-horse-battery-staple");
        assert_eq!(
            shown(&ClusterKeys::derive("lab", &token)),
            [
                "e7bd05a92182ad6c32ba901d8a97ee5e6d48b71e4c734755684009af74bde11e",
                "25bd93a9",
                "9127ca3c874570e0509e2b96d6bd816d8e6cca9705a79e2b60fd3d442f94ac7e",
                "0bcbf61044bb4ebbd8e112e6c810fce3551fe991eaf38d754d6eaa83ac2ca2ea",
                "muster-worker.2602601f0404a780acc63b7c2a8a87fbf6f0f925737f316b47b642d6f11c56b3",
                "fc20fbe022e8383026f6d8dd6d9f6ce839d8455a9ee0356f9dfea15f012a5b63",
                "d3257112",
            ]
        );
        assert_eq!(
            shown(&ClusterKeys::derive("muster", &token)),
            [
                "2cc86355a5bf515f4c8f23c93d7a185096ebc05d9903454ec7408e95c0f933a1",
                "074ea8c0",
                "a61fcdf4f8c8eb62418fc9ffae65ca96a541d5d628e06c4f121dd0310f860923",
                "87eae9b9229dd516ef34f284b20964c4476ddc5bef6c5e65b19e065f259e48d5",
                "muster-worker.40e966e928412bbda1c9a026cebb12010e9b2ee53ac7ab1dcacb277700a960f7",
                "fbe74a472bb668f3d8dd33980479ed25c1bd4b6c47ec0f9d1415ff2caab80942",
                "36da2cd1",
            ]
        );
    }

    #[test]
    fn a_worker_makes_of_its_token_what_the_servers_expect() {
        let all = ClusterKeys::derive("lab", &secret("correct-horse-battery-staple"));
        let worker = WorkerKeys::derive("lab", &all.worker_token);
        assert_eq!(worker.agent_password, all.agent_password);
        assert_eq!(worker.gossip, all.worker_gossip);
    }

    #[test]
    fn the_worker_token_is_one_and_no_cluster_token() {
        use crate::identity::token;
        let all = ClusterKeys::derive("lab", &secret("correct-horse-battery-staple"));
        assert!(token::parse_worker(all.worker_token.expose()).is_ok());
        assert_eq!(token::parse(all.worker_token.expose()), Err(token::TokenError::Worker));
    }

    #[test]
    fn a_ring_seals_with_the_current_key_and_opens_with_both() {
        let (old, new) = (secret("the-token-of-last-year"), secret("the-token-of-this-year"));
        let before = KeyRing::gossip("lab", &old, None);
        let during = KeyRing::gossip("lab", &new, Some(&old));
        let after = KeyRing::gossip("lab", &new, None);
        assert_eq!(during.sealing(), after.sealing());
        assert_eq!(during.opening(before.sealing().id()).collect::<Vec<_>>(), [before.sealing()]);
        assert_eq!(during.opening(after.sealing().id()).collect::<Vec<_>>(), [after.sealing()]);
        assert_eq!(before.opening(after.sealing().id()).count(), 0);
        assert_eq!(after.opening(before.sealing().id()).count(), 0);
        assert_eq!(during.iter().count(), 2);
        assert_eq!(KeyRing::gossip("lab", &new, Some(&new)).iter().count(), 1);
    }

    proptest! {
        #[test]
        fn no_two_outputs_are_alike_and_none_is_shown(token in "[!-~]{16,60}", cluster in "[a-z0-9-]{1,63}") {
            let token = secret(&token);
            let keys = ClusterKeys::derive(&cluster, &token);
            let other = ClusterKeys::derive(&format!("{cluster}x"), &token);
            let all: Vec<String> = shown(&keys).into_iter().chain(shown(&other)).collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            let ring = KeyRing::gossip(&cluster, &token, Some(&keys.server_password));
            let said = format!("{keys:?} {ring:?} {:?}", WorkerKeys::derive(&cluster, &keys.worker_token));
            prop_assert!(!said.contains(token.expose()));
            for secret in all.iter().filter(|text| text.len() >= 64) {
                prop_assert!(!said.contains(secret.as_str()));
            }
        }
    }
}
