//! One timer for all the waits of a connection.
//!
//! Arming a timer costs a lock and often a system call, and nearly every wait of a busy connection ends long before its
//! deadline. So the timer is armed once and left where it is while deadlines only move later; when it fires early, it is moved
//! then.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

use crate::clock;

/// The deadline passed first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Waits for `future`, but no longer than until `deadline`. The future comes pinned (`pin!`), so that it is not held twice.
    pub(crate) fn race<F: Future + Unpin>(
        &mut self,
        deadline: Option<Instant>,
        mut future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> {
        poll_fn(move |cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Ok(output));
            }
            match deadline {
                Some(deadline) => self.poll_passed(deadline, cx).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            }
        })
    }

    fn poll_passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if sleep.deadline() > deadline.into() {
            sleep.as_mut().reset(deadline.into());
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            // It was armed for an earlier wait.
            sleep.as_mut().reset(deadline.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_early_arming_does_not_cut_a_later_wait() {
        let mut timer = Timer::default();
        let start = clock::now();
        let soon = start + Duration::from_millis(20);
        assert_eq!(timer.race(Some(soon), std::future::pending::<()>()).await, Err(Elapsed));
        let later = start + Duration::from_millis(60);
        assert_eq!(timer.race(Some(later), std::future::pending::<()>()).await, Err(Elapsed));
        assert!(clock::now() >= later);
        assert_eq!(timer.race(Some(later), std::future::ready(7)).await, Ok(7));
    }
}
