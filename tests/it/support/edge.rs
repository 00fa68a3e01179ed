//! The whole proxy, as `tidegate run` starts it, in this process: `Edge::start().catalog().run().await`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::app::{self, Running};
use tidegate::config::install::{self, Install, Source};
use tidegate::demo::catalog::{EmbeddedCatalog, Registration};
use tidegate::demo::instance::Instance;
use tidegate::routing::server::Server;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::client::{Answer, Http, connect_tls};

/// Everything here is over within this time, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running proxy with entrypoints `web`, `websecure` (TLS) and `traefik` (ping, API, metrics).
pub struct Edge {
    running: Option<Running>,
    addresses: BTreeMap<String, SocketAddr>,
    folder: TempDir,
    catalog: Option<EmbeddedCatalog>,
    roots: Vec<CertificateDer<'static>>,
}

type Change = Box<dyn FnOnce(&mut Install) + Send>;

/// How an [`Edge`] is to be.
pub struct EdgeBuilder {
    folder: TempDir,
    providers: String,
    has_catalog: bool,
    registered: Vec<Registration>,
    roots: Vec<CertificateDer<'static>>,
    changes: Vec<Change>,
}

impl Edge {
    pub fn start() -> EdgeBuilder {
        EdgeBuilder {
            folder: TempDir::new().unwrap(),
            providers: String::new(),
            has_catalog: false,
            registered: Vec::new(),
            roots: Vec::new(),
            changes: Vec::new(),
        }
    }
}

impl EdgeBuilder {
    /// Consul is a provider: an embedded catalog of its own.
    pub fn catalog(mut self) -> Self {
        self.has_catalog = true;
        self
    }

    /// Consul is a provider: one that others use, too.
    pub fn catalog_at(mut self, address: SocketAddr) -> Self {
        self.providers =
            format!("  consulCatalog: {{endpoint: {{address: \"{address}\"}}, exposedByDefault: false, watch: true}}\n");
        self
    }

    /// The catalog knows an instance of the service `site` from the beginning.
    pub fn registered(mut self, id: &str, address: SocketAddr) -> Self {
        self.registered.push(site(id, address, &[]));
        self.catalog()
    }

    /// The dynamic file at first.
    pub fn file(self, text: &str) -> Self {
        std::fs::create_dir_all(self.folder.path().join("dynamic")).unwrap();
        std::fs::write(self.folder.path().join("dynamic/site.yaml"), text).unwrap();
        self
    }

    /// A certificate for these names, which the clients of this edge trust. Its first name is the file's.
    pub fn certificate(mut self, names: &[&str]) -> Self {
        let folder = self.folder.path().join("dynamic");
        std::fs::create_dir_all(&folder).unwrap();
        let name = names[0].trim_start_matches("*.");
        let issued = Issued::at(self.folder.path(), name, names);
        std::fs::write(folder.join(format!("tls-{name}.yaml")), &issued.text).unwrap();
        self.roots.push(issued.root);
        self
    }

    /// One more entrypoint.
    pub fn entrypoint(self, name: &'static str) -> Self {
        self.set(move |install| {
            let settings = install::Entrypoint { address: "127.0.0.1:0".to_owned(), ..install::Entrypoint::default() };
            install.entrypoints.insert(name.to_owned(), settings);
        })
    }

    /// Changes the install configuration as it was read.
    pub fn set(mut self, change: impl FnOnce(&mut Install) + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Starts, and waits until every entrypoint listens and routes are known.
    pub async fn run(mut self) -> Edge {
        let dynamic = self.folder.path().join("dynamic");
        std::fs::create_dir_all(&dynamic).unwrap();
        let mut catalog = None;
        if self.has_catalog {
            let (embedded, address) = EmbeddedCatalog::start().await.unwrap();
            self = self.catalog_at(address);
            self.registered.drain(..).for_each(|one| embedded.register(one).unwrap());
            catalog = Some(embedded);
        }
        let mut install = self.read(&dynamic);
        for change in self.changes {
            change(&mut install);
        }
        let running = app::start(install, None, &|_| None).await.unwrap();
        let addresses = tokio::time::timeout(PATIENCE, running.listening()).await.unwrap().unwrap();
        let edge = Edge { running: Some(running), addresses, folder: self.folder, catalog, roots: self.roots };
        edge.until("ready", async || edge.admin("/ping").await.status == 200).await;
        edge
    }

    /// The same in threads of its own, so that it can be killed.
    pub async fn run_apart(self) -> (Edge, Apart) {
        let started = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let edge = runtime.block_on(self.run());
            (edge, Apart(Some(runtime)))
        });
        started.await.unwrap()
    }

    fn read(&self, dynamic: &Path) -> Install {
        let text = format!(
            "entryPoints:\n  web: {{address: \"127.0.0.1:0\"}}\n  websecure: {{address: \"127.0.0.1:0\", http: {{tls: {{}}}}}}\n  traefik: {{address: \"127.0.0.1:0\"}}\napi: {{insecure: true}}\nping: {{}}\nmetrics: {{prometheus: {{}}}}\nproviders:\n  file: {{directory: \"{}\"}}\n{}tidegate: {{state: \"{}\"}}\n",
            dynamic.display(),
            self.providers,
            self.folder.path().join("state").display()
        );
        let (install, problems) = install::read(&Source::File { path: "traefik.yaml".to_owned(), text });
        assert!(problems.is_empty(), "{problems:?}");
        install.unwrap()
    }
}

/// The threads of a proxy.
pub struct Apart(Option<tokio::runtime::Runtime>);

impl Apart {
    /// Ends it wherever it is just now, without a word.
    pub fn kill(self) {}
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

/// A certificate in files, and the dynamic configuration that names them.
struct Issued {
    text: String,
    root: CertificateDer<'static>,
}

impl Issued {
    fn at(folder: &Path, file: &str, names: &[&str]) -> Self {
        let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(all).unwrap();
        let (crt, key) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        std::fs::write(&crt, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        let (crt, key) = (crt.display(), key.display());
        let text = format!("tls: {{certificates: [{{certFile: \"{crt}\", keyFile: \"{key}\"}}]}}\n");
        Self { text, root: cert.der().clone() }
    }
}

/// What it is told.
impl Edge {
    /// Registers an instance of the service `site`.
    pub fn register(&self, id: &str, instance: &Instance, more_tags: &[&str]) {
        self.register_at(id, instance.address, more_tags);
    }

    /// Registers an instance of the service `site` at an address.
    pub fn register_at(&self, id: &str, address: SocketAddr, more_tags: &[&str]) {
        self.catalog().register(site(id, address, more_tags)).unwrap();
    }

    pub fn catalog(&self) -> &EmbeddedCatalog {
        self.catalog.as_ref().expect("built with a catalog")
    }

    /// Replaces the dynamic file, as an editor does it.
    pub fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("dynamic/site.yaml")
    }

    /// Puts another certificate for `name` in the place of the one it was built with; the file that names it is written anew.
    pub fn renew_certificate(&mut self, name: &str) {
        let issued = Issued::at(self.folder.path(), &format!("{name}-new"), &[name]);
        let named = self.folder.path().join("dynamic").join(format!("tls-{name}.yaml"));
        std::fs::write(named, &issued.text).unwrap();
        self.roots = vec![issued.root];
    }

    /// The folder of what outlives it.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("not stopped")
    }

    /// Begins to end, as on SIGTERM. The task says how many connections were cut off.
    pub fn stop(&mut self) -> tokio::task::JoinHandle<usize> {
        let running = self.running.take().expect("not stopped");
        tokio::spawn(running.stop())
    }
}

/// An instance of the service `site`, which takes every request.
pub fn site(id: &str, address: SocketAddr, more_tags: &[&str]) -> Registration {
    let tags = ["traefik.enable=true", "traefik.http.routers.site.rule=PathPrefix(`/`)"];
    registration(id, "site", address, &[&tags, more_tags].concat())
}

/// An entry of the catalog whose check passes.
pub fn registration(id: &str, name: &str, address: SocketAddr, tags: &[&str]) -> Registration {
    Registration {
        name: name.to_owned(),
        id: id.to_owned(),
        address: address.ip().to_string(),
        port: address.port(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Registration::default()
    }
}

/// What is seen of it.
impl Edge {
    pub fn web(&self) -> SocketAddr {
        self.address("web")
    }

    pub fn address(&self, entrypoint: &str) -> SocketAddr {
        self.addresses[entrypoint]
    }

    /// A TLS connection to `websecure`.
    pub async fn tls(&self, name: &str, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        connect_tls(self.address("websecure"), name, &self.roots, alpn).await
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub async fn connect(&self) -> Http<TcpStream> {
        Http::connect(self.web()).await.unwrap()
    }

    /// Asks `web` on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let asked = async { self.connect().await.ask(request).await };
        tokio::time::timeout(PATIENCE, asked).await.expect("no answer in time").unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n\r\n")).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(format!("POST {path} HTTP/1.1\r\nHost: site.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
    }

    /// Asks the `traefik` entrypoint.
    pub async fn admin(&self, path: &str) -> Answer {
        let mut client = Http::connect(self.address("traefik")).await.unwrap();
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")).await.unwrap()
    }

    /// The value of a series, written as Prometheus prints it. Nothing when it is not there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin("/metrics").await.text();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Where the rollout of the service `site` stands; null when there is none.
    pub async fn rollout(&self) -> Value {
        let all: Vec<Value> = serde_json::from_slice(&self.admin("/api/tidegate/rollouts").await.body).unwrap();
        all.into_iter().next().unwrap_or_default()
    }

    /// All servers of all services that requests see now.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let snapshot = self.running().shared().snapshots.current();
        let services = snapshot.services.values().chain(snapshot.tcp_services.values());
        services.flat_map(|service| service.arms().members().to_vec()).map(|member| member.server).collect()
    }

    /// Waits until `count` servers are seen by requests.
    pub async fn has_servers(&self, count: usize) {
        self.until(&format!("{count} servers"), async || self.servers().len() == count).await;
    }

    /// Waits until nobody is counted as having a request any more, neither a server nor a canary.
    pub async fn is_quiet(&self) {
        let canaries = || {
            let snapshot = self.running().shared().snapshots.current();
            snapshot.services.values().map(|service| service.ledger.canary_in_flight()).sum::<u32>()
        };
        let servers = || self.servers().iter().map(|server| server.in_flight()).sum::<u32>();
        self.until("nothing in flight", async || servers() == 0 && canaries() == 0).await;
    }

    /// Waits until `is_so`.
    pub async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        until(what, is_so).await;
    }
}

/// A dynamic file with one router for everything and its servers, each with its URL.
pub fn everything_to<U: std::fmt::Display>(servers: &[U]) -> String {
    everything_with("", servers)
}

/// The same with more options of the load balancer, such as `, strategy: p2c`.
pub fn everything_with<U: std::fmt::Display>(options: &str, servers: &[U]) -> String {
    let servers: Vec<String> = servers.iter().map(|url| format!("{{url: \"{url}\"}}")).collect();
    format!(
        "http:\n  routers: {{site: {{rule: \"PathPrefix(`/`)\", service: site}}}}\n  services: {{site: {{loadBalancer: {{servers: [{}]{options}}}}}}}\n",
        servers.join(", ")
    )
}

/// Waits until `is_so`.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let poll = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
