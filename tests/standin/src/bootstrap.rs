//! Bootstrap data: the CAs, keys and passwords every server of a cluster shares, in the datastore under a name and a key
//! derived from the token's password. Rules: key `/bootstrap/<first 12 hex of SHA-256(password)>`, value
//! `<salt>:<base64(nonce + AES-256-GCM)>`, key by PBKDF2-SHA1 with 4096 rounds.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use serde::{Deserialize, Serialize};

use crate::paths::{self, Paths};
use crate::{clock, logs, token};

/// Names in the bootstrap data and the files they stand for, below `server/`.
pub const FILES: &[(&str, &str)] = &[
    ("ClientCA", "tls/client-ca.crt"),
    ("ClientCAKey", "tls/client-ca.key"),
    ("ETCDPeerCA", "tls/etcd/peer-ca.crt"),
    ("ETCDPeerCAKey", "tls/etcd/peer-ca.key"),
    ("ETCDServerCA", "tls/etcd/server-ca.crt"),
    ("ETCDServerCAKey", "tls/etcd/server-ca.key"),
    ("IPSECKey", "cred/ipsec.psk"),
    ("PasswdFile", "cred/passwd"),
    ("RequestHeaderCA", "tls/request-header-ca.crt"),
    ("RequestHeaderCAKey", "tls/request-header-ca.key"),
    ("ServerCA", "tls/server-ca.crt"),
    ("ServerCAKey", "tls/server-ca.key"),
    ("ServiceKey", "tls/service.key"),
];

/// How much newer a differing file on disk must be before it counts as newer.
const SKEW: u64 = 3;

#[derive(Clone, Serialize, Deserialize)]
struct File {
    #[serde(rename = "Timestamp")]
    timestamp: String,
    #[serde(rename = "Content")]
    content: String,
}

/// The shared files with their contents.
pub type Data = BTreeMap<String, FileOpaque>;

/// One shared file; its content is a secret and has no debug form.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileOpaque(File);

/// `/bootstrap/<12 hex>`.
pub fn key_of(password: &str) -> String {
    format!("/bootstrap/{}", &token::sha256_hex(password.as_bytes())[..12])
}

fn cipher(password: &str, salt: &str) -> Result<LessSafeKey, String> {
    let mut key = [0_u8; 32];
    let rounds = NonZeroU32::new(4_096).ok_or("no rounds")?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, rounds, salt.as_bytes(), password.as_bytes(), &mut key);
    UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| "cannot make a key".to_owned())
}

/// Seals with a fresh salt and nonce.
///
/// # Errors
/// When sealing fails.
pub fn encrypt(password: &str, plain: &[u8]) -> Result<String, String> {
    let salt = hex::encode(rand::random::<[u8; 8]>());
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = plain.to_vec();
    cipher(password, &salt)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
        .map_err(|_| "cannot seal".to_owned())?;
    Ok(format!("{salt}:{}", STANDARD.encode([&nonce[..], &sealed].concat())))
}

/// Opens what [`encrypt`] sealed.
///
/// # Errors
/// `cipher: message authentication failed` for the wrong password.
pub fn decrypt(password: &str, text: &str) -> Result<Vec<u8>, String> {
    let (salt, rest) = text.split_once(':').ok_or("invalid cipher text, not : delimited")?;
    let mut bytes = STANDARD.decode(rest).map_err(|e| format!("illegal base64 data: {e}"))?;
    if bytes.len() < NONCE_LEN {
        return Err("cipher: message authentication failed".to_owned());
    }
    let mut sealed = bytes.split_off(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| "bad nonce".to_owned())?;
    let opened = cipher(password, salt)?
        .open_in_place(nonce, Aad::empty(), &mut sealed)
        .map_err(|_| "cipher: message authentication failed".to_owned())?;
    Ok(opened.to_vec())
}

/// The shared files as they are on disk, as JSON.
///
/// # Errors
/// When one that exists cannot be read.
pub fn from_disk(paths: &Paths) -> Result<Vec<u8>, String> {
    let mut data = Data::new();
    for (name, file) in FILES {
        let path = paths.server(file);
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        let timestamp = meta.modified().map(clock::rfc3339).unwrap_or_else(|_| clock::now());
        let content = STANDARD.encode(paths::read(&path)?);
        data.insert((*name).to_owned(), FileOpaque(File { timestamp, content }));
    }
    serde_json::to_vec(&data).map_err(|e| e.to_string())
}

fn parse(json: &[u8]) -> Result<Data, String> {
    serde_json::from_slice(json).map_err(|e| format!("bootstrap data cannot be read: {e}"))
}

/// Writes every shared file.
///
/// # Errors
/// When one cannot be decoded or written.
pub fn to_disk(paths: &Paths, json: &[u8]) -> Result<(), String> {
    for (name, FileOpaque(file)) in parse(json)? {
        let Some((_, relative)) = FILES.iter().find(|(known, _)| *known == name) else {
            logs::warn(format!("Unable to lookup path to reconcile {name}"));
            continue;
        };
        let content = STANDARD.decode(&file.content).map_err(|e| format!("{name}: {e}"))?;
        paths::write(&paths.server(relative), &content, 0o600)?;
    }
    Ok(())
}

/// Makes the disk agree with the datastore.
///
/// # Errors
/// When a file on disk is newer and different: k3s refuses to start then. In a reset the datastore always wins.
pub fn reconcile(paths: &Paths, json: &[u8], reset: bool) -> Result<(), String> {
    logs::info("Reconciling bootstrap data between datastore and disk");
    let filled =
        |dir: &str| std::fs::read_dir(paths.server(dir)).is_ok_and(|mut entries| entries.next().is_some());
    if !["cred", "tls", "tls/etcd"].iter().all(|dir| filled(dir)) {
        return to_disk(paths, json);
    }
    let mut update = reset;
    let mut newer = Vec::new();
    for (name, FileOpaque(file)) in parse(json)? {
        let Some((_, relative)) = FILES.iter().find(|(known, _)| *known == name) else { continue };
        let path = paths.server(relative);
        let Ok(meta) = std::fs::metadata(&path) else {
            logs::warn(format!("{} doesn't exist. continuing...", path.display()));
            update = true;
            continue;
        };
        if STANDARD.encode(paths::read(&path)?) == file.content {
            continue;
        }
        update = true;
        let stored = clock::parse(&file.timestamp).unwrap_or(UNIX_EPOCH);
        let changed = meta.modified().unwrap_or(UNIX_EPOCH);
        if clock::unix(changed) >= clock::unix(stored + Duration::from_secs(SKEW)) {
            newer.push(path.display().to_string());
        } else {
            logs::warn(format!("{} will be updated from the datastore.", path.display()));
        }
    }
    if reset {
        let backup = paths.server(&format!("tls-{}", clock::unix_now()));
        logs::info(format!("Cluster reset: backing up certificates directory to {}", backup.display()));
        copy_dir(&paths.server("tls"), &backup)?;
    } else if !newer.is_empty() {
        return Err(format!(
            "{} newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart to \
             be recreated from datastore.",
            newer.join(", ")
        ));
    }
    if update {
        logs::warn("Updating bootstrap data on disk from datastore");
        to_disk(paths, json)?;
    }
    Ok(())
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) -> Result<(), String> {
    paths::make_dir(to)?;
    let entries = std::fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))?;
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).map_err(|e| format!("{}: {e}", target.display()))?;
        }
    }
    Ok(())
}

/// A copy of the datastore's entry, kept beside etcd's data. k3s reads the entry out of etcd's file while etcd is down;
/// the stand-in has no reader for that file.
#[derive(Serialize, Deserialize)]
struct Copy {
    key: String,
    value: String,
}

fn copy_path(paths: &Paths) -> std::path::PathBuf {
    paths.etcd().join("standin-bootstrap.json")
}

/// Remembers the entry for the next start.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(paths: &Paths, key: &str, value: &str) -> Result<(), String> {
    let copy = Copy { key: key.to_owned(), value: value.to_owned() };
    paths::write_secret(&copy_path(paths), &serde_json::to_string(&copy).map_err(|e| e.to_string())?)
}

/// The bootstrap data of the local datastore, while etcd is down.
///
/// # Errors
/// `bootstrap data already found and encrypted with different token`, or `no bootstrap data found in datastore - …`.
pub fn from_local_datastore(paths: &Paths, password: &str) -> Result<Vec<u8>, String> {
    const NONE: &str =
        "no bootstrap data found in datastore - check server token value and verify datastore integrity";
    let text = std::fs::read_to_string(copy_path(paths)).map_err(|_| NONE.to_owned())?;
    let copy: Copy = serde_json::from_str(&text).map_err(|_| NONE.to_owned())?;
    if copy.key != key_of(password) {
        return Err("bootstrap data already found and encrypted with different token".to_owned());
    }
    decrypt(password, &copy.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        for (name, file) in FILES {
            paths::write_secret(&paths.server(file), &format!("content of {name}")).unwrap();
        }
        (dir, paths)
    }

    #[test]
    fn only_the_same_password_opens() {
        let sealed = encrypt("right", b"data").unwrap();
        assert_eq!(decrypt("right", &sealed).unwrap(), b"data");
        assert_eq!(decrypt("wrong", &sealed).unwrap_err(), "cipher: message authentication failed");
        assert_ne!(encrypt("right", b"data").unwrap(), sealed, "fresh salt and nonce");
        assert_eq!(key_of("right").len(), "/bootstrap/".len() + 12);
    }

    #[test]
    fn a_joiner_gets_every_file() {
        let (_dir, ours) = prepared();
        let other = tempfile::tempdir().unwrap();
        let theirs = Paths::new(other.path());
        reconcile(&theirs, &from_disk(&ours).unwrap(), false).unwrap();
        for (name, file) in FILES {
            assert_eq!(paths::read(&theirs.server(file)).unwrap(), format!("content of {name}"));
        }
    }

    #[test]
    fn a_newer_differing_file_stops_the_start_and_an_older_one_is_replaced() {
        let (_dir, paths) = prepared();
        let json = from_disk(&paths).unwrap();
        let file = paths.server("cred/passwd");
        paths::write_secret(&file, "changed").unwrap();
        let set = |ago: i64| {
            let now = std::time::SystemTime::now();
            let at = if ago < 0 { now + Duration::from_secs(60) } else { now - Duration::from_secs(60) };
            std::fs::File::options().append(true).open(&file).unwrap().set_modified(at).unwrap();
        };
        set(-1);
        let error = reconcile(&paths, &json, false).unwrap_err();
        assert!(
            error.contains("cred/passwd newer than datastore and could cause a cluster outage"),
            "{error}"
        );
        set(1);
        reconcile(&paths, &json, false).unwrap();
        assert_eq!(paths::read(&file).unwrap(), "content of PasswdFile");
    }

    #[test]
    fn a_wrong_token_is_told_from_an_empty_datastore() {
        let (_dir, paths) = prepared();
        assert!(
            from_local_datastore(&paths, "pw")
                .unwrap_err()
                .starts_with("no bootstrap data found in datastore")
        );
        remember(&paths, &key_of("pw"), &encrypt("pw", b"{}").unwrap()).unwrap();
        assert_eq!(from_local_datastore(&paths, "pw").unwrap(), b"{}");
        assert_eq!(
            from_local_datastore(&paths, "other").unwrap_err(),
            "bootstrap data already found and encrypted with different token"
        );
    }
}
