//! Which route a request takes: the one of highest priority whose rule holds; among equals the first by name.
//!
//! Finding one does not slow down with the number of `Host` routers. A rule that cannot hold without one of certain hosts is
//! looked at only for those: exact hosts and `*.domain` have a hash table each, what is left (`PathPrefix` alone, `HostRegexp`)
//! is one list. All three hold places in one order, so the next route to ask is the smallest of three heads. Traefik leaves
//! the order of equal priorities open; ours is always the same.
//!
//! The tables hash with the standard library's SipHash: the keys come from configuration, so no client can make them collide,
//! but it is a few per mille of a request's cost, less than a dependency is worth.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::names::Name;
use crate::rule::http::{Matcher, RequestFacts};
use crate::rule::{HostPattern, below, without_dot};

/// The routes of one entrypoint, plain or TLS. Immutable.
#[derive(Debug)]
pub struct RouteTable<T> {
    /// In the order of asking.
    routes: Box<[Entry<T>]>,
    exact: HashMap<Box<str>, Places>,
    below: HashMap<Box<str>, Places>,
    rest: Vec<usize>,
}

/// One route: whose request, how soon asked, and where it leads.
#[derive(Debug)]
pub struct Entry<T> {
    /// Its compiled rule.
    pub matcher: Matcher,
    /// The higher is asked first.
    pub priority: i64,
    /// Breaks ties.
    pub name: Name,
    /// Where it leads.
    pub value: T,
}

/// Places in [`RouteTable::routes`], ascending. Most hosts have one route, which then costs no further memory access.
#[derive(Debug)]
enum Places {
    One(usize),
    Many(Vec<usize>),
}

impl Places {
    fn push(&mut self, place: usize) {
        match self {
            Self::One(first) if *first == place => {}
            Self::One(first) => *self = Self::Many(vec![*first, place]),
            Self::Many(places) if places.last() == Some(&place) => {}
            Self::Many(places) => places.push(place),
        }
    }

    fn as_slice(&self) -> &[usize] {
        match self {
            Self::One(place) => std::slice::from_ref(place),
            Self::Many(places) => places,
        }
    }
}

impl<T> RouteTable<T> {
    /// Orders and indexes routes.
    pub fn build(mut routes: Vec<Entry<T>>) -> Self {
        routes.sort_by(|a, b| Reverse(a.priority).cmp(&Reverse(b.priority)).then_with(|| a.name.cmp(&b.name)));
        let mut table = Self { routes: Box::new([]), exact: HashMap::new(), below: HashMap::new(), rest: Vec::new() };
        for (place, route) in routes.iter().enumerate() {
            let Some(hosts) = route.matcher.hosts() else {
                table.rest.push(place);
                continue;
            };
            for host in hosts {
                let (index, key) = match host {
                    HostPattern::Exactly(host) => (&mut table.exact, host),
                    HostPattern::Below(domain) => (&mut table.below, domain),
                    HostPattern::Every => {
                        table.rest.push(place);
                        continue;
                    }
                };
                index.entry(key).and_modify(|places| places.push(place)).or_insert(Places::One(place));
            }
        }
        table.routes = routes.into();
        table
    }

    /// Where the request goes; `None` is a 404. Allocates nothing.
    pub fn find(&self, request: &RequestFacts<'_>) -> Option<&T> {
        self.find_entry(request).map(|route| &route.value)
    }

    /// The route a request takes.
    pub fn find_entry(&self, request: &RequestFacts<'_>) -> Option<&Entry<T>> {
        let host = without_dot(request.host);
        let exact = places(&self.exact, host);
        let below = places(&self.below, below(host));
        let candidates = Merge([exact, below, &self.rest]);
        candidates.filter_map(|place| self.routes.get(place)).find(|route| route.matcher.matches(request))
    }

    /// All routes in the order in which they are asked.
    pub fn routes(&self) -> &[Entry<T>] {
        &self.routes
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self::build(Vec::new())
    }
}

fn places<'t>(index: &'t HashMap<Box<str>, Places>, key: &str) -> &'t [usize] {
    // Asking an empty table would still hash the key.
    if index.is_empty() { &[] } else { index.get(key).map_or(&[], Places::as_slice) }
}

/// Ascending lists as one ascending list.
struct Merge<'t>([&'t [usize]; 3]);

impl Iterator for Merge<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let next = self.0.iter().filter_map(|list| list.first()).min().copied()?;
        for list in &mut self.0 {
            if let [first, rest @ ..] = list
                && *first == next
            {
                *list = rest;
            }
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::rule;

    fn table(routes: &[(&str, i64, &str)]) -> RouteTable<usize> {
        let route = |(value, (rule, priority, name)): (usize, &(&str, i64, &str))| {
            let tree = rule::parse(rule).unwrap();
            let priority = if *priority == 0 { tree.default_priority() } else { *priority };
            Entry { matcher: rule::http::compile(&tree).unwrap(), priority, name: Name::new(*name, "file"), value }
        };
        RouteTable::build(routes.iter().enumerate().map(route).collect())
    }

    fn find(table: &RouteTable<usize>, host: &str, path: &str) -> Option<usize> {
        let client = [127, 0, 0, 1].into();
        table.find(&RequestFacts { host, method: "GET", path, query: None, headers: &HeaderMap::new(), client }).copied()
    }

    #[track_caller]
    fn check(routes: &[(&str, i64, &str)], requests: &[(&str, &str, Option<usize>)]) {
        let table = table(routes);
        for (host, path, expected) in requests {
            assert_eq!(find(&table, host, path), *expected, "{host}{path}");
        }
    }

    #[test]
    fn the_highest_priority_whose_rule_holds_wins() {
        let routes = [
            ("Host(`a.test`)", 0, "host"),
            ("Host(`a.test`) && PathPrefix(`/api`)", 0, "api"),
            ("PathPrefix(`/`)", 1, "catch-all"),
            ("PathPrefix(`/health`)", 1000, "health"),
            ("Host(`*.test`)", 13, "wildcard"),
            ("HostRegexp(`^x`)", 500, "regexp"),
        ];
        check(
            &routes,
            &[
                ("a.test", "/", Some(0)),
                ("a.test.", "/", Some(0)),
                ("a.test", "/api/x", Some(1)),
                ("b.test", "/", Some(4)),
                ("c.b.test", "/", Some(2)),
                ("a.test", "/health", Some(3)),
                ("x.test", "/", Some(5)),
                ("", "/", Some(2)),
            ],
        );
    }

    #[test]
    fn equal_priorities_are_settled_by_name() {
        let request = [("a.test", "/", Some(1))];
        check(&[("Host(`a.test`)", 5, "b"), ("Host(`*.test`)", 5, "a"), ("PathPrefix(`/`)", 5, "c")], &request);
        check(&[("PathPrefix(`/`)", 5, "c"), ("Host(`*.test`)", 5, "a"), ("Host(`a.test`)", 5, "b")], &request);
    }

    #[test]
    fn no_rule_no_route() {
        check(&[("Host(`a.test`) && Path(`/x`)", 0, "a")], &[("a.test", "/", None), ("b.test", "/x", None)]);
        check(&[], &[("a.test", "/", None)]);
    }

    #[test]
    fn hosts_joined_in_every_way_are_found() {
        let routes = [
            ("Host(`a.test`) || Host(`*.a.test`) || Host(`b.test`)", 0, "either"),
            ("!Host(`a.test`) && Path(`/not`)", 1000, "not"),
            ("(Host(`c.test`) || Path(`/c`)) && Host(`*`)", 0, "open"),
            ("Host(`d.test`) && (Host(`d.test`) || Host(`e.test`))", 0, "both"),
            ("Host(`f.test.`)", 0, "dot"),
        ];
        check(
            &routes,
            &[
                ("a.test", "/", Some(0)),
                ("x.a.test", "/", Some(0)),
                ("b.test", "/", Some(0)),
                ("a.test", "/not", Some(0)),
                ("b.test", "/not", Some(1)),
                ("z.test", "/not", Some(1)),
                ("c.test", "/", Some(2)),
                ("z.test", "/c", Some(2)),
                ("d.test", "/", Some(3)),
                ("e.test", "/", None),
                ("f.test", "/", Some(4)),
            ],
        );
    }

    /// The index may only leave out routes that could not match.
    #[test]
    fn the_index_finds_what_asking_everyone_finds() {
        let mut random = fastrand::Rng::with_seed(11);
        let atoms =
            ["Host(`a.test`)", "Host(`b.test`)", "Host(`*.test`)", "Host(`*`)", "Path(`/x`)", "HostRegexp(`^a`)", "Path(`/y`)"];
        for _ in 0..500 {
            let rules: Vec<String> = (0..8).map(|_| expression(&mut random, &atoms, 3)).collect();
            let routes: Vec<_> = rules.iter().map(|rule| (rule.as_str(), random.i64(1..4), "r")).collect();
            let table = table(&routes);
            for (host, path) in
                [("a.test", "/x"), ("b.test", "/y"), ("c.test", "/"), ("a.b.test", "/x"), ("", "/"), ("test", "/y")]
            {
                let headers = HeaderMap::new();
                let client = [127, 0, 0, 1].into();
                let request = RequestFacts { host, method: "GET", path, query: None, headers: &headers, client };
                let asked = table.routes().iter().find(|route| route.matcher.matches(&request)).map(|route| route.value);
                assert_eq!(find(&table, host, path), asked, "{host}{path} among {rules:?}");
            }
        }
    }

    fn expression(random: &mut fastrand::Rng, atoms: &[&str], depth: usize) -> String {
        if depth == 0 {
            return atoms[random.usize(0..atoms.len())].to_owned();
        }
        let (left, right) = (expression(random, atoms, depth - 1), expression(random, atoms, depth - 1));
        match random.u8(0..4) {
            0 => format!("!({left})"),
            1 => left,
            2 => format!("({left} && {right})"),
            _ => format!("({left} || {right})"),
        }
    }
}
