//! Fixed-length lowercase hexadecimal names, so that two kinds of identity cannot be swapped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the identity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {wanted} lowercase hexadecimal characters, found {found}")]
pub struct IdError {
    /// What was being read, such as `node id`.
    pub kind: &'static str,
    /// Wanted length in characters.
    pub wanted: usize,
    /// What was found: a length, or the word `other characters`.
    pub found: String,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $len:literal) => {
        $(#[$doc])*
        // The characters in place, not on the heap: an identity is cloned and compared far more often than it is printed.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in characters.
            pub const LENGTH: usize = $len;

            /// The identity made of the first bytes of a digest; the rest of the digest is dropped.
            ///
            /// # Panics
            /// If the digest is shorter than the identity: digests here are SHA-256, 32 bytes.
            #[must_use]
            pub fn from_digest(digest: &[u8]) -> Self {
                let mut text = [0; $len];
                for (at, byte) in digest[..$len / 2].iter().enumerate() {
                    text[2 * at] = DIGITS[usize::from(byte >> 4)];
                    text[2 * at + 1] = DIGITS[usize::from(byte & 15)];
                }
                Self(text)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                // Made of hexadecimal digits alone, above and below.
                std::str::from_utf8(&self.0).unwrap_or_default()
            }

            /// The first eight characters: enough for a person to tell nodes apart.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.as_str()[..8]
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() != $len {
                    return Err(IdError { kind: $kind, wanted: $len, found: text.len().to_string() });
                }
                if !text.bytes().all(hex) {
                    return Err(IdError { kind: $kind, wanted: $len, found: "other characters".into() });
                }
                let mut characters = [0; $len];
                characters.copy_from_slice(text.as_bytes());
                Ok(Self(characters))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

hex_id!(
    /// A node: the first 128 bits of the SHA-256 of its Ed25519 public key. A wiped machine is a new node.
    NodeId, "node id", 32
);
hex_id!(
    /// A cluster: 128 random bits drawn by the node that proposed its birth certificate.
    ClusterId, "cluster id", 32
);
hex_id!(
    /// The hash in `K10<hash>::`: SHA-256 as k3s computes it over what `/cacerts` serves.
    CaHash, "CA hash", 64
);
hex_id!(
    /// SHA-256 over the canonical text of the parameters that every node must share.
    ParametersHash, "parameters hash", 64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lowercase_hex_of_the_right_length_is_an_identity() {
        assert!("0123456789abcdef0123456789abcdef".parse::<NodeId>().is_ok());
        assert_eq!(
            "0123".parse::<NodeId>().unwrap_err().to_string(),
            "node id must be 32 lowercase hexadecimal characters, found 4"
        );
        assert!("0123456789ABCDEF0123456789abcdef".parse::<NodeId>().is_err());
        assert!(serde_json::from_str::<NodeId>("\"zz\"").is_err());
    }
}
