#![expect(clippy::disallowed_methods, reason = "the tests damage files on purpose")]

mod derived;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::chain::{self, Part, ROTATED, Walked, walk};
use super::{Decision, DecisionLog, Kind, TORN, files};

fn decision(rule: &str) -> Decision {
    Decision::new(Kind::Verdict, "node1", rule, "words \"with\" \\ and\nlines").on("a fact")
}

fn write(state: &Path, rules: &[&str]) {
    let mut log = DecisionLog::open(state).unwrap();
    for rule in rules {
        log.append(&decision(rule), false).unwrap();
    }
}

fn content(state: &Path, name: &str) -> Vec<u8> {
    fs::read(state.join(name)).unwrap_or_default()
}

/// The walk along what is on disk, and the rules in order.
fn walked(state: &Path) -> (Walked, Vec<String>) {
    let older = fs::read(state.join(files::OLDER)).ok();
    let newer = content(state, files::NEWER);
    let mut rules = Vec::new();
    let older = older.as_deref().map(|bytes| Part { name: files::OLDER, bytes });
    let walked =
        walk(older, Part { name: files::NEWER, bytes: &newer }, |_, entry| rules.push(entry.decision.rule));
    (walked, rules)
}

fn faults(bytes: &[u8]) -> Vec<String> {
    let walked = walk(None, Part { name: files::NEWER, bytes }, |_, _| {});
    walked.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_chain_goes_on_over_restarts_and_is_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    write(state.path(), &["one", "two"]);
    write(state.path(), &["three"]);
    let (walked, rules) = walked(state.path());
    assert_eq!(rules, ["one", "two", "three"]);
    assert_eq!((walked.lines, walked.first, walked.head.n, walked.torn), (3, Some(1), 3, 0));
    assert_eq!(walked.faults, []);
    let mode = fs::metadata(state.path().join(files::NEWER)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_line_is_json_with_the_hash_of_the_rest() {
    let state = tempfile::tempdir().unwrap();
    write(state.path(), &["one"]);
    let bytes = content(state.path(), files::NEWER);
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&value["n"], &value["kind"], &value["evidence"][0]),
        (&1.into(), &"verdict".into(), &"a fact".into())
    );
    assert_eq!(value["previous"], chain::START);
    let text = String::from_utf8(bytes).unwrap();
    let rest = format!("{{{}", &text.trim_end()[75..]);
    let digest = ring::digest::digest(&ring::digest::SHA256, rest.as_bytes());
    assert_eq!(value["hash"], hex::encode(digest));
    assert!(!text.contains("\\n"), "control characters are not kept: {text}");
}

#[test]
fn what_was_changed_or_is_missing_is_named() {
    let state = tempfile::tempdir().unwrap();
    write(state.path(), &["r1", "r2", "r3", "r4", "r5"]);
    let whole = String::from_utf8(content(state.path(), files::NEWER)).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let without = |gone: &[usize]| {
        let kept = lines.iter().enumerate().filter(|(at, _)| !gone.contains(at));
        kept.map(|(_, line)| *line).collect::<String>()
    };
    // The third line written anew with a right hash of its own.
    let entry = chain::read(lines[2].trim_end().as_bytes()).unwrap().0;
    let forged = chain::Entry { decision: decision("forged"), ..entry };
    let forged = whole.replace(lines[2], &chain::line(&forged).unwrap().0);
    for (text, wanted) in [
        (whole.clone(), vec![]),
        (
            whole.replace("r3", "r9"),
            vec!["line 3 of decisions.jsonl (number 3) was changed: it does not have its hash"],
        ),
        (forged, vec!["line 4 of decisions.jsonl (number 4) does not follow number 3 before it"]),
        (without(&[2]), vec!["line 3 of decisions.jsonl (number 4): number 3 is missing before it"]),
        (
            without(&[1, 2]),
            vec!["line 2 of decisions.jsonl (number 4): numbers 2 to 3 are missing before it"],
        ),
        (without(&[0]), vec!["line 1 of decisions.jsonl has number 2: what came before it is missing"]),
        (
            whole.replace(lines[1], "words\n"),
            vec!["line 2 of decisions.jsonl is damaged: it is no line of the log"],
        ),
        (
            whole.replace(lines[1], &format!("{}{}", lines[1], lines[1])),
            vec!["line 3 of decisions.jsonl (number 2) does not follow number 2 before it"],
        ),
    ] {
        assert_eq!(faults(text.as_bytes()), wanted, "{text}");
    }
}

#[test]
fn a_full_file_becomes_the_older_one_and_its_last_hash_begins_the_new_one() {
    let state = tempfile::tempdir().unwrap();
    let mut log = DecisionLog::open_limited(state.path(), 4_000).unwrap();
    for at in 0..60 {
        log.append(&decision(&format!("rule-{at}")), at % 7 == 0).unwrap();
        let (walked, rules) = walked(state.path());
        assert_eq!(walked.faults, [], "after {at}");
        assert_eq!(rules.last().unwrap(), &format!("rule-{at}"));
        assert_eq!(&walked.head, log.head());
        for name in [files::NEWER, files::OLDER] {
            assert!(content(state.path(), name).len() <= 4_000, "{name}");
        }
        if at % 11 == 0 {
            log = DecisionLog::open_limited(state.path(), 4_000).unwrap();
        }
    }
    assert!(walked(state.path()).1.contains(&ROTATED.to_owned()));
    assert!(walked(state.path()).0.first.unwrap() > 1, "the oldest lines are gone");
    fs::remove_file(state.path().join(files::OLDER)).unwrap();
    let said = walked(state.path()).0.faults[0].to_string();
    assert!(said.starts_with("line 1 of decisions.jsonl has number "), "{said}");
}

#[test]
fn a_crash_anywhere_in_a_rotation_loses_nothing_and_breaks_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut log = DecisionLog::open_limited(state.path(), 2_000).unwrap();
    while content(state.path(), files::OLDER).is_empty() {
        log.append(&decision("before"), false).unwrap();
    }
    let (older, newer) = (content(state.path(), files::OLDER), content(state.path(), files::NEWER));
    let last_of_older = chain::tail(&older).head.unwrap().n;
    // Every syncing open costs time: the bytes around the ends of lines, and some between.
    let near_an_end = |cut: usize| {
        let around = &newer[cut.saturating_sub(2)..newer.len().min(cut + 2)];
        around.contains(&b'\n') || cut < 3 || cut.is_multiple_of(41)
    };
    // After the rename nothing of the new file is there; then it is empty, then any part of its lines.
    for cut in std::iter::once(None).chain((0..=newer.len()).filter(|cut| near_an_end(*cut)).map(Some)) {
        let crashed = tempfile::tempdir().unwrap();
        fs::write(crashed.path().join(files::OLDER), &older).unwrap();
        if let Some(cut) = cut {
            fs::write(crashed.path().join(files::NEWER), &newer[..cut]).unwrap();
        }
        let mut log = DecisionLog::open_limited(crashed.path(), 2_000).unwrap();
        log.append(&decision("after"), true).unwrap();
        let (walked, rules) = walked(crashed.path());
        assert_eq!(walked.faults, [], "{cut:?}");
        assert_eq!(rules.last().unwrap(), "after");
        assert!(walked.head.n > last_of_older + 1, "{cut:?}");
        let newer = content(crashed.path(), files::NEWER);
        assert!(String::from_utf8_lossy(&newer).lines().next().unwrap().contains(ROTATED), "{cut:?}");
    }
}

#[test]
fn a_last_line_that_was_changed_is_put_apart_and_said() {
    let state = tempfile::tempdir().unwrap();
    write(state.path(), &["one", "two"]);
    let text = String::from_utf8(content(state.path(), files::NEWER)).unwrap();
    fs::write(state.path().join(files::NEWER), text.replace("two", "2wo")).unwrap();
    write(state.path(), &["three"]);
    assert_eq!(walked(state.path()).1, ["one", TORN, "three"]);
    assert!(String::from_utf8_lossy(&content(state.path(), files::TORN_ENDS)).contains("2wo"));
}

#[test]
fn an_end_of_zeroes_after_a_power_cut_is_put_apart() {
    let state = tempfile::tempdir().unwrap();
    write(state.path(), &["one"]);
    let mut bytes = content(state.path(), files::NEWER);
    bytes.resize(bytes.len() + 5_000, 0);
    fs::write(state.path().join(files::NEWER), bytes).unwrap();
    write(state.path(), &["two"]);
    let (walked, rules) = walked(state.path());
    assert_eq!((rules, walked.faults.len()), (vec!["one".to_owned(), TORN.to_owned(), "two".to_owned()], 0));
}

#[test]
fn a_large_file_without_a_whole_line_is_kept_whole() {
    let state = tempfile::tempdir().unwrap();
    let junk = vec![b'x'; 300_000];
    fs::write(state.path().join(files::NEWER), &junk).unwrap();
    write(state.path(), &["one"]);
    assert_eq!(content(state.path(), files::DAMAGED), junk);
    let (walked, rules) = walked(state.path());
    assert_eq!((rules, walked.faults.len()), (vec!["log-damaged".to_owned(), "one".to_owned()], 0));
}

#[test]
fn a_file_that_somebody_removed_or_wrote_to_is_gone_on_with_and_named() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join(files::NEWER);
    let mut log = DecisionLog::open(state.path()).unwrap();
    log.append(&decision("one"), false).unwrap();
    fs::write(&path, [content(state.path(), files::NEWER), b"a note".to_vec()].concat()).unwrap();
    log.append(&decision("two"), false).unwrap();
    let (found, rules) = walked(state.path());
    assert_eq!((rules, found.faults.len()), (vec!["one".to_owned(), "two".to_owned()], 1));
    fs::remove_file(&path).unwrap();
    log.append(&decision("three"), true).unwrap();
    let (found, rules) = walked(state.path());
    assert_eq!(rules, [ROTATED, "three"]);
    assert_eq!(
        found.faults[0].to_string(),
        "line 1 of decisions.jsonl has number 3: what came before it is missing"
    );
}

fn any_decision() -> impl Strategy<Value = Decision> {
    let kind = prop::sample::select(Kind::ALL.to_vec());
    (kind, "\\PC{0,20}", "[a-z-]{0,12}", any::<String>(), prop::collection::vec("\\PC{0,500}", 0..20))
        .prop_map(|(kind, subject, rule, detail, evidence)| Decision {
            kind,
            subject,
            rule,
            detail,
            evidence,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_in_any_line_is_survived(before in prop::collection::vec(any_decision(), 1..5), part in 0.0..1.0_f64) {
        let state = tempfile::tempdir().unwrap();
        let mut log = DecisionLog::open(state.path()).unwrap();
        for decision in &before {
            log.append(decision, false).unwrap();
        }
        let whole = content(state.path(), files::NEWER);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in it")]
        let cut = (part * whole.len() as f64) as usize;
        let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
        let end = whole[..cut].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        fs::write(state.path().join(files::NEWER), &whole[..cut]).unwrap();

        let mut log = DecisionLog::open(state.path()).unwrap();
        let torn = usize::from(cut > end);
        log.append(&decision("after"), false).unwrap();
        let (walked, rules) = walked(state.path());
        prop_assert_eq!(&walked.faults, &[]);
        prop_assert_eq!(rules.len(), lines + torn + 1);
        prop_assert_eq!(torn == 1, rules.contains(&TORN.to_owned()));
        let kept = content(state.path(), files::TORN_ENDS);
        prop_assert_eq!(kept.strip_suffix(b"\n").unwrap_or_default(), &whole[end..cut]);
        prop_assert_eq!(&content(state.path(), files::NEWER)[..end], &whole[..end]);
    }

    #[test]
    fn every_changed_byte_is_found(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let state = tempfile::tempdir().unwrap();
        write(state.path(), &["one", "two", "three"]);
        let mut bytes = content(state.path(), files::NEWER);
        // The very last byte is the end of the last line: without it that line is torn, which is no fault.
        let at = at.index(bytes.len() - 1);
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(!faults(&bytes).is_empty(), "byte {} became {}", at, to);
    }

    #[test]
    fn no_bytes_stop_the_log(junk in prop::collection::vec(any::<u8>(), 0..400)) {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(files::NEWER), &junk).unwrap();
        fs::write(state.path().join(files::OLDER), &junk).unwrap();
        write(state.path(), &["one"]);
        let newer = content(state.path(), files::NEWER);
        prop_assert_eq!(faults(&newer), Vec::<String>::new());
    }
}
