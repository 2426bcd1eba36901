//! How a run ends: at the end of its inputs, by a signal, after a time, or before it begins; and what it says then.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reprise_integration_tests::process::Signal;
use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Place, Staging, eventually};

use super::far::Far;
use super::records;
use super::run::{Gor, LIMIT, Style, bare, output};
use crate::rig;

const SECOND: Duration = Duration::from_secs(1);

fn staging() -> Staging {
    Staging::start(&Place::loopback()).unwrap()
}

#[test]
fn finite_inputs_end_with_the_last_answer() {
    const REQUESTS: u64 = 50;
    let _alone = rig::alone();
    let (dir, target) = (tempfile::tempdir().unwrap(), staging());
    target.behave(Behaviour::Slow(SECOND));
    fs::write(dir.path().join("a.gor"), records::gets(0..REQUESTS, 1000)).unwrap();
    let line = format!("--input-file a.gor --output-http {}", target.url());
    let said = Gor::launch(Style::Written, &line, dir.path()).end();
    let over = Instant::now();
    assert_eq!(said.output(1).replayed[&200], REQUESTS);
    let last = target.received().iter().map(|r| r.at).max().unwrap() + SECOND;
    let after = over.saturating_duration_since(last);
    assert!(
        over >= last && after < SECOND,
        "{after:?} after the last answer"
    );
    assert_eq!(said.stdout, b"");
}

/// Without anything that a script doesn't have.
#[test]
fn the_summary_is_for_people_unless_asked_for_as_json() {
    let _alone = rig::alone();
    let (dir, target) = (tempfile::tempdir().unwrap(), staging());
    fs::write(dir.path().join("a.gor"), records::gets(0..20, 1000)).unwrap();
    let url = target.url();
    let words = ["--input-file", "a.gor", "--output-http", &url];
    let said = bare(&words, dir.path());
    assert!(said.status.success() && said.stdout.is_empty(), "{said:?}");
    assert!(
        said.stderr.contains("flushed: 20 of 20 "),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("The ledger balances: 20 captured"),
        "{}",
        said.stderr
    );
    let said = bare(&[&words[..], &["--json"]].concat(), dir.path());
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert_eq!(said.output(1).replayed[&200], 20);
}

/// Waits until nobody takes connections there any more.
fn until_closed(address: std::net::SocketAddr) {
    let closed = eventually("the input's end", LIMIT, || {
        anyhow::ensure!(TcpStream::connect(address).is_err(), "it takes connections");
        Ok(())
    });
    closed.unwrap();
}

/// What was accepted when the signal came arrives: at a server that answers only then, in a file, at
/// another process.
#[test]
fn signals_drain() {
    const REQUESTS: u64 = 500;
    let _alone = rig::alone();
    for signal in [Signal::TERM, Signal::INT] {
        let (dir, target, far) = (tempfile::tempdir().unwrap(), staging(), Far::start());
        target.behave(Behaviour::Silent);
        let here = Place::loopback().free().unwrap();
        let line = format!(
            "--input-tcp {here} --output-http {} --output-tcp {} --output-file a.gor \
             --output-file-append --output-file-flush-interval 10s --output-http-timeout 30s",
            target.url(),
            far.address()
        );
        let mut gor = Gor::start(Style::Written, &line, dir.path());
        records::send(here, &records::gets(0..REQUESTS, 0));
        let accepted = eventually("accepted records", LIMIT, || {
            let books = gor.books()?;
            anyhow::ensure!(books.captured == REQUESTS, "{books:?}");
            Ok(books)
        });
        let before = output(&accepted.unwrap(), 1).replayed_total();
        assert_eq!(before, 0, "nothing is under way");
        gor.signal(signal);
        until_closed(here);
        target.behave(Behaviour::Answer(hyper::StatusCode::OK));
        let said = gor.end();
        for output in 1..=3 {
            assert_eq!(said.output(output).replayed_total(), REQUESTS, "{output}");
        }
        let ids = target.ids();
        assert!((0..REQUESTS).all(|n| ids.get(&n) == Some(&1)), "{signal:?}");
        let file = records::read(&fs::read(dir.path().join("a.gor")).unwrap());
        for came in [file, far.records()] {
            let mut numbers: Vec<u64> = came.iter().map(records::Came::number).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..REQUESTS), "{signal:?}");
        }
    }
}

#[test]
fn exit_after_a_time_is_an_end_like_others() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    // It may have to be built.
    rig::binary();
    let began = Instant::now();
    let said = Gor::launch(
        Style::Go,
        "--input-dummy --output-stdout --exit-after 2s500ms",
        dir.path(),
    )
    .end();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(2500) && took < Duration::from_millis(5000),
        "{took:?}"
    );
    let captured = said.books().captured;
    assert!((2..=3).contains(&captured), "{captured}");
    assert_eq!(records::read(&said.stdout).len() as u64, captured);
}

#[test]
fn what_makes_no_sense_ends_with_2_and_a_line_that_says_what_to_change() {
    let dir = tempfile::tempdir().unwrap();
    for (words, part) in [
        (
            "--input-dummy --output-htp http://a",
            "--output-http is the nearest",
        ),
        ("-input-rw=:80 -output-stdout", "--input-raw is the nearest"),
        (
            "--input-dummy --output-null --http-alow-url /api",
            "--http-allow-url is the nearest",
        ),
        (
            "--input-dummy --output-null --splitoutput",
            "--split-output is the nearest",
        ),
        ("--input-dummy", "there is no output"),
        ("--output-null", "there is no input"),
        ("--input-dummy --output-http http://a|x", "|N%"),
        (
            "--input-raw --output-stdout",
            "--input-raw: a value is missing",
        ),
        ("--input-file none-*.gor --output-null", "no file matches"),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let said = bare(&words, dir.path());
        assert_eq!(said.status.code(), Some(2), "{words:?}: {}", said.stderr);
        let mut lines = said.stderr.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.contains(part), "{words:?}: {}", said.stderr);
        // Where there is a second one, it names the help.
        assert!(
            lines.all(|line| line.ends_with("gor -h")),
            "{}",
            said.stderr
        );
        assert!(said.stdout.is_empty());
    }
}
