//! Where two observations differ, and which differences are known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::case;

/// One place where the two differ.
pub struct Difference {
    /// A JSON pointer into the observation.
    pub place: String,
    traefik: Value,
    tidegate: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |value: &Value| value.to_string().chars().take(600).collect::<String>();
        write!(f, "{}\n    traefik:  {}\n    tidegate: {}", self.place, short(&self.traefik), short(&self.tidegate))
    }
}

/// All places where two observations differ. What one lacks is null.
pub fn compare(traefik: &Value, tidegate: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(String::new(), traefik, tidegate, &mut found);
    found
}

fn walk(place: String, traefik: &Value, tidegate: &Value, found: &mut Vec<Difference>) {
    match (traefik, tidegate) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                walk(format!("{place}/{escaped}"), &value(a), &value(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(format!("{place}/{index}"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(Difference { place, traefik: a.clone(), tidegate: b.clone() }),
    }
}

/// What `known_differences.toml` says.
pub struct Known {
    entries: Vec<Entry>,
    used: BTreeSet<(usize, String, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// In which cases, and where in each of them; a `*` stands for any text.
    #[serde(rename = "in")]
    places: BTreeMap<String, Vec<String>>,
    /// Why that is right.
    reason: String,
}

impl Known {
    pub fn read() -> Self {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            difference: Vec<Entry>,
        }
        let text = std::fs::read_to_string(case::folder().join("known_differences.toml")).unwrap();
        let file: File = toml::from_str(&text).unwrap();
        Self { entries: file.difference, used: BTreeSet::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a difference is known; notes that it was needed.
    pub fn excuses(&mut self, case: &str, place: &str) -> bool {
        let mut is_known = false;
        for (index, entry) in self.entries.iter().enumerate() {
            for (cases, places) in entry.places.iter().filter(|(cases, _)| stands_for(cases, case)) {
                for known in places.iter().filter(|known| stands_for(known, place)) {
                    self.used.insert((index, cases.clone(), known.clone()));
                    is_known = true;
                }
            }
        }
        is_known
    }

    /// What was not needed, when all cases have run.
    pub fn unused(&self) -> Vec<(&str, &str)> {
        let mut unused = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            for (case, places) in &entry.places {
                let is_used = |place: &String| self.used.contains(&(index, case.clone(), place.clone()));
                unused.extend(places.iter().filter(|place| !is_used(place)).map(|place| (case.as_str(), place.as_str())));
            }
        }
        unused
    }

    /// Each entry has a reason, and names cases that there are.
    pub fn check(&self, names: &[&str]) {
        for entry in &self.entries {
            assert!(entry.reason.split_whitespace().count() >= 5, "a reason is a sentence: {entry:?}");
            assert!(!entry.places.is_empty() && entry.places.values().all(|places| !places.is_empty()), "nowhere: {entry:?}");
            assert!(entry.places.keys().all(|case| names.iter().any(|name| stands_for(case, name))), "no such case: {entry:?}");
        }
    }
}

/// Whether a text with stars stands for another.
fn stands_for(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    rest.char_indices().map(|(at, _)| &rest[at..]).chain([""]).any(|rest| stands_for(after, rest))
}
