//! The real proxy in process, on loopback ports that the kernel gives.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at what is wrong, and prints what was counted"
)]

mod canary;
mod demo;
mod engine;
mod files;
mod routing;
mod shutdown;
mod state;
mod steering;
mod support {
    pub mod client;
    pub mod edge;
    pub mod load;
    pub mod logged;
    pub mod raw;
    pub mod upstream;
}
mod swap;
mod tcp;
mod tls;
mod wire;
