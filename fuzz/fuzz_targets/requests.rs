//! A request parser says the same of a client's bytes however they are cut, and never holds more than it should.
//!
//! What enters: options, the lengths of pieces, and the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reprise_fuzz::check;
use reprise_fuzz::input::Input;
use reprise_listener::http::{
    Arrival, Event, Incomplete, MAX_HEAD, RequestParser, Switching, Verdict,
};
use reprise_traffic::framing::MAX_TRAILERS;
use reprise_traffic::head::MAX_HEADERS;

const MAX_EXCHANGE: usize = 2000;

/// A head, a body of which more room was made than it takes (16 KiB at first), trailers, and what indexes them.
const MAX_HELD: usize =
    2 * MAX_HEAD + 16 * 1024 + 2 * MAX_EXCHANGE + 2 * MAX_TRAILERS + 16 * MAX_HEADERS;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let (options, verdicts) = (input.byte(), input.byte());
    let lengths = usize::from(options >> 2);
    let lengths = input.take(lengths);
    let bytes = input.rest();
    let switching = match options & 1 {
        0 => Switching::Guess,
        _ => Switching::Wait,
    };
    let whole = said(bytes, &[], switching, verdicts);
    assert_eq!(said(bytes, lengths, switching, verdicts), whole);
    assert_eq!(said(bytes, &[1], switching, verdicts), whole);
    if options & 2 != 0 {
        with_gaps(bytes, lengths, switching);
    }
});

/// All events of `bytes` in pieces of these lengths, by turns.
fn said(bytes: &[u8], lengths: &[u8], switching: Switching, verdicts: u8) -> Vec<String> {
    let mut parser = RequestParser::new(MAX_EXCHANGE, switching);
    let mut events = Vec::new();
    let mut asked = 0;
    for piece in pieces(bytes, lengths) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = parser.push(rest, Arrival::at(1), &mut |event| add(event, &mut events));
            rest = &rest[taken..];
            assert!(parser.held() <= MAX_HELD);
            if parser.is_waiting() {
                parser.resolve(match verdicts >> (2 * (asked % 4)) & 3 {
                    0 => Verdict::Refused,
                    1 => Verdict::Unseen,
                    _ => Verdict::Switched,
                });
                asked += 1;
            } else {
                assert!(rest.is_empty());
            }
        }
    }
    parser.close(Incomplete::Stopped, &mut |event| add(event, &mut events));
    assert!(parser.is_done());
    assert_eq!(parser.held(), 0);
    events
}

/// Some pieces never come.
fn with_gaps(bytes: &[u8], lengths: &[u8], switching: Switching) {
    let mut parser = RequestParser::new(MAX_EXCHANGE, switching);
    let mut events = Vec::new();
    for (n, piece) in pieces(bytes, lengths).into_iter().enumerate() {
        let mut sink = |event| add(event, &mut events);
        if n % 3 == 2 {
            parser.gap(piece.len() as u64, &mut sink);
        } else if parser.push(piece, Arrival::at(1), &mut sink) < piece.len() {
            parser.resolve(Verdict::Unseen);
        }
        assert!(parser.held() <= MAX_HELD);
    }
}

fn pieces<'a>(bytes: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    let mut lengths = lengths.iter().cycle();
    while !rest.is_empty() {
        let length = lengths
            .next()
            .map_or(rest.len(), |n| usize::from(*n).max(1));
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

fn add(event: Event, events: &mut Vec<String>) {
    match event {
        Event::Request(message) => {
            check::request(
                &message.head,
                &message.body,
                &message.trailers,
                MAX_EXCHANGE,
            );
            let body = message.body.to_bytes();
            let parts = [message.head.raw(), &body, &message.trailers];
            events.push(format!("{parts:?}"));
        }
        // Said only where a piece ends with the head.
        Event::Continue => {}
        other => events.push(format!("{other:?}")),
    }
}
