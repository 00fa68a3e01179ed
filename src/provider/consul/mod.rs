//! The Consul catalog: asks the agent, keeps asking, and publishes what it says as whole states.
//!
//! [`access`] reads where the agent is, [`client`] asks one question, [`blocking`] decides what to ask next and when,
//! [`ledger`] holds what was said so far (these two without input or output), and [`watch`] runs it all and publishes
//! [`state`]. Consul's JSON is known in [`answer`] and nowhere else.

pub mod access;
pub mod answer;
pub mod blocking;
mod checks;
pub mod client;
mod connection;
mod doubt;
pub mod ledger;
pub mod state;
pub mod watch;
