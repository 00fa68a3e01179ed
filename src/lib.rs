//! Tidegate: an edge proxy for Nomad and Consul that reads Traefik's configuration and moves traffic by observed health.
//!
//! ARCHITECTURE.md is the map; each module opens with its promise.

pub mod acme;
pub mod admin;
pub mod app;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod durable;
pub mod health;
pub mod listener;
pub mod middleware;
pub mod names;
pub mod observe;
pub mod orchestrator;
pub mod provider;
pub mod proxy;
pub mod rollout;
pub mod routing;
pub mod rule;
pub mod steering;
pub mod tcp;
pub mod tls;
