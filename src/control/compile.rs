//! Compiles what all providers say into a snapshot. A bad router, service or middleware breaks itself only.
//!
//! Pure but for the registry, from which services are taken over so that their health and shares survive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::connections::{Connections, declared_options};
use super::registry::Registry;
use crate::acme::schedule::WantedCertificate;
use crate::config::dynamic::{Definitions, Domain, Kind, LoadBalancer, MiddlewareKind, Provided, Router, RouterTls, ServiceKind};
use crate::config::install::{EntrypointTls, Install, ServersTransport};
use crate::config::problem::{At, Problem, Problems, nearest};
use crate::middleware::{self, Chain, Compiled as CompiledMiddleware, Middleware};
use crate::names::Name;
use crate::observe::metrics::Metrics;
use crate::routing::entrypoint::Entrypoint;
use crate::routing::report::{Report, Reported, Status};
use crate::routing::service::Service;
use crate::routing::snapshot::{Internal, Route, Snapshot, Table, Target, Weighted};
use crate::routing::table::{Entry, RouteTable};
use crate::routing::tcp::EntrypointRoutes;
use crate::rule;
use crate::tls::options::{CompiledOptions, DEFAULT_OPTIONS, TlsConfigs};

/// The provider of what we make ourselves.
pub const INTERNAL: &str = "internal";
/// Chains and weighted services deeper than this are taken for recursion.
const DEPTH_MAX: usize = 16;

/// What a compilation works on.
#[derive(Debug)]
pub struct Input<'a> {
    /// The number of the snapshot to come.
    pub generation: u64,
    /// The install configuration.
    pub install: &'a Install,
    /// All entrypoints, by index.
    pub entrypoints: &'a [Arc<Entrypoint>],
    /// What each provider says.
    pub provided: &'a BTreeMap<Arc<str>, Arc<Provided>>,
    /// Where routes take their counters from.
    pub metrics: &'a Metrics,
}

/// What comes out.
#[derive(Debug)]
pub struct Compiled {
    /// The snapshot, ready to be published.
    pub snapshot: Snapshot,
    /// What each entrypoint does with connections, by index.
    pub connections: Vec<EntrypointRoutes>,
    /// The certificates that routers ask for.
    pub wanted: BTreeSet<WantedCertificate>,
    /// What is wrong, beyond what providers already said.
    pub problems: Problems,
}

/// Compiles everything that providers declare.
pub fn compile(input: &Input<'_>, registry: &mut Registry, tls: &mut TlsConfigs) -> Compiled {
    let mut work = Work::new(input);
    let (options, problems) = tls.compile(&declared_options(&work));
    work.problems.extend(problems);
    work.compile_middlewares();
    work.compile_services(registry);
    for (provider, provided) in input.provided {
        for (name, router) in &provided.definitions.routers {
            work.compile_router(&Name::new(name.as_str(), Arc::clone(provider)), router, &options);
        }
        for (name, router) in &provided.definitions.tcp_routers {
            work.compile_tcp_router(&Name::new(name.as_str(), Arc::clone(provider)), router, &options);
        }
    }
    work.add_redirections();
    work.add_internal_routes();
    work.refuse_declared();
    work.finish(&options)
}

/// The state of one compilation.
pub(super) struct Work<'a> {
    pub(super) input: &'a Input<'a>,
    middlewares: BTreeMap<Name, Result<Arc<Middleware>, String>>,
    services: BTreeMap<Name, Result<Target, String>>,
    tcp_services: BTreeMap<Name, Arc<Service>>,
    pub(super) plain: Vec<Vec<Entry<Arc<Route>>>>,
    secure: Vec<Vec<Entry<Arc<Route>>>>,
    pub(super) connections: Vec<Connections>,
    wanted: BTreeSet<WantedCertificate>,
    pub(super) report: Report,
    pub(super) problems: Problems,
    live: BTreeMap<Name, Arc<Service>>,
}

impl<'a> Work<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let count = input.entrypoints.len();
        Self {
            input,
            middlewares: BTreeMap::new(),
            services: BTreeMap::new(),
            tcp_services: BTreeMap::new(),
            plain: (0..count).map(|_| Vec::new()).collect(),
            secure: (0..count).map(|_| Vec::new()).collect(),
            connections: (0..count).map(|_| Connections::default()).collect(),
            wanted: BTreeSet::new(),
            report: Report::default(),
            problems: Problems::new(),
            live: BTreeMap::new(),
        }
    }

    /// What each provider declares.
    pub(super) fn all_definitions(&self) -> impl Iterator<Item = (&Arc<str>, &Definitions)> {
        self.input.provided.iter().map(|(provider, provided)| (provider, &provided.definitions))
    }

    /// Notes what is wrong with an object.
    pub(super) fn complain(&mut self, kind: &str, name: &Name, at: &At, reasons: &[String], is_disabled: bool) {
        for reason in reasons {
            let text = format!("{kind} `{name}`: {reason}");
            self.problems.push(if is_disabled { Problem::error(at, text) } else { Problem::warning(at, text) });
        }
    }
}

/// Middlewares.
impl Work<'_> {
    fn compile_middlewares(&mut self) {
        for (provider, provided) in self.input.provided {
            for (name, declared) in &provided.definitions.middlewares {
                let name = Name::new(name.as_str(), Arc::clone(provider));
                let compiled = match middleware::compile(&declared.kind, &|path| std::fs::read_to_string(path)) {
                    Ok(CompiledMiddleware::Single(middleware)) => Ok(Arc::new(middleware)),
                    // Put in place where a router refers to it.
                    Ok(CompiledMiddleware::Chain(_)) => continue,
                    Err(error) => Err(error.to_string()),
                };
                if let Err(reason) = &compiled {
                    self.complain("middleware", &name, &declared.at, std::slice::from_ref(reason), true);
                }
                self.middlewares.insert(name, compiled);
            }
        }
    }

    /// The middlewares that a list of references means, chains flattened.
    fn flatten(&self, references: &[String], provider: &str, depth: usize) -> Result<Vec<Arc<Middleware>>, String> {
        if depth > DEPTH_MAX {
            return Err("middleware chains contain themselves".to_owned());
        }
        let mut flat = Vec::new();
        for reference in references {
            let name = Name::resolve(reference, provider);
            match self.declared_chain(&name) {
                Some(inner) => flat.extend(self.flatten(&inner, name.provider(), depth + 1)?),
                None => flat.push(self.middleware(&name)?),
            }
        }
        Ok(flat)
    }

    fn declared_chain(&self, name: &Name) -> Option<Vec<String>> {
        match &self.definitions(name.provider())?.middlewares.get(name.name())?.kind {
            MiddlewareKind::Chain { middlewares } => Some(middlewares.clone()),
            _ => None,
        }
    }

    fn middleware(&self, name: &Name) -> Result<Arc<Middleware>, String> {
        match self.middlewares.get(name) {
            Some(Ok(middleware)) => Ok(Arc::clone(middleware)),
            Some(Err(reason)) => Err(format!("middleware \"{name}\": {reason}")),
            None => Err(self.refusal(Kind::Middleware, name).unwrap_or_else(|| {
                let known = self.middlewares.keys().map(ToString::to_string).collect::<Vec<_>>();
                missing("middleware", name, known.iter().map(String::as_str))
            })),
        }
    }

    fn definitions(&self, provider: &str) -> Option<&Definitions> {
        self.input.provided.get(provider).map(|provided| &provided.definitions)
    }

    /// Why an object that was declared cannot be used.
    fn refusal(&self, kind: Kind, name: &Name) -> Option<String> {
        let refused = &self.definitions(name.provider())?.refused;
        let refused = refused.iter().find(|refused| refused.kind == kind && refused.name == name.name())?;
        Some(format!("{kind} \"{name}\": {}", refused.reason))
    }
}

/// Says in Traefik's words that a reference leads nowhere, with the nearest name that leads somewhere.
fn missing<'n>(kind: &str, name: &Name, known: impl Iterator<Item = &'n str>) -> String {
    let base = if kind == "service" {
        format!("the service \"{name}\" does not exist")
    } else {
        format!("{kind} \"{name}\" does not exist")
    };
    match nearest(&name.to_string(), known) {
        Some(near) => format!("{base} (did you mean `{near}`?)"),
        None => base,
    }
}

/// Services.
impl Work<'_> {
    fn compile_services(&mut self, registry: &mut Registry) {
        for (provider, provided) in self.input.provided {
            for (name, declared) in &provided.definitions.services {
                if let ServiceKind::LoadBalancer(settings) = &declared.kind {
                    let name = Name::new(name.as_str(), Arc::clone(provider));
                    let target = self.transport(settings.servers_transport.as_deref(), provider).map(|transport| {
                        let service = registry.http(&name, settings, transport, self.input.metrics);
                        self.live.insert(name.clone(), Arc::clone(&service));
                        Target::Service(service)
                    });
                    if let Err(reason) = &target {
                        self.complain("service", &name, &declared.at, std::slice::from_ref(reason), true);
                    }
                    self.services.insert(name, target);
                }
            }
            for name in provided.definitions.tcp_services.keys() {
                let name = Name::new(name.as_str(), Arc::clone(provider));
                let service = registry.tcp(&name);
                self.tcp_services.insert(name, service);
            }
        }
        let weighted: Vec<Name> = self.declared_weighted().map(|(name, _)| name).collect();
        for name in weighted {
            let target = self.weighted(&name, 0);
            self.services.insert(name, target);
        }
    }

    /// A TCP service that is declared.
    pub(super) fn tcp_service(&self, name: &Name) -> Result<Arc<Service>, String> {
        self.tcp_services.get(name).cloned().ok_or_else(|| {
            self.refusal(Kind::TcpService, name).unwrap_or_else(|| {
                let known = self.tcp_services.keys().map(ToString::to_string).collect::<Vec<_>>();
                missing("service", name, known.iter().map(String::as_str))
            })
        })
    }

    fn transport(&self, reference: Option<&str>, provider: &str) -> Result<ServersTransport, String> {
        let Some(reference) = reference else { return Ok(self.input.install.servers_transport.clone()) };
        let name = Name::resolve(reference, provider);
        self.definitions(name.provider())
            .and_then(|definitions| definitions.servers_transports.get(name.name()))
            .cloned()
            .ok_or_else(|| format!("servers transport not found {name}"))
    }

    fn declared_weighted(&self) -> impl Iterator<Item = (Name, &[(String, u32)])> {
        self.input.provided.iter().flat_map(|(provider, provided)| {
            provided.definitions.services.iter().filter_map(move |(name, declared)| match &declared.kind {
                ServiceKind::Weighted(targets) => Some((Name::new(name.as_str(), Arc::clone(provider)), targets.as_slice())),
                ServiceKind::LoadBalancer(_) => None,
            })
        })
    }

    /// The target of a weighted service, whatever the order in which services refer to each other.
    fn weighted(&self, name: &Name, depth: usize) -> Result<Target, String> {
        if depth > DEPTH_MAX {
            return Err("weighted services contain themselves".to_owned());
        }
        let Some(targets) = self.declared_weighted().find(|(declared, _)| declared == name).map(|(_, targets)| targets.to_vec())
        else {
            return self.service(name);
        };
        let mut turns = Vec::new();
        for (reference, weight) in targets {
            turns.push((self.weighted(&Name::resolve(&reference, name.provider()), depth + 1)?, weight));
        }
        Ok(Target::Weighted(Arc::new(Weighted::new(turns))))
    }

    fn service(&self, name: &Name) -> Result<Target, String> {
        if name.provider() == INTERNAL {
            return match (name.name(), Internal::find(name.name(), self.input.install)) {
                ("noop", _) => Ok(Target::Nobody),
                (_, Some(internal)) => Ok(Target::Internal(internal)),
                (_, None) => Err(missing(
                    "service",
                    name,
                    ["api@internal", "dashboard@internal", "ping@internal", "prometheus@internal"].into_iter(),
                )),
            };
        }
        match self.services.get(name) {
            Some(target) => target.clone(),
            None => Err(self.refusal(Kind::Service, name).unwrap_or_else(|| {
                let known = self.services.keys().map(ToString::to_string).collect::<Vec<_>>();
                missing("service", name, known.iter().map(String::as_str))
            })),
        }
    }
}

/// Routers.
impl Work<'_> {
    /// Where an entrypoint has middlewares or TLS of its own, a router with several entrypoints becomes one of its own there,
    /// named `ENTRYPOINT-ROUTER` as in Traefik.
    fn compile_router(&mut self, name: &Name, declared: &Router, options: &CompiledOptions) {
        let (own, shared): (Vec<String>, Vec<String>) = match declared.entrypoints.as_slice() {
            [] | [_] => (Vec::new(), declared.entrypoints.clone()),
            several => several.iter().cloned().partition(|entrypoint| self.has_model(entrypoint)),
        };
        for entrypoint in &own {
            let name = Name::new(format!("{entrypoint}-{}", name.name()), name.provider());
            self.compile_one(&name, &Router { entrypoints: vec![entrypoint.clone()], ..declared.clone() }, options);
        }
        if own.is_empty() || !shared.is_empty() {
            self.compile_one(name, &Router { entrypoints: shared, ..declared.clone() }, options);
        }
    }

    fn has_model(&self, entrypoint: &str) -> bool {
        let mut all = self.input.entrypoints.iter();
        let found = all.find(|candidate| candidate.name.eq_ignore_ascii_case(entrypoint));
        found.is_some_and(|found| !found.settings.middlewares.is_empty() || found.settings.tls.is_some())
    }

    fn compile_one(&mut self, name: &Name, declared: &Router, options: &CompiledOptions) {
        let mut errors = Vec::new();
        let entrypoints = self.entrypoints_of(&declared.entrypoints, &mut errors);
        let is_detached = entrypoints.is_empty();
        let warnings = errors.len();
        if let Some((tree, matcher, target)) = self.route_parts(name, declared, &mut errors) {
            for index in entrypoints {
                if let Err(reason) = self.add_route(name, declared, (&tree, &matcher, &target), options, index)
                    && !errors.contains(&reason)
                {
                    errors.push(reason);
                }
            }
        }
        let is_disabled = is_detached || errors.len() > warnings;
        self.complain("router", name, &declared.at, &errors, is_disabled);
        let status = status(is_disabled, &errors);
        let (shown, links) = self.shown_entrypoints(&declared.entrypoints);
        let definition = Some(self.completed(name, declared, shown, !is_detached));
        self.report.routers.insert(name.clone(), Reported { definition, status, errors, links });
    }

    /// A router as it is in effect: with the entrypoints it got, its priority, and every middleware by its full name.
    fn completed(&self, name: &Name, declared: &Router, entrypoints: Vec<String>, is_attached: bool) -> Router {
        let full = |reference: &String| Name::resolve(reference, name.provider()).to_string();
        let model = match entrypoints.as_slice() {
            [only] => self.input.entrypoints.iter().find(|entrypoint| entrypoint.name.eq_ignore_ascii_case(only)),
            _ => None,
        };
        let before = model.iter().flat_map(|entrypoint| &entrypoint.settings.middlewares);
        Router {
            middlewares: before.chain(&declared.middlewares).map(full).collect(),
            priority: if is_attached { priority_in_effect(declared.priority, &declared.rule) } else { declared.priority },
            tls: declared
                .tls
                .clone()
                .or_else(|| model.and_then(|entrypoint| entrypoint.settings.tls.as_ref()).map(of_entrypoint)),
            entrypoints,
            ..declared.clone()
        }
    }

    /// The entrypoints a router is attached to: those it names, else the default ones.
    pub(super) fn entrypoints_of(&self, named: &[String], errors: &mut Vec<String>) -> Vec<usize> {
        let all = self.input.entrypoints;
        if named.is_empty() {
            let has_default = all.iter().any(|entrypoint| entrypoint.settings.as_default);
            let is_default = |entrypoint: &&Arc<Entrypoint>| {
                if has_default { entrypoint.settings.as_default } else { &*entrypoint.name != "traefik" }
            };
            return all.iter().filter(is_default).map(|entrypoint| entrypoint.index).collect();
        }
        let mut found = Vec::new();
        for name in named {
            match all.iter().find(|entrypoint| entrypoint.name.eq_ignore_ascii_case(name)) {
                Some(entrypoint) => found.push(entrypoint.index),
                None => {
                    let near = nearest(name, all.iter().map(|entrypoint| &*entrypoint.name));
                    let hint = near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
                    errors.push(format!("entryPoint \"{name}\" doesn't exist{hint}"));
                }
            }
        }
        if found.is_empty() {
            errors.push("no valid entryPoint for this router".to_owned());
        }
        found
    }

    /// The entrypoints as the API shows them: those declared (the default ones, if none are), and sorted those that there are.
    pub(super) fn shown_entrypoints(&self, named: &[String]) -> (Vec<String>, Vec<String>) {
        let indexes = self.entrypoints_of(named, &mut Vec::new());
        let found = indexes.into_iter().filter_map(|index| self.input.entrypoints.get(index));
        let mut using: Vec<String> = found.map(|entrypoint| entrypoint.name.to_string()).collect();
        let shown = if named.is_empty() { using.clone() } else { named.to_vec() };
        using.sort();
        (shown, using)
    }

    fn route_parts(
        &mut self,
        name: &Name,
        declared: &Router,
        errors: &mut Vec<String>,
    ) -> Option<(rule::Tree, rule::http::Matcher, Target)> {
        let rule = rule::parse(&declared.rule).and_then(|tree| rule::http::compile(&tree).map(|matcher| (tree, matcher)));
        let target = self.service(&Name::resolve(&declared.service, name.provider()));
        match (rule, target) {
            (Ok((tree, matcher)), Ok(target)) => {
                self.complain("router", name, &declared.at, &tree.doubts(), false);
                Some((tree, matcher, target))
            }
            (rule, target) => {
                errors.extend(rule.err().map(|error| format!("invalid rule {}: {error}", declared.rule)));
                errors.extend(target.err());
                None
            }
        }
    }

    /// Puts a route into one entrypoint's table.
    fn add_route(
        &mut self,
        name: &Name,
        declared: &Router,
        (tree, matcher, target): (&rule::Tree, &rule::http::Matcher, &Target),
        options: &CompiledOptions,
        index: usize,
    ) -> Result<(), String> {
        let Some(entrypoint) = self.input.entrypoints.get(index) else { return Ok(()) };
        let mut middlewares = self.flatten(&entrypoint.settings.middlewares, name.provider(), 0)?;
        middlewares.extend(self.flatten(&declared.middlewares, name.provider(), 0)?);
        let tls = declared.tls.clone().or_else(|| entrypoint.settings.tls.as_ref().map(of_entrypoint));
        let route = Arc::new(Route {
            name: name.clone(),
            label: name.to_string().into(),
            chain: Chain::new(middlewares),
            target: target.clone(),
            access_logs: declared.access_logs,
            metrics: if declared.metrics {
                self.input.metrics.router(&name.to_string(), &Name::resolve(&declared.service, name.provider()).to_string())
            } else {
                None
            },
        });
        let priority = if declared.priority == 0 { tree.default_priority() } else { declared.priority };
        let entry = Entry { matcher: matcher.clone(), priority, name: name.clone(), value: route };
        let Some(tls) = tls else {
            self.plain[index].push(entry);
            return Ok(());
        };
        self.settle_tls(name, &tls, tree, options, index)?;
        self.secure[index].push(entry);
        Ok(())
    }

    /// Notes the TLS options and certificates that a router asks for.
    fn settle_tls(
        &mut self,
        name: &Name,
        tls: &RouterTls,
        tree: &rule::Tree,
        options: &CompiledOptions,
        index: usize,
    ) -> Result<(), String> {
        let named = tls
            .options
            .as_deref()
            .filter(|options| *options != DEFAULT_OPTIONS)
            .map(|options| Name::resolve(options, name.provider()));
        if let Some(connections) = self.connections.get_mut(index) {
            // Options that nobody declared refuse their host's handshakes, as in Traefik.
            connections.add_https(name, tree.hosts(), named.as_ref());
        }
        if let Some(named) = named.filter(|named| options.get(&named.to_string()).is_none()) {
            return Err(format!("unknown TLS options: {named}"));
        }
        self.want_certificates(name, tls, tree);
        Ok(())
    }

    /// Notes the certificates that a router asks for.
    pub(super) fn want_certificates(&mut self, name: &Name, tls: &RouterTls, tree: &rule::Tree) {
        let Some(resolver) = &tls.resolver else { return };
        if !self.input.install.resolvers.contains_key(resolver) {
            let near = nearest(resolver, self.input.install.resolvers.keys().map(String::as_str));
            let hint = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            let text = format!(
                "router `{name}` uses a nonexistent certificate resolver `{resolver}`{hint}; it is served with the default certificate"
            );
            self.problems.push(Problem { at: None, ..Problem::warning(&At::default(), text) });
            return;
        }
        let domains = if tls.domains.is_empty() {
            tree.hosts().into_iter().filter(|host| !host.contains('*')).map(|main| Domain { main, sans: Vec::new() }).collect()
        } else {
            tls.domains.clone()
        };
        self.wanted.extend(domains.into_iter().map(|domain| WantedCertificate { resolver: resolver.clone(), domain }));
    }
}

/// The end.
impl Work<'_> {
    /// Shows what providers refused among the objects, disabled, and lets nothing of it serve.
    fn refuse_declared(&mut self) {
        for (provider, provided) in self.input.provided {
            for refused in &provided.definitions.refused {
                let name = Name::new(refused.name.as_str(), Arc::clone(provider));
                let reason = refused.reason.clone();
                match refused.kind {
                    Kind::Router => drop(self.report.routers.insert(name, Reported::refused(reason))),
                    Kind::Service => drop(self.report.services.insert(name, Reported::refused(reason))),
                    Kind::Middleware => drop(self.report.middlewares.insert(name, Reported::refused(reason))),
                    Kind::TcpRouter => drop(self.report.tcp_routers.insert(name, Reported::refused(reason))),
                    Kind::TcpService => drop(self.report.tcp_services.insert(name, Reported::refused(reason))),
                    Kind::TcpMiddleware => drop(self.report.tcp_middlewares.insert(name, Reported::refused(reason))),
                }
            }
        }
    }

    fn finish(mut self, options: &CompiledOptions) -> Compiled {
        self.report_services();
        self.report_middlewares();
        let mut problems = std::mem::take(&mut self.problems);
        let connections: Vec<EntrypointRoutes> =
            self.connections.into_iter().map(|connections| connections.finish(options, &mut problems)).collect();
        let tables = self.plain.into_iter().zip(self.secure).zip(&connections).map(|((plain, secure), connections)| Table {
            http: RouteTable::build(plain),
            https: RouteTable::build(secure),
            tls: connections.https.as_ref().map(|https| https.table.clone()),
        });
        let snapshot = Snapshot {
            generation: self.input.generation,
            tables: tables.collect(),
            services: self.live,
            tcp_services: self.tcp_services,
            report: self.report,
        };
        Compiled { snapshot, connections, wanted: self.wanted, problems }
    }

    fn report_services(&mut self) {
        let of_service = |router: &Router| vec![router.service.clone()];
        let (users, tcp_users) =
            (users(&self.report.routers, of_service), users(&self.report.tcp_routers, |router| vec![router.service.clone()]));
        for (provider, provided) in self.input.provided {
            for (name, declared) in &provided.definitions.services {
                let name = Name::new(name.as_str(), Arc::clone(provider));
                let errors: Vec<String> =
                    self.services.get(&name).and_then(|target| target.as_ref().err().cloned()).into_iter().collect();
                let links = users.get(&name).cloned().unwrap_or_default();
                let mut definition = declared.clone();
                if let ServiceKind::LoadBalancer(LoadBalancer { servers_transport: Some(transport), .. }) = &mut definition.kind {
                    *transport = Name::resolve(transport, provider).to_string();
                }
                let reported =
                    Reported { definition: Some(definition), status: status(!errors.is_empty(), &errors), errors, links };
                self.report.services.insert(name, reported);
            }
            for (name, declared) in &provided.definitions.tcp_services {
                let name = Name::new(name.as_str(), Arc::clone(provider));
                let links = tcp_users.get(&name).cloned().unwrap_or_default();
                self.report.tcp_services.insert(name, Reported { links, ..Reported::new(declared.clone()) });
            }
        }
        for (name, links) in users.into_iter().filter(|(name, _)| name.provider() == INTERNAL) {
            self.report.services.insert(name, Reported { links, ..Reported::internal() });
        }
    }

    fn report_middlewares(&mut self) {
        let users = users(&self.report.routers, |router| router.middlewares.clone());
        for (provider, provided) in self.input.provided {
            for (name, declared) in &provided.definitions.middlewares {
                let name = Name::new(name.as_str(), Arc::clone(provider));
                let mut errors: Vec<String> =
                    self.middlewares.get(&name).and_then(|compiled| compiled.as_ref().err().cloned()).into_iter().collect();
                if let MiddlewareKind::Chain { middlewares } = &declared.kind {
                    errors.extend(self.flatten(middlewares, provider, 0).err());
                }
                let links = users.get(&name).cloned().unwrap_or_default();
                let mut definition = declared.clone();
                if let MiddlewareKind::Chain { middlewares } = &mut definition.kind {
                    middlewares.iter_mut().for_each(|inner| *inner = Name::resolve(inner, provider).to_string());
                }
                let reported =
                    Reported { definition: Some(definition), status: status(!errors.is_empty(), &errors), errors, links };
                self.report.middlewares.insert(name, reported);
            }
        }
        for (name, reported) in self.report.middlewares.iter_mut().filter(|(name, _)| name.provider() == INTERNAL) {
            reported.links = users.get(name).cloned().unwrap_or_default();
        }
    }
}

/// By what they refer to, the routers that do, by full name and each once.
fn users<R>(routers: &BTreeMap<Name, Reported<R>>, uses: impl Fn(&R) -> Vec<String>) -> BTreeMap<Name, Vec<String>> {
    let mut users: BTreeMap<Name, Vec<String>> = BTreeMap::new();
    for (name, router) in routers {
        let used: BTreeSet<Name> =
            router.definition.iter().flat_map(&uses).map(|reference| Name::resolve(&reference, name.provider())).collect();
        for used in used {
            users.entry(used).or_default().push(name.to_string());
        }
    }
    users.values_mut().for_each(|users| users.sort());
    users
}

/// The priority that a router has: the length of its rule unless it says one. Also of a rule that cannot be read.
pub(super) fn priority_in_effect(declared: i64, rule: &str) -> i64 {
    match rule::parse(rule) {
        _ if declared != 0 => declared,
        Ok(tree) => tree.default_priority(),
        Err(_) => i64::try_from(rule.len()).unwrap_or(i64::MAX),
    }
}

/// What an entrypoint's TLS means for its routers.
fn of_entrypoint(tls: &EntrypointTls) -> RouterTls {
    RouterTls { options: tls.options.clone(), resolver: tls.resolver.clone(), domains: tls.domains.clone(), passthrough: false }
}

pub(super) fn status(is_disabled: bool, errors: &[String]) -> Status {
    match (is_disabled, errors.is_empty()) {
        (true, _) => Status::Disabled,
        (false, false) => Status::Warning,
        (false, true) => Status::Enabled,
    }
}
