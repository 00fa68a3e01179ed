//! Keeps one view of Nomad: lists first, then the event stream, and lists again whenever something may have been missed.
//!
//! One task owns the [`View`] and is the only one to publish. For each namespace there is a `source` that reads lists, holds
//! the stream, and starts over with both when the stream ends. Where Nomad refuses the stream, blocking queries take its
//! place. Nothing that fails empties the view: the last good one stays, and the state says why it may be old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client::Client;
use super::event::Batch;
use super::source::{Report, Source};
use super::stream::SILENCE_MAX;
use super::view::{Listing, Moved, Progress, Unclear};
use super::{NomadState, View};

/// So many allocations are asked about at once.
const FETCHES_MAX: usize = 4;
/// So many reports may wait; the sources wait beyond that.
const REPORTS_MAX: usize = 64;

/// How often and how long. The defaults are for use, other values for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// A stream without any line for so long is dead.
    pub silence_max: Duration,
    /// Lists are read again so often, in case the stream has a hole.
    pub reread_interval: Duration,
    /// How long a blocking query waits, where the stream is refused.
    pub wait: Duration,
    /// After so long a refused stream is tried again.
    pub fallback_time: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            silence_max: SILENCE_MAX,
            reread_interval: Duration::from_secs(60),
            wait: Duration::from_secs(60),
            fallback_time: Duration::from_secs(300),
        }
    }
}

impl NomadState {
    /// Nothing is known yet.
    pub fn unknown() -> Self {
        Self { view: Arc::default(), is_complete: false, doubt: Some("nomad has not answered yet".to_owned()) }
    }
}

/// Asks, listens and publishes until `shutdown`.
pub async fn run(client: Arc<Client>, settings: WatchSettings, state: watch::Sender<NomadState>, shutdown: CancellationToken) {
    let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
    let mut watcher = Watcher::start(client, settings, reports);
    loop {
        tokio::select! {
            biased;
            // The tasks end with the watcher.
            () = shutdown.cancelled() => return,
            report = reported.recv() => {
                // The watcher holds a sender itself, so there is always another report or a wait.
                let Some(report) = report else { return };
                watcher.record(report);
                // What has come meanwhile goes into the same state.
                for _ in 0..REPORTS_MAX {
                    let Ok(report) = reported.try_recv() else { break };
                    watcher.record(report);
                }
            }
        }
        watcher.publish(&state);
        watcher.start_fetches();
    }
}

/// The view, and the tasks that ask on its behalf.
struct Watcher {
    client: Arc<Client>,
    reports: mpsc::Sender<Report>,
    view: View,
    change: Change,
    sources: Vec<Known>,
    fetches: BTreeMap<Unclear, AbortOnDropHandle<()>>,
    /// What was asked about in vain: not again before lists say something new.
    vain: BTreeSet<Unclear>,
}

/// Whether the view is another than the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Not,
    /// To be found out: lists mostly say what is known.
    Perhaps,
    Surely,
}

/// What is known of one source.
struct Known {
    progress: Progress,
    /// All lists have been read.
    is_complete: bool,
    /// A stream or blocking queries are under way: from the next lists on nothing is missed.
    is_followed: bool,
    doubt: Option<String>,
    /// Asks for lists to be read out of turn.
    reread: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Known {
    fn ask_reread(&self) {
        self.reread.send_modify(|asked| *asked = asked.wrapping_add(1));
    }
}

impl Watcher {
    fn start(client: Arc<Client>, settings: WatchSettings, reports: mpsc::Sender<Report>) -> Self {
        let mut namespaces: Vec<Option<String>> = client.namespaces().iter().cloned().map(Some).collect();
        if namespaces.is_empty() {
            namespaces.push(None);
        }
        let sources = namespaces.into_iter().enumerate().map(|(at, namespace)| {
            let (reread, reread_asked) = watch::channel(0);
            let (client, reports) = (Arc::clone(&client), reports.clone());
            let source = Source { client, settings, at, namespace, reports, reread_asked, failures: 0, is_refused: false };
            let doubt = NomadState::unknown().doubt;
            let task = AbortOnDropHandle::new(tokio::spawn(source.run()));
            Known { progress: Progress::default(), is_complete: false, is_followed: false, doubt, reread, _task: task }
        });
        let sources = sources.collect();
        Self {
            client,
            reports,
            view: View::default(),
            change: Change::Not,
            sources,
            fetches: BTreeMap::new(),
            vain: BTreeSet::new(),
        }
    }

    fn record(&mut self, report: Report) {
        match report {
            Report::Listed { at, listing } => self.record_listing(at, listing),
            Report::Batches { at, batches, skipped } => self.record_batches(at, batches, skipped),
            Report::Followed { at } => {
                if let Some(source) = self.sources.get_mut(at) {
                    source.is_followed = true;
                }
            }
            Report::Failed { at, error, is_followed } => {
                if let Some(source) = self.sources.get_mut(at) {
                    (source.doubt, source.is_followed) = (Some(error), is_followed);
                }
            }
            Report::Fetched(unclear, fetched) => {
                self.fetches.remove(&unclear);
                match fetched {
                    Ok(Some(allocation)) => {
                        self.view.complete(allocation);
                        self.change = Change::Surely;
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "nomad was asked about an allocation in vain"),
                }
                if self.view.unclear().contains(&unclear) {
                    self.vain.insert(unclear);
                }
            }
        }
    }

    fn record_listing(&mut self, at: usize, listing: Listing) {
        let Some(source) = self.sources.get_mut(at) else { return };
        if self.view.is_emptied_by(&listing, &source.progress) {
            source.doubt = Some("nomad lists nothing any more, as it does when a token has lost its rights".to_owned());
            source.ask_reread();
            return;
        }
        source.is_complete |= listing.jobs.is_some() && listing.allocations.is_some() && listing.deployments.is_some();
        // Well is what is known by lists and goes on being told by a stream or by queries.
        if source.is_complete && source.is_followed {
            source.doubt = None;
        }
        if self.view.cover(listing, &mut source.progress) == Moved::Backwards {
            tracing::warn!("nomad's index went backwards: its state was wiped or restored, everything is taken anew");
        }
        self.change = self.change.max(Change::Perhaps);
        self.vain.clear();
    }

    fn record_batches(&mut self, at: usize, batches: Vec<Batch>, skipped: usize) {
        let Some(source) = self.sources.get_mut(at) else { return };
        for batch in batches {
            self.view.fold(batch, &mut source.progress);
            self.change = Change::Surely;
        }
        if skipped > 0 {
            // Until the lists are read again: what was said is not known.
            source.doubt = Some(format!("nomad's event stream said {skipped} things that cannot be read"));
            source.ask_reread();
        }
    }

    /// What the view lacks is asked for, a few at a time.
    fn start_fetches(&mut self) {
        if self.fetches.len() >= FETCHES_MAX {
            return;
        }
        let missing = self.view.unclear();
        let wanted = missing.iter().filter(|unclear| !self.vain.contains(*unclear) && !self.fetches.contains_key(*unclear));
        let wanted: Vec<Unclear> = wanted.take(FETCHES_MAX - self.fetches.len()).cloned().collect();
        for unclear in wanted {
            let (client, reports, asked) = (Arc::clone(&self.client), self.reports.clone(), unclear.clone());
            let task = tokio::spawn(async move {
                let fetched = client.allocation(&asked.namespace, &asked.allocation).await;
                // Nobody listens any more: then nobody needs to know.
                _ = reports.send(Report::Fetched(asked, fetched)).await;
            });
            self.fetches.insert(unclear, AbortOnDropHandle::new(task));
        }
    }

    fn publish(&mut self, state: &watch::Sender<NomadState>) {
        let is_complete = self.sources.iter().all(|source| source.is_complete);
        let doubt = self.sources.iter().find_map(|source| source.doubt.clone());
        let mut change = None;
        state.send_if_modified(|old| {
            let is_view_new = match self.change {
                Change::Not => false,
                Change::Perhaps => *old.view != self.view,
                Change::Surely => true,
            };
            let is_new = is_view_new || old.is_complete != is_complete || old.doubt != doubt;
            if is_new {
                change = Some((old.doubt.is_none(), old.is_complete));
                let view = if is_view_new { Arc::new(self.view.clone()) } else { Arc::clone(&old.view) };
                *old = NomadState { view, is_complete, doubt: doubt.clone() };
            }
            is_new
        });
        self.change = Change::Not;
        match (change, doubt) {
            (Some((true, _)), Some(error)) => tracing::warn!(error, "what nomad said last may be old"),
            (Some((false, true)), None) => tracing::info!("what nomad says is up to date again"),
            (Some((_, false)), None) => tracing::info!(deployments = self.view.active_deployments().count(), "nomad is watched"),
            _ => {}
        }
    }
}
