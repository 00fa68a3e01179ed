//! From a source to the typed install configuration, with every problem on the way.

use std::path::PathBuf;

use super::keys::{Status, UnknownSection, check, is_on, table};
use super::{Install, Source, entrypoints, environment, flags, observe, own, providers, references, resolvers};
use crate::config::document;
use crate::config::node::{Children, Entry, Fields, Node};
use crate::config::problem::{At, Problem, Problems, has_error};

/// Reads the install configuration from the one source that counts, with Traefik's defaults.
///
/// All problems are found at once, in the order of the text. Any error among them means that there is no configuration.
pub fn read(source: &Source) -> (Option<Install>, Problems) {
    let table = table();
    let (tree, mut problems) = match source {
        Source::File { path, text } => match read_file(path, text) {
            Ok(tree) => (tree, Vec::new()),
            Err(problem) => return (None, vec![problem]),
        },
        Source::Flags(args) => flags::parse(&table, args),
        Source::Environment(variables) => environment::parse(&table, variables),
        Source::Nothing => (Node::default(), Vec::new()),
    };
    let unknown = if matches!(source, Source::Flags(_)) { UnknownSection::Refused } else { UnknownSection::Ignored };
    problems.extend(check(&table, &tree, unknown));
    let install = decode(&tree, &mut problems);
    if let Source::File { path, .. } = source
        && !tree.entries().iter().any(|entry| table.find(&entry.key).is_some_and(|key| key.status != Status::Misplaced))
    {
        let message = "the file has no section of an install configuration, which Traefik refuses, too";
        problems.push(Problem::error(&At::whole(path.as_str()), message));
    }
    problems.sort_by_key(|problem| problem.at.as_ref().map(|at| (at.line, at.column)));
    ((!has_error(&problems)).then_some(install), problems)
}

fn read_file(path: &str, text: &str) -> Result<Node, Problem> {
    let tree = document::parse(path, text)?;
    if tree.is_empty() {
        return Err(Problem::error(&At::whole(path), "the file is empty, which Traefik refuses, too"));
    }
    if !matches!(tree.children, Children::Map(_)) {
        return Err(Problem::error(&tree.at, "the file must be a map of sections such as `entryPoints:`"));
    }
    Ok(tree)
}

/// Decodes a tree whose keys the table has checked.
fn decode(tree: &Node, problems: &mut Problems) -> Install {
    let mut root = Fields::new("", tree);
    let (access_log, log) = (observe::access_log(&mut root, problems), observe::log(&mut root, problems));
    let mut install = Install {
        entrypoints: entrypoints::read(&mut root, problems),
        providers: providers::read(&mut root, problems),
        access_log,
        log,
        prometheus: observe::prometheus(&mut root, problems),
        ping: observe::ping(&mut root, problems),
        api: observe::api(&mut root, problems),
        resolvers: resolvers::read(&mut root, problems),
        servers_transport: resolvers::servers_transport(&mut root, problems),
        own: own::read(&mut root, problems),
    };
    entrypoints::imply(&mut install, tree, problems);
    references::check(&mut install, tree, problems);
    install
}

/// A section that turns something on: its fields, unless it is missing or says anything but true (`ping: false`).
pub(super) fn switch<'n>(fields: &mut Fields<'n>, key: &'static str) -> Option<Fields<'n>> {
    let section = fields.child(key)?;
    section.node().scalar.as_deref().is_none_or(is_on).then_some(section)
}

/// The entries of a section whose keys are names that the user chooses, each with its fields.
pub(super) fn names<'n>(fields: &mut Fields<'n>, key: &'static str) -> Vec<(&'n Entry, Fields<'n>)> {
    let path = fields.path(key);
    let entries = fields.get(key).map(Node::entries).unwrap_or_default().iter();
    let entries = entries.filter(|entry| !entry.node.is_empty());
    entries.map(|entry| (entry, Fields::new(format!("{path}.{}", entry.key), &entry.node))).collect()
}

/// A text; an empty one is as good as none.
pub(super) fn text(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<String> {
    fields.string(key, problems).filter(|text| !text.is_empty())
}

/// A path; an empty one is as good as none.
pub(super) fn path(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<PathBuf> {
    text(fields, key, problems).map(PathBuf::from)
}

/// A list of paths.
pub(super) fn paths(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Vec<PathBuf> {
    fields.strings(key, problems).unwrap_or_default().into_iter().map(PathBuf::from).collect()
}

/// The name of an entrypoint; they are compared in lower case.
pub(super) fn entrypoint(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<String> {
    text(fields, key, problems).map(|name| name.to_lowercase())
}

/// One of a few words, compared without case; another one is a warning and counts as `otherwise`.
pub(super) fn word<T: Copy>(
    fields: &mut Fields<'_>,
    key: &'static str,
    words: &[(&str, T)],
    otherwise: (&str, T),
    problems: &mut Problems,
) -> Option<T> {
    let path = fields.path(key);
    let node = fields.get(key)?;
    let text = node.string(&path, problems)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)) {
        return Some(*value);
    }
    let known = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let message = format!("`{path}` is `{text}`, but wants one of {known}");
    problems.push(Problem::warning(&node.at, message).hint(format!("{} is used, as in Traefik", otherwise.0)));
    Some(otherwise.1)
}

/// Where the value at a path stands; the nearest one above it if there is none.
pub(super) fn place<'n>(tree: &'n Node, path: &[&str]) -> &'n At {
    let mut node = tree;
    for key in path {
        match node.get(key) {
            Some(child) => node = child,
            None => break,
        }
    }
    &node.at
}
