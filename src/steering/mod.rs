//! How people steer rollouts and servers: what they may order, how an order reaches control, and who hears of what happened.
//!
//! Orders come over a unix socket ([`socket`]), where the kernel says who asks, and over the API with a token ([`api`]), and
//! both go into one bounded queue that only control reads. [`event`] goes the other way: what was decided is sent to a webhook.

pub mod api;
pub mod event;
pub mod order;
pub mod socket;
pub mod webhook;

pub use event::{Event, Events};
pub use order::{Answer, Job, Order, Request, Target, ask};
