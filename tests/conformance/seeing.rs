//! What operators see of the cases: lines of the access log and metrics.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tidegate::clock;
use tokio::time::{Duration, interval};

use crate::DEADLINE;
use crate::site::{Proxy, Site};

/// Fields whose values are times, counts and ports of a client.
const VARYING: [&str; 9] =
    ["ClientAddr", "ClientPort", "Duration", "OriginDuration", "Overhead", "RequestCount", "StartLocal", "StartUTC", "time"];

/// Adds to each observation the lines that the access log has of its case.
pub async fn add_log_lines(site: &Site, observed: &mut BTreeMap<String, [Value; 2]>) {
    let deadline = clock::now() + DEADLINE / 4;
    let mut pause = interval(Duration::from_millis(50));
    let logs = loop {
        pause.tick().await;
        let logs = [log(&site.traefik), log(&site.tidegate)];
        // Lines come shortly after the answers.
        let count =
            |log: &BTreeMap<String, Vec<Value>>| log.iter().map(|(case, lines)| (case.clone(), lines.len())).collect::<Vec<_>>();
        if count(&logs[0]) == count(&logs[1]) || clock::now() > deadline {
            break logs;
        }
    };
    for (name, pair) in observed {
        for (observation, log) in pair.iter_mut().zip(&logs) {
            let is_packed = observation["answer"][0]["headers"].get("content-encoding").is_some();
            let mut lines = log.get(name).cloned().unwrap_or_default();
            if is_packed {
                // Two libraries pack the same bytes differently.
                for line in &mut lines {
                    vary(line.as_object_mut().unwrap(), &["DownstreamContentSize", "GzipRatio"]);
                }
            }
            lines.sort_by_key(Value::to_string);
            observation["log"] = lines.into();
        }
    }
}

fn vary(line: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        if let Some(value) = line.get_mut(*field) {
            *value = "varies".into();
        }
    }
}

/// The lines of the access log by the case that the client named.
fn log(proxy: &Proxy) -> BTreeMap<String, Vec<Value>> {
    let text = std::fs::read_to_string(proxy.folder.join("access.log")).unwrap_or_default();
    let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else { continue };
        let Some(Value::String(case)) = fields.remove("request_X-Case") else { continue };
        vary(&mut fields, &VARYING);
        lines.entry(case).or_default().push(proxy.normalise(Value::Object(fields)));
    }
    lines
}

/// All series of Traefik's names: their help and type, their labels, and of requests their number.
pub async fn metrics(site: &Site) -> [Value; 2] {
    [metrics_of(&site.traefik).await, metrics_of(&site.tidegate).await]
}

async fn metrics_of(proxy: &Proxy) -> Value {
    let text = proxy.api("/metrics").await.expect("metrics");
    let mut found = Map::new();
    for line in text.lines() {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        if let Some((name, text)) =
            described.and_then(|line| line.split_once(' ')).filter(|(name, _)| name.starts_with("traefik_"))
        {
            found.insert(format!("{} {name}", &line[2..6]), text.into());
        } else if line.starts_with("traefik_") {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            // The API is asked more or less often, until it says what is waited for.
            let is_exact = series.contains("_requests_total") && !series.contains("entrypoint=\"traefik\"");
            found.insert(series.to_owned(), if is_exact { value.into() } else { "varies".into() });
        }
    }
    proxy.normalise(Value::Object(found))
}
