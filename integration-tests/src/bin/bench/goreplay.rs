//! What GoReplay's command line costs: a recording to a web server against wrk, and records through a relay against a copy of
//! their bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reprise_integration_tests::process::tail;
use reprise_integration_tests::{Nginx, Process, eventually};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::flatout::wrk;
use crate::gor::{self, Recording, SIZE};
use crate::report::{self, Aim, Section, median, mib, ratio, thousands};
use crate::run::{self, Run};
use crate::{Context, meter, stop};

const ABOUT: &str = "\
`reprise gor --input-file … --output-http` sends 200,000 small GETs of a recording, so fast that all are late at once, to nginx, \
one worker; then wrk, as under \"Flat out\". `reprise gor --input-tcp … --output-tcp` takes the same recording ten times over, \
over 10 connections of a sender that writes as fast as it can, and passes it on to a port that reads and counts; beside it 10 \
threads that only copy bytes from one connection to another. CPU time is that of the process, or of these threads, alone. \
Figures are medians of the rounds.";

const HEADER: [&str; 7] = [
    "who",
    "records",
    "arrived",
    "records/s",
    "µs CPU/record",
    "× the yardstick",
    "resident",
];
const REQUESTS: u64 = 200_000;
const SENDERS: usize = 10;
const LIMIT: Duration = Duration::from_secs(120);

/// What came of some rounds.
#[derive(Debug, Default)]
struct Figures {
    records: u64,
    arrived: u64,
    per_second: Vec<f64>,
    micros: Vec<f64>,
    resident: u64,
}

impl Figures {
    fn micros(&self) -> f64 {
        median(self.micros.iter().copied())
    }

    fn row(&self, who: &str, yardstick: Option<&Figures>) -> Vec<String> {
        let figures = [
            who.to_owned(),
            thousands(self.records),
            thousands(self.arrived),
            thousands(median(self.per_second.iter().copied()) as u64),
            format!("{:.2}", self.micros()),
            ratio(self.micros(), yardstick.map(Figures::micros)),
            if self.resident == 0 {
                "–".to_owned()
            } else {
                mib(self.resident)
            },
        ];
        figures.into()
    }
}

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let recording = Recording::write((0..REQUESTS).map(|number| number * 100_000))?;
    let (mut files, mut wrks) = (Figures::default(), Figures::default());
    let (mut relays, mut copies) = (Figures::default(), Figures::default());
    let bytes = std::fs::read(recording.path()).context("read the recording")?;
    for _ in 0..context.either(3, 1) {
        stop::check()?;
        let nginx = Nginx::start_counting(&context.place)?;
        let run = replay(context, &recording, &nginx)?;
        files.add(&run, REQUESTS, nginx.records()?.len() as u64);
        let nginx = Nginx::start_counting(&context.place)?;
        let (run, requests) = wrk(context, &nginx, SIZE)?;
        wrks.add(&run, requests, requests);
        relays.add_passed(relay(context, &bytes)?, bytes.len());
        copies.add_passed(copy(&bytes)?, bytes.len());
    }
    let to_wrk = files.micros() / wrks.micros();
    report::progress(&format!(
        "{to_wrk:.2} × wrk, {:.2} µs a record",
        relays.micros()
    ));
    Ok(Section {
        title: "GoReplay's command line".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        rows: vec![
            files.row("gor, file to HTTP", Some(&wrks)),
            wrks.row("wrk", None),
            relays.row("gor, TCP to TCP", Some(&copies)),
            copies.row("a copy of the bytes", None),
        ],
        notes: Vec::new(),
        aims: vec![
            Aim::all("gor, file to HTTP: arrived", files.arrived, files.records),
            Aim::all("gor, TCP to TCP: arrived", relays.arrived, relays.records),
        ],
    })
}

/// Ten million percent: every request is due by the time that it is read.
fn replay(context: &Context, recording: &Recording, nginx: &Nginx) -> Result<Run> {
    let mut command = context.place.command(&context.binary);
    let from = format!("{}|10000000%", recording.path().display());
    command.args(["gor", "--input-file", &from, "--output-http", &nginx.url()]);
    let run = run::to_its_end("reprise gor", command, LIMIT)?;
    anyhow::ensure!(
        run.log.contains("The ledger balances"),
        "no books in\n{}",
        tail(&run.log, 15)
    );
    Ok(run)
}

/// What passed, in which time, at what cost.
#[derive(Debug)]
struct Passed {
    bytes: u64,
    wall: Duration,
    cpu_ns: u64,
    resident: u64,
}

fn relay(context: &Context, bytes: &[u8]) -> Result<Passed> {
    let sink = Sink::start(SENDERS)?;
    let address = context.place.free()?;
    let mut command = context.place.command(&context.binary);
    let to = sink.address.to_string();
    command.args([
        "gor",
        "--input-tcp",
        &address.to_string(),
        "--output-tcp",
        &to,
    ]);
    let directory = gor::directory()?;
    let mut process = Process::start("reprise gor", command, &directory.path().join("log"))?;
    eventually("the port", LIMIT, || Ok(TcpStream::connect(address)?))?;
    let (before, began) = (meter::cpu_ns(process.id())?, Instant::now());
    send(address, bytes)?;
    let resident = meter::memory(process.id()).map_or(0, |memory| memory.resident);
    process.signal(Signal::TERM)?;
    let received = sink.received()?;
    let wall = began.elapsed();
    let cpu_ns = eventually("its end", LIMIT, || {
        let path = format!("/proc/{}/stat", process.id());
        let ended = std::fs::read_to_string(path)?.contains(") Z ");
        anyhow::ensure!(ended, "it goes on");
        meter::whole_cpu_ns(process.id())
    })?;
    process.wait(LIMIT)?;
    Ok(Passed {
        bytes: received,
        wall,
        cpu_ns: cpu_ns.saturating_sub(before),
        resident,
    })
}

fn copy(bytes: &[u8]) -> Result<Passed> {
    let sink = Sink::start(SENDERS)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr().context("listen")?;
    let to = sink.address;
    let copying = thread::spawn(move || -> Result<u64> {
        let copies = (0..SENDERS).map(|_| -> Result<_> {
            let (mut from, _) = listener.accept().context("accept")?;
            Ok(thread::spawn(move || -> Result<u64> {
                let mut to = TcpStream::connect(to).context("connect")?;
                std::io::copy(&mut from, &mut to).context("copy")?;
                let time = clock_gettime(ClockId::ThreadCPUTime);
                Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
            }))
        });
        let copies = copies.collect::<Result<Vec<_>>>()?;
        let times = copies.into_iter().map(|copy| joined(copy.join()));
        times.sum()
    });
    let began = Instant::now();
    send(address, bytes)?;
    let cpu_ns = joined(copying.join())?;
    Ok(Passed {
        bytes: sink.received()?,
        wall: began.elapsed(),
        cpu_ns,
        resident: 0,
    })
}

fn joined<T>(result: thread::Result<Result<T>>) -> Result<T> {
    result.map_err(|_| anyhow::anyhow!("a thread failed"))?
}

/// The same bytes over each connection, as fast as they are taken.
fn send(to: SocketAddr, bytes: &[u8]) -> Result<()> {
    thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut stream = TcpStream::connect(to).context("connect")?;
                    stream.write_all(bytes).context("send")
                })
            })
            .collect();
        senders
            .into_iter()
            .try_for_each(|sender| joined(sender.join()))
    })
}

/// Reads all that comes over so many connections, or fewer.
struct Sink {
    address: SocketAddr,
    counting: thread::JoinHandle<Result<u64>>,
}

impl Sink {
    fn start(connections: usize) -> Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let address = listener.local_addr().context("listen")?;
        let counting = thread::spawn(move || -> Result<u64> {
            let readers = (0..connections).map(|_| -> Result<_> {
                let (mut stream, _) = listener.accept().context("accept")?;
                Ok(thread::spawn(move || {
                    let mut buffer = vec![0; 256 << 10];
                    let mut all = 0;
                    // A connection that breaks has brought what it brought.
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        all += read as u64;
                    }
                    all
                }))
            });
            let readers = readers.collect::<Result<Vec<_>>>()?;
            let counts = readers.into_iter().map(|reader| {
                let count = reader.join();
                count.map_err(|_| anyhow::anyhow!("a thread failed"))
            });
            counts.sum()
        });
        Ok(Sink { address, counting })
    }

    fn received(self) -> Result<u64> {
        joined(self.counting.join())
    }
}

impl Figures {
    fn add(&mut self, run: &Run, records: u64, arrived: u64) {
        self.records += records;
        self.arrived += arrived;
        self.per_second.push(run.per_second(records));
        self.micros.push(run.micros_per(records));
        self.resident = self.resident.max(run.memory.resident);
    }

    /// All records are of one length.
    fn add_passed(&mut self, passed: Passed, sent: usize) {
        let records = REQUESTS * SENDERS as u64;
        let length = sent as u64 / REQUESTS;
        self.records += records;
        self.arrived += passed.bytes / length;
        self.per_second
            .push(records as f64 / passed.wall.as_secs_f64());
        self.micros
            .push(passed.cpu_ns as f64 / 1e3 / records as f64);
        self.resident = self.resident.max(passed.resident);
    }
}
