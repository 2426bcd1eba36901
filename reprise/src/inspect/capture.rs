//! From a capture file's packets to requests.
//!
//! What enters: packets. What leaves: requests, in order within each connection. What may be lost: see
//! [`reassembly`](reprise_listener::reassembly); all of it is counted.

use std::io;
use std::sync::Arc;

use reprise_listener::budget::Budget;
use reprise_listener::capture_file::{self, CaptureFile, NEVER, Packet};
use reprise_listener::edge::EdgeEvent;
use reprise_listener::packet::{DecodeSettings, Decoder, Frame};
use reprise_listener::reassembly::{Answers, Limits, Reassembler, Settings};
use reprise_traffic::exchange::Captured;

use super::source::Stream;
use super::summary::Summary;
use super::{Seen, Wanted};

/// Bytes of an answer's body that are kept, so that its checksum can be told.
const MAX_ANSWER: usize = 64 << 20;

/// Bytes of unfinished requests.
const MEMORY: usize = 1 << 30;

/// Time has no meaning, and memory is there for the asking; past these bounds requests are given up and counted.
fn limits() -> Limits {
    capture_file::without_hurry(Limits {
        max_exchange: 512 << 20,
        early: 256 << 20,
        connections: 1 << 20,
        idle: NEVER,
        closed: NEVER,
        ..Limits::default()
    })
}

/// Hands every request of a file to `found`.
///
/// # Errors
/// Those of `found`.
pub(super) fn requests(
    mut file: CaptureFile<Stream>,
    wanted: &Wanted,
    summary: &mut Summary,
    found: &mut impl FnMut(Seen) -> io::Result<()>,
) -> io::Result<()> {
    let answers = match wanted.answers {
        true => Answers::Kept {
            max_body: MAX_ANSWER,
        },
        false => Answers::Watched,
    };
    let settings = Settings {
        limits: limits(),
        ports: wanted.ports.clone(),
        answers,
        budget: Arc::new(Budget::new(MEMORY)),
        shed: None,
    };
    let mut reassembler = Reassembler::new(settings, summary.edge.clone());
    let mut decoder = Decoder::new(DecodeSettings {
        vni: wanted.vni.clone(),
        ..DecodeSettings::default()
    });
    let mut ready = Vec::new();
    loop {
        match file.next_packet() {
            Ok(Some(Packet::Frame(frame))) => {
                push(&frame, &mut decoder, &mut reassembler, summary, &mut ready);
            }
            Ok(Some(Packet::UnknownLink { number, wire_len })) => {
                summary.packet(wire_len);
                summary.unknown_link(number);
            }
            Ok(None) => break,
            Err(error) => {
                summary.stopped(&error);
                break;
            }
        }
        hand_over(&mut ready, summary, found)?;
    }
    reassembler.finish(&mut |request| ready.push(request));
    let fragments = decoder.finish();
    summary.edge.count(EdgeEvent::Fragments, fragments);
    hand_over(&mut ready, summary, found)
}

fn push(
    frame: &Frame<'_>,
    decoder: &mut Decoder,
    reassembler: &mut Reassembler,
    summary: &Summary,
    ready: &mut Vec<Captured>,
) {
    summary.packet(frame.wire_len);
    match decoder.decode(frame) {
        Ok(segment) => reassembler.push(&segment, frame.at_ns, &mut |request| ready.push(request)),
        Err(reason) => summary.edge.count(EdgeEvent::from(reason), 1),
    }
}

fn hand_over(
    ready: &mut Vec<Captured>,
    summary: &mut Summary,
    found: &mut impl FnMut(Seen) -> io::Result<()>,
) -> io::Result<()> {
    for request in ready.drain(..) {
        summary.request(request.answer.is_some());
        found(Seen {
            ends: Some((request.client, request.server)),
            at_ns: request.captured_ns,
            head: request.head,
            body: request.body,
            answer: request.answer,
        })?;
    }
    Ok(())
}
