//! From Consul's tags to dynamic configuration: one list of tags, and whole catalogs at first sight and when one instance changes.

#![expect(missing_docs, reason = "criterion's macro makes a public function without documentation")]
#![expect(clippy::unwrap_used, reason = "the tags stand beside it, and a bench may panic")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tidegate::catalog::{Catalog, CheckStatus, Instance, Memory, TranslateSettings, translate};
use tidegate::config::dynamic::{decode, labels};
use tidegate::config::install::{ConsulCatalog, Own};

/// A real site's 21 tags: TCP beside HTTP, two middlewares, three routers, a certificate. `port` makes lists of tags distinct.
fn tags(port: usize) -> Vec<String> {
    let service: serde_json::Value = serde_json::from_str(include_str!("../tests/cljdoc/service.json")).unwrap();
    let tags: Vec<String> = serde_json::from_value(service["tags"].clone()).unwrap();
    tags.iter().map(|tag| tag.replace("${NOMAD_HOST_PORT_jmx}", &port.to_string())).collect()
}

/// `count` instances of one service; each has its own port in its tags, or all have the same tags.
fn catalog(count: usize, is_distinct: bool) -> Catalog {
    let instance = |n: usize| Instance {
        id: format!("_nomad-task-{n:08}-cljdoc-http"),
        service: "cljdoc".to_owned(),
        node: "n1".to_owned(),
        datacenter: "dc1".to_owned(),
        address: format!("10.0.{}.{}", n / 250, n % 250),
        port: 20_000,
        tags: tags(if is_distinct { 20_000 + n } else { 20_000 }),
        meta: BTreeMap::new(),
        status: CheckStatus::Passing,
    };
    Catalog::from([("cljdoc".to_owned(), (0..count).map(instance).collect())])
}

fn parse(criterion: &mut Criterion) {
    let tags = tags(20_000);
    criterion.bench_function("tags/parse_21", |bencher| {
        bencher.iter(|| decode::labels(&labels::parse(black_box(&tags), "traefik").tree));
    });
}

fn translations(criterion: &mut Criterion) {
    let (settings, _) = TranslateSettings::new(&ConsulCatalog::default(), &Own::default());
    let mut group = criterion.benchmark_group("tags/translate");
    group.sample_size(20);
    for count in [1, 100, 1000] {
        for (name, is_distinct) in [("equal", false), ("distinct", true)] {
            let catalog = catalog(count, is_distinct);
            let first_sight = BenchmarkId::new(format!("first_sight_{name}"), count);
            group.bench_with_input(first_sight, &catalog, |bencher, catalog| {
                bencher.iter(|| translate(black_box(catalog), &settings, &Memory::default()));
            });
            let (_, memory) = translate(&catalog, &settings, &Memory::default());
            let mut changed = catalog;
            if let Some(instance) = changed.values_mut().flatten().next() {
                instance.tags = tags(7);
            }
            let one_changed = BenchmarkId::new(format!("one_changed_{name}"), count);
            group.bench_with_input(one_changed, &changed, |bencher, changed| {
                bencher.iter(|| translate(black_box(changed), &settings, &memory));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, parse, translations);
criterion_main!(benches);
