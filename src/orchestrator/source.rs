//! Reads one namespace of Nomad, or all: lists, then the event stream or what takes its place, and lists again after every gap.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::answer::ListedJob;
use super::client::{Answer, Client, ClientError};
use super::event::Batch;
use super::stream::{Stream, StreamEnd};
use super::view::{Listing, Unclear};
use super::watch::WatchSettings;
use super::{Allocation, Deployment, JobKey};
use crate::clock;

/// The versions of so many jobs are asked for with the lists, those that are being deployed.
const JOBS_ASKED_MAX: usize = 32;
/// The first wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest, so that a Nomad that comes back is noticed soon.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A stream that lasted so long was a good one: the next failure is a first one.
const GOOD_STREAM_MIN: Duration = Duration::from_secs(10);
/// A blocking query that is answered again and again is asked no more often.
const PACE: Duration = Duration::from_millis(100);
/// Lists that are asked for out of turn are read no more often.
const REREAD_MIN: Duration = Duration::from_secs(1);

/// What a task has to tell.
pub(super) enum Report {
    Listed {
        at: usize,
        listing: Listing,
    },
    Batches {
        at: usize,
        batches: Vec<Batch>,
        skipped: usize,
    },
    /// From here on changes are told.
    Followed {
        at: usize,
    },
    /// Something went wrong; `is_followed` if changes are told all the same.
    Failed {
        at: usize,
        error: String,
        is_followed: bool,
    },
    Fetched(Unclear, Result<Option<Allocation>, ClientError>),
}

/// Reads one namespace, or all.
pub(super) struct Source {
    pub(super) client: Arc<Client>,
    pub(super) settings: WatchSettings,
    pub(super) at: usize,
    pub(super) namespace: Option<String>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) reread_asked: watch::Receiver<u64>,
    /// In a row.
    pub(super) failures: u32,
    /// The stream was refused, and that was said.
    pub(super) is_refused: bool,
}

/// Nobody listens any more.
struct Unheard;

/// How a source goes on.
enum Next {
    /// With lists, at once.
    Again,
    /// Not at all: nobody listens any more.
    Unheard,
}

/// Why a source starts over.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error(transparent)]
    Asked(#[from] ClientError),
    #[error(transparent)]
    Stream(#[from] StreamEnd),
    #[error("nomad has no leader")]
    NoLeader,
    #[error("reading the lists ended early")]
    Lost,
}

impl Source {
    /// Reads on and on, until nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.round().await {
                Ok(Next::Unheard) => return,
                Ok(Next::Again) => self.failures = 0,
                Err(interruption) => {
                    if self.fail(&interruption, false).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(backoff(self.failures, fastrand::f64())).await;
                }
            }
        }
    }

    /// Lists, then the stream or what takes its place, until something interrupts it.
    async fn round(&mut self) -> Result<Next, Interruption> {
        let reader = self.reader();
        let listing = reader.read().await?;
        let index = listing.jobs.as_ref().map_or(0, |(_, index)| *index);
        if self.tell(Report::Listed { at: self.at, listing }).await.is_err() {
            return Ok(Next::Unheard);
        }
        // What happened before is known; what happens between the lists and the stream, Nomad tells from its buffer.
        match self.client.stream(reader.name(), index.saturating_add(1)).await {
            Ok(response) => {
                self.is_refused = false;
                self.follow_stream(Stream::new(response, self.settings.silence_max)).await
            }
            Err(ClientError::Refused { status, text, .. }) if is_for_good(status) => {
                if !std::mem::replace(&mut self.is_refused, true) {
                    let namespace = reader.name();
                    tracing::warn!(%status, text, namespace, "nomad refused its event stream, blocking queries take its place");
                }
                self.follow_queries().await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Once more lists, lest Nomad's buffer was too short, and from then on so often. Nothing here keeps the stream waiting.
    async fn follow_stream(&mut self, mut stream: Stream) -> Result<Next, Interruption> {
        let started = clock::now();
        self.reread_asked.mark_unchanged();
        let mut reading = Some(self.reader().start(Duration::ZERO));
        let (mut read_at, mut reread_at) = (started, tokio::time::Instant::from_std(started));
        if self.tell(Report::Followed { at: self.at }).await.is_err() {
            return Ok(Next::Unheard);
        }
        loop {
            let told = tokio::select! {
                biased;
                burst = stream.next() => {
                    let burst = burst?;
                    if started.elapsed() >= GOOD_STREAM_MIN {
                        self.failures = 0;
                    }
                    let report = Report::Batches { at: self.at, batches: burst.batches, skipped: burst.skipped };
                    let told = self.tell(report).await;
                    if burst.is_closed {
                        return Err(StreamEnd::Closed.into());
                    }
                    told
                }
                listing = finished(&mut reading) => {
                    reading = None;
                    let (told, wait) = match listing {
                        Ok(listing) => (self.tell(Report::Listed { at: self.at, listing }).await, self.settings.reread_interval),
                        Err(error) => (self.fail(&error, true).await, backoff(self.failures, fastrand::f64())),
                    };
                    reread_at = tokio::time::Instant::from_std(clock::now() + wait);
                    told
                }
                asked = self.reread_asked.changed(), if reading.is_none() => {
                    let wait = (read_at + REREAD_MIN).saturating_duration_since(clock::now());
                    read_at = clock::now() + wait;
                    reading = Some(self.reader().start(wait));
                    asked.map_err(|_closed| Unheard)
                }
                () = tokio::time::sleep_until(reread_at), if reading.is_none() => {
                    read_at = clock::now();
                    reading = Some(self.reader().start(Duration::ZERO));
                    Ok(())
                }
            };
            if told.is_err() {
                return Ok(Next::Unheard);
            }
        }
    }

    /// Blocking queries for deployments and for allocations, for a while.
    async fn follow_queries(&mut self) -> Result<Next, Interruption> {
        let reader = self.reader();
        let over = tokio::time::sleep(self.settings.fallback_time);
        tokio::pin!(over);
        let mut deployments = reader.deployments_after(0);
        let mut allocations = reader.allocations_after(0);
        let mut jobs_due = tokio::time::interval(self.settings.reread_interval);
        self.reread_asked.mark_unchanged();
        if self.tell(Report::Followed { at: self.at }).await.is_err() {
            return Ok(Next::Unheard);
        }
        loop {
            let mut listing = Listing { namespace: self.namespace.clone(), ..Listing::default() };
            tokio::select! {
                () = &mut over => return Ok(Next::Again),
                _ = self.reread_asked.changed() => {
                    tokio::time::sleep(REREAD_MIN).await;
                    return Ok(Next::Again);
                }
                found = &mut deployments => {
                    let found = found.map_err(|_lost| Interruption::Lost)??;
                    deployments = reader.deployments_after(found.index);
                    listing.deployments = Some((found.value, found.index));
                }
                found = &mut allocations => {
                    let found = found.map_err(|_lost| Interruption::Lost)??;
                    allocations = reader.allocations_after(found.index);
                    listing.allocations = Some((found.value, found.index));
                }
                _ = jobs_due.tick() => listing.jobs = Some(reader.jobs().await?),
            }
            self.failures = 0;
            if self.tell(Report::Listed { at: self.at, listing }).await.is_err() {
                return Ok(Next::Unheard);
            }
        }
    }

    async fn fail(&mut self, error: &Interruption, is_followed: bool) -> Result<(), Unheard> {
        self.failures = self.failures.saturating_add(1);
        self.tell(Report::Failed { at: self.at, error: one_line(error), is_followed }).await
    }

    async fn tell(&self, report: Report) -> Result<(), Unheard> {
        self.reports.send(report).await.map_err(|_closed| Unheard)
    }

    fn reader(&self) -> Reader {
        Reader { client: Arc::clone(&self.client), namespace: self.namespace.clone(), wait: self.settings.wait }
    }
}

type Asked<T> = AbortOnDropHandle<Result<T, Interruption>>;

/// The end of a reading, if one is under way; else never.
async fn finished(reading: &mut Option<Asked<Listing>>) -> Result<Listing, Interruption> {
    match reading {
        Some(reading) => reading.await.map_err(|_lost| Interruption::Lost)?,
        None => std::future::pending().await,
    }
}

/// Reads lists of one namespace, or of all.
#[derive(Clone)]
struct Reader {
    client: Arc<Client>,
    namespace: Option<String>,
    wait: Duration,
}

impl Reader {
    fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or("*")
    }

    fn start(self, wait: Duration) -> Asked<Listing> {
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            self.read().await
        }))
    }

    /// All three lists. Deployments last: what a call changed is in them when the allocations show its effect.
    async fn read(&self) -> Result<Listing, Interruption> {
        let (mut jobs, jobs_index) = self.jobs().await?;
        let allocations = believed(self.client.allocations(self.name(), None).await?)?;
        let deployments = believed(self.client.deployments(self.name(), None).await?)?;
        self.ask_versions(&mut jobs, &deployments.value).await?;
        Ok(Listing {
            namespace: self.namespace.clone(),
            jobs: Some((jobs, jobs_index)),
            allocations: Some((allocations.value, allocations.index)),
            deployments: Some((deployments.value, deployments.index)),
        })
    }

    async fn jobs(&self) -> Result<(Vec<ListedJob>, u64), Interruption> {
        let jobs = believed(self.client.jobs(self.name()).await?)?;
        Ok((jobs.value, jobs.index))
    }

    /// The list of jobs does not say their versions, and without the right to list them it is empty: those that are being
    /// deployed are asked one by one.
    async fn ask_versions(&self, jobs: &mut Vec<ListedJob>, deployments: &[Deployment]) -> Result<(), Interruption> {
        let active = deployments.iter().filter(|deployment| !deployment.status.is_terminal());
        let mut deployed: BTreeSet<&JobKey> = active.map(|deployment| &deployment.job).collect();
        for job in jobs.iter().filter(|job| job.version.is_some()) {
            deployed.remove(&job.key);
        }
        for key in deployed.into_iter().take(JOBS_ASKED_MAX) {
            let found = self.client.job(key).await?;
            jobs.retain(|job| job.key != *key);
            jobs.extend(found);
        }
        Ok(())
    }

    fn deployments_after(&self, index: u64) -> Asked<Answer<Vec<Deployment>>> {
        let reader = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(if index == 0 { Duration::ZERO } else { PACE }).await;
            believed(reader.client.deployments(reader.name(), Some((index, reader.wait))).await?)
        }))
    }

    fn allocations_after(&self, index: u64) -> Asked<Answer<Vec<Allocation>>> {
        let reader = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(if index == 0 { Duration::ZERO } else { PACE }).await;
            believed(reader.client.allocations(reader.name(), Some((index, reader.wait))).await?)
        }))
    }
}

/// An answer of a server without a leader may be empty for no other reason.
fn believed<T>(answer: Answer<T>) -> Result<Answer<T>, Interruption> {
    if answer.known_leader { Ok(answer) } else { Err(Interruption::NoLeader) }
}

/// Whether it is of no use to ask again soon.
fn is_for_good(status: StatusCode) -> bool {
    matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// How long to wait after `failures` failures in a row: doubled each time, half of it at random (`random` lies in 0..1).
fn backoff(failures: u32, random: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_by_doubling_and_never_beyond_the_limit() {
        let at = |failures| (backoff(failures, 0.0).as_millis(), backoff(failures, 1.0).as_millis());
        assert_eq!((at(1), at(2), at(3)), ((50, 100), (100, 200), (200, 400)));
        assert_eq!((at(7), at(u32::MAX)), ((2500, 5000), (2500, 5000)));
    }

    #[test]
    fn only_a_refusal_for_good_leads_to_blocking_queries() {
        let check = |status: u16| is_for_good(StatusCode::from_u16(status).unwrap());
        assert!([403, 404, 405, 501].into_iter().all(check));
        assert!(![400, 401, 429, 500, 502, 503].into_iter().any(check));
    }
}
