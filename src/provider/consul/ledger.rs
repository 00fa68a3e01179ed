//! What Consul said so far, and what must be asked because of it.
//!
//! A [`Ledger`] is a state machine without input or output: it is told each answer and failure, and says which services
//! to follow with a query of their own, which to fetch once, and which to leave. [`Ledger::state`] is the whole state as
//! it is published.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::answer::{Check, Services};
use super::blocking::{Doubt, Moved};
use super::checks::CheckBook;
use super::doubt::{OwnEntries, Usual};
use super::state::{ConsulState, Surroundings, Trust};
use crate::catalog::{Catalog, Instance};
use crate::config::node::parse_bool;

/// Which services matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// `prefix`: tags that start with it are ours.
    pub prefix: String,
    /// `exposedByDefault`.
    pub exposed_by_default: bool,
}

impl Interest {
    /// Whether a service with this union of tags may have an instance that wants to be routed. One instance's
    /// `enable=false` says nothing about the others, so it does not count here.
    fn has(&self, tags: &[String]) -> bool {
        self.exposed_by_default || tags.iter().any(|tag| self.enables(tag))
    }

    fn enables(&self, tag: &str) -> bool {
        let pair = tag.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.split_once('='));
        pair.is_some_and(|(key, value)| key.eq_ignore_ascii_case(".enable") && parse_bool(value) == Some(true))
    }
}

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Query {
    /// Which services there are.
    Services,
    /// How all checks are.
    Checks,
    /// One service's instances.
    Instances(String),
}

/// What must be asked because of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Follow this service with a query of its own, beginning with one that does not block; if it is followed, begin anew.
    Follow(String),
    /// Fetch this service once, soon.
    Fetch(String),
    /// Ask no more about this service.
    Leave(String),
}

/// An answer's headers, as far as they are needed after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What its index says about the one before.
    pub moved: Moved,
    /// Why it may not be believed.
    pub doubt: Option<Doubt>,
}

/// How the agent is kept being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `watch: true`: so many services are followed with a query of their own; the others share one watch of all checks.
    Watch {
        /** How many. */
        follows_max: usize,
    },
    /// `watch: false`: everything is fetched whenever the list of services is.
    Poll,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    interest: Interest,
    mode: Mode,
    tracked: BTreeMap<String, Tracked>,
    has_list: bool,
    is_complete: bool,
    checks: CheckBook,
    trust: Trust,
    /// What is usual for the list of services.
    usual: Usual,
    consul: OwnEntries,
    nomad: OwnEntries,
    failing: BTreeSet<Query>,
    reachable: bool,
    since: Instant,
    last_error: Option<String>,
}

#[derive(Debug)]
struct Tracked {
    /// Whether it has a query of its own, or shares the watch of all checks with others.
    is_followed: bool,
    /// Whether the newest list of services has it.
    is_listed: bool,
    /// The newest answer.
    instances: Option<Vec<Instance>>,
    /// What is usual for its answers.
    usual: Usual,
}

impl Tracked {
    fn instances(&self) -> &[Instance] {
        self.instances.as_deref().unwrap_or_default()
    }
}

impl Ledger {
    /// Nothing is known yet.
    pub fn new(interest: Interest, mode: Mode, now: Instant) -> Self {
        Self {
            interest,
            mode,
            tracked: BTreeMap::new(),
            has_list: false,
            is_complete: false,
            checks: CheckBook::default(),
            trust: Trust::default(),
            usual: Usual::default(),
            consul: OwnEntries::default(),
            nomad: OwnEntries::default(),
            failing: BTreeSet::from([Query::Services]),
            reachable: false,
            since: now,
            last_error: None,
        }
    }

    /// The whole state. `is_partial_fine` is set once the first round has taken so long that a part is better than nothing.
    pub fn state(&self, is_partial_fine: bool) -> ConsulState {
        let shows = self.is_complete || is_partial_fine;
        let with_instances = self.tracked.iter().filter(|(_, tracked)| shows && !tracked.instances().is_empty());
        ConsulState {
            catalog: with_instances.map(|(name, tracked)| (name.clone(), tracked.instances().to_vec())).collect::<Catalog>(),
            trust: self.trust.clone(),
            is_complete: self.is_complete,
            reachable: self.reachable,
            since: self.since,
            last_error: self.last_error.clone(),
        }
    }

    /// Whether some services share the watch of all checks.
    pub fn needs_checks(&self) -> bool {
        self.mode != Mode::Poll && self.tracked.values().any(|tracked| !tracked.is_followed)
    }

    /// The instances a service had in its newest answer, by node and id.
    pub fn known(&self, service: &str) -> BTreeSet<(String, String)> {
        self.tracked.get(service).map(|tracked| identities(tracked.instances())).unwrap_or_default()
    }

    /// Takes in the list of services.
    pub fn record_services(&mut self, now: Instant, services: &Services, facts: Facts) -> BTreeSet<Step> {
        self.record_answer(now, &Query::Services, facts.moved);
        self.has_list = true;
        let doubt = self.usual.judge(now, facts.doubt);
        self.trust.doubt = doubt;
        self.record_own_entries(now, |name| services.contains_key(name));
        let mut steps = BTreeSet::new();
        for (name, tags) in services {
            let matters = self.interest.has(tags);
            match self.tracked.get_mut(name) {
                // It asks for nothing any more.
                Some(_) if !matters && doubt.is_none() => _ = steps.insert(self.leave(name)),
                Some(tracked) => tracked.is_listed = true,
                None if matters => _ = steps.insert(self.track(name)),
                None => {}
            }
        }
        let is_anew = matches!(facts.moved, Moved::Backwards | Moved::OtherBackend);
        // An instance without any check shows in no list of checks, only by this index.
        let shared_may_differ = facts.moved != Moved::Same || self.mode == Mode::Poll;
        for (name, tracked) in &mut self.tracked {
            // Its own query says so too, but not always soon: an index that lies in the future blocks.
            let is_unlisted = tracked.is_listed && !services.contains_key(name);
            tracked.is_listed &= !is_unlisted;
            if tracked.is_followed && (is_unlisted || is_anew) {
                steps.insert(Step::Follow(name.clone()));
            } else if !tracked.is_followed && (is_unlisted || shared_may_differ) {
                steps.insert(Step::Fetch(name.clone()));
            }
        }
        steps.extend(self.promote());
        self.update_completeness();
        steps
    }

    /// Takes in one service's instances. `surroundings` must be there if any of [`Ledger::known`] vanished.
    pub fn record_instances(
        &mut self,
        now: Instant,
        service: &str,
        instances: Vec<Instance>,
        facts: Facts,
        surroundings: Option<&Surroundings>,
    ) -> BTreeSet<Step> {
        self.record_answer(now, &Query::Instances(service.to_owned()), facts.moved);
        let mut vanished = self.known(service);
        vanished.retain(|known| !instances.iter().any(|instance| is_same(known, instance)));
        let Some(tracked) = self.tracked.get_mut(service) else { return BTreeSet::new() };
        let doubt = tracked.usual.judge(now, facts.doubt);
        let is_over = instances.is_empty() && doubt.is_none() && !tracked.is_listed;
        for instance in &instances {
            self.trust.nodes_gone.remove(&instance.node);
        }
        tracked.instances = Some(instances);
        match doubt {
            Some(doubt) => _ = self.trust.doubts.insert(service.to_owned(), doubt),
            None => _ = self.trust.doubts.remove(service),
        }
        if let Some(surroundings) = surroundings {
            self.trust.nodes_gone.extend(vanished.into_iter().map(|(node, _)| node));
            self.trust.nodes_gone.retain(|node| !surroundings.nodes.contains(node));
            self.record_own_entries(now, |name| surroundings.services.contains(name));
        }
        let mut steps = BTreeSet::new();
        if is_over {
            steps.insert(self.leave(service));
            steps.extend(self.promote());
        }
        self.update_completeness();
        steps
    }

    /// Takes in all checks: the services that have no query of their own and whose checks changed are fetched.
    pub fn record_checks(&mut self, now: Instant, checks: Vec<Check>, facts: Facts) -> BTreeSet<Step> {
        self.record_answer(now, &Query::Checks, facts.moved);
        let changed = self.checks.turn(checks);
        let shared = self.tracked.iter().filter(|(_, tracked)| !tracked.is_followed);
        let touched = shared.filter(|(name, tracked)| changed.touches(name, tracked.instances()));
        touched.map(|(name, _)| Step::Fetch(name.clone())).collect()
    }

    /// A query was not answered. What it said before goes on being the state.
    pub fn record_failure(&mut self, now: Instant, query: Query, error: String) {
        if let Query::Instances(service) = &query
            && !self.tracked.contains_key(service)
        {
            return;
        }
        self.failing.insert(query);
        self.last_error = Some(error);
        self.update_reachable(now);
    }

    /// The watch of all checks is over: what it said, and whether it failed, counts no more.
    pub fn forget_checks(&mut self, now: Instant) {
        self.checks = CheckBook::default();
        self.failing.remove(&Query::Checks);
        self.update_reachable(now);
    }

    fn record_answer(&mut self, now: Instant, query: &Query, moved: Moved) {
        if moved == Moved::Backwards {
            self.trust.rewound_at = Some(now);
        }
        self.failing.remove(query);
        self.update_reachable(now);
    }

    fn update_reachable(&mut self, now: Instant) {
        let reachable = self.failing.is_empty();
        if reachable {
            self.last_error = None;
        }
        if self.reachable != reachable {
            self.reachable = reachable;
            self.since = now;
        }
    }

    fn update_completeness(&mut self) {
        let has_all = self.has_list && self.tracked.values().all(|tracked| tracked.instances.is_some());
        self.is_complete |= has_all;
    }

    /// Consul's and Nomad's own entries: when they vanish with others, the catalog was lost, not the others stopped.
    fn record_own_entries(&mut self, now: Instant, is_listed: impl Fn(&str) -> bool) {
        self.trust.is_consul_gone = self.consul.are_gone(now, is_listed("consul"));
        self.trust.is_nomad_gone = self.nomad.are_gone(now, is_listed("nomad") || is_listed("nomad-client"));
    }

    fn has_free_query(&self) -> bool {
        match self.mode {
            Mode::Watch { follows_max } => self.tracked.values().filter(|tracked| tracked.is_followed).count() < follows_max,
            Mode::Poll => false,
        }
    }

    fn track(&mut self, service: &str) -> Step {
        let is_followed = self.has_free_query();
        self.tracked
            .insert(service.to_owned(), Tracked { is_followed, is_listed: true, instances: None, usual: Usual::default() });
        if is_followed { Step::Follow(service.to_owned()) } else { Step::Fetch(service.to_owned()) }
    }

    fn leave(&mut self, service: &str) -> Step {
        self.tracked.remove(service);
        self.trust.doubts.remove(service);
        self.failing.remove(&Query::Instances(service.to_owned()));
        Step::Leave(service.to_owned())
    }

    /// Gives the queries that became free to services that have none.
    fn promote(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while self.has_free_query() {
            let Some((name, tracked)) = self.tracked.iter_mut().find(|(_, tracked)| !tracked.is_followed) else { break };
            tracked.is_followed = true;
            steps.push(Step::Follow(name.clone()));
        }
        steps
    }
}

/// Which instances an answer has, by node and id: an id is unique on its node only.
pub fn identities(instances: &[Instance]) -> BTreeSet<(String, String)> {
    instances.iter().map(|instance| (instance.node.clone(), instance.id.clone())).collect()
}

/// Whether this is the instance with that node and id.
fn is_same((node, id): &(String, String), instance: &Instance) -> bool {
    *node == instance.node && *id == instance.id
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORWARD: Facts = Facts { moved: Moved::Forward, doubt: None };

    fn ledger(mode: Mode) -> Ledger {
        Ledger::new(Interest { prefix: "traefik".to_owned(), exposed_by_default: false }, mode, crate::clock::now())
    }

    fn watching(follows_max: usize) -> Ledger {
        ledger(Mode::Watch { follows_max })
    }

    /// Lists services that want to be routed, and `consul`; a name that begins with `!` wants not.
    fn list(ledger: &mut Ledger, names: &[&str], facts: Facts) -> Vec<Step> {
        let tags = |name: &str| if name.starts_with('!') { vec![] } else { vec!["traefik.enable=true".to_owned()] };
        let mut services: Services = names.iter().map(|name| (name.trim_start_matches('!').to_owned(), tags(name))).collect();
        services.insert("consul".to_owned(), vec![]);
        ledger.record_services(crate::clock::now(), &services, facts).into_iter().collect()
    }

    fn instance(id: &str) -> Instance {
        Instance { id: id.to_owned(), node: "n1".to_owned(), ..Instance::default() }
    }

    fn answer(ledger: &mut Ledger, service: &str, ids: &[&str], facts: Facts) -> Vec<Step> {
        let instances: Vec<_> = ids.iter().map(|id| instance(id)).collect();
        let surroundings = Surroundings {
            nodes: BTreeSet::from(["n1".to_owned()]),
            services: BTreeSet::from(["consul".to_owned(), service.to_owned()]),
        };
        ledger.record_instances(crate::clock::now(), service, instances, facts, Some(&surroundings)).into_iter().collect()
    }

    fn names(ledger: &Ledger) -> Vec<String> {
        ledger.state(false).catalog.into_keys().collect()
    }

    fn follow(name: &str) -> Step {
        Step::Follow(name.to_owned())
    }

    fn fetch(name: &str) -> Step {
        Step::Fetch(name.to_owned())
    }

    fn leave(name: &str) -> Step {
        Step::Leave(name.to_owned())
    }

    #[test]
    fn only_services_that_ask_for_it_matter() {
        let has = |prefix: &str, exposed_by_default, tags: &[&str]| {
            let interest = Interest { prefix: prefix.to_owned(), exposed_by_default };
            interest.has(&tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>())
        };
        assert!(has("traefik", false, &["a", "traefik.enable=true"]));
        assert!(has("traefik", false, &["traefik.ENABLE=1", "traefik.enable=false"]));
        assert!(has("edge", false, &["edge.enable=t"]));
        assert!(!has("traefik", false, &["Traefik.enable=true", " traefik.enable=true", "traefik.enable=yes", "traefik.enable"]));
        assert!(has("traefik", true, &["traefik.enable=false"]));
    }

    #[test]
    fn nothing_is_shown_before_all_that_matters_was_answered() {
        let mut ledger = watching(9);
        assert_eq!(list(&mut ledger, &["api", "web", "!db"], FORWARD), [follow("api"), follow("web")]);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        assert_eq!((names(&ledger), ledger.state(false).is_complete), (vec![], false));
        assert_eq!(ledger.state(true).catalog.len(), 1);
        answer(&mut ledger, "api", &["a1"], FORWARD);
        assert_eq!((names(&ledger), ledger.state(false).is_complete), (vec!["api".to_owned(), "web".to_owned()], true));
        // One that comes later does not hide the others.
        list(&mut ledger, &["api", "new", "web"], FORWARD);
        assert_eq!(names(&ledger), ["api", "web"]);
    }

    #[test]
    fn a_service_that_is_gone_is_asked_once_more_and_left() {
        let mut ledger = watching(9);
        list(&mut ledger, &["web"], FORWARD);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        assert_eq!(list(&mut ledger, &[], FORWARD), [follow("web")]);
        assert_eq!(names(&ledger), ["web"]);
        assert_eq!(answer(&mut ledger, "web", &[], FORWARD), [leave("web")]);
        assert_eq!(names(&ledger), Vec::<String>::new());
    }

    #[test]
    fn an_answer_that_is_doubted_does_not_end_a_service() {
        let mut ledger = watching(9);
        list(&mut ledger, &["web"], FORWARD);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        let leaderless = Facts { doubt: Some(Doubt::NoLeader), ..FORWARD };
        list(&mut ledger, &[], leaderless);
        assert_eq!(answer(&mut ledger, "web", &[], leaderless), []);
        let trust = ledger.state(false).trust;
        assert_eq!((trust.doubt, trust.doubts.get("web")), (Some(Doubt::NoLeader), Some(&Doubt::NoLeader)));
        assert_eq!(answer(&mut ledger, "web", &["w1"], FORWARD), []);
        assert!(ledger.state(false).trust.doubts.is_empty());
        assert_eq!(names(&ledger), ["web"]);
    }

    #[test]
    fn a_service_that_stops_asking_is_left_at_once() {
        let mut ledger = watching(9);
        list(&mut ledger, &["web"], FORWARD);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        assert_eq!(list(&mut ledger, &["!web"], FORWARD), [leave("web")]);
        assert_eq!(names(&ledger), Vec::<String>::new());
    }

    #[test]
    fn beyond_the_limit_services_share_one_watch_and_move_up() {
        let mut ledger = watching(1);
        assert!(!ledger.needs_checks());
        assert_eq!(list(&mut ledger, &["a", "b", "c"], FORWARD), [follow("a"), fetch("b"), fetch("c")]);
        assert!(ledger.needs_checks());
        // The list's index moved: an instance without checks may have joined any of those that share.
        assert_eq!(list(&mut ledger, &["a", "b", "c"], FORWARD), [fetch("b"), fetch("c")]);
        assert_eq!(list(&mut ledger, &["a", "b", "c"], Facts { moved: Moved::Same, doubt: None }), []);
        list(&mut ledger, &["b", "c"], FORWARD);
        assert_eq!(answer(&mut ledger, "a", &[], FORWARD), [follow("b"), leave("a")]);
        list(&mut ledger, &["b"], FORWARD);
        answer(&mut ledger, "c", &[], FORWARD);
        assert!(!ledger.needs_checks());
    }

    #[test]
    fn only_changed_services_are_fetched() {
        let mut ledger = watching(1);
        list(&mut ledger, &["a", "b", "c"], FORWARD);
        for name in ["a", "b", "c"] {
            answer(&mut ledger, name, &[name], FORWARD);
        }
        let check = |service: &str, status: &str| Check {
            service_name: service.to_owned(),
            node: "n1".to_owned(),
            service_id: service.to_owned(),
            id: "alive".to_owned(),
            status: status.to_owned(),
        };
        let mut turn = |checks: &[Check]| -> Vec<Step> {
            ledger.record_checks(crate::clock::now(), checks.to_vec(), FORWARD).into_iter().collect()
        };
        assert_eq!(turn(&[check("a", "passing"), check("b", "passing"), check("c", "passing")]), [fetch("b"), fetch("c")]);
        assert_eq!(turn(&[check("a", "critical"), check("b", "critical"), check("c", "passing")]), [fetch("b")]);
        let node = [check("a", "critical"), check("b", "critical"), check("c", "passing"), check("", "critical")];
        assert_eq!(turn(&node), [fetch("b"), fetch("c")]);
    }

    #[test]
    fn polling_fetches_everything_each_time() {
        let mut ledger = ledger(Mode::Poll);
        let same = Facts { moved: Moved::Same, doubt: None };
        assert_eq!(list(&mut ledger, &["a", "b"], FORWARD), [fetch("a"), fetch("b")]);
        assert_eq!(list(&mut ledger, &["a", "b"], same), [fetch("a"), fetch("b")]);
        assert!(!ledger.needs_checks());
    }

    #[test]
    fn an_index_that_went_backwards_makes_everything_be_asked_anew() {
        let mut ledger = watching(1);
        list(&mut ledger, &["a", "b"], FORWARD);
        assert_eq!(ledger.state(false).trust.rewound_at, None);
        let backwards = Facts { moved: Moved::Backwards, doubt: None };
        assert_eq!(list(&mut ledger, &["a", "b"], backwards), [follow("a"), fetch("b")]);
        assert!(ledger.state(false).trust.rewound_at.is_some());
    }

    #[test]
    fn says_what_vanished_together_with_the_instances() {
        let mut ledger = watching(9);
        let services = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        list(&mut ledger, &["web", "!nomad-client"], FORWARD);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        let vanish = |ledger: &mut Ledger, nodes: &[&str], listed: &[&str]| {
            let around = Surroundings { nodes: services(nodes), services: services(listed) };
            ledger.record_instances(crate::clock::now(), "web", vec![], FORWARD, Some(&around));
            let trust = ledger.state(false).trust;
            (trust.is_consul_gone, trust.is_nomad_gone, trust.nodes_gone.len())
        };
        assert_eq!(vanish(&mut ledger, &["n1"], &["consul", "nomad-client"]), (false, false, 0));
        answer(&mut ledger, "web", &["w1"], FORWARD);
        assert_eq!(vanish(&mut ledger, &[], &["consul"]), (false, true, 1));
        answer(&mut ledger, "web", &["w1"], FORWARD);
        assert_eq!(vanish(&mut ledger, &["n1"], &[]), (true, true, 0));
    }

    #[test]
    fn with_a_token_that_sees_some_services_only_a_stopped_instance_goes_at_once() {
        let mut ledger = watching(9);
        let filtered = Facts { doubt: Some(Doubt::Filtered), ..FORWARD };
        list(&mut ledger, &["web"], filtered);
        answer(&mut ledger, "web", &["w1", "w2"], FORWARD);
        list(&mut ledger, &["web"], filtered);
        answer(&mut ledger, "web", &["w2"], FORWARD);
        let trust = ledger.state(false).trust;
        assert_eq!((trust.doubt, trust.doubts.len()), (None, 0));
        // It loses its right to this service too.
        answer(&mut ledger, "web", &[], filtered);
        assert_eq!(ledger.state(false).trust.doubts.get("web"), Some(&Doubt::Filtered));
    }

    #[test]
    fn a_failure_keeps_the_catalog_and_is_told_until_all_is_well() {
        let mut ledger = watching(9);
        assert!(!ledger.state(false).reachable);
        list(&mut ledger, &["web"], FORWARD);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        assert!(ledger.state(false).reachable);
        for query in [Query::Services, Query::Instances("web".to_owned())] {
            ledger.record_failure(crate::clock::now(), query, "refused".to_owned());
        }
        let state = ledger.state(false);
        assert_eq!((state.reachable, state.last_error.as_deref(), state.catalog.len()), (false, Some("refused"), 1));
        list(&mut ledger, &["web"], FORWARD);
        assert!(!ledger.state(false).reachable);
        answer(&mut ledger, "web", &["w1"], FORWARD);
        let state = ledger.state(false);
        assert_eq!((state.reachable, state.last_error), (true, None));
    }
}
