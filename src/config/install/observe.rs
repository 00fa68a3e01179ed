//! `accessLog`, `log`, `metrics.prometheus`, `ping`, `api`: what is seen of us.

use std::collections::BTreeMap;

use super::read::{entrypoint, path, switch, text, word};
use super::{AccessLog, AccessLogFields, AccessLogFilters, AccessLogFormat, Api, FieldMode, Log, Ping, Prometheus};
use crate::config::node::Fields;
use crate::config::problem::{Problem, Problems};

const FIELD_MODES: [(&str, FieldMode); 2] = [("keep", FieldMode::Keep), ("drop", FieldMode::Drop)];
const HEADER_MODES: [(&str, FieldMode); 3] =
    [("keep", FieldMode::Keep), ("drop", FieldMode::Drop), ("redact", FieldMode::Redact)];
const LEVELS: [&str; 7] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "PANIC"];

pub(super) fn access_log(root: &mut Fields<'_>, problems: &mut Problems) -> Option<AccessLog> {
    let mut fields = switch(root, "accessLog")?;
    let formats =
        [("common", AccessLogFormat::Common), ("genericCLF", AccessLogFormat::GenericClf), ("json", AccessLogFormat::Json)];
    let otherwise = ("`common`", AccessLogFormat::Common);
    Some(AccessLog {
        file_path: path(&mut fields, "filePath", problems),
        format: word(&mut fields, "format", &formats, otherwise, problems).unwrap_or_default(),
        buffering_size: fields.parsed("bufferingSize", "a number of lines", problems).unwrap_or_default(),
        add_internals: fields.bool("addInternals", problems).unwrap_or_default(),
        filters: fields.child("filters").map(|mut filters| read_filters(&mut filters, problems)).unwrap_or_default(),
        fields: read_access_log_fields(fields.child("fields"), problems),
    })
}

fn read_filters(fields: &mut Fields<'_>, problems: &mut Problems) -> AccessLogFilters {
    let path = fields.path("statusCodes");
    let mut status_codes = Vec::new();
    let texts = fields.get("statusCodes").map(|node| node.texts(&path, problems));
    for (at, text) in texts.unwrap_or_default() {
        if let Some(range) = parse_range(&text) {
            status_codes.push(range);
        } else {
            let message = format!("`{path}` has `{text}`, but wants a status such as `404` or a range such as `500-599`");
            problems.push(Problem::warning(at, message).hint("this one is left out"));
        }
    }
    AccessLogFilters {
        status_codes,
        retry_attempts: fields.bool("retryAttempts", problems).unwrap_or_default(),
        duration_min: fields.duration("minDuration", problems).filter(|duration| !duration.is_zero()),
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last))
}

fn read_access_log_fields(fields: Option<Fields<'_>>, problems: &mut Problems) -> AccessLogFields {
    let keep = ("`keep`", FieldMode::Keep);
    let drop = ("`drop`", FieldMode::Drop);
    let mut read = AccessLogFields { headers_default: FieldMode::Drop, ..AccessLogFields::default() };
    let Some(mut fields) = fields else { return read };
    read.default = word(&mut fields, "defaultMode", &FIELD_MODES, keep, problems).unwrap_or_default();
    read.names = read_modes(&mut fields, &FIELD_MODES, read.default, problems);
    let Some(mut headers) = fields.child("headers") else { return read };
    read.headers_default = word(&mut headers, "defaultMode", &HEADER_MODES, drop, problems).unwrap_or(FieldMode::Drop);
    read.headers = read_modes(&mut headers, &HEADER_MODES, read.headers_default, problems);
    read
}

/// The modes below `names`; a word that is no mode means the default one, as in Traefik.
fn read_modes(
    fields: &mut Fields<'_>,
    modes: &[(&str, FieldMode)],
    default: FieldMode,
    problems: &mut Problems,
) -> BTreeMap<String, FieldMode> {
    let mut read = BTreeMap::new();
    let path = fields.path("names");
    for (name, value) in fields.named("names") {
        let Some(text) = value.node().string(&format!("{path}.{name}"), problems) else { continue };
        let mode = modes.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)).map(|(_, mode)| *mode);
        if mode.is_none() {
            let known = modes.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            let message = format!("`{path}.{name}` is `{text}`, but wants one of {known}");
            problems.push(Problem::warning(&value.node().at, message).hint("the default mode is used, as in Traefik"));
        }
        read.insert(name.to_lowercase(), mode.unwrap_or(default));
    }
    read
}

pub(super) fn log(root: &mut Fields<'_>, problems: &mut Problems) -> Log {
    let Some(mut fields) = switch(root, "log") else { return Log::default() };
    Log {
        level: read_level(&mut fields, problems),
        file_path: path(&mut fields, "filePath", problems),
        is_json: word(&mut fields, "format", &[("common", false), ("json", true)], ("`common`", false), problems)
            .unwrap_or_default(),
    }
}

fn read_level(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    let text = text(fields, "level", problems)?;
    let level = text.to_uppercase();
    if LEVELS.contains(&level.as_str()) {
        return Some(level);
    }
    let message = format!("`{}` is `{text}`, but wants one of {}", fields.path("level"), LEVELS.join(", "));
    problems.push(Problem::warning(&fields.get("level")?.at, message).hint("ERROR is used, as in Traefik"));
    Some("ERROR".to_owned())
}

pub(super) fn prometheus(root: &mut Fields<'_>, problems: &mut Problems) -> Option<Prometheus> {
    let default = Prometheus::default();
    let mut metrics = root.child("metrics")?;
    let mut fields = switch(&mut metrics, "prometheus")?;
    let labels = fields.named("headerLabels");
    Some(Prometheus {
        buckets: read_buckets(&mut fields, problems).unwrap_or(default.buckets),
        add_entrypoints_labels: fields.bool("addEntryPointsLabels", problems).unwrap_or(default.add_entrypoints_labels),
        add_routers_labels: fields.bool("addRoutersLabels", problems).unwrap_or(default.add_routers_labels),
        add_services_labels: fields.bool("addServicesLabels", problems).unwrap_or(default.add_services_labels),
        entrypoint: entrypoint(&mut fields, "entryPoint", problems).unwrap_or(default.entrypoint),
        manual_routing: fields.bool("manualRouting", problems).unwrap_or(default.manual_routing),
        header_labels: labels
            .into_iter()
            .filter_map(|(label, header)| {
                Some((label.to_owned(), header.node().string(&format!("metrics.prometheus.headerLabels.{label}"), problems)?))
            })
            .collect(),
    })
}

fn read_buckets(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Vec<f64>> {
    let texts = fields.strings("buckets", problems).filter(|texts| !texts.is_empty())?;
    let buckets: Option<Vec<f64>> =
        texts.iter().map(|text| text.parse().ok().filter(|bucket: &f64| bucket.is_finite())).collect();
    if let Some(buckets) = buckets.filter(|buckets| buckets.is_sorted_by(|left, right| left < right)) {
        return Some(buckets);
    }
    let message = format!("`{}` wants seconds that grow, such as 0.1, 0.3, 1.2, 5", fields.path("buckets"));
    problems.push(Problem::error(&fields.get("buckets")?.at, message));
    None
}

pub(super) fn ping(root: &mut Fields<'_>, problems: &mut Problems) -> Option<Ping> {
    let default = Ping::default();
    let mut fields = switch(root, "ping")?;
    let status = fields.parsed("terminatingStatusCode", "a status such as `503`", problems);
    if let Some(wrong) = status.filter(|status| !(100..=999).contains(status)) {
        let message = format!("`ping.terminatingStatusCode` is `{wrong}`, but wants a status such as `503`");
        problems.push(Problem::error(&fields.get("terminatingStatusCode")?.at, message));
    }
    Some(Ping {
        entrypoint: entrypoint(&mut fields, "entryPoint", problems).unwrap_or(default.entrypoint),
        manual_routing: fields.bool("manualRouting", problems).unwrap_or(default.manual_routing),
        terminating_status: status.unwrap_or(default.terminating_status),
    })
}

pub(super) fn api(root: &mut Fields<'_>, problems: &mut Problems) -> Option<Api> {
    let mut fields = switch(root, "api")?;
    let base_path = text(&mut fields, "basePath", problems).unwrap_or_else(|| "/".to_owned());
    if !base_path.starts_with('/') {
        let message = format!("`api.basePath` is `{base_path}`, but wants a path that starts with `/`");
        problems.push(Problem::error(&fields.get("basePath")?.at, message));
    }
    Some(Api {
        insecure: fields.bool("insecure", problems).unwrap_or_default(),
        dashboard: fields.bool("dashboard", problems).unwrap_or(true),
        base_path,
    })
}
