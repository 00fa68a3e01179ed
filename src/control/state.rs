//! What outlives the process: where each service's rollout stands, and the timeline that it lives on. Pure: `keeper` does the
//! reading and writing.
//!
//! **The timeline.** Machines are told a monotonic time that goes on over restarts, so a document says at which position it was
//! written and what the machine's clocks said then. On the same boot the time that has passed since is a difference of
//! uptimes; on another it is one of wall clocks, which somebody may have set, so it counts as [`AWAY_MAX`] at most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::registry::Layer;
use crate::names::Name;
use crate::rollout::Machine;
use crate::rollout::tracks::Tracks;

/// The form of the document. Another one is not understood.
const SCHEMA: u64 = 1;
/// Services a document holds at most; those that nobody has shown for longest are left out first.
const SERVICES_MAX: usize = 4096;
/// How long a service that nobody shows any more is kept.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// More than this is never believed to have passed by the wall clock alone.
const AWAY_MAX: Duration = Duration::from_secs(3600);
/// How far after the document's own position a time in it may lie: when something is due.
const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// Which service something is about.
pub type Key = (Layer, Name);

/// What is kept of one service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// Phase, epochs, evidence, stable's hour.
    pub machine: Machine,
    /// Who was there first.
    pub tracks: Tracks,
    /// Keys of instances that were fit at least once.
    pub proven: BTreeSet<String>,
}

/// Services with when each was seen last, on the timeline.
pub type Services = BTreeMap<Key, (Duration, Kept)>;

/// Leaves out what has not been seen for a day, and what is too much.
pub fn within_limits(mut services: Services, timeline: Duration) -> Services {
    services.retain(|_, (seen, _)| timeline.saturating_sub(*seen) < FORGOTTEN_AFTER);
    if services.len() <= SERVICES_MAX {
        return services;
    }
    let mut ranked: Vec<_> = services.into_iter().collect();
    // Of those that are there, the ones with a rollout matter most.
    ranked.sort_by_key(|(_, (seen, kept))| (Reverse(*seen), kept.machine.phase().is_none()));
    ranked.into_iter().take(SERVICES_MAX).collect()
}

/// What the machine's clocks say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Which start of the machine this is.
    pub boot: Option<String>,
    /// The time since then.
    pub uptime: Option<Duration>,
    /// Since 1970.
    wall: Duration,
}

impl Clocks {
    /// What they say at one moment.
    pub fn new(boot: Option<String>, uptime: Option<Duration>, wall: SystemTime) -> Self {
        Self { boot, uptime, wall: wall.duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    /// How much time has passed since `before`.
    pub fn since(&self, before: &Self) -> Duration {
        let same_boot = self.boot.is_some() && self.boot == before.boot;
        match (self.uptime, before.uptime) {
            (Some(now), Some(then)) if same_boot && now >= then => now - then,
            _ => self.wall.saturating_sub(before.wall).min(AWAY_MAX),
        }
    }
}

/// The monotonic time that rollouts live on, over all restarts.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    began: Instant,
    base: Duration,
}

impl Timeline {
    /// At `now` it is at `base`.
    pub fn new(now: Instant, base: Duration) -> Self {
        Self { began: now, base }
    }

    /// The position at `now`.
    pub fn at(&self, now: Instant) -> Duration {
        self.base.saturating_add(now.saturating_duration_since(self.began))
    }

    /// When a position is reached; what lies before the beginning has been.
    pub fn instant(&self, position: Duration) -> Instant {
        self.began + position.saturating_sub(self.base)
    }
}

/// Everything that is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Document {
    schema: u64,
    /// The position at which it was written.
    timeline: Duration,
    clocks: Clocks,
    services: Vec<Entry>,
    /// What the deployments' machine keeps.
    #[serde(default)]
    deploys: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    layer: Layer,
    service: String,
    seen: Duration,
    kept: Kept,
}

/// Why a document is not understood.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON, or other JSON.
    #[error("it is not what tidegate writes: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version of Tidegate wrote it.
    #[error("its schema is {found}, this version reads {SCHEMA}")]
    Schema {
        /// What it says.
        found: String,
    },
    /// Nothing that was written by us says this.
    #[error("it holds a number that cannot be")]
    Number,
}

impl Document {
    /// The state at one moment.
    pub fn new(timeline: Duration, clocks: Clocks, services: Services, deploys: Value) -> Self {
        let entry = |((layer, name), (seen, kept)): (Key, _)| Entry { layer, service: name.to_string(), seen, kept };
        Self { schema: SCHEMA, timeline, clocks, services: services.into_iter().map(entry).collect(), deploys }
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        let value: Value = serde_json::from_slice(text)?;
        match value.get("schema") {
            Some(schema) if schema.as_u64() == Some(SCHEMA) => {}
            found => return Err(Unreadable::Schema { found: found.map_or("missing".to_owned(), Value::to_string) }),
        }
        let last = value.pointer("/timeline/secs").and_then(Value::as_u64).filter(|seconds| *seconds <= u64::from(u32::MAX));
        let last = last.ok_or(Unreadable::Number)? + AHEAD_MAX.as_secs();
        if value.get("services").is_some_and(|services| !is_sane(services, last)) {
            return Err(Unreadable::Number);
        }
        Ok(serde_json::from_value(value)?)
    }

    /// As it is written.
    pub fn to_text(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Where the timeline stands now.
    pub fn resumed_at(&self, clocks: &Clocks) -> Duration {
        self.timeline.saturating_add(clocks.since(&self.clocks))
    }

    /// The services and what the deployments' machine kept.
    pub fn into_parts(self) -> (Services, Value) {
        let services = self.services.into_iter().take(SERVICES_MAX);
        // A name without a provider would be of nobody.
        let services = services.map(|entry| ((entry.layer, Name::resolve(&entry.service, "")), (entry.seen, entry.kept)));
        (services.collect(), self.deploys)
    }
}

/// Whether times lie before `last` (seconds) and counts are as small as ours: sums of others would overflow.
fn is_sane(value: &Value, last: u64) -> bool {
    match value {
        Value::Object(fields) => fields.iter().all(|(key, value)| match value.as_u64() {
            Some(seconds) if key == "secs" => seconds <= last,
            _ => is_sane(value, last),
        }),
        Value::Array(values) => values.iter().all(|value| is_sane(value, last)),
        Value::Number(number) => number.as_u64().is_none_or(|number| number <= u64::from(u32::MAX)),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: f64 = 86_400.0;

    fn clocks(boot: &str, uptime: f64, wall: f64) -> Clocks {
        let boot = (!boot.is_empty()).then(|| boot.to_owned());
        let uptime = (uptime >= 0.0).then(|| Duration::from_secs_f64(uptime));
        Clocks::new(boot, uptime, UNIX_EPOCH + Duration::from_secs_f64(wall))
    }

    /// How many seconds have passed between two readings: boot, uptime, wall clock.
    #[track_caller]
    fn check(before: (&str, f64, f64), after: (&str, f64, f64), passed: f64) {
        let [before, after] = [before, after].map(|(boot, uptime, wall)| clocks(boot, uptime, wall));
        assert_eq!(after.since(&before), Duration::from_secs_f64(passed));
    }

    #[test]
    fn on_the_same_boot_the_wall_clock_may_jump_as_it_likes() {
        for jump in [0.0, DAY, -DAY] {
            check(("a", 1000.0, 1e9), ("a", 1012.5, 1e9 + 12.5 + jump), 12.5);
        }
        check(("a", 1000.0, 1e9), ("a", 1000.0 + 3.0 * DAY, 1e9), 3.0 * DAY);
    }

    #[test]
    fn on_another_boot_the_wall_clock_tells_and_is_not_believed_beyond_an_hour() {
        check(("a", 1000.0, 1e9), ("b", 30.0, 1e9 + 90.0), 90.0);
        check(("a", 10.0, 1e9), ("b", 3000.0, 1e9 + 90.0), 90.0);
        check(("a", 1000.0, 1e9), ("b", 30.0, 1e9 + DAY), 3600.0);
        check(("a", 1000.0, 1e9), ("b", 30.0, 1e9 - DAY), 0.0);
    }

    #[test]
    fn without_a_boot_or_an_uptime_the_wall_clock_tells() {
        check(("", 1000.0, 1e9), ("", 1012.0, 1e9 + 7.0), 7.0);
        check(("a", -1.0, 1e9), ("a", 1012.0, 1e9 + 7.0), 7.0);
        // A container that was started anew on the same machine counts its own time.
        check(("a", 1000.0, 1e9), ("a", 5.0, 1e9 + 7.0), 7.0);
    }

    #[test]
    fn a_timeline_never_goes_back() {
        let now = crate::clock::now();
        let timeline = Timeline::new(now, Duration::from_secs(5000));
        let second = Duration::from_secs(1);
        assert_eq!(timeline.at(now + second), Duration::from_secs(5001));
        assert_eq!(timeline.instant(Duration::from_secs(5001)), now + second);
        assert_eq!(timeline.instant(Duration::ZERO), now);
    }

    fn services(count: usize, seen: u64) -> Services {
        let key = |n: usize| (Layer::Http, Name::new(format!("s{n}"), "consulcatalog"));
        (0..count).map(|n| (key(n), (Duration::from_secs(seen), Kept::default()))).collect()
    }

    fn document(timeline: u64, services: &Services) -> Document {
        Document::new(Duration::from_secs(timeline), clocks("a", 1.0, 1e9), services.clone(), Value::from("kept"))
    }

    #[test]
    fn what_is_written_is_read() {
        let mut all = services(2, 100);
        all.insert((Layer::Tcp, Name::new("odd@name", "file")), (Duration::from_secs(90), Kept::default()));
        let text = document(100, &all).to_text().unwrap();
        let read = Document::parse(&text).unwrap();
        assert_eq!(read.resumed_at(&clocks("a", 4.0, 0.0)), Duration::from_secs(103));
        let (found, deploys) = read.into_parts();
        let seen = |services: &Services| services.iter().map(|(key, (seen, _))| (key.clone(), *seen)).collect::<Vec<_>>();
        assert_eq!((seen(&found), deploys), (seen(&all), Value::from("kept")));
    }

    #[test]
    fn a_service_is_forgotten_after_a_day_and_there_are_not_too_many() {
        let count = |now: u64| within_limits(services(3, 100), Duration::from_secs(now)).len();
        let day = FORGOTTEN_AFTER.as_secs();
        assert_eq!([count(100 + day - 1), count(100 + day)], [3, 0]);
        let mut all = services(SERVICES_MAX, 100);
        let newer = (Layer::Http, Name::new("newer", "file"));
        all.insert(newer.clone(), (Duration::from_secs(101), Kept::default()));
        let kept = within_limits(all, Duration::from_secs(101));
        assert!(kept.len() == SERVICES_MAX && kept.contains_key(&newer));
    }

    /// What is not ours is refused in words.
    #[track_caller]
    fn refused(text: &str, words: &str) {
        let error = Document::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_is_not_ours_is_refused_and_says_why() {
        refused("{\"schema\":1,\"time", "not what tidegate writes: EOF");
        refused("[]", "its schema is missing, this version reads 1");
        refused("{\"schema\":2,\"services\":[]}", "its schema is 2, this version reads 1");
        refused("{\"schema\":1,\"timeline\":{\"secs\":1,\"nanos\":0}}", "missing field");
        refused("{\"schema\":1}", "a number that cannot be");
        let good = String::from_utf8(document(100, &services(1, 100)).to_text().unwrap()).unwrap();
        for (from, to) in [
            ("\"seen\":{\"secs\":100,", "\"seen\":{\"secs\":18446744073709551615,"),
            ("\"seen\":{\"secs\":100,", "\"seen\":{\"secs\":3701,"),
            ("\"begun\":0", "\"begun\":4294967296"),
            ("\"timeline\":{\"secs\":100,", "\"timeline\":{\"secs\":18446744073709551615,"),
        ] {
            assert!(good.contains(from), "{good}");
            refused(&good.replace(from, to), "a number that cannot be");
        }
    }
}
