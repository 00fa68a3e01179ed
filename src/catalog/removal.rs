//! Whether it is believed that instances are gone.
//!
//! A job that is stopped goes at once. But Consul also answers 200 with nothing when it was wiped and restarted, when a token
//! lost its rights, or when an agent has no leader, and then the instances that are running well must go on serving. What
//! tells the two apart is what went with them. An instance that is kept although it is dead is found out by the requests it
//! fails, so keeping one too many costs little; the time for which one is kept is limited all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Catalog, Instance};

/// How long an instance that vanished under doubtful circumstances is kept.
pub const KEPT_MAX: Duration = Duration::from_secs(15 * 60);
/// How long after the agent's index went backwards an absence is doubted: a scheduler registers its services again within this.
pub const REWOUND_DOUBTED_FOR: Duration = Duration::from_secs(60);

/// How far the absence of something may be believed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Credibility {
    /// Why nothing that is absent is believed to be gone, if so.
    pub doubt: Option<&'static str>,
    /// Services whose newest answer is doubted.
    pub services: BTreeSet<String>,
    /// Nodes that are gone themselves: their instances may well live.
    pub nodes_gone: BTreeSet<String>,
}

/// Instances that are kept although the catalog no longer shows them.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    last: Catalog,
    since: BTreeMap<(String, String), Instant>,
}

impl Kept {
    /// The catalog to go by: what it shows now, and what vanished from it under circumstances that are not believed.
    pub fn believe(&mut self, now: Instant, shown: &Catalog, credibility: &Credibility) -> Catalog {
        let mut believed = shown.clone();
        let claimed: BTreeSet<(String, u16)> = shown.values().flatten().map(place).collect();
        let mut since = BTreeMap::new();
        for (service, instances) in &self.last {
            for instance in instances {
                let is_shown = shown
                    .get(service)
                    .is_some_and(|shown| shown.iter().any(|one| one.id == instance.id && one.node == instance.node));
                if is_shown || claimed.contains(&place(instance)) {
                    continue;
                }
                let key = (instance.node.clone(), instance.id.clone());
                let vanished = self.since.get(&key).copied();
                // Once kept it stays kept: circumstances that clear up bring it back, or its time is over.
                let is_doubted = vanished.is_some() || is_doubted(service, instance, credibility);
                let vanished = vanished.unwrap_or(now);
                if is_doubted && now.saturating_duration_since(vanished) < KEPT_MAX {
                    since.insert(key, vanished);
                    believed.entry(service.clone()).or_default().push(instance.clone());
                }
            }
        }
        self.since = since;
        self.last.clone_from(&believed);
        believed
    }

    /// How many instances are kept.
    pub fn count(&self) -> usize {
        self.since.len()
    }

    /// When the first of them is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.values().min().map(|since| *since + KEPT_MAX)
    }
}

fn place(instance: &Instance) -> (String, u16) {
    (instance.address.clone(), instance.port)
}

fn is_doubted(service: &str, instance: &Instance, credibility: &Credibility) -> bool {
    credibility.doubt.is_some() || credibility.services.contains(service) || credibility.nodes_gone.contains(&instance.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// A catalog from `service=id:port id:port; …`, all on node n.
    fn catalog(text: &str) -> Catalog {
        let mut catalog = Catalog::new();
        for service in text.split(';').map(str::trim).filter(|text| !text.is_empty()) {
            let (name, instances) = service.split_once('=').unwrap();
            for instance in instances.split_whitespace() {
                let (id, port) = instance.split_once(':').unwrap();
                catalog.entry(name.to_owned()).or_default().push(Instance {
                    id: id.to_owned(),
                    service: name.to_owned(),
                    node: "n".to_owned(),
                    address: "127.0.0.1".to_owned(),
                    port: port.parse().unwrap(),
                    ..Instance::default()
                });
            }
        }
        catalog
    }

    fn lost() -> Credibility {
        Credibility { doubt: Some("the catalog was wiped"), ..Credibility::default() }
    }

    /// Shows one catalog after the other and compares the ids that are gone by.
    #[track_caller]
    fn check(shown: &[(u64, &str, Credibility, &str)]) {
        let start = clock::now();
        let mut kept = Kept::default();
        for (seconds, text, credibility, expected) in shown {
            let believed = kept.believe(start + Duration::from_secs(*seconds), &catalog(text), credibility);
            let ids: Vec<&str> = believed.values().flatten().map(|instance| instance.id.as_str()).collect();
            assert_eq!(ids.join(" "), *expected, "after {seconds} s");
        }
    }

    #[test]
    fn a_stopped_job_goes_at_once() {
        check(&[
            (0, "a=1:1 2:2", Credibility::default(), "1 2"),
            (1, "a=2:2", Credibility::default(), "2"),
            (2, "", Credibility::default(), ""),
        ]);
    }

    #[test]
    fn a_wiped_catalog_takes_nobody_with_it_and_those_that_come_back_count_once() {
        let plain = Credibility::default;
        check(&[
            (0, "a=1:1 2:2", plain(), "1 2"),
            (1, "", lost(), "1 2"),
            (30, "", plain(), "1 2"),
            (40, "a=1:1", plain(), "1 2"),
        ]);
    }

    #[test]
    fn whoever_takes_a_kept_instances_place_has_it() {
        check(&[(0, "a=1:1", Credibility::default(), "1"), (1, "", lost(), "1"), (2, "b=9:1", Credibility::default(), "9")]);
    }

    #[test]
    fn nobody_is_kept_for_ever() {
        check(&[(0, "a=1:1", Credibility::default(), "1"), (1, "", lost(), "1"), (899, "", lost(), "1"), (901, "", lost(), "")]);
    }

    #[test]
    fn only_the_service_whose_answer_is_doubted_is_kept() {
        let doubted = Credibility { services: BTreeSet::from(["a".to_owned()]), ..Credibility::default() };
        check(&[(0, "a=1:1; b=2:2", Credibility::default(), "1 2"), (1, "", doubted, "1")]);
    }

    #[test]
    fn a_lost_node_does_not_lose_its_instances() {
        let gone = Credibility { nodes_gone: BTreeSet::from(["n".to_owned()]), ..Credibility::default() };
        check(&[(0, "a=1:1", Credibility::default(), "1"), (1, "", gone, "1")]);
    }
}
