//! One connection: who asks, who answers, and both directions together.
//!
//! What enters: its segments, in any order and of both directions, as far as they were captured. What leaves: whole
//! requests, with their answers where those are kept; behind them that the connection ended, which is told by the end
//! of either side, a reset, or another connection on the same ports. What may be lost: see the two directions; the
//! end of a connection that was forgotten before.

use std::net::SocketAddr;

use reprise_traffic::exchange::{Captured, Closed, Source};

use super::answers::{AnswerStream, Paired};
use super::stream::{Context, Stream};
use super::table::{Class, Key};
use super::{Answers, Sink};
use crate::edge::Edge;
use crate::http::{Begin, Event, Incomplete, Message, Skip, Switching, Verdict, request_begin};
use crate::packet::Segment;

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Whether the first of the key's ends asks.
    client_first: bool,
    roles: Roles,
    /// Requests of it were let go, and not yet that it ended.
    is_used: bool,
    requests: Stream,
    /// Where answers are looked at.
    answers: Option<Box<AnswerStream>>,
}

/// How sure it is who asks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roles {
    /// A capture that joins in the middle of a body can't know.
    #[default]
    Guessed,
    /// Both ends opened the connection (RFC 9293 §3.5): only a request tells.
    Crossed,
    Certain,
}

/// What a flow's methods need of its owner.
pub(super) struct Surroundings<'a, S> {
    pub(super) edge: &'a Edge,
    pub(super) key: Key,
    pub(super) answers: Answers,
    pub(super) max_exchange: usize,
    /// The capture's time, unix nanoseconds.
    pub(super) now_ns: u64,
    /// What requests of this connection are passed over for at the moment.
    pub(super) skip: Option<Skip>,
    pub(super) sink: &'a mut S,
}

/// Which way a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToServer,
    ToClient,
}

impl Flow {
    /// A connection whose first of the key's ends asks, or doesn't.
    pub(super) fn begin(&mut self, client_first: bool, roles: Roles, answers: Answers) {
        self.client_first = client_first;
        self.roles = roles;
        self.answers = match answers {
            Answers::Unseen | Answers::Switches => None,
            Answers::Watched => Some(Box::new(AnswerStream::new(None))),
            Answers::Kept { max_body } => Some(Box::new(AnswerStream::new(Some(max_body)))),
        };
    }

    /// Which way a segment goes whose source is the first of the key's ends, or isn't.
    pub(super) fn way(&self, source_first: bool) -> Way {
        match source_first == self.client_first {
            true => Way::ToServer,
            false => Way::ToClient,
        }
    }

    /// Whether a segment shows that the ends' roles are the other way round: the one taken for the server opens a
    /// connection, or asks where nothing else is certain.
    pub(super) fn is_reversed_by(&self, segment: &Segment<'_>) -> bool {
        if segment.syn && segment.acknowledgment.is_none() {
            return !self.is_crossed_by(segment);
        }
        self.roles != Roles::Certain
            && matches!(request_begin(segment.payload), Begin::Yes | Begin::Likely)
    }

    /// Whether a SYN from the end taken for the server met the client's on the way, instead of opening another connection.
    fn is_crossed_by(&self, segment: &Segment<'_>) -> bool {
        let accepted_with = self.answers.as_ref().and_then(|answers| answers.syn());
        self.requests.is_just_opened() && accepted_with.is_none_or(|syn| syn == segment.sequence)
    }

    /// Takes the next segment of the capture.
    pub(super) fn push<S: Sink>(
        &mut self,
        way: Way,
        segment: &Segment<'_>,
        now_ns: u64,
        around: &mut Surroundings<'_, S>,
    ) {
        if segment.rst {
            self.decide(around);
        }
        let opens = segment.syn && segment.acknowledgment.is_none();
        if way == Way::ToClient && opens {
            self.roles = Roles::Crossed;
        } else if segment.syn && self.roles == Roles::Guessed
            || way == Way::ToClient && segment.payload.starts_with(b"HTTP/1.")
        {
            self.roles = Roles::Certain;
        }
        match way {
            Way::ToServer => {
                if segment.syn {
                    self.open(segment.sequence, around);
                } else if self.requests.is_succeeded_by(segment) {
                    self.succeed(around);
                }
                self.with_requests(around, |requests, context| {
                    requests.push(segment, now_ns, context);
                });
                // The end of an answer's body may have request lines in it too; only one that is read tells.
                if self.roles != Roles::Certain
                    && self.requests.is_following()
                    && request_begin(segment.payload) == Begin::Yes
                {
                    self.roles = Roles::Certain;
                }
            }
            Way::ToClient => self.push_answer(segment, now_ns, around),
        }
        self.settle(around);
    }

    /// The oldest hole won't be filled.
    pub(super) fn give_up_hole<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        // Behind an answer's hole may lie what the server said to a request for a tunnel.
        let answer_may_follow =
            self.requests.is_waiting() && self.answers.as_ref().is_some_and(|a| a.has_hole());
        if self.requests.class() == Class::Holed && !answer_may_follow {
            self.with_requests(around, |requests, context| requests.give_up_hole(context));
        }
        self.settle(around);
        self.with_answers(around, |answers, out| {
            if answers.has_hole() {
                answers.give_up_hole(out);
            }
        });
        self.settle(around);
    }

    /// Lets go, with what is there of their answers, requests whose last byte came at `overdue` or before.
    pub(super) fn end_overdue<S: Sink>(&mut self, overdue: u64, around: &mut Surroundings<'_, S>) {
        self.with_answers(around, |answers, out| answers.end_overdue(overdue, out));
    }

    /// Gives up what is under way and all that is held.
    pub(super) fn give_up<S: Sink>(&mut self, cause: Incomplete, around: &mut Surroundings<'_, S>) {
        self.with_requests(around, |requests, context| requests.give_up(cause, context));
        self.with_answers(around, AnswerStream::give_up);
    }

    /// Gives up the answers that can't be read though no hole lies before them: a server says what nobody asked for.
    pub(super) fn give_up_answers<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        self.with_answers(around, AnswerStream::give_up);
    }

    /// Gives up all, for good.
    pub(super) fn end<S: Sink>(&mut self, cause: Incomplete, around: &mut Surroundings<'_, S>) {
        // All else says nothing about the connection itself.
        let has_ended = cause == Incomplete::ClosedEarly || self.requests.is_closed();
        self.decide(around);
        self.with_requests(around, |requests, context| {
            requests.end_with(cause, context)
        });
        self.with_answers(around, AnswerStream::end);
        self.is_used &= has_ended;
    }

    /// Tells that the connection ended, once, where requests were let go and none waits.
    pub(super) fn tell_end<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        if self.is_used && self.has_ended() {
            self.tell(around);
        }
    }

    fn has_ended(&self) -> bool {
        match &self.answers {
            Some(answers) => {
                answers.has_ended() || self.requests.is_closed() && !answers.has_waiting()
            }
            None => self.requests.is_closed(),
        }
    }

    fn tell<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        if !std::mem::take(&mut self.is_used) {
            return;
        }
        let (client, server) = ends(around.key, self.client_first);
        around.sink.closed(Closed {
            closed_ns: around.now_ns,
            client,
            server,
            due_ns: None,
        });
    }

    /// What it waits for.
    pub(super) fn class(&self) -> Class {
        let requests = self.requests.class();
        match &self.answers {
            Some(answers) if answers.has_hole() => Class::Holed,
            Some(answers) if answers.has_waiting() && requests != Class::Holed => Class::Answer,
            _ => requests,
        }
    }

    /// Changes whenever bytes were taken in order.
    pub(super) fn progress(&self) -> u64 {
        let answers = self.answers.as_ref().map_or(0, |a| a.progress());
        self.requests.progress().wrapping_add(answers)
    }

    /// Bytes on the heap that belong to exchanges.
    pub(super) fn held(&self) -> usize {
        self.requests.held() + self.answers.as_ref().map_or(0, |a| a.held())
    }

    /// The larger share of the two directions' bytes that wait for a hole to be filled.
    pub(super) fn held_behind_hole(&self) -> usize {
        let answers = self.answers.as_ref().map_or(0, |a| a.held_behind_hole());
        self.requests.held_behind_hole().max(answers)
    }

    fn push_answer<S: Sink>(
        &mut self,
        segment: &Segment<'_>,
        now_ns: u64,
        around: &mut Surroundings<'_, S>,
    ) {
        if around.answers == Answers::Switches {
            if says_switched(segment.payload) {
                self.with_requests(around, |requests, context| {
                    requests.resolve(Verdict::Switched, context);
                });
            }
            return;
        }
        match segment.acknowledgment {
            Some(number) if segment.syn => self.accept(segment.sequence, number, around),
            None if segment.syn => {
                self.with_answers(around, |answers, out| answers.open(segment.sequence, out));
            }
            _ => {}
        }
        if self.answers.is_some() && !segment.payload.is_empty() {
            self.hear(segment);
        }
        if says_switched(segment.payload) {
            self.requests.stay_lost();
        }
        self.with_answers(around, |answers, out| answers.push(segment, now_ns, out));
    }

    /// What the server says tells where the client's next request begins.
    fn hear(&mut self, segment: &Segment<'_>) {
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        let end = first.wrapping_add(segment.payload.len() as u32);
        if is_interim(segment.payload) {
            self.requests.received().expect_body_behind(end);
        } else if let Some(number) = segment.acknowledgment {
            self.requests.received().hear(end, number);
        }
    }

    /// The server's SYN, which acknowledges the client's, and data that came with it.
    fn accept<S: Sink>(&mut self, syn: u32, acknowledged: u32, around: &mut Surroundings<'_, S>) {
        let client_syn = acknowledged.wrapping_sub(1);
        if self.requests.was_opened_before_by(client_syn) {
            return;
        }
        let server_syn = self.answers.as_ref().and_then(|answers| answers.syn());
        let is_other = match self.requests.syn() {
            None => true,
            Some(number) if number == client_syn => false,
            Some(_) if server_syn.is_none() && self.requests.is_accepted_by(acknowledged) => false,
            // The ports are in use again and the client's SYN wasn't captured; or this one comes late.
            Some(_) if server_syn.is_some_and(|number| number != syn) => true,
            Some(_) => return,
        };
        if self.roles == Roles::Guessed {
            self.roles = Roles::Certain;
        }
        if is_other {
            self.open(client_syn, around);
        }
        self.with_answers(around, |answers, out| answers.open(syn, out));
    }

    /// The client's SYN. Where it is that of another connection, all that was before is over.
    fn open<S: Sink>(&mut self, syn: u32, around: &mut Surroundings<'_, S>) {
        if self.requests.syn() != Some(syn) {
            self.decide(around);
        }
        let anew = self.with_requests(around, |requests, context| requests.open(syn, context));
        if anew {
            self.with_answers(around, AnswerStream::end);
            self.tell(around);
            self.begin(self.client_first, self.roles, around.answers);
        }
    }

    /// Another connection begins, and its SYN wasn't captured.
    fn succeed<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        self.decide(around);
        self.with_requests(around, |requests, context| requests.begin_anew(context));
        self.with_answers(around, AnswerStream::end);
        self.tell(around);
        self.begin(self.client_first, self.roles, around.answers);
    }

    /// All will end, so that the holes before the answer to a request for a tunnel won't be filled.
    fn decide<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        while self.requests.is_waiting() && self.answers.as_ref().is_some_and(|a| a.has_hole()) {
            self.with_answers(around, |answers, out| answers.give_up_hole(out));
            self.settle(around);
        }
    }

    /// One direction may have told what the other waits for.
    fn settle<S: Sink>(&mut self, around: &mut Surroundings<'_, S>) {
        if self.answers.is_none() {
            return;
        }
        loop {
            let before = self.progress();
            self.with_answers(around, AnswerStream::drain);
            if self.progress() == before {
                break;
            }
        }
        if self.requests.is_over()
            && let Some(answers) = &mut self.answers
        {
            answers.close_when_answered();
        }
    }

    fn with_requests<S: Sink, R>(
        &mut self,
        around: &mut Surroundings<'_, S>,
        act: impl FnOnce(&mut Stream, &mut Context<'_, &mut dyn FnMut(Event)>) -> R,
    ) -> R {
        let Flow {
            client_first,
            roles,
            is_used,
            requests,
            answers,
        } = self;
        let (edge, key, client_first) = (around.edge, around.key, *client_first);
        let (sink, now_ns) = (&mut *around.sink, around.now_ns);
        let mut out = |event| {
            if let Event::Request(_) = event {
                *roles = Roles::Certain;
            }
            let mut take = |captured| {
                *is_used = true;
                sink.take(captured);
            };
            let mut pair = |paired| match paired {
                Paired::Exchange(captured) => take(*captured),
                // No answer comes of what a client sends.
                Paired::Verdict(_) => {}
            };
            match (event, answers.as_deref_mut()) {
                (Event::Head { asked, began }, Some(answers)) => {
                    answers.ask(asked, began, &mut pair);
                }
                (Event::Request(message), Some(answers)) => {
                    answers.attach(captured(key, client_first, message), now_ns, &mut pair);
                }
                (Event::Request(message), None) => take(captured(key, client_first, message)),
                (Event::Skipped { skip, .. }, answers) => {
                    edge.count(skip.into(), 1);
                    if let Some(answers) = answers {
                        answers.pass_over(&mut pair);
                    }
                }
                (Event::Incomplete(cause), answers) => {
                    edge.count(cause.into(), 1);
                    if let Some(answers) = answers {
                        answers.pass_over(&mut pair);
                    }
                }
                (Event::Refused(refusal), answers) => {
                    edge.count(refusal.into(), 1);
                    if let Some(answers) = answers {
                        answers.pass_over(&mut pair);
                    }
                }
                (Event::Head { .. } | Event::Continue, _) => {}
            }
        };
        let mut context = Context {
            edge,
            max_exchange: around.max_exchange,
            switching: match around.answers {
                Answers::Unseen | Answers::Switches => Switching::Guess,
                Answers::Watched | Answers::Kept { .. } => Switching::Wait,
            },
            skip: around.skip,
            out: &mut out as &mut dyn FnMut(Event),
        };
        act(requests, &mut context)
    }

    fn with_answers<S: Sink>(
        &mut self,
        around: &mut Surroundings<'_, S>,
        act: impl FnOnce(&mut AnswerStream, &mut dyn FnMut(Paired)),
    ) {
        let Some(answers) = &mut self.answers else {
            return;
        };
        let (mut verdict, is_used) = (None, &mut self.is_used);
        act(answers, &mut |paired| match paired {
            Paired::Exchange(captured) => {
                *is_used = true;
                around.sink.take(*captured);
            }
            Paired::Verdict(said) => verdict = Some(said),
        });
        if let Some(verdict) = verdict {
            self.with_requests(around, |requests, context| {
                requests.resolve(verdict, context);
            });
        }
    }
}

/// The client and the server.
fn ends(key: Key, client_first: bool) -> (SocketAddr, SocketAddr) {
    let [first, second] = key.addresses();
    match client_first {
        true => (first, second),
        false => (second, first),
    }
}

fn captured(key: Key, client_first: bool, message: Message) -> Captured {
    let (client, server) = ends(key, client_first);
    Captured {
        captured_ns: message.captured_ns,
        client,
        server,
        source: Source::Wire,
        head: message.head,
        body: message.body,
        trailers: message.trailers,
        answer: None,
        label: None,
    }
}

/// Whether bytes are an interim answer and nothing else: the client goes on with the body that it announced.
fn is_interim(bytes: &[u8]) -> bool {
    let interim = bytes.starts_with(b"HTTP/1.1 1") || bytes.starts_with(b"HTTP/1.0 1");
    interim && memchr::memmem::find(bytes, b"\r\n\r\n").is_some_and(|end| end + 4 == bytes.len())
}

/// Whether bytes are the beginning of an answer that changes the protocol.
fn says_switched(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 101") || bytes.starts_with(b"HTTP/1.0 101")
}
