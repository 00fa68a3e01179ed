//! The real proxy in process, on loopback ports that the kernel gives.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at what is wrong")]

mod demo;
mod engine;
mod support {
    pub mod raw;
}
mod wire;
