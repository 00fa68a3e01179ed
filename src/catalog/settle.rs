//! One definition for each name, also when instances disagree.
//!
//! Traefik deletes what instances disagree on, and a deploy that changes a tag becomes an outage. Here the definition that is
//! serving goes on until its last instance leaves; at first sight it is the one of most stable instances. A disagreement is
//! a named problem that says who differs and in what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Instance;
use super::declared::Declared;
use super::track::Said;
use crate::config::dynamic::{Definitions, Kind, Refused, Router, Service, ServiceKind, TcpRouter};
use crate::config::node::{Children, Node};
use crate::config::problem::{At, Problem, Problems};
use crate::names::Track;

/// An instance that is to be served.
pub(super) struct Exposed<'c> {
    pub(super) instance: &'c Instance,
    pub(super) declared: Arc<Declared>,
    pub(super) said: Said,
    pub(super) is_passing: bool,
}

impl Exposed<'_> {
    pub(super) fn is_canary(&self) -> bool {
        self.said.track == Some(Track::Canary)
    }
}

/// What all instances together define.
#[derive(Default)]
pub(super) struct Settled {
    /// Without places, so that equal definitions of different services are equal.
    pub(super) definitions: Definitions,
    /// The instances (as indexes) that stand behind each definition.
    pub(super) behind: BTreeMap<(Kind, String), Vec<usize>>,
    pub(super) problems: Problems,
}

/// Settles every name. `serving` is what was settled last time.
pub(super) fn settle(exposed: &[Exposed<'_>], serving: &Definitions) -> Settled {
    let mut ballot = Ballot { exposed, behind: BTreeMap::new(), problems: Vec::new() };
    let nothing_else = |_: &_, _: &_| Vec::new();
    let mut definitions = Definitions {
        routers: ballot.settle(Some(Kind::Router), |d| &d.routers, serving, difference_of_routers),
        services: ballot.settle(Some(Kind::Service), |d| &d.services, serving, difference_of_services),
        middlewares: ballot.settle(Some(Kind::Middleware), |d| &d.middlewares, serving, nothing_else),
        servers_transports: ballot.settle(None, |d| &d.servers_transports, serving, |_, _| Vec::new()),
        tcp_routers: ballot.settle(Some(Kind::TcpRouter), |d| &d.tcp_routers, serving, difference_of_tcp_routers),
        // They have no options, so that nobody can disagree.
        tcp_services: ballot.settle(Some(Kind::TcpService), |d| &d.tcp_services, serving, |_, _| Vec::new()),
        ..Definitions::default()
    };
    definitions.refused = refused(exposed, &definitions);
    Settled { definitions, behind: ballot.behind, problems: ballot.problems }
}

/// What is no key of the router itself: a service or rule may be implied, and so differ where the tags do not.
fn difference_of_routers(ours: &Router, theirs: &Router) -> Vec<String> {
    let mut differences = Vec::new();
    if ours.service != theirs.service {
        differences.push(instead("service", Some(&theirs.service), Some(&ours.service)));
    }
    if ours.rule != theirs.rule {
        differences.push(instead("rule", Some(&theirs.rule), Some(&ours.rule)));
    }
    differences
}

fn difference_of_tcp_routers(ours: &TcpRouter, theirs: &TcpRouter) -> Vec<String> {
    let differs = ours.service != theirs.service;
    differs.then(|| instead("service", Some(&theirs.service), Some(&ours.service))).into_iter().collect()
}

fn difference_of_services(ours: &Service, theirs: &Service) -> Vec<String> {
    match (&ours.kind, &theirs.kind) {
        (ServiceKind::LoadBalancer(ours), ServiceKind::LoadBalancer(theirs)) if ours.rollout != theirs.rollout => {
            vec!["`tidegate.rollout` differs".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// Instances with the same opinion of one name.
struct Party<'d, T> {
    value: &'d T,
    voters: Vec<usize>,
}

struct Ballot<'b, 'c> {
    exposed: &'b [Exposed<'c>],
    behind: BTreeMap<(Kind, String), Vec<usize>>,
    problems: Problems,
}

impl Ballot<'_, '_> {
    /// Settles all names of one kind; servers transports have none.
    fn settle<T: Clone + PartialEq>(
        &mut self,
        kind: Option<Kind>,
        of: impl Fn(&Definitions) -> &BTreeMap<String, T>,
        serving: &Definitions,
        extra: impl Fn(&T, &T) -> Vec<String>,
    ) -> BTreeMap<String, T> {
        let exposed = self.exposed;
        let mut parties: BTreeMap<&str, Vec<Party<'_, T>>> = BTreeMap::new();
        for (index, instance) in exposed.iter().enumerate() {
            for (name, value) in of(&instance.declared.definitions) {
                let parties = parties.entry(name).or_default();
                match parties.iter_mut().find(|party| std::ptr::eq(party.value, value) || party.value == value) {
                    Some(party) => party.voters.push(index),
                    None => parties.push(Party { value, voters: vec![index] }),
                }
            }
        }
        let mut settled = BTreeMap::new();
        for (name, mut parties) in parties {
            let winner = self.winner(&parties, of(serving).get(name));
            let winner = parties.swap_remove(winner);
            for loser in parties {
                let differences = extra(winner.value, loser.value);
                self.disagree(kind, name, &winner.voters, &loser.voters, differences);
            }
            settled.insert(name.to_owned(), winner.value.clone());
            if let Some(kind) = kind {
                self.behind.insert((kind, name.to_owned()), winner.voters);
            }
        }
        settled
    }

    /// What serves goes on. Else most stable and fit instances decide, then most stable ones, then most, then the lowest id.
    fn winner<T: PartialEq>(&self, parties: &[Party<'_, T>], serving: Option<&T>) -> usize {
        if let Some(index) = serving.and_then(|serving| parties.iter().position(|party| party.value == serving)) {
            return index;
        }
        let strength = |party: &Party<'_, T>| {
            let voters = || party.voters.iter().filter_map(|&index| self.exposed.get(index));
            let stable = || voters().filter(|exposed| !exposed.is_canary());
            (stable().filter(|exposed| exposed.is_passing).count(), stable().count(), party.voters.len())
        };
        // Instances come in the order of their ids, and so do parties: of equals the first stays.
        let strongest = parties.iter().enumerate().rev().max_by_key(|(_, party)| strength(party));
        strongest.map_or(0, |(index, _)| index)
    }

    fn disagree(&mut self, kind: Option<Kind>, name: &str, ours: &[usize], theirs: &[usize], mut differences: Vec<String>) {
        let (section, key) = where_written(kind);
        let tree = |voters: &[usize]| {
            let first = voters.first().and_then(|&index| self.exposed.get(index));
            first.and_then(|exposed| exposed.declared.tree.get(section)?.get(key)?.get(name))
        };
        let (our_leaves, their_leaves) = (leaves(tree(ours)), leaves(tree(theirs)));
        for path in our_leaves.keys().chain(their_leaves.keys()).collect::<BTreeSet<_>>() {
            let (our_value, their_value) = (our_leaves.get(path), their_leaves.get(path));
            if our_value != their_value {
                let difference = instead(path, their_value.map(String::as_str), our_value.map(String::as_str));
                if !differences.contains(&difference) {
                    differences.push(difference);
                }
            }
        }
        let message = format!(
            "{} `{name}` of {} differs from the one that serves, of {}: {}; it waits until those are gone",
            kind.map_or_else(|| "servers transport".to_owned(), |kind| kind.to_string()),
            self.names(theirs),
            self.names(ours),
            if differences.is_empty() { "it is written differently".to_owned() } else { differences.join(", ") },
        );
        self.problems.push(Problem::warning(&At::whole("the catalog"), message));
    }

    fn names(&self, voters: &[usize]) -> String {
        let first = voters.first().and_then(|&index| self.exposed.get(index));
        let id = first.map(|exposed| exposed.instance.id.as_str()).unwrap_or_default();
        crowd(id, voters.len())
    }
}

/// Where the tree has the objects of a kind.
fn where_written(kind: Option<Kind>) -> (&'static str, &'static str) {
    match kind {
        Some(Kind::Router) => ("http", "routers"),
        Some(Kind::Service) => ("http", "services"),
        Some(Kind::Middleware) => ("http", "middlewares"),
        Some(Kind::TcpRouter) => ("tcp", "routers"),
        Some(Kind::TcpService) => ("tcp", "services"),
        Some(Kind::TcpMiddleware) => ("tcp", "middlewares"),
        None => ("http", "serversTransports"),
    }
}

/// An instance and how many others are in the same case.
pub(super) fn crowd(id: &str, count: usize) -> String {
    match count {
        0 | 1 => format!("instance {id}"),
        2 => format!("instance {id} and another"),
        _ => format!("instance {id} and {} others", count - 1),
    }
}

fn instead(key: &str, theirs: Option<&str>, ours: Option<&str>) -> String {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) => format!("`{key}` is `{theirs}` instead of `{ours}`"),
        (Some(theirs), None) => format!("`{key}` is `{theirs}` and was not set"),
        (None, Some(ours)) => format!("`{key}` is not set and was `{ours}`"),
        (None, None) => format!("`{key}`"),
    }
}

/// Every value below a node by its dotted key in lower case, but not where servers are: that differs by nature.
fn leaves(node: Option<&Node>) -> BTreeMap<String, String> {
    fn gather(node: &Node, path: &str, leaves: &mut BTreeMap<String, String>) {
        if let Some(scalar) = &node.scalar {
            leaves.insert(path.to_owned(), scalar.clone());
        }
        match &node.children {
            Children::None => {}
            Children::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    gather(item, &format!("{path}[{index}]"), leaves);
                }
            }
            Children::Map(entries) => {
                for entry in entries {
                    let key = entry.key.to_ascii_lowercase();
                    let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                    if path != "loadbalancer.server" {
                        gather(&entry.node, &path, leaves);
                    }
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    if let Some(node) = node {
        gather(node, "", &mut found);
    }
    found
}

/// What cannot be used and is not defined by anybody else either.
fn refused(exposed: &[Exposed<'_>], definitions: &Definitions) -> Vec<Refused> {
    let mut refused: BTreeMap<(Kind, &str), &Refused> = BTreeMap::new();
    for one in exposed.iter().flat_map(|exposed| &exposed.declared.definitions.refused) {
        let name = one.name.as_str();
        let is_defined = match one.kind {
            Kind::Router => definitions.routers.contains_key(name),
            Kind::Service => definitions.services.contains_key(name),
            Kind::Middleware => definitions.middlewares.contains_key(name),
            Kind::TcpRouter => definitions.tcp_routers.contains_key(name),
            Kind::TcpService => definitions.tcp_services.contains_key(name),
            Kind::TcpMiddleware => false,
        };
        if !is_defined {
            refused.entry((one.kind, name)).or_insert(one);
        }
    }
    refused.into_values().cloned().collect()
}
