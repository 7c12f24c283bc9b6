//! Entry point of the fuzzer into the ledger: see `crate::fuzz`.

use super::*;
use crate::fuzz::{check_line, check_quotes_nothing};

/// The first byte says whether the rest is the whole file, or the inner text that then gets its right checksum.
fn ledger_text(data: &[u8]) -> Option<String> {
    let (kind, text) = data.split_first()?;
    let text = std::str::from_utf8(text).ok()?.to_owned();
    if kind % 2 == 0 {
        return Some(text);
    }
    serde_json::to_string(&Outer { sha256: digest(&text), ledger: text }).ok()
}

pub(crate) fn ledger(data: &[u8]) {
    let Some(text) = ledger_text(data) else { return };
    let path = Path::new("ledger.json");
    let inner = match parse(path, &text) {
        Ok(inner) => inner,
        Err(error) => {
            let said = error.to_string();
            check_line(&said, 300);
            return check_quotes_nothing(&said, &text);
        }
    };
    let outer: Outer = serde_json::from_str(&text).expect("it was read a moment ago");
    assert_eq!(outer.sha256, digest(&outer.ledger), "a ledger without its checksum");
    let ledger = serde_json::to_string(&inner).expect("a ledger has a text");
    let outer = Outer { sha256: digest(&ledger), ledger };
    let again = parse(path, &serde_json::to_string(&outer).expect("a ledger has a text"));
    let again = again.expect("what was written can be read");
    assert_eq!((&again.record, &again.key), (&inner.record, &inner.key));
    assert_eq!(again.fingerprint, inner.fingerprint);
    match STANDARD.decode(&inner.key).map(|bytes| NodeKey::from_pkcs8(&bytes)) {
        Ok(Ok(key)) => assert_eq!(format!("{key:?}"), format!("NodeKey({})", key.id().short())),
        Ok(Err(error)) => check_quotes_nothing(&error.to_string(), &inner.key),
        Err(_) => {}
    }
    let mut record = inner.record;
    record.open_next_era(crate::founding::Annulment {
        era: record.era,
        cluster_id: None,
        by: crate::core::NodeId::from_digest(&[1; 32]),
        reason: String::new(),
    });
    assert!(record.certificate.is_none() && record.proposal.is_none());
}
