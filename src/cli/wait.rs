//! `tidegate rollout wait`: says what is decided as it is decided, and exits with how the rollout ended.
//!
//! It asks once a second over the socket. A proxy that is restarted meanwhile is waited for, and so is one that does not know
//! the rollout again yet.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::order::{NOT_ASKED, ask, unreachable};
use crate::clock;
use crate::steering::{Order, Target};

/// Exit code: the canary is promoted, or there is nothing to wait for.
pub const PROMOTED: u8 = 0;
/// Exit code: the canary failed.
pub const FAILED: u8 = 1;
/// Exit code: it was released or left, so nothing is decided.
pub const UNDECIDED: u8 = 2;

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// For so long nobody may answer, or know the rollout, after somebody did.
const DOUBT_MAX: Duration = Duration::from_secs(60);

/// Waits for the end of a rollout and says with which code to exit.
pub fn run(socket: &Path, rollout: &Target, timeout: Duration, out: &mut impl Write) -> u8 {
    let order = Order::Show { rollout: Some(rollout.clone()) };
    let started = clock::now();
    let mut waiting = Waiting::default();
    loop {
        let found = ask(socket, &order);
        let now = clock::now();
        // Whoever does not read what we say has the exit code.
        let found = match found {
            Ok(answer) if answer.is_ok => waiting.look(&answer.value, out),
            Ok(answer) if waiting.has_met => Found::Doubt(UNDECIDED, answer.text),
            Ok(answer) => Found::End(NOT_ASKED, answer.text),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Found::End(NOT_ASKED, unreachable(socket, &error)),
            Err(error) => Found::Doubt(NOT_ASKED, unreachable(socket, &error)),
        };
        if let Some((code, text)) = waiting.settle(found, now, out) {
            let _ = writeln!(out, "{}", text.trim_end());
            return code;
        }
        if now.saturating_duration_since(started) >= timeout {
            let _ = writeln!(out, "The rollout of {rollout} is still open after {} s.", timeout.as_secs());
            return NOT_ASKED;
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody tells us when to ask again")]
fn pause() {
    std::thread::sleep(EVERY);
}

/// What one question found.
enum Found {
    /// It goes on.
    Open,
    /// It is over: the exit code and the last words.
    End(u8, String),
    /// Perhaps it is over, with this code; perhaps the proxy has only been restarted.
    Doubt(u8, String),
}

/// What is known from the questions before.
#[derive(Default)]
struct Waiting {
    /// A rollout was seen.
    has_met: bool,
    /// When the process that answers was started.
    process: String,
    /// The last sentence of each service that was printed.
    told: BTreeMap<String, u64>,
    doubted_since: Option<Instant>,
}

impl Waiting {
    /// Prints what is new and finds out whether it is over.
    fn look(&mut self, value: &Value, out: &mut impl Write) -> Found {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let process = text(&value["started"]);
        if !self.process.is_empty() && self.process != process {
            let _ = writeln!(out, "Tidegate was restarted.");
            // The new process counts its sentences anew.
            self.told.values_mut().for_each(|number| *number = 0);
        }
        self.process = process;
        let entries = value["rollouts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut verdicts = Vec::new();
        let mut is_open = false;
        for entry in entries {
            self.tell(entry, out);
            match entry["verdict"].as_str() {
                Some(verdict) => verdicts.push((code_of(verdict), format!("{}: {verdict}.", text(&entry["service"])))),
                None => is_open |= entry["rollout"].is_object() || entry["deployment"].is_object(),
            }
        }
        self.has_met |= is_open;
        let worst = verdicts.iter().map(|(code, _)| *code).max_by_key(|code| [0, 2, 1].get(usize::from(*code)).copied());
        let words = || verdicts.iter().map(|(_, words)| words.as_str()).collect::<Vec<_>>().join("\n");
        match worst {
            Some(FAILED) => Found::End(FAILED, words()),
            _ if is_open => Found::Open,
            Some(code) => Found::End(code, words()),
            None if self.has_met => Found::Doubt(UNDECIDED, "The rollout is gone, and nothing is known of its end.".to_owned()),
            None => Found::End(PROMOTED, "There is no rollout, so there is nothing to wait for.".to_owned()),
        }
    }

    /// Prints what was decided since the last question; at first only where it stands.
    fn tell(&mut self, entry: &Value, out: &mut impl Write) {
        let service = entry["service"].as_str().unwrap_or_default();
        let lines = entry["log"].as_array().map(Vec::as_slice).unwrap_or_default();
        let number = |line: &Value| line["number"].as_u64().unwrap_or_default();
        match self.told.get(service) {
            None if entry["rollout"].is_object() => {
                let _ = writeln!(out, "{service}: {}", entry["sentences"][0].as_str().unwrap_or_default());
            }
            None => {}
            Some(told) => {
                for line in lines.iter().filter(|line| number(line) > *told) {
                    let _ = writeln!(out, "{service}: {}.", line["sentence"].as_str().unwrap_or_default());
                }
            }
        }
        self.told.insert(service.to_owned(), lines.last().map(number).unwrap_or_default());
    }

    /// The exit code and the last words, if it is over, or has been in doubt for too long.
    fn settle(&mut self, found: Found, now: Instant, out: &mut impl Write) -> Option<(u8, String)> {
        match found {
            Found::Open => {
                self.doubted_since = None;
                None
            }
            Found::End(code, text) => Some((code, text)),
            Found::Doubt(code, text) => {
                let Some(since) = self.doubted_since else {
                    let _ = writeln!(out, "{} Waiting for up to {} s.", text.trim_end(), DOUBT_MAX.as_secs());
                    self.doubted_since = Some(now);
                    return None;
                };
                (now.saturating_duration_since(since) >= DOUBT_MAX).then_some((code, text))
            }
        }
    }
}

/// `passed`: every step, and nobody is there who would be asked to promote.
fn code_of(verdict: &str) -> u8 {
    match verdict {
        "promoted" | "passed" => PROMOTED,
        "failed" => FAILED,
        _ => UNDECIDED,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(service: &str, verdict: Option<&str>, is_there: bool, log: &[u64]) -> Value {
        let log: Vec<Value> =
            log.iter().map(|number| json!({ "number": number, "sentence": format!("news {number}") })).collect();
        let rollout = if is_there { json!({}) } else { Value::Null };
        json!({ "service": service, "verdict": verdict, "rollout": rollout, "sentences": ["It is probed."], "log": log })
    }

    fn shown(started: &str, entries: &[Value]) -> Value {
        json!({ "started": started, "rollouts": entries })
    }

    /// What is found in turn: open, the code at its end, or the code if it stays so; and all that was printed.
    #[track_caller]
    fn check(answers: &[Value], expected: &[&str], printed: &str) {
        let (mut waiting, mut out) = (Waiting::default(), Vec::new());
        let mut found = Vec::new();
        for answer in answers {
            found.push(match waiting.look(answer, &mut out) {
                Found::Open => "open".to_owned(),
                Found::End(code, text) => format!("{code}: {text}"),
                Found::Doubt(code, _) => format!("{code}?"),
            });
        }
        assert_eq!(found, expected);
        assert_eq!(String::from_utf8(out).unwrap(), printed);
    }

    #[test]
    fn each_new_sentence_is_printed_once() {
        let open = |log: &[u64]| shown("t1", &[entry("web", None, true, log)]);
        let end = shown("t1", &[entry("web", Some("promoted"), false, &[3, 4, 5])]);
        check(
            &[open(&[1, 2]), open(&[1, 2, 3]), open(&[2, 3, 4]), end],
            &["open", "open", "open", "0: web: promoted."],
            "web: It is probed.\nweb: news 3.\nweb: news 4.\nweb: news 5.\n",
        );
    }

    #[test]
    fn the_exit_code_says_how_it_ended() {
        let codes =
            [("promoted", PROMOTED), ("passed", PROMOTED), ("failed", FAILED), ("released", UNDECIDED), ("gone", UNDECIDED)];
        for (verdict, code) in codes {
            let expected = format!("{code}: web: {verdict}.");
            check(&[shown("t1", &[entry("web", Some(verdict), false, &[])])], &[&expected], "");
        }
    }

    #[test]
    fn one_service_that_failed_fails_the_job_at_once_and_all_others_are_waited_for() {
        let (open, good) = (entry("a", None, true, &[]), entry("b", Some("promoted"), false, &[]));
        let (bad, released) = (entry("b", Some("failed"), true, &[]), entry("a", Some("released"), true, &[]));
        let said = "a: It is probed.\n";
        check(&[shown("t1", &[open.clone(), good.clone()])], &["open"], said);
        let both = "a: It is probed.\nb: It is probed.\n";
        check(&[shown("t1", &[open, bad])], &["1: b: failed."], both);
        check(&[shown("t1", &[released, good])], &["2: a: released.\nb: promoted."], said);
    }

    #[test]
    fn without_a_rollout_there_is_nothing_to_wait_for_unless_one_was_seen() {
        let none = || shown("t1", &[entry("web", None, false, &[])]);
        let open = |process: &str| shown(process, &[entry("web", None, true, &[1])]);
        check(&[none()], &["0: There is no rollout, so there is nothing to wait for."], "");
        check(
            &[open("t1"), none(), open("t2")],
            &["open", "2?", "open"],
            "web: It is probed.\nTidegate was restarted.\nweb: news 1.\n",
        );
    }

    #[test]
    fn doubt_ends_the_wait_only_when_it_lasts() {
        let (mut waiting, mut out, start) = (Waiting::default(), Vec::new(), clock::now());
        let mut settle = |seconds: u64, found: Found| {
            waiting.settle(found, start + Duration::from_secs(seconds), &mut out).map(|(code, _)| code)
        };
        let doubt = || Found::Doubt(NOT_ASKED, "Nobody answers.".to_owned());
        assert_eq!(settle(0, doubt()), None);
        assert_eq!(settle(59, doubt()), None);
        assert_eq!(settle(60, Found::Open), None);
        assert_eq!(settle(61, doubt()), None);
        assert_eq!(settle(121, doubt()), Some(NOT_ASKED));
        assert_eq!(String::from_utf8(out).unwrap(), "Nobody answers. Waiting for up to 60 s.\n".repeat(2));
    }
}
