//! The shapes in which Traefik's keys come: blocks, switches, lists, maps of texts; and keys that wait for their turn.

use std::collections::BTreeMap;

use crate::config::node::{Children, Fields};
use crate::config::problem::{At, Problem, Problems};

/// A key that wants keys below it; standing alone it is an error, as in Traefik. Null is the same as not there.
pub(super) fn block<'n>(fields: &mut Fields<'n>, key: &'static str, problems: &mut Problems) -> Option<Fields<'n>> {
    let path = fields.path(key);
    let child = fields.child(key)?;
    let node = child.node();
    match &node.children {
        Children::Map(_) => Some(child),
        Children::None if node.scalar.is_none() => None,
        Children::None | Children::List(_) => {
            problems.push(Problem::error(&node.at, format!("`{path}` wants keys below it and cannot stand alone")));
            None
        }
    }
}

/// A key that is switched on by standing there or by `true`, with or without keys below it; any other value switches it off
/// with all that stands below it.
pub(super) fn switch<'n>(fields: &mut Fields<'n>, key: &'static str) -> Option<Fields<'n>> {
    let child = fields.child(key)?;
    let node = child.node();
    let is_off = node.scalar.as_ref().is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case("true"));
    (!is_off && !node.is_empty()).then_some(child)
}

/// A key that wants a list of things with keys below them.
pub(super) fn items<'n>(fields: &mut Fields<'n>, key: &'static str, problems: &mut Problems) -> Vec<Fields<'n>> {
    let path = fields.path(key);
    match fields.get(key) {
        Some(node) if !node.is_empty() && !matches!(node.children, Children::List(_)) => {
            let how = if node.is_text { format!("write `{path}[0].…`") } else { "write `- …` lines".to_owned() };
            problems.push(Problem::error(&node.at, format!("`{path}` wants a list")).hint(how));
            Vec::new()
        }
        Some(_) | None => fields.items(key),
    }
}

/// Where a key's value was written; where the block was, if the key is not there.
pub(super) fn place_of<'n>(fields: &Fields<'n>, key: &str) -> &'n At {
    let node = fields.node();
    &node.get(key).unwrap_or(node).at
}

/// A key whose value maps names to texts, such as headers.
pub(super) fn texts(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let Some(block) = block(fields, key, problems) else { return texts };
    for entry in block.node().entries() {
        if let Some(text) = entry.node.string(&block.path(&entry.key), problems) {
            texts.insert(entry.key.clone(), text);
        }
    }
    texts
}

/// Keys that Traefik knows and we do not yet, and whose absence only makes things less fine: each is ignored by name.
pub(super) fn ignore(fields: &mut Fields<'_>, keys: &[&'static str], problems: &mut Problems) {
    for key in keys {
        let path = fields.path(key);
        if let Some(node) = fields.get(key).filter(|node| !node.is_empty()) {
            problems.push(Problem::warning(&node.at, format!("`{path}` is not supported yet and is ignored")));
        }
    }
}

/// The first of the keys that asks for something, if one does. For what must not be ignored, since it protects somebody.
pub(super) fn asked(fields: &mut Fields<'_>, keys: &[&'static str]) -> Option<String> {
    let mut found = None;
    for key in keys {
        let path = fields.path(key);
        let is_asked = fields.get(key).is_some_and(|node| match (&node.children, node.scalar.as_deref()) {
            (Children::None, None | Some("" | "false" | "False" | "FALSE" | "f" | "F" | "0")) => false,
            (Children::None, Some(_)) => true,
            (Children::List(items), _) => !items.is_empty(),
            (Children::Map(entries), _) => !entries.is_empty(),
        });
        if is_asked && found.is_none() {
            found = Some(path);
        }
    }
    found
}
