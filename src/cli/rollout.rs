//! `tidegate rollout`: shows and steers the rollouts of the running proxy.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::arguments::{Command, duration};
use super::order::{Format, Place};
use crate::names::Share;
use crate::steering::{Job, Order, Target};

/// What follows `tidegate rollout`.
#[derive(Args, Clone, Debug)]
#[command(disable_help_subcommand = true)]
pub struct Rollout {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    place: Place,
}

const WAIT_HELP: &str = "Exits with 0 when the canary is promoted (or passed every step and nobody is to be asked), or there is \
    nothing to wait for; with 1 when it failed; with 2 when it was released or left, so that nothing is decided; with 3 when \
    nobody could be asked or the time is over.";
const FIXED_HELP: &str = "What is seen still counts: three failures in a row, or any other reason to suspect the canary, takes the \
    share away.";

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// All rollouts under way, and all drained servers
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// What was seen, why it waits, what comes next; all rollouts under way unless one is named
    Show {
        #[command(flatten)]
        whose: Any,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Freeze the canary's share as it is, until `resume`
    #[command(after_help = FIXED_HELP)]
    Hold {
        #[command(flatten)]
        whose: One,
    },
    /// Let it be judged on; one that was given up is judged anew
    Resume {
        #[command(flatten)]
        whose: One,
    },
    /// Give the canary its traffic, whatever was seen
    Promote {
        #[command(flatten)]
        whose: One,
    },
    /// Take the canary's traffic away for good
    Abort {
        #[command(flatten)]
        whose: One,
    },
    /// Fix the canary's share, until `resume`
    #[command(after_help = FIXED_HELP)]
    SetShare {
        /// In per cent: `20%`
        #[arg(value_parser = share)]
        share: Share,
        #[command(flatten)]
        whose: One,
    },
    /// Judge it no longer and hold nothing back; before the proxy is stopped for good: `--all`
    Release {
        #[command(flatten)]
        whose: OneOrAll,
    },
    /// Wait for the end of a rollout: the honest last line of a deploy script
    #[command(after_help = WAIT_HELP)]
    Wait {
        #[command(flatten)]
        whose: One,
        /// Wait no longer, such as `30m`
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
        timeout: Duration,
    },
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct One {
    /// The service: `web@consulcatalog`, or `web` where that is clear
    service: Option<String>,
    /// The Nomad job, as `NAME` or `NAMESPACE/NAME`
    #[arg(long, value_name = "NAME")]
    job: Option<Job>,
}

#[derive(Args, Clone, Debug)]
#[group(required = false, multiple = false)]
struct Any {
    /// The service: `web@consulcatalog`, or `web` where that is clear
    service: Option<String>,
    /// The Nomad job, as `NAME` or `NAMESPACE/NAME`
    #[arg(long, value_name = "NAME")]
    job: Option<Job>,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct OneOrAll {
    /// The service: `web@consulcatalog`, or `web` where that is clear
    service: Option<String>,
    /// The Nomad job, as `NAME` or `NAMESPACE/NAME`
    #[arg(long, value_name = "NAME")]
    job: Option<Job>,
    /// Every rollout
    #[arg(long)]
    all: bool,
}

/// Only one of them is there, as the groups above see to.
fn target(service: Option<String>, job: Option<Job>) -> Option<Target> {
    job.map(Target::Job).or(service.map(Target::Service))
}

impl One {
    /// The group above lets nothing else through; an empty name is found nowhere.
    fn target(self) -> Target {
        target(self.service, self.job).unwrap_or_else(|| Target::Service(String::new()))
    }
}

impl Rollout {
    /// What is to be done, and where.
    pub fn command(self) -> Command {
        let (mut format, place) = (Format::Text, self.place);
        let as_json = |json: bool| if json { Format::Json } else { Format::Text };
        let order = match self.verb {
            Verb::List { json } => {
                format = as_json(json);
                Order::List
            }
            Verb::Show { whose, json } => {
                format = as_json(json);
                Order::Show { rollout: target(whose.service, whose.job) }
            }
            Verb::Hold { whose } => Order::Hold { rollout: whose.target() },
            Verb::Resume { whose } => Order::Resume { rollout: whose.target() },
            Verb::Promote { whose } => Order::Promote { rollout: whose.target() },
            Verb::Abort { whose } => Order::Abort { rollout: whose.target() },
            Verb::SetShare { share, whose } => Order::SetShare { rollout: whose.target(), share },
            Verb::Release { whose } => match target(whose.service, whose.job) {
                Some(rollout) => Order::Release { rollout },
                None => Order::ReleaseAll,
            },
            Verb::Wait { whose, timeout } => return Command::Wait { place, rollout: whose.target(), timeout },
        };
        Command::Order { place, order, format }
    }
}

/// A share in per cent. A bare number would leave open whether 1 is everything.
fn share(text: &str) -> Result<Share, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Share::from_fraction(percent / 100.0)),
        _ => Err("wants per cent between `0%` and `100%`, such as `20%`".to_owned()),
    }
}
