//! Seeing what we do: the access log, our own log and the metrics, in Traefik's formats and under Traefik's names.
//!
//! Everything here is written to by requests and must never slow them down: lines are made in reused memory and lost rather
//! than waited for, counters are atomics that a route finds once.

mod access_line;
pub mod access_log;
pub mod access_record;
mod exposition;
mod handle;
pub mod log;
pub mod log_file;
pub mod metrics;
mod moment;
pub mod series;
