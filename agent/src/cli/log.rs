//! `muster log`: reads the decision log, with or without a running agent.

use std::path::Path;

use anyhow::bail;

use super::{DONE, FAILED, print_json, state_dir, status};
use crate::config::Flags;
use crate::edge::{clock, fs, lines};
use crate::report::decisions::chain::{Entry, Fault, Part, Walked, read, walk};
use crate::report::decisions::{Kind, files};
use crate::report::{Status, columns};

/// What is wanted.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct LogArgs {
    /// Only decisions of this kind; several with commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    kind: Vec<KindArg>,
    /// Only decisions of this last time by the wall clock: 90s, 30m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    since: Option<i64>,
    /// Say whether the chain is whole instead, and name what was changed or is missing.
    #[arg(long, conflicts_with_all = ["kind", "since"])]
    verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KindArg {
    Verdict,
    Vote,
    Remedy,
    Refusal,
    Phase,
    Operator,
}

impl KindArg {
    fn kind(self) -> Kind {
        match self {
            KindArg::Verdict => Kind::Verdict,
            KindArg::Vote => Kind::Vote,
            KindArg::Remedy => Kind::Remedy,
            KindArg::Refusal => Kind::Refusal,
            KindArg::Phase => Kind::Phase,
            KindArg::Operator => Kind::Operator,
        }
    }
}

pub(super) fn log(flags: &Flags, args: &LogArgs, json: bool) -> anyhow::Result<u8> {
    let directory = state_dir(flags);
    // Before the log: what the status tells of is then in it.
    let told = fs::read_text(&status::path(flags)).ok().flatten();
    let told: Option<Status> = told.and_then(|text| serde_json::from_str(&text).ok());
    let [older, newer] = read_files(&directory)?;
    if older.is_none() && newer.is_none() {
        bail!("there is no decision log in {}: the agent has not run here", directory.display());
    }
    let older = older.as_deref().map(|bytes| Part { name: files::OLDER, bytes });
    let newer = Part { name: files::NEWER, bytes: newer.as_deref().unwrap_or_default() };
    if args.verify {
        return verify(older, newer, told.as_ref(), json);
    }
    let since = args.since.map_or(i64::MIN, |since| clock::wall_milliseconds().saturating_sub(since));
    let wanted = |entry: &Entry| {
        let kind = entry.decision.kind;
        entry.unix_ms >= since && (args.kind.is_empty() || args.kind.iter().any(|arg| arg.kind() == kind))
    };
    let mut rows = vec![["TIME (UTC)", "N", "KIND", "SUBJECT", "RULE", "DETAIL"].map(str::to_owned)];
    let walked = walk(older, newer, |line, entry| {
        if !wanted(&entry) {
        } else if json {
            println!("{}", String::from_utf8_lossy(line));
        } else {
            rows.push(row(&entry));
        }
    });
    if !json {
        print!("{}", columns(&rows));
    }
    if let Some(fault) = walked.faults.first() {
        eprintln!("muster: the log is not whole: {fault}; muster log --verify names everything");
    }
    Ok(DONE)
}

fn read_files(directory: &Path) -> anyhow::Result<[Option<Vec<u8>>; 2]> {
    let newer = directory.join(files::NEWER);
    match lines::read_pair(&directory.join(files::OLDER), &newer) {
        Err(error) if error.io().kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("{} is for root alone: run muster log as root", newer.display());
        }
        other => Ok(other?),
    }
}

/// What `--verify` found.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
struct Verdict {
    whole: bool,
    lines: u64,
    first: Option<u64>,
    last: u64,
    head: String,
    /// Bytes of a last line without its end.
    unfinished_bytes: usize,
    faults: Vec<Fault>,
}

fn verify(older: Option<Part<'_>>, newer: Part<'_>, told: Option<&Status>, json: bool) -> anyhow::Result<u8> {
    let verdict = judged(older, newer, told);
    if json {
        print_json(&verdict)?;
    } else {
        for fault in &verdict.faults {
            println!("{fault}");
        }
        let first = verdict.first.unwrap_or(0);
        let Verdict { lines, last, head, .. } = &verdict;
        if verdict.whole {
            println!("whole: {lines} lines, numbers {first} to {last}, the last hash is {head}");
        } else {
            println!(
                "not whole (faults: {}): {lines} good lines, numbers {first} to {last}",
                verdict.faults.len()
            );
        }
        if verdict.unfinished_bytes > 0 {
            let bytes = verdict.unfinished_bytes;
            println!(
                "{bytes} bytes at the end are no whole line: a crash tore it, or the agent is writing it"
            );
        }
    }
    Ok(if verdict.whole { DONE } else { FAILED })
}

/// The chain itself, and whether its end is the one that a running agent tells of.
fn judged(older: Option<Part<'_>>, newer: Part<'_>, told: Option<&Status>) -> Verdict {
    let told = told.map(|status| &status.decisions).filter(|told| told.last > 0);
    let mut said = None;
    let Walked { lines, first, head, torn, mut faults } = walk(older, newer, |line, entry| {
        if told.is_some_and(|told| told.last == entry.n) {
            said = read(line).ok().map(|(_, head)| head.hash);
        }
    });
    let end = newer.bytes.iter().filter(|&&byte| byte == b'\n').count();
    let fault = |what| Fault { file: newer.name.to_owned(), line: end, what };
    match (told, said) {
        (Some(told), None) if told.last > head.n => faults.push(fault(format!(
            "(number {}) is the last, and the agent wrote number {}: lines at the end are missing",
            head.n, told.last
        ))),
        (Some(told), Some(said)) if told.head != said => {
            faults.push(fault(format!("and before: number {} is not the one the agent wrote", told.last)));
        }
        _ => {}
    }
    Verdict {
        whole: faults.is_empty(),
        lines,
        first,
        last: head.n,
        head: head.hash,
        unfinished_bytes: torn,
        faults,
    }
}

fn row(entry: &Entry) -> [String; 6] {
    let decision = &entry.decision;
    let mut detail = decision.detail.clone();
    if decision.kind == Kind::Phase || decision.kind == Kind::Remedy {
        // What the eye looks for: which phase it was, and what the deed was about.
        if let Some(first) = decision.evidence.first() {
            detail = format!("{detail} ({first})");
        }
    }
    [
        utc(entry.unix_ms),
        entry.n.to_string(),
        decision.kind.word().to_owned(),
        decision.subject.clone(),
        decision.rule.clone(),
        detail,
    ]
}

/// `2026-07-29 12:34:56`, by the rules of the Gregorian calendar (days since 1970 to a date after Howard Hinnant).
fn utc(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1_000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60)
}

fn milliseconds(text: &str) -> Result<i64, String> {
    let wrong = || "give a number and its unit: 90s, 30m, 2h, 7d".to_owned();
    let (unit, factor) = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or_else(wrong)?;
    let number: u32 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    Ok(i64::from(number) * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::decisions::{Decision, DecisionLog};
    use crate::report::status::stuck;

    #[test]
    fn times_are_read_and_written() {
        for (text, wanted) in [
            ("90s", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("7d", Some(604_800_000)),
            ("2", None),
            ("h", None),
            ("-1h", None),
        ] {
            assert_eq!(milliseconds(text).ok(), wanted, "{text}");
        }
        for (unix, wanted) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_772_323_199_999, "2026-02-28 23:59:59"),
            (1_772_323_200_000, "2026-03-01 00:00:00"),
            (4_107_542_399_000, "2100-02-28 23:59:59"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(unix), wanted);
        }
    }

    #[test]
    fn a_missing_end_is_found_with_the_word_of_a_running_agent_alone() {
        let state = tempfile::tempdir().unwrap();
        let mut log = DecisionLog::open(state.path()).unwrap();
        for rule in ["one", "two", "three"] {
            log.append(&Decision::new(Kind::Verdict, "x", rule, ""), false).unwrap();
        }
        let mut status = stuck("lab", "node1", Vec::new(), 0);
        (status.decisions.last, status.decisions.head) = (log.head().n, log.head().hash.clone());
        let whole = fs::read(&state.path().join(files::NEWER)).unwrap().unwrap();
        let part = |bytes| Part { name: files::NEWER, bytes };
        assert!(judged(None, part(&whole), Some(&status)).whole);
        let cut = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        assert!(judged(None, part(&whole[..cut]), None).whole);
        let verdict = judged(None, part(&whole[..cut]), Some(&status));
        assert_eq!(
            verdict.faults[0].to_string(),
            "line 2 of decisions.jsonl (number 2) is the last, and the agent wrote number 3: lines at the end are missing"
        );
        status.decisions.head = "0".repeat(64);
        assert!(!judged(None, part(&whole), Some(&status)).whole);
    }
}
