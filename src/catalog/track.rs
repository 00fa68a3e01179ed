//! Which side of a rollout an instance says it is on, and which version it says it is.
//!
//! Nomad's `canary_tags` and `canary_meta` replace the normal ones while an instance is a canary; what they say is up to the
//! user. A configured key tells versions apart; without one, whatever calls itself canary is one. When nothing is said, our
//! own first sight decides later.

use super::{Instance, TranslateSettings};
use crate::config::dynamic::labels::Labels;
use crate::config::node::parse_bool;
use crate::names::Track;

/// The version and the track that tags or meta tell.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Said {
    pub(super) version: Option<String>,
    pub(super) track: Option<Track>,
}

/// What the tags say.
pub(super) fn of_tags(tags: &[String], labels: &Labels, settings: &TranslateSettings) -> Said {
    let key = settings.track_tag.as_deref();
    let value = |tag: &str| key.and_then(|key| tag.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
    let version = tags.iter().find_map(|tag| value(tag));
    let is_canary = labels.is_canary || tags.iter().any(|tag| says_canary(tag));
    Said { track: track(is_canary, version.as_deref()), version }
}

/// What the tags said, completed by the meta of one instance.
pub(super) fn of_instance(instance: &Instance, tags: &Said, settings: &TranslateSettings) -> Said {
    let value = settings.track_meta.as_ref().and_then(|key| instance.meta.get(key));
    let version = tags.version.clone().or_else(|| value.cloned());
    let is_canary = instance.meta.iter().any(|(key, value)| is_canary_true(key, value));
    Said { track: tags.track.or_else(|| track(is_canary, version.as_deref())), version }
}

fn track(is_canary: bool, version: Option<&str>) -> Option<Track> {
    match version {
        _ if is_canary => Some(Track::Canary),
        Some("canary") => Some(Track::Canary),
        Some("stable") => Some(Track::Stable),
        Some(_) | None => None,
    }
}

fn says_canary(tag: &str) -> bool {
    match tag.split_once('=') {
        Some((key, value)) => is_canary_true(key, value),
        None => tag.eq_ignore_ascii_case("canary"),
    }
}

fn is_canary_true(key: &str, value: &str) -> bool {
    key.eq_ignore_ascii_case("canary") && parse_bool(value) == Some(true)
}
