//! TLS by server name: who answers it, with which certificate, and when it is refused.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;

use crate::support::client::{Http, connect_tls};
use crate::support::edge::Edge;
use crate::support::raw::{Client, Server, Step};
use crate::support::upstream::Upstream;

/// A TCP server that speaks TLS itself, and its certificate.
async fn tls_server(name: &str, says: &'static str) -> (std::net::SocketAddr, CertificateDer<'static>) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            let mut client = Client::new(stream);
            client.until("ping").await;
            client.send(says).await;
        }
    });
    (address, cert.der().clone())
}

async fn get(edge: &Edge, name: &str, host: &str) -> (u16, String) {
    let mut client = Http::new(edge.tls(name, &["http/1.1"]).await.unwrap());
    let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.unwrap();
    (answer.status, answer.text())
}

#[tokio::test]
async fn the_server_name_decides_between_https_and_tcp() {
    let (pass, pass_root) = tls_server("pass.test", "pass").await;
    let inside = Server::start(vec![Step::Until("ping"), Step::Send(b"inside"), Step::Close]).await;
    let site = Upstream::named("own").await;
    let file = format!(
        "http:\n  routers: {{own: {{rule: \"Host(`own.test`)\", service: own}}}}\n  services: {{own: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}}}\ntcp:\n  routers:\n    pass: {{entryPoints: [websecure], rule: \"HostSNI(`pass.test`)\", service: pass, tls: {{passthrough: true}}}}\n    end: {{entryPoints: [websecure], rule: \"HostSNI(`end.test`)\", service: end, tls: {{}}}}\n  services:\n    pass: {{loadBalancer: {{servers: [{{address: \"{pass}\"}}]}}}}\n    end: {{loadBalancer: {{servers: [{{address: \"{}\"}}]}}}}\n",
        site.url(),
        inside.address
    );
    let edge = Edge::start().certificate(&["own.test"]).certificate(&["end.test"]).file(&file).run().await;

    assert_eq!(get(&edge, "own.test", "own.test").await, (200, "own".to_owned()));
    let h2 = edge.tls("own.test", &["h2", "http/1.1"]).await.unwrap();
    let (client, connection) = h2::client::handshake(h2).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://own.test/").body(()).unwrap();
    let (answer, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);

    let stream = connect_tls(edge.address("websecure"), "pass.test", &[pass_root], &[]).await.unwrap();
    let mut client = Client::new(stream);
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, "pass", "its own certificate, unopened");
    let mut client = Client::new(edge.tls("end.test", &[]).await.unwrap());
    client.send("ping").await;
    assert_eq!(client.exactly(6).await, "inside");
    assert!(inside.received().ends_with("ping"));

    // A name that nobody serves gets the default certificate, which nobody trusts.
    let refused = edge.tls("nobody.test", &[]).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let broken = Client::new(tokio::net::TcpStream::connect(edge.address("websecure")).await.unwrap());
    let mut broken = broken;
    broken.send(b"\x16\x03\x01\x00\x05hello").await;
    broken.rest().await;
    // One by the client who did not trust us, one by us.
    edge.until("both are counted", async || edge.metric("tidegate_refused_total{reason=\"handshake\"}").await == Some(2.0)).await;
}

#[tokio::test]
async fn certificates_are_found_by_name_and_renewed_without_a_break() {
    let site = Upstream::named("site").await;
    let file = crate::support::edge::everything_to(&[site.url()]);
    let mut edge = Edge::start().certificate(&["a.test"]).certificate(&["*.wild.test"]).file(&file).run().await;
    assert_eq!(get(&edge, "a.test", "a.test").await.0, 200);
    assert_eq!(get(&edge, "x.wild.test", "x.wild.test").await.0, 200);
    assert!(edge.tls("y.x.wild.test", &[]).await.is_err(), "a wildcard is one label");

    let mut before = Http::new(edge.tls("a.test", &["http/1.1"]).await.unwrap());
    edge.renew_certificate("a.test");
    edge.until("the new certificate", async || edge.tls("a.test", &[]).await.is_ok()).await;
    let answer = before.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    assert_eq!(answer.status, 200, "connections that stand go on");
}

#[tokio::test]
async fn options_are_those_of_the_host_and_a_request_on_a_wrong_connection_is_misdirected() {
    let site = Upstream::named("site").await;
    let file = format!(
        "http:\n  routers:\n    a: {{rule: \"Host(`a.test`)\", service: site, tls: {{options: modern}}}}\n    b: {{rule: \"Host(`b.test`)\", service: site, tls: {{}}}}\n  services: {{site: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}}}\ntls:\n  options:\n    modern: {{minVersion: VersionTLS13}}\n    default: {{sniStrict: true}}\n",
        site.url()
    );
    let edge = Edge::start().certificate(&["a.test", "b.test"]).file(&file).run().await;
    assert_eq!(get(&edge, "a.test", "a.test").await.0, 200);
    assert_eq!(get(&edge, "b.test", "b.test").await.0, 200);
    assert_eq!(get(&edge, "b.test", "a.test").await.0, 421);
    assert_eq!(get(&edge, "a.test", "b.test").await.0, 421);
    assert_eq!(site.users().len(), 2);
    let strict = edge.tls("nobody.test", &[]).await.unwrap_err();
    assert!(strict.to_string().contains("UnrecognisedName"), "{strict}");
}
