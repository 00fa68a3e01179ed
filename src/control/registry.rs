//! The long-lived objects, by identity. Only control has it; requests reach the objects through snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock;
use crate::config::dynamic::LoadBalancer;
use crate::config::install::ServersTransport;
use crate::names::Name;
use crate::observe::metrics::Metrics;
use crate::routing::service::{Service, Settings};

/// Whether a service is an HTTP or a TCP one: their names are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    Http,
    Tcp,
}

/// All services that any provider declares.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<(Layer, Name), Arc<Service>>,
}

impl Registry {
    /// The HTTP service of that name with its present settings: the one we have, or a new one without servers.
    pub fn http(&mut self, name: &Name, declared: &LoadBalancer, transport: ServersTransport, metrics: &Metrics) -> Arc<Service> {
        let settings = Settings {
            strategy: declared.strategy,
            pass_host_header: declared.pass_host_header,
            transport,
            health_check: declared.health_check.clone().map(Arc::new),
            rollout: declared.rollout.clone(),
            metrics: Some(metrics.service(&name.to_string())),
            ..Settings::default()
        };
        self.service(Layer::Http, name, settings)
    }

    /// The TCP service of that name.
    pub fn tcp(&mut self, name: &Name) -> Arc<Service> {
        self.service(Layer::Tcp, name, Settings::default())
    }

    fn service(&mut self, layer: Layer, name: &Name, settings: Settings) -> Arc<Service> {
        if let Some(service) = self.services.get(&(layer, name.clone())) {
            service.configure(settings);
            return Arc::clone(service);
        }
        let service = Arc::new(Service::new(name.clone(), settings, clock::now()));
        self.services.insert((layer, name.clone()), Arc::clone(&service));
        service
    }

    /// A service that is there.
    pub fn find(&self, layer: Layer, name: &Name) -> Option<&Arc<Service>> {
        self.services.get(&(layer, name.clone()))
    }

    /// Forgets the services that `is_wanted` does not know. Requests under way keep theirs until they end.
    pub fn retain(&mut self, is_wanted: impl Fn(Layer, &Name) -> bool) {
        self.services.retain(|(layer, name), _| is_wanted(*layer, name));
    }
}
