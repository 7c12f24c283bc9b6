//! The key ring of gossip: one key seals, several open, so that a token can be rotated without a split.

use std::fmt;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::window::SessionId;

/// Raw gossip keys, derived from the cluster token by the caller.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct GossipKeys {
    /// Seals what this node sends; it opens too.
    pub seal: [u8; 32],
    /// More keys whose datagrams are opened, for the time of a rotation.
    pub open: Vec<[u8; 32]>,
}

impl GossipKeys {
    /// A ring of one key.
    #[must_use]
    pub fn single(key: [u8; 32]) -> Self {
        Self { seal: key, open: Vec::new() }
    }
}

impl fmt::Debug for GossipKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GossipKeys(***, {} more)", self.open.len())
    }
}

/// Public name of a key, in the clear in every header: it only saves trying all the keys.
pub(super) type KeyId = [u8; 4];

/// One key of the ring, ready to give the keys of sessions.
pub(super) struct RingKey {
    pub(super) id: KeyId,
    prk: Prk,
}

impl RingKey {
    fn new(raw: &[u8; 32], cluster: &str) -> Self {
        let prk = Salt::new(HKDF_SHA256, b"muster gossip ring v1").extract(raw);
        let mut id = [0_u8; 4];
        // Expanding 4 bytes cannot fail: the bound is 255 times the digest's length.
        if let Ok(okm) = prk.expand(&[b"key id", cluster.as_bytes()], IdLength) {
            let _ = okm.fill(&mut id);
        }
        Self { id, prk }
    }

    /// The key of one session: no two sessions share one, so a counter is a sound nonce.
    pub(super) fn session(&self, cluster: &str, session: &SessionId) -> Option<LessSafeKey> {
        let info = [b"session".as_slice(), session.as_slice(), cluster.as_bytes()];
        let okm = self.prk.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        4
    }
}

/// The keys in use: the first seals, all open.
pub(super) struct Ring(Vec<RingKey>);

impl Ring {
    pub(super) fn new(keys: &GossipKeys, cluster: &str) -> Self {
        let mut ring = vec![RingKey::new(&keys.seal, cluster)];
        for raw in &keys.open {
            let key = RingKey::new(raw, cluster);
            if ring.iter().all(|known| known.id != key.id) {
                ring.push(key);
            }
        }
        Self(ring)
    }

    pub(super) fn sealing(&self) -> &RingKey {
        &self.0[0]
    }

    pub(super) fn by_id(&self, id: &KeyId) -> Option<&RingKey> {
        self.0.iter().find(|key| key.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_key() {
        let keys = GossipKeys { seal: [0xab; 32], open: vec![[0xcd; 32]] };
        assert_eq!(format!("{keys:?}"), "GossipKeys(***, 1 more)");
    }

    #[test]
    fn the_cluster_name_is_part_of_every_key() {
        let keys = GossipKeys::single([7; 32]);
        assert_ne!(Ring::new(&keys, "one").sealing().id, Ring::new(&keys, "two").sealing().id);
    }
}
