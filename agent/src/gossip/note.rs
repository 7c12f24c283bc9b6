//! A sealed note with an address: what a node may put where everybody can read it. Under a key of its own, derived from the ring's, so
//! that it can be confused with no datagram.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use crate::gossip::GossipKeys;

const SALT: &[u8] = b"muster note v1";
const ADDRESS: usize = 16 + 2;

fn key(raw: &[u8; 32], cluster: &str) -> Option<LessSafeKey> {
    let prk = Salt::new(HKDF_SHA256, SALT).extract(raw);
    let info = [b"address".as_slice(), cluster.as_bytes()];
    let okm = prk.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(okm)))
}

/// Seals an address. The nonce must be fresh random bytes.
#[must_use]
pub fn seal_note(
    keys: &GossipKeys,
    cluster: &str,
    nonce: [u8; NONCE_LEN],
    address: SocketAddr,
) -> Option<Vec<u8>> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut plain = ip.octets().to_vec();
    plain.extend_from_slice(&address.port().to_be_bytes());
    let key = key(&keys.seal, cluster)?;
    let sealed = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut plain);
    sealed.ok()?;
    Some([nonce.as_slice(), &plain].concat())
}

/// Opens a note with any key of the ring.
#[must_use]
pub fn open_note(keys: &GossipKeys, cluster: &str, note: &[u8]) -> Option<SocketAddr> {
    let (nonce, sealed) = note.split_first_chunk::<NONCE_LEN>()?;
    if sealed.len() != ADDRESS + AES_256_GCM.tag_len() {
        return None;
    }
    std::iter::once(&keys.seal).chain(&keys.open).find_map(|raw| {
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key(raw, cluster)?.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        let (ip, port) = plain.split_first_chunk::<16>()?;
        let port = u16::from_be_bytes(port.try_into().ok()?);
        Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical(), port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_opens_under_its_key_and_cluster_alone() {
        let (one, two) = (GossipKeys::single([1; 32]), GossipKeys::single([2; 32]));
        let address: SocketAddr = "10.0.0.1:7846".parse().unwrap();
        let note = seal_note(&one, "lab", [7; 12], address).unwrap();
        assert_eq!(open_note(&one, "lab", &note), Some(address));
        assert_eq!(open_note(&two, "lab", &note), None);
        assert_eq!(open_note(&one, "other", &note), None);
        let rotated = GossipKeys { seal: [2; 32], open: vec![[1; 32]] };
        assert_eq!(open_note(&rotated, "lab", &note), Some(address));
        for at in 0..note.len() {
            let mut changed = note.clone();
            changed[at] ^= 1;
            assert_eq!(open_note(&one, "lab", &changed), None, "byte {at}");
        }
        assert_eq!(open_note(&one, "lab", &note[..20]), None);
        let six: SocketAddr = "[fd00::1]:5".parse().unwrap();
        assert_eq!(open_note(&one, "lab", &seal_note(&one, "lab", [8; 12], six).unwrap()), Some(six));
    }
}
