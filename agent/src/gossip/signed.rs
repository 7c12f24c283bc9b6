//! Values that only their owner can have written: Ed25519 over cluster name, key and text.
//!
//! A member of the gossip can rewrite every other member's state, so a value counts only with its owner's signature. Text
//! form, in one line: `<public key>.<signature>.<text>`, the first two in unpadded URL-safe base64 (43 and 86 characters).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::core::NodeId;

const PUBLIC: usize = 43;
const SIGNATURE: usize = 86;

/// Why a value does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It does not have the form of a signed value.
    #[error("the value is not in the form of a signed value")]
    Malformed,
    /// The signature is not that of the key on it, over this cluster, key and text.
    #[error("the signature does not fit the value")]
    Wrong,
}

/// The node's signing key.
pub struct Signer {
    key: Ed25519KeyPair,
    node: NodeId,
}

impl Signer {
    /// A signer with the node's own key pair; its node id is the hash of the public half.
    #[must_use]
    pub fn new(key: Ed25519KeyPair) -> Self {
        let node = owner(key.public_key().as_ref());
        Self { key, node }
    }

    /// The node that this key is the identity of.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        &self.node
    }

    /// Signs a text under a key of a cluster. The same input gives the same value.
    #[must_use]
    pub fn sign(&self, cluster: &str, key: &str, text: &str) -> String {
        let signature = self.key.sign(&statement(cluster, key, text));
        let mut value = String::with_capacity(PUBLIC + SIGNATURE + 2 + text.len());
        URL_SAFE_NO_PAD.encode_string(self.key.public_key(), &mut value);
        value.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut value);
        value.push('.');
        value.push_str(text);
        value
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.node.short())
    }
}

/// Checks a signed value and gives its owner and its text.
///
/// # Errors
/// When it is malformed, or was not signed for this cluster and key by the owner it names.
pub fn open<'a>(cluster: &str, key: &str, value: &'a str) -> Result<(NodeId, &'a str), SignatureError> {
    let mut parts = value.splitn(3, '.');
    let (Some(public), Some(signature), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(SignatureError::Malformed);
    };
    if public.len() != PUBLIC || signature.len() != SIGNATURE {
        return Err(SignatureError::Malformed);
    }
    let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| SignatureError::Malformed);
    let (public, signature) = (decode(public)?, decode(signature)?);
    if is_weak(&public) {
        return Err(SignatureError::Wrong);
    }
    UnparsedPublicKey::new(&ED25519, &public)
        .verify(&statement(cluster, key, text), &signature)
        .map_err(|_| SignatureError::Wrong)?;
    Ok((owner(&public), text))
}

/// The points of small order on the curve of Ed25519, as they may be written, without the bit of the sign: 0 and 1, the two of order
/// eight, and -1, 0 and 1 once more, not reduced.
///
/// Under such a key one signature fits at least every eighth text and needs no private key, so that anybody speaks for its owner. RFC 8032
/// leaves them in, and ring with it; libsodium and the strict check of ed25519-dalek leave them out.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    ends(0x01, 0x00, 0x00),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
];

/// A number of 32 bytes, least first, of its first byte, those between, and its last.
const fn ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Whether a public key is of small order: nobody's identity. No key pair of ours has one.
fn is_weak(public: &[u8]) -> bool {
    let Some((last, rest)) = public.split_last() else { return false };
    SMALL_ORDER.iter().any(|point| *rest == point[..31] && last & 0x7f == point[31])
}

/// The node id that belongs to a public key.
#[must_use]
pub fn owner(public_key: &[u8]) -> NodeId {
    NodeId::from_digest(digest(&SHA256, public_key).as_ref())
}

/// What is signed. Lengths stand before the parts, so that no two triples give the same bytes.
fn statement(cluster: &str, key: &str, text: &str) -> Vec<u8> {
    let mut bytes = b"muster signed value v1\n".to_vec();
    for part in [cluster, key, text] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::new(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    #[test]
    fn a_signed_value_gives_back_owner_and_text() {
        let signer = signer(1);
        let value = signer.sign("lab", "c", "{\"a\":\"x.y\"}");
        assert_eq!(open("lab", "c", &value), Ok((signer.node_id().clone(), "{\"a\":\"x.y\"}")));
        assert_eq!(value, signer.sign("lab", "c", "{\"a\":\"x.y\"}"), "signing is deterministic");
        assert_eq!(value.len(), 11 + 131);
    }

    #[test]
    fn a_value_counts_only_in_its_cluster_under_its_key() {
        let value = signer(1).sign("lab", "c", "{}");
        assert_eq!(open("prod", "c", &value), Err(SignatureError::Wrong));
        assert_eq!(open("lab", "p", &value), Err(SignatureError::Wrong));
        assert_eq!(open("la", "bc", &value), Err(SignatureError::Wrong));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let value = signer(1).sign("lab", "c", "{\"v\":1}");
        for at in 0..value.len() {
            let mut bytes = value.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(open("lab", "c", &String::from_utf8(bytes).unwrap()).is_err(), "at {at}");
        }
    }

    #[test]
    fn another_key_makes_another_owner() {
        let (mine, theirs) = (signer(1), signer(2));
        let (owner, _) = open("lab", "c", &theirs.sign("lab", "c", "{}")).map(|(o, t)| (o, t.len())).unwrap();
        assert_ne!(&owner, mine.node_id());
        assert_eq!(&owner, theirs.node_id());
    }

    /// Found by the fuzzer: a value of nothing but A, which is a key and a signature of zeros, opened.
    #[test]
    fn a_key_under_which_anybody_can_sign_is_nobodys() {
        let signs = |point: [u8; 32]| [0, 0x80].map(|sign| ends_with(point, point[31] | sign));
        let mut signed_by_nobody = 0;
        for public in SMALL_ORDER.into_iter().flat_map(signs) {
            let mut fits = false;
            for (number, r) in
                (0..64).flat_map(|n| SMALL_ORDER.into_iter().flat_map(signs).map(move |r| (n, r)))
            {
                let (text, signature) = (format!("{{\"n\":{number}}}"), [r, [0; 32]].concat());
                let key = UnparsedPublicKey::new(&ED25519, &public);
                fits |= key.verify(&statement("lab", "c", &text), &signature).is_ok();
                let value =
                    [URL_SAFE_NO_PAD.encode(public), URL_SAFE_NO_PAD.encode(&signature), text].join(".");
                assert_eq!(open("lab", "c", &value), Err(SignatureError::Wrong), "{value}");
            }
            signed_by_nobody += usize::from(fits);
        }
        assert_eq!(signed_by_nobody, 14, "ring takes all of them");
    }

    fn ends_with(mut point: [u8; 32], last: u8) -> [u8; 32] {
        point[31] = last;
        point
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(value in ".{0,300}") {
            prop_assert!(open("lab", "c", &value).is_err());
        }
    }
}
