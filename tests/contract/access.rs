//! Getting to the agent: TLS, and tokens under a default policy that denies.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate::config::install::{ConsulCatalog, ConsulEndpoint};
use tidegate::provider::consul::access::Access;
use tidegate::provider::consul::client::{Block, Client, ClientError};

use crate::agent::{Agent, MANAGEMENT_TOKEN, install_crypto};
use crate::watch::Watching;

/// Puts TLS with a certificate of its own for `localhost` before an agent.
async fn with_tls(agent: SocketAddr, ca: &Path) -> SocketAddr {
    install_crypto();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(ca, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut secure) = acceptor.accept(stream).await else { return };
                let mut plain = tokio::net::TcpStream::connect(agent).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
            });
        }
    });
    address
}

fn client(endpoint: ConsulEndpoint, variables: &[(&str, String)]) -> Client {
    let catalog = ConsulCatalog { endpoint, ..ConsulCatalog::default() };
    let environment = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let (access, problems) = Access::read(&catalog, None, &environment);
    assert_eq!(problems, []);
    Client::new(&access.unwrap(), 4).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_tls_is_believed_by_its_authority_only() {
    let agent = Agent::embedded().await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let address = format!("https://localhost:{}", with_tls(agent.address, &ca).await.port());
    let at = |ca: Option<&Path>, insecure_skip_verify| ConsulEndpoint {
        address: Some(address.clone()),
        ca: ca.map(Path::to_owned),
        insecure_skip_verify,
        ..ConsulEndpoint::default()
    };
    assert!(client(at(Some(&ca), false), &[]).services(Block::Not).await.is_ok());
    assert!(client(at(None, true), &[]).services(Block::Not).await.is_ok());
    let refused = client(at(None, false), &[]).services(Block::Not).await.unwrap_err().to_string();
    assert!(refused.contains("no TLS connection: invalid peer certificate: UnknownIssuer"), "{refused}");
    let variables = [("CONSUL_HTTP_ADDR", address.clone()), ("CONSUL_CACERT", ca.display().to_string())];
    assert!(client(ConsulEndpoint::default(), &variables).services(Block::Not).await.is_ok());
    let wrong_name = address.replace("localhost", "127.0.0.1");
    let variables = [("CONSUL_HTTP_ADDR", wrong_name), ("CONSUL_CACERT", ca.display().to_string())];
    assert!(client(ConsulEndpoint::default(), &variables).services(Block::Not).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn without_a_token_a_guarded_agent_shows_nothing_and_says_so_to_nobody() {
    let agent = Agent::guarded().await;
    agent.register("web", "web-1", &["traefik.enable=true"]).await;
    let endpoint = ConsulEndpoint { address: Some(agent.address.to_string()), ..ConsulEndpoint::default() };
    let anonymous = client(endpoint.clone(), &[]);
    let services = anonymous.services(Block::Not).await.unwrap();
    assert!(services.value.is_empty() && services.known_leader && services.filtered_by_acl != Some(false));
    assert!(anonymous.instances("web", Block::Not).await.unwrap().value.is_empty());
    let unknown = client(endpoint, &[("CONSUL_HTTP_TOKEN", "00000000-0000-0000-0000-0000000000ff".to_owned())]);
    let refused = unknown.services(Block::Not).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { status: StatusCode::FORBIDDEN, text, .. } if text == "ACL not found"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn a_token_file_is_read_again_when_the_token_is_refused() {
    let agent = Agent::guarded().await;
    agent.register("web", "web-1", &["traefik.enable=true"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "00000000-0000-0000-0000-0000000000ff\n").unwrap();
    let endpoint = ConsulEndpoint { address: Some(agent.address.to_string()), ..ConsulEndpoint::default() };
    let client = Arc::new(client(endpoint, &[("CONSUL_HTTP_TOKEN_FILE", file.display().to_string())]));
    let mut watching = Watching::start_with(&agent, Arc::clone(&client), 4, |_| {});
    watching.shows("the refusal", |state| state.last_error.as_ref().is_some_and(|error| error.contains("403"))).await;
    std::fs::write(&file, format!("{MANAGEMENT_TOKEN}\n")).unwrap();
    watching.shows("the service", |state| state.reachable && state.catalog.contains_key("web")).await;
}
