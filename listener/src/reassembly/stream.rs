//! One direction of a connection: from segments in any order to the requests in them.
//!
//! What enters: its segments as captured, the news that a hole won't be filled, its end.
//! What leaves: the events of its [`RequestParser`].
//! What may be lost: requests that lack a byte; all until the next place where a request certainly begins.
//!
//! Places in the stream are 64-bit numbers whose low half is the TCP sequence number, so nothing wraps.

use super::pending::Pending;
use super::table::Class;
use crate::edge::{Edge, EdgeEvent};
use crate::http::{AfterGap, Begin, Event, Incomplete, RequestParser, request_begin};
use crate::packet::Segment;

/// A segment that lies farther away belongs to another connection: windows are smaller by far in practice.
const PLAUSIBLE: i64 = 64 << 20;

/// How far before the first segment seen its SYN may have been overtaken.
const OVERTAKEN: i64 = 1 << 20;

/// A direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    position: Position,
    /// Number of the SYN, if it was seen.
    syn: Option<u32>,
    /// Place of the next byte.
    next: u64,
    /// Place behind the last byte, known once the FIN was seen.
    end: Option<u64>,
    /// The highest acknowledgement of what the peer sent.
    acknowledged: Option<u32>,
    pending: Pending,
}

#[derive(Debug, Default)]
enum Position {
    /// No byte was seen.
    #[default]
    Unknown,
    /// Every byte up to `next` went to the parser, or was skipped with its knowledge.
    Following(RequestParser),
    /// Where requests begin isn't known.
    Lost {
        /// The first segments are held for a while: they may have overtaken the SYN.
        hold: bool,
    },
    /// No request follows.
    Over,
    /// The connection is closed; what comes late is ignored.
    Closed,
}

/// What a stream's methods need of its owner.
pub(super) struct Context<'a, F> {
    pub(super) edge: &'a Edge,
    /// Bytes of a request over which it is skipped.
    pub(super) max_exchange: usize,
    /// Takes the parser's events.
    pub(super) out: F,
}

impl<F: FnMut(Event)> Context<'_, F> {
    fn count(&self, event: EdgeEvent) {
        self.edge.count(event, 1);
    }

    fn parser(&self) -> Position {
        Position::Following(RequestParser::new(self.max_exchange))
    }
}

impl Stream {
    /// Takes the next segment of the capture.
    pub(super) fn push(
        &mut self,
        segment: &Segment<'_>,
        now_ns: u64,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        if segment.syn {
            self.open(segment.sequence, context);
        }
        if segment.rst {
            self.reset(segment, context);
            return;
        }
        let begin = match self.position {
            // Nothing else decides on the first bytes, so the common case skips the question.
            Position::Following(_) if self.is_next(segment) => Begin::Unsure,
            _ => request_begin(segment.payload),
        };
        let begins = matches!(begin, Begin::Yes | Begin::Likely);
        self.take(segment, begins, now_ns, context);
        if let Some(number) = segment.acknowledgment
            && self.acknowledges_more(number)
        {
            self.acknowledged = Some(number);
        }
    }

    /// The hole before the pending bytes, or before the end, won't be filled.
    pub(super) fn give_up_hole(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        let until = self.pending.first_place().or(self.end);
        match &mut self.position {
            Position::Following(parser) => {
                let Some(until) = until else { return };
                let missing = until.saturating_sub(self.next);
                match parser.gap(missing, &mut context.out) {
                    AfterGap::GoesOn => {
                        self.next = until;
                        self.drain(context);
                    }
                    AfterGap::Lost => self.rejoin(context),
                    AfterGap::Over => self.over(),
                }
            }
            Position::Lost { hold: true } => {
                self.position = Position::Lost { hold: false };
                self.pending.clear();
                context.count(EdgeEvent::Unaligned);
            }
            Position::Lost { .. } | Position::Unknown | Position::Over | Position::Closed => {}
        }
    }

    /// Gives up the request that is under way and all that is held.
    pub(super) fn give_up(
        &mut self,
        cause: Incomplete,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        let early = !self.pending.is_empty();
        self.pending.clear();
        let parser = match &mut self.position {
            Position::Following(parser) => parser,
            Position::Lost { hold } => {
                *hold = false;
                return;
            }
            Position::Unknown | Position::Over | Position::Closed => return,
        };
        if early && !parser.is_within_request() {
            (context.out)(Event::Incomplete(cause));
        }
        self.position = match parser.close(cause, &mut context.out) {
            AfterGap::Over => Position::Over,
            AfterGap::GoesOn | AfterGap::Lost => Position::Lost { hold: false },
        };
    }

    /// What it waits for.
    pub(super) fn class(&self) -> Class {
        match &self.position {
            Position::Unknown | Position::Closed => Class::Fleeting,
            Position::Lost { hold: true } => Class::Holed,
            Position::Lost { hold: false } | Position::Over => Class::Idle,
            Position::Following(_) if self.has_hole() => Class::Holed,
            Position::Following(parser) if parser.is_within_request() => Class::Incomplete,
            Position::Following(_) => Class::Idle,
        }
    }

    /// Changes whenever bytes were taken in order.
    pub(super) fn progress(&self) -> u64 {
        self.next
    }

    /// Bytes on the heap that belong to requests.
    pub(super) fn held(&self) -> usize {
        let parser = match &self.position {
            Position::Following(parser) => parser.held(),
            _ => 0,
        };
        parser + self.pending.held()
    }

    /// Bytes that wait for a hole to be filled.
    pub(super) fn held_behind_hole(&self) -> usize {
        self.pending.held()
    }

    fn has_hole(&self) -> bool {
        !self.pending.is_empty() || self.end.is_some()
    }

    /// The place of a sequence number, near `next`.
    fn place(&self, sequence: u32) -> i64 {
        let ahead = sequence.wrapping_sub(self.next as u32) as i32;
        self.next as i64 + i64::from(ahead)
    }

    fn is_next(&self, segment: &Segment<'_>) -> bool {
        segment.sequence == self.next as u32 && !segment.syn
    }

    fn acknowledges_more(&self, number: u32) -> bool {
        self.acknowledged
            .is_none_or(|before| number.wrapping_sub(before) as i32 > 0)
    }

    /// Puts `next` at a sequence number; far enough from 0 that no place is negative.
    fn start_at(&mut self, sequence: u32) {
        self.next = (1 << 32) + u64::from(sequence);
    }

    fn open(&mut self, syn: u32, context: &mut Context<'_, impl FnMut(Event)>) {
        let first = syn.wrapping_add(1);
        if self.syn == Some(syn) {
            return;
        }
        let overtaken_by = self.next as i64 - self.place(first);
        match self.position {
            Position::Unknown if self.syn.is_none() => {}
            Position::Lost { hold: true } if (0..=OVERTAKEN).contains(&overtaken_by) => {
                self.syn = Some(syn);
                self.next = self.next.saturating_sub(overtaken_by as u64);
                self.position = context.parser();
                self.drain(context);
                return;
            }
            // Requests that overtook their SYN in whole.
            Position::Following(_) | Position::Lost { .. }
                if self.syn.is_none() && (0..=OVERTAKEN).contains(&overtaken_by) =>
            {
                self.syn = Some(syn);
                return;
            }
            _ => {
                self.give_up(Incomplete::ClosedEarly, context);
                *self = Stream::default();
            }
        }
        context.count(EdgeEvent::Connections);
        self.syn = Some(syn);
        self.start_at(first);
    }

    fn reset(&mut self, segment: &Segment<'_>, context: &mut Context<'_, impl FnMut(Event)>) {
        let ahead = self.place(segment.sequence) - self.next as i64;
        // One from an earlier connection of the same ports lies elsewhere.
        if !(-1..PLAUSIBLE).contains(&ahead) {
            return;
        }
        self.give_up(Incomplete::Reset, context);
        self.position = Position::Closed;
    }

    fn take(
        &mut self,
        segment: &Segment<'_>,
        begins: bool,
        now_ns: u64,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        let sequence = segment.sequence.wrapping_add(u32::from(segment.syn));
        if let Position::Unknown = self.position {
            if segment.payload.is_empty() && !segment.fin {
                return;
            }
            if self.syn.is_some() {
                self.position = context.parser();
            } else {
                self.join(sequence, begins, context);
            }
        }
        let mut place = self.place(sequence);
        if (place - self.next as i64).abs() > PLAUSIBLE {
            context.count(EdgeEvent::OutOfWindow);
            if !begins {
                return;
            }
            // The ports are in use again, and the SYN wasn't captured.
            self.give_up(Incomplete::ClosedEarly, context);
            *self = Stream::default();
            self.join(sequence, begins, context);
            place = self.place(sequence);
        }
        let start = place as u64;
        let end = start + segment.payload.len() as u64;
        let known_begin = begins
            && self.acknowledged.is_some()
            && segment
                .acknowledgment
                .is_some_and(|number| self.acknowledges_more(number));
        if segment.fin {
            let last = end + u64::from(segment.missing);
            self.end = self.end.or((last >= self.next).then_some(last));
        }
        match &mut self.position {
            Position::Lost { .. } if known_begin && start >= self.next => {
                self.pending.clear();
                self.next = start;
                self.position = context.parser();
                self.follow(start, segment.payload, now_ns, known_begin, context);
            }
            Position::Lost { hold: true } => {
                self.pending
                    .insert(start, segment.payload, now_ns, known_begin);
                if self.pending.held() as i64 > OVERTAKEN {
                    self.give_up_hole(context);
                }
            }
            Position::Lost { .. } | Position::Over => {
                self.next = self.next.max(end);
                if self.end.is_some() {
                    self.position = Position::Closed;
                }
            }
            Position::Following(_) => {
                self.follow(start, segment.payload, now_ns, known_begin, context);
            }
            Position::Unknown | Position::Closed => {}
        }
    }

    /// The first bytes of a connection whose SYN wasn't captured.
    fn join(&mut self, sequence: u32, begins: bool, context: &mut Context<'_, impl FnMut(Event)>) {
        context.count(EdgeEvent::Connections);
        self.start_at(sequence);
        self.position = match begins {
            true => context.parser(),
            false => Position::Lost { hold: true },
        };
    }

    fn follow(
        &mut self,
        start: u64,
        bytes: &[u8],
        now_ns: u64,
        known_begin: bool,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        if start > self.next {
            if !bytes.is_empty() {
                self.pending.insert(start, bytes, now_ns, known_begin);
            }
            return;
        }
        // Bytes that were taken already never change.
        let known = usize::try_from(self.next - start).unwrap_or(usize::MAX);
        if let Some(new) = bytes.get(known..) {
            self.feed(new, now_ns, context);
        }
        self.drain(context);
    }

    fn feed(&mut self, bytes: &[u8], at_ns: u64, context: &mut Context<'_, impl FnMut(Event)>) {
        self.next += bytes.len() as u64;
        if let Position::Following(parser) = &mut self.position {
            parser.push(bytes, at_ns, &mut context.out);
            if parser.is_no_http() && self.syn.is_none() {
                // Text that only looked like a request line where the capture joined the connection.
                self.pending.clear();
                self.position = Position::Lost { hold: false };
            } else if parser.is_done() {
                self.over();
            }
        }
    }

    /// Takes what is pending and has its turn, and the end.
    fn drain(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        while let Some((place, run)) = self.pending.pop_until(self.next) {
            let known = usize::try_from(self.next - place).unwrap_or(usize::MAX);
            if let Some(new) = run.bytes.get(known..) {
                self.feed(new, run.at_ns, context);
            }
        }
        if self.end.is_some_and(|end| end <= self.next) {
            if let Position::Following(parser) = &mut self.position {
                parser.close(Incomplete::ClosedEarly, &mut context.out);
            }
            self.pending.clear();
            self.position = Position::Closed;
        }
    }

    /// Goes on at the first pending segment that certainly begins a request.
    fn rejoin(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        self.position = Position::Lost { hold: false };
        while let Some((place, run)) = self.pending.pop_until(u64::MAX) {
            self.next = place;
            if run.request_begins {
                self.position = context.parser();
                self.feed(&run.bytes, run.at_ns, context);
                self.drain(context);
                return;
            }
            self.next += run.bytes.len() as u64;
        }
        if self.end.is_some() {
            self.position = Position::Closed;
        }
    }

    fn over(&mut self) {
        self.position = match self.end {
            Some(_) => Position::Closed,
            None => Position::Over,
        };
        self.pending.clear();
    }
}
