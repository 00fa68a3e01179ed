//! With which settings a handshake is made: TLS options by the name the client asks for.
//!
//! [`TlsConfigs`] makes rustls configurations from declared options and lives as long as the process, so that equal options mean
//! one configuration across reloads; all of them share one session ticket key, for none asks for client certificates. A
//! [`TlsTable`] is what one entrypoint reads; control builds it anew with each snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::ProducesTickets;
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificate::provider;
use super::store::{Answer, CertificateStore, Fallback, canonical};
use crate::config::dynamic::{TlsOptions, TlsVersion};
use crate::config::problem::{Problem, Problems};

/// The name of the options that apply where nothing else is said. It has no provider, as in Traefik.
pub const DEFAULT_OPTIONS: &str = "default";

/// Settings of a handshake, ready to use.
#[derive(Clone, Debug)]
pub struct TlsHandle {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// Equal numbers mean equal options.
    pub options_id: u64,
}

/// Why a handshake is refused before it begins: what to tell the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsAlert {
    /// No certificate covers the name, and `sniStrict` forbids the default one.
    UnrecognizedName,
    /// The name's TLS options cannot be used.
    HandshakeFailure,
}

impl TlsAlert {
    /// The fatal alert as one TLS record (RFC 8446, 5.1 and 6), to be written before closing. As Traefik, we close without a
    /// word where options cannot be used.
    pub fn record(self) -> Option<[u8; 7]> {
        match self {
            Self::HandshakeFailure => None,
            Self::UnrecognizedName => Some([21, 3, 3, 0, 2, 2, 112]),
        }
    }
}

/// One set of options as handshakes use it; `None` for options that were declared but cannot be used.
#[derive(Clone, Debug)]
pub struct TlsChoice {
    store: Arc<CertificateStore>,
    handle: Option<TlsHandle>,
    is_strict: bool,
}

impl TlsChoice {
    /// The settings for a client that asks for `server_name` (as it wrote it) at the address `local`.
    pub fn settle(&self, server_name: Option<&str>, local: IpAddr) -> Result<TlsHandle, TlsAlert> {
        let handle = self.handle.as_ref().ok_or(TlsAlert::HandshakeFailure)?;
        match server_name {
            Some(name) if self.is_strict && self.store.find(name).is_none() => Err(TlsAlert::UnrecognizedName),
            Some(_) => Ok(handle.clone()),
            None => match self.store.find_address(local) {
                // rustls does not tell its resolver the local address, so the answer is settled here. Few clients name nothing.
                Some(certificate) => {
                    let mut config = ServerConfig::clone(&handle.config);
                    config.cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.key)));
                    Ok(TlsHandle { config: Arc::new(config), options_id: handle.options_id })
                }
                None if self.is_strict => Err(TlsAlert::UnrecognizedName),
                None => Ok(handle.clone()),
            },
        }
    }

    /// Equal numbers mean equal options; 0 for options that cannot be used.
    pub fn options_id(&self) -> u64 {
        self.handle.as_ref().map_or(0, |handle| handle.options_id)
    }
}

/// The options of one entrypoint by the name that a client asks for. Immutable.
#[derive(Clone, Debug)]
pub struct TlsTable {
    default: TlsChoice,
    by_host: HashMap<Box<str>, TlsChoice>,
    /// By what stands behind `*.`.
    wildcards: HashMap<Box<str>, TlsChoice>,
}

impl TlsTable {
    /// The settings for a client that asks for `server_name` (as it wrote it) at the address `local`.
    pub fn choose(&self, server_name: Option<&str>, local: IpAddr) -> Result<TlsHandle, TlsAlert> {
        server_name.map_or(&self.default, |name| self.find(name)).settle(server_name, local)
    }

    /// The number of the options that `host` (without a port) needs: a request that came over others is answered 421.
    pub fn options_id(&self, host: &str) -> u64 {
        self.find(host).options_id()
    }

    fn find(&self, name: &str) -> &TlsChoice {
        let name = canonical(name);
        self.by_host
            .get(name.as_ref())
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent)))
            .unwrap_or(&self.default)
    }
}

/// What one router wants for one of its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// A host of its rule, `*.` in front of a wildcard.
    pub host: String,
    /// Options it names (`name@provider`, or [`DEFAULT_OPTIONS`]).
    pub options: String,
    /// The router's name, for the report of a conflict.
    pub router: String,
}

/// Routers of one entrypoint that want different options for the same host. The default options apply to it, as in Traefik.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionsConflict {
    /// The host.
    pub host: String,
    /// The options that were named.
    pub options: BTreeSet<String>,
    /// The routers that named them.
    pub routers: BTreeSet<String>,
}

/// The declared options of one moment, compiled.
#[derive(Clone, Debug)]
pub struct CompiledOptions {
    default: TlsChoice,
    named: BTreeMap<String, TlsChoice>,
}

impl CompiledOptions {
    /// The options of this name; `None` when nobody declared them.
    pub fn get(&self, name: &str) -> Option<&TlsChoice> {
        if name == DEFAULT_OPTIONS { Some(&self.default) } else { self.named.get(name) }
    }

    /// The table of one entrypoint from what its routers want, and the hosts about which they disagree.
    ///
    /// Options that nobody declared refuse their host's handshakes, as in Traefik; the router that names them is disabled elsewhere.
    pub fn table(&self, wanted: impl IntoIterator<Item = HostOptions>) -> (TlsTable, Vec<OptionsConflict>) {
        let mut by_host: BTreeMap<String, OptionsConflict> = BTreeMap::new();
        for HostOptions { host, options, router } in wanted {
            let host = canonical(&host).into_owned();
            let entry = by_host.entry(host.clone()).or_insert_with(|| OptionsConflict {
                host,
                options: BTreeSet::new(),
                routers: BTreeSet::new(),
            });
            entry.options.insert(options);
            entry.routers.insert(router);
        }
        let mut table = TlsTable { default: self.default.clone(), by_host: HashMap::new(), wildcards: HashMap::new() };
        let mut conflicts = Vec::new();
        for (host, entry) in by_host {
            let choice = match entry.options.first() {
                Some(options) if entry.options.len() == 1 => self.get(options).cloned().unwrap_or_else(|| self.refused()),
                _ => {
                    conflicts.push(entry);
                    self.default.clone()
                }
            };
            match host.strip_prefix("*.") {
                Some(parent) => table.wildcards.insert(parent.into(), choice),
                None => table.by_host.insert(host.into(), choice),
            };
        }
        (table, conflicts)
    }

    fn refused(&self) -> TlsChoice {
        TlsChoice { store: Arc::clone(&self.default.store), handle: None, is_strict: false }
    }
}

/// Makes rustls configurations of TLS options, one for all equal ones. Control owns it.
#[derive(Debug)]
pub struct TlsConfigs {
    store: Arc<CertificateStore>,
    ticketer: Arc<dyn ProducesTickets>,
    made: HashMap<OptionsKey, TlsHandle>,
    last_id: u64,
}

/// What makes two sets of options equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OptionsKey {
    has_tls12: bool,
    has_tls13: bool,
    is_strict: bool,
    alpn: Vec<String>,
}

impl TlsConfigs {
    /// Configurations whose certificates come from `store`. Fails only when the system gives no randomness.
    pub fn new(store: Arc<CertificateStore>) -> Result<Self, rustls::Error> {
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self { store, ticketer, made: HashMap::new(), last_id: 0 })
    }

    /// Compiles what is declared now: by `name@provider`, the default options under [`DEFAULT_OPTIONS`] if anybody declared them.
    ///
    /// Options that cannot be used are a problem, and refuse the handshakes that need them.
    pub fn compile(&mut self, declared: &BTreeMap<String, TlsOptions>) -> (CompiledOptions, Problems) {
        let mut problems = Problems::new();
        let mut named = BTreeMap::new();
        let mut used = Vec::new();
        for (name, options) in declared {
            let choice = match OptionsKey::parse(options) {
                Ok(key) => {
                    used.push(key.clone());
                    self.choice(key)
                }
                Err(reason) => {
                    problems.push(Problem::error(&options.at, format!("TLS options `{name}` cannot be used: {reason}")));
                    TlsChoice { store: Arc::clone(&self.store), handle: None, is_strict: false }
                }
            };
            named.insert(name.clone(), choice);
        }
        let default = named.remove(DEFAULT_OPTIONS).unwrap_or_else(|| {
            let key = OptionsKey::traefik_default();
            used.push(key.clone());
            self.choice(key)
        });
        self.made.retain(|key, _| used.contains(key));
        (CompiledOptions { default, named }, problems)
    }

    fn choice(&mut self, key: OptionsKey) -> TlsChoice {
        let is_strict = key.is_strict;
        let handle = if let Some(handle) = self.made.get(&key) {
            Some(handle.clone())
        } else {
            self.last_id += 1;
            let handle = self.config(&key).map(|config| TlsHandle { config: Arc::new(config), options_id: self.last_id });
            if let Some(handle) = &handle {
                self.made.insert(key, handle.clone());
            }
            handle
        };
        TlsChoice { store: Arc::clone(&self.store), handle, is_strict }
    }

    /// `None` only when the provider of cryptography lacks every suite of the versions, which ours does not.
    fn config(&self, key: &OptionsKey) -> Option<ServerConfig> {
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        if key.has_tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if key.has_tls12 {
            versions.push(&rustls::version::TLS12);
        }
        let fallback = if key.is_strict { Fallback::Refuse } else { Fallback::Default };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .ok()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Answer { store: Arc::clone(&self.store), fallback }));
        config.alpn_protocols = key.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
        config.ticketer = Arc::clone(&self.ticketer);
        Some(config)
    }
}

impl OptionsKey {
    fn parse(options: &TlsOptions) -> Result<Self, &'static str> {
        let min = options.version_min.unwrap_or(TlsVersion::Tls12);
        let max = options.version_max.unwrap_or(TlsVersion::Tls13);
        if max < min {
            return Err("`maxVersion` is below `minVersion`");
        }
        let mut alpn = options.alpn.clone().unwrap_or_else(Self::default_alpn);
        // Traefik lists it for the TLS-ALPN challenge. Settled here, it would be a protocol that nothing behind us speaks.
        alpn.retain(|protocol| protocol != "acme-tls/1");
        Ok(Self { has_tls12: min <= TlsVersion::Tls12, has_tls13: max >= TlsVersion::Tls13, is_strict: options.sni_strict, alpn })
    }

    fn traefik_default() -> Self {
        Self { has_tls12: true, has_tls13: true, is_strict: false, alpn: Self::default_alpn() }
    }

    fn default_alpn() -> Vec<String> {
        vec!["h2".to_owned(), "http/1.1".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, ProtocolVersion, RootCertStore, ServerConnection};

    use super::super::certificate::tests::made;
    use super::super::certificate::{Source, generate_default};
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn configs(names: &[&str]) -> TlsConfigs {
        let store = CertificateStore::new(Arc::new(generate_default(UNIX_EPOCH).unwrap()));
        let far = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        store.publish_files(&[made(names, far, Source::File)], None);
        TlsConfigs::new(Arc::new(store)).unwrap()
    }

    fn options(min: Option<TlsVersion>, max: Option<TlsVersion>, sni_strict: bool) -> TlsOptions {
        TlsOptions { version_min: min, version_max: max, sni_strict, ..TlsOptions::default() }
    }

    fn wants(host: &str, options: &str, router: &str) -> HostOptions {
        HostOptions { host: host.to_owned(), options: options.to_owned(), router: router.to_owned() }
    }

    /// A handshake in memory with a client that trusts what the store answers for `name`.
    fn handshake(
        handle: &TlsHandle,
        client: &Arc<ClientConfig>,
        name: &str,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&handle.config)).unwrap();
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            let outcome = server.process_new_packets();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
            outcome?;
        }
        Ok((client, server))
    }

    fn client(configs: &TlsConfigs, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in configs.store.current().certificates() {
            roots.add(certificate.key.cert[0].clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    #[test]
    fn equal_options_are_one_configuration_over_reloads() {
        let mut configs = configs(&["a.test"]);
        let declared = BTreeMap::from([
            ("one@file".to_owned(), options(Some(TlsVersion::Tls13), None, false)),
            ("two@file".to_owned(), options(Some(TlsVersion::Tls13), Some(TlsVersion::Tls13), false)),
            ("plain@file".to_owned(), options(Some(TlsVersion::Tls12), None, false)),
        ]);
        let (first, problems) = configs.compile(&declared);
        assert_eq!(problems, []);
        let (second, _) = configs.compile(&declared);
        let config = |compiled: &CompiledOptions, name| compiled.get(name).unwrap().settle(Some("a.test"), LOCAL).unwrap();
        let one = config(&first, "one@file");
        assert!(Arc::ptr_eq(&one.config, &config(&first, "two@file").config));
        assert!(Arc::ptr_eq(&one.config, &config(&second, "one@file").config));
        assert_eq!(config(&first, "plain@file").options_id, config(&first, DEFAULT_OPTIONS).options_id);
        assert_ne!(one.options_id, config(&first, DEFAULT_OPTIONS).options_id);
    }

    #[test]
    fn a_host_has_its_own_options_and_a_disagreement_falls_back_to_the_default_ones() {
        let mut configs = configs(&["a.test"]);
        let (compiled, _) =
            configs.compile(&BTreeMap::from([("modern@file".to_owned(), options(Some(TlsVersion::Tls13), None, false))]));
        let (table, conflicts) = compiled.table([
            wants("A.test", "modern@file", "r1@file"),
            wants("*.b.test", "modern@file", "r2@file"),
            wants("c.test", "modern@file", "r3@file"),
            wants("c.test", DEFAULT_OPTIONS, "r4@file"),
            wants("d.test", "nope@file", "r5@file"),
        ]);
        let modern = compiled.get("modern@file").unwrap().options_id();
        let default = compiled.get(DEFAULT_OPTIONS).unwrap().options_id();
        for (host, expected) in [
            ("a.test", modern),
            ("a.test.", modern),
            ("x.b.test", modern),
            ("b.test", default),
            ("c.test", default),
            ("d.test", 0),
        ] {
            assert_eq!(table.options_id(host), expected, "{host}");
        }
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].host, "c.test");
        assert_eq!(conflicts[0].routers, BTreeSet::from(["r3@file".to_owned(), "r4@file".to_owned()]));
        assert_eq!(table.choose(Some("d.test"), LOCAL).unwrap_err(), TlsAlert::HandshakeFailure);
    }

    #[test]
    fn strict_options_refuse_a_name_without_certificate() {
        let mut configs = configs(&["a.test", "127.0.0.1"]);
        let (compiled, _) = configs.compile(&BTreeMap::from([(DEFAULT_OPTIONS.to_owned(), options(None, None, true))]));
        let (table, _) = compiled.table([]);
        assert!(table.choose(Some("a.test"), LOCAL).is_ok());
        assert!(table.choose(None, LOCAL).is_ok());
        assert_eq!(table.choose(None, "127.0.0.2".parse().unwrap()).unwrap_err(), TlsAlert::UnrecognizedName);
        let alert = table.choose(Some("b.test"), LOCAL).unwrap_err();
        let record = alert.record().unwrap();
        assert_eq!(record, [21, 3, 3, 0, 2, 2, 112]);
        // What the bytes mean to a client.
        let config = client(&configs, rustls::ALL_VERSIONS, &[]);
        let mut refused = ClientConnection::new(config, ServerName::try_from("b.test").unwrap()).unwrap();
        refused.read_tls(&mut record.as_slice()).unwrap();
        assert_eq!(refused.process_new_packets().unwrap_err(), Error::AlertReceived(AlertDescription::UnrecognisedName));
    }

    #[test]
    fn versions_and_protocols_are_settled_as_declared() {
        let mut configs = configs(&["a.test"]);
        let declared = BTreeMap::from([
            ("modern@file".to_owned(), options(Some(TlsVersion::Tls13), None, false)),
            ("old@file".to_owned(), options(None, Some(TlsVersion::Tls12), false)),
            ("wrong@file".to_owned(), options(Some(TlsVersion::Tls13), Some(TlsVersion::Tls12), false)),
        ]);
        let (compiled, problems) = configs.compile(&declared);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("`wrong@file`"), "{}", problems[0]);
        let settle = |name: &str| compiled.get(name).unwrap().settle(Some("a.test"), LOCAL);
        assert!(settle("wrong@file").is_err());
        let any = client(&configs, rustls::ALL_VERSIONS, &["h2", "http/1.1"]);
        let (client_side, _) = handshake(&settle("modern@file").unwrap(), &any, "a.test").unwrap();
        assert_eq!(client_side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(client_side.alpn_protocol(), Some(b"h2".as_slice()));
        let (client_side, _) = handshake(&settle("old@file").unwrap(), &any, "a.test").unwrap();
        assert_eq!(client_side.protocol_version(), Some(ProtocolVersion::TLSv1_2));
        let only12 = client(&configs, &[&rustls::version::TLS12], &[]);
        let error = handshake(&settle("modern@file").unwrap(), &only12, "a.test").err();
        assert_eq!(error, Some(Error::AlertReceived(AlertDescription::ProtocolVersion)));
    }

    #[test]
    fn a_session_is_resumed_after_a_reload() {
        let mut configs = configs(&["a.test"]);
        let config = client(&configs, rustls::ALL_VERSIONS, &[]);
        for expected in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let (compiled, _) = configs.compile(&BTreeMap::new());
            let (table, _) = compiled.table([]);
            let (client_side, _) = handshake(&table.choose(Some("a.test"), LOCAL).unwrap(), &config, "a.test").unwrap();
            let kind = client_side.handshake_kind();
            // Hello retries do not count: the client guesses the group.
            assert_eq!(kind == Some(rustls::HandshakeKind::Resumed), expected == rustls::HandshakeKind::Resumed, "{kind:?}");
        }
    }

    #[test]
    fn a_swapped_certificate_answers_the_next_handshake() {
        let mut configs = configs(&["a.test"]);
        let (compiled, _) = configs.compile(&BTreeMap::new());
        let (table, _) = compiled.table([]);
        let far = UNIX_EPOCH + Duration::from_secs(4_100_000_000);
        let renewed = made(&["a.test"], far, Source::Acme("le".into()));
        configs.store.publish_acme(&[Arc::clone(&renewed)]);
        let config = client(&configs, rustls::ALL_VERSIONS, &[]);
        let (client_side, _) = handshake(&table.choose(Some("a.test"), LOCAL).unwrap(), &config, "a.test").unwrap();
        assert_eq!(client_side.peer_certificates().unwrap()[0], renewed.key.cert[0]);
    }
}
