//! Whether it is believed that instances are gone.
//!
//! A job that is stopped goes at once. But Consul also answers 200 with nothing when it was wiped and restarted, when a token
//! lost its rights, or when an agent has no leader, and then the instances that are running well must go on serving. What
//! tells the two apart is what went with them.

use std::collections::BTreeSet;

use super::Instance;

/// Services that only go when the catalog itself does: Consul's servers and Nomad's agents register them.
const LANDMARKS: [&str; 3] = ["consul", "nomad", "nomad-client"];

/// What an answer says besides its instances, and what is known of the catalog around it.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// `X-Consul-Index` of the last answer to the same question; 0 when there was none.
    pub index_before: u64,
    /// `X-Consul-Index` of this one.
    pub index: u64,
    /// `X-Consul-KnownLeader`; missing is false.
    pub has_leader: bool,
    /// `X-Consul-Results-Filtered-By-ACLs`. Its absence proves nothing.
    pub is_filtered: bool,
    /// The names of all services in the catalog, as last believed.
    pub services_before: &'a BTreeSet<String>,
    /// The names of all services in the catalog now.
    pub services: &'a BTreeSet<String>,
    /// The names of all nodes in the catalog now, if they are known.
    pub nodes: Option<&'a BTreeSet<String>>,
}

/// What an absence means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Nothing is gone, or what is gone was taken away: no new request goes there from now on.
    Believed,
    /// The catalog was lost rather than the instances. Those that still answer are kept, for a limited time.
    Doubted(Doubt),
}

/// Why an absence is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// A wiped and restarted Consul numbers everything anew.
    #[error("the catalog's index went back from {before} to {now}")]
    IndexWentBack {
        /// `X-Consul-Index` before.
        before: u64,
        /// And now.
        now: u64,
    },
    /// The answer may be stale.
    #[error("the agent knows no leader")]
    NoLeader,
    /// The token may not see what it asked for.
    #[error("the answer was filtered by ACLs")]
    Filtered,
    /// Everything is gone at once.
    #[error("the whole catalog is empty")]
    Empty,
    /// What Consul or Nomad register themselves is gone too.
    #[error("the service `{0}` is gone too")]
    LandmarkGone(String),
    /// The node is gone, not the instance.
    #[error("the node `{0}` is gone too")]
    NodeGone(String),
}

/// Judges the absence of what was in `before` and is not in `now`, both the instances of one service.
pub fn judge(before: &[Instance], now: &[Instance], circumstances: &Circumstances<'_>) -> Removal {
    let mut gone = before.iter().filter(|was| !now.iter().any(|is| is.id == was.id && is.node == was.node)).peekable();
    if gone.peek().is_none() {
        return Removal::Believed;
    }
    match doubt(gone, circumstances) {
        Some(doubt) => Removal::Doubted(doubt),
        None => Removal::Believed,
    }
}

fn doubt<'i>(mut gone: impl Iterator<Item = &'i Instance>, circumstances: &Circumstances<'_>) -> Option<Doubt> {
    let Circumstances { index_before, index, has_leader, is_filtered, services_before, services, nodes } = *circumstances;
    if index < index_before {
        return Some(Doubt::IndexWentBack { before: index_before, now: index });
    }
    if !has_leader {
        return Some(Doubt::NoLeader);
    }
    if is_filtered {
        return Some(Doubt::Filtered);
    }
    if services.is_empty() {
        return Some(Doubt::Empty);
    }
    let is_gone = |name: &&str| services_before.contains(*name) && !services.contains(*name);
    if let Some(landmark) = LANDMARKS.iter().copied().find(is_gone) {
        return Some(Doubt::LandmarkGone(landmark.to_owned()));
    }
    let nodes = nodes?;
    gone.find(|instance| !nodes.contains(&instance.node)).map(|instance| Doubt::NodeGone(instance.node.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(ids: &[&str]) -> Vec<Instance> {
        ids.iter().map(|&id| Instance { id: id.to_owned(), node: "n1".to_owned(), ..Instance::default() }).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[track_caller]
    fn check(now: &[&str], services: &[&str], nodes: &[&str], index: u64, flags: (bool, bool), expected: Removal) {
        let circumstances = Circumstances {
            index_before: 40,
            index,
            has_leader: flags.0,
            is_filtered: flags.1,
            services_before: &names(&["cljdoc", "consul", "nomad"]),
            services: &names(services),
            nodes: Some(&names(nodes)),
        };
        assert_eq!(judge(&instances(&["a", "b"]), &instances(now), &circumstances), expected);
    }

    #[test]
    fn a_stopped_job_goes_at_once_and_a_lost_catalog_does_not() {
        let around = ["consul", "nomad"];
        let fine = (true, false);
        let doubted = Removal::Doubted;
        check(&["a"], &["cljdoc", "consul", "nomad"], &["n1"], 41, fine, Removal::Believed);
        check(&[], &around, &["n1"], 41, fine, Removal::Believed);
        check(&[], &around, &["n1"], 40, fine, Removal::Believed);
        check(&[], &around, &["n1"], 7, fine, doubted(Doubt::IndexWentBack { before: 40, now: 7 }));
        check(&[], &around, &["n1"], 41, (false, false), doubted(Doubt::NoLeader));
        check(&[], &around, &["n1"], 41, (true, true), doubted(Doubt::Filtered));
        check(&[], &[], &["n1"], 41, fine, doubted(Doubt::Empty));
        check(&[], &["consul"], &["n1"], 41, fine, doubted(Doubt::LandmarkGone("nomad".to_owned())));
        check(&[], &around, &["n2"], 41, fine, doubted(Doubt::NodeGone("n1".to_owned())));
    }

    #[test]
    fn where_nothing_is_gone_there_is_nothing_to_doubt() {
        check(&["b", "a", "c"], &[], &[], 7, (false, true), Removal::Believed);
    }

    #[test]
    fn a_landmark_that_was_never_seen_is_not_missed() {
        let services = names(&["other"]);
        let circumstances = Circumstances {
            index_before: 0,
            index: 1,
            has_leader: true,
            is_filtered: false,
            services_before: &names(&["cljdoc", "other"]),
            services: &services,
            nodes: None,
        };
        assert_eq!(judge(&instances(&["a"]), &[], &circumstances), Removal::Believed);
    }
}
