//! Token forms, the hash of the cluster's CA, and the key that guards bootstrap data.
//!
//! Rules: a string starting with `K10` is always the full form; a chosen password is normalised (prefix and user
//! removed) before anything is derived from it; servers always authenticate as `server`, agents as `node`.

use ring::digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const PREFIX: &str = "K10";
const HASH_LENGTH: usize = 64;

/// What a token holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Pinned CA hash, hex; empty if the token pins none.
    pub ca_hash: String,
    /// What it proves.
    pub credentials: Credentials,
}

/// The two kinds of credentials in a token.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User (`server`, `node` or empty) and password, sent as Basic.
    Basic {
        /// User name as written in the token.
        user: String,
        /// Secret.
        password: String,
    },
    /// kubeadm-style `id.secret`, sent as Bearer; agents only.
    Bootstrap(String),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("ca_hash", &self.ca_hash).finish_non_exhaustive()
    }
}

fn is_bootstrap(text: &str) -> bool {
    let part =
        |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16))
}

impl Token {
    /// Reads any of the three forms.
    ///
    /// # Errors
    /// The texts of k3s: `token must not be empty`, `invalid token CA hash length`, `invalid token format`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("token must not be empty".to_owned());
        }
        let (ca_hash, credentials) = match text.strip_prefix(PREFIX) {
            None if is_bootstrap(text) => return Ok(Self::bootstrap(String::new(), text)),
            None => {
                let credentials = Credentials::Basic { user: String::new(), password: text.to_owned() };
                return Ok(Self { ca_hash: String::new(), credentials });
            }
            Some(rest) => match rest.split_once("::") {
                Some((hash, _)) if !hash.is_empty() && hash.len() != HASH_LENGTH => {
                    return Err("invalid token CA hash length".to_owned());
                }
                Some((hash, credentials)) => (hash.to_owned(), credentials),
                None => (String::new(), rest),
            },
        };
        if is_bootstrap(credentials) {
            return Ok(Self::bootstrap(ca_hash, credentials));
        }
        match credentials.split_once(':') {
            Some((user, password)) if !password.is_empty() => Ok(Self {
                ca_hash,
                credentials: Credentials::Basic { user: user.to_owned(), password: password.to_owned() },
            }),
            _ => Err("invalid token format".to_owned()),
        }
    }

    fn bootstrap(ca_hash: String, text: &str) -> Self {
        Self { ca_hash, credentials: Credentials::Bootstrap(text.to_owned()) }
    }

    /// The password alone; `None` for a bootstrap token.
    pub fn password(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::Basic { password, .. } => Some(password),
            Credentials::Bootstrap(_) => None,
        }
    }
}

/// Removes `K10…::user:`; short and full forms of one token give the same result.
///
/// # Errors
/// `failed to normalize server token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>`.
pub fn normalize(text: &str) -> Result<String, String> {
    Token::parse(text).ok().and_then(|t| t.password().map(str::to_owned)).ok_or_else(|| {
        "failed to normalize server token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
            .to_owned()
    })
}

/// Hex SHA-256.
pub fn sha256_hex(data: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, data))
}

/// The hash k3s puts in full tokens: of the exact bytes for one certificate, of the root's DER for a bundle.
///
/// # Errors
/// When the text holds no certificate.
pub fn ca_hash(pem: &[u8]) -> Result<String, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("failed to parse CA certificates: {e}"))?;
    match certificates.len() {
        0 => Err("data does not contain any valid RSA or ECDSA certificates".to_owned()),
        1 => Ok(sha256_hex(pem)),
        _ => Ok(root_of(&certificates).map_or_else(|| sha256_hex(pem), sha256_hex)),
    }
}

/// DER of the certificate at the end of the first one's chain, following issuer names.
fn root_of<'a>(certificates: &'a [CertificateDer<'static>]) -> Option<&'a [u8]> {
    let parsed: Vec<_> =
        certificates.iter().map(|c| x509_parser::parse_x509_certificate(c).ok().map(|(_, c)| c)).collect();
    let mut at = 0;
    for _ in 0..certificates.len() {
        let current = parsed[at].as_ref()?;
        if current.issuer().as_raw() == current.subject().as_raw() {
            return Some(&certificates[at]);
        }
        at = parsed
            .iter()
            .position(|c| c.as_ref().is_some_and(|c| c.subject().as_raw() == current.issuer().as_raw()))?;
    }
    None
}

/// `K10<hash>::<user>:<password>`.
///
/// # Errors
/// As [`ca_hash`].
pub fn full(credentials: &str, ca_pem: &[u8]) -> Result<String, String> {
    Ok(format!("{PREFIX}{}::{credentials}", ca_hash(ca_pem)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        let hash = "a".repeat(64);
        let full = Token::parse(&format!("K10{hash}::server:se:cret")).unwrap();
        assert_eq!(full.ca_hash, hash);
        assert_eq!(full.password(), Some("se:cret"));
        assert_eq!(Token::parse("plain").unwrap().password(), Some("plain"));
        assert_eq!(Token::parse("abcdef.0123456789abcdef").unwrap().password(), None);
        let pinned = Token::parse(&format!("K10{hash}::abcdef.0123456789abcdef")).unwrap();
        assert!(matches!(pinned.credentials, Credentials::Bootstrap(_)));
        assert_eq!(pinned.ca_hash, hash);
    }

    #[test]
    fn bad_tokens_are_refused_with_the_words_of_k3s() {
        let error = |text: &str| Token::parse(text).unwrap_err();
        assert_eq!(error(""), "token must not be empty");
        assert_eq!(error("K10abc::server:pw"), "invalid token CA hash length");
        assert_eq!(error("K10nothing"), "invalid token format");
        assert_eq!(error(&format!("K10{}::server:", "a".repeat(64))), "invalid token format");
    }

    #[test]
    fn short_and_full_forms_normalise_alike() {
        let full = format!("K10{}::server:pw", "0".repeat(64));
        assert_eq!(normalize(&full).unwrap(), normalize("pw").unwrap());
        assert!(normalize("abcdef.0123456789abcdef").is_err());
    }

    #[test]
    fn one_certificate_is_hashed_as_text_and_a_bundle_by_its_root() {
        let root = crate::pki::Authority::generate("root").unwrap();
        let middle = root.intermediate("middle").unwrap();
        let pem = root.certificate_pem();
        assert_eq!(ca_hash(pem.as_bytes()).unwrap(), sha256_hex(pem.as_bytes()));
        let bundle = format!("{}{pem}", middle.certificate_pem());
        assert_eq!(ca_hash(bundle.as_bytes()).unwrap(), sha256_hex(root.certificate_der()));
        let renewed = format!("{}{pem}", root.intermediate("middle").unwrap().certificate_pem());
        assert_eq!(ca_hash(renewed.as_bytes()).unwrap(), ca_hash(bundle.as_bytes()).unwrap());
        assert!(ca_hash(b"").is_err());
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", Token::parse("verysecret").unwrap()).contains("verysecret"));
    }
}
