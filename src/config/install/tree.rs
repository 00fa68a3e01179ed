//! A tree grown from single values with paths: what flags and the environment become.

use crate::config::node::{Children, Entry, Node};
use crate::config::problem::At;

/// What becomes of a value that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The new one takes its place.
    Replaces,
    /// The new one is appended after a comma, as Traefik does for lists.
    Appends,
}

/// A tree that is still growing. Keys are compared without case; the keys `[0]`, `[1]` … are items of a list.
#[derive(Debug, Default)]
pub(super) struct Branch {
    at: At,
    scalar: Option<String>,
    children: Vec<(String, Self)>,
}

impl Branch {
    /// Puts `value` at `steps` below this branch.
    pub(super) fn insert(&mut self, steps: &[String], value: &str, at: &At, again: Again) {
        let Some((step, rest)) = steps.split_first() else {
            self.at = at.clone();
            self.scalar = Some(match self.scalar.take() {
                Some(before) if again == Again::Appends => format!("{before},{value}"),
                _ => value.to_owned(),
            });
            return;
        };
        if let Some((_, child)) = self.children.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(step)) {
            return child.insert(rest, value, at, again);
        }
        let mut child = Self { at: at.clone(), ..Self::default() };
        child.insert(rest, value, at, again);
        self.children.push((step.clone(), child));
    }

    /// The finished tree. Lists are in the order of their numbers; gaps close, as in Traefik.
    pub(super) fn into_node(self) -> Node {
        let mut entries = Vec::with_capacity(self.children.len());
        let mut items = Vec::new();
        for (key, child) in self.children {
            let (index, key_at) = (index_of(&key), child.at.clone());
            match index {
                Some(index) => items.push((index, child.into_node())),
                None => entries.push(Entry { key, key_at, node: child.into_node() }),
            }
        }
        items.sort_by_key(|(index, _)| *index);
        let children = match (entries.is_empty(), items.is_empty()) {
            (true, true) => Children::None,
            (true, false) => Children::List(items.into_iter().map(|(_, item)| item).collect()),
            // Numbers beside names belong to no list.
            (false, _) => Children::Map(entries),
        };
        Node { at: self.at, scalar: self.scalar, children, is_text: true }
    }
}

/// The number in `[0]`.
fn index_of(step: &str) -> Option<u32> {
    step.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Takes `domains[0]` apart into `domains` and `[0]`.
pub(super) fn split_index(step: &str) -> (&str, Option<&str>) {
    match step.find('[') {
        Some(at) => (step.get(..at).unwrap_or(step), step.get(at..)),
        None => (step, None),
    }
}
