//! What was said of each service's rollouts lately, and how the last one ended. Passes everything on as events.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::weigh::News;
use crate::names::Name;
use crate::rollout::Outcome;
use crate::steering::event::{Event, Events, rfc3339};

/// Sentences of one service that are remembered.
const LINES_MAX: usize = 64;
/// For so long the end of a rollout answers those who ask how it went; later they ask about another one.
const ENDED_COUNTS_FOR: Duration = Duration::from_secs(300);

/// One sentence.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    /// Counted over all services since the process began.
    pub number: u64,
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// What was decided.
    pub sentence: String,
}

/// How a rollout ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ended {
    /// What was rolled out.
    pub version: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// Why.
    pub sentence: String,
    #[serde(skip)]
    when: Instant,
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub now: Instant,
    pub wall: SystemTime,
}

/// Everything that is remembered.
#[derive(Debug)]
pub(super) struct Chronicle {
    /// When it began; those who ask know by it whether they still talk to the same process.
    pub began: SystemTime,
    events: Events,
    services: BTreeMap<Name, Told>,
    count: u64,
}

#[derive(Debug, Default)]
struct Told {
    lines: VecDeque<Line>,
    ended: Option<Ended>,
}

impl Chronicle {
    /// Nothing was said yet.
    pub fn new(began: SystemTime, events: Events) -> Self {
        Self { began, events, services: BTreeMap::new(), count: 0 }
    }

    /// Notes what was decided about a service.
    pub fn note(&mut self, moment: Moment, name: &Name, job: Option<&str>, news: &[News], report: &Value) {
        let told = self.services.entry(name.clone()).or_default();
        for News { version, kind, sentence, outcome } in news {
            self.count += 1;
            if told.lines.len() == LINES_MAX {
                told.lines.pop_front();
            }
            told.lines.push_back(Line { number: self.count, at: moment.wall, sentence: sentence.clone() });
            if let Some(outcome) = *outcome {
                // Whoever leaves after a verdict does not change it.
                let has_verdict = told.ended.as_ref().is_some_and(|ended| ended.version == *version);
                if !(has_verdict && outcome == Outcome::Gone) {
                    let (version, sentence) = (version.clone(), sentence.clone());
                    told.ended = Some(Ended { version, outcome, at: moment.wall, sentence, when: moment.now });
                }
            }
            self.events.send(Event {
                at: moment.wall,
                service: name.to_string(),
                job: job.map(str::to_owned),
                version: Some(version.clone()),
                kind,
                sentence: sentence.clone(),
                report: report.clone(),
            });
        }
    }

    /// Passes on what was done to a server.
    pub fn note_server(&self, at: SystemTime, name: &Name, kind: &'static str, sentence: String) {
        let (service, report) = (name.to_string(), Value::Null);
        self.events.send(Event { at, service, job: None, version: None, kind, sentence, report });
    }

    /// What was said of a service lately, oldest first.
    pub fn lines(&self, name: &Name) -> Vec<&Line> {
        self.services.get(name).map(|told| told.lines.iter().collect()).unwrap_or_default()
    }

    /// How its last rollout ended.
    pub fn ended(&self, name: &Name) -> Option<&Ended> {
        self.services.get(name)?.ended.as_ref()
    }

    /// The same, if it is not long ago.
    pub fn just_ended(&self, name: &Name, now: Instant) -> Option<&Ended> {
        self.ended(name).filter(|ended| now.saturating_duration_since(ended.when) < ENDED_COUNTS_FOR)
    }

    /// Forgets the services that `is_there` does not know.
    pub fn retain(&mut self, is_there: impl Fn(&Name) -> bool) {
        self.services.retain(|name, _| is_there(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn news(version: &str, sentence: &str, outcome: Option<Outcome>) -> News {
        News { version: version.to_owned(), kind: "note", sentence: sentence.to_owned(), outcome }
    }

    #[test]
    fn the_last_sentences_are_remembered_and_each_has_its_number() {
        let (mut chronicle, name) = (Chronicle::new(SystemTime::UNIX_EPOCH, Events::default()), Name::new("web", "file"));
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        for count in 0..LINES_MAX + 2 {
            chronicle.note(moment, &name, None, &[news("v2", &count.to_string(), None)], &Value::Null);
        }
        let lines = chronicle.lines(&name);
        assert_eq!((lines.len(), lines[0].sentence.as_str(), lines[0].number), (LINES_MAX, "2", 3));
        chronicle.retain(|_| false);
        assert!(chronicle.lines(&name).is_empty());
    }

    #[test]
    fn a_canary_that_failed_has_failed_even_when_it_has_left() {
        let (mut chronicle, name) = (Chronicle::new(SystemTime::UNIX_EPOCH, Events::default()), Name::new("web", "file"));
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        let mut note = |version: &str, outcome: Outcome| {
            chronicle.note(moment, &name, None, &[news(version, "", Some(outcome))], &Value::Null);
            chronicle.ended(&name).map(|ended| (ended.version.clone(), ended.outcome)).unwrap()
        };
        assert_eq!(note("v2", Outcome::Failed), ("v2".to_owned(), Outcome::Failed));
        assert_eq!(note("v2", Outcome::Gone), ("v2".to_owned(), Outcome::Failed));
        assert_eq!(note("v3", Outcome::Gone), ("v3".to_owned(), Outcome::Gone));
        let later = moment.now + ENDED_COUNTS_FOR;
        assert!(chronicle.just_ended(&name, moment.now).is_some() && chronicle.just_ended(&name, later).is_none());
    }

    #[test]
    fn everything_said_is_an_event() {
        let (events, mut waiting) = Events::channel(std::sync::Arc::default());
        let (mut chronicle, name) = (Chronicle::new(SystemTime::UNIX_EPOCH, events), Name::new("web", "file"));
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        chronicle.note(moment, &name, Some("blue/web"), &[news("v2", "said", None)], &serde_json::json!({"share": 0.5}));
        let event = waiting.try_recv().unwrap();
        assert_eq!(
            (event.service.as_str(), event.job.as_deref(), event.sentence.as_str()),
            ("web@file", Some("blue/web"), "said")
        );
        assert_eq!(event.report["share"], 0.5);
    }
}
