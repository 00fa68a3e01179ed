//! Sends events to a webhook: one POST of JSON each, in order, tried again a few times, and given up rather than piled up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::event::Event;

/// How patient the sender is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long one try may take.
    pub timeout: Duration,
    /// Before the second try; each further one waits twice as long.
    pub back_off: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), back_off: Duration::from_secs(1) }
    }
}

/// Tries after the first one.
const RETRIES_MAX: u32 = 3;

/// The client that POSTs. A webhook that answers with a redirection has not taken the event.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Sends what comes out of the queue until `shutdown`. What could not be sent is counted in `dropped`.
pub async fn run(
    client: reqwest::Client,
    url: String,
    mut events: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
    pace: Pace,
    shutdown: CancellationToken,
) {
    let send_all = async {
        while let Some(event) = events.recv().await {
            if let Err(error) = send(&client, &url, &event, pace).await {
                dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(service = event.service, kind = event.kind, error, "an event did not reach the webhook");
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = send_all => {}
    }
}

async fn send(client: &reqwest::Client, url: &str, event: &Event, pace: Pace) -> Result<(), String> {
    let mut wait = pace.back_off;
    let mut tries = 0;
    loop {
        let error = match client.post(url).timeout(pace.timeout).json(event).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => format!("it answered {}", answer.status().as_u16()),
            // The URL may hold a secret.
            Err(error) => root_cause(&error.without_url()),
        };
        if tries == RETRIES_MAX {
            return Err(error);
        }
        tries += 1;
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::event::{EVENTS_MAX, Events};
    use super::*;

    const PACE: Pace = Pace { timeout: Duration::from_millis(200), back_off: Duration::from_millis(1) };
    const PATIENCE: Duration = Duration::from_secs(10);

    fn event(sentence: &str) -> Event {
        Event {
            at: std::time::UNIX_EPOCH,
            service: "web@consulcatalog".to_owned(),
            job: None,
            version: Some("v2".to_owned()),
            kind: "share",
            sentence: sentence.to_owned(),
            report: json!({ "share": 0.05 }),
        }
    }

    /// A webhook at the other end of a queue.
    struct Scene {
        listener: TcpListener,
        events: Events,
        dropped: Arc<AtomicU64>,
        _shutdown: tokio_util::sync::DropGuard,
    }

    impl Scene {
        async fn start() -> Self {
            crate::tls::install_crypto_provider();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap());
            let (dropped, shutdown) = (Arc::<AtomicU64>::default(), CancellationToken::new());
            let (events, waiting) = Events::channel(Arc::clone(&dropped));
            tokio::spawn(run(client().unwrap(), url, waiting, Arc::clone(&dropped), PACE, shutdown.clone()));
            Self { listener, events, dropped, _shutdown: shutdown.drop_guard() }
        }

        /// The next POST's body, and the connection to answer it on.
        async fn asked(&self) -> (Value, TcpStream) {
            let read = async {
                let (mut stream, _) = self.listener.accept().await.unwrap();
                let mut text = Vec::new();
                loop {
                    stream.read_buf(&mut text).await.unwrap();
                    let split = String::from_utf8_lossy(&text).into_owned();
                    if let Some((_, body)) = split.split_once("\r\n\r\n")
                        && let Ok(body) = serde_json::from_str(body)
                    {
                        return (body, stream);
                    }
                }
            };
            tokio::time::timeout(PATIENCE, read).await.unwrap()
        }

        async fn has_dropped(&self, count: u64) {
            let wait = async {
                while self.dropped.load(Ordering::Relaxed) < count {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(PATIENCE, wait).await.unwrap();
            assert_eq!(self.dropped.load(Ordering::Relaxed), count);
        }
    }

    async fn reply(stream: &mut TcpStream, status: u16) {
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn an_event_is_one_post_of_json() {
        let scene = Scene::start().await;
        scene.events.send(event("canary share 0 % -> 5 %"));
        let (body, mut stream) = scene.asked().await;
        let expected = json!({
            "at": "1970-01-01T00:00:00Z", "service": "web@consulcatalog", "job": null, "version": "v2", "kind": "share",
            "sentence": "canary share 0 % -> 5 %", "report": { "share": 0.05 },
        });
        assert_eq!(body, expected);
        reply(&mut stream, 204).await;
    }

    #[tokio::test]
    async fn a_webhook_that_fails_is_asked_again_and_given_up_after_three_more() {
        let scene = Scene::start().await;
        scene.events.send(event("first"));
        scene.events.send(event("second"));
        for _ in 0..=RETRIES_MAX {
            let (body, mut stream) = scene.asked().await;
            assert_eq!(body["sentence"], "first");
            reply(&mut stream, 500).await;
        }
        scene.has_dropped(1).await;
        let (body, mut stream) = scene.asked().await;
        assert_eq!(body["sentence"], "second");
        reply(&mut stream, 301).await;
        let (body, mut stream) = scene.asked().await;
        assert_eq!(body["sentence"], "second");
        reply(&mut stream, 200).await;
        scene.events.send(event("third"));
        assert_eq!(scene.asked().await.0["sentence"], "third");
        assert_eq!(scene.dropped.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_webhook_that_hangs_costs_the_events_that_find_no_place_and_nobody_waits() {
        let scene = Scene::start().await;
        scene.events.send(event("hung"));
        let (_, hung) = scene.asked().await;
        // One is on its way; so many wait, and those after them are dropped at once.
        for number in 0..EVENTS_MAX + 3 {
            scene.events.send(event(&number.to_string()));
        }
        assert_eq!(scene.dropped.load(Ordering::Relaxed), 3);
        let mut silent = vec![hung];
        for _ in 0..RETRIES_MAX {
            silent.push(scene.asked().await.1);
        }
        scene.has_dropped(4).await;
        assert_eq!(scene.asked().await.0["sentence"], "0");
    }
}
