//! JSON as Go's encoder writes it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use crate::middleware::Answer;

/// 200 with this value.
pub(super) fn answer(value: &Value) -> Answer {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    Answer { status: StatusCode::OK, headers, body: Bytes::from(format!("{}\n", encode(value))) }
}

/// An error with Traefik's body, and its content type, which is not JSON's.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    Answer::text(status, &encode(&json!({ "message": message })))
}

/// Compact, and with what could end a script escaped. These letters stand only inside of strings.
fn encode(value: &Value) -> String {
    let mut out = String::new();
    for letter in value.to_string().chars() {
        match letter {
            '&' => out.push_str("\\u0026"),
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

/// Adds fields that have something to say: not null, false, zero, empty (Go's `omitempty`).
pub(super) fn add(object: &mut Map<String, Value>, fields: impl IntoIterator<Item = (&'static str, Value)>) {
    for (name, value) in fields {
        let is_empty = match &value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
        };
        if !is_empty {
            object.insert(name.to_owned(), value);
        }
    }
}

/// An object of the fields that have something to say.
pub(super) fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    let mut object = Map::new();
    add(&mut object, fields);
    object
}

/// A field's text; empty if it has none.
pub(super) fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A span as Go prints it: `1m0s`, `100ms`. Nothing for zero, which Traefik leaves out.
pub(super) fn span(span: Duration) -> Value {
    let (seconds, nanos) = (span.as_secs(), span.subsec_nanos());
    if seconds == 0 {
        return match nanos {
            0 => Value::Null,
            1..1_000 => json!(format!("{nanos}ns")),
            1_000..1_000_000 => json!(format!("{}µs", decimal(nanos.into(), 1_000))),
            _ => json!(format!("{}ms", decimal(nanos.into(), 1_000_000))),
        };
    }
    let rest = decimal(u128::from(seconds % 60) * 1_000_000_000 + u128::from(nanos), 1_000_000_000);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => json!(format!("{rest}s")),
        (0, minutes) => json!(format!("{minutes}m{rest}s")),
        (hours, minutes) => json!(format!("{hours}h{minutes}m{rest}s")),
    }
}

/// A number of parts as a decimal of the whole, without zeros at its end.
fn decimal(parts: u128, whole: u128) -> String {
    let digits = whole.ilog10() as usize;
    let fraction = format!("{:0digits$}", parts % whole);
    let fraction = fraction.trim_end_matches('0');
    let whole = parts / whole;
    if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
}

/// RFC 3339 in UTC; nothing for a time outside of the years 0 to 9999.
pub(super) fn time(time: SystemTime) -> Value {
    jiff::Timestamp::try_from(time).map_or(Value::Null, |time| json!(time.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_spans_as_go_does() {
        for (nanos, expected) in [
            (60_000_000_000, "1m0s"),
            (100_000_000, "100ms"),
            (1_000_000_000, "1s"),
            (180_000_000_000, "3m0s"),
            (7_384_500_000_000, "2h3m4.5s"),
            (1_500_000, "1.5ms"),
            (1_500, "1.5µs"),
            (5, "5ns"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), json!(expected));
        }
        assert_eq!(span(Duration::ZERO), Value::Null);
    }

    #[test]
    fn escapes_what_go_escapes() {
        assert_eq!(encode(&json!("Host(`a`) && !Path(`<b>`)")), r#""Host(`a`) \u0026\u0026 !Path(`\u003cb\u003e`)""#);
    }
}
