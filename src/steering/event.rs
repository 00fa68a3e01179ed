//! What happened, told to the world: one [`Event`] a decision, put into a bounded queue that never makes control wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio::sync::mpsc;

/// Events that may wait to be sent.
pub const EVENTS_MAX: usize = 256;

/// Something that was decided or ordered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, in UTC on the wire.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// `web@consulcatalog`.
    pub service: String,
    /// `job` or `namespace/job`, where Nomad is known to stand behind the service.
    pub job: Option<String>,
    /// What the canary is, if there is one.
    pub version: Option<String>,
    /// One word: `share`, `note`, `suspended`, `failed`, `promoted`, `released`, `gone`, `drained`, `undrained`.
    pub kind: &'static str,
    /// The log line.
    pub sentence: String,
    /// Where the rollout stands since.
    pub report: Value,
}

/// A moment as people and programs read it.
pub fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match jiff::Timestamp::try_from(*at) {
        Ok(at) => serializer.collect_str(&at),
        Err(_outside) => serializer.serialize_none(),
    }
}

/// Where events go. Nowhere unless there is somebody to send them.
#[derive(Clone, Debug, Default)]
pub struct Events {
    queue: Option<mpsc::Sender<Event>>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// A queue, and its end where they come out. `dropped` counts what found no place.
    pub fn channel(dropped: Arc<AtomicU64>) -> (Self, mpsc::Receiver<Event>) {
        let (queue, waiting) = mpsc::channel(EVENTS_MAX);
        (Self { queue: Some(queue), dropped }, waiting)
    }

    /// Queues an event, or drops and counts it when the queue is full.
    pub fn send(&self, event: Event) {
        if let Some(queue) = &self.queue
            && queue.try_send(event).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
