//! TOML as a tree of located values, equal to the tree of the same document in YAML.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{NODES_MAX, Places, bounded};
use super::node::{Children, Entry, Node};
use super::problem::{At, Problem};

/// Reads `text`; `source` names it in places.
///
/// # Errors
/// The first mistake: syntax, a key written twice, a limit. The parser itself bounds the nesting (80 levels).
pub fn parse(source: &str, text: &str) -> Result<Node, Problem> {
    let text = bounded(source, text)?;
    let lines = Lines::new(source, text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = lines.at(error.span().map_or(0, |span| span.start));
        Problem::error(&at, format!("cannot be read as TOML: {}", one_line(error.message())))
    })?;
    let mut reader = Reader { lines, nodes: 0 };
    let at = reader.lines.at(0);
    let children = reader.table(table.get_ref())?;
    if matches!(&children, Children::Map(entries) if entries.is_empty()) {
        return Ok(Node::default());
    }
    Ok(Node { at, children, ..Node::default() })
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Finds lines and columns of byte offsets.
struct Lines<'t> {
    places: Places,
    text: &'t str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(source: &str, text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(offset, _)| offset + 1)).collect();
        Self { places: Places::new(source), text, starts }
    }

    fn at(&self, offset: usize) -> At {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        self.places.at(line, column)
    }
}

struct Reader<'t> {
    lines: Lines<'t>,
    nodes: usize,
}

impl Reader<'_> {
    fn value(&mut self, value: &Spanned<DeValue<'_>>) -> Result<Node, Problem> {
        let at = self.lines.at(value.span().start);
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Problem::error(&at, format!("the file has more than {NODES_MAX} values")));
        }
        let scalar = match value.get_ref() {
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?;
                return Ok(Node { at, children: Children::List(items), ..Node::default() });
            }
            DeValue::Table(table) => {
                let children = self.table(table)?;
                return Ok(Node { at, children, ..Node::default() });
            }
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(time) => time.to_string(),
        };
        Ok(Node { at, scalar: Some(scalar), ..Node::default() })
    }

    /// The entries in the order written (the parser sorts them by name).
    fn table(&mut self, table: &DeTable<'_>) -> Result<Children, Problem> {
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let key_at = self.lines.at(key.span().start);
            entries.push(Entry { key: key.get_ref().clone().into_owned(), key_at, node: self.value(value)? });
        }
        Ok(Children::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree without places, to compare with YAML's.
    fn bare(node: &Node) -> Node {
        let children = match &node.children {
            Children::None => Children::None,
            Children::List(items) => Children::List(items.iter().map(bare).collect()),
            Children::Map(entries) => {
                let entry = |entry: &Entry| Entry { key: entry.key.clone(), key_at: At::default(), node: bare(&entry.node) };
                Children::Map(entries.iter().map(entry).collect())
            }
        };
        Node { scalar: node.scalar.clone(), children, ..Node::default() }
    }

    #[test]
    fn gives_the_tree_of_the_same_yaml() {
        let toml = "z = 1\n[a.b]\nc = true\nd = [\"x\", 'y']\n[a.e]\n[[a.f]]\ng = 1.5\n[[a.f]]\ng = 1_000\n";
        let yaml = "z: 1\na: {b: {c: true, d: [x, y]}, e: {}, f: [{g: 1.5}, {g: 1000}]}\n";
        let yaml = super::super::yaml::parse("f", yaml).unwrap();
        assert_eq!(bare(&parse("f", toml).unwrap()), bare(&yaml));
        assert!(parse("f", "# only words\n").unwrap().is_empty());
    }

    #[test]
    fn keys_and_values_know_their_place() {
        let root = parse("f", "[a]\n\"ä\" = 1\n  b = 'x'\n").unwrap();
        let entries = root.get("a").unwrap().entries();
        let places: Vec<_> = entries.iter().map(|entry| format!("{} {}", entry.key_at, entry.node.at)).collect();
        assert_eq!(places, ["f:2:1 f:2:7", "f:3:3 f:3:7"]);
    }

    #[test]
    fn mistakes_say_where() {
        for (text, expected) in [
            ("a = 1\na = 2\n", "f:2:1: cannot be read as TOML: duplicate key"),
            ("[a]\n[a]\n", "f:2:2: cannot be read as TOML: duplicate key"),
            ("a = \n", "f:1:5: cannot be read as TOML: string values must be quoted, expected literal string"),
        ] {
            assert_eq!(parse("f", text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in [
            format!("a = {}", "[".repeat(10_000)),
            format!("{}a = 1", "a.".repeat(10_000)),
            format!("[{}a]", "a.".repeat(10_000)),
        ] {
            assert!(parse("f", &text).is_err());
        }
    }
}
