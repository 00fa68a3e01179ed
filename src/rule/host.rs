//! Hosts: as a request names them and as rules ask for them.

use std::borrow::Cow;

/// The host a rule sees for a `Host` header, an `:authority` or the host of an absolute URI: in lower case, without its port and
/// without brackets.
///
/// A trailing dot stays, since `HostRegexp` sees it in Traefik too; `HostPattern` overlooks it. As Go does, the port is
/// whatever follows the only colon, or the colon after a bracket.
pub fn normal_host(written: &str) -> Cow<'_, str> {
    let host = match written.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') && !port.contains(']') => host,
        _ => written,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) }
}

/// What `Host(…)` and `HostSNI(…)` ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    /// `*`: every host, even none.
    Every,
    /// `*.example.com`: one label before this.
    Below(Box<str>),
    /// This host.
    Exactly(Box<str>),
}

impl HostPattern {
    /// Reads it as written in a rule. Case does not count, nor does one trailing dot.
    pub(super) fn new(written: &str) -> Self {
        let lower = written.to_ascii_lowercase();
        if lower == "*" {
            return Self::Every;
        }
        match lower.strip_prefix("*.") {
            Some(domain) => Self::Below(without_dot(domain).into()),
            None => Self::Exactly(without_dot(&lower).into()),
        }
    }

    /// Whether it asks for this host, which is in lower case.
    pub(super) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Below(domain) => !host.is_empty() && below(without_dot(host)) == &**domain,
            Self::Exactly(wanted) => !host.is_empty() && without_dot(host) == &**wanted,
        }
    }
}

/// A host without the dot at its end.
pub(crate) fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// What follows the first label.
pub(crate) fn below(host: &str) -> &str {
    host.split_once('.').map_or("", |(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, host: &str, expected: bool) {
        let found = HostPattern::new(pattern).matches(&normal_host(host));
        assert_eq!(found, expected, "Host(`{pattern}`) for {host}");
    }

    /// All measured on Traefik 3.7.15.
    #[test]
    fn hosts_match_as_in_traefik() {
        for host in ["a.test", "A.TEST", "a.test.", "a.test.:8", "a.test:80", "a.test:", "a.test:x"] {
            check("a.test", host, true);
            check("*.test", host, true);
            check("*", host, true);
            check("A.test.", host, true);
            check("*.Test.", host, true);
        }
        for host in ["b.a.test", "a.test..", "x:y", "[::1]:80", "*", "", "test"] {
            check("a.test", host, false);
            check("*.test", host, false);
            check("*", host, true);
        }
        check("*.test", ".test", true);
        check("*.a.test", "b.a.test", true);
        check("*.a.test", "a.test", false);
        check("*.*.test", "b.a.test", false);
        check("a*.test", "ab.test", false);
        check("a*.test", "a*.test", true);
        check("*.", "a.", true);
        check("a.test:80", "a.test:80", false);
        for host in ["[::1]:80", "[::1]", "::1"] {
            check("::1", host, true);
            check("[::1]", host, false);
        }
    }

    #[test]
    fn a_plain_host_is_not_copied() {
        assert!(matches!(normal_host("a.test.:8080"), Cow::Borrowed("a.test.")));
        assert!(matches!(normal_host("[fe80::1]:443"), Cow::Borrowed("fe80::1")));
        assert_eq!(normal_host("A.Test"), "a.test");
    }
}
