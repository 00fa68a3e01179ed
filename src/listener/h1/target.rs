//! The request target and the authority of an HTTP/1 request (RFC 9112 section 3.2).

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::Method;

use super::refusal::Refusal;

/// Bytes of a request target: more cannot be represented.
pub const BYTES_MAX: usize = u16::MAX as usize - 1;
/// Bytes of a host's name: DNS has no longer ones.
const HOST_BYTES_MAX: usize = 255;

/// A request target, by its form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// Path and query.
    Origin(Cow<'a, [u8]>),
    /// A whole URI: the authority, and path and query as they would be in origin-form.
    Absolute {
        /// Host and port.
        authority: &'a [u8],
        /// Path and query.
        path: Cow<'a, [u8]>,
    },
    /// `*`.
    Asterisk,
}

/// Reads a target. Authority-form belongs to CONNECT alone, which is refused before.
pub(super) fn parse<'a>(method: &Method, target: &'a [u8]) -> Result<Target<'a>, Refusal> {
    if target.len() > BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    match target {
        [b'/', ..] if target.contains(&b'#') => Err(Refusal::Fragment),
        [b'/', ..] => Ok(Target::Origin(clean(target)?)),
        b"*" if *method == Method::OPTIONS => Ok(Target::Asterisk),
        _ => parse_absolute(target),
    }
}

fn parse_absolute(target: &[u8]) -> Result<Target<'_>, Refusal> {
    let rest = strip_scheme(target).ok_or(Refusal::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(Refusal::Target)?;
    if !is_authority(authority) {
        return Err(Refusal::Target);
    }
    let path = match path {
        [] => Cow::Borrowed(b"/".as_slice()),
        [b'/', ..] => clean(path)?,
        query => Cow::Owned([b"/", clean(query)?.as_ref()].concat()),
    };
    Ok(Target::Absolute { authority, path })
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// Percent-encodes what a URI does not hold, as Traefik does before it forwards; refuses what has no meaning there.
fn clean(path: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    let mut in_query = false;
    let mut is_odd = false;
    for (at, &byte) in path.iter().enumerate() {
        match class(byte) {
            Class::Plain => in_query |= byte == b'?',
            Class::Percent if in_query => {}
            Class::Percent => match path.get(at + 1..at + 3) {
                Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {}
                _ => return Err(Refusal::Target),
            },
            Class::Odd => is_odd |= !in_query,
            Class::Never => is_odd = true,
            Class::Refused => return Err(Refusal::Target),
        }
    }
    let clean = if is_odd { Cow::Owned(encode(path)) } else { Cow::Borrowed(path) };
    if clean.len() > BYTES_MAX { Err(Refusal::TargetTooLong) } else { Ok(clean) }
}

fn encode(path: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or(b'0');
    let mut in_query = false;
    let mut encoded = Vec::with_capacity(path.len() + 16);
    for &byte in path {
        in_query |= byte == b'?';
        match class(byte) {
            Class::Odd if !in_query => encoded.extend([b'%', digit(byte >> 4), digit(byte & 15)]),
            Class::Never => encoded.extend([b'%', digit(byte >> 4), digit(byte & 15)]),
            _ => encoded.push(byte),
        }
    }
    encoded
}

#[derive(Clone, Copy)]
enum Class {
    /// Stays.
    Plain,
    /// Begins an escape.
    Percent,
    /// Allowed in a query as browsers send it, encoded in a path.
    Odd,
    /// Encoded everywhere.
    Never,
    /// A control character, or `#`: a fragment is never sent.
    Refused,
}

fn class(byte: u8) -> Class {
    match byte {
        b'%' => Class::Percent,
        b'\\' | b'^' | b'{' | b'|' | b'}' => Class::Odd,
        b'"' | b'<' | b'>' | b'`' | 0x80.. => Class::Never,
        0..=b' ' | b'#' | 0x7f => Class::Refused,
        _ => Class::Plain,
    }
}

/// Host and optional port, as `Host` may have them. An empty `Host` is allowed (RFC 9110 section 7.2) and matches no rule.
pub(crate) fn is_authority_or_empty(bytes: &[u8]) -> bool {
    bytes.is_empty() || is_authority(bytes)
}

/// Host and optional port. No user name, no comma (what a list of two hosts looks like), no percent-encoding (no host needs it).
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let (host, port) = match bytes {
        [b'[', ..] => {
            let Some(end) = bytes.iter().position(|&byte| byte == b']') else { return false };
            let (Some(address), Some(rest)) = (bytes.get(1..end), bytes.get(end + 1..)) else { return false };
            let is_address = std::str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok());
            if !is_address {
                return false;
            }
            match rest {
                [] => return true,
                [b':', port @ ..] => return is_port(port),
                _ => return false,
            }
        }
        _ => match bytes.iter().position(|&byte| byte == b':') {
            Some(colon) => (bytes.get(..colon).unwrap_or_default(), bytes.get(colon + 1..)),
            None => (bytes, None),
        },
    };
    !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && host.iter().all(|&byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
                )
        })
        && port.is_none_or(is_port)
}

fn is_port(port: &[u8]) -> bool {
    port.first() != Some(&b'+') && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;

    #[track_caller]
    fn check(target: &str, expected: &str) {
        let got = match parse(&Method::GET, target.as_bytes()) {
            Ok(Target::Origin(path)) => String::from_utf8(path.into_owned()).unwrap(),
            Ok(Target::Absolute { authority, path }) => {
                format!("{} {}", str::from_utf8(authority).unwrap(), String::from_utf8(path.into_owned()).unwrap())
            }
            Ok(Target::Asterisk) => "*".to_owned(),
            Err(refusal) => refusal.status().as_str().to_owned(),
        };
        assert_eq!(got, expected, "{target:?}");
    }

    #[test]
    fn odd_bytes_are_encoded_and_never_change_meaning() {
        check("/a\"b<c>d`e", "/a%22b%3Cc%3Ed%60e");
        check("/a\\b^{|}", "/a%5Cb%5E%7B%7C%7D");
        check("/é?é", "/%C3%A9?%C3%A9");
        check("/?a={b|c}\\", "/?a={b|c}\\");
        check("/%2f%zz", "400");
        check("/%2", "400");
        check("/?%zz", "/?%zz");
        check("/a?b?c", "/a?b?c");
        check("http://h/é", "h /%C3%A9");
    }

    #[test]
    fn whatever_is_not_refused_can_be_represented() {
        for byte in 0..=u8::MAX {
            for prefix in ["/", "/?"] {
                let mut target = prefix.as_bytes().to_vec();
                target.extend([byte, b'4', b'1']);
                if let Ok(Target::Origin(path)) = parse(&Method::GET, &target) {
                    let header = RequestHeader::build_no_case(Method::GET, &path, None).unwrap();
                    assert_eq!(header.raw_path(), path.as_ref(), "byte {byte}");
                }
            }
        }
    }
}
