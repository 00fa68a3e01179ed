//! What both proxies serve: one Consul with the instances of `site/instances.toml`, the servers, and the same files for both.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate::clock;
use tokio::time::{Duration, interval};

use crate::DEADLINE;
use crate::case::{self, Condition};
use crate::server::Servers;

/// The entrypoints of `site/install.yaml`.
const ENTRYPOINTS: [&str; 10] =
    ["web", "websecure", "trusted", "redirecting", "guarded", "secured", "jmx", "tcptls", "mixed", "traefik"];
/// Another program may take a port between our look and its use.
const START_TRIES: usize = 3;

/// Everything that runs.
pub struct Site {
    /// Where everything of this run is.
    pub folder: PathBuf,
    pub servers: Servers,
    pub traefik: Proxy,
    pub tidegate: Proxy,
    _consul: Running,
}

/// A proxy under comparison.
pub struct Proxy {
    /// Where its files are, and its working directory.
    pub folder: PathBuf,
    ports: BTreeMap<&'static str, u16>,
    _process: Running,
}

/// A process that ends with its handle, also when a test panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Site {
    pub async fn start() -> Self {
        tidegate::tls::install_crypto_provider();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conformance");
        // What an earlier run left.
        let _ = std::fs::remove_dir_all(&folder);
        let servers = Servers::start().await;
        let (consul, consul_port) = start_consul().await;
        let mut texts: BTreeMap<String, String> =
            servers.ports().map(|(name, port)| (name.to_owned(), port.to_string())).collect();
        texts.insert("consul".to_owned(), consul_port.to_string());
        register_all(consul_port, &texts).await;
        let tidegate = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
        let traefik = program("TRAEFIK_BIN", "traefik/traefik");
        let certificates = certificates();
        let traefik = Proxy::start(&traefik, &folder.join("traefik"), &texts, &certificates).await;
        let tidegate = Proxy::start(&tidegate, &folder.join("tidegate"), &texts, &certificates).await;
        Self { folder, servers, traefik, tidegate, _consul: consul }
    }
}

impl Proxy {
    async fn start(program: &Path, folder: &Path, texts: &BTreeMap<String, String>, certificates: &[(String, String)]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in certificates {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let ports: BTreeMap<&str, u16> = ENTRYPOINTS.into_iter().zip(free_ports::<{ ENTRYPOINTS.len() }>()).collect();
            let mut texts = texts.clone();
            texts.extend(ports.iter().map(|(name, port)| ((*name).to_owned(), port.to_string())));
            for name in ["install.yaml", "dynamic.yaml"] {
                let text = std::fs::read_to_string(case::folder().join("site").join(name)).unwrap();
                std::fs::write(folder.join(name), fill(&text, &texts)).unwrap();
            }
            let output = std::fs::File::create(folder.join("output.log")).unwrap();
            let mut command = Command::new(program);
            command.arg("--configFile=install.yaml").current_dir(folder).stdin(Stdio::null());
            let process = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().expect("the proxy starts");
            let mut proxy = Self { folder: folder.to_owned(), ports, _process: Running(process) };
            if proxy.is_ready().await {
                return proxy;
            }
            let output = std::fs::read_to_string(folder.join("output.log")).unwrap();
            assert!(tries < START_TRIES, "{} does not come up:\n{output}", program.display());
        }
    }

    /// Waits for routes of both providers; false when the process ended.
    async fn is_ready(&mut self) -> bool {
        let deadline = clock::now() + DEADLINE;
        let mut pause = interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            if self._process.0.try_wait().unwrap().is_some() || clock::now() > deadline {
                return false;
            }
            let rawdata = self.api("/api/rawdata").await.unwrap_or_default();
            if ["\"plain@file\"", "\"last@consulcatalog\""].iter().all(|name| rawdata.contains(name)) {
                return true;
            }
        }
    }

    pub fn port(&self, entrypoint: &str) -> u16 {
        *self.ports.get(entrypoint).unwrap_or_else(|| panic!("no entrypoint {entrypoint}"))
    }

    /// What a path of the API's entrypoint answers.
    pub async fn api(&self, path: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port("traefik"));
        http().get(url).send().await.ok()?.text().await.ok()
    }

    /// Waits until the API says something.
    pub async fn wait_for_api(&self, condition: &Condition) {
        let deadline = clock::now() + DEADLINE;
        let mut pause = interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            let said = self.api(&condition.api).await.unwrap_or_default();
            if said.contains(&condition.says) {
                return;
            }
            assert!(
                clock::now() < deadline,
                "{} of {} never says {}: {said}",
                condition.api,
                self.folder.display(),
                condition.says
            );
        }
    }

    /// An observation with this proxy's own ports replaced by the names of their entrypoints.
    pub fn normalise(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.name_ports(text)),
            Value::Array(list) => list.into_iter().map(|value| self.normalise(value)).collect(),
            Value::Object(map) => {
                Value::Object(map.into_iter().map(|(key, value)| (self.name_ports(key), self.normalise(value))).collect())
            }
            other => other,
        }
    }

    fn name_ports(&self, mut text: String) -> String {
        for (name, port) in &self.ports {
            if text == port.to_string() {
                return format!("({name})");
            }
            let port = format!(":{port}");
            if text.contains(&port) {
                text = text.replace(&port, &format!(":({name})"));
            }
        }
        text
    }
}

/// A client for Consul and for the proxies' API.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn start_consul() -> (Running, u16) {
    let ports: [u16; 4] = free_ports();
    let [http_port, server, lan, wan] = ports.map(|port| port.to_string());
    let mut command = Command::new(program("CONSUL_BIN", "consul/usr/bin/consul"));
    command.args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-node", "real", "-log-level", "err"]);
    command.args(["-http-port", &http_port, "-server-port", &server, "-serf-lan-port", &lan, "-serf-wan-port", &wan]);
    command.args(["-dns-port", "-1", "-grpc-port", "-1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("consul starts"));
    let deadline = clock::now() + DEADLINE;
    let mut pause = interval(Duration::from_millis(20));
    loop {
        pause.tick().await;
        let asked = http().get(format!("http://127.0.0.1:{}/v1/health/service/consul?passing", ports[0])).send().await;
        // A leader that has registered itself.
        if let Ok(answer) = asked
            && answer.text().await.is_ok_and(|text| text.len() > 10)
        {
            return (running, ports[0]);
        }
        assert!(clock::now() < deadline, "consul does not come up");
    }
}

/// One instance of `site/instances.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    service: String,
    /// The server that it is.
    server: String,
    /// As Consul's check says; without one there is no check.
    check: Option<String>,
    tags: Vec<String>,
}

async fn register_all(consul: u16, texts: &BTreeMap<String, String>) {
    #[derive(Deserialize)]
    struct File {
        instance: Vec<Instance>,
    }
    let text = std::fs::read_to_string(case::folder().join("site/instances.toml")).unwrap();
    let file: File = toml::from_str(&fill(&text, texts)).unwrap();
    let http = http();
    for (number, instance) in file.instance.into_iter().enumerate() {
        let port: u16 = texts[&instance.server].parse().unwrap();
        let mut body = json!({
            "Name": instance.service,
            "ID": format!("{}-{number}", instance.service),
            "Tags": instance.tags,
            "Address": "127.0.0.1",
            "Port": port,
        });
        if let Some(status) = instance.check {
            body["Checks"] = json!([{ "TTL": "1h", "Status": status }]);
        }
        let put =
            http.put(format!("http://127.0.0.1:{consul}/v1/agent/service/register")).body(body.to_string()).send().await.unwrap();
        assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    }
}

/// Replaces `@name@` by what it means.
fn fill(text: &str, texts: &BTreeMap<String, String>) -> String {
    let mut filled = text.to_owned();
    for (name, value) in texts {
        filled = filled.replace(&format!("@{name}@"), value);
    }
    filled
}

/// The certificates that `site/dynamic.yaml` names, and their keys, by file name.
fn certificates() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for (file, names) in [
        ("exact", vec!["cert.test"]),
        ("wild", vec!["*.wild.test"]),
        ("both", vec!["both.test", "deep.wild.test", "modern.test", "old.test"]),
    ] {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, names[0].clone());
        let key = rcgen::KeyPair::generate().unwrap();
        files.push((format!("{file}.pem"), params.self_signed(&key).unwrap().pem()));
        files.push((format!("{file}.key"), key.serialize_pem()));
    }
    files
}

/// Held all at once, so that they differ.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A foreign program: where a variable says, or in the folder of the project's tools.
fn program(variable: &str, installed: &str) -> PathBuf {
    let named = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools").join(installed));
    assert!(found.is_file(), "set {variable}, or run `make tools`");
    found
}
