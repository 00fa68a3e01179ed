//! What the demo prints: plain lines that any terminal, pipe or log can show. Values in, text out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::load::Seen;
use super::site::Site;

/// Longer sentences go on in the next line.
const WIDTH: usize = 110;
/// Cells of the bar that shows who answers: each is a twentieth of the answers.
const CELLS: usize = 20;
/// Where the text of an event begins.
const INDENT: usize = 9;

/// The canary as the proxy's API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Its version.
    pub version: String,
    /// Where its rollout stands, in one word.
    pub phase: String,
    /// Its share, between 0 and 1.
    pub share: f64,
}

/// What one line shows.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// Since the beginning.
    pub at: Duration,
    /// Requests sent in it.
    pub sent: u64,
    /// Requests that failed in it.
    pub failed: u64,
    /// The longest wait that ended in it.
    pub slowest: Duration,
    /// Answers by version.
    pub answers: BTreeMap<String, u64>,
    /// The canary, if there is one.
    pub canary: Option<Canary>,
}

impl Second {
    /// What happened between two looks.
    pub fn between(before: &Seen, now: &Seen) -> Self {
        let more = |version: &String, count: &u64| count - before.by_version.get(version).copied().unwrap_or_default();
        let answers = now.by_version.iter().map(|(version, count)| (version.clone(), more(version, count)));
        Self {
            sent: now.sent - before.sent,
            failed: now.failed() - before.failed(),
            answers: answers.filter(|(_, count)| *count > 0).collect(),
            ..Self::default()
        }
    }
}

/// What is where, before anything happens.
pub fn introduction(site: &Site, rate: u32) -> String {
    let Site { web, websecure, jmx, admin, catalog, folder } = site;
    let folder = folder.display();
    format!(
        "\
Tidegate demo: a site like cljdoc.org, all on this machine

  site       https://{websecure}/  (its certificate is made on the spot; http://{web}/ redirects to it)
  raw TCP    {jmx}  (as cljdoc's JMX: the server speaks first)
  dashboard  http://{admin}/dashboard/
  metrics    http://{admin}/metrics
  catalog    http://{catalog}/v1/health/service/cljdoc  (embedded; speaks Consul's API)
  files      {folder}/  (traefik.yaml, traefik.log, access.log)

Visitors send {rate} requests a second, one in ten a POST. Ctrl-C ends it.
Each cell of the bar is a twentieth of the answers, by version. `>` is what happens to the site, `=` what Tidegate says.

{HEADING}
"
    )
}

/// What the columns are.
pub const HEADING: &str = "  time  req/s  failed   slowest  answered by version     canary";

/// The line of one second.
pub fn second(second: &Second) -> String {
    let Second { at, sent, failed, slowest, answers, canary } = second;
    let (at, slowest, bar) = (clock(*at), span(*slowest), bar(answers));
    let canary = canary.as_ref().map(|Canary { version, phase, share }| format!("  {version}: {:.0} %, {phase}", share * 100.0));
    format!("{at:>6}  {sent:>5}  {failed:>6}  {slowest:>8}  [{bar:CELLS$}]{}\n", canary.unwrap_or_default())
}

/// What happens to the site.
pub fn event(at: Duration, text: &str) -> String {
    marked(at, '>', text)
}

/// What the proxy says.
pub fn said(at: Duration, text: &str) -> String {
    marked(at, '=', text)
}

/// What it all came to. `covered` are requests that an instance failed and another one answered; `twice` are POSTs that a
/// second instance got, which must never happen.
pub fn summary(at: Duration, seen: &Seen, covered: u64, twice: u64) -> String {
    let list = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("\nSummary after {}\n", clock(at));
    // Writing to a String cannot fail.
    let mut row = |name: &str, count: &dyn std::fmt::Display, why: &str| {
        let lines = wrap(why, WIDTH - 28).join(&format!("\n{:28}", ""));
        let _ = writeln!(text, "{}", format!("  {name:<15}{count:>8}   {lines}").trim_end());
    };
    row("requests", &seen.sent, "");
    row("answered", &seen.served, &list(&seen.by_version));
    row("lost", &seen.lost, &list(&seen.kinds));
    let unrepeatable: u64 = seen.unrepeatable.values().sum();
    let why = match unrepeatable {
        0 => String::new(),
        _ => {
            let list = list(&seen.unrepeatable);
            format!(
                "POSTs that an instance had taken when it failed or died ({list}); sent again they might have been carried \
                 out twice, so no proxy may do that"
            )
        }
    };
    row("not repeatable", &unrepeatable, &why);
    row("covered", &covered, "requests that an instance failed or never answered, and another one did");
    row("slowest", &span(seen.slowest), "");
    if twice > 0 {
        row("sent twice", &twice, "POSTs that reached a second instance, which must never happen");
    }
    text.push_str(if is_well(seen, twice) { "Nothing was lost.\n" } else { "This should not have happened.\n" });
    text
}

/// Whether the demo went as it should.
pub fn is_well(seen: &Seen, twice: u64) -> bool {
    seen.sent > 0 && seen.lost == 0 && twice == 0
}

fn marked(at: Duration, mark: char, text: &str) -> String {
    let lines = wrap(text, WIDTH - INDENT).join(&format!("\n{:INDENT$}", ""));
    format!("{:>6} {mark} {lines}\n", clock(at))
}

fn clock(at: Duration) -> String {
    format!("{}:{:02}", at.as_secs() / 60, at.as_secs() % 60)
}

fn span(span: Duration) -> String {
    if span < Duration::from_secs(1) { format!("{} ms", span.as_millis()) } else { format!("{:.1} s", span.as_secs_f64()) }
}

/// The last character of each version, as often as its part of the answers; who answered at all has one.
fn bar(answers: &BTreeMap<String, u64>) -> String {
    let all: u64 = answers.values().sum();
    let Some(most) = answers.iter().max_by_key(|(_, count)| **count).map(|(version, _)| version) else { return String::new() };
    let cells = |count: u64| (((count as f64 / all as f64) * CELLS as f64).round() as usize).max(1);
    let others: usize = answers.iter().filter(|(version, _)| *version != most).map(|(_, count)| cells(*count)).sum();
    let part = |(version, count): (&String, &u64)| {
        let cells = if version == most { CELLS.saturating_sub(others) } else { cells(*count) };
        version.chars().last().map_or_else(String::new, |last| last.to_string().repeat(cells))
    };
    answers.iter().map(part).collect()
}

/// Breaks a sentence between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_bar(answers: &[(&str, u64)], expected: &str) {
        assert_eq!(bar(&answers.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect()), expected);
    }

    #[test]
    fn the_bar_shows_everybody_who_answers() {
        check_bar(&[("v1", 190), ("v2", 10)], "11111111111111111112");
        check_bar(&[("v1", 199), ("v2", 1)], "11111111111111111112");
        check_bar(&[("v1", 1), ("v2", 1)], "11111111112222222222");
        check_bar(&[("v2", 7)], "22222222222222222222");
        check_bar(&[], "");
    }

    #[test]
    fn a_second_is_one_line() {
        let canary = Canary { version: "v2".to_owned(), phase: "ramp".to_owned(), share: 0.05 };
        let line = second(&Second {
            at: Duration::from_secs(61),
            sent: 200,
            failed: 0,
            slowest: Duration::from_millis(9),
            answers: [("v1".to_owned(), 200)].into(),
            canary: Some(canary),
        });
        assert_eq!(line, "  1:01    200       0      9 ms  [11111111111111111111]  v2: 5 %, ramp\n");
    }

    #[test]
    fn long_sentences_go_on_below_their_beginning() {
        let text = event(Duration::from_secs(3), &"word ".repeat(30));
        assert!(text.lines().count() == 2 && text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.starts_with("  0:03 > word") && text.lines().nth(1).unwrap().starts_with("         word"), "{text}");
    }

    #[test]
    fn a_loss_or_a_post_sent_twice_is_no_success() {
        let fine = Seen { sent: 10, served: 10, ..Seen::default() };
        assert!(is_well(&fine, 0) && !is_well(&fine, 1) && !is_well(&Seen::default(), 0));
        let lost = Seen { lost: 1, kinds: [("502 Bad Gateway".to_owned(), 1)].into(), ..fine };
        assert!(!is_well(&lost, 0));
        let text = summary(Duration::from_secs(30), &lost, 0, 0);
        assert!(text.contains("lost                  1   502 Bad Gateway 1\n"), "{text}");
    }

    #[test]
    fn what_nobody_can_avoid_is_explained() {
        let seen = Seen { sent: 10, served: 9, unrepeatable: [("v3".to_owned(), 1)].into(), ..Seen::default() };
        assert!(is_well(&seen, 0));
        let text = summary(Duration::from_secs(30), &seen, 3, 0);
        assert!(text.contains("not repeatable        1   POSTs that an instance had taken"), "{text}");
        assert!(text.ends_with("Nothing was lost.\n"), "{text}");
    }
}
