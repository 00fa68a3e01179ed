//! HTTP/1.1 as the suite reads it, on either side of a proxy: forgiving, and with every byte of a head kept.

use std::io;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A head or a body larger than this is no case of ours.
const BYTES_MAX: usize = 8 << 20;

/// Reads messages from one connection.
pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
}

/// A head: its first line and its fields.
pub struct Head {
    pub first: String,
    pub fields: Vec<(String, String)>,
}

/// A body, its trailers, and whether it broke off.
#[derive(Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub is_cut: bool,
}

/// How the end of a body is found.
pub enum Framing {
    Length(usize),
    Chunked,
    Close,
}

impl Head {
    /// The value of a field, the first of several.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// How its body ends, if it says so.
    pub fn framing(&self) -> Option<Framing> {
        if self.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Some(Framing::Chunked);
        }
        self.field("content-length").and_then(|length| length.parse().ok()).map(Framing::Length)
    }
}

/// Fields as a map from lower-case names to values, in their order.
pub fn fields_to_json<'f>(fields: impl IntoIterator<Item = &'f (String, String)>) -> Value {
    let mut map = Map::new();
    for (name, value) in fields {
        let values = map.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
        values.as_array_mut().unwrap().push(Value::String(value.clone()));
    }
    Value::Object(map)
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new() }
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// More bytes; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        assert!(self.buffer.len() < BYTES_MAX, "too much");
        Ok(self.input.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next head; `None` when nothing or only a part of it came.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|end| end == b"\r\n\r\n") {
                let text: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let text = String::from_utf8_lossy(&text).into_owned();
                let (first, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
                return Ok(Some(Head { first: first.to_owned(), fields: parse_fields(fields) }));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// A body.
    pub async fn body(&mut self, framing: Framing) -> Body {
        let mut body = Body::default();
        let read = match framing {
            Framing::Length(length) => self.exactly(length, &mut body.bytes).await,
            Framing::Chunked => self.chunks(&mut body).await,
            Framing::Close => self.rest(&mut body.bytes).await,
        };
        body.is_cut = read.is_err();
        body
    }

    async fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        while self.buffer.len() < length {
            if !self.fill().await? {
                into.append(&mut self.buffer);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        into.extend(self.buffer.drain(..length));
        Ok(())
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let more = self.fill().await;
            into.append(&mut self.buffer);
            if !more? {
                return Ok(());
            }
        }
    }

    /// What comes, up to so many bytes or the end.
    pub async fn up_to(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.exactly(count, &mut bytes).await.is_err() {
            bytes.append(&mut self.buffer);
        }
        bytes
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|end| end == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn chunks(&mut self, body: &mut Body) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            self.exactly(size, &mut body.bytes).await?;
            self.line().await?;
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            body.trailers.extend(parse_fields(&line));
        }
    }
}

fn parse_fields(text: &str) -> Vec<(String, String)> {
    let pairs = text.split("\r\n").filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}
