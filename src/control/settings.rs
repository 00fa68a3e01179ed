//! The rollout settings of one service: the install configuration's, as far as its own tags do not say otherwise.

use std::collections::BTreeMap;

use super::registry::Layer;
use crate::config::install::{Mode, Newcomers, RolloutSettings};
use crate::config::node::{parse_bool, parse_duration};

/// What holds for a service. `own` are its tags, with keys in lower case, of the definition that serves: a canary's do not count. They
/// may lower the mode, and raise it up to `mode_max`. Raw TCP shows no answers, so newcomers there are not judged.
pub(super) fn rollout_settings(
    install: &RolloutSettings,
    mode_max: Mode,
    layer: Layer,
    own: &BTreeMap<String, String>,
) -> RolloutSettings {
    let mut settings = install.clone();
    if layer == Layer::Tcp {
        settings.enabled = false;
    }
    // Values were checked where the tags were read.
    if let Some(enabled) = own.get("enabled").and_then(|text| parse_bool(text)) {
        settings.enabled &= enabled;
    }
    if let Some(path) = own.get("probepath") {
        settings.probe_path.clone_from(path);
    }
    if let Some(span) = own.get("warmup").and_then(|text| parse_duration(text)) {
        settings.warm_up = span;
    }
    if let Some(text) = own.get("newcomers") {
        settings.newcomers = if text.eq_ignore_ascii_case("weigh") { Newcomers::Weigh } else { Newcomers::SlowStart };
    }
    if let Some(mode) = own.get("mode").and_then(|text| parse_mode(text)) {
        settings.mode = mode.min(mode_max.max(install.mode));
    }
    settings
}

fn parse_mode(text: &str) -> Option<Mode> {
    match text {
        "observe" => Some(Mode::Observe),
        "hold" => Some(Mode::Hold),
        "auto" => Some(Mode::Auto),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(install: Mode, mode_max: Mode, tag: &str, expected: Mode) {
        let install = RolloutSettings { mode: install, ..RolloutSettings::default() };
        let own = BTreeMap::from([("mode".to_owned(), tag.to_owned())]);
        assert_eq!(rollout_settings(&install, mode_max, Layer::Http, &own).mode, expected);
    }

    #[test]
    fn a_tag_may_lower_the_mode_and_raise_it_as_far_as_allowed() {
        check(Mode::Auto, Mode::Auto, "observe", Mode::Observe);
        check(Mode::Observe, Mode::Observe, "auto", Mode::Observe);
        check(Mode::Observe, Mode::Hold, "auto", Mode::Hold);
        check(Mode::Observe, Mode::Auto, "auto", Mode::Auto);
        check(Mode::Hold, Mode::Observe, "hold", Mode::Hold);
    }
}
