//! Recordings as a source: in order of time, at the pace that was asked for, whatever else is in the files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use reprise_integration_tests::staging::Received;
use reprise_integration_tests::{Cluster, Etcd, Load, Place, Role, Shape, Staging, eventually};

use crate::arrivals::assert_faithful;
use crate::fleet::{REST, target_key};
use crate::rig;
use crate::tape::{self, LIMIT, MS, assert_all, evenly, get, record, replay};

fn staging() -> Staging {
    Staging::start(&Place::loopback()).unwrap()
}

fn ids(received: &[Received]) -> Vec<u64> {
    received.iter().map(|r| r.id().unwrap()).collect()
}

/// What comes by default: production's order and pauses, over all files, whatever their order and packing.
#[test]
fn files_are_one_stream_in_order_of_time() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let mut files = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..300 {
        // All of one connection, so that the order at staging is that in which they left.
        files[n as usize % 3].extend(record(7, n, n * MS, &get(n, n)));
    }
    let plain = tape::write(dir.path(), "plain.gor", &files[0]);
    let gz = tape::pack("gzip", &tape::write(dir.path(), "a.gor", &files[1]));
    let zst = tape::pack("zstd", &tape::write(dir.path(), "b.gor", &files[2]));
    let staging = staging();
    let finished = replay(&[&zst, &plain, &gz], &staging.url(), &[]);
    assert_all(&finished, 300);
    let received = staging.received();
    assert_eq!(ids(&received), (0..300).collect::<Vec<_>>());
    for (n, received) in received.iter().enumerate() {
        let expected = String::from_utf8(get(n as u64, n as u64)).unwrap();
        let host = staging.address().to_string();
        let expected = expected.replace("shop.example", &host);
        let head = String::from_utf8(received.head.to_vec()).unwrap();
        let (kept, mark) = head.split_once("Reprise-Id: ").unwrap();
        assert_eq!(format!("{kept}\r\n"), expected);
        assert!(mark.ends_with("\r\n\r\n") && mark.matches("\r\n").count() == 2);
    }
}

/// Requests that are due at the same time, or microseconds apart, and so are sent as fast as they are answered.
#[test]
fn a_session_keeps_its_order_also_where_its_requests_are_due_together() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    for gap in [0, 1000] {
        let tape = tape::write(dir.path(), "burst.gor", &evenly(500, gap));
        let staging = staging();
        assert_all(&replay(&[&tape], &staging.url(), &[]), 500);
        assert_eq!(ids(&staging.received()), (0..500).collect::<Vec<_>>());
    }
}

/// No request leaves before it is due, so that a replay lasts as long as its schedule at least; and one that is hours long
/// ends at once where its pauses are cut or don't count.
#[test]
fn each_pace_takes_its_time_and_sends_what_it_should() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let short = tape::write(dir.path(), "short.gor", &evenly(21, 50 * MS));
    let hours = tape::write(dir.path(), "hours.gor", &evenly(5, 3_600_000 * MS));
    let one = tape::write(dir.path(), "one.gor", &evenly(1, 0));
    let cases: [(&Path, &[&str], &[u64], u64); 9] = [
        (&short, &[], &[21], 1000),
        (&short, &["--speed", "2"], &[21], 500),
        (&short, &["--rate", "100/s"], &[21], 200),
        (&short, &["--loop", "3", "--speed", "10"], &[63], 300),
        // Rising to 100 a second within a second and staying there for half of one: 50 and 50.
        (
            &short,
            &["--stages", "100/s:1s,100/s:500ms"],
            &[99, 100, 101],
            1400,
        ),
        (&hours, &["--speed", "max"], &[5], 0),
        (&hours, &["--max-gap", "50ms"], &[5], 200),
        (&one, &["--loop", "500ms"], &[1], 0),
        (
            &hours,
            &["--max-gap", "50ms", "--loop", "300ms"],
            &[6, 7],
            200,
        ),
    ];
    for (file, pace, counts, lasts_ms) in cases {
        let staging = staging();
        let began = Instant::now();
        let finished = replay(&[file], &staging.url(), pace);
        assert!(
            began.elapsed() >= Duration::from_millis(lasts_ms),
            "{pace:?}: {:?}",
            began.elapsed()
        );
        let came = staging.count() as u64;
        assert!(counts.contains(&came), "{pace:?}: {came}");
        assert_all(&finished, came);
        let passes = match file.file_name().unwrap().to_str().unwrap() {
            "short.gor" => 21,
            "hours.gor" => 5,
            _ => 1,
        };
        let expected: Vec<u64> = (0..came).map(|n| n % passes).collect();
        assert_eq!(ids(&staging.received()), expected, "{pace:?}");
    }
    // As often as it goes.
    let staging = staging();
    let finished = replay(
        &[&hours],
        &staging.url(),
        &["--speed", "max", "--loop", "200ms"],
    );
    assert_all(&finished, staging.count() as u64);
    assert!(staging.count() > 5, "{}", finished.stderr);
}

/// What is wrong with a file is said with its place, and costs no more than what is wrong.
#[test]
fn malformed_recordings_are_replayed_but_for_what_is_malformed() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let good = |n: u64| record(1, n, n * MS, &get(n, 1));
    let post = b"POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nid=9";
    let long = [
        b"GET /",
        &vec![b'x'; 66 << 20][..],
        b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    .concat();
    let large = [
        &b"POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 2097152\r\n\r\n"[..],
        &vec![b'x'; 2 << 20],
    ]
    .concat();
    let two = [get(8, 1), get(9, 1)].concat();
    let garbage: Vec<u8> = (0..=255_u8).cycle().take(3000).collect();
    let separator = reprise_traffic::gor::SEPARATOR;
    let middles: [(&str, Vec<u8>, &str); 7] = [
        ("body", record(1, 9, MS, post), "incomplete_closed_early"),
        (
            "garbage",
            [&garbage, separator].concat(),
            "a record is passed over",
        ),
        (
            "header",
            [b"1 2\n", separator].concat(),
            "fewer than 3 fields",
        ),
        ("long", record(1, 9, MS, &long), "over 65 MiB"),
        ("large", record(1, 9, MS, &large), "too_large"),
        ("two", record(1, 8, MS, &two), "behind the record's request"),
        ("empty", record(1, 9, MS, b""), "bad_record"),
    ];
    for (name, middle, reason) in &middles {
        let bytes = [good(1), middle.clone(), good(2), good(3)].concat();
        let file = tape::write(dir.path(), &format!("{name}.gor"), &bytes);
        let staging = staging();
        let more = ["--methods", "any", "--max-exchange", "1MiB"];
        let finished = replay(&[&file], &staging.url(), &more);
        let mut expected = vec![1, 2, 3];
        if *name == "two" {
            expected.insert(1, 8);
        }
        assert_all(&finished, expected.len() as u64);
        assert_eq!(ids(&staging.received()), expected, "{name}");
        let (line, byte) = (good(1).split(|b| *b == b'\n').count(), good(1).len());
        let place = format!("{name}.gor: line {line}, byte {byte}: ");
        let said = &finished.stderr;
        let told = said
            .lines()
            .filter(|l| l.contains(&place) && l.contains(reason));
        assert_eq!(told.count(), 1, "{name}: {place}{reason} isn't in\n{said}");
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn files_that_are_cut_off_or_packed_wrongly_are_replayed_up_to_there() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let whole = evenly(20, MS);
    let cut = tape::write(dir.path(), "cut.gor", &whole[..whole.len() - 60]);
    let plain = tape::write(dir.path(), "a.gor", &whole);
    let packed = fs::read(tape::pack("gzip", &plain)).unwrap();
    let torn = tape::write(dir.path(), "torn.gor.gz", &packed[..packed.len() - 30]);
    // A second member that is none.
    let wrong = [
        &packed[..],
        b"\x1f\x8b\x08\x00 this was never packed",
        &packed,
    ]
    .concat();
    let wrong = tape::write(dir.path(), "wrong.gor.gz", &wrong);
    for (file, least, most) in [(&cut, 19, 19), (&torn, 0, 19), (&wrong, 20, 20)] {
        let staging = staging();
        let finished = replay(&[file], &staging.url(), &[]);
        let came = staging.count() as u64;
        assert!((least..=most).contains(&came), "{came}");
        assert_all(&finished, came);
        assert_eq!(ids(&staging.received()), (0..came).collect::<Vec<_>>());
        let name = file.file_name().unwrap().to_str().unwrap();
        let said = &finished.stderr;
        let told = said
            .lines()
            .find(|line| line.contains(&format!("{name}: line ")));
        assert!(told.is_some_and(|line| line.contains(", byte ")), "{said}");
    }
}

#[test]
fn what_is_no_recording_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let good = tape::write(dir.path(), "good.gor", &evenly(3, MS));
    let notes = tape::write(dir.path(), "notes", b"remember the milk\n");
    let empty = tape::write(dir.path(), "empty.gor", b"");
    let missing = dir.path().join("missing.gor");
    let staging = staging();
    for (file, more, reason) in [
        (&notes, &[][..], "notes: neither a capture"),
        (&empty, &[], "empty.gor: it is empty"),
        (&missing, &[], "missing.gor: No such file"),
        (&dir.path().to_owned(), &[], "Is a directory"),
        (&good, &["--rate", "5/s", "--speed", "2"], "--speed"),
        (&good, &["--rate", "0/s"], "rate of 0"),
        (&good, &["--stages", "5/s:1s", "--loop", "2"], "--loop"),
        (
            &good,
            &["--read", "-", "--loop", "2"],
            "a pipe can't be read again",
        ),
        (&good, &["--read", "-", "--read", "-"], "once only"),
    ] {
        let finished = replay(&[&good, file], &staging.url(), more);
        let said = finished.stderr;
        assert_eq!(finished.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.contains(reason), "{reason:?} isn't in\n{said}");
    }
    assert_eq!(staging.count(), 0);
}

/// Many sessions at a time, over several relays and replayers.
#[test]
fn a_cluster_replays_each_session_in_order_and_nothing_twice() {
    const SESSIONS: u64 = 500;
    const REQUESTS: u64 = 40;
    let _alone = rig::alone();
    let place = Place::loopback();
    let dir = tempfile::tempdir().unwrap();
    // Each part of the recording has sessions of its own, and enters by a listener of its own.
    let mut files = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..SESSIONS * REQUESTS {
        let (session, number) = (n % SESSIONS, n / SESSIONS);
        let id = session * 1000 + number;
        let file = &mut files[session as usize % 3];
        file.extend(record(session, number, n * MS / 10, &get(id, session)));
    }
    let staging = staging();
    let etcd = Etcd::start(&place).unwrap();
    let document = format!(
        "url: {}\nsession_key: cookie:sid\nmax_age: 2m\n",
        staging.url()
    );
    etcd.put(&target_key("shop/staging"), &document).unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let url = etcd.url();
    let members = (1..=5).map(|n| (Role::Replayer, format!("replayer{n}")));
    let members = members.chain((1..=3).map(|n| (Role::Relay, format!("relay{n}"))));
    let members: Vec<(Role, String)> = members.collect();
    for (role, name) in &members {
        cluster
            .launch(*role, name, &place, &["--etcd", &url])
            .unwrap();
    }
    for (_, name) in &members {
        cluster.until_ready(name).unwrap();
    }
    let readers = ["reader0", "reader1", "reader2"];
    for (name, bytes) in readers.iter().zip(&files) {
        let file = tape::write(dir.path(), &format!("{name}.gor"), bytes);
        let file = file.to_str().unwrap();
        let arguments = ["--etcd", &url, "--read", file, "--speed", "max"];
        cluster
            .launch(Role::Listener, name, &place, &arguments)
            .unwrap();
    }
    for name in readers {
        let over = eventually("end of a reader", LIMIT, || {
            anyhow::ensure!(!cluster.is_running(name)?, "it runs");
            cluster.log(name)
        });
        let log = over.unwrap();
        assert!(log.contains("The ledger balances"), "{log}");
    }
    let mut sessions: HashMap<u64, Vec<u64>> = HashMap::new();
    for id in ids(&staging.received()) {
        sessions.entry(id / 1000).or_default().push(id % 1000);
    }
    assert_eq!(sessions.len() as u64, SESSIONS);
    let in_order: Vec<u64> = (0..REQUESTS).collect();
    for (session, came) in sessions {
        assert_eq!(came, in_order, "session {session}");
    }
}

/// From the wire into a file, and out of it to another server.
#[test]
fn what_was_captured_and_recorded_is_replayed_with_its_sessions() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let dir = tempfile::tempdir().unwrap();
    let tape = dir.path().join("shop.gor.gz");
    let (production, again) = (staging(), staging());
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let capture = format!("lo:{}", production.address().port());
    let file = tape.to_str().unwrap();
    let arguments = ["--capture", &capture, "--record", file, "--record-append"];
    cluster
        .start(Role::Run, "recorder", &place, &arguments)
        .unwrap();
    let mut sent = Vec::new();
    for shape in [Shape::Get, Shape::Post { size: 3000 }] {
        let mut load = Load::new(&place, production.address(), shape, 300);
        load.connections = 10;
        sent.extend(load.run().unwrap());
    }
    cluster.at_rest(600, REST).unwrap();
    assert!(cluster.stop("recorder").unwrap().status.success());

    let more = ["--methods", "any", "--speed", "max"];
    assert_all(&replay(&[&tape], &again.url(), &more), 600);
    assert_faithful(&sent, &again);
    let came: HashMap<u64, usize> = ids(&again.received()).into_iter().zip(0..).collect();
    let mut last: HashMap<usize, usize> = HashMap::new();
    for received in production.received() {
        let place = came[&received.id().unwrap()];
        let before = last.insert(received.connection, place);
        assert!(before < Some(place), "connection {}", received.connection);
    }
    assert_eq!(last.len(), 20);
}
