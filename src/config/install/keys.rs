//! The table of every key of the install configuration, and the check of a tree against it.
//!
//! The table is data (`keys.txt`, where its format is explained). Flags and the environment are read along it, and it says of
//! every written key whether it is known, honoured, or why not, so that whoever decodes has only honoured keys to look at.

use std::iter::Peekable;
use std::str::Lines;

use crate::config::node::{Children, Entry, Node, parse_bool};
use crate::config::problem::{At, Problem, Problems, nearest};

/// One key of the table, with what may stand below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As Traefik's documentation spells it; `*` for a name that the user chooses.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What Tidegate makes of it.
    pub status: Status,
    /// Why it is not honoured, or what to write instead; may be empty.
    pub reason: &'static str,
    /// The value that says what Tidegate does anyway, if there is one.
    pub usual: Option<&'static str>,
    /// The keys below it.
    pub children: Vec<Self>,
}

/// What a key's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys; without any it is a mistake.
    Section,
    /// Keys; alone it turns something on.
    Switch,
    /// A list whose items have keys.
    Items,
    /// A list of texts.
    List,
    /// One text, number or span of time.
    Text,
    /// True or false.
    Bool,
    /// Nobody looks inside.
    Any,
}

/// What Tidegate makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// What it asks for happens.
    Honoured,
    /// Traefik does it, Tidegate does not do it yet.
    NotYet,
    /// Tidegate will not do it.
    Never,
    /// Without effect, and nobody misses it.
    Ignored,
    /// Traefik 3 refuses it.
    Removed,
    /// Not a section of the install configuration, though people write it there.
    Misplaced,
}

/// What becomes of an unknown top-level key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSection {
    /// A warning: Traefik ignores it in files and in the environment.
    Ignored,
    /// An error: Traefik refuses it in flags.
    Refused,
}

/// More places than this that a key could belong to tell nobody anything.
const FURTHER_DOWN_MAX: usize = 3;

/// The whole table; the root's children are the top-level keys.
pub fn table() -> Key {
    let mut lines = include_str!("keys.txt").lines().peekable();
    let children = read_children(&mut lines, 0);
    Key { name: "", kind: Kind::Section, status: Status::Honoured, reason: "", usual: None, children }
}

/// Reads the keys that are indented by `depth` steps, each with what is below it.
fn read_children(lines: &mut Peekable<Lines<'static>>, depth: usize) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some(line) = lines.peek().copied() {
        let text = line.trim_start();
        if text.is_empty() || text.starts_with('#') {
            lines.next();
            continue;
        }
        if (line.len() - text.len()) / 2 != depth {
            break;
        }
        lines.next();
        let children = read_children(lines, depth + 1);
        keys.extend(read_key(text, children));
    }
    keys
}

/// Reads `KEY | KIND [| STATUS[, unless VALUE][: REASON]]`.
fn read_key(text: &'static str, children: Vec<Key>) -> Option<Key> {
    let mut columns = text.splitn(3, " | ");
    let name = columns.next()?;
    let kind = match columns.next()? {
        "section" => Kind::Section,
        "switch" => Kind::Switch,
        "items" => Kind::Items,
        "list" => Kind::List,
        "text" => Kind::Text,
        "bool" => Kind::Bool,
        "any" => Kind::Any,
        _ => return None,
    };
    let (status, reason) = columns.next().map_or(("", ""), |column| column.split_once(": ").unwrap_or((column, "")));
    let (status, usual) = match status.split_once(", unless ") {
        Some((status, usual)) => (status, Some(usual)),
        None => (status, (kind == Kind::Bool).then_some("false")),
    };
    let status = match status {
        "" => Status::Honoured,
        "not yet" => Status::NotYet,
        "never" => Status::Never,
        "ignored" => Status::Ignored,
        "removed" => Status::Removed,
        "misplaced" => Status::Misplaced,
        _ => return None,
    };
    Some(Key { name, kind, status, reason, usual, children })
}

impl Key {
    /// The key `name` below this one, compared without case; any name where the user chooses it.
    pub fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == "*" || child.name.eq_ignore_ascii_case(name))
    }

    /// The key at a dotted path below this one; list items are written `domains[0]`.
    pub fn at_path(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |key, step| key.find(step.split('[').next().unwrap_or(step)))
    }

    /// Whether the value is on or off, so that a flag without a value means true.
    pub fn is_bool(&self) -> bool {
        matches!(self.kind, Kind::Bool | Kind::Switch)
    }

    /// The names that someone could mean who wrote an unknown one.
    fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let meant = |child: &&Self| child.name != "*" && !matches!(child.status, Status::Removed | Status::Misplaced);
        self.children.iter().filter(meant).map(|child| child.name)
    }

    /// The paths from here to keys of that name further down, if there are only a few.
    fn further_down(&self, name: &str) -> Option<String> {
        let mut found = Vec::new();
        self.collect(name, "", &mut found);
        let is_telling = (1..=FURTHER_DOWN_MAX).contains(&found.len());
        is_telling.then(|| found.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(" or "))
    }

    fn collect(&self, name: &str, path: &str, found: &mut Vec<String>) {
        for child in &self.children {
            let path = dotted(path, if child.name == "*" { "NAME" } else { child.name });
            if child.name.eq_ignore_ascii_case(name) && matches!(child.status, Status::Honoured | Status::NotYet) {
                found.push(path.clone());
            }
            child.collect(name, &path, found);
        }
    }
}

/// Checks every key of a tree against the table; `root` is what [`table`] gave.
pub fn check(root: &Key, tree: &Node, unknown: UnknownSection) -> Problems {
    let mut check = Check { unknown_section: unknown, problems: Vec::new() };
    check.entries(root, "", tree, Warnings::Wanted);
    check.problems
}

/// Whether keys that are not honoured are warned of; below one that was, they are not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Warnings {
    Wanted,
    Given,
}

struct Check {
    unknown_section: UnknownSection,
    problems: Problems,
}

impl Check {
    fn entries(&mut self, key: &Key, path: &str, node: &Node, warnings: Warnings) {
        let entries = node.entries();
        for (index, entry) in entries.iter().enumerate() {
            let path = dotted(path, &entry.key);
            let Some(child) = key.find(&entry.key) else {
                self.unknown(key, &path, entry);
                continue;
            };
            if child.name != "*" && entries.iter().take(index).any(|before| before.key.eq_ignore_ascii_case(&entry.key)) {
                let message = format!("`{path}` is written twice; case makes no difference");
                self.problems.push(Problem::warning(&entry.key_at, message).hint("the first one counts"));
                continue;
            }
            self.entry(child, &path, entry, warnings);
        }
    }

    fn entry(&mut self, key: &Key, path: &str, entry: &Entry, mut warnings: Warnings) {
        let at = &entry.key_at;
        match key.status {
            Status::Removed => {
                let problem = Problem::error(at, format!("`{path}` is no longer a key of Traefik 3"));
                return self.problems.push(problem.hint(key.reason));
            }
            Status::Misplaced if self.unknown_section == UnknownSection::Refused => {
                let problem = Problem::error(at, format!("`{path}` is not a section of the install configuration"));
                return self.problems.push(problem.hint(key.reason));
            }
            Status::Misplaced => {
                let problem = Problem::warning(at, format!("`{path}` has no effect here, nor has it in Traefik"));
                return self.problems.push(problem.hint(key.reason));
            }
            Status::NotYet | Status::Never if entry.node.is_empty() || key.is_usual(&entry.node) => warnings = Warnings::Given,
            Status::NotYet | Status::Never if warnings == Warnings::Wanted => {
                self.problems.push(key.not_honoured(path, at));
                warnings = Warnings::Given;
            }
            Status::Ignored => warnings = Warnings::Given,
            Status::NotYet | Status::Never | Status::Honoured => {}
        }
        match key.kind {
            Kind::Section => self.section(key, path, entry, warnings),
            Kind::Switch => self.switch(key, path, entry, warnings),
            Kind::Items => self.items(key, path, &entry.node, warnings),
            Kind::List | Kind::Text | Kind::Bool | Kind::Any => {}
        }
    }

    fn section(&mut self, key: &Key, path: &str, entry: &Entry, warnings: Warnings) {
        // Without a value it is as if it were not written, as in Traefik.
        if entry.node.is_empty() {
            return;
        }
        if entry.node.entries().iter().all(|entry| entry.node.is_empty()) {
            let known = if key.find("*").is_some() { "a name that you choose".to_owned() } else { list(key.names()) };
            let message = format!("`{path}` cannot stand alone: it wants keys below it");
            self.problems.push(Problem::error(&entry.key_at, message).hint(format!("known here: {known}")));
        }
        self.entries(key, path, &entry.node, warnings);
    }

    fn switch(&mut self, key: &Key, path: &str, entry: &Entry, warnings: Warnings) {
        if entry.node.is_empty() && warnings == Warnings::Wanted {
            let message = format!("`{path}` has no value, so it is as if it were not written, as in Traefik");
            let problem = Problem::warning(&entry.key_at, message);
            self.problems.push(if key.name == "*" { problem } else { problem.hint("to turn it on, write `{}` after it") });
        }
        if let Some(text) = &entry.node.scalar
            && !is_on(text)
            && parse_bool(text).is_none()
        {
            let message = format!("`{path}` is `{text}`, which turns it off, as in Traefik");
            self.problems.push(Problem::warning(&entry.node.at, message).hint("write `true` or `false`, or keys below it"));
        }
        if matches!(&entry.node.children, Children::List(items) if !items.is_empty()) {
            let problem = Problem::error(&entry.node.at, format!("`{path}` wants keys, not a list"));
            self.problems.push(problem.hint(format!("known here: {}", list(key.names()))));
        }
        self.entries(key, path, &entry.node, warnings);
    }

    fn items(&mut self, key: &Key, path: &str, node: &Node, warnings: Warnings) {
        match &node.children {
            Children::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if item.scalar.is_some() {
                        let problem = Problem::error(&item.at, format!("`{path}` wants keys, not a text"));
                        self.problems.push(problem.hint(format!("known here: {}", list(key.names()))));
                    }
                    self.entries(key, &path, item, warnings);
                }
            }
            Children::None if node.scalar.is_none() => {}
            Children::Map(_) | Children::None => {
                self.problems.push(Problem::error(&node.at, format!("`{path}` wants a list")));
            }
        }
    }

    fn unknown(&mut self, parent: &Key, path: &str, entry: &Entry) {
        let is_section = !path.contains('.');
        let problem = if is_section && self.unknown_section == UnknownSection::Ignored {
            Problem::warning(&entry.key_at, format!("unknown section `{path}` is ignored, as in Traefik"))
        } else {
            Problem::error(&entry.key_at, format!("unknown key `{path}`"))
        };
        self.problems.push(match nearest(&entry.key, parent.names()) {
            Some(known) => problem.hint(format!("did you mean `{known}`?")),
            None => match parent.further_down(&entry.key) {
                Some(known) => problem.hint(format!("did you mean {known}?")),
                None => problem.hint(format!("known here: {}", list(parent.names()))),
            },
        });
    }
}

impl Key {
    /// Whether the value asks for what Tidegate does anyway.
    fn is_usual(&self, node: &Node) -> bool {
        let Some(text) = node.scalar.as_deref() else { return false };
        match (self.kind, self.usual) {
            (Kind::Switch, _) => !is_on(text),
            (Kind::Bool, Some(usual)) => parse_bool(usual) == parse_bool(text),
            (_, Some(usual)) => usual.eq_ignore_ascii_case(text),
            (_, None) => false,
        }
    }

    fn not_honoured(&self, path: &str, at: &At) -> Problem {
        let is = if self.status == Status::NotYet { "not honoured yet" } else { "not honoured" };
        let problem = Problem::warning(at, format!("`{path}` is {is}"));
        if self.reason.is_empty() { problem } else { problem.hint(self.reason) }
    }
}

/// Whether the scalar of a switch turns it on.
pub(super) fn is_on(text: &str) -> bool {
    text.is_empty() || parse_bool(text) == Some(true)
}

fn dotted(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let written = include_str!("keys.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        let mut stack = vec![table()];
        let mut read = 0;
        while let Some(key) = stack.pop() {
            read += key.children.len();
            for child in &key.children {
                let has_keys = matches!(child.kind, Kind::Section | Kind::Switch | Kind::Items);
                assert!(has_keys || child.children.is_empty(), "{} has children", child.name);
                assert!(child.kind != Kind::Section || !child.children.is_empty(), "{} has none", child.name);
            }
            stack.extend(key.children);
        }
        assert_eq!(read, written);
    }

    /// Compares the problems of a YAML text, each as `line: severity: message (hint)`.
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let problems = super::check(&table(), &yaml::parse("f", text).unwrap(), UnknownSection::Ignored);
        let seen: Vec<_> = problems.iter().map(|problem| format!("{:?} {problem}", problem.severity)).collect();
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn unknown_keys_get_the_nearest_known_one() {
        check("ping: {entrypoint: a}\nLOG: {FilePath: x}\n", &[]);
        check(
            "certifacesResolvers: {}\n",
            &[
                "Warning f:1:1: unknown section `certifacesResolvers` is ignored, as in Traefik (did you mean `certificatesResolvers`?)",
            ],
        );
        check(
            "entryPoints:\n  web:\n    adress: :80\n    trustedIPs: []\n    certResolver: x\n",
            &[
                "Error f:3:5: unknown key `entryPoints.web.adress` (did you mean `address`?)",
                "Error f:4:5: unknown key `entryPoints.web.trustedIPs` \
                 (did you mean `forwardedHeaders.trustedIPs` or `proxyProtocol.trustedIPs`?)",
                "Error f:5:5: unknown key `entryPoints.web.certResolver` (did you mean `http.tls.certResolver`?)",
            ],
        );
    }

    #[test]
    fn what_is_not_honoured_is_named_once() {
        check("tracing: {otlp: {grpc: {endpoint: x}}}\n", &["Warning f:1:1: `tracing` is not honoured yet"]);
        check(
            "providers: {docker: {endpoint: x, tls: {ca: y}}}\n",
            &["Warning f:1:13: `providers.docker` is not honoured (Tidegate serves Nomad and Consul)"],
        );
        check("entryPoints: {web: {reusePort: true}}\n", &["Warning f:1:21: `entryPoints.web.reusePort` is not honoured yet"]);
        check("entryPoints: {web: {reusePort: false, http: {encodedCharacters: {allowEncodedHash: true}}}}\n", &[]);
        check("tracing: false\nproviders: {docker: false}\n", &[]);
        check("global: {checkNewVersion: true}\nlog: {noColor: true, maxSize: 0}\ncore: {defaultRuleSyntax: V3}\n", &[]);
        check(
            "tracing: {nope: 1}\n",
            &[
                "Warning f:1:1: `tracing` is not honoured yet",
                "Error f:1:11: unknown key `tracing.nope` (known here: addInternals, capturedRequestHeaders, \
                 capturedResponseHeaders, globalAttributes, otlp, resourceAttributes, safeQueryParams, sampleRate, serviceName)",
            ],
        );
    }

    #[test]
    fn what_traefik_removed_or_never_read_says_where_it_went() {
        check(
            "pilot: {token: x}\n",
            &["Error f:1:1: `pilot` is no longer a key of Traefik 3 (Pilot is gone; remove the section)"],
        );
        check(
            "tls: {options: {}}\n",
            &["Warning f:1:1: `tls` has no effect here, nor has it in Traefik \
               (it is dynamic configuration; move it to a file and name that in `providers.file`)"],
        );
    }

    #[test]
    fn empty_sections_are_traefiks() {
        check("ping: {}\naccessLog: {}\nmetrics: {prometheus: {}}\nproviders: {consulCatalog: true}\nlog: ''\n", &[]);
        check(
            "providers: {}\n",
            &[
                "Error f:1:1: `providers` cannot stand alone: it wants keys below it (known here: consul, consulCatalog, docker, ecs, \
               etcd, file, http, knative, kubernetesCRD, kubernetesGateway, kubernetesIngress, kubernetesIngressNGINX, nomad, \
               plugin, precedence, providersThrottleDuration, redis, rest, swarm, zooKeeper)",
            ],
        );
        check(
            "accessLog: {fields: {}}\nentryPoints: {web: }\n",
            &[
                "Error f:1:13: `accessLog.fields` cannot stand alone: it wants keys below it (known here: defaultMode, headers, names, \
                 queryParameters)",
                "Error f:2:1: `entryPoints` cannot stand alone: it wants keys below it (known here: a name that you choose)",
                "Warning f:2:15: `entryPoints.web` has no value, so it is as if it were not written, as in Traefik",
            ],
        );
        check(
            "ping:\napi: maybe\nproviders:\n",
            &[
                "Warning f:1:1: `ping` has no value, so it is as if it were not written, as in Traefik (to turn it on, write `{}` after it)",
                "Warning f:2:6: `api` is `maybe`, which turns it off, as in Traefik (write `true` or `false`, or keys below it)",
            ],
        );
        check(
            "Ping: {}\nping: false\n",
            &["Warning f:2:1: `ping` is written twice; case makes no difference (the first one counts)"],
        );
        check(
            "entryPoints: {a: {http: {tls: {domains: [x]}}}, b: {http: {tls: {domains: {main: x}}}}}\n",
            &[
                "Error f:1:42: `entryPoints.a.http.tls.domains[0]` wants keys, not a text (known here: main, sans)",
                "Error f:1:75: `entryPoints.b.http.tls.domains` wants a list",
            ],
        );
    }
}
