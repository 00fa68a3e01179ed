//! A connection between requests costs next to nothing: its buffers are given back and only readiness is waited for.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::clock;

use super::drain::{DRAIN_IDLE_MAX, Phase};
use super::pipe::{Pipe, READ_BYTES};
use super::transport::Transport;

/// Why a parked connection woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The input has the client's next bytes.
    Bytes,
    /// Nothing came in time, or the connection ended.
    Over,
}

impl Pipe {
    /// Waits for the client's next bytes, no longer than `limit` (zero: as long as it takes). Once draining has begun, the client
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
            let Self { transport, timer, input, .. } = self;
            let wake = pin!(async {
                tokio::select! {
                    biased;
                    count = read_when_ready(transport, input) => Some(count),
                    Ok(()) = drain.changed(), if !is_draining => None,
                }
            });
            match timer.race(deadline, wake).await {
                Ok(Some(Ok(1..))) => return Woken::Bytes,
                Ok(Some(_)) | Err(_) => return Woken::Over,
                Ok(None) => {}
            }
        }
    }
}

/// Reads as soon as something is there. A buffer is held only for the moment of reading: readiness may be a false alarm.
async fn read_when_ready(transport: &mut Transport, input: &mut BytesMut) -> io::Result<usize> {
    loop {
        poll_fn(|cx| transport.poll_readable(cx)).await?;
        input.reserve(READ_BYTES);
        let read = {
            let mut read = pin!(transport.read_buf(input));
            poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await
        };
        match read {
            Poll::Ready(count) => return count,
            Poll::Pending => *input = BytesMut::new(),
        }
    }
}
