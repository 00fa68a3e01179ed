//! What `tidegate demo` needs to show the main job on a machine that has nothing: a catalog that speaks Consul's HTTP API, a site
//! like cljdoc.org with its instances and visitors, and the story that it goes through.
//!
//! The tests use the catalog too, where a real agent would be slower or cannot be made to fail on demand; it passes the same
//! contract tests as the real one.

pub mod catalog;
pub mod fleet;
pub mod instance;
pub mod load;
pub mod news;
pub mod screen;
pub mod site;
mod store;
pub mod story;
