//! Which certificates are asked for, and when. Pure: the same view at the same time gives the same steps.
//!
//! Dates of certificates and of attempts are wall clock, because they outlive the process; a clock that is set back is met by
//! [`RETRY_AFTER_MAX`], which no waiting exceeds. Reloads repeat nothing, because what failed is remembered by its names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::config::dynamic::Domain;

/// How many orders may be under way at once, over all resolvers. A CA counts requests, and a start may bring hundreds of names.
pub const ORDERS_MAX: usize = 8;

/// How long at most a CA can put us off by `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * DAY);

/// A refusal shorter than this is about the pace of the whole account, and holds all of a resolver's orders; a longer one is about
/// the names that were asked for (Let's Encrypt's limits by domain last hours to days).
const ACCOUNT_HOLD_MAX: Duration = Duration::from_secs(300);

const BACK_OFF_FIRST: Duration = Duration::from_secs(60);
const BACK_OFF_MAX: Duration = Duration::from_secs(6 * 3600);
const DAY: u64 = 24 * 3600;

/// How long a failure of names that nobody wants any more is remembered, so that a router that comes and goes repeats nothing.
const FORGET_AFTER: Duration = Duration::from_secs(DAY);

/// The names of one certificate in one spelling: lower case, sorted, each once, joined by commas.
pub type NameSet = String;

/// One certificate that a router wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedCertificate {
    /// The resolver the router names.
    pub resolver: String,
    /// The names.
    pub domain: Domain,
}

/// What the schedule has to know of a certificate that is there.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// Lower case, `*.` in front of a wildcard; addresses too.
    pub names: BTreeSet<Cow<'a, str>>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Who renews it; `None` for one from a file, which we do not renew.
    pub resolver: Option<&'a str>,
}

/// What the schedule has to know of a resolver.
#[derive(Clone, Debug, Default)]
pub struct ResolverView {
    /// `certificatesDuration`.
    pub certificates_duration: Duration,
    /// Whether an account is there. The first order registers one, so until then there is one order only.
    pub has_account: bool,
    /// Why it cannot obtain anything, if so.
    pub is_useless: Option<&'static str>,
    /// What happened so far.
    pub history: History,
}

/// What failed, and when to try again. Outlives the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// By names.
    pub attempts: BTreeMap<NameSet, Attempt>,
    /// Before that nothing at all is asked of this CA.
    pub held_until: Option<SystemTime>,
}

/// The last failure for one set of names. A success removes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Failures in a row.
    pub failures: u32,
    /// When to try again.
    pub next: SystemTime,
    /// What went wrong the last time.
    pub error: String,
}

/// Why an order failed, as far as the next attempt depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, in a sentence.
    pub error: String,
    /// What the CA asked for by `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Whether the CA itself does not work, whatever the names.
    pub is_ca_down: bool,
}

/// Everything a plan depends on, besides the time.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// What routers want, in their order.
    pub wanted: &'a [WantedCertificate],
    /// What is there, from all sources.
    pub held: &'a [Held<'a>],
    /// The resolvers by name.
    pub resolvers: &'a BTreeMap<String, ResolverView>,
    /// Orders under way: resolver and names.
    pub under_way: &'a BTreeSet<(String, NameSet)>,
}

/// What happens to one wanted certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its names are covered; nothing until then.
    Rest {
        /// When that changes.
        until: SystemTime,
    },
    /// Order it now.
    Order(Kind),
    /// An order for it is under way.
    UnderWay,
    /// As soon as another order ends.
    Queue,
    /// An attempt failed, or the CA asked for patience.
    Wait {
        /// When it is tried again.
        until: SystemTime,
    },
    /// It cannot be obtained.
    Refuse(&'static str),
}

/// Whether a certificate for these names was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first.
    Obtain,
    /// In place of one that ends.
    Renew,
}

impl Kind {
    /// `obtain` or `renew`, for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Obtain => "obtain",
            Self::Renew => "renew",
        }
    }
}

/// The names of a certificate in one spelling.
pub fn name_set(domain: &Domain) -> NameSet {
    names(domain).into_iter().collect::<Vec<_>>().join(",")
}

/// The names of a certificate, each once, in lower case.
pub fn names(domain: &Domain) -> BTreeSet<String> {
    std::iter::once(&domain.main)
        .chain(&domain.sans)
        .map(|name| name.trim().to_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

/// One step for each wanted certificate, in their order.
pub fn plan(view: &View<'_>, now: SystemTime) -> Vec<Step> {
    let mut under_way = view.under_way.clone();
    let mut steps = vec![Step::Queue; view.wanted.len()];
    // What has no certificate goes before what has one that still serves.
    for pass in [Kind::Obtain, Kind::Renew] {
        for (wanted, step) in view.wanted.iter().zip(&mut steps) {
            let next = step_of(view, wanted, &under_way, now);
            if next == Step::Order(Kind::Renew) && pass == Kind::Obtain {
                continue;
            }
            if *step == Step::Queue {
                if matches!(next, Step::Order(_)) {
                    under_way.insert((wanted.resolver.clone(), name_set(&wanted.domain)));
                }
                *step = next;
            }
        }
    }
    steps
}

/// When the plan has to be made anew even if nothing is reported; `None` when only a report changes it.
pub fn wake_at(steps: &[Step]) -> Option<SystemTime> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Rest { until } | Step::Wait { until } => Some(*until),
            Step::Order(_) | Step::UnderWay | Step::Queue | Step::Refuse(_) => None,
        })
        .min()
}

fn step_of(view: &View<'_>, wanted: &WantedCertificate, under_way: &BTreeSet<(String, NameSet)>, now: SystemTime) -> Step {
    let Some(resolver) = view.resolvers.get(&wanted.resolver) else {
        return Step::Refuse("its certificate resolver does not exist");
    };
    let names = names(&wanted.domain);
    let set = name_set(&wanted.domain);
    if names.is_empty() {
        return Step::Refuse("it names no domain");
    }
    if under_way.contains(&(wanted.resolver.clone(), set.clone())) {
        return Step::UnderWay;
    }
    match covered_until(view, &names, now) {
        Some(until) if until > now => return Step::Rest { until },
        Some(_) | None => {}
    }
    if let Some(reason) = resolver.is_useless {
        return Step::Refuse(reason);
    }
    if names.iter().any(|name| name.starts_with("*.")) {
        return Step::Refuse("HTTP-01 cannot prove a wildcard");
    }
    let attempt = resolver.history.attempts.get(&set);
    let until = attempt.map(|attempt| attempt.next).max(resolver.history.held_until);
    // A clock that was set back must not keep us waiting for longer than any CA can ask.
    if let Some(until) = until.filter(|until| *until > now && *until <= now + RETRY_AFTER_MAX) {
        return Step::Wait { until };
    }
    let of_resolver = under_way.iter().filter(|(name, _)| *name == wanted.resolver).count();
    if under_way.len() >= ORDERS_MAX || (!resolver.has_account && of_resolver > 0) {
        return Step::Queue;
    }
    let is_there = names.iter().all(|name| view.held.iter().any(|held| held.covers(name)));
    Step::Order(if is_there { Kind::Renew } else { Kind::Obtain })
}

/// Until when all names have a certificate that need not be renewed; `None` when one has none.
fn covered_until(view: &View<'_>, names: &BTreeSet<String>, now: SystemTime) -> Option<SystemTime> {
    let of_name = |name: &String| {
        view.held
            .iter()
            .filter(|held| held.covers(name) && held.not_after > now)
            .map(|held| match held.resolver {
                // One from a file is left to who put it there, until it ends.
                None => held.not_after,
                Some(resolver) => {
                    let duration = view.resolvers.get(resolver).map_or(Duration::ZERO, |resolver| resolver.certificates_duration);
                    renew_at(held.not_before, held.not_after, duration)
                }
            })
            .max()
    };
    names.iter().map(of_name).min().flatten()
}

impl Held<'_> {
    fn covers(&self, name: &str) -> bool {
        self.names.contains(name)
            || name
                .split_once('.')
                .is_some_and(|(label, parent)| label != "*" && self.names.contains(format!("*.{parent}").as_str()))
    }
}

/// When a certificate is renewed.
///
/// One that lives as long as `certificatesDuration` says (2160 h unless told) follows Traefik's table. One that lives shorter does
/// not, since Traefik then renews it far too early, a six-day one at every check: a third of its life is left, of a life of ten
/// days or less a half.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, certificates_duration: Duration) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    // CAs cut a second, or an hour for clocks that are late, off a round number of days.
    let left = if life >= certificates_duration.mul_f64(0.95) {
        traefik_renew_period(certificates_duration).min(life / 2)
    } else if life <= Duration::from_secs(10 * DAY) {
        life / 2
    } else {
        life / 3
    };
    not_after - left
}

/// Traefik's table: how long before its end a certificate is renewed.
fn traefik_renew_period(certificates_duration: Duration) -> Duration {
    let hours = certificates_duration.as_secs() / 3600;
    Duration::from_secs(match hours {
        8760.. => 120 * DAY,
        2160.. => 30 * DAY,
        720.. => 10 * DAY,
        144.. => 2 * DAY,
        24.. => 6 * 3600,
        _ => 20 * 60,
    })
}

impl History {
    /// Records that an order failed. `jitter` is a random number from 0 to 1, so that many names do not come back together.
    pub fn record_failure(&mut self, names: NameSet, failure: &Failure, jitter: f64, now: SystemTime) {
        let failures = self.attempts.get(&names).map_or(0, |attempt| attempt.failures).saturating_add(1);
        let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let next = now + back_off(failures, jitter).max(asked);
        if failure.is_ca_down {
            self.hold(now + back_off(1, jitter));
        }
        if failure.retry_after.is_some() && asked <= ACCOUNT_HOLD_MAX {
            self.hold(now + asked);
        }
        self.attempts.insert(names, Attempt { failures, next, error: failure.error.clone() });
    }

    /// Records that a certificate was obtained.
    pub fn record_success(&mut self, names: &str) {
        self.attempts.remove(names);
    }

    /// Forgets what nobody wants and what long since could have been tried again.
    pub fn forget(&mut self, wanted: &BTreeSet<NameSet>, now: SystemTime) {
        self.attempts.retain(|names, attempt| wanted.contains(names) || attempt.next + FORGET_AFTER > now);
    }

    fn hold(&mut self, until: SystemTime) {
        self.held_until = self.held_until.max(Some(until));
    }
}

/// How long to wait after so many failures in a row: 60 to 90 s, doubling up to 6 h.
fn back_off(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let spread = 1.0 + 0.5 * jitter.clamp(0.0, 1.0);
    (BACK_OFF_FIRST * 2_u32.pow(doublings)).mul_f64(spread).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests;
