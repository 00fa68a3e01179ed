//! An agent to test against: the embedded catalog or a real one, behind the same few calls.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidegate::clock;
use tidegate::config::install::{ConsulCatalog, ConsulEndpoint};
use tidegate::demo::catalog::EmbeddedCatalog;
use tidegate::provider::consul::access::Access;
use tidegate::provider::consul::client::Client;

/// How long a test waits for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The token of a real agent that runs with access control.
pub const MANAGEMENT_TOKEN: &str = "8f2d1c1e-5b1f-4f0e-9a53-0d6c8f6f3a01";

pub struct Agent {
    pub address: SocketAddr,
    pub token: Option<&'static str>,
    pub embedded: Option<EmbeddedCatalog>,
    process: Option<Process>,
    http: reqwest::Client,
}

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The crypto provider that the product installs first of all.
pub fn install_crypto() {
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

impl Agent {
    fn new(address: SocketAddr) -> Self {
        install_crypto();
        // From another address, so that the connections of the client under test can be counted.
        let own_address = std::net::IpAddr::from([127, 0, 0, 2]);
        let http = reqwest::Client::builder().no_proxy().local_address(own_address).build().unwrap();
        Self { address, token: None, embedded: None, process: None, http }
    }

    pub async fn embedded() -> Self {
        let (catalog, address) = EmbeddedCatalog::start().await.unwrap();
        Self { embedded: Some(catalog), ..Self::new(address) }
    }

    pub async fn real() -> Self {
        Self::run(&free_ports(), &[]).await
    }

    /// A real agent that answers nobody without a token.
    pub async fn guarded() -> Self {
        let rules = format!(r#"acl {{ enabled = true default_policy = "deny" tokens {{ master = "{MANAGEMENT_TOKEN}" }} }}"#);
        let mut agent = Self::run(&free_ports(), &["-hcl", &rules]).await;
        agent.token = Some(MANAGEMENT_TOKEN);
        agent
    }

    /// Ends a real agent and starts it again where it was; in development mode it has forgotten everything.
    pub async fn restart_empty(&mut self) {
        self.process = None;
        let mut ports = free_ports();
        ports[0] = self.address.port();
        let process = Self::run(&ports, &[]).await.process;
        self.process = process;
    }

    async fn run(ports: &[u16; 4], more: &[&str]) -> Self {
        let [http, server, lan, wan] = ports.map(|port| port.to_string());
        let mut command = Command::new(consul_bin());
        command.args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-node", "real", "-log-level", "err"]);
        command.args(["-http-port", &http, "-server-port", &server, "-serf-lan-port", &lan, "-serf-wan-port", &wan]);
        command.args(["-dns-port", "-1", "-grpc-port", "-1"]).args(more);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("consul starts");
        let mut agent = Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0])));
        agent.process = Some(Process(process));
        agent.token = more.first().map(|_| MANAGEMENT_TOKEN);
        // It has a leader, and has registered itself.
        agent.answers("/v1/health/service/consul?passing", |body| body.as_array().is_some_and(|list| !list.is_empty())).await;
        agent
    }

    /// Waits until a path answers what is wanted.
    pub async fn answers(&self, path: &str, wanted: impl Fn(&Value) -> bool) {
        let deadline = clock::now() + DEADLINE;
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            let answer = self.send(reqwest::Method::GET, path, None).await;
            match answer {
                Some((200, body)) if serde_json::from_str(&body).is_ok_and(|body| wanted(&body)) => return,
                last => assert!(clock::now() < deadline, "{path} did not answer as wanted in time, but {last:?}"),
            }
        }
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Option<String>) -> Option<(u16, String)> {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
        if let Some(token) = self.token {
            request = request.header("X-Consul-Token", token);
        }
        let response = request.body(body.unwrap_or_default()).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// Any request; status and text.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.send(method.parse().unwrap(), path, Some(body.to_owned())).await.expect("the agent answers")
    }

    pub async fn put(&self, path: &str, body: &str) {
        let (status, text) = self.ask("PUT", path, body).await;
        assert_eq!((status, text.as_str()), (200, ""), "PUT {path} {body}");
    }

    /// Registers `ID` of service `NAME` with the tags, and a check that somebody must set.
    pub async fn register(&self, name: &str, id: &str, tags: &[&str]) {
        let check = serde_json::json!({"CheckID": format!("check:{id}"), "TTL": "1h"});
        self.register_with(name, id, tags, Some(check)).await;
    }

    pub async fn register_with(&self, name: &str, id: &str, tags: &[&str], check: Option<Value>) {
        let mut body = serde_json::json!({
            "Name": name, "ID": id, "Tags": tags, "Address": "127.0.0.1", "Port": 4000, "Meta": {"version": "1"}
        });
        if let Some(check) = check {
            body["Checks"] = serde_json::json!([check]);
        }
        self.put("/v1/agent/service/register", &body.to_string()).await;
    }

    pub async fn set_check(&self, id: &str, verb: &str) {
        self.put(&format!("/v1/agent/check/{verb}/check:{id}"), "").await;
    }

    pub async fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), "").await;
    }

    pub fn settings(&self) -> ConsulCatalog {
        let endpoint = ConsulEndpoint {
            address: Some(self.address.to_string()),
            token: self.token.map(str::to_owned),
            wait: Some(Duration::from_secs(2)),
            ..ConsulEndpoint::default()
        };
        ConsulCatalog { endpoint, watch: true, exposed_by_default: false, ..ConsulCatalog::default() }
    }

    pub fn access(&self) -> Access {
        let (access, problems) = Access::read(&self.settings(), None, &|_| None);
        assert_eq!(problems, []);
        access.unwrap()
    }

    pub fn client(&self, connections_max: usize) -> Arc<Client> {
        Arc::new(Client::new(&self.access(), connections_max).unwrap())
    }

    /// How many connections of the client under test to the agent are open.
    pub fn connections(&self) -> usize {
        let remote = format!("0100007F:{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let local = |line: &'_ str| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().filter(|local| local.starts_with("0100007F:"));
            local.filter(|_| columns.next() == Some(&remote) && columns.next() == Some("01")).map(str::to_owned)
        };
        // The table changes while it is read, and may then show a line twice.
        table.lines().filter_map(local).collect::<BTreeSet<_>>().len()
    }
}

/// Held all at once, so that they differ.
fn free_ports() -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn consul_bin() -> PathBuf {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/consul/usr/bin/consul");
    let named = std::env::var_os("CONSUL_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join("consul")).find(|file| file.is_file())
    };
    let found = named.or_else(|| installed.is_file().then_some(installed)).or_else(on_path);
    found.expect("a Consul agent: set CONSUL_BIN, or run `make tools`")
}
