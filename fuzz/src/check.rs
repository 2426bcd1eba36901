//! What has to be true of every request that is reported, whatever the bytes were.
//!
//! What enters: requests. What leaves: a panic where one of them can't be. What may be lost: nothing.

use bytes::Bytes;
use reprise_listener::http::MAX_HEAD;
use reprise_listener::reassembly::{Answers, Ports, Settings};
use reprise_traffic::exchange::Captured;
use reprise_traffic::framing::{self, Framing, MAX_TRAILERS};
use reprise_traffic::{Answer, AnswerHead, Body, Head, MARKER};

/// A request out of a [`Reassembler`](reprise_listener::reassembly::Reassembler) with these settings.
pub fn captured(captured: &Captured, settings: &Settings) {
    let max_exchange = settings.limits.max_exchange;
    request(
        &captured.head,
        &captured.body,
        &captured.trailers,
        max_exchange,
    );
    if let Ports::Only(ports) = &settings.ports {
        assert!(ports.contains(&captured.server.port()), "{captured:?}");
    }
    match (&captured.answer, settings.answers) {
        (None, _) => {}
        (Some(answer), Answers::Kept { max_body }) => check_answer(answer, max_body),
        (Some(_), _) => panic!("nobody asked for answers"),
    }
}

/// A request's parts, of which none was over `max_exchange`.
pub fn request(head: &Head, body: &Body, trailers: &Bytes, max_exchange: usize) {
    let raw = head.raw();
    assert!(raw.len() <= MAX_HEAD);
    let again = Head::parse(Bytes::copy_from_slice(raw)).expect("a head that was parsed before");
    assert_eq!(again.method(), head.method());
    assert_eq!(again.target(), head.target());
    assert!(again.headers().eq(head.headers()));
    assert!(!head.method().is_empty() && !head.target().is_empty());
    assert!(raw.ends_with(b"\r\n\r\n"));
    assert!(head.header(MARKER).is_none(), "a replay was captured");
    match framing::of_request(head).expect("framing that was clear before") {
        Framing::Length(length) => {
            assert_eq!(body.len() as u64, length);
            assert!(trailers.is_empty());
            assert!(raw.len() + body.len() <= max_exchange);
        }
        Framing::Chunked => {
            assert!(body.len() <= max_exchange.saturating_sub(raw.len()));
            assert!(trailers.len() <= MAX_TRAILERS);
        }
        Framing::UntilClose => panic!("no request ends with its connection"),
    }
}

fn check_answer(answer: &Answer, max_body: usize) {
    let again =
        AnswerHead::parse(answer.head.raw().clone()).expect("a head that was parsed before");
    assert_eq!(again.status(), answer.head.status());
    assert!(answer.head.raw().len() <= MAX_HEAD);
    assert!(answer.body.len() <= max_body);
    assert!(answer.body.len() as u64 <= answer.body_len);
    // Whatever is complete and fits is kept whole.
    if answer.complete && answer.body_len <= max_body as u64 {
        assert!(answer.is_whole());
    }
}
