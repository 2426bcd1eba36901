//! Files that are read: to the last record, past bad ones, again and again, without long pauses.

use std::fs;
use std::time::Duration;

use reprise_integration_tests::{Place, Staging, eventually};

use super::records::{self, Came, SEPARATOR};
use super::run::{Gor, LIMIT, Style};
use crate::rig;

fn staging() -> Staging {
    Staging::start(&Place::loopback()).unwrap()
}

#[test]
fn the_last_record_needs_no_separator() {
    let _alone = rig::alone();
    let (dir, target) = (tempfile::tempdir().unwrap(), staging());
    let recording = records::gets(0..10, 1000);
    let cut = &recording[..recording.len() - SEPARATOR.len()];
    fs::write(dir.path().join("a.gor"), cut).unwrap();
    let line = format!("--input-file a.gor --output-http {}", target.url());
    let said = Gor::launch(Style::Written, &line, dir.path()).end();
    assert_eq!(said.output(1).replayed[&200], 10);
    assert!((0..10).all(|n| target.ids().get(&n) == Some(&1)));
}

/// Its first two fields don't make a header.
#[test]
fn a_bad_record_is_named_and_passed_over() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let bad = [&b"1 abc\nGET / HTTP/1.1\r\n\r\n"[..], SEPARATOR].concat();
    let good = |n| records::gets(n..n + 1, 1);
    fs::write(dir.path().join("a.gor"), [good(0), bad, good(1)].concat()).unwrap();
    let said = Gor::launch(
        Style::Written,
        "--input-file a.gor --output-stdout",
        dir.path(),
    )
    .end();
    let numbers: Vec<u64> = records::read(&said.stdout)
        .iter()
        .map(Came::number)
        .collect();
    assert_eq!(numbers, [0, 1]);
    // Of a record of four lines and its separator of one comes the sixth.
    let named = said
        .stderr
        .lines()
        .any(|line| line.contains("a.gor") && line.contains('6'));
    assert!(named, "{}", said.stderr);
}

#[test]
fn a_loop_begins_again_until_it_is_told_to_stop() {
    let _alone = rig::alone();
    let (dir, target) = (tempfile::tempdir().unwrap(), staging());
    fs::write(dir.path().join("a.gor"), records::gets(0..3, 10_000_000)).unwrap();
    let line = format!(
        "--input-file a.gor --input-file-loop --output-http {}",
        target.url()
    );
    let gor = Gor::start(Style::Written, &line, dir.path());
    target.until(30, LIMIT).unwrap();
    let said = gor.stop();
    let ids = target.ids();
    assert_eq!(ids.len(), 3);
    assert!(ids.values().all(|times| *times >= 9), "{ids:?}");
    assert_eq!(said.output(1).replayed[&200], target.count() as u64);
}

/// Each pause but those that are shorter, also after the speed.
#[test]
fn no_pause_is_longer_than_the_longest() {
    const MS: u64 = 1_000_000;
    const AT_MS: [u64; 4] = [0, 60_000, 60_400, 160_400];
    let _alone = rig::alone();
    let (dir, target) = (tempfile::tempdir().unwrap(), staging());
    let record = |(n, at): (u64, &u64)| records::request(n, at * MS, &format!("GET /?id={n}"), &[]);
    let recording: Vec<u8> = (0..).zip(&AT_MS).flat_map(record).collect();
    fs::write(dir.path().join("a.gor"), recording).unwrap();
    let line = format!(
        "--input-file 'a.gor|200%' --input-file-max-wait 500ms --output-http {}",
        target.url()
    );
    let gor = Gor::launch(Style::Written, &line, dir.path());
    let come = eventually("all requests", Duration::from_secs(20), || {
        anyhow::ensure!(target.count() == AT_MS.len(), "{}", target.count());
        Ok(())
    });
    come.unwrap();
    assert_eq!(gor.end().output(1).replayed[&200], AT_MS.len() as u64);
    let at: Vec<_> = target
        .received()
        .iter()
        .map(|received| received.at)
        .collect();
    for (pair, expected) in at.windows(2).zip([500, 200, 500]) {
        let pause = pair[1].saturating_duration_since(pair[0]);
        let off = pause.abs_diff(Duration::from_millis(expected));
        assert!(
            off < Duration::from_millis(100),
            "{pause:?} instead of {expected} ms"
        );
    }
}
