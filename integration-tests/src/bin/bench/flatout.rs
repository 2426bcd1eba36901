//! What it costs to send a recording as fast as possible, against wrk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use reprise_integration_tests::Nginx;

use crate::client::CONNECTIONS;
use crate::gor::Recording;
use crate::meter::Memory;
use crate::numbered::{Numbered, number};
use crate::report::{self, Aim, Section, median, mib, ratio, thousands};
use crate::run::{self, Run};
use crate::{Context, stop};

const ABOUT: &str = "\
`reprise run --read --speed max` sends 200,000 small GETs of a recording of 50 clients to nginx, one worker, which logs \
number and connection of each; then wrk, one thread and 50 connections, sends requests of the same form and length to \
another such nginx. CPU time is user and system of all threads of that process alone, its start and the reading of the \
file included. Rounds take turns; figures are the rounds' medians, counts their sums. The aim is at least half of wrk's \
requests for a second of CPU time, and that each arrives once.";

const HEADER: [&str; 11] = [
    "who",
    "requests",
    "arrived once",
    "requests/s",
    "µs CPU/request",
    "× wrk",
    "requests/CPU-second",
    "share of wrk's (aim: 0.5)",
    "connections",
    "bytes/request",
    "resident",
];
const REQUESTS: u32 = 200_000;
const LIMIT: Duration = Duration::from_secs(90);

/// What came of some rounds.
#[derive(Debug, Default)]
struct Figures {
    requests: u64,
    once: u64,
    /// Of the rounds.
    per_second: Vec<f64>,
    micros: Vec<f64>,
    per_cpu_second: Vec<f64>,
    connections: Vec<f64>,
    bytes: usize,
    memory: Memory,
}

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let recording = Recording::write((0..u64::from(REQUESTS)).map(|number| number * 100_000))?;
    let (mut ours, mut wrks) = (Figures::default(), Figures::default());
    let mut replayed = 0;
    for _ in 0..context.either(3, 1) {
        stop::check()?;
        let nginx = Nginx::start_counting(&context.place)?;
        let how = (&nginx.url()[..], "max");
        let (run, books) = run::replay(context, recording.path(), how, LIMIT)?;
        anyhow::ensure!(books.balance, "the ledger does not balance: {books:?}");
        replayed += books.replayed;
        ours.add(&run, REQUESTS.into(), Served::of(&nginx.records()?)?);
        let nginx = Nginx::start_counting(&context.place)?;
        let (run, requests) = wrk(context, &nginx, ours.bytes)?;
        wrks.add(&run, requests, Served::of(&nginx.records()?)?);
    }
    let times = ours.per_cpu() / wrks.per_cpu();
    report::progress(&format!("{times:.2} × wrk for a second of CPU time"));
    let sent = ours.requests;
    Ok(Section {
        title: "Flat out".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        rows: vec![ours.row("reprise run", Some(&wrks)), wrks.row("wrk", None)],
        notes: vec![format!(
            "replayed, says the ledger: {} of {}",
            thousands(replayed),
            thousands(sent)
        )],
        aims: vec![
            Aim::at_least("flat out: requests/CPU-second", times, 0.5, "× wrk's"),
            Aim::all("flat out: arrived once", ours.once, sent),
            Aim::all("flat out: replayed, says the ledger", replayed, sent),
        ],
    })
}

/// wrk, for long enough, with heads of `size` bytes; and how many requests it says were answered.
pub(crate) fn wrk(context: &Context, nginx: &Nginx, size: usize) -> Result<(Run, u64)> {
    let request = Numbered::new(&nginx.address().to_string(), size);
    let mut command = context.place.command("wrk");
    let seconds = context.either("3s", "2s");
    let connections = CONNECTIONS.to_string();
    command.args(["-t", "1", "-c", &connections, "-d", seconds]);
    for header in request.headers() {
        command.args(["-H", &header]);
    }
    command.arg(nginx.url() + &request.path());
    let run = run::to_its_end("wrk", command, LIMIT)?;
    let answered = answered(&run.log).with_context(|| format!("wrk says {}", run.log))?;
    Ok((run, answered))
}

/// `1234 requests in 2.00s, 1.23MB read`, where all were answered as they should.
fn answered(log: &str) -> Option<u64> {
    if log.contains("Non-2xx") || log.contains("Socket errors") {
        return None;
    }
    let (count, _) = log.lines().find_map(|l| l.split_once(" requests in "))?;
    count.trim().parse().ok()
}

/// What nginx logged.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    /// Numbers that came exactly once.
    once: u64,
    connections: usize,
    /// The mean.
    bytes: usize,
}

impl Served {
    fn of(records: &[String]) -> Result<Served> {
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        let mut connections = BTreeSet::new();
        let mut bytes = 0;
        for record in records {
            let mut fields = record.split(' ');
            let mut next = || fields.next().with_context(|| format!("log has {record:?}"));
            let (connection, length, path) = (next()?, next()?, next()?);
            connections.insert(connection);
            bytes += length.parse::<usize>().context("length in the log")?;
            // One that is cut off at the end has no path.
            if let Some(number) = number(path) {
                *times.entry(number).or_default() += 1;
            }
        }
        let once = times.values().filter(|times| **times == 1).count();
        Ok(Served {
            once: once as u64,
            connections: connections.len(),
            bytes: (bytes as f64 / records.len().max(1) as f64).round() as usize,
        })
    }
}

impl Figures {
    fn add(&mut self, run: &Run, requests: u64, served: Served) {
        self.requests += requests;
        self.once += served.once;
        self.per_second.push(run.per_second(requests));
        self.micros.push(run.micros_per(requests));
        self.per_cpu_second.push(run.per_cpu_second(requests));
        self.connections.push(served.connections as f64);
        self.bytes = served.bytes;
        self.memory = self.memory.max(run.memory);
    }

    fn per_cpu(&self) -> f64 {
        median(self.per_cpu_second.iter().copied())
    }

    /// With `wrk`, ours.
    fn row(&self, who: &str, wrk: Option<&Figures>) -> Vec<String> {
        let middle = |figures: &[f64]| median(figures.iter().copied());
        vec![
            who.to_owned(),
            thousands(self.requests),
            wrk.map_or("–".to_owned(), |_| thousands(self.once)),
            thousands(middle(&self.per_second) as u64),
            format!("{:.2}", middle(&self.micros)),
            ratio(middle(&self.micros), wrk.map(|wrk| middle(&wrk.micros))),
            thousands(self.per_cpu() as u64),
            wrk.map_or("–".to_owned(), |wrk| {
                format!("{:.2}", self.per_cpu() / wrk.per_cpu())
            }),
            format!("{:.0}", middle(&self.connections)),
            self.bytes.to_string(),
            mib(self.memory.resident),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let log = "Running 2s test @ http://127.0.0.1:1/n/00000000\n  1 threads and 50 connections\n  \
                   231704 requests in 2.00s, 35.57MB read\nRequests/sec: 115824.32\n";
        assert_eq!(answered(log), Some(231_704));
        assert_eq!(answered("connect refused\n"), None);
        let failed = format!("{log}  Non-2xx or 3xx responses: 3\n");
        assert_eq!(answered(&failed), None);
    }

    #[test]
    fn what_came_twice_did_not_come_once() {
        let lines = [
            "1 240 /n/00000000",
            "1 240 /n/00000001",
            "2 242 /n/00000001",
            "2 240 /n/00000003",
        ];
        let expected = Served {
            once: 2,
            connections: 2,
            bytes: 241,
        };
        assert_eq!(Served::of(&lines.map(str::to_owned)).unwrap(), expected);
        assert_eq!(Served::of(&["1 240 ".to_owned()]).unwrap().once, 0);
        assert!(Served::of(&["1 240".to_owned()]).is_err());
    }
}
