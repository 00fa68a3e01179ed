//! The install configuration: every file below `cases/` with the report that `tidegate check` prints of it.
//!
//! `*.flags` holds one argument a line, `*.env` one variable a line. A case that gives a configuration is also shown as read.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tidegate::cli::Loaded;
use tidegate::cli::check::{install, report};
use tidegate::config::install::keys::{Key, Kind, Status, table};
use tidegate::config::install::{Install, Source, read};
use tidegate::config::problem::Problem;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/install")
}

/// All cases by their file name.
fn cases() -> BTreeMap<String, Source> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(folder().join("cases")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        cases.insert(name.clone(), case(&name));
    }
    cases
}

fn case(name: &str) -> Source {
    let text = fs::read_to_string(folder().join("cases").join(name)).unwrap();
    let lines = || text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned);
    match name.rsplit_once('.').unwrap().1 {
        "flags" => Source::Flags(lines().collect()),
        "env" => {
            let variable = |line: String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
            Source::Environment(lines().map(variable).collect())
        }
        _ => Source::File { path: name.to_owned(), text },
    }
}

/// The configuration and the problems of a case.
fn loaded(source: Source) -> Loaded {
    let (install, problems) = read(&source);
    Loaded { source: Some(source), install, problems }
}

fn install_of(name: &str) -> Install {
    let loaded = loaded(case(name));
    assert_eq!(loaded.problems, Vec::<Problem>::new(), "{name}");
    loaded.install.unwrap()
}

#[test]
fn every_mistake_is_reported_where_it_stands() {
    insta::with_settings!({ snapshot_path => "reports", prepend_module_to_snapshot => false, omit_expression => true }, {
        for (name, source) in cases() {
            let report = report(&[install(&loaded(source))]);
            insta::assert_snapshot!(name, report);
        }
    });
}

#[test]
fn every_setting_is_read() {
    insta::with_settings!({ snapshot_path => "read", prepend_module_to_snapshot => false, omit_expression => true }, {
        for name in ["cljdoc.yaml", "everything.yaml", "defaults.yaml"] {
            insta::assert_debug_snapshot!(name, install_of(name));
        }
    });
}

#[test]
fn toml_flags_and_environment_say_the_same_as_yaml() {
    let yaml = install_of("cljdoc.yaml");
    for name in ["cljdoc.toml", "cljdoc.flags", "cljdoc.env"] {
        assert_eq!(install_of(name), yaml, "{name}");
    }
    let yaml = install_of("everything.yaml");
    for name in ["everything.flags", "everything.env"] {
        assert_eq!(install_of(name), yaml, "{name}");
    }
}

#[test]
fn the_table_knows_every_key_of_traefik() {
    let table = table();
    let keys = fs::read_to_string(folder().join("traefik-keys.txt")).unwrap();
    let missing: Vec<_> = keys.lines().filter(|key| table.at_path(key).is_none()).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert!(keys.lines().count() > 600);
}

/// The paths of all honoured keys that take a value.
fn honoured(key: &Key, path: &str, found: &mut Vec<String>) {
    for child in key.children.iter().filter(|child| child.status == Status::Honoured) {
        let path = format!("{path}{}{}", if path.is_empty() { "" } else { "." }, child.name);
        match child.kind {
            Kind::Section | Kind::Switch => honoured(child, &path, found),
            Kind::Items => honoured(child, &format!("{path}[0]"), found),
            Kind::List | Kind::Text | Kind::Bool | Kind::Any => found.push(path),
        }
    }
}

/// Each is given a map where a value is wanted: only who reads a key can object.
#[test]
fn what_the_table_calls_honoured_is_read() {
    let mut paths = Vec::new();
    honoured(&table(), "", &mut paths);
    assert!(paths.len() > 100, "{}", paths.len());
    for path in paths {
        let path = path.replace('*', "name");
        let text = path.split('.').rev().fold("{a: {b: c}}".to_owned(), |inner, step| match step.strip_suffix("[0]") {
            Some(step) => format!("{{{step}: [{inner}]}}"),
            None => format!("{{{step}: {inner}}}"),
        });
        let (_, problems) = read(&Source::File { path: "f.yaml".to_owned(), text: text.clone() });
        let objection = format!("`{path}` wants a ");
        assert!(problems.iter().any(|problem| problem.message.starts_with(&objection)), "{text}: {problems:?}");
    }
}

/// Each case with a piece cut out, doubled or replaced, at seeded places: a problem is fine, a panic is not.
#[test]
fn a_damaged_file_is_a_problem_and_never_a_crash() {
    let mut random = fastrand::Rng::with_seed(1);
    for source in cases().into_values() {
        let Source::File { path, text } = source else { continue };
        for _ in 0..40 {
            let mut damaged: Vec<char> = text.chars().collect();
            let start = random.usize(..damaged.len());
            let end = (start + random.usize(..9)).min(damaged.len());
            let piece: String = damaged[start..end].iter().collect();
            let instead = [String::new(), piece.repeat(2), "{".into(), "\n".into(), ": ".into(), "&a *a".into(), "\"".into()];
            damaged.splice(start..end, instead[random.usize(..instead.len())].chars());
            let text = damaged.iter().collect();
            let damaged = Source::File { path: path.clone(), text };
            let (install, problems) = read(&damaged);
            assert!(install.is_some() || !problems.is_empty(), "refused without a reason: {damaged:?}");
            report(&[tidegate::cli::check::install(&Loaded { source: Some(damaged), install, problems })]);
        }
    }
}
