//! Who asks: passwords of `cred/passwd`, or a client certificate of the cluster's client CA.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring as provider};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::pki;

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Kubernetes user name.
    pub name: String,
    /// Kubernetes groups.
    pub groups: Vec<String>,
}

impl User {
    /// Whether the user is in one of these groups.
    pub fn has_role(&self, roles: &[&str]) -> bool {
        self.groups.iter().any(|group| roles.contains(&group.as_str()))
    }
}

/// One line of `cred/passwd`: password, user, uid, groups.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    /// Secret.
    pub password: String,
    /// User name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// Reads `cred/passwd`.
pub fn passwords(text: &str) -> Vec<Password> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let (password, user, _uid) = (fields.next()?, fields.next()?, fields.next()?);
            let groups = fields.map(|g| g.trim_matches('"').to_owned()).collect();
            Some(Password { password: password.to_owned(), user: user.to_owned(), groups })
        })
        .collect()
}

/// Accepts any client certificate whose key the client holds: like k3s, whose listener only asks for one and lets the
/// request handlers decide (a foreign certificate is a 401, not a broken handshake).
#[derive(Debug)]
pub struct AnyCertificate(WebPkiSupportedAlgorithms);

impl AnyCertificate {
    /// With ring's algorithms.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(provider::default_provider().signature_verification_algorithms))
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// The user of a request; `None` without credentials.
///
/// # Errors
/// Credentials that prove nothing.
pub fn authenticate(
    passwd_file: &Path,
    client_ca: &Path,
    authorization: Option<&str>,
    certificates: &[CertificateDer<'static>],
) -> Result<Option<User>, String> {
    if let Some(basic) = authorization.and_then(|a| a.strip_prefix("Basic ")) {
        return by_password(passwd_file, basic).map(Some);
    }
    if let Some(leaf) = certificates.first() {
        return by_certificate(client_ca, leaf, &certificates[1..]).map(Some);
    }
    if authorization.is_some() {
        return Err("invalid bearer token".to_owned());
    }
    Ok(None)
}

fn by_password(file: &Path, basic: &str) -> Result<User, String> {
    let wrong = || "invalid username/password combination".to_owned();
    let decoded = STANDARD.decode(basic.trim()).map_err(|_| wrong())?;
    let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
    let (user, password) = decoded.split_once(':').ok_or_else(wrong)?;
    let all = passwords(&crate::paths::read(file)?);
    let entry = all.into_iter().find(|e| e.user == user).ok_or_else(wrong)?;
    let same = ring::digest::digest(&ring::digest::SHA256, entry.password.as_bytes()).as_ref()
        == ring::digest::digest(&ring::digest::SHA256, password.as_bytes()).as_ref();
    if !same {
        return Err(wrong());
    }
    let mut groups = entry.groups;
    groups.push("system:authenticated".to_owned());
    Ok(User { name: entry.user, groups })
}

fn by_certificate(
    ca: &Path,
    leaf: &CertificateDer<'static>,
    rest: &[CertificateDer<'static>],
) -> Result<User, String> {
    let pem = crate::paths::read(ca)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider::default_provider()))
            .build()
            .map_err(|e| e.to_string())?;
    verifier
        .verify_client_cert(leaf, rest, UnixTime::now())
        .map_err(|e| format!("verifying certificate failed: x509: {e}"))?;
    let (name, mut groups) = pki::identity_of(leaf).ok_or("x509: subject with commonName is required")?;
    groups.push("system:authenticated".to_owned());
    Ok(User { name, groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;
    use crate::pki::{Authority, Leaf, Use};

    #[test]
    fn passwords_give_groups_and_wrong_ones_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        std::fs::write(&file, "pw,server,server,k3s:server\npa:w,node,node,k3s:agent\n").unwrap();
        let ask = |text: &str| {
            let header = format!("Basic {}", STANDARD.encode(text));
            authenticate(&file, Path::new("/nonexistent"), Some(&header), &[])
        };
        let user = ask("server:pw").unwrap().unwrap();
        assert!(user.has_role(&["k3s:server"]) && !user.has_role(&["k3s:agent"]));
        assert!(ask("node:pa:w").unwrap().unwrap().has_role(&["k3s:agent"]));
        for wrong in ["server:no", "nobody:pw", "server"] {
            assert_eq!(ask(wrong).unwrap_err(), "invalid username/password combination");
        }
        assert_eq!(authenticate(&file, Path::new("/nonexistent"), None, &[]).unwrap(), None);
    }

    #[test]
    fn only_certificates_of_the_client_ca_count() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (Authority::generate("ours").unwrap(), Authority::generate("theirs").unwrap());
        let file = dir.path().join("ca.crt");
        std::fs::write(&file, ours.certificate_pem()).unwrap();
        let key = keys::generate().unwrap();
        let leaf = Leaf { name: "system:admin", groups: &["system:masters"], sans: &[], usage: Use::Client };
        let ask = |ca: &Authority| {
            let text = ca.sign(&leaf, &key).unwrap();
            let chain: Vec<_> =
                CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap();
            authenticate(Path::new("/nonexistent"), &file, None, &chain)
        };
        assert!(ask(&ours).unwrap().unwrap().has_role(&["system:masters"]));
        assert!(ask(&theirs).is_err());
    }
}
