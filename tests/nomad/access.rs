//! Nomad behind TLS: its certificate is checked by the name it carries, and ours is shown.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tidegate::config::install::NomadSettings;
use tidegate::orchestrator::client::ClientError;
use tidegate::orchestrator::watch::WatchSettings;

use crate::contract::with_stable;
use crate::stand_in::{Group, Nomad, Spec};
use crate::watch::{Watching, client, settings};

/// The name in the certificates of Nomad's servers.
const NAME: &str = "server.global.nomad";

struct Secured {
    nomad: Nomad,
    folder: TempDir,
    port: u16,
}

impl Secured {
    /// Believes only clients with the certificate that it has itself, as Nomad's own with one authority for all.
    async fn start() -> Self {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
        let port = nomad.listen_tls(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap()).await.port();
        Self { nomad, folder, port }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> NomadSettings {
        NomadSettings {
            address: Some(format!("https://127.0.0.1:{}", self.port)),
            ca_file: Some(self.file("cert.pem")),
            client_certificate: Some((self.file("cert.pem"), self.file("key.pem"))),
            server_name: Some(NAME.to_owned()),
            ..settings(&self.nomad)
        }
    }

    async fn check_refused(&self, settings: &NomadSettings) {
        let error = client(settings).jobs("*").await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_with_certificates_is_watched() {
    let secured = Secured::start().await;
    let mut watching = Watching::start_with(&secured.settings(), WatchSettings::default());
    assert_eq!(watching.is_well().await.view.allocations.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_is_believed_only_by_its_certificate() {
    let secured = Secured::start().await;
    let right = secured.settings();
    secured.check_refused(&NomadSettings { server_name: None, ..right.clone() }).await;
    secured.check_refused(&NomadSettings { ca_file: None, ..right.clone() }).await;
    // And it believes us only by ours.
    secured.check_refused(&NomadSettings { client_certificate: None, ..right.clone() }).await;
    let unchecked = NomadSettings { ca_file: None, server_name: None, insecure_skip_verify: true, ..right };
    assert_eq!(client(&unchecked).jobs("*").await.unwrap().value.len(), 1);
}
