//! Lines 1 to 9: captured, or mirrored, and replayed, printed or recorded.

use std::fs;
use std::path::Path;

use reprise_integration_tests::process::output;
use reprise_integration_tests::{Nginx, Place, eventually};

use super::{Line, assert_recorded, directory, load, load_to, staging};
use crate::arrivals::assert_faithful;
use crate::gor::records::{self, Came};
use crate::gor::run::{Gor, LIMIT, Style};

pub(super) const LINES: &[Line] = &[
    (1, to_https),
    (2, to_stdout),
    (3, to_http),
    (4, to_a_file),
    (5, to_a_packed_file),
    (6, appending),
    (7, to_a_file_named_by_the_day),
    (8, with_a_buffer),
    (9, mirrored),
];

const REQUESTS: u64 = 60;

fn to_https(style: Style) {
    let (dir, production) = (directory(), staging());
    let server = Nginx::start_tls(&Place::loopback()).unwrap();
    let line = format!(
        "-input-raw ':{}' -output-http '{}'",
        production.address().port(),
        server.https().unwrap()
    );
    let gor = Gor::start_trusting(&server.certificate(), style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    let mut lines = server.request_lines(sent.len()).unwrap();
    let first = |head: &[u8]| head.split(|b| *b == b'\r').next().unwrap().to_vec();
    let mut expected: Vec<Vec<u8>> = sent.iter().map(|sent| first(&sent.head)).collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(gor.stop().output(1).replayed[&200], REQUESTS);
}

fn to_stdout(style: Style) {
    let (dir, production) = (directory(), staging());
    let line = format!(
        "--input-raw :{} --output-stdout",
        production.address().port()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    // Without waiting for its end: a pipe's reader has each request soon.
    let printed = eventually("records on standard output", LIMIT, || {
        let printed = gor.stdout();
        let whole = records::split(&printed).len();
        anyhow::ensure!(whole == sent.len(), "{whole}");
        Ok(printed)
    });
    assert_recorded(&sent, records::read(&printed.unwrap()));
    gor.stop().books();
}

fn to_http(style: Style) {
    let (dir, production, target) = (directory(), staging(), staging());
    let line = format!(
        "--input-raw :{} --output-http {}",
        production.address().port(),
        target.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    target.until(sent.len(), LIMIT).unwrap();
    assert_eq!(gor.stop().output(1).replayed[&200], REQUESTS);
    assert_faithful(&sent, &target);
}

/// What is in a file, as its users' tools unpack it.
fn recorded(file: &Path) -> Vec<Came> {
    if file.extension().is_some_and(|suffix| suffix == "gz") {
        let place = Place::loopback();
        let plain = file.with_extension("plain");
        let mut command = place.command("sh");
        command
            .args(["-c", "zcat \"$0\" > \"$1\""])
            .arg(file)
            .arg(&plain);
        output(command, LIMIT).unwrap();
        return records::read(&fs::read(plain).unwrap());
    }
    records::read(&fs::read(file).unwrap())
}

/// A recording of a run, which must be in that file and no other.
fn record(style: Style, words: &str, dir: &Path, file: &str) {
    let production = staging();
    let line = format!("--input-raw :{} {words}", production.address().port());
    let gor = Gor::start(style, &line, dir);
    let sent = load(&production, REQUESTS);
    gor.settled(REQUESTS);
    gor.stop().books();
    assert_recorded(&sent, recorded(&dir.join(file)));
}

/// Files that are no logs of ours.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = entries
        .map(name)
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    names
}

fn to_a_file(style: Style) {
    let dir = directory();
    record(style, "--output-file test.gor", dir.path(), "test_0.gor");
    assert_eq!(names(dir.path()), ["test_0.gor"]);
    let first = fs::read(dir.path().join("test_0.gor")).unwrap();
    record(style, "--output-file test.gor", dir.path(), "test_1.gor");
    assert_eq!(names(dir.path()), ["test_0.gor", "test_1.gor"]);
    assert_eq!(fs::read(dir.path().join("test_0.gor")).unwrap(), first);
}

fn to_a_packed_file(style: Style) {
    let dir = directory();
    record(
        style,
        "--output-file test.gor.gz",
        dir.path(),
        "test.gor_0.gz",
    );
}

fn appending(style: Style) {
    let (dir, production) = (directory(), staging());
    let line = format!(
        "--input-raw :{} --output-file test.gor --output-file-append true",
        production.address().port()
    );
    let mut sent = Vec::new();
    let mut before = Vec::new();
    for _ in 0..2 {
        let gor = Gor::start(style, &line, dir.path());
        sent.extend(load(&production, REQUESTS));
        gor.settled(REQUESTS);
        gor.stop().books();
        let now = fs::read(dir.path().join("test.gor")).unwrap();
        assert!(now.starts_with(&before) && now.len() > before.len());
        before = now;
    }
    assert_eq!(names(dir.path()), ["test.gor"]);
    assert_recorded(&sent, records::read(&before));
}

fn to_a_file_named_by_the_day(style: Style) {
    let today = || {
        let mut command = Place::loopback().command("date");
        command.arg("+%Y%m%d");
        output(command, LIMIT).unwrap().trim().to_owned()
    };
    // Another time where a day ends in between.
    loop {
        let (dir, day) = (directory(), today());
        let file = format!("{day}_0.gor");
        let midnight = std::panic::catch_unwind(|| {
            record(style, "--output-file %Y%m%d.gor", dir.path(), &file);
        });
        if day == today() {
            midnight.unwrap();
            assert_eq!(names(dir.path()), [file]);
            return;
        }
    }
}

fn with_a_buffer(style: Style) {
    let (dir, production) = (directory(), staging());
    let line = format!(
        "--input-raw :{} -input-raw-buffer-size 10485760 --output-stdout",
        production.address().port()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    gor.settled(REQUESTS);
    // The kernel's memory for packets is mapped: all captures share the size that was asked for.
    let maps = fs::read_to_string(format!("/proc/{}/maps", gor.id())).unwrap();
    let size = |line: &str| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(number(to)? - number(from)?)
    };
    let rings = maps.lines().filter(|line| line.contains("socket:["));
    let rings: u64 = rings.filter_map(size).sum();
    assert!((1 << 20..=10_485_760).contains(&rings), "{rings}\n{maps}");
    let said = gor.stop();
    said.books();
    assert_recorded(&sent, records::read(&said.stdout));
}

fn mirrored(style: Style) {
    let (dir, target) = (directory(), staging());
    let here = Place::loopback().free().unwrap();
    let line = format!(
        "--input-http :{} --output-http \"{}\"",
        here.port(),
        target.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load_to(here, REQUESTS);
    assert!(sent.iter().all(|sent| sent.status == 200));
    target.until(sent.len(), LIMIT).unwrap();
    assert_eq!(gor.stop().output(1).replayed[&200], REQUESTS);
    assert_faithful(&sent, &target);
}
