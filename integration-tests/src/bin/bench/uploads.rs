//! Large uploads between two hosts, with segmentation offload and without.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use reprise_integration_tests::{Hosts, Load, Place, Shape, eventually, process};

use crate::meter::Memory;
use crate::report::{self, Aim, Section, thousands};
use crate::sink::Sink;
use crate::watch::{Watch, Who};
use crate::{Context, stop, watch};

const ABOUT: &str = "\
POSTs from one network namespace to nginx in another over veth with MTU 1500, as fast as connections carry them: \
four for 5 MB, one for 20 MB, since a listener of 64 MiB has no room for four bodies of 20 MB at a time. Every other one is \
chunked. The listener has default settings. It discards what it captured, or ships it to a relay on the same cores that \
compares the SHA-256 of each body with what was sent; production doesn't wait for that relay, so that what is more than \
the cores can take is shed. The aim is all whole, and CPU linear in bytes: the same ms/MB for 20 MB as for 5 MB.";

const HEADER: [&str; 13] = [
    "who",
    "offload",
    "size",
    "sent",
    "whole",
    "captured",
    "accounted",
    "lost",
    "kernel drops",
    "MB/s",
    "CPU ms/MB",
    "× 5 MB",
    "resident, × aim (anonymous)",
];
const LIMIT: Duration = Duration::from_secs(10);
const ARRIVAL_LIMIT: Duration = Duration::from_secs(3);
const MB: usize = 1_000_000;

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let hosts = Hosts::new(&["client", "server"])?;
    let (client, server) = (hosts.place("client")?, hosts.place("server")?);
    let (mut rows, mut aims) = (Vec::new(), Vec::new());
    for (ships, offload) in [(false, true), (false, false), (true, true), (true, false)] {
        let who = if ships {
            "listener --relay"
        } else {
            "listener --discard"
        };
        for place in [&client, &server] {
            set_offload(place, offload)?;
        }
        let mut yardstick = None;
        for (size, count) in [(5, context.either(200, 40)), (20, context.either(20, 5))] {
            stop::check()?;
            let cell = cell(context, &client, &server, ships, size, count)?;
            let state = if offload { "on" } else { "off" };
            report::progress(&format!(
                "{who}, offload {state}, {size} MB: {} of {count} whole, {:.2} ms/MB",
                cell.whole, cell.cost
            ));
            let mut row = vec![who.to_owned(), state.to_owned()];
            row.extend([format!("{size} MB"), thousands(count)]);
            row.extend([thousands(cell.whole)]);
            row.extend(cell.books);
            row.extend([
                format!("{:.0}", cell.speed),
                format!("{:.2}", cell.cost),
                report::ratio(cell.cost, yardstick),
                report::resident(cell.memory),
            ]);
            rows.push(row);
            let what = format!("uploads of {size} MB, offload {state}, {who}");
            aims.push(Aim::all(format!("{what}: whole"), cell.whole, count));
            aims.push(Aim::all(
                format!("{what}: accounted for"),
                cell.accounted,
                count,
            ));
            if let Some(yardstick) = yardstick {
                // Linear in bytes, but for what is noise.
                let what = format!("{what}: CPU for a MB");
                aims.push(Aim::at_most(
                    what,
                    cell.cost / yardstick,
                    1.2,
                    "× that of 5 MB",
                ));
            }
            aims.push(Aim::resident(format!("{what}: resident"), cell.memory));
            yardstick.get_or_insert(cell.cost);
        }
    }
    Ok(Section {
        title: "Large uploads".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        rows,
        aims,
        ..Section::default()
    })
}

struct Cell {
    /// Arrived as they were sent; where nothing is shipped, captured.
    whole: u64,
    /// Captured, or lost for a reason.
    accounted: u64,
    /// Captured, accounted, lost, kernel drops.
    books: [String; 4],
    /// MB a second.
    speed: f64,
    /// CPU milliseconds for a MB.
    cost: f64,
    memory: Memory,
}

fn cell(
    context: &Context,
    client: &Place,
    server: &Place,
    ships: bool,
    size: usize,
    count: u64,
) -> Result<Cell> {
    let nginx = watch::production(server)?;
    let sink = Sink::start(server, true)?;
    let who = match ships {
        true => Who::ShipTo(sink.address()),
        false => Who::Discard,
    };
    let watch = Watch::start(context, who, server, nginx.address())?;
    let shape = Shape::Post { size: size * MB };
    let mut load = Load::new(client, nginx.address(), shape, count);
    load.connections = if size > 5 { 1 } else { 4 };
    let started = Instant::now();
    let sent = load.run()?;
    let elapsed = started.elapsed().as_secs_f64();
    if ships {
        // What is missing then shows in the table.
        let _ = eventually("arrival of all", ARRIVAL_LIMIT, || {
            anyhow::ensure!(sink.requests() >= count);
            Ok(())
        });
    }
    let seen = watch.finish(count)?;
    let arrived: HashSet<[u8; 32]> = sink.take()?.bodies.into_iter().collect();
    let whole = match ships {
        true => {
            let whole = sent.iter().filter(|s| arrived.contains(&s.body_sha256));
            whole.count() as u64
        }
        false => seen.captured,
    };
    let megabytes = (size as u64 * count) as f64;
    Ok(Cell {
        whole,
        accounted: seen.accounted(),
        books: [
            thousands(seen.captured),
            seen.verdict(count),
            seen.losses(),
            thousands(seen.kernel_dropped),
        ],
        speed: megabytes / elapsed,
        cost: seen.cpu_ns as f64 / 1e6 / megabytes,
        memory: seen.memory,
    })
}

fn set_offload(place: &Place, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    let mut command = place.command("ethtool");
    command.args(["-K", place.interface()]);
    for feature in ["tso", "gso", "gro"] {
        command.args([feature, state]);
    }
    process::output(command, LIMIT).map(drop)
}
