//! The only reader of the clock. Everything else takes the time as an argument.

use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock: for spans, deadlines and whatever decides.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock: for logs and the dates of certificates, never for a decision about traffic.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Which start of the machine this is: another word after each. `None` where the system does not tell.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// The time since that start, to a hundredth of a second. Unlike [`now`] it can be compared over restarts of this process.
pub fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}
