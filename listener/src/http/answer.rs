//! The bytes that a server sent on one connection, and the answers in them (RFC 9112 §6.3).
//!
//! What enters: the bytes in order, in pieces of any size, with what was asked; gaps; the connection's end.
//! What leaves: one [`Answer`] for each question. What may be lost: interim answers, on purpose; the end of a body
//! that is longer than what is kept; the rest of an answer with a gap. Answers are only compared and shown, never sent,
//! so more is let pass here than in requests.

use bytes::Bytes;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing, FramingError};
use reprise_traffic::{Answer, AnswerHead, BodyMut, Head};

use super::MAX_HEAD;
use super::head_scan::{HeadScan, Scan};

/// What about a request decides how its answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// `HEAD`: no body follows, whatever the answer says.
    pub head_only: bool,
    /// `CONNECT`: a tunnel follows a 2xx.
    pub connect: bool,
    /// With `Upgrade`: another protocol follows a 101.
    pub upgrade: bool,
}

impl Asked {
    /// By a request.
    pub fn by(head: &Head) -> Asked {
        Asked {
            head_only: head.method() == "HEAD",
            connect: head.method() == "CONNECT",
            upgrade: head.header("upgrade").is_some(),
        }
    }

    /// Whether the connection is no longer HTTP/1 after an answer of that status.
    pub fn is_switched_by(self, status: u16) -> bool {
        status == 101 || (self.connect && (200..300).contains(&status))
    }

    fn method(self) -> &'static str {
        match self {
            Asked {
                head_only: true, ..
            } => "HEAD",
            Asked { connect: true, .. } => "CONNECT",
            _ => "GET",
        }
    }
}

/// The bytes are no answer, or where it ends is a matter of opinion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1 answer")]
pub(crate) struct NoAnswer;

/// What is known after a gap, with the answer that it ended in.
#[derive(Debug)]
pub(crate) enum AfterAnswerGap {
    /// Where the next byte belongs.
    GoesOn(Option<Answer>),
    /// Nothing.
    Lost(Option<Answer>),
}

/// Finds the answers in what a server sends on one connection.
#[derive(Debug)]
pub(crate) struct AnswerParser {
    /// Bytes of a body that are kept.
    max_body: usize,
    state: State,
    /// Of the first byte of this answer, or of the interim ones before it.
    first_byte_ns: Option<u64>,
    last_byte_ns: u64,
}

#[derive(Debug)]
enum State {
    Start,
    Head(Box<(Vec<u8>, HeadScan)>),
    Body(Box<Partial>),
}

#[derive(Debug)]
struct Partial {
    head: AnswerHead,
    rest: Rest,
    kept: BodyMut,
    body_len: u64,
    complete: bool,
}

#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

const START: &[u8] = b"HTTP/1.";

impl AnswerParser {
    /// For a connection that begins.
    pub(crate) fn new(max_body: usize) -> AnswerParser {
        AnswerParser {
            max_body,
            state: State::Start,
            first_byte_ns: None,
            last_byte_ns: 0,
        }
    }

    /// Takes the next bytes, up to the end of the answer to what was asked, and returns their number.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        at_ns: u64,
        asked: Asked,
    ) -> Result<(usize, Option<Answer>), NoAnswer> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.last_byte_ns = at_ns;
            let taken = match &mut self.state {
                // Some servers end a body with an empty line that it doesn't count.
                State::Start if matches!(rest[0], b'\r' | b'\n') => 1,
                State::Start => {
                    self.first_byte_ns.get_or_insert(at_ns);
                    self.state = State::Head(Box::new((Vec::new(), HeadScan::lenient())));
                    0
                }
                State::Head(_) => self.push_head(rest, asked)?,
                State::Body(_) => self.push_body(rest)?,
            };
            rest = &rest[taken..];
            if let State::Body(partial) = &self.state
                && partial.is_at_end()
            {
                return Ok((bytes.len() - rest.len(), self.finish()));
            }
        }
        Ok((bytes.len(), None))
    }

    /// `missing` bytes will never come.
    pub(crate) fn gap(&mut self, missing: u64) -> AfterAnswerGap {
        let State::Body(partial) = &mut self.state else {
            return AfterAnswerGap::Lost(self.give_up());
        };
        partial.complete = false;
        match &mut partial.rest {
            Rest::Length(left) if missing <= *left => {
                *left -= missing;
                partial.body_len += missing;
                let ended = *left == 0;
                AfterAnswerGap::GoesOn(ended.then(|| self.finish()).flatten())
            }
            Rest::UntilClose => {
                partial.body_len += missing;
                AfterAnswerGap::GoesOn(None)
            }
            _ => AfterAnswerGap::Lost(self.give_up()),
        }
    }

    /// The connection ended: the answer to what was asked, where its head was seen.
    pub(crate) fn end(&mut self) -> Option<Answer> {
        match &self.state {
            State::Body(partial) if matches!(partial.rest, Rest::UntilClose) => self.finish(),
            _ => self.give_up(),
        }
    }

    /// Ends the answer that is under way as one that isn't complete.
    pub(crate) fn give_up(&mut self) -> Option<Answer> {
        if let State::Body(partial) = &mut self.state {
            partial.complete = false;
        }
        self.finish()
    }

    /// The status of the answer whose body is under way.
    pub(crate) fn status(&self) -> Option<u16> {
        match &self.state {
            State::Body(partial) => Some(partial.head.status()),
            _ => None,
        }
    }

    /// What is there of the answer under way, of which no more is kept.
    pub(crate) fn take_partial(&mut self) -> Option<Answer> {
        let State::Body(partial) = &mut self.state else {
            return None;
        };
        partial.complete = false;
        Some(Answer {
            first_byte_ns: self.first_byte_ns.unwrap_or(self.last_byte_ns),
            last_byte_ns: self.last_byte_ns,
            head: partial.head.clone(),
            body: std::mem::take(&mut partial.kept).freeze(),
            body_len: partial.body_len,
            complete: false,
        })
    }

    /// True when an answer has begun and isn't complete.
    pub(crate) fn is_within_answer(&self) -> bool {
        !matches!(self.state, State::Start) || self.first_byte_ns.is_some()
    }

    /// Bytes on the heap.
    pub(crate) fn held(&self) -> usize {
        match &self.state {
            State::Start => 0,
            State::Head(head) => head.0.capacity() + size_of::<(Vec<u8>, HeadScan)>(),
            State::Body(partial) => {
                size_of::<Partial>() + partial.head.size() + partial.kept.held()
            }
        }
    }

    fn push_head(&mut self, bytes: &[u8], asked: Asked) -> Result<usize, NoAnswer> {
        let State::Head(partial) = &mut self.state else {
            return Ok(0);
        };
        let (head, scan) = partial.as_mut();
        let (taken, whole) = match scan.push(bytes) {
            Scan::More => (bytes.len(), false),
            Scan::End(taken) | Scan::BareLineFeed(taken) => (taken, true),
        };
        head.extend_from_slice(&bytes[..taken.min(MAX_HEAD + 1 - head.len())]);
        let compared = head.len().min(START.len());
        if head.len() > MAX_HEAD || head[..compared] != START[..compared] {
            self.state = State::Start;
            return Err(NoAnswer);
        }
        if !whole {
            return Ok(taken);
        }
        let raw = Bytes::from(std::mem::take(head));
        self.state = State::Start;
        let head = AnswerHead::parse(raw).map_err(|_| NoAnswer)?;
        let status = head.status();
        if status < 200 && !asked.is_switched_by(status) {
            return Ok(taken);
        }
        let framing = if asked.is_switched_by(status) {
            Framing::Length(0)
        } else {
            framing(&head, asked)?
        };
        self.state = State::Body(Box::new(Partial {
            head,
            rest: match framing {
                Framing::Length(length) => Rest::Length(length),
                Framing::Chunked => Rest::Chunked(ChunkedDecoder::default()),
                Framing::UntilClose => Rest::UntilClose,
            },
            kept: BodyMut::default(),
            body_len: 0,
            complete: true,
        }));
        Ok(taken)
    }

    fn push_body(&mut self, bytes: &[u8]) -> Result<usize, NoAnswer> {
        let max_body = self.max_body;
        let State::Body(partial) = &mut self.state else {
            return Ok(0);
        };
        let Partial {
            rest,
            kept,
            body_len,
            complete,
            ..
        } = partial.as_mut();
        let mut keep = |data: &[u8]| {
            // Bytes behind a gap aren't the next ones.
            if *complete {
                let room = max_body - kept.len();
                kept.push(&data[..data.len().min(room)], None);
            }
            *body_len += data.len() as u64;
        };
        Ok(match rest {
            Rest::Length(left) => {
                let taken = (*left).min(bytes.len() as u64) as usize;
                keep(&bytes[..taken]);
                *left -= taken as u64;
                taken
            }
            Rest::Chunked(decoder) => decoder.push(bytes, keep).map_err(|_| NoAnswer)?,
            Rest::UntilClose => {
                keep(bytes);
                bytes.len()
            }
        })
    }

    fn finish(&mut self) -> Option<Answer> {
        let first_byte_ns = self.first_byte_ns.take();
        let State::Body(partial) = std::mem::replace(&mut self.state, State::Start) else {
            return None;
        };
        let partial = *partial;
        Some(Answer {
            first_byte_ns: first_byte_ns.unwrap_or(self.last_byte_ns),
            last_byte_ns: self.last_byte_ns,
            head: partial.head,
            body: partial.kept.freeze(),
            body_len: partial.body_len,
            complete: partial.complete,
        })
    }
}

/// The length rule of an answer. Where it is said twice, that of clients (RFC 9112 §6.3): the encoding goes before the length,
/// and the same length may be repeated.
fn framing(head: &AnswerHead, asked: Asked) -> Result<Framing, NoAnswer> {
    let is_length = |name: &str| name.eq_ignore_ascii_case("content-length");
    let others = || head.headers().filter(|(name, _)| !is_length(name));
    let mut lengths = head
        .headers()
        .filter(|(name, _)| is_length(name))
        .flat_map(|(_, value)| value.split(|b| *b == b',').map(<[u8]>::trim_ascii));
    let (status, minor) = (head.status(), head.minor_version());
    let framing = match framing::of_response(asked.method(), status, minor, head.headers()) {
        Err(FramingError::LengthAndEncoding) => {
            framing::of_response(asked.method(), status, minor, others())
        }
        Err(FramingError::BadLength) => {
            let first = lengths.next().ok_or(NoAnswer)?;
            if lengths.any(|length| length != first) {
                return Err(NoAnswer);
            }
            let headers = others().chain([("content-length", first)]);
            framing::of_response(asked.method(), status, minor, headers)
        }
        framing => framing,
    };
    framing.map_err(|_| NoAnswer)
}

impl Partial {
    fn is_at_end(&self) -> bool {
        match &self.rest {
            Rest::Length(left) => *left == 0,
            Rest::Chunked(decoder) => decoder.is_done(),
            Rest::UntilClose => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: Asked = Asked {
        head_only: false,
        connect: false,
        upgrade: false,
    };

    /// Status, body and whether it is complete, of each answer to `asked`.
    fn read(
        input: &[u8],
        cut: usize,
        asked: &[Asked],
        max_body: usize,
    ) -> Vec<(u16, Vec<u8>, bool)> {
        let mut parser = AnswerParser::new(max_body);
        let mut answers = Vec::new();
        let mut keep = |answer: Answer| {
            let status = answer.head.status();
            answers.push((status, answer.body.to_bytes().to_vec(), answer.complete));
        };
        let mut asked = asked.iter();
        let mut now = *asked.next().unwrap();
        for (n, piece) in input.chunks(cut).enumerate() {
            let mut rest = piece;
            while !rest.is_empty() {
                let (taken, answer) = parser.push(rest, n as u64, now).unwrap();
                rest = &rest[taken..];
                if let Some(answer) = answer {
                    keep(answer);
                    let Some(next) = asked.next() else {
                        assert!(rest.is_empty());
                        return answers;
                    };
                    now = *next;
                }
            }
        }
        parser.end().map(&mut keep);
        answers
    }

    #[test]
    fn answers_end_as_their_questions_and_heads_say() {
        let head_only = Asked {
            head_only: true,
            ..GET
        };
        let input = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\
            HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n\
            HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\
            HTTP/1.0 200 OK\nServer: x\n\nto the end";
        let asked = [GET, head_only, GET, GET, GET, GET];
        for cut in 1..input.len() + 1 {
            let answers = read(input, cut, &asked, 1000);
            let of = |status, body: &str| (status, body.as_bytes().to_vec(), true);
            let expected = [
                of(200, "abc"),
                of(200, ""),
                of(204, ""),
                of(304, ""),
                of(200, "de"),
                of(200, "to the end"),
            ];
            assert_eq!(answers, expected, "{cut}");
        }
    }

    #[test]
    fn answers_that_are_odd_but_clear_are_read_as_clients_do() {
        for (lines, body) in [
            ("Content-Length: 2\r\nContent-Length: 2\r\n", "ok"),
            ("Content-Length: 2, 2\r\n", "ok"),
            ("X: a\r\n b\r\nContent-Length: 2\r\n", "ok"),
            ("X : a\r\nContent-Length: 2\r\n", "ok"),
            (
                "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n",
                "2\r\nok\r\n0\r\n\r\n",
            ),
        ] {
            let input = format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}").repeat(2);
            for cut in [1, 7, input.len()] {
                let answers = read(input.as_bytes(), cut, &[GET, GET], 9);
                let ok = (200, b"ok".to_vec(), true);
                assert_eq!(answers, [ok.clone(), ok], "{lines}");
            }
        }
    }

    #[test]
    fn a_switch_ends_the_answers() {
        let upgrade = Asked {
            upgrade: true,
            ..GET
        };
        let connect = Asked {
            connect: true,
            ..GET
        };
        let switched = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        assert_eq!(read(switched, 7, &[upgrade], 9)[0].0, 101);
        let tunnel = b"HTTP/1.1 200 Connected\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(read(tunnel, 7, &[connect], 9)[0].0, 200);
        assert!(connect.is_switched_by(200) && !connect.is_switched_by(407));
    }

    #[test]
    fn gaps_leave_what_came_before_and_long_bodies_their_beginning() {
        let mut parser = AnswerParser::new(4);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab";
        assert!(parser.push(head, 5, GET).unwrap().1.is_none());
        assert!(matches!(parser.gap(3), AfterAnswerGap::GoesOn(None)));
        let (taken, answer) = parser.push(b"fghijHTTP", 6, GET).unwrap();
        let answer = answer.unwrap();
        assert_eq!(
            (taken, &answer.body.to_bytes()[..], answer.body_len),
            (5, &b"ab"[..], 10)
        );
        assert_eq!((answer.first_byte_ns, answer.last_byte_ns), (5, 6));
        assert!(!answer.complete);
        assert!(matches!(parser.gap(1), AfterAnswerGap::Lost(None)));
        let long = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef";
        let answer = parser.push(long, 7, GET).unwrap().1.unwrap();
        assert_eq!(
            (&answer.body.to_bytes()[..], answer.body_len),
            (&b"abcd"[..], 6)
        );
        assert!(answer.complete && !answer.is_whole());
    }

    #[test]
    fn what_is_no_answer_is_said() {
        for input in [
            "SSH-2.0\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        ] {
            let pushed = AnswerParser::new(9).push(input.as_bytes(), 1, GET);
            assert_eq!(pushed.unwrap_err(), NoAnswer, "{input}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 1..40),
                    Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
                    Just(b"Transfer-Encoding: chunked\r\n\r\n".to_vec()),
                    Just(b"Content-Length: 7\r\n\r\n".to_vec()),
                ],
                1..12,
            ),
            gap in 0_u64..20,
        ) {
            let mut parser = AnswerParser::new(10);
            for piece in pieces {
                let mut rest = &piece[..];
                while let Ok((taken, _)) = parser.push(rest, 1, GET)
                    && taken < rest.len()
                {
                    rest = &rest[taken..];
                }
                let _ = parser.gap(gap);
                prop_assert!(parser.held() <= MAX_HEAD + 1000);
            }
        }
    }
}
