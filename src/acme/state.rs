//! What we have to remember besides certificates: accounts and failed attempts, in a file beside Traefik's storage.
//!
//! Our account key cannot stand in acme.json: it is ECDSA, and Traefik, which expects RSA there, could not start again. Losing the
//! file costs a new account and the memory of failures, so an unreadable one is reported and begun anew.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::{Attempt, History};
use crate::durable;

/// The state of all resolvers of one storage, by resolver.
pub type OwnState = BTreeMap<String, ResolverState>;

/// The state of one resolver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResolverState {
    /// The CA that all of this is about.
    pub directory: String,
    /// The account, as the ACME client wrote it.
    pub account: Option<Value>,
    /// What failed, by names.
    attempts: BTreeMap<String, StoredAttempt>,
    /// Seconds since 1970.
    held_until: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredAttempt {
    failures: u32,
    /// Seconds since 1970.
    next: u64,
    error: String,
}

impl ResolverState {
    /// What is to be kept of a resolver.
    pub fn new(directory: &str, account: Option<Value>, history: &History) -> Self {
        let stored = |attempt: &Attempt| StoredAttempt {
            failures: attempt.failures,
            next: seconds(attempt.next),
            error: attempt.error.clone(),
        };
        Self {
            directory: directory.to_owned(),
            account,
            attempts: history.attempts.iter().map(|(names, attempt)| (names.clone(), stored(attempt))).collect(),
            held_until: history.held_until.map(seconds),
        }
    }

    /// What happened so far.
    pub fn history(&self) -> History {
        let read = |attempt: &StoredAttempt| Attempt {
            failures: attempt.failures,
            next: UNIX_EPOCH + Duration::from_secs(attempt.next),
            error: attempt.error.clone(),
        };
        History {
            attempts: self.attempts.iter().map(|(names, attempt)| (names.clone(), read(attempt))).collect(),
            held_until: self.held_until.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }
}

/// Reads the state; a missing file is an empty state.
pub fn load(path: &Path) -> io::Result<OwnState> {
    match durable::read(path, |text| serde_json::from_slice(text)) {
        Ok((state, _)) => state.map_err(io::Error::from),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(OwnState::new()),
        Err(error) => Err(error),
    }
}

/// Writes the state of some resolvers; what the file says of others stays.
pub fn save(path: &Path, resolvers: OwnState) -> io::Result<()> {
    let mut state = load(path).unwrap_or_default();
    state.extend(resolvers);
    durable::replace(path, serde_json::to_string_pretty(&state)?.as_bytes())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schedule::Failure;
    use super::*;

    #[test]
    fn accounts_and_failures_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json.tidegate.json");
        assert_eq!(load(&path).unwrap(), OwnState::new());
        let mut history = History::default();
        let failure = Failure { error: "no".to_owned(), retry_after: Some(Duration::from_secs(20)), is_ca_down: false };
        history.record_failure("a.test".to_owned(), &failure, 0.0, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let state = ResolverState::new("https://ca.test", Some(json!({ "id": "1" })), &history);
        save(&path, OwnState::from([("one".to_owned(), ResolverState::default())])).unwrap();
        save(&path, OwnState::from([("le".to_owned(), state.clone())])).unwrap();
        let read = load(&path).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read["le"], state);
        assert_eq!(read["le"].history(), history);
        std::fs::write(&path, "{").unwrap();
        assert!(load(&path).is_err());
    }
}
