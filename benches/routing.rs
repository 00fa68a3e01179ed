//! Finding a route: how the cost grows with the number of routers, and what a request's path costs before that.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]
#![expect(missing_docs, reason = "criterion's macro makes the public function")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use tidegate::names::Name;
use tidegate::routing::table::{Entry, RouteTable};
use tidegate::rule;
use tidegate::rule::http::{RequestFacts, normal_host, normal_path};

fn table(rules: impl Iterator<Item = String>) -> RouteTable<usize> {
    let route = |(value, rule): (usize, String)| {
        let tree = rule::parse(&rule).unwrap();
        let matcher = rule::http::compile(&tree).unwrap();
        Entry { matcher, priority: tree.default_priority(), name: Name::new(format!("r{value}"), "bench"), value }
    };
    RouteTable::build(rules.enumerate().map(route).collect())
}

fn request<'r>(host: &'r str, path: &'r str, headers: &'r HeaderMap) -> RequestFacts<'r> {
    RequestFacts { host, method: "GET", path, query: Some("a=1&b=2"), headers, client: [127, 0, 0, 1].into() }
}

/// Requests go round all routers, so that the caches are as cold as they are in life.
fn hosts(c: &mut Criterion) {
    let mut group = c.benchmark_group("find/hosts");
    for count in [1_usize, 10, 100, 1_000, 10_000] {
        let table = table((0..count).map(|n| format!("Host(`service-{n}.example.com`) && PathPrefix(`/`)")));
        let asked: Vec<String> = (0..count).map(|n| format!("service-{}.example.com", n * 7919 % count)).collect();
        let headers = HeaderMap::new();
        let mut next = asked.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| table.find(&request(next.next().unwrap(), "/index.html", &headers)).unwrap());
        });
    }
    group.finish();
}

/// Rules that name no host are asked one after another.
fn others(c: &mut Criterion) {
    let mut group = c.benchmark_group("find/others");
    let headers = HeaderMap::new();
    for count in [1_usize, 10, 100] {
        let prefixes = table((0..count).map(|n| format!("PathPrefix(`/service-{n:03}`)")));
        let path = format!("/service-{:03}/x", count / 2);
        group.bench_function(BenchmarkId::new("prefixes", count), |b| {
            b.iter(|| prefixes.find(&request("a.example.com", black_box(&path), &headers)).unwrap());
        });
        let patterns = table((0..count).map(|n| format!("HostRegexp(`^[a-z]+-{n:03}\\.example\\.com$`)")));
        let host = format!("service-{:03}.example.com", count / 2);
        group.bench_function(BenchmarkId::new("patterns", count), |b| {
            b.iter(|| patterns.find(&request(black_box(&host), "/", &headers)).unwrap());
        });
    }
    let mixed = table(
        ["PathPrefix(`/.well-known/acme-challenge/`)", "Host(`a.test`) && !Path(`/x`)", "HostRegexp(`.+`) && Query(`b`, `2`)"]
            .map(str::to_owned)
            .into_iter(),
    );
    group.bench_function("mixed", |b| b.iter(|| mixed.find(&request("b.test", "/d/ring/1.0", &headers)).unwrap()));
    group.finish();
}

fn normal(c: &mut Criterion) {
    c.bench_function("normal/path/plain", |b| {
        b.iter(|| normal_path(black_box("/d/ring/ring-core/1.12.2/doc.css"), true).unwrap());
    });
    c.bench_function("normal/path/escaped", |b| b.iter(|| normal_path(black_box("/d/a%20b/../%c3%a9//x"), true).unwrap()));
    c.bench_function("normal/host", |b| b.iter(|| normal_host(black_box("cljdoc.org:443"))));
}

criterion_group!(benches, hosts, others, normal);
criterion_main!(benches);
