//! A Pebble, a name server that sends every name to us, a responder for challenges, and the task under test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::acme::CertificateResolvers;
use tidegate::acme::run::{CertificateState, Shared, Wanted, run};
use tidegate::acme::schedule::WantedCertificate;
use tidegate::clock;
use tidegate::config::dynamic::Domain;
use tidegate::config::install::{Acme, KeyType};
use tidegate::tls::certificate::{Certificate, generate_default};
use tidegate::tls::challenge::{ChallengeAnswer, OpenChallenges};
use tidegate::tls::install_crypto_provider;
use tidegate::tls::store::CertificateStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::DEADLINE;

/// What stays over restarts of the edge: the folder, the challenges' responder, and DNS.
pub struct Site {
    pub challenges: Arc<OpenChallenges>,
    folder: TempDir,
    http_port: u16,
    dns: SocketAddr,
}

impl Site {
    pub async fn new() -> Self {
        install_crypto_provider();
        let challenges = Arc::new(OpenChallenges::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http_port = listener.local_addr().unwrap().port();
        tokio::spawn(answer_challenges(listener, Arc::clone(&challenges)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dns = listener.local_addr().unwrap();
        tokio::spawn(answer_names(listener));
        Self { challenges, folder: tempfile::tempdir().unwrap(), http_port, dns }
    }

    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("acme.json")
    }
}

/// The smallest edge: a challenge's path, and nothing else.
async fn answer_challenges(listener: TcpListener, challenges: Arc<OpenChallenges>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let challenges = Arc::clone(&challenges);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let host = head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
            let answer = match challenges.answer(path, host) {
                ChallengeAnswer::Token(body) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
                ChallengeAnswer::Unknown | ChallengeAnswer::NotAChallenge => {
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

/// DNS over TCP, which Pebble speaks to a server it is told (RFC 7766: each message behind its length).
async fn answer_names(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                let answer = name_answer(&query);
                let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes(), answer.as_slice()].concat();
                let _ = stream.write_all(&framed).await;
            }
        });
    }
}

/// Every name is 127.0.0.1, but names below `invalid-dns.test` do not exist.
fn name_answer(query: &[u8]) -> Vec<u8> {
    let question = &query[12..];
    let name_end = question.iter().position(|byte| *byte == 0).unwrap() + 1;
    let is_a = question[name_end..].starts_with(&[0, 1]);
    let exists = !question[..name_end].windows(11).any(|label| label == b"invalid-dns");
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, if exists { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(is_a && exists), 0, 0, 0, 0]);
    answer.extend(&question[..name_end + 4]);
    if is_a && exists {
        // The name of the question, type A, class IN, ten seconds, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// A running Pebble.
pub struct Pebble {
    child: Running,
    port: u16,
    log: watch::Receiver<Vec<String>>,
    settings: Vec<(String, String)>,
}

impl Pebble {
    /// `settings` are variables of Pebble's environment; `validity` is the life of its certificates in seconds, and with
    /// `external account` (a key) it takes only accounts that are bound to its customer `kid-1`.
    pub async fn start(site: &Site, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let port = free_port().await;
        Self::start_at(site, settings, port).await
    }

    /// Another one in its place, which remembers nothing.
    pub async fn restart(mut self, site: &Site) -> Self {
        self.stop();
        Self::start_at(site, self.settings.clone(), self.port).await
    }

    pub fn stop(&mut self) {
        self.child.stop();
    }

    async fn start_at(site: &Site, settings: Vec<(String, String)>, port: u16) -> Self {
        let folder = site.folder.path();
        let setting = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        write_ca_certificate(site);
        let validity: u64 = setting("validity").map_or(7_776_000, |seconds| seconds.parse().unwrap());
        let external = setting("external account");
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": "",
            "certificate": folder.join("pebble.pem"),
            "privateKey": folder.join("pebble.key"),
            "httpPort": site.http_port,
            "tlsPort": 1,
            "externalAccountBindingRequired": external.is_some(),
            "externalAccountMACKeys": external.map(|key| json!({ "kid-1": key })),
            "retryAfter": { "authz": 1, "order": 1 },
            "profiles": { "default": { "description": "the only one", "validityPeriod": validity } },
        }});
        let path = folder.join("pebble.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut child = Command::new(program("PEBBLE_BIN", "pebble"))
            .arg("-config")
            .arg(&path)
            .args(["-dnsserver", &site.dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .env("PEBBLE_AUTHZREUSE", "0")
            .envs(settings.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("Pebble starts");
        let (lines, log) = watch::channel(Vec::new());
        let output = BufReader::new(child.stdout.take().unwrap());
        // Ends with Pebble.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                lines.send_modify(|all: &mut Vec<String>| all.push(line));
            }
        });
        wait_until("Pebble to listen", || async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
        Self { child: Running(child), port, log, settings }
    }

    /// A resolver that asks it.
    pub fn acme(&self, site: &Site) -> Acme {
        Acme {
            email: Some("ops@a.test".to_owned()),
            ca_server: format!("https://127.0.0.1:{}/dir", self.port),
            storage: site.storage(),
            key_type: KeyType::Ec256,
            http_challenge_entrypoint: Some("web".to_owned()),
            ca_certificates: vec![site.folder.path().join("pebble-ca.pem")],
            ca_system_cert_pool: false,
            certificates_duration: Duration::from_secs(2160 * 3600),
            eab: None,
            profile: None,
        }
    }

    /// How many orders it took.
    pub fn orders(&self) -> usize {
        self.count("Added order")
    }

    /// How many accounts it made.
    pub fn accounts(&self) -> usize {
        self.count("accounts in memory")
    }

    fn count(&self, text: &str) -> usize {
        self.log.borrow().iter().filter(|line| line.contains(text)).count()
    }
}

/// A child that ends with its handle.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The CA that Pebble's own HTTPS has, new for each site.
fn write_ca_certificate(site: &Site) {
    let folder = site.folder.path();
    if folder.join("pebble.pem").exists() {
        return;
    }
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(folder.join("pebble-ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("pebble.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("pebble.key"), key.serialize_pem()).unwrap();
}

/// A foreign program: where a variable says, or in the folder of the project's tools.
fn program(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools");
    let found = [root.join(name), root.join("bin").join(name)].into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("set {variable} to the path of {name}"))
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// The task under test.
pub struct Edge {
    pub store: Arc<CertificateStore>,
    storage: PathBuf,
    wanted: watch::Sender<Wanted>,
    states: watch::Receiver<Vec<CertificateState>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Edge {
    pub fn start(site: &Site, resolvers: &[(&str, Acme)]) -> Self {
        let configured: BTreeMap<String, Acme> =
            resolvers.iter().map(|(name, acme)| ((*name).to_owned(), acme.clone())).collect();
        let (resolvers, problems) = CertificateResolvers::open(&configured, &|_| None);
        assert_eq!(problems, []);
        let store = Arc::new(CertificateStore::new(Arc::new(generate_default(clock::wall()).unwrap())));
        resolvers.publish(&store);
        let (wanted, wanted_read) = watch::channel(Wanted::new());
        let (states_write, states) = watch::channel(Vec::new());
        let shared = Shared { store: Arc::clone(&store), challenges: Arc::clone(&site.challenges), states: states_write };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(resolvers, wanted_read, shared, shutdown.clone()));
        Self { store, storage: site.storage(), wanted, states, shutdown, task }
    }

    pub fn want(&mut self, wanted: &[(&str, &[&str])]) {
        let certificate = |(resolver, names): &(&str, &[&str])| WantedCertificate {
            resolver: (*resolver).to_owned(),
            domain: Domain { main: names[0].to_owned(), sans: names[1..].iter().map(|name| (*name).to_owned()).collect() },
        };
        self.wanted.send(wanted.iter().map(certificate).collect()).unwrap();
    }

    /// How a name stands, once `is_it`.
    pub async fn state(&mut self, name: &str, is_it: impl Fn(&CertificateState) -> bool) -> CertificateState {
        let find =
            |states: &Vec<CertificateState>| states.iter().find(|state| state.domain.main == name && is_it(state)).cloned();
        let waited = tokio::time::timeout(DEADLINE, self.states.wait_for(|states| find(states).is_some())).await;
        let found = waited.ok().and_then(|states| find(&states.unwrap()));
        found.unwrap_or_else(|| panic!("no such state of {name}: {:?}", self.states.borrow()))
    }

    /// The certificate that answers for a name, once `is_it`.
    pub async fn find(&mut self, name: &str, is_it: impl Fn(&Certificate) -> bool) -> Arc<Certificate> {
        let store = Arc::clone(&self.store);
        let find = || store.find(name).filter(|certificate| is_it(certificate));
        let waited = tokio::time::timeout(DEADLINE, self.states.wait_for(|_| find().is_some())).await;
        let came = waited.is_ok_and(|states| states.is_ok());
        assert!(came, "no certificate for {name}: {:?}", self.states.borrow());
        find().unwrap()
    }

    pub async fn serial(&mut self, name: &str) -> String {
        self.find(name, |_| true).await.serial.clone()
    }

    pub fn key_bits(&self, name: &str) -> usize {
        let certificate = self.store.find(name).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.key.cert[0]).unwrap();
        parsed.public_key().parsed().unwrap().key_size()
    }

    /// The storage file, once it holds so many certificates of a resolver.
    pub async fn stored(&self, resolver: &str, count: usize) -> Value {
        let read = || -> Value { serde_json::from_slice(&std::fs::read(&self.storage).unwrap()).unwrap_or_default() };
        let is_there = || names_of(&read(), resolver).len() == count;
        wait_until("the storage file", || async { is_there() }).await;
        read()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// A real Traefik on the storage of a site.
pub struct Traefik {
    child: Running,
    port: u16,
}

impl Traefik {
    /// One with the resolver `le`, and a router for `host` that names it.
    pub async fn start(site: &Site, pebble: &Pebble, host: &str) -> Self {
        let folder = site.folder.path();
        let port = free_port().await;
        let routers = json!({ "http": {
            "routers": { "r": { "rule": format!("Host(`{host}`)"), "service": "noop@internal", "tls": { "certResolver": "le" } } },
        }});
        std::fs::write(folder.join("routers.yaml"), routers.to_string()).unwrap();
        let acme = pebble.acme(site);
        let config = json!({
            "entryPoints": {
                "web": { "address": format!("127.0.0.1:{}", free_port().await) },
                "websecure": { "address": format!("127.0.0.1:{port}") },
            },
            "providers": { "file": { "filename": folder.join("routers.yaml") } },
            "certificatesResolvers": { "le": { "acme": {
                "email": acme.email,
                "storage": acme.storage,
                "caServer": acme.ca_server,
                "caCertificates": acme.ca_certificates,
                "keyType": "EC256",
                "httpChallenge": { "entryPoint": "web" },
            }}},
        });
        // JSON is YAML.
        std::fs::write(folder.join("traefik.yaml"), config.to_string()).unwrap();
        let child = Command::new(program("TRAEFIK_BIN", "traefik"))
            .arg(format!("--configFile={}", folder.join("traefik.yaml").display()))
            .stdout(Stdio::inherit())
            .spawn()
            .expect("Traefik starts");
        Self { child: Running(child), port }
    }

    /// Waits until it answers a handshake for `host` with this certificate and its chain.
    pub async fn serves(&self, host: &str, certificate: &Certificate) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.key.cert[1].clone()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).unwrap();
        wait_until("Traefik to serve the certificate", || async {
            let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
            let Ok(stream) = connector.connect(name.clone(), stream).await else { return false };
            stream.get_ref().1.peer_certificates() == Some(certificate.key.cert.as_slice())
        })
        .await;
    }

    pub fn stop(mut self) {
        self.child.stop();
    }
}

/// The main names of a resolver's certificates in a storage file.
pub fn names_of(stored: &Value, resolver: &str) -> Vec<String> {
    let certificates = stored[resolver]["Certificates"].as_array();
    certificates.into_iter().flatten().map(|entry| entry["domain"]["main"].as_str().unwrap().to_owned()).collect()
}

/// Looks until it is so, every few milliseconds: for what only another process or a file can say.
async fn wait_until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let looks = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !is_so().await {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, looks).await.is_ok(), "waited for {what} in vain");
}
