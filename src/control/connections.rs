//! Compiles what entrypoints do with connections before any request is read: TCP routers, and TLS by name.

use std::collections::{BTreeMap, HashSet};

use super::compile::{Work, priority_in_effect, status};
use crate::config::dynamic::{RouterTls, TcpRouter, TlsOptions};
use crate::config::problem::{At, Problem};
use crate::names::Name;
use crate::routing::report::Reported;
use crate::routing::tcp::{EntrypointRoutes, Https, TcpRoute, TlsRoute};
use crate::rule;
use crate::tls::options::{CompiledOptions, DEFAULT_OPTIONS, HostOptions, TlsChoice};

/// What one entrypoint's TCP routers and TLS hosts come to.
#[derive(Debug, Default)]
pub struct Connections {
    /// TCP routers without TLS with their priorities.
    plain: Vec<(i64, TcpRoute)>,
    /// TCP routers with TLS with their priorities.
    tls: Vec<(i64, TlsRoute)>,
    /// What HTTPS routers want for their hosts.
    hosts: Vec<HostOptions>,
    /// Whether an HTTPS router names no host.
    has_catch_all: bool,
}

impl Connections {
    /// Notes what an HTTPS router wants.
    pub fn add_https(&mut self, router: &Name, hosts: Vec<String>, options: Option<&Name>) {
        self.has_catch_all |= hosts.is_empty();
        let options = options.map_or_else(|| DEFAULT_OPTIONS.to_owned(), ToString::to_string);
        self.hosts.extend(hosts.into_iter().map(|host| HostOptions {
            host,
            options: options.clone(),
            router: router.to_string(),
        }));
    }

    /// The routes in the order of asking. The hosts about which routers disagree are problems.
    pub fn finish(mut self, options: &CompiledOptions, problems: &mut Vec<Problem>) -> EntrypointRoutes {
        let (mut exact, mut wildcards) = (HashSet::new(), HashSet::new());
        for HostOptions { host, .. } in &self.hosts {
            match host.strip_prefix("*.") {
                Some(parent) => wildcards.insert(parent.to_owned()),
                None => exact.insert(host.clone()),
            };
        }
        let (table, conflicts) = options.table(self.hosts);
        for conflict in conflicts {
            let names: Vec<String> = conflict.routers.into_iter().collect();
            let text = format!(
                "routers {} want different TLS options for `{}`, so it gets the default ones",
                names.join(", "),
                conflict.host
            );
            problems.push(Problem { at: None, ..Problem::warning(&At::default(), text) });
        }
        let order = |(left_priority, left): (i64, &TcpRoute), (right_priority, right): (i64, &TcpRoute)| {
            right_priority.cmp(&left_priority).then_with(|| left.name.cmp(&right.name))
        };
        self.plain.sort_by(|left, right| order((left.0, &left.1), (right.0, &right.1)));
        self.tls.sort_by(|left, right| order((left.0, &left.1.route), (right.0, &right.1.route)));
        EntrypointRoutes {
            plain: self.plain.into_iter().map(|(_, route)| route).collect(),
            tls: self.tls.into_iter().map(|(_, route)| route).collect(),
            https: Some(Https { table, exact, wildcards, has_catch_all: self.has_catch_all }),
        }
    }
}

/// All TLS options that providers declare, by `name@provider`; the default ones under their bare name.
pub fn declared_options(work: &Work<'_>) -> BTreeMap<String, TlsOptions> {
    let mut declared = BTreeMap::new();
    for (provider, definitions) in work.all_definitions() {
        for (name, options) in &definitions.tls.options {
            let name = if name == DEFAULT_OPTIONS { name.clone() } else { format!("{name}@{provider}") };
            declared.insert(name, options.clone());
        }
    }
    declared
}

impl Work<'_> {
    /// Compiles one TCP router.
    pub(super) fn compile_tcp_router(&mut self, name: &Name, declared: &TcpRouter, options: &CompiledOptions) {
        let mut errors = Vec::new();
        let entrypoints = self.entrypoints_of(&declared.entrypoints, &mut errors);
        let is_detached = entrypoints.is_empty();
        match self.tcp_parts(name, declared, options) {
            Ok(()) if !is_detached => {
                for index in entrypoints {
                    self.add_tcp_route(name, declared, options, index);
                }
            }
            Ok(()) => {}
            Err(reason) => errors.push(reason),
        }
        let is_disabled = is_detached || errors.len() > usize::from(is_detached);
        self.complain("TCP router", name, &declared.at, &errors, is_disabled);
        let (shown, links) = self.shown_entrypoints(&declared.entrypoints);
        let priority = priority_in_effect(declared.priority, &declared.rule);
        let definition = Some(TcpRouter { entrypoints: shown, priority, ..declared.clone() });
        self.report
            .tcp_routers
            .insert(name.clone(), Reported { definition, status: status(is_disabled, &errors), errors, links });
    }

    /// Whether all that a TCP router refers to is there.
    fn tcp_parts(&self, name: &Name, declared: &TcpRouter, options: &CompiledOptions) -> Result<(), String> {
        let tree = rule::parse(&declared.rule).map_err(|error| format!("invalid rule {}: {error}", declared.rule))?;
        rule::tcp::compile(&tree).map_err(|error| format!("invalid rule {}: {error}", declared.rule))?;
        self.tcp_service(&Name::resolve(&declared.service, name.provider()))?;
        if let Some(middleware) = declared.middlewares.first() {
            return Err(format!("TCP middleware \"{middleware}\" is not supported yet"));
        }
        if let Some(tls) = &declared.tls {
            self.terminate(name, tls, options)?;
        }
        if declared.tls.is_none() && tree.hosts().iter().any(|host| host != "*") {
            return Err("invalid rule: \"HostSNI\" can only match \"*\" without TLS".to_owned());
        }
        Ok(())
    }

    /// How TLS ends here; `Ok(None)` passes it through.
    fn terminate(&self, name: &Name, tls: &RouterTls, options: &CompiledOptions) -> Result<Option<TlsChoice>, String> {
        if tls.passthrough {
            return Ok(None);
        }
        let wanted = match tls.options.as_deref() {
            None | Some(DEFAULT_OPTIONS) => DEFAULT_OPTIONS.to_owned(),
            Some(reference) => Name::resolve(reference, name.provider()).to_string(),
        };
        options.get(&wanted).cloned().map(Some).ok_or_else(|| format!("unknown TLS options: {wanted}"))
    }

    /// Puts a TCP route into one entrypoint. What it refers to was checked before.
    fn add_tcp_route(&mut self, name: &Name, declared: &TcpRouter, options: &CompiledOptions, index: usize) {
        let Ok(service) = self.tcp_service(&Name::resolve(&declared.service, name.provider())) else { return };
        let Ok(tree) = rule::parse(&declared.rule) else { return };
        let Ok(matcher) = rule::tcp::compile(&tree) else { return };
        let priority = if declared.priority == 0 { tree.default_priority() } else { declared.priority };
        let route = TcpRoute { name: name.clone(), matcher, is_catch_all: tree.hosts().is_empty(), service };
        if let Some(tls) = &declared.tls {
            self.want_certificates(name, tls, &tree);
        }
        let terminate = declared.tls.as_ref().map(|tls| self.terminate(name, tls, options));
        let Some(connections) = self.connections.get_mut(index) else { return };
        match terminate {
            None => connections.plain.push((priority, route)),
            Some(Ok(terminate)) => connections.tls.push((priority, TlsRoute { route, terminate })),
            Some(Err(_)) => {}
        }
    }
}
