//! What the matchers of HTTP rules mean, compiled; and the normal forms of host, path and query that they are asked about.

use std::net::IpAddr;

use ::http::HeaderMap;
use ::http::header::{HOST, HeaderName};
use ipnet::IpNet;
use regex::Regex;

use super::formula::Formula;
use super::host::HostPattern;
use super::query::any_value;
use super::{Call, InvalidRule, Tree, pattern};

pub use super::host::normal_host;
pub use super::path::{BadPath, NormalPath, normal_path};
pub use super::query::normal_query;

/// What a rule may ask of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'r> {
    /// As [`normal_host`] makes it; empty when there is none.
    pub host: &'r str,
    /// As it came; methods have case.
    pub method: &'r str,
    /// [`NormalPath::routing`].
    pub path: &'r str,
    /// As [`normal_query`] makes it.
    pub query: Option<&'r str>,
    /// After untrusted forwarded headers are gone and ours are set, as in Traefik.
    pub headers: &'r HeaderMap,
    /// The peer, or whom a believed PROXY protocol header named.
    pub client: IpAddr,
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Matcher(Formula<Test>);

#[derive(Clone, Debug)]
enum Test {
    Host(HostPattern),
    HostRegexp(Regex),
    Path(Box<str>),
    PathPrefix(Box<str>),
    PathRegexp(Regex),
    Method(Box<str>),
    Header(HeaderName, Box<str>),
    HeaderRegexp(HeaderName, Regex),
    Query(Box<str>, Box<str>),
    QueryRegexp(Box<str>, Regex),
    ClientIp(IpNet),
    /// A header that no request can have.
    Never,
}

/// Compiles the rule of an HTTP router.
pub fn compile(tree: &Tree) -> Result<Matcher, InvalidRule> {
    Formula::compile(&tree.root, &test).map(Matcher)
}

impl Matcher {
    /// Whether the rule holds for this request. Allocates nothing, unless a query's value is encoded and a regular expression
    /// is asked about it.
    pub fn matches(&self, request: &RequestFacts<'_>) -> bool {
        self.0.holds(&|test| test.passes(request))
    }

    /// The hosts without one of which the rule cannot hold; `None` when it may hold for any.
    pub(crate) fn hosts(&self) -> Option<Vec<HostPattern>> {
        self.0.hosts(&|test| match test {
            Test::Host(HostPattern::Every) => None,
            Test::Host(host) => Some(host.clone()),
            _ => None,
        })
    }
}

impl Test {
    fn passes(&self, request: &RequestFacts<'_>) -> bool {
        match self {
            Self::Host(host) => host.matches(request.host),
            Self::HostRegexp(regex) => regex.is_match(request.host),
            Self::Path(path) => request.path == &**path,
            Self::PathPrefix(prefix) => request.path.starts_with(&**prefix),
            Self::PathRegexp(regex) => regex.is_match(request.path),
            Self::Method(method) => request.method == &**method,
            Self::Header(name, value) => request.headers.get_all(name).iter().any(|found| found.as_bytes() == value.as_bytes()),
            Self::HeaderRegexp(name, regex) => {
                let mut values = request.headers.get_all(name).iter();
                values.any(|value| regex.is_match(&String::from_utf8_lossy(value.as_bytes())))
            }
            Self::Query(key, value) => request.query.is_some_and(|query| any_value(query, key, |found| found.is(value))),
            Self::QueryRegexp(key, regex) => {
                request.query.is_some_and(|query| any_value(query, key, |value| regex.is_match(&value.decode())))
            }
            Self::ClientIp(range) => range.contains(&request.client.to_canonical()),
            Self::Never => false,
        }
    }
}

fn test(call: &Call) -> Result<Test, InvalidRule> {
    let first = call.first();
    let text = first.text.as_str();
    Ok(match call.name {
        "Host" => {
            only_ascii(call)?;
            Test::Host(HostPattern::new(text))
        }
        "HostRegexp" => {
            only_ascii(call)?;
            Test::HostRegexp(regexp(call, 0)?)
        }
        "Path" => Test::Path(rooted(call)?),
        "PathPrefix" => Test::PathPrefix(rooted(call)?),
        "PathRegexp" => Test::PathRegexp(regexp(call, 0)?),
        "Method" => Test::Method(text.to_ascii_uppercase().into()),
        "Header" => header(text).map_or(Test::Never, |name| Test::Header(name, second(call))),
        "HeaderRegexp" => {
            let regex = regexp(call, 1)?;
            header(text).map_or(Test::Never, |name| Test::HeaderRegexp(name, regex))
        }
        "QueryRegexp" if call.args.len() > 1 => Test::QueryRegexp(text.into(), regexp(call, 1)?),
        // A key alone asks for the empty value, in `QueryRegexp` too.
        "Query" | "QueryRegexp" => Test::Query(text.into(), second(call)),
        "ClientIP" => Test::ClientIp(client_range(call)?),
        other => {
            let http = other.replace("HostSNI", "Host");
            let wrong = InvalidRule::new(call.at, format!("`{other}` is for TCP routers"));
            return Err(if http == other { wrong } else { wrong.hint(format!("HTTP routers have `{http}`")) });
        }
    })
}

/// As in Go a request has no header `Host`, and none whose name is no name.
fn header(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| name != HOST)
}

fn second(call: &Call) -> Box<str> {
    call.args.get(1).map(|arg| arg.text.as_str()).unwrap_or_default().into()
}

fn rooted(call: &Call) -> Result<Box<str>, InvalidRule> {
    let path = call.first();
    if path.text.starts_with('/') {
        return Ok(path.text.into());
    }
    let hint = format!("write {}(`/{}`)", call.name, path.text);
    Err(InvalidRule::new(path.at, "a path begins with `/`").hint(hint))
}

/// Hosts are ASCII; international names are asked for by their `xn--` form.
pub(super) fn only_ascii(call: &Call) -> Result<(), InvalidRule> {
    let host = call.first();
    if host.text.is_ascii() {
        return Ok(());
    }
    Err(InvalidRule::new(host.at, format!("`{}` knows ASCII only", call.name))
        .hint("write an international name in its `xn--` form"))
}

pub(super) fn regexp(call: &Call, index: usize) -> Result<Regex, InvalidRule> {
    let arg = call.args.get(index).cloned().unwrap_or_else(|| call.first());
    pattern::compile(&arg.text).map_err(|error| InvalidRule::new(arg.at, error.to_string()))
}

/// An address or a range of them; IPv4 written as IPv6 is IPv4.
pub(super) fn client_range(call: &Call) -> Result<IpNet, InvalidRule> {
    let arg = call.first();
    let range = arg.text.parse::<IpNet>().ok().or_else(|| arg.text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(range) = range else {
        let message = format!("`{}` is no address and no range of addresses", arg.text);
        return Err(InvalidRule::new(arg.at, message).hint("write ClientIP(`10.0.0.0/8`) or ClientIP(`192.0.2.1`)"));
    };
    let mapped = match range.addr() {
        IpAddr::V6(address) => address.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    let bits = range.prefix_len().checked_sub(96);
    Ok(mapped.zip(bits).and_then(|(address, bits)| IpNet::new(address.into(), bits).ok()).unwrap_or(range))
}

#[cfg(test)]
mod tests {
    use ::http::header::HeaderValue;

    use super::super::parse;
    use super::*;

    #[derive(Clone, Copy)]
    struct Request<'r> {
        host: &'r str,
        method: &'r str,
        target: &'r str,
        headers: &'r [(&'r str, &'r [u8])],
        client: &'r str,
    }

    const GET: Request<'_> = Request { host: "a.test", method: "GET", target: "/", headers: &[], client: "127.0.0.1" };

    #[track_caller]
    fn check(rule: &str, request: Request<'_>, expected: bool) {
        let matcher = compile(&parse(rule).unwrap()).unwrap();
        let (path, query) = request.target.split_once('?').map_or((request.target, None), |(path, query)| (path, Some(query)));
        let path = normal_path(path, true).unwrap();
        let query = query.map(normal_query);
        let headers = request
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap()));
        let facts = RequestFacts {
            host: &normal_host(request.host),
            method: request.method,
            path: path.routing(),
            query: query.as_deref(),
            headers: &headers.collect(),
            client: request.client.parse().unwrap(),
        };
        assert_eq!(matcher.matches(&facts), expected, "{rule} for {} {}", request.host, request.target);
    }

    /// These and the following are measured on Traefik 3.7.15.
    #[test]
    fn hosts_by_regular_expression() {
        for (pattern, host, expected) in [
            (r"^a\.test$", "A.TEST", true),
            (r"^a\.test$", "a.test:80", true),
            (r"^a\.test$", "a.test.", false),
            (".*", "", true),
            ("A", "aAa", false),
            ("a", "AAA", true),
            ("(?i)A", "aaa", true),
            ("{n:[a-z]+}.test", "a.test", false),
            ("8", "a.test:8", false),
        ] {
            check(&format!("HostRegexp(`{pattern}`)"), Request { host, ..GET }, expected);
        }
    }

    #[test]
    fn paths() {
        for (rule, target, expected) in [
            ("Path(`/a b`)", "/a%20b", true),
            ("Path(`/a%20b`)", "/a%20b", false),
            ("Path(`/aé`)", "/a%C3%A9", true),
            ("Path(`/aé`)", "/aé", true),
            ("Path(`/a/b`)", "/a%2Fb", false),
            ("Path(`/a%2Fb`)", "/a%2fb", true),
            ("Path(`/a%2fb`)", "/a%2fb", false),
            ("Path(`/a|b`)", "/a%7cb", true),
            ("Path(`/a%b`)", "/a%25b", false),
            ("Path(`/a!b`)", "/a%21b", false),
            ("Path(`/a[b`)", "/a[b", true),
            ("Path(`/a`)", "/A", false),
            ("Path(`/a`)", "/a/", false),
            ("Path(`/a;b`)", "/a;b", true),
            ("Path(`/a b`)", "/a+b", false),
            ("PathPrefix(`/a/`)", "/a", false),
            ("PathPrefix(`/.well-known/acme-challenge`)", "/.well-known/acme-challengeX", true),
            ("PathRegexp(`a$`)", "/ba", true),
            ("PathRegexp(`^/a.$`)", "/a%ff", true),
            ("PathRegexp(`^/a$`)", "/a%0a", false),
            ("PathRegexp(`^/a%2Fb$`)", "/a%2fb", true),
        ] {
            check(rule, Request { target, ..GET }, expected);
        }
    }

    #[test]
    fn queries() {
        let key = |target| [("Query(`a`)", target), ("QueryRegexp(`a`)", target)];
        for (rule, target) in ["/?a", "/?a=", "/?a&b"].into_iter().flat_map(key) {
            check(rule, Request { target, ..GET }, true);
        }
        for (rule, target) in ["/", "/?a=b", "/?A", "/?a=b;c=d", "/?a%3Db=1"].into_iter().flat_map(key) {
            check(rule, Request { target, ..GET }, false);
        }
        for (rule, target, expected) in [
            ("Query(`a`,`b`)", "/?a=c&a=b", true),
            ("Query(`a`,`b`)", "/?%61=%62", true),
            ("Query(`a`,`b`)", "/?a=b%", false),
            ("Query(`a`,`b`)", "/?a=%zz&a=b", true),
            ("Query(`a`,`b c`)", "/?a=b+c", true),
            ("Query(`a`,`b c`)", "/?a=b%20c", true),
            ("Query(`a`,`b%20c`)", "/?a=b%20c", false),
            ("Query(`a`,`b=c`)", "/?a=b=c", true),
            ("Query(`c`,`d`)", "/?a=b;c=d", true),
            ("Query(`a`,`*`)", "/?a=b", false),
            ("QueryRegexp(`a`,`^b`)", "/?a=c&a=b+c", true),
            ("QueryRegexp(`a`,`.*`)", "/?a=b%", false),
            ("QueryRegexp(`a`,`.`)", "/?x=1&a=%F0", true),
            ("QueryRegexp(`a+`,`x`)", "/?aa=x", false),
        ] {
            check(rule, Request { target, ..GET }, expected);
        }
    }

    #[test]
    fn methods_headers_and_clients() {
        check("Method(`get`)", GET, true);
        check("Method(`GET`)", Request { method: "get", ..GET }, false);
        let headers: &[(&str, &[u8])] = &[("x-a", b"2"), ("x-a", b"abc"), ("x-e", b"\xe9"), ("host", b"a.test"), ("x-none", b"")];
        for (rule, expected) in [
            ("Header(`X-A`, `2`)", true),
            ("Header(`x-a`, `abc`)", true),
            ("Header(`x-a`, `2, abc`)", false),
            ("Header(`x-a`, `ABC`)", false),
            ("HeaderRegexp(`X-A`, `b`)", true),
            ("HeaderRegexp(`X-E`, `^.$`)", true),
            ("HeaderRegexp(`X-None`, `^$`)", true),
            ("HeaderRegexp(`X-Absent`, `^$`)", false),
            ("HeaderRegexp(`Host`, `.`)", false),
            ("!Header(`a b`, `c`)", true),
        ] {
            check(rule, Request { headers, ..GET }, expected);
        }
        for (range, client, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("10.1.2.3/8", "10.200.0.1", true),
            ("10.0.0.0/8", "127.0.0.1", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("::ffff:7f00:0/104", "127.0.0.1", true),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("::/0", "127.0.0.1", false),
            ("::/0", "::1", true),
        ] {
            check(&format!("ClientIP(`{range}`)"), Request { client, ..GET }, expected);
        }
    }

    #[test]
    fn cljdocs_rule() {
        let rule = "HostRegexp(`.+`) && !PathPrefix(`/.well-known/acme-challenge`) && (Method(`GET`) || Method(`HEAD`))";
        check(rule, Request { target: "/d/ring", ..GET }, true);
        check(rule, Request { target: "/.well-known/acme-challenge/x", ..GET }, false);
        check(rule, Request { method: "POST", ..GET }, false);
    }

    #[track_caller]
    fn refuses(rule: &str, expected: &str) {
        assert_eq!(compile(&parse(rule).unwrap()).unwrap_err().to_string(), expected, "{rule}");
    }

    #[test]
    fn what_can_mean_nothing_is_refused() {
        refuses("Path(`a`)", "a path begins with `/` at byte 5 of the rule; write Path(`/a`)");
        refuses(
            "Host(`é.test`)",
            "`Host` knows ASCII only at byte 5 of the rule; write an international name in its `xn--` form",
        );
        refuses(
            "Host(`a`) && PathRegexp(`[`)",
            "the regular expression cannot be used: a `[` is never closed at byte 24 of the rule",
        );
        refuses("HostSNI(`a`)", "`HostSNI` is for TCP routers at byte 0 of the rule; HTTP routers have `Host`");
        refuses("ALPN(`h2`)", "`ALPN` is for TCP routers at byte 0 of the rule");
        let hint = "write ClientIP(`10.0.0.0/8`) or ClientIP(`192.0.2.1`)";
        refuses("ClientIP(`x`)", &format!("`x` is no address and no range of addresses at byte 9 of the rule; {hint}"));
        assert!(compile(&parse("ClientIP(`10.0.0.0/33`)").unwrap()).is_err());
    }
}
