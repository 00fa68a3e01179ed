//! Traefik's flags as a tree: `--entryPoints.web.address=:80`, `--ping`, `--log.level DEBUG`, `--…domains[0].main=a.b`.

use super::keys::{Key, Kind};
use super::tree::{Again, Branch, split_index};
use crate::config::document::DEPTH_MAX;
use crate::config::node::Node;
use crate::config::problem::{At, Problem, Problems};

/// The flag that names the file, in lower case.
const CONFIG_FILE: &str = "configfile";

/// One argument that was understood as a flag.
struct Flag<'a> {
    /// Without the dashes.
    name: &'a str,
    value: Option<&'a str>,
}

/// Reads flags along the table. Names are compared without case; whether a key is known is for the table to check later.
///
/// As in Traefik a flag that turns something on takes no value from the next argument, any other does; a list that is given
/// twice goes on, and of anything else the last one counts. Below a name that the user chose (`--entryPoints.web.address :80`)
/// Traefik loses the next argument and takes `true` for the value; here it counts. `--configFile` is passed over:
/// [`config_file`] reads it.
pub fn parse(table: &Key, args: &[String]) -> (Node, Problems) {
    let mut root = Branch::default();
    let mut problems = Vec::new();
    let mut rest = args.iter().map(String::as_str).peekable();
    while let Some(arg) = rest.next() {
        let Some(flag) = as_flag(arg) else {
            let message = format!("`{arg}` is not a flag; Traefik would ignore it and all that follows");
            problems
                .push(Problem::error(&At::whole(format!("argument `{arg}`")), message).hint("values are written `--flag=value`"));
            continue;
        };
        let at = At::whole(format!("flag `--{}`", flag.name));
        let key = table.at_path(flag.name);
        let is_config_file = flag.name.eq_ignore_ascii_case(CONFIG_FILE);
        let value = match (flag.value, key) {
            (Some(value), _) => value,
            (None, Some(key)) if key.is_bool() || key.kind == Kind::Section => "true",
            // What an unknown or a removed flag would take is anybody's guess.
            (None, key) if !is_config_file && key.is_none_or(|key| key.kind == Kind::Any) => {
                rest.next_if(|next| as_flag(next).is_none()).unwrap_or("true")
            }
            (None, _) => match rest.next() {
                Some(value) => value,
                None => {
                    problems.push(Problem::error(&at, format!("`--{}` wants a value", flag.name)));
                    continue;
                }
            },
        };
        let steps = steps(flag.name);
        if is_config_file {
            continue;
        }
        if steps.len() > DEPTH_MAX {
            problems.push(Problem::error(&at, format!("the flag is nested deeper than {DEPTH_MAX} levels")));
            continue;
        }
        let is_list = key.is_some_and(|key| key.kind == Kind::List);
        root.insert(&steps, value, &at, if is_list { Again::Appends } else { Again::Replaces });
    }
    (root.into_node(), problems)
}

/// The file that `--configFile` names; the last one counts.
///
/// # Errors
/// The flag stands last and names nothing.
pub fn config_file(args: &[String]) -> Result<Option<&str>, Problem> {
    let mut found = None;
    let mut rest = args.iter().map(String::as_str);
    while let Some(arg) = rest.next() {
        let Some(flag) = as_flag(arg).filter(|flag| flag.name.eq_ignore_ascii_case(CONFIG_FILE)) else { continue };
        found = flag.value.or_else(|| rest.next());
        if found.is_none_or(str::is_empty) {
            return Err(Problem::error(&At::whole(format!("flag `{arg}`")), "wants the path of a file"));
        }
    }
    Ok(found)
}

/// The first flag that configures anything, which `--configFile` does not.
pub fn first(args: &[String]) -> Option<&str> {
    let mut rest = args.iter().map(String::as_str);
    while let Some(arg) = rest.next() {
        match as_flag(arg) {
            Some(Flag { name, value }) if name.eq_ignore_ascii_case(CONFIG_FILE) => {
                if value.is_none() {
                    rest.next();
                }
            }
            _ => return Some(arg.split('=').next().unwrap_or(arg)),
        }
    }
    None
}

/// `-name`, `--name`, either with `=value`.
fn as_flag(arg: &str) -> Option<Flag<'_>> {
    let text = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    (!name.is_empty() && !name.starts_with('-')).then_some(Flag { name, value })
}

fn steps(name: &str) -> Vec<String> {
    let mut steps = Vec::new();
    for step in name.split('.') {
        let (key, index) = split_index(step);
        steps.push(key.to_owned());
        steps.extend(index.map(str::to_owned));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::keys::table;
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Reads flags and shows the scalar at each path, and the problems.
    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)], problems: &[&str]) {
        let (root, found) = parse(&table(), &args(text));
        for (path, value) in expected {
            let node = path.split('.').try_fold(&root, |node, key| node.get(key));
            assert_eq!(node.and_then(|node| node.scalar.as_deref()), Some(*value), "{path} of {text}");
        }
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, problems, "{text}");
    }

    #[test]
    fn flags_are_taken_as_traefik_takes_them() {
        check("--ping", &[("ping", "true")], &[]);
        check("-PING --log.level DEBUG", &[("ping", "true"), ("log.level", "DEBUG")], &[]);
        check(
            "--entryPoints.web.address=:80 --api.insecure=false",
            &[("entrypoints.WEB.address", ":80"), ("api.insecure", "false")],
            &[],
        );
        check("--accesslog.fields.names.x=keep", &[("accessLog.fields.names.x", "keep")], &[]);
        check("--log.level=a --log.level=b=c", &[("log.level", "b=c")], &[]);
        check(
            "--entryPoints.web.forwardedHeaders.trustedIPs=10.0.0.1 --entrypoints.web.forwardedheaders.trustedips=10.0.0.2",
            &[("entryPoints.web.forwardedHeaders.trustedIPs", "10.0.0.1,10.0.0.2")],
            &[],
        );
        check("--configFile=x --ping --configfile y", &[("ping", "true")], &[]);
        check("--nope --ping", &[("nope", "true"), ("ping", "true")], &[]);
    }

    #[test]
    fn items_of_lists_go_by_their_number() {
        let (root, _) =
            parse(&table(), &args("--entrypoints.a.http.tls.domains[1].main=b --entrypoints.a.http.tls.domains[0].main=a"));
        let domains = ["entryPoints", "a", "http", "tls", "domains"].iter().try_fold(&root, |node, key| node.get(key)).unwrap();
        let crate::config::node::Children::List(items) = &domains.children else { panic!("{domains:?}") };
        let mains: Vec<_> = items.iter().map(|item| item.get("main").unwrap().scalar.as_deref().unwrap()).collect();
        assert_eq!(mains, ["a", "b"]);
    }

    #[test]
    fn stray_arguments_and_missing_values_are_mistakes() {
        check("--log.level", &[], &["flag `--log.level`: `--log.level` wants a value"]);
        check(
            "--ping false",
            &[("ping", "true")],
            &[
                "argument `false`: `false` is not a flag; Traefik would ignore it and all that follows (values are written `--flag=value`)",
            ],
        );
        let deep = format!("--{}x=1", "a.".repeat(100));
        let (_, found) = parse(&table(), &[deep]);
        assert!(found[0].message.contains("deeper than 64"));
    }

    #[test]
    fn finds_the_named_file() {
        assert_eq!(config_file(&args("--ping --configFile=a --CONFIGFILE b")), Ok(Some("b")));
        assert_eq!(config_file(&args("--ping")), Ok(None));
        assert!(config_file(&args("--configFile")).is_err());
        assert_eq!(first(&args("--configFile a --ping=true")), Some("--ping"));
        assert_eq!(first(&args("--configFile=a")), None);
    }
}
