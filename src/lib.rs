//! Tidegate: an edge proxy for Nomad and Consul that reads Traefik's configuration and moves traffic by observed health.
//!
//! ARCHITECTURE.md is the map; each module opens with its promise.

pub mod catalog;
pub mod clock;
pub mod config;
pub mod demo;
pub mod names;
pub mod provider;
pub mod routing;
