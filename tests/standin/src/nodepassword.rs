//! Node passwords: the first node of a name sets it, every later one must show the same.
//!
//! The Secret's hash is PBKDF2 here and scrypt in k3s; nothing outside the servers reads it.

use std::num::NonZeroU32;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;
use serde_json::json;

use crate::api::objects;
use crate::api::resources::{EVENTS, SECRETS};
use crate::store::Store;
use crate::{clock, paths};

const NAMESPACE: &str = "kube-system";
const MARK: &str = "$standin-pbkdf2:";

fn rounds() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(4_095)
}

/// Reads the node password, making one on first use.
///
/// # Errors
/// When the file cannot be read or written.
pub fn ensure_file(dir: &Path) -> Result<String, String> {
    let file = dir.join("password");
    if file.exists() {
        return paths::read(&file).map(|text| text.trim().to_owned());
    }
    let password = hex::encode(rand::random::<[u8; 16]>());
    paths::write_secret(&file, &format!("{password}\n"))?;
    Ok(password)
}

/// `<node>.node-password.k3s`.
pub fn secret_name(node: &str) -> String {
    format!("{node}.node-password.k3s").to_lowercase()
}

fn hash(password: &str) -> String {
    let salt = hex::encode(rand::random::<[u8; 16]>());
    let mut out = [0_u8; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds(), salt.as_bytes(), password.as_bytes(), &mut out);
    format!("{MARK}{salt}:{}", hex::encode(out))
}

fn verify(hash: &str, password: &str) -> bool {
    let Some((salt, sum)) = hash.strip_prefix(MARK).and_then(|h| h.split_once(':')) else { return false };
    let Ok(sum) = hex::decode(sum) else { return false };
    pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, rounds(), salt.as_bytes(), password.as_bytes(), &sum).is_ok()
}

/// Why a node's password was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not the node's: HTTP 403.
    Wrong(String),
    /// It could not be looked at.
    Store(String),
}

/// Checks a node's password, or stores it if the node has none.
///
/// # Errors
/// [`Refusal`].
pub async fn ensure(store: &Store, node: &str, password: &str) -> Result<(), Refusal> {
    let name = secret_name(node);
    for _ in 0..2 {
        match objects::get(store, &SECRETS, NAMESPACE, &name).await {
            Ok(secret) => {
                let stored = secret["data"]["hash"].as_str().and_then(|h| STANDARD.decode(h).ok());
                let stored = stored.and_then(|h| String::from_utf8(h).ok()).unwrap_or_default();
                if verify(&stored, password) {
                    return Ok(());
                }
                let text = format!("unable to verify password for node {node}: hash does not match");
                return Err(Refusal::Wrong(text));
            }
            Err(e) if e.code == 404 => {
                let secret = json!({
                    "metadata": {"name": name, "namespace": NAMESPACE},
                    "immutable": true,
                    "type": "k3s.cattle.io/node-password",
                    "data": {"hash": STANDARD.encode(hash(password))},
                });
                match objects::create(store, &SECRETS, NAMESPACE, secret).await {
                    Ok(_) => return Ok(()),
                    // Somebody else was faster: look again.
                    Err(e) if e.code == 409 => {}
                    Err(e) => return Err(Refusal::Store(e.message)),
                }
            }
            Err(e) => return Err(Refusal::Store(e.message)),
        }
    }
    Err(Refusal::Store(format!("secrets \"{name}\" keeps changing")))
}

/// Records a server's own mismatch: it has joined already, so it is only an event.
pub async fn report_own_mismatch(store: &Store, node: &str, error: &str) {
    let event = json!({
        "metadata": {"generateName": format!("{node}."), "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": node, "uid": node},
        "type": "Warning",
        "reason": "NodePasswordValidationFailed",
        "message": format!("Deferred node password secret validation failed: {error}"),
        "firstTimestamp": clock::now(),
        "lastTimestamp": clock::now(),
        "count": 1,
    });
    if let Err(e) = objects::create(store, &EVENTS, "default", event).await {
        crate::logs::warn(format!("cannot record an event: {}", e.message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Lone;

    #[tokio::test]
    async fn the_first_password_of_a_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Lone(Lone::open(dir.path().join("db")).unwrap());
        ensure(&store, "node1", "first").await.unwrap();
        ensure(&store, "node1", "first").await.unwrap();
        let refused = ensure(&store, "node1", "second").await.unwrap_err();
        assert!(
            matches!(refused, Refusal::Wrong(text) if text.starts_with("unable to verify password for node node1:"))
        );
        objects::delete(&store, &SECRETS, NAMESPACE, &secret_name("node1"), None).await.unwrap();
        ensure(&store, "node1", "second").await.unwrap();
    }

    #[test]
    fn the_file_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure_file(dir.path()).unwrap();
        assert_eq!(ensure_file(dir.path()).unwrap(), first);
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join("password")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
