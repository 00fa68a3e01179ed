//! Paths and URLs as Go's `net/url` reads and writes them, because Traefik's answers and its requests to servers show it.

use std::borrow::Cow;
use std::fmt::Write;

/// Undoes percent-encoding. `None` when a `%` is not followed by two hex digits.
pub(crate) fn unescape(raw: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = raw.as_bytes();
    if memchr::memchr(b'%', bytes).is_none() {
        return Some(Cow::Borrowed(bytes));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        out.push(hex(*high)? << 4 | hex(*low)?);
        rest = tail;
    }
    Some(Cow::Owned(out))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Cuts `prefix` (compared with what percent-encoding stands for) off a path and gives what is left, still encoded.
pub(crate) fn cut_prefix<'a>(raw: &'a str, prefix: &str) -> Option<&'a str> {
    let mut at = 0;
    for &wanted in prefix.as_bytes() {
        let (byte, length) = match raw.as_bytes().get(at..)? {
            [b'%', high, low, ..] => (hex(*high)? << 4 | hex(*low)?, 3),
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        if byte != wanted {
            return None;
        }
        at += length;
    }
    raw.get(at..)
}

/// The path `decoded` in encoded form: `raw` if that is a good encoding of it, else encoded anew.
pub(crate) fn encode_path<'a>(raw: Cow<'a, str>, decoded: &[u8]) -> Cow<'a, str> {
    let is_good = raw.bytes().all(may_stay_in_path) && unescape(&raw).is_some_and(|path| *path == *decoded);
    if is_good || &*raw == "*" { raw } else { Cow::Owned(escape_path(decoded)) }
}

/// What an encoded path may contain as it is.
fn may_stay_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte)
}

/// Percent-encodes a path as Go does, which also encodes `!'()*[]`.
pub(crate) fn escape_path(decoded: &[u8]) -> String {
    let mut out = String::with_capacity(decoded.len());
    for &byte in decoded {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// With a slash at its start, unless it is empty.
pub(crate) fn with_leading_slash(path: &str) -> Cow<'_, str> {
    if path.is_empty() || path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) }
}

/// Whether a path has no empty segment but the last, no `.` and no `..`.
pub(crate) fn is_clean(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return false };
    let is_clean = |segment: &str| segment != "." && segment != "..";
    match segments.rsplit_once('/') {
        None => is_clean(segments),
        Some((before, last)) => is_clean(last) && before.split('/').all(|segment| !segment.is_empty() && is_clean(segment)),
    }
}

/// Splits a request target at its first `?`, which stays with the query.
pub(crate) fn split_query(target: &str) -> (&str, &str) {
    target.split_at(target.find('?').unwrap_or(target.len()))
}

/// Host and port of `host:port` or `[v6]:port`. `None` when there is no port, or too many colons.
pub(crate) fn split_host_port(host: &str) -> Option<(&str, &str)> {
    let (name, port) = host.rsplit_once(':')?;
    let name = match name.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if name.contains(':') => return None,
        None => name,
    };
    (!name.contains(['[', ']'])).then_some((name, port))
}

/// A URL as Go prints it after reading it: what must be percent-encoded is. `None` when Go would not read it.
pub(crate) fn reprint(url: &str) -> Option<String> {
    if url.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let (url, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let (scheme, rest) = split_scheme(url)?;
    let (rest, query) = split_query(rest);
    let mut out = scheme.to_ascii_lowercase();
    if !scheme.is_empty() {
        out.push(':');
    }
    if !rest.starts_with('/') {
        let first_segment = rest.split('/').next().unwrap_or_default();
        match scheme.is_empty() {
            // An opaque URL (`mailto:x`) stays as it is.
            false => out.push_str(rest),
            true if first_segment.contains(':') => return None,
            true => out.push_str(&encode_path(Cow::Borrowed(rest), &unescape(rest)?)),
        }
    } else {
        let path = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() || !after.starts_with('/') => {
                let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
                out.push_str("//");
                out.push_str(&reprint_authority(authority)?);
                path
            }
            _ => rest,
        };
        out.push_str(&encode_path(Cow::Borrowed(path), &unescape(path)?));
    }
    out.push_str(query);
    out.push_str(fragment);
    Some(out)
}

/// The scheme (empty if there is none) and what follows its colon. `None` when there is a colon without a scheme.
fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let end = url.find(|letter: char| !(letter.is_ascii_alphanumeric() || "+-.".contains(letter)));
    match end.and_then(|end| url.split_at_checked(end)) {
        Some(("", rest)) if rest.starts_with(':') => None,
        Some((scheme, rest)) if scheme.starts_with(|letter: char| letter.is_ascii_alphabetic()) => match rest.strip_prefix(':') {
            Some(rest) => Some((scheme, rest)),
            None => Some(("", url)),
        },
        _ => Some(("", url)),
    }
}

/// User and host with port. `None` when Go would refuse the host.
fn reprint_authority(authority: &str) -> Option<String> {
    let (user, host) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let name_end = match host.starts_with('[') {
        true => host.rfind(']')? + 1,
        false => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at_checked(name_end)?;
    let is_port =
        |port: &str| port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !is_port(port) {
        return None;
    }
    Some(format!("{user}{}{port}", reprint_host(name)?))
}

/// A host's name. Only letters beyond ASCII may be percent-encoded in it, and they must be.
fn reprint_host(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => (Some(hex(*high)? << 4 | hex(*low)?).filter(|byte| !byte.is_ascii())?, tail),
            _ => (byte, tail),
        };
        if may_stay_in_host(byte) {
            out.push(char::from(byte));
        } else if byte.is_ascii() {
            return None;
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        rest = tail;
    }
    Some(out)
}

fn may_stay_in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &str) {
        assert_eq!(reprint(url).as_deref().unwrap_or("refused"), expected, "{url}");
    }

    /// Each answer was seen in the Location of a Traefik 3.7.15.
    #[test]
    fn prints_urls_as_go_does() {
        check("https://rs.test/a?b=c", "https://rs.test/a?b=c");
        check("https://rs.test/a%2fb%20\"c<d>e|f^g`h\\i?q=\"<>|", "https://rs.test/a/b%20%22c%3Cd%3Ee%7Cf%5Eg%60h%5Ci?q=\"<>|");
        check("https://rs.test/a%2FbA~/d", "https://rs.test/a%2FbA~/d");
        check("https://rs.test/ä%e4?ö", "https://rs.test/%C3%A4%E4?ö");
        check("https://rs.test/?", "https://rs.test/?");
        check("https://rs.test/*", "https://rs.test/*");
        check("https://[::1]/any", "https://[::1]/any");
        check("https://ex$ample/any", "https://ex$ample/any");
        check("https://A.B/any", "https://A.B/any");
        check("https:///any", "https:///any");
        check("/q/b", "/q/b");
        check("HTTPS://x/", "https://x/");
        check("https://ä/", "https://%C3%A4/");
        check("mailto:a b", "mailto:a b");
    }

    #[test]
    fn refuses_what_go_refuses() {
        for url in
            ["https://::1/any", "https://a:b:c/any", "https://a%b/any", "https://a%41/any", "http://x y/%zz", "http://x/%zz"]
        {
            check(url, "refused");
        }
        check("https://[::1/any", "refused");
        check("https://a:x/", "refused");
        check(":80/x", "refused");
        check("a:b\u{7f}", "refused");
    }

    #[test]
    fn cuts_prefixes_through_the_encoding() {
        for (path, prefix, rest) in [
            ("/api/x", "/api", Some("/x")),
            ("/api", "/api", Some("")),
            ("/a%2Fb/c", "/a/b", Some("/c")),
            ("/x%20y/z", "/x y", Some("/z")),
            ("/ap", "/api", None),
            ("/b", "/a", None),
            ("/ä/x", "/ä", Some("/x")),
            ("/%C3%A4/x", "/ä", Some("/x")),
        ] {
            assert_eq!(cut_prefix(path, prefix), rest, "{path} {prefix}");
        }
    }

    #[test]
    fn knows_clean_paths() {
        for (path, expected) in
            [("/", true), ("/a/", true), ("/a//b", false), ("/../x", false), ("/.", false), ("/..a", true), ("a", false)]
        {
            assert_eq!(is_clean(path), expected, "{path}");
        }
    }

    #[test]
    fn splits_ports_from_hosts() {
        for (host, expected) in [
            ("a:80", Some(("a", "80"))),
            ("a:", Some(("a", ""))),
            ("a", None),
            ("[::1]:9", Some(("::1", "9"))),
            ("[::1]", None),
            ("::1", None),
            ("[::1]x:9", None),
        ] {
            assert_eq!(split_host_port(host), expected, "{host}");
        }
    }
}
