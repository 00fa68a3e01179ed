//! The stand-in's event stream.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::Cluster;
use super::{Question, Reply, Shared, StreamFault, plain};

/// The event stream: a sign of life, then what is in the buffer from the asked index on, then what happens.
pub(super) fn stream(shared: Arc<Shared>, question: &Question) -> Reply {
    if let StreamFault::Refuse(status) = *shared.stream.borrow() {
        return plain(status, if status == 403 { "Permission denied" } else { "refused, as asked for" });
    }
    let Ok(index) = question.option("index").unwrap_or("0").parse::<u64>() else {
        return plain(400, "Unable to parse index");
    };
    let topics: Vec<String> =
        question.options.iter().filter(|(name, _)| name == "topic").map(|(_, topic)| topic.clone()).collect();
    let namespace = question.option("namespace").unwrap_or("default").to_owned();
    let (pieces, received) = mpsc::channel::<io::Result<Frame<Bytes>>>(64);
    let has_leader = *shared.has_leader.borrow();
    let at = shared.cluster().line_of(if has_leader { index } else { 0 });
    tokio::spawn(async move {
        let telling = Telling { shared, topics, namespace, pieces };
        telling.shared.streams.send_modify(|open| *open += 1);
        _ = telling.tell(at).await;
        telling.shared.streams.send_modify(|open| *open -= 1);
    });
    let body = futures::stream::unfold(received, |mut received| async move { Some((received.recv().await?, received)) });
    Response::builder().header("Content-Type", "application/json").body(StreamBody::new(body).boxed_unsync()).unwrap()
}

impl Cluster {
    /// The number of the line with which a stream begins: the one of that index or the closest after it. Asked for far more
    /// than there is, Nomad says its last line again.
    fn line_of(&self, index: u64) -> usize {
        let after = self.lines.iter().position(|(known, _)| *known >= index).unwrap_or(self.lines.len());
        let is_far_ahead = after == self.lines.len() && index > self.index + 1 && !self.lines.is_empty();
        self.first_line + after - usize::from(is_far_ahead)
    }
}

/// One stream that is being told.
struct Telling {
    shared: Arc<Shared>,
    topics: Vec<String>,
    namespace: String,
    pieces: mpsc::Sender<io::Result<Frame<Bytes>>>,
}

/// Nobody listens any more, or nobody is to hear more.
struct Over;

impl Telling {
    async fn tell(&self, mut at: usize) -> Result<(), Over> {
        let mut changed = self.shared.changed.subscribe();
        let mut generation = self.shared.generation.subscribe();
        let begun = generation.borrow_and_update().0;
        let interval = *self.shared.heartbeat.lock().unwrap();
        let mut heartbeat = tokio::time::interval(interval);
        heartbeat.tick().await;
        self.say("{}").await?;
        loop {
            let (lines, next) = self.lines(at);
            at = next;
            let fault = *self.shared.stream.borrow();
            for line in lines {
                match fault {
                    StreamFault::Hole | StreamFault::Silence => {}
                    StreamFault::Garble => self.say("<html>no line of nomad's").await?,
                    StreamFault::Double => {
                        self.say(&line).await?;
                        self.say(&line).await?;
                    }
                    StreamFault::None | StreamFault::Refuse(_) => self.say(&line).await?,
                }
            }
            tokio::select! {
                biased;
                _ = generation.changed() => {
                    let (now, is_polite) = *generation.borrow_and_update();
                    if now != begun && is_polite {
                        let words = Bytes::from_static(b"subscription closed by server, client should resubscribe");
                        _ = self.pieces.send(Ok(Frame::data(words))).await;
                    } else if now != begun {
                        _ = self.pieces.send(Err(io::Error::other("cut, as asked for"))).await;
                    }
                    return Err(Over);
                }
                () = self.pieces.closed() => return Err(Over),
                told = changed.changed() => told.map_err(|_closed| Over)?,
                _ = heartbeat.tick() => {
                    if fault != StreamFault::Silence {
                        self.say("{}").await?;
                    }
                }
            }
        }
    }

    /// What is there from a line on, and where it ends.
    fn lines(&self, at: usize) -> (Vec<String>, usize) {
        let cluster = self.shared.cluster();
        let from = at.saturating_sub(cluster.first_line);
        let told = cluster.lines.iter().skip(from).filter_map(|(index, events)| {
            let is_meant = |event: &&Value| {
                let namespace = &event["Namespace"];
                let topic = self.topics.iter().any(|topic| event["Topic"] == **topic);
                topic && (self.namespace == "*" || *namespace == *self.namespace)
            };
            let events: Vec<&Value> = events.iter().filter(is_meant).collect();
            (!events.is_empty()).then(|| json!({"Events": events, "Index": index}).to_string())
        });
        (told.collect(), cluster.first_line + cluster.lines.len())
    }

    /// A line and its end are two pieces, as from Nomad.
    async fn say(&self, line: &str) -> Result<(), Over> {
        for piece in [Bytes::copy_from_slice(line.as_bytes()), Bytes::from_static(b"\n")] {
            self.pieces.send(Ok(Frame::data(piece))).await.map_err(|_closed| Over)?;
        }
        Ok(())
    }
}
