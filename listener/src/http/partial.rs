//! A request that has begun and isn't complete.
//!
//! What enters: the bytes of a head, pieces of a body. What leaves: what is known so far, and how it will end. What may be
//! lost: nothing; the parser bounds both.

use reprise_traffic::BodyMut;
use reprise_traffic::framing::ChunkedDecoder;
use reprise_traffic::head::Head;

use super::head_scan::{Begin, HeadScan, request_begin};
use super::{Arrival, Event, Incomplete, Skip, Verdict};

/// A head that came in several pieces.
#[derive(Debug)]
pub(super) struct PartialHead {
    /// The first byte.
    pub(super) began: Arrival,
    pub(super) bytes: Vec<u8>,
    pub(super) scan: HeadScan,
    pub(super) judged: Judged,
}

/// How much of the request line was found to be as it should be; no byte is judged over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    Nothing,
    Method,
    Line,
}

/// A request whose head is complete.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) began_ns: u64,
    pub(super) head: Head,
    pub(super) fate: Fate,
    pub(super) rest: Rest,
    pub(super) body: BodyMut,
    /// What the server answered before the body was complete, or before the capture showed it.
    pub(super) verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Skip(Skip),
    /// Incomplete, and counted as such.
    Spoiled,
}

#[derive(Debug)]
pub(super) enum Rest {
    Length(u64),
    Chunked(ChunkedDecoder),
}

impl PartialHead {
    /// Whether the part that is there asks for a tunnel or another protocol.
    pub(super) fn may_switch(&self) -> bool {
        let mut lines = self.bytes.split(|b| *b == b'\n').skip(1);
        self.bytes.starts_with(b"CONNECT ")
            || lines.any(|line| {
                line.get(..8)
                    .is_some_and(|name| name.eq_ignore_ascii_case(b"upgrade:"))
            })
    }

    /// Whether this can be HTTP; what can't is refused early, before up to [`super::MAX_HEAD`] bytes of it are held.
    pub(super) fn judge_line(&mut self, line_is_complete: bool) -> bool {
        let judge = match self.judged {
            Judged::Nothing => true,
            Judged::Method => line_is_complete,
            Judged::Line => false,
        };
        if judge {
            self.judged = match request_begin(&self.bytes) {
                Begin::No => return false,
                Begin::Unsure => Judged::Nothing,
                Begin::Likely | Begin::Odd => Judged::Method,
                Begin::Yes => Judged::Line,
            };
        }
        true
    }
}

impl Partial {
    pub(super) fn spoil(&mut self, cause: Incomplete, sink: &mut impl FnMut(Event)) {
        if self.fate != Fate::Spoiled {
            self.fate = Fate::Spoiled;
            self.body = BodyMut::default();
            sink(Event::Incomplete(cause));
        }
    }
}

/// Whether the server may answer by changing the protocol.
pub(super) fn may_switch(head: &Head) -> bool {
    head.method() == "CONNECT" || head.header("upgrade").is_some()
}
