//! A relay that is dead for a while, at full load.

use std::time::{Duration, Instant};

use anyhow::Result;
use reprise_integration_tests::process::Signal;

use crate::client::{Answers, Pace, Plan, Shape};
use crate::report::{self, Aim, Section, ratio, resident, thousands};
use crate::watch::{Watch, Who};
use crate::{Context, stop, watch};

const ABOUT: &str = "\
Small GETs in closed loop, first with nobody, then with a listener that ships to a real relay. The relay is stopped \
(SIGSTOP: its ports stay open, and nothing answers) and goes on later. The yardstick is the listener with the relay alive; \
with nobody there is no listener at all. Beside: requests that the listener dropped in that time.";

const HEADER: [&str; 7] = [
    "relay",
    "seconds",
    "requests/s",
    "× alive",
    "p99 µs",
    "× alive",
    "dropped by the listener",
];
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let nginx = watch::production(&context.place)?;
    let load = |seconds| {
        let plan = Plan {
            place: context.place.clone(),
            to: nginx.address(),
            shape: Shape::Get,
            pace: Pace::Closed,
            time: Duration::from_secs(seconds),
        };
        plan.run()
    };
    let short = context.either(4, 2);
    let dead = match (context.full, context.quick) {
        (true, _) => 60,
        (_, false) => 15,
        (_, true) => 8,
    };
    let alone = load(short)?;
    let mut watch = Watch::start(context, Who::Ship, &context.place, nginx.address())?;
    let alive = load(short)?;
    let mut dropped = vec![dropped_by(&watch)?];
    report::progress(&format!("the relay stands still for {dead} s"));
    watch.signal_relay(Signal::STOP)?;
    let during = load(dead)?;
    dropped.push(dropped_by(&watch)?);
    watch.signal_relay(Signal::CONT)?;
    let since = Instant::now();
    let after = load(short)?;
    let recovered = recovery(&watch, since)?;
    dropped.push(dropped_by(&watch)?);
    let sent = alive.sent + during.sent + after.sent;
    let seen = watch.finish(sent)?;
    let phases = [
        ("no listener", alone, 0),
        ("alive", alive, dropped[0]),
        ("stopped", during, dropped[1] - dropped[0]),
        ("alive again", after, dropped[2] - dropped[1]),
    ];
    let (alive, during) = (&phases[1].1, &phases[2].1);
    let loss = alive.rate() / during.rate();
    let later = during.quantile(0.99) / alive.quantile(0.99);
    let aims = vec![
        Aim::at_most(
            "dead relay: production's time for a request",
            loss,
            1.1,
            "× alive",
        ),
        Aim::at_most("dead relay: production's p99", later, 1.1, "× alive"),
        Aim::all("dead relay: accounted for", seen.accounted(), sent),
        Aim::resident("dead relay: resident", seen.memory),
        Aim::all(
            "dead relay: recovered by itself",
            u64::from(recovered.is_some()),
            1,
        ),
    ];
    let rows = phases
        .iter()
        .map(|(name, answers, dropped)| line(name, answers, &phases[1].1, *dropped));
    Ok(Section {
        title: "A dead relay".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        rows: rows.collect(),
        notes: vec![
            format!("resident, × aim (anonymous): {}", resident(seen.memory)),
            format!(
                "accounted over all: {}; lost and dropped: {}",
                seen.verdict(sent),
                seen.losses()
            ),
            match recovered {
                Some(time) => format!(
                    "nothing waited any more {:.1} s after the relay went on",
                    time.as_secs_f64()
                ),
                None => format!("NOT recovered within {RECOVERY_LIMIT:?}"),
            },
        ],
        aims,
    })
}

fn line(name: &str, answers: &Answers, alive: &Answers, dropped: u64) -> Vec<String> {
    let (rate, p99) = (answers.rate(), answers.quantile(0.99));
    vec![
        name.to_owned(),
        format!("{:.0}", answers.elapsed.as_secs_f64()),
        format!("{rate:.0}"),
        ratio(rate, Some(alive.rate())),
        format!("{p99:.0}"),
        ratio(p99, Some(alive.quantile(0.99))),
        thousands(dropped),
    ]
}

fn dropped_by(watch: &Watch) -> Result<u64> {
    let report = watch.books()?;
    Ok(report.dropped.values().sum())
}

/// How long after `since` all that was captured had ended; the load is over when this is called.
fn recovery(watch: &Watch, since: Instant) -> Result<Option<Duration>> {
    while since.elapsed() < RECOVERY_LIMIT {
        if watch.books()?.in_flight == 0 {
            return Ok(Some(since.elapsed()));
        }
        stop::pause(Duration::from_millis(100))?;
    }
    Ok(None)
}
