//! Who this node is: an Ed25519 key that lives in the ledger, and nothing else. A wiped machine is a new node.
//!
//! The key is never derived from machine-id, MAC or instance id; but the ledger is bound to a fingerprint of the machine, so
//! that a cloned disk makes a new identity instead of a second writer of one register.

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::core::NodeId;

/// The key could not be made or read; nothing changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(&'static str);

/// The node's key pair and the identity that follows from it.
pub struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
    id: NodeId,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.id.short())
    }
}

impl NodeKey {
    /// A new identity.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| KeyError("the kernel gave no random bytes for a node key"))?;
        Self::from_pkcs8(document.as_ref())
    }

    /// The identity kept in a ledger.
    ///
    /// # Errors
    /// When the bytes are not an Ed25519 key.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| KeyError("the node key is damaged"))?;
        let id = id_of(pair.public_key().as_ref());
        Ok(Self { pkcs8: Zeroizing::new(bytes.to_vec()), pair, id })
    }

    /// The identity.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// The private key, for the ledger and for the signer of claims; nowhere else.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key pair, for signing.
    #[must_use]
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }
}

/// The identity that belongs to a public key.
#[must_use]
pub fn id_of(public_key: &[u8]) -> NodeId {
    NodeId::from_digest(ring::digest::digest(&ring::digest::SHA256, public_key).as_ref())
}

/// What tells one machine from another. A part that could not be read is none, and none differs from nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// `/sys/class/dmi/id/product_uuid`, where there is one.
    pub product_uuid: Option<String>,
}

impl Fingerprint {
    /// The first part that is known on both sides and differs: the disk was cloned, or moved to another machine.
    #[must_use]
    pub fn differs(&self, here: &Fingerprint) -> Option<&'static str> {
        let part = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        if part(&self.machine_id, &here.machine_id) {
            return Some("machine-id");
        }
        part(&self.product_uuid, &here.product_uuid).then_some("product uuid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_ledger_and_two_are_never_equal() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(key.id(), again.id());
        assert_ne!(key.id(), NodeKey::generate().unwrap().id());
        assert!(NodeKey::from_pkcs8(b"junk").is_err());
    }

    #[test]
    fn an_unread_part_of_the_fingerprint_is_not_another_machine() {
        let print = |m: Option<&str>, p: Option<&str>| Fingerprint {
            machine_id: m.map(Into::into),
            product_uuid: p.map(Into::into),
        };
        assert_eq!(print(Some("a"), None).differs(&print(Some("a"), Some("u"))), None);
        assert_eq!(print(None, Some("u")).differs(&print(Some("b"), Some("u"))), None);
        assert_eq!(print(Some("a"), None).differs(&print(Some("b"), None)), Some("machine-id"));
        assert_eq!(print(Some("a"), Some("u")).differs(&print(Some("a"), Some("v"))), Some("product uuid"));
    }
}
