//! What the matchers of TCP rules mean, compiled.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::Regex;

use super::formula::Formula;
use super::host::HostPattern;
use super::http::{client_range, only_ascii, regexp};
use super::{Call, InvalidRule, Tree};

/// What a rule may ask of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'c> {
    /// The name of the TLS ClientHello, in lower case; `None` without TLS or without a name.
    pub server_name: Option<&'c str>,
    /// The protocols the ClientHello offers.
    pub alpn: &'c [Vec<u8>],
    /// The peer, or whom a believed PROXY protocol header named.
    pub client: IpAddr,
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Matcher(Formula<Test>);

#[derive(Clone, Debug)]
enum Test {
    HostSni(HostPattern),
    HostSniRegexp(Regex),
    ClientIp(IpNet),
    Alpn(Box<[u8]>),
}

/// Compiles the rule of a TCP router.
pub fn compile(tree: &Tree) -> Result<Matcher, InvalidRule> {
    Formula::compile(&tree.root, &test).map(Matcher)
}

impl Matcher {
    /// Whether the rule holds for this connection.
    pub fn matches(&self, connection: &ConnectionFacts<'_>) -> bool {
        self.0.holds(&|test| test.passes(connection))
    }
}

impl Test {
    fn passes(&self, connection: &ConnectionFacts<'_>) -> bool {
        match self {
            Self::HostSni(host) => host.matches(connection.server_name.unwrap_or_default()),
            Self::HostSniRegexp(regex) => regex.is_match(connection.server_name.unwrap_or_default()),
            Self::ClientIp(range) => range.contains(&connection.client.to_canonical()),
            Self::Alpn(protocol) => connection.alpn.iter().any(|offered| **offered == **protocol),
        }
    }
}

fn test(call: &Call) -> Result<Test, InvalidRule> {
    let arg = call.first();
    Ok(match call.name {
        "HostSNI" => {
            let name = arg.text.strip_prefix("*.").unwrap_or(&arg.text);
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
            if arg.text != "*" && !is_name {
                let wrong = InvalidRule::new(arg.at, format!("`{}` is no host name", arg.text));
                return Err(wrong.hint("a name, `*.example.com` or `*` is expected"));
            }
            Test::HostSni(HostPattern::new(&arg.text))
        }
        "HostSNIRegexp" => {
            only_ascii(call)?;
            Test::HostSniRegexp(regexp(call, 0)?)
        }
        "ClientIP" => Test::ClientIp(client_range(call)?),
        "ALPN" if arg.text == "acme-tls/1" => {
            return Err(InvalidRule::new(
                arg.at,
                "`acme-tls/1` belongs to certificate challenges, which the proxy answers itself",
            ));
        }
        "ALPN" => Test::Alpn(arg.text.into_bytes().into()),
        other => {
            let wrong = InvalidRule::new(call.at, format!("`{other}` is for HTTP routers"));
            return Err(if other.starts_with("Host") {
                wrong.hint(format!("TCP routers have `{}`", other.replacen("Host", "HostSNI", 1)))
            } else {
                wrong
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[track_caller]
    fn check(rule: &str, server_name: Option<&str>, alpn: &[&str], expected: bool) {
        let matcher = compile(&parse(rule).unwrap()).unwrap();
        let alpn: Vec<_> = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let facts = ConnectionFacts { server_name, alpn: &alpn, client: [10, 0, 0, 1].into() };
        assert_eq!(matcher.matches(&facts), expected, "{rule} for {server_name:?}");
    }

    #[test]
    fn server_names_match() {
        check("HostSNI(`*`)", None, &[], true);
        check("HostSNI(`*`)", Some("a.test"), &[], true);
        check("HostSNI(`A.test.`)", Some("a.test"), &[], true);
        check("HostSNI(`a.test`)", Some("b.test"), &[], false);
        check("HostSNI(`a.test`)", None, &[], false);
        check("HostSNI(`*.a.test`)", Some("b.a.test"), &[], true);
        check("HostSNI(`*.a.test`)", Some("c.b.a.test"), &[], false);
        check("HostSNIRegexp(`^.+\\.test$`)", Some("a.test"), &[], true);
        check("HostSNIRegexp(`^.+\\.test$`)", None, &[], false);
    }

    #[test]
    fn protocols_and_clients_match() {
        check("ALPN(`h2`)", None, &["http/1.1", "h2"], true);
        check("!ALPN(`h2`) && ClientIP(`10.0.0.0/8`)", None, &["http/1.1"], true);
        check("HostSNI(`a.test`) && ClientIP(`192.0.2.0/24`)", Some("a.test"), &[], false);
    }

    #[track_caller]
    fn refuses(rule: &str, expected: &str) {
        let error = compile(&parse(rule).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{rule}: {error}");
    }

    #[test]
    fn what_traefik_refuses_is_refused() {
        for name in ["a.*", "a b", "é", "*a", "*.*.a", "*.", "[::1]"] {
            refuses(&format!("HostSNI(`{name}`)"), &format!("`{name}` is no host name at byte 8"));
        }
        refuses("ALPN(`acme-tls/1`)", "`acme-tls/1` belongs to certificate challenges");
        refuses("HostSNIRegexp(`é`)", "`HostSNIRegexp` knows ASCII only");
        refuses("Host(`a`)", "`Host` is for HTTP routers at byte 0 of the rule; TCP routers have `HostSNI`");
        refuses("Path(`/a`)", "`Path` is for HTTP routers at byte 0 of the rule");
    }
}
