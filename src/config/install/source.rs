//! Where the install configuration comes from: exactly one of a file, flags and the environment, in this order, as in Traefik.

use std::path::{Path, PathBuf};

use super::keys::table;
use super::{environment, flags};
use crate::config::problem::{At, Problem, Problems};

/// What the install configuration is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, read already.
    File {
        /// As the user or the search named it.
        path: String,
        /// What stands in it.
        text: String,
    },
    /// Traefik's flags.
    Flags(Vec<String>),
    /// All variables of the environment; those named `TRAEFIK_…` count.
    Environment(Vec<(String, String)>),
    /// Nobody said anything: all defaults.
    Nothing,
}

/// Where a file is looked for when no flag names one, in Traefik's order.
///
/// `xdg` is `$XDG_CONFIG_HOME` and `home` is `$HOME`; what is not set or empty is left out.
pub fn candidates(xdg: Option<&Path>, home: Option<&Path>) -> Vec<PathBuf> {
    let is_set = |path: &&Path| !path.as_os_str().is_empty();
    let folders = [
        Some(PathBuf::from("/etc/traefik")),
        xdg.filter(is_set).map(Path::to_owned),
        home.filter(is_set).map(|home| home.join(".config")),
        Some(PathBuf::from(".")),
    ];
    let names = ["traefik.toml", "traefik.yaml", "traefik.yml"];
    folders.iter().flatten().flat_map(|folder| names.map(|name| folder.join(name))).collect()
}

/// Picks the one source that counts; what is set elsewhere and therefore ignored is warned of.
///
/// `file` is the path and text of the file that was named or found.
pub fn pick(file: Option<(String, String)>, args: &[String], variables: &[(String, String)]) -> (Source, Problems) {
    let table = table();
    let flag = flags::first(args);
    let variable = environment::first(&table, variables);
    let mut problems = Vec::new();
    let mut ignored = |what: String, winner: &str| {
        let message = format!("ignored, with all its kind, because {winner} counts: only one source does, as in Traefik");
        problems.push(Problem::warning(&At::whole(what), message));
    };
    let source = match (file, flag, variable) {
        (Some((path, text)), flag, variable) => {
            let winner = format!("the file `{path}`");
            flag.into_iter().for_each(|flag| ignored(format!("flag `{flag}`"), &winner));
            variable.into_iter().for_each(|name| ignored(format!("environment `{name}`"), &winner));
            Source::File { path, text }
        }
        (None, Some(_), variable) => {
            variable.into_iter().for_each(|name| ignored(format!("environment `{name}`"), "the command line"));
            Source::Flags(args.to_vec())
        }
        (None, None, Some(_)) => Source::Environment(variables.to_vec()),
        (None, None, None) => Source::Nothing,
    };
    (source, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_where_traefik_looks() {
        let found = candidates(Some(Path::new("/x")), Some(Path::new("/h")));
        assert_eq!(found.len(), 12);
        assert_eq!(found[0], Path::new("/etc/traefik/traefik.toml"));
        assert_eq!(found[4], Path::new("/x/traefik.yaml"));
        assert_eq!(found[8], Path::new("/h/.config/traefik.yml"));
        assert_eq!(found[9], Path::new("./traefik.toml"));
        assert_eq!(candidates(None, Some(Path::new(""))).len(), 6);
    }

    #[test]
    fn the_first_source_that_says_anything_is_the_only_one() {
        let file = Some(("t.yaml".to_owned(), "ping: {}".to_owned()));
        let args = ["--configFile=t.yaml".to_owned(), "--ping".to_owned()];
        let variables = [("TRAEFIK_PING".to_owned(), "true".to_owned())];

        let (source, problems) = pick(file, &args, &variables);
        assert!(matches!(source, Source::File { .. }));
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "flag `--ping`: ignored, with all its kind, because the file `t.yaml` counts: only one source does, as in Traefik",
                "environment `TRAEFIK_PING`: ignored, with all its kind, because the file `t.yaml` counts: only one source does, as in Traefik",
            ]
        );
        assert!(matches!(pick(None, &args, &variables).0, Source::Flags(_)));
        assert!(matches!(pick(None, &args[..1], &variables).0, Source::Environment(_)));
        assert_eq!(pick(None, &[], &[]), (Source::Nothing, Vec::new()));
    }
}
