//! Tags become the tree that every source becomes, by exactly Traefik's rules.
//!
//! A tag is ours when it starts with the prefix (with case, and without asking for a dot); it is split at the first `=` and
//! nothing is trimmed. The last of equal keys counts, keys are compared without case at every level, and what is written as
//! `[0]` becomes a list in the order of the text. What Traefik ignores is ignored here too, but a likely typo gets a sentence.

use std::collections::BTreeMap;

use crate::config::node::{Children, Entry, Node, parse_bool};
use crate::config::problem::{At, Problem, Problems, nearest};

/// What one list of tags says.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Labels {
    /// `http`, `tcp`, `udp` and `tls.stores.default`, for [`super::decode::labels`].
    pub tree: Node,
    /// `enable`: whether the instance is served; `None` leaves it to `exposedByDefault`.
    pub enable: Option<bool>,
    /// `consulcatalog.canary`.
    pub is_canary: bool,
    /// `consulcatalog.connect`: wants to be spoken to through Consul Connect.
    pub is_connect: bool,
    /// Every label with its key in Traefik's neutral form (`traefik.…`), for the default rule's template.
    pub values: BTreeMap<String, String>,
    /// What could not be used. Places are ``tag `…` ``; whoever knows the instance adds it.
    pub problems: Problems,
    /// Whether Traefik would drop the whole instance for one of these mistakes.
    pub is_malformed: bool,
}

/// First words after the prefix that mean something to us or that Traefik knows and other providers use.
const SECTIONS: [&str; 6] = ["http", "tcp", "udp", "tls", "enable", "consulcatalog"];

/// First words of Traefik 1, which later versions ignore.
const SECTIONS_OF_V1: [&str; 6] = ["frontend", "frontends", "backend", "port", "protocol", "weight"];

/// Reads the tags that start with `prefix`.
pub fn parse(tags: &[String], prefix: &str) -> Labels {
    let mut labels = Labels { tree: Node { is_text: true, ..Node::default() }, ..Labels::default() };
    let mut written: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for tag in tags {
        let Some((key, value)) = split(tag, prefix, &mut labels.problems) else { continue };
        if let Some((_, before)) = written.insert(key, (tag, value))
            && before != value
        {
            let problem = Problem::warning(&place(tag), format!("`{key}` is written twice, the last one counts"));
            labels.problems.push(problem);
        }
    }
    let mut root = Branch::default();
    // In the order of the keys, as Traefik does: it decides which spelling of a name is kept and which item comes first.
    for (key, (tag, value)) in written {
        labels.values.insert(format!("traefik.{key}"), value.to_owned());
        labels.take(&mut root, key, tag, value);
    }
    labels.tree = root.into_node();
    labels
}

/// The key without its prefix and the value, if the tag is ours.
fn split<'t>(tag: &'t str, prefix: &str, problems: &mut Problems) -> Option<(&'t str, &'t str)> {
    let Some(rest) = tag.strip_prefix(prefix) else {
        problems.extend(misspelt_prefix(tag, prefix));
        return None;
    };
    let Some((key, value)) = tag.split_once('=') else {
        if rest.starts_with('.') {
            let problem = Problem::warning(&place(tag), "it has no `=` and is ignored");
            problems.push(problem.hint("a tag is `key=value`"));
        }
        return None;
    };
    // Without a dot behind the prefix nothing is cut off, as in Traefik.
    Some((key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(key), value))
}

/// A word to whoever wrote `treafik.`, `Traefik.` or a space before it.
fn misspelt_prefix(tag: &str, prefix: &str) -> Option<Problem> {
    let (first, rest) = tag.split_once('.')?;
    let section = rest.split(['.', '=']).next().unwrap_or_default();
    let is_ours = rest.contains('=') && SECTIONS.contains(&section) && nearest(first.trim(), [prefix]).is_some();
    is_ours.then(|| {
        Problem::warning(&place(tag), format!("it does not start with `{prefix}.` and is ignored"))
            .hint(format!("did you mean `{prefix}.{rest}`? case and spaces count"))
    })
}

impl Labels {
    /// Gives one label to whatever it is for.
    fn take<'t>(&mut self, root: &mut Branch<'t>, key: &'t str, tag: &'t str, value: &'t str) {
        let (first, rest) = key.split_once('.').unwrap_or((key, ""));
        let lower = first.to_ascii_lowercase();
        match lower.as_str() {
            "http" | "tcp" | "udp" => self.grow(root, key, tag, value),
            "tls" if starts_with_ignore_case(rest, "stores.default") => self.grow(root, key, tag, value),
            "tls" => self.warn(tag, "is ignored: of `tls` only `tls.stores.default` can be said in a tag", None),
            "enable" if rest.is_empty() => match self.bool(tag, key, value) {
                Some(enable) => self.enable = Some(enable),
                // Nobody knows what was meant: not exposing is the safe reading, and Traefik's.
                None => self.enable = Some(false),
            },
            "consulcatalog" => match rest.to_ascii_lowercase().as_str() {
                "canary" => self.is_canary = self.bool(tag, key, value).unwrap_or(false),
                "connect" => self.is_connect = self.bool(tag, key, value).unwrap_or(false),
                _ => self.refuse(tag, key, nearest(rest, ["canary", "connect"])),
            },
            // Traefik compares beginnings, so that `httpx` is a wrong key and not a foreign one.
            wrong if ["http", "tcp", "udp"].iter().any(|known| wrong.starts_with(known)) => {
                self.refuse(tag, key, nearest(first, SECTIONS));
            }
            old if SECTIONS_OF_V1.contains(&old) => {
                self.warn(tag, "is of Traefik 1 and ignored", Some("`http.routers.NAME.rule=…` takes its place".to_owned()));
            }
            _ => {
                if let Some(known) = nearest(first, SECTIONS) {
                    self.warn(tag, "is ignored", Some(format!("did you mean `{known}`?")));
                }
            }
        }
    }

    fn grow<'t>(&mut self, root: &mut Branch<'t>, key: &'t str, tag: &'t str, value: &'t str) {
        let at = place(tag);
        match steps(key) {
            Ok(path) => root.insert(&path, value, &at),
            Err(message) => {
                self.problems.push(Problem::error(&at, message));
                self.is_malformed = true;
            }
        }
    }

    fn bool(&mut self, tag: &str, key: &str, value: &str) -> Option<bool> {
        let parsed = parse_bool(value);
        if parsed.is_none() {
            let message = format!("`{key}` is `{value}`, but wants `true` or `false`");
            self.problems.push(Problem::error(&place(tag), message));
            self.is_malformed = true;
        }
        parsed
    }

    fn refuse(&mut self, tag: &str, key: &str, near: Option<&str>) {
        let mut problem = Problem::error(&place(tag), format!("unknown key `{key}`"));
        problem.hint = near.map(|near| format!("did you mean `{near}`?"));
        self.problems.push(problem);
        self.is_malformed = true;
    }

    fn warn(&mut self, tag: &str, message: &str, hint: Option<String>) {
        let mut problem = Problem::warning(&place(tag), message);
        problem.hint = hint;
        self.problems.push(problem);
    }
}

/// `domains[0]` is two steps, `domains` and `[0]`.
fn steps(key: &str) -> Result<Vec<&str>, String> {
    let mut path = Vec::with_capacity(8);
    for step in key.split('.') {
        if step.is_empty() {
            return Err(format!("`{key}` has an empty name between two dots"));
        }
        match step.find('[') {
            Some(0) => return Err(format!("`{key}` has `{step}` without a name before it")),
            Some(bracket) if step.ends_with(']') => {
                let (name, index) = step.split_at(bracket);
                path.extend([name, index]);
            }
            None if step.ends_with(']') => return Err(format!("`{key}` has `]` without `[`")),
            Some(_) | None => path.push(step),
        }
    }
    Ok(path)
}

fn starts_with_ignore_case(text: &str, beginning: &str) -> bool {
    text.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}

/// The tag as messages show it: whole, but without what may be a secret.
fn place(tag: &str) -> At {
    let secret = [".users", ".password", "headers."];
    match tag.split_once('=') {
        Some((key, _)) if secret.iter().any(|word| key.to_ascii_lowercase().contains(word)) => {
            At::whole(format!("tag `{key}=…`"))
        }
        _ => At::whole(format!("tag `{tag}`")),
    }
}

/// A tree under construction.
#[derive(Default)]
struct Branch<'t> {
    name: &'t str,
    at: At,
    value: Option<&'t str>,
    branches: Vec<Self>,
}

impl<'t> Branch<'t> {
    fn insert(&mut self, path: &[&'t str], value: &'t str, at: &At) {
        let Some((first, rest)) = path.split_first() else {
            self.value = Some(value);
            self.at = at.clone();
            return;
        };
        // Keys arrive sorted, so that the wanted branch is nearly always the last.
        match self.branches.iter_mut().rev().find(|branch| branch.name.eq_ignore_ascii_case(first)) {
            Some(branch) => branch.insert(rest, value, at),
            None => {
                let mut branch = Self { name: first, at: at.clone(), ..Self::default() };
                branch.insert(rest, value, at);
                self.branches.push(branch);
            }
        }
    }

    fn into_node(self) -> Node {
        let is_list = self.branches.iter().all(|branch| branch.name.starts_with('['));
        let children = match self.branches {
            branches if branches.is_empty() => Children::None,
            branches if is_list => Children::List(branches.into_iter().map(Self::into_node).collect()),
            branches => Children::Map(branches.into_iter().map(Self::into_entry).collect()),
        };
        Node { at: self.at, scalar: self.value.map(str::to_owned), children, is_text: true }
    }

    fn into_entry(self) -> Entry {
        Entry { key: self.name.to_owned(), key_at: self.at.clone(), node: self.into_node() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tags: &[&str]) -> Labels {
        let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
        parse(&tags, "traefik")
    }

    /// The tree as `key=value` lines.
    fn lines(node: &Node, path: &str, out: &mut Vec<String>) {
        if let Some(scalar) = &node.scalar {
            out.push(format!("{path}={scalar}"));
        }
        match &node.children {
            Children::None => {}
            Children::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    lines(item, &format!("{path}#{index}"), out);
                }
            }
            Children::Map(entries) => {
                for entry in entries {
                    lines(&entry.node, &format!("{path}/{}", entry.key), out);
                }
            }
        }
    }

    #[track_caller]
    fn check(tags: &[&str], tree: &[&str], problems: &[&str]) {
        let labels = read(tags);
        let mut found = Vec::new();
        lines(&labels.tree, "", &mut found);
        assert_eq!(found, tree);
        assert_eq!(labels.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), problems);
    }

    #[test]
    fn keys_are_compared_without_case_and_the_first_spelling_names_the_router() {
        check(
            &["traefik.http.Routers.R1.Rule=a", "traefik.http.routers.r1.ENTRYPOINTS=web"],
            &["/http/Routers/R1/Rule=a", "/http/Routers/R1/ENTRYPOINTS=web"],
            &[],
        );
    }

    #[test]
    fn splits_at_the_first_equals_sign_and_trims_nothing() {
        check(&["traefik.http.routers.r.rule=  a=b "], &["/http/routers/r/rule=  a=b "], &[]);
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        check(
            &["traefik.http.routers.r.rule=a", "traefik.http.routers.r.rule=b"],
            &["/http/routers/r/rule=b"],
            &["tag `traefik.http.routers.r.rule=b`: `http.routers.r.rule` is written twice, the last one counts"],
        );
    }

    #[test]
    fn list_items_are_ordered_as_text() {
        check(
            &["traefik.http.x.domains[10].main=ten", "traefik.http.x.domains[2].main=two"],
            &["/http/x/domains#0/main=ten", "/http/x/domains#1/main=two"],
            &[],
        );
    }

    #[test]
    fn a_value_and_children_may_stand_together() {
        let tags = ["traefik.http.middlewares.c.compress=true", "traefik.http.middlewares.c.compress.encodings=gzip"];
        check(&tags, &["/http/middlewares/c/compress=true", "/http/middlewares/c/compress/encodings=gzip"], &[]);
    }

    #[test]
    fn a_dead_tag_gets_a_sentence() {
        let ignored = |tag: &str, problem: &str| check(&[tag], &[], &[&format!("tag `{tag}`: {problem}")]);
        ignored("traefik.enable", "it has no `=` and is ignored (a tag is `key=value`)");
        ignored(
            " traefik.enable=true",
            "it does not start with `traefik.` and is ignored (did you mean `traefik.enable=true`? case and spaces count)",
        );
        ignored(
            "Traefik.enable=true",
            "it does not start with `traefik.` and is ignored (did you mean `traefik.enable=true`? case and spaces count)",
        );
        ignored("traefik.htpp.routers.r.rule=a", "is ignored (did you mean `http`?)");
        ignored("traefik.enabled=true", "is ignored (did you mean `enable`?)");
        ignored("traefik.frontend.rule=a", "is of Traefik 1 and ignored (`http.routers.NAME.rule=…` takes its place)");
    }

    #[test]
    fn what_is_not_ours_is_ignored_without_a_word() {
        check(&["traefik.foo.bar=1", "traefik", "urlprefix-/a", "v1.2=3", "traefikx.http.routers.r.rule=a"], &[], &[]);
    }

    #[test]
    fn a_prefix_needs_no_dot() {
        let tags = ["lb.http.routers.r.rule=a".to_owned(), "lbx=1".to_owned()];
        let labels = parse(&tags, "lb");
        assert_eq!(labels.values.keys().collect::<Vec<_>>(), ["traefik.http.routers.r.rule", "traefik.lbx"]);
    }

    #[test]
    fn enable_wants_a_truth_value() {
        assert_eq!(read(&["traefik.enable=1"]).enable, Some(true));
        assert_eq!(read(&["traefik.ENABLE=F"]).enable, Some(false));
        let labels = read(&["traefik.enable=yes"]);
        assert_eq!((labels.enable, labels.is_malformed), (Some(false), true));
    }

    #[test]
    fn a_broken_key_is_named() {
        check(
            &["traefik.http..r=a", "traefik.httpx.r=a", "traefik.http.[0].r=a"],
            &[],
            &[
                "tag `traefik.http..r=a`: `http..r` has an empty name between two dots",
                "tag `traefik.http.[0].r=a`: `http.[0].r` has `[0]` without a name before it",
                "tag `traefik.httpx.r=a`: unknown key `httpx.r` (did you mean `http`?)",
            ],
        );
        assert!(read(&["traefik.httpx.r=a"]).is_malformed);
    }

    #[test]
    fn a_problem_never_shows_a_secret() {
        let labels =
            read(&["traefik.http.middlewares.a.basicauth.users=x:secret", "traefik.http.middlewares.a.basicauth.users=y:z"]);
        assert!(!labels.problems.iter().any(|problem| problem.to_string().contains("y:z")), "{:?}", labels.problems);
        assert_eq!(labels.problems.len(), 1);
    }
}
