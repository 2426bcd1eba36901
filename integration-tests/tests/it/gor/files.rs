//! Files that are written: the names of chunks and their numbers, when the next one begins, and that none ever shrinks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use reprise_integration_tests::Place;

use super::records::{self, Came, SEPARATOR};
use super::run::{Gor, Said, Style};
use crate::rig;

/// Records come in over TCP and go into files.
fn record(dir: &Path, flags: &str, sent: &[u8]) -> Said {
    let here = Place::loopback().free().unwrap();
    let soon = "--output-file-flush-interval 50ms";
    let line = format!("--input-tcp {here} --output-file {flags} {soon}");
    let gor = Gor::start(Style::Written, &line, dir);
    records::send(here, sent);
    gor.settled(records::split(sent).len() as u64);
    gor.stop()
}

/// What is in a directory's files that are no logs of ours, by their names.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap();
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (!name.starts_with('.')).then(|| (name, fs::read(entry.path()).unwrap()))
    };
    entries.filter_map(file).collect()
}

fn names(dir: &Path) -> Vec<String> {
    files(dir).into_keys().collect()
}

#[test]
fn chunks_are_numbered_behind_those_that_are_there() {
    let _alone = rig::alone();
    for (name, there, next) in [
        ("a.gor", &[][..], "a_0.gor"),
        ("a.gor", &["a_0.gor"], "a_1.gor"),
        ("logs_underscores.gz", &[], "logs_underscores_0.gz"),
        ("2015.gor", &["2015_2.gor", "2015_10.gor"], "2015_11.gor"),
        ("a_7.gor", &[], "a_0.gor"),
        ("a", &["a_0", "a.gor", "b_5"], "a_1"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for name in there {
            fs::write(dir.path().join(name), "what was there").unwrap();
        }
        let said = record(dir.path(), name, &records::gets(0..1, 0));
        assert_eq!(said.output(1).replayed_total(), 1);
        let mut expected: Vec<&str> = [there, &[next]].concat();
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected, "{name}");
        let files = files(dir.path());
        assert!(
            there.iter().all(|name| files[*name] == b"what was there"),
            "{name}"
        );
    }
}

#[test]
fn placeholders_are_filled_in() {
    let _alone = rig::alone();
    let answer = |n: u64| records::record(2, n, n, b"HTTP/1.1 200 OK\r\n\r\n");
    let sent: Vec<u8> = (0..3)
        .flat_map(|n| [records::gets(n..n + 1, 1), answer(n)].concat())
        .collect();

    // A file for a request and its answer.
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "%r.gor", &sent).books();
    let files_there = files(dir.path());
    let expected: Vec<String> = (0..3)
        .map(|n| format!("{}_0.gor", records::id(n)))
        .collect();
    assert!(files_there.keys().eq(&expected), "{:?}", files_there.keys());
    for (n, bytes) in (0..).zip(files_there.values()) {
        let came = records::read(bytes);
        let kinds: Vec<(u8, &str)> = came.iter().map(|came| (came.kind, &*came.id)).collect();
        let id = records::id(n);
        assert_eq!(kinds, [(1, &*id), (2, &*id)]);
    }

    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "kind-%t.gor --output-file-append", &sent).books();
    assert_eq!(names(dir.path()), ["kind-1.gor", "kind-2.gor"]);
    for (kind, bytes) in (1..).zip(files(dir.path()).values()) {
        let came = records::read(bytes);
        assert!(came.len() == 3 && came.iter().all(|came| came.kind == kind));
    }

    // One process, one name; another process, another one.
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        record(dir.path(), "%i.gor --output-file-append", &sent).books();
    }
    let names = names(dir.path());
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        let letters = name.strip_suffix(".gor").unwrap();
        assert!(
            letters.len() == 8 && letters.bytes().all(|b| b.is_ascii_alphabetic()),
            "{name}"
        );
    }
    let all: Vec<u8> = files(dir.path()).into_values().flatten().collect();
    assert_eq!(records::read(&all).len(), 12);
}

/// The numbers in chunks, in the order of the chunks' own numbers.
fn chunks(dir: &Path) -> Vec<Vec<u8>> {
    let number = |name: &str| -> u32 {
        let (_, number) = name.strip_suffix(".gor").unwrap().rsplit_once('_').unwrap();
        number.parse().unwrap()
    };
    let mut all: Vec<(u32, Vec<u8>)> = files(dir)
        .into_iter()
        .map(|(name, b)| (number(&name), b))
        .collect();
    all.sort_unstable();
    assert!(all.iter().map(|(n, _)| *n).eq(0..all.len() as u32));
    all.into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn a_chunk_ends_by_its_records_or_its_size() {
    let _alone = rig::alone();
    let sent = records::gets(0..600, 1);
    for (flags, sizes) in [
        ("--output-file-queue-limit 10", vec![10; 60]),
        ("", vec![256, 256, 88]),
        ("--output-file-queue-limit 0", vec![600]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), &format!("a.gor {flags}"), &sent).books();
        let chunks = chunks(dir.path());
        let there: Vec<usize> = chunks
            .iter()
            .map(|chunk| records::read(chunk).len())
            .collect();
        assert_eq!(there, sizes, "{flags}");
        assert_eq!(chunks.concat(), sent, "{flags}");
    }

    let dir = tempfile::tempdir().unwrap();
    let flags = "a.gor --output-file-queue-limit 0 --output-file-size-limit 4kb";
    record(dir.path(), flags, &sent).books();
    let chunks = chunks(dir.path());
    assert_eq!(chunks.concat(), sent);
    let record = records::gets(599..600, 1).len();
    let (last, all) = chunks.split_last().unwrap();
    assert!(
        all.iter()
            .all(|chunk| (4096..4096 + record).contains(&chunk.len()))
    );
    assert!(!last.is_empty() && last.len() < 4096 + record);
}

#[test]
fn an_output_that_is_full_stops_and_the_others_go_on() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let sent = records::gets(0..600, 1);
    let flags = "a.gor --output-file-max-size-limit 4kb --output-stdout";
    let said = record(dir.path(), flags, &sent);
    assert_eq!(records::read(&said.stdout).len(), 600);
    let written = chunks(dir.path()).concat();
    assert!(
        written.len() <= 4096 && sent.starts_with(&written),
        "{}",
        written.len()
    );
    let whole = records::read(&written).len() as u64;
    let account = said.output(1);
    assert_eq!(account.replayed_total(), whole, "{account:?}");
    assert_eq!(account.dropped["recording_stopped"], 600 - whole);
}

/// Also behind what a kill left there.
#[test]
fn a_file_that_is_appended_to_never_shrinks() {
    const FLAGS: &str = "a.gor --output-file-append";
    let _alone = rig::alone();
    let whole = records::gets(0..50, 1);
    for left in [
        &b""[..],
        &SEPARATOR[..5],
        b"1 00000",
        b"1 00 1 -1\nGET / HTTP/1.1\r\nHost",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.gor");
        record(dir.path(), FLAGS, &whole).books();
        assert_eq!(fs::read(&file).unwrap(), whole);
        // A separator that was begun ends the last record.
        let kept = match SEPARATOR.starts_with(left) && !left.is_empty() {
            true => &whole[..whole.len() - SEPARATOR.len()],
            false => &whole[..],
        };
        fs::write(&file, [kept, left].concat()).unwrap();
        for life in 1..=2 {
            let before = fs::read(&file).unwrap();
            let new = records::gets(100 * life..100 * life + 20, 1);
            record(dir.path(), FLAGS, &new).books();
            let now = fs::read(&file).unwrap();
            // What was torn may be written over.
            assert!(now.len() >= before.len(), "{left:?}");
            assert!(
                now.starts_with(&whole),
                "{left:?}: an earlier record is gone"
            );
            assert!(now.ends_with(&new), "{left:?}");
        }
        // And is read by those who come later.
        let said = Gor::launch(
            Style::Written,
            "--input-file a.gor --output-stdout",
            dir.path(),
        )
        .end();
        let mut numbers: Vec<u64> = records::read(&said.stdout)
            .iter()
            .map(Came::number)
            .collect();
        numbers.sort_unstable();
        let expected = (0..50).chain(100..120).chain(200..220);
        assert!(
            numbers.iter().copied().eq(expected),
            "{left:?}: {numbers:?}"
        );
    }
}
