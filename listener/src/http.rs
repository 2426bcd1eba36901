//! The bytes that a client sent on one connection, and the requests in them (RFC 9112).
//!
//! What enters: the bytes in order, in pieces of any size, with their time; gaps; the connection's end.
//! What leaves: [`Event`]s, above all whole requests.
//! What may be lost: requests that lack bytes, are too large or bear the marker, each with its cause; and all
//! that follows the first byte whose meaning is a matter of opinion. Nothing is guessed.

mod event;
mod head_scan;

use bytes::Bytes;
use reprise_traffic::MARKER;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing};
use reprise_traffic::head::Head;

pub use event::{Event, Incomplete, Message, Refusal, Skip};
pub(crate) use head_scan::{Begin, request_begin};
use head_scan::{HeadScan, Scan};

/// A longer head is refused. Servers refuse at 8 KiB (Apache) to 32 KiB (nginx).
pub const MAX_HEAD: usize = 64 * 1024;

/// What is reserved for a body when its first byte arrives; later it doubles. Announced lengths are mere words.
const FIRST_RESERVE: usize = 64 * 1024;

/// What is known about a connection after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterGap {
    /// Where the next request begins.
    GoesOn,
    /// Nothing: bodies contain what looks like requests.
    Lost,
    /// That no request follows.
    Over,
}

/// Finds the requests in what a client sends on one connection.
#[derive(Debug)]
pub struct RequestParser {
    /// Bytes of head and body together, over which a request is skipped.
    max_exchange: usize,
    state: State,
    /// What came before on this connection decides how strictly the next byte is judged.
    before: Before,
    /// The first byte of the current request, unix nanoseconds.
    started_ns: u64,
    /// The part of a head that came in earlier pieces.
    head: Vec<u8>,
    scan: HeadScan,
    judged: Judged,
}

#[derive(Debug)]
enum State {
    /// Between requests; whether the first byte of an empty line was taken.
    Between {
        after_cr: bool,
    },
    Head,
    Body(Box<Partial>),
    Done,
}

/// How much of the request line was found to be as it should be; no byte is judged over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Nothing,
    Method,
    Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Requests,
    Upgrade,
    Rubbish,
}

/// A request whose head is complete.
#[derive(Debug)]
struct Partial {
    head: Head,
    fate: Fate,
    rest: Rest,
    body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Skip(Skip),
    /// Incomplete, and counted as such.
    Spoiled,
}

#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(ChunkedDecoder),
}

impl RequestParser {
    /// For a connection that begins. Requests over `max_exchange` bytes will be skipped.
    pub fn new(max_exchange: usize) -> RequestParser {
        RequestParser {
            max_exchange,
            state: State::Between { after_cr: false },
            before: Before::Nothing,
            started_ns: 0,
            head: Vec::new(),
            scan: HeadScan::default(),
            judged: Judged::Nothing,
        }
    }

    /// Takes the next bytes of the connection, which arrived at `at_ns`.
    pub fn push(&mut self, bytes: &[u8], at_ns: u64, sink: &mut impl FnMut(Event)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.state {
                State::Between { .. } => self.push_between(rest, at_ns),
                State::Head => self.push_head(rest, sink),
                State::Body(_) => self.push_body(rest, sink),
                State::Done => return,
            };
            match taken {
                Ok(taken) => rest = &rest[taken..],
                Err(refusal) => {
                    if refusal == Refusal::NotHttp {
                        self.before = Before::Rubbish;
                    }
                    self.stop();
                    sink(Event::Refused(refusal));
                }
            }
        }
    }

    /// `missing` bytes will never come.
    pub fn gap(&mut self, missing: u64, sink: &mut impl FnMut(Event)) -> AfterGap {
        if let State::Body(partial) = &mut self.state
            && let Rest::Length(left) = &mut partial.rest
            && missing <= *left
        {
            *left -= missing;
            let complete = *left == 0;
            partial.spoil(Incomplete::Gap, sink);
            if complete {
                self.finish(sink);
            }
            return match self.state {
                State::Done => AfterGap::Over,
                _ => AfterGap::GoesOn,
            };
        }
        if matches!(self.state, State::Between { .. }) {
            // Whatever lay in the gap, it wasn't reported.
            sink(Event::Incomplete(Incomplete::Gap));
        }
        self.close(Incomplete::Gap, sink)
    }

    /// The connection ended, or is given up. Tells what is known in case that it goes on.
    pub fn close(&mut self, cause: Incomplete, sink: &mut impl FnMut(Event)) -> AfterGap {
        let mut tunnel = self.before == Before::Upgrade;
        let counted = match &self.state {
            State::Done => return AfterGap::Over,
            State::Between { .. } => true,
            State::Head => false,
            State::Body(partial) => {
                tunnel |= may_switch(&partial.head);
                partial.fate == Fate::Spoiled
            }
        };
        self.stop();
        if !counted {
            sink(Event::Incomplete(cause));
        }
        if tunnel {
            AfterGap::Over
        } else {
            AfterGap::Lost
        }
    }

    /// True when nothing that follows on this connection can be a request.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// True when the connection's first bytes were no request.
    pub fn is_no_http(&self) -> bool {
        self.before == Before::Rubbish
    }

    /// True when a head has begun and isn't complete.
    pub fn is_within_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// True when a request has begun and isn't complete.
    pub fn is_within_request(&self) -> bool {
        matches!(self.state, State::Head | State::Body(_))
    }

    /// Bytes on the heap.
    pub fn held(&self) -> usize {
        let partial = match &self.state {
            State::Body(partial) => {
                size_of::<Partial>() + partial.head.raw().len() + partial.body.capacity()
            }
            _ => 0,
        };
        self.head.capacity() + partial
    }

    fn stop(&mut self) {
        self.state = State::Done;
        self.head = Vec::new();
    }

    fn push_between(&mut self, bytes: &[u8], at_ns: u64) -> Result<usize, Refusal> {
        let State::Between { after_cr } = &mut self.state else {
            return Ok(0);
        };
        // RFC 9112 §2.2: empty lines before a request line are ignored.
        match (*after_cr, bytes[0]) {
            (false, b'\r') if self.before != Before::Upgrade => {
                *after_cr = true;
                Ok(1)
            }
            (true, b'\n') => {
                *after_cr = false;
                Ok(1)
            }
            (true, _) => Err(self.not_a_request(Refusal::MalformedHead)),
            (false, _) => {
                self.started_ns = at_ns;
                self.scan = HeadScan::default();
                self.judged = Judged::Nothing;
                self.state = State::Head;
                Ok(0)
            }
        }
    }

    fn push_head(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<usize, Refusal> {
        let scan = self.scan.push(bytes);
        let taken = match scan {
            Scan::More => bytes.len(),
            Scan::End(taken) | Scan::BareLineFeed(taken) => taken,
        };
        // Whole heads in one piece, nearly all, are copied once and into the right size.
        let raw = if self.head.is_empty() && matches!(scan, Scan::End(_)) {
            Bytes::copy_from_slice(&bytes[..taken])
        } else {
            let room = MAX_HEAD + 1 - self.head.len();
            self.head.extend_from_slice(&bytes[..taken.min(room)]);
            let line_is_complete =
                self.scan.has_first_line() || matches!(scan, Scan::BareLineFeed(_));
            self.judge_line(line_is_complete)?;
            match scan {
                Scan::More if self.head.len() <= MAX_HEAD => return Ok(taken),
                Scan::BareLineFeed(_) => return Err(Refusal::BareLineFeed),
                _ => Bytes::from(std::mem::take(&mut self.head).into_boxed_slice()),
            }
        };
        if raw.len() > MAX_HEAD {
            return Err(self.not_a_request(Refusal::HeadTooLarge));
        }
        let head = Head::parse(raw.clone()).map_err(|error| match request_begin(&raw) {
            Begin::Yes => Refusal::from(error),
            _ => self.not_a_request(Refusal::MalformedHead),
        })?;
        self.begin_body(head, taken < bytes.len(), sink)?;
        Ok(taken)
    }

    /// Refuses what is no HTTP early, before up to [`MAX_HEAD`] bytes of it are held.
    fn judge_line(&mut self, line_is_complete: bool) -> Result<(), Refusal> {
        let judge = match self.judged {
            Judged::Nothing => true,
            Judged::Method => line_is_complete,
            Judged::Line => false,
        };
        if judge {
            self.judged = match request_begin(&self.head) {
                Begin::No => return Err(self.not_a_request(Refusal::MalformedHead)),
                Begin::Unsure => Judged::Nothing,
                Begin::Likely | Begin::Odd => Judged::Method,
                Begin::Yes => Judged::Line,
            };
        }
        Ok(())
    }

    fn not_a_request(&self, otherwise: Refusal) -> Refusal {
        match self.before {
            Before::Nothing => Refusal::NotHttp,
            Before::Upgrade => Refusal::Upgraded,
            Before::Requests | Before::Rubbish => otherwise,
        }
    }

    fn begin_body(
        &mut self,
        head: Head,
        more_follows: bool,
        sink: &mut impl FnMut(Event),
    ) -> Result<(), Refusal> {
        let framing = framing::of_request(&head)?;
        let mut fate = Fate::Keep;
        if head.header(MARKER).is_some() {
            fate = Fate::Skip(Skip::Marked);
        } else if let Framing::Length(length) = framing
            && length.saturating_add(head.raw().len() as u64) > self.max_exchange as u64
        {
            fate = Fate::Skip(Skip::TooLarge);
        }
        let rest = match framing {
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(ChunkedDecoder::default()),
            // Never said of requests.
            Framing::UntilClose => return Err(Refusal::BadLength),
        };
        if let Rest::Length(0) = rest {
            self.state = State::Between { after_cr: false };
            self.complete(head, fate, Bytes::new(), Bytes::new(), sink);
            return Ok(());
        }
        if !more_follows && expects_continue(&head) {
            sink(Event::Continue);
        }
        self.state = State::Body(Box::new(Partial {
            head,
            fate,
            rest,
            body: Vec::new(),
        }));
        Ok(())
    }

    fn push_body(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<usize, Refusal> {
        let max_exchange = self.max_exchange;
        let State::Body(partial) = &mut self.state else {
            return Ok(0);
        };
        let Partial {
            head,
            fate,
            rest,
            body,
        } = partial.as_mut();
        let (taken, complete) = match rest {
            Rest::Length(left) => {
                let taken = (*left).min(bytes.len() as u64) as usize;
                if *fate == Fate::Keep {
                    let whole = (body.len() as u64 + *left) as usize;
                    reserve(body, taken, whole);
                    body.extend_from_slice(&bytes[..taken]);
                }
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Rest::Chunked(decoder) => {
                let max_body = max_exchange.saturating_sub(head.raw().len());
                let taken = decoder.push(bytes, |data| {
                    if *fate != Fate::Keep {
                        return;
                    }
                    if body.len() + data.len() > max_body {
                        *fate = Fate::Skip(Skip::TooLarge);
                        *body = Vec::new();
                        return;
                    }
                    body.extend_from_slice(data);
                })?;
                (taken, decoder.is_done())
            }
        };
        if complete {
            self.finish(sink);
        }
        Ok(taken)
    }

    /// The body is complete.
    fn finish(&mut self, sink: &mut impl FnMut(Event)) {
        let between = State::Between { after_cr: false };
        let State::Body(partial) = std::mem::replace(&mut self.state, between) else {
            return;
        };
        let partial = *partial;
        let trailers = match partial.rest {
            Rest::Length(_) => Bytes::new(),
            Rest::Chunked(decoder) => decoder.into_trailers().freeze(),
        };
        // Room that was reserved and not used would be held as long as the request.
        let body = Bytes::from(partial.body.into_boxed_slice());
        self.complete(partial.head, partial.fate, body, trailers, sink);
    }

    fn complete(
        &mut self,
        head: Head,
        fate: Fate,
        body: Bytes,
        trailers: Bytes,
        sink: &mut impl FnMut(Event),
    ) {
        self.before = match may_switch(&head) {
            true => Before::Upgrade,
            false => Before::Requests,
        };
        if head.method() == "CONNECT" {
            // Without the answer nobody knows whether a tunnel begins.
            self.stop();
        }
        match fate {
            Fate::Keep => sink(Event::Request(Message {
                captured_ns: self.started_ns,
                head,
                body,
                trailers,
            })),
            Fate::Skip(skip) => sink(Event::Skipped {
                skip,
                persistent: is_persistent(&head),
            }),
            Fate::Spoiled => {}
        }
    }
}

impl Partial {
    fn spoil(&mut self, cause: Incomplete, sink: &mut impl FnMut(Event)) {
        if self.fate != Fate::Spoiled {
            self.fate = Fate::Spoiled;
            self.body = Vec::new();
            sink(Event::Incomplete(cause));
        }
    }
}

/// Makes room for `more` bytes of a body that is said to have `whole`, with growth that is linear in what came.
fn reserve(body: &mut Vec<u8>, more: usize, whole: usize) {
    let needed = body.len() + more;
    if needed > body.capacity() {
        let room = needed.max(2 * body.capacity()).max(FIRST_RESERVE);
        body.reserve_exact(room.min(whole) - body.len());
    }
}

/// Whether the server may answer by changing the protocol.
fn may_switch(head: &Head) -> bool {
    head.method() == "CONNECT" || head.header("upgrade").is_some()
}

fn expects_continue(head: &Head) -> bool {
    head.minor_version() >= 1
        && head
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// Whether the connection of a request stays open after it (RFC 9112 §9.3).
pub fn is_persistent(head: &Head) -> bool {
    let has = |option: &[u8]| {
        head.headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(|b| *b == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(option))
    };
    !has(b"close") && (head.minor_version() >= 1 || has(b"keep-alive"))
}

#[cfg(test)]
mod tests;
