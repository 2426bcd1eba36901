//! What production notices: nginx's throughput and latency with nobody, with a capture, with a listener that ships.

use anyhow::Result;

use crate::client::{Answers, Pace, Plan, Shape};
use crate::report::{self, Aim, Section, median, ratio};
use crate::watch::{Watch, Who};
use crate::{Context, watch};

const ABOUT: &str = "\
Small GETs to nginx with one worker over 50 kept connections on loopback, in rounds that take turns; the figures are \
medians over the rounds. The aim is a p99 at 5,000/s within 10 % (1.10×) of nobody's, and the yardstick of each row is \
nobody's. In the closed loop client, nginx and listener compete for the same cores, and with `--relay` the relay too, \
which in production has a host of its own.";

const HEADER: [&str; 9] = [
    "load",
    "who",
    "requests/s",
    "× nobody",
    "p50 µs",
    "p99 µs",
    "× nobody",
    "aim",
    "p99 of the rounds",
];
const WHO: [Who; 3] = [Who::Nobody, Who::Discard, Who::Ship];
const PACES: [Pace; 2] = [Pace::Closed, Pace::Open(5000)];

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let nginx = watch::production(&context.place)?;
    let mut cells: Vec<Vec<Answers>> = (0..WHO.len() * PACES.len()).map(|_| Vec::new()).collect();
    for round in 0..context.either(5, 2) {
        report::progress(&format!("production, round {}", round + 1));
        for (column, who) in WHO.into_iter().enumerate() {
            let watch = Watch::start(context, who, &context.place, nginx.address())?;
            let mut sent = 0;
            for (row, pace) in PACES.into_iter().enumerate() {
                let plan = Plan {
                    place: context.place.clone(),
                    to: nginx.address(),
                    shape: Shape::Get,
                    pace,
                    time: context.seconds(4, 1),
                };
                let answers = plan.run()?;
                sent += answers.sent;
                cells[row * WHO.len() + column].push(answers);
            }
            watch.finish(sent)?;
        }
    }
    let mut section = Section {
        title: "Production with and without a listener".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        ..Section::default()
    };
    for (row, pace) in PACES.into_iter().enumerate() {
        let cells = &cells[row * WHO.len()..][..WHO.len()];
        for (who, rounds) in WHO.into_iter().zip(cells) {
            section.rows.push(line(pace, who, rounds, &cells[0]));
            if who != Who::Nobody && pace != Pace::Closed {
                let ratio = at(rounds, 0.99) / at(&cells[0], 0.99);
                let what = format!("production's p99 at {}, {}", pace.name(), who.name());
                section
                    .aims
                    .push(Aim::at_most(what, ratio, 1.1, "× nobody's"));
            }
        }
    }
    Ok(section)
}

/// Microseconds, the rounds' median.
fn at(rounds: &[Answers], quantile: f64) -> f64 {
    median(rounds.iter().map(|answers| answers.quantile(quantile)))
}

fn line(pace: Pace, who: Who, rounds: &[Answers], alone: &[Answers]) -> Vec<String> {
    let rate = |answers: &[Answers]| median(answers.iter().map(Answers::rate));
    let against = |figure: f64, yardstick: f64| match who {
        Who::Nobody => "–".to_owned(),
        _ => ratio(figure, Some(yardstick)),
    };
    let p99 = at(rounds, 0.99);
    let aim = match (pace, who) {
        (Pace::Closed, _) | (_, Who::Nobody) => "–",
        _ => "≤ 1.10×",
    };
    let all: Vec<String> = rounds
        .iter()
        .map(|answers| format!("{:.0}", answers.quantile(0.99)))
        .collect();
    vec![
        pace.name(),
        who.name().to_owned(),
        format!("{:.0}", rate(rounds)),
        against(rate(rounds), rate(alone)),
        format!("{:.0}", at(rounds, 0.5)),
        format!("{p99:.0}"),
        against(p99, at(alone, 0.99)),
        aim.to_owned(),
        all.join(", "),
    ]
}
