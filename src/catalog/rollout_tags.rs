//! `tidegate.rollout.KEY=VALUE`: what a job may say of its own rollouts. Traefik does not look at these tags.

use std::collections::BTreeMap;

use crate::config::node::{parse_bool, parse_duration};
use crate::config::problem::{At, Problem, Problems, nearest};

/// What a value must be.
enum Wants {
    Truth,
    Span,
    Path,
    OneOf(&'static [&'static str]),
}

/// The settings that a service may have of its own.
const KEYS: [(&str, Wants); 5] = [
    ("enabled", Wants::Truth),
    ("mode", Wants::OneOf(&["observe", "hold", "auto"])),
    ("newcomers", Wants::OneOf(&["weigh", "slow-start"])),
    ("probePath", Wants::Path),
    ("warmUp", Wants::Span),
];

/// Reads them, by key in lower case. `prefix` is that of Traefik's tags, should somebody have chosen ours for them.
pub(super) fn read(tags: &[String], prefix: &str, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for tag in tags {
        let Some((key, value)) = tag.strip_prefix("tidegate.").and_then(|rest| rest.split_once('=')) else { continue };
        let at = At::whole(format!("tag `{tag}`"));
        let Some(key) = key.strip_prefix("rollout.") else {
            if prefix != "tidegate" {
                let message = format!("`tidegate.{key}` is not known and is ignored");
                problems.push(Problem::warning(&at, message).hint("known are `tidegate.rollout.…`"));
            }
            continue;
        };
        match KEYS.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)) {
            Some((known, wants)) => match wants.refuse(value) {
                None => {
                    settings.insert(known.to_ascii_lowercase(), value.to_owned());
                }
                Some(what) => {
                    let message = format!("`tidegate.rollout.{known}` is `{value}`, but wants {what}; it is ignored");
                    problems.push(Problem::warning(&at, message));
                }
            },
            None => {
                let problem = Problem::warning(&at, format!("`tidegate.rollout.{key}` is not known and is ignored"));
                problems.push(match nearest(key, KEYS.iter().map(|(known, _)| *known)) {
                    Some(known) => problem.hint(format!("did you mean `{known}`?")),
                    None => problem,
                });
            }
        }
    }
    settings
}

impl Wants {
    /// What was wanted, if `value` is something else.
    fn refuse(&self, value: &str) -> Option<String> {
        match self {
            Self::Truth => parse_bool(value).is_none().then(|| "`true` or `false`".to_owned()),
            Self::Span => parse_duration(value).is_none().then(|| "a span of time such as `30s`".to_owned()),
            Self::Path => (!value.starts_with('/')).then(|| "a path that begins with `/`".to_owned()),
            Self::OneOf(words) => (!words.contains(&value)).then(|| format!("one of {}", words.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tag: &str, settings: &[(&str, &str)], problem: Option<&str>) {
        let mut problems = Vec::new();
        let found = read(&[tag.to_owned()], "traefik", &mut problems);
        assert_eq!(found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), settings);
        assert_eq!(problems.first().map(|problem| problem.message.as_str()), problem);
    }

    #[test]
    fn a_job_may_say_how_it_is_rolled_out() {
        check("tidegate.rollout.probePath=/health", &[("probepath", "/health")], None);
        check("tidegate.rollout.warmup=90s", &[("warmup", "90s")], None);
        check("tidegate.rollout.newcomers=slow-start", &[("newcomers", "slow-start")], None);
        check("tidegate.rollout.mode=hold", &[("mode", "hold")], None);
        check("traefik.enable=true", &[], None);
    }

    #[test]
    fn a_mistake_is_named_and_costs_only_itself() {
        check("tidegate.rollout.warmUpp=90s", &[], Some("`tidegate.rollout.warmUpp` is not known and is ignored"));
        check("tidegate.rolout.warmUp=90s", &[], Some("`tidegate.rolout.warmUp` is not known and is ignored"));
        check(
            "tidegate.rollout.enabled=yes",
            &[],
            Some("`tidegate.rollout.enabled` is `yes`, but wants `true` or `false`; it is ignored"),
        );
    }
}
