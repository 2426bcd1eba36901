//! The harness itself: what the other modules rely on.

use std::time::{Duration, Instant};

use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Load, Nginx, Place, Shape, Staging, http, load};

use crate::rig;

#[test]
fn staging_records_what_was_sent() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let staging = Staging::start(&place).unwrap();
    for shape in [
        Shape::Get,
        Shape::Post { size: 10_000 },
        Shape::Post { size: 1_000_000 },
    ] {
        let before = staging.count();
        let sent = Load::new(&place, staging.address(), shape, 60)
            .run()
            .unwrap();
        let mut received = staging.received().split_off(before);
        received.sort_by_key(|received| received.id());
        assert_eq!((sent.len(), received.len()), (60, 60));
        for (sent, received) in sent.iter().zip(&received) {
            assert_eq!(received.id(), Some(sent.id));
            assert_eq!(received.head, sent.head);
            assert_eq!(received.body_sha256, sent.body_sha256);
            assert_eq!(received.header("x-twice"), ["1", "2"]);
        }
    }
    assert!(staging.ids().values().all(|times| *times == 1));
}

#[test]
fn staging_is_slow_or_silent_when_told() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let staging = Staging::start(&place).unwrap();
    staging.behave(Behaviour::Slow(Duration::from_millis(200)));
    let start = Instant::now();
    http::get(&place, staging.address(), "/").unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200));

    staging.behave(Behaviour::Silent);
    let load = Load::new(&place, staging.address(), Shape::Get, 1)
        .start()
        .unwrap();
    staging.until(2, Duration::from_secs(5)).unwrap();
    staging.behave(Behaviour::Answer(hyper::StatusCode::NOT_FOUND));
    assert_eq!(load.join().unwrap()[0].status, 404);
}

#[test]
fn nginx_logs_each_request_line_and_reads_each_body() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let nginx = Nginx::start(&place).unwrap();
    load::hey(&place, &format!("{}/a%20b?c=%2F", nginx.url()), 2000, 50).unwrap();
    let lines = nginx.request_lines(2000).unwrap();
    assert_eq!(lines.len(), 2000);
    assert!(
        lines
            .iter()
            .all(|line| line == b"GET /a%20b?c=%2F HTTP/1.1")
    );

    for shape in [Shape::Get, Shape::Post { size: 1_000_000 }] {
        let before = nginx.request_lines(0).unwrap().len();
        let sent = Load::new(&place, nginx.address(), shape, 100)
            .run()
            .unwrap();
        assert!(sent.iter().all(|sent| sent.status == 200));
        let lines = nginx.request_lines(before + 100).unwrap();
        let mut logged = lines[before..].to_vec();
        let line = |head: &[u8]| head.split(|b| *b == b'\r').next().unwrap().to_vec();
        let mut expected: Vec<_> = sent.iter().map(|sent| line(&sent.head)).collect();
        logged.sort();
        expected.sort();
        assert_eq!(logged, expected);
    }
}

#[test]
fn load_keeps_its_rate() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let staging = Staging::start(&place).unwrap();
    let start = Instant::now();
    let mut load = Load::new(&place, staging.address(), Shape::Get, 1000);
    load.rate = Some(1000);
    load.run().unwrap();
    let took = start.elapsed();
    let expected = Duration::from_millis(900)..Duration::from_millis(1900);
    assert!(expected.contains(&took), "{took:?}");
}

#[test]
fn hosts_reach_each_other_until_a_cable_is_pulled() {
    let _alone = rig::alone();
    let Some(hosts) = rig::hosts(&["web", "stage"]) else {
        return;
    };
    let (web, stage) = (hosts.place("web").unwrap(), hosts.place("stage").unwrap());
    let staging = Staging::start(&stage).unwrap();
    let nginx = Nginx::start(&stage).unwrap();
    assert_eq!(http::get(&web, staging.address(), "/").unwrap().0, 200);
    assert_eq!(http::get(&web, nginx.address(), "/").unwrap().0, 200);
    // Something on the machine's own network may answer to the address, but not this server.
    let _ = http::get(&Place::loopback(), staging.address(), "/");
    assert_eq!(staging.count(), 1);
    let load = Load::new(&web, staging.address(), Shape::Get, 200)
        .run()
        .unwrap();
    assert_eq!(load.len(), 200);

    hosts.cable("stage", false).unwrap();
    assert!(http::get(&web, staging.address(), "/").is_err());
    hosts.cable("stage", true).unwrap();
    assert_eq!(http::get(&web, staging.address(), "/").unwrap().0, 200);
}
