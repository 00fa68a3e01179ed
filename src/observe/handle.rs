//! What the parts of the program hold to count into. [`super::metrics::Metrics`] hands them out and shows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::series::{Chain, Finished, Requests};
use crate::names::Share;

/// One entrypoint.
#[derive(Debug)]
pub struct EntrypointMetrics {
    pub(super) requests: Option<Requests>,
    pub(super) open: AtomicI64,
}

/// One service.
#[derive(Debug)]
pub struct ServiceMetrics {
    pub(super) requests: Option<Requests>,
    pub(super) retries: AtomicU64,
}

/// One server of one service.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    pub(super) outcomes: Chain<&'static str, AtomicU64>,
    pub(super) up: AtomicU8,
}

/// One service's rollout.
#[derive(Debug, Default)]
pub struct RolloutMetrics(pub(super) Mutex<Option<RolloutSeen>>);

/// What is to be seen of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSeen {
    /// The canary's share.
    pub share: Share,
    /// The phase in lower case.
    pub phase: &'static str,
    /// Each running test: its name, its evidence, and the threshold at which it acts.
    pub tests: Vec<(&'static str, f64, f64)>,
}

/// An open connection; counted until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<EntrypointMetrics>);

/// A truth that may not be known yet.
pub(super) const UNKNOWN: u8 = 0;
pub(super) const NO: u8 = 1;
pub(super) const YES: u8 = 2;

impl EntrypointMetrics {
    /// Counts a request.
    pub fn record(&self, request: &Finished<'_>) {
        if let Some(requests) = &self.requests {
            requests.record(request);
        }
    }

    /// Counts a connection for as long as the answer lives.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ServiceMetrics {
    /// Counts a request.
    pub fn record(&self, request: &Finished<'_>) {
        if let Some(requests) = &self.requests {
            requests.record(request);
        }
    }

    /// Counts an attempt after the first.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}

impl ServerMetrics {
    /// Counts what came of an attempt. `outcome` is one of few fixed words.
    pub fn record(&self, outcome: &'static str) {
        let count = self.outcomes.find_or_add(|other| *other == outcome, || (outcome, AtomicU64::new(0)));
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What the active health check says; without one there is no such series.
    pub fn set_up(&self, is_up: bool) {
        self.up.store(if is_up { YES } else { NO }, Ordering::Relaxed);
    }
}

impl RolloutMetrics {
    /// What is to be seen from now on.
    pub fn set(&self, seen: RolloutSeen) {
        *lock(&self.0) = Some(seen);
    }
}

/// Handles by name; those that only this still holds go after they were listed once more.
#[derive(Debug)]
pub(super) struct Pool<K, V>(Mutex<BTreeMap<K, Arc<V>>>);

impl<K, V> Default for Pool<K, V> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord + Clone, V> Pool<K, V> {
    pub(super) fn get(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut all = lock(&self.0);
        if let Some(one) = all.get(key) {
            return Arc::clone(one);
        }
        let one = Arc::new(make());
        all.insert(key.clone(), Arc::clone(&one));
        one
    }

    /// Whether `key` is there or may be added. Makes room at the cost of those that only this still holds: what nobody came to
    /// read of them is lost, which is better than never counting the ones that live.
    pub(super) fn has_room(&self, max: usize, key: &K) -> bool {
        let mut all = lock(&self.0);
        if all.len() >= max && !all.contains_key(key) {
            all.retain(|_, one| Arc::strong_count(one) > 1);
        }
        all.len() < max || all.contains_key(key)
    }

    pub(super) fn list(&self) -> Vec<(K, Arc<V>)> {
        let mut all = lock(&self.0);
        let list: Vec<_> = all.iter().map(|(key, one)| (key.clone(), Arc::clone(one))).collect();
        // One is here, one in the list.
        all.retain(|_, one| Arc::strong_count(one) > 2);
        list
    }
}

/// Nothing that holds one of these locks can panic half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
