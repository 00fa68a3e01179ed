//! Traefik's environment as a tree: `TRAEFIK_ENTRYPOINTS_WEB_ADDRESS=:80`.

use super::keys::{Key, Kind};
use super::tree::{Again, Branch, split_index};
use crate::config::document::DEPTH_MAX;
use crate::config::node::Node;
use crate::config::problem::{At, Problem, Problems, nearest};

const PREFIX: &str = "TRAEFIK_";

/// Reads the variables whose name starts with `TRAEFIK_`; the rest of a name is compared without case.
///
/// Underscores part the keys of a path. Where a chosen name holds one itself (`TRAEFIK_ENTRYPOINTS_MY_WEB_ADDRESS`), the table
/// tells: the shortest name that leaves a known path. Traefik gives up there. A variable whose first word is no section
/// is ignored with a warning, any other unknown path becomes a key that the table will refuse.
pub fn parse(table: &Key, variables: &[(String, String)]) -> (Node, Problems) {
    let mut root = Branch::default();
    let mut problems = Vec::new();
    for (name, value) in variables {
        let Some(words) = words(name) else { continue };
        let at = At::whole(format!("environment `{name}`"));
        let section = words.first().copied().unwrap_or_default();
        if table.find(split_index(section).0).is_none() {
            problems.push(unknown_section(table, name, section, &at));
            continue;
        }
        let steps = resolve(table, &words).unwrap_or_else(|| as_far_as_known(table, &words));
        root.insert(&steps, value, &at, Again::Replaces);
    }
    (root.into_node(), problems)
}

/// The first variable that configures anything.
pub fn first<'v>(table: &Key, variables: &'v [(String, String)]) -> Option<&'v str> {
    let configures = |name: &str| words(name).is_some_and(|words| words.first().is_some_and(|word| table.find(word).is_some()));
    variables.iter().map(|(name, _)| name.as_str()).find(|name| configures(name))
}

/// The words of a variable's name, if it is one of ours.
fn words(name: &str) -> Option<Vec<&str>> {
    // Bounded, since a path is walked by recursion.
    let words: Vec<_> = name.strip_prefix(PREFIX)?.split('_').take(DEPTH_MAX).collect();
    (!words.iter().all(|word| word.is_empty())).then_some(words)
}

/// The path that the words mean below `key`, if the table knows one.
fn resolve(key: &Key, words: &[&str]) -> Option<Vec<String>> {
    let Some((word, rest)) = words.split_first() else {
        // A section takes no value, so a longer chosen name may be meant.
        return (key.kind != Kind::Section).then(Vec::new);
    };
    if key.kind == Kind::Any {
        return Some(vec![words.join("_").to_ascii_lowercase()]);
    }
    if key.find("*").is_some() {
        return resolve_name(key, words);
    }
    let (name, index) = split_index(word);
    let child = key.find(name)?;
    let (index, rest) = match (index, rest.split_first()) {
        (Some(index), _) => (Some(index.to_owned()), rest),
        (None, Some((number, rest))) if child.kind == Kind::Items && number.parse::<u32>().is_ok() => {
            (Some(format!("[{number}]")), rest)
        }
        _ => (None, rest),
    };
    let mut steps = vec![child.name.to_owned()];
    steps.extend(index);
    steps.extend(resolve(child, rest)?);
    Some(steps)
}

/// The shortest chosen name that leaves a path the table knows.
fn resolve_name(key: &Key, words: &[&str]) -> Option<Vec<String>> {
    let named = key.find("*")?;
    (1..=words.len()).find_map(|length| {
        let (name, rest) = words.split_at_checked(length)?;
        // `ENTRYPOINTS_WEB_ADRESS` is a misspelt key rather than an entrypoint `web_adress` of which nothing is said.
        if rest.is_empty() && length > 1 && named.kind != Kind::Text {
            return None;
        }
        let below = resolve(named, rest)?;
        Some(std::iter::once(name.join("_").to_ascii_lowercase()).chain(below).collect())
    })
}

/// The path of single words as far as the table knows it, and the rest as one key, which it does not know.
fn as_far_as_known(table: &Key, words: &[&str]) -> Vec<String> {
    let mut key = table;
    let mut steps = Vec::new();
    for (index, word) in words.iter().enumerate() {
        match key.find(word) {
            Some(child) if child.kind != Kind::Text => {
                steps.push(if child.name == "*" { word.to_ascii_lowercase() } else { child.name.to_owned() });
                key = child;
            }
            _ => {
                steps.push(words.iter().skip(index).copied().collect::<Vec<_>>().join("_").to_ascii_lowercase());
                break;
            }
        }
    }
    steps
}

fn unknown_section(table: &Key, name: &str, section: &str, at: &At) -> Problem {
    let problem = Problem::warning(at, format!("`{name}` names no section, so it is ignored, as in Traefik"));
    match nearest(section, table.children.iter().map(|child| child.name)) {
        Some(known) => problem.hint(format!("did you mean `{PREFIX}{}`?", known.to_ascii_uppercase())),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::table;
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &[&str]) {
        let words = words(name).unwrap();
        let table = table();
        let steps = resolve(&table, &words).unwrap_or_else(|| as_far_as_known(&table, &words));
        assert_eq!(steps, expected, "{name}");
    }

    #[test]
    fn underscores_are_resolved_along_the_table() {
        check("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", &["entryPoints", "web", "address"]);
        check("TRAEFIK_ENTRYPOINTS_MY_WEB_ADDRESS", &["entryPoints", "my_web", "address"]);
        check("TRAEFIK_ENTRYPOINTS_HTTP_HTTP_TLS", &["entryPoints", "http", "http", "tls"]);
        check("TRAEFIK_ENTRYPOINTS_A_HTTP", &["entryPoints", "a", "http"]);
        check("TRAEFIK_ENTRYPOINTS_A", &["entryPoints", "a"]);
        check("TRAEFIK_ACCESSLOG_FIELDS_NAMES_A_B", &["accessLog", "fields", "names", "a_b"]);
        check("TRAEFIK_ENTRYPOINTS_WEB_ADRESS", &["entryPoints", "web", "adress"]);
        check("TRAEFIK_ENTRYPOINTS_A_HTTP_TLS_DOMAINS_0_MAIN", &["entryPoints", "a", "http", "tls", "domains", "[0]", "main"]);
        check("TRAEFIK_ENTRYPOINTS_A_HTTP_TLS_DOMAINS[1]_SANS", &["entryPoints", "a", "http", "tls", "domains", "[1]", "sans"]);
        check("TRAEFIK_ACCESSLOG_FIELDS_HEADERS_NAMES_USER-AGENT", &["accessLog", "fields", "headers", "names", "user-agent"]);
        check("TRAEFIK_Certificatesresolvers_le_Acme_HttpChallenge", &["certificatesResolvers", "le", "acme", "httpChallenge"]);
        check("TRAEFIK_PING_NOPE", &["ping", "nope"]);
        check("TRAEFIK_ENTRYPOINTS_WEB_TRANSPORT_NO_PE", &["entryPoints", "web", "transport", "no_pe"]);
        check("TRAEFIK_LOG_LEVEL_X", &["log", "level_x"]);
    }

    #[test]
    fn foreign_variables_are_left_alone() {
        let variables = [("TRAEFIK_ENTRYPOINT_A", "x"), ("PATH", "/bin"), ("TRAEFIK_", "x"), ("TRAEFIK_VERSION", "3")];
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (root, problems) = parse(&table(), &variables);
        assert!(root.is_empty());
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "environment `TRAEFIK_ENTRYPOINT_A`: `TRAEFIK_ENTRYPOINT_A` names no section, so it is ignored, as in Traefik \
                 (did you mean `TRAEFIK_ENTRYPOINTS`?)",
                "environment `TRAEFIK_VERSION`: `TRAEFIK_VERSION` names no section, so it is ignored, as in Traefik",
            ]
        );
        assert_eq!(first(&table(), &variables), None);
    }
}
