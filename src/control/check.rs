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
    /// For servers that speak HTTP/2 in clear and may speak nothing else.
    h2c: reqwest::Client,
}

impl Checker {
    /// Makes the clients. Certificates of servers are not judged here: a check asks whether the server answers.
    pub fn new() -> Result<Self, reqwest::Error> {
        let builder = |redirects| {
            reqwest::Client::builder()
                .redirect(redirects)
                .pool_max_idle_per_host(0)
                .danger_accept_invalid_certs(true)
                .no_proxy()
                .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            following: builder(reqwest::redirect::Policy::limited(REDIRECTS_MAX)).build()?,
            not_following: builder(reqwest::redirect::Policy::none()).build()?,
            h2c: builder(reqwest::redirect::Policy::none()).http2_prior_knowledge().build()?,
        })
    }

    fn client(&self, scheme: Scheme, follows_redirects: bool) -> &reqwest::Client {
        match scheme {
            Scheme::H2c => &self.h2c,
            _ if follows_redirects => &self.following,
            _ => &self.not_following,
        }
    }

    /// GETs `path` straight from `server`. `Ok` is the status it answered.
    pub async fn probe(&self, server: &Server, path: &str) -> Result<u16, String> {
        let address = server.address().ok_or_else(|| format!("{} is not resolved", server.host))?;
        let client = self.client(server.scheme, false);
        let request = client.get(url(server.scheme, address, path)).timeout(PROBE_TIMEOUT);
        request.send().await.map(|answer| answer.status().as_u16()).map_err(|error| root_cause(&error))
    }

    /// Makes one health check as the service declares it.
    async fn check(&self, server: &Server, check: &HealthCheck) -> Result<(), String> {
        let address = server.address().ok_or_else(|| format!("{} is not resolved", server.host))?;
        let address = SocketAddr::new(address.ip(), check.port.unwrap_or(address.port()));
        let method = http::Method::from_bytes(check.method.as_bytes()).map_err(|error| error.to_string())?;
        let scheme = check.scheme.unwrap_or(server.scheme);
        let path = if check.path.starts_with('/') { check.path.clone() } else { format!("/{}", check.path) };
        let client = self.client(scheme, check.follow_redirects);
        let mut request = client.request(method, url(scheme, address, &path)).timeout(check.timeout);
        if scheme != Scheme::H2c {
            // In HTTP/2 the target names the host, and a Host that contradicts it is malformed.
            request = request.header(http::header::HOST, check.hostname.as_deref().unwrap_or(&server.authority));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dynamic::Endpoint;
    use crate::health::Start;

    #[tokio::test]
    async fn a_canary_that_speaks_http_2_only_answers_its_probe() {
        crate::tls::install_crypto_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { scheme: Scheme::H2c, ..Endpoint::local(listener.local_addr().unwrap().port()) };
        let serve = tokio::spawn(async move {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let answer = http::Response::builder().status(204).body(()).unwrap();
                respond.send_response(answer, true).unwrap();
            }
        });
        let server = Server::new(&endpoint, clock::now(), Start::Established);
        assert_eq!(Checker::new().unwrap().probe(&server, "/").await, Ok(204));
        serve.abort();
    }
}
