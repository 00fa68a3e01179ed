//! Writes the head of an HTTP/1 response and decides how its body ends (RFC 9112 section 6).

use http::{StatusCode, header};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_http::{HeaderNameVariant, ResponseHeader};

/// What the request said that matters for the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// HTTP/1.1; the other is 1.0.
    pub is_11: bool,
    /// HEAD: the answer has no body, whatever its head says.
    pub is_head: bool,
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// There is none.
    Empty,
    /// After so many more bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// What `write_head` settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub ends: Ends,
    /// Whether the connection can take another request after this answer.
    pub keep: bool,
}

/// Writes a final head, or 101. `keep`: the connection shall take another request; `is_whole`: no body follows.
pub(super) fn write_head(output: &mut Vec<u8>, head: &ResponseHeader, asked: Asked, keep: bool, is_whole: bool) -> Settled {
    let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let length = content_length(head);
    let has_coding = head.headers.contains_key(header::TRANSFER_ENCODING);
    let ends = match (has_coding, length) {
        _ if is_switch => Ends::Close,
        _ if asked.is_head || !may_have_body(head.status) => Ends::Empty,
        (false, Some(length)) => Ends::Length(length),
        (false, None) if is_whole => Ends::Length(0),
        _ if asked.is_11 => Ends::Chunked,
        _ => Ends::Close,
    };
    let keep = keep && ends != Ends::Close;

    write_status_line(output, head, asked.is_11);
    let keeps_length = matches!(ends, Ends::Length(_)) || (ends == Ends::Empty && head.status != StatusCode::NO_CONTENT);
    write_fields(output, head, is_switch, keeps_length);
    match ends {
        Ends::Chunked => output.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Ends::Length(0) if length.is_none() => output.extend_from_slice(b"Content-Length: 0\r\n"),
        _ => {}
    }
    if !head.headers.contains_key(header::DATE) {
        output.extend_from_slice(b"Date: ");
        output.extend_from_slice(get_cached_date().as_bytes());
        output.extend_from_slice(b"\r\n");
    }
    output.extend_from_slice(match (is_switch, keep, asked.is_11) {
        (true, ..) => b"Connection: Upgrade\r\n\r\n".as_slice(),
        (_, false, true) => b"Connection: close\r\n\r\n",
        (_, true, false) => b"Connection: keep-alive\r\n\r\n",
        // HTTP/1.0 closes unless it says otherwise, and Traefik does not say it.
        (_, true, true) | (_, false, false) => b"\r\n",
    });
    Settled { ends, keep }
}

/// Writes an interim head (1xx, but not 101).
pub(super) fn write_interim(output: &mut Vec<u8>, head: &ResponseHeader) {
    write_status_line(output, head, true);
    write_fields(output, head, false, false);
    output.extend_from_slice(b"\r\n");
}

/// RFC 9110 sections 15.2, 15.3.5 and 15.4.5.
fn may_have_body(status: StatusCode) -> bool {
    !(status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED)
}

/// The length, if the head gives exactly one.
fn content_length(head: &ResponseHeader) -> Option<u64> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(length), None) = (lengths.next(), lengths.next()) else { return None };
    let digits = length.to_str().ok()?;
    if digits.starts_with('+') { None } else { digits.parse().ok() }
}

fn write_status_line(output: &mut Vec<u8>, head: &ResponseHeader, is_11: bool) {
    output.extend_from_slice(if is_11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
    output.extend_from_slice(head.status.as_str().as_bytes());
    output.push(b' ');
    output.extend_from_slice(head.get_reason_phrase().unwrap_or_default().as_bytes());
    output.extend_from_slice(b"\r\n");
}

/// All headers but those that belong to this connection: they are ours to say.
fn write_fields(output: &mut Vec<u8>, head: &ResponseHeader, keeps_upgrade: bool, keeps_length: bool) {
    let written = head.map(|name, value| {
        let name = match &name {
            HeaderNameVariant::Case(name) => name.as_slice(),
            HeaderNameVariant::Titled(name) => name.as_bytes(),
        };
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let is_ours = match name.len() {
            7 => is("upgrade") && !keeps_upgrade,
            10 => is("connection") || is("keep-alive"),
            14 => is("content-length") && !keeps_length,
            16 => is("proxy-connection"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        if !is_ours {
            output.extend_from_slice(name);
            output.extend_from_slice(b": ");
            output.extend_from_slice(value.as_bytes());
            output.extend_from_slice(b"\r\n");
        }
        Ok(())
    });
    debug_assert!(written.is_ok(), "nothing above fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { is_11: true, is_head: false };
    const HEAD: Asked = Asked { is_11: true, is_head: true };
    const OLD: Asked = Asked { is_11: false, is_head: false };

    /// Writes a head and shows its lines without the date, joined by `|`.
    #[track_caller]
    fn check(status: u16, fields: &[(&str, &str)], asked: Asked, keep: bool, expected: (&str, Ends, bool)) {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            head.append_header((*name).to_owned(), *value).unwrap();
        }
        let mut output = Vec::new();
        let settled = write_head(&mut output, &head, asked, keep, false);
        let text = String::from_utf8(output).unwrap();
        assert!(text.ends_with("\r\n\r\n") && text.contains("\r\nDate: "), "{text:?}");
        let lines: Vec<_> = text.trim_end().split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
        assert_eq!((lines.join("|").as_str(), settled.ends, settled.keep), expected);
    }

    #[test]
    fn bodies_are_framed_for_the_client() {
        let length: &[_] = &[("content-length", "5"), ("Connection", "close"), ("Keep-Alive", "timeout=5")];
        check(200, length, GET, true, ("HTTP/1.1 200 OK|content-length: 5", Ends::Length(5), true));
        check(200, length, GET, false, ("HTTP/1.1 200 OK|content-length: 5|Connection: close", Ends::Length(5), false));
        check(200, length, HEAD, true, ("HTTP/1.1 200 OK|content-length: 5", Ends::Empty, true));
        check(304, length, GET, true, ("HTTP/1.1 304 Not Modified|content-length: 5", Ends::Empty, true));
        check(204, length, GET, true, ("HTTP/1.1 204 No Content", Ends::Empty, true));
        check(200, length, OLD, true, ("HTTP/1.0 200 OK|content-length: 5|Connection: keep-alive", Ends::Length(5), true));
        let chunked: &[_] = &[("transfer-encoding", "chunked")];
        check(200, chunked, GET, true, ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ends::Chunked, true));
        check(200, &[], GET, true, ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ends::Chunked, true));
        check(200, chunked, OLD, true, ("HTTP/1.0 200 OK", Ends::Close, false));
        check(200, chunked, HEAD, true, ("HTTP/1.1 200 OK", Ends::Empty, true));
        let twice: &[_] = &[("content-length", "5"), ("content-length", "6")];
        check(200, twice, GET, true, ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ends::Chunked, true));
        let both: &[_] = &[("content-length", "5"), ("transfer-encoding", "chunked")];
        check(200, both, GET, true, ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ends::Chunked, true));
    }

    #[test]
    fn a_switch_keeps_its_upgrade_and_nothing_else_does() {
        let upgrade: &[_] = &[("Upgrade", "websocket"), ("connection", "upgrade")];
        let switched = "HTTP/1.1 101 Switching Protocols|Upgrade: websocket|Connection: Upgrade";
        check(101, upgrade, GET, true, (switched, Ends::Close, false));
        check(200, upgrade, GET, true, ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ends::Chunked, true));
    }
}
