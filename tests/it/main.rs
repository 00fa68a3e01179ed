//! The real proxy in process, on loopback ports that the kernel gives.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at what is wrong")]
#![expect(clippy::print_stdout, reason = "what visitors saw is worth reading when a test passes, too")]

mod canary;
mod engine;
mod files;
mod routing;
mod shutdown;
mod support {
    pub mod client;
    pub mod edge;
    pub mod load;
    pub mod raw;
    pub mod upstream;
}
mod swap;
mod tcp;
mod tls;
mod wire;
