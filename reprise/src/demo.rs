//! `reprise demo`: see all of it work, on this machine, in a few seconds.
//!
//! What enters: nothing but a command line. Customers (`customers`, `visit`, `wire`) send requests to a shop in
//! production (`scene`, `shop`, `catalogue`); a cluster (`stage`), in this process or of processes of its own
//! (`fleet`), captures them and replays them to two staging shops, which count what comes (`arrivals`). What leaves:
//! a table (`look`, `latency`, `board`, `line`, `screen`) while it runs (`performance`), and a verdict (`closing`): whether
//! the ledger balances, and whether it agrees with what customers and staging shops counted themselves. What may be
//! lost: nothing unsaid; a difference makes the demo fail.

mod customers;
mod visit;
mod wire;

mod arrivals;
mod catalogue;
mod scene;
mod shop;

mod fleet;
mod stage;

mod board;
mod latency;
mod line;
mod look;
mod screen;

mod closing;
mod performance;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use self::customers::CUSTOMERS;
use self::line::{Line, Tone};
use self::performance::Performance;
use self::scene::{RULES, Scene, TARGETS};
use self::screen::Screen;
use self::stage::Stage;

const EXAMPLES: &str = "\
Examples:
  reprise demo
      listener, relay and replayer in this process, between a shop and its staging copies, for 20 seconds
  reprise demo --cluster
      2 listeners, 2 relays, 3 replayers and an etcd as processes; one replayer is killed half-way";

/// See it work: a web shop in production, its staging copies, and a cluster between them
///
/// Customers send requests to a shop; the cluster captures them on the loopback interface and replays them to two
/// staging shops, one of which takes safe methods only, the other all methods of half of the sessions. At the end the
/// ledger is held against what customers sent and staging received; the exit status is 1 where they differ. Capturing
/// needs CAP_NET_RAW; without it the shop sends copies to a mirror endpoint, as nginx would.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Run the cluster as real processes with a real etcd, and kill a replayer half-way
    #[arg(long)]
    cluster: bool,
    /// How long customers shop
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Requests a second of all customers together
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Print only what is known at the end, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    if args.cluster {
        fleet::require_programs()?;
    }
    let stop = reprise_node::lifecycle::shutdown_signal()?;
    let mut screen = Screen::new(args.json);
    let scene = Scene::open(if args.cluster { fleet::SHOPS } else { 1 }).await?;
    let captured = scene.try_capture();
    screen.say(&introduction(&args, &scene, captured.is_ok()))?;
    if let Err(error) = &captured {
        let text = format!(
            "No capture here ({error:#}): the shop sends copies to the mirror endpoint instead."
        );
        screen.say(&[Line::new(Tone::Warning, text)])?;
    }
    let stage = match args.cluster {
        true => Stage::fleet(&scene, captured.is_ok()).await?,
        false => Stage::embedded(&scene, captured.is_ok()).await?,
    };
    let hint = format!("Watch       {}", stage.hint());
    screen.say(&[Line::new(Tone::Faint, hint), Line::empty()])?;
    let performance = Performance {
        scene,
        stage,
        screen,
        duration: args.duration,
        rate: args.rate,
    };
    let (closing, mut screen) = performance.play(stop).await?;
    screen.say(&[Line::empty()])?;
    screen.say(&closing.lines())?;
    if args.json {
        screen.result(&closing.json().context("render the result")?)?;
    }
    if closing.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{}", closing.logs);
    Ok(ExitCode::FAILURE)
}

/// Three lines: what runs where.
fn introduction(args: &DemoArgs, scene: &Scene, capture: bool) -> [Line; 3] {
    let shops: Vec<String> = scene.production.iter().map(shop::Shop::url).collect();
    let ports: Vec<String> = scene
        .addresses()
        .iter()
        .map(|shop| format!("lo:{}", shop.port()))
        .collect();
    let source = match capture {
        true => format!("captures {}", ports.join(" and ")),
        false => "takes copies at mirror endpoints".to_owned(),
    };
    let cluster = match args.cluster {
        true => "an etcd, 2 listeners, 2 relays and 3 replayers as processes of their own",
        false => "listener, relay and replayer in this process",
    };
    let targets = TARGETS.iter().zip(scene.staging_urls()).zip(RULES);
    let targets: Vec<String> = targets
        .map(|((target, url), rule)| format!("{target} at {url} ({rule})"))
        .collect();
    [
        format!(
            "Production  {}: {CUSTOMERS} customers, about {} requests/s for {:.0} s; Ctrl-C ends it early",
            shops.join(" and "),
            args.rate,
            args.duration.as_secs_f64(),
        ),
        format!("Reprise     {cluster}: {source}"),
        format!("Staging     {}", targets.join(", ")),
    ]
    .map(|text| Line::new(Tone::Plain, text))
}
