//! Where Nomad is and what it must be told: `tidegate.nomad`, filled up from the variables that Nomad's own command reads
//! (`NOMAD_ADDR` and its kin).
//!
//! What the file says wins over the environment, and a variable that is empty is not set. Pure but for one look beside a
//! socket: the environment comes in as a lookup.

use std::path::{Path, PathBuf};

use base64::Engine;
use http::HeaderValue;
use reqwest::Url;

use crate::config::install::NomadSettings;
use crate::config::node::parse_bool;
use crate::config::problem::{At, Problem, Problems, has_error};

/// Where to ask when nobody says.
const ADDRESS_DEFAULT: &str = "http://127.0.0.1:4646";
/// A stream is held, and lists are read, for each namespace that is named.
pub const NAMESPACES_MAX: usize = 16;

/// How a variable of the environment is looked up.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// How Nomad is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Where.
    pub place: Place,
    /// How the connection is secured, where `place` says `https`.
    pub tls: Tls,
    /// The ACL token, as a header that does not show itself.
    pub token: Option<HeaderValue>,
    /// A file that holds the token, and wins over it: read at start and after each refusal.
    pub token_file: Option<PathBuf>,
    /// HTTP basic authentication, as a header that does not show itself.
    pub basic_auth: Option<HeaderValue>,
    /// The region asked for; the agent's own when `None`.
    pub region: Option<String>,
    /// The namespaces asked for; every one that the token may read when empty.
    pub namespaces: Vec<String>,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// `http://` or `https://`, a host, perhaps a port.
    Web(Url),
    /// A socket: the task API, which wants a token always, and any will do without access control.
    Socket(PathBuf),
}

/// What makes a connection secure.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tls {
    /// A PEM file of authorities; the system's when `None`.
    pub ca: Option<PathBuf>,
    /// PEM files with our certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Believe any certificate.
    pub is_unverified: bool,
    /// The name that the certificate must carry, such as `server.global.nomad`; the address's when `None`.
    pub server_name: Option<String>,
}

impl Access {
    /// Reads it. `None` is returned only beside an error among the problems.
    ///
    /// `NOMAD_NAMESPACE` is not read: inside a task it names the task's own namespace, which says nothing of whose traffic we carry.
    pub fn read(settings: &NomadSettings, environment: Environment<'_>) -> (Option<Self>, Problems) {
        let mut problems = Vec::new();
        let place = read_place(settings, environment, &mut problems);
        let tls = read_tls(settings, environment, &mut problems);
        let token = settings.token.clone().filter(|token| !token.is_empty());
        let is_token_written = token.is_some();
        let mut token = token.or_else(|| set(environment, "NOMAD_TOKEN"));
        let mut token_file = settings.token_file.clone();
        if let (Some(Place::Socket(socket)), None, None) = (&place, &token, &token_file) {
            token_file = token_beside(socket);
            token = token_file.is_none().then(|| "tidegate".to_owned());
        }
        if is_token_written && token_file.is_some() {
            let at = At::whole("tidegate.nomad.token");
            problems.push(Problem::warning(&at, "`token` is ignored beside `tokenFile`"));
        }
        if settings.namespaces.len() > NAMESPACES_MAX {
            let message = format!("{} namespaces are named, but {NAMESPACES_MAX} at most are watched", settings.namespaces.len());
            problems.push(Problem::error(&At::whole("tidegate.nomad.namespaces"), message).hint("name none to watch all"));
        }
        if set(environment, "NOMAD_CAPATH").is_some() {
            let problem = Problem::warning(&At::whole("environment NOMAD_CAPATH"), "`NOMAD_CAPATH` is ignored");
            problems.push(problem.hint("write one file of authorities into NOMAD_CACERT"));
        }
        let token = token.and_then(|token| header("the token", token.trim(), &mut problems));
        let basic_auth = set(environment, "NOMAD_HTTP_AUTH").and_then(|auth| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(auth);
            header("NOMAD_HTTP_AUTH", &format!("Basic {encoded}"), &mut problems)
        });
        let Some(place) = place.filter(|_| !has_error(&problems)) else { return (None, problems) };
        let region = settings.region.clone().or_else(|| set(environment, "NOMAD_REGION"));
        let is_all = settings.namespaces.iter().any(|namespace| namespace == "*");
        let namespaces = if is_all { Vec::new() } else { settings.namespaces.clone() };
        (Some(Self { place, tls, token, token_file, basic_auth, region, namespaces }), problems)
    }
}

/// A variable that is set to something.
fn set(environment: Environment<'_>, name: &str) -> Option<String> {
    environment(name).filter(|value| !value.is_empty())
}

fn read_place(settings: &NomadSettings, environment: Environment<'_>, problems: &mut Problems) -> Option<Place> {
    let written = settings.address.clone().map(|address| (At::whole("tidegate.nomad.address"), address));
    let variable = |name: &str| set(environment, name).map(|address| (At::whole(format!("environment {name}")), address));
    // The second is what Nomad tells its own tasks.
    let found = written.or_else(|| variable("NOMAD_ADDR")).or_else(|| variable("NOMAD_UNIX_ADDR"));
    let (at, address) = found.unwrap_or_else(|| (At::default(), ADDRESS_DEFAULT.to_owned()));
    if let Some(path) = address.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
        return Some(Place::Socket(PathBuf::from(path)));
    }
    let url = Url::parse(&address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if url.is_none() {
        let message = format!("`{address}` is no address of Nomad");
        problems.push(Problem::error(&at, message).hint(format!("such as `{ADDRESS_DEFAULT}` or `unix:///secrets/api.sock`")));
    }
    url.map(Place::Web)
}

fn read_tls(settings: &NomadSettings, environment: Environment<'_>, problems: &mut Problems) -> Tls {
    let file = |name: &str| set(environment, name).map(PathBuf::from);
    let from_environment = || match (file("NOMAD_CLIENT_CERT"), file("NOMAD_CLIENT_KEY")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        _ => None,
    };
    let is_half = file("NOMAD_CLIENT_CERT").is_some() != file("NOMAD_CLIENT_KEY").is_some();
    if settings.client_certificate.is_none() && is_half {
        let at = At::whole("environment NOMAD_CLIENT_CERT");
        problems.push(Problem::error(&at, "`NOMAD_CLIENT_CERT` and `NOMAD_CLIENT_KEY` are wanted together"));
    }
    let is_skipped = set(environment, "NOMAD_SKIP_VERIFY").is_some_and(|value| {
        parse_bool(&value).unwrap_or_else(|| {
            let message = format!("`NOMAD_SKIP_VERIFY` is `{value}`, but wants `true` or `false`");
            problems.push(Problem::error(&At::whole("environment NOMAD_SKIP_VERIFY"), message));
            false
        })
    });
    Tls {
        ca: settings.ca_file.clone().or_else(|| file("NOMAD_CACERT")),
        client_certificate: settings.client_certificate.clone().or_else(from_environment),
        is_unverified: settings.insecure_skip_verify || is_skipped,
        server_name: settings.server_name.clone().or_else(|| set(environment, "NOMAD_TLS_SERVER_NAME")),
    }
}

/// Nomad puts a task's own token, if it is asked to, next to the task's socket.
fn token_beside(socket: &Path) -> Option<PathBuf> {
    let file = socket.parent()?.join("nomad_token");
    file.is_file().then_some(file)
}

fn header(what: &str, text: &str, problems: &mut Problems) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok();
    match &mut value {
        Some(value) => value.set_sensitive(true),
        None => {
            let message = format!("{what} has characters that an HTTP header cannot carry");
            problems.push(Problem::error(&At::whole("tidegate.nomad"), message));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &NomadSettings, variables: &[(&str, &str)]) -> (Option<Access>, Problems) {
        let environment = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Access::read(settings, &environment)
    }

    /// Reads an address, from the file if it is not empty: the place, or the first problem.
    #[track_caller]
    fn check(written: &str, variables: &[(&str, &str)], expected: &str) {
        let address = (!written.is_empty()).then(|| written.to_owned());
        let (access, problems) = read(&NomadSettings { address, ..NomadSettings::default() }, variables);
        let found = match access.map(|access| access.place) {
            Some(Place::Web(url)) => url.to_string(),
            Some(Place::Socket(path)) => format!("socket {}", path.display()),
            None => problems[0].to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn addresses_are_read_as_nomads_own_command_reads_them() {
        check("", &[], "http://127.0.0.1:4646/");
        check("", &[("NOMAD_ADDR", ""), ("NOMAD_UNIX_ADDR", "")], "http://127.0.0.1:4646/");
        check("", &[("NOMAD_ADDR", "https://nomad.internal:4646")], "https://nomad.internal:4646/");
        check("http://10.0.0.1:4646", &[("NOMAD_ADDR", "https://nomad.internal:4646")], "http://10.0.0.1:4646/");
        check("", &[("NOMAD_UNIX_ADDR", "unix:///secrets/api.sock")], "socket /secrets/api.sock");
        check("", &[("NOMAD_ADDR", "http://a:1"), ("NOMAD_UNIX_ADDR", "unix:///secrets/api.sock")], "http://a:1/");
        check("unix:///run/nomad.sock", &[], "socket /run/nomad.sock");
    }

    #[test]
    fn an_address_that_cannot_be_asked_says_why() {
        let hint = "(such as `http://127.0.0.1:4646` or `unix:///secrets/api.sock`)";
        check(
            "",
            &[("NOMAD_ADDR", "127.0.0.1:4646")],
            &format!("environment NOMAD_ADDR: `127.0.0.1:4646` is no address of Nomad {hint}"),
        );
        check("ftp://a", &[], &format!("tidegate.nomad.address: `ftp://a` is no address of Nomad {hint}"));
        check("unix://a", &[], &format!("tidegate.nomad.address: `unix://a` is no address of Nomad {hint}"));
    }

    #[test]
    fn a_socket_is_never_asked_without_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let address = Some(format!("unix://{}/api.sock", folder.path().display()));
        let settings = NomadSettings { address, ..NomadSettings::default() };
        let access = read(&settings, &[]).0.unwrap();
        assert_eq!((access.token.unwrap().to_str().unwrap(), access.token_file), ("tidegate", None));
        let access = read(&settings, &[("NOMAD_TOKEN", "mine")]).0.unwrap();
        assert_eq!((access.token.unwrap().to_str().unwrap(), access.token_file), ("mine", None));
        let beside = folder.path().join("nomad_token");
        std::fs::write(&beside, "its own").unwrap();
        let access = read(&settings, &[]).0.unwrap();
        assert_eq!((access.token, access.token_file), (None, Some(beside)));
    }

    #[test]
    fn a_token_shows_itself_nowhere() {
        let settings = NomadSettings { token: Some("hush".to_owned()), ..NomadSettings::default() };
        let (access, problems) = read(&settings, &[("NOMAD_HTTP_AUTH", "me:hush")]);
        let shown = format!("{access:?} {problems:?}");
        assert!(access.is_some() && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn what_is_not_said_comes_from_the_environment() {
        let variables = [
            ("NOMAD_CACERT", "/ca"),
            ("NOMAD_CLIENT_CERT", "/cert"),
            ("NOMAD_CLIENT_KEY", "/key"),
            ("NOMAD_TLS_SERVER_NAME", "server.global.nomad"),
            ("NOMAD_SKIP_VERIFY", "1"),
            ("NOMAD_REGION", "eu"),
            ("NOMAD_NAMESPACE", "of-the-task"),
        ];
        let access = read(&NomadSettings::default(), &variables).0.unwrap();
        assert_eq!(access.tls.client_certificate, Some((PathBuf::from("/cert"), PathBuf::from("/key"))));
        assert_eq!((access.tls.ca, access.tls.is_unverified), (Some(PathBuf::from("/ca")), true));
        assert_eq!(access.tls.server_name.as_deref(), Some("server.global.nomad"));
        assert_eq!((access.region.as_deref(), access.namespaces), (Some("eu"), vec![]));
        let (access, problems) = read(&NomadSettings::default(), &[("NOMAD_SKIP_VERIFY", "perhaps")]);
        assert!(access.is_none() && problems.len() == 1, "{problems:?}");
        let (access, problems) = read(&NomadSettings::default(), &[("NOMAD_CLIENT_KEY", "/key")]);
        assert!(access.is_none() && problems.len() == 1, "{problems:?}");
    }
}
