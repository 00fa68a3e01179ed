//! Raw TCP through the whole proxy.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::edge::{Edge, registration};
use crate::support::raw::{Client, Server, Step, nobody};

fn everything_to(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(|address| format!("{{address: \"{address}\"}}")).collect();
    format!(
        "tcp:\n  routers: {{jmx: {{entryPoints: [jmx], rule: \"HostSNI(`*`)\", service: jmx}}}}\n  services: {{jmx: {{loadBalancer: {{servers: [{}]}}}}}}\n",
        servers.join(", ")
    )
}

async fn client(edge: &Edge) -> Client<TcpStream> {
    Client::new(TcpStream::connect(edge.address("jmx")).await.unwrap())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_half_ends_are_passed_on() {
    let server = Server::start(vec![Step::Send(b"hello"), Step::Drain, Step::Send(b"bye"), Step::Close]).await;
    let edge = Edge::start().entrypoint("jmx").file(&everything_to(&[nobody(), server.address])).run().await;
    // Whichever server's turn it is first, each connection gets the one that lives.
    for _ in 0..2 {
        let mut client = client(&edge).await;
        assert_eq!(client.exactly(5).await, "hello");
        client.send("data").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, "bye", "an answer after the client's end");
    }
    assert_eq!(server.received(), "datadata");
    let counters = &edge.running().shared().counters;
    edge.until("bytes are counted", async || (counters.tcp_bytes_received(), counters.tcp_bytes_sent()) == (8, 16)).await;
    edge.is_quiet().await;
}

#[tokio::test]
async fn without_a_living_server_the_connection_ends() {
    let edge = Edge::start().entrypoint("jmx").file(&everything_to(&[nobody(), nobody()])).run().await;
    assert_eq!(client(&edge).await.rest().await, "");
    assert_eq!(edge.metric("tidegate_refused_total{reason=\"no_tcp_server\"}").await, Some(1.0));
}

#[tokio::test]
async fn instances_of_the_catalog_are_reached_and_the_connection_of_one_that_leaves_goes_on() {
    let tags = ["traefik.enable=true", "traefik.tcp.routers.jmx.rule=HostSNI(`*`)", "traefik.tcp.routers.jmx.entrypoints=jmx"];
    let script = |name| vec![Step::Send(name), Step::Until("ping"), Step::Send(b"pong"), Step::Close];
    let (a, b) = (Server::start(script(b"a")).await, Server::start(script(b"b")).await);
    let edge = Edge::start().entrypoint("jmx").catalog().run().await;
    edge.catalog().register(registration("a", "jmx", a.address, &tags)).unwrap();
    edge.has_servers(1).await;
    let mut first = client(&edge).await;
    assert_eq!(first.exactly(1).await, "a");
    edge.catalog().register(registration("b", "jmx", b.address, &tags)).unwrap();
    edge.has_servers(2).await;
    edge.catalog().deregister("a");
    edge.has_servers(1).await;
    for _ in 0..3 {
        assert_eq!(client(&edge).await.exactly(1).await, "b");
    }
    first.send("ping").await;
    assert_eq!(first.exactly(4).await, "pong");
}
