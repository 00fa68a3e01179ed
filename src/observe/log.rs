//! Our own log: what `tracing` is told, as lines in Traefik's console format or as JSON.
//!
//! `2026-11-22T19:34:36Z ERR could not read the file error="no such file" path=/a.yaml`: time in the local zone, level,
//! message, fields by name with `error` first. What the engine says through the `log` crate comes through here too, from WARN
//! up, except for what a client can make it say at will.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_log::{LogTracer, NormalizeEvent};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::log_file::{LogFile, Written};
use super::moment::with_second;
use crate::clock;
use crate::config::install;

/// What the engine says about clients that come and go; a bare TCP connect, as a health check makes it, is among them. And about an
/// idle connection to a server that ended in the moment it was to be used: another one is opened then.
const NOISE: &[&str] = &[
    "HTTP server fails to read from downstream",
    "HTTP server fails to write to downstream",
    "HTTP server fails to finish the request",
    "H2 handshake error",
    "failed to send error response to downstream",
    "failed to acquire reusable stream",
];

/// The running log.
#[derive(Clone, Debug)]
pub struct Log {
    file: Arc<LogFile>,
}

/// Why the log cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Its file.
    #[error("log `{}` cannot be opened: {reason}", path.display())]
    Open {
        /** The file. */
        path: PathBuf,
        /** Why. */
        reason: io::Error,
    },
    /// The process has one already.
    #[error("the process logs already")]
    Installed(#[source] Box<dyn Error + Send + Sync>),
}

impl Log {
    /// Begins to log, once in a process.
    pub fn install(settings: &install::Log, zone: TimeZone) -> Result<Self, LogError> {
        let file = match &settings.file_path {
            Some(path) => LogFile::open(path).map_err(|reason| LogError::Open { path: path.clone(), reason })?,
            None => LogFile::error_output(),
        };
        let log = Self { file: Arc::new(file) };
        let level = settings.level.as_deref().map_or(Some(LevelFilter::INFO), parse_level).unwrap_or(LevelFilter::ERROR);
        let lines = Lines { file: Arc::clone(&log.file), zone, is_json: settings.is_json, level };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::set_global_default(subscriber).map_err(|error| LogError::Installed(error.into()))?;
        let foreign =
            if level == LevelFilter::TRACE { tracing_log::log::LevelFilter::Debug } else { tracing_log::log::LevelFilter::Warn };
        LogTracer::builder().with_max_level(foreign).init().map_err(|error| LogError::Installed(error.into()))?;
        Ok(log)
    }

    /// Goes on in a new file, after somebody renamed the old one (SIGUSR1).
    pub fn reopen(&self) -> io::Result<()> {
        self.file.reopen()
    }
}

/// Traefik's level names, without case. `FATAL` and `PANIC` leave nothing, since we die of neither. `None`: no such level.
pub fn parse_level(text: &str) -> Option<LevelFilter> {
    Some(match text.to_ascii_uppercase().as_str() {
        "TRACE" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARN" => LevelFilter::WARN,
        "ERROR" => LevelFilter::ERROR,
        "FATAL" | "PANIC" => LevelFilter::OFF,
        _ => return None,
    })
}

/// Turns events into lines.
#[derive(Debug)]
struct Lines {
    file: Arc<LogFile>,
    zone: TimeZone,
    is_json: bool,
    level: LevelFilter,
}

impl Lines {
    /// How much is wanted of a part of the program: of others' crates less.
    fn level_of(&self, target: &str) -> LevelFilter {
        let is_ours = target.strip_prefix("tidegate").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        match self.level {
            level if is_ours => level,
            LevelFilter::TRACE => LevelFilter::DEBUG,
            level => level.min(LevelFilter::WARN),
        }
    }

    fn write_line(&self, line: &mut String, now: SystemTime, level: Level, fields: &Fields) {
        with_second(now, &self.zone, |second, _| {
            let time = [&*second.local, &*second.zone];
            if self.is_json {
                fields.write_json(line, &time, level);
            } else {
                fields.write_console(line, &time, level);
            }
        });
        line.push('\n');
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // An event that the `log` crate's bridge makes has the target `log`; the bridge has looked at its level already.
        *metadata.level() <= self.level_of(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let bridged = event.normalized_metadata();
        let metadata = bridged.as_ref().unwrap_or_else(|| event.metadata());
        let mut fields = Fields::default();
        event.record(&mut fields);
        if bridged.is_some() && NOISE.iter().any(|noise| fields.message.starts_with(noise)) {
            return;
        }
        fields.others.sort_by(|(a, _), (b, _)| (*a != "error").cmp(&(*b != "error")).then(a.cmp(b)));
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.write_line(line, clock::wall(), *metadata.level(), &fields);
            if let Written::Lost(error) = self.file.write(line.as_bytes()) {
                // The log cannot say so itself.
                let lost = format!("could not write the log, its lines are lost: {error}\n{line}");
                LogFile::error_output().write(lost.as_bytes());
            }
        });
    }
}

/// The values of one event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    /// A number or truth value, which JSON does not quote.
    Bare(String),
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Bare(text)) => self.message = text,
            // Where in the engine's source it was said.
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.others.push((name, value)),
        }
    }

    fn write_console(&self, line: &mut String, time: &[&str], level: Level) {
        let level = match level {
            Level::TRACE => "TRC",
            Level::DEBUG => "DBG",
            Level::INFO => "INF",
            Level::WARN => "WRN",
            Level::ERROR => "ERR",
        };
        line.extend(time.iter().copied());
        line.extend([" ", level, " "]);
        // A message keeps to its line, whoever's words it repeats.
        line.extend(self.message.chars().map(|c| if c.is_control() { ' ' } else { c }));
        for (name, value) in &self.others {
            let (Value::Text(text) | Value::Bare(text)) = value;
            line.extend([" ", *name, "="]);
            let is_plain = text.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'\\');
            if is_plain { line.push_str(text) } else { push_quoted(line, text) }
        }
    }

    fn write_json(&self, line: &mut String, time: &[&str], level: Level) {
        line.push_str("{\"level\":\"");
        line.push_str(&level.as_str().to_ascii_lowercase());
        line.push('"');
        for (name, value) in &self.others {
            line.extend([",\"", *name, "\":"]);
            match value {
                Value::Bare(text) => line.push_str(text),
                Value::Text(text) => push_json(line, text),
            }
        }
        line.push_str(",\"time\":\"");
        line.extend(time.iter().copied());
        line.push_str("\",\"message\":");
        push_json(line, &self.message);
        line.push('}');
    }
}

/// Go's `strconv.Quote`.
fn push_quoted(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                // Writing to memory does not fail.
                let _ = write!(line, "\\u{:04x}", c as u32);
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

fn push_json(line: &mut String, text: &str) {
    // A string is always JSON.
    line.push_str(&serde_json::to_string(text).unwrap_or_default());
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        self.put(field, if value.is_finite() { Value::Bare(text) } else { Value::Text(text) });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        self.put(field, Value::Text(text));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tracing_log::log;

    use super::*;

    /// What `say` leaves in the log, without the time.
    fn logged(level: LevelFilter, is_json: bool, say: impl FnOnce()) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tidegate.log");
        let file = Arc::new(LogFile::open(&path).unwrap());
        let lines = Lines { file, zone: TimeZone::UTC, is_json, level };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        let text = fs::read_to_string(path).unwrap();
        let without_time = |line: &str| {
            let (before, after) = if is_json { line.split_once("\"time\":\"").unwrap() } else { ("", line) };
            let (time, rest) = after.split_at("2026-11-22T19:34:36Z".len());
            assert!(time.ends_with('Z') && time.contains('T'), "{line}");
            format!("{before}{rest}")
        };
        text.lines().map(without_time).collect()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("could not read the rule")]
    struct Outer(#[source] io::Error);

    fn say_something() {
        tracing::info!("published snapshot");
        let error = Outer(io::Error::other("no \"such\" file"));
        tracing::error!(
            router = "a@file",
            count = 3,
            path = "",
            is_new = true,
            error = &error as &dyn Error,
            "left out\na router"
        );
        tracing::debug!("not at this level");
        tracing::warn!(target: "pingora_proxy", share = 0.5, tab = "a\tb", name = %"é", "from elsewhere");
        tracing::info!(target: "hyper", "too small to be told");
        tracing::info!(target: "tidegateway", "not ours");
    }

    #[test]
    fn lines_look_as_in_traefik() {
        let expected = [
            " INF published snapshot",
            " ERR left out a router error=\"could not read the rule: no \\\"such\\\" file\" count=3 is_new=true path= router=a@file",
            " WRN from elsewhere name=\"é\" share=0.5 tab=\"a\\tb\"",
        ];
        assert_eq!(logged(LevelFilter::INFO, false, say_something), expected);
    }

    #[test]
    fn json_has_one_object_a_line() {
        let lines = logged(LevelFilter::ERROR, true, say_something);
        let expected = r#"{"level":"error","error":"could not read the rule: no \"such\" file","count":3,"is_new":true,"path":"","router":"a@file",","message":"left out\na router"}"#;
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn the_engine_is_heard_but_not_what_clients_make_it_say() {
        let say = || {
            let record = |level: log::Level, target: &str, message: fmt::Arguments<'_>| {
                tracing_log::format_trace(&log::Record::builder().level(level).target(target).args(message).build()).unwrap();
            };
            record(log::Level::Error, "pingora_core::apps", format_args!("HTTP server fails to read from downstream: closed"));
            record(log::Level::Error, "pingora_core::connectors", format_args!("failed to acquire reusable stream"));
            record(log::Level::Error, "pingora_core::apps", format_args!("H2 handshake error reset"));
            record(log::Level::Warn, "pingora_proxy", format_args!("Upstream body is already finished"));
            record(log::Level::Info, "pingora_core::server", format_args!("Starting up"));
        };
        assert_eq!(logged(LevelFilter::INFO, false, say), [" WRN Upstream body is already finished"]);
        assert_eq!(logged(LevelFilter::ERROR, false, say), [""; 0]);
    }

    #[test]
    fn levels_are_traefiks() {
        for (text, level) in [("debug", LevelFilter::DEBUG), ("WARN", LevelFilter::WARN), ("Panic", LevelFilter::OFF)] {
            assert_eq!(parse_level(text), Some(level));
        }
        assert_eq!(parse_level("verbose"), None);
    }
}
