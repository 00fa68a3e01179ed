//! Where a server is: from a URL, from `host:port`, or from an instance's address and what its tags add.

use super::{Endpoint, Scheme};

/// A place that can be dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// An address or a name, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands behind the authority.
    pub path: String,
}

impl Location {
    /// An endpoint of which nothing else is known.
    pub fn endpoint(self, weight: u32, preserve_path: bool) -> Endpoint {
        Endpoint {
            scheme: self.scheme,
            host: self.host,
            port: self.port,
            path: self.path,
            preserve_path,
            weight,
            instance: None,
            version: None,
            track: None,
            is_passing: true,
        }
    }

    /// Reads a server's URL. `Err` says what was expected.
    pub fn parse_url(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("`{text}` is no URL such as `http://10.0.0.1:8080`"));
        };
        let scheme = scheme_http(scheme).ok_or_else(|| format!("`{text}` wants `http`, `https` or `h2c` before `://`"))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(format!("`{text}` has a user name, which is not passed on"));
        }
        let port = if scheme == Scheme::Https { 443 } else { 80 };
        let (host, port) = host_and_port(authority, Some(port)).ok_or_else(|| format!("`{text}` wants a host and a port"))?;
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Ok(Self { scheme, host, port, path: path.to_owned() })
    }

    /// Reads a TCP server's `host:port`. `Err` says what was expected.
    pub fn parse_address(text: &str, scheme: Scheme) -> Result<Self, String> {
        let (host, port) = host_and_port(text, None).ok_or_else(|| format!("`{text}` is no address such as `10.0.0.1:5432`"))?;
        Ok(Self { scheme, host, port, path: String::new() })
    }
}

/// `http`, `https` or `h2c`, in any case as in URLs.
pub(super) fn scheme_http(text: &str) -> Option<Scheme> {
    match text.to_ascii_lowercase().as_str() {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        "h2c" => Some(Scheme::H2c),
        _ => None,
    }
}

/// Splits `host:port`, `[::1]:port` or, where a port is implied, `host`.
fn host_and_port(text: &str, implied: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |c: char| !c.is_whitespace() && !c.is_control();
    if host.is_empty() || !host.chars().all(is_name) {
        return None;
    }
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => implied?,
    };
    Some((host.to_owned(), port))
}

/// What an instance's tags say of its server; the instance adds its address and port.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTemplate {
    /// `server.scheme`, or `tcp` and `tls`.
    pub scheme: Scheme,
    /// `server.port` instead of the registered one.
    pub port: Option<u16>,
    /// `server.url` instead of everything.
    pub url: Option<Location>,
    /// `server.weight`.
    pub weight: u32,
    /// `server.preservepath`.
    pub preserve_path: bool,
}

impl ServerTemplate {
    /// A server of which the tags say nothing.
    pub fn plain(scheme: Scheme) -> Self {
        Self { scheme, port: None, url: None, weight: 1, preserve_path: false }
    }

    /// The endpoint of an instance at `address`, registered with `port`. `None` when there is no address to dial.
    pub fn endpoint(&self, address: &str, port: u16) -> Option<Endpoint> {
        let location = match &self.url {
            Some(url) => url.clone(),
            None if address.is_empty() => return None,
            None => {
                let (host, port) = (address.to_owned(), self.port.unwrap_or(port));
                Location { scheme: self.scheme, host, port, path: String::new() }
            }
        };
        Some(location.endpoint(self.weight, self.preserve_path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, url: &str) {
        let found = Location::parse_url(text).map(|location| location.endpoint(1, false).url());
        assert_eq!(found.unwrap_or_else(|message| message), url);
    }

    #[test]
    fn reads_the_urls_people_write() {
        check("http://10.0.0.1:8080", "http://10.0.0.1:8080");
        check("https://backend.internal", "https://backend.internal:443");
        check("HTTP://a/base/?x=1", "http://a:80/base/");
        check("h2c://[::1]:50051", "h2c://[::1]:50051");
    }

    #[test]
    fn says_what_a_url_wants() {
        check("10.0.0.1:8080", "`10.0.0.1:8080` is no URL such as `http://10.0.0.1:8080`");
        check("ftp://a", "`ftp://a` wants `http`, `https` or `h2c` before `://`");
        for wrong in ["http://", "http://a:b", "http://a b", "http://[::1", "http://[x]:1", "http://a:70000", "http://:80"] {
            check(wrong, &format!("`{wrong}` wants a host and a port"));
        }
    }

    #[test]
    fn a_tcp_address_wants_a_port() {
        assert!(Location::parse_address("db:5432", Scheme::Tcp).is_ok());
        assert!(Location::parse_address("db", Scheme::Tcp).is_err());
    }

    #[test]
    fn an_instance_without_address_has_no_server() {
        assert_eq!(ServerTemplate::plain(Scheme::Http).endpoint("", 80), None);
        let endpoint = ServerTemplate { port: Some(9), ..ServerTemplate::plain(Scheme::Https) }.endpoint("::1", 80);
        assert_eq!(endpoint.map(|endpoint| endpoint.url()).as_deref(), Some("https://[::1]:9"));
    }
}
