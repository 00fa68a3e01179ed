//! Rules of routers: text becomes a [`Tree`], a tree becomes a compiled matcher that allocates nothing per request.
//!
//! The language is Traefik v3's: matchers with quoted arguments, `&&`, `||`, `!` and parentheses, with the precedence that Go
//! gives to these operators. [`parse`] knows the grammar, the matchers' names and how many arguments each takes; [`http`] and
//! [`tcp`] know what they mean. Every mistake is an [`InvalidRule`] that says where, what was expected and how it is written.

#![warn(clippy::indexing_slicing, clippy::string_slice)]

mod doubt;
mod formula;
mod grammar;
mod host;
pub mod http;
mod path;
pub mod pattern;
mod query;
mod spelling;
pub mod tcp;

use std::fmt;

pub(crate) use host::{HostPattern, below, without_dot};

pub use formula::Formula;
pub use grammar::{Known, RULE_BYTES_MAX, parse_expression};

/// Every matcher of HTTP and TCP rules.
const MATCHERS: &[Known] = &[
    Known::new("Host", 1, 1, "Host(`example.com`)"),
    Known::new("HostRegexp", 1, 1, "HostRegexp(`^.+\\.example\\.com$`)"),
    Known::new("Path", 1, 1, "Path(`/page`)"),
    Known::new("PathPrefix", 1, 1, "PathPrefix(`/api`)"),
    Known::new("PathRegexp", 1, 1, "PathRegexp(`\\.png$`)"),
    Known::new("Method", 1, 1, "Method(`GET`)"),
    Known::new("Header", 2, 2, "Header(`X-Key`, `value`)"),
    Known::new("HeaderRegexp", 2, 2, "HeaderRegexp(`X-Key`, `^v`)"),
    Known::new("Query", 1, 2, "Query(`key`, `value`)"),
    Known::new("QueryRegexp", 1, 2, "QueryRegexp(`key`, `^v`)"),
    Known::new("ClientIP", 1, 1, "ClientIP(`10.0.0.0/8`)"),
    Known::new("HostSNI", 1, 1, "HostSNI(`example.com`)"),
    Known::new("HostSNIRegexp", 1, 1, "HostSNIRegexp(`^.+\\.example\\.com$`)"),
    Known::new("ALPN", 1, 1, "ALPN(`h2`)"),
];

/// Reads the rule of an HTTP or TCP router.
pub fn parse(text: &str) -> Result<Tree, InvalidRule> {
    parse_expression(text, MATCHERS)
}

/// A rule that was read but not yet compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The length of its text in bytes.
    length: usize,
    /// The outermost expression.
    pub root: Node,
}

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A matcher.
    Call(Call),
    /// `!x`.
    Not(Box<Self>),
    /// `x && y && …`, at least two.
    All(Vec<Self>),
    /// `x || y || …`, at least two.
    Any(Vec<Self>),
}

/// A matcher with its arguments, as many as it takes and none of them empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The matcher's name in its canonical spelling.
    pub name: &'static str,
    /// Its arguments without their quotes.
    pub args: Vec<Argument>,
    /// Where its name begins, in bytes.
    pub at: usize,
}

/// One argument of a matcher.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Its text without quotes.
    pub text: String,
    /// Where its quote opens, in bytes.
    pub at: usize,
}

impl Call {
    /// Its first argument.
    fn first(&self) -> Argument {
        // The grammar lets no matcher through without one.
        self.args.first().cloned().unwrap_or(Argument { text: String::new(), at: self.at })
    }
}

impl Tree {
    /// The names a certificate is wanted for: those of `Host(…)` and `HostSNI(…)` in lower case, each once, in the order written.
    ///
    /// As in Traefik a negated `!Host(…)` counts too. `*` names nothing.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        self.each_call(&mut |call| {
            if matches!(call.name, "Host" | "HostSNI") {
                let written = call.first().text.to_ascii_lowercase();
                let host = written.strip_suffix('.').unwrap_or(&written).to_owned();
                if host != "*" && !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        });
        hosts
    }

    /// The priority of a router that sets none: the rule's length in bytes; -1 for `` HostSNI(`*`) ``, which so comes last.
    pub fn default_priority(&self) -> i64 {
        let mut innermost = &self.root;
        while let Node::Not(inner) = innermost {
            innermost = inner;
        }
        match innermost {
            Node::Call(call) if call.name == "HostSNI" && call.first().text == "*" => -1,
            Node::Call(_) | Node::Not(_) | Node::All(_) | Node::Any(_) => i64::try_from(self.length).unwrap_or(i64::MAX),
        }
    }

    /// What is valid but can hardly be meant, in sentences for a warning: the spelling of older versions that matches nothing,
    /// a host with a port.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        self.each_call(&mut |call| doubts.extend(doubt::about(call)));
        doubts
    }

    fn each_call(&self, visit: &mut impl FnMut(&Call)) {
        let mut waiting = vec![&self.root];
        while let Some(node) = waiting.pop() {
            match node {
                Node::Call(call) => visit(call),
                Node::Not(inner) => waiting.push(inner),
                Node::All(nodes) | Node::Any(nodes) => waiting.extend(nodes.iter().rev()),
            }
        }
    }
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRule {
    /// Where in the rule, in bytes from 0.
    pub at: usize,
    /// What is wrong and what was expected.
    pub message: String,
    /// How it is written, where we know.
    pub hint: Option<String>,
}

impl InvalidRule {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for InvalidRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} of the rule", self.message, self.at)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for InvalidRule {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &str, hosts: &[&str], priority: i64) {
        let tree = parse(rule).unwrap();
        assert_eq!(tree.hosts(), hosts, "{rule}");
        assert_eq!(tree.default_priority(), priority, "{rule}");
    }

    #[test]
    fn certificates_are_wanted_for_every_host_of_a_rule() {
        check("Host(`a.test`) || Host(`B.test.`) || host(`a.test`)", &["a.test", "b.test"], 51);
        check("PathPrefix(`/`) && !Host(`c.test`)", &["c.test"], 34);
        check("HostRegexp(`x`) || Host(`*`)", &[], 28);
        check("HostSNI(`a.test`)", &["a.test"], 17);
    }

    #[test]
    fn only_the_bare_catch_all_of_tcp_comes_last() {
        check("HostSNI(`*`)", &[], -1);
        check("(hostsni(`*`))", &[], -1);
        check("!HostSNI(`*`)", &[], -1);
        check("HostSNI(`*`) && ALPN(`h2`)", &[], 26);
        check("Host(`*`)", &[], 9);
    }

    #[test]
    fn cljdocs_rules_have_the_priorities_that_traefik_shows() {
        check("(PathPrefix(`/`) && !PathPrefix(`/.well-known/acme-challenge`))", &[], 63);
        check("PathPrefix(`/`)", &[], 15);
        check("Path(`/é`)", &[], 11);
    }
}
