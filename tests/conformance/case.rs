//! What a case says: a request, how the servers answer it, and which behaviour it shows.

use std::path::PathBuf;

use serde::Deserialize;

/// One case of `cases/*.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The behaviour, in a sentence.
    pub shows: String,
    /// The entrypoint.
    #[serde(default = "web")]
    pub via: String,
    #[serde(default)]
    pub over: Over,
    /// With TLS, asking for this name; an empty one asks for none.
    pub sni: Option<String>,
    /// What the client offers in the handshake; by default what `over` means.
    pub alpn: Option<Vec<String>>,
    #[serde(default = "get")]
    pub method: String,
    /// `host/path?query`.
    #[serde(default)]
    pub url: String,
    /// `Name: value`, beside `Host`, `X-Case` and `Content-Length`.
    #[serde(default)]
    pub headers: Vec<String>,
    #[serde(default)]
    pub body: String,
    /// The bytes of the request instead of all that.
    pub raw: Option<String>,
    /// What goes to the proxy after a head came back: the rest of a body that was waited with, or bytes of another protocol.
    pub then_send: Option<String>,
    /// What the servers answer: a head without `Content-Length`, and after an empty line the body. Line ends are LF here.
    #[serde(default = "hello")]
    pub answer: String,
    /// So many more bytes of body.
    #[serde(default)]
    pub answer_bytes: usize,
    /// The bytes of the answer instead of all that.
    pub raw_answer: Option<String>,
    /// Trailers of the answer of an HTTP/2 server.
    #[serde(default)]
    pub answer_trailers: Vec<String>,
    /// What the servers do instead of answering, or after it.
    pub fault: Option<Fault>,
    /// How many times it is asked.
    #[serde(default = "once")]
    pub repeat: usize,
    /// Whether the order of the answers, and of what the servers saw, is left open.
    #[serde(default)]
    pub in_any_order: bool,
    /// What must be true before.
    pub once: Option<Condition>,
    /// Whether a JSON answer is compared by its shape only.
    #[serde(default)]
    pub shape_only: bool,
    /// Whether the `Accept-Encoding` that a proxy invents is compared, too.
    #[serde(default)]
    pub own_accept_encoding: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    #[default]
    H1,
    H2,
    Tcp,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Close before the answer.
    Close,
    /// Never answer.
    Hang,
    /// Answer, and close: the body is cut off if it is shorter than its head says.
    AnswerAndClose,
    /// Answer, and send back whatever comes.
    Echo,
}

/// A text that an answer of the API must contain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub api: String,
    pub says: String,
}

impl Case {
    /// Host and target of `url`.
    pub fn target(&self) -> (&str, &str) {
        match self.url.find('/') {
            Some(slash) => self.url.split_at(slash),
            None => (&self.url, "/"),
        }
    }

    /// The request's headers as pairs.
    pub fn header_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .map(|line| line.split_once(':').expect("a header has a colon"))
            .map(|(name, value)| (name, value.trim()))
    }

    /// Whether the client says which encodings it takes.
    pub fn accepts_an_encoding(&self) -> bool {
        let said = self.headers.iter().chain(&self.raw);
        said.map(|text| text.to_ascii_lowercase()).any(|text| text.contains("accept-encoding"))
    }

    /// Head and body of the servers' answer.
    pub fn answer_parts(&self) -> (&str, Vec<u8>) {
        let text = self.answer.trim_start();
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut body = body.as_bytes().to_vec();
        body.extend((0..self.answer_bytes).map(|place| b"abcdefghijklmnopqrstuvwxyz \n"[place % 28]));
        (head.trim_end(), body)
    }

    /// The answer's bytes as an HTTP/1.1 server writes them.
    pub fn answer_bytes(&self, is_head_request: bool) -> Vec<u8> {
        if let Some(raw) = &self.raw_answer {
            return raw.clone().into_bytes();
        }
        let (head, body) = self.answer_parts();
        let mut bytes = head.replace('\n', "\r\n").into_bytes();
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !(status.starts_with('1') || status == "204" || status == "304") {
            bytes.extend(format!("\r\nContent-Length: {}", body.len()).bytes());
        }
        bytes.extend(b"\r\n\r\n");
        if !is_head_request {
            bytes.extend(body);
        }
        bytes
    }
}

/// All cases, in the order of the files' names.
pub fn all() -> Vec<Case> {
    #[derive(Deserialize)]
    struct File {
        case: Vec<Case>,
    }
    let folder = folder().join("cases");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        toml::from_str::<File>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())).case
    };
    paths.into_iter().flat_map(read).collect()
}

/// Where the suite's own files are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

fn web() -> String {
    "web".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

fn once() -> usize {
    1
}

fn hello() -> String {
    "HTTP/1.1 200 OK\nContent-Type: text/plain\n\nhello".to_owned()
}
