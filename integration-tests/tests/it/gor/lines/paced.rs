//! Lines 15 to 18: files at their own pace or another, in order, and so many a second.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use reprise_integration_tests::staging::Received;
use reprise_integration_tests::{Place, Staging};

use super::{Line, directory, staging};
use crate::gor::records;
use crate::gor::run::{Gor, Style};

/// One after the other: a process that starts is in the way of those whose time is taken.
pub(super) const LINES: [&[Line]; 3] = [
    &[(18, ten_a_second), (16, twice_as_fast)],
    &[(15, gaps)],
    &[
        (17, a_quoted_pattern),
        (17, a_pattern),
        (17, expanded_by_the_shell),
    ],
];

const MS: u64 = 1_000_000;

/// The requests in the order in which they arrived, with the time since the first.
fn arrivals(staging: &Staging) -> Vec<(u64, Duration)> {
    let received = staging.received();
    let first = received[0].at;
    let arrival = |r: &Received| (r.id().unwrap(), r.at.saturating_duration_since(first));
    received.iter().map(arrival).collect()
}

/// All came once, in their order, which is recorded 100 ms apart. Each has a connection of its own: what leaves together
/// because the machine stood still may come in any.
fn assert_in_order(arrivals: &[(u64, Duration)], requests: u64) {
    const TOGETHER: Duration = Duration::from_millis(50);
    for pair in arrivals.windows(2) {
        let in_order = pair[0].0 < pair[1].0 || pair[1].1.saturating_sub(pair[0].1) < TOGETHER;
        assert!(in_order, "{pair:?} in {arrivals:?}");
    }
    let mut numbers: Vec<u64> = arrivals.iter().map(|(n, _)| *n).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..requests), "{arrivals:?}");
}

fn gaps(style: Style) {
    const AT_MS: [u64; 8] = [0, 400, 430, 1100, 1100, 1300, 2000, 2300];
    let (dir, target) = (directory(), staging());
    let record = |(n, at): (u64, &u64)| records::request(n, at * MS, &format!("GET /?id={n}"), &[]);
    let recording: Vec<u8> = (0..).zip(&AT_MS).flat_map(record).collect();
    fs::write(dir.path().join("requests.gor"), recording).unwrap();
    let line = format!(
        "--input-file requests.gor --output-http \"{}\"",
        target.url()
    );
    let said = Gor::launch(style, &line, dir.path()).end();
    assert_eq!(said.output(1).replayed[&200], AT_MS.len() as u64);
    let arrivals = arrivals(&target);
    assert_eq!(arrivals.len(), AT_MS.len());
    let off =
        |(number, at): (u64, Duration)| at.abs_diff(Duration::from_millis(AT_MS[number as usize]));
    let mut off: Vec<Duration> = arrivals.into_iter().map(off).collect();
    off.sort_unstable();
    // A busy machine may hold up a few.
    assert!(off[off.len() / 2] < Duration::from_millis(100), "{off:?}");
    assert!(off[off.len() - 1] < Duration::from_millis(400), "{off:?}");
}

fn twice_as_fast(style: Style) {
    let (dir, target) = (directory(), staging());
    // Forty seconds, five a second.
    let recording = records::gets(0..201, 200 * MS);
    fs::write(dir.path().join("requests.gor"), recording).unwrap();
    let to = target.address();
    let line = format!("--input-file \"requests.gor|200%\" --output-http \"{to}\"");
    let said = Gor::launch(style, &line, dir.path()).end();
    assert_eq!(said.output(1).replayed[&200], 201);
    let arrivals = arrivals(&target);
    assert_in_order(&arrivals, 201);
    let took = arrivals[200].1;
    let off = took.abs_diff(Duration::from_secs(20));
    assert!(off <= Duration::from_millis(200), "it took {took:?}");
}

/// Three files whose requests lie between each other's.
fn in_one_stream(style: Style, files: &str) {
    const REQUESTS: u64 = 21;
    let (dir, target) = (directory(), staging());
    for (file, name) in (0..).zip(["c.gor", "a.gor", "b.gor"]) {
        let of_it = (0..REQUESTS).filter(|n| n % 3 == file);
        let record = |n| records::request(n, n * 100 * MS, &format!("GET /?id={n}"), &[]);
        let recording: Vec<u8> = of_it.flat_map(record).collect();
        fs::write(dir.path().join(name), recording).unwrap();
    }
    let line = format!("--input-file {files} --output-http {}", target.url());
    let said = Gor::launch(style, &line, dir.path()).end();
    assert_eq!(said.output(1).replayed[&200], REQUESTS);
    assert_in_order(&arrivals(&target), REQUESTS);
}

fn a_quoted_pattern(style: Style) {
    in_one_stream(style, "'*.gor'");
}

/// The shell that reads the line expands it.
fn a_pattern(style: Style) {
    in_one_stream(style, "*.gor");
}

fn expanded_by_the_shell(style: Style) {
    in_one_stream(style, "a.gor b.gor c.gor");
}

fn ten_a_second(style: Style) {
    const OFFERED: u64 = 1000;
    let (dir, target) = (directory(), staging());
    let here = Place::loopback().free().unwrap();
    let line = format!(
        "--input-tcp :{} --output-http \"{}|10\"",
        here.port(),
        target.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    let mut connection = TcpStream::connect(here).unwrap();
    let start = Instant::now();
    for n in 0..OFFERED {
        let due = start + Duration::from_millis(10 * n);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let record = records::request(n, 0, &format!("GET /?id={n}"), &[]);
        connection.write_all(&record).unwrap();
    }
    gor.settled(OFFERED);
    let account = gor.stop().output(1);
    let mut seconds = [0_u64; 10];
    for (_, at) in arrivals(&target) {
        // The first ten of a second pass, so that half of it is over when the next one begins.
        let second = (at + Duration::from_millis(500)).as_secs() as usize;
        // One that comes later is one too many.
        seconds[second.min(9)] += 1;
    }
    assert!(seconds.iter().all(|n| (9..=11).contains(n)), "{seconds:?}");
    let delivered = seconds.iter().sum::<u64>();
    assert_eq!(account.replayed[&200], delivered);
    assert_eq!(account.dropped["rate_limited"], OFFERED - delivered);
}
