//! YAML as a tree of located values, read the way Traefik reads it.
//!
//! Scalars keep their spelling; a plain null or nothing is an empty node. Anchors, aliases and merge keys (`<<`) are filled
//! in, and what they bring keeps the place where it was written. A key twice in one map is a problem, as in Traefik.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};

use super::document::{DEPTH_MAX, NODES_MAX, Places, bounded};
use super::node::{Children, Entry, Node};
use super::problem::{At, Problem};

/// Reads the first document of `text`; `source` names the text in places.
///
/// # Errors
/// The first mistake: syntax, a key written twice, a key that is no text, an alias within what it names, a limit.
pub fn parse(source: &str, text: &str) -> Result<Node, Problem> {
    let text = bounded(source, text)?;
    let mut builder = Builder::new(source);
    let mut options = Options::default();
    // One more than ours, so that ours speaks.
    options.flow_nesting_limit = DEPTH_MAX + 1;
    options.block_nesting_limit = DEPTH_MAX + 1;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let marker = error.marker();
            let message = format!("cannot be read as YAML: {}", error.info());
            Problem::error(&builder.places.at(marker.line(), marker.col() + 1), message)
        })?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        builder.take(event, &span)?;
    }
    Ok(builder.root.unwrap_or_default())
}

/// Builds the tree from events, without recursion.
struct Builder {
    places: Places,
    /// The collections that have begun and not ended, outermost first.
    open: Vec<Open>,
    /// Finished values by anchor, with the number of nodes in them.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

/// A collection that has not ended.
struct Open {
    at: At,
    /// 0 is none.
    anchor: usize,
    /// `nodes` when it began.
    nodes_before: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<Entry>,
    /// Where each key was first written.
    lines: HashMap<String, u32>,
    /// The key whose value comes next.
    key: Option<Key>,
    /// What `<<` brings, the strongest first.
    merged: Vec<Node>,
}

struct Key {
    text: String,
    at: At,
    is_merge: bool,
}

impl Builder {
    fn new(source: &str) -> Self {
        Self { places: Places::new(source), open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        let at = self.places.at(span.start.line(), span.start.col() + 1);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain && tag.is_none();
                if self.wants_key() {
                    return self.key(Key { is_merge: is_plain && text == "<<", text: text.into_owned(), at }, anchor);
                }
                let is_null = is_plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let scalar = (!is_null).then(|| text.into_owned());
                self.value(Node { at, scalar, ..Node::default() }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(at, anchor, Content::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.begin(at, anchor, Content::Map(OpenMap::default())),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, &at),
            // Beginnings and comments; the end of the document ends the reading.
            _ => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map(map), .. }) if map.key.is_none())
    }

    fn key(&mut self, key: Key, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            let node = Node { at: key.at.clone(), scalar: Some(key.text.clone()), ..Node::default() };
            self.anchors.insert(anchor, (node, 1));
        }
        let Some(Open { content: Content::Map(map), .. }) = self.open.last_mut() else { return Ok(()) };
        if !key.is_merge {
            if let Some(line) = map.lines.get(&key.text) {
                let message = format!("the key `{}` is written twice, first in line {line}", key.text);
                return Err(Problem::error(&key.at, message));
            }
            map.lines.insert(key.text.clone(), key.at.line);
        }
        map.key = Some(key);
        Ok(())
    }

    fn begin(&mut self, at: At, anchor: usize, content: Content) -> Result<(), Problem> {
        if self.wants_key() {
            return Err(Problem::error(&at, "a key must be a text, not a list or a map"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(Problem::error(&at, format!("values are nested deeper than {DEPTH_MAX} levels")));
        }
        self.open.push(Open { at, anchor, nodes_before: self.nodes, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let children = match open.content {
            Content::List(items) => Children::List(items),
            Content::Map(map) => Children::Map(map.finish()?),
        };
        let size = self.nodes - open.nodes_before + 1;
        self.nodes = open.nodes_before;
        self.value(Node { at: open.at, children, ..Node::default() }, open.anchor, size)
    }

    fn alias(&mut self, anchor: usize, at: &At) -> Result<(), Problem> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(Problem::error(at, "the alias stands within the very value that it names"));
        };
        let size = *size;
        // Asked before it is copied: a few lines can name billions of values.
        if self.nodes + size > NODES_MAX {
            return Err(too_many(at));
        }
        let node = node.clone();
        if !self.wants_key() {
            return self.value(node, 0, size);
        }
        let Some(text) = node.scalar else {
            return Err(Problem::error(at, "a key must be a text, not a list or a map"));
        };
        self.key(Key { text, at: at.clone(), is_merge: false }, 0)
    }

    /// A value is complete: it goes where the innermost open collection wants it.
    fn value(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Problem> {
        self.nodes += size;
        if self.nodes > NODES_MAX {
            return Err(too_many(&node.at));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map(map)) => map.put(node),
        }
        Ok(())
    }
}

fn too_many(at: &At) -> Problem {
    Problem::error(at, format!("with its aliases filled in the file has more than {NODES_MAX} values"))
}

impl OpenMap {
    fn put(&mut self, node: Node) {
        match self.key.take() {
            Some(Key { is_merge: true, .. }) => self.merged.push(node),
            Some(key) => self.entries.push(Entry { key: key.text, key_at: key.at, node }),
            None => {}
        }
    }

    /// The entries, and after them what merge keys bring and nobody wrote.
    fn finish(mut self) -> Result<Vec<Entry>, Problem> {
        for merged in std::mem::take(&mut self.merged) {
            let maps = match merged {
                Node { children: Children::List(items), .. } => items,
                map => vec![map],
            };
            for map in maps {
                let Children::Map(entries) = map.children else {
                    return Err(Problem::error(&map.at, "`<<` wants a map, or a list of maps"));
                };
                for entry in entries {
                    if !self.lines.contains_key(&entry.key) {
                        self.lines.insert(entry.key.clone(), entry.key_at.line);
                        self.entries.push(entry);
                    }
                }
            }
        }
        Ok(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the tree in one line: `key@line:column=value`.
    fn shown(node: &Node) -> String {
        match (&node.scalar, &node.children) {
            (Some(text), _) => format!("`{text}`"),
            (None, Children::None) => "-".to_owned(),
            (None, Children::List(items)) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
            (None, Children::Map(entries)) => {
                let entry = |entry: &Entry| {
                    let Entry { key, key_at, node } = entry;
                    format!("{key}@{}:{}={}", key_at.line, key_at.column, shown(node))
                };
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let seen = match parse("f", text) {
            Ok(node) => shown(&node),
            Err(problem) => problem.to_string(),
        };
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn scalars_keep_their_spelling_and_keys_their_place() {
        check("a: 010\nb:\n  c: yes\n  ä: 1.20\n  'd': \":80\"\n", "{a@1:1=`010` b@2:1={c@3:3=`yes` ä@4:3=`1.20` d@5:3=`:80`}}");
        check("a: [x, 'y']\nb:\n- z\n-\n", "{a@1:1=[`x` `y`] b@2:1=[`z` -]}");
        check("a: {}\nb:\nc: ~\nd: null\ne: 'null'\nf: ''\n", "{a@1:1={} b@2:1=- c@3:1=- d@4:1=- e@5:1=`null` f@6:1=``}");
        check("a: |\n  x\n  y\n", "{a@1:1=`x\ny\n`}");
        check("", "-");
        check("# only words\n", "-");
        check("a: 1\n---\nb: 2\n", "{a@1:1=`1`}");
        assert_eq!(parse("f", "a:\n  - b: 1\n").unwrap().get("a").unwrap().at.to_string(), "f:2:3");
    }

    #[test]
    fn aliases_and_merge_keys_are_filled_in() {
        check("a: &x {b: 1}\nc: *x\n", "{a@1:1={b@1:8=`1`} c@2:1={b@1:8=`1`}}");
        check("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", "{a@1:1={b@1:8=`1` c@1:14=`2`} d@2:1={c@2:13=`3` b@1:8=`1`}}");
        check(
            "a: &x {b: 1}\nc: &y {b: 2, d: 3}\ne: {<<: [*x, *y]}\n",
            "{a@1:1={b@1:8=`1`} c@2:1={b@2:8=`2` d@2:14=`3`} e@3:1={b@1:8=`1` d@2:14=`3`}}",
        );
        check("a: &k name\n*k : 1\n", "{a@1:1=`name` name@2:1=`1`}");
        check("a: {<<: 1}\n", "f:1:9: `<<` wants a map, or a list of maps");
        check("a: &x [*x]\n", "f:1:8: the alias stands within the very value that it names");
    }

    #[test]
    fn mistakes_say_where() {
        check("a: 1\nb: 2\na: 3\n", "f:3:1: the key `a` is written twice, first in line 1");
        check("a: 1\n  b: 2\n", "f:2:4: cannot be read as YAML: mapping values are not allowed in this context");
        check("a: *nope\n", "f:1:4: cannot be read as YAML: while parsing node, found unknown anchor");
        check("? [a]\n: 1\n", "f:1:3: a key must be a text, not a list or a map");
        check("a:\n\tb: 1\n", "f:2:2: cannot be read as YAML: tabs disallowed within this context (block indentation)");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_before_it_bursts() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(parse("f", &text).unwrap_err().message.contains("more than 1000000 values"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
            assert!(parse("f", &text).is_err(), "{}", &text[..10]);
        }
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse("f", &nested(DEPTH_MAX)).is_ok());
        assert_eq!(parse("f", &nested(DEPTH_MAX + 1)).unwrap_err().message, "values are nested deeper than 64 levels");
    }
}
