//! `tidegate check FILE`: reads an install configuration and the dynamic files that it names, and shows every problem where it
//! stands. Nothing is started, and what only other providers know (a reference to `x@consulcatalog`) is not judged.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use super::{Loaded, load_file};
use crate::config::document;
use crate::config::dynamic::{Definitions, decode};
use crate::config::install::{FileProvider, Source};
use crate::config::problem::{At, Problem, Problems, Severity, has_error};
use crate::provider::file;
use crate::rule::{self, InvalidRule, Tree};

/// How much of a source line is shown; of a longer one the part around the mistake.
const LINE_CHARS_MAX: usize = 120;

/// A file that was read, with what is wrong in it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// As the user named it.
    pub path: String,
    /// What stands in it; empty if it could not be read.
    pub text: String,
    /// What is wrong in it.
    pub problems: Problems,
}

/// Whether a file may be used as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No errors: exit code 0.
    Usable,
    /// At least one error: exit code 1.
    Refused,
}

/// Checks a file and prints the report to `out`.
///
/// # Errors
/// The report cannot be written.
pub fn run(path: &Path, out: &mut impl Write) -> io::Result<Verdict> {
    let checked = check(path);
    out.write_all(report(&checked).as_bytes())?;
    let is_refused = checked.iter().any(|file| has_error(&file.problems));
    Ok(if is_refused { Verdict::Refused } else { Verdict::Usable })
}

/// Reads the install configuration; each file that it leads to is one more in the list.
fn check(path: &Path) -> Vec<Checked> {
    let loaded = load_file(path);
    // A file that could not even be read still has its name.
    let mut checked = vec![Checked { path: path.display().to_string(), ..install(&loaded) }];
    if let Some(settings) = loaded.install.and_then(|install| install.providers.file) {
        checked.extend(dynamic_files(&settings));
    }
    checked
}

/// The files of the provider `file`, read as the proxy would.
fn dynamic_files(settings: &FileProvider) -> Vec<Checked> {
    let state = file::read(settings);
    let unreadable = state.unreadable.iter().map(|(path, problem)| Checked {
        path: path.display().to_string(),
        text: String::new(),
        problems: vec![problem.clone()],
    });
    let readable = state.files.iter().map(|(path, content)| {
        let path = path.display().to_string();
        let problems = match document::parse(&path, &content.text) {
            Ok(node) => {
                let provided = decode::file(&node);
                let mut problems = provided.problems;
                problems.extend(rules(&provided.definitions));
                problems.sort_by_key(|problem| problem.at.as_ref().map(|at| (at.line, at.column)));
                problems
            }
            Err(problem) => vec![problem],
        };
        Checked { path, text: content.text.to_string(), problems }
    });
    unreadable.chain(readable).collect()
}

/// What is wrong or doubtful about the rules of routers.
fn rules(definitions: &Definitions) -> Problems {
    let http = |text: &str| rule::parse(text).and_then(|tree| rule::http::compile(&tree).map(|_| tree));
    let tcp = |text: &str| rule::parse(text).and_then(|tree| rule::tcp::compile(&tree).map(|_| tree));
    let mut problems = Problems::new();
    for (name, router) in &definitions.routers {
        problems.extend(judged(&format!("router `{name}`"), &router.at, &router.rule, http(&router.rule)));
    }
    for (name, router) in &definitions.tcp_routers {
        problems.extend(judged(&format!("TCP router `{name}`"), &router.at, &router.rule, tcp(&router.rule)));
    }
    problems
}

fn judged(router: &str, at: &At, rule: &str, read: Result<Tree, InvalidRule>) -> Problems {
    match read {
        Ok(tree) => tree.doubts().iter().map(|doubt| Problem::warning(at, format!("{router}: {doubt}"))).collect(),
        Err(error) => vec![Problem::error(at, format!("{router}: invalid rule {rule}: {error}"))],
    }
}

/// An install configuration that was loaded, ready for [`report`].
pub fn install(loaded: &Loaded) -> Checked {
    let (path, text) = match &loaded.source {
        Some(Source::File { path, text }) => (path.as_str(), text.as_str()),
        Some(Source::Flags(_)) => ("command line", ""),
        Some(Source::Environment(_)) => ("environment", ""),
        Some(Source::Nothing) | None => ("install configuration", ""),
    };
    Checked { path: path.to_owned(), text: text.to_owned(), problems: loaded.problems.clone() }
}

/// Every problem with its source line and a caret below, and a line that sums up.
pub fn report(checked: &[Checked]) -> String {
    let mut report = String::new();
    for file in checked {
        for problem in &file.problems {
            // Writing to a String cannot fail.
            let _ = write_problem(&mut report, problem, &file.text);
        }
        let _ = writeln!(report, "{}: {}", file.path, summary(&file.problems));
    }
    report
}

/// One problem as the report shows it; `text` is the file it stands in.
fn write_problem(report: &mut String, problem: &Problem, text: &str) -> std::fmt::Result {
    if let Some(at) = &problem.at {
        write!(report, "{at}: ")?;
    }
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    write!(report, "{severity}: {}", problem.message)?;
    if let Some(hint) = &problem.hint {
        write!(report, " ({hint})")?;
    }
    writeln!(report)?;
    let line = problem.at.as_ref().filter(|at| at.line > 0).and_then(|at| Some((at, text.lines().nth(at.line as usize - 1)?)));
    if let Some((at, line)) = line {
        write_line(report, at, line)?;
    }
    writeln!(report)
}

/// The source line and a caret below the word that is meant.
fn write_line(report: &mut String, at: &At, line: &str) -> std::fmt::Result {
    let column = (at.column as usize).saturating_sub(1);
    let skipped = if column < LINE_CHARS_MAX { 0 } else { column - LINE_CHARS_MAX / 2 };
    // No control character of a file reaches the terminal; a tab becomes one space, so that the caret stands right.
    let shown: String = line.chars().skip(skipped).take(LINE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let before = column - skipped;
    let carets = line.chars().skip(column).take(LINE_CHARS_MAX - before).take_while(|c| is_word(*c)).count().max(1);
    let number = at.line.to_string();
    let margin = " ".repeat(number.len());
    writeln!(report, "  {number} | {}", shown.trim_end())?;
    writeln!(report, "  {margin} | {}{}", " ".repeat(before), "^".repeat(carets))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '<')
}

fn summary(problems: &[Problem]) -> String {
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let said = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let parts: Vec<_> =
        [said(count(Severity::Error), "error"), said(count(Severity::Warning), "warning")].into_iter().flatten().collect();
    if parts.is_empty() { "no problems".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, verdict: Verdict, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut out = Vec::new();
        assert_eq!(run(&path, &mut out).unwrap(), verdict);
        let report = String::from_utf8(out).unwrap().replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(report, expected);
    }

    #[test]
    fn shows_the_line_and_the_word() {
        check(
            "t.yaml",
            "entryPoints:\n  web:\n    adress: \":80\"\n    address: ':81'\nping:\n  terminatingStatusCode: abc\n",
            Verdict::Refused,
            "t.yaml:3:5: error: unknown key `entryPoints.web.adress` (did you mean `address`?)\n\
             \x20 3 |     adress: \":80\"\n\
             \x20   |     ^^^^^^\n\
             \n\
             t.yaml:6:26: error: `ping.terminatingStatusCode` is `abc`, but wants a status such as `503`\n\
             \x20 6 |   terminatingStatusCode: abc\n\
             \x20   |                          ^^^\n\
             \n\
             t.yaml: 2 errors\n",
        );
        check("t.toml", "[ping]\n", Verdict::Usable, "t.toml: no problems\n");
        check(
            "t.toml",
            "[ping]\n[nope]\n[tracing]\n",
            Verdict::Usable,
            "t.toml:2:2: warning: unknown section `nope` is ignored, as in Traefik (known here: accessLog, api, certificatesResolvers, \
             core, entryPoints, experimental, global, hostResolver, log, metrics, ocsp, ping, providers, serversTransport, spiffe, \
             tcpServersTransport, tidegate, tracing)\n\
             \x20 2 | [nope]\n\
             \x20   |  ^^^^\n\
             \n\
             t.toml:3:2: warning: `tracing` is not honoured yet\n\
             \x20 3 | [tracing]\n\
             \x20   |  ^^^^^^^\n\
             \n\
             t.toml: 2 warnings\n",
        );
    }

    #[test]
    fn follows_the_file_provider_into_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let dynamic = folder.path().join("dynamic");
        let install = write("t.yaml", &format!("providers: {{file: {{directory: \"{}\"}}}}\n", dynamic.display()));
        let service = "services: {s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}}";
        write("dynamic/good.yaml", &format!("http: {{routers: {{r: {{rule: \"Path(`/`)\", service: s}}}}, {service}}}\n"));
        write("dynamic/sub/half.toml", "[http.routers.r\n");
        write(
            "dynamic/wrong.yaml",
            "http:\n  routers:\n    a:\n      rule: Hots(`a.test`)\n      service: s\n    b:\n      rul: x\ntcp:\n  routers:\n    \
             t:\n      rule: HostSNI(`*`\n      service: s\n",
        );
        let mut out = Vec::new();
        assert_eq!(run(&install, &mut out).unwrap(), Verdict::Refused);
        let report = String::from_utf8(out).unwrap().replace(&format!("{}/", folder.path().display()), "");
        insta::assert_snapshot!(report);

        let alone = write("alone.yaml", "providers: {file: {filename: /nowhere/dynamic.yaml}}\n");
        let mut out = Vec::new();
        assert_eq!(run(&alone, &mut out).unwrap(), Verdict::Refused);
        let report = String::from_utf8(out).unwrap();
        assert!(report.contains("/nowhere/dynamic.yaml: error: cannot be read"), "{report}");
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let mut out = Vec::new();
        assert_eq!(run(Path::new("/nowhere/t.yaml"), &mut out).unwrap(), Verdict::Refused);
        let report = String::from_utf8(out).unwrap();
        assert_eq!(
            report,
            "/nowhere/t.yaml: error: the file cannot be read (there is no such file)\n\n/nowhere/t.yaml: 1 error\n"
        );
    }

    #[test]
    fn long_lines_and_control_characters_do_not_spoil_the_terminal() {
        let at = At { source: "f".into(), line: 1, column: 1000 };
        let line = format!("{}\x1b[31mwrong\tx{}", "a".repeat(999), "b".repeat(1000));
        let mut report = String::new();
        write_line(&mut report, &at, &line).unwrap();
        assert!(report.lines().all(|line| line.chars().count() < 140 && !line.contains('\x1b')), "{report}");
        assert_eq!(report.lines().nth(1).unwrap().find('^'), report.lines().next().unwrap().find(" [31m"));
    }
}
