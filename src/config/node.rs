//! What a user wrote, from whatever source, as one kind of tree with places; and the way from the tree to typed values.
//!
//! YAML, TOML, flags, environment and tags all become [`Node`]s, and every typed value is read through [`Fields`],
//! so that case rules, conversions, unknown keys and their nearest spelling are the same everywhere. As in Traefik all
//! scalars are text until a typed field asks for them, and a node may have a scalar and children at once
//! (`compress=true` beside `compress.encodings=gzip`).

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::problem::{At, Problem, Problems, nearest};

/// One written value.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Node {
    /// Where it was written.
    pub at: At,
    /// The scalar as text, if one was written. YAML's and TOML's booleans and numbers keep their spelling.
    pub scalar: Option<String>,
    /// What stands below it.
    pub children: Children,
    /// Whether the source knows only text (tags, flags, environment), so that a list is written `a, b`.
    pub is_text: bool,
}

/// What stands below a node.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Children {
    /// Nothing.
    #[default]
    None,
    /// Items in their order.
    List(Vec<Node>),
    /// Keys in the order written; keys are compared without case.
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As written.
    pub key: String,
    /// Where the key was written.
    pub key_at: At,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Neither a scalar nor children.
    pub fn is_empty(&self) -> bool {
        self.scalar.is_none() && matches!(self.children, Children::None)
    }

    /// The entries of a map; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.children {
            Children::Map(entries) => entries,
            Children::None | Children::List(_) => &[],
        }
    }

    /// The value of a key, compared without case. A key written without a value (YAML's null) is as good as not written, as in Traefik.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key.eq_ignore_ascii_case(key) && !entry.node.is_empty()).map(|entry| &entry.node)
    }

    /// Reads it as text. A map or list is a problem.
    pub fn string(&self, path: &str, problems: &mut Problems) -> Option<String> {
        if self.scalar.is_none() {
            problems.push(Problem::error(&self.at, format!("`{path}` wants a single value")));
        }
        self.scalar.clone()
    }

    /// Reads it as Go's `ParseBool` does: 1, t, T, TRUE, true, True and their opposites.
    pub fn bool(&self, path: &str, problems: &mut Problems) -> Option<bool> {
        let text = self.string(path, problems)?;
        let value = parse_bool(&text);
        if value.is_none() {
            problems.push(Problem::error(&self.at, format!("`{path}` is `{text}`, but wants `true` or `false`")));
        }
        value
    }

    /// Reads it as a span of time as Go writes it (`1h2m3.5s`); a bare number is seconds.
    pub fn duration(&self, path: &str, problems: &mut Problems) -> Option<Duration> {
        let text = self.string(path, problems)?;
        let value = parse_duration(&text);
        if value.is_none() {
            let message = format!("`{path}` is `{text}`, but wants a span of time such as `30s`, `1m30s` or `500ms`");
            problems.push(Problem::error(&self.at, message));
        }
        value
    }

    /// Reads it as whatever parses itself from text; `wants` says what that is.
    pub fn parsed<T: FromStr>(&self, path: &str, wants: &str, problems: &mut Problems) -> Option<T> {
        let text = self.string(path, problems)?;
        let value = text.trim().parse().ok();
        if value.is_none() {
            problems.push(Problem::error(&self.at, format!("`{path}` is `{text}`, but wants {wants}")));
        }
        value
    }

    /// Reads it as a list of texts: items, or one text `a, b`, which Traefik takes apart in every source.
    pub fn strings(&self, path: &str, problems: &mut Problems) -> Vec<String> {
        self.texts(path, problems).into_iter().map(|(_, text)| text).collect()
    }

    /// Reads it as a list of texts, each with its place.
    pub fn texts(&self, path: &str, problems: &mut Problems) -> Vec<(&At, String)> {
        match &self.children {
            Children::List(items) => items.iter().filter_map(|item| Some((&item.at, item.string(path, problems)?))).collect(),
            Children::Map(_) => {
                problems.push(Problem::error(&self.at, format!("`{path}` wants a list")));
                Vec::new()
            }
            Children::None => {
                let items = self.scalar.iter().flat_map(|text| text.split(','));
                items.map(|item| (&self.at, item.trim().to_owned())).filter(|(_, item)| !item.is_empty()).collect()
            }
        }
    }

    /// Reads it as address ranges in CIDR notation; a bare address is a range of one.
    pub fn ranges(&self, path: &str, problems: &mut Problems) -> Vec<IpNet> {
        let mut ranges = Vec::new();
        for (at, text) in self.texts(path, problems) {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(range) => ranges.push(range),
                Err(_) => {
                    let message = format!("`{path}` has `{text}`, but wants addresses or ranges such as `10.0.0.0/8`");
                    problems.push(Problem::error(at, message));
                }
            }
        }
        ranges
    }
}

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration`, with Traefik's addition that a bare number is seconds. Negative spans are refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match rest.get(..unit_end)? {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = rest.get(unit_end..)?;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// Reads the keys of one node and remembers which were asked for, so that what nobody asked for can be named at the end.
#[derive(Debug)]
pub struct Fields<'n> {
    path: String,
    node: &'n Node,
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Reads `node`, which stands at `path` (dotted, for messages; empty at the top).
    pub fn new(path: impl Into<String>, node: &'n Node) -> Self {
        Self { path: path.into(), node, known: Vec::new() }
    }

    /// The dotted path of one of its keys.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The node these fields stand in.
    pub fn node(&self) -> &'n Node {
        self.node
    }

    /// A key's value, compared without case; from now on the key is known.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.node.get(key)
    }

    /// A key's value as text.
    pub fn string(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        let path = self.path(key);
        self.get(key)?.string(&path, problems)
    }

    /// A key's value as a truth value.
    pub fn bool(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        let path = self.path(key);
        self.get(key)?.bool(&path, problems)
    }

    /// A key's value as a span of time.
    pub fn duration(&mut self, key: &'static str, problems: &mut Problems) -> Option<Duration> {
        let path = self.path(key);
        self.get(key)?.duration(&path, problems)
    }

    /// A key's value as whatever parses itself from text.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, wants: &str, problems: &mut Problems) -> Option<T> {
        let path = self.path(key);
        self.get(key)?.parsed(&path, wants, problems)
    }

    /// A key's value as a list of texts; `None` when the key is not there.
    pub fn strings(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
        let path = self.path(key);
        Some(self.get(key)?.strings(&path, problems))
    }

    /// A key's value as address ranges; empty when the key is not there.
    pub fn ranges(&mut self, key: &'static str, problems: &mut Problems) -> Vec<IpNet> {
        let path = self.path(key);
        self.get(key).map(|node| node.ranges(&path, problems)).unwrap_or_default()
    }

    /// A key whose value has fields of its own.
    pub fn child(&mut self, key: &'static str) -> Option<Self> {
        let path = self.path(key);
        self.get(key).map(|node| Self::new(path, node))
    }

    /// A key whose value maps names that users choose to values.
    pub fn named(&mut self, key: &'static str) -> Vec<(&'n str, Self)> {
        let path = self.path(key);
        let entries = self.get(key).map(Node::entries).unwrap_or_default();
        entries
            .iter()
            .filter(|entry| !entry.node.is_empty())
            .map(|entry| (entry.key.as_str(), Self::new(format!("{path}.{}", entry.key), &entry.node)))
            .collect()
    }

    /// A key whose value is a list of values with fields.
    pub fn items(&mut self, key: &'static str) -> Vec<Self> {
        let path = self.path(key);
        match self.get(key).map(|node| &node.children) {
            Some(Children::List(items)) => {
                items.iter().enumerate().map(|(index, item)| Self::new(format!("{path}[{index}]"), item)).collect()
            }
            Some(Children::Map(_) | Children::None) | None => Vec::new(),
        }
    }

    /// The keys that were written but not asked for.
    pub fn unknown(&self) -> impl Iterator<Item = &'n Entry> {
        self.node.entries().iter().filter(|entry| !self.known.iter().any(|known| known.eq_ignore_ascii_case(&entry.key)))
    }

    /// Ends the reading: every key that nobody asked for is an error that names the nearest known one.
    pub fn finish(self, problems: &mut Problems) {
        for entry in self.unknown() {
            let message = format!("unknown key `{}`", self.path(&entry.key));
            let problem = Problem::error(&entry.key_at, message);
            problems.push(match nearest(&entry.key, self.known.iter().copied()) {
                Some(known) => problem.hint(format!("did you mean `{known}`?")),
                None => problem.hint(format!("known here: {}", self.known.join(", "))),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_spans_as_go_writes_them() {
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("15"), Some(Duration::from_secs(15)));
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        for wrong in ["", "s", "5 s", "-1s", "5x", "5.5"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
