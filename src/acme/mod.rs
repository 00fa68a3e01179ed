//! Certificate resolvers: they obtain and renew the certificates that routers want, from a CA, by HTTP-01.
//!
//! [`schedule`] decides, [`order`] asks the CA, [`storage`] is Traefik's acme.json, [`run`] is the task that joins them. Whatever
//! a CA does, traffic goes on: the certificate that is there, or the default one, answers, and the next attempt has its time.

#![warn(clippy::indexing_slicing, clippy::string_slice)]

pub mod ca;
mod issue;
pub mod order;
pub mod run;
pub mod schedule;
mod state;
pub mod storage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use self::ca::Ca;
use self::schedule::{NameSet, ResolverView, name_set};
use self::state::{OwnState, ResolverState};
use self::storage::{Document, Storage, StoredCertificate};
use crate::config::install::Acme;
use crate::config::problem::{At, Problem, Problems};
use crate::tls::certificate::{Certificate, Source};
use crate::tls::store::CertificateStore;

const NO_CHALLENGE: &str = "its resolver has no `httpChallenge`, the one challenge that is supported";
const NO_CA: &str = "its resolver's CA cannot be asked, see the problem reported at start";

/// All certificate resolvers with what they have. [`run::run`] takes it.
#[derive(Debug, Default)]
pub struct CertificateResolvers {
    resolvers: BTreeMap<String, Resolver>,
    storages: BTreeMap<PathBuf, Storage>,
}

/// One certificate resolver.
#[derive(Debug)]
struct Resolver {
    /// `None` when its settings are unusable.
    ca: Option<Arc<Ca>>,
    directory: String,
    storage: PathBuf,
    account: Option<Value>,
    certificates: BTreeMap<NameSet, Arc<Certificate>>,
    view: ResolverView,
}

impl CertificateResolvers {
    /// Opens the storage of each configured resolver. A resolver whose storage cannot be used is skipped, as in Traefik, and a
    /// certificate that cannot be read costs only itself; both are problems. `environment` looks up a variable.
    pub fn open(configured: &BTreeMap<String, Acme>, environment: &dyn Fn(&str) -> Option<String>) -> (Self, Problems) {
        let mut opened = Self::default();
        let mut problems = Problems::new();
        let mut documents: BTreeMap<PathBuf, (Document, OwnState)> = BTreeMap::new();
        for (name, acme) in configured {
            let at = |key: &str| At::whole(format!("certificatesResolvers.{name}.acme.{key}"));
            if !documents.contains_key(&acme.storage) {
                match Storage::open(&acme.storage) {
                    Ok((storage, document)) => {
                        let own = load_own(&storage, &mut problems);
                        documents.insert(acme.storage.clone(), (document, own));
                        opened.storages.insert(acme.storage.clone(), storage);
                    }
                    Err(error) => {
                        let problem = Problem::error(&at("storage"), error.to_string());
                        problems.push(problem.hint("the resolver is skipped, its routers get the default certificate"));
                        continue;
                    }
                }
            }
            let Some((document, own)) = documents.get(&acme.storage) else { continue };
            let mut resolver = Resolver::new(acme, own.get(name));
            let (certificates, unreadable) = certificates_of(document, name);
            resolver.certificates = certificates;
            problems.extend(unreadable.into_iter().map(|reason| Problem::warning(&at("storage"), reason)));
            match Ca::new(acme, environment) {
                Ok(ca) => resolver.ca = Some(Arc::new(ca)),
                Err(reason) => {
                    resolver.view.is_useless = Some(NO_CA);
                    problems.push(
                        Problem::warning(&at("caCertificates"), reason).hint("certificates in its storage are still served"),
                    );
                }
            }
            opened.resolvers.insert(name.clone(), resolver);
        }
        (opened, problems)
    }

    /// Whether a router that names this resolver gets what it asks for.
    pub fn contains(&self, resolver: &str) -> bool {
        self.resolvers.contains_key(resolver)
    }

    /// Publishes what the resolvers have, so that stored certificates answer before the first connection comes.
    pub fn publish(&self, store: &CertificateStore) {
        let all: Vec<Arc<Certificate>> =
            self.resolvers.values().flat_map(|resolver| resolver.certificates.values()).map(Arc::clone).collect();
        store.publish_acme(&all);
    }

    /// Takes over what a storage file says now, with what another process may have added.
    fn take_over(&mut self, path: &Path, document: &Document) {
        for (name, resolver) in self.resolvers.iter_mut().filter(|(_, resolver)| resolver.storage == path) {
            resolver.certificates = certificates_of(document, name).0;
        }
    }

    /// What the file beside a storage has to say of its resolvers.
    fn own_state(&self, path: &Path) -> OwnState {
        let of_path = self.resolvers.iter().filter(|(_, resolver)| resolver.storage == path);
        of_path
            .map(|(name, resolver)| {
                let state = ResolverState::new(&resolver.directory, resolver.account.clone(), &resolver.view.history);
                (name.clone(), state)
            })
            .collect()
    }
}

impl Resolver {
    fn new(acme: &Acme, own: Option<&ResolverState>) -> Self {
        // What another CA said of us and our names is of no use.
        let own = own.filter(|own| own.directory == acme.ca_server);
        let account = own.and_then(|own| own.account.clone());
        let view = ResolverView {
            certificates_duration: acme.certificates_duration,
            has_account: account.is_some(),
            is_useless: acme.http_challenge_entrypoint.is_none().then_some(NO_CHALLENGE),
            history: own.map(ResolverState::history).unwrap_or_default(),
        };
        Self {
            ca: None,
            directory: acme.ca_server.clone(),
            storage: acme.storage.clone(),
            account,
            certificates: BTreeMap::new(),
            view,
        }
    }

    fn keep_account(&mut self, account: Value) {
        self.account = Some(account);
        self.view.has_account = true;
    }
}

fn load_own(storage: &Storage, problems: &mut Problems) -> OwnState {
    let path = storage.own_state_path();
    state::load(&path).unwrap_or_else(|error| {
        let problem = Problem::warning(&At::whole(path.display().to_string()), format!("accounts cannot be read: {error}"));
        problems.push(problem.hint("new ones are registered"));
        OwnState::new()
    })
}

fn certificates_of(document: &Document, resolver: &str) -> (BTreeMap<NameSet, Arc<Certificate>>, Vec<String>) {
    let (stored, mut unreadable) = document.certificates(resolver);
    let mut certificates = BTreeMap::new();
    for stored in stored {
        match parse(&stored, resolver) {
            Ok(certificate) => {
                certificates.insert(name_set(&stored.domain), Arc::new(certificate));
            }
            Err(reason) => unreadable.push(reason),
        }
    }
    (certificates, unreadable)
}

fn parse(stored: &StoredCertificate, resolver: &str) -> Result<Certificate, String> {
    Certificate::parse(&stored.chain, &stored.key, Source::Acme(resolver.into()))
        .map_err(|error| format!("the certificate for `{}` cannot be used: {error}", stored.domain.main))
}
