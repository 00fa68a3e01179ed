//! The only reader of the clock. Everything else takes the time as an argument.

use std::time::{Instant, SystemTime};

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
