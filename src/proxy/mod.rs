//! The only folder that implements Pingora's traits: adapts what is decided elsewhere (routing, middleware, choice of
//! server, failure) to the engine, and lets nothing of the engine out.
//!
//! [`edge::Edge`] is the one `ProxyHttp`; [`request`] takes a request from its head to a target or an answer, [`upstream`] from a
//! target to a server, [`answer`] writes what we say ourselves; [`context`] closes every request exactly once.

pub mod answer;
pub mod context;
pub mod edge;
pub mod failure;
pub mod hedge;
pub mod request;
pub mod shared;
pub mod upstream;
