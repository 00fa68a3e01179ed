//! Where Consul's agent is and what it must be told: `providers.consulCatalog.endpoint`, filled up from the variables
//! that every Consul client reads (`CONSUL_HTTP_ADDR` and its kin).
//!
//! What the file says wins over the environment, as in Traefik. Pure: the environment comes in as a lookup.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::blocking;
use crate::config::install::ConsulCatalog;
use crate::config::node::parse_bool;
use crate::config::problem::{At, Problem, Problems, has_error};

/// Where to ask when nobody says.
const ADDRESS_DEFAULT: &str = "127.0.0.1:8500";

/// How a variable of the environment is looked up.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A word that must not appear in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `word` out of logs.
    pub fn new(word: impl Into<String>) -> Self {
        Self(word.into())
    }

    /// The word itself, for whoever must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How up to date an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The leader answers.
    #[default]
    Leader,
    /// The leader asks the others first whether it still is one.
    Consistent,
    /// Any server answers.
    Stale,
}

/// How the agent is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is secured; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// The ACL token, if one was written.
    pub token: Option<Secret>,
    /// A file that holds the token, and wins over it: read at start and after each 403.
    pub token_file: Option<PathBuf>,
    /// User name and password of HTTP basic authentication.
    pub basic_auth: Option<(String, Secret)>,
    /// The datacenter asked for; the agent's own when `None`.
    pub datacenter: Option<String>,
    /// How up to date an answer must be.
    pub consistency: Consistency,
    /// Whether the agent may answer from its cache.
    pub is_cached: bool,
    /// How long a blocking query waits.
    pub wait: Duration,
}

/// What makes a connection to the agent secure.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tls {
    /// A PEM file of authorities; the system's when `None`.
    pub ca: Option<PathBuf>,
    /// A PEM file with our certificate.
    pub cert: Option<PathBuf>,
    /// Its key; the certificate's own file when `None`.
    pub key: Option<PathBuf>,
    /// Believe any certificate.
    pub is_unverified: bool,
}

impl Access {
    /// Reads it. `token_file` is the `tidegate:` section's; `None` is returned only beside an error among the problems.
    ///
    /// A token file of ours wins over `endpoint.token`, that over `CONSUL_HTTP_TOKEN_FILE`, and that over
    /// `CONSUL_HTTP_TOKEN`: the precedence of Consul's own client.
    pub fn read(catalog: &ConsulCatalog, token_file: Option<&Path>, environment: Environment<'_>) -> (Option<Self>, Problems) {
        let mut problems = Vec::new();
        let endpoint = &catalog.endpoint;
        let (at, address) = match (&endpoint.address, set(environment, "CONSUL_HTTP_ADDR")) {
            (Some(address), _) => (At::whole("providers.consulCatalog.endpoint.address"), address.clone()),
            (None, Some(address)) => (At::whole("environment CONSUL_HTTP_ADDR"), address),
            (None, None) => (At::default(), ADDRESS_DEFAULT.to_owned()),
        };
        let has_tls = wants_tls(catalog, environment, &mut problems);
        let place = parse_address(&address, has_tls, &at, &mut problems);
        let token = endpoint.token.clone().filter(|token| !token.is_empty());
        let token_file = match (token_file, &token) {
            (Some(file), _) => Some(file.to_owned()),
            (None, Some(_)) => None,
            (None, None) => set(environment, "CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from),
        };
        let tls = read_tls(catalog, environment, &mut problems);
        warn_of_ignored(environment, &mut problems);
        let Some(place) = place.filter(|_| !has_error(&problems)) else { return (None, problems) };
        let access = Self {
            host: place.host,
            port: place.port,
            tls: place.is_tls.then_some(tls),
            token: token.or_else(|| set(environment, "CONSUL_HTTP_TOKEN")).map(Secret::new),
            token_file,
            basic_auth: read_basic_auth(catalog, environment),
            datacenter: endpoint.datacenter.clone().filter(|name| !name.is_empty()),
            consistency: match (catalog.require_consistent, catalog.stale) {
                (true, _) => Consistency::Consistent,
                (false, true) => Consistency::Stale,
                (false, false) => Consistency::Leader,
            },
            is_cached: catalog.cache,
            wait: blocking::wait(endpoint.wait),
        };
        (Some(access), problems)
    }

    /// `host:port`, as the `Host` header wants it.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// A variable that is set to something.
fn set(environment: Environment<'_>, name: &str) -> Option<String> {
    environment(name).filter(|value| !value.is_empty())
}

/// A variable read as Go's `ParseBool` does.
fn set_bool(environment: Environment<'_>, name: &str, problems: &mut Problems) -> Option<bool> {
    let value = set(environment, name)?;
    let parsed = parse_bool(&value);
    if parsed.is_none() {
        let message = format!("`{name}` is `{value}`, but wants `true` or `false`");
        problems.push(Problem::error(&At::whole(format!("environment {name}")), message));
    }
    parsed
}

fn wants_tls(catalog: &ConsulCatalog, environment: Environment<'_>, problems: &mut Problems) -> bool {
    match catalog.endpoint.scheme.as_deref() {
        None | Some("") => set_bool(environment, "CONSUL_HTTP_SSL", problems).unwrap_or(false),
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => true,
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => false,
        Some(scheme) => {
            let at = At::whole("providers.consulCatalog.endpoint.scheme");
            problems.push(Problem::error(&at, format!("the scheme is `{scheme}`, but wants `http` or `https`")));
            false
        }
    }
}

/// Where to connect to.
#[derive(Debug, PartialEq)]
struct Place {
    host: String,
    port: u16,
    is_tls: bool,
}

/// Reads `[scheme://]host[:port]`. As for Consul's own client, `https://` asks for TLS and `http://` does not take it back.
fn parse_address(address: &str, has_tls: bool, at: &At, problems: &mut Problems) -> Option<Place> {
    let (is_tls, rest) = match address.split_once("://") {
        None | Some(("http", _)) => (has_tls, address.strip_prefix("http://").unwrap_or(address)),
        Some(("https", rest)) => (true, rest),
        Some(("unix", _)) => {
            let problem = Problem::error(at, format!("`{address}` is a Unix socket, over which the agent is not asked"));
            problems.push(problem.hint("let the agent listen on 127.0.0.1:8500 and write that"));
            return None;
        }
        Some((scheme, _)) => {
            let message = format!("`{address}` has the scheme `{scheme}`, but wants `http` or `https`");
            problems.push(Problem::error(at, message));
            return None;
        }
    };
    let port_default = if is_tls { 443 } else { 80 };
    let place = split_port(rest.trim_end_matches('/'), port_default);
    if place.is_none() {
        problems.push(Problem::error(at, format!("`{address}` is no address of an agent, which looks like `{ADDRESS_DEFAULT}`")));
    }
    place.map(|(host, port)| Place { host, port, is_tls })
}

fn split_port(text: &str, port_default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            match after.strip_prefix(':') {
                Some(port) => (host, port.parse().ok()?),
                None if after.is_empty() => (host, port_default),
                None => return None,
            }
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, port_default),
        },
    };
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    // An unbracketed host with a colon is an IPv6 address cut in the wrong place.
    (is_host && (text.starts_with('[') || !host.contains(':'))).then(|| (host.to_owned(), port))
}

fn read_tls(catalog: &ConsulCatalog, environment: Environment<'_>, problems: &mut Problems) -> Tls {
    let endpoint = &catalog.endpoint;
    let file = |written: &Option<PathBuf>, name: &str| written.clone().or_else(|| set(environment, name).map(PathBuf::from));
    let is_verified = set_bool(environment, "CONSUL_HTTP_SSL_VERIFY", problems).unwrap_or(true);
    Tls {
        ca: file(&endpoint.ca, "CONSUL_CACERT"),
        cert: file(&endpoint.cert, "CONSUL_CLIENT_CERT"),
        key: file(&endpoint.key, "CONSUL_CLIENT_KEY"),
        is_unverified: endpoint.insecure_skip_verify || !is_verified,
    }
}

fn read_basic_auth(catalog: &ConsulCatalog, environment: Environment<'_>) -> Option<(String, Secret)> {
    if let Some((user, password)) = &catalog.endpoint.basic_auth {
        return Some((user.clone(), Secret::new(password.clone())));
    }
    let auth = set(environment, "CONSUL_HTTP_AUTH")?;
    let (user, password) = auth.split_once(':').unwrap_or((&auth, ""));
    Some((user.to_owned(), Secret::new(password)))
}

/// Variables that other Consul clients obey and we do not.
const IGNORED: [(&str, &str); 4] = [
    ("CONSUL_NAMESPACE", "namespaces are Consul Enterprise's, and the default one is read"),
    ("CONSUL_PARTITION", "partitions are Consul Enterprise's, and the default one is read"),
    ("CONSUL_CAPATH", "write one file of authorities into CONSUL_CACERT"),
    ("CONSUL_TLS_SERVER_NAME", "the agent's certificate must name the address it is asked at"),
];

fn warn_of_ignored(environment: Environment<'_>, problems: &mut Problems) {
    for (name, reason) in IGNORED {
        if set(environment, name).is_some() {
            let at = At::whole(format!("environment {name}"));
            problems.push(Problem::warning(&at, format!("`{name}` is ignored")).hint(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::install::ConsulEndpoint;

    fn read(endpoint: ConsulEndpoint, variables: &[(&str, &str)]) -> (Option<Access>, Problems) {
        let catalog = ConsulCatalog { endpoint, ..ConsulCatalog::default() };
        let environment = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Access::read(&catalog, None, &environment)
    }

    /// Reads an address from the environment: `authority tls?`, or the first problem.
    #[track_caller]
    fn check(address: &str, variables: &[(&str, &str)], expected: &str) {
        let endpoint = ConsulEndpoint { address: (!address.is_empty()).then(|| address.to_owned()), ..ConsulEndpoint::default() };
        let (access, problems) = read(endpoint, variables);
        let found = match access {
            Some(access) => format!("{} {}", access.authority(), if access.tls.is_some() { "tls" } else { "plain" }),
            None => problems[0].to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn addresses_are_read_as_consuls_own_client_reads_them() {
        check("", &[], "127.0.0.1:8500 plain");
        check("consul.internal:8500", &[("CONSUL_HTTP_ADDR", "10.0.0.1:1")], "consul.internal:8500 plain");
        check("", &[("CONSUL_HTTP_ADDR", "http://10.0.0.1:8500/")], "10.0.0.1:8500 plain");
        check("", &[("CONSUL_HTTP_ADDR", "https://10.0.0.1:8501")], "10.0.0.1:8501 tls");
        check("", &[("CONSUL_HTTP_ADDR", "10.0.0.1:8501"), ("CONSUL_HTTP_SSL", "true")], "10.0.0.1:8501 tls");
        check("http://10.0.0.1:8501", &[("CONSUL_HTTP_SSL", "1")], "10.0.0.1:8501 tls");
        check("[::1]:8500", &[], "[::1]:8500 plain");
        check("[::1]", &[], "[::1]:80 plain");
        check("https://consul", &[], "consul:443 tls");
    }

    #[test]
    fn an_address_that_cannot_be_asked_says_why() {
        check(
            "",
            &[("CONSUL_HTTP_ADDR", "unix:///run/consul.sock")],
            "environment CONSUL_HTTP_ADDR: `unix:///run/consul.sock` is a Unix socket, over which the agent is not asked \
             (let the agent listen on 127.0.0.1:8500 and write that)",
        );
        let at = "providers.consulCatalog.endpoint.address:";
        check("ftp://x", &[], &format!("{at} `ftp://x` has the scheme `ftp`, but wants `http` or `https`"));
        let like = "is no address of an agent, which looks like `127.0.0.1:8500`";
        check("::1:8500", &[], &format!("{at} `::1:8500` {like}"));
        check("consul:port", &[], &format!("{at} `consul:port` {like}"));
        check("consul:8500/v1", &[], &format!("{at} `consul:8500/v1` {like}"));
        check(
            "",
            &[("CONSUL_HTTP_SSL", "yes")],
            "environment CONSUL_HTTP_SSL: `CONSUL_HTTP_SSL` is `yes`, but wants `true` or `false`",
        );
    }

    #[test]
    fn the_file_wins_over_the_environment_and_a_token_file_over_a_token() {
        let variables = [("CONSUL_HTTP_TOKEN", "from-env"), ("CONSUL_HTTP_TOKEN_FILE", "/env"), ("CONSUL_HTTP_AUTH", "me:a:b")];
        let (access, _) = read(ConsulEndpoint { token: Some("written".to_owned()), ..ConsulEndpoint::default() }, &variables);
        let access = access.unwrap();
        assert_eq!((access.token, access.token_file), (Some(Secret::new("written")), None));
        assert_eq!(access.basic_auth, Some(("me".to_owned(), Secret::new("a:b"))));
        let (access, _) = read(ConsulEndpoint::default(), &variables);
        assert_eq!(access.unwrap().token_file, Some(PathBuf::from("/env")));
        let (access, _) = Access::read(&ConsulCatalog::default(), Some(Path::new("/ours")), &|_| None);
        assert_eq!(access.unwrap().token_file, Some(PathBuf::from("/ours")));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let (access, _) = read(ConsulEndpoint { token: Some("hunter2".to_owned()), ..ConsulEndpoint::default() }, &[]);
        assert!(!format!("{access:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_ignored_is_named() {
        let (access, problems) = read(ConsulEndpoint::default(), &[("CONSUL_NAMESPACE", "team")]);
        assert!(access.is_some());
        assert_eq!(
            problems[0].to_string(),
            "environment CONSUL_NAMESPACE: `CONSUL_NAMESPACE` is ignored (namespaces are Consul Enterprise's, and the default one is read)"
        );
    }
}
