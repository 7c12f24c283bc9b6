//! Fragments of three sessions in any order and number: what comes out is what went in, and what is held stays within the bounds.

use super::*;
use crate::fuzz::Tape;

const LARGEST: usize = 4_096;

pub(in crate::gossip) fn fragments(data: &[u8]) {
    let mut reassembly = Reassembly::new(LARGEST);
    let mut given: HashMap<(u8, Place2), Vec<Vec<u8>>> = HashMap::new();
    let mut now = Duration::from_secs(100);
    let mut tape = Tape(data);
    for step in 0..=255_u8 {
        if tape.is_over() {
            return;
        }
        now += Duration::from_millis(u64::from(tape.byte() % 64) * 10);
        let (session, message) = (tape.byte() % 3, u32::from(tape.byte() % 6));
        let (index, count) = (tape.byte(), tape.byte());
        let length = usize::from(tape.short()) % 1_200;
        // Each part has content of its own, so that it shows where it went.
        let part = vec![step; length];
        given.entry((session, (message, index, count))).or_default().push(part.clone());
        if let Some(whole) = reassembly.add(now, session, Place { message, index, count }, &part) {
            assert!(whole.len() <= LARGEST);
            let mut rest = &whole[..];
            for index in 0..count {
                let parts =
                    given.get(&(session, (message, index, count))).expect("no such fragment was given");
                let mut fits = parts.iter().filter(|part| !part.is_empty() && rest.starts_with(part));
                let part = fits.next().expect("not what was given");
                rest = &rest[part.len()..];
            }
            assert!(rest.is_empty(), "more came out than went in");
        }
        let missing = reassembly.missing(now);
        assert!(reassembly.due().is_none_or(|due| due > now), "what was asked for is due again at once");
        for (session, Missing { message, fragments }) in missing {
            let partial = &reassembly.partials[&(session, message)];
            assert!(fragments != 0 && fragments & partial.got == 0, "asked for what is there");
            assert!(partial.asked <= QUESTIONS && partial.ask_at > now);
        }
        let held: usize = reassembly.partials.values().map(|partial| partial.bytes).sum();
        assert_eq!(held, reassembly.bytes);
        assert!(held <= TOTAL_BYTES);
        for session in 0..3 {
            assert!(reassembly.partials.keys().filter(|key| key.0 == session).count() <= PER_SESSION);
        }
    }
}

/// Number, index and count: [`Place`] as a key.
type Place2 = (u32, u8, u8);
