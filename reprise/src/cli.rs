//! The command line.
//!
//! What enters: arguments. What leaves: the mode that they ask for, run to its end. What may be lost: nothing; an
//! argument that is not understood is refused.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use reprise_node::telemetry::{self, LogFormat, TelemetrySettings};

use crate::demo::{self, DemoArgs};
use crate::gor::{self, GorArgs};
use crate::inspect::{self, InspectArgs};
use crate::ledger::{self, LedgerArgs};
use crate::load::{self, LoadArgs};
use crate::modes::{self, ListenerArgs, RelayArgs, ReplayerArgs, RunArgs};

/// Give staging a repeat performance of production's HTTP traffic.
///
/// Listeners on web hosts capture requests and stream them to relays; relays split them over replayers by consistent
/// hashing; replayers send them to staging. `reprise run` is all of that in one process.
#[derive(Debug, Parser)]
#[command(name = "reprise", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  reprise demo
      a production web app, its staging copy and the cluster between them, for 20 seconds
  reprise run --capture lo:8080 --to http://127.0.0.1:8081
      replay what reaches port 8080 on this host to another server (needs CAP_NET_RAW)";

#[derive(Debug, Subcommand)]
enum Mode {
    Run(RunArgs),
    Listener(ListenerArgs),
    Relay(RelayArgs),
    Replayer(ReplayerArgs),
    Ledger(LedgerArgs),
    Inspect(InspectArgs),
    Load(LoadArgs),
    Gor(GorArgs),
    Demo(DemoArgs),
}

#[derive(Debug, Default, Args)]
struct LogArgs {
    /// Log level (error, warn, info, debug, trace) or directives such as info,reprise_relay=debug; REPRISE_LOG counts
    /// where it isn't given [default: info; error for demo, ledger and inspect, warn for load]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// How log lines on stderr look: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// Flags that every long-running mode has.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// Read settings from this TOML file; flags override it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Check the settings and exit
    #[arg(long)]
    pub(crate) check: bool,
    /// Print the settings with their defaults as TOML and exit
    #[arg(long)]
    pub(crate) print_default: bool,
}

/// What a mode does once the runtime is there.
pub(crate) struct Work {
    doing: Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>>>>,
    threads: Threads,
}

/// Threads of the runtime.
pub(crate) enum Threads {
    /// As many as there are processors.
    All,
    /// So many, and a few for names and files, which are looked up one by one.
    Few(usize),
}

impl Work {
    pub(crate) fn new(doing: impl Future<Output = anyhow::Result<ExitCode>> + 'static) -> Work {
        Work {
            doing: Box::pin(doing),
            threads: Threads::All,
        }
    }

    pub(crate) fn on(self, threads: Threads) -> Work {
        Work { threads, ..self }
    }
}

pub(crate) fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match gor::called(&args) {
        Some(args) => Cli {
            mode: Mode::Gor(args),
            log: LogArgs::default(),
        },
        None => Cli::parse_from(args),
    };
    reprise_node::lifecycle::abort_on_panic();
    start(cli).unwrap_or_else(|error| {
        eprintln!("reprise: {error:#}");
        ExitCode::FAILURE
    })
}

/// A mode reads its settings and gives up rights while this thread is the only one; then its work begins.
fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut telemetry = telemetry_settings(&cli);
    let work = match cli.mode {
        Mode::Run(args) => modes::run(args)?,
        Mode::Listener(args) => modes::listener(args)?,
        Mode::Relay(args) => Work::new(modes::relay(args)),
        Mode::Replayer(args) => Work::new(modes::replayer(args)),
        Mode::Ledger(args) => Work::new(ledger::run(args)),
        Mode::Load(args) => Work::new(load::run(args)),
        Mode::Demo(args) => Work::new(demo::run(args)),
        Mode::Gor(args) => match gor::start(args) {
            gor::Start::Ended(status) => return Ok(status),
            gor::Start::Go(run) => {
                telemetry.log = run.log.or(telemetry.log);
                telemetry.log_format = run.log_format.unwrap_or(telemetry.log_format);
                telemetry.usual_log = Some(run.usual_log);
                run.work
            }
        },
        // Nothing else runs in this process.
        Mode::Inspect(args) => Work::new(async move { inspect::run(&args) }),
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Threads::Few(threads) = work.threads {
        runtime.worker_threads(threads).max_blocking_threads(4);
    }
    let runtime = runtime.enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(async {
        let telemetry = telemetry::init(&telemetry)?;
        give_memory_back();
        let outcome = work.doing.await;
        telemetry.shutdown().await;
        outcome
    });
    // A name that is being looked up must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// Has the allocator give memory back also while the process has nothing to do. Its thread begins only now that rights
/// are given up.
fn give_memory_back() {
    use tikv_jemalloc_ctl::{background_thread, max_background_threads};
    let begun = max_background_threads::write(1).and_then(|()| background_thread::write(true));
    if let Err(error) = begun {
        tracing::debug!(%error, "no background thread for the allocator");
    }
}

fn telemetry_settings(cli: &Cli) -> TelemetrySettings {
    let role = match &cli.mode {
        Mode::Run(_) => "run",
        Mode::Listener(_) => "listener",
        Mode::Relay(_) => "relay",
        Mode::Replayer(_) => "replayer",
        Mode::Ledger(_) => "ledger",
        Mode::Inspect(_) => "inspect",
        Mode::Load(_) => "load",
        Mode::Gor(_) => "gor",
        Mode::Demo(_) => "demo",
    };
    let usual_log = match cli.mode {
        Mode::Demo(_) | Mode::Ledger(_) | Mode::Inspect(_) => Some("error"),
        Mode::Load(_) => Some("warn"),
        _ => None,
    };
    TelemetrySettings {
        role,
        node: None,
        log: cli.log.log.clone(),
        usual_log,
        log_format: cli.log.log_format,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_mode_shows_two_examples() {
        for mode in Cli::command().get_subcommands_mut() {
            let help = mode.render_long_help().to_string();
            let name = mode.get_name();
            let examples = help.matches(&format!("\n  reprise {name}")).count();
            assert!(
                help.contains("Examples:") && examples >= 2,
                "{name}:\n{help}"
            );
            assert!(mode.get_about().is_some(), "{name}");
        }
    }
}
