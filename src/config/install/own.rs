//! The `tidegate:` section, which Traefik ignores.

use std::str::FromStr;

use super::read::{path, text};
use super::{Newcomers, Own, RolloutSettings};
use crate::config::node::Fields;
use crate::config::problem::{Problem, Problems};

/// Consul's agent takes at most this many connections from one address unless told otherwise.
const CONSUL_WATCHES_MAX: usize = 200;

pub(super) fn read(root: &mut Fields<'_>, problems: &mut Problems) -> Own {
    let mut own = Own::default();
    let Some(mut fields) = root.child("tidegate") else { return own };
    if let Some(mut consul) = fields.child("consul") {
        let watches = at_least_one(&mut consul, "watchesMax", "a number of connections", problems);
        own.consul_watches_max = watches.unwrap_or(own.consul_watches_max);
        if let (true, Some(node)) = (own.consul_watches_max > CONSUL_WATCHES_MAX, consul.get("watchesMax")) {
            let message =
                format!("`tidegate.consul.watchesMax` is more than the {CONSUL_WATCHES_MAX} that Consul allows by default");
            problems.push(Problem::warning(&node.at, message).hint("raise `limits.http_max_conns_per_client` in Consul, too"));
        }
        own.strict_tags = consul.bool("strictTags", problems).unwrap_or(own.strict_tags);
        own.consul_token_file = path(&mut consul, "tokenFile", problems);
    }
    if let Some(mut start) = fields.child("start") {
        own.start_timeout = start.duration("timeout", problems).unwrap_or(own.start_timeout);
    }
    own.state = path(&mut fields, "state", problems).unwrap_or(own.state);
    if let Some(mut rollout) = fields.child("rollout") {
        own.rollout = read_rollout(&mut rollout, problems);
    }
    if let Some(mut retry) = fields.child("retry") {
        own.attempts_max = at_least_one(&mut retry, "attempts", "a number of tries", problems).unwrap_or(own.attempts_max);
    }
    if let Some(mut upstream) = fields.child("upstream") {
        own.first_byte_timeout = upstream.duration("firstByteTimeout", problems).unwrap_or(own.first_byte_timeout);
    }
    if let Some(mut limits) = fields.child("limits") {
        own.connections_max =
            at_least_one(&mut limits, "connections", "a number of connections", problems).unwrap_or(own.connections_max);
    }
    if let Some(mut metrics) = fields.child("metrics") {
        own.per_server_metrics = metrics.bool("perServer", problems).unwrap_or(own.per_server_metrics);
    }
    own
}

fn read_rollout(fields: &mut Fields<'_>, problems: &mut Problems) -> RolloutSettings {
    let default = RolloutSettings::default();
    let probe_path = text(fields, "probePath", problems);
    if let (Some(false), Some(node)) = (probe_path.as_ref().map(|path| path.starts_with('/')), fields.get("probePath")) {
        let message = format!("`{}` wants a path that starts with `/`", fields.path("probePath"));
        problems.push(Problem::error(&node.at, message));
    }
    RolloutSettings {
        enabled: fields.bool("enabled", problems).unwrap_or(default.enabled),
        track_tag: text(fields, "trackTag", problems),
        track_meta: text(fields, "trackMeta", problems),
        newcomers: read_newcomers(fields, problems).unwrap_or_default(),
        probe_path: probe_path.unwrap_or(default.probe_path),
        warm_up: fields.duration("warmUp", problems).unwrap_or(default.warm_up),
        judged_at: fields.duration("firstByte", problems).unwrap_or(default.judged_at),
    }
}

fn read_newcomers(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Newcomers> {
    let word = text(fields, "newcomers", problems)?;
    match word.to_ascii_lowercase().as_str() {
        "weigh" => Some(Newcomers::Weigh),
        "slowstart" => Some(Newcomers::SlowStart),
        _ => {
            let message = format!("`{}` is `{word}`, but wants `weigh` or `slowStart`", fields.path("newcomers"));
            problems.push(Problem::error(&fields.get("newcomers")?.at, message));
            None
        }
    }
}

/// A number of which there must be one at least.
fn at_least_one<T: FromStr + PartialOrd + From<u8>>(
    fields: &mut Fields<'_>,
    key: &'static str,
    wants: &str,
    problems: &mut Problems,
) -> Option<T> {
    let number = fields.parsed::<T>(key, wants, problems)?;
    if number < T::from(1) {
        problems.push(Problem::error(&fields.get(key)?.at, format!("`{}` wants {wants}, at least 1", fields.path(key))));
    }
    Some(number)
}
