//! Every command line that GoReplay's guides have, with hosts and ports changed to real ones: what arrives at the far end, how
//! much of it, how fast. Each is run as it is written there, with `true` behind flags that stand alone, and Go's way.
//!
//! Three are missing: those with Elasticsearch and Kafka (36 to 38) are in `tests/services`.

mod live;
mod paced;
mod relayed;
mod requests;
mod tuning;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use reprise_integration_tests::load::Sent;
use reprise_integration_tests::{Load, Place, Shape, Staging};
use tempfile::TempDir;

use super::records::Came;
use super::run::{Job, LIMIT, Style, beside_each_other};
use crate::rig;

/// A line's number in the guides, and what must come of it.
type Line = (u8, fn(Style));

/// Those whose time counts have the machine to themselves.
fn run(lines: &[Line]) {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let jobs = lines.iter().flat_map(|(number, line)| {
        Style::ALL.map(|style| -> Job<'_> {
            (
                format!("line {number}, {style:?}"),
                Box::new(move || line(style)),
            )
        })
    });
    beside_each_other(jobs.collect());
}

#[test]
fn live_lines() {
    run(live::LINES);
}

#[test]
fn lines_of_a_listener_and_a_replay_server() {
    run(relayed::LINES);
}

#[test]
fn lines_with_a_pace_of_their_own() {
    paced::LINES.into_iter().for_each(run);
}

#[test]
fn lines_that_filter_and_rewrite() {
    run(requests::LINES);
}

#[test]
fn lines_for_testing_and_tuning() {
    run(tuning::LINES);
}

#[test]
fn no_line_is_missing() {
    let all = [
        live::LINES,
        relayed::LINES,
        &paced::LINES.concat(),
        requests::LINES,
        tuning::LINES,
    ];
    let numbers: BTreeSet<u8> = all.concat().iter().map(|(number, _)| *number).collect();
    let expected: BTreeSet<u8> = (1..=35).chain(39..=43).collect();
    assert_eq!(numbers, expected);
}

/// A directory for what a line writes.
fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("reprise-gor-")
        .tempdir()
        .unwrap()
}

fn staging() -> Staging {
    Staging::start(&Place::loopback()).unwrap()
}

/// GETs to production, on a few connections.
fn load(production: &Staging, requests: u64) -> Vec<Sent> {
    load_to(production.address(), requests)
}

pub(crate) fn load_to(address: std::net::SocketAddr, requests: u64) -> Vec<Sent> {
    let mut load = Load::new(&Place::loopback(), address, Shape::Get, requests);
    load.connections = 5;
    load.run().unwrap()
}

/// Sends requests one after the other over one connection, each after the answer to the one before it.
fn ask(production: &Staging, requests: &[Vec<u8>]) {
    let mut connection = TcpStream::connect(production.address()).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    for request in requests {
        connection.write_all(request).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
    }
}

/// The records are those of the requests that were sent, once each, byte for byte.
fn assert_recorded(sent: &[Sent], mut came: Vec<Came>) {
    came.sort_by_key(Came::number);
    let there: Vec<u64> = came.iter().map(Came::number).collect();
    let all: Vec<u64> = sent.iter().map(|sent| sent.id).collect();
    assert_eq!(there, all);
    for (sent, came) in sent.iter().zip(&came) {
        assert_eq!((came.kind, came.latency_ns), (1, -1));
        let text = String::from_utf8_lossy;
        assert_eq!(text(&came.payload), text(&sent.head));
    }
    let ids: BTreeSet<&str> = came.iter().map(|came| &*came.id).collect();
    assert_eq!(ids.len(), came.len(), "an id stands twice");
}
