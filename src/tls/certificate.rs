//! One certificate with its key, read from PEM: what it may answer for, how long it lives, and whether the two belong together.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate};

use crate::config::dynamic::CertificateFiles;
use crate::config::problem::{Problem, Problems};

/// Where a certificate came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `tls.certificates` or `tls.stores.default.defaultCertificate`.
    File,
    /// Obtained by this certificate resolver.
    Acme(Arc<str>),
    /// Made by us at start, for names that nobody has a certificate for.
    Generated,
}

/// A certificate that can answer handshakes.
#[derive(Debug)]
pub struct Certificate {
    /// The names it answers for, lower case, `*.` in front of a wildcard: its DNS names and, as in Traefik, its common name.
    pub names: BTreeSet<Box<str>>,
    /// The addresses it answers for.
    pub addresses: BTreeSet<IpAddr>,
    /// Its DNS names in order, joined by commas, as the label `sans` of `traefik_tls_certs_not_after` prints them.
    pub sans: String,
    /// The subject's common name; empty when it has none.
    pub common_name: String,
    /// SHA-256 of the certificate itself, in hex.
    pub fingerprint: String,
    /// The issuer's organisation; empty when it names none.
    pub issuer_organisation: String,
    /// The issuer's common name; empty when it names none.
    pub issuer_name: String,
    /// The serial number in decimal, as Traefik prints it.
    pub serial: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Where it came from.
    pub source: Source,
    /// Chain and key as a handshake needs them.
    pub key: Arc<CertifiedKey>,
}

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCertificate {
    /// The text holds no certificate.
    #[error("it holds no PEM block `CERTIFICATE`")]
    NoCertificate,
    /// The text is not PEM.
    #[error("the certificate is not valid PEM: {0}")]
    Pem(String),
    /// The text of the key is not PEM or holds no key.
    #[error("the key is not valid PEM: {0}")]
    KeyPem(String),
    /// The first certificate of the chain is not X.509.
    #[error("the certificate is not valid X.509: {0}")]
    X509(String),
    /// The key is of a kind that we cannot use, or belongs to another certificate.
    #[error("the key cannot be used with this certificate: {0}")]
    Key(#[from] rustls::Error),
}

impl Certificate {
    /// Reads a chain (the server's own certificate first) and its key (PKCS#8, PKCS#1 or SEC1).
    pub fn parse(chain: &[u8], key: &[u8], source: Source) -> Result<Self, InvalidCertificate> {
        let chain = parse_chain(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| InvalidCertificate::KeyPem(error.to_string()))?;
        Self::from_der(chain, key, source)
    }

    /// The same from DER.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        source: Source,
    ) -> Result<Self, InvalidCertificate> {
        let leaf = chain.first().ok_or(InvalidCertificate::NoCertificate)?.clone();
        let (_, x509) = X509Certificate::from_der(&leaf).map_err(|error| InvalidCertificate::X509(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, provider().as_ref())?;
        let (mut names, addresses) = alternative_names(&x509);
        let sans = names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(",");
        let common_name = x509.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        if !common_name.is_empty() && !common_name.contains(' ') {
            names.insert(common_name.to_lowercase().into());
        }
        Ok(Self {
            names,
            addresses,
            sans,
            common_name: common_name.to_owned(),
            fingerprint: fingerprint(&leaf),
            issuer_organisation: first_text(x509.issuer().iter_organization()),
            issuer_name: first_text(x509.issuer().iter_common_name()),
            serial: x509.tbs_certificate.serial.to_string(),
            not_before: time(x509.validity().not_before.timestamp()),
            not_after: time(x509.validity().not_after.timestamp()),
            source,
            key: Arc::new(key),
        })
    }

    /// Reads the files (or the PEM texts) that a configuration names, as Traefik does: what is not an existing path is content.
    pub fn load(files: &CertificateFiles) -> Result<Self, Problem> {
        let problem = |message: String| Problem::error(&files.at, message);
        let chain = read(&files.cert).map_err(|reason| problem(format!("certificate cannot be read: {reason}")))?;
        let key = read(&files.key).map_err(|reason| problem(format!("key cannot be read: {reason}")))?;
        Self::parse(&chain, &key, Source::File)
            .map_err(|error| problem(format!("certificate {} cannot be used: {error}", shown(&files.cert))))
    }

    /// Whether it answers for `name`, a DNS name in lower case or an address; a wildcard stands for one label.
    pub fn covers(&self, name: &str) -> bool {
        match name.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address),
            Err(_) => {
                self.names.contains(name)
                    || name
                        .split_once('.')
                        .filter(|(label, _)| *label != "*")
                        .is_some_and(|(_, parent)| self.names.contains(format!("*.{parent}").as_str()))
            }
        }
    }
}

fn fingerprint(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_text<'c>(mut attributes: impl Iterator<Item = &'c AttributeTypeAndValue<'c>>) -> String {
    attributes.next().and_then(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned()
}

/// Reads every certificate that the configuration names. A bad one is a problem and costs only itself.
pub fn load_all(files: &[CertificateFiles]) -> (Vec<Arc<Certificate>>, Problems) {
    let mut certificates = Vec::new();
    let mut problems = Problems::new();
    for files in files {
        match Certificate::load(files) {
            Ok(certificate) => certificates.push(Arc::new(certificate)),
            Err(problem) => problems.push(problem),
        }
    }
    (certificates, problems)
}

/// The certificates of a PEM text, in its order.
pub fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidCertificate> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| InvalidCertificate::Pem(error.to_string()))?;
    if chain.is_empty() { Err(InvalidCertificate::NoCertificate) } else { Ok(chain) }
}

/// The self-signed certificate for names that no other covers, named as Traefik names its own so that monitoring still finds it.
///
/// New at each start, valid for a year from `now`.
pub fn generate_default(now: SystemTime) -> Result<Certificate, GenerateError> {
    let label = || format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let mut params = rcgen::CertificateParams::new(vec![format!("{}.{}.traefik.default", label(), label())])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "TRAEFIK DEFAULT CERT");
    params.not_before = now.into();
    params.not_after = (now + GENERATED_LIFETIME).into();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Certificate::from_der(vec![certificate.der().clone()], der, Source::Generated)?)
}

const GENERATED_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why the default certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("default certificate could not be made: {0}")]
pub enum GenerateError {
    /// Key or signature.
    Make(#[from] rcgen::Error),
    /// What was made cannot be read back.
    Read(#[from] InvalidCertificate),
}

/// The process's provider of cryptography, or ours where none is installed (tests).
pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

fn alternative_names(x509: &X509Certificate<'_>) -> (BTreeSet<Box<str>>, BTreeSet<IpAddr>) {
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let sans = x509.subject_alternative_name().ok().flatten();
    for san in sans.iter().flat_map(|extension| &extension.value.general_names) {
        match san {
            GeneralName::DNSName(name) => {
                names.insert(name.to_lowercase().into());
            }
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    (names, addresses)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn time(timestamp: i64) -> SystemTime {
    // Before 1970 no certificate was valid.
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

fn read(file_or_content: &str) -> Result<Vec<u8>, String> {
    if file_or_content.trim_start().starts_with("-----BEGIN") {
        return Ok(file_or_content.as_bytes().to_vec());
    }
    std::fs::read(Path::new(file_or_content)).map_err(|error| format!("`{}`: {error}", shown(file_or_content)))
}

/// A path as it is, the content of a PEM text not at all.
fn shown(file_or_content: &str) -> &str {
    if file_or_content.contains("-----BEGIN") { "given as text" } else { file_or_content }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::problem::At;

    /// A certificate for tests with the PEM of its key.
    pub(crate) fn made(names: &[&str], not_after: SystemTime, source: Source) -> Arc<Certificate> {
        let (chain, key) = made_pem(names, UNIX_EPOCH, not_after);
        Arc::new(Certificate::parse(chain.as_bytes(), key.as_bytes(), source).unwrap())
    }

    /// Chain and key as PEM.
    pub(crate) fn made_pem(names: &[&str], not_before: SystemTime, not_after: SystemTime) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn days(count: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(count * 86400)
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let certificate = made(&["a.test", "*.b.test", "10.0.0.1"], days(9), Source::File);
        for (name, covered) in [
            ("a.test", true),
            ("x.b.test", true),
            ("b.test", false),
            ("x.y.b.test", false),
            ("*.b.test", true),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
        ] {
            assert_eq!(certificate.covers(name), covered, "{name}");
        }
        assert_eq!(certificate.not_after, days(9));
    }

    #[test]
    fn a_bad_certificate_costs_only_itself() {
        let (chain, key) = made_pem(&["a.test"], UNIX_EPOCH, days(9));
        let (_, other_key) = made_pem(&["b.test"], UNIX_EPOCH, days(9));
        let files =
            |cert: &str, key: &str| CertificateFiles { cert: cert.to_owned(), key: key.to_owned(), at: At::whole("test") };
        let declared =
            [files(&chain, &other_key), files("/nowhere/a.pem", &key), files(&chain, &key), files(&chain, "-----BEGIN NONSENSE")];
        let (certificates, problems) = load_all(&declared);
        assert_eq!(certificates.len(), 1);
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(messages[0].contains("the key cannot be used with this certificate"), "{messages:?}");
        assert!(messages[1].contains("`/nowhere/a.pem`: No such file"), "{messages:?}");
        assert!(messages[2].contains("the key is not valid PEM"), "{messages:?}");
    }

    #[test]
    fn the_generated_certificate_is_named_as_traefiks() {
        let certificate = generate_default(days(20_000)).unwrap();
        assert_eq!(certificate.common_name, "TRAEFIK DEFAULT CERT");
        assert!(certificate.sans.ends_with(".traefik.default"), "{}", certificate.sans);
        assert_eq!(certificate.not_after, days(20_365));
    }
}
