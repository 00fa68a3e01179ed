//! `tidegate demo`: the main job on this machine, without Consul and Nomad.
//!
//! Everything runs in this process: catalog, instances, visitors, and the proxy with a real install file. Standard output
//! tells the story; the proxy's log is a file.

use std::io::{self, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Loaded, check, load_file};
use crate::app::{self, Running};
use crate::clock;
use crate::demo::catalog::EmbeddedCatalog;
use crate::demo::fleet::Fleet;
use crate::demo::instance::Witness;
use crate::demo::load::{self, Seen, Tally, Visitors};
use crate::demo::news::News;
use crate::demo::screen::{self, Second};
use crate::demo::site::Site;
use crate::demo::story::{self, Pace, Story};
use crate::observe::log::Log;

/// Requests a second.
const RATE: u32 = 200;
/// Events that may wait to be printed.
const EVENTS_MAX: usize = 16;
/// The site must answer within this time.
const START_MAX: Duration = Duration::from_secs(15);
/// Between two looks into the proxy's log.
const NEWS_EVERY: Duration = Duration::from_millis(100);
/// The columns are named again after so many lines.
const HEADING_EVERY: u64 = 30;

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("the demo cannot print, or use this machine")]
    Io(#[from] io::Error),
    #[error("the visitors' client cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("the proxy cannot start: {0}")]
    Proxy(String),
    #[error("the site does not answer; the proxy's log is {0}")]
    Silent(String),
}

/// Shows the demo on standard output. Success means that nothing was lost.
pub fn run(length: Option<Duration>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("tidegate").build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&DemoError::from(error)),
    };
    match runtime.block_on(perform(&mut io::stdout(), length)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &DemoError) -> ExitCode {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    // A closed standard error changes nothing.
    let _ = writeln!(io::stderr(), "tidegate: {error}{cause}");
    ExitCode::FAILURE
}

/// Sets everything up, plays the story, and sums up. Whether it went as it should.
async fn perform(out: &mut impl Write, length: Option<Duration>) -> Result<bool, DemoError> {
    let mut stop = Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    let (catalog, address) = EmbeddedCatalog::start().await?;
    let site = Site::lay_out(address)?;
    let running = start(&site).await?;
    let (tally, witness): (Arc<Tally>, Arc<Witness>) = Default::default();
    let visitors = Visitors::new(format!("https://{}", site.websecure), Arc::clone(&tally), Arc::clone(&witness))?;
    let mut fleet = Fleet::new(site.clone(), catalog, Arc::clone(&tally), witness);
    fleet.deploy("v1", 2).await?;
    if !visitors.wait_for_site(clock::now() + START_MAX).await {
        return Err(DemoError::Silent(site.log().display().to_string()));
    }
    out.write_all(screen::introduction(&site, RATE).as_bytes())?;
    let began = clock::now();
    let end = length.map(|length| began + length);
    let (say, events) = mpsc::channel(EVENTS_MAX);
    let shared = Arc::clone(running.shared());
    let mut stage = Stage { out, began, end, tally, running, news: News::open(&site.log())?, before: Seen::default(), lines: 0 };
    let mut story = Story::new(fleet, Pace::new(began, end), Arc::clone(&stage.tally), shared, say);

    let closed = CancellationToken::new();
    let witness = Arc::clone(&visitors.witness);
    let visiting = tokio::spawn(visitors.come(RATE, closed.clone()));
    let shown = stage.show(&mut story, events, &mut stop).await;
    closed.cancel();
    // Whoever waits for an instance that will never answer need not.
    story.fleet.withdraw_bad().await;
    // Each visitor's patience ends.
    let _ = tokio::time::timeout(load::PATIENCE * 2, visiting).await;
    shown?;
    let is_well = stage.sum_up(&witness)?;
    stage.running.stop().await;
    Ok(is_well)
}

/// Starts the proxy with the site's install file.
async fn start(site: &Site) -> Result<Running, DemoError> {
    let loaded = load_file(&site.install_file());
    let report = check::report(&[check::install(&loaded)]);
    let Loaded { install: Some(install), .. } = loaded else { return Err(DemoError::Proxy(report)) };
    let log = Log::install(&install.log, jiff::tz::TimeZone::system());
    let log = log.map_err(|error| DemoError::Proxy(error.to_string()))?;
    // A token or address for the machine's own Consul has nothing to do with the embedded one.
    let running = app::start(install, Some(log), &|_| None).await.map_err(|error| DemoError::Proxy(error.to_string()))?;
    running.listening().await.map_err(DemoError::Proxy)?;
    Ok(running)
}

/// The signals that end the demo.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Where the demo is seen.
struct Stage<'o, W> {
    out: &'o mut W,
    began: Instant,
    end: Option<Instant>,
    tally: Arc<Tally>,
    running: Running,
    news: News,
    before: Seen,
    lines: u64,
}

impl<W: Write> Stage<'_, W> {
    /// Plays the story and prints what happens, until it is time to end.
    async fn show(&mut self, story: &mut Story, mut events: mpsc::Receiver<String>, stop: &mut Stop) -> Result<(), DemoError> {
        let mut telling = pin!(story.tell());
        let mut is_told = false;
        let end = self.end;
        let mut over = pin!(async move {
            match end {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        });
        let mut seconds = tokio::time::interval_at((self.began + Duration::from_secs(1)).into(), Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = tokio::time::interval(NEWS_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(()),
                () = &mut over => return Ok(()),
                Some(event) = events.recv() => self.print(&screen::event(self.at(), &event))?,
                _ = looks.tick() => self.read_news()?,
                _ = seconds.tick() => self.print_second()?,
                // Afterwards everything goes on as it is.
                told = &mut telling, if !is_told => {
                    told?;
                    is_told = true;
                }
            }
        }
    }

    fn read_news(&mut self) -> io::Result<()> {
        for sentence in self.news.read()? {
            self.print(&screen::said(self.at(), &sentence))?;
        }
        Ok(())
    }

    fn print_second(&mut self) -> io::Result<()> {
        let seen = self.tally.seen();
        let second = Second {
            at: self.at(),
            slowest: self.tally.take_slowest(),
            canary: story::canary(self.running.shared()),
            ..Second::between(&self.before, &seen)
        };
        self.before = seen;
        self.lines += 1;
        if self.lines.is_multiple_of(HEADING_EVERY) {
            self.print(&format!("{}\n", screen::HEADING))?;
        }
        self.print(&screen::second(&second))
    }

    /// The last words; whether it went as it should.
    fn sum_up(&mut self, witness: &Witness) -> io::Result<bool> {
        let seen = self.tally.seen();
        // A page that an instance failed was either lost or answered by another one.
        let covered = witness.failed().saturating_sub(seen.lost);
        self.print(&screen::summary(self.at(), &seen, covered, witness.twice()))?;
        Ok(screen::is_well(&seen, witness.twice()))
    }

    fn at(&self) -> Duration {
        clock::now().saturating_duration_since(self.began)
    }

    fn print(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}
