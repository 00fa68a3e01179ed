//! Asks a proxy what a case says, and gives all that came back.

use std::io::Read;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::DEADLINE;
use crate::case::{Case, Over};
use crate::site::Proxy;
use crate::stream::{Stream, connect};
use crate::wire::{Body, Framing, Reader, fields_to_json};

/// Sends a case's request to a proxy and describes the answer.
pub async fn ask(proxy: &Proxy, case: &Case) -> Value {
    let port = proxy.port(&case.via);
    let alpn = case.alpn.clone().unwrap_or_else(|| match case.over {
        Over::H1 => vec!["http/1.1".to_owned()],
        Over::H2 => vec!["h2".to_owned()],
        Over::Tcp => Vec::new(),
    });
    let asked = async {
        let (stream, shown) = match connect(port, case.sni.as_deref(), &alpn).await {
            Ok(connected) => connected,
            Err(refused) => return refused,
        };
        let mut answer = match case.over {
            Over::H1 => ask_h1(stream, case).await,
            Over::H2 => ask_h2(stream, case).await,
            Over::Tcp => ask_tcp(stream, case).await,
        };
        if !shown.is_null() {
            answer.insert("tls".to_owned(), shown);
        }
        Value::Object(answer)
    };
    match timeout(DEADLINE, asked).await {
        Ok(answer) => answer,
        Err(_) => json!({ "late": format!("no answer within {DEADLINE:?}") }),
    }
}

async fn ask_h1(mut stream: Box<dyn Stream>, case: &Case) -> Map<String, Value> {
    let mut answer = Map::new();
    // The proxy may answer, and close, before it has read all: what it answered counts.
    let _ = stream.write_all(&request_bytes(case)).await;
    let mut reader = Reader::new(stream);
    let mut interim = Vec::new();
    let head = loop {
        let Ok(Some(head)) = reader.head().await else {
            answer.insert("closed".to_owned(), true.into());
            return answer;
        };
        let status = status_of(&head.first);
        if status == 100
            && let Some(rest) = &case.then_send
        {
            let _ = reader.get_mut().write_all(rest.as_bytes()).await;
        }
        if status >= 200 || status == 101 {
            break head;
        }
        interim.push(json!({ "status": status, "headers": fields_to_json(&head.fields) }));
    };
    let status = status_of(&head.first);
    let body = match head.framing() {
        _ if status == 101 => {
            let sent = case.then_send.as_deref().unwrap_or_default();
            let _ = reader.get_mut().write_all(sent.as_bytes()).await;
            Body { bytes: reader.up_to(sent.len()).await, ..Body::default() }
        }
        _ if case.method == "HEAD" || status == 204 || status == 304 => Body::default(),
        framing => reader.body(framing.unwrap_or(Framing::Close)).await,
    };
    if !interim.is_empty() {
        answer.insert("interim".to_owned(), interim.into());
    }
    describe(&mut answer, case, status, head.fields, body);
    answer
}

fn status_of(line: &str) -> u16 {
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// A request as HTTP/1.1.
fn request_bytes(case: &Case) -> Vec<u8> {
    if let Some(raw) = &case.raw {
        return raw.clone().into_bytes();
    }
    let (host, target) = case.target();
    let mut text = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\nX-Case: {}\r\n", case.method, case.name);
    for (name, value) in case.header_pairs() {
        text += &format!("{name}: {value}\r\n");
    }
    if !case.body.is_empty() {
        text += &format!("Content-Length: {}\r\n", case.body.len());
    }
    format!("{text}\r\n{}", case.body).into_bytes()
}

async fn ask_h2(stream: Box<dyn Stream>, case: &Case) -> Map<String, Value> {
    let mut answer = Map::new();
    match exchange_h2(stream, case).await {
        Ok((status, fields, body)) => describe(&mut answer, case, status, fields, body),
        Err(error) => drop(answer.insert("error".to_owned(), error.to_string().into())),
    }
    answer
}

type Answered = (u16, Vec<(String, String)>, Body);

async fn exchange_h2(stream: Box<dyn Stream>, case: &Case) -> Result<Answered, h2::Error> {
    let (sender, connection) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let (host, target) = case.target();
    let scheme = if case.sni.is_some() { "https" } else { "http" };
    let mut request = http::Request::builder().method(case.method.as_str()).uri(format!("{scheme}://{host}{target}"));
    request = request.header("x-case", &case.name);
    for (name, value) in case.header_pairs() {
        request = request.header(name, value);
    }
    let (answer, mut sending) = sender.ready().await?.send_request(request.body(()).unwrap(), case.body.is_empty())?;
    if !case.body.is_empty() {
        sending.send_data(Bytes::from(case.body.clone()), true)?;
    }
    let (head, mut incoming) = answer.await?.into_parts();
    let mut body = Body::default();
    while let Some(chunk) = incoming.data().await {
        match chunk {
            Ok(chunk) => {
                incoming.flow_control().release_capacity(chunk.len())?;
                body.bytes.extend_from_slice(&chunk);
            }
            Err(_) => {
                body.is_cut = true;
                break;
            }
        }
    }
    if !body.is_cut {
        body.trailers = incoming.trailers().await?.as_ref().map(pairs).unwrap_or_default();
    }
    driver.abort();
    Ok((head.status.as_u16(), pairs(&head.headers), body))
}

/// Headers as the suite keeps them.
pub fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Sends, ends its side, and keeps what comes until the other end.
async fn ask_tcp(stream: Box<dyn Stream>, case: &Case) -> Map<String, Value> {
    let mut reader = Reader::new(stream);
    let mut received = Vec::new();
    if let Some(raw) = &case.raw {
        let _ = reader.get_mut().write_all(raw.as_bytes()).await;
    }
    if let Some(rest) = &case.then_send {
        received = reader.up_to(1).await;
        let _ = reader.get_mut().write_all(rest.as_bytes()).await;
    }
    if case.raw.is_some() || case.then_send.is_some() {
        let wanted = case.raw.as_ref().map_or(0, String::len) + case.then_send.as_ref().map_or(0, String::len);
        received.extend(reader.up_to(wanted).await);
    } else {
        let _ = reader.rest(&mut received).await;
    }
    Map::from_iter([("received".to_owned(), String::from_utf8_lossy(&received).into_owned().into())])
}

/// Puts an answer into the words that are compared.
fn describe(answer: &mut Map<String, Value>, case: &Case, status: u16, mut fields: Vec<(String, String)>, body: Body) {
    fields.retain(|(name, _)| name != "date");
    let coding = fields.iter().find(|(name, _)| name == "content-encoding").map(|(_, value)| value.clone());
    let packed = coding.filter(|_| case.method != "HEAD" && !case.answer.to_lowercase().contains("content-encoding"));
    let bytes = match &packed {
        // Two libraries pack the same bytes differently.
        Some(coding) => {
            for (_, value) in fields.iter_mut().filter(|(name, _)| name == "content-length") {
                "of the packed body".clone_into(value);
            }
            unpack(coding, &body.bytes)
        }
        None => body.bytes,
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body_value = match serde_json::from_str::<Value>(&text) {
        Ok(json @ (Value::Object(_) | Value::Array(_))) => {
            // Its length depends on ports.
            fields.retain(|(name, _)| name != "content-length" && name != "transfer-encoding");
            if case.shape_only { shape(&json) } else { without_reasons(json) }
        }
        _ => Value::String(text),
    };
    answer.insert("status".to_owned(), status.into());
    answer.insert("headers".to_owned(), fields_to_json(&fields));
    answer.insert("body".to_owned(), body_value);
    if !body.trailers.is_empty() {
        answer.insert("trailers".to_owned(), fields_to_json(&body.trailers));
    }
    if body.is_cut {
        answer.insert("cut".to_owned(), true.into());
    }
}

fn unpack(coding: &str, packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(packed).read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(packed, 4096).read_to_end(&mut plain),
        "zstd" => zstd::stream::read::Decoder::new(packed).and_then(|mut decoder| decoder.read_to_end(&mut plain)),
        _ => panic!("content-encoding {coding}"),
    };
    read.unwrap_or_else(|error| panic!("{coding} cannot be unpacked: {error}"));
    plain
}

/// The API's answer without the words in which it says what is wrong: those are each proxy's own.
fn without_reasons(json: Value) -> Value {
    match json {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| if key == "error" { (key, "said".into()) } else { (key, without_reasons(value)) })
                .collect(),
        ),
        Value::Array(list) => by_name(list.into_iter().map(without_reasons).collect()),
        other => other,
    }
}

/// A list of named objects as an object by their names, so that one too many does not hide what else differs; and whether they
/// were in order.
fn by_name(list: Vec<Value>) -> Value {
    let names: Option<Vec<String>> = list.iter().map(|item| item.get("name")?.as_str().map(str::to_owned)).collect();
    match names.filter(|names| !names.is_empty()) {
        Some(names) => {
            let is_sorted = names.is_sorted();
            let named: Map<String, Value> = names.into_iter().zip(list).collect();
            json!({ "is sorted": is_sorted, "by name": named })
        }
        None => Value::Array(list),
    }
}

/// A JSON value with its scalars replaced by their types.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), shape(value))).collect()),
        Value::Array(list) => Value::Array(list.iter().map(shape).collect()),
        Value::String(_) => "a string".into(),
        Value::Number(_) => "a number".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Null => Value::Null,
    }
}
