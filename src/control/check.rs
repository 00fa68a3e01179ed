//! Asks servers ourselves: the probe of a canary before its first user request, and the health checks that services declare.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock;
use crate::config::dynamic::{HealthCheck, Scheme};
use crate::routing::server::Server;

/// How long a probe waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Redirects that a health check follows at most, as in Go.
const REDIRECTS_MAX: usize = 10;

/// The clients that checks are made with.
#[derive(Clone, Debug)]
pub struct Checker {
    following: reqwest::Client,
    not_following: reqwest::Client,
}

impl Checker {
    /// Makes the clients. Certificates of servers are not judged here: a check asks whether the server answers.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = |redirects| {
            reqwest::Client::builder()
                .redirect(redirects)
                .pool_max_idle_per_host(0)
                .danger_accept_invalid_certs(true)
                .no_proxy()
                .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        Ok(Self {
            following: client(reqwest::redirect::Policy::limited(REDIRECTS_MAX))?,
            not_following: client(reqwest::redirect::Policy::none())?,
        })
    }

    /// GETs `path` straight from `server`. `Ok` is the status it answered.
    pub async fn probe(&self, server: &Server, path: &str) -> Result<u16, String> {
        let address = server.address().ok_or_else(|| format!("{} is not resolved", server.host))?;
        let request = self.not_following.get(url(server.scheme, address, path)).timeout(PROBE_TIMEOUT);
        request.send().await.map(|answer| answer.status().as_u16()).map_err(|error| root_cause(&error))
    }

    /// Makes one health check as the service declares it.
    async fn check(&self, server: &Server, check: &HealthCheck) -> Result<(), String> {
        let address = server.address().ok_or_else(|| format!("{} is not resolved", server.host))?;
        let address = SocketAddr::new(address.ip(), check.port.unwrap_or(address.port()));
        let method = http::Method::from_bytes(check.method.as_bytes()).map_err(|error| error.to_string())?;
        let client = if check.follow_redirects { &self.following } else { &self.not_following };
        let path = if check.path.starts_with('/') { check.path.clone() } else { format!("/{}", check.path) };
        let mut request =
            client.request(method, url(check.scheme.unwrap_or(server.scheme), address, &path)).timeout(check.timeout);
        let host = check.hostname.as_deref().unwrap_or(&server.authority);
        request = request.header(http::header::HOST, host);
        for (name, value) in &check.headers {
            request = request.header(name, value);
        }
        let status = request.send().await.map_err(|error| root_cause(&error))?.status().as_u16();
        let is_good = check.status.map_or((200..400).contains(&status), |wanted| status == wanted);
        if is_good { Ok(()) } else { Err(format!("received error status code: {status}")) }
    }
}

/// Checks `server` at the declared interval until it is gone or its service stops asking for it.
pub async fn follow(checker: Checker, server: Weak<Server>, check: Arc<HealthCheck>) {
    loop {
        let Some(server) = server.upgrade() else { return };
        let result = checker.check(&server, &check).await;
        let is_good = result.is_ok();
        if let Some(change) = server.set_checked(clock::now(), is_good) {
            tracing::warn!(server = server.url, error = result.err(), "{change}");
        }
        drop(server);
        let interval = if is_good { check.interval } else { check.unhealthy_interval.unwrap_or(check.interval) };
        tokio::time::sleep(interval).await;
    }
}

fn url(scheme: Scheme, address: SocketAddr, path: &str) -> String {
    let scheme = if scheme == Scheme::Https { "https" } else { "http" };
    format!("{scheme}://{address}{path}")
}

/// The innermost cause of a failed request, which is the one that tells something.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
