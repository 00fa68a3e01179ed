//! What the site goes through: a deployment, a dead instance, a version that fails, one that hangs, and versions that are well.
//!
//! An act goes on when the proxy has done its part, not after a time, so that a slow machine shows the same story. Where
//! time is short, the pauses shrink first, and an act that still does not fit is left out and said to be.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::fleet::Fleet;
use super::instance::Behaviour;
use super::load::{Tally, greeting};
use super::screen::Canary;
use super::site::SERVICE;
use crate::clock;
use crate::proxy::shared::Shared;

/// Between two looks at what the proxy does.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Probes, and whatever else the proxy takes its time for, are waited for as long as this.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests that a canary answers before it goes bad, three of them probes.
const GOOD_REQUESTS: u64 = 10;
/// What a bad version fails.
const FAILING: f64 = 0.5;

/// A pause between two things that happen, when nobody is in a hurry.
const BEAT: Duration = Duration::from_millis(2500);
const BEAT_MIN: Duration = Duration::from_millis(200);
/// Pauses of the whole story, and about what the rest of it takes: probes a second apart, and conclusions.
const BEATS: u32 = 14;
const WORK: Duration = Duration::from_millis(14_500);
/// What a good version's way takes before it may be promoted.
const ONE_MORE: Duration = Duration::from_secs(8);

/// How fast the story goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    beat: Duration,
    /// When all must be over.
    end: Option<Instant>,
}

impl Pace {
    /// Fits the story between now and an end, if there is one.
    pub fn new(now: Instant, end: Option<Instant>) -> Self {
        let beat =
            end.map_or(BEAT, |end| (end.saturating_duration_since(now).saturating_sub(WORK) / BEATS).clamp(BEAT_MIN, BEAT));
        Self { beat, end }
    }

    /// Whether an act fits that needs so many beats and so much time besides.
    fn fits(&self, now: Instant, beats: u32, besides: Duration) -> bool {
        self.end.is_none_or(|end| now + self.beat * beats + besides <= end)
    }
}

/// Plays the story.
pub struct Story {
    /// The site's instances. What is left of them goes on serving when the story is over.
    pub fleet: Fleet,
    pace: Pace,
    tally: Arc<Tally>,
    shared: Arc<Shared>,
    say: mpsc::Sender<String>,
}

impl Story {
    /// A story about a running fleet behind a running proxy.
    pub fn new(fleet: Fleet, pace: Pace, tally: Arc<Tally>, shared: Arc<Shared>, say: mpsc::Sender<String>) -> Self {
        Self { fleet, pace, tally, shared, say }
    }

    /// Everything in its turn; without an end it goes on with good versions for ever.
    pub async fn tell(&mut self) -> io::Result<()> {
        self.pause(2).await;
        if self.has_time("a deployment", 5, Duration::from_millis(3000)).await {
            self.replace("v1", "v2").await?;
        }
        if self.has_time("an instance that dies", 3, Duration::from_millis(300)).await {
            self.lose_one("v2").await?;
        }
        if self.has_time("a version that fails", 2, Duration::from_millis(6000)).await {
            self.bring_failing("v3").await?;
        }
        if self.has_time("a version that hangs", 2, Duration::from_millis(4000)).await {
            self.bring_hanging("v4").await?;
        }
        self.earn().await
    }

    /// A deployment as cljdoc's: canaries beside the old ones, and when they have been well for a while the old ones go.
    async fn replace(&mut self, old: &str, new: &str) -> io::Result<()> {
        self.say(format!("a deployment: Nomad starts two instances of {new} beside {old}, as canaries")).await;
        self.fleet.deploy(new, 2).await?;
        self.wait_for(|canary| canary.is_some_and(|canary| canary.share > 0.0)).await;
        self.pause(3).await;
        self.say(format!("{new} is promoted: both {old} are deregistered and killed at the same moment")).await;
        self.fleet.withdraw(old).await;
        self.pause(1).await;
        self.greet().await;
        self.pause(1).await;
        Ok(())
    }

    async fn lose_one(&mut self, version: &str) -> io::Result<()> {
        let Some((id, address)) = self.fleet.kill_one(version).await else { return Ok(()) };
        self.say(format!("{version} at {address} is killed, and nobody tells the catalog")).await;
        self.pause(2).await;
        self.say(format!("the catalog's check finds it dead; Nomad starts another {version} in its place")).await;
        self.fleet.find_dead(&id);
        self.fleet.deploy(version, 1).await?;
        self.fleet.bury(&id);
        self.pause(1).await;
        Ok(())
    }

    async fn bring_failing(&mut self, version: &str) -> io::Result<()> {
        let percent = FAILING * 100.0;
        self.say(format!("a bad version: {version} answers its probes, then fails {percent:.0} % of its visitors with 500"))
            .await;
        self.bring_bad(version, Behaviour::Failing(FAILING)).await
    }

    async fn bring_hanging(&mut self, version: &str) -> io::Result<()> {
        self.say(format!("a version that hangs: {version} answers its probes, then takes requests and never answers")).await;
        self.bring_bad(version, Behaviour::Hanging).await
    }

    async fn bring_bad(&mut self, version: &str, behaviour: Behaviour) -> io::Result<()> {
        self.fleet.deploy(version, 1).await?;
        self.wait_for(|canary| canary.is_some_and(|canary| canary.version == version && canary.share > 0.0)).await;
        let deadline = clock::now() + PATIENCE;
        while self.fleet.requests(version) < GOOD_REQUESTS && clock::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.fleet.behave(version, behaviour);
        let began = clock::now();
        self.wait_for(|canary| canary.is_none_or(|canary| canary.share == 0.0)).await;
        let left = clock::now().saturating_duration_since(began);
        // What its silence means is not worth the wait.
        if behaviour != Behaviour::Hanging {
            self.wait_for(|canary| canary.is_none_or(|canary| canary.phase != "suspended")).await;
        }
        self.pause(1).await;
        self.say(format!(
            "{version} is taken back; visitors were led away from it {:.1} s after it went bad",
            left.as_secs_f64()
        ))
        .await;
        self.fleet.withdraw(version).await;
        self.pause(1).await;
        Ok(())
    }

    /// One good version after the other, each earning all of the traffic before the older one goes.
    async fn earn(&mut self) -> io::Result<()> {
        let mut old = "v2".to_owned();
        for number in 5.. {
            if !self.pace.fits(clock::now(), 1, ONE_MORE) {
                let longer = "not shown in so short a time: a good version earns 5 %, 20 %, 50 %, each in at least 30 s";
                self.say(longer.to_owned()).await;
                return Ok(());
            }
            let new = format!("v{number}");
            self.say(format!(
                "{new} is a good version: it earns more traffic with every step of at least 30 s, until nothing is left to earn"
            ))
            .await;
            self.fleet.deploy(&new, 2).await?;
            while self.canary().is_none_or(|canary| canary.phase != "earned") {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.pause(2).await;
            self.say(format!("{new} is promoted: both {old} are deregistered and killed at the same moment")).await;
            self.fleet.withdraw(&old).await;
            self.pause(2).await;
            old = new;
        }
        Ok(())
    }

    /// Raw TCP goes the same ways.
    async fn greet(&self) {
        let jmx = self.fleet.site().jmx;
        match greeting(jmx).await {
            Ok(line) => self.say(format!("a new raw TCP connection to {jmx} is greeted with \"{line}\"")).await,
            Err(error) => {
                self.tally.lose(format!("raw TCP: {error}"));
                self.say(format!("a new raw TCP connection to {jmx} is not greeted: {error}")).await;
            }
        }
    }

    /// The canary as the API shows it.
    fn canary(&self) -> Option<Canary> {
        canary(&self.shared)
    }

    async fn has_time(&self, what: &str, beats: u32, besides: Duration) -> bool {
        let fits = self.pace.fits(clock::now(), beats, besides);
        if !fits {
            self.say(format!("no time is left for {what}: 30 s show everything")).await;
        }
        fits
    }

    async fn wait_for(&self, is_so: impl Fn(Option<&Canary>) -> bool) {
        let deadline = clock::now() + PATIENCE;
        while !is_so(self.canary().as_ref()) && clock::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn pause(&self, beats: u32) {
        tokio::time::sleep(self.pace.beat * beats).await;
    }

    async fn say(&self, text: String) {
        // Nobody listens any more only when everything ends.
        let _ = self.say.send(text).await;
    }
}

/// The canary of the site as the API shows it, if there is one.
pub fn canary(shared: &Shared) -> Option<Canary> {
    let rollouts = shared.rollouts.load();
    let (_, report) = rollouts.iter().find(|(name, _)| name.name() == SERVICE)?;
    Some(Canary {
        version: report.get("version")?.as_str()?.to_owned(),
        phase: report.get("phase")?.as_str()?.to_owned(),
        share: report.get("share")?.as_f64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_shrink_before_an_act_is_left_out() {
        let now = clock::now();
        let pace = |seconds: u64| Pace::new(now, Some(now + Duration::from_secs(seconds)));
        assert_eq!(Pace::new(now, None).beat, BEAT);
        assert!(pace(30).beat > Duration::from_secs(1) && pace(30).beat < BEAT, "{:?}", pace(30));
        assert_eq!((pace(5).beat, pace(600).beat), (BEAT_MIN, BEAT));
        assert!(!pace(5).fits(now, 2, Duration::from_secs(6)) && pace(30).fits(now, 2, Duration::from_secs(6)));
    }
}
