//! `tidegate drain`: a server gets no new request, so that it can be stopped.

use clap::Args;

use super::order::Place;
use crate::steering::Order;

/// What follows `tidegate drain`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "It stays drained until `--undo`, or until its instance leaves. Before nobody serves at all a drained server \
    does, unless it was drained with `--force`. Exits with 0 when it was done, 1 when it was refused, 3 when nobody could be \
    asked. `tidegate rollout list` shows how many requests are still running."
)]
pub struct Drain {
    /// Its URL, its address and port, or the id of its instance
    server: String,
    /// Even if it is the last one that is fit: then requests are answered with 503
    #[arg(long, conflicts_with = "undo")]
    force: bool,
    /// It gets requests again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    place: Place,
}

impl Drain {
    /// What is ordered, and where.
    pub fn order(self) -> (Place, Order) {
        let Self { server, force, undo, place } = self;
        (place, if undo { Order::Undrain { server } } else { Order::Drain { server, force } })
    }
}
