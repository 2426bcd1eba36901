//! The bytes that a client sent on one connection, and the requests in them (RFC 9112).
//!
//! What enters: the bytes in order, in pieces of any size, with their [`Arrival`]; gaps; the connection's end; whether
//! the server agreed to a tunnel or another protocol. What leaves: [`Event`]s, above all whole requests.
//! What may be lost: requests that lack bytes, are too large or bear the marker, each with its cause; and all
//! that follows the first byte whose meaning is a matter of opinion. Nothing is guessed.

mod answer;
mod event;
mod head_scan;
mod partial;

use bytes::Bytes;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing};
use reprise_traffic::head::Head;
use reprise_traffic::{Body, BodyMut, MARKER};

pub use answer::Asked;
pub(crate) use answer::{AfterAnswerGap, AnswerParser};
pub use event::{Arrival, Event, Incomplete, Message, Refusal, Skip};
pub(crate) use head_scan::{Begin, request_begin};

use head_scan::{HeadScan, MAX_METHOD, Scan};
use partial::{Fate, Judged, Partial, PartialHead, Rest, may_switch};

/// A longer head is refused. Servers refuse at 8 KiB (Apache, for each line) to 32 KiB (nginx) unless they are told otherwise.
pub const MAX_HEAD: usize = 256 * 1024;

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

/// What follows a request for a tunnel (`CONNECT`) or another protocol (`Upgrade`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switching {
    /// The server's answer isn't looked at: nothing is taken after a `CONNECT`; after an upgrade what is a request from
    /// its first byte.
    Guess,
    /// The parser takes nothing more until it is told by [`RequestParser::resolve`].
    Wait,
}

/// What the server answered to a request for a tunnel or another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It agreed.
    Switched,
    /// It went on with HTTP/1.
    Refused,
    /// Nobody saw; see [`Switching::Guess`].
    Unseen,
}

/// Finds the requests in what a client sends on one connection.
#[derive(Debug)]
pub struct RequestParser {
    /// Bytes of head and body together, over which a request is skipped.
    max_exchange: usize,
    state: State,
    /// What came before on this connection decides how strictly the next byte is judged.
    before: Before,
    switching: Switching,
    heads: u32,
    /// Bytes since the last request ended.
    under_way: u64,
}

#[derive(Debug)]
enum State {
    /// Between requests; whether the first byte of an empty line was taken.
    Between {
        after_cr: bool,
    },
    Head(Box<PartialHead>),
    Body(Box<Partial>),
    /// For the answer to a request for a tunnel, or for another protocol.
    Waiting {
        connect: bool,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Requests,
    Upgrade,
    Rubbish,
}

const BETWEEN: State = State::Between { after_cr: false };

impl RequestParser {
    /// For a connection that begins. Requests over `max_exchange` bytes will be skipped.
    pub fn new(max_exchange: usize, switching: Switching) -> RequestParser {
        RequestParser {
            max_exchange,
            state: BETWEEN,
            before: Before::Nothing,
            switching,
            heads: 0,
            under_way: 0,
        }
    }

    /// Takes the next bytes of the connection and returns their number: all, but while it waits for an answer.
    pub fn push(&mut self, bytes: &[u8], at: Arrival, sink: &mut impl FnMut(Event)) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.state {
                State::Between { .. } => self.push_between(rest, at, sink),
                State::Head(_) => self.push_head(rest, at, sink),
                State::Body(_) => self.push_body(rest, sink),
                State::Waiting { .. } => return bytes.len() - rest.len(),
                State::Done => return bytes.len(),
            };
            match taken {
                Ok(taken) => {
                    rest = &rest[taken..];
                    self.advance(taken as u64);
                }
                Err(refusal) => {
                    if refusal == Refusal::NotHttp {
                        self.before = Before::Rubbish;
                    }
                    self.state = State::Done;
                    sink(Event::Refused(refusal));
                }
            }
        }
        bytes.len()
    }

    /// The answer to the last request, which asked for a tunnel or another protocol. Without effect where it didn't.
    pub fn resolve(&mut self, verdict: Verdict) {
        if let State::Body(partial) = &mut self.state
            && may_switch(&partial.head)
            && verdict != Verdict::Unseen
        {
            partial.verdict = Some(verdict);
            return;
        }
        let State::Waiting { connect } = self.state else {
            if verdict == Verdict::Switched && self.before == Before::Upgrade {
                self.state = State::Done;
            }
            return;
        };
        (self.state, self.before) = match verdict {
            Verdict::Switched => (State::Done, Before::Upgrade),
            Verdict::Refused => (BETWEEN, Before::Requests),
            Verdict::Unseen if connect => (State::Done, Before::Upgrade),
            Verdict::Unseen => (BETWEEN, Before::Upgrade),
        };
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
            self.advance(missing);
            return match self.state {
                State::Done => AfterGap::Over,
                _ => AfterGap::GoesOn,
            };
        }
        if matches!(self.state, State::Between { .. } | State::Waiting { .. }) {
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
            State::Waiting { .. } => {
                tunnel = true;
                true
            }
            State::Head(partial) => {
                tunnel |= partial.may_switch();
                false
            }
            State::Body(partial) => {
                tunnel |= may_switch(&partial.head);
                partial.fate == Fate::Spoiled
            }
        };
        self.state = State::Done;
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
        matches!(self.state, State::Head(_))
    }

    /// True when a request has begun and isn't complete.
    pub fn is_within_request(&self) -> bool {
        matches!(self.state, State::Head(_) | State::Body(_))
    }

    /// True when a request has begun that isn't passed over.
    pub fn holds_request(&self) -> bool {
        match &self.state {
            State::Head(_) => true,
            State::Body(partial) => partial.fate == Fate::Keep,
            _ => false,
        }
    }

    /// Requests that were seen whole.
    pub fn whole(&self) -> u32 {
        let under_way = matches!(self.state, State::Body(_));
        self.heads.wrapping_sub(u32::from(under_way))
    }

    /// Bytes since the last request ended.
    pub fn under_way(&self) -> u64 {
        self.under_way
    }

    fn advance(&mut self, bytes: u64) {
        self.under_way = match self.is_within_request() {
            true => self.under_way + bytes,
            false => 0,
        };
    }

    /// Bytes to the end of the body that is under way, where that is known.
    pub fn known_left(&self) -> Option<u64> {
        match &self.state {
            State::Body(partial) => match partial.rest {
                Rest::Length(left) => Some(left),
                Rest::Chunked(_) => None,
            },
            _ => None,
        }
    }

    /// Gives up the request whose body is under way and its memory; the parser finds its end all the same. False when
    /// there is none, so that nothing is known of what follows.
    pub fn pass_over(&mut self, cause: Incomplete, sink: &mut impl FnMut(Event)) -> bool {
        let State::Body(partial) = &mut self.state else {
            return false;
        };
        partial.spoil(cause, sink);
        true
    }

    /// True while it takes nothing because the answer to a request for a tunnel, or for another protocol, isn't known.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Bytes on the heap.
    pub fn held(&self) -> usize {
        match &self.state {
            State::Head(head) => size_of::<PartialHead>() + head.bytes.capacity(),
            State::Body(partial) => {
                size_of::<Partial>() + partial.head.size() + partial.body.held()
            }
            _ => 0,
        }
    }

    fn push_between(
        &mut self,
        bytes: &[u8],
        at: Arrival,
        sink: &mut impl FnMut(Event),
    ) -> Result<usize, Refusal> {
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
            (true, _) | (false, b'\r') => Err(self.not_a_request(Refusal::MalformedHead)),
            (false, _) => self.begin_head(bytes, at, sink),
        }
    }

    /// Whole heads in one piece, nearly all, are copied once and into the right size.
    fn begin_head(
        &mut self,
        bytes: &[u8],
        at: Arrival,
        sink: &mut impl FnMut(Event),
    ) -> Result<usize, Refusal> {
        let mut scan = HeadScan::strict();
        match scan.push(bytes) {
            Scan::End(taken) if taken <= MAX_HEAD => {
                let raw = Bytes::copy_from_slice(&bytes[..taken]);
                let is_request = || request_begin(&bytes[..taken]) == Begin::Yes;
                self.end_head(raw, is_request, at, taken < bytes.len(), sink)?;
                Ok(taken)
            }
            _ => {
                self.state = State::Head(Box::new(PartialHead {
                    began: at,
                    bytes: Vec::new(),
                    scan: HeadScan::strict(),
                    judged: Judged::Nothing,
                }));
                Ok(0)
            }
        }
    }

    fn push_head(
        &mut self,
        bytes: &[u8],
        at: Arrival,
        sink: &mut impl FnMut(Event),
    ) -> Result<usize, Refusal> {
        let State::Head(partial) = &mut self.state else {
            return Ok(0);
        };
        let scan = partial.scan.push(bytes);
        let taken = match scan {
            Scan::More => bytes.len(),
            Scan::End(taken) | Scan::BareLineFeed(taken) => taken,
        };
        let room = MAX_HEAD + 1 - partial.bytes.len();
        partial.bytes.extend_from_slice(&bytes[..taken.min(room)]);
        let line_is_complete =
            partial.scan.has_first_line() || matches!(scan, Scan::BareLineFeed(_));
        if !partial.judge_line(line_is_complete) {
            return Err(self.not_a_request(Refusal::MalformedHead));
        }
        if partial.bytes.len() > MAX_HEAD {
            return Err(match partial.judged {
                Judged::Line => Refusal::HeadTooLarge,
                Judged::Nothing | Judged::Method => self.not_a_request(Refusal::HeadTooLarge),
            });
        }
        match scan {
            Scan::More => return Ok(taken),
            Scan::BareLineFeed(_) => return Err(Refusal::BareLineFeed),
            Scan::End(_) => {}
        }
        let began = Arrival {
            skip: at.skip,
            ..partial.began
        };
        let raw = Bytes::from(std::mem::take(&mut partial.bytes).into_boxed_slice());
        // Its line was judged.
        self.end_head(raw, || true, began, taken < bytes.len(), sink)?;
        Ok(taken)
    }

    fn not_a_request(&self, otherwise: Refusal) -> Refusal {
        match self.before {
            Before::Nothing => Refusal::NotHttp,
            Before::Upgrade => Refusal::Upgraded,
            Before::Requests | Before::Rubbish => otherwise,
        }
    }

    /// The head is complete.
    fn end_head(
        &mut self,
        raw: Bytes,
        is_request: impl FnOnce() -> bool,
        began: Arrival,
        more_follows: bool,
        sink: &mut impl FnMut(Event),
    ) -> Result<(), Refusal> {
        let head = Head::parse(raw).map_err(|error| match is_request() {
            true => Refusal::from(error),
            false => self.not_a_request(Refusal::MalformedHead),
        })?;
        // The same verdict as on a head that comes in pieces, whose line is judged before it is parsed.
        if head.method().len() > MAX_METHOD {
            return Err(self.not_a_request(Refusal::MalformedHead));
        }
        let framing = framing::of_request(&head)?;
        let too_large =
            |length: u64| length.saturating_add(head.raw().len() as u64) > self.max_exchange as u64;
        let fate = match (head.header(MARKER), framing, began.skip) {
            (Some(_), ..) => Fate::Skip(Skip::Marked),
            (None, _, Some(skip)) => Fate::Skip(skip),
            (None, Framing::Length(length), None) if too_large(length) => {
                Fate::Skip(Skip::TooLarge)
            }
            _ => Fate::Keep,
        };
        let rest = match framing {
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(ChunkedDecoder::default()),
            // Never said of requests.
            Framing::UntilClose => return Err(Refusal::BadLength),
        };
        self.heads = self.heads.wrapping_add(1);
        sink(Event::Head {
            asked: Asked::by(&head),
            began,
        });
        if let Rest::Length(0) = rest {
            self.complete(head, fate, began.at_ns, Body::default(), Bytes::new(), sink);
            return Ok(());
        }
        if !more_follows && expects_continue(&head) {
            sink(Event::Continue);
        }
        self.state = State::Body(Box::new(Partial {
            began_ns: began.at_ns,
            head,
            fate,
            rest,
            body: BodyMut::default(),
            verdict: None,
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
            ..
        } = partial.as_mut();
        let (taken, complete) = match rest {
            Rest::Length(left) => {
                let taken = (*left).min(bytes.len() as u64) as usize;
                if *fate == Fate::Keep {
                    let whole = body.len() as u64 + *left;
                    body.push(&bytes[..taken], Some(whole));
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
                        *body = BodyMut::default();
                        return;
                    }
                    body.push(data, None);
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
        let State::Body(partial) = std::mem::replace(&mut self.state, BETWEEN) else {
            return;
        };
        let partial = *partial;
        let trailers = match partial.rest {
            Rest::Length(_) => Bytes::new(),
            Rest::Chunked(decoder) => decoder.into_trailers().freeze(),
        };
        let body = partial.body.freeze();
        self.complete(
            partial.head,
            partial.fate,
            partial.began_ns,
            body,
            trailers,
            sink,
        );
        if let Some(verdict) = partial.verdict {
            self.resolve(verdict);
        }
    }

    fn complete(
        &mut self,
        head: Head,
        fate: Fate,
        began_ns: u64,
        body: Body,
        trailers: Bytes,
        sink: &mut impl FnMut(Event),
    ) {
        let connect = head.method() == "CONNECT";
        (self.state, self.before) = match (may_switch(&head), self.switching) {
            (false, _) => (BETWEEN, Before::Requests),
            (true, Switching::Wait) => (State::Waiting { connect }, Before::Upgrade),
            (true, Switching::Guess) if connect => (State::Done, Before::Upgrade),
            (true, Switching::Guess) => (BETWEEN, Before::Upgrade),
        };
        match fate {
            Fate::Keep => sink(Event::Request(Message {
                captured_ns: began_ns,
                head,
                body,
                trailers,
            })),
            Fate::Skip(skip) => {
                let persistent = is_persistent(&head);
                sink(Event::Skipped { skip, persistent });
            }
            Fate::Spoiled => {}
        }
    }
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
        head.header_bytes()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"))
            .flat_map(|(_, value)| value.split(|b| *b == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(option))
    };
    !has(b"close") && (head.minor_version() >= 1 || has(b"keep-alive"))
}

#[cfg(test)]
mod tests;
