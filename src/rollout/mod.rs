//! Moves a service's traffic from its stable to its canary servers by what requests saw.
//!
//! [`ledger`] is the request path's side.

pub mod ledger;
