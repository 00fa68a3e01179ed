//! A file's text as a tree of located values, whichever of Traefik's two languages it is written in.

use std::path::Path;
use std::sync::Arc;

use super::node::Node;
use super::problem::{At, Problem};
use super::{toml, yaml};

/// The longest text that is read: ten thousand routers take about two MiB.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// How deep values may be nested.
pub const DEPTH_MAX: usize = 64;

/// How many values a document may have once its aliases are filled in.
pub const NODES_MAX: usize = 1_000_000;

/// Reads `text`, which stands in the file `path`; its ending (`.yaml`, `.yml`, `.toml`) tells the language.
///
/// A text without any value is an empty node. Of several YAML documents only the first counts, as in Traefik.
///
/// # Errors
/// The first mistake that keeps the text from being read: syntax, a key written twice, a limit.
pub fn parse(path: &str, text: &str) -> Result<Node, Problem> {
    let ending = Path::new(path).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "yaml" | "yml" => yaml::parse(path, text),
        "toml" => toml::parse(path, text),
        _ => {
            let problem = Problem::error(&At::whole(path), "the file's name ends in neither `.yaml`, `.yml` nor `.toml`");
            Err(problem.hint("the ending tells which language the file is written in"))
        }
    }
}

/// The text without a byte order mark, if it is not too long.
pub(super) fn bounded<'t>(source: &str, text: &'t str) -> Result<&'t str, Problem> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("the file has {} bytes, but at most {DOCUMENT_BYTES_MAX} are read", text.len());
        return Err(Problem::error(&At::whole(source), message));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Makes places in one source.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<str>);

impl Places {
    /// Places in `source`.
    pub(super) fn new(source: &str) -> Self {
        Self(Arc::from(source))
    }

    /// The place at a line and a column, both from 1.
    pub(super) fn at(&self, line: usize, column: usize) -> At {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        At { source: Arc::clone(&self.0), line: number(line), column: number(column) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_tells_the_language() {
        for (path, text) in [("a.yaml", "ping: {}"), ("a.YML", "ping: {}"), ("a.toml", "[ping]")] {
            assert!(parse(path, text).unwrap().get("ping").is_some(), "{path}");
        }
        for path in ["a.json", "traefik", ""] {
            assert!(parse(path, "{}").unwrap_err().message.contains("ends in neither"), "{path}");
        }
    }

    #[test]
    fn an_endless_file_is_refused() {
        let text = " ".repeat(DOCUMENT_BYTES_MAX + 1);
        assert!(parse("a.yaml", &text).unwrap_err().message.contains("at most"));
    }

    #[test]
    fn a_byte_order_mark_is_no_key() {
        assert!(parse("a.yaml", "\u{feff}ping: {}").unwrap().get("ping").is_some());
        assert!(parse("a.toml", "\u{feff}ping = {}").unwrap().get("ping").is_some());
    }
}
