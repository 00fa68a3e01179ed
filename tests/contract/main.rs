//! What we rely on in Consul, kept by a real agent and by the embedded catalog alike; and our client and watch against both.
//!
//! The clauses are in `clauses.rs`, each a sentence about Consul's API. `watch.rs` runs the provider itself, `faults.rs`
//! against an agent in trouble, `access.rs` behind TLS and access control. What needs a real agent is ignored unless the
//! path of one is known: `CONSUL_BIN`, what `make tools` installs, or `consul` of the machine.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stderr, reason = "what was measured is shown beside a failure")]

mod access;
mod agent;
mod clauses;
mod faults;
mod watch;
