//! Private keys as k3s writes them: P-256, `EC PRIVATE KEY` (SEC 1), while the libraries here speak PKCS #8.
//!
//! For P-256 both encodings have a fixed length, so one is made of the other by position.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

/// SEQUENCE, version 1, OCTET STRING of 32: what stands before the scalar.
const SEC1_HEAD: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// [0] { OID prime256v1 }, [1] { BIT STRING }: what stands before the public point.
const SEC1_MIDDLE: [u8; 17] =
    [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];
/// PKCS #8 version 0, ecPublicKey, prime256v1, and the inner key without its parameters.
const PKCS8_HEAD: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
    0x04, 0x20,
];
const PKCS8_MIDDLE: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];
const SCALAR: usize = 32;
const POINT: usize = 65;

/// A block of PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).unwrap_or_default());
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A fresh P-256 key.
///
/// # Errors
/// When the system's random source fails.
pub fn generate() -> Result<KeyPair, String> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| format!("cannot generate a key: {e}"))
}

/// The key as `EC PRIVATE KEY`.
pub fn to_pem(key: &KeyPair) -> String {
    let der = key.serialized_der();
    let point = PKCS8_HEAD.len() + SCALAR + PKCS8_MIDDLE.len();
    if der.len() == point + POINT && der.starts_with(&PKCS8_HEAD) {
        let scalar = &der[PKCS8_HEAD.len()..PKCS8_HEAD.len() + SCALAR];
        let sec1 = [&SEC1_HEAD[..], scalar, &SEC1_MIDDLE, &der[point..]].concat();
        return pem("EC PRIVATE KEY", &sec1);
    }
    pem("PRIVATE KEY", der)
}

/// Reads a key written by [`to_pem`] or by k3s itself.
///
/// # Errors
/// When the text holds no P-256 key.
pub fn from_pem(text: &str) -> Result<KeyPair, String> {
    let key =
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| format!("not a private key: {e}"))?;
    let pkcs8 = match &key {
        PrivateKeyDer::Sec1(sec1) => {
            let der = sec1.secret_sec1_der();
            let point = SEC1_HEAD.len() + SCALAR + SEC1_MIDDLE.len();
            if der.len() != point + POINT || !der.starts_with(&SEC1_HEAD) {
                return Err("not a P-256 key with its public point".to_owned());
            }
            let scalar = &der[SEC1_HEAD.len()..SEC1_HEAD.len() + SCALAR];
            [&PKCS8_HEAD[..], scalar, &PKCS8_MIDDLE, &der[point..]].concat()
        }
        other => other.secret_der().to_vec(),
    };
    KeyPair::try_from(pkcs8).map_err(|e| format!("not a usable private key: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_way_through_sec1() {
        let key = generate().unwrap();
        let text = to_pem(&key);
        assert!(text.starts_with("-----BEGIN EC PRIVATE KEY-----"), "{text}");
        assert_eq!(from_pem(&text).unwrap().serialized_der(), key.serialized_der());
        assert!(from_pem("nonsense").is_err());
    }
}
