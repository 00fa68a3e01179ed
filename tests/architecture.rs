//! Who may import whom. Reads the `use` lines and paths of `src/`; ARCHITECTURE.md says why.
#![expect(clippy::unwrap_used, reason = "a test crate")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each folder may import of ours. A folder that is not listed may import everything (app, cli, main, lib).
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("clock", &[]),
    ("durable", &[]),
    ("config", &["names"]),
    ("rule", &["config", "names"]),
    ("catalog", &["config", "rule", "names"]),
    ("health", &["names"]),
    ("rollout", &["config", "names"]),
    ("middleware", &["config", "rule", "names"]),
    ("tls", &["config", "names", "clock"]),
    ("observe", &["config", "names", "clock"]),
    ("routing", &["config", "rule", "names", "health", "rollout", "middleware", "observe", "tls", "clock"]),
    ("admin", &["config", "names", "routing", "rollout", "middleware", "observe", "health"]),
    ("tcp", &["config", "names", "routing", "rule", "health", "clock", "observe", "listener"]),
    ("listener", &["config", "names", "routing", "rule", "tls", "tcp", "clock", "observe"]),
    (
        "proxy",
        &[
            "config",
            "names",
            "routing",
            "rule",
            "middleware",
            "health",
            "rollout",
            "tls",
            "observe",
            "admin",
            "listener",
            "steering",
            "clock",
        ],
    ),
    ("provider", &["config", "names", "catalog", "clock"]),
    ("acme", &["config", "names", "tls", "clock", "durable"]),
    ("orchestrator", &["config", "names", "clock"]),
    ("steering", &["config", "names", "clock"]),
    (
        "control",
        &[
            "config",
            "names",
            "rule",
            "routing",
            "catalog",
            "provider",
            "rollout",
            "health",
            "middleware",
            "tls",
            "observe",
            "clock",
            "acme",
            "orchestrator",
            "steering",
            "durable",
        ],
    ),
];

/// Crates that only some places may name: (crate, where).
const ONLY_IN: &[(&str, &[&str])] = &[
    ("pingora", &["proxy", "listener", "app"]),
    ("instant_acme", &["acme/order"]),
    ("hickory_resolver", &["control/resolve", "control/mod", "app"]),
    ("notify", &["provider/file"]),
];

#[test]
fn parts_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let folder = folder_of(&path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == folder) else { continue };
        for imported in imports(&text) {
            if imported != folder && !allowed.contains(&imported.as_str()) {
                wrong.push(format!("{path} imports crate::{imported}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn foreign_crates_stay_behind_their_border() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (name, places) in ONLY_IN {
            let is_named = [format!("{name}::"), format!("{name}_core::"), format!("{name}_proxy::"), format!("{name}_http::")]
                .iter()
                .any(|prefix| code(&text).any(|line| contains_path(line, prefix)));
            if is_named && !places.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!("{path} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_has_its_rule() {
    let known: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let free: BTreeSet<&str> = ["app", "cli", "main", "lib", "demo"].into();
    let unknown: BTreeSet<String> = sources()
        .iter()
        .map(|(path, _)| folder_of(path).to_owned())
        .filter(|name| !known.contains(name.as_str()) && !free.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// All files of `src/`, with their path below it (without `.rs`).
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

fn folder_of(path: &str) -> &str {
    path.split('/').next().unwrap()
}

/// Lines of code: no comments, and nothing from the first unit test on.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).map(|line| line.split("//").next().unwrap())
}

fn contains_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

/// The parts of ours that a file names, as `crate::part`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in code(text) {
        for (at, prefix) in line.match_indices("crate::") {
            let name: String = line[at + prefix.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}
