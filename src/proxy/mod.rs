//! The only folder that implements Pingora's traits: adapts what is decided elsewhere (routing, middleware, choice of
//! server, failure) to the engine, and lets nothing of the engine out.
//!
//! [`edge::Edge`] is the one `ProxyHttp`; [`request`] takes a request from its head to a target or an answer, [`upstream`] from a
//! target to a server, [`answer`] writes what we say ourselves, [`order`] hands orders on; [`attempt`] tells health and evidence how it
//! ended, [`context`] metrics and access log.

pub mod answer;
pub mod attempt;
pub mod context;
pub mod edge;
pub mod failure;
pub mod hedge;
pub mod order;
pub mod request;
pub mod shared;
pub mod upstream;
