//! CPU time for each request, and memory: tcpdump, a listener that discards, a listener that ships.

use std::time::Duration;

use anyhow::Result;

use crate::client::{Pace, Plan, Shape};
use crate::meter::Memory;
use crate::report::{self, Aim, Section, median, ratio, resident, thousands};
use crate::seen::Seen;
use crate::watch::{Watch, Who};
use crate::{Context, watch};

const ABOUT: &str = "\
CPU time (user and system, of that process alone) for each request that the client sent to nginx, over 50 kept \
connections on loopback. tcpdump has the same filter and a buffer of 128 MiB, as the listener's ring, and only writes \
packets away: it is the floor. CPU time is the median of three rounds, the counts are their sum. The relay behind `listener --relay` has no targets. Aims: 1.5 µs for a small GET and 5 µs \
for a POST of 10 KB with `--discard` at saturation (GoReplay 2.0 on such a machine: 6.8 and 21), 64 MiB resident. \
Resident is VmHWM, which counts the kernel's ring as far as it is mapped; anonymous is the process's own. \"Accounted\" \
asks whether captured + Σ reasons = sent.";

const HEADER: [&str; 13] = [
    "request",
    "load",
    "who",
    "sent",
    "µs/request",
    "× tcpdump",
    "aim",
    "× aim",
    "captured",
    "accounted",
    "lost",
    "kernel drops",
    "resident (anonymous)",
];

/// One line of the table.
#[derive(Debug, Clone, Copy)]
struct Cell {
    shape: Shape,
    pace: Pace,
    who: Who,
}

/// What its rounds came to.
struct Figures {
    sent: u64,
    /// Microseconds for a request, the rounds' median.
    micros: f64,
    seen: Seen,
}

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let mut section = Section {
        title: "CPU time and memory".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        ..Section::default()
    };
    let mut memory = Memory::default();
    let (mut sent, mut kept, mut accounted) = (0, 0, 0);
    for shape in [Shape::Get, Shape::Post] {
        for pace in [Pace::Closed, Pace::Open(5000)] {
            let mut floor = None;
            for who in [Who::Tcpdump, Who::Discard, Who::Ship] {
                let cell = Cell { shape, pace, who };
                let figures = cell.measure(context)?;
                section.rows.push(cell.row(&figures, floor));
                if who == Who::Tcpdump {
                    floor = Some(figures.micros);
                    continue;
                }
                if let Some(aim) = cell.aim() {
                    let what = format!("CPU: {}", cell.name());
                    section
                        .aims
                        .push(Aim::at_most(what, figures.micros, aim, "µs"));
                }
                memory = memory.max(figures.seen.memory);
                sent += figures.sent;
                kept += figures.seen.kept();
                accounted += figures.seen.accounted();
            }
        }
    }
    section.aims.extend([
        Aim::all("captured and kept, over all loads", kept, sent),
        Aim::all("accounted for, over all loads", accounted, sent),
        Aim::resident("resident, over all loads", memory),
    ]);
    Ok(section)
}

impl Cell {
    fn name(self) -> String {
        let (shape, pace) = (self.shape.name(), self.pace.name());
        format!("{shape}, {pace}, {}", self.who.name())
    }

    fn measure(self, context: &Context) -> Result<Figures> {
        let (mut sent, mut micros) = (0, Vec::new());
        let mut all: Option<Seen> = None;
        for _ in 0..context.either(3, 1) {
            let (in_round, seen) = self.round(context)?;
            sent += in_round;
            micros.push(seen.micros_per(in_round));
            match &mut all {
                Some(all) => all.add(seen),
                None => all = Some(seen),
            }
        }
        let micros = median(micros);
        report::progress(&format!("{}: {micros:.2} µs", self.name()));
        Ok(Figures {
            sent,
            micros,
            seen: all.unwrap_or_default(),
        })
    }

    fn round(self, context: &Context) -> Result<(u64, Seen)> {
        let nginx = watch::production(&context.place)?;
        let watch = Watch::start(context, self.who, &context.place, nginx.address())?;
        let plan = Plan {
            place: context.place.clone(),
            to: nginx.address(),
            shape: self.shape,
            pace: self.pace,
            time: context.either(Duration::from_secs(3), Duration::from_millis(1500)),
        };
        let sent = plan.run()?.sent;
        Ok((sent, watch.finish(sent)?))
    }

    /// Microseconds a request; the aims are for saturation.
    fn aim(self) -> Option<f64> {
        match (self.shape, self.pace, self.who) {
            (Shape::Get, Pace::Closed, Who::Discard) => Some(1.5),
            (Shape::Post, Pace::Closed, Who::Discard) => Some(5.0),
            _ => None,
        }
    }

    fn row(self, figures: &Figures, floor: Option<f64>) -> Vec<String> {
        let Figures { sent, micros, seen } = figures;
        let aim = self.aim();
        let books = match self.who {
            Who::Tcpdump => [
                format!("{} packets", thousands(seen.captured)),
                "–".to_owned(),
                "–".to_owned(),
            ],
            _ => [thousands(seen.captured), seen.verdict(*sent), seen.losses()],
        };
        let mut row = vec![
            self.shape.name().to_owned(),
            self.pace.name(),
            self.who.name().to_owned(),
            thousands(*sent),
            format!("{micros:.2}"),
            ratio(*micros, floor),
            aim.map_or("–".to_owned(), |aim| format!("{aim}")),
            ratio(*micros, aim),
        ];
        row.extend(books);
        row.push(thousands(seen.kernel_dropped));
        row.push(resident(seen.memory));
        row
    }
}
