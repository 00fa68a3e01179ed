//! One plain page that says what is routed where and what does not work. No script; it asks for itself again by and by.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::list::Listed;
use super::{AdminView, json, objects};
use crate::middleware::Answer;

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"refresh\" content=\"5\">\n\
<title>Tidegate</title>\n<style>\n\
:root { color-scheme: light dark }\n\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }\n\
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem }\n\
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }\n\
td { overflow-wrap: anywhere }\n\
code { font-size: .9em }\n\
.enabled, .UP { color: #2a8a3e } .warning { color: #b77400 } .disabled, .DOWN { color: #c5283d }\n\
</style>\n</head>\n<body>\n<h1>Tidegate</h1>\n";

/// The page.
pub(super) fn page(view: &AdminView<'_>) -> Answer {
    let mut page = HEAD.to_owned();
    let version = env!("CARGO_PKG_VERSION");
    let since = json::time(view.started_at);
    let _ = writeln!(page, "<p>Version {version}, started {}.</p>", escape(since.as_str().unwrap_or("at an unknown time")));
    if !view.rollouts.is_empty() {
        table(&mut page, "Rollouts", &["service", "phase", "share", "threshold"], objects(Listed::Rollouts, view), |row| {
            ["name", "phase", "share", "threshold"].iter().map(|field| plain(row, field)).collect()
        });
    }
    for (title, listed) in [("HTTP routers", Listed::Routers), ("TCP routers", Listed::TcpRouters)] {
        let columns = ["name", "status", "rule", "entrypoints", "middlewares", "service"];
        table(&mut page, title, &columns, objects(listed, view), |row| {
            vec![
                plain(row, "name"),
                status(row),
                code(row, "rule"),
                plain(row, "using"),
                plain(row, "middlewares"),
                plain(row, "service"),
            ]
        });
    }
    for (title, listed) in [("HTTP services", Listed::Services), ("TCP services", Listed::TcpServices)] {
        table(&mut page, title, &["name", "status", "type", "servers", "used by"], objects(listed, view), |row| {
            vec![plain(row, "name"), status(row), plain(row, "type"), servers(row), plain(row, "usedBy")]
        });
    }
    table(&mut page, "Middlewares", &["name", "status", "type", "used by"], objects(Listed::Middlewares, view), |row| {
        vec![plain(row, "name"), status(row), plain(row, "type"), plain(row, "usedBy")]
    });
    page.push_str("</body>\n</html>\n");
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answer { status: StatusCode::OK, headers, body: Bytes::from(page) }
}

type Row = Map<String, Value>;

/// A table, unless there is nothing to put in. Cells are already safe.
fn table(page: &mut String, title: &str, columns: &[&str], rows: Vec<Row>, cells: impl Fn(&Row) -> Vec<String>) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>{title}</h2>\n<table>\n<tr>");
    for column in columns {
        let _ = write!(page, "<th>{column}</th>");
    }
    page.push_str("</tr>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in cells(&row) {
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

/// A field as text; a list with commas.
fn plain(row: &Row, field: &str) -> String {
    match row.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => escape(text),
        Some(Value::Array(items)) => {
            items.iter().map(|item| escape(item.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ")
        }
        Some(other) => escape(&other.to_string()),
    }
}

fn code(row: &Row, field: &str) -> String {
    format!("<code>{}</code>", plain(row, field))
}

/// The status in its colour, and below it what is wrong.
fn status(row: &Row) -> String {
    let status = plain(row, "status");
    let errors = row.get("error").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let errors = errors.iter().filter_map(Value::as_str).map(|error| format!("<br>{}", escape(error))).collect::<String>();
    format!("<span class=\"{status}\">{status}</span>{errors}")
}

fn servers(row: &Row) -> String {
    let statuses = row.get("serverStatus").and_then(Value::as_object);
    let line = |(url, status): (&String, &Value)| {
        let status = escape(status.as_str().unwrap_or_default());
        format!("{} <span class=\"{status}\">{status}</span>", escape(url))
    };
    statuses.map(|statuses| statuses.iter().map(line).collect::<Vec<_>>().join("<br>")).unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
