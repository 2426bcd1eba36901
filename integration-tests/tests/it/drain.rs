//! A clean stop of any part, under load, loses nothing and says what it flushed.

use std::time::{Duration, Instant};

use reprise_integration_tests::cluster::Stopped;
use reprise_integration_tests::load::Sent;
use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape, Staging};

use crate::arrivals::assert_none_twice;
use crate::fleet::{Fleet, REST, TARGET};
use crate::rig;

const RATE: u32 = 500;
/// From a request's first byte until the kernel has given its packets to the capture.
const CAPTURE_TIME: Duration = Duration::from_millis(500);

#[test]
fn relays_and_replayers_come_and_go_unnoticed() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let load = fleet.load(Shape::Post { size: 500 }, RATE);
    fleet.more(500);
    for name in ["relay1", "replayer1", "relay2", "replayer2"] {
        let stopped = fleet.cluster.stop(name).unwrap();
        assert_clean(name, &stopped);
        fleet.more(500);
        fleet.start_part(name);
        fleet.more(500);
    }
    let sent = load.stop().unwrap();
    let books = fleet.cluster.at_rest(sent.len() as u64, REST).unwrap();
    let account = books.account(TARGET);
    assert_eq!(account.replayed_total(), sent.len() as u64, "{account:?}");
    assert_eq!(fleet.staging.ids().len(), sent.len());
    assert_none_twice(&fleet.staging);
}

#[test]
fn a_listener_sends_what_it_has_captured() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let load = fleet.load(Shape::Post { size: 500 }, RATE);
    fleet.more(1000);
    let before = Instant::now();
    let stopped = fleet.cluster.stop("listener1").unwrap();
    let sent = load.stop().unwrap();
    assert_clean("listener1", &stopped);
    assert_all_before(before, &sent, &stopped, &fleet.staging);
}

#[test]
fn the_embedded_cluster_sends_what_it_has_captured() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let (production, staging) = (
        Nginx::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    let capture = format!("lo:{}", production.address().port());
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let to = [
        "--capture",
        &capture,
        "--to",
        &staging.url(),
        "--methods",
        "any",
    ];
    cluster.start(Role::Run, "run", &place, &to).unwrap();
    let mut load = Load::new(&place, production.address(), Shape::Get, u64::MAX);
    load.rate = Some(RATE);
    let load = load.start().unwrap();
    staging.until(1000, REST).unwrap();
    let before = Instant::now();
    let stopped = cluster.stop("run").unwrap();
    let sent = load.stop().unwrap();
    assert_clean("run", &stopped);
    assert_all_before(before, &sent, &stopped, &staging);
}

fn assert_clean(name: &str, stopped: &Stopped) {
    let Stopped { status, log } = stopped;
    assert!(status.success(), "{name} ended with {status}:\n{log}");
    assert!(!log.contains("panicked"), "{name}:\n{log}");
    assert!(
        log.contains("flushed"),
        "{name} doesn't say what it flushed:\n{log}"
    );
}

/// What was sent before the stop has arrived, once each; the summary's number is that of what arrived.
fn assert_all_before(stop: Instant, sent: &[Sent], stopped: &Stopped, staging: &Staging) {
    let ids = staging.ids();
    let early = sent.iter().filter(|sent| sent.at + CAPTURE_TIME < stop);
    let missing: Vec<u64> = early
        .map(|s| s.id)
        .filter(|id| !ids.contains_key(id))
        .collect();
    assert!(missing.is_empty(), "captured, but not sent on: {missing:?}");
    assert_none_twice(staging);
    let count = staging.count().to_string();
    assert!(
        stopped.log.contains(&count),
        "no {count} in\n{}",
        stopped.log
    );
}
