//! What a server sends on a connection, and which request each answer belongs to.
//!
//! What enters: its segments as captured; what the client asked for, and when. What leaves: exchanges with their
//! answers, and whether a tunnel began. What may be lost: answers that can't be told apart or paired for certain, or that
//! nobody waited for; the requests leave all the same, and nothing here has an effect on them but to end them at a tunnel.
//!
//! Answers come in the order of the requests (RFC 9112 §9.3.2). A client that waits for one answer before it asks anew
//! acknowledges, with the first byte of its request, all that the server had sent until then: so that is where the
//! answer begins, also when the capture joins late or lacks bytes.

use std::collections::VecDeque;

use reprise_traffic::Answer;
use reprise_traffic::exchange::Captured;

use super::begin::Evidence;
use super::pending::{Moment, Pending};
use super::place::{PLAUSIBLE, is_plausible, place_near, start_place};
use crate::http::{AfterAnswerGap, AnswerParser, Arrival, Asked, Verdict};
use crate::packet::Segment;

/// Requests that wait for their answers on one connection; those that come on top leave without.
const MAX_WAITING: usize = 1024;

/// Bytes that are held while nobody has asked: the capture may show an answer before its request.
const MAX_UNASKED: usize = 64 * 1024;

/// What comes of a connection's answers.
#[derive(Debug)]
pub(super) enum Paired {
    /// An exchange is complete, or its answer won't be.
    Exchange(Box<Captured>),
    /// What the server said to a request for a tunnel or another protocol.
    Verdict(Verdict),
}

/// The answers' direction of a connection.
#[derive(Debug)]
pub(super) struct AnswerStream {
    position: Position,
    parser: AnswerParser,
    /// Whether exchanges wait here for their answers.
    keeps: bool,
    /// Number of the SYN, if it was seen.
    syn: Option<u32>,
    /// Place of the next byte.
    next: u64,
    /// Place behind the last byte, known once the FIN was seen.
    end: Option<u64>,
    pending: Pending,
    /// What was asked and not answered, in order.
    asked: VecDeque<Question>,
    /// Bytes of the exchanges among them.
    waiting: usize,
    /// Bytes of answers that came before the rest of their requests.
    early: usize,
    /// Whether the server was heard: its SYN, or a byte.
    heard: bool,
    /// Whether the server closed or reset the connection.
    has_ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// No byte was seen.
    Unknown,
    /// Bytes were seen, but not where an answer begins.
    Held,
    /// An answer begins at `next`, or is under way.
    Following,
    /// Bytes are missing; the next request tells where an answer begins.
    Lost,
    /// More requests waited than are paired; nothing tells where an answer begins, since the client waits for none.
    Overrun,
    /// No answer follows.
    Over,
}

/// A request that isn't answered yet.
#[derive(Debug)]
struct Question {
    asked: Asked,
    /// What the client had received when it began to ask.
    acknowledged: Option<u32>,
    request: Request,
    /// When it was complete, unix nanoseconds.
    whole_ns: u64,
    answer: Option<Answer>,
    /// Whether the server's word on a tunnel was passed on.
    told: bool,
}

#[derive(Debug)]
enum Request {
    /// Its body is under way.
    Coming,
    /// It waits for the answer.
    Whole(Box<Captured>),
    /// It left, or never will.
    Gone,
}

impl Question {
    fn tell(&mut self, status: u16, out: &mut dyn FnMut(Paired)) {
        if (self.asked.connect || self.asked.upgrade) && !self.told {
            self.told = true;
            out(Paired::Verdict(match self.asked.is_switched_by(status) {
                true => Verdict::Switched,
                false => Verdict::Refused,
            }));
        }
    }
}

impl AnswerStream {
    /// No byte was seen. With `max_body`, exchanges wait for their answers, of whose bodies so much is kept.
    pub(super) fn new(max_body: Option<usize>) -> AnswerStream {
        AnswerStream {
            position: Position::Unknown,
            parser: AnswerParser::new(max_body.unwrap_or(0)),
            keeps: max_body.is_some(),
            syn: None,
            next: 0,
            end: None,
            pending: Pending::default(),
            asked: VecDeque::new(),
            waiting: 0,
            early: 0,
            heard: false,
            has_ended: false,
        }
    }

    /// The server's SYN.
    pub(super) fn open(&mut self, syn: u32, out: &mut dyn FnMut(Paired)) {
        if self.syn == Some(syn) {
            return;
        }
        self.syn = Some(syn);
        self.heard = true;
        let first = syn.wrapping_add(1);
        match self.position {
            Position::Unknown => self.next = start_place(first),
            Position::Held => self.next = place_near(self.next, first).max(0) as u64,
            Position::Following | Position::Lost | Position::Overrun | Position::Over => return,
        }
        self.position = Position::Following;
        self.drain(out);
    }

    /// Number of the SYN, if it was seen.
    pub(super) fn syn(&self) -> Option<u32> {
        self.syn
    }

    /// A request's head is complete, whose first byte came at `began`.
    pub(super) fn ask(&mut self, asked: Asked, began: Arrival, out: &mut dyn FnMut(Paired)) {
        if matches!(self.position, Position::Over | Position::Overrun) {
            self.flush(out);
        } else if let Some(number) = began.acknowledged {
            self.align(number, out);
        }
        if self.asked.len() == MAX_WAITING {
            self.parser.give_up();
            self.flush(out);
            self.pending.clear();
            self.position = Position::Overrun;
        }
        self.asked.push_back(Question {
            asked,
            acknowledged: began.acknowledged,
            request: Request::Coming,
            whole_ns: 0,
            answer: None,
            told: false,
        });
    }

    /// The last request is complete at `now_ns`. It comes back at once where it need not wait.
    pub(super) fn attach(&mut self, captured: Captured, now_ns: u64, out: &mut dyn FnMut(Paired)) {
        let wait = self.keeps && !matches!(self.position, Position::Over | Position::Overrun);
        match self.asked.back_mut() {
            Some(question) if wait => {
                self.waiting += captured.size();
                question.request = Request::Whole(Box::new(captured));
                question.whole_ns = now_ns;
                self.settle(out);
            }
            last => {
                if let Some(question) = last {
                    question.request = Request::Gone;
                }
                out(Paired::Exchange(Box::new(captured)));
                self.settle(out);
            }
        }
    }

    /// Requests that were complete at `overdue` or before leave with what is there of their answers. What comes of those
    /// is read on, because it tells where the next one begins, and not kept.
    pub(super) fn end_overdue(&mut self, overdue: u64, out: &mut dyn FnMut(Paired)) {
        let mut is_read = true;
        for question in &mut self.asked {
            let Request::Whole(_) = &question.request else {
                is_read &= question.answer.is_some();
                continue;
            };
            if question.whole_ns > overdue {
                return;
            }
            if let Request::Whole(mut captured) =
                std::mem::replace(&mut question.request, Request::Gone)
            {
                self.waiting -= captured.size();
                let partial = is_read.then(|| self.parser.take_partial()).flatten();
                captured.answer = partial.map(Box::new);
                out(Paired::Exchange(captured));
            }
            is_read = false;
        }
    }

    /// The last request isn't captured.
    pub(super) fn pass_over(&mut self, out: &mut dyn FnMut(Paired)) {
        if let Some(question) = self.asked.back_mut()
            && matches!(question.request, Request::Coming)
        {
            question.request = Request::Gone;
            self.settle(out);
        }
    }

    /// Takes a segment from the server.
    pub(super) fn push(&mut self, segment: &Segment<'_>, now_ns: u64, out: &mut dyn FnMut(Paired)) {
        if self.position == Position::Over {
            return;
        }
        self.heard |= !segment.payload.is_empty();
        if self.position == Position::Overrun {
            return;
        }
        let sequence = segment.sequence.wrapping_add(u32::from(segment.syn));
        if self.position == Position::Unknown {
            if segment.rst {
                self.has_ended = true;
                self.end(out);
            }
            if segment.payload.is_empty() || segment.rst {
                return;
            }
            self.next = start_place(sequence);
            self.position = Position::Held;
        }
        let place = place_near(self.next, sequence);
        if !is_plausible(place, self.next, self.pending.end()) {
            return;
        }
        let start = place as u64;
        let end = start + segment.payload.len() as u64;
        if segment.fin {
            let last = end + u64::from(segment.missing);
            self.end = self.end.or((last >= self.next).then_some(last));
        }
        match self.position {
            Position::Following if start <= self.next && self.pending.is_empty() => {
                let known = usize::try_from(self.next - start).unwrap_or(usize::MAX);
                let new = segment.payload.get(known..).unwrap_or_default();
                let taken = self.feed(new, now_ns, out);
                self.hold(&new[taken..], now_ns);
            }
            Position::Lost => self.next = self.next.max(end),
            _ => {
                let floor = match self.position {
                    Position::Following => self.next,
                    _ => start,
                };
                let known = usize::try_from(floor.saturating_sub(start)).unwrap_or(usize::MAX);
                if let Some(new) = segment.payload.get(known..)
                    && !new.is_empty()
                {
                    let at = Moment {
                        ns: now_ns,
                        acknowledged: None,
                    };
                    self.pending
                        .insert(start.max(floor), new, at, Evidence::None);
                }
            }
        }
        self.drain(out);
        if segment.rst {
            self.has_ended = true;
            self.end(out);
        }
    }

    /// The hole before the pending bytes won't be filled.
    pub(super) fn give_up_hole(&mut self, out: &mut dyn FnMut(Paired)) {
        let Some(until) = self.pending.first_place().or(self.end) else {
            return;
        };
        if self.position != Position::Following || self.asked.is_empty() {
            self.pending.clear();
            return;
        }
        let had_begun = self.parser.is_within_answer();
        match self.parser.gap(until.saturating_sub(self.next)) {
            AfterAnswerGap::GoesOn(answer) => {
                self.next = until;
                self.answered(answer, out);
            }
            AfterAnswerGap::Lost(answer) => self.lose(answer, had_begun, out),
        }
        self.drain(out);
    }

    /// Lets all requests go that wait, and goes on where the next one says.
    pub(super) fn give_up(&mut self, out: &mut dyn FnMut(Paired)) {
        if self.position == Position::Following && !self.asked.is_empty() {
            let had_begun = self.parser.is_within_answer();
            let answer = self.parser.give_up();
            self.lose(answer, had_begun, out);
        }
        self.pending.clear();
        self.flush(out);
    }

    /// Lets all requests go that wait, with the answers that are there.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(Paired)) {
        if self.position == Position::Following && !self.asked.is_empty() {
            let answer = self.parser.give_up();
            self.answered(answer, out);
        }
        self.position = Position::Over;
        self.pending.clear();
        self.flush(out);
    }

    /// No request follows: once all are answered, nothing here is of interest.
    pub(super) fn close_when_answered(&mut self) {
        if self.asked.is_empty() {
            self.position = Position::Over;
            self.pending.clear();
        }
    }

    /// Bytes on the heap.
    pub(super) fn held(&self) -> usize {
        size_of::<AnswerStream>()
            + self.parser.held()
            + self.pending.held()
            + self.waiting
            + self.early
            + self.asked.capacity() * size_of::<Question>()
    }

    /// True once the server closed or reset the connection.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// True while exchanges wait here.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// True while a hole keeps an answer from being read.
    pub(super) fn has_hole(&self) -> bool {
        self.position == Position::Following
            && !self.asked.is_empty()
            && (self.pending.first_place() > Some(self.next) || self.end > Some(self.next))
    }

    /// Bytes that wait for their turn.
    pub(super) fn held_behind_hole(&self) -> usize {
        self.pending.held()
    }

    /// Changes whenever bytes were taken in order.
    pub(super) fn progress(&self) -> u64 {
        self.next
    }

    /// A request begins, and its sender had received all up to a sequence number: where nothing else is asked, its
    /// answer begins there.
    fn align(&mut self, number: u32, out: &mut dyn FnMut(Paired)) {
        let place = match self.position {
            Position::Unknown => start_place(number) as i64,
            _ => place_near(self.next, number),
        };
        let ahead = place - self.next as i64;
        let place = place.max(0) as u64;
        match self.position {
            // Nobody knows where the answers to those before it begin.
            Position::Unknown | Position::Held if !self.asked.is_empty() => {
                self.flush(out);
                if self.pending.first_place() >= Some(place) || self.pending.is_empty() {
                    self.pending.clear();
                    self.position = Position::Lost;
                    // Pipelined requests acknowledge the same; the first of the answers there isn't theirs.
                    self.next = place + 1;
                    return;
                }
            }
            Position::Unknown | Position::Held => {}
            Position::Lost if (0..PLAUSIBLE).contains(&ahead) => self.flush(out),
            // Whatever lies before was the answer to a request that wasn't captured.
            Position::Following if self.asked.is_empty() && (1..PLAUSIBLE).contains(&ahead) => {
                self.parser.give_up();
            }
            _ => return,
        }
        self.follow_from(place);
    }

    /// An answer begins at `place`.
    fn follow_from(&mut self, place: u64) {
        self.next = place;
        self.position = Position::Following;
        while let Some((at, run)) = self.pending.pop_until(place) {
            let known = usize::try_from(place - at).unwrap_or(usize::MAX);
            if let Some(new) = run.bytes.get(known..)
                && !new.is_empty()
            {
                self.pending.insert(place, new, run.at, Evidence::None);
                break;
            }
        }
    }

    /// Gives the parser bytes that have their turn. It takes as much as was asked for.
    fn feed(&mut self, bytes: &[u8], at_ns: u64, out: &mut dyn FnMut(Paired)) -> usize {
        let mut rest = bytes;
        while !rest.is_empty()
            && self.position == Position::Following
            && let Some(question) = self.asked.iter().find(|q| q.answer.is_none())
        {
            let had_begun = self.parser.is_within_answer();
            match self.parser.push(rest, at_ns, question.asked) {
                Ok((taken, answer)) => {
                    rest = &rest[taken..];
                    self.next += taken as u64;
                    self.tell(out);
                    self.answered(answer, out);
                }
                Err(_) => {
                    let answer = self.parser.give_up();
                    self.hold(rest, at_ns);
                    self.lose(answer, had_begun, out);
                    if self.position == Position::Lost {
                        self.assume_switch(out);
                    }
                    return bytes.len();
                }
            }
        }
        bytes.len() - rest.len()
    }

    /// The server may have agreed to a tunnel or another protocol, in an answer that was seen and can't be told from others.
    fn assume_switch(&mut self, out: &mut dyn FnMut(Paired)) {
        for question in &mut self.asked {
            if question.answer.is_none() {
                let status = if question.asked.connect { 200 } else { 101 };
                question.tell(status, out);
            }
        }
    }

    /// Takes what is pending and has its turn, and the end.
    pub(super) fn drain(&mut self, out: &mut dyn FnMut(Paired)) {
        if self.position == Position::Overrun && self.heard {
            self.assume_switch(out);
        }
        while self.position == Position::Following
            && self.asked.iter().any(|q| q.answer.is_none())
            && let Some((place, run)) = self.pending.pop_until(self.next)
        {
            let known = usize::try_from(self.next - place).unwrap_or(usize::MAX);
            let new = run.bytes.get(known..).unwrap_or_default();
            let taken = self.feed(new, run.at.ns, out);
            self.hold(&new[taken..], run.at.ns);
        }
        if self.asked.is_empty() && self.pending.held() > MAX_UNASKED {
            self.pending.clear();
            self.position = Position::Lost;
        }
        let readable = matches!(self.position, Position::Following | Position::Lost);
        if readable && self.pending.is_empty() && self.end.is_some_and(|end| end <= self.next) {
            if self.position == Position::Following && !self.asked.is_empty() {
                let answer = self.parser.end();
                self.answered(answer, out);
            }
            self.has_ended = true;
            self.end(out);
        }
    }

    /// Keeps bytes at `next` until they are asked for.
    fn hold(&mut self, bytes: &[u8], at_ns: u64) {
        if !bytes.is_empty() && self.position == Position::Following {
            let at = Moment {
                ns: at_ns,
                acknowledged: None,
            };
            self.pending.insert(self.next, bytes, at, Evidence::None);
        }
    }

    /// The head of an answer is enough to know whether a tunnel begins, however long its body takes.
    fn tell(&mut self, out: &mut dyn FnMut(Paired)) {
        if let Some(status) = self.parser.status()
            && let Some(question) = self.asked.iter_mut().find(|q| q.answer.is_none())
        {
            question.tell(status, out);
        }
    }

    /// The answer to the first question that has none.
    fn answered(&mut self, answer: Option<Answer>, out: &mut dyn FnMut(Paired)) {
        let Some(answer) = answer else { return };
        let question = self.asked.iter_mut().find(|q| q.answer.is_none());
        let Some(question) = question else { return };
        let status = answer.head.status();
        let switched = question.asked.is_switched_by(status);
        question.tell(status, out);
        self.early += answer.size();
        question.answer = Some(answer);
        self.settle(out);
        if switched {
            self.end(out);
        }
    }

    /// What follows can't be read up to where one of the later requests tells that its answer begins. An answer that
    /// had begun ends at `next` at the earliest; of one that had not, the first byte lies there.
    fn lose(&mut self, answer: Option<Answer>, had_begun: bool, out: &mut dyn FnMut(Paired)) {
        let earliest = self.next + u64::from(!had_begun);
        self.answered(answer, out);
        if self.position != Position::Following {
            return;
        }
        let unanswered = self.asked.iter().position(|q| q.answer.is_none());
        let later = unanswered.map_or(self.asked.len(), |first| first + 1);
        let begin = |question: &Question| {
            let place = place_near(self.next, question.acknowledged?);
            (place >= earliest as i64).then_some(place as u64)
        };
        let found = (later..self.asked.len()).find_map(|n| Some((n, begin(&self.asked[n])?)));
        match found {
            Some((n, place)) => {
                for question in self.asked.drain(..n).collect::<Vec<_>>() {
                    self.leave(question, out);
                }
                self.follow_from(place);
            }
            None => {
                self.position = Position::Lost;
                self.next = self.next.max(self.pending.end());
                self.pending.clear();
            }
        }
    }

    /// Lets go what is answered, in order.
    fn settle(&mut self, out: &mut dyn FnMut(Paired)) {
        while let Some(first) = self.asked.front()
            && first.answer.is_some()
            && !matches!(first.request, Request::Coming)
            && let Some(question) = self.asked.pop_front()
        {
            self.leave(question, out);
        }
    }

    /// Lets all go whose request is complete.
    fn flush(&mut self, out: &mut dyn FnMut(Paired)) {
        let mut coming = None;
        while let Some(question) = self.asked.pop_front() {
            match question.request {
                Request::Coming => coming = Some(question),
                _ => self.leave(question, out),
            }
        }
        self.asked.extend(coming);
    }

    fn leave(&mut self, question: Question, out: &mut dyn FnMut(Paired)) {
        self.early -= question.answer.as_ref().map_or(0, Answer::size);
        if let Request::Whole(mut captured) = question.request {
            self.waiting -= captured.size();
            captured.answer = question.answer.map(Box::new);
            out(Paired::Exchange(captured));
        }
    }
}
