//! Beside Traefik: the same requests to a real Traefik and to Tidegate, on the same files, tags, Consul and servers.
//!
//! `site/` is what both are configured with, `cases/` what they are asked. Of each case everything is compared: status, headers,
//! body, what the servers saw, the line in the access log; in the end the metrics too. Where the two differ,
//! `known_differences.toml` says why; a difference that is not there, or one there that is none any more, fails the suite.
//!
//! Both are real processes, and so is Consul: `TRAEFIK_BIN` and `CONSUL_BIN` say where they are, else `.tools/`.
//! `CASE=text` runs only the cases with the text in their names. What was observed and what the two logged stays in
//! `target/tmp/conformance`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stderr, reason = "differences are shown as they are found")]

mod case;
mod client;
mod difference;
mod seeing;
mod server;
mod site;
mod stream;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use case::Case;
use difference::{Known, compare};
use site::{Proxy, Site};

/// How long anything may take that must happen.
const DEADLINE: Duration = Duration::from_secs(20);
/// Fewer cases than this would not tell enough.
const CASES_MIN: usize = 60;
/// More differences than this are no longer exceptions.
const DIFFERENCES_MAX: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs TRAEFIK_BIN and CONSUL_BIN"]
async fn tidegate_answers_as_traefik_does() {
    let only = std::env::var("CASE").unwrap_or_default();
    let cases: Vec<Case> = case::all().into_iter().filter(|case| case.name.contains(&only)).collect();
    let site = Site::start().await;
    let mut observed = BTreeMap::new();
    for case in &cases {
        let pair = [observe(&site, &site.traefik, case).await, observe(&site, &site.tidegate, case).await];
        observed.insert(case.name.clone(), pair);
    }
    seeing::add_log_lines(&site, &mut observed).await;
    if only.is_empty() {
        observed.insert("metrics".to_owned(), seeing::metrics(&site).await);
    }
    let file = std::fs::File::create(site.folder.join("observed.json")).unwrap();
    serde_json::to_writer_pretty(file, &observed).unwrap();
    let mut known = Known::read();
    let mut found = String::new();
    for (name, [traefik, tidegate]) in &observed {
        for difference in compare(traefik, tidegate) {
            if !known.excuses(name, &difference.place) {
                found += &format!("\n{name} {difference}");
            }
        }
    }
    let stale = if only.is_empty() { known.unused() } else { Vec::new() };
    eprintln!("{} cases compared, {} differences known", observed.len(), known.len());
    assert!(found.is_empty(), "Tidegate differs from Traefik:{found}");
    assert!(stale.is_empty(), "known differences that are none any more: {stale:#?}");
}

/// What one proxy makes of a case: its answers and what the servers saw of it.
async fn observe(site: &Site, proxy: &Proxy, case: &Case) -> Value {
    if let Some(condition) = &case.once {
        proxy.wait_for_api(condition).await;
    }
    site.servers.play(case);
    let mut answers = Vec::new();
    for _ in 0..case.repeat {
        answers.push(proxy.normalise(client::ask(proxy, case).await));
    }
    let mut seen = site.servers.take_seen();
    if case.in_any_order {
        answers.sort_by_key(Value::to_string);
        seen.sort_by_key(Value::to_string);
    }
    json!({ "answer": answers, "seen": seen })
}

#[test]
fn there_are_enough_cases_and_few_differences_each_with_its_reason() {
    let cases = case::all();
    let mut names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.len() >= CASES_MIN, "{} cases", names.len());
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two cases have the same name");
    assert!(cases.iter().all(|case| case.shows.len() > 10), "each case says what it shows");
    let known = Known::read();
    assert!(known.len() <= DIFFERENCES_MAX, "{} differences", known.len());
    names.push("metrics");
    known.check(&names);
}
