//! A connection between requests costs next to nothing: its buffers are given back and only readiness is waited for.

use std::future::poll_fn;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;

use crate::clock;

use super::drain::{DRAIN_IDLE_MAX, Phase};
use super::pipe::Pipe;

/// Why a parked connection woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// There may be something to read.
    Readable,
    /// Nothing came in time, or the connection failed.
    Over,
}

impl Pipe {
    /// Waits for the client's next byte, no longer than `limit` (zero: as long as it takes). Once draining has begun, the client
    /// gets [`DRAIN_IDLE_MAX`] for one more request.
    pub(super) async fn park(&mut self, limit: Duration, drain: &mut watch::Receiver<Phase>) -> Woken {
        self.input = BytesMut::new();
        self.output = Vec::new();
        let mut deadline = (!limit.is_zero()).then(|| clock::now() + limit);
        loop {
            let is_draining = *drain.borrow_and_update() == Phase::Draining;
            if is_draining {
                let last = clock::now() + DRAIN_IDLE_MAX;
                deadline = Some(deadline.map_or(last, |deadline| deadline.min(last)));
            }
            let Self { transport, timer, .. } = self;
            let wake = async {
                tokio::select! {
                    biased;
                    ready = poll_fn(|cx| transport.poll_readable(cx)) => {
                        Some(if ready.is_ok() { Woken::Readable } else { Woken::Over })
                    }
                    Ok(()) = drain.changed(), if !is_draining => None,
                }
            };
            match timer.race(deadline, wake).await {
                Ok(Some(woken)) => return woken,
                Ok(None) => {}
                Err(_) => return Woken::Over,
            }
        }
    }
}
