//! What we rely on in the engine, one test a promise, so that its next release is a day's work.

use std::time::Duration;

use bytes::Bytes;
use tidegate::listener::{Phase, Refused};
use tokio::net::{TcpListener, TcpStream};

use crate::support::raw::{PATIENCE, Server, Step, edge, nobody, wait_for};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_serves_request_after_request() {
    let server = Server::answering(OK).await;
    let edge = edge().server(server.address).start();
    let mut client = edge.connect().await;
    for path in ["/a", "/b", "/own", "/c"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("onnection:"), "{answer}");
        assert!(answer.contains("\r\nDate: ") && !answer.contains("Server:"), "{answer}");
        assert!(answer.ends_with(if path == "/own" { "\r\n\r\nown" } else { "\r\n\r\nok" }));
    }
    assert_eq!(*server.connections.lock().unwrap(), 1, "the connection to the server is used again");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = edge().start();
    let all = edge.ask("GET /own HTTP/1.1\r\nHost: a\r\n\r\nPOST /own HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /own HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 3, "{all}");
    assert_eq!(all.matches("Connection: close").count(), 1, "{all}");
}

#[tokio::test]
async fn filters_see_the_connection() {
    let edge = edge()
        .settings(|settings| {
            settings.proxy_protocol = Some(tidegate::config::install::Trust { insecure: true, ..Default::default() });
        })
        .start();
    edge.ask("PROXY TCP4 9.8.7.6 1.2.3.4 5 6\r\nGET /own HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    edge.ask("GET /own HTTP/1.0\r\n\r\n").await;
    assert_eq!(*edge.seen.lock().unwrap(), ["web 9.8.7.6 None", "web 127.0.0.1 None"]);
    assert_eq!(edge.ask("PROXY TCP4 x\r\n").await, "");
    assert_eq!(edge.counters.refused(Refused::ProxyProtocol), 1);
}

#[tokio::test]
async fn bodies_reach_the_server_whatever_their_framing() {
    let large = "x".repeat(300_000);
    for (head, body, expected) in [
        ("Content-Length: 5\r\n\r\n".to_owned(), "hello".to_owned(), "\r\n\r\nhello".to_owned()),
        (
            "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n".to_owned(),
            "\r\n\r\n5\r\nabcde\r\n0\r\n\r\n".to_owned(),
        ),
        (format!("Content-Length: {}\r\n\r\n", large.len()), large.clone(), format!("\r\n\r\n{large}")),
    ] {
        let server = Server::start(vec![Step::Drain]).await;
        let edge = edge().server(server.address).start();
        let mut client = edge.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}{body}")).await;
        server.has_received(&expected).await;
    }
}

#[tokio::test]
async fn answers_are_framed_for_the_client() {
    let chunked: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for (answer, request, expected) in [
        (chunked, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        (chunked, "GET / HTTP/1.0\r\n\r\n", "\r\n\r\nabc"),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 204 No Content\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "\r\nConnection: close\r\n\r\n",
        ),
    ] {
        let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(answer), Step::Close]).await;
        let got = edge().server(server.address).start().ask(request).await;
        assert!(got.ends_with(expected), "{request:?} got {got:?}, expected ...{expected:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_seen_as_cut() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(answer), Step::Close]).await;
        let edge = edge().server(server.address).start();
        let got = edge.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(got.contains("abc") && !got.contains("0\r\n\r\n") && !got.contains("own"), "{got:?}");
        // HTTP/1.0 has no other sign than a reset.
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let end = async {
            loop {
                match tokio::io::AsyncReadExt::read(&mut client.stream, &mut [0; 100]).await {
                    Ok(0) => break false,
                    Ok(_) => {}
                    Err(_) => break true,
                }
            }
        };
        let is_reset = tokio::time::timeout(PATIENCE, end).await.unwrap();
        assert_eq!(is_reset, answer.ends_with(b"\r\n"), "with a length the client can count");
    }
}

#[tokio::test]
async fn interim_answers_are_relayed() {
    let server =
        Server::answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let edge = edge().server(server.address).start();
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert!(client.answer().await.starts_with("HTTP/1.1 200 OK"));
    assert!(edge.ask("GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 OK"), "1.0 has no interim answers");
}

#[tokio::test]
async fn continue_comes_from_the_server_or_after_a_second() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    // The server says it.
    let script =
        vec![Step::Until("\r\n\r\n"), Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n"), Step::Until("hello"), Step::Send(OK)];
    let server = Server::start(script).await;
    // The server says nothing.
    let silent = Server::start(vec![Step::Until("hello"), Step::Send(OK)]).await;
    for server in [&server, &silent] {
        let edge = edge().server(server.address).start();
        let mut client = edge.connect().await;
        client.send(request).await;
        assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello").await;
        assert!(client.answer().await.ends_with("\r\n\r\nok"));
        client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.answer().await.ends_with("own"), "the connection goes on");
        assert!(server.received().contains("100-continue"));
    }
    // The server refuses at once: no continue, and where the next request begins cannot be told.
    let refusing =
        Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"), Step::Drain])
            .await;
    let mut client = edge().server(refusing.address).start().connect().await;
    client.send(request).await;
    let answer = client.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 417") && answer.contains("Connection: close"), "{answer}");
}

#[tokio::test]
async fn an_upgrade_of_any_kind_carries_bytes_both_ways() {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: any\r\nConnection: Upgrade\r\n\r\nhi";
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: any\r\n\r\n";
    // The server ends it.
    let server =
        Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(switch), Step::Until("ping"), Step::Send(b"pong"), Step::Close])
            .await;
    let mut client = edge().server(server.address).start().connect().await;
    client.send(request).await;
    let head = client.until("\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("Upgrade: any\r\n") && head.contains("Connection: Upgrade\r\n"),
        "{head}"
    );
    assert_eq!(client.exactly(2).await, "hi");
    client.send("ping").await;
    assert_eq!(client.rest().await, "pong");
    // The client ends it.
    let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(switch), Step::Drain, Step::Close]).await;
    let edge = edge().server(server.address).start();
    let mut client = edge.connect().await;
    client.send(request).await;
    client.until("hi").await;
    client.send("bye").await;
    server.has_received("bye").await;
    drop(client);
    wait_for(|| edge.counters.connections() == 0).await;
}

#[tokio::test]
async fn bytes_behind_an_upgrade_that_was_declined_are_the_next_request() {
    let server = Server::answering(OK).await;
    let edge = edge().server(server.address).start();
    let all = edge.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nGET /own HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(all.contains("\r\n\r\nokHTTP/1.1 200 OK\r\n") && all.ends_with("own"), "{all}");
}

#[tokio::test]
async fn a_refused_connection_goes_to_the_next_server_with_its_body() {
    let server = Server::start(vec![Step::Until("hello"), Step::Send(OK)]).await;
    let edge = edge().server(nobody()).server(server.address).start();
    let mut client = edge.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(client.answer().await.ends_with("\r\n\r\nok"));
    assert!(server.received().ends_with("\r\n\r\nhello"));
}

#[tokio::test]
async fn a_connection_survives_the_failure_of_its_server() {
    let edge = edge().server(nobody()).start();
    let mut client = edge.connect().await;
    for body in ["", "hello"] {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains("Connection: close"), "{answer}");
    }
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.answer().await.ends_with("own"));
}

#[tokio::test]
async fn a_panic_in_a_request_ends_that_connection_only() {
    let edge = edge().start();
    assert_eq!(edge.ask("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    assert!(edge.ask("GET /own HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("own"));
    wait_for(|| edge.counters.connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_server() {
    let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Drain, Step::Close]).await;
    let edge = edge().server(server.address).start();
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.has_received("GET / HTTP/1.1").await;
    drop(client);
    wait_for(|| edge.counters.connections() == 0).await;
}

/// An h2c server that answers with trailers.
async fn h2_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"data"), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    trailers.insert("content-length", "7".parse().unwrap());
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn trailers_of_an_h2_server_reach_an_h1_client() {
    let edge = edge().h2_server(h2_server().await).start();
    let got = edge.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(got.ends_with("\r\n\r\n4\r\ndata\r\n0\r\ngrpc-status: 0\r\n\r\n"), "{got:?}");
}

#[tokio::test]
async fn h2_with_prior_knowledge_is_served_on_a_plain_port() {
    let server = Server::answering(OK).await;
    let edge = edge().server(server.address).start();
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::get("http://b.test/x").header("cookie", "a=b").header("cookie", "c=d").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "ok");
    let received = server.received().to_lowercase();
    assert!(received.contains("host: b.test\r\n") && received.contains("cookie: a=b; c=d\r\n"), "{received}");
    assert_eq!(*edge.seen.lock().unwrap(), ["web 127.0.0.1 None"]);
    // A drain says goodbye and ends.
    drop(client);
    let left = edge.drain.drain(tidegate::clock::now() + PATIENCE).await;
    assert_eq!(left, 0);
    tokio::time::timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_lets_an_idle_client_send_one_more_request() {
    let edge = edge().start();
    let mut client = edge.connect().await;
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.answer().await;
    assert_eq!(edge.counters.connections(), 1);
    edge.drain.enter(Phase::AcceptGrace);
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!client.answer().await.contains("close"), "still accepting");
    edge.drain.enter(Phase::Draining);
    wait_for(|| std::net::TcpStream::connect(edge.address).is_err()).await;
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let last = client.rest().await;
    assert!(last.contains("Connection: close") && last.ends_with("own"), "{last}");
    assert_eq!(edge.drain.drain(tidegate::clock::now() + PATIENCE).await, 0);
}

#[tokio::test]
async fn a_drain_waits_for_running_requests_until_its_deadline() {
    let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Drain]).await;
    let edge = edge().server(server.address).start();
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.has_received("GET / HTTP/1.1").await;
    assert_eq!(edge.drain.drain(tidegate::clock::now() + Duration::from_millis(50)).await, 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let edge = edge().connections_max(1).start();
    let mut first = edge.connect().await;
    first.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await;
    first.answer().await;
    assert_eq!(edge.connect().await.rest().await, "");
    assert_eq!(edge.counters.refused(Refused::TooManyConnections), 1);
    drop(first);
    wait_for(|| edge.counters.connections() == 0).await;
    assert!(edge.ask("GET /own HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("own"));
}

#[tokio::test]
async fn keep_alive_ends_after_its_last_request() {
    let edge = edge().settings(|settings| settings.transport.keep_alive_requests_max = 2).start();
    let all = edge.ask("GET /own HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)).await;
    assert_eq!((all.matches("200 OK").count(), all.matches("Connection: close").count()), (2, 1), "{all}");
}

#[tokio::test]
async fn silence_has_limits() {
    let short = Duration::from_millis(100);
    let edge_of = || {
        edge().settings(move |settings| {
            settings.transport.read_timeout = short;
            settings.transport.idle_timeout = short;
        })
    };
    let server = Server::start(vec![Step::Drain]).await;
    let edge = edge_of().server(server.address).start();
    assert_eq!(edge.connect().await.rest().await, "", "nothing at all");
    assert!(edge.ask("GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("own"), "idle after a request");
    assert!(edge.ask("GET /own HT").await.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "half a head");
    assert!(
        edge.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").await.starts_with("HTTP/1.1 408"),
        "half a body"
    );
    assert_eq!(edge.counters.refused(Refused::HeadTimeout), 1);
    assert_eq!(edge.counters.refused(Refused::BodyTimeout), 1);
}

#[tokio::test]
async fn large_answers_arrive_whole() {
    let body: &'static str = Box::leak((0..200_000).map(|n| format!("{n:07} ")).collect::<String>().into_boxed_str());
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak();
    let until_end = format!("HTTP/1.1 200 OK\r\n\r\n{body}").leak();
    for answer in [length, until_end] {
        let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(answer.as_bytes()), Step::Close]).await;
        let edge = edge().server(server.address).start();
        let got = edge.ask("GET / HTTP/1.0\r\n\r\n").await;
        assert!(got.ends_with(&format!("\r\n\r\n{body}")), "{} bytes", got.len());
        let got = edge.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let body_of = |text: &str| text.split_once("\r\n\r\n").unwrap().1.to_owned();
        let got = if got.contains("chunked") { unchunk(&body_of(&got)) } else { body_of(&got) };
        assert!(got == body, "{} bytes of {}", got.len(), body.len());
    }
}

fn unchunk(mut wire: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, rest) = wire.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let (chunk, rest) = rest.split_at(size);
        body.push_str(chunk);
        wire = rest.strip_prefix("\r\n").unwrap();
        if size == 0 {
            assert_eq!(wire, "");
            return body;
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_for_long() {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n{}", "x".repeat(50_000_000)).leak();
    let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(answer.as_bytes()), Step::Drain, Step::Close]).await;
    let edge =
        edge().server(server.address).settings(|settings| settings.transport.write_timeout = Duration::from_millis(100)).start();
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wait_for(|| edge.counters.refused(Refused::WriteTimeout) == 1 && edge.counters.connections() == 0).await;
}

#[tokio::test]
async fn an_answer_before_the_body_ends_is_heard() {
    let server = Server::start(vec![
        Step::Until("first"),
        Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n"),
        Step::Until("second"),
        Step::Send(b"4\r\nlate\r\n0\r\n\r\n"),
    ])
    .await;
    let mut client = edge().server(server.address).start().connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    client.until("5\r\nearly\r\n").await;
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    assert_eq!(client.rest().await, "4\r\nlate\r\n0\r\n\r\n");
}

#[tokio::test]
async fn h2_requests_without_a_clear_host_are_refused_and_idle_connections_end() {
    let edge = edge().settings(|settings| settings.transport.idle_timeout = Duration::from_millis(100)).start();
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for (uri, status) in [("http://a.test/own", 200), ("http://a,b/own", 400), ("http://a.test:081/own", 200)] {
        let (answer, _) = client.send_request(http::Request::get(uri).body(()).unwrap(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), status, "{uri}");
        client = client.ready().await.unwrap();
    }
    assert_eq!(edge.counters.refused(Refused::BadHead), 1);
    tokio::time::timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
    wait_for(|| edge.counters.connections() == 0).await;
}
