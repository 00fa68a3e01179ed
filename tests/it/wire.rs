//! Raw bytes in, raw bytes out: what the HTTP/1 border refuses and what it forwards as one unambiguous message.

use tidegate::listener::Refused;

use crate::support::raw::{Edge, Server, Step, edge};

/// A case: where it comes from, what is sent, and how the answer begins.
type Case = (&'static str, &'static str, &'static str);

const OWN: &str = "HTTP/1.1 200 OK\r\n";
const BAD: &str = "HTTP/1.1 400 Bad Request\r\n";

/// Every refusal ends the connection after one whole answer.
async fn check(edge: &Edge, cases: &[Case]) {
    for (section, request, expected) in cases {
        // What follows must never be taken for a request of its own.
        let smuggled = format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let got = edge.ask(smuggled).await;
        assert!(got.starts_with(expected), "{section}: {request:?} got {got:?}, expected {expected:?}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{section}: {request:?} got more than one answer: {got:?}");
        assert!(got.contains("\r\nConnection: close\r\n") && got.contains("\r\nDate: "), "{section}: {got:?}");
    }
    assert!(edge.seen.lock().unwrap().is_empty(), "nothing refused may reach the application");
}

#[tokio::test]
async fn heads_that_are_refused() {
    let edge = edge().settings(|settings| settings.head_bytes_max = 8192).start();
    let long: &'static str = Box::leak(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9000)).into_boxed_str());
    let many: &'static str = Box::leak(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(300)).into_boxed_str());
    check(
        &edge,
        &[
            ("RFC 9112 2.2", "GET / HTTP/1.1\nHost: a\n\n", BAD),
            ("RFC 9112 2.2", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", BAD),
            ("RFC 9112 2.2", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", BAD),
            ("RFC 9112 2.2", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 2.3", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported\r\n"),
            ("RFC 9112 2.3", "GET / HTTP/1.1a\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 3", "GET /\r\n\r\n", BAD),
            ("RFC 9112 3", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 3.1", "GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 3.2", "GET / HTTP/1.1\r\n\r\n", BAD),
            ("RFC 9112 3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BAD),
            ("RFC 9112 3.2", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BAD),
            ("RFC 9112 3.2.2", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 3.2.3", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 501 Not Implemented\r\n"),
            ("RFC 9112 3.2.3", "GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 3.2.4", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("RFC 9112 5", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", BAD),
            ("RFC 9112 5", "GET / HTTP/1.1\r\nHost: a\r\n\u{0}: x\r\n\r\n", BAD),
            ("RFC 9112 5.1", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", BAD),
            ("RFC 9112 5.2", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", BAD),
            ("RFC 9110 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", BAD),
            ("RFC 9110 10.1.1", "POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", "HTTP/1.1 417 Expectation Failed\r\n"),
            ("Traefik", long, "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
            ("Traefik", many, "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
        ],
    )
    .await;
    assert_eq!(edge.counters.refused(Refused::HeadTooLarge), 2);
    assert_eq!(edge.counters.refused(Refused::NotImplemented), 2);
    assert_eq!(edge.counters.refused(Refused::Version), 1);
    let missing = edge.ask("GET / HTTP/1.1\r\n\r\n").await;
    assert!(missing.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{missing:?}");
    assert!(missing.ends_with("\r\n\r\n400 Bad Request: missing required Host header"), "{missing:?}");
}

#[tokio::test]
async fn framing_that_is_refused() {
    check(
        &edge().start(),
        &[
            ("RFC 9112 6.1", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", BAD),
            ("RFC 9112 6.1", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
            (
                "RFC 9112 6.1",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "HTTP/1.1 501 Not Implemented\r\n",
            ),
            ("RFC 9112 6.3", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", BAD),
            ("RFC 9112 6.3", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", BAD),
            ("RFC 9112 6.3", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", BAD),
            ("RFC 9110 8.6", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", BAD),
            ("RFC 9110 8.6", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", BAD),
            ("RFC 9110 8.6", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", BAD),
            ("RFC 9110 8.6", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n", BAD),
        ],
    )
    .await;
}

#[tokio::test]
async fn broken_chunks_never_become_a_message() {
    for (section, body) in [
        ("RFC 9112 7.1", "3\nabc\r\n0\r\n\r\n"),
        ("RFC 9112 7.1", "+3\r\nabc\r\n0\r\n\r\n"),
        ("RFC 9112 7.1", "3 \r\nabc\r\n0\r\n\r\n"),
        ("RFC 9112 7.1", "3\r\nabcd\r\n0\r\n\r\n"),
        ("RFC 9112 7.1", "3\r\nabc0\r\n\r\n"),
        ("RFC 9112 7.1", "fffffffffffffffff\r\nabc"),
        ("RFC 9112 7.1.1", "3;\0\r\nabc\r\n0\r\n\r\n"),
        ("RFC 9112 7.1.2", "0\r\nX : y\r\n\r\n"),
        ("RFC 9112 7.1.2", "0\r\n\nGET /own HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let server = Server::start(vec![Step::Drain, Step::Close]).await;
        let edge = edge().server(server.address).start();
        let got = edge.ask(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        assert!(got.starts_with(BAD) && got.matches("HTTP/1.1 ").count() == 1, "{section}: {body:?} got {got:?}");
        assert!(!server.received().contains("\r\n0\r\n\r\n"), "{section}: {body:?} was forwarded whole: {:?}", server.received());
        assert_eq!(edge.counters.refused(Refused::BadBody), 1, "{section}: {body:?}");
    }
}

#[tokio::test]
async fn odd_requests_are_forwarded_in_one_form() {
    let edge = edge().start();
    for (section, request, expected) in [
        ("RFC 9112 2.2", "\r\nGET /echo-head HTTP/1.1\r\nHost: a", "/echo-head\nHost: a\r\n"),
        ("RFC 9112 3.2.2", "GET http://b.test:81/echo-head?x HTTP/1.1\r\nHost: a", "/echo-head?x\nHost: b.test:81\r\n"),
        ("RFC 3986 2.1", "GET /echo-head?\u{e9}<> HTTP/1.1\r\nHost: a", "/echo-head?%C3%A9%3C%3E\nHost: a\r\n"),
        ("RFC 9112 5", "GET /echo-head HTTP/1.1\r\nhOsT:\t a \t", "/echo-head\nHost: a\r\n"),
        ("RFC 9110 7.8", "GET /echo-head HTTP/1.1\r\nHost: a\r\nUpgrade: x", "/echo-head\nHost: a\r\n"),
        (
            "RFC 9113 3.1",
            "GET /echo-head HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade",
            "/echo-head\nHost: a\r\nConnection: Upgrade\r\n",
        ),
        (
            "RFC 9110 8.6",
            "GET /echo-head HTTP/1.1\r\nHost: a\r\nContent-Length: 000",
            "/echo-head\nHost: a\r\nContent-Length: 0\r\n",
        ),
    ] {
        let mut client = edge.connect().await;
        client.send(format!("{request}\r\n\r\n")).await;
        let got = client.answer().await;
        let body = got.split_once("\r\n\r\n").map(|(_, body)| body);
        assert!(got.starts_with(OWN) && body == Some(expected), "{section}: {request:?} got {got:?}, expected {expected:?}");
    }
}

#[tokio::test]
async fn options_asterisk_is_answered_by_the_server_itself() {
    let edge = edge().start();
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(answer.starts_with(OWN) && answer.contains("\r\nContent-Length: 0\r\n"), "{answer:?}");
    }
    assert!(edge.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let edge = edge().start();
    let mut client = edge.connect().await;
    for byte in b"POST /own HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" {
        client.send([*byte]).await;
    }
    assert!(client.answer().await.ends_with("own"));
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_poison_the_next_request() {
    let edge = edge().start();
    let body = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send(format!("POST /own HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        assert!(client.answer().await.ends_with("own"));
    }
    // Too much of it, or no telling how much: the connection ends.
    for framing in ["Content-Length: 10000000", "Transfer-Encoding: chunked"] {
        let got = edge.ask(format!("POST /own HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).await;
        assert!(got.contains("Connection: close") && got.ends_with("own"), "{got:?}");
    }
    assert_eq!(edge.seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_a_server_sends_behind_its_answer_reaches_nobody() {
    for (section, answer, status) in [
        (
            "RFC 9112 6.3",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil".as_slice(),
            "200",
        ),
        ("RFC 9112 6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\nok", "502"),
        ("RFC 9112 6.3", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "204"),
        ("RFC 9112 4", b"HTTX/1.1 200 OK\r\n\r\n", "502"),
    ] {
        let server = Server::answering(answer).await;
        let edge = edge().server(server.address).start();
        let mut client = edge.connect().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let got = client.answer().await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")) && !got.contains("evil"), "{section}: {got:?}");
        }
    }
}
