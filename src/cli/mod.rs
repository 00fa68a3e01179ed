//! The command line: arguments, the search for the install configuration, and what commands print.
//!
//! Here is the edge between the pure reading of configuration and the machine: files and the environment are read here.

pub mod arguments;
pub mod check;
mod demo;
mod drain;
mod healthcheck;
pub mod order;
mod rollout;
mod run;
pub mod wait;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::arguments::{Command, NoCommand};
use crate::config::document::DOCUMENT_BYTES_MAX;
use crate::config::install::{self, Install, Source};
use crate::config::problem::{At, Problem, Problems};

/// Does what the arguments (the program's name first) say.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> = arguments.into_iter().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    match arguments::parse(&arguments) {
        Ok(Command::Run { flags }) => {
            drop((out, err));
            run::run(&flags)
        }
        Ok(Command::Check { file }) => match check::run(&file, &mut out) {
            Ok(check::Verdict::Usable) => ExitCode::SUCCESS,
            Ok(check::Verdict::Refused) | Err(_) => ExitCode::FAILURE,
        },
        Ok(Command::Healthcheck { flags }) => healthcheck::run(&flags, &mut out),
        Ok(Command::Order { place, order, format }) => order::run(&place, &order, format, &mut out, &mut err).into(),
        Ok(Command::Wait { place, rollout, timeout }) => match place.socket() {
            Ok(socket) => wait::run(&socket, &rollout, timeout, &mut out).into(),
            Err(reason) => {
                // Whoever does not read the text has the exit code.
                let _ = writeln!(err, "{reason}");
                order::NOT_ASKED.into()
            }
        },
        Ok(Command::Version) => {
            // Nobody reads it, nobody misses it.
            let _ = writeln!(out, "Tidegate {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Command::Demo { duration }) => {
            drop((out, err));
            demo::run(duration)
        }
        Err(NoCommand { text, exit_code }) => {
            let _ = if exit_code == 0 { write!(out, "{text}") } else { write!(err, "{text}") };
            ExitCode::from(exit_code)
        }
    }
}

/// The install configuration with all that is to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// What it was read from, if anything could be read.
    pub source: Option<Source>,
    /// The configuration, unless there is an error among the problems.
    pub install: Option<Install>,
    /// Everything wrong with it.
    pub problems: Problems,
}

/// Reads the install configuration as Traefik would: from the file that the flags name or the search finds, else from the
/// flags, else from the environment.
pub fn load(flags: &[String]) -> Loaded {
    let variables: Vec<(String, String)> =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let candidates = install::candidates(path("XDG_CONFIG_HOME").as_deref(), path("HOME").as_deref());
    load_from(flags, &variables, &candidates)
}

/// Reads the install configuration from a file, whatever flags and environment say.
pub fn load_file(path: &Path) -> Loaded {
    settle(read_file(path).map(|(path, text)| (Source::File { path, text }, Vec::new())))
}

fn load_from(flags: &[String], variables: &[(String, String)], candidates: &[PathBuf]) -> Loaded {
    settle(find_file(flags, candidates).map(|file| install::pick(file, flags, variables)))
}

fn settle(picked: Result<(Source, Problems), Problem>) -> Loaded {
    match picked {
        Ok((source, mut problems)) => {
            let (install, found) = install::read(&source);
            problems.extend(found);
            Loaded { source: Some(source), install, problems }
        }
        Err(problem) => Loaded { source: None, install: None, problems: vec![problem] },
    }
}

/// The file that a flag names, else the first that the search finds.
///
/// Traefik starts with all defaults when the named file is missing; that is never what was meant, so it is an error here.
fn find_file(flags: &[String], candidates: &[PathBuf]) -> Result<Option<(String, String)>, Problem> {
    if let Some(named) = install::config_file(flags)? {
        return read_file(Path::new(named)).map(Some);
    }
    candidates.iter().find(|candidate| candidate.is_file()).map(|found| read_file(found)).transpose()
}

fn read_file(path: &Path) -> Result<(String, String), Problem> {
    let name = path.display().to_string();
    let at = At::whole(name.as_str());
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file",
            io::ErrorKind::PermissionDenied => "this user may not read it",
            io::ErrorKind::InvalidData => "it is not UTF-8 text",
            _ => return Problem::error(&at, format!("the file cannot be read: {error}")),
        };
        Problem::error(&at, "the file cannot be read").hint(hint)
    };
    // Asked first, so that no endless file fills the memory.
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > DOCUMENT_BYTES_MAX as u64 {
        return Err(Problem::error(&at, format!("the file has {length} bytes, but at most {DOCUMENT_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    Ok((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_named_file_that_is_missing_stops_the_start_with_its_path() {
        let loaded = load_from(&args("--configFile=/nowhere/traefik.yaml"), &[], &[]);
        assert!(loaded.install.is_none());
        assert_eq!(loaded.problems[0].to_string(), "/nowhere/traefik.yaml: the file cannot be read (there is no such file)");
    }

    #[test]
    fn the_first_file_found_counts_and_flags_beside_it_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let candidates = [
            folder.path().join("missing.toml"),
            file("traefik.yaml", "entryPoints: {a: {address: ':1'}}"),
            file("traefik.yml", "entryPoints: {b: {address: ':2'}}"),
        ];
        let loaded = load_from(&args("--entryPoints.c.address=:3"), &[], &candidates);
        assert!(loaded.install.unwrap().entrypoints.contains_key("a"));
        assert!(loaded.problems[0].message.starts_with("ignored"), "{:?}", loaded.problems);

        let named = args(&format!("--configFile={}", candidates[2].display()));
        assert!(load_from(&named, &[], &candidates).install.unwrap().entrypoints.contains_key("b"));

        let flags = load_from(&args("--entryPoints.c.address=:3"), &[], &candidates[..1]);
        assert!(flags.install.unwrap().entrypoints.contains_key("c"));
    }

    #[test]
    fn without_any_source_there_is_one_entrypoint() {
        let loaded = load_from(&[], &[], &[]);
        assert_eq!(loaded.install.unwrap().entrypoints["http"].address, ":80");
    }
}
