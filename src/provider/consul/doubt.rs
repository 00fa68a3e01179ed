//! How long something odd about Consul's answers is held against them: until it is known to be usual.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use super::blocking::Doubt;

/// How long it is held against an answer that an ACL takes something out which it did not take out before: as long as an
/// instance is kept that vanished under doubtful circumstances.
const FILTERED_DOUBTED_FOR: Duration = Duration::from_secs(15 * 60);

/// What is usual for one question. A token that never saw everything is no reason to doubt what it does see; one that sees
/// less than before is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usual {
    is_filtered: Option<bool>,
    /// Since when an answer is filtered although it was not.
    since: Option<Instant>,
}

impl Usual {
    /// What is left of the doubt of an answer that came at `now`.
    pub fn judge(&mut self, now: Instant, doubt: Option<Doubt>) -> Option<Doubt> {
        let is_filtered = match doubt {
            // These may not know what is usual.
            Some(Doubt::NoLeader | Doubt::Stale) => return doubt,
            Some(Doubt::Filtered) => true,
            None => false,
        };
        if is_filtered && self.is_filtered == Some(false) {
            let since = *self.since.get_or_insert(now);
            if now.saturating_duration_since(since) < FILTERED_DOUBTED_FOR {
                return doubt;
            }
        }
        *self = Self { is_filtered: Some(is_filtered), since: None };
        None
    }
}

/// How long it is held against absences that Consul's or Nomad's own entries are gone: after that they are gone for good, as when
/// Nomad is told not to register itself any more.
const OWN_GONE_DOUBTED_FOR: Duration = Duration::from_secs(15 * 60);

/// Entries that tell by their absence that a catalog was lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnEntries {
    were_listed: bool,
    gone_since: Option<Instant>,
}

impl OwnEntries {
    /// Whether they were listed and are not any more.
    pub fn are_gone(&mut self, now: Instant, are_listed: bool) -> bool {
        if are_listed || !self.were_listed {
            *self = Self { were_listed: are_listed, gone_since: None };
            return false;
        }
        let since = *self.gone_since.get_or_insert(now);
        self.were_listed = now.saturating_duration_since(since) < OWN_GONE_DOUBTED_FOR;
        self.were_listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_never_sees_everything_is_believed_and_one_that_lost_rights_is_not_for_a_while() {
        let start = crate::clock::now();
        let (filtered, old) = (Some(Doubt::Filtered), Some(Doubt::Stale));
        let judged = |answers: &[(u64, Option<Doubt>)]| -> Vec<Option<Doubt>> {
            let mut usual = Usual::default();
            answers.iter().map(|(seconds, doubt)| usual.judge(start + Duration::from_secs(*seconds), *doubt)).collect()
        };
        assert_eq!(judged(&[(0, filtered), (1, filtered), (2, old), (3, filtered)]), [None, None, old, None]);
        assert_eq!(judged(&[(0, None), (1, filtered), (2, old), (900, filtered)]), [None, filtered, old, filtered]);
        assert_eq!(judged(&[(0, None), (1, filtered), (2, None), (950, filtered)]), [None, filtered, None, filtered]);
        assert_eq!(judged(&[(0, None), (1, filtered), (901, filtered), (902, filtered)]), [None, filtered, None, None]);
    }

    #[test]
    fn nomad_that_no_longer_registers_itself_is_not_missed_for_ever() {
        let mut entries = OwnEntries::default();
        let start = crate::clock::now();
        let mut are_gone = |minutes: u64, are_listed| entries.are_gone(start + Duration::from_secs(minutes * 60), are_listed);
        assert_eq!([are_gone(0, false), are_gone(1, true), are_gone(2, false), are_gone(16, false)], [false, false, true, true]);
        assert_eq!(
            [are_gone(17, false), are_gone(18, false), are_gone(19, true), are_gone(20, false)],
            [false, false, false, true]
        );
    }
}
