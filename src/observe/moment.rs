//! Times as log lines have them. What changes only each second is formatted only each second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

/// One second in every form.
#[derive(Debug)]
pub(super) struct Second {
    second: i64,
    offset: Offset,
    /// `2026-11-22T19:34:36`, to be followed by a fraction and `Z`.
    pub utc: String,
    /// The same in the local zone, to be followed by a fraction and [`Self::zone`].
    pub local: String,
    /// `Z` or `+01:00`.
    pub zone: String,
    /// `22/Nov/2026:19:34:36 +0000`.
    pub clf_utc: String,
    /// `22/Nov/2026:20:34:36 +0100`.
    pub clf_local: String,
}

impl Second {
    fn new(time: Timestamp, offset: Offset) -> Self {
        let utc = time.to_zoned(TimeZone::UTC);
        let local = time.to_zoned(TimeZone::fixed(offset));
        let zone = if offset == Offset::UTC { "Z".to_owned() } else { local.strftime("%:z").to_string() };
        Self {
            second: time.as_second(),
            offset,
            utc: utc.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
            local: local.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
            zone,
            clf_utc: utc.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            clf_local: local.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
        }
    }
}

/// Hands the second of `time`, in UTC and in `zone`, to `write`, and the nanoseconds into it.
pub(super) fn with_second<R>(time: SystemTime, zone: &TimeZone, write: impl FnOnce(&Second, u32) -> R) -> R {
    thread_local! {
        // Two, since a request begins in one second and is logged in another.
        static SECONDS: RefCell<[Option<Second>; 2]> = const { RefCell::new([None, None]) };
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = i64::try_from(since.as_secs()).unwrap_or_default();
    let timestamp = Timestamp::from_second(second).unwrap_or_default();
    let offset = zone.to_offset(timestamp);
    SECONDS.with_borrow_mut(|seconds| {
        let [even, odd] = seconds;
        let cached = if second % 2 == 0 { even } else { odd };
        let is_current = cached.as_ref().is_some_and(|cached| cached.second == second && cached.offset == offset);
        if !is_current {
            *cached = None;
        }
        write(cached.get_or_insert_with(|| Second::new(timestamp, offset)), since.subsec_nanos())
    })
}

/// Adds a fraction of a second as Go's RFC3339Nano does: without zeros at its end, and nothing at all for none.
pub(super) fn push_fraction(out: &mut Vec<u8>, nanoseconds: u32) {
    if nanoseconds == 0 {
        return;
    }
    let mut digits = [b'0'; 9];
    let mut rest = nanoseconds;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let end = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    out.push(b'.');
    out.extend_from_slice(digits.get(..end).unwrap_or_default());
}

/// Adds a whole number.
pub(super) fn push_number(out: &mut Vec<u8>, number: u128) {
    let mut digits = [b'0'; 39];
    let mut rest = number;
    let mut begin = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        begin -= 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(begin..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_second_in_every_form() {
        let zone = TimeZone::fixed(Offset::constant(1));
        for (seconds, utc, local, clf) in [
            (1_795_376_076, "2026-11-22T19:34:36", "2026-11-22T20:34:36", "22/Nov/2026:20:34:36 +0100"),
            (1_795_376_077, "2026-11-22T19:34:37", "2026-11-22T20:34:37", "22/Nov/2026:20:34:37 +0100"),
            (1_795_376_076, "2026-11-22T19:34:36", "2026-11-22T20:34:36", "22/Nov/2026:20:34:36 +0100"),
            (0, "1970-01-01T00:00:00", "1970-01-01T01:00:00", "01/Jan/1970:01:00:00 +0100"),
        ] {
            with_second(UNIX_EPOCH + Duration::from_secs(seconds), &zone, |second, _| {
                assert_eq!((&*second.utc, &*second.local, &*second.zone, &*second.clf_local), (utc, local, "+01:00", clf));
            });
        }
        with_second(UNIX_EPOCH, &TimeZone::UTC, |second, _| {
            assert_eq!((&*second.zone, &*second.clf_utc), ("Z", "01/Jan/1970:00:00:00 +0000"));
        });
    }

    #[test]
    fn numbers_and_fractions() {
        for (nanoseconds, expected) in [(0, ""), (393_490_332, ".393490332"), (687_765_340, ".68776534"), (5, ".000000005")] {
            let mut out = Vec::new();
            push_fraction(&mut out, nanoseconds);
            assert_eq!(out, expected.as_bytes());
        }
        for number in [0, 7, 10, 95_139, u128::from(u64::MAX)] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
