//! From the catalog to dynamic configuration, as Traefik's provider does it, without its outages.
//!
//! Deliberate differences: instances that disagree do not delete each other's definitions ([`super::settle`]);
//! `enable=false` takes out one instance, not its service; a bad tag costs what it defines, not its instance (unless
//! `consul.strictTags` says so); an instance that is not fit stays known, for when there is no other;
//! `consulcatalog.canary=true` makes a canary of an instance, not a service of its own with a hash in its name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::constraint::Constraint;
use super::declared::{self, Declared};
use super::settle::{Exposed, Settled, crowd, settle};
use super::template::Template;
use super::{Catalog, CheckStatus, Instance, track};
use crate::config::dynamic::server::ServerTemplate;
use crate::config::dynamic::{Definitions, Endpoint, Kind, Provided, Scheme, ServiceKind};
use crate::config::install;
use crate::config::problem::{At, Problem, Problems, Severity};

/// What the install configuration says of the catalog, read once.
#[derive(Clone, Debug)]
pub struct TranslateSettings {
    pub(super) prefix: String,
    pub(super) exposed_by_default: bool,
    pub(super) default_rule: Result<Template, String>,
    pub(super) constraint: Option<Result<Constraint, String>>,
    pub(super) strict_checks: Vec<CheckStatus>,
    pub(super) strict_tags: bool,
    pub(super) track_tag: Option<String>,
    pub(super) track_meta: Option<String>,
}

impl TranslateSettings {
    /// Reads the default rule, the constraints and the checks. What cannot be read is a problem, named once, here.
    pub fn new(consul: &install::ConsulCatalog, own: &install::Own) -> (Self, Problems) {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, message: String| {
            let at = At::whole(format!("providers.consulCatalog.{key}"));
            problems.push(Problem::error(&at, message));
        };
        let default_rule = Template::parse(&consul.default_rule);
        if let Err(message) = &default_rule {
            wrong("defaultRule", message.clone());
        }
        let constraint = consul.constraints.as_deref().filter(|text| !text.is_empty()).map(Constraint::parse);
        if let Some(Err(message)) = &constraint {
            wrong("constraints", format!("{message}; no instance satisfies it"));
        }
        let mut strict_checks = Vec::new();
        for text in &consul.strict_checks {
            match checks(text) {
                Some(found) => strict_checks.extend_from_slice(found),
                None => wrong("strictChecks", format!("`{text}` is none of passing, warning, critical, maintenance, any")),
            }
        }
        let settings = Self {
            prefix: consul.prefix.clone(),
            exposed_by_default: consul.exposed_by_default,
            default_rule: default_rule.map_err(|message| format!("the default rule cannot be read: {message}")),
            constraint,
            strict_checks,
            strict_tags: own.strict_tags,
            track_tag: own.rollout.track_tag.clone(),
            track_meta: own.rollout.track_meta.clone(),
        };
        (settings, problems)
    }
}

fn checks(text: &str) -> Option<&'static [CheckStatus]> {
    Some(match text.to_ascii_lowercase().as_str() {
        "passing" => &[CheckStatus::Passing],
        "warning" => &[CheckStatus::Warning],
        "critical" => &[CheckStatus::Critical],
        "maintenance" => &[CheckStatus::Maintenance],
        "any" => &[CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical, CheckStatus::Maintenance],
        _ => return None,
    })
}

/// What one translation leaves to the next: which definitions serve, and what was read already.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    serving: Definitions,
    read: Readings,
}

/// What was read of tags, by instance id. An id that two nodes use costs a second reading, nothing else.
type Readings = HashMap<Arc<str>, Reading>;

#[derive(Clone, Debug)]
struct Reading {
    service: Arc<str>,
    tags: Arc<[String]>,
    declared: Arc<Declared>,
}

/// Translates the whole catalog. The same catalog and memory give the same answer, in the same order.
pub fn translate(catalog: &Catalog, settings: &TranslateSettings, memory: &Memory) -> (Provided, Memory) {
    let mut reader = Reader {
        settings,
        before: &memory.read,
        now: HashMap::with_capacity(memory.read.len()),
        new: HashMap::new(),
        noted: Notes::default(),
    };
    let exposed = reader.exposed(catalog);
    let Settled { mut definitions, behind, problems } = settle(&exposed, &memory.serving);
    let serving = definitions.clone();
    let consul_services = |kind: Kind, name: &str| -> BTreeSet<&str> {
        let voters = behind.get(&(kind, name.to_owned())).map(Vec::as_slice).unwrap_or_default();
        voters.iter().filter_map(|&index| exposed.get(index)).map(|exposed| exposed.instance.service.as_str()).collect()
    };
    place(&mut definitions, &consul_services);
    let Reader { now, mut noted, .. } = reader;

    let mut provided = Provided::default();
    for (name, service) in &definitions.services {
        if let ServiceKind::LoadBalancer(_) = service.kind {
            // Another Consul service that means something else by this name must not get its requests.
            let part = consul_services(Kind::Service, name);
            let exposed = exposed.iter().filter(|exposed| part.contains(exposed.instance.service.as_str()));
            provided.endpoints.http.insert(name.clone(), endpoints(exposed, |declared| declared.http.get(name), &mut noted));
        }
    }
    for name in definitions.tcp_services.keys() {
        let found = endpoints(exposed.iter(), |declared| declared.tcp.get(name), &mut noted);
        provided.endpoints.tcp.insert(name.clone(), found);
    }
    give_canaries_their_own(&exposed, &behind, &mut definitions, &mut provided.endpoints.http);
    provided.definitions = definitions;
    provided.problems = noted.problems();
    provided.problems.extend(problems);
    (provided, Memory { serving, read: now })
}

/// Says of each definition whose tags declare it.
fn place<'e>(definitions: &mut Definitions, services: &impl Fn(Kind, &str) -> BTreeSet<&'e str>) {
    let at = |kind, name: &str| {
        let services: Vec<&str> = services(kind, name).into_iter().collect();
        match services.as_slice() {
            [] => At::default(),
            [only] => At::whole(format!("tags of service `{only}`")),
            [first, rest @ ..] => At::whole(format!("tags of service `{first}` and {} more", rest.len())),
        }
    };
    for (name, router) in &mut definitions.routers {
        router.at = at(Kind::Router, name);
    }
    for (name, service) in &mut definitions.services {
        service.at = at(Kind::Service, name);
    }
    for (name, middleware) in &mut definitions.middlewares {
        middleware.at = at(Kind::Middleware, name);
    }
    for (name, router) in &mut definitions.tcp_routers {
        router.at = at(Kind::TcpRouter, name);
    }
    for (name, service) in &mut definitions.tcp_services {
        service.at = at(Kind::TcpService, name);
    }
}

struct Reader<'a> {
    settings: &'a TranslateSettings,
    before: &'a Readings,
    now: Readings,
    /// What had to be read this time, so that many new instances with the same tags are one reading.
    new: HashMap<(&'a str, &'a [String]), Reading>,
    noted: Notes,
}

impl<'c> Reader<'c> {
    /// The instances to be served, in the order of their ids.
    fn exposed(&mut self, catalog: &'c Catalog) -> Vec<Exposed<'c>> {
        let mut instances: Vec<&Instance> = catalog.values().flatten().collect();
        instances.sort_by(|a, b| (&a.id, &a.node).cmp(&(&b.id, &b.node)));
        let mut exposed = Vec::new();
        for instance in instances {
            let declared = self.declared(instance);
            for problem in &declared.problems {
                self.noted.note(problem, &instance.id);
            }
            if !declared.is_exposed {
                continue;
            }
            if self.settings.strict_tags && declared.is_malformed {
                let message = "the instance is left out because of its tags, as Traefik does (consul.strictTags)";
                self.noted.note(&Problem::error(&At::whole("tags"), message), &instance.id);
                continue;
            }
            let said = track::of_instance(instance, &declared.said, self.settings);
            let is_passing = self.settings.strict_checks.contains(&instance.status);
            exposed.push(Exposed { instance, declared, said, is_passing });
        }
        exposed
    }

    /// What the instance's tags declare, read once for all that have the same ones, and only when they are new.
    fn declared(&mut self, instance: &'c Instance) -> Arc<Declared> {
        // Without routers of its own an instance may have a rule that fits no other.
        if self.settings.default_rule.as_ref().is_ok_and(Template::is_per_instance) {
            return Arc::new(declared::read(instance, self.settings));
        }
        let before = self.before.get_key_value(instance.id.as_str());
        let before = before.filter(|(_, was)| *was.service == *instance.service && *was.tags == *instance.tags);
        let (id, reading) = match before {
            Some((id, reading)) => (Arc::clone(id), reading.clone()),
            None => {
                let reading = self.new.entry((&instance.service, &instance.tags)).or_insert_with(|| Reading {
                    service: Arc::from(instance.service.as_str()),
                    tags: Arc::from(instance.tags.as_slice()),
                    declared: Arc::new(declared::read(instance, self.settings)),
                });
                (Arc::from(instance.id.as_str()), reading.clone())
            }
        };
        let declared = Arc::clone(&reading.declared);
        self.now.insert(id, reading);
        declared
    }
}

/// The servers of one service. Of two instances at one address the fit one counts: a dead one may have left its port.
fn endpoints<'e, 'c: 'e>(
    exposed: impl Iterator<Item = &'e Exposed<'c>>,
    template: impl Fn(&Declared) -> Option<&ServerTemplate>,
    noted: &mut Notes,
) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut places: HashMap<(Scheme, String, u16, String), usize> = HashMap::new();
    for exposed in exposed {
        let Some(template) = template(&exposed.declared) else { continue };
        // An operator who puts an instance into maintenance does not want it back when the others fail.
        if exposed.instance.status == CheckStatus::Maintenance && !exposed.is_passing {
            continue;
        }
        let Some(mut endpoint) = template.endpoint(&exposed.instance.address, exposed.instance.port) else {
            noted.note(&Problem::error(&At::whole("registration"), "the address is missing"), &exposed.instance.id);
            continue;
        };
        endpoint.instance = Some(exposed.instance.id.clone());
        endpoint.version.clone_from(&exposed.said.version);
        endpoint.track = exposed.said.track;
        endpoint.is_passing = exposed.is_passing;
        let place = (endpoint.scheme, endpoint.host.clone(), endpoint.port, endpoint.path.clone());
        match places.get(&place).and_then(|&index| endpoints.get_mut(index)) {
            Some(known) if !known.is_passing && endpoint.is_passing => *known = endpoint,
            Some(_) => {}
            None => {
                places.insert(place, endpoints.len());
                endpoints.push(endpoint);
            }
        }
    }
    endpoints
}

/// A router that only canaries declare, and whose service is only implied, leads to those canaries and to nobody else:
/// who asks for the canary's own address wants to see the canary. Its service is called `NAME-canary`.
fn give_canaries_their_own(
    exposed: &[Exposed<'_>],
    behind: &BTreeMap<(Kind, String), Vec<usize>>,
    definitions: &mut Definitions,
    endpoints: &mut BTreeMap<String, Vec<Endpoint>>,
) {
    for ((_, name), voters) in behind.iter().filter(|((kind, _), _)| *kind == Kind::Router) {
        let voters: Vec<&Exposed<'_>> = voters.iter().filter_map(|&index| exposed.get(index)).collect();
        let is_own = voters.iter().all(|exposed| exposed.is_canary() && exposed.declared.implied.contains(name));
        let Some(router) = definitions.routers.get_mut(name).filter(|_| is_own) else { continue };
        let Some(service) = definitions.services.get(&router.service).cloned() else { continue };
        let canaries: HashSet<&str> = voters.iter().map(|exposed| exposed.instance.id.as_str()).collect();
        let all = endpoints.get(&router.service).map(Vec::as_slice).unwrap_or_default();
        let is_theirs = |endpoint: &&Endpoint| endpoint.instance.as_deref().is_some_and(|id| canaries.contains(id));
        if all.iter().all(|endpoint| is_theirs(&endpoint)) {
            continue;
        }
        let theirs: Vec<Endpoint> = all.iter().filter(is_theirs).cloned().collect();
        let own_name = format!("{}-canary", router.service);
        router.service.clone_from(&own_name);
        endpoints.entry(own_name.clone()).or_insert(theirs);
        definitions.services.entry(own_name).or_insert(service);
    }
}

/// Problems of instances, each once with all who have it.
#[derive(Default)]
struct Notes {
    order: Vec<Note>,
    known: HashMap<(Arc<str>, String), usize>,
}

struct Note {
    problem: Problem,
    first: String,
    count: usize,
}

impl Notes {
    fn note(&mut self, problem: &Problem, instance: &str) {
        let place = problem.at.as_ref().map(|at| Arc::clone(&at.source)).unwrap_or_default();
        match self.known.get(&(Arc::clone(&place), problem.message.clone())).and_then(|&index| self.order.get_mut(index)) {
            Some(note) => note.count += 1,
            None => {
                self.known.insert((place, problem.message.clone()), self.order.len());
                self.order.push(Note { problem: problem.clone(), first: instance.to_owned(), count: 1 });
            }
        }
    }

    /// Errors first, and each with its instance.
    fn problems(self) -> Problems {
        let mut problems: Problems = self.order.into_iter().map(Note::into_problem).collect();
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity == Severity::Error));
        problems
    }
}

impl Note {
    fn into_problem(self) -> Problem {
        let place = self.problem.at.as_ref().map(|at| at.source.to_string()).unwrap_or_default();
        let at = At::whole(format!("{place} of {}", crowd(&self.first, self.count)));
        Problem { at: Some(at), ..self.problem }
    }
}
