//! The task behind all certificate resolvers. It is the only writer of their storage.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::order::{self, Job, Outcome};
use super::schedule::{Failure, Held, Kind, Step, View, WantedCertificate, name_set, plan, renew_at, wake_at};
use super::storage::StoredCertificate;
use super::{CertificateResolvers, parse, state};
use crate::clock;
use crate::config::dynamic::Domain;
use crate::tls::certificate::{Certificate, Source};
use crate::tls::challenge::OpenChallenges;
use crate::tls::store::{CertificateStore, CertificateTable};

/// What routers want of resolvers, computed by control. Whole lists; the newest wins.
pub type Wanted = Vec<WantedCertificate>;

/// The plan is looked at anew at least so often: the wall clock may be set, and certificates from files may come and go.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long after a failed write of a storage file the next one comes.
const STORE_RETRY: Duration = Duration::from_secs(10);

/// How one wanted certificate stands, for metrics, the API and `top`.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateState {
    /// Its resolver.
    pub resolver: String,
    /// Its names.
    pub domain: Domain,
    /// Until when the certificate that answers for its main name is valid; `None` when the default one answers.
    pub not_after: Option<SystemTime>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Why the last attempt failed, or why there is none.
    pub last_error: Option<String>,
    /// When the CA is asked next; `None` while an order is under way, and when there is none to be.
    pub next_attempt: Option<SystemTime>,
}

/// What the task shares with others.
#[derive(Debug)]
pub struct Shared {
    /// Where certificates are published.
    pub store: Arc<CertificateStore>,
    /// Where the CA's questions are answered.
    pub challenges: Arc<OpenChallenges>,
    /// How each wanted certificate stands.
    pub states: watch::Sender<Vec<CertificateState>>,
}

/// Obtains and renews what is wanted until `shutdown`. Orders under way end with it; the CA offers them again to the next start.
pub async fn run(
    resolvers: CertificateResolvers,
    mut wanted: watch::Receiver<Wanted>,
    shared: Shared,
    shutdown: CancellationToken,
) {
    resolvers.publish(&shared.store);
    let mut task = Task {
        resolvers,
        shared,
        wanted: wanted.borrow_and_update().clone(),
        orders: JoinSet::new(),
        under_way: HashMap::new(),
        unstored: BTreeMap::new(),
        unsaved: BTreeSet::new(),
        store_at: None,
    };
    let mut has_control = true;
    loop {
        let now = clock::wall();
        task.write(now).await;
        let wake = task.advance(now);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = task.orders.join_next_with_id() => task.end_order(ended, clock::wall()),
            changed = wanted.changed(), if has_control => {
                has_control = changed.is_ok();
                task.wanted = wanted.borrow_and_update().clone();
            }
            // Ends at the latest after the look interval.
            () = tokio::time::sleep(wake) => {}
        }
    }
    // What is obtained but not yet stored gets its last chance.
    task.store_at = None;
    task.write(clock::wall()).await;
}

struct Task {
    resolvers: CertificateResolvers,
    shared: Shared,
    wanted: Wanted,
    orders: JoinSet<Outcome>,
    under_way: HashMap<Id, (String, Domain, Kind)>,
    /// Obtained certificates that are not in their storage file yet.
    unstored: BTreeMap<PathBuf, Vec<(String, StoredCertificate)>>,
    /// Storage files whose own state has changed.
    unsaved: BTreeSet<PathBuf>,
    /// After a write that failed: when to try again.
    store_at: Option<SystemTime>,
}

impl Task {
    /// Makes the plan, begins what is due, publishes how all stands, and says how long to sleep.
    fn advance(&mut self, now: SystemTime) -> Duration {
        let table = self.shared.store.current();
        let steps = self.plan(&table, now);
        let wanted = std::mem::take(&mut self.wanted);
        for (wanted, step) in wanted.iter().zip(&steps) {
            if let Step::Order(kind) = step {
                self.begin(wanted, *kind);
            }
        }
        self.wanted = wanted;
        self.publish_states(&table, &steps);
        let wake = [wake_at(&steps), self.store_at].into_iter().flatten().min();
        wake.and_then(|at| at.duration_since(now).ok()).map_or(LOOK_INTERVAL, |sleep| sleep.min(LOOK_INTERVAL))
    }

    fn plan(&self, table: &CertificateTable, now: SystemTime) -> Vec<Step> {
        let held: Vec<Held<'_>> = table.certificates().map(|certificate| held(certificate)).collect();
        let views = self.resolvers.resolvers.iter().map(|(name, resolver)| (name.clone(), resolver.view.clone())).collect();
        let under_way = self.under_way.values().map(|(resolver, domain, _)| (resolver.clone(), name_set(domain))).collect();
        plan(&View { wanted: &self.wanted, held: &held, resolvers: &views, under_way: &under_way }, now)
    }

    fn begin(&mut self, wanted: &WantedCertificate, kind: Kind) {
        let Some(resolver) = self.resolvers.resolvers.get(&wanted.resolver) else { return };
        let Some(ca) = &resolver.ca else { return };
        let job = Job {
            ca: Arc::clone(ca),
            account: resolver.account.clone(),
            domain: wanted.domain.clone(),
            challenges: Arc::clone(&self.shared.challenges),
        };
        tracing::info!(
            resolver = wanted.resolver,
            domains = name_set(&wanted.domain),
            kind = kind.as_str(),
            "ordered certificate"
        );
        let order = self.orders.spawn(async move { order::obtain(&job).await });
        self.under_way.insert(order.id(), (wanted.resolver.clone(), wanted.domain.clone(), kind));
    }

    fn end_order(&mut self, ended: Result<(Id, Outcome), JoinError>, now: SystemTime) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                let failure = Failure { error: format!("order ended early: {error}"), retry_after: None, is_ca_down: false };
                (error.id(), Outcome { registered: None, result: Err(failure) })
            }
        };
        let Some((name, domain, _)) = self.under_way.remove(&id) else { return };
        let Some(resolver) = self.resolvers.resolvers.get_mut(&name) else { return };
        if let Some(account) = outcome.registered {
            resolver.keep_account(account);
        }
        self.unsaved.insert(resolver.storage.clone());
        let parsed = outcome.result.and_then(|stored| match parse(&stored, &name) {
            Ok(certificate) => Ok((stored, Arc::new(certificate))),
            Err(error) => Err(Failure { error, retry_after: None, is_ca_down: false }),
        });
        match parsed {
            Ok((stored, certificate)) => self.keep(&name, stored, certificate, now),
            Err(failure) => self.record_failure(&name, &domain, &failure, now),
        }
    }

    fn keep(&mut self, name: &str, stored: StoredCertificate, certificate: Arc<Certificate>, now: SystemTime) {
        let Some(resolver) = self.resolvers.resolvers.get_mut(name) else { return };
        let names = name_set(&stored.domain);
        resolver.view.history.record_success(&names);
        let not_after = jiff::Timestamp::try_from(certificate.not_after).unwrap_or_default();
        tracing::info!(resolver = name, domains = names, serial = certificate.serial, %not_after, "obtained certificate");
        if renew_at(certificate.not_before, certificate.not_after, resolver.view.certificates_duration) <= now {
            // Else it would be renewed at once, and again.
            let error = "the certificate has to be renewed as soon as it is issued: is the clock right?".to_owned();
            let failure = Failure { error, retry_after: None, is_ca_down: false };
            resolver.view.history.record_failure(names.clone(), &failure, fastrand::f64(), now);
        }
        resolver.certificates.insert(names, certificate);
        self.unstored.entry(resolver.storage.clone()).or_default().push((name.to_owned(), stored));
        // It answers before it is stored: a full disk must not cost the site.
        self.resolvers.publish(&self.shared.store);
    }

    fn record_failure(&mut self, name: &str, domain: &Domain, failure: &Failure, now: SystemTime) {
        let Some(resolver) = self.resolvers.resolvers.get_mut(name) else { return };
        let names = name_set(domain);
        let history = &mut resolver.view.history;
        history.record_failure(names.clone(), failure, fastrand::f64(), now);
        history.forget(&self.wanted.iter().map(|wanted| name_set(&wanted.domain)).collect(), now);
        let next = history.attempts.get(&names).map_or(now, |attempt| attempt.next);
        let next_attempt = jiff::Timestamp::try_from(next).unwrap_or_default();
        tracing::warn!(resolver = name, domains = names, error = failure.error, %next_attempt, "certificate was not obtained");
    }

    /// Writes what is not written, unless the last write failed just now. Nothing is lost by a failure: it is kept and tried again.
    async fn write(&mut self, now: SystemTime) {
        if self.store_at.is_some_and(|at| at > now && at <= now + STORE_RETRY) {
            return;
        }
        self.store_at = None;
        let paths: Vec<PathBuf> = self.resolvers.storages.keys().cloned().collect();
        for path in paths {
            self.store(&path, now).await;
            self.save(&path, now).await;
        }
    }

    async fn store(&mut self, path: &Path, now: SystemTime) {
        let Some(storage) = self.resolvers.storages.get(path).cloned() else { return };
        let Some(changes) = self.unstored.get(path).cloned() else { return };
        match tokio::task::spawn_blocking(move || storage.store(&changes)).await {
            Ok(Ok(document)) => {
                self.unstored.remove(path);
                self.resolvers.take_over(path, &document);
                self.resolvers.publish(&self.shared.store);
            }
            Ok(Err(error)) => self.put_off(path, &error, now),
            Err(error) => self.put_off(path, &error, now),
        }
    }

    async fn save(&mut self, path: &Path, now: SystemTime) {
        if !self.unsaved.contains(path) {
            return;
        }
        let Some(storage) = self.resolvers.storages.get(path) else { return };
        let (own_path, own) = (storage.own_state_path(), self.resolvers.own_state(path));
        match tokio::task::spawn_blocking(move || state::save(&own_path, own)).await {
            Ok(Ok(())) => {
                self.unsaved.remove(path);
            }
            Ok(Err(error)) => self.put_off(path, &error, now),
            Err(error) => self.put_off(path, &error, now),
        }
    }

    fn put_off(&mut self, path: &Path, error: &dyn std::error::Error, now: SystemTime) {
        tracing::error!(path = %path.display(), %error, retry_seconds = STORE_RETRY.as_secs(), "certificates were not stored");
        self.store_at = Some(now + STORE_RETRY);
    }

    fn publish_states(&self, table: &CertificateTable, steps: &[Step]) {
        let states = self.wanted.iter().zip(steps).map(|(wanted, step)| self.state(table, wanted, step)).collect();
        self.shared.states.send_if_modified(|now| {
            let is_new = *now != states;
            *now = states;
            is_new
        });
    }

    fn state(&self, table: &CertificateTable, wanted: &WantedCertificate, step: &Step) -> CertificateState {
        let resolver = self.resolvers.resolvers.get(&wanted.resolver);
        let attempt = resolver.and_then(|resolver| resolver.view.history.attempts.get(&name_set(&wanted.domain)));
        let refusal = if let Step::Refuse(reason) = step { Some((*reason).to_owned()) } else { None };
        CertificateState {
            resolver: wanted.resolver.clone(),
            domain: wanted.domain.clone(),
            not_after: table.find(&wanted.domain.main).map(|certificate| certificate.not_after),
            failures: attempt.map_or(0, |attempt| attempt.failures),
            last_error: refusal.or_else(|| attempt.map(|attempt| attempt.error.clone())),
            next_attempt: match step {
                Step::Rest { until } | Step::Wait { until } => Some(*until),
                Step::Order(_) | Step::UnderWay | Step::Queue | Step::Refuse(_) => None,
            },
        }
    }
}

fn held(certificate: &Certificate) -> Held<'_> {
    let names = certificate.names.iter().map(|name| Cow::Borrowed(name.as_ref()));
    let addresses = certificate.addresses.iter().map(|address| Cow::Owned(address.to_string()));
    Held {
        names: names.chain(addresses).collect(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        resolver: match &certificate.source {
            Source::Acme(resolver) => Some(resolver),
            Source::File | Source::Generated => None,
        },
    }
}
