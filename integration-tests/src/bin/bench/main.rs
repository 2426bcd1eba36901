//! `make bench`: what capture costs a web host, and how fast and how exactly recordings are replayed, measured on this
//! machine in one run.
//!
//! What enters: a nginx, clients, and `reprise` as users run it. What leaves: a table for each part on stdout, each
//! figure beside its yardstick, and for a whole run `bench/RESULTS.md`. What may be lost: nothing that was started
//! survives, also not after Ctrl-C; a part that fails says why, and the others go on.

mod client;
mod cost;
mod flatout;
mod flood;
mod gor;
mod goreplay;
mod latency;
mod live;
mod machine;
mod meter;
mod null;
mod numbered;
mod outage;
mod pacing;
mod production;
mod report;
mod run;
mod seen;
mod sink;
mod stop;
mod timing;
mod uploads;
mod watch;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use reprise_integration_tests::Place;

use crate::report::Section;

/// Where a whole run leaves its figures.
const RESULTS: &str = "bench/RESULTS.md";

/// Measure what capture and replay cost on this machine. Needs root, or the capabilities NET_RAW, NET_ADMIN and SYS_ADMIN.
#[derive(Debug, Parser)]
struct Args {
    /// Shorter rounds, 2 to 3 minutes in all
    #[arg(long)]
    quick: bool,
    /// The relay is dead for 60 seconds instead of 15
    #[arg(long)]
    full: bool,
    /// Only these parts; repeatable, or separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Part>,
    /// Write the figures to this file [default: bench/RESULTS.md; nowhere with --quick and --only]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A sentence about this run, to stand above the figures
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// What can be measured, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU time for each request, and memory
    Cost,
    /// What production notices of a capture
    Production,
    /// From the wire to the relay
    Latency,
    /// Requests of 5 MB and 20 MB
    Uploads,
    /// Idle connections, and SYNs without end
    Flood,
    /// A relay that is dead for a while
    Outage,
    /// Whether a replay keeps the times of its recording
    Pacing,
    /// From production to staging on one machine
    Live,
    /// A recording sent as fast as possible, against wrk
    Flatout,
    /// A recording replayed to nobody
    Null,
    /// GoReplay's command line: a recording to a web server, records through a relay
    Gor,
}

/// What all parts are given.
#[derive(Debug)]
struct Context {
    binary: PathBuf,
    place: Place,
    quick: bool,
    full: bool,
}

impl Context {
    /// One length for whole runs, another for quick ones.
    fn either<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    fn seconds(&self, whole: u64, quick: u64) -> Duration {
        Duration::from_secs(self.either(whole, quick))
    }
}

impl Part {
    fn measure(self, context: &Context) -> Result<Section> {
        match self {
            Part::Cost => cost::measure(context),
            Part::Production => production::measure(context),
            Part::Latency => latency::measure(context),
            Part::Uploads => uploads::measure(context),
            Part::Flood => flood::measure(context),
            Part::Outage => outage::measure(context),
            Part::Pacing => pacing::measure(context),
            Part::Live => live::measure(context),
            Part::Flatout => flatout::measure(context),
            Part::Null => null::measure(context),
            Part::Gor => goreplay::measure(context),
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when all parts could be measured.
fn run(args: &Args) -> Result<bool> {
    machine::require_rights()?;
    stop::on_signals()?;
    let context = Context {
        binary: binary()?,
        place: Place::loopback(),
        quick: args.quick,
        full: args.full,
    };
    let started = Instant::now();
    let heading = machine::heading(args.quick, args.note.as_deref());
    println!("{heading}");
    let (mut text, mut aims) = (String::new(), Vec::new());
    let parts = match args.only.is_empty() {
        true => Part::value_variants(),
        false => &args.only,
    };
    let mut complete = true;
    for part in parts {
        stop::check()?;
        report::progress(&format!("{part:?}"));
        let section = match part.measure(&context) {
            Ok(section) => section,
            Err(error) => {
                // Interrupted is no result.
                stop::check()?;
                complete = false;
                Section::failed(&format!("{part:?}"), &error)
            }
        };
        println!("\n{}", section.markdown());
        text.push_str(&section.markdown());
        aims.extend(section.aims);
    }
    let aims = report::aims(&aims);
    println!("{aims}");
    let seconds = started.elapsed().as_secs();
    let text = format!("{heading}{aims}{text}The run took {seconds} s.\n");
    let whole = args.only.is_empty() && !args.quick;
    let out = args.out.as_deref();
    if let Some(out) = out.or_else(|| whole.then_some(Path::new(RESULTS))) {
        report::write(out, &text)?;
        println!("written to {}", out.display());
    }
    println!("{seconds} s");
    Ok(complete)
}

/// `reprise` of the same build, or `REPRISE_BIN`.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REPRISE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("reprise");
    anyhow::ensure!(
        binary.exists(),
        "no {}: build it (`make bench` does), or set REPRISE_BIN",
        binary.display()
    );
    binary.canonicalize().context("path of reprise")
}
