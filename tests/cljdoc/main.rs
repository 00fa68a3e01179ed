//! cljdoc.org from end to end: its own install configuration and its own tags, with a real Consul, a CA that gives real
//! certificates, a real Prometheus, and a real Traefik that takes over and gives back. Tidegate is the real program.
//!
//! Each test has a machine of its own: see `stage.rs`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stderr, reason = "what programs said is shown beside a failure")]

mod activation;
mod client;
mod operators;
mod process;
mod site;
mod stage;
mod takeover;
