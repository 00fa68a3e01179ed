//! What the embedded catalog knows: registered services and their checks on one node, numbered as Consul numbers them.
//!
//! Every change takes the next index. A question about one service is answered with the index of that service's last
//! change; once it is gone, with that of the last time any service went; a list of everything, with its table's.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// Where Consul's own numbering stands after the start of an agent, about.
const INDEX_START: u64 = 10;
const NODE: &str = "embedded";
const NODE_ADDRESS: &str = "127.0.0.1";

/// A service as `/v1/agent/service/register` takes it.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Registration {
    /// Consul's name of the service.
    pub name: String,
    /// Which instance; the name when empty.
    #[serde(rename = "ID")]
    pub id: String,
    /// Where it listens; the node's address when empty.
    pub address: String,
    /// Where it listens.
    pub port: u16,
    /// As they are.
    pub tags: Vec<String>,
    /// As they are.
    pub meta: BTreeMap<String, String>,
    /// What tells whether it is well. Nothing is run here: a check stays as it is set.
    pub checks: Vec<CheckDefinition>,
    /// The same for one that has only one.
    pub check: Option<CheckDefinition>,
}

/// A check as it is registered with a service.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckDefinition {
    /// Its own name; made from the service's when empty.
    #[serde(rename = "CheckID")]
    pub id: String,
    /// For people.
    pub name: String,
    /// How it begins; `critical` when empty, as in Consul.
    pub status: String,
    /// How it is told that all is well.
    #[serde(rename = "TTL")]
    pub ttl: String,
    /// Connects to this address.
    #[serde(rename = "TCP")]
    pub tcp: String,
    /// Asks this URL.
    #[serde(rename = "HTTP")]
    pub http: String,
    /// How often.
    pub interval: String,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Consul's")]
pub enum Status {
    Passing,
    Warning,
    Critical,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// See the module.
pub(super) struct Store {
    index: u64,
    /// By id.
    instances: BTreeMap<String, Instance>,
    /// The last change of each service that exists.
    service_index: BTreeMap<String, u64>,
    /// The last time a service's last instance went.
    extinction_index: Option<u64>,
    services_index: u64,
    checks_index: u64,
}

struct Instance {
    registration: Registration,
    create_index: u64,
    modify_index: u64,
    checks: Vec<Check>,
}

struct Check {
    definition: CheckDefinition,
    status: String,
    output: String,
    create_index: u64,
    modify_index: u64,
}

/// An answer's body and index.
pub(super) type Told = (Value, u64);

impl Store {
    /// One node, and on it Consul itself.
    pub(super) fn new() -> Self {
        let mut store = Self {
            index: INDEX_START,
            instances: BTreeMap::new(),
            service_index: BTreeMap::new(),
            extinction_index: None,
            services_index: INDEX_START,
            checks_index: INDEX_START,
        };
        let consul = Registration { name: "consul".to_owned(), port: 8300, ..Registration::default() };
        // Consul's own entry is well formed.
        _ = store.register(consul);
        store
    }

    /// Registers an instance, or registers it anew; a check that stays keeps its status. The same again changes nothing.
    pub(super) fn register(&mut self, mut registration: Registration) -> Result<(), String> {
        if registration.name.is_empty() {
            return Err("Missing service name".to_owned());
        }
        registration.checks.extend(registration.check.take());
        if registration.id.is_empty() {
            registration.id.clone_from(&registration.name);
        }
        name_checks(&mut registration);
        for check in &registration.checks {
            if !(check.tcp.is_empty() && check.http.is_empty()) && check.interval.is_empty() {
                return Err("Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks".to_owned());
            }
        }
        let old = self.instances.get(&registration.id);
        if old.is_some_and(|old| old.registration == registration) {
            return Ok(());
        }
        if old.is_some_and(|old| old.registration.name != registration.name) {
            self.deregister(&registration.id.clone());
        }
        let index = self.next_index();
        let old = self.instances.remove(&registration.id);
        let mut kept = old.as_ref().map(|old| old.create_index).unwrap_or(index);
        let mut old_checks = old.map(|old| old.checks).unwrap_or_default();
        let take_old = |definition: &CheckDefinition| {
            let place = old_checks.iter().position(|check| check.definition.id == definition.id)?;
            Some(old_checks.swap_remove(place))
        };
        let checks = begin_checks(&registration, index, take_old);
        self.service_index.insert(registration.name.clone(), index);
        self.services_index = index;
        if !checks.is_empty() || !old_checks.is_empty() {
            self.checks_index = index;
        }
        kept = kept.min(index);
        let id = registration.id.clone();
        self.instances.insert(id, Instance { registration, create_index: kept, modify_index: index, checks });
        Ok(())
    }

    /// Takes an instance out; an unknown one is fine.
    pub(super) fn deregister(&mut self, id: &str) {
        let Some(instance) = self.instances.remove(id) else { return };
        let index = self.next_index();
        self.services_index = index;
        if !instance.checks.is_empty() {
            self.checks_index = index;
        }
        let name = instance.registration.name;
        if self.named(&name).next().is_some() {
            self.service_index.insert(name, index);
        } else {
            self.service_index.remove(&name);
            self.extinction_index = Some(index);
        }
    }

    /// Sets a check; whether there is one of that name.
    pub(super) fn set_check(&mut self, id: &str, status: Status, output: &str) -> bool {
        let found = self.instances.values_mut().find_map(|instance| {
            let name = instance.registration.name.clone();
            instance.checks.iter_mut().find(|check| check.definition.id == id).map(|check| (name, check))
        });
        let Some((name, check)) = found else { return false };
        let is_other = check.status != status.as_str() || check.output != output;
        if is_other {
            self.index += 1;
            check.status = status.as_str().to_owned();
            check.output = output.to_owned();
            check.modify_index = self.index;
            self.checks_index = self.index;
            self.service_index.insert(name, self.index);
        }
        true
    }

    /// `/v1/catalog/services`.
    pub(super) fn services(&self) -> Told {
        let mut services: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for instance in self.instances.values() {
            let tags = services.entry(&instance.registration.name).or_default();
            tags.extend(instance.registration.tags.iter().map(String::as_str));
            tags.sort_unstable();
            tags.dedup();
        }
        (json!(services), self.services_index)
    }

    /// `/v1/catalog/nodes`.
    pub(super) fn nodes(&self) -> Told {
        (json!([node()]), INDEX_START)
    }

    /// `/v1/health/service/NAME`: those that have all `tags` and, if asked for, pass all checks.
    pub(super) fn health(&self, name: &str, tags: &[String], must_pass: bool) -> Told {
        let passes = |instance: &Instance| !must_pass || instance.checks.iter().all(|check| check.status == "passing");
        let has_tags = |instance: &Instance| tags.iter().all(|tag| instance.registration.tags.contains(tag));
        let entries: Vec<Value> = self.named(name).filter(|instance| passes(instance) && has_tags(instance)).map(entry).collect();
        let gone = || self.extinction_index.unwrap_or(self.services_index.max(self.checks_index));
        (json!(entries), self.service_index.get(name).copied().unwrap_or_else(gone))
    }

    /// `/v1/health/state/STATE`.
    pub(super) fn checks(&self, state: &str) -> Told {
        let of_instances =
            self.instances.values().flat_map(|instance| instance.checks.iter().map(|check| check_json(instance, check)));
        let all = std::iter::once(serf_health()).chain(of_instances);
        let checks: Vec<Value> = all.filter(|check| state == "any" || check["Status"] == state).collect();
        (json!(checks), self.checks_index)
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |instance| instance.registration.name == name)
    }

    /// Where the numbering stands.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }
}

/// Gives checks without a name the ones Consul gives them.
fn name_checks(registration: &mut Registration) {
    let count = registration.checks.len();
    for (place, check) in registration.checks.iter_mut().enumerate() {
        if check.id.is_empty() {
            check.id = format!("service:{}", registration.id);
            if count > 1 {
                check.id.push_str(&format!(":{}", place + 1));
            }
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", registration.name);
        }
    }
}

fn begin_checks(
    registration: &Registration,
    index: u64,
    mut take_old: impl FnMut(&CheckDefinition) -> Option<Check>,
) -> Vec<Check> {
    let begin = |definition: &CheckDefinition| match take_old(definition) {
        Some(old) => Check { definition: definition.clone(), ..old },
        None => Check {
            definition: definition.clone(),
            status: if definition.status.is_empty() { "critical".to_owned() } else { definition.status.clone() },
            output: String::new(),
            create_index: index,
            modify_index: index,
        },
    };
    registration.checks.iter().map(begin).collect()
}

fn node() -> Value {
    json!({
        "ID": "6e4f1d2c-0000-0000-0000-000000000001", "Node": NODE, "Address": NODE_ADDRESS, "Datacenter": "dc1",
        "TaggedAddresses": {"lan": NODE_ADDRESS, "wan": NODE_ADDRESS}, "Meta": {"consul-network-segment": ""},
        "CreateIndex": INDEX_START, "ModifyIndex": INDEX_START,
    })
}

fn serf_health() -> Value {
    json!({
        "Node": NODE, "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Notes": "",
        "Output": "Agent alive and reachable", "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": "",
        "Definition": {}, "CreateIndex": INDEX_START, "ModifyIndex": INDEX_START,
    })
}

fn entry(instance: &Instance) -> Value {
    let registration = &instance.registration;
    let checks: Vec<Value> =
        std::iter::once(serf_health()).chain(instance.checks.iter().map(|check| check_json(instance, check))).collect();
    json!({
        "Node": node(),
        "Service": {
            "ID": registration.id, "Service": registration.name, "Tags": registration.tags, "Address": registration.address,
            "Meta": registration.meta, "Port": registration.port, "Weights": {"Passing": 1, "Warning": 1},
            "EnableTagOverride": false, "Proxy": {"MeshGateway": {}, "Expose": {}}, "Connect": {},
            "CreateIndex": instance.create_index, "ModifyIndex": instance.modify_index,
        },
        "Checks": checks,
    })
}

fn check_json(instance: &Instance, check: &Check) -> Value {
    let CheckDefinition { ttl, tcp, http, .. } = &check.definition;
    let kinds = [("ttl", ttl), ("tcp", tcp), ("http", http)];
    let kind = kinds.iter().find(|(_, value)| !value.is_empty()).map_or("", |(kind, _)| kind);
    json!({
        "Node": NODE, "CheckID": check.definition.id, "Name": check.definition.name, "Status": check.status, "Notes": "",
        "Output": check.output, "ServiceID": instance.registration.id, "ServiceName": instance.registration.name,
        "ServiceTags": instance.registration.tags, "Type": kind, "Definition": {},
        "CreateIndex": check.create_index, "ModifyIndex": check.modify_index,
    })
}
