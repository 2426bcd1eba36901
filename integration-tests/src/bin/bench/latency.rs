//! From the wire to the relay.

use std::time::Duration;

use anyhow::Result;
use reprise_integration_tests::eventually;

use crate::client::{Pace, Plan, Shape};
use crate::report::{self, Aim, Section, ratio, thousands};
use crate::sink::Sink;
use crate::watch::{Watch, Who};
use crate::{Context, watch};

const ABOUT: &str = "\
From the kernel's time stamp of the packet that holds a whole small GET, which is its last byte on the wire, to its \
arrival at a relay of the bench's own, decoded. Requests come at random (Poisson), as from many clients: the delay depends on where in the kernel's turn of 2 ms they fall. Both clocks are the machine's. Aims: p50 at most 2 ms, p99 at most 10 ms.";

const HEADER: [&str; 9] = [
    "load",
    "sent",
    "arrived",
    "p50 ms",
    "× aim (2)",
    "p99 ms",
    "× aim (10)",
    "p99.9 ms",
    "max ms",
];
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let nginx = watch::production(&context.place)?;
    let sink = Sink::start(&context.place, false)?;
    let who = Who::ShipTo(sink.address());
    let watch = Watch::start(context, who, &context.place, nginx.address())?;
    let (mut rows, mut aims) = (Vec::new(), Vec::new());
    let mut total = 0;
    for rate in [20, 500, 5000] {
        let plan = Plan {
            place: context.place.clone(),
            to: nginx.address(),
            shape: Shape::Get,
            pace: Pace::Poisson(rate),
            time: context.seconds(10, 3),
        };
        let sent = plan.run()?.sent;
        total += sent;
        // What is missing then shows in the table.
        let _ = eventually("arrival of all", ARRIVAL_LIMIT, || {
            anyhow::ensure!(sink.requests() >= sent);
            Ok(())
        });
        let arrivals = sink.take()?;
        let ms = |ns: u64| ns as f64 / 1e6;
        let at = |q| ms(arrivals.latency.value_at_quantile(q));
        let (p50, p99) = (at(0.5), at(0.99));
        report::progress(&format!("{rate}/s: p50 {p50:.2} ms, p99 {p99:.2} ms"));
        let pace = plan.pace.name();
        aims.push(Aim::at_most(
            format!("wire to relay at {pace}, p50"),
            p50,
            2.0,
            "ms",
        ));
        aims.push(Aim::at_most(
            format!("wire to relay at {pace}, p99"),
            p99,
            10.0,
            "ms",
        ));
        rows.push(vec![
            plan.pace.name(),
            thousands(sent),
            thousands(arrivals.requests),
            format!("{p50:.2}"),
            ratio(p50, Some(2.0)),
            format!("{p99:.2}"),
            ratio(p99, Some(10.0)),
            format!("{:.2}", at(0.999)),
            format!("{:.2}", ms(arrivals.latency.max())),
        ]);
    }
    let seen = watch.finish(total)?;
    Ok(Section {
        title: "From the wire to the relay".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        rows,
        notes: vec![format!(
            "accounted: {}; lost: {}",
            seen.verdict(total),
            seen.losses()
        )],
        aims,
    })
}
