//! compress: packs the bodies of answers for clients that ask for it, by Traefik's rules.
//!
//! Two phases. [`Compress::on_request`] settles by the client's wishes whether and how it would be done (then `Vary` is added
//! in any case); [`Compress::on_response`] decides by the answer's head. Traefik decides once it has seen
//! `minResponseBodyBytes` of a body, or a flush; since its proxy flushes each write of a body of unknown length, such a body
//! is compressed whatever its size, and the head alone decides here too. What remains different is said where it is decided.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, VARY,
};
use http::{HeaderMap, Method, StatusCode};

use super::body::{Coding, Flush};
use super::{BodyTransform, InvalidMiddleware, RequestView, ResponseHead, media_type};

/// Traefik's `minResponseBodyBytes` where none is configured.
const BODY_BYTES_MIN: usize = 1024;

/// Packs answers.
#[derive(Debug)]
pub struct Compress {
    /// In order of preference.
    codings: Vec<Coding>,
    body_bytes_min: u64,
    types: Types,
    /// For clients that do not say what they accept.
    default: Option<Coding>,
}

/// Which media types are compressed.
#[derive(Debug)]
enum Types {
    /// All but these (and gRPC).
    Except(Vec<String>),
    /// These only.
    Only(Vec<String>),
}

const GRPC: &str = "application/grpc";

/// What the client's wishes lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Say that the answer depends on them, and no more: Traefik's gzip library wants to be asked for by name.
    VaryOnly,
    /// Compress what is worth it.
    Encode(Coding),
}

impl Compress {
    /// A `body_bytes_min` of 0 means the default.
    pub fn compile(
        encodings: &[String],
        body_bytes_min: usize,
        excluded: &[String],
        included: &[String],
        default: Option<&str>,
    ) -> Result<Self, InvalidMiddleware> {
        if !excluded.is_empty() && !included.is_empty() {
            return Err(InvalidMiddleware::BothContentTypes);
        }
        let parse_types = |types: &[String]| {
            let parse = |name: &String| media_type::parse(name).ok_or_else(|| InvalidMiddleware::MediaType(name.clone()));
            types.iter().map(parse).collect::<Result<Vec<_>, _>>()
        };
        let types = if included.is_empty() { Types::Except(parse_types(excluded)?) } else { Types::Only(parse_types(included)?) };
        if encodings.is_empty() {
            return Err(InvalidMiddleware::NoEncoding);
        }
        let parse = |name: &String| Coding::parse(name).ok_or_else(|| InvalidMiddleware::Encoding(name.clone()));
        let codings = encodings.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let default = match default.filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => Some(
                Coding::parse(name)
                    .filter(|coding| codings.contains(coding))
                    .ok_or_else(|| InvalidMiddleware::DefaultEncoding(name.to_owned()))?,
            ),
        };
        let body_bytes_min = if body_bytes_min == 0 { BODY_BYTES_MIN } else { body_bytes_min };
        Ok(Self { codings, body_bytes_min: body_bytes_min as u64, types, default })
    }

    /// What the client's wishes lead to; `None` leaves the answer untouched.
    pub(super) fn on_request(&self, request: &RequestView<'_>) -> Option<Choice> {
        if *request.method == Method::HEAD || self.is_refused(request.headers) {
            return None;
        }
        let mut lines = request.headers.get_all(ACCEPT_ENCODING).iter().peekable();
        let Some(first) = lines.peek() else {
            return self.default.map(|coding| Self::unasked(coding, false));
        };
        let is_empty = first.is_empty() && lines.size_hint().1 == Some(1);
        let wishes = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        if is_empty { None } else { self.choose(wishes) }
    }

    /// A coding that the client's wishes lead to without being the wish that decided.
    fn unasked(coding: Coding, names_gzip: bool) -> Choice {
        if coding == Coding::Gzip && !names_gzip { Choice::VaryOnly } else { Choice::Encode(coding) }
    }

    /// Whether the request's own media type keeps its answer from being compressed, as in Traefik.
    fn is_refused(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
        media_type::parse(value)
            .is_some_and(|name| name == GRPC || matches!(&self.types, Types::Except(types) if types.contains(&name)))
    }

    /// The wish of the highest weight; the configured order decides among equals.
    fn choose<'w>(&self, wishes: impl Iterator<Item = &'w str>) -> Option<Choice> {
        let mut names_gzip = false;
        let best = wishes
            .filter_map(|wish| {
                let (name, parameter) = wish.split_once(';').unwrap_or((wish, ""));
                let wanted = self.find(name)?;
                let weight = weight(parameter)?;
                names_gzip |= wanted == Wanted::Coding(Coding::Gzip);
                Some((weight, wanted))
            })
            .reduce(|best, next| {
                let is_better = next.0 > best.0 || (next.0 == best.0 && self.rank(next.1) < self.rank(best.1));
                if is_better { next } else { best }
            })?;
        match best.1 {
            Wanted::Any => self.default.or_else(|| self.codings.first().copied()).map(|coding| Self::unasked(coding, names_gzip)),
            Wanted::Coding(coding) => Some(Choice::Encode(coding)),
            Wanted::Identity => None,
        }
    }

    /// What we know by this name. Traefik takes every space out of it, and compares case.
    fn find(&self, name: &str) -> Option<Wanted> {
        let is = |known: &str| name.bytes().filter(|&byte| byte != b' ').eq(known.bytes());
        match () {
            () if is("*") => Some(Wanted::Any),
            () if is("identity") => Some(Wanted::Identity),
            () => self.codings.iter().find(|coding| is(coding.as_str())).map(|&coding| Wanted::Coding(coding)),
        }
    }

    /// Less is better.
    fn rank(&self, wanted: Wanted) -> usize {
        match wanted {
            Wanted::Any => 0,
            Wanted::Coding(coding) => 1 + self.codings.iter().position(|&known| known == coding).unwrap_or_default(),
            Wanted::Identity => usize::MAX,
        }
    }

    /// Decides by the head, changes it, and gives what has to be done to the body.
    pub(super) fn on_response(&self, choice: Choice, head: &mut ResponseHead<'_>) -> Option<BodyTransform> {
        let Choice::Encode(coding) = choice else { return None };
        let length = match head.headers.get(CONTENT_LENGTH) {
            None => None,
            Some(value) => Some(value.to_str().ok()?.parse::<u64>().ok()?),
        };
        if !has_body(head) || length.is_some_and(|length| length < self.body_bytes_min) || !self.may_encode(coding, head) {
            return None;
        }
        let is_stream = length.is_none() || content_type(head.headers) == Some("text/event-stream".to_owned());
        let flush = if is_stream { Flush::EachChunk } else { Flush::EachInterval };
        let transform = BodyTransform::new(coding, length, flush).ok()?;
        head.headers.remove(CONTENT_LENGTH);
        head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        if coding == Coding::Gzip {
            // Traefik's gzip library does this, the other two do not.
            head.headers.remove(ACCEPT_RANGES);
        }
        Some(transform)
    }

    /// Whether this answer is of a kind that is compressed.
    ///
    /// Parts of a body are left alone for every coding; Traefik does so only for gzip, and its br and zstd break downloads.
    /// An answer without a type counts as one of no list; Traefik's gzip guesses its type from the first bytes.
    fn may_encode(&self, coding: Coding, head: &ResponseHead<'_>) -> bool {
        let is_set = |name: HeaderName| head.headers.get(name).is_some_and(|value| !value.is_empty());
        if is_set(CONTENT_ENCODING) || is_set(CONTENT_RANGE) || head.status == StatusCode::PARTIAL_CONTENT {
            return false;
        }
        if !is_set(CONTENT_TYPE) {
            return coding != Coding::Gzip || matches!(self.types, Types::Except(_));
        }
        match (content_type(head.headers), &self.types) {
            // Traefik's gzip library compresses what it cannot read, the other two do not.
            (None, Types::Except(_)) => coding == Coding::Gzip,
            (None, Types::Only(_)) => false,
            (Some(name), Types::Except(types)) => name != GRPC && !types.contains(&name),
            (Some(name), Types::Only(types)) => types.contains(&name),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// `*`
    Any,
    Coding(Coding),
    Identity,
}

/// The weight in `q=0.5`. `None` when the coding is refused: 0, or no number, as in Traefik.
fn weight(parameter: &str) -> Option<f64> {
    if parameter.is_empty() {
        return Some(1.0);
    }
    let parameter: String = parameter.chars().filter(|&letter| letter != ' ').collect();
    match parameter.strip_prefix("q=") {
        None => Some(1.0),
        Some(number) => number.parse::<f64>().ok().filter(|&weight| weight != 0.0),
    }
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    media_type::parse(headers.get(CONTENT_TYPE)?.to_str().ok()?)
}

/// Whether bytes may follow this head.
fn has_body(head: &ResponseHead<'_>) -> bool {
    let has_none = head.status.is_informational() || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    !has_none && !head.is_bodiless
}

/// Says that the answer depends on what the client accepts, before whatever else it depends on.
pub(super) fn add_vary(headers: &mut HeaderMap) {
    let others: Vec<HeaderValue> = headers.get_all(VARY).iter().cloned().collect();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    for other in others {
        headers.append(VARY, other);
    }
}

/// Each expectation was seen on a Traefik 3.7.15, unless its test says otherwise.
#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::middleware::testing::view;

    fn compile(encodings: &[&str], excluded: &[&str], included: &[&str], default: Option<&str>) -> Compress {
        let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Compress::compile(&own(encodings), 0, &own(excluded), &own(included), default).unwrap()
    }

    fn standard() -> Compress {
        compile(&["gzip", "br", "zstd"], &[], &[], None)
    }

    fn print(choice: Option<Choice>) -> &'static str {
        match choice {
            None => "-",
            Some(Choice::VaryOnly) => "vary",
            Some(Choice::Encode(coding)) => coding.as_str(),
        }
    }

    #[track_caller]
    fn check_wish(compress: &Compress, lines: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, line.parse().unwrap());
        }
        let request = view(&Method::GET, "comp.test", "/", &mut headers);
        assert_eq!(print(compress.on_request(&request)), expected, "{lines:?}");
    }

    #[test]
    fn chooses_what_traefik_chooses() {
        for (line, expected) in [
            ("", "-"),
            ("identity", "-"),
            ("*", "vary"),
            ("*;q=0.5", "vary"),
            ("gzip", "gzip"),
            ("gzip;q=0", "-"),
            ("GZIP", "-"),
            ("x-gzip", "-"),
            ("deflate", "-"),
            ("br;q=0.5, gzip;q=0.4", "br"),
            ("gzip;q=abc, zstd;q=0.1", "zstd"),
            ("gzip;q=abc", "-"),
            ("gzip; q=0.3 ,br;q=0.3", "gzip"),
            ("identity, br;q=0.9", "-"),
            ("identity;q=0.5,gzip;q=0.5", "gzip"),
            ("gzip;x=1;q=0.1, br;q=0.9", "gzip"),
            ("br;q=2,gzip", "br"),
            ("gzip;q=0.5;a=b,br;q=0.1", "br"),
            ("gzip\t;q=1", "-"),
            ("gzip;\tq=0.5", "gzip"),
            ("gzip;q=1e-3,br;q=0.0001", "gzip"),
            ("br;q=0.2, *;q=0.1", "br"),
            ("gzip, *", "gzip"),
            ("gzip,,br", "gzip"),
            ("gzip; q = 0.5", "gzip"),
            ("gzip;q=0.5 , br ;q=0.6", "br"),
        ] {
            check_wish(&standard(), &[line], expected);
        }
        check_wish(&standard(), &[], "-");
        check_wish(&standard(), &["gzip;q=0.1", "br"], "br");
        check_wish(&standard(), &["", "br"], "br");
        check_wish(&standard(), &["*, gzip;q=0"], "vary");
        check_wish(&compile(&["zstd", "br"], &[], &[], None), &["gzip, br, zstd"], "zstd");
        check_wish(&compile(&["br"], &[], &[], None), &["*"], "br");
        check_wish(&compile(&["gzip", "br"], &[], &[], Some("br")), &[], "br");
        check_wish(&compile(&["gzip", "br"], &[], &[], Some("br")), &["*"], "br");
        check_wish(&compile(&["gzip", "br"], &[], &[], Some("gzip")), &[], "vary");
        check_wish(&compile(&["gzip", "br"], &[], &[], Some("gzip")), &[""], "-");
    }

    #[test]
    fn leaves_some_requests_alone() {
        let accepts = || HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
        let mut headers = accepts();
        assert_eq!(standard().on_request(&view(&Method::HEAD, "x", "/", &mut headers)), None);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        assert_eq!(standard().on_request(&view(&Method::POST, "x", "/", &mut headers)), None);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/css; a=b"));
        let excluding = compile(&["gzip"], &["text/css"], &[], None);
        assert_eq!(excluding.on_request(&view(&Method::POST, "x", "/", &mut headers)), None);
        assert_eq!(print(standard().on_request(&view(&Method::POST, "x", "/", &mut headers))), "gzip");
    }

    /// `answer` is a status and header lines.
    #[track_caller]
    fn check_answer(compress: &Compress, coding: Coding, answer: (u16, &[&str]), expected: bool) {
        let mut headers = HeaderMap::new();
        for line in answer.1 {
            let (name, value) = line.split_once(':').unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.trim().parse().unwrap());
        }
        let before = headers.clone();
        let status = StatusCode::from_u16(answer.0).unwrap();
        let mut head = ResponseHead { status, headers: &mut headers, is_bodiless: false };
        let transform = compress.on_response(Choice::Encode(coding), &mut head);
        assert_eq!(transform.is_some(), expected, "{coding:?} {answer:?}");
        if expected {
            assert_eq!(headers.get(CONTENT_ENCODING).unwrap(), coding.as_str());
            assert_eq!(headers.get(CONTENT_LENGTH), None);
        } else {
            assert_eq!(headers, before);
        }
    }

    const LONG: &str = "content-length: 2000";

    #[test]
    fn compresses_what_traefik_compresses() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let check = |status, lines: &[&str], expected| check_answer(&standard(), coding, (status, lines), expected);
            check(200, &["content-length: 1023", "content-type: text/plain"], false);
            check(200, &["content-length: 1024", "content-type: text/plain"], true);
            check(200, &["content-length: 0"], false);
            check(200, &["content-type: text/event-stream"], true);
            check(200, &[LONG, "content-type: image/png"], true);
            check(200, &[LONG, "content-type: font/woff2"], true);
            check(200, &[LONG, "etag: \"a\"", "cache-control: no-transform"], true);
            check(404, &[LONG, "content-type: text/html"], true);
            check(200, &[LONG, "content-encoding: br"], false);
            check(200, &[LONG, "content-encoding:"], true);
            check(304, &[], false);
            check(204, &[], false);
            check(101, &[], false);
            check(200, &[LONG, "content-type: application/grpc"], false);
            check(200, &[LONG, "content-type: application/grpc+proto"], true);
            check(200, &[LONG, "content-type: ;;bad"], coding == Coding::Gzip);
        }
    }

    #[test]
    fn minds_the_lists_of_types() {
        let only = compile(&["gzip"], &[], &["text/html"], None);
        let except = compile(&["gzip"], &["text/css"], &[], None);
        for coding in [Coding::Gzip, Coding::Brotli] {
            check_answer(&only, coding, (200, &[LONG, "content-type: text/HTML; charset=utf-8"]), true);
            check_answer(&only, coding, (200, &[LONG, "content-type: text/plain"]), false);
            check_answer(&only, coding, (200, &[LONG, "content-type: ;;"]), false);
            check_answer(&only, coding, (200, &[LONG]), coding == Coding::Brotli);
            check_answer(&except, coding, (200, &[LONG, "content-type: text/css;charset=utf-8"]), false);
            check_answer(&except, coding, (200, &[LONG, "content-type: text/html"]), true);
            check_answer(&except, coding, (200, &[LONG]), true);
        }
    }

    /// Traefik's br and zstd compress them, and so break downloads that resume; its gzip does not.
    #[test]
    fn leaves_parts_of_bodies_alone() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            check_answer(&standard(), coding, (206, &[LONG, "content-range: bytes 0-1999/5000"]), false);
        }
    }

    #[test]
    fn forgets_ranges_with_gzip_only_and_keeps_the_etag() {
        for (coding, expected) in [(Coding::Gzip, false), (Coding::Brotli, true)] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            headers.insert("etag", HeaderValue::from_static("\"a\""));
            let mut head = ResponseHead { status: StatusCode::OK, headers: &mut headers, is_bodiless: false };
            assert!(standard().on_response(Choice::Encode(coding), &mut head).is_some());
            assert_eq!(headers.contains_key(ACCEPT_RANGES), expected);
            assert_eq!(headers["etag"], "\"a\"");
        }
    }

    #[test]
    fn refuses_what_traefik_refuses() {
        let refused = |encodings: &[&str], excluded: &[&str], included: &[&str], default| {
            let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
            Compress::compile(&own(encodings), 0, &own(excluded), &own(included), default).unwrap_err().to_string()
        };
        assert_eq!(refused(&[], &[], &[], None), "at least one encoding must be specified");
        assert_eq!(refused(&["deflate"], &[], &[], None), "unsupported encoding: deflate");
        assert_eq!(refused(&["gzip"], &[], &[], Some("br")), "unsupported default encoding: br");
        assert_eq!(refused(&["gzip"], &["a/"], &[], None), "`a/` is not a media type");
        assert_eq!(
            refused(&["gzip"], &["a/b"], &["c/d"], None),
            "excludedContentTypes and includedContentTypes options are mutually exclusive"
        );
    }
}
