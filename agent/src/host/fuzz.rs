//! Entry point of the fuzzer into the host journal: see `crate::fuzz`.

use super::journal::Journal;
use crate::fuzz::check_line;

/// The text of a journal. What is rewritten says the same.
pub(crate) fn host_journal(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut journal = match Journal::parse(text) {
        Ok(journal) => journal,
        Err(error) => return check_line(&error.to_string(), 300),
    };
    let before = journal.clone();
    let rewritten = journal.rewritten().expect("a journal has a text");
    assert!(!journal.wants_rewriting() || journal.entries().next().is_some());
    let again = Journal::parse(&rewritten).unwrap_or_else(|error| panic!("{error}: {rewritten}"));
    assert!(again.entries().eq(before.entries()));
    assert_eq!(again.owed(), before.owed(), "{rewritten}");
    assert!(again.next() > 0);
}
