//! A connection to a proxy, plain or with TLS, and what its handshake showed.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects, and shakes hands when `sni` is there. Gives what the handshake showed; `Err` is a handshake that failed.
pub async fn connect(port: u16, sni: Option<&str>, alpn: &[String]) -> Result<(Box<dyn Stream>, Value), Value> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("the proxy listens");
    tcp.set_nodelay(true).unwrap();
    let Some(sni) = sni else { return Ok((Box::new(tcp), Value::Null)) };
    let verifier = Arc::new(Anybody);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider())).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.clone().into_bytes()).collect();
    config.enable_sni = !sni.is_empty();
    let name = ServerName::try_from(if sni.is_empty() { "none.test".to_owned() } else { sni.to_owned() }).unwrap();
    match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let certificates = session.peer_certificates().unwrap_or_default();
            let shown = json!({
                "version": format!("{:?}", session.protocol_version()),
                "alpn": session.alpn_protocol().map(String::from_utf8_lossy),
                "certificate": certificates.first().map(describe),
                "chain": certificates.len(),
            });
            Ok((Box::new(stream), shown))
        }
        Err(error) => Err(json!({ "refused": error.to_string() })),
    }
}

/// Names and life of a certificate. What is drawn by lot in Traefik's default one is left out.
fn describe(certificate: &CertificateDer<'_>) -> Value {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).map(ToString::to_string);
    let names: Vec<String> = names
        .map(|name| if name.contains(".traefik.default") { "DNSName(*.*.traefik.default)".to_owned() } else { name })
        .collect();
    let validity = parsed.validity();
    json!({
        "subject": parsed.subject().to_string(),
        "issuer": parsed.issuer().to_string(),
        "names": names,
        "days": (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86400,
    })
}

/// Cryptography, with the cipher suites in the order of browsers: the client's order decides.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128"));
    provider
}

/// Takes every certificate: which one comes is what is asked.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
