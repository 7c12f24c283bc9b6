//! The CA hash of a cluster, as k3s computes it over what `/cacerts` serves.
//!
//! One certificate: SHA-256 over the exact bytes, white space included. More than one: SHA-256 over the DER of the root
//! that the first certificate chains to, so that a renewed intermediate keeps the hash; if no chain closes, over the bytes.
//! This follows `hashCA` in k3s's `pkg/clientaccess/token.go`, except for the clock: validity times are not looked at here.

use ring::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use crate::core::CaHash;

/// Longest chain that is followed.
const LONGEST_CHAIN: usize = 8;
/// Signatures that are checked for one bundle. It comes from whoever answers at an address, and certificates that all name each
/// other as issuer have more chains than there is time. The bound is Go's own (`maxChainSignatureChecks` of crypto/x509), with the
/// same end: no chain closes.
const MOST_CHECKS: u32 = 100;

/// Bytes that are not a CA bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// No certificate in it: an error page, or a file cut short.
    #[error("no certificate in the {length} bytes of a CA bundle")]
    Empty {
        /// How long it was.
        length: usize,
    },
    /// A block that says it is a certificate and is none.
    #[error("certificate {index} of a CA bundle cannot be read: {cause}")]
    Broken {
        /// Which one, from 1.
        index: usize,
        /// The parser's words.
        cause: String,
    },
}

/// A CA bundle with its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct CaBundle {
    pem: Vec<u8>,
    hash: CaHash,
}

impl std::fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CaBundle").field(&self.hash).finish()
    }
}

impl CaBundle {
    /// Reads a bundle and computes its hash.
    ///
    /// # Errors
    /// When it holds no certificate, or a broken one.
    pub fn from_pem(pem: Vec<u8>) -> Result<Self, CaError> {
        let hash = hash(&pem)?;
        Ok(Self { pem, hash })
    }

    /// The bytes.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// What `K10<hash>::` carries for this cluster.
    #[must_use]
    pub fn hash(&self) -> &CaHash {
        &self.hash
    }
}

fn hash(pem: &[u8]) -> Result<CaHash, CaError> {
    let mut ders = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block =
            block.map_err(|error| CaError::Broken { index: ders.len() + 1, cause: error.to_string() })?;
        if block.label == "CERTIFICATE" {
            ders.push(block.contents);
        }
    }
    let mut certificates = Vec::with_capacity(ders.len());
    for (index, der) in ders.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| CaError::Broken { index: index + 1, cause: error.to_string() })?;
        certificates.push((der.as_slice(), certificate));
    }
    let hashed: &[u8] = match certificates.split_first() {
        None => return Err(CaError::Empty { length: pem.len() }),
        Some((_, [])) => pem,
        Some((first, others)) => root_of(first, others, LONGEST_CHAIN, &mut { MOST_CHECKS }).unwrap_or(pem),
    };
    Ok(CaHash::from_digest(digest(&SHA256, hashed).as_ref()))
}

type Certificate<'a> = (&'a [u8], X509Certificate<'a>);

/// The DER of the root that this certificate chains to, if one of the others is that root. `checks` is what is left of them.
fn root_of<'a>(
    child: &Certificate<'a>,
    others: &[Certificate<'a>],
    left: usize,
    checks: &mut u32,
) -> Option<&'a [u8]> {
    if left == 0 {
        return None;
    }
    // The same certificate twice: the second copy counts as a root, and it is its own chain.
    if let Some((der, _)) = others.iter().find(|(der, other)| *der == child.0 && is_root(other)) {
        return Some(*der);
    }
    let mut signers = Vec::new();
    for other in others.iter().filter(|other| other.0 != child.0 && may_have_signed(&other.1, &child.1)) {
        *checks = checks.checked_sub(1)?;
        if child.1.verify_signature(Some(other.1.public_key())).is_ok() {
            if is_root(&other.1) {
                return Some(other.0);
            }
            signers.push(other);
        }
    }
    signers.into_iter().find_map(|next| root_of(next, others, left - 1, checks))
}

/// k3s's test for a root in a bundle: no authority key id, or one that names its own key.
fn is_root(certificate: &X509Certificate<'_>) -> bool {
    let (mut authority, mut subject) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map(|key| key.0);
            }
            ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0),
            _ => {}
        }
    }
    authority.is_none_or(|id| id.is_empty() || Some(id) == subject)
}

fn may_have_signed(by: &X509Certificate<'_>, child: &X509Certificate<'_>) -> bool {
    by.is_ca() && by.subject().as_raw() == child.issuer().as_raw()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::self_signed(params(name), KeyPair::generate().unwrap()).unwrap()
    }

    fn under(name: &str, issuer: &CertifiedIssuer<'static, KeyPair>) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::signed_by(params(name), KeyPair::generate().unwrap(), issuer).unwrap()
    }

    fn sha(bytes: &[u8]) -> String {
        hex::encode(digest(&SHA256, bytes))
    }

    fn hash_of(pem: &str) -> String {
        CaBundle::from_pem(pem.as_bytes().to_vec()).unwrap().hash().to_string()
    }

    #[test]
    fn one_certificate_is_hashed_byte_for_byte() {
        let pem = root("k3s-server-ca@1750000000").pem();
        assert_eq!(hash_of(&pem), sha(pem.as_bytes()));
        let with_space = format!("{pem}\n");
        assert_eq!(hash_of(&with_space), sha(with_space.as_bytes()));
        assert_ne!(hash_of(&pem), hash_of(&with_space));
    }

    #[test]
    fn a_bundle_is_hashed_by_the_root_of_its_first_certificate() {
        let (anchor, stranger) = (root("root"), root("stranger"));
        let middle = under("middle", &anchor);
        let first = under("server ca", &middle);
        let renewed = under("server ca", &middle);
        let wanted = sha(anchor.der());
        let bundle = |first: &str| format!("{first}{}{}{}", stranger.pem(), middle.pem(), anchor.pem());
        assert_eq!(hash_of(&bundle(&first.pem())), wanted);
        assert_eq!(hash_of(&bundle(&renewed.pem())), wanted, "a renewed intermediate keeps the hash");
    }

    #[test]
    fn a_bundle_without_a_chain_is_hashed_byte_for_byte() {
        let bundle = format!("{}{}", root("new").pem(), root("old").pem());
        assert_eq!(hash_of(&bundle), sha(bundle.as_bytes()));
        // Same name, other key: the name alone is no chain.
        let (one, two) = (root("root"), root("root"));
        let bundle = format!("{}{}", under("ca", &one).pem(), two.pem());
        assert_eq!(hash_of(&bundle), sha(bundle.as_bytes()));
    }

    #[test]
    fn certificates_that_all_signed_each_other_do_not_take_for_ever() {
        // Each of 40 has the name and the key of all and another one's mark as authority: none is a root, and there are 39^8 chains.
        let key = KeyPair::generate().unwrap();
        let mut bundle = String::new();
        for serial in 1..=40_u64 {
            let mut params = params("ring");
            params.serial_number = Some(serial.into());
            params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![9; 20]);
            let issuer = rcgen::Issuer::new(params.clone(), &key);
            params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(serial.to_be_bytes().to_vec());
            bundle.push_str(&params.signed_by(&key, &issuer).unwrap().pem());
        }
        assert_eq!(hash_of(&bundle), sha(bundle.as_bytes()));
    }

    #[test]
    fn an_error_page_is_no_bundle() {
        assert_eq!(CaBundle::from_pem(b"404 page not found\n".to_vec()), Err(CaError::Empty { length: 19 }));
        let cut = &root("ca").pem().as_bytes()[..100].to_vec();
        assert!(CaBundle::from_pem(cut.clone()).is_err());
    }
}
