//! What one list of tags declares, with everything filled in that Traefik implies: the only service, the default router, the
//! default rule. Instances with equal tags share one of these.

use std::collections::{BTreeMap, BTreeSet};

use super::template::{Facts, normalize};
use super::track::Said;
use super::{Instance, TranslateSettings, rollout_tags, track};
use crate::config::dynamic::decode::{self, Labelled};
use crate::config::dynamic::labels::{self, Labels};
use crate::config::dynamic::server::ServerTemplate;
use crate::config::dynamic::{Definitions, Kind, LoadBalancer, Refused, Router, Scheme, Service, ServiceKind, TcpService};
use crate::config::node::Node;
use crate::config::problem::{At, Problem, Problems};

/// What one list of tags declares.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    /// Whether the instance is to be served at all.
    pub(super) is_exposed: bool,
    /// Complete: every router has a rule and a service.
    pub(super) definitions: Definitions,
    /// Where the servers are, by service.
    pub(super) http: BTreeMap<String, ServerTemplate>,
    /// The same of `tcp`.
    pub(super) tcp: BTreeMap<String, ServerTemplate>,
    /// As written, to tell users what differs.
    pub(super) tree: Node,
    /// The HTTP routers that got their service because it was the only one.
    pub(super) implied: BTreeSet<String>,
    /// What the tags say of version and track.
    pub(super) said: Said,
    /// Places are tags, without the instance.
    pub(super) problems: Problems,
    /// Whether Traefik would drop the whole instance.
    pub(super) is_malformed: bool,
}

/// Reads the tags of one instance.
pub(super) fn read(instance: &Instance, settings: &TranslateSettings) -> Declared {
    let mut labels = labels::parse(&instance.tags, &settings.prefix);
    let problems = std::mem::take(&mut labels.problems);
    let mut declared = Declared { problems, is_malformed: labels.is_malformed, ..Declared::default() };
    let fits = settings.constraint.as_ref().is_none_or(|constraint| match constraint {
        Ok(constraint) => constraint.matches(&instance.tags),
        // As in Traefik nothing satisfies an expression that cannot be read; its mistake was named at start.
        Err(_) => false,
    });
    if !labels.enable.unwrap_or(settings.exposed_by_default) || !fits {
        return declared;
    }
    // Without `exposedByDefault` Traefik asks Consul for this very tag; Consul does not heed its case.
    let wanted = format!("{}.enable=true", settings.prefix);
    if !settings.exposed_by_default && !instance.tags.iter().any(|tag| tag.eq_ignore_ascii_case(&wanted)) {
        let message = format!("is not enough for Traefik, which looks for the tag `{wanted}`; the instance is left out");
        let at = At::whole(format!("tag `{}.enable`", settings.prefix));
        declared.problems.push(Problem::warning(&at, message).hint(format!("write `{wanted}`")));
        return declared;
    }
    if labels.is_connect {
        let message = "Consul Connect is not supported yet, the instance is left out";
        declared.problems.push(Problem::error(&At::whole(format!("tag `{}.consulcatalog.connect`", settings.prefix)), message));
        return declared;
    }
    declared.is_exposed = true;
    declared.said = track::of_tags(&instance.tags, &labels, settings);
    let rollout = rollout_tags::read(&instance.tags, &settings.prefix, &mut declared.problems);
    let labelled = decode::labels(&labels.tree);
    Filling { instance, settings, labels: &labels }.fill(&mut declared, labelled, &rollout);
    declared.tree = labels.tree;
    declared
}

/// What is needed to fill in what Traefik implies.
struct Filling<'a> {
    instance: &'a Instance,
    settings: &'a TranslateSettings,
    labels: &'a Labels,
}

impl Filling<'_> {
    fn fill(&self, declared: &mut Declared, labelled: Labelled, rollout: &BTreeMap<String, String>) {
        declared.problems.extend(labelled.problems);
        declared.is_malformed |= labelled.is_malformed;
        declared.definitions = labelled.definitions;
        declared.http = labelled.http;
        declared.tcp = labelled.tcp;
        let is_tcp = self.has("tcp", &["routers", "services"]);
        if is_tcp {
            self.fill_tcp(declared);
        }
        // Whoever speaks of TCP or UDP only wants no HTTP.
        let is_other = is_tcp || self.has("udp", &["routers", "services"]);
        if !is_other || self.has("http", &["routers", "middlewares", "services"]) {
            self.fill_http(declared);
        }
        for service in declared.definitions.services.values_mut() {
            if let ServiceKind::LoadBalancer(balancer) = &mut service.kind {
                balancer.rollout.clone_from(rollout);
            }
        }
    }

    fn fill_tcp(&self, declared: &mut Declared) {
        let names = self.written("tcp", "services");
        let only = self.only_service(&names);
        if names.is_empty() {
            let name = self.own_name();
            declared.definitions.tcp_services.insert(name.clone(), TcpService::default());
            declared.tcp.insert(name, ServerTemplate::plain(Scheme::Tcp));
        }
        let routers = std::mem::take(&mut declared.definitions.tcp_routers);
        for (name, mut router) in routers {
            if router.service.is_empty() {
                let Some(only) = &only else {
                    self.refuse(declared, Kind::TcpRouter, name, several(&names));
                    continue;
                };
                router.service.clone_from(only);
            }
            declared.definitions.tcp_routers.insert(name, router);
        }
    }

    fn fill_http(&self, declared: &mut Declared) {
        let names = self.written("http", "services");
        let only = self.only_service(&names);
        if names.is_empty() {
            let (name, kind) = (self.own_name(), ServiceKind::LoadBalancer(LoadBalancer::default()));
            declared.definitions.services.insert(name.clone(), Service { kind, at: At::default() });
            declared.http.insert(name, ServerTemplate::plain(Scheme::Http));
        }
        let mut routers = std::mem::take(&mut declared.definitions.routers);
        if !self.has("http", &["routers"]) {
            if only.is_some() {
                let router = Router { access_logs: true, metrics: true, ..Router::default() };
                routers.insert(self.own_name(), router);
            } else {
                let message = format!("no router is declared and none is implied: {}", several(&names));
                declared.problems.push(Problem::warning(&At::whole("tags"), message));
            }
        }
        for (name, mut router) in routers {
            match self.complete(&mut router, only.as_ref(), &names) {
                Ok(is_implied) => {
                    if is_implied {
                        declared.implied.insert(name.clone());
                    }
                    declared.definitions.routers.insert(name, router);
                }
                Err(reason) => self.refuse(declared, Kind::Router, name, reason),
            }
        }
    }

    /// Gives a router the default rule and the only service where it has none. `Ok` says whether the service was implied.
    fn complete(&self, router: &mut Router, only: Option<&String>, names: &[&str]) -> Result<bool, String> {
        if router.rule.is_empty() {
            let template = self.settings.default_rule.as_ref().map_err(Clone::clone)?;
            router.rule = template.render(&Facts {
                name: &self.instance.service,
                id: &self.instance.id,
                address: &self.instance.address,
                node: &self.instance.node,
                datacenter: &self.instance.datacenter,
                labels: &self.labels.values,
            });
            if router.rule.is_empty() {
                return Err("it has no rule, and the default rule is empty".to_owned());
            }
        }
        let is_implied = router.service.is_empty();
        if is_implied {
            router.service.clone_from(only.ok_or_else(|| several(names))?);
        }
        Ok(is_implied)
    }

    fn refuse(&self, declared: &mut Declared, kind: Kind, name: String, reason: String) {
        let message = format!("{kind} `{name}` is disabled: {reason}");
        declared.problems.push(Problem::error(&At::whole("tags"), message));
        declared.definitions.refused.push(Refused { kind, name, reason });
    }

    /// The name of the service and the router that nobody named.
    fn own_name(&self) -> String {
        normalize(&self.instance.service)
    }

    /// The service of routers that name none.
    fn only_service(&self, names: &[&str]) -> Option<String> {
        match names {
            [] => Some(self.own_name()),
            [only] => Some((*only).to_owned()),
            _ => None,
        }
    }

    /// The names below a section, also of objects that turned out to be unusable: a bad one must not imply others.
    fn written(&self, section: &str, kind: &str) -> Vec<&str> {
        let objects = self.labels.tree.get(section).and_then(|section| section.get(kind));
        objects.map(Node::entries).unwrap_or_default().iter().map(|entry| entry.key.as_str()).collect()
    }

    fn has(&self, section: &str, kinds: &[&str]) -> bool {
        kinds.iter().any(|kind| !self.written(section, kind).is_empty())
    }
}

fn several(names: &[&str]) -> String {
    format!("it names no service and there are several: {}", names.join(", "))
}
