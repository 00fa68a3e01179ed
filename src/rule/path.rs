//! The path of a request as Traefik makes it: what the server gets, and what rules see.
//!
//! What is sent on: escapes of unreserved characters are undone (`%61` is `a`), the others are kept with their digits in upper
//! case, characters that may not stand in a path are escaped, and unless told otherwise dot segments and doubled slashes are
//! resolved, after that, so that `%2e%2e` climbs too. What rules see: the same with every escape undone except those of RFC
//! 3986's reserved characters and of `%`, so that `` Path(`/a b`) `` asks for `/a%20b` and an encoded slash is never a slash.
//! One difference is deliberate: where a raw `|` or `<` stands beside a `%2F`, Traefik sends a plain slash; we do not.

use std::borrow::Cow;

use super::query::hexadecimal;

/// A path that a request line must not have: a broken escape, a control character, a `#`, no slash at its beginning. Answer 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is malformed")]
pub struct BadPath;

/// A request's path, made normal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'r> {
    sent: Cow<'r, str>,
    /// `None`: as sent.
    routing: Option<String>,
}

impl NormalPath<'_> {
    /// What the server gets.
    pub fn sent(&self) -> &str {
        &self.sent
    }

    /// What rules see.
    pub fn routing(&self) -> &str {
        self.routing.as_deref().unwrap_or(&self.sent)
    }

    /// Whether what is sent differs from what came.
    pub fn is_changed(&self) -> bool {
        matches!(self.sent, Cow::Owned(_))
    }
}

/// Makes the path of a request normal; `raw` is without the query. Copies nothing when nothing changes.
///
/// An empty path (of `http://host`) is `/`; `*` stays what it is.
pub fn normal_path(raw: &str, sanitize: bool) -> Result<NormalPath<'_>, BadPath> {
    if raw.is_empty() || raw == "*" {
        return Ok(NormalPath { sent: Cow::Borrowed(if raw.is_empty() { "/" } else { raw }), routing: None });
    }
    if !raw.starts_with('/') {
        return Err(BadPath);
    }
    if is_surely_normal(raw) {
        return Ok(NormalPath { sent: Cow::Borrowed(raw), routing: None });
    }
    let mut sent = if raw.bytes().all(stays) { Cow::Borrowed(raw) } else { escapes(raw)? };
    if sanitize && needs_cleaning(&sent) {
        sent = Cow::Owned(clean(&sent));
    }
    let routing = if sent.contains('%') { Some(routing_path(&sent)) } else { None };
    Ok(NormalPath { sent, routing })
}

/// One look at each byte tells for almost every path that nothing is to be done.
fn is_surely_normal(raw: &str) -> bool {
    let mut after_slash = false;
    raw.bytes().all(|byte| {
        let is_plain = stays(byte) && !(after_slash && matches!(byte, b'/' | b'.'));
        after_slash = byte == b'/';
        is_plain
    })
}

/// Characters that stand in a path as they are.
fn stays(byte: u8) -> bool {
    is_unreserved(byte) || is_reserved_in_path(byte) || byte == b'/'
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986's reserved characters that Go leaves alone in a path. `?` and `#` end one.
fn is_reserved_in_path(byte: u8) -> bool {
    matches!(byte, b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b'[' | b']')
}

/// Whether an escape of this byte stays an escape in what rules see.
fn stays_escaped(byte: u8) -> bool {
    is_reserved_in_path(byte) || matches!(byte, b'/' | b'?' | b'#' | b'%')
}

/// Undoes, keeps or adds escapes. Borrowed when it came as we would write it.
fn escapes(raw: &str) -> Result<Cow<'_, str>, BadPath> {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let byte = hexadecimal(rest.next(), rest.next()).ok_or(BadPath)?;
                if is_unreserved(byte) { out.push(char::from(byte)) } else { push_escape(&mut out, byte) }
            }
            b'#' | b'?' | 0..=b' ' | 0x7f => return Err(BadPath),
            _ if stays(byte) => out.push(char::from(byte)),
            _ => push_escape(&mut out, byte),
        }
    }
    Ok(if out == raw { Cow::Borrowed(raw) } else { Cow::Owned(out) })
}

fn push_escape(out: &mut String, byte: u8) {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default().to_ascii_uppercase();
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// Whether there is an empty segment before the last, or a `.` or `..` anywhere.
fn needs_cleaning(path: &str) -> bool {
    memchr::memchr_iter(b'/', path.as_bytes()).any(|at| {
        let mut after = path.bytes().skip(at + 1);
        match after.next() {
            Some(b'/') => true,
            Some(b'.') => match after.next() {
                None | Some(b'/') => true,
                Some(b'.') => matches!(after.next(), None | Some(b'/')),
                Some(_) => false,
            },
            _ => false,
        }
    })
}

/// Resolves dot segments and doubled slashes. A slash at the end stays; `/a/.` and `/a/b/..` get none, as in Go.
fn clean(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    if path.ends_with('/') || out.is_empty() {
        out.push('/');
    }
    out
}

/// What rules see of a path in normal form. What is no UTF-8 becomes U+FFFD, which `.` matches as in Go.
fn routing_path(sent: &str) -> String {
    let mut bytes = Vec::with_capacity(sent.len());
    let mut rest = sent.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next(), rest.next());
        match hexadecimal(high, low) {
            Some(byte) if !stays_escaped(byte) => bytes.push(byte),
            _ => bytes.extend([Some(b'%'), high, low].into_iter().flatten()),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, sent: &str, routing: &str) {
        let path = normal_path(raw, true).unwrap();
        assert_eq!((path.sent(), path.routing()), (sent, routing), "{raw}");
        assert_eq!(path.is_changed(), raw != sent, "{raw}");
        let again = normal_path(sent, true).unwrap();
        assert_eq!((again.sent(), again.routing()), (sent, routing), "{raw} is normal");
    }

    /// All measured on Traefik 3.7.15, by what the server got.
    #[test]
    fn dot_segments_and_slashes_are_resolved() {
        let cases = [
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/b", "/a/b"),
            ("/%2e%2e/a", "/a"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/../b", "/b"),
            ("/a//b/../c", "/a/c"),
            ("//a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a"),
            ("/a/..", "/"),
            ("/a/b/..", "/a"),
            ("/a/b/../", "/a/"),
            ("/a/...", "/a/..."),
            ("/.well-known/..x/.x", "/.well-known/..x/.x"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a///", "/a/"),
            ("/a/b//", "/a/b/"),
            ("/./a", "/a"),
            ("/a/%2E/b", "/a/b"),
            ("/a%2e", "/a."),
            ("//..//a", "/a"),
            ("/a/..//b", "/b"),
            ("/a;x/../b", "/b"),
            ("/", "/"),
            ("//", "/"),
        ];
        for (raw, sent) in cases {
            check(raw, sent, sent);
        }
        assert_eq!(normal_path("", true).unwrap().sent(), "/");
    }

    /// Measured too; what rules see by what `Path` matched.
    #[test]
    fn escapes_are_undone_only_where_they_mean_nothing() {
        check("/a%62", "/ab", "/ab");
        check("/%61%7e%2D", "/a~-", "/a~-");
        check("/a%2Fb", "/a%2Fb", "/a%2Fb");
        check("/a%2fb", "/a%2Fb", "/a%2Fb");
        check("/a%20b", "/a%20b", "/a b");
        check("/a%C3%A9", "/a%C3%A9", "/aé");
        check("/aé", "/a%C3%A9", "/aé");
        check("/a%ff", "/a%FF", "/a\u{fffd}");
        check("/a|b", "/a%7Cb", "/a|b");
        check("/a%7cb", "/a%7Cb", "/a|b");
        check("/a\"<>`{}^\\", "/a%22%3C%3E%60%7B%7D%5E%5C", "/a\"<>`{}^\\");
        check("/a%5cb", "/a%5Cb", "/a\\b");
        check("/a[b]!$&'()*+,;=:@b", "/a[b]!$&'()*+,;=:@b", "/a[b]!$&'()*+,;=:@b");
        check("/a%21b%5b", "/a%21b%5B", "/a%21b%5B");
        check("/a%3fb%23", "/a%3Fb%23", "/a%3Fb%23");
        check("/a%25b", "/a%25b", "/a%25b");
        check("/a%252e", "/a%252e", "/a%252e");
        check("/a%00b%0a", "/a%00b%0A", "/a\0b\n");
        check("/a/%2F/b", "/a/%2F/b", "/a/%2F/b");
        check("/a%2F%2e%2e/b", "/a%2F../b", "/a%2F../b");
        check("/a/..%2fb", "/a/..%2Fb", "/a/..%2Fb");
    }

    #[test]
    fn a_path_that_is_no_path_is_refused() {
        for raw in ["/a%zz", "/a%", "/a%2", "/a#b", "a", "/a b", "/a\x7f", "/a\n", "/a%é1"] {
            assert_eq!(normal_path(raw, true), Err(BadPath), "{raw}");
        }
    }

    #[test]
    fn unsanitised_paths_keep_their_dots() {
        let path = normal_path("/a//b/%2e%2e/./%2f", false).unwrap();
        assert_eq!(path.sent(), "/a//b/.././%2F");
    }

    #[test]
    fn what_is_normal_is_not_copied() {
        for raw in ["/", "/a/b.c/", "/.well-known/x", "/a%2Fb"] {
            assert!(matches!(normal_path(raw, true).unwrap().sent, Cow::Borrowed(_)), "{raw}");
        }
        assert_eq!(normal_path("/a/b", true).unwrap().routing, None);
    }

    #[test]
    fn no_path_makes_it_panic_and_normal_is_normal() {
        let mut random = fastrand::Rng::with_seed(3);
        let pieces = ["/", ".", "..", "%", "%2", "2", "f", "e", "%2e", "%2F", "a", "é", "%ff", "%C3", "%A9", ";", "|", "\\"];
        for _ in 0..50_000 {
            let raw: String = std::iter::once("/").chain((0..8).map(|_| pieces[random.usize(0..pieces.len())])).collect();
            let Ok(path) = normal_path(&raw, true) else { continue };
            assert!(path.sent().starts_with('/') && !path.sent().split('/').any(|part| part == ".."), "{raw} gives {path:?}");
            assert_eq!(normal_path(path.sent(), true).unwrap().sent(), path.sent(), "{raw}");
        }
    }
}
