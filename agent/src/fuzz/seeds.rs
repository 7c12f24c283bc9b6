#![expect(clippy::disallowed_methods, reason = "it writes samples into the source tree where it is asked to")]

//! What the agent's own code makes passes each target. With `MUSTER_FUZZ_SEEDS=1` the same samples become the seeds of the corpus:
//! `MUSTER_FUZZ_SEEDS=1 cargo test -p muster --lib fuzz::seeds`.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use super::TARGETS;
use crate::identity::Fingerprint;
use crate::ledger::{Data, Ledger};

fn keep(target: &str, name: &str, bytes: &[u8]) {
    let known = TARGETS.iter().find(|known| known.name == target).unwrap();
    assert!(bytes.len() <= known.longest, "{target}/{name}");
    (known.run)(bytes);
    if std::env::var_os("MUSTER_FUZZ_SEEDS").is_none() {
        return;
    }
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("seed-{name}")), bytes).unwrap();
}

#[test]
fn messages_of_real_gossip() {
    // Ended before the targets run, which make one of their own.
    let messages = {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(crate::gossip::fuzz::real_messages())
    };
    // How many they are is a matter of chance, how many the target plays is not.
    let (mut tape, mut on_it) = (Vec::new(), 0);
    for (n, message) in messages.into_iter().enumerate() {
        keep("message", &format!("real-{n}"), &message);
        if on_it == crate::gossip::fuzz::MEMBER_SAYS {
            (tape, on_it) = (Vec::new(), 0);
        }
        tape.push(50);
        tape.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
        tape.extend_from_slice(&message);
        on_it += 1;
        keep("member", &format!("real-{n}"), &tape);
    }
}

#[test]
fn ledgers() {
    let state = tempfile::tempdir().unwrap();
    let here =
        Fingerprint { machine_id: Some("0123456789abcdef0123456789abcdef".into()), product_uuid: None };
    let mut ledger = Ledger::open(state.path(), "lab", &here).unwrap();
    for (name, certificate) in [("new", None), ("certified", Some(crate::founding::testing::certificate(1)))]
    {
        let mut record = ledger.record().clone();
        if let Some(certificate) = certificate {
            record.ever_certified = true;
            record.heard.insert(certificate.founder.clone());
            record.data =
                Data::Member { role: crate::gossip::Role::Server, cluster: certificate.cluster_id.clone() };
            record.certificate = Some(certificate);
        }
        ledger.commit(record).unwrap();
        let text = std::fs::read_to_string(state.path().join("ledger.json")).unwrap();
        keep("ledger", &format!("file-{name}"), &[b"0", text.as_bytes()].concat());
        let outer: serde_json::Value = serde_json::from_str(&text).unwrap();
        keep(
            "ledger",
            &format!("inner-{name}"),
            &[b"1", outer["ledger"].as_str().unwrap().as_bytes()].concat(),
        );
    }
}

#[test]
fn authorities() {
    let params = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        params
    };
    let key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(params("k3s-server-ca@1750000000"), key()).unwrap();
    let middle = CertifiedIssuer::signed_by(params("middle"), key(), &root).unwrap();
    let leaf = CertifiedIssuer::signed_by(params("server ca"), key(), &middle).unwrap();
    keep("ca", "one", root.pem().as_bytes());
    keep("ca", "chain", [leaf.pem(), middle.pem(), root.pem()].concat().as_bytes());
    keep("ca", "no-root", [leaf.pem(), middle.pem()].concat().as_bytes());
    keep("ca", "twice", root.pem().repeat(2).as_bytes());
}
