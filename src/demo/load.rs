//! The load of the demo: requests at a constant rate through the proxy, POSTs among them, each answer checked.
//!
//! Open loop: a slow answer does not make the next request wait. What runs at once is limited, and what the limit turns away
//! is counted as lost, since a visitor would have been.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

/// Requests that may be under way at once.
const IN_FLIGHT_MAX: usize = 2000;
/// A visitor leaves after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Every so many requests one is a POST.
const POST_EVERY: u64 = 10;

/// What the visitors saw so far.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    served: AtomicU64,
    lost: AtomicU64,
    by_version: Mutex<BTreeMap<String, u64>>,
    kinds: Mutex<BTreeMap<String, u64>>,
}

/// A tally at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests sent.
    pub sent: u64,
    /// Answered as they should be.
    pub served: u64,
    /// Failed, whatever the reason.
    pub lost: u64,
    /// Answers by the version that gave them.
    pub by_version: BTreeMap<String, u64>,
    /// Failures by kind.
    pub kinds: BTreeMap<String, u64>,
}

impl Tally {
    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        Seen {
            sent: self.sent.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            by_version: self.by_version.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            kinds: self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn serve(&self, version: String) {
        self.served.fetch_add(1, Ordering::Relaxed);
        *self.by_version.lock().unwrap_or_else(PoisonError::into_inner).entry(version).or_default() += 1;
    }

    fn lose(&self, kind: String) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        *self.kinds.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }
}

/// Sends `rate` requests a second to `base` until the task is aborted.
pub async fn run(base: String, rate: u32, tally: Arc<Tally>) -> Result<(), reqwest::Error> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        pace.tick().await;
        tally.sent.fetch_add(1, Ordering::Relaxed);
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tally.lose("too many at once".to_owned());
            continue;
        };
        let (client, tally, base) = (client.clone(), Arc::clone(&tally), base.clone());
        tokio::spawn(async move {
            match visit(&client, &base, number).await {
                Ok(version) => tally.serve(version),
                Err(kind) => tally.lose(kind),
            }
            drop(place);
        });
    }
    Ok(())
}

/// One visit; `Ok` is the version that answered, `Err` what a visitor would call it.
async fn visit(client: &reqwest::Client, base: &str, number: u64) -> Result<String, String> {
    let upload = format!("upload {number}");
    let request = if number.is_multiple_of(POST_EVERY) {
        client.post(format!("{base}/upload")).body(upload.clone())
    } else {
        client.get(format!("{base}/page/{number}"))
    };
    let answer = request
        .send()
        .await
        .map_err(|error| if error.is_timeout() { "no answer in 5 s" } else { "connection lost" }.to_owned())?;
    let status = answer.status();
    if !status.is_success() {
        return Err(status.to_string());
    }
    let version = answer.headers().get("x-version").and_then(|version| version.to_str().ok()).unwrap_or("?").to_owned();
    let body = answer.text().await.map_err(|_cut| "answer cut off".to_owned())?;
    let is_whole = if number.is_multiple_of(POST_EVERY) { body == upload } else { body.contains(&format!("/page/{number} ")) };
    if is_whole { Ok(version) } else { Err("wrong body".to_owned()) }
}
