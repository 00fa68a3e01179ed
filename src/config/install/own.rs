//! The `tidegate:` section, which Traefik ignores.

use std::str::FromStr;

use super::read::{path, text};
use super::{AtMaxHold, Mode, Newcomers, NomadSettings, Own, RolloutSettings};
use crate::config::node::Fields;
use crate::config::problem::{Problem, Problems, nearest};

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
        // Without a word about it, tags may do what the install configuration does, and no more.
        own.mode_max = one_of(&mut rollout, "modeMax", MODES, problems).unwrap_or(own.rollout.mode);
        own.webhook = text(&mut rollout, "webhook", problems);
        own.steering_token_file = path(&mut rollout, "tokenFile", problems);
    }
    own.nomad = fields.child("nomad").map(|mut nomad| read_nomad(&mut nomad, problems));
    if own.nomad.is_none()
        && own.rollout.mode.max(own.mode_max) > Mode::Observe
        && let Some(node) = fields.get("rollout")
    {
        let message = "`tidegate.rollout` holds deployments, but there is no `tidegate.nomad` to ask";
        problems.push(Problem::error(&node.at, message).hint("`nomad: {}` asks where Nomad's environment variables point"));
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
        newcomers: one_of(fields, "newcomers", NEWCOMERS, problems).unwrap_or_default(),
        probe_path: probe_path.unwrap_or(default.probe_path),
        warm_up: fields.duration("warmUp", problems).unwrap_or(default.warm_up),
        judged_at: fields.duration("firstByte", problems).unwrap_or(default.judged_at),
        mode: one_of(fields, "mode", MODES, problems).unwrap_or_default(),
        hold_max: fields.duration("maxHold", problems).unwrap_or(default.hold_max),
        at_max_hold: one_of(fields, "atMaxHold", AT_MAX_HOLD, problems).unwrap_or_default(),
        fails_slow: one_of(fields, "latency", LATENCY, problems).unwrap_or_default(),
        reverts: fields.bool("revert", problems).unwrap_or_default(),
    }
}

const NEWCOMERS: &[(&str, Newcomers)] = &[("weigh", Newcomers::Weigh), ("slowStart", Newcomers::SlowStart)];
const MODES: &[(&str, Mode)] = &[("observe", Mode::Observe), ("hold", Mode::Hold), ("auto", Mode::Auto)];
const AT_MAX_HOLD: &[(&str, AtMaxHold)] =
    &[("release", AtMaxHold::Release), ("promote", AtMaxHold::Promote), ("fail", AtMaxHold::Fail)];
const LATENCY: &[(&str, bool)] = &[("hold", false), ("fail", true)];

fn read_nomad(fields: &mut Fields<'_>, problems: &mut Problems) -> NomadSettings {
    let mut nomad = NomadSettings {
        address: text(fields, "address", problems),
        token: text(fields, "token", problems),
        token_file: path(fields, "tokenFile", problems),
        namespaces: fields.strings("namespaces", problems).unwrap_or_default(),
        region: text(fields, "region", problems),
        ..NomadSettings::default()
    };
    if let Some(node) = fields.get("address")
        && let Some(address) = &nomad.address
        && !["http://", "https://", "unix://"].iter().any(|scheme| address.starts_with(scheme))
    {
        let message = format!("`{}` is `{address}`, but wants `http://`, `https://` or `unix://`", fields.path("address"));
        problems.push(Problem::error(&node.at, message).hint("such as `http://127.0.0.1:4646`"));
    }
    if let Some(mut tls) = fields.child("tls") {
        nomad.ca_file = path(&mut tls, "ca", problems);
        let (cert, key) = (path(&mut tls, "cert", problems), path(&mut tls, "key", problems));
        if cert.is_some() != key.is_some() {
            let message = "`tidegate.nomad.tls` wants `cert` and `key` together";
            problems.push(Problem::error(&tls.node().at, message));
        }
        nomad.client_certificate = cert.zip(key);
        nomad.insecure_skip_verify = tls.bool("insecureSkipVerify", problems).unwrap_or_default();
        nomad.server_name = text(&mut tls, "serverName", problems);
    }
    nomad
}

/// One of a few words, compared without case.
fn one_of<T: Copy>(fields: &mut Fields<'_>, key: &'static str, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
    let word = text(fields, key, problems)?;
    if let Some((_, value)) = words.iter().find(|(known, _)| known.eq_ignore_ascii_case(&word)) {
        return Some(*value);
    }
    let known = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    let message = format!("`{}` is `{word}`, but wants {known}", fields.path(key));
    let problem = Problem::error(&fields.get(key)?.at, message);
    problems.push(match nearest(&word, words.iter().map(|(word, _)| *word)) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem,
    });
    None
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
