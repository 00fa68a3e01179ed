//! `http.routers.*` and what it shares with `tcp.routers.*`.

use super::decode::{Source, Unusable};
use super::shape::{items, switch};
use super::{Domain, Router, RouterTls, TcpRouter};
use crate::config::node::Fields;
use crate::config::problem::{At, Problem, Problems};

/// Priorities above it are kept for routers that are not the user's (Traefik's MaxInt - 1000).
const PRIORITY_MAX: i64 = i64::MAX - 1000;

/// Reads one HTTP router.
pub(super) fn read(fields: &mut Fields<'_>, source: Source, problems: &mut Problems) -> Result<Router, Unusable> {
    let common = Common::read(fields, problems);
    let mut router = Router {
        entrypoints: common.entrypoints,
        rule: common.rule,
        service: common.service,
        middlewares: common.middlewares,
        priority: common.priority,
        tls: tls(fields, problems),
        access_logs: true,
        metrics: true,
        at: At::default(),
    };
    if let Some(mut observability) = switch(fields, "observability") {
        router.access_logs = observability.bool("accessLogs", problems).unwrap_or(true);
        router.metrics = observability.bool("metrics", problems).unwrap_or(true);
        // Without tracing there is nothing to switch; that tracing is missing is said where it is configured.
        observability.bool("tracing", problems);
        observability.string("traceVerbosity", problems);
        observability.finish(problems);
    }
    common.syntax?;
    check_priority(router.priority)?;
    if source == Source::File && router.rule.is_empty() {
        return Err("it has no rule".to_owned());
    }
    if source == Source::File && router.service.is_empty() {
        return Err("it names no service".to_owned());
    }
    Ok(router)
}

/// Reads one TCP router. In tags too a rule is wanted: only HTTP has a default one.
pub(super) fn read_tcp(fields: &mut Fields<'_>, source: Source, problems: &mut Problems) -> Result<TcpRouter, Unusable> {
    let common = Common::read(fields, problems);
    let router = TcpRouter {
        entrypoints: common.entrypoints,
        rule: common.rule,
        service: common.service,
        middlewares: common.middlewares,
        priority: common.priority,
        tls: tls_tcp(fields, problems),
        at: At::default(),
    };
    common.syntax?;
    check_priority(router.priority)?;
    if router.rule.is_empty() {
        return Err("it has no rule".to_owned());
    }
    if source == Source::File && router.service.is_empty() {
        return Err("it names no service".to_owned());
    }
    Ok(router)
}

/// What both kinds of routers have.
struct Common {
    entrypoints: Vec<String>,
    rule: String,
    service: String,
    middlewares: Vec<String>,
    priority: i64,
    syntax: Result<(), Unusable>,
}

impl Common {
    fn read(fields: &mut Fields<'_>, problems: &mut Problems) -> Self {
        let syntax = match fields.string("ruleSyntax", problems).as_deref() {
            None | Some("" | "default" | "v3") => Ok(()),
            Some(other) => Err(format!("rules in the syntax `{other}` are not supported, only `v3` is")),
        };
        Self {
            entrypoints: fields.strings("entryPoints", problems).unwrap_or_default(),
            rule: fields.string("rule", problems).unwrap_or_default(),
            service: fields.string("service", problems).unwrap_or_default(),
            middlewares: fields.strings("middlewares", problems).unwrap_or_default(),
            priority: fields.parsed("priority", "a whole number", problems).unwrap_or(0),
            syntax,
        }
    }
}

fn check_priority(priority: i64) -> Result<(), Unusable> {
    if priority > PRIORITY_MAX {
        return Err(format!("its priority {priority} is above the highest allowed, {PRIORITY_MAX}"));
    }
    Ok(())
}

fn tls(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<RouterTls> {
    let mut fields = switch(fields, "tls")?;
    let tls = tls_fields(&mut fields, problems);
    fields.finish(problems);
    Some(tls)
}

fn tls_tcp(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<RouterTls> {
    let mut fields = switch(fields, "tls")?;
    let mut tls = tls_fields(&mut fields, problems);
    tls.passthrough = fields.bool("passthrough", problems).unwrap_or(false);
    fields.finish(problems);
    Some(tls)
}

fn tls_fields(fields: &mut Fields<'_>, problems: &mut Problems) -> RouterTls {
    let mut tls = RouterTls {
        options: fields.string("options", problems).filter(|name| !name.is_empty()),
        resolver: fields.string("certResolver", problems).filter(|name| !name.is_empty()),
        ..RouterTls::default()
    };
    for mut item in items(fields, "domains", problems) {
        let at = item.node().at.clone();
        let domain = Domain {
            main: item.string("main", problems).unwrap_or_default(),
            sans: item.strings("sans", problems).unwrap_or_default(),
        };
        let path = item.path("main");
        item.finish(problems);
        if domain.main.is_empty() && domain.sans.is_empty() {
            problems.push(Problem::warning(&at, format!("`{path}` is missing, the domain is ignored")));
            continue;
        }
        tls.domains.push(domain);
    }
    tls
}
