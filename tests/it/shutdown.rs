//! The end is polite: what runs finishes, who is idle gets one more answer, and everybody is told.

use std::sync::Arc;
use std::time::Duration;

use tidegate::clock;
use tidegate::listener::DRAIN_IDLE_MAX;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::client::Http;
use crate::support::edge::{Edge, everything_to, until};
use crate::support::upstream::{Upstream, ok};

/// A proxy whose server answers `/slow` only when told to.
async fn site() -> (Edge, Upstream, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let server = Upstream::start(move |asked| {
        let gate = Arc::clone(&gate);
        async move {
            if asked.line == "GET /slow" {
                gate.notified().await;
            }
            ok("served")
        }
    })
    .await;
    let edge = Edge::start().file(&everything_to(&[server.url()])).run().await;
    (edge, server, release)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n";

#[tokio::test]
async fn running_requests_finish_and_idle_clients_get_one_more_answer() {
    let (mut edge, server, release) = site().await;
    let (mut idle, mut busy) = (edge.connect().await, edge.connect().await);
    assert!(!idle.ask(GET).await.unwrap().is_last());
    let running = tokio::spawn(async move { busy.ask("GET /slow HTTP/1.1\r\nHost: site.test\r\n\r\n").await });
    until("the slow request has arrived", async || server.users().len() == 2).await;
    let web = edge.web();
    let stopping = edge.stop();
    until("nobody new is let in", async || TcpStream::connect(web).await.is_err()).await;
    let last = idle.ask(GET).await.unwrap();
    assert_eq!((last.status, last.is_last()), (200, true), "{}", last.head);
    assert!(!stopping.is_finished());
    release.notify_one();
    let slow = running.await.unwrap().unwrap();
    assert_eq!((slow.text().as_str(), slow.is_last()), ("served", true), "{}", slow.head);
    assert_eq!(stopping.await.unwrap(), 0, "nobody was cut off");
}

#[tokio::test]
async fn an_http2_client_is_told_to_go_and_its_running_request_finishes() {
    let (mut edge, server, release) = site().await;
    let (client, connection) = h2::client::handshake(TcpStream::connect(edge.web()).await.unwrap()).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = async |path: &str| {
        let request = http::Request::get(format!("http://site.test{path}")).body(()).unwrap();
        let (answer, _) = client.clone().ready().await?.send_request(request, true)?;
        answer.await
    };
    assert_eq!(ask("/").await.unwrap().status(), 200);
    let stopping = async {
        until("the slow request has arrived", async || server.users().len() == 2).await;
        let web = edge.web();
        let stopping = edge.stop();
        until("nobody new is let in", async || TcpStream::connect(web).await.is_err()).await;
        release.notify_one();
        stopping.await.unwrap()
    };
    let (slow, left) = tokio::join!(ask("/slow"), stopping);
    assert_eq!((slow.unwrap().status().as_u16(), left), (200, 0));
    // GOAWAY without an error: nothing was lost.
    connection.await.unwrap().unwrap();
    assert!(ask("/").await.is_err());
}

/// So many answers, and of such a size, that the sockets between cannot hold them all.
const SLOWLY_READ: usize = 100;
const SLOWLY_READ_BYTES: usize = 200_000;

#[tokio::test]
async fn a_slow_http2_client_gets_all_of_its_answers_while_the_proxy_goes() {
    let server = Upstream::start(|_| async { ok("x".repeat(SLOWLY_READ_BYTES)) }).await;
    let mut edge = Edge::start().file(&everything_to(&[server.url()])).run().await;
    let stream = TcpStream::connect(edge.web()).await.unwrap();
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 30);
    let (client, mut connection) = settings.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let answers: Vec<_> = {
        let ask = || {
            let request = http::Request::get("http://site.test/").body(()).unwrap();
            client.clone().send_request(request, true).unwrap().0
        };
        (0..SLOWLY_READ).map(|_| ask()).collect()
    };
    let asked = until("all have been asked", async || server.users().len() == SLOWLY_READ);
    tokio::select! {
        biased;
        () = asked => {}
        ended = &mut connection => panic!("{ended:?}"),
    }
    // From here on the client reads nothing, for longer than an idle connection is kept.
    let stopping = edge.stop();
    let began = clock::now();
    until("an idle connection would be over", async || clock::now() - began > DRAIN_IDLE_MAX + Duration::from_millis(500)).await;
    assert!(!stopping.is_finished());
    let connection = tokio::spawn(connection);
    for answer in answers {
        let mut body = answer.await.unwrap().into_body();
        let mut received = 0;
        while let Some(piece) = body.data().await {
            received += piece.unwrap().len();
        }
        assert_eq!(received, SLOWLY_READ_BYTES);
    }
    drop(client);
    connection.await.unwrap().unwrap();
    assert_eq!(stopping.await.unwrap(), 0, "nobody was cut off");
}

#[tokio::test]
async fn a_load_balancer_in_front_has_time_to_look_away() {
    let (server, grace) = (Upstream::named("served").await, Duration::from_millis(700));
    let mut edge = Edge::start()
        .file(&everything_to(&[server.url()]))
        .set(move |install| install.entrypoints.values_mut().for_each(|one| one.transport.request_accept_grace = grace))
        .run()
        .await;
    let (web, admin) = (edge.web(), edge.address("traefik"));
    let ping = async || Http::connect(admin).await?.ask("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(ping().await.unwrap().status, 200);
    let began = clock::now();
    let stopping = edge.stop();
    until("ping says so", async || ping().await.is_ok_and(|answer| answer.status == 503)).await;
    let served = Http::connect(web).await.unwrap().ask(GET).await.unwrap();
    assert_eq!((served.status, served.is_last()), (200, false), "new connections are still served as ever");
    until("nobody new is let in", async || TcpStream::connect(web).await.is_err()).await;
    assert!(clock::now() - began >= grace);
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_when_its_time_is_over() {
    let (mut edge, server, _release) = {
        let server = Upstream::start(|_| std::future::pending()).await;
        let edge = Edge::start()
            .file(&everything_to(&[server.url()]))
            .set(|install| {
                install.entrypoints.values_mut().for_each(|one| one.transport.grace = Duration::from_millis(200));
            })
            .run()
            .await;
        (edge, server, ())
    };
    let mut stuck = edge.connect().await;
    let stuck = tokio::spawn(async move { stuck.ask(GET).await });
    until("the request has arrived", async || server.users().len() == 1).await;
    assert_eq!(edge.stop().await.unwrap(), 1);
    stuck.abort();
}
