//! Reads the head of an HTTP/1 request: bytes in, one unambiguous message or a refusal out. No IO, no clock.
//!
//! Strict where leniency would let two parsers disagree (RFC 9112 section 11.2): lines end with CRLF only, there is exactly one
//! `Host`, at most one framing header, no white space where the grammar has none. Where a client may be odd but not ambiguous, the
//! head leaves here in one canonical form: origin-form target with the authority in `Host`, odd target bytes percent-encoded as
//! Traefik sends them, `Upgrade` only where it means something.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Version};
use memchr::memchr;
use pingora_http::{RequestHeader, header_value_from_raw};

use super::body::Framing;
use super::refusal::Refusal;
use super::target::{self, Target};

/// Headers of one request.
pub const HEADERS_MAX: usize = 256;
/// Bytes of a method's name.
const METHOD_BYTES_MAX: usize = 64;
/// Bytes of a header's name: more cannot be represented.
const NAME_BYTES_MAX: usize = u16::MAX as usize - 1;

/// A request's head, understood.
#[derive(Debug)]
pub struct Head {
    /// Method, target in origin-form, version and headers. `Host` is the authority of the request.
    pub request: RequestHeader,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// `OPTIONS *`: meant for the server itself, never for a route.
    pub is_server_wide: bool,
}

/// Looks for the end of a head in bytes that arrive piece by piece, each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndFinder {
    looked: usize,
    line: usize,
}

impl EndFinder {
    /// How many bytes of `input` the head has, its empty line included; `None` when the end has not come yet.
    ///
    /// `input` is the same bytes as in the call before, and perhaps more. An empty line in front of a head counts as a head of
    /// its own (2 bytes).
    ///
    /// # Errors
    /// A line that does not end with CRLF, a first line that cannot become a request line, more than `bytes_max` bytes.
    pub fn find(&mut self, input: &[u8], bytes_max: usize) -> Result<Option<usize>, Refusal> {
        while let Some(at) = memchr(b'\n', input.get(self.looked..).unwrap_or_default()) {
            let end = self.looked + at + 1;
            let line = input.get(self.line..end).unwrap_or_default();
            if !line.ends_with(b"\r\n") {
                return Err(Refusal::LineEnd);
            }
            self.looked = end;
            self.line = end;
            if end > bytes_max {
                return Err(Refusal::HeadTooLarge);
            }
            if line.len() == 2 {
                return Ok(Some(end));
            }
        }
        self.looked = input.len();
        if input.len() > bytes_max {
            return Err(Refusal::HeadTooLarge);
        }
        // What cannot be a request line is refused now and not after a time-out for its missing end.
        if self.line == 0 {
            check_first_line_so_far(input)?;
        }
        Ok(None)
    }
}

fn check_first_line_so_far(input: &[u8]) -> Result<(), Refusal> {
    let text = input.strip_suffix(b"\r").unwrap_or(input);
    if text.iter().any(|&byte| byte < b' ' || byte == 0x7f) {
        return Err(Refusal::RequestLine);
    }
    if text.len() > METHOD_BYTES_MAX + target::BYTES_MAX + "  HTTP/1.1".len() {
        return Err(Refusal::TargetTooLong);
    }
    Ok(())
}

/// Reads a whole head, as [`EndFinder::find`] measured it.
///
/// # Errors
/// Whatever makes it ambiguous, malformed or more than we serve; the connection cannot be used after that.
pub fn parse(head: &Bytes) -> Result<Head, Refusal> {
    let mut lines = Lines(head);
    let first = lines.next().ok_or(Refusal::RequestLine)?;
    let (method, target, version) = split_request_line(first)?;
    if method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let target = target::parse(&method, target)?;
    let path: Cow<'_, [u8]> = match &target {
        Target::Origin(path) | Target::Absolute { path, .. } => Cow::Borrowed(path),
        Target::Asterisk => Cow::Borrowed(b"*"),
    };
    let is_server_wide = matches!(target, Target::Asterisk);
    let mut request =
        RequestHeader::build_no_case(method, &path, Some(HEADERS_HINT)).map_err(|error| Refusal::of_target(&error))?;
    request.set_version(version);

    let mut seen = Seen::default();
    let mut count = 0;
    for line in lines {
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > HEADERS_MAX {
            return Err(Refusal::TooManyHeaders);
        }
        let (name, value) = split_field(line)?;
        let value = header_value_from_raw(head.slice_ref(value));
        seen.look(&name, &value)?;
        request.append_header(name, value).map_err(|_invalid| Refusal::TooManyHeaders)?;
    }
    if let Target::Absolute { authority, .. } = target {
        seen.check_host(version)?;
        // RFC 9112 section 3.2.2: the authority of the target replaces what Host says.
        request.insert_header(header::HOST, head.slice_ref(authority).as_ref()).map_err(|_invalid| Refusal::Host)?;
    }
    seen.finish(request, version, is_server_wide)
}

/// Most requests have no more headers than this.
const HEADERS_HINT: usize = 16;

/// The lines of a head without their CRLF.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr(b'\n', self.0)?;
        let (line, rest) = self.0.split_at_checked(end + 1)?;
        self.0 = rest;
        line.strip_suffix(b"\r\n")
    }
}

/// RFC 9112 section 3: `method SP request-target SP HTTP-version`, with exactly one space each.
fn split_request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Refusal> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::RequestLine);
    };
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !is_token(method) {
        return Err(Refusal::Method);
    }
    let method = Method::from_bytes(method).map_err(|_invalid| Refusal::Method)?;
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Refusal::Version);
        }
        _ => return Err(Refusal::RequestLine),
    };
    Ok((method, target, version))
}

/// RFC 9112 section 5: `field-name ":" OWS field-value OWS`. A line that begins with white space (obs-fold) has no name and is refused.
fn split_field(line: &[u8]) -> Result<(HeaderName, &[u8]), Refusal> {
    let colon = memchr(b':', line).ok_or(Refusal::HeaderLine)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Refusal::HeaderName)?;
    if name.is_empty() || !is_token(name) {
        return Err(Refusal::HeaderName);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::HeadTooLarge);
    }
    let value = trim(value.get(1..).unwrap_or_default());
    if !is_field_value(value) {
        return Err(Refusal::HeaderValue);
    }
    let name = HeaderName::from_bytes(name).map_err(|_invalid| Refusal::HeaderName)?;
    Ok((name, value))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| TOKEN.get(usize::from(byte)).is_some_and(|&is| is))
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses what is out of bounds")]
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let char = byte as u8;
        table[byte] = char.is_ascii_alphanumeric()
            || matches!(
                char,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

/// RFC 9110 section 5.5, obs-text allowed. No early way out, so that the compiler can look at many bytes at once.
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |bad, &byte| bad | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f))
}

/// What the headers say of the message itself.
#[derive(Default)]
struct Seen {
    hosts: usize,
    length: Option<u64>,
    /// The length was written with leading zeros.
    length_is_odd: bool,
    is_chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_nominated: bool,
    has_upgrade: bool,
    /// `Upgrade: h2c` would open a connection inside the server that no rule looks into.
    upgrade_is_h2c: bool,
    expects: Option<bool>,
}

impl Seen {
    fn look(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
        let bytes = value.as_bytes();
        if *name == header::HOST {
            self.hosts += 1;
            if self.hosts > 1 {
                return Err(Refusal::ManyHosts);
            }
            if !target::is_authority_or_empty(bytes) {
                return Err(Refusal::Host);
            }
        } else if *name == header::CONTENT_LENGTH {
            if self.length.is_some() {
                return Err(Refusal::ContentLength);
            }
            self.length = Some(parse_length(bytes)?);
            self.length_is_odd = bytes.len() > 1 && bytes.starts_with(b"0");
        } else if *name == header::TRANSFER_ENCODING {
            if self.is_chunked {
                return Err(Refusal::TransferEncoding);
            }
            check_coding(bytes)?;
            self.is_chunked = true;
        } else if *name == header::CONNECTION {
            for token in tokens(bytes) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                self.upgrade_nominated |= token.eq_ignore_ascii_case(b"upgrade");
            }
        } else if *name == header::UPGRADE {
            self.has_upgrade = true;
            self.upgrade_is_h2c |= tokens(bytes).any(|token| token.eq_ignore_ascii_case(b"h2c"));
        } else if *name == header::EXPECT {
            self.expects = Some(self.expects.unwrap_or(true) && bytes.eq_ignore_ascii_case(b"100-continue"));
        }
        Ok(())
    }

    fn check_host(&self, version: Version) -> Result<(), Refusal> {
        if self.hosts == 0 && version == Version::HTTP_11 { Err(Refusal::MissingHost) } else { Ok(()) }
    }

    fn finish(self, mut request: RequestHeader, version: Version, is_server_wide: bool) -> Result<Head, Refusal> {
        self.check_host(version)?;
        let is_11 = version == Version::HTTP_11;
        let framing = match (self.is_chunked, self.length) {
            (true, Some(_)) => return Err(Refusal::LengthAndCoding),
            // RFC 9112 section 6.1: a 1.0 message with a transfer coding has faulty framing.
            (true, None) if !is_11 => return Err(Refusal::TransferEncoding),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Length(0),
        };
        if self.length_is_odd {
            request.insert_header(header::CONTENT_LENGTH, self.length.unwrap_or(0)).map_err(|_invalid| Refusal::ContentLength)?;
        }
        if self.has_upgrade && !(is_11 && self.upgrade_nominated && !self.upgrade_is_h2c) {
            request.remove_header(&header::UPGRADE);
        }
        if self.expects == Some(false) && is_11 {
            return Err(Refusal::Expectation);
        }
        Ok(Head {
            request,
            framing,
            keep_alive: !self.close && (is_11 || self.keep_alive),
            expects_continue: is_11 && self.expects == Some(true) && framing != Framing::Length(0),
            is_server_wide,
        })
    }
}

/// RFC 9110 section 8.6: digits, nothing else. A list of equal lengths would be allowed to be repaired; it is refused.
fn parse_length(bytes: &[u8]) -> Result<u64, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::ContentLength);
    }
    bytes
        .iter()
        .try_fold(0_u64, |length, &byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(Refusal::ContentLength)
}

/// RFC 9112 sections 6.1 and 6.3: `chunked` once and last, or the length of the body cannot be told; a coding that we do not
/// know before it is 501.
fn check_coding(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_chunked = |token: &&[u8]| token.eq_ignore_ascii_case(b"chunked");
    let chunked_last = tokens(bytes).last().is_some_and(|last| is_chunked(&last));
    if chunked_last && tokens(bytes).filter(is_chunked).count() == 1 && tokens(bytes).all(is_token) && !bytes.ends_with(b",") {
        return Err(Refusal::UnknownCoding);
    }
    Err(Refusal::TransferEncoding)
}

fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<Option<(usize, Head)>, Refusal> {
        let Some(end) = EndFinder::default().find(input, 1 << 16)? else { return Ok(None) };
        parse(&Bytes::copy_from_slice(&input[..end])).map(|head| Some((end, head)))
    }

    /// Prints what matters of a head, or the refusal.
    fn show(input: &[u8]) -> String {
        match read(input) {
            Ok(None) => "more".to_owned(),
            Err(refusal) => format!("{} {}", refusal.status().as_str(), refusal.text()),
            Ok(Some((_, head))) => {
                let host = head.request.headers.get(header::HOST).map_or("-", |host| host.to_str().unwrap());
                let mut text = format!("{} {} {host} {:?}", head.request.method, head.request.uri, head.framing)
                    .replace("Length(0)", "empty");
                for (is, name) in
                    [(!head.keep_alive, "close"), (head.expects_continue, "expect"), (head.is_server_wide, "server")]
                {
                    if is {
                        text.push(' ');
                        text.push_str(name);
                    }
                }
                text
            }
        }
    }

    #[track_caller]
    fn check(head: &str, expected: &str) {
        assert_eq!(show(head.as_bytes()), expected, "{head:?}");
    }

    #[track_caller]
    fn check_fields(fields: &str, expected: &str) {
        check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"), expected);
    }

    #[test]
    fn reads_ordinary_requests() {
        check("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET / a.test empty");
        check("GET /a/b?c=d HTTP/1.1\r\nhost:a.test:81\r\nX: \r\n\r\n", "GET /a/b?c=d a.test:81 empty");
        check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", "POST / a Length(12)");
        check("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST / a Chunked");
        check("GET / HTTP/1.0\r\n\r\n", "GET / - empty close");
        check("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / - empty");
        check("GET / HTTP/1.1\r\nHost:\r\nConnection: x, Close\r\n\r\n", "GET /  empty close");
        check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a empty server");
        check("M-SEARCH / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "M-SEARCH / [::1]:80 empty");
    }

    #[test]
    fn the_authority_of_the_target_wins_over_host() {
        check("GET http://b.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /x?y b.test empty");
        check("GET HTTP://b.test:8080 HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET / b.test:8080 empty");
        check("GET http://b.test?q HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /?q b.test empty");
        check("GET http://b.test/ HTTP/1.0\r\n\r\n", "GET / b.test empty close");
        check("GET http://b.test/ HTTP/1.1\r\n\r\n", "400 missing required Host header");
        for target in ["http://", "http:///x", "http://u@b/", "ftp://b/", "b.test:80", "x", "?x", "http://b:x/", "//[::1/"] {
            let expected = if target == "//[::1/" { "GET //[::1/ a empty" } else { "400 malformed request target" };
            check(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), expected);
        }
    }

    #[test]
    fn refuses_what_is_no_request_line() {
        for line in [
            "GET  / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET /",
            "GET / HTTP/1.1 ",
            "GET / a HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/11",
        ] {
            check(&format!("{line}\r\nHost: a\r\n\r\n"), "400 malformed request line");
        }
        check("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400 malformed method");
        check("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400 malformed request target");
        check("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "400 fragment in the request target");
        check("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400 malformed request target");
        for version in ["0.9", "1.2", "2.0", "9.9"] {
            check(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"), "505 unsupported protocol version");
        }
        check("CONNECT a.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", "501 CONNECT is not implemented");
        check("\x16\x03\x01", "400 malformed request line");
    }

    #[test]
    fn refuses_every_other_line_end() {
        check("GET / HTTP/1.1\nHost: a\n\n", "400 line does not end with CRLF");
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", "400 line does not end with CRLF");
        check("GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", "400 invalid header value");
        check("GET / HTTP/1.1\r\nHost: a\r\n\n", "400 line does not end with CRLF");
    }

    #[test]
    fn refuses_malformed_headers() {
        for name in ["X : b", " X: b", "\tX: b", ": b", "X\u{7f}: b", "X\0: b", "X(: b", "X Y: b", "\u{e9}: b"] {
            check_fields(name, "400 invalid header name");
        }
        check_fields("no-colon", "400 header without a colon");
        check_fields("X: a\r\n b", "400 header without a colon");
        for value in ["a\0b", "a\u{1}", "\u{7f}"] {
            check_fields(&format!("X: {value}"), "400 invalid header value");
        }
        check_fields("X: a\tb \u{e9}\t ", "POST / a empty");
    }

    #[test]
    fn refuses_all_but_one_good_host() {
        check("GET / HTTP/1.1\r\n\r\n", "400 missing required Host header");
        check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400 too many Host headers");
        for host in ["a b", "a/b", "a@b", "a,b", "a:b", "a:", "a:99999", "[::1", "[x]", "::1", "a%41", ":80", "a\u{e9}"] {
            check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400 malformed Host header");
        }
    }

    #[test]
    fn refuses_ambiguous_framing() {
        for length in ["+3", "-1", "3, 3", "3 3", "0x3", "3.0", "", "18446744073709551616", "a", "3\r\nContent-Length: 3"] {
            check_fields(&format!("Content-Length: {length}"), "400 malformed Content-Length header");
        }
        check_fields("Content-Length: 007", "POST / a Length(7)");
        for coding in [
            "gzip",
            "identity",
            "chunked, gzip",
            "chunked, chunked",
            "chunked,",
            "",
            "xchunked",
            "chunked;q=1",
            "chunked\r\nTransfer-Encoding: chunked",
        ] {
            check_fields(&format!("Transfer-Encoding: {coding}"), "400 malformed Transfer-Encoding header");
        }
        check_fields("Transfer-Encoding: gzip, chunked", "501 Unsupported transfer encoding");
        check_fields("Transfer-Encoding: chunked\r\nContent-Length: 3", "400 both Transfer-Encoding and Content-Length");
        check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400 malformed Transfer-Encoding header");
    }

    #[test]
    fn expectations_upgrades_and_limits() {
        check_fields("Expect: 100-Continue\r\nContent-Length: 3", "POST / a Length(3) expect");
        check_fields("Expect: 100-continue", "POST / a empty");
        check_fields("Expect: x", "417 unknown expectation");
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX)), "431 too many headers");
        let mut finder = EndFinder::default();
        assert!(matches!(finder.find(b"GET / HTTP/1.1\r\nHost: aaaaaaa", 20), Err(Refusal::HeadTooLarge)));
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(target::BYTES_MAX));
        assert!(EndFinder::default().find(long.as_bytes(), 1 << 20).unwrap().is_some());
        assert!(matches!(parse(&Bytes::from(long)), Err(Refusal::TargetTooLong)));
        let upgrade = |fields: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            read(head.as_bytes()).unwrap().unwrap().1.request.headers.contains_key(header::UPGRADE)
        };
        assert!(upgrade("Upgrade: websocket\r\nConnection: keep-alive, Upgrade"));
        assert!(!upgrade("Upgrade: websocket"), "not nominated by Connection");
        assert!(!upgrade("Upgrade: websocket, H2C\r\nConnection: Upgrade"), "h2c would hide requests from the rules");
    }

    #[test]
    fn a_head_split_anywhere_is_the_same_head() {
        let whole = b"POST /a%20b?c HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nX-Y: z\r\n\r\nabc";
        let (end, _) = read(whole).unwrap().unwrap();
        assert_eq!(end, whole.len() - 3);
        for cut in 0..whole.len() {
            let mut finder = EndFinder::default();
            let early = finder.find(&whole[..cut], 1 << 16).unwrap();
            assert_eq!(early, (cut >= end).then_some(end), "cut at {cut}");
            if early.is_none() {
                assert_eq!(finder.find(whole, 1 << 16).unwrap(), Some(end), "cut at {cut}");
            }
        }
    }

    #[test]
    fn values_are_slices_of_the_head() {
        let head = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: some value that is not copied\r\n\r\n");
        let parsed = parse(&head).unwrap();
        let value = parsed.request.headers.get("x-long").unwrap().as_bytes().as_ptr() as usize;
        let range = head.as_ptr() as usize..head.as_ptr() as usize + head.len();
        assert!(range.contains(&value));
    }
}
