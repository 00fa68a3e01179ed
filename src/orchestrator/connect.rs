//! How connections to Nomad are made: over TCP, TLS or a socket, with the certificates that the settings name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use reqwest::Url;

use super::access::{Access, Place, Tls};

/// How long connecting may take, name lookup and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The silence after which the kernel asks whether the agent's host is still there.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A token file larger than this is none.
const TOKEN_BYTES_MAX: u64 = 16 << 10;
/// So many connections are kept for the next question.
const IDLE_MAX: usize = 4;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A file that the settings name cannot be read.
    #[error("{what} `{}` cannot be read", path.display())]
    File {
        /** What it is for. */
        what: &'static str,
        /** Which. */
        path: PathBuf,
        /** Why. */
        source: std::io::Error,
    },
    /// A file that the settings name does not hold what it should.
    #[error("{what} `{}` holds nothing usable", path.display())]
    Content {
        /** What it is for. */
        what: &'static str,
        /** Which. */
        path: PathBuf,
        /** What is wrong. */
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The library refuses the settings.
    #[error("connections to nomad cannot be set up")]
    Refused(#[from] reqwest::Error),
}

/// What makes connections, and what every path is appended to.
pub(super) fn build(access: &Access) -> Result<(reqwest::Client, Url), SetUpError> {
    let (builder, base) = place(reqwest::Client::builder(), access);
    let http = secure(builder, &access.tls)?
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .pool_max_idle_per_host(IDLE_MAX)
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok((http, base))
}

/// Where to connect to, and as what to ask there.
fn place(builder: reqwest::ClientBuilder, access: &Access) -> (reqwest::ClientBuilder, Url) {
    match &access.place {
        Place::Socket(path) => (builder.unix_socket(path.as_path()), local()),
        Place::Web(url) => match (&access.tls.server_name, url.host_str()) {
            (Some(name), Some(host)) if url.scheme() == "https" => {
                let mut named = url.clone();
                let elsewhere = Elsewhere(Arc::from(host.trim_matches(['[', ']'])));
                if named.set_host(Some(name)).is_ok() { (builder.dns_resolver(elsewhere), named) } else { (builder, url.clone()) }
            }
            _ => (builder, url.clone()),
        },
    }
}

/// What a socket is asked as: a name is wanted, and means nothing.
#[expect(clippy::expect_used, reason = "a constant that the tests read")]
fn local() -> Url {
    Url::parse("http://localhost").expect("a right address")
}

/// Finds the host whose certificate carries another name.
struct Elsewhere(Arc<str>);

impl reqwest::dns::Resolve for Elsewhere {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((&*host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

fn secure(mut builder: reqwest::ClientBuilder, tls: &Tls) -> Result<reqwest::ClientBuilder, SetUpError> {
    if let Some(path) = &tls.ca {
        let what = "CA file";
        let found = reqwest::Certificate::from_pem_bundle(&read_file(what, path)?);
        let found = found.map_err(|source| SetUpError::Content { what, path: path.clone(), source: source.into() })?;
        if found.is_empty() {
            let source = "there is no certificate in it".into();
            return Err(SetUpError::Content { what, path: path.clone(), source });
        }
        builder = builder.tls_certs_only(found);
    }
    if let Some((cert, key)) = &tls.client_certificate {
        let what = "client certificate";
        let mut pem = read_file(what, cert)?;
        pem.push(b'\n');
        pem.extend(read_file("client key", key)?);
        let identity = reqwest::Identity::from_pem(&pem);
        builder = builder.identity(identity.map_err(|source| SetUpError::Content {
            what,
            path: cert.clone(),
            source: source.into(),
        })?);
    }
    Ok(builder.tls_danger_accept_invalid_certs(tls.is_unverified))
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, SetUpError> {
    std::fs::read(path).map_err(|source| SetUpError::File { what, path: path.to_owned(), source })
}

/// Reads a token file.
pub(super) fn read_token(path: &Path) -> Result<HeaderValue, SetUpError> {
    let what = "token file";
    let file = |source| SetUpError::File { what, path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(file)?.len() > TOKEN_BYTES_MAX {
        return Err(file(std::io::Error::other(format!("it is larger than {TOKEN_BYTES_MAX} bytes"))));
    }
    let text = std::fs::read_to_string(path).map_err(file)?;
    let token = HeaderValue::from_str(text.trim());
    let mut token = token.map_err(|source| SetUpError::Content { what, path: path.to_owned(), source: source.into() })?;
    token.set_sensitive(true);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::install::NomadSettings;

    #[track_caller]
    fn check(address: &str, server_name: Option<&str>, asked: &str) {
        let server_name = server_name.map(str::to_owned);
        let settings = NomadSettings { address: Some(address.to_owned()), server_name, ..NomadSettings::default() };
        let access = Access::read(&settings, &|_| None).0.unwrap();
        assert_eq!(place(reqwest::Client::builder(), &access).1.as_str(), asked);
    }

    #[test]
    fn the_name_of_the_certificate_is_asked_where_the_address_says() {
        check("http://10.0.0.1:4646", None, "http://10.0.0.1:4646/");
        check("https://10.0.0.1:4646", Some("server.global.nomad"), "https://server.global.nomad:4646/");
        check("https://[::1]:4646", Some("server.global.nomad"), "https://server.global.nomad:4646/");
        // Without TLS there is no certificate.
        check("http://10.0.0.1:4646", Some("server.global.nomad"), "http://10.0.0.1:4646/");
        check("unix:///secrets/api.sock", Some("server.global.nomad"), "http://localhost/");
    }
}
