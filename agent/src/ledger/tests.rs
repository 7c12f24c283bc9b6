#![expect(clippy::disallowed_methods, reason = "the tests damage files on purpose")]

use super::*;
use crate::founding::testing::certificate;
use crate::identity::Fingerprint;

fn machine(id: &str) -> Fingerprint {
    Fingerprint { machine_id: Some(id.into()), product_uuid: None }
}

#[test]
fn a_ledger_comes_back_whole_with_its_identity() {
    let state = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(state.path(), "lab", &machine("a")).unwrap();
    let id = ledger.key().id().clone();
    let mut record = ledger.record().clone();
    record.certificate = Some(certificate(1));
    ledger.commit(record.clone()).unwrap();
    assert_eq!(ledger.next_generation().unwrap(), 1);
    drop(ledger);

    let again = Ledger::open(state.path(), "lab", &machine("a")).unwrap();
    assert_eq!(again.key().id(), &id);
    assert_eq!(again.record().certificate, record.certificate);
    assert_eq!(again.record().generation, 1);
    assert_eq!(peek(state.path()).unwrap().as_ref(), Some(again.record()));
}

#[test]
fn a_damaged_ledger_is_an_error_and_never_a_new_one() {
    let state = tempfile::tempdir().unwrap();
    drop(Ledger::open(state.path(), "lab", &machine("a")).unwrap());
    let path = state.path().join("ledger.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let key: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let inner: serde_json::Value = serde_json::from_str(key["ledger"].as_str().unwrap()).unwrap();
    let key = inner["key"].as_str().unwrap();
    // Every truncation and every flipped byte must be seen.
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = Ledger::open(state.path(), "lab", &machine("a")).unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { .. }), "cut at {cut}: {error}");
        assert!(!error.to_string().contains(key));
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        match Ledger::open(state.path(), "lab", &machine("a")) {
            Err(LedgerError::Damaged { .. } | LedgerError::Io(_)) => {}
            other => panic!("flip at {at} went unnoticed: {other:?}"),
        }
    }
}

#[test]
fn a_cloned_disk_makes_a_new_identity_and_keeps_the_old_file() {
    let state = tempfile::tempdir().unwrap();
    let first = Ledger::open(state.path(), "lab", &machine("a")).unwrap();
    let id = first.key().id().clone();
    drop(first);
    let clone = Ledger::open(state.path(), "lab", &machine("b")).unwrap();
    assert_ne!(clone.key().id(), &id);
    assert_eq!(clone.cloned_from, Some("machine-id"));
    assert!(state.path().join("ledger-of-another-machine-0.json").exists());
}

#[test]
fn two_agents_cannot_hold_one_ledger() {
    let state = tempfile::tempdir().unwrap();
    let _first = Ledger::open(state.path(), "lab", &machine("a")).unwrap();
    assert!(matches!(Ledger::open(state.path(), "lab", &machine("a")), Err(LedgerError::Held { .. })));
}

#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    let _ledger = Ledger::open(state.path(), "lab", &machine("a")).unwrap();
    let mode = std::fs::metadata(state.path().join("ledger.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_new_era_keeps_nothing_that_was_voted() {
    let mut record = Record::new("lab");
    record.certificate = Some(certificate(1));
    record.heard.insert(crate::founding::testing::id(1));
    let annulment = crate::founding::Annulment {
        era: 1,
        cluster_id: None,
        by: crate::founding::testing::id(2),
        reason: "the founder burnt".into(),
    };
    record.open_next_era(annulment.clone());
    let expected = Record { cluster: "lab".into(), era: 2, annulment: Some(annulment), ..Record::default() };
    assert_eq!(record, expected);
}
