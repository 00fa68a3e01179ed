//! Certificates in Traefik's shape, as far as we tell it.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::json::{object, time};

/// Fewer days left are a warning, as in Traefik.
const WARNING: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is known of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateView {
    /// SHA-256 of the DER form, in hex; also its name in the API.
    pub fingerprint: String,
    /// The subject's common name.
    pub common_name: String,
    /// Names and addresses it is for.
    pub sans: Vec<String>,
    /// The issuer's organisation.
    pub issuer_organisation: String,
    /// The issuer's common name.
    pub issuer_name: String,
    /// As a decimal number.
    pub serial: String,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ceases to be.
    pub not_after: SystemTime,
}

impl CertificateView {
    /// `enabled`, `warning` (30 days left) or `expired`.
    pub(super) fn status(&self, now: SystemTime) -> &'static str {
        match self.not_after.duration_since(now) {
            Err(_) => "expired",
            Ok(left) if left < WARNING => "warning",
            Ok(_) => "enabled",
        }
    }

    pub(super) fn object(&self, now: SystemTime) -> Map<String, Value> {
        let mut sans = self.sans.clone();
        sans.sort();
        object([
            ("name", json!(self.fingerprint)),
            ("sans", json!(sans)),
            ("notAfter", time(self.not_after)),
            ("notBefore", time(self.not_before)),
            ("serialNumber", json!(self.serial)),
            ("commonName", json!(self.common_name)),
            ("issuerOrg", json!(self.issuer_organisation)),
            ("issuerCN", json!(self.issuer_name)),
            ("certFingerprint", json!(self.fingerprint)),
            ("status", json!(self.status(now))),
        ])
    }
}
