//! What a client sends on a connection: from segments in any order to the requests in them.
//!
//! What enters: its segments as captured, the news that a hole won't be filled, what the server answered to a request
//! for a tunnel, its end. What leaves: the events of its [`RequestParser`].
//! What may be lost: requests that lack a byte; all until the next place where a request certainly begins.

use super::begin::{Evidence, Received, is_request_in_pieces};
use super::earlier::{Earlier, Past};
use super::pace::Pace;
use super::pending::{Moment, Pending};
use super::place::{PLAUSIBLE, distance, is_more, is_plausible, place_near, start_place};
use super::table::Class;
use crate::edge::{Edge, EdgeEvent};
use crate::http::{
    AfterGap, Arrival, Begin, Event, Incomplete, RequestParser, Skip, Switching, Verdict,
    request_begin,
};
use crate::packet::Segment;

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
    /// Place of the first byte that was seen.
    joined: u64,
    /// Place behind the last byte, known once the FIN was seen.
    end: Option<u64>,
    /// What it has received.
    received: Received,
    /// Where the way is lost, it stays so: see [`Stream::stay_lost`].
    switched: bool,
    pending: Pending,
    pace: Pace,
    earlier: Earlier,
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
    pub(super) switching: Switching,
    /// What requests of this connection are passed over for at the moment.
    pub(super) skip: Option<Skip>,
    /// Takes the parser's events.
    pub(super) out: F,
}

impl<F: FnMut(Event)> Context<'_, F> {
    fn count(&self, event: EdgeEvent) {
        self.edge.count(event, 1);
    }

    fn parser(&self) -> Position {
        Position::Following(RequestParser::new(self.max_exchange, self.switching))
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
        } else if self.is_late(segment) {
            context.count(EdgeEvent::OutOfWindow);
            return;
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
        if let Some(number) = segment.acknowledgment {
            self.received.acknowledge(number);
        }
    }

    /// Begins a connection whose SYN has that number. True when there was another one before.
    pub(super) fn open(&mut self, syn: u32, context: &mut Context<'_, impl FnMut(Event)>) -> bool {
        if self.syn == Some(syn) || self.was_opened_before_by(syn) {
            return false;
        }
        let first = syn.wrapping_add(1);
        let overtaken_by = self.next as i64 - self.place(first);
        // Right before the first byte that was seen; or it's ours because nothing says that the connection is old.
        let ahead = self.joined as i64 - self.place(first);
        let overtaken = (0..=OVERTAKEN).contains(&overtaken_by)
            && (ahead == 0 || ahead > 0 && self.end.is_none() && !self.received.has_grown());
        let anew = match self.position {
            Position::Unknown if self.syn.is_none() => false,
            Position::Lost { hold: true } if overtaken => {
                self.syn = Some(syn);
                self.next = self.next.saturating_sub(overtaken_by as u64);
                self.follow_from_here(context);
                self.drain(context);
                return false;
            }
            // Requests that overtook their SYN in whole.
            Position::Following(_) | Position::Lost { .. } if self.syn.is_none() && overtaken => {
                self.syn = Some(syn);
                return false;
            }
            _ => {
                self.begin_anew(context);
                true
            }
        };
        context.count(EdgeEvent::Connections);
        self.syn = Some(syn);
        self.start_at(first);
        anew
    }

    /// Whether a SYN is that of an earlier connection and comes late. Once this one is closed, it may open the next.
    pub(super) fn was_opened_before_by(&self, syn: u32) -> bool {
        self.earlier.began_with(syn)
            && self.syn != Some(syn)
            && !matches!(self.position, Position::Closed)
    }

    /// Whether a segment begins another connection on the same ports, whose handshake wasn't captured: with a request, and
    /// with numbers of which neither can be of this one. Where no request can follow, only a SYN begins another.
    pub(super) fn is_succeeded_by(&self, segment: &Segment<'_>) -> bool {
        let place = self.place(segment.sequence);
        if is_plausible(place, self.next, self.pending.end())
            || matches!(self.position, Position::Unknown | Position::Over)
        {
            return false;
        }
        let both = self.received.until().zip(segment.acknowledgment);
        both.is_some_and(|(old, new)| i64::from(distance(old, new)) > PLAUSIBLE)
            && matches!(request_begin(segment.payload), Begin::Yes | Begin::Likely)
            && !self.earlier.had(segment.sequence)
    }

    /// Forgets all but which numbers there were: another connection begins.
    pub(super) fn begin_anew(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        let last = self.next.max(self.pending.end());
        let past = Past {
            first: self.syn.unwrap_or((self.joined as u32).wrapping_sub(1)),
            last: last.max(self.end.map_or(0, |end| end + 1)) as u32,
            acknowledged: self.received.until(),
        };
        self.end_with(Incomplete::ClosedEarly, context);
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.remember(past);
        *self = Stream {
            earlier,
            ..Stream::default()
        };
    }

    /// Whether a segment is one of an earlier connection's on the same ports.
    fn is_late(&self, segment: &Segment<'_>) -> bool {
        !self.is_next(segment)
            && segment.acknowledgment.is_some_and(|number| {
                self.earlier
                    .claim(segment.sequence, number, self.received.until())
            })
    }

    /// What the client has received, for the server's side to tell what it says.
    pub(super) fn received(&mut self) -> &mut Received {
        &mut self.received
    }

    /// Number of the SYN, if it was seen.
    pub(super) fn syn(&self) -> Option<u32> {
        self.syn
    }

    /// True when the SYN is all that was seen.
    pub(super) fn is_just_opened(&self) -> bool {
        let first = self.syn.map(|syn| start_place(syn.wrapping_add(1)));
        first == Some(self.next) && !self.has_hole() && self.received.until().is_none()
    }

    /// Whether the server's SYN acknowledges this direction's, and perhaps data that came with it (RFC 7413 §3).
    pub(super) fn is_accepted_by(&self, acknowledged: u32) -> bool {
        let place = self.place(acknowledged);
        let last = self.next.max(self.pending.end()) as i64;
        let first = self.syn.map(|syn| self.place(syn.wrapping_add(1)));
        first.is_some_and(|first| (first..=last).contains(&place))
    }

    /// What the server answered to the last request, which asked for a tunnel or another protocol.
    pub(super) fn resolve(
        &mut self,
        verdict: Verdict,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        let Position::Following(parser) = &mut self.position else {
            return;
        };
        let was_done = parser.is_done();
        parser.resolve(verdict);
        if parser.is_done() && !was_done {
            context.count(EdgeEvent::Upgraded);
            self.over();
        } else {
            self.drain(context);
        }
    }

    /// The hole before the pending bytes, or before the end, won't be filled; or the answer to a request for a tunnel
    /// won't be seen.
    pub(super) fn give_up_hole(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        if self.joined_at_request() {
            self.follow_held(context);
            return;
        }
        let until = self.pending.first_place().or(self.end);
        match &mut self.position {
            Position::Following(parser) if parser.is_waiting() => {
                let verdict = match self.switched {
                    true => Verdict::Switched,
                    false => Verdict::Unseen,
                };
                self.resolve(verdict, context);
            }
            Position::Following(parser) => {
                let Some(until) = until else { return };
                let missing = until.saturating_sub(self.next);
                self.pace.leave(parser, self.next);
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
                self.next = self.next.max(self.pending.end());
                self.pending.clear();
                context.count(EdgeEvent::Unaligned);
            }
            Position::Lost { .. } | Position::Unknown | Position::Over | Position::Closed => {}
        }
    }

    /// Gives up the request that is under way and all that is held, and goes on behind it where that can be found.
    pub(super) fn give_up(
        &mut self,
        cause: Incomplete,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        let early = !self.pending.is_empty();
        let seen = self.next.max(self.pending.end());
        self.pending.clear();
        match &mut self.position {
            Position::Following(parser) => {
                if parser.pass_over(cause, &mut context.out) {
                    return;
                }
                if early && !parser.is_within_request() {
                    (context.out)(Event::Incomplete(cause));
                }
                self.pace.leave(parser, self.next);
                self.position = match parser.close(cause, &mut context.out) {
                    AfterGap::Over => Position::Over,
                    AfterGap::GoesOn | AfterGap::Lost => Position::Lost { hold: false },
                };
                self.next = seen;
            }
            Position::Lost { hold } => {
                *hold = false;
                self.next = seen;
            }
            Position::Unknown | Position::Over | Position::Closed => {}
        }
    }

    /// Gives up all, for good.
    pub(super) fn end_with(
        &mut self,
        cause: Incomplete,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        // What came behind a request for a tunnel waits for an answer that won't be seen.
        while self.is_waiting() && !self.pending.is_empty() {
            self.resolve(Verdict::Unseen, context);
        }
        let early = !self.pending.is_empty();
        let seen = self.next.max(self.pending.end());
        self.pending.clear();
        match &mut self.position {
            Position::Following(parser) => {
                if early && !parser.is_within_request() {
                    (context.out)(Event::Incomplete(cause));
                }
                parser.close(cause, &mut context.out);
            }
            Position::Lost { .. } => {
                self.pace.rejoin(seen, context.edge);
            }
            Position::Unknown | Position::Over | Position::Closed => {}
        }
        self.position = Position::Closed;
    }

    /// What it waits for.
    pub(super) fn class(&self) -> Class {
        match &self.position {
            Position::Unknown | Position::Closed => Class::Fleeting,
            Position::Lost { hold: true } => Class::Holed,
            Position::Lost { hold: false } | Position::Over => Class::Idle,
            Position::Following(_) if self.has_hole() => Class::Holed,
            Position::Following(parser) if parser.holds_request() => Class::Incomplete,
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
        parser + self.pending.held() + self.earlier.held()
    }

    /// Bytes that wait for a hole to be filled.
    pub(super) fn held_behind_hole(&self) -> usize {
        self.pending.held()
    }

    /// True while requests are read.
    pub(super) fn is_following(&self) -> bool {
        matches!(self.position, Position::Following(_))
    }

    /// True when no request follows on the connection.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.position, Position::Over | Position::Closed)
    }

    /// True when all up to its end was taken, or it was reset.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.position, Position::Closed)
    }

    /// The server agreed to another protocol, and a request that isn't whole may be the one that asked for it.
    pub(super) fn stay_lost(&mut self) {
        match self.position {
            Position::Lost { .. } => self.over(),
            Position::Following(_) if self.has_hole() || self.is_waiting() => self.switched = true,
            _ => {}
        }
    }

    fn has_hole(&self) -> bool {
        !self.pending.is_empty() || self.end.is_some()
    }

    /// The place of a sequence number, near `next`.
    fn place(&self, sequence: u32) -> i64 {
        place_near(self.next, sequence)
    }

    fn is_next(&self, segment: &Segment<'_>) -> bool {
        segment.sequence == self.next as u32 && !segment.syn
    }

    fn start_at(&mut self, sequence: u32) {
        self.next = start_place(sequence);
        self.joined = self.next;
    }

    /// Requests begin at the next byte.
    fn follow_from_here(&mut self, context: &Context<'_, impl FnMut(Event)>) {
        self.pace.rejoin(self.next, context.edge);
        self.position = context.parser();
    }

    fn reset(&mut self, segment: &Segment<'_>, context: &mut Context<'_, impl FnMut(Event)>) {
        let ahead = self.place(segment.sequence) - self.next as i64;
        // One from an earlier connection of the same ports lies elsewhere.
        let place = self.place(segment.sequence);
        if ahead < -1 || !is_plausible(place, self.next, self.pending.end()) {
            return;
        }
        // Segments that the reset overtook on its way to the capture are yet to come.
        if ahead > 0 && matches!(self.position, Position::Following(_)) {
            self.end = Some(self.next + ahead as u64);
            return;
        }
        self.end_with(Incomplete::Reset, context);
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
            // Without its SYN an end alone doesn't tell where anything begins.
            if segment.payload.is_empty() && (!segment.fin || self.syn.is_none()) {
                return;
            }
            // Keep-alive probes are of what was received already, or of one byte of garbage (RFC 9293 §3.8.4).
            if segment.payload == b"\0" && self.syn.is_none() {
                return;
            }
            if self.syn.is_some() {
                self.follow_from_here(context);
            } else {
                self.join(sequence, begins, context);
            }
        }
        let place = self.place(sequence);
        if !is_plausible(place, self.next, self.pending.end()) {
            context.count(EdgeEvent::OutOfWindow);
            return;
        }
        let start = place as u64;
        let end = start + segment.payload.len() as u64;
        let evidence = match (begins, segment.acknowledgment) {
            (true, Some(number)) => self.received.evidence(start, number),
            _ => Evidence::None,
        };
        let begins = self.begins_at(start, evidence);
        if segment.fin {
            let last = end + u64::from(segment.missing);
            self.end = self.end.or((last >= self.next).then_some(last));
        }
        let at = Moment {
            ns: now_ns,
            acknowledged: segment.acknowledgment,
        };
        if begins && self.joined_at_request() {
            self.follow_held(context);
        }
        match &mut self.position {
            Position::Lost { .. } if begins => {
                self.pending.clear();
                self.next = start;
                self.follow_from_here(context);
                self.follow(start, segment.payload, at, evidence, context);
            }
            Position::Lost { hold: true } => {
                self.pending.insert(start, segment.payload, at, evidence);
                if self.pending.held() as i64 > OVERTAKEN {
                    self.give_up_hole(context);
                }
            }
            Position::Lost { .. } | Position::Over => {
                self.next = self.next.max(end);
                if self.end.is_some() {
                    self.close(context);
                }
            }
            Position::Following(_) => {
                self.follow(start, segment.payload, at, evidence, context);
            }
            Position::Unknown | Position::Closed => {}
        }
    }

    /// Whether a request begins with the segment at `start`, where the way is lost.
    fn begins_at(&self, start: u64, evidence: Evidence) -> bool {
        match evidence {
            Evidence::None => false,
            Evidence::BehindSeen => start == self.next.max(self.pending.end()),
            Evidence::Certain => start >= self.next,
        }
    }

    /// The first bytes of a connection whose SYN wasn't captured.
    fn join(&mut self, sequence: u32, begins: bool, context: &mut Context<'_, impl FnMut(Event)>) {
        context.count(EdgeEvent::Connections);
        self.start_at(sequence);
        match begins {
            true => self.follow_from_here(context),
            false => self.position = Position::Lost { hold: true },
        }
    }

    /// Whether a request begins at the first byte that is held, and none of the segments showed it by itself.
    fn joined_at_request(&self) -> bool {
        matches!(self.position, Position::Lost { hold: true })
            && is_request_in_pieces(&self.pending)
    }

    /// Requests begin at the first byte that is held.
    fn follow_held(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        self.next = self.pending.first_place().unwrap_or(self.next);
        self.follow_from_here(context);
        self.drain(context);
    }

    fn follow(
        &mut self,
        start: u64,
        bytes: &[u8],
        at: Moment,
        evidence: Evidence,
        context: &mut Context<'_, impl FnMut(Event)>,
    ) {
        if start > self.next {
            if !bytes.is_empty() {
                self.pending.insert(start, bytes, at, evidence);
            }
            return;
        }
        // Bytes that were taken already never change, nor do those that are held.
        let known = usize::try_from(self.next - start).unwrap_or(usize::MAX);
        if let Some(new) = bytes.get(known..) {
            let new = match self.pending.first_place() {
                Some(place) => self.hold_behind(place, new, at),
                None => new,
            };
            self.feed(new, at, context);
        }
        if !self.pending.is_empty() || self.end.is_some() {
            self.drain(context);
        }
    }

    /// Of bytes that have their turn, holds those from `place` on, and returns the others.
    fn hold_behind<'a>(&mut self, place: u64, bytes: &'a [u8], at: Moment) -> &'a [u8] {
        let before = usize::try_from(place.saturating_sub(self.next)).unwrap_or(usize::MAX);
        let (now, later) = bytes.split_at(before.min(bytes.len()));
        if !later.is_empty() {
            self.pending
                .insert(place.max(self.next), later, at, Evidence::None);
        }
        now
    }

    /// Gives the parser bytes that have their turn, and holds what it doesn't take.
    fn feed(&mut self, bytes: &[u8], at: Moment, context: &mut Context<'_, impl FnMut(Event)>) {
        let Position::Following(parser) = &mut self.position else {
            self.next += bytes.len() as u64;
            return;
        };
        let arrival = Arrival {
            at_ns: at.ns,
            acknowledged: at.acknowledged,
            skip: context.skip,
        };
        let taken = parser.push(bytes, arrival, &mut context.out);
        self.next += taken as u64;
        if taken < bytes.len() {
            self.pending
                .insert(self.next, &bytes[taken..], at, Evidence::None);
        }
        if parser.is_no_http() && self.syn.is_none() {
            // Text that only looked like a request line where the capture joined the connection.
            self.pending.clear();
            self.position = Position::Lost { hold: false };
        } else if parser.is_done() {
            self.over();
        }
    }

    /// Takes what is pending and has its turn, and the end.
    fn drain(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        while !self.is_waiting()
            && let Some((place, run)) = self.pending.pop_until(self.next)
        {
            let known = usize::try_from(self.next - place).unwrap_or(usize::MAX);
            if let Some(new) = run.bytes.get(known..) {
                self.feed(new, run.at, context);
            }
        }
        if self.end.is_some_and(|end| end <= self.next) {
            self.close(context);
        }
    }

    /// True while the answer to a request for a tunnel decides about what follows.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.position, Position::Following(parser) if parser.is_waiting())
    }

    /// All bytes up to the end were taken, or passed over.
    fn close(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        match &mut self.position {
            Position::Following(parser) => {
                parser.close(Incomplete::ClosedEarly, &mut context.out);
            }
            Position::Lost { .. } => {
                let end = self.end.unwrap_or(self.next);
                self.pace.rejoin(end, context.edge);
            }
            _ => {}
        }
        self.pending.clear();
        self.position = Position::Closed;
    }

    /// Goes on at the first pending segment that certainly begins a request.
    fn rejoin(&mut self, context: &mut Context<'_, impl FnMut(Event)>) {
        if self.switched {
            self.over();
            return;
        }
        self.position = Position::Lost { hold: false };
        let mut received = None;
        while let Some((place, run)) = self.pending.pop_until(u64::MAX) {
            let begins = match run.evidence {
                Evidence::None => false,
                Evidence::BehindSeen => {
                    let both = run.at.acknowledged.zip(received);
                    place == self.next && both.is_some_and(|(now, before)| is_more(now, before))
                }
                Evidence::Certain => true,
            };
            self.next = place;
            received = run.at.acknowledged;
            if begins {
                self.follow_from_here(context);
                self.feed(&run.bytes, run.at, context);
                self.drain(context);
                return;
            }
            if run.bytes.starts_with(b"CONNECT ") && request_begin(&run.bytes) == Begin::Yes {
                // What follows may be in a tunnel.
                self.over();
                return;
            }
            self.next += run.bytes.len() as u64;
        }
        if self.end.is_some() {
            self.close(context);
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
