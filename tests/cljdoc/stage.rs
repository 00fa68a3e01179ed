//! cljdoc's machine: Consul with one instance as Nomad registers it, Pebble as the CA, a folder for `/data`, and whichever
//! proxy is started on them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::demo::instance::{Behaviour, Instance};
use tidegate::tls::install_crypto_provider;

use crate::client::Browser;
use crate::process::{Process, free_ports, program, until};

/// As cljdoc's deploy step writes it.
const INSTALL: &str = include_str!("traefik.yaml");
/// As Nomad registers it.
const SERVICE: &str = include_str!("service.json");
/// The tests of one process have machines of their own; their agents need different names.
static MACHINES: AtomicUsize = AtomicUsize::new(0);

/// Where the proxy listens.
pub struct Ports {
    pub web: u16,
    pub websecure: u16,
    pub jmx: u16,
    pub admin: u16,
}

pub struct Stage {
    pub folder: TempDir,
    pub ports: Ports,
    pub instance: Instance,
    pub browser: Browser,
    pub http: reqwest::Client,
    consul: String,
    pub agent: Process,
    // They are asked for as long as they run.
    _names: Process,
    _pebble: Process,
}

impl Stage {
    pub async fn set() -> Self {
        install_crypto_provider();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [web, websecure, jmx, admin] = free_ports().await;
        let ports = Ports { web, websecure, jmx, admin };
        let (agent, consul) = start_consul(&http).await;
        let [names_port] = free_ports().await;
        let names = Process::start(
            Command::new(program("PEBBLE_CHALLTESTSRV_BIN", "pebble/usr/bin/pebble-challtestsrv"))
                .args(["-dnsserver", &format!("127.0.0.1:{names_port}"), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", ""])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let (pebble, directory, root) = start_pebble(folder.path(), names_port, ports.web).await;
        write_install(folder.path(), &ports, &directory);
        let instance = Instance::start("1", Behaviour::Good(std::time::Duration::ZERO)).await.unwrap();
        let browser = Browser::new(root, ports.websecure);
        let stage = Self { folder, ports, instance, browser, http, consul, agent, _names: names, _pebble: pebble };
        stage.register_cljdoc().await;
        stage
    }

    /// A file of `/data`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// How many certificates the CA was asked for.
    pub fn orders(&self) -> usize {
        self.read("pebble.log").matches("Added order").count()
    }

    /// A program with the machine's environment and the install file.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(format!("--configFile={}", self.path("traefik.yaml").display()));
        command.env("CONSUL_HTTP_ADDR", &self.consul).env("LEGO_CA_CERTIFICATES", self.path("pebble-ca.pem"));
        command
    }

    /// Tidegate, once it says that it is ready.
    pub async fn tidegate(&self) -> Process {
        self.proxy(&mut self.command(env!("CARGO_BIN_EXE_tidegate"), &[])).await
    }

    /// Traefik on the same files, once it serves the site.
    pub async fn traefik(&self) -> Process {
        let traefik = self.proxy(&mut self.command(program("TRAEFIK_BIN", "traefik/traefik"), &[])).await;
        // Unlike Tidegate it listens before it knows a route.
        until("Traefik to serve the site", async || self.browser.try_get("/", &[]).await.ok().filter(|page| page.status == 200))
            .await;
        traefik
    }

    async fn proxy(&self, command: &mut Command) -> Process {
        let mut process = Process::start(command);
        until("the proxy to be ready", async || {
            assert!(process.is_running(), "it ended: {}", self.read("traefik.log"));
            self.admin("/ping").await.filter(|(status, _)| *status == 200)
        })
        .await;
        process
    }

    /// Status and text of what the proxy's operator asks for.
    pub async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.http.get(format!("http://127.0.0.1:{}{path}", self.ports.admin)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// What the API says.
    pub async fn api(&self, path: &str) -> Value {
        let (status, text) = self.admin(path).await.expect("the API answers");
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The certificate's serial number, once the site answers with one of the CA.
    pub async fn certificate(&self) -> String {
        until("a certificate for the site", async || self.browser.try_get("/", &[]).await.ok()).await.serial
    }

    /// The last line of the access log about a path.
    pub async fn logged(&self, path: &str) -> Value {
        until("a line of the access log", async || {
            let lines = self.read("access.log");
            let mut values = lines.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            values.find(|line| line["RequestPath"] == path)
        })
        .await
    }

    async fn register_cljdoc(&self) {
        let mut service: Value = serde_json::from_str(SERVICE).unwrap();
        let (web, jmx) = (self.instance.address, self.instance.jmx.port().to_string());
        let tags = service["tags"].as_array_mut().unwrap();
        assert_eq!(tags.len(), 21);
        for tag in tags {
            *tag = tag.as_str().unwrap().replace("${NOMAD_HOST_PORT_jmx}", &jmx).into();
        }
        self.register(&json!({
            "Name": service["name"], "ID": "_nomad-task-7d0b1c1e-0000-backend-cljdoc-http",
            "Tags": service["tags"], "Meta": service["meta"], "Address": "127.0.0.1", "Port": web.port(),
            "Check": { "TCP": web, "Interval": "1s", "Timeout": "2s" },
        }))
        .await;
        let url = format!("http://{}/v1/health/service/cljdoc?passing", self.consul);
        until("Consul to call the instance passing", async || {
            let list: Value = self.http.get(&url).send().await.ok()?.json().await.ok()?;
            list.as_array().filter(|list| !list.is_empty()).map(drop)
        })
        .await;
    }

    pub async fn register(&self, service: &Value) {
        let url = format!("http://{}/v1/agent/service/register", self.consul);
        let answer = self.http.put(url).body(service.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// What the proxy and the CA said is shown beside a failure.
impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["traefik.log", "pebble.log"] {
                eprintln!("--- {name}\n{}", self.read(name));
            }
        }
    }
}

/// cljdoc's file with this machine's ports, paths and CA, and with metrics.
fn write_install(folder: &Path, ports: &Ports, directory: &str) {
    let mut text = INSTALL.to_owned();
    let mut replace = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    };
    replace("\":80\"", &format!("\"127.0.0.1:{}\"", ports.web));
    replace("\":443\"", &format!("\"127.0.0.1:{}\"", ports.websecure));
    replace("\":9010\"", &format!("\"127.0.0.1:{}\"", ports.jmx));
    replace("/data/", &format!("{}/", folder.display()));
    replace("https://acme-v02.api.letsencrypt.org/directory", directory);
    replace("entryPoints:\n", &format!("entryPoints:\n  traefik:\n    address: \"127.0.0.1:{}\"\n", ports.admin));
    text.push_str("metrics:\n  prometheus: {}\n");
    text.push_str(&format!("tidegate:\n  state: {}/state\n", folder.display()));
    std::fs::write(folder.join("traefik.yaml"), text).unwrap();
}

async fn start_consul(http: &reqwest::Client) -> (Process, String) {
    let [port, server, lan, wan] = free_ports().await.map(|port: u16| port.to_string());
    let node = format!("cljdoc-{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
    let process = Process::start(
        Command::new(program("CONSUL_BIN", "consul/usr/bin/consul"))
            .args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-node", &node, "-log-level", "err"])
            .args(["-http-port", &port, "-server-port", &server, "-serf-lan-port", &lan, "-serf-wan-port", &wan])
            .args(["-dns-port", "-1", "-grpc-port", "-1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let address = format!("127.0.0.1:{port}");
    let url = format!("http://{address}/v1/health/service/consul?passing");
    until("Consul to have a leader", async || {
        let list: Value = http.get(&url).send().await.ok()?.json().await.ok()?;
        list.as_array().filter(|list| !list.is_empty()).map(drop)
    })
    .await;
    (process, address)
}

/// A Pebble that believes what `names_port` says of names and asks for challenges at `web`. Where its directory is, and the root of
/// the certificates that it gives.
async fn start_pebble(folder: &Path, names_port: u16, web: u16) -> (Process, String, CertificateDer<'static>) {
    let [port, management] = free_ports().await;
    write_own_certificate(folder);
    let config = json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{port}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": folder.join("pebble.pem"),
        "privateKey": folder.join("pebble.key"),
        "httpPort": web,
        "tlsPort": 1,
    }});
    std::fs::write(folder.join("pebble.json"), config.to_string()).unwrap();
    let process = Process::start(
        Command::new(program("PEBBLE_BIN", "pebble/usr/bin/pebble"))
            .arg("-config")
            .arg(folder.join("pebble.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{names_port}")])
            .envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")])
            .stdout(std::fs::File::create(folder.join("pebble.log")).unwrap()),
    );
    let ca = reqwest::Certificate::from_pem(&std::fs::read(folder.join("pebble-ca.pem")).unwrap()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let url = format!("https://127.0.0.1:{management}/roots/0");
    let root = until("Pebble's root", async || http.get(&url).send().await.ok()?.bytes().await.ok()).await;
    (process, format!("https://127.0.0.1:{port}/dir"), CertificateDer::from_pem_slice(&root).unwrap())
}

/// What Pebble's own HTTPS shows, and the CA behind it.
fn write_own_certificate(folder: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(folder.join("pebble-ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("pebble.pem"), own.pem()).unwrap();
    std::fs::write(folder.join("pebble.key"), key.serialize_pem()).unwrap();
}
