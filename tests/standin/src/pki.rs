//! Certificate authorities and leaves, as k3s makes them: P-256, CAs for ten years, leaves for 365 days, all back-dated
//! one hour.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::keys;

const BACKDATE: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What a leaf may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// TLS client only.
    Client,
    /// TLS server only.
    Server,
    /// Both: etcd's JSON gateway dials its own server with the server's certificate.
    Both,
}

/// What a leaf says.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// Common name: the Kubernetes user.
    pub name: &'a str,
    /// Organisations: the Kubernetes groups.
    pub groups: &'a [&'a str],
    /// DNS names and addresses it is valid for.
    pub sans: &'a [String],
    /// Permitted uses.
    pub usage: Use,
}

/// A CA with its key.
pub struct Authority {
    key: KeyPair,
    der: CertificateDer<'static>,
    /// Certificates above and including this one, PEM, in the order they are served.
    pem: String,
}

fn window(days: u32) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Duration::from_secs(now.as_secs());
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + DAY * days;
    params
}

/// For how many days a leaf is signed: k3s's own variable, or a year.
fn leaf_days() -> u32 {
    let told = std::env::var("CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS").ok();
    told.and_then(|days| days.parse().ok()).filter(|days| *days > 0).unwrap_or(365)
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = window(3_650);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    /// A new self-signed CA.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn generate(name: &str) -> Result<Self, String> {
        let key = keys::generate()?;
        let certificate =
            authority_params(name).self_signed(&key).map_err(|e| format!("cannot sign {name}: {e}"))?;
        Ok(Self::of(key, &certificate, ""))
    }

    /// A CA below this one (tests of bundles).
    ///
    /// # Errors
    /// As [`Authority::generate`].
    #[cfg(test)]
    pub fn intermediate(&self, name: &str) -> Result<Self, String> {
        let key = keys::generate()?;
        let certificate = authority_params(name)
            .signed_by(&key, &self.issuer()?)
            .map_err(|e| format!("cannot sign {name}: {e}"))?;
        Ok(Self::of(key, &certificate, ""))
    }

    fn of(key: KeyPair, certificate: &Certificate, above: &str) -> Self {
        let der = certificate.der().clone();
        let pem = format!("{}{above}", keys::pem("CERTIFICATE", &der));
        Self { key, der, pem }
    }

    /// Reads a CA from its files' texts; the first certificate is the one that signs.
    ///
    /// # Errors
    /// When either text cannot be read.
    pub fn load(certificate: &str, key: &str) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|e| format!("not a certificate: {e}"))?
            .into_owned();
        Ok(Self { key: keys::from_pem(key)?, der, pem: certificate.to_owned() })
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, String> {
        Issuer::from_ca_cert_der(&self.der, &self.key).map_err(|e| format!("not a usable CA: {e}"))
    }

    /// The certificate's DER.
    #[cfg(test)]
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }
    /// The certificate (bundle) as it is served.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }
    /// The key as it is stored.
    pub fn key_pem(&self) -> String {
        keys::to_pem(&self.key)
    }

    /// Signs a leaf for `key` and returns it followed by this CA's certificates, PEM.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, leaf: &Leaf<'_>, key: &KeyPair) -> Result<String, String> {
        let certificate = leaf_params(leaf)
            .signed_by(key, &self.issuer()?)
            .map_err(|e| format!("cannot sign {}: {e}", leaf.name))?;
        Ok(format!("{}{}", keys::pem("CERTIFICATE", certificate.der()), self.pem))
    }

    /// Signs the public key of a DER-encoded request; everything else comes from `leaf`.
    ///
    /// # Errors
    /// When the request cannot be read or signing fails.
    pub fn sign_request(&self, leaf: &Leaf<'_>, request: &[u8]) -> Result<String, String> {
        let request = CertificateSigningRequestDer::from(request);
        let mut csr = CertificateSigningRequestParams::from_der(&request)
            .map_err(|e| format!("not a certificate request: {e}"))?;
        csr.params = leaf_params(leaf);
        let certificate =
            csr.signed_by(&self.issuer()?).map_err(|e| format!("cannot sign {}: {e}", leaf.name))?;
        Ok(format!("{}{}", keys::pem("CERTIFICATE", certificate.der()), self.pem))
    }
}

fn leaf_params(leaf: &Leaf<'_>) -> CertificateParams {
    let mut params = window(leaf_days());
    params.distinguished_name = DistinguishedName::new();
    for group in leaf.groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, leaf.name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match leaf.usage {
        Use::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Use::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Use::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.subject_alt_names = leaf.sans.iter().filter_map(|san| name_of(san)).collect();
    params.use_authority_key_identifier_extension = true;
    params
}

fn name_of(san: &str) -> Option<SanType> {
    match san.parse::<IpAddr>() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => san.try_into().ok().map(SanType::DnsName),
    }
}

/// A certificate request for `key`, DER, with nothing in it: the server decides the names.
///
/// # Errors
/// When signing fails.
pub fn request(key: &KeyPair) -> Result<Vec<u8>, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request =
        params.serialize_request(key).map_err(|e| format!("failed to create certificate request: {e}"))?;
    Ok(request.der().to_vec())
}

/// User and groups of a client certificate.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<(String, Vec<String>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups =
        parsed.subject().iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Some((name, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_carries_user_and_groups_and_a_stored_ca_can_sign_again() {
        let made = Authority::generate("k3s-client-ca@1").unwrap();
        let ca = Authority::load(made.certificate_pem(), &made.key_pem()).unwrap();
        let key = keys::generate().unwrap();
        let leaf = Leaf { name: "system:admin", groups: &["system:masters"], sans: &[], usage: Use::Client };
        let text = ca.sign_request(&leaf, &request(&key).unwrap()).unwrap();
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(certificates.len(), 2, "leaf and CA");
        let (user, groups) = identity_of(&certificates[0]).unwrap();
        assert_eq!((user.as_str(), groups.as_slice()), ("system:admin", &["system:masters".to_owned()][..]));
    }
}
