//! Consul's JSON, and what it means in our words. Unknown fields are ignored, missing ones and `null` are what Go would
//! leave empty: newer and older agents differ in both.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::catalog::{CheckStatus, Instance};

/// `/v1/catalog/services`: every service with the union of its instances' tags.
pub type Services = BTreeMap<String, Vec<String>>;

/// One check of `/v1/health/state/any`, as far as a change of it matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    /// The service it belongs to; empty for a check of a node.
    #[serde(default, deserialize_with = "or_empty")]
    pub service_name: String,
    /// The node it runs on.
    #[serde(default, deserialize_with = "or_empty")]
    pub node: String,
    /// The instance it belongs to; empty for a check of a node.
    #[serde(default, rename = "ServiceID", deserialize_with = "or_empty")]
    pub service_id: String,
    /// Its own name.
    #[serde(default, rename = "CheckID", deserialize_with = "or_empty")]
    pub id: String,
    /// `passing`, `warning`, `critical`.
    #[serde(default, deserialize_with = "or_empty")]
    pub status: String,
}

/// Reads `/v1/catalog/services`.
pub fn parse_services(body: &[u8]) -> Result<Services, serde_json::Error> {
    let services: BTreeMap<String, Option<Vec<String>>> = parse_or_empty(body)?;
    Ok(services.into_iter().map(|(name, tags)| (name, tags.unwrap_or_default())).collect())
}

/// Reads the names of `/v1/catalog/nodes`.
pub fn parse_nodes(body: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let nodes: Vec<Node> = parse_or_empty(body)?;
    Ok(nodes.into_iter().map(|node| node.node).collect())
}

/// Reads `/v1/health/state/any`.
pub fn parse_checks(body: &[u8]) -> Result<Vec<Check>, serde_json::Error> {
    parse_or_empty(body)
}

/// Reads `/v1/health/service/NAME`. Instances come sorted by node and id, so that two answers that say the same are equal.
pub fn parse_instances(body: &[u8]) -> Result<Vec<Instance>, serde_json::Error> {
    let entries: Vec<Entry> = parse_or_empty(body)?;
    let mut instances: Vec<Instance> = entries.into_iter().map(Entry::into_instance).collect();
    instances.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    Ok(instances)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, deserialize_with = "or_empty")]
    node: Node,
    #[serde(default, deserialize_with = "or_empty")]
    service: Service,
    #[serde(default, deserialize_with = "or_empty")]
    checks: Vec<Check>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default, deserialize_with = "or_empty")]
    node: String,
    #[serde(default, deserialize_with = "or_empty")]
    address: String,
    #[serde(default, deserialize_with = "or_empty")]
    datacenter: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default, rename = "ID", deserialize_with = "or_empty")]
    id: String,
    #[serde(default, deserialize_with = "or_empty")]
    service: String,
    #[serde(default, deserialize_with = "or_empty")]
    address: String,
    #[serde(default, deserialize_with = "or_empty")]
    port: i64,
    #[serde(default, deserialize_with = "or_empty")]
    tags: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    meta: BTreeMap<String, String>,
}

impl Entry {
    fn into_instance(self) -> Instance {
        let Self { node, service, checks } = self;
        Instance {
            id: service.id,
            service: service.service,
            node: node.node,
            datacenter: node.datacenter,
            address: if service.address.is_empty() { node.address } else { service.address },
            // A port that no socket can have is none; the tags may still name one.
            port: u16::try_from(service.port).unwrap_or(0),
            tags: service.tags,
            meta: service.meta,
            status: aggregate(&checks),
        }
    }
}

/// Consul's aggregated status of all checks of node and service. What we do not know is not taken for healthy.
fn aggregate(checks: &[Check]) -> CheckStatus {
    checks.iter().map(status).max().unwrap_or(CheckStatus::Passing)
}

fn status(check: &Check) -> CheckStatus {
    if check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:") {
        return CheckStatus::Maintenance;
    }
    match check.status.as_str() {
        "passing" => CheckStatus::Passing,
        "warning" => CheckStatus::Warning,
        _ => CheckStatus::Critical,
    }
}

/// `null` where Go had nothing.
fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

fn parse_or_empty<T: for<'de> Deserialize<'de> + Default>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Option<T>>(body).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_as_the_agent_prints_it() {
        let body = br#"[{
            "Node": {"ID": "68a3", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": null, "CreateIndex": 10},
            "Service": {"ID": "web-1", "Service": "web", "Tags": ["a=b"], "Address": "10.0.0.2", "Port": 21278,
                        "Meta": {"external-source": "nomad"}, "Weights": {"Passing": 1}, "Proxy": {}, "Connect": {}},
            "Checks": [{"Node": "n1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": "", "ServiceTags": []}]
        }]"#;
        let expected = Instance {
            id: "web-1".to_owned(),
            service: "web".to_owned(),
            node: "n1".to_owned(),
            datacenter: "dc1".to_owned(),
            address: "10.0.0.2".to_owned(),
            port: 21278,
            tags: vec!["a=b".to_owned()],
            meta: BTreeMap::from([("external-source".to_owned(), "nomad".to_owned())]),
            status: CheckStatus::Passing,
        };
        assert_eq!(parse_instances(body).unwrap(), [expected]);
    }

    #[test]
    fn what_is_missing_or_null_is_empty() {
        let body = br#"[{"Node": {"Address": "10.0.0.1"}, "Service": {"ID": "x", "Tags": null, "Meta": null, "Port": -1}, "Checks": null}]"#;
        let found = parse_instances(body).unwrap().remove(0);
        assert_eq!(found, Instance { id: "x".to_owned(), address: "10.0.0.1".to_owned(), ..Instance::default() });
        assert_eq!(parse_instances(b"null").unwrap(), []);
        assert_eq!(parse_services(br#"{"web": null}"#).unwrap(), BTreeMap::from([("web".to_owned(), vec![])]));
        assert!(parse_services(b"<html>").is_err());
        assert!(parse_instances(b"{}").is_err());
    }

    #[test]
    fn instances_come_in_one_order() {
        let body = br#"[{"Service": {"ID": "b"}}, {"Service": {"ID": "a"}}]"#;
        let ids: Vec<_> = parse_instances(body).unwrap().into_iter().map(|instance| instance.id).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[track_caller]
    fn check(checks: &[(&str, &str)], expected: CheckStatus) {
        let checks: Vec<Check> = checks
            .iter()
            .map(|(id, status)| Check {
                service_name: String::new(),
                node: String::new(),
                service_id: String::new(),
                id: (*id).to_owned(),
                status: (*status).to_owned(),
            })
            .collect();
        assert_eq!(aggregate(&checks), expected);
    }

    #[test]
    fn the_worst_check_counts_and_none_is_passing() {
        check(&[], CheckStatus::Passing);
        check(&[("serfHealth", "passing"), ("a", "warning")], CheckStatus::Warning);
        check(&[("a", "critical"), ("b", "warning")], CheckStatus::Critical);
        check(&[("_service_maintenance:web-1", "critical"), ("b", "critical")], CheckStatus::Maintenance);
        check(&[("_node_maintenance", "critical")], CheckStatus::Maintenance);
        check(&[("a", "melting")], CheckStatus::Critical);
    }
}
