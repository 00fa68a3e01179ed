//! Counts of everything, in Traefik's shape.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::AdminView;
use crate::names::Name;
use crate::routing::report::{Reported, Status};

/// `/api/overview`.
pub(super) fn overview(view: &AdminView<'_>) -> Value {
    let report = view.report;
    let providers = &view.install.providers;
    let providers: Vec<&str> = [(providers.file.is_some(), "File"), (providers.consul_catalog.is_some(), "ConsulCatalog")]
        .into_iter()
        .filter_map(|(is_used, name)| is_used.then_some(name))
        .collect();
    let none = || section(0, 0, 0);
    let mut overview = json!({
        "http": {
            "routers": count(&report.routers),
            "services": count(&report.services),
            "middlewares": count(&report.middlewares),
        },
        "tcp": {
            "routers": count(&report.tcp_routers),
            "services": count(&report.tcp_services),
            "middlewares": count(&report.tcp_middlewares),
        },
        "udp": { "routers": none(), "services": none() },
        "certificates": certificates(view),
        "features": {
            "tracing": "",
            "metrics": if view.install.prometheus.is_some() { "Prometheus" } else { "" },
            "accessLog": view.install.access_log.is_some(),
        },
    });
    if let Some(overview) = overview.as_object_mut()
        && !providers.is_empty()
    {
        overview.insert("providers".to_owned(), json!(providers));
    }
    overview
}

fn count<D>(objects: &BTreeMap<Name, Reported<D>>) -> Value {
    let of = |status| objects.values().filter(|object| object.status == status).count();
    section(objects.len(), of(Status::Warning), of(Status::Disabled))
}

fn certificates(view: &AdminView<'_>) -> Value {
    let of = |status: &str| view.certificates.iter().filter(|certificate| certificate.status(view.now) == status).count();
    section(view.certificates.len(), of("warning"), of("expired"))
}

fn section(total: usize, warnings: usize, errors: usize) -> Value {
    json!({ "total": total, "warnings": warnings, "errors": errors })
}
