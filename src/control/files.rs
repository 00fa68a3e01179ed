//! From the texts of dynamic files to one configuration, each file by its last good text.

use std::path::Path;
use std::time::Instant;

use crate::config::document;
use crate::config::dynamic::{Definitions, Endpoints, Provided, decode};
use crate::config::problem::{At, Problem, Problems};
use crate::provider::file::FileState;
use crate::provider::last_good::LastGood;

/// All files of the provider.
pub struct Files {
    good: LastGood<Provided>,
    last: FileState,
}

impl Default for Files {
    fn default() -> Self {
        Self { good: LastGood::new(parse), last: FileState::default() }
    }
}

/// One file's meaning. Only a text that cannot be read at all is broken; a bad object in it costs only itself.
fn parse(path: &Path, text: &str) -> Result<Provided, Problems> {
    let node = document::parse(&path.display().to_string(), text).map_err(|problem| vec![problem])?;
    Ok(decode::file(&node))
}

impl Files {
    /// Takes in the newest texts. The whole configuration of all files, if it is another one.
    pub fn take(&mut self, now: Instant, state: &FileState) -> Option<Provided> {
        self.last = state.clone();
        let is_first = self.good.values().next().is_none();
        (self.good.step(now, state) || is_first).then(|| self.merge())
    }

    /// Believes emptied files whose time is over.
    pub fn believe(&mut self, now: Instant) -> Option<Provided> {
        let last = self.last.clone();
        self.good.step(now, &last).then(|| self.merge())
    }

    /// When [`Self::believe`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.good.deadline()
    }

    /// What is wrong with the newest texts.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.good.problems()
    }

    /// One configuration of all files. A name that two files declare is the first one's, as in Traefik.
    fn merge(&self) -> Provided {
        let mut all = Provided::default();
        for (path, provided) in self.good.values() {
            let at = At::whole(path.display().to_string());
            merge_definitions(&mut all.definitions, &provided.definitions, &at, &mut all.problems);
            merge_endpoints(&mut all.endpoints, &provided.endpoints);
            all.problems.extend(provided.problems.iter().cloned());
        }
        all
    }
}

fn merge_definitions(all: &mut Definitions, one: &Definitions, at: &At, problems: &mut Problems) {
    merge("router", &mut all.routers, &one.routers, at, problems);
    merge("service", &mut all.services, &one.services, at, problems);
    merge("middleware", &mut all.middlewares, &one.middlewares, at, problems);
    merge("servers transport", &mut all.servers_transports, &one.servers_transports, at, problems);
    merge("TCP router", &mut all.tcp_routers, &one.tcp_routers, at, problems);
    merge("TCP service", &mut all.tcp_services, &one.tcp_services, at, problems);
    merge("TLS options", &mut all.tls.options, &one.tls.options, at, problems);
    all.tls.certificates.extend(one.tls.certificates.iter().cloned());
    if all.tls.default_certificate.is_none() {
        all.tls.default_certificate.clone_from(&one.tls.default_certificate);
    }
    all.refused.extend(one.refused.iter().cloned());
}

fn merge<T: Clone>(
    kind: &str,
    all: &mut std::collections::BTreeMap<String, T>,
    one: &std::collections::BTreeMap<String, T>,
    at: &At,
    problems: &mut Problems,
) {
    for (name, object) in one {
        if all.contains_key(name) {
            problems.push(Problem::warning(
                at,
                format!("{kind} `{name}` is declared in another file too, which comes first and counts"),
            ));
        } else {
            all.insert(name.clone(), object.clone());
        }
    }
}

fn merge_endpoints(all: &mut Endpoints, one: &Endpoints) {
    for (name, endpoints) in &one.http {
        all.http.entry(name.clone()).or_insert_with(|| endpoints.clone());
    }
    for (name, endpoints) in &one.tcp {
        all.tcp.entry(name.clone()).or_insert_with(|| endpoints.clone());
    }
}
