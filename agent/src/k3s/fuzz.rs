//! Entry points of the fuzzer into what k3s, etcd and their files say: see `crate::fuzz`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ca::{CaBundle, CaError};
use super::config_file::{ConfigFile, read_mapping};
use super::facts::{critical_keys_of, own_member, parse_health, parse_members, parse_version, variables_of};
use super::release::{Arch, Sha256, check_elf, sum_of};
use super::render::config_text;
use super::spec::K3sSpec;
use super::token::{TokenFile, TokenForm, check_password};
use super::{K3sRole, kube, logtext};
use crate::config::{can_be_flag, is_flag};
use crate::core::{Known, Secret};
use crate::edge::http::Answer;
use crate::edge::systemd::parse_show;
use crate::fuzz::{check_line, check_quotes_nothing};

const CANARY: &str = "canary-0123456789abcdef";
/// Beginnings of a config.yaml that holds a secret, whole and broken.
const FIRST: [&str; 8] = [
    "",
    "token: CANARY\n",
    "token: \"CANARY\n",
    "CANARY\n",
    "- CANARY\n",
    "agent-token: [CANARY\n",
    "{\"token\": \"CANARY\", ",
    "token: !!int CANARY\n",
];

/// Longest cause of an unknown fact, with what was looked at before it.
const LONGEST: usize = 500;

/// What the agent says of an answer that it could not read.
fn unread(cause: String) {
    let Known::Unknown(unread) = Known::<()>::unknown("https://127.0.0.1:6443/db/info", cause) else {
        return;
    };
    check_line(&unread.to_string(), LONGEST);
}

fn rest(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(first, rest)| (*first, rest))
}

/// Files beside k3s: config.yaml, drop-ins, environment, token, checksums. The first byte says which.
pub(crate) fn files(data: &[u8]) {
    let Some((which, body)) = rest(data) else { return };
    let Ok(text) = std::str::from_utf8(body) else { return };
    match which % 16 {
        first @ 0..8 => config(FIRST[usize::from(first)], text),
        8 | 9 => {
            for key in critical_keys_of(text) {
                check_line(&key, usize::MAX);
            }
        }
        10 | 11 => {
            for name in variables_of(text) {
                let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                let commands = ["ExecStart", "ExecCondition", "EnvironmentFile"];
                assert!(
                    commands.contains(&&*name) || name.starts_with("K3S_") && name.chars().all(is_name),
                    "{name}"
                );
            }
        }
        12 | 13 => token(text),
        _ => {
            let names = ["k3s", "k3s-arm64"];
            if let Some(sum) = sum_of(text, &names) {
                assert_eq!(Sha256::parse(sum.as_str()).as_ref(), Some(&sum));
                assert!(text.to_ascii_lowercase().contains(sum.as_str()));
                assert_eq!(sum_of(&format!("{sum}  k3s\n"), &names), Some(sum));
            }
        }
    }
}

fn config(first: &str, text: &str) {
    if text.contains(CANARY) {
        return;
    }
    let text = first.replace("CANARY", CANARY) + text;
    match ConfigFile::parse(&text) {
        Ok(file) => {
            assert!(file.is(&text));
            let map = read_mapping(&text).expect("it was read a moment ago");
            assert_eq!(file.keys, map.keys().cloned().collect::<Vec<_>>());
            if first == FIRST[1] && map.get("token").is_some_and(|token| token == CANARY) {
                assert!(file.inline_token && !format!("{file:?}").contains(CANARY), "{file:?}");
            }
            check_written(map);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains(CANARY), "{said}");
            unread(said);
        }
    }
}

/// What Muster may write into k3s's file is read as it was meant.
fn check_written(map: BTreeMap<String, Value>) {
    let mut keys = map;
    keys.retain(|key, value| is_flag(key) && can_be_flag(value));
    let spec = K3sSpec { role: K3sRole::Server, keys, secrets: Vec::new() };
    let text = config_text(&spec);
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text:?}");
    let read = read_mapping(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let meant: BTreeMap<String, Value> =
        spec.keys.iter().map(|(key, value)| (key.clone(), as_written(value))).collect();
    assert_eq!(read, meant, "{text}");
}

/// Fractions are written as texts.
fn as_written(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => number.to_string().into(),
        Value::Array(items) => items.iter().map(as_written).collect(),
        other => other.clone(),
    }
}

fn token(text: &str) {
    let file = TokenFile::parse(text);
    assert_eq!(file.password_hash12.len(), 12);
    assert!(!matches!(file.form, TokenForm::Full { .. }) || text.trim().starts_with("K10"));
    let password = Secret::new(text.to_owned());
    match check_password(&password) {
        // What may be a password is read back from each form as itself.
        Ok(()) => {
            assert_eq!(file.form, TokenForm::Short);
            let ca = crate::core::CaHash::from_digest(&[0xab; 32]);
            let full = TokenFile::parse(super::full_server_token(&ca, &password).expose());
            assert_eq!(full.form, TokenForm::Full { ca, user: "server".into() });
            assert_eq!(full.password_hash12, file.password_hash12);
        }
        Err(error) => check_quotes_nothing(&error.to_string(), text),
    }
    if let Ok(taken) = crate::identity::token::parse_k3s(text, crate::identity::token::K3sUser::Server) {
        assert_eq!(check_password(&taken), Ok(()), "a token that is taken must mean itself to k3s");
    }
    for read in [crate::identity::token::parse(text), crate::identity::token::parse_worker(text)] {
        match read {
            Ok(token) => assert!(text.starts_with(token.expose())),
            Err(error) => check_quotes_nothing(&error.to_string(), text),
        }
    }
}

/// What the supervisor, etcd, the API, systemd and the journal answer. The first byte says who.
pub(crate) fn answers(data: &[u8]) {
    let Some((which, body)) = rest(data) else { return };
    match which % 8 {
        0 => members(body),
        1 => {
            let _ = parse_health(body);
            let answer = Answer { status: 503, body: body.to_vec() };
            unread(format!("{}: {}", answer.status, answer.excerpt()));
        }
        2 => match kube::read_node(body) {
            Ok(node) => {
                if let Known::Unknown(reason) = &node.ready {
                    check_line(&reason.cause, LONGEST);
                }
                assert!(node.roles.is_sorted());
            }
            Err(error) => unread(error.to_string()),
        },
        3 => match kube::read_page(body) {
            Ok((_, more)) => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
                assert!(more.is_none_or(|more| !more.is_empty() && more.bytes().all(plain)));
            }
            Err(error) => unread(error.to_string()),
        },
        4 => {
            let answer = Answer { status: 409, body: body.to_vec() };
            let _ = kube::says_not_found(body);
            check_line(&kube::refused("the deletion of node node1", &answer).to_string(), LONGEST);
        }
        5 => journal(&String::from_utf8_lossy(body)),
        6 => {
            let text = String::from_utf8_lossy(body);
            assert_eq!(parse_show(&text, 2).len(), 2);
            if let Some(version) = parse_version(&text) {
                assert!(version.starts_with('v') && !version.contains(char::is_whitespace));
            }
        }
        _ => {
            if let Err(error) = check_elf(body, Arch::Amd64) {
                check_line(&error.to_string(), LONGEST);
            }
        }
    }
}

fn members(body: &[u8]) {
    let members = match parse_members(body) {
        Ok(members) => members,
        Err(error) => return unread(error.to_string()),
    };
    for member in &members {
        assert!(member.name.starts_with(member.node_name()));
    }
    if let Some(own) = own_member(&members, None, "node1") {
        assert_eq!(own.node_name(), "node1");
    }
    let list: Vec<_> = members
        .iter()
        .map(|m| json!({"ID": m.id, "name": m.name, "peerURLs": m.peer_urls, "isLearner": m.is_learner}))
        .collect();
    let again = parse_members(json!({ "members": list }).to_string().as_bytes());
    assert_eq!(again.expect("what was written can be read"), members);
}

/// The input with a token put in after its first line.
fn journal(text: &str) {
    if text.contains(CANARY) {
        return;
    }
    let (before, after) = text.split_once('\n').unwrap_or((text, ""));
    let hash = "0".repeat(64);
    let tail = format!("{before} K10{hash}::server:{CANARY} {after}");
    let findings = logtext::read(&tail);
    let mut times = 0;
    for finding in &findings {
        check_line(&finding.line, 300);
        assert!(!finding.line.contains(CANARY), "{}", finding.line);
        check_line(&finding.why().detail, 1_000);
        times += finding.times;
    }
    assert!(times <= tail.lines().count());
}

/// A CA bundle, as anybody may serve it.
pub(crate) fn ca(data: &[u8]) {
    match CaBundle::from_pem(data.to_vec()) {
        Ok(bundle) => {
            assert_eq!(bundle.pem(), data);
            assert_eq!(
                CaBundle::from_pem(data.to_vec()).map(|again| again.hash().clone()),
                Ok(bundle.hash().clone())
            );
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!matches!(error, CaError::Empty { length } if length != data.len()));
            check_line(&said, LONGEST);
            unread(said);
        }
    }
}
