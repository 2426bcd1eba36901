//! Capture to staging on one machine: how far the copy is behind its original.

use std::time::Duration;

use anyhow::Result;
use reprise_integration_tests::{Cluster, Role};

use crate::client::{Pace, Plan, Shape};
use crate::meter;
use crate::report::{self, Aim, Section, ratio, thousands};
use crate::timing::{gap_difference, quantile};
use crate::wire::{Arrivals, Wire};
use crate::{Context, watch};

const ABOUT: &str = "\
`reprise run --capture lo:PORT --to STAGING`: all in one process, production and staging each a nginx. The client sends \
small GETs evenly over 50 kept connections. The delay is from the kernel's time stamp of the packet with the original at \
production's port to that of the packet with its copy at staging's, matched by a number in the URL. Gaps: by how much the \
time from one copy to the next differs from that between their originals, the mean of the amounts as a share of the mean gap; \
0 % is the same rhythm. With a window (`--reorder-window`) copies leave so long after their originals, and with their \
pauses. Aims: p50 at most 5 ms, p99 at most 20 ms.";

const HEADER: [&str; 10] = [
    "load",
    "sent",
    "copies, once each",
    "p50 ms",
    "× aim (5)",
    "p99 ms",
    "× aim (20)",
    "max ms",
    "gaps off by",
    "µs/request",
];
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Long enough for nearly all that capture and the ways between the parts hold a request up.
const WINDOW: &str = "4ms";

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let mut section = Section {
        title: "From production to staging".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        ..Section::default()
    };
    measure_run(context, None, &[20, 500, 5000], &mut section)?;
    measure_run(context, Some(WINDOW), &[500, 5000], &mut section)?;
    Ok(section)
}

fn measure_run(
    context: &Context,
    window: Option<&str>,
    rates: &[u32],
    section: &mut Section,
) -> Result<()> {
    let place = &context.place;
    let (production, staging) = (watch::production(place)?, watch::production(place)?);
    let ports = [production.address().port(), staging.address().port()];
    let capture = format!("{}:{}", place.interface(), ports[0]);
    let mut cluster = Cluster::new(&context.binary)?;
    let to = staging.url();
    let mut arguments = vec!["--capture", &capture, "--to", &to];
    arguments.extend(
        window
            .iter()
            .flat_map(|window| ["--reorder-window", *window]),
    );
    cluster.start(Role::Run, "run", place, &arguments)?;
    let mut total = 0;
    for &rate in rates {
        let plan = Plan {
            place: place.clone(),
            to: production.address(),
            shape: Shape::Numbered,
            pace: Pace::Open(rate),
            time: context.seconds(10, 3),
        };
        let wire = Wire::start(place, &ports)?;
        let before_ns = meter::cpu_ns(cluster.id("run")?)?;
        let sent = plan.run()?.sent;
        total += sent;
        let mut arrivals = wire.finish()?;
        let cpu_ns = meter::cpu_ns(cluster.id("run")?)? - before_ns;
        let [originals, copies] = ports.map(|port| arrivals.remove(&port).unwrap_or_default());
        let cell = Cell::of(&originals, &copies);
        let mut pace = plan.pace.name();
        if let Some(window) = window {
            pace.push_str(&format!(", window of {window}"));
        }
        report::progress(&format!(
            "{pace}: p50 {:.2} ms, p99 {:.2} ms",
            cell.p50, cell.p99
        ));
        let what = |what: &str| format!("behind production at {pace}, {what}");
        section.aims.extend([
            Aim::at_most(what("p50"), cell.p50, 5.0, "ms"),
            Aim::at_most(what("p99"), cell.p99, 20.0, "ms"),
            Aim::all(what("copies, once each"), cell.once, sent),
        ]);
        section.rows.push(vec![
            pace,
            thousands(sent),
            thousands(cell.once),
            format!("{:.2}", cell.p50),
            ratio(cell.p50, Some(5.0)),
            format!("{:.2}", cell.p99),
            ratio(cell.p99, Some(20.0)),
            format!("{:.2}", cell.max),
            format!("{:.0} %", cell.gaps * 100.0),
            format!("{:.1}", cpu_ns as f64 / 1e3 / sent.max(1) as f64),
        ]);
    }
    // Also an answer that is late.
    let books = cluster.at_rest(total, SETTLE_LIMIT);
    let memory = cluster.peak_memory("run")?;
    section.notes.push(match books {
        Ok(books) => format!(
            "accounted: yes, {} captured, {} replayed",
            thousands(books.captured()),
            thousands(books.account("default/1").replayed_total())
        ),
        Err(error) => format!("accounted: NO: {}", first_line(&error)),
    });
    section
        .notes
        .push(format!("resident: {} MiB", memory >> 20));
    Ok(())
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

/// Milliseconds, but for `once` and `gaps`.
#[derive(Debug, PartialEq)]
struct Cell {
    /// Originals that have one copy.
    once: u64,
    p50: f64,
    p99: f64,
    max: f64,
    /// A share.
    gaps: f64,
}

impl Cell {
    fn of(originals: &Arrivals, copies: &Arrivals) -> Cell {
        let first = originals.at.values().min().copied().unwrap_or(0);
        // Unix nanoseconds are more than a float holds.
        let since = |at: u64| (at as i64 - first as i64) as f64;
        let pairs: Vec<(f64, f64)> = originals
            .at
            .iter()
            .filter_map(|(number, at)| Some((since(*at), since(*copies.at.get(number)?))))
            .collect();
        let mut delays: Vec<f64> = pairs.iter().map(|(at, copy)| (copy - at) / 1e6).collect();
        delays.sort_by(f64::total_cmp);
        Cell {
            once: (pairs.len() as u64).saturating_sub(copies.repeated),
            p50: quantile(&delays, 0.5),
            p99: quantile(&delays, 0.99),
            max: quantile(&delays, 1.0),
            gaps: gap_difference(&pairs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_matched_by_their_numbers() {
        let arrivals = |at: &[(u32, u64)], repeated| Arrivals {
            at: at.iter().copied().collect(),
            repeated,
        };
        let originals = arrivals(&[(0, 1_000_000), (1, 2_000_000), (2, 3_000_000)], 0);
        let copies = arrivals(&[(0, 3_000_000), (2, 8_000_000), (9, 1)], 0);
        let expected = Cell {
            once: 2,
            p50: 2.0,
            p99: 5.0,
            max: 5.0,
            gaps: 1.5,
        };
        assert_eq!(Cell::of(&originals, &copies), expected);
        let twice = arrivals(&[(0, 3_000_000)], 1);
        assert_eq!(Cell::of(&originals, &twice).once, 0);
    }
}
