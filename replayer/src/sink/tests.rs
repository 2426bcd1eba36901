//! Queues in parts, and what tests of sinks send.

use bytes::Bytes;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Answer, AnswerHead, Body, Epoch, ExchangeId, Head, Label, Source};

use super::*;

pub(super) const ROOM: Room = Room {
    bytes: 64 << 20,
    jobs: 1 << 15,
};

/// A POST of the connection `sequence % 100`.
pub(super) fn exchange(sequence: u64, body: &[u8]) -> Arc<Exchange> {
    let head = format!(
        "POST /{sequence} HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let head = Head::parse(Bytes::from(head)).unwrap();
    Arc::new(of(sequence, head, Body::from(body.to_vec()), None))
}

/// What came as a record with that header.
pub(super) fn labelled(line: &[u8], sequence: u64, head: &[u8]) -> Arc<Exchange> {
    let label = Label::new(line, sequence).unwrap();
    let head = Head::parse(Bytes::copy_from_slice(head)).unwrap();
    Arc::new(of(sequence, head, Body::default(), Some(Box::new(label))))
}

/// What came as a record that is no request.
pub(super) fn answer(line: &[u8], sequence: u64, payload: &[u8]) -> Arc<Exchange> {
    let label = Label::new(line, sequence).unwrap();
    let body = Body::from(payload.to_vec());
    Arc::new(of(sequence, Head::opaque(), body, Some(Box::new(label))))
}

/// With production's answer.
pub(super) fn answered(sequence: u64) -> Arc<Exchange> {
    let head = Bytes::from_static(b"HTTP/1.1 204 No Content\r\n\r\n");
    let mut exchange = Arc::unwrap_or_clone(exchange(sequence, b""));
    exchange.request.answer = Some(Box::new(Answer {
        first_byte_ns: 20,
        last_byte_ns: 25,
        head: AnswerHead::parse(head).unwrap(),
        body: Body::default(),
        body_len: 0,
        complete: true,
    }));
    Arc::new(exchange)
}

fn of(sequence: u64, head: Head, body: Body, label: Option<Box<Label>>) -> Exchange {
    Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence,
        },
        due_ns: None,
        request: Captured {
            captured_ns: 17 + sequence,
            client: ([10, 0, 0, 2], 1000 + (sequence % 100) as u16).into(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head,
            body,
            trailers: Bytes::new(),
            answer: None,
            label,
        },
    }
}

#[test]
fn no_part_takes_all_the_room() {
    let most = Room {
        bytes: 1000,
        jobs: 100,
    };
    let queue = Queue::in_parts(3);
    let filled = |part| {
        (0..)
            .take_while(|_| queue.used().admit(part, 1, most))
            .count()
    };
    assert_eq!(filled(0), 50);
    assert_eq!(filled(1), 25);
    assert_eq!(filled(2), 13);
    assert!(!queue.used().admit(2, 1, most));
    let large = Queue::in_parts(2);
    assert!(large.used().admit(0, 5000, most) && !large.used().admit(1, 1, most));
    let whole = Queue::in_parts(1);
    assert_eq!(
        (0..).take_while(|_| whole.used().admit(0, 1, most)).count(),
        100
    );
}
