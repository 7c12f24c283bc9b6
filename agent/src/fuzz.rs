//! What the fuzzer in `tests/fuzz` and the bounded run in `cargo test` call: one function for each target. It gives the shipped code
//! bytes and panics when a property does not hold. Built for tests and with `--cfg fuzzing` alone; nothing of it is in a release.

use crate::{config, gossip, host, k3s, ledger};

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

/// One thing that is fuzzed.
pub struct Target {
    /// Its name, and that of its corpus below `tests/fuzz/corpus`.
    pub name: &'static str,
    /// Longest input in bytes.
    pub longest: usize,
    /// Most memory that one input may take, in bytes; the fuzzer measures it.
    pub memory: usize,
    /// Changed inputs in the bounded run.
    pub runs: u32,
    /// Runs one input.
    pub run: fn(&[u8]),
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const fn target(name: &'static str, longest: usize, memory: usize, runs: u32, run: fn(&[u8])) -> Target {
    Target { name, longest, memory, runs, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("datagram", 4 * KIB, 32 * MIB, 1_500, gossip::fuzz::datagram),
    target("fragments", 4 * KIB, 8 * MIB, 3_000, gossip::fuzz::fragments),
    target("message", 64 * KIB, 128 * MIB, 3_000, gossip::fuzz::message),
    target("member", 8 * KIB, 64 * MIB, 60, gossip::fuzz::member),
    target("claims", 8 * KIB, 8 * MIB, 400, gossip::fuzz::claims),
    target("ledger", 16 * KIB, 8 * MIB, 2_000, ledger::fuzz),
    target("configuration", 8 * KIB, 16 * MIB, 1_500, config::fuzz::configuration),
    target("k3s-files", 8 * KIB, 32 * MIB, 1_500, k3s::fuzz::files),
    target("k3s-answers", 16 * KIB, 16 * MIB, 2_000, k3s::fuzz::answers),
    target("ca", 16 * KIB, 16 * MIB, 500, k3s::fuzz::ca),
    target("host-journal", 8 * KIB, 16 * MIB, 2_000, host::fuzz),
];

/// An input read from its front: numbers and pieces; zero and empty at its end.
pub(crate) struct Tape<'a>(pub(crate) &'a [u8]);

impl<'a> Tape<'a> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number of two bytes.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number below a bound of at most 256, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// As many bytes, or what is left.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// A piece that begins with its length in two bytes.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.short());
        self.take(length)
    }
}

/// What a person reads is one line, and not an endless one.
pub(crate) fn check_line(line: &str, longest: usize) {
    assert!(!line.chars().any(char::is_control), "not one line: {line:?}");
    assert!(line.chars().count() <= longest, "{} characters: {line:?}", line.chars().count());
}

/// No word of an input that is long enough to be a secret stands in what is said about it.
pub(crate) fn check_quotes_nothing(said: &str, input: &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=_-".contains(c);
    for word in input.split(|c| !is_part(c)).filter(|word| word.len() >= 16) {
        assert!(!said.contains(word), "{said:?} quotes {word:?}");
    }
}
