//! What goes into a certificate and what may come out: the key and the request for it, and the checks of what the CA hands out.

use std::net::IpAddr;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use crate::config::dynamic::Domain;
use crate::config::install::KeyType;
use crate::tls::certificate::{Certificate, InvalidCertificate, Source, provider};

/// A subject's common name is at most so long (RFC 5280, appendix A).
const COMMON_NAME_BYTES_MAX: usize = 64;

/// A new key with the request for its certificate.
#[derive(Debug)]
pub struct SigningRequest {
    /// The request (PKCS#10, DER).
    pub der: Vec<u8>,
    /// The key (PKCS#8, PEM).
    pub key: String,
}

/// Why a certificate that a CA handed out is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be read, or the key is not ours.
    #[error("{0}")]
    Invalid(#[from] InvalidCertificate),
    /// Clients could not build a chain to a root.
    #[error("the chain has no intermediate certificate")]
    NoIntermediate,
    /// The second certificate of the chain did not sign the first.
    #[error("the chain's second certificate did not sign the first: {0}")]
    Unsigned(rustls::Error),
    /// It is not for a name that was ordered.
    #[error("it is not for `{name}`: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What it is for.
        reason: String,
    },
    /// It can no longer be used.
    #[error("it has ended already")]
    Ended,
}

/// Makes a key and signs a request with it. RSA keys take long to find: call it where blocking is allowed.
pub fn make_request(domain: &Domain, key_type: KeyType) -> Result<SigningRequest, rcgen::Error> {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize};
    let key = match key_type {
        KeyType::Ec256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        KeyType::Ec384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?,
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096)?,
    };
    let names: Vec<String> = super::schedule::names(domain).into_iter().collect();
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // As lego does, so that the label `cn` of the certificate metrics reads as with Traefik.
    if domain.main.len() <= COMMON_NAME_BYTES_MAX && domain.main.parse::<IpAddr>().is_err() {
        params.distinguished_name.push(rcgen::DnType::CommonName, domain.main.as_str());
    }
    let request = params.serialize_request(&key)?;
    Ok(SigningRequest { der: request.der().to_vec(), key: key.serialize_pem() })
}

/// Checks what a CA handed out for an order: it is for all the names, for our key, and comes with the certificate that signed it.
pub fn check(chain: &str, key: &str, domain: &Domain, now: UnixTime) -> Result<(), Refused> {
    let certificate = Certificate::parse(chain.as_bytes(), key.as_bytes(), Source::Acme("".into()))?;
    let [leaf, intermediate, ..] = certificate.key.cert.as_slice() else {
        return Err(Refused::NoIntermediate);
    };
    let parsed = ParsedCertificate::try_from(leaf).map_err(Refused::Unsigned)?;
    for name in super::schedule::names(domain) {
        let refused = |reason: String| Refused::Name { name: name.clone(), reason };
        let server_name = ServerName::try_from(name.as_str()).map_err(|error| refused(error.to_string()))?;
        verify_server_name(&parsed, &server_name).map_err(|error| refused(error.to_string()))?;
    }
    let mut signer = RootCertStore::empty();
    signer.add(intermediate.clone()).map_err(Refused::Unsigned)?;
    // Whether it was signed does not depend on the time; a clock of ours that is late or early must not stop an issue.
    let issued = certificate.not_before + Duration::from_secs(1);
    let issued = issued.duration_since(std::time::UNIX_EPOCH).map(UnixTime::since_unix_epoch).unwrap_or(now);
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &signer, &[], issued, algorithms).map_err(Refused::Unsigned)?;
    let ends = certificate.not_after.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if ends.as_secs() <= now.as_secs() { Err(Refused::Ended) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    use super::*;

    struct TestCa {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca(name: &str) -> TestCa {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        TestCa { pem, issuer: Issuer::new(params, key) }
    }

    fn domain(names: &[&str]) -> Domain {
        Domain { main: names[0].to_owned(), sans: names[1..].iter().map(|name| (*name).to_owned()).collect() }
    }

    /// Has `by` issue a certificate for `names`, hands it out with `second` behind it, and checks it as ordered for `ordered`.
    #[track_caller]
    fn check_issue(names: &[&str], by: &TestCa, second: Option<&TestCa>, ordered: &[&str], expected: Result<(), &str>) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &by.issuer).unwrap();
        let chain = format!("{}{}", leaf.pem(), second.map(|ca| ca.pem.as_str()).unwrap_or_default());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
        let outcome = check(&chain, &key.serialize_pem(), &domain(ordered), now).map_err(|error| error.to_string());
        match expected {
            Ok(()) => assert_eq!(outcome, Ok(())),
            Err(part) => assert!(outcome.as_ref().is_err_and(|error| error.contains(part)), "{outcome:?}"),
        }
    }

    #[test]
    fn a_certificate_is_used_only_whole_and_for_what_was_ordered() {
        let (good, other) = (ca("good"), ca("other"));
        check_issue(&["a.test", "b.test"], &good, Some(&good), &["a.test", "B.test"], Ok(()));
        check_issue(&["a.test"], &good, None, &["a.test"], Err("no intermediate"));
        check_issue(&["a.test"], &good, Some(&other), &["a.test"], Err("did not sign"));
        check_issue(&["a.test"], &good, Some(&good), &["a.test", "b.test"], Err("not for `b.test`"));
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let ca = ca("good");
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let leaf = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().signed_by(&key, &ca.issuer).unwrap();
        let chain = format!("{}{}", leaf.pem(), ca.pem);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
        assert!(matches!(check(&chain, &other.serialize_pem(), &domain(&["a.test"]), now), Err(Refused::Invalid(_))));
        let late = UnixTime::since_unix_epoch(Duration::from_secs(99_000_000_000));
        assert!(matches!(check(&chain, &key.serialize_pem(), &domain(&["a.test"]), late), Err(Refused::Ended)));
    }

    #[test]
    fn a_request_carries_the_kind_of_key_that_is_configured() {
        let names = domain(&["a.test", "10.0.0.1"]);
        for (key_type, bits) in [(KeyType::Ec256, 256), (KeyType::Ec384, 384), (KeyType::Rsa2048, 2048)] {
            let request = make_request(&names, key_type).unwrap();
            let (_, parsed) = X509CertificationRequest::from_der(&request.der).unwrap();
            let info = &parsed.certification_request_info;
            assert_eq!(info.subject_pki.parsed().unwrap().key_size(), bits, "{key_type:?}");
            assert_eq!(info.subject.to_string(), "CN=a.test");
            assert!(request.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        }
    }
}
