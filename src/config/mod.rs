//! What the user wrote, turned into typed values and problems. Pure: no file, clock or network is touched here.
//!
//! [`install`] is Traefik's static configuration, read once at start; [`dynamic`] is what providers say while we run.
//! Both come through [`node`], one tree for every source; every mistake becomes a [`problem::Problem`].

pub mod document;
pub mod dynamic;
pub mod install;
pub mod node;
pub mod problem;
pub mod toml;
pub mod yaml;
