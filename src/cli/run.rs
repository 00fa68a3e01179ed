//! `tidegate [run]`: serves until told to stop.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Loaded, check, load};
use crate::app::{self, Running};
use crate::config::install::Install;
use crate::config::problem::{Problem, Severity};
use crate::durable;
use crate::observe::log::{Log, LogError};

/// Reads the install configuration, starts, serves, and ends on SIGTERM or SIGINT.
pub fn run(flags: &[String]) -> ExitCode {
    let loaded = load(flags);
    let Loaded { install: Some(install), problems, .. } = loaded else {
        let report = check::report(&[check::install(&loaded)]);
        // A closed standard error changes nothing about the refusal.
        let _ = std::io::stderr().write_all(report.as_bytes());
        return ExitCode::FAILURE;
    };
    let log = match Log::install(&install.log, jiff::tz::TimeZone::system()) {
        Ok(log) => log,
        Err(LogError::Open { path, reason }) => {
            return refuse(
                &format!("log `{}` cannot be opened: {reason}{}", path.display(), durable::owner_hint(&path, &reason)),
                LogGoesTo::Elsewhere,
            );
        }
        Err(error) => return refuse(&chain(&error), LogGoesTo::Elsewhere),
    };
    let is_shown = install.log.file_path.is_none() && tracing::enabled!(tracing::Level::ERROR);
    let goes_to = if is_shown { LogGoesTo::StandardError } else { LogGoesTo::Elsewhere };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "tidegate starts");
    say(&problems);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("runtime cannot be started: {error}"), goes_to),
    };
    runtime.block_on(serve(install, log, goes_to))
}

/// As many threads as the process may use processors. With one, nothing is handed from thread to thread at all.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder =
        if processors == 1 { tokio::runtime::Builder::new_current_thread() } else { tokio::runtime::Builder::new_multi_thread() };
    builder.enable_all().thread_name("tidegate").build()
}

async fn serve(install: Install, log: Log, goes_to: LogGoesTo) -> ExitCode {
    let signals = Signals::new();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return refuse(&format!("signals cannot be received: {error}"), goes_to),
    };
    let running = match app::start(install, Some(log), &|name| std::env::var(name).ok()).await {
        Ok(running) => running,
        Err(error) => return refuse(&chain(&error), goes_to),
    };
    tokio::select! {
        biased;
        () = signals.until_stop(&running) => return stop(running).await,
        listening = running.listening() => if let Err(failure) = listening {
            return refuse(&failure, goes_to);
        },
    }
    notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        biased;
        () = signals.until_stop(&running) => {}
        () = keep_watchdog_fed() => {}
    }
    stop(running).await
}

async fn stop(running: Running) -> ExitCode {
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("draining");
    // A long drain is no reason to be killed by the watchdog.
    let left = tokio::select! {
        left = running.stop() => left,
        () = keep_watchdog_fed() => 0,
    };
    if left > 0 {
        tracing::warn!(left, "connections were cut off, their time was over");
    }
    tracing::info!("tidegate ends");
    ExitCode::SUCCESS
}

/// The signals that mean something to us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Obeys signals until one says stop.
    async fn until_stop(&mut self, running: &Running) {
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::info!("reading dynamic files again");
                    running.reload();
                }
                _ = self.reopen.recv() => {
                    running.reopen_logs();
                    tracing::info!("reopened logs");
                }
            }
        }
    }
}

/// Tells systemd that we live, twice as often as it asks for. Never ends.
async fn keep_watchdog_fed() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut pace = tokio::time::interval((patience / 2).max(Duration::from_millis(100)));
    loop {
        pace.tick().await;
        notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Tells systemd, if it started us.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "could not notify systemd");
    }
}

fn say(problems: &[Problem]) {
    for problem in problems {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
}

/// Where the log is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogGoesTo {
    StandardError,
    /// To a file, or nowhere as yet.
    Elsewhere,
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Says why there is no start, where it is read: in the log, and on standard error.
fn refuse(reason: &str, log: LogGoesTo) -> ExitCode {
    tracing::error!("{reason}");
    if log == LogGoesTo::StandardError {
        return ExitCode::FAILURE;
    }
    // A closed standard error changes nothing about the refusal.
    let _ = writeln!(std::io::stderr(), "tidegate: {reason}");
    ExitCode::FAILURE
}
