//! Requests and answers of every kind on their way through the whole proxy, and what becomes of them when servers fail.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::client::Http;
use crate::support::edge::{Edge, PATIENCE, everything_to, everything_with, until};
use crate::support::raw::{Client, Server, Step, nobody};
use crate::support::upstream::{Upstream, ok, status};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn to(server: &Server) -> Edge {
    Edge::start().file(&everything_to(&[format!("http://{}", server.address)])).run().await
}

async fn raw(edge: &Edge) -> Client<TcpStream> {
    Client::new(TcpStream::connect(edge.web()).await.unwrap())
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways() {
    let server = Server::start(vec![
        Step::Until("\r\n\r\n"),
        Step::Send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst"),
        Step::Until("ping"),
        Step::Send(b"pong"),
        Step::Until("bye"),
        Step::Close,
    ])
    .await;
    let edge = to(&server).await;
    let mut client = raw(&edge).await;
    client.send("GET /chat HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await.to_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket") && head.contains("sec-websocket-accept: x"),
        "{head}"
    );
    assert_eq!(client.exactly(5).await, "first");
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, "pong");
    client.send("bye").await;
    assert_eq!(client.rest().await, "");
    assert!(server.received().to_lowercase().contains("connection: upgrade"), "{}", server.received());
    edge.is_quiet().await;
}

/// What a client has understood of a chunked answer so far.
fn understood(mut wire: &[u8], is_packed: bool) -> String {
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    let mut plain = Vec::new();
    let find = |bytes: &[u8], end: &[u8]| bytes.windows(end.len()).position(|window| window == end);
    let Some(head) = find(wire, b"\r\n\r\n") else { return String::new() };
    wire = &wire[head + 4..];
    while let Some(line) = find(wire, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&wire[..line]).unwrap(), 16).unwrap();
        let Some(piece) = wire.get(line + 2..line + 2 + size).filter(|piece| !piece.is_empty()) else { break };
        if is_packed {
            std::io::Write::write_all(&mut decoder, piece).unwrap();
        } else {
            plain.extend_from_slice(piece);
        }
        wire = &wire[line + 4 + size..];
    }
    if is_packed {
        std::io::Write::flush(&mut decoder).unwrap();
        plain.clone_from(decoder.get_ref());
    }
    String::from_utf8(plain).unwrap()
}

#[tokio::test]
async fn events_arrive_when_they_are_sent_packed_or_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let next = Arc::new(Notify::new());
    let gate = Arc::clone(&next);
    tokio::spawn(async move {
        loop {
            let mut stream = listener.accept().await.unwrap().0;
            let _ = stream.read(&mut [0; 4096]).await;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            for event in ["data: 1\n\n", "data: 2\n\n"] {
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
                gate.notified().await;
            }
        }
    });
    let file = everything_to(&[format!("http://{server}")]).replace("service: site}", "service: site, middlewares: [small]}")
        + "  middlewares: {small: {compress: {}}}\n";
    let edge = Edge::start().file(&file).run().await;
    for (accepts, is_packed) in [("identity", false), ("gzip", true)] {
        let mut client = TcpStream::connect(edge.web()).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nAccept-Encoding: {accepts}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut wire = Vec::new();
        for seen in ["data: 1\n\n", "data: 1\n\ndata: 2\n\n"] {
            let read = async {
                while understood(&wire, is_packed) != seen {
                    assert!(client.read_buf(&mut wire).await.unwrap() > 0, "ended early");
                }
            };
            tokio::time::timeout(PATIENCE, read).await.expect("the event was held back");
            next.notify_one();
        }
    }
}

#[tokio::test]
async fn grpc_reaches_an_h2c_server_with_its_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let te = request.headers().get("te").cloned();
                let mut body = request.into_body();
                let mut got = Vec::new();
                while let Some(Ok(piece)) = body.data().await {
                    got.extend_from_slice(&piece);
                }
                let answer = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = respond.send_response(answer, false).unwrap();
                stream.send_data(got.into(), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                trailers.insert("te-was", te.unwrap_or(http::HeaderValue::from_static("lost")));
                stream.send_trailers(trailers).unwrap();
            });
        }
    });
    let edge = Edge::start().file(&everything_to(&[format!("h2c://{server}")])).run().await;
    let (client, connection) = h2::client::handshake(TcpStream::connect(edge.web()).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = http::Request::post("http://site.test/package.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut body) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"message"), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "message");
        while let Some(piece) = body.data().await {
            piece.unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!((trailers["grpc-status"].to_str().unwrap(), trailers["te-was"].to_str().unwrap()), ("0", "trailers"));
    }
    edge.is_quiet().await;
}

#[tokio::test]
async fn interim_answers_reach_the_client() {
    let server = Server::start(vec![
        Step::Until("\r\n\r\n"),
        Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n"),
        Step::Until("hello"),
        Step::Send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"),
        Step::Send(OK),
    ])
    .await;
    let edge = to(&server).await;
    let mut client = raw(&edge).await;
    client.send("POST / HTTP/1.1\r\nHost: site.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    let hints = client.until("\r\n\r\n").await;
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("</a.css>"), "{hints}");
    assert!(client.answer().await.ends_with("ok"));
}

const LARGE: usize = 50 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_go_through_both_ways() {
    let upstream = Upstream::start(|asked| async move {
        if asked.line == "GET /large" { ok(vec![b'x'; LARGE]) } else { ok(asked.body.len().to_string()) }
    })
    .await;
    let edge = Edge::start().file(&everything_to(&[upstream.url()])).run().await;
    assert_eq!(edge.get("/large").await.body.len(), LARGE);
    let mut client = edge.connect().await;
    let piece = vec![b'y'; 1 << 20];
    client.stream.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).await.unwrap();
    for _ in 0..LARGE / piece.len() {
        client.stream.write_all(&piece).await.unwrap();
    }
    assert_eq!(client.answer().await.unwrap().text(), LARGE.to_string());
}

/// What two ends with two sockets each and the proxy between them may hold; far below a large body.
const HELD_MAX: usize = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_the_sender_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = Edge::start().file(&everything_to(&[format!("http://{}", listener.local_addr().unwrap())])).run().await;
    let piece = vec![b'z'; 64 * 1024];
    let flood = async |stream: &mut TcpStream| {
        let mut held = 0;
        while held < LARGE {
            match tokio::time::timeout(Duration::from_millis(300), stream.write(&piece)).await {
                Ok(count) => held += count.unwrap(),
                Err(_) => return held,
            }
        }
        held
    };
    // A server that does not read.
    let mut client = TcpStream::connect(edge.web()).await.unwrap();
    client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).await.unwrap();
    let _server = listener.accept().await.unwrap().0;
    let held = flood(&mut client).await;
    assert!(held < HELD_MAX, "{held} bytes are held for a server that does not read");
    // A client that does not read.
    let mut client = TcpStream::connect(edge.web()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut server = listener.accept().await.unwrap().0;
    server.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).await.unwrap();
    let held = flood(&mut server).await;
    assert!(held < HELD_MAX, "{held} bytes are held for a client that does not read");
}

/// A server that takes a request and hangs up.
async fn rude() -> Server {
    Server::start(vec![Step::Until("\r\n\r\n"), Step::Close]).await
}

#[tokio::test]
async fn what_was_not_sent_goes_to_another_server_whatever_it_is() {
    let good = Upstream::start(|asked| async move { ok(asked.body) }).await;
    let edge = Edge::start().file(&everything_to(&[format!("http://{}", nobody()), good.url()])).run().await;
    for number in 0..6 {
        let body = format!("upload {number}");
        assert_eq!(edge.post("/", &body).await.text(), body);
    }
    assert_eq!(good.users().len(), 6);
    edge.is_quiet().await;
}

#[tokio::test]
async fn a_request_whose_server_hung_up_is_repeated_only_if_that_is_harmless() {
    let good = Upstream::named("good").await;
    let rude = rude().await;
    let edge = Edge::start().file(&everything_to(&[format!("http://{}", rude.address), good.url()])).run().await;
    let met_rude = || *rude.connections.lock().unwrap();
    for _ in 0..4 {
        assert_eq!(edge.get("/").await.text(), "good");
    }
    assert_eq!(met_rude(), 2, "half of the requests, each once");
    let before = good.users().len();
    let answers = [edge.post("/", "once").await, edge.post("/", "once").await];
    let failed = answers.iter().filter(|answer| answer.status == 502 && answer.text() == "Bad Gateway").count();
    assert_eq!((failed, good.users().len() - before, met_rude()), (1, 1, 3));
    edge.is_quiet().await;
}

#[tokio::test]
async fn a_handler_that_drops_the_connection_is_a_failure_of_its_server_however_old_the_connection_is() {
    let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(OK), Step::Until("crash"), Step::Close]).await;
    let edge = to(&server).await;
    assert_eq!(edge.get("/").await.text(), "ok");
    assert_eq!(edge.post("/", "crash").await.status, 502);
    assert_eq!(*server.connections.lock().unwrap(), 1, "it was a pooled connection");
    let failed = format!(
        "tidegate_server_requests_total{{outcome=\"failed\",server=\"http://{}\",service=\"site@file\"}}",
        server.address
    );
    assert_eq!(edge.metric(&failed).await, Some(1.0));
}

#[tokio::test]
async fn a_request_with_an_empty_chunked_body_is_answered_by_the_next_server_too() {
    let (good, rude) = (Upstream::named("good").await, Server::start(vec![Step::Until("0\r\n\r\n"), Step::Close]).await);
    let edge = Edge::start().file(&everything_to(&[format!("http://{}", rude.address), good.url()])).run().await;
    for _ in 0..2 {
        let mut client = raw(&edge).await;
        client.send("DELETE /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
        assert!(client.answer().await.ends_with("good"));
    }
    assert_eq!((good.users().len(), *rude.connections.lock().unwrap()), (2, 1));
}

#[tokio::test]
async fn a_head_request_hears_that_no_server_answers() {
    let edge = Edge::start().file(&everything_to(&[format!("http://{}", nobody())])).run().await;
    let mut client = raw(&edge).await;
    client.send("HEAD / HTTP/1.1\r\nHost: site.test\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 502 ") && head.to_lowercase().contains("content-length: 11\r\n"), "{head}");
}

#[tokio::test]
async fn no_server_gets_the_same_request_twice() {
    let rude = rude().await;
    let edge = to(&rude).await;
    let answer = edge.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (502, "Bad Gateway"));
    assert_eq!(*rude.connections.lock().unwrap(), 1);
    // The only other one takes nothing: what went wrong is told, not that there is nobody.
    let closed = Upstream::named("closed").await;
    let both = everything_to(&[format!("http://{}", rude.address), closed.url()])
        .replace(&format!("\"{}\"", closed.url()), &format!("\"{}\", weight: 0", closed.url()));
    edge.write(&both);
    edge.has_servers(2).await;
    assert_eq!(edge.get("/").await.status, 502);
    assert!(closed.users().is_empty());
}

#[tokio::test]
async fn a_connection_that_died_while_it_was_idle_costs_nobody_anything() {
    let server = Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(OK), Step::Close]).await;
    let edge = to(&server).await;
    for number in 1..=20 {
        assert_eq!(edge.get("/").await.text(), "ok");
        until("another connection", async || *server.connections.lock().unwrap() == number).await;
    }
    assert_eq!(
        edge.metric("traefik_service_requests_total{code=\"200\",method=\"GET\",protocol=\"http\",service=\"site@file\"}").await,
        Some(20.0)
    );
}

#[tokio::test]
async fn when_everything_fails_retries_stay_within_their_budget() {
    let all = [rude().await, rude().await, rude().await];
    let urls: Vec<String> = all.iter().map(|server| format!("http://{}", server.address)).collect();
    let edge = Edge::start().file(&everything_to(&urls)).run().await;
    for _ in 0..200 {
        assert_eq!(edge.get("/").await.status, 502);
    }
    let attempts: usize = all.iter().map(|server| *server.connections.lock().unwrap()).sum();
    assert!(attempts <= 200 + 100 + 40 + 5, "{attempts} attempts for 200 requests");
    assert!(attempts > 250, "{attempts}: the budget was used");
}

#[tokio::test]
async fn failures_are_told_in_traefiks_words() {
    let silent = Upstream::start(|_| std::future::pending()).await;
    let odd = Server::answering(b"SMTP ready\r\n\r\n").await;
    let file = format!(
        "http:\n  routers:\n    refused: {{rule: \"Path(`/refused`)\", service: refused}}\n    empty: {{rule: \"Path(`/empty`)\", service: empty}}\n    silent: {{rule: \"Path(`/silent`)\", service: silent}}\n    odd: {{rule: \"Path(`/odd`)\", service: odd}}\n  services:\n    refused: {{loadBalancer: {{servers: [{{url: \"http://{}\"}}]}}}}\n    empty: {{loadBalancer: {{servers: [{{url: \"http://{}\", weight: 0}}]}}}}\n    silent: {{loadBalancer: {{serversTransport: hasty, servers: [{{url: \"{}\"}}]}}}}\n    odd: {{loadBalancer: {{servers: [{{url: \"http://{}\"}}]}}}}\n  serversTransports: {{hasty: {{forwardingTimeouts: {{responseHeaderTimeout: 100ms}}}}}}\n",
        nobody(),
        silent.address,
        silent.url(),
        odd.address
    );
    let edge = Edge::start().file(&file).run().await;
    for (path, status, body) in [
        ("/refused", 502, "Bad Gateway"),
        ("/empty", 503, "no available server\n"),
        ("/silent", 504, "Gateway Timeout"),
        ("/odd", 500, "Internal Server Error"),
        ("/nowhere", 404, "404 page not found\n"),
    ] {
        let answer = edge.get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{path}");
    }
    edge.is_quiet().await;
}

#[tokio::test]
async fn an_answer_or_a_tunnel_that_pauses_is_not_cut_by_the_time_its_head_may_take() {
    // The pause is as long as the test likes, so longer than the head's time, which the silent path proves to be over.
    let (pause, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (paused, resume) = (Arc::clone(&pause), Arc::clone(&go_on));
    let serving = tokio::spawn(async move {
        let mut open = Vec::new();
        for head in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: any\r\n\r\n",
        ] {
            let mut stream = listener.accept().await.unwrap().0;
            stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            paused.notify_one();
            resume.notified().await;
            stream.write_all(b"hello").await.unwrap();
            open.push(stream);
        }
        // The third is never answered.
        open.push(listener.accept().await.unwrap().0);
        std::future::pending::<()>().await;
    });
    let file = everything_with(", serversTransport: hasty", &[url])
        + "  serversTransports: {hasty: {forwardingTimeouts: {responseHeaderTimeout: 100ms}}}\n";
    let edge = Edge::start().file(&file).run().await;
    for request in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: any\r\n\r\n"]
    {
        let mut client = raw(&edge).await;
        client.send(request).await;
        client.until("\r\n\r\n").await;
        pause.notified().await;
        let answered = clock::now();
        until("the head's time is over", async || answered.elapsed() > Duration::from_millis(250)).await;
        go_on.notify_one();
        assert_eq!(client.exactly(5).await, "hello");
    }
    let late = edge.get("/").await;
    assert_eq!((late.status, late.text().as_str()), (504, "Gateway Timeout"));
    serving.abort();
}

#[tokio::test]
async fn servers_learn_who_asks_and_nothing_that_he_made_up() {
    let server = Upstream::named("served").await;
    let edge = Edge::start().file(&everything_to(&[server.url()])).run().await;
    edge.ask("GET /a//b/../c?x=1 HTTP/1.1\r\nHost: site.test\r\nX-Forwarded-For: 9.9.9.9\r\nX-Real-Ip: 9.9.9.9\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n").await;
    let asked = &server.users()[0];
    let field = |name: &str| asked.head.get(name).map_or("none", |value| value.to_str().unwrap());
    assert_eq!(asked.line, "GET /a/c?x=1");
    assert_eq!((field("x-forwarded-for"), field("x-real-ip"), field("x-hop")), ("127.0.0.1", "127.0.0.1", "none"));
    assert_eq!((field("host"), field("x-forwarded-host"), field("x-forwarded-proto")), ("site.test", "site.test", "http"));
}

#[tokio::test]
async fn weights_between_services_are_kept() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let file = format!(
        "http:\n  routers: {{site: {{rule: \"PathPrefix(`/`)\", service: both}}}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n    b: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n    both: {{weighted: {{services: [{{name: a, weight: 3}}, {{name: b, weight: 1}}]}}}}\n",
        a.url(),
        b.url()
    );
    let edge = Edge::start().file(&file).run().await;
    for _ in 0..40 {
        assert_eq!(edge.get("/").await.status, 200);
    }
    assert_eq!((a.users().len(), b.users().len()), (30, 10));
}

#[tokio::test]
async fn p2c_spares_the_busy_server() {
    let slow = |name: &'static str| async move {
        Upstream::start(move |asked| async move {
            if asked.line == "GET /slow" {
                std::future::pending::<()>().await;
            }
            ok(name)
        })
        .await
    };
    let (a, b) = (slow("a").await, slow("b").await);
    let edge = Edge::start().file(&everything_with(", strategy: p2c", &[a.url(), b.url()])).run().await;
    let mut waiting = raw(&edge).await;
    waiting.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.until("somebody is busy", async || a.users().len() + b.users().len() == 1).await;
    let idle = if a.users().is_empty() { "a" } else { "b" };
    for _ in 0..10 {
        assert_eq!(edge.get("/").await.text(), idle);
    }
    // A client that leaves is nobody's failure, and nobody has its request any more.
    drop(waiting);
    edge.is_quiet().await;
    let busy = if idle == "a" { &b } else { &a };
    let ignored =
        format!("tidegate_server_requests_total{{outcome=\"ignored\",server=\"{}\",service=\"site@file\"}}", busy.url());
    assert_eq!(edge.metric(&ignored).await, Some(1.0));
    edge.until("it is logged", async || {
        edge.metric("traefik_service_requests_total{code=\"499\",method=\"GET\",protocol=\"http\",service=\"site@file\"}").await
            == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_fails_its_check_is_left_until_it_passes() {
    let is_ill = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&is_ill);
    let a = Upstream::start(move |asked| {
        let is_ill = asked.line == "GET /health" && flag.load(std::sync::atomic::Ordering::SeqCst);
        async move { if is_ill { status(503, "ill") } else { ok("a") } }
    })
    .await;
    let b = Upstream::named("b").await;
    let edge = Edge::start()
        .file(&everything_with(", healthCheck: {path: /health, interval: 30ms, timeout: 1s}", &[a.url(), b.url()]))
        .run()
        .await;
    let up = format!("traefik_service_server_up{{service=\"site@file\",url=\"{}\"}}", a.url());
    edge.until("it is up", async || edge.metric(&up).await == Some(1.0)).await;
    is_ill.store(true, std::sync::atomic::Ordering::SeqCst);
    edge.until("it is down", async || edge.metric(&up).await == Some(0.0)).await;
    for _ in 0..10 {
        assert_eq!(edge.get("/").await.text(), "b");
    }
    is_ill.store(false, std::sync::atomic::Ordering::SeqCst);
    edge.until("it is up again", async || edge.metric(&up).await == Some(1.0)).await;
    edge.until("it serves again", async || edge.get("/").await.text() == "a").await;
}

#[tokio::test]
async fn a_server_by_name_is_found() {
    let server = Upstream::named("by name").await;
    let edge = Edge::start().file(&everything_to(&[format!("http://localhost:{}", server.address.port())])).run().await;
    edge.until("it is resolved", async || edge.get("/").await.status == 200).await;
    for _ in 0..3 {
        assert_eq!(edge.get("/").await.text(), "by name");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_for_the_client_and_counted() {
    let server =
        Server::start(vec![Step::Until("\r\n\r\n"), Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Step::Close])
            .await;
    let edge = to(&server).await;
    let mut client = Http::connect(edge.web()).await.unwrap();
    let cut = tokio::time::timeout(PATIENCE, client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
    assert!(cut.is_err(), "{cut:?}");
    let failed = format!(
        "tidegate_server_requests_total{{outcome=\"failed\",server=\"http://{}\",service=\"site@file\"}}",
        server.address
    );
    edge.until("it is counted", async || edge.metric(&failed).await == Some(1.0)).await;
    assert_eq!(*server.connections.lock().unwrap(), 1, "what has begun is not begun again");
    edge.is_quiet().await;
}
