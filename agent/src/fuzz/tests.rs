#![expect(clippy::disallowed_methods, reason = "the tests read the corpus")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

use super::{TARGETS, Tape, Target};

/// The inputs in the repository, by name.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target.name);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// `SplitMix64`: the same inputs on every machine and with every version of every library.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }
}

/// What parsers stumble over.
const WORDS: &[&[u8]] = &[
    b"\n",
    b"\0",
    b"\"",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"-1",
    b"18446744073709551615",
    b"1e999",
    b"K10",
    b"::",
    b"\x1b[31m",
    b"\xff",
    "\u{2028}".as_bytes(),
    b"\\n",
    b"- ",
    b": ",
    b"'''",
    b"&a ",
    b"*a",
    b"-----BEGIN ",
];

fn change(dice: &mut Dice, input: &mut Vec<u8>, other: &[u8]) {
    let at = dice.below(input.len() + 1);
    let piece = |dice: &mut Dice, bytes: &[u8]| {
        let from = dice.below(bytes.len() + 1);
        let length = dice.below(64).min(bytes.len() - from);
        bytes[from..from + length].to_vec()
    };
    match dice.below(8) {
        0 | 1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = dice.roll() as u8;
            }
        }
        3 => {
            let to = (at + dice.below(16)).min(input.len());
            input.drain(at..to);
        }
        4 => {
            let piece = piece(dice, &input.clone());
            input.splice(at..at, piece);
        }
        5 => {
            let piece = piece(dice, other);
            input.splice(at..at, piece);
        }
        6 => {
            let word = WORDS[dice.below(WORDS.len())];
            input.splice(at..at, word.iter().copied());
        }
        _ => input.truncate(at),
    }
}

fn run(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        eprintln!("target {}, input in hexadecimal: {}", target.name, hex::encode(input));
        eprintln!(
            "keep it as tests/fuzz/corpus/{}/found-<what>, then: tests/fuzz/run {}",
            target.name, target.name
        );
        resume_unwind(panic);
    }
}

/// Every input of the corpus, and as many changed ones as the target says: the same in every run.
fn bounded(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "no corpus");
    for input in &corpus {
        run(target, input);
    }
    let mut dice = Dice(name.bytes().fold(1_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte)));
    for _ in 0..target.runs {
        let mut input = corpus[dice.below(corpus.len())].clone();
        let other = dice.below(corpus.len());
        for _ in 0..=dice.below(6) {
            change(&mut dice, &mut input, &corpus[other]);
        }
        input.truncate(target.longest);
        run(target, &input);
    }
}

macro_rules! bounded_runs {
    ($($test:ident $name:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                bounded($name);
            }
        )*

        #[test]
        fn every_target_has_a_bounded_run() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$($name),*]);
        }
    };
}

bounded_runs! {
    datagram "datagram",
    fragments "fragments",
    message "message",
    member "member",
    claims "claims",
    ledger "ledger",
    configuration "configuration",
    k3s_files "k3s-files",
    k3s_answers "k3s-answers",
    ca "ca",
    host_journal "host-journal",
}

#[test]
fn a_tape_gives_zeros_at_its_end() {
    let mut tape = Tape(&[0, 3, b'a', b'b']);
    assert_eq!(tape.piece(), b"ab");
    assert!(tape.is_over());
    assert_eq!((tape.byte(), tape.short(), tape.below(3), tape.piece().len()), (0, 0, 0, 0));
}
