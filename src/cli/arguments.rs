//! Arguments to a command. What follows `run` are Traefik's flags, which go to their own reader untouched.

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use super::drain::Drain;
use super::order::{Format, NOT_ASKED, Place};
use super::rollout::Rollout;
use crate::config::node::parse_duration;
use crate::steering::{Order, Target};

/// What the user wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Serve. The flags are Traefik's, unread.
    Run {
        /// Everything after the program's name or `run`.
        flags: Vec<String>,
    },
    /// Read an install configuration and report.
    Check {
        /// Which one.
        file: PathBuf,
    },
    /// Ask the running proxy whether it is well. It is found by the same configuration.
    Healthcheck {
        /// Traefik's flags, unread.
        flags: Vec<String>,
    },
    /// Give the running proxy an order.
    Order {
        /// Where it takes orders.
        place: Place,
        /// Which one.
        order: Order,
        /// How the answer is printed.
        format: Format,
    },
    /// Wait for the end of a rollout.
    Wait {
        /// Where the proxy takes orders.
        place: Place,
        /// Whose rollout.
        rollout: Target,
        /// No longer.
        timeout: Duration,
    },
    /// Print the version.
    Version,
    /// Show the main job on this machine.
    Demo {
        /// End by itself after this time.
        duration: Option<Duration>,
    },
}

/// Why there is no command: something was wrong, or help was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoCommand {
    /// What to print.
    pub text: String,
    /// 0 for help, which goes to standard output; anything else to standard error.
    pub exit_code: u8,
}

#[derive(Parser)]
#[command(name = "tidegate", about = "An edge proxy for Nomad and Consul that reads Traefik's configuration")]
#[command(disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

const AFTER_HELP: &str = "Without a command Tidegate runs, so `tidegate --configFile=traefik.yaml` works as it does with Traefik. \
    The install configuration comes from exactly one source: a file, else flags (`--entryPoints.web.address=:80`), else the \
    environment (`TRAEFIK_ENTRYPOINTS_WEB_ADDRESS=:80`).";

#[derive(Subcommand)]
enum Subcommands {
    /// Serve (the default); takes Traefik's flags
    #[command(disable_help_flag = true)]
    Run {
        /// Traefik's flags, such as `--configFile=traefik.yaml`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Read an install configuration and show every problem; exits with 0 if there is no error
    Check {
        /// The file, in YAML or TOML
        file: PathBuf,
    },
    /// Ask the running proxy's ping whether it is well; takes the flags of `run`
    #[command(disable_help_flag = true)]
    Healthcheck {
        /// The flags the proxy runs with
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Show and steer the rollouts of the running proxy
    Rollout(Rollout),
    /// Give a server of the running proxy no new request, so that it can be stopped
    Drain(Drain),
    /// Print the version
    Version,
    /// Show the main job on this machine, without Consul and Nomad
    Demo {
        /// End after this time, such as `30s`, with a summary
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        duration: Option<Duration>,
    },
}

/// Reads the arguments, the program's name left out.
///
/// No argument, or a flag as the first one, means `run`, as with Traefik.
///
/// # Errors
/// An unknown command (with the nearest), a wrong argument, or a question for help.
pub fn parse(args: &[String]) -> Result<Command, NoCommand> {
    match args.first().map(String::as_str) {
        Some("-h" | "--help") => return Err(help()),
        Some("-V" | "--version") => return Ok(Command::Version),
        Some("run" | "healthcheck") if args.get(1).is_some_and(|arg| arg == "-h" || arg == "--help") => return Err(help()),
        Some(first) if !first.starts_with('-') => {}
        _ => return Ok(Command::Run { flags: args.to_vec() }),
    }
    let with_name = std::iter::once("tidegate").chain(args.iter().map(String::as_str));
    let arguments = Arguments::try_parse_from(with_name).map_err(|error| NoCommand {
        text: error.render().to_string(),
        exit_code: match args.first().map(String::as_str) {
            // For these, 2 already means something.
            Some("rollout" | "drain") if error.exit_code() != 0 => NOT_ASKED,
            _ => u8::try_from(error.exit_code()).unwrap_or(2),
        },
    })?;
    Ok(match arguments.command {
        Subcommands::Run { flags } => Command::Run { flags },
        Subcommands::Check { file } => Command::Check { file },
        Subcommands::Healthcheck { flags } => Command::Healthcheck { flags },
        Subcommands::Rollout(rollout) => rollout.command(),
        Subcommands::Drain(drain) => {
            let (place, order) = drain.order();
            Command::Order { place, order, format: Format::Text }
        }
        Subcommands::Version => Command::Version,
        Subcommands::Demo { duration } => Command::Demo { duration },
    })
}

fn help() -> NoCommand {
    NoCommand { text: Arguments::command().render_help().to_string(), exit_code: 0 }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).filter(|duration| !duration.is_zero()).ok_or_else(|| "wants a span of time such as `30s`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: Command) {
        assert_eq!(parse(&args(text)), Ok(expected), "{text}");
    }

    #[test]
    fn flags_without_a_command_run_it_as_with_traefik() {
        let run = |flags| Command::Run { flags: args(flags) };
        check("", run(""));
        check("--configFile=t.yaml --ping", run("--configFile=t.yaml --ping"));
        check("run", run(""));
        check("run --ping --log.level DEBUG", run("--ping --log.level DEBUG"));
        check("run --ping -h stray", run("--ping -h stray"));
        check("-ping", run("-ping"));
    }

    #[test]
    fn commands_are_read() {
        check("check t.yaml", Command::Check { file: PathBuf::from("t.yaml") });
        check("healthcheck --ping", Command::Healthcheck { flags: args("--ping") });
        check("version", Command::Version);
        check("--version", Command::Version);
        check("demo", Command::Demo { duration: None });
        check("demo --for 1m30s", Command::Demo { duration: Some(Duration::from_secs(90)) });
    }

    #[test]
    fn orders_are_read() {
        let web = || Target::Service("web".to_owned());
        let job = || Target::Job("blue/web".parse().unwrap());
        let order = |order, format| Command::Order { place: Place::default(), order, format };
        check("rollout list", order(Order::List, Format::Text));
        check("rollout show --json", order(Order::Show { rollout: None }, Format::Json));
        check("rollout hold web", order(Order::Hold { rollout: web() }, Format::Text));
        check("rollout promote --job blue/web", order(Order::Promote { rollout: job() }, Format::Text));
        let share = crate::names::Share::from_fraction(0.125);
        check("rollout set-share 12.5% web", order(Order::SetShare { rollout: web(), share }, Format::Text));
        check("rollout release --all", order(Order::ReleaseAll, Format::Text));
        let wait = Command::Wait { place: Place::default(), rollout: job(), timeout: Duration::from_secs(3600) };
        check("rollout wait --job blue/web", wait);
        let drain = Order::Drain { server: "10.0.0.1:80".to_owned(), force: true };
        check("drain 10.0.0.1:80 --force", order(drain, Format::Text));
        check("drain --undo i-1", order(Order::Undrain { server: "i-1".to_owned() }, Format::Text));
    }

    #[test]
    fn a_mistyped_order_gets_the_nearest_and_is_never_taken_for_a_verdict() {
        let check = |text: &str, said: &str| {
            let refused = parse(&args(text)).unwrap_err();
            assert!(refused.exit_code == NOT_ASKED && refused.text.contains(said), "{text}: {refused:?}");
        };
        check("rollout wiat --job web", "'wait'");
        check("rollout hold", "<SERVICE|--job <NAME>>");
        check("rollout hold web --job web", "cannot be used with");
        check("rollout hold --job blue/", "names no job");
        check("rollout set-share 0.2 web", "such as `20%`");
        check("rollout release", "--all");
        check("drain", "<SERVER>");
    }

    #[test]
    fn an_unknown_command_gets_the_nearest() {
        let refused = |text: &str| parse(&args(text)).unwrap_err();
        assert!(refused("chek t.yaml").text.contains("'check'"), "{}", refused("chek t.yaml").text);
        assert_eq!(refused("chek t.yaml").exit_code, 2);
        assert!(refused("check").text.contains("<FILE>"));
        assert!(refused("demo --for never").text.contains("such as `30s`"));
    }

    #[test]
    fn help_is_no_mistake() {
        for text in ["--help", "-h", "run --help", "check --help", "rollout --help", "rollout wait --help", "drain --help"] {
            let help = parse(&args(text)).unwrap_err();
            assert!(help.exit_code == 0 && help.text.contains("Usage"), "{text}: {}", help.text);
        }
    }
}
