//! Counters of requests that a request reaches without a lock and without making a string.
//!
//! A route, a service and an entrypoint each hold one [`Requests`] and count into it. Which series there are, by status,
//! method and protocol, shows while it runs: a series is made by the first request that needs it and found by comparing three
//! small numbers ever after.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};

use super::exposition::Family;

/// How many combinations of header values (`metrics.prometheus.headerLabels`) one series is split into; clients choose
/// them, so what comes later is counted with empty values.
pub const HEADER_VALUES_MAX: usize = 100;

/// Methods that keep their name; others are `EXTENSION_METHOD`.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];

/// What a request speaks, as the label `protocol` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    #[default]
    Http,
    Websocket,
    Sse,
    Grpc,
    GrpcWeb,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Websocket => "websocket",
            Self::Sse => "sse",
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
        }
    }
}

/// A request that is over, as the metrics count it.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'r> {
    /// The status the client got.
    pub code: u16,
    /// The method as it came.
    pub method: &'r str,
    /// What it spoke.
    pub protocol: Protocol,
    /// How long it took.
    pub duration: Duration,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Version and cipher when it came by TLS.
    pub tls: Option<(&'static str, &'static str)>,
    /// Its headers, for `headerLabels`.
    pub headers: &'r HeaderMap,
}

/// What all [`Requests`] have in common.
#[derive(Debug)]
pub(super) struct Shape {
    /// Upper bounds of the duration histogram, seconds, ascending.
    pub buckets: Vec<f64>,
    /// Labels of `*_requests_total` that come from request headers, by label.
    pub header_labels: Vec<(String, HeaderName)>,
}

/// The requests of one entrypoint, router or service.
#[derive(Debug)]
pub struct Requests {
    shape: Arc<Shape>,
    /// Several chains, by a hash of the key, so that each is short.
    series: [Chain<Key, Series>; 16],
    tls: Chain<(&'static str, &'static str), AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    code: u16,
    /// In [`METHODS`]; its length for others.
    method: u8,
    protocol: Protocol,
}

#[derive(Debug)]
struct Series {
    count: AtomicU64,
    microseconds: AtomicU64,
    /// One for each bound, not cumulated.
    buckets: Box<[AtomicU64]>,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    by_header: Chain<Box<[Box<str>]>, AtomicU64>,
    by_header_len: AtomicUsize,
}

impl Requests {
    pub(super) fn new(shape: &Arc<Shape>) -> Self {
        Self { shape: Arc::clone(shape), series: Default::default(), tls: Chain::default() }
    }

    /// Counts one request.
    pub fn record(&self, request: &Finished<'_>) {
        let method = METHODS.iter().position(|method| *method == request.method).unwrap_or(METHODS.len());
        let key = Key { code: request.code, method: method as u8, protocol: request.protocol };
        let place = (usize::from(request.code) + method * 5) % self.series.len();
        let Some(chain) = self.series.get(place) else { return };
        let series = chain.find_or_add(|other| *other == key, || (key, Series::new(self.shape.buckets.len())));
        series.count.fetch_add(1, Ordering::Relaxed);
        let seconds = request.duration.as_secs_f64();
        series.microseconds.fetch_add((seconds * 1e6).round() as u64, Ordering::Relaxed);
        let bucket = self.shape.buckets.iter().position(|bound| seconds <= *bound);
        if let Some(bucket) = bucket.and_then(|bucket| series.buckets.get(bucket)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        series.request_bytes.fetch_add(request.request_bytes, Ordering::Relaxed);
        series.response_bytes.fetch_add(request.response_bytes, Ordering::Relaxed);
        if !self.shape.header_labels.is_empty() {
            series.count_headers(&self.shape.header_labels, request.headers);
        }
        if let Some(tls) = request.tls {
            self.tls.find_or_add(|other| *other == tls, || (tls, AtomicU64::new(0))).fetch_add(1, Ordering::Relaxed);
        }
    }

    fn series(&self) -> Vec<(Key, &Series)> {
        let mut series: Vec<_> = self.series.iter().flat_map(Chain::iter).map(|(key, series)| (*key, series)).collect();
        series.sort_by_key(|(key, _)| (key.code, key.method_name(), key.protocol.as_str()));
        series
    }

    /// Adds `*_requests_total`.
    pub(super) fn write_counts(&self, family: &mut Family<'_>, own: &[(&str, &str)]) {
        for (key, series) in self.series() {
            if self.shape.header_labels.is_empty() {
                key.with_labels(own, |labels| family.count("", labels, get(&series.count)));
                continue;
            }
            for (values, count) in series.by_header.iter() {
                let names = self.shape.header_labels.iter().map(|(label, _)| &**label);
                let own: Vec<_> = own.iter().copied().chain(names.zip(values.iter().map(|value| &**value))).collect();
                key.with_labels(&own, |labels| family.count("", labels, get(count)));
            }
        }
    }

    /// Adds `*_request_duration_seconds`.
    pub(super) fn write_durations(&self, family: &mut Family<'_>, own: &[(&str, &str)]) {
        for (key, series) in self.series() {
            // Read first, so that a bucket is never more than the whole.
            let buckets: Vec<u64> = series.buckets.iter().map(get).collect();
            let count = get(&series.count).max(buckets.iter().sum());
            key.with_labels(own, |labels| {
                let mut below = 0;
                for (bound, more) in self.shape.buckets.iter().zip(buckets) {
                    below += more;
                    let bound = bound.to_string();
                    family.count("_bucket", &[labels, &[("le", &bound)]].concat(), below);
                }
                family.count("_bucket", &[labels, &[("le", "+Inf")]].concat(), count);
                family.number("_sum", labels, get(&series.microseconds) as f64 / 1e6);
                family.count("_count", labels, count);
            });
        }
    }

    /// Adds `*_requests_bytes_total` or `*_responses_bytes_total`.
    pub(super) fn write_bytes(&self, family: &mut Family<'_>, own: &[(&str, &str)], way: Way) {
        for (key, series) in self.series() {
            let bytes = match way {
                Way::Request => &series.request_bytes,
                Way::Response => &series.response_bytes,
            };
            key.with_labels(own, |labels| family.count("", labels, get(bytes)));
        }
    }

    /// Adds `*_requests_tls_total`.
    pub(super) fn write_tls(&self, family: &mut Family<'_>, own: &[(&str, &str)]) {
        for ((version, cipher), count) in self.tls.iter() {
            let labels = [own, &[("tls_cipher", *cipher), ("tls_version", *version)]].concat();
            family.count("", &labels, get(count));
        }
    }
}

/// Which bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Request,
    Response,
}

impl Key {
    fn method_name(self) -> &'static str {
        METHODS.get(usize::from(self.method)).unwrap_or(&"EXTENSION_METHOD")
    }

    /// All labels in the order of their names.
    fn with_labels(self, own: &[(&str, &str)], write: impl FnOnce(&[(&str, &str)])) {
        let code = self.code.to_string();
        let key = [("code", &*code), ("method", self.method_name()), ("protocol", self.protocol.as_str())];
        let mut labels = [own, &key].concat();
        labels.sort_by_key(|(name, _)| *name);
        write(&labels);
    }
}

impl Series {
    fn new(buckets: usize) -> Self {
        Self {
            count: AtomicU64::new(0),
            microseconds: AtomicU64::new(0),
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            by_header: Chain::default(),
            by_header_len: AtomicUsize::new(0),
        }
    }

    fn count_headers(&self, labels: &[(String, HeaderName)], headers: &HeaderMap) {
        let value = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_same = |values: &[Box<str>]| labels.iter().zip(values).all(|((_, name), other)| value(name) == &**other);
        let is_empty = |values: &[Box<str>]| values.iter().all(|value| value.is_empty());
        let known = self.by_header.iter().find(|(values, _)| is_same(values)).map(|(_, count)| count);
        let count = known.unwrap_or_else(|| {
            let is_room = self.by_header_len.fetch_add(1, Ordering::Relaxed) < HEADER_VALUES_MAX;
            let values = |values: &dyn Fn(&HeaderName) -> Box<str>| labels.iter().map(|(_, name)| values(name)).collect();
            if is_room {
                self.by_header.find_or_add(|values| is_same(values), || (values(&|name| value(name).into()), AtomicU64::new(0)))
            } else {
                self.by_header.find_or_add(|values| is_empty(values), || (values(&|_| "".into()), AtomicU64::new(0)))
            }
        });
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A list that only grows and is read without a lock.
#[derive(Debug)]
pub(super) struct Chain<K, V>(OnceLock<Box<Link<K, V>>>);

#[derive(Debug)]
struct Link<K, V> {
    key: K,
    value: V,
    next: Chain<K, V>,
}

impl<K, V> Default for Chain<K, V> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K, V> Chain<K, V> {
    /// The value whose key is the one; added at the end if there is none. Two who add the same get the same.
    pub(super) fn find_or_add(&self, is_it: impl Fn(&K) -> bool, make: impl Fn() -> (K, V)) -> &V {
        let mut chain = self;
        loop {
            let link = chain.0.get_or_init(|| {
                let (key, value) = make();
                Box::new(Link { key, value, next: Self::default() })
            });
            if is_it(&link.key) {
                return &link.value;
            }
            chain = &link.next;
        }
    }

    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut chain = self;
        std::iter::from_fn(move || {
            let link = chain.0.get()?;
            chain = &link.next;
            Some((&link.key, &link.value))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::exposition::{Exposition, Kind};
    use super::*;

    fn requests(header_labels: &[(&str, &str)]) -> Requests {
        let header_labels = header_labels.iter().map(|(label, name)| ((*label).to_owned(), name.parse().unwrap())).collect();
        Requests::new(&Arc::new(Shape { buckets: vec![0.1, 5.0], header_labels }))
    }

    fn get_request(headers: &HeaderMap) -> Finished<'_> {
        let duration = Duration::from_millis(100);
        let (code, method, protocol) = (200, "GET", Protocol::Http);
        Finished { code, method, protocol, duration, request_bytes: 1, response_bytes: 10, tls: None, headers }
    }

    #[track_caller]
    fn check(kind: Kind, write: impl FnOnce(&mut Family<'_>), expected: &[&str]) {
        let mut exposition = Exposition::default();
        write(&mut exposition.family("m", "h", kind));
        let text = String::from_utf8(exposition.into_bytes()).unwrap();
        assert_eq!(text.lines().skip(2).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn requests_are_counted_by_status_method_and_protocol() {
        let headers = HeaderMap::new();
        let requests = requests(&[]);
        let get = get_request(&headers);
        requests.record(&get);
        requests.record(&Finished { duration: Duration::from_millis(101), ..get });
        requests.record(&Finished { duration: Duration::from_secs(6), ..get });
        requests.record(&Finished { method: "BREW", code: 418, protocol: Protocol::GrpcWeb, tls: Some(("1.3", "C")), ..get });
        let own = [("router", "r@file"), ("service", "s@file")];
        check(
            Kind::Counter,
            |family| requests.write_counts(family, &own),
            &[
                r#"m{code="200",method="GET",protocol="http",router="r@file",service="s@file"} 3"#,
                r#"m{code="418",method="EXTENSION_METHOD",protocol="grpc-web",router="r@file",service="s@file"} 1"#,
            ],
        );
        check(
            Kind::Histogram,
            |family| requests.write_durations(family, &[("entrypoint", "web")]),
            &[
                r#"m_bucket{code="200",entrypoint="web",method="GET",protocol="http",le="0.1"} 1"#,
                r#"m_bucket{code="200",entrypoint="web",method="GET",protocol="http",le="5"} 2"#,
                r#"m_bucket{code="200",entrypoint="web",method="GET",protocol="http",le="+Inf"} 3"#,
                r#"m_sum{code="200",entrypoint="web",method="GET",protocol="http"} 6.201"#,
                r#"m_count{code="200",entrypoint="web",method="GET",protocol="http"} 3"#,
                r#"m_bucket{code="418",entrypoint="web",method="EXTENSION_METHOD",protocol="grpc-web",le="0.1"} 1"#,
                r#"m_bucket{code="418",entrypoint="web",method="EXTENSION_METHOD",protocol="grpc-web",le="5"} 1"#,
                r#"m_bucket{code="418",entrypoint="web",method="EXTENSION_METHOD",protocol="grpc-web",le="+Inf"} 1"#,
                r#"m_sum{code="418",entrypoint="web",method="EXTENSION_METHOD",protocol="grpc-web"} 0.1"#,
                r#"m_count{code="418",entrypoint="web",method="EXTENSION_METHOD",protocol="grpc-web"} 1"#,
            ],
        );
        check(
            Kind::Counter,
            |family| requests.write_tls(family, &[("service", "s@file")]),
            &[r#"m{service="s@file",tls_cipher="C",tls_version="1.3"} 1"#],
        );
    }

    #[test]
    fn header_labels_are_bounded() {
        let requests = requests(&[("tenant", "x-tenant")]);
        let mut headers = HeaderMap::new();
        requests.record(&get_request(&headers));
        for tenant in 0..2 * HEADER_VALUES_MAX {
            headers.insert("x-tenant", HeaderValue::from(tenant));
            requests.record(&get_request(&headers));
        }
        let mut exposition = Exposition::default();
        requests.write_counts(&mut exposition.family("m", "h", Kind::Counter), &[]);
        let text = String::from_utf8(exposition.into_bytes()).unwrap();
        assert_eq!(text.lines().count(), 2 + HEADER_VALUES_MAX);
        assert!(text.contains(r#"m{code="200",method="GET",protocol="http",tenant="98"} 1"#), "{text}");
        assert!(text.contains(r#"m{code="200",method="GET",protocol="http",tenant=""} 102"#), "{text}");
    }

    #[test]
    fn nothing_is_lost_when_all_count_at_once() {
        let requests = requests(&[]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let headers = HeaderMap::new();
                    for n in 0..10_000 {
                        requests.record(&Finished { code: 200 + n % 300, ..get_request(&headers) });
                    }
                });
            }
        });
        let counts: Vec<u64> = requests.series().iter().map(|(_, series)| get(&series.count)).collect();
        assert_eq!(counts.len(), 300);
        assert_eq!(counts.iter().sum::<u64>(), 40_000);
    }
}
