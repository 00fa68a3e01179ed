//! What `tidegate demo` needs to show the main job on a machine that has nothing: a catalog that speaks Consul's HTTP API.
//!
//! The tests use it too, where a real agent would be slower or cannot be made to fail on demand; it passes the same
//! contract tests as the real one.

pub mod catalog;
pub mod instance;
pub mod load;
mod store;
