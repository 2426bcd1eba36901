//! Captures with known contents (`../shared/pcaps`), through packets, reassembly and HTTP.
//!
//! Whatever isn't listed must not be reported, in any file, and what must be reported has to be.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't read its input has to fail"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reprise_listener::edge::{Edge, EdgeEvent};
use reprise_listener::packet::{DecodeSettings, Decoder, Frame, LinkType};
use reprise_listener::reassembly::{Answers, Ports, Reassembler, Settings};
use reprise_traffic::exchange::Captured;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there", folder.display());
    None
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

/// The requests to `ports`, or to any, in a capture file.
fn requests(
    path: &Path,
    ports: Option<&BTreeSet<u16>>,
    answers: Answers,
    decoding: DecodeSettings,
) -> (Vec<Captured>, Arc<Edge>) {
    let edge = Arc::new(Edge::default());
    let mut found = Vec::new();
    let mut sink = |request| found.push(request);
    let settings = Settings {
        ports: ports.map_or(Ports::Any, |ports| {
            Ports::only(&ports.iter().copied().collect::<Vec<_>>())
        }),
        answers,
        ..Settings::default()
    };
    let mut reassembler = Reassembler::new(settings, edge.clone());
    let mut decoder = Decoder::new(decoding);
    let mut capture = pcap::Capture::from_file_with_precision(path, pcap::Precision::Nano).unwrap();
    let link = LinkType::from_number(capture.get_datalink().0);
    while let Ok(packet) = capture.next_packet() {
        let header = packet.header;
        let at = header.ts.tv_sec as u64 * 1_000_000_000 + header.ts.tv_usec as u64;
        let Some(link) = link else { break };
        let frame = Frame {
            link,
            at_ns: at,
            wire_len: header.len as usize,
            data: packet.data,
        };
        match decoder.decode(&frame) {
            Ok(segment) => reassembler.push(&segment, at, &mut sink),
            Err(reason) => edge.count(reason.into(), 1),
        }
    }
    reassembler.finish(&mut sink);
    assert_eq!(reassembler.held(), 0, "{}", path.display());
    assert_eq!(reassembler.connections(), 0);
    (found, edge)
}

/// A request as the lists have it.
fn row(request: &Captured) -> String {
    let latin1 = |bytes: &[u8]| bytes.iter().map(|b| char::from(*b)).collect::<String>();
    let headers: Vec<(String, String)> = request
        .head
        .headers()
        .map(|(name, value)| (name.to_owned(), latin1(value)))
        .collect();
    let hash: String = Sha256::digest(request.body.to_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!(
        "{} {} {} HTTP/1.{} {headers:?} {} {hash}",
        request.server,
        request.head.method(),
        latin1(request.head.target()),
        request.head.minor_version(),
        request.body.len(),
    )
}

fn listed_row(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    let headers: Vec<(String, String)> = serde_json::from_value(row["headers"].clone()).unwrap();
    format!(
        "{} {} {} {} {headers:?} {} {}",
        text("server"),
        text("method"),
        text("target"),
        text("version"),
        row["body_len"],
        text("body_sha256"),
    )
}

type ByClient<T> = BTreeMap<String, VecDeque<T>>;

/// What was reported and isn't listed, and how many rows that must be reported weren't.
fn compare(reported: &[Captured], listed: &[&Value]) -> (Vec<String>, usize) {
    let mut expected: ByClient<(bool, String)> = BTreeMap::new();
    for row in listed {
        let client = row["client"].as_str().unwrap().to_owned();
        let must = row["level"] == "must";
        expected
            .entry(client)
            .or_default()
            .push_back((must, listed_row(row)));
    }
    let (mut unlisted, mut missed) = (Vec::new(), 0);
    for request in reported {
        let row = row(request);
        let rows = expected.entry(request.client.to_string()).or_default();
        // In order within its connection: what was passed over is missing.
        match rows.iter().position(|(_, r)| *r == row) {
            Some(at) => missed += rows.drain(..=at).take(at).filter(|(must, _)| *must).count(),
            None => unlisted.push(row),
        }
    }
    missed += expected
        .values()
        .flatten()
        .filter(|(must, _)| *must)
        .count();
    (unlisted, missed)
}

fn check(any_port: bool, answers: Answers) {
    let Some(folder) = folder() else { return };
    let expected = lines(&folder.join("expected.jsonl"));
    let (mut unlisted, mut short) = (Vec::new(), Vec::new());
    let (mut musts, mut missed_in_all) = (0, 0);
    for file in lines(&folder.join("files.jsonl")) {
        let name = file["file"].as_str().unwrap();
        let ports = serde_json::from_value(file["ports"].clone()).unwrap();
        let ports = (!any_port).then_some(&ports);
        let decoding = DecodeSettings::default();
        let (reported, edge) = requests(&folder.join(name), ports, answers, decoding);
        let listed: Vec<&Value> = expected.iter().filter(|row| row["file"] == name).collect();
        let (extra, missed) = compare(&reported, &listed);
        unlisted.extend(extra.into_iter().map(|row| format!("{name}: {row}")));
        musts += file["must"].as_u64().unwrap();
        missed_in_all += missed;
        if missed > 0 {
            short.push(name.to_owned());
            let must = &file["must"];
            println!("{name}: {missed} of {must} missed, {:?}", edge.snapshot());
        }
    }
    println!("{missed_in_all} of {musts} requests that must be reported were not");
    assert_eq!(unlisted, Vec::<String>::new());
    assert_eq!(short, Vec::<String>::new());
}

#[test]
fn every_capture_gives_what_is_listed_and_nothing_else() {
    check(false, Answers::Watched);
}

#[test]
fn on_any_port_and_in_both_directions_the_same_is_found() {
    check(true, Answers::Watched);
}

#[test]
fn answers_that_are_kept_change_no_request() {
    check(false, Answers::Kept { max_body: 1000 });
    check(true, Answers::Kept { max_body: 1000 });
}

/// Written by libpcap as tcpdump would.
#[test]
fn of_some_vlans_only_their_requests_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vlans.pcap");
    let written = pcap::Capture::dead(pcap::Linktype::ETHERNET).unwrap();
    let mut written = written.savefile(&path).unwrap();
    for (n, (target, tags)) in (0..).zip([
        ("/untagged", &b"\x08\x00"[..]),
        ("/5", b"\x81\x00\x60\x05\x08\x00"),
        ("/6", b"\x81\x00\x00\x06\x08\x00"),
        ("/inner", b"\x88\xa8\x00\x07\x81\x00\x00\x05\x08\x00"),
    ]) {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut data = [&[2; 12][..], tags].concat();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000 + n, 80, 7, 1000)
            .ack(9)
            .write(&mut data, request.as_bytes())
            .unwrap();
        let length = data.len() as u32;
        let header = pcap::PacketHeader {
            ts: libc::timeval {
                tv_sec: 1_700_000_000 + i64::from(n),
                tv_usec: 0,
            },
            caplen: length,
            len: length,
        };
        written.write(&pcap::Packet::new(&header, &data));
    }
    drop(written);
    for (vlans, expected) in [
        (&[][..], &["/untagged", "/5", "/6", "/inner"][..]),
        (&[5], &["/5", "/inner"]),
        (&[6, 8], &["/6"]),
        (&[4], &[]),
    ] {
        let decoding = DecodeSettings {
            vlans: vlans.to_vec(),
            ..DecodeSettings::default()
        };
        let (found, edge) = requests(&path, None, Answers::Watched, decoding);
        let targets: Vec<&[u8]> = found.iter().map(|request| request.head.target()).collect();
        let expected: Vec<&[u8]> = expected.iter().map(|target| target.as_bytes()).collect();
        assert_eq!(targets, expected, "{vlans:?}");
        let others = edge.get(EdgeEvent::OtherNetwork) as usize;
        assert_eq!(others, 4 - expected.len(), "{vlans:?}");
    }
}
