//! Compares two answers of `/v1/health/state/any`, so that only the services whose checks changed are fetched.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::Check;
use crate::catalog::Instance;

/// All checks as the last answer had them, by service; those of nodes under the empty name.
#[derive(Debug, Default)]
pub(super) struct CheckBook(Option<BTreeMap<String, BTreeSet<Check>>>);

/// Whose checks changed between two answers.
#[derive(Debug, PartialEq)]
pub(super) enum Changed {
    /// There is nothing to compare with: whatever was fetched before may have changed since.
    All,
    /// Those of these services, and of these nodes.
    Some {
        /// By service name.
        services: BTreeSet<String>,
        /// By node name: a node's check is one of every instance on it.
        nodes: BTreeSet<String>,
    },
}

impl CheckBook {
    /// Opens the next page and compares it with the last.
    pub(super) fn turn(&mut self, checks: Vec<Check>) -> Changed {
        let mut page: BTreeMap<String, BTreeSet<Check>> = BTreeMap::new();
        for check in checks {
            page.entry(check.service_name.clone()).or_default().insert(check);
        }
        let Some(mut last) = self.0.replace(page.clone()) else { return Changed::All };
        let (old, new) = (last.remove("").unwrap_or_default(), page.remove("").unwrap_or_default());
        let nodes = old.symmetric_difference(&new).map(|check| check.node.clone()).collect();
        let is_changed = |name: &&String| last.get(*name) != page.get(*name);
        let services = last.keys().chain(page.keys()).filter(is_changed).cloned().collect();
        Changed::Some { services, nodes }
    }
}

impl Changed {
    /// Whether a service with these instances may be another than before.
    pub(super) fn touches(&self, service: &str, instances: &[Instance]) -> bool {
        match self {
            Self::All => true,
            Self::Some { services, nodes } => {
                services.contains(service) || instances.iter().any(|instance| nodes.contains(&instance.node))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(service: &str, node: &str, status: &str) -> Check {
        let (service_name, service_id) = (service.to_owned(), service.to_owned());
        Check { service_name, node: node.to_owned(), service_id, id: "alive".to_owned(), status: status.to_owned() }
    }

    /// Compares two pages: `services | nodes`.
    #[track_caller]
    fn compare(before: &[Check], after: &[Check], services: &[&str], nodes: &[&str]) {
        let mut book = CheckBook::default();
        assert_eq!(book.turn(before.to_vec()), Changed::All);
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(book.turn(after.to_vec()), Changed::Some { services: owned(services), nodes: owned(nodes) });
    }

    #[test]
    fn finds_services_that_came_went_or_changed() {
        let (web, api) = (check("web", "n1", "passing"), check("api", "n1", "passing"));
        compare(&[web.clone(), api.clone()], &[api.clone(), web.clone()], &[], &[]);
        compare(&[web.clone(), api.clone()], &[api.clone(), check("web", "n1", "critical")], &["web"], &[]);
        compare(std::slice::from_ref(&web), &[web.clone(), api.clone()], &["api"], &[]);
        compare(&[web.clone(), api], &[web], &["api"], &[]);
    }

    #[test]
    fn a_nodes_check_concerns_every_instance_on_it() {
        let node = |status| check("", "n1", status);
        compare(&[node("passing"), check("", "n2", "passing")], &[node("critical"), check("", "n2", "passing")], &[], &["n1"]);
        let changed = Changed::Some { services: BTreeSet::new(), nodes: BTreeSet::from(["n1".to_owned()]) };
        let on = |node: &str| [Instance { node: node.to_owned(), ..Instance::default() }];
        assert!(changed.touches("web", &on("n1")));
        assert!(!changed.touches("web", &on("n2")));
    }
}
