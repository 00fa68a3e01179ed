//! The certificates that answer handshakes, in one immutable table that is replaced as a whole.
//!
//! Three sources are merged: certificates from files (published by control), obtained ones (published by acme), and the default.
//! Which one answers: an exact name before a wildcard of one label; without a name, one for the local address; else the default.
//! Among several for the same name the one that is valid longest answers, so that a renewed one takes over whatever its source
//! (Traefik leaves that to chance).

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// Where handshakes find certificates and others publish them. One per process.
#[derive(Debug)]
pub struct CertificateStore(ArcSwap<CertificateTable>);

/// What the store held at one moment.
#[derive(Debug)]
pub struct CertificateTable {
    files: Vec<Arc<Certificate>>,
    acme: Vec<Arc<Certificate>>,
    default: Option<Arc<Certificate>>,
    generated: Arc<Certificate>,
    exact: HashMap<Box<str>, Arc<Certificate>>,
    /// By what stands behind `*.`.
    wildcards: HashMap<Box<str>, Arc<Certificate>>,
    addresses: HashMap<IpAddr, Arc<Certificate>>,
}

impl CertificateStore {
    /// A store that answers everything with `generated` until something is published.
    pub fn new(generated: Arc<Certificate>) -> Self {
        Self(ArcSwap::from_pointee(CertificateTable::index(Vec::new(), Vec::new(), None, generated)))
    }

    /// What it holds now.
    pub fn current(&self) -> Arc<CertificateTable> {
        self.0.load_full()
    }

    /// Replaces the certificates from files and the configured default. Handshakes under way keep what they have.
    pub fn publish_files(&self, files: &[Arc<Certificate>], default: Option<&Arc<Certificate>>) {
        self.0.rcu(|now| CertificateTable::index(files.to_vec(), now.acme.clone(), default.cloned(), Arc::clone(&now.generated)));
    }

    /// Replaces the obtained certificates, of all resolvers.
    pub fn publish_acme(&self, acme: &[Arc<Certificate>]) {
        self.0.rcu(|now| {
            CertificateTable::index(now.files.clone(), acme.to_vec(), now.default.clone(), Arc::clone(&now.generated))
        });
    }

    /// The certificate for a name; `None` when only the default one is left.
    pub fn find(&self, server_name: &str) -> Option<Arc<Certificate>> {
        self.0.load().find(server_name).cloned()
    }

    /// The certificate for a client that names nothing and came to this address.
    pub fn find_address(&self, local: IpAddr) -> Option<Arc<Certificate>> {
        self.0.load().addresses.get(&local.to_canonical()).cloned()
    }

    /// The configured default, or the generated one.
    pub fn default_certificate(&self) -> Arc<Certificate> {
        Arc::clone(self.0.load().default_certificate())
    }
}

impl CertificateTable {
    fn index(
        files: Vec<Arc<Certificate>>,
        acme: Vec<Arc<Certificate>>,
        default: Option<Arc<Certificate>>,
        generated: Arc<Certificate>,
    ) -> Self {
        let mut table = Self {
            files: Vec::new(),
            acme: Vec::new(),
            default,
            generated,
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            addresses: HashMap::new(),
        };
        for certificate in files.iter().chain(&acme) {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(parent) => keep_longer(&mut table.wildcards, parent.into(), certificate),
                    None => keep_longer(&mut table.exact, name.clone(), certificate),
                }
            }
            for address in &certificate.addresses {
                keep_longer(&mut table.addresses, address.to_canonical(), certificate);
            }
        }
        table.files = files;
        table.acme = acme;
        table
    }

    /// The certificate for a name; `None` when only the default one is left. Neither case nor a trailing dot counts.
    pub fn find(&self, server_name: &str) -> Option<&Arc<Certificate>> {
        let name = canonical(server_name);
        self.exact.get(name.as_ref()).or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent)))
    }

    /// The configured default, or the generated one.
    pub fn default_certificate(&self) -> &Arc<Certificate> {
        self.default.as_ref().unwrap_or(&self.generated)
    }

    /// All but the generated one: from files, obtained, and the configured default. What `traefik_tls_certs_not_after` lists.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.files.iter().chain(&self.acme).chain(&self.default)
    }
}

/// A server name as tables hold it: lower case, without a trailing dot. Allocates only for clients that write it otherwise.
pub(super) fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }
}

fn keep_longer<K: std::hash::Hash + Eq>(table: &mut HashMap<K, Arc<Certificate>>, key: K, certificate: &Arc<Certificate>) {
    let slot = table.entry(key).or_insert_with(|| Arc::clone(certificate));
    if slot.not_after < certificate.not_after {
        *slot = Arc::clone(certificate);
    }
}

/// What a handshake gets for a name without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// The default certificate.
    Default,
    /// Nothing: `sniStrict`.
    Refuse,
}

/// How rustls asks the store, one per set of TLS options.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) store: Arc<CertificateStore>,
    pub(super) fallback: Fallback,
}

impl ResolvesServerCert for Answer {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.store.0.load();
        let found = hello.server_name().and_then(|name| table.find(name));
        let certificate = match self.fallback {
            Fallback::Default => found.or_else(|| Some(table.default_certificate())),
            Fallback::Refuse => found,
        };
        certificate.map(|certificate| Arc::clone(&certificate.key))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::super::certificate::tests::made;
    use super::super::certificate::{Source, generate_default};
    use super::*;

    fn day(count: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(count * 86400)
    }

    fn store() -> CertificateStore {
        CertificateStore::new(Arc::new(generate_default(day(20_000)).unwrap()))
    }

    /// Which serial answers a name, compared with one of the certificates, or nothing.
    #[track_caller]
    fn check(store: &CertificateStore, name: &str, expected: Option<&Arc<Certificate>>) {
        let found = store.find(name).map(|certificate| certificate.serial.clone());
        assert_eq!(found, expected.map(|certificate| certificate.serial.clone()), "{name}");
    }

    #[test]
    fn an_exact_name_answers_before_a_wildcard() {
        let store = store();
        let wildcard = made(&["*.a.test"], day(99), Source::File);
        let exact = made(&["x.a.test"], day(9), Source::File);
        store.publish_files(&[Arc::clone(&wildcard), Arc::clone(&exact)], None);
        check(&store, "x.a.test", Some(&exact));
        check(&store, "X.A.test.", Some(&exact));
        check(&store, "y.a.test", Some(&wildcard));
        check(&store, "a.test", None);
        check(&store, "z.y.a.test", None);
    }

    #[test]
    fn the_certificate_that_is_valid_longest_answers_whatever_its_source() {
        let store = store();
        let old = made(&["a.test"], day(9), Source::File);
        let renewed = made(&["a.test"], day(99), Source::Acme("le".into()));
        store.publish_acme(&[Arc::clone(&renewed)]);
        store.publish_files(&[Arc::clone(&old)], None);
        check(&store, "a.test", Some(&renewed));
        store.publish_acme(&[]);
        check(&store, "a.test", Some(&old));
        assert_eq!(store.current().certificates().count(), 1);
    }

    #[test]
    fn a_client_without_a_name_gets_the_certificate_of_the_local_address() {
        let store = store();
        let certificate = made(&["10.0.0.1"], day(9), Source::File);
        store.publish_files(&[Arc::clone(&certificate)], None);
        let found = store.find_address("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(found.serial, certificate.serial);
        assert!(store.find_address("10.0.0.2".parse().unwrap()).is_none());
    }

    #[test]
    fn the_configured_default_replaces_the_generated_one() {
        let store = store();
        assert_eq!(store.default_certificate().common_name, "TRAEFIK DEFAULT CERT");
        let own = made(&["default.test"], day(9), Source::File);
        store.publish_files(&[], Some(&own));
        assert_eq!(store.default_certificate().serial, own.serial);
        store.publish_files(&[], None);
        assert_eq!(store.default_certificate().common_name, "TRAEFIK DEFAULT CERT");
    }
}
