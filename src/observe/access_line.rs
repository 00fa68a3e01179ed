//! One line of the access log, byte for byte as Traefik writes it: JSON with sorted keys, Traefik's `common`, or plain CLF.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, REFERER, USER_AGENT};
use jiff::tz::TimeZone;

use super::access_record::{FIELDS, Field, Origin, Record, Selection};
use super::moment::{push_fraction, push_number, with_second};
use crate::config::install::{AccessLogFormat, FieldMode};

/// Host and port as Go splits them; what has no port, or too many colons, is all host.
fn host_and_port(written: &str) -> (&str, &str) {
    match written.rsplit_once(':') {
        Some((host, port)) if host.starts_with('[') => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => (inner, port),
            None => (written, "-"),
        },
        Some((host, port)) if !host.contains(':') => (host, port),
        _ => (written, "-"),
    }
}

/// Adds one line to `out`, its end included.
pub(super) fn write_line(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    format: AccessLogFormat,
    selection: &Selection,
    zone: &TimeZone,
) {
    match format {
        AccessLogFormat::Json => {
            let mut json = Json { out, selection, opening: b'{' };
            json.client(record);
            json.timing(record);
            json.request(record);
            json.routing(record);
            json.starts(record, zone);
            json.tls(record);
            json.rest(record, zone);
        }
        AccessLogFormat::Common => common(out, record, selection, zone, true),
        AccessLogFormat::GenericClf => common(out, record, selection, zone, false),
    }
    out.push(b'\n');
}

struct Json<'o> {
    out: &'o mut Vec<u8>,
    selection: &'o Selection,
    /// What stands before the next key: the brace, or a comma.
    opening: u8,
}

impl Json<'_> {
    fn client(&mut self, record: &Record<'_>) {
        let address = record.client.ip().to_canonical();
        let mut text = [0; 64];
        self.text(Field::ClientAddr, display(&mut text, &SocketAddr::new(address, record.client.port())));
        self.text(Field::ClientHost, record.forwarded_for.unwrap_or_else(|| display(&mut text, &address)));
        self.text(Field::ClientPort, display(&mut text, &record.client.port()));
        self.text(Field::ClientUsername, record.username.unwrap_or("-"));
    }

    fn timing(&mut self, record: &Record<'_>) {
        let origin = record.origin.unwrap_or(Origin { status: 0, bytes: 0, duration: Duration::ZERO, headers: None });
        self.number(Field::DownstreamContentSize, record.response_bytes);
        self.number(Field::DownstreamStatus, record.status);
        self.number(Field::Duration, record.duration.as_nanos());
        if record.response_bytes != 0 && record.response_bytes != origin.bytes && self.key(Field::GzipRatio) {
            let ratio = origin.bytes as f64 / record.response_bytes as f64;
            self.out.extend_from_slice(ratio.to_string().as_bytes());
        }
        self.number(Field::OriginContentSize, origin.bytes);
        self.number(Field::OriginDuration, origin.duration.as_nanos());
        self.number(Field::OriginStatus, origin.status);
        self.number(Field::Overhead, record.duration.saturating_sub(origin.duration).as_nanos());
    }

    fn request(&mut self, record: &Record<'_>) {
        let split = record.host.map(host_and_port);
        self.optional(Field::RequestAddr, record.host);
        self.number(Field::RequestContentSize, record.request_bytes);
        self.number(Field::RequestCount, record.count);
        self.optional(Field::RequestHost, split.map(|(host, _)| host));
        self.text(Field::RequestMethod, record.method);
        self.text(Field::RequestPath, record.target);
        self.optional(Field::RequestPort, split.map(|(_, port)| port));
        self.text(Field::RequestProtocol, record.protocol);
        self.text(Field::RequestScheme, if record.tls.is_some() { "https" } else { "http" });
        self.number(Field::RetryAttempts, record.retries);
    }

    fn routing(&mut self, record: &Record<'_>) {
        self.optional(Field::RouterName, record.router);
        self.optional(Field::ServiceAddr, record.server_address);
        self.optional(Field::ServiceName, record.service);
        self.optional(Field::ServiceURL, record.server_url);
    }

    fn starts(&mut self, record: &Record<'_>, zone: &TimeZone) {
        with_second(record.start, zone, |second, nanoseconds| {
            for (field, text, zone) in [(Field::StartLocal, &second.local, &*second.zone), (Field::StartUTC, &second.utc, "Z")] {
                if self.key(field) {
                    self.out.push(b'"');
                    self.out.extend_from_slice(text.as_bytes());
                    push_fraction(self.out, nanoseconds);
                    self.out.extend_from_slice(zone.as_bytes());
                    self.out.push(b'"');
                }
            }
        });
    }

    fn tls(&mut self, record: &Record<'_>) {
        self.optional(Field::TLSCipher, record.tls.map(|tls| tls.cipher));
        self.optional(Field::TLSClientSubject, record.tls.and_then(|tls| tls.client_subject));
        self.optional(Field::TLSVersion, record.tls.map(|tls| tls.version));
    }

    /// Keys that begin with a small letter.
    fn rest(&mut self, record: &Record<'_>, zone: &TimeZone) {
        self.headers("downstream_", record.response_headers);
        self.text(Field::EntryPointName, record.entrypoint);
        self.raw_key("level");
        self.out.extend_from_slice(br#""info","msg":"""#);
        self.headers("origin_", record.origin.and_then(|origin| origin.headers));
        self.headers("request_", Some(record.request_headers));
        self.raw_key("time");
        with_second(record.start + record.duration, zone, |second, _| {
            for part in ["\"", &second.local, &second.zone, "\"}"] {
                self.out.extend_from_slice(part.as_bytes());
            }
        });
    }

    fn headers(&mut self, prefix: &str, map: Option<&HeaderMap>) {
        let Some(map) = map else { return };
        self.selection.each_header(map, |canonical, kept| {
            self.out.push(self.opening);
            self.out.push(b'"');
            self.out.extend_from_slice(prefix.as_bytes());
            self.out.extend_from_slice(canonical.as_bytes());
            self.out.extend_from_slice(b"\":\"");
            self.opening = b',';
            match kept {
                Some(name) => push_values(self.out, map, name, push_json),
                None => self.out.extend_from_slice(b"REDACTED"),
            }
            self.out.push(b'"');
        });
    }

    /// Begins a field; false when it is not wanted.
    fn key(&mut self, field: Field) -> bool {
        let is_wanted = self.selection.has(field);
        if is_wanted && let Some((_, name)) = FIELDS.get(field as usize) {
            self.raw_key(name);
        }
        is_wanted
    }

    fn raw_key(&mut self, name: &str) {
        self.out.push(self.opening);
        self.opening = b',';
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, field: Field, value: &str) {
        if self.key(field) {
            self.out.push(b'"');
            push_json(self.out, value.as_bytes());
            self.out.push(b'"');
        }
    }

    fn optional(&mut self, field: Field, value: Option<&str>) {
        if let Some(value) = value {
            self.text(field, value);
        }
    }

    fn number(&mut self, field: Field, value: impl Into<u128>) {
        if self.key(field) {
            push_number(self.out, value.into());
        }
    }
}

/// Writes a short value into memory of the caller's.
fn display<'t>(memory: &'t mut [u8; 64], value: &impl std::fmt::Display) -> &'t str {
    use std::io::Write;
    let mut rest = &mut memory[..];
    // An address with its port is at most 58 bytes.
    let _ = write!(rest, "{value}");
    let unused = rest.len();
    let used = memory.len() - unused;
    memory.get(..used).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// All values of a header, joined by commas.
fn push_values(out: &mut Vec<u8>, map: &HeaderMap, name: &HeaderName, push: fn(&mut Vec<u8>, &[u8])) {
    for (index, value) in map.get_all(name).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push(out, value.as_bytes());
    }
}

/// Escapes as Go's encoding/json does, HTML characters included.
fn push_json(out: &mut Vec<u8>, text: &[u8]) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&');
    if text.iter().all(is_plain) {
        out.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\u{8}' => out.extend_from_slice(b"\\b"),
                '\u{c}' => out.extend_from_slice(b"\\f"),
                '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
                }
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// CLF's only escape; control characters, which Traefik lets through, would let a client forge lines and become `\xNN`.
fn push_quoted(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            0..=8 | 10..=31 | 127 => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

/// Common log format: with the agent and the referer, and if `is_traefiks` with count, router, server and milliseconds.
fn common(out: &mut Vec<u8>, record: &Record<'_>, selection: &Selection, zone: &TimeZone, is_traefiks: bool) {
    let mut memory = [0; 64];
    let host = record.forwarded_for.unwrap_or_else(|| display(&mut memory, &record.client.ip().to_canonical()));
    let text = |out: &mut Vec<u8>, field: Field, value: &str| match value {
        value if selection.has(field) && !value.is_empty() => push_quoted(out, value.as_bytes()),
        _ => out.push(b'-'),
    };
    let number = |out: &mut Vec<u8>, field: Field, value: u64| {
        if selection.has(field) { push_number(out, value.into()) } else { out.push(b'-') }
    };
    text(out, Field::ClientHost, host);
    out.extend_from_slice(b" - ");
    text(out, Field::ClientUsername, record.username.unwrap_or_default());
    out.extend_from_slice(b" [");
    with_second(record.start, zone, |second, _| {
        let is_utc = selection.has(Field::StartUTC);
        let is_local = selection.has(Field::StartLocal);
        let time = if is_utc {
            &*second.clf_utc
        } else if is_local {
            &*second.clf_local
        } else {
            "-"
        };
        out.extend_from_slice(time.as_bytes());
    });
    out.extend_from_slice(b"] \"");
    text(out, Field::RequestMethod, record.method);
    out.push(b' ');
    text(out, Field::RequestPath, record.target);
    out.push(b' ');
    text(out, Field::RequestProtocol, record.protocol);
    out.extend_from_slice(b"\" ");
    number(out, Field::DownstreamStatus, record.status.into());
    out.push(b' ');
    number(out, Field::DownstreamContentSize, record.response_bytes);
    for (name, mode) in [(REFERER, selection.referer), (USER_AGENT, selection.user_agent)] {
        out.extend_from_slice(b" \"");
        match record.request_headers.get(&name).filter(|value| !value.is_empty()) {
            Some(_) if mode == FieldMode::Keep => push_values(out, record.request_headers, &name, push_quoted),
            Some(_) if mode == FieldMode::Redact => out.extend_from_slice(b"REDACTED"),
            _ => out.push(b'-'),
        }
        out.push(b'"');
    }
    if is_traefiks {
        out.push(b' ');
        number(out, Field::RequestCount, record.count);
        for (field, value) in [(Field::RouterName, record.router), (Field::ServiceURL, record.server_url)] {
            out.extend_from_slice(b" \"");
            text(out, field, value.unwrap_or_default());
            out.push(b'"');
        }
        out.push(b' ');
        push_number(out, if selection.has(Field::Duration) { record.duration.as_millis() } else { 0 });
        out.extend_from_slice(b"ms");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;
    use jiff::tz::Offset;

    use super::super::access_record::Tls;
    use super::*;
    use crate::config::install::AccessLogFields;

    fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()));
        let mut map = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn fields(default: FieldMode, headers_default: FieldMode, named: &[(&str, FieldMode)]) -> AccessLogFields {
        let mut fields = AccessLogFields { default, headers_default, ..AccessLogFields::default() };
        for (name, mode) in named {
            let map = if name.contains('-') || *name == "referer" { &mut fields.headers } else { &mut fields.names };
            map.insert((*name).to_owned(), *mode);
        }
        fields
    }

    fn record(headers: &HeaderMap) -> Record<'_> {
        Record {
            start: UNIX_EPOCH + Duration::new(1_795_376_043, 393_490_332),
            duration: Duration::from_nanos(95_139),
            count: 1,
            client: "127.0.0.1:48128".parse().unwrap(),
            forwarded_for: None,
            username: None,
            host: Some("cljdoc.org"),
            method: "GET",
            target: "/foo?a=b",
            protocol: "HTTP/1.1",
            request_bytes: 0,
            entrypoint: "web",
            router: Some("cljdoc-http@consulcatalog"),
            service: None,
            server_url: None,
            server_address: None,
            origin: None,
            status: 301,
            response_bytes: 17,
            retries: 0,
            tls: None,
            request_headers: headers,
            response_headers: None,
        }
    }

    #[track_caller]
    fn check(record: &Record<'_>, format: AccessLogFormat, fields: &AccessLogFields, zone: i8, expected: &str) {
        let mut out = Vec::new();
        write_line(&mut out, record, format, &Selection::new(fields), &TimeZone::fixed(Offset::constant(zone)));
        assert_eq!(String::from_utf8_lossy(&out).trim_end_matches('\n'), expected);
    }

    /// The lines of these tests were written by Traefik 3.7.15 with cljdoc's settings.
    #[test]
    fn json_of_a_redirect() {
        let headers = headers(&[("user-agent", b"curl/7.88.1"), ("host", b"cljdoc.org"), ("accept", b"*/*")]);
        let cljdoc = fields(FieldMode::Keep, FieldMode::Drop, &[("user-agent", FieldMode::Keep)]);
        check(
            &record(&headers),
            AccessLogFormat::Json,
            &cljdoc,
            0,
            r#"{"ClientAddr":"127.0.0.1:48128","ClientHost":"127.0.0.1","ClientPort":"48128","ClientUsername":"-","DownstreamContentSize":17,"DownstreamStatus":301,"Duration":95139,"GzipRatio":0,"OriginContentSize":0,"OriginDuration":0,"OriginStatus":0,"Overhead":95139,"RequestAddr":"cljdoc.org","RequestContentSize":0,"RequestCount":1,"RequestHost":"cljdoc.org","RequestMethod":"GET","RequestPath":"/foo?a=b","RequestPort":"-","RequestProtocol":"HTTP/1.1","RequestScheme":"http","RetryAttempts":0,"RouterName":"cljdoc-http@consulcatalog","StartLocal":"2026-11-22T19:34:03.393490332Z","StartUTC":"2026-11-22T19:34:03.393490332Z","entryPointName":"web","level":"info","msg":"","request_User-Agent":"curl/7.88.1","time":"2026-11-22T19:34:03Z"}"#,
        );
        let second = Record {
            start: UNIX_EPOCH + Duration::new(1_795_376_076, 687_765_340),
            duration: Duration::from_nanos(81_924),
            count: 2,
            client: "127.0.0.1:36218".parse().unwrap(),
            host: Some("cljdoc.org:80"),
            target: "/a%20b?x=1&y=%2F",
            ..record(&headers)
        };
        check(
            &second,
            AccessLogFormat::Json,
            &cljdoc,
            0,
            r#"{"ClientAddr":"127.0.0.1:36218","ClientHost":"127.0.0.1","ClientPort":"36218","ClientUsername":"-","DownstreamContentSize":17,"DownstreamStatus":301,"Duration":81924,"GzipRatio":0,"OriginContentSize":0,"OriginDuration":0,"OriginStatus":0,"Overhead":81924,"RequestAddr":"cljdoc.org:80","RequestContentSize":0,"RequestCount":2,"RequestHost":"cljdoc.org","RequestMethod":"GET","RequestPath":"/a%20b?x=1\u0026y=%2F","RequestPort":"80","RequestProtocol":"HTTP/1.1","RequestScheme":"http","RetryAttempts":0,"RouterName":"cljdoc-http@consulcatalog","StartLocal":"2026-11-22T19:34:36.68776534Z","StartUTC":"2026-11-22T19:34:36.68776534Z","entryPointName":"web","level":"info","msg":"","request_User-Agent":"curl/7.88.1","time":"2026-11-22T19:34:36Z"}"#,
        );
    }

    #[test]
    fn json_of_a_proxied_request_by_tls() {
        let headers = headers(&[("user-agent", b"curl/7.88.1")]);
        let tls = Tls { version: "1.3", cipher: "TLS_AES_128_GCM_SHA256", client_subject: None };
        let origin = Origin { status: 200, bytes: 400, duration: Duration::from_nanos(46_421_647), headers: None };
        let proxied = Record {
            start: UNIX_EPOCH + Duration::new(1_795_376_155, 289_280_995),
            duration: Duration::from_nanos(46_497_740),
            count: 31,
            client: "127.0.0.1:40748".parse().unwrap(),
            host: Some("cljdoc.org:21002"),
            target: "/x",
            protocol: "HTTP/2.0",
            entrypoint: "websecure",
            router: Some("cljdoc-https@consulcatalog"),
            service: Some("cljdoc@consulcatalog"),
            server_url: Some("http://127.0.0.1:21010"),
            server_address: Some("127.0.0.1:21010"),
            origin: Some(origin),
            status: 200,
            response_bytes: 400,
            tls: Some(tls),
            ..record(&headers)
        };
        let cljdoc = fields(FieldMode::Keep, FieldMode::Drop, &[("user-agent", FieldMode::Keep)]);
        check(
            &proxied,
            AccessLogFormat::Json,
            &cljdoc,
            0,
            r#"{"ClientAddr":"127.0.0.1:40748","ClientHost":"127.0.0.1","ClientPort":"40748","ClientUsername":"-","DownstreamContentSize":400,"DownstreamStatus":200,"Duration":46497740,"OriginContentSize":400,"OriginDuration":46421647,"OriginStatus":200,"Overhead":76093,"RequestAddr":"cljdoc.org:21002","RequestContentSize":0,"RequestCount":31,"RequestHost":"cljdoc.org","RequestMethod":"GET","RequestPath":"/x","RequestPort":"21002","RequestProtocol":"HTTP/2.0","RequestScheme":"https","RetryAttempts":0,"RouterName":"cljdoc-https@consulcatalog","ServiceAddr":"127.0.0.1:21010","ServiceName":"cljdoc@consulcatalog","ServiceURL":"http://127.0.0.1:21010","StartLocal":"2026-11-22T19:35:55.289280995Z","StartUTC":"2026-11-22T19:35:55.289280995Z","TLSCipher":"TLS_AES_128_GCM_SHA256","TLSVersion":"1.3","entryPointName":"websecure","level":"info","msg":"","request_User-Agent":"curl/7.88.1","time":"2026-11-22T19:35:55Z"}"#,
        );
    }

    /// Made by Traefik 3.7.15 in Berlin's winter, with headers kept, redacted and dropped, and a compressed answer.
    #[test]
    fn json_with_headers_of_all_three_kinds() {
        let request = headers(&[
            ("x-a", b"1"),
            ("x-a", b"2"),
            ("x-real-ip", b"127.0.0.1"),
            ("accept-encoding", b"gzip"),
            ("host", b"[::1]"),
        ]);
        let response =
            headers(&[("vary", b"Accept-Encoding"), ("x-o", b"1"), ("x-o", b"2"), ("content-type", b""), ("etag", b"\"q\"")]);
        let duration = Duration::from_nanos(45_390_902);
        let record = Record {
            start: UNIX_EPOCH + Duration::new(1_795_579_469, 819_404_153),
            duration: Duration::from_nanos(45_848_245),
            client: "127.0.0.1:52860".parse().unwrap(),
            forwarded_for: Some("1.1.1.1, 2.2.2.2"),
            host: Some("[::1]"),
            target: "/a",
            router: Some("r@file"),
            service: Some("b@file"),
            server_url: Some("http://127.0.0.1:46019"),
            server_address: Some("127.0.0.1:46019"),
            origin: Some(Origin { status: 201, bytes: 2000, duration, headers: Some(&response) }),
            status: 201,
            response_bytes: 36,
            count: 2,
            response_headers: Some(&response),
            ..record(&request)
        };
        let kept = [("x-a", FieldMode::Redact), ("user-agent", FieldMode::Keep), ("accept-encoding", FieldMode::Drop)];
        let fields = fields(FieldMode::Keep, FieldMode::Keep, &kept);
        check(
            &record,
            AccessLogFormat::Json,
            &fields,
            1,
            r#"{"ClientAddr":"127.0.0.1:52860","ClientHost":"1.1.1.1, 2.2.2.2","ClientPort":"52860","ClientUsername":"-","DownstreamContentSize":36,"DownstreamStatus":201,"Duration":45848245,"GzipRatio":55.55555555555556,"OriginContentSize":2000,"OriginDuration":45390902,"OriginStatus":201,"Overhead":457343,"RequestAddr":"[::1]","RequestContentSize":0,"RequestCount":2,"RequestHost":"[::1]","RequestMethod":"GET","RequestPath":"/a","RequestPort":"-","RequestProtocol":"HTTP/1.1","RequestScheme":"http","RetryAttempts":0,"RouterName":"r@file","ServiceAddr":"127.0.0.1:46019","ServiceName":"b@file","ServiceURL":"http://127.0.0.1:46019","StartLocal":"2026-11-25T05:04:29.819404153+01:00","StartUTC":"2026-11-25T04:04:29.819404153Z","downstream_Content-Type":"","downstream_Etag":"\"q\"","downstream_Vary":"Accept-Encoding","downstream_X-O":"1,2","entryPointName":"web","level":"info","msg":"","origin_Content-Type":"","origin_Etag":"\"q\"","origin_Vary":"Accept-Encoding","origin_X-O":"1,2","request_X-A":"REDACTED","request_X-Real-Ip":"127.0.0.1","time":"2026-11-25T05:04:29+01:00"}"#,
        );
    }

    #[test]
    fn json_of_few_fields_and_of_no_host() {
        let none = HeaderMap::new();
        let named =
            [("requestpath", FieldMode::Keep), ("requestmethod", FieldMode::Redact), ("downstreamstatus", FieldMode::Keep)];
        let few = fields(FieldMode::Drop, FieldMode::Drop, &named);
        let expected =
            r#"{"DownstreamStatus":301,"RequestPath":"/foo?a=b","level":"info","msg":"","time":"2026-11-22T20:34:03+01:00"}"#;
        check(&record(&none), AccessLogFormat::Json, &few, 1, expected);
        let hosts =
            fields(FieldMode::Drop, FieldMode::Drop, &[("requesthost", FieldMode::Keep), ("requestport", FieldMode::Keep)]);
        let end = r#""level":"info","msg":"","time":"2026-11-22T19:34:03Z"}"#;
        check(&Record { host: None, ..record(&none) }, AccessLogFormat::Json, &hosts, 0, &format!("{{{end}"));
        for (host, split) in [("a:", "a|"), ("[::1]:80", "::1|80"), ("::1", "::1|-"), ("a", "a|-")] {
            let (host_only, port) = split.split_once('|').unwrap();
            let expected = format!(r#"{{"RequestHost":"{host_only}","RequestPort":"{port}",{end}"#);
            check(&Record { host: Some(host), ..record(&none) }, AccessLogFormat::Json, &hosts, 0, &expected);
        }
    }

    #[test]
    fn json_escapes_as_go_does() {
        let mut out = Vec::new();
        push_json(&mut out, b"q\"u\\o\te\xc3\xa9\xff<&>\x01\x7f\n");
        assert_eq!(String::from_utf8(out).unwrap(), "q\\\"u\\\\o\\te\u{e9}\\ufffd\\u003c\\u0026\\u003e\\u0001\u{7f}\\n");
    }

    #[test]
    fn common_as_traefik_has_it() {
        let none = HeaderMap::new();
        let start = UNIX_EPOCH + Duration::from_secs(1_795_376_491);
        let default = fields(FieldMode::Keep, FieldMode::Drop, &[]);
        let not_found = Record { start, target: "/", status: 404, response_bytes: 19, router: None, ..record(&none) };
        check(
            &not_found,
            AccessLogFormat::Common,
            &default,
            0,
            r#"127.0.0.1 - - [22/Nov/2026:19:41:31 +0000] "GET / HTTP/1.1" 404 19 "-" "-" 1 "-" "-" 0ms"#,
        );
        let slow = Record {
            start,
            duration: Duration::from_micros(1_000_840),
            count: 6,
            target: "/x?sleep=3",
            status: 504,
            response_bytes: 15,
            router: Some("slow@file"),
            server_url: Some("http://127.0.0.1:21010"),
            ..record(&none)
        };
        check(
            &slow,
            AccessLogFormat::Common,
            &default,
            0,
            r#"127.0.0.1 - - [22/Nov/2026:19:41:31 +0000] "GET /x?sleep=3 HTTP/1.1" 504 15 "-" "-" 6 "slow@file" "http://127.0.0.1:21010" 1000ms"#,
        );
        let agents = headers(&[("user-agent", b"q\"u\\o\te\xc3\xa9<&>"), ("referer", b"http://r/")]);
        let agent = Record { start, username: Some("u"), count: 5, request_headers: &agents, ..record(&none) };
        let named = fields(FieldMode::Keep, FieldMode::Drop, &[("user-agent", FieldMode::Keep), ("referer", FieldMode::Redact)]);
        check(
            &agent,
            AccessLogFormat::Common,
            &named,
            0,
            "127.0.0.1 - u [22/Nov/2026:19:41:31 +0000] \"GET /foo?a=b HTTP/1.1\" 301 17 \"REDACTED\" \"q\\\"u\\o\te\u{e9}<&>\" 5 \"cljdoc-http@consulcatalog\" \"-\" 0ms",
        );
        let generic = fields(FieldMode::Keep, FieldMode::Drop, &[("user-agent", FieldMode::Drop), ("referer", FieldMode::Keep)]);
        check(
            &agent,
            AccessLogFormat::GenericClf,
            &generic,
            0,
            r#"127.0.0.1 - u [22/Nov/2026:19:41:31 +0000] "GET /foo?a=b HTTP/1.1" 301 17 "http://r/" "-""#,
        );
    }

    #[test]
    fn common_of_dropped_fields_and_local_time() {
        let none = HeaderMap::new();
        let slow = Record { username: Some(""), duration: Duration::from_secs(2), ..record(&none) };
        let dropped = fields(FieldMode::Drop, FieldMode::Drop, &[]);
        check(&slow, AccessLogFormat::Common, &dropped, 0, r#"- - - [-] "- - -" - - "-" "-" - "-" "-" 0ms"#);
        let local = fields(FieldMode::Keep, FieldMode::Drop, &[("startutc", FieldMode::Drop)]);
        check(
            &slow,
            AccessLogFormat::GenericClf,
            &local,
            1,
            r#"127.0.0.1 - - [22/Nov/2026:20:34:03 +0100] "GET /foo?a=b HTTP/1.1" 301 17 "-" "-""#,
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let mut out = Vec::new();
        push_quoted(&mut out, b"a\r\nb\x1b[0m\"");
        assert_eq!(out, b"a\\x0d\\x0ab\\x1b[0m\\\"");
    }

    #[test]
    fn the_table_of_fields_is_in_order() {
        for (index, (field, name)) in FIELDS.iter().enumerate() {
            assert_eq!(*field as usize, index, "{name}");
        }
        let names: BTreeMap<_, _> = FIELDS.iter().map(|(field, name)| (*name, *field as u8)).collect();
        assert!(names.values().is_sorted(), "keys stand in the order of their bytes");
    }
}
