//! Which instances are canary when nothing tells, by our own first sight of them.
//!
//! What somebody declares is honoured (tags, metadata, later Nomad). Otherwise an instance that joins others while they are serving
//! is canary, unless it has the version of a stable one; when the older ones have left, it is stable at once. Never by
//! Consul's CreateIndex: a wiped Consul renumbers everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::Nature;
use crate::names::Track;

/// How long an instance that has left is remembered, so that one that comes back is not new.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);
/// Instances remembered at most; the longest absent are forgotten first.
const REMEMBERED_MAX: usize = 4096;

/// One instance as the catalog shows it.
#[derive(Clone, Copy, Debug)]
pub struct Sighted<'a> {
    /// Its allocation, or its address and port.
    pub key: &'a str,
    /// Its version, if anything tells: a tag, metadata, Nomad's job version.
    pub version: Option<&'a str>,
    /// Its track, if somebody declares it.
    pub declared: Option<Track>,
}

/// What becomes of instances that join others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Newcomers {
    /// They are judged as a canary.
    #[default]
    Judge,
    /// They are stable, with a slow start: for services that scale out.
    SlowStart,
}

/// The arms of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorted {
    /// One for each instance, in the order they were shown.
    pub tracks: Vec<Track>,
    /// What the canary is: its versions, or the number of the rollout.
    pub version: String,
    /// How the canary is told.
    pub nature: Nature,
    /// The canary of a moment ago is stable now, because everybody older has left.
    pub older_left: bool,
}

/// What we remember about the instances of one service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tracks {
    known: BTreeMap<String, Known>,
    canaries: BTreeSet<String>,
    rollouts: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    /// It came later than others that were serving, and has not been adopted.
    newer: bool,
    version: Option<String>,
    /// When it was found gone; none while it is there.
    left: Option<Duration>,
}

impl Tracks {
    /// Sorts all instances of the service into its arms.
    pub fn sort(&mut self, now: Duration, instances: &[Sighted<'_>], newcomers: Newcomers) -> Sorted {
        self.known.retain(|_, known| known.left.is_none_or(|left| now.saturating_sub(left) < REMEMBERED_FOR));
        // The older ones have left: those who came after them are the older ones now, before anybody is newer than they.
        let mut older_left = false;
        if !instances.iter().any(|instance| self.track(instance) == Some(Track::Stable)) {
            older_left = instances.iter().any(|instance| self.canaries.contains(instance.key));
            self.adopt();
        }
        let declared = instances.iter().any(|instance| instance.declared == Some(Track::Canary));
        let mut tracks: Vec<Track> = instances.iter().map(|instance| self.track(instance).unwrap_or_default()).collect();
        // Whoever is stable without doubt gives the rest their measure.
        let stable: Vec<&Sighted<'_>> = instances.iter().filter(|instance| self.track(instance) == Some(Track::Stable)).collect();
        let versions: BTreeSet<&str> = stable.iter().filter_map(|instance| instance.version).collect();
        for (track, instance) in tracks.iter_mut().zip(instances).filter(|(_, instance)| instance.declared.is_none()) {
            let alike = instance.version.is_some_and(|version| versions.contains(version));
            let unknown = self.track(instance).is_none();
            let judged = newcomers == Newcomers::Judge && !declared && !stable.is_empty();
            if alike || unknown && !judged {
                *track = Track::Stable;
            } else if unknown {
                *track = Track::Canary;
            }
        }
        // Only declared canaries are left: there is nothing to be newer than.
        if !tracks.contains(&Track::Stable) {
            tracks.fill(Track::Stable);
        }
        self.remember(now, instances, &tracks);
        let version = self.version(instances, &tracks);
        let nature = if declared { Nature::Declared } else { Nature::ByAge };
        Sorted { tracks, version, nature, older_left }
    }

    /// The instances told by their age alone are stable from now on.
    pub fn adopt(&mut self) {
        self.known.values_mut().for_each(|known| known.newer = false);
    }

    /// What is known about it: declared, or remembered under the same version.
    fn track(&self, instance: &Sighted<'_>) -> Option<Track> {
        if instance.declared.is_some() {
            return instance.declared;
        }
        let known = self.known.get(instance.key)?;
        let replaced = known.version.is_some() && instance.version.is_some() && known.version.as_deref() != instance.version;
        if replaced {
            return None;
        }
        Some(if known.newer { Track::Canary } else { Track::Stable })
    }

    fn remember(&mut self, now: Duration, instances: &[Sighted<'_>], tracks: &[Track]) {
        for known in self.known.values_mut() {
            known.left.get_or_insert(now);
        }
        for (instance, track) in instances.iter().zip(tracks) {
            // A declared canary that loses its mark has been promoted.
            let newer = *track == Track::Canary && instance.declared.is_none();
            let version = instance.version.map(str::to_owned);
            self.known.insert(instance.key.to_owned(), Known { newer, version, left: None });
        }
        while self.known.len() > REMEMBERED_MAX {
            let gone = self.known.iter().filter_map(|(key, known)| Some((known.left?, key)));
            let Some((_, oldest)) = gone.min() else { break };
            let oldest = oldest.clone();
            self.known.remove(&oldest);
        }
    }

    /// What is rolled out. Without versions a rollout goes on as long as one of its instances does.
    fn version(&mut self, instances: &[Sighted<'_>], tracks: &[Track]) -> String {
        let canaries =
            || instances.iter().zip(tracks).filter(|(_, track)| **track == Track::Canary).map(|(instance, _)| instance);
        let keys: BTreeSet<String> = canaries().map(|instance| instance.key.to_owned()).collect();
        if !keys.is_empty() && keys.is_disjoint(&self.canaries) {
            self.rollouts = self.rollouts.wrapping_add(1);
        }
        self.canaries = keys;
        let versions: BTreeSet<&str> = canaries().filter_map(|instance| instance.version).collect();
        match (self.canaries.is_empty(), versions.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!("#{}", self.rollouts),
            (false, false) => versions.into_iter().collect::<Vec<_>>().join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows one catalog after the other, each `key[@version][+|-]` (declared canary or stable), and compares the keys of the
    /// canaries and the version of the rollout.
    #[track_caller]
    fn check(newcomers: Newcomers, shown: &[(&str, &str, &str)]) {
        let mut tracks = Tracks::default();
        for (second, (catalog, canaries, version)) in shown.iter().enumerate() {
            if *catalog == "adopt" {
                tracks.adopt();
                continue;
            }
            let instances: Vec<Sighted<'_>> = catalog.split_whitespace().map(parse).collect();
            let sorted = tracks.sort(Duration::from_secs(second as u64), &instances, newcomers);
            let found: Vec<&str> = instances
                .iter()
                .zip(&sorted.tracks)
                .filter_map(|(instance, track)| (*track == Track::Canary).then_some(instance.key))
                .collect();
            assert_eq!((found.join(" ").as_str(), sorted.version.as_str()), (*canaries, *version), "{second}: {catalog}");
        }
    }

    fn parse(word: &str) -> Sighted<'_> {
        let declared = if word.ends_with('+') { Some(Track::Canary) } else { word.ends_with('-').then_some(Track::Stable) };
        let word = word.trim_end_matches(['+', '-']);
        match word.split_once('@') {
            Some((key, version)) => Sighted { key, version: Some(version), declared },
            None => Sighted { key: word, version: None, declared },
        }
    }

    #[test]
    fn the_first_instances_are_stable() {
        check(Newcomers::Judge, &[("a b", "", ""), ("", "", ""), ("c d", "", "")]);
    }

    #[test]
    fn who_joins_is_canary_until_the_older_leave() {
        check(Newcomers::Judge, &[("a", "", ""), ("a b", "b", "#1"), ("b", "", ""), ("b c", "c", "#2")]);
    }

    #[test]
    fn that_the_older_left_is_told_once() {
        for (older, newer) in [("a", "a b"), ("a", "a b+")] {
            let mut tracks = Tracks::default();
            let last = newer.split_whitespace().last().unwrap();
            let told = [older, newer, last, last].map(|catalog| {
                let instances: Vec<Sighted<'_>> = catalog.split_whitespace().map(parse).collect();
                tracks.sort(Duration::ZERO, &instances, Newcomers::Judge).older_left
            });
            assert_eq!(told, [false, false, true, false], "{newer}");
        }
    }

    #[test]
    fn a_rolling_update_is_one_rollout() {
        check(
            Newcomers::Judge,
            &[("a b c", "", ""), ("a b c x", "x", "#1"), ("b c x y", "x y", "#1"), ("c y z", "y z", "#1"), ("x y z", "", "")],
        );
    }

    #[test]
    fn the_same_version_is_the_same_arm() {
        check(
            Newcomers::Judge,
            &[
                ("a@1 b@1", "", ""),
                ("a@1 c@1", "", ""),
                ("a@1 c@1 d@2", "d", "2"),
                ("a@1 d@2 e@2 f@1", "d e", "2"),
                ("d@2 g@3", "g", "3"),
            ],
        );
    }

    #[test]
    fn an_instance_that_comes_back_is_not_new() {
        check(Newcomers::Judge, &[("a b", "", ""), ("a", "", ""), ("a b", "", ""), ("a", "", ""), ("a b@2", "", "")]);
        check(Newcomers::Judge, &[("a@1 b@1", "", ""), ("a@1", "", ""), ("a@1 b@2", "b", "2")]);
    }

    #[test]
    fn an_instance_that_served_for_days_and_comes_back_after_a_moment_is_not_new() {
        let mut tracks = Tracks::default();
        let mut canaries = |hours: u64, catalog: &str| {
            let instances: Vec<Sighted<'_>> = catalog.split_whitespace().map(parse).collect();
            let sorted = tracks.sort(Duration::from_secs(hours * 3600), &instances, Newcomers::Judge);
            sorted.tracks.iter().filter(|track| **track == Track::Canary).count()
        };
        assert_eq!([canaries(0, "a b"), canaries(50, "a"), canaries(50, "a b")], [0; 3]);
        assert_eq!([canaries(60, "a"), canaries(61, "a b")], [0, 1], "one that was away for an hour is");
    }

    #[test]
    fn what_is_declared_is_honoured() {
        check(
            Newcomers::Judge,
            &[
                ("a", "", ""),
                ("a b+", "b", "#1"),
                // While a canary is declared, an unmarked newcomer is stable: a reschedule, more of the same.
                ("c b+", "b", "#1"),
                // Promoted: the mark is gone.
                ("c b", "", ""),
                ("c b d+", "d", "#2"),
                ("c b e+", "e", "#3"),
                ("e+", "", ""),
                ("e+ f", "e", "#4"),
            ],
        );
    }

    #[test]
    fn scaling_out_can_be_left_alone() {
        check(Newcomers::SlowStart, &[("a", "", ""), ("a b c", "", ""), ("a b c d+", "d", "#1")]);
    }

    #[test]
    fn an_adopted_canary_is_one_of_the_others() {
        check(Newcomers::Judge, &[("a", "", ""), ("a b", "b", "#1"), ("adopt", "", ""), ("a b", "", ""), ("a b c", "c", "#2")]);
    }
}
