//! Whether a replay keeps the times of its recording.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reprise_integration_tests::Nginx;

use crate::gor::{Recording, SIZE};
use crate::numbered::Numbered;
use crate::report::{self, Aim, Section, ratio, thousands};
use crate::timing::{Deviation, poisson};
use crate::wire::{Arrivals, Wire};
use crate::{Context, run, stop, watch};

const ABOUT: &str = "\
A recording of small GETs with Poisson gaps, 1,000 a second, of 50 clients, replayed by `reprise run --read` to nginx at \
its own pace and at twice that. Arrivals are the kernel's time stamps of the packets at nginx's port. The deviation is how \
far each is from its time in the schedule, early or late; the schedule's zero is where the median of the arrivals is on \
time, so that what delays all of them alike doesn't count. The duration is from the first arrival to the last, against \
the schedule's. The yardstick is a loop that sleeps until each is due (`clock_nanosleep`, timer slack 1 ns) and writes it to \
one kept connection: the machine's own jitter. Aims: p50 at most 0.2 ms, p99 at most 1 ms, duration off by at most 0.1 %.";

const HEADER: [&str; 12] = [
    "pace",
    "who",
    "requests",
    "arrived once",
    "p50 ms",
    "× loop",
    "× aim (0.2)",
    "p99 ms",
    "× loop",
    "× aim (1)",
    "max ms",
    "duration off by",
];
const RATE: u32 = 1000;
const LIMIT: Duration = Duration::from_secs(60);
/// Before the loop's first request.
const LEAD: Duration = Duration::from_millis(100);
/// As Reprise's own: by default the kernel takes 50 µs.
const SLACK_NS: NonZeroU64 = NonZeroU64::MIN;
/// For the loop's last answers.
const FAREWELL: Duration = Duration::from_millis(200);

/// One line of the table.
struct Cell {
    count: u64,
    arrived: u64,
    deviation: Deviation,
}

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let seconds = context.either(20, 5);
    let times = poisson(f64::from(RATE), (RATE * seconds) as usize);
    let recording = Recording::write(times.iter().copied())?;
    let nginx = watch::production(&context.place)?;
    let mut section = Section {
        title: "Pace of a replay".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        ..Section::default()
    };
    for speed in [1_u32, 2] {
        let schedule: Vec<f64> = times
            .iter()
            .map(|ns| *ns as f64 / f64::from(speed))
            .collect();
        let noted = |send: &dyn Fn() -> Result<()>| -> Result<Cell> {
            let wire = Wire::start(&context.place, &[nginx.address().port()])?;
            send()?;
            let port = nginx.address().port();
            let arrivals = wire.finish()?.remove(&port).unwrap_or_default();
            Ok(Cell::of(&schedule, &arrivals))
        };
        let alone = noted(&|| context.place.enter(|| beat(&schedule, nginx.address()))?)?;
        let ours = noted(&|| replay(context, &recording, &nginx, speed))?;
        let (p50, p99) = (ours.deviation.at(0.5), ours.deviation.at(0.99));
        report::progress(&format!("{speed}x: p50 {p50:.3} ms, p99 {p99:.3} ms"));
        section.aims.extend(ours.aims(speed));
        section.rows.push(ours.row(speed, Some(&alone)));
        section.rows.push(alone.row(speed, None));
    }
    Ok(section)
}

fn replay(context: &Context, recording: &Recording, nginx: &Nginx, speed: u32) -> Result<()> {
    let how = (&nginx.url()[..], &speed.to_string()[..]);
    let (_, books) = run::replay(context, recording.path(), how, LIMIT)?;
    anyhow::ensure!(books.balance, "the ledger does not balance: {books:?}");
    Ok(())
}

/// Sends each request when it is due, one after the other, and doesn't wait for answers.
fn beat(schedule_ns: &[f64], to: SocketAddr) -> Result<()> {
    rustix::thread::set_current_timer_slack(Some(SLACK_NS))?;
    let mut stream = TcpStream::connect(to).context("connect to nginx")?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut request = Numbered::new(&to.to_string(), SIZE);
    let start = Instant::now() + LEAD;
    for (number, due_ns) in schedule_ns.iter().enumerate() {
        let due = start + Duration::from_nanos(*due_ns as u64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = stream.write(request.with(number as u32));
        anyhow::ensure!(sent? == SIZE, "nginx does not take what is sent");
        take_answers(&mut stream)?;
        stop::check()?;
    }
    stop::pause(FAREWELL)?;
    take_answers(&mut stream)
}

/// What has come until now.
fn take_answers(stream: &mut TcpStream) -> Result<()> {
    let mut answers = [0; 16 << 10];
    loop {
        match stream.read(&mut answers) {
            Ok(0) => anyhow::bail!("nginx closed the connection"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read answers"),
        }
    }
}

impl Cell {
    fn of(schedule: &[f64], arrivals: &Arrivals) -> Cell {
        let first = arrivals.at.values().min().copied().unwrap_or(0);
        let pairs: Vec<(f64, f64)> = arrivals
            .at
            .iter()
            .filter_map(|(number, at)| {
                let due = schedule.get(*number as usize)?;
                Some((*due, (at - first) as f64))
            })
            .collect();
        Cell {
            count: schedule.len() as u64,
            arrived: arrivals.len().saturating_sub(arrivals.repeated),
            deviation: Deviation::of(&pairs),
        }
    }

    fn aims(&self, speed: u32) -> [Aim; 4] {
        let what = |what: &str| format!("pace at {speed}x, {what}");
        let Deviation {
            duration_percent, ..
        } = self.deviation;
        [
            Aim::at_most(what("p50"), self.deviation.at(0.5), 0.2, "ms"),
            Aim::at_most(what("p99"), self.deviation.at(0.99), 1.0, "ms"),
            Aim::at_most(what("duration off by"), duration_percent, 0.1, "%"),
            Aim::all(what("arrived once"), self.arrived, self.count),
        ]
    }

    /// With `yardstick`, ours.
    fn row(&self, speed: u32, yardstick: Option<&Cell>) -> Vec<String> {
        let mut row = vec![
            format!("{speed}x"),
            yardstick.map_or("loop", |_| "reprise run").to_owned(),
            thousands(self.count),
            thousands(self.arrived),
        ];
        for (share, aim) in [(0.5, 0.2), (0.99, 1.0)] {
            let figure = self.deviation.at(share);
            row.push(format!("{figure:.3}"));
            row.push(ratio(
                figure,
                yardstick.map(|cell| cell.deviation.at(share)),
            ));
            row.push(ratio(figure, yardstick.map(|_| aim)));
        }
        row.push(format!("{:.2}", self.deviation.at(1.0)));
        row.push(format!("{:.3} %", self.deviation.duration_percent));
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_compared_with_the_schedule_by_their_numbers() {
        let schedule = [0.0, 10.0e6, 20.0e6, 30.0e6];
        let at = [(0, 50_000_000), (2, 71_000_000), (3, 80_000_000)];
        let arrivals = Arrivals {
            at: at.into(),
            repeated: 1,
        };
        let cell = Cell::of(&schedule, &arrivals);
        assert_eq!((cell.count, cell.arrived), (4, 2));
        assert_eq!((cell.deviation.at(0.5), cell.deviation.at(1.0)), (0.0, 1.0));
        assert_eq!(cell.deviation.duration_percent, 0.0);
    }
}
