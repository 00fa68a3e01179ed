//! TLS towards clients: which certificate answers which name, and with which options a handshake is made.
//!
//! [`store::CertificateStore`] holds the certificates; control and acme publish into it and handshakes read it, without a lock.
//! [`options::TlsTable`] chooses the settings of a handshake by the name that the client asks for.

#![warn(clippy::indexing_slicing, clippy::string_slice)]

pub mod certificate;
pub mod challenge;
pub mod cipher;
pub mod options;
pub mod store;

/// Makes aws-lc-rs the process's provider of cryptography. Call it before anything of the HTTP engine, which else installs ring:
/// RSA handshakes cost two thirds there, and only aws-lc-rs offers the post-quantum key exchange and makes RSA keys.
///
/// Calling it again changes nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already: by an earlier call, or by a test that came first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
