//! The bytes of a sealed datagram, as [`seal`](super::seal) describes them.

use ring::aead::{Aad, LessSafeKey, Nonce};

use super::keys::KeyId;
use super::window::SessionId;

/// Largest datagram sent, and the largest one looked at, in bytes of UDP payload: no path splits it.
pub const MAX_DATAGRAM: usize = 1_200;
/// Bytes of the envelope around an unsplit message.
pub const OVERHEAD: usize = HEADER + 1 + TAG;

pub(super) const VERSION: u8 = 1;
pub(super) const HEADER: usize = 1 + 4 + 16 + 8;
pub(super) const TAG: usize = 16;
pub(super) const COOKIE: usize = 16;
/// Room for a message or a piece of one; a cookie always fits beside it, so that a second sending splits as the first.
pub(super) const PIECE: usize = MAX_DATAGRAM - HEADER - TAG - 1 - COOKIE - 6;

pub(super) const KIND_WHOLE: u8 = 1;
pub(super) const KIND_FRAGMENT: u8 = 2;
pub(super) const KIND_CHALLENGE: u8 = 3;
pub(super) const KIND_PROBE: u8 = 4;
pub(super) const KIND_ANSWER: u8 = 5;
pub(super) const KIND_MISSING: u8 = 6;
pub(super) const KIND_PING: u8 = 7;
pub(super) const KIND_PONG: u8 = 8;
pub(super) const WITH_COOKIE: u8 = 0x80;

/// A sender's session under one key of the ring.
pub(super) type Known = (KeyId, SessionId);

/// An opened datagram.
pub(super) struct Sealed<'a> {
    pub(super) known: Known,
    pub(super) counter: u64,
    pub(super) kind: u8,
    pub(super) cookie: Option<&'a [u8]>,
    pub(super) body: &'a [u8],
}

pub(super) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

pub(super) fn unseal<'a>(
    key: &LessSafeKey,
    counter: u64,
    header: &[u8],
    sealed: &'a mut [u8],
) -> Option<&'a [u8]> {
    key.open_in_place(nonce(counter), Aad::from(header), sealed).ok().map(|plain| &*plain)
}

pub(super) fn read_header(datagram: &[u8]) -> Option<(Known, u64)> {
    if datagram.len() < HEADER + TAG + 1 || datagram.len() > MAX_DATAGRAM || datagram[0] != VERSION {
        return None;
    }
    let (key_id, rest) = datagram[1..].split_first_chunk::<4>()?;
    let (session, rest) = rest.split_first_chunk::<16>()?;
    let (counter, _) = rest.split_first_chunk::<8>()?;
    Some(((*key_id, *session), u64::from_be_bytes(*counter)))
}

pub(super) fn read_plain(known: Known, counter: u64, plain: &[u8]) -> Option<Sealed<'_>> {
    let (first, rest) = plain.split_first()?;
    let kind = first & !WITH_COOKIE;
    let (cookie, body) = if first & WITH_COOKIE == 0 {
        (None, rest)
    } else {
        let (cookie, body) = rest.split_at_checked(COOKIE)?;
        (Some(cookie), body)
    };
    let sealed = Sealed { known, counter, kind, cookie, body };
    matches!(kind, KIND_WHOLE..=KIND_PONG).then_some(sealed)
}
