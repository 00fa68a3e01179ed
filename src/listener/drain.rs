//! How the listening side ends: politely.
//!
//! Closing an idle keep-alive connection at once loses the request that is already on its way, so each gets a moment for one
//! more request, which is answered with `Connection: close`; HTTP/2 gets GOAWAY; running requests finish.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How long an idle keep-alive connection is left open for one more request once draining began.
pub const DRAIN_IDLE_MAX: Duration = Duration::from_secs(2);

/// Where in its life the listening side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections are accepted and kept.
    Serving,
    /// As before, but whoever asks for our health is told to send traffic elsewhere (`requestAcceptGraceTimeout`).
    AcceptGrace,
    /// Nothing new is accepted, and what is open ends at its next opportunity.
    Draining,
}

/// The phase of all entrypoints, and their connections counted.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    tasks: TaskTracker,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving), tasks: TaskTracker::new() }
    }
}

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// For whoever must know when the phase changes.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Goes to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Connections and their streams that are open now.
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Begins to drain, waits until everything ended or `deadline` passed, and says how many were left then.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.enter(Phase::Draining);
        self.tasks.close();
        // Elapsed is no error: whoever is left is counted below.
        let _ = tokio::time::timeout_at(deadline.into(), self.tasks.wait()).await;
        self.tasks.len()
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}
