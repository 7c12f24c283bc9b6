//! Marks of a machine: short keyed hashes of what no two machines may share, for a claim. Equal marks of two live nodes tell of a
//! copied disk or a copied virtual machine; a mark tells nobody what it was made of who does not have the cluster token.

use std::collections::BTreeMap;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::Fingerprint;
use crate::core::Secret;

/// The key of marks: it comes from the cluster token, so that marks of one machine in two clusters differ.
#[derive(Clone)]
pub struct MarkKey(hmac::Key);

impl std::fmt::Debug for MarkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MarkKey(***)")
    }
}

impl MarkKey {
    /// The key of a cluster.
    #[must_use]
    pub fn derive(cluster: &str, token: &Secret) -> Self {
        let bytes = super::keys::derive::<32>(token.expose().as_bytes(), "marks of machines", cluster);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes[..]))
    }

    /// The first 64 bits of HMAC-SHA256 over what it is and its value.
    fn mark(&self, what: &str, value: &str) -> u64 {
        let tag = hmac::sign(&self.0, format!("{what}\0{value}").as_bytes());
        tag.as_ref().iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
    }
}

/// The marks of one machine. What it does not have, or could not be read, has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Marks {
    /// Of its machine-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Of its maker's uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<u64>,
    /// Of the hardware address of its node's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<u64>,
}

/// What two machines must not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// The machine-id.
    MachineId,
    /// The maker's uuid.
    ProductUuid,
    /// The hardware address.
    HardwareAddress,
}

impl Marks {
    /// The marks of a machine: its ids without known fillers, and the hardware address of its node's interface.
    #[must_use]
    pub fn of(key: &MarkKey, print: &Fingerprint, mac: Option<&str>) -> Self {
        let of = |what: &str, value: Option<&str>| {
            let value = value.map(|value| value.trim().to_ascii_lowercase());
            value.filter(|value| !tells_nothing(value)).map(|value| key.mark(what, &value))
        };
        Self {
            id: of("machine-id", print.machine_id.as_deref()),
            uuid: of("product-uuid", print.product_uuid.as_deref()),
            mac: of("mac", mac),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What this machine shares with each of others, by name. What is not known on both sides is not shared.
    #[must_use]
    pub fn shared<'a>(
        &self,
        others: impl IntoIterator<Item = (&'a str, &'a Marks)>,
    ) -> BTreeMap<Shared, Vec<&'a str>> {
        let mut shared: BTreeMap<Shared, Vec<&str>> = BTreeMap::new();
        for (name, other) in others {
            for (what, mine, theirs) in [
                (Shared::MachineId, self.id, other.id),
                (Shared::ProductUuid, self.uuid, other.uuid),
                (Shared::HardwareAddress, self.mac, other.mac),
            ] {
                if mine.is_some() && mine == theirs {
                    shared.entry(what).or_default().push(name);
                }
            }
        }
        shared
    }
}

/// Uuids that makers leave in place of one.
const COMMON_UUIDS: [&str; 3] = [
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
];

/// Whether an id in lower case is a filler that tells no machine from another: empty, all zeroes or ones, or a maker's sample.
#[must_use]
pub fn tells_nothing(id: &str) -> bool {
    let only = |digit: u8| id.bytes().all(|byte| byte == digit || matches!(byte, b'-' | b':'));
    only(b'0') || only(b'f') || id == "uninitialized" || COMMON_UUIDS.contains(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cluster: &str, token: &str) -> MarkKey {
        MarkKey::derive(cluster, &Secret::new(token.into()))
    }

    fn print(id: &str, uuid: &str) -> Fingerprint {
        Fingerprint { machine_id: Some(id.into()), product_uuid: Some(uuid.into()) }
    }

    #[test]
    fn equal_machines_have_equal_marks_under_one_token_only() {
        let lab = key("lab", "a-token-of-some-length");
        let marks = Marks::of(&lab, &print("abc", "u-1"), Some("52:54:00:12:34:56"));
        assert_eq!(marks, Marks::of(&lab, &print("ABC", "U-1\n"), Some("52:54:00:12:34:56")));
        for other in [key("lab", "another-token-of-a-length"), key("prod", "a-token-of-some-length")] {
            let theirs = Marks::of(&other, &print("abc", "u-1"), Some("52:54:00:12:34:56"));
            assert!(marks.shared([("b", &theirs)]).is_empty());
        }
        // One value in two places is no match: a mark says what it is of.
        let same = Marks::of(&lab, &print("x", "x"), Some("x"));
        assert!(same.id != same.uuid && same.uuid != same.mac);
        assert_eq!(format!("{lab:?}"), "MarkKey(***)");
    }

    #[test]
    fn what_is_shared_is_named_and_what_is_unknown_is_not() {
        let lab = key("lab", "a-token-of-some-length");
        let of = |id: &str, uuid: &str, mac: Option<&str>| Marks::of(&lab, &print(id, uuid), mac);
        let mine = of("abc", "u-1", Some("52:54:00:12:34:56"));
        let copy = of("abc", "u-2", Some("52:54:00:12:34:56"));
        let filler = of("", "03000200-0400-0500-0006-000700080009", Some("00:00:00:00:00:00"));
        assert!(filler.is_empty());
        let seen = mine.shared([("b", &copy), ("c", &filler), ("d", &copy)]);
        assert_eq!(
            seen,
            [(Shared::MachineId, vec!["b", "d"]), (Shared::HardwareAddress, vec!["b", "d"])].into()
        );
        assert!(filler.shared([("e", &filler)]).is_empty());
    }

    #[test]
    fn marks_add_less_than_a_hundred_bytes_to_a_claim_and_none_when_there_are_none() {
        let lab = key("lab", "a-token-of-some-length");
        let marks = Marks::of(&lab, &print("abc", "u-1"), Some("52:54:00:12:34:56"));
        let text = serde_json::to_string(&marks).unwrap();
        assert!(text.len() < 100 && !text.contains("abc") && !text.contains("52:54"), "{text}");
        assert_eq!(serde_json::to_string(&Marks::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Marks>("{\"id\":7,\"later\":1}").unwrap().id, Some(7));
    }
}
