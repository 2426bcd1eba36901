//! One file or pipe, read request by request.
//!
//! What enters: packets (pcap, pcapng) or records (`.gor`), packed or not; the content tells which. What leaves:
//! whole requests as each is complete, and ends of connections behind theirs. What may be lost: requests that aren't
//! whole in the file, and what can't be read, counted at the edge; what lies behind the place where a file is cut off
//! or broken, which a warning names.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use reprise_traffic::Closed;
use reprise_traffic::exchange::Captured;
use reprise_traffic::gor::{self, Kind, Skipped};
use tracing::{info, warn};

use super::Records;
use super::answer;
use super::at_hand::AtHand;
use super::found::Found;
use super::pipe::{self, Stop};
use super::record::{self, Unfit};
use crate::capture_file::{self, CaptureFile, FileError, Packet, Peeked};
use crate::edge::{Edge, EdgeEvent};
use crate::packet::{DecodeSettings, Decoder, Frame, VniFilter};
use crate::reassembly::{self, Reassembler, Sink};
use crate::records;

type Stream = Peeked<Box<dyn BufRead>>;

/// Flaws of a file that are told one by one; the rest are only counted.
const TOLD: u64 = 10;

/// What is looked for in a file.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) reassembly: reassembly::Settings,
    pub(super) vni: VniFilter,
    pub(super) records: Records,
    pub(super) edge: Arc<Edge>,
    pub(super) stop: Arc<Stop>,
    /// Whether to say what is wrong with a file; it is counted in any case.
    pub(super) tells: bool,
}

/// A file or pipe that is being read.
pub(super) struct Recording {
    file: String,
    content: Content,
    ready: Ready,
    /// Of the record that the ready request was in.
    id: u64,
    wanted: Wanted,
    /// Requests so far.
    requests: u64,
    /// Records that were passed over.
    flaws: u64,
}

/// What was found and is yet to be handed on.
#[derive(Default)]
struct Ready {
    found: VecDeque<Found>,
    /// Requests among it.
    requests: u64,
}

impl Sink for Ready {
    fn take(&mut self, request: Captured) {
        self.requests += 1;
        self.found.push_back(Found::Request(request));
    }

    fn closed(&mut self, closed: Closed) {
        self.found.push_back(Found::Closed(closed));
    }
}

impl Ready {
    fn pop(&mut self) -> Option<Found> {
        let found = self.found.pop_front();
        self.requests -= u64::from(matches!(found, Some(Found::Request(_))));
        found
    }
}

enum Content {
    Packets(Box<Packets>),
    Records(Box<gor::Reader<Stream>>),
    Ended,
}

struct Packets {
    capture: CaptureFile<Stream>,
    decoder: Decoder,
    reassembler: Reassembler,
}

/// What a file is, by its first bytes.
enum Format {
    Capture(CaptureFile<Stream>),
    Records(Box<gor::Reader<Stream>>),
}

fn open(input: impl Read + 'static) -> anyhow::Result<Format> {
    let unpacked = capture_file::unpack(input)?;
    let (magic, stream) = capture_file::peek(unpacked).context("unpack it")?;
    if capture_file::is_capture(magic) {
        Ok(Format::Capture(CaptureFile::open(stream)?))
    } else if gor::is_recording(&magic) {
        Ok(Format::Records(Box::new(gor::Reader::new(stream))))
    } else if stream.get_ref().0.get_ref().is_empty() {
        bail!("it is empty")
    } else {
        bail!("neither a capture (pcap, pcapng) nor a recording (.gor)")
    }
}

/// Looks whether a file can be read, and when its first packet or request was captured, unix nanoseconds.
///
/// # Errors
/// One line, when it can't be read, or is something else.
pub(super) fn first_at(path: &Path) -> anyhow::Result<u64> {
    Ok(match open(std::fs::File::open(path)?)? {
        Format::Capture(mut capture) => match capture.next_packet() {
            Ok(Some(Packet::Frame(frame))) => frame.at_ns,
            // Whatever is wrong with it is told when its turn comes.
            _ => 0,
        },
        Format::Records(mut records) => match records.next_record() {
            Ok(Some(Ok(record))) => record.timestamp_ns,
            _ => 0,
        },
    })
}

impl Recording {
    /// Opens a file, a pipe or standard input.
    ///
    /// # Errors
    /// One line, when it can't be read, or is something else.
    pub(super) fn open(path: &Path, wanted: &Wanted) -> anyhow::Result<Recording> {
        let is_pipe = pipe::is_pipe(path)?;
        let input = pipe::open(path, &wanted.stop)?;
        let content = match open(input)? {
            Format::Capture(capture) => {
                let mut settings = wanted.reassembly.clone();
                if !is_pipe {
                    settings.limits = capture_file::without_hurry(settings.limits);
                }
                let decoding = DecodeSettings {
                    vni: wanted.vni.clone(),
                    ..DecodeSettings::default()
                };
                Content::Packets(Box::new(Packets {
                    capture,
                    decoder: Decoder::new(decoding),
                    reassembler: Reassembler::new(settings, wanted.edge.clone()),
                }))
            }
            Format::Records(records) => Content::Records(records),
        };
        let file = path.display().to_string();
        if wanted.tells {
            info!(file, "reading");
        }
        Ok(Recording {
            file,
            content,
            ready: Ready::default(),
            id: 0,
            wanted: wanted.clone(),
            requests: 0,
            flaws: 0,
        })
    }

    /// Bytes of requests that have begun and aren't whole.
    pub(super) fn held(&self) -> usize {
        match &self.content {
            Content::Packets(packets) => packets.reassembler.held(),
            _ => 0,
        }
    }

    /// The next whole request or end of a connection, with what a request's answer's record is known by; nothing at the end,
    /// or once told to stop. Answers in records that are passed on the way go to the requests at hand.
    ///
    /// # Errors
    /// When the system can't read on.
    pub(super) fn next(
        &mut self,
        mut at_hand: Option<&mut AtHand>,
    ) -> anyhow::Result<Option<(u64, Found)>> {
        loop {
            if let Some(found) = self.ready.pop() {
                self.requests += u64::from(matches!(found, Found::Request(_)));
                return Ok(Some((self.id, found)));
            }
            let more = match &mut self.content {
                Content::Ended => return Ok(None),
                _ if self.wanted.stop.is_asked() => Ok(false),
                Content::Packets(packets) => packets.step(&self.wanted, &mut self.ready),
                Content::Records(_) => self.step(at_hand.as_deref_mut()),
            };
            match more {
                Ok(true) => {}
                Ok(false) => self.end(None),
                Err(_) if self.wanted.stop.is_asked() => self.end(None),
                Err(Broken::Flawed(flaw)) => self.end(Some(flaw)),
                Err(Broken::Unreadable(error)) => {
                    self.end(None);
                    return Err(error);
                }
            }
        }
    }

    /// Reads a record; false at the end.
    fn step(&mut self, at_hand: Option<&mut AtHand>) -> Result<bool, Broken> {
        let Content::Records(records) = &mut self.content else {
            return Ok(false);
        };
        let max_exchange = self.wanted.reassembly.limits.max_exchange;
        let (_, at) = records.position();
        let flaw = match records.next_record() {
            Ok(None) => return Ok(false),
            Ok(Some(Err(Skipped { line, at, flaw }))) => {
                self.wanted.edge.count(EdgeEvent::BadRecord, 1);
                Some(format!(
                    "line {line}, byte {at}: a record is passed over: {flaw}"
                ))
            }
            Ok(Some(Ok(record))) if self.wanted.records == Records::Apart => {
                let line = record.line;
                match records::message(&record, max_exchange) {
                    Ok(message) => {
                        self.ready.take(message);
                        None
                    }
                    Err(event) => {
                        self.wanted.edge.count(event, 1);
                        Some(format!(
                            "line {line}, byte {at}: a record is passed over: {}",
                            event.as_str()
                        ))
                    }
                }
            }
            Ok(Some(Ok(record))) if record.kind != Kind::Request => {
                if record.kind == Kind::Answer
                    && let Some(at_hand) = at_hand
                {
                    at_hand.join(&record);
                }
                None
            }
            Ok(Some(Ok(record))) => {
                let line = record.line;
                let found = record::request(&record, max_exchange);
                match found.request {
                    Ok(message) => {
                        self.id = answer::id(&record);
                        self.ready.take(record::captured(&record, message));
                        found.has_more.then(|| {
                            self.wanted.edge.count(EdgeEvent::BadRecord, 1);
                            format!(
                                "line {line}, byte {at}: what stands behind the record's request is passed over"
                            )
                        })
                    }
                    Err(unfit) => {
                        let event = match unfit {
                            Unfit::Empty => EdgeEvent::BadRecord,
                            Unfit::For(event) => event,
                        };
                        self.wanted.edge.count(event, 1);
                        Some(format!(
                            "line {line}, byte {at}: the record is no request to replay: {}",
                            event.as_str()
                        ))
                    }
                }
            }
            // Packing that makes no sense, or ends too soon; what comes before it is good.
            Err(error) if is_flaw(&error) => {
                let (line, at) = records.position();
                let flaw = format!("line {line}, byte {at} unpacked: {error}");
                return Err(Broken::Flawed(flaw));
            }
            Err(error) => return Err(Broken::Unreadable(anyhow!(error))),
        };
        if let Some(flaw) = flaw {
            self.flaws += 1;
            if self.wanted.tells && self.flaws <= TOLD {
                warn!("{}: {flaw}", self.file);
            }
        }
        Ok(true)
    }

    /// Hands over what is whole, and says how far the file was read.
    fn end(&mut self, flaw: Option<String>) {
        if let Content::Packets(mut packets) = std::mem::replace(&mut self.content, Content::Ended)
        {
            packets.reassembler.finish(&mut self.ready);
            let fragments = packets.decoder.finish();
            self.wanted.edge.count(EdgeEvent::Fragments, fragments);
        }
        let (file, requests) = (&self.file, self.requests + self.ready.requests);
        if !self.wanted.tells {
            return;
        }
        if let Some(flaw) = flaw {
            warn!("{file}: {flaw}; what comes before is replayed");
        } else if self.wanted.stop.is_asked() {
            info!(file, requests, "stopped before its end");
        } else {
            info!(file, requests, "read to its end");
        }
        if self.flaws > TOLD {
            warn!("{file}: {} records were passed over in all", self.flaws);
        }
    }
}

/// Why reading ends before the end.
enum Broken {
    /// The file is wrong: where and how.
    Flawed(String),
    /// The system can't read on.
    Unreadable(anyhow::Error),
}

fn is_flaw(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(
        error.kind(),
        InvalidData | InvalidInput | UnexpectedEof | Other
    )
}

impl Packets {
    /// Reads a packet; false at the end.
    fn step(&mut self, wanted: &Wanted, ready: &mut Ready) -> Result<bool, Broken> {
        let seen = |wire_len: usize| {
            wanted.edge.count(EdgeEvent::Packets, 1);
            wanted.edge.count(EdgeEvent::Bytes, wire_len as u64);
        };
        match self.capture.next_packet() {
            Ok(None) => return Ok(false),
            Ok(Some(Packet::UnknownLink { wire_len, .. })) => {
                seen(wire_len);
                wanted.edge.count(EdgeEvent::Undecodable, 1);
            }
            Ok(Some(Packet::Frame(frame))) => {
                seen(frame.wire_len);
                take(
                    &frame,
                    &mut self.decoder,
                    &mut self.reassembler,
                    wanted,
                    ready,
                );
            }
            Err(error @ FileError::Io { .. }) => return Err(Broken::Unreadable(anyhow!(error))),
            Err(error) => return Err(Broken::Flawed(error.to_string())),
        }
        Ok(true)
    }
}

fn take(
    frame: &Frame<'_>,
    decoder: &mut Decoder,
    reassembler: &mut Reassembler,
    wanted: &Wanted,
    ready: &mut Ready,
) {
    match decoder.decode(frame) {
        Ok(segment) => reassembler.push(&segment, frame.at_ns, ready),
        Err(reason) => wanted.edge.count(reason.into(), 1),
    }
    wanted.edge.count(EdgeEvent::Fragments, decoder.lost());
}
