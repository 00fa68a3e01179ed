//! Carries requests to servers and their answers back. The only folder that meets the engine.

pub mod forwarded;
