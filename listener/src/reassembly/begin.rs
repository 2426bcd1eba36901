//! Where a request begins, when the bytes before it weren't all read.
//!
//! What enters: what the client acknowledges, what the server says, the first bytes that were seen. What leaves: whether a
//! segment that looks like a request is one. What may be lost: requests that can't be told from a body.
//!
//! Bodies hold what looks like requests too. But a client that waits for each answer has sent a request whole when it
//! receives the answer, and the server sent that when it had received all up to the request's end. So the bytes that a
//! request acknowledges for the first time have to be those that the server said when it had all up to there. Where the
//! server isn't heard, they may be the answer to a request before the one whose head was lost, and the segment a part of
//! its body; that is ruled out only if the bytes right before were seen, acknowledging less.

use super::pending::Pending;
use super::place::is_more;
use crate::http::{Begin, request_begin};

/// Bytes in which a request line is looked for that comes in many small segments.
const MAX_FIRST_LINE: usize = 8 * 1024;

/// RFC 9110 §9.3 and RFC 5789.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
];

/// Bytes of a `100 Continue` as servers send it, which no request follows.
const CONTINUE: u32 = b"HTTP/1.1 100 Continue\r\n\r\n".len() as u32;

/// Whether a request begins at a segment's first byte, for all that is known without the bytes before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nothing says so.
    #[default]
    None,
    /// Yes, if the bytes right before it were seen: its sender had received more since.
    BehindSeen,
    /// Yes.
    Certain,
}

/// How far a client has received what the server sent.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// The highest acknowledgement.
    until: Option<u32>,
    has_grown: bool,
    /// The last that the server was heard to say.
    heard: Option<Heard>,
}

/// Bytes from the server.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Number behind the last of them.
    end: u32,
    /// What it had received when it sent them first.
    acknowledged: u32,
}

impl Received {
    /// The highest acknowledgement.
    pub(super) fn until(&self) -> Option<u32> {
        self.until
    }

    /// Whether that grew since the first segment: a SYN isn't overtaken by a whole exchange.
    pub(super) fn has_grown(&self) -> bool {
        self.has_grown
    }

    /// The client acknowledges `number`.
    pub(super) fn acknowledge(&mut self, number: u32) {
        if self.is_less_than(number) {
            self.has_grown |= self.until.is_some();
            self.until = Some(number);
        }
    }

    /// The server sent bytes up to the number `end`, having received what it acknowledges.
    pub(super) fn hear(&mut self, end: u32, acknowledged: u32) {
        if self.heard.is_none_or(|heard| is_more(end, heard.end)) {
            self.heard = Some(Heard { end, acknowledged });
        }
    }

    /// The server sent an interim answer up to a number. Who acknowledges that goes on with a body.
    pub(super) fn expect_body_behind(&mut self, number: u32) {
        if self.until.is_some() && self.is_less_than(number) {
            self.until = Some(number);
        }
    }

    /// What says that a request begins with the segment at `start`, which looks like one and acknowledges `number`.
    pub(super) fn evidence(&self, start: u64, number: u32) -> Evidence {
        let Some(before) = self.until else {
            return Evidence::None;
        };
        match self.heard {
            _ if !self.is_less_than(number) => Evidence::None,
            Some(heard) if heard.end == number => match heard.acknowledged == start as u32 {
                true => Evidence::Certain,
                false => Evidence::None,
            },
            _ if number.wrapping_sub(before) == CONTINUE => Evidence::None,
            _ => Evidence::BehindSeen,
        }
    }

    fn is_less_than(&self, number: u32) -> bool {
        self.until.is_none_or(|until| is_more(number, until))
    }
}

/// Whether a connection's first segments, none of which holds a request line, have one between them.
pub(super) fn is_request_in_pieces(first: &Pending) -> bool {
    let mut text = Vec::new();
    let mut end = None;
    for (place, run) in first.iter() {
        if end.is_some_and(|end| end != place) || text.len() > MAX_FIRST_LINE {
            break;
        }
        text.extend_from_slice(&run.bytes);
        end = Some(place + run.bytes.len() as u64);
        match request_begin(&text) {
            // The end of a body and the beginning of a method make up another method.
            Begin::Yes | Begin::Likely => return METHODS.iter().any(|m| text.starts_with(m)),
            Begin::No => return false,
            Begin::Odd | Begin::Unsure => {}
        }
    }
    false
}
