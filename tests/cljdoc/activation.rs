//! Socket activation: whoever starts us holds the listening socket, so that a restart refuses nobody.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tidegate::demo::instance::{Behaviour, Instance};

use crate::client::exchange;
use crate::process::{DEADLINE, Process, until};

/// Visitors at the same time, each with a new connection for each request.
const VISITORS: usize = 4;

/// The part of systemd: the socket of the entrypoint `web`, and a place to be told how we are.
struct Systemd {
    folder: tempfile::TempDir,
    socket: TcpListener,
    told: UnixDatagram,
}

impl Systemd {
    fn new(server: std::net::SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dynamic = folder.path().join("dynamic.yaml");
        let install = format!(
            "entryPoints: {{ web: {{ address: \":80\" }} }}\nproviders: {{ file: {{ filename: \"{}\" }} }}\nlog: {{ filePath: \"{}\" }}\n",
            dynamic.display(),
            folder.path().join("log").display()
        );
        std::fs::write(folder.path().join("traefik.yaml"), install).unwrap();
        let routes = format!(
            "http:\n  routers: {{ all: {{ rule: \"PathPrefix(`/`)\", service: site }} }}\n  services:\n    site: {{ loadBalancer: \
             {{ servers: [{{ url: \"http://{server}\" }}] }} }}\n"
        );
        std::fs::write(dynamic, routes).unwrap();
        let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        told.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { folder, socket: TcpListener::bind("127.0.0.1:0").unwrap(), told }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the service as systemd does: the socket is descriptor 3, and the variables name the process itself. A shell moves
    /// the descriptor there; `exec` keeps its process id.
    fn start(&self) -> Process {
        let socket = self.socket.try_clone().unwrap();
        let script = "LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null";
        let process = Process::start(
            Command::new("sh")
                .args(["-c", script, "sh", env!("CARGO_BIN_EXE_tidegate")])
                .arg(configured(&self.path("traefik.yaml")))
                .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "web")])
                .env("NOTIFY_SOCKET", self.path("notify"))
                .stdin(std::os::fd::OwnedFd::from(socket)),
        );
        self.hears("READY=1");
        process
    }

    /// Waits until it is told so.
    #[track_caller]
    fn hears(&self, state: &str) {
        let mut message = [0; 256];
        let length = self.told.recv(&mut message).unwrap_or_else(|error| panic!("waited for {state}: {error}"));
        assert_eq!(String::from_utf8_lossy(&message[..length]).trim(), state);
    }
}

fn configured(path: &Path) -> String {
    format!("--configFile={}", path.display())
}

#[derive(Default)]
struct Visits {
    good: AtomicUsize,
    is_over: AtomicBool,
}

/// Asks for pages until told to stop; what went wrong, if anything did.
async fn visit(port: u16, visits: Arc<Visits>) -> Result<(), String> {
    while !visits.is_over.load(Ordering::Relaxed) {
        let answer = exchange(port, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
        match answer {
            Ok(text) if text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("</p>\n") => {
                visits.good.fetch_add(1, Ordering::Relaxed);
            }
            other => return Err(format!("after {} good answers: {other:?}", visits.good.load(Ordering::Relaxed))),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_under_systemd_refuses_no_connection() {
    let instance = Instance::start("1", Behaviour::Good(Duration::ZERO)).await.unwrap();
    let systemd = Systemd::new(instance.address);
    let port = systemd.socket.local_addr().unwrap().port();
    let visits = Arc::new(Visits::default());
    // They come before we are there: systemd's socket makes them wait.
    let visitors: Vec<_> = (0..VISITORS).map(|_| tokio::spawn(visit(port, Arc::clone(&visits)))).collect();
    let mut service = tokio::task::block_in_place(|| systemd.start());
    for _ in 0..3 {
        let seen = visits.good.load(Ordering::Relaxed);
        until("visitors to be served", async || (visits.good.load(Ordering::Relaxed) >= seen + 50).then_some(())).await;
        service.signal(Signal::TERM);
        tokio::task::block_in_place(|| systemd.hears("STOPPING=1"));
        assert_eq!(service.ended().await.code(), Some(0));
        service = tokio::task::block_in_place(|| systemd.start());
    }
    visits.is_over.store(true, Ordering::Relaxed);
    for visitor in visitors {
        assert_eq!(visitor.await.unwrap(), Ok(()));
    }
}
