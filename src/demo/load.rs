//! The load of the demo: requests at a constant rate through the proxy, POSTs among them, each answer checked.
//!
//! Open loop: a slow answer does not make the next request wait. What runs at once is limited, and what the limit turns away
//! is counted as lost, since a visitor would have been.
//!
//! One kind of failure is counted apart, because no proxy may prevent it: a POST that had reached an instance when that
//! failed it, hung or was killed. It may have been carried out, so nobody may send it again (RFC 9110 section 9.2.2).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::instance::Witness;
use crate::clock;

/// Requests that may be under way at once.
const IN_FLIGHT_MAX: u32 = 2000;
/// A visitor leaves after this.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Every so many requests one is a POST.
const POST_EVERY: u64 = 10;
/// Between two looks at whether the site answers already.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the visitors saw so far.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    served: AtomicU64,
    lost: AtomicU64,
    by_version: Mutex<BTreeMap<String, u64>>,
    kinds: Mutex<BTreeMap<String, u64>>,
    unrepeatable: Mutex<BTreeMap<String, u64>>,
    slowest_ms: AtomicU64,
    slowest_lately_ms: AtomicU64,
    /// Begins and ends of kills: odd while somebody is being killed.
    kills: AtomicU64,
}

/// A tally at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests sent.
    pub sent: u64,
    /// Answered as they should be.
    pub served: u64,
    /// Failed, although that could have been prevented.
    pub lost: u64,
    /// Answers by the version that gave them.
    pub by_version: BTreeMap<String, u64>,
    /// What was lost, by kind.
    pub kinds: BTreeMap<String, u64>,
    /// POSTs that failed and could not be sent again, by the version that had them.
    pub unrepeatable: BTreeMap<String, u64>,
    /// The longest that a visitor waited.
    pub slowest: Duration,
}

impl Seen {
    /// Requests that failed for their visitors, whatever the reason.
    pub fn failed(&self) -> u64 {
        self.lost + self.unrepeatable.values().sum::<u64>()
    }
}

impl Tally {
    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        Seen {
            sent: self.sent.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            by_version: lock(&self.by_version).clone(),
            kinds: lock(&self.kinds).clone(),
            unrepeatable: lock(&self.unrepeatable).clone(),
            slowest: Duration::from_millis(self.slowest_ms.load(Ordering::Relaxed)),
        }
    }

    /// The longest that a visitor waited since this was asked last.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_millis(self.slowest_lately_ms.swap(0, Ordering::Relaxed))
    }

    /// Somebody is going to be killed: what is under way there cannot be saved if it may not be sent twice.
    pub fn kill_begins(&self) {
        self.kills.fetch_add(1, Ordering::SeqCst);
    }

    /// Whoever was to be killed is dead.
    pub fn kill_ends(&self) {
        self.kills.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts something that failed and should not have.
    pub fn lose(&self, kind: String) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        *lock(&self.kinds).entry(kind).or_default() += 1;
    }

    fn serve(&self, version: String) {
        self.served.fetch_add(1, Ordering::Relaxed);
        *lock(&self.by_version).entry(version).or_default() += 1;
    }

    fn waited(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.slowest_ms.fetch_max(ms, Ordering::Relaxed);
        self.slowest_lately_ms.fetch_max(ms, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those who visit the site.
#[derive(Clone, Debug)]
pub struct Visitors {
    /// The site's URL, without a path.
    pub base: String,
    /// Counts what they see.
    pub tally: Arc<Tally>,
    /// Knows what instances did.
    pub witness: Arc<Witness>,
    client: reqwest::Client,
}

impl Visitors {
    /// Visitors who believe any certificate: the site's is made on the spot.
    pub fn new(base: String, tally: Arc<Tally>, witness: Arc<Witness>) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_danger_accept_invalid_certs(true).build()?;
        Ok(Self { base, tally, witness, client })
    }

    /// Waits until the site answers; whether it does in time.
    pub async fn wait_for_site(&self, deadline: Instant) -> bool {
        loop {
            let answer = self.client.get(&self.base).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            if clock::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends `rate` requests a second until the end is asked for, and returns when the last one is answered.
    pub async fn come(self, rate: u32, end: CancellationToken) {
        let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize));
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0_u64.. {
            tokio::select! {
                biased;
                () = end.cancelled() => break,
                _ = pace.tick() => {}
            }
            self.tally.sent.fetch_add(1, Ordering::Relaxed);
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.tally.lose("too many at once".to_owned());
                continue;
            };
            let visitors = self.clone();
            tokio::spawn(async move {
                visitors.visit(number).await;
                drop(place);
            });
        }
        // Nobody closes the semaphore; each visit ends by its own patience.
        let _ = places.acquire_many(IN_FLIGHT_MAX).await;
    }

    /// One visit.
    async fn visit(&self, number: u64) {
        let upload = number.is_multiple_of(POST_EVERY).then(|| format!("/upload/{number}"));
        let kills = self.tally.kills.load(Ordering::SeqCst);
        let began = clock::now();
        let outcome = match &upload {
            Some(path) => self.upload(path).await,
            None => self.look_at(&format!("/page/{number}")).await,
        };
        self.tally.waited(clock::now().saturating_duration_since(began));
        let kind = match outcome {
            Ok(version) => return self.tally.serve(version),
            Err(kind) => kind,
        };
        let was_at_kill = !kills.is_multiple_of(2) || self.tally.kills.load(Ordering::SeqCst) != kills;
        let spoiled = upload.and_then(|path| self.witness.spoiled(&path).or(was_at_kill.then(|| "a killed one".to_owned())));
        match spoiled {
            Some(version) => *lock(&self.tally.unrepeatable).entry(version).or_default() += 1,
            None => self.tally.lose(kind),
        }
    }

    async fn upload(&self, path: &str) -> Result<String, String> {
        let request = self.client.post(format!("{}{path}", self.base)).body(path.to_owned());
        let (version, body) = ask(request).await?;
        if body == path { Ok(version) } else { Err("wrong body".to_owned()) }
    }

    async fn look_at(&self, path: &str) -> Result<String, String> {
        let (version, body) = ask(self.client.get(format!("{}{path}", self.base))).await?;
        if body.contains(&format!("{path} ")) { Ok(version) } else { Err("wrong body".to_owned()) }
    }
}

/// `Ok` is the version that answered and its body, `Err` what a visitor would call it.
async fn ask(request: reqwest::RequestBuilder) -> Result<(String, String), String> {
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
    Ok((version, body))
}

/// What a raw TCP connection is greeted with; the server speaks first, as JMX's does.
pub async fn greeting(address: SocketAddr) -> std::io::Result<String> {
    let mut line = String::new();
    let read = async { BufReader::new(TcpStream::connect(address).await?).read_line(&mut line).await };
    let count = tokio::time::timeout(PATIENCE, read).await.map_err(|_elapsed| std::io::ErrorKind::TimedOut)??;
    if count == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(line.trim_end().to_owned()) }
}
