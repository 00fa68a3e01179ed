//! The routes that nobody declares: what entrypoints redirect, and ping, API, dashboard and metrics.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compile::{INTERNAL, Work};
use crate::config::dynamic::{self, MiddlewareKind, Router};
use crate::config::install::Redirection;
use crate::config::problem::{At, Problem};
use crate::middleware::{self, Chain, Compiled as CompiledMiddleware, Middleware};
use crate::names::Name;
use crate::routing::report::Reported;
use crate::routing::snapshot::{Internal, Route, Target};
use crate::routing::table::Entry;
use crate::rule;

/// Go's MaxInt, the priority of routers that nobody may beat.
const PRIORITY_TOP: i64 = i64::MAX;
/// The rule of what an entrypoint redirects.
const ANY_HOST: &str = "HostRegexp(`^.+$`)";
/// What answers challenges.
const ACME_HTTP: &str = "acme-http";
/// Traefik's middlewares in front of the dashboard.
const DASHBOARD_REDIRECT: &str = "dashboard_redirect";
const DASHBOARD_STRIP: &str = "dashboard_stripprefix";

impl Work<'_> {
    /// `http.redirections.entryPoint`: everything that is not asked for with a higher priority goes to another entrypoint.
    pub(super) fn add_redirections(&mut self) {
        for entrypoint in self.input.entrypoints {
            let Some(redirection) = &entrypoint.settings.redirection else { continue };
            let name = Name::new(format!("{}-to-{}", entrypoint.name, redirection.to.trim_start_matches(':')), INTERNAL);
            let kind = MiddlewareKind::RedirectScheme {
                scheme: redirection.scheme.clone(),
                port: self.redirection_port(redirection),
                permanent: redirection.permanent,
            };
            let compiled = middleware::compile(&kind, &|path| std::fs::read_to_string(path)).map_err(|error| error.to_string());
            let rule = rule::parse(ANY_HOST).and_then(|tree| rule::http::compile(&tree)).map_err(|error| error.to_string());
            match (rule, compiled) {
                (Ok(matcher), Ok(CompiledMiddleware::Single(middleware))) => {
                    let value = internal_route(&name, vec![Arc::new(middleware)], Target::Nobody);
                    let redirects = format!("redirect-{}@{INTERNAL}", name.name());
                    self.report.middlewares.insert(Name::resolve(&redirects, INTERNAL), Reported::new(declared(kind)));
                    let router = internal_router(&entrypoint.name, "noop", ANY_HOST, redirection.priority, vec![redirects]);
                    self.report_internal(&name, router);
                    self.plain[entrypoint.index].push(Entry { matcher, priority: redirection.priority, name, value });
                }
                (Ok(_), Ok(CompiledMiddleware::Chain(_))) => {}
                (Err(reason), _) | (_, Err(reason)) => {
                    let text = format!("redirection of `{}`: {reason}", entrypoint.name);
                    self.problems.push(Problem { at: None, ..Problem::error(&At::default(), text) });
                }
            }
        }
    }

    /// The port of the entrypoint that a redirection leads to, or the port it names.
    fn redirection_port(&self, redirection: &Redirection) -> Option<String> {
        let target = self.input.entrypoints.iter().find(|entrypoint| entrypoint.name.eq_ignore_ascii_case(&redirection.to));
        let address = target.map_or(redirection.to.as_str(), |entrypoint| entrypoint.settings.address.as_str());
        address.rsplit_once(':').map(|(_, port)| port.to_owned())
    }

    /// Ping, API, dashboard and metrics on the entrypoints that the install configuration gives them.
    pub(super) fn add_internal_routes(&mut self) {
        let install = self.input.install;
        if let Some(ping) = install.ping.as_ref().filter(|ping| !ping.manual_routing) {
            self.add_internal(&ping.entrypoint, "ping", "PathPrefix(`/ping`)", PRIORITY_TOP, Internal::Ping);
        }
        if let Some(prometheus) = install.prometheus.as_ref().filter(|prometheus| !prometheus.manual_routing) {
            self.add_internal(&prometheus.entrypoint, "prometheus", "PathPrefix(`/metrics`)", PRIORITY_TOP, Internal::Prometheus);
        }
        let challenged: BTreeSet<&String> =
            install.resolvers.values().filter_map(|acme| acme.http_challenge_entrypoint.as_ref()).collect();
        if let Some(first) = challenged.first() {
            // Only shown: challenges are answered before any route is looked for.
            let rule = "PathPrefix(`/.well-known/acme-challenge/`)";
            let mut router = internal_router(first, ACME_HTTP, rule, PRIORITY_TOP, Vec::new());
            router.entrypoints = challenged.into_iter().cloned().collect();
            self.report_internal(&Name::new(ACME_HTTP, INTERNAL), router);
        }
        if let Some(api) = install.api.as_ref().filter(|api| api.insecure) {
            let base = api.base_path.trim_end_matches('/');
            self.add_internal("traefik", "api", &format!("PathPrefix(`{base}/api`)"), PRIORITY_TOP - 1, Internal::Api);
            if api.dashboard {
                self.report_dashboard(base);
                self.add_internal("traefik", "dashboard", "PathPrefix(`/`)", PRIORITY_TOP - 2, Internal::Dashboard);
            }
        }
    }

    fn add_internal(&mut self, entrypoint: &str, name: &str, rule: &str, priority: i64, internal: Internal) {
        let found = self.input.entrypoints.iter().find(|candidate| candidate.name.eq_ignore_ascii_case(entrypoint));
        let Some(found) = found else {
            let text = format!("entryPoint \"{entrypoint}\" doesn't exist, so `{name}@internal` is served nowhere");
            self.problems.push(Problem { at: None, ..Problem::warning(&At::default(), text) });
            return;
        };
        if let Ok(matcher) = rule::parse(rule).and_then(|tree| rule::http::compile(&tree)) {
            let middlewares = match internal {
                Internal::Dashboard => vec![format!("{DASHBOARD_REDIRECT}@{INTERNAL}"), format!("{DASHBOARD_STRIP}@{INTERNAL}")],
                Internal::Ping | Internal::Api | Internal::Prometheus => Vec::new(),
            };
            let router = internal_router(&found.name, name, rule, priority, middlewares);
            let name = Name::new(name, INTERNAL);
            self.report_internal(&name, router);
            let value = internal_route(&name, Vec::new(), Target::Internal(internal));
            self.plain[found.index].push(Entry { matcher, priority, name, value });
        }
    }

    /// Shows a router of our own.
    fn report_internal(&mut self, name: &Name, router: Router) {
        let links = router.entrypoints.clone();
        self.report.routers.insert(name.clone(), Reported { links, ..Reported::new(router) });
    }

    /// What the dashboard's router has in Traefik; here the dashboard does it itself.
    fn report_dashboard(&mut self, base: &str) {
        let redirect = MiddlewareKind::RedirectRegex {
            regex: format!(r"^(http:\/\/(\[[\w:.]+\]|[\w\._-]+)(:\d+)?)\{base}/$"),
            replacement: format!("${{1}}{base}/dashboard/"),
            permanent: true,
        };
        let strip = MiddlewareKind::StripPrefix { prefixes: vec![format!("{base}/dashboard/"), format!("{base}/dashboard")] };
        for (name, kind) in [(DASHBOARD_REDIRECT, redirect), (DASHBOARD_STRIP, strip)] {
            self.report.middlewares.insert(Name::new(name, INTERNAL), Reported::new(declared(kind)));
        }
    }
}

fn declared(kind: MiddlewareKind) -> dynamic::Middleware {
    dynamic::Middleware { kind, at: At::default() }
}

/// One of our own routers as the API shows it.
fn internal_router(entrypoint: &str, service: &str, rule: &str, priority: i64, middlewares: Vec<String>) -> Router {
    Router {
        entrypoints: vec![entrypoint.to_owned()],
        rule: rule.to_owned(),
        service: format!("{service}@{INTERNAL}"),
        middlewares,
        priority,
        access_logs: true,
        metrics: true,
        ..Router::default()
    }
}

fn internal_route(name: &Name, middlewares: Vec<Arc<Middleware>>, target: Target) -> Arc<Route> {
    Arc::new(Route {
        name: name.clone(),
        label: name.to_string().into(),
        chain: Chain::new(middlewares),
        target,
        access_logs: true,
        metrics: None,
    })
}
