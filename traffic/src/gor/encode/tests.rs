//! What is written is read back by our own reader.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::answer::{Answer, AnswerHead};
use crate::exchange::{Captured, Epoch, ExchangeId, Source};
use crate::gor::{Reader, is_whole};
use crate::head::Head;

fn exchange(head: &str, body: Body, trailers: &'static str) -> Exchange {
    Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 7)),
            sequence: 3,
        },
        due_ns: None,
        request: Captured {
            captured_ns: 1_500_000_000_000_000_001,
            client: "10.0.0.2:4711".parse().unwrap(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head: Head::parse(Bytes::copy_from_slice(head.as_bytes())).unwrap(),
            body,
            trailers: Bytes::from_static(trailers.as_bytes()),
            answer: None,
            label: None,
        },
    }
}

fn answer(head: &'static str, body: &'static [u8], body_len: u64, complete: bool) -> Answer {
    Answer {
        first_byte_ns: 100,
        last_byte_ns: 142,
        head: AnswerHead::parse(Bytes::from_static(head.as_bytes())).unwrap(),
        body: Body::from(body),
        body_len,
        complete,
    }
}

fn written(record: &Encoded<'_>) -> Vec<u8> {
    let bytes = record.parts().collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), record.size());
    bytes
}

fn payload(record: &Encoded<'_>) -> String {
    let bytes = written(record);
    let mut reader = Reader::new(&bytes[..]);
    let read = reader.next_record().unwrap().unwrap().unwrap();
    assert_eq!((read.kind, read.id), (record.kind, &record.id[..]));
    let payload = String::from_utf8(read.payload.to_vec()).unwrap();
    assert!(reader.next_record().unwrap().is_none());
    payload
}

#[test]
fn a_record_is_as_goreplay_has_it() {
    let exchange = exchange("GET /a HTTP/1.1\r\nhost:  x\r\n\r\n", Body::default(), "");
    let (request, answer) = encode(&exchange, &exchange.request.head).unwrap();
    assert!(answer.is_none());
    let text = String::from_utf8(written(&request)).unwrap();
    let id = std::str::from_utf8(&request.id).unwrap();
    assert!(
        id.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    );
    assert_eq!(
        text,
        format!("1 {id} 1500000000000000001 -1\nGET /a HTTP/1.1\r\nhost:  x\r\n\r\n\n🐵🙈🙉\n")
    );
}

#[test]
fn bodies_fit_their_heads() {
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    for (head, body, trailers, behind) in [
        (length, "abc", "", "abc"),
        (chunked, "", "", "0\r\n\r\n"),
        (chunked, "", "A: b\r\n", "0\r\nA: b\r\n\r\n"),
        (
            chunked,
            "0123456789abcdefg",
            "A: b\r\n",
            "11\r\n0123456789abcdefg\r\n0\r\nA: b\r\n\r\n",
        ),
    ] {
        let body = Body::from(body.as_bytes().to_vec());
        let exchange = exchange(head, body, trailers);
        let (record, _) = encode(&exchange, &exchange.request.head).unwrap();
        assert_eq!(payload(&record), format!("{head}{behind}"));
        let bytes = written(&record);
        assert!(is_whole(&bytes[..bytes.len() - SEPARATOR.len()]));
    }
    let short = exchange(length, Body::from(&b"ab"[..]), "");
    let refused = Unwritable::BodyLength {
        announced: 3,
        held: 2,
    };
    assert_eq!(encode(&short, &short.request.head).unwrap_err(), refused);
}

#[test]
fn an_answer_follows_and_shows_what_it_lacks() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    for (answer, behind) in [
        (answer(length, b"hello", 5, true), "hello"),
        (answer(length, b"he", 5, true), "he"),
        (
            answer(chunked, b"hello", 5, true),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (answer(chunked, b"", 0, true), "0\r\n\r\n"),
        // Kept in part, and broken off.
        (answer(chunked, b"he", 20, true), "14\r\nhe"),
        (answer(chunked, b"he", 2, false), "2\r\nhe"),
    ] {
        let head = String::from_utf8(answer.head.raw().to_vec()).unwrap();
        let mut exchange = exchange("GET / HTTP/1.1\r\n\r\n", Body::default(), "");
        exchange.request.answer = Some(Box::new(answer));
        let (request, answer) = encode(&exchange, &exchange.request.head).unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.id, request.id);
        assert_eq!(payload(&answer), format!("{head}{behind}"));
        assert!(written(&answer).starts_with(b"2 ") && answer.header.ends_with(b" 100 42"));
    }
}

#[test]
fn ids_keep_a_connection_together_and_requests_apart() {
    let id = |client: &str, sequence: u64| {
        let mut exchange = exchange("GET / HTTP/1.1\r\n\r\n", Body::default(), "");
        exchange.request.client = client.parse().unwrap();
        exchange.id.sequence = sequence;
        let id = encode(&exchange, &exchange.request.head).unwrap().0.id;
        (id[..12].to_vec(), id[12..].to_vec())
    };
    let (first, second) = (id("10.0.0.2:1", 0), id("10.0.0.2:1", 1));
    let other = id("10.0.0.2:2", 0);
    assert!(first.0 == second.0 && first.1 != second.1);
    assert!(first.0 != other.0 && first.1 == other.1);
}

/// Bytes of which many are parts of separators.
fn monkeys() -> impl Strategy<Value = Vec<u8>> {
    let part = (0..=SEPARATOR.len(), 0..=SEPARATOR.len())
        .prop_map(|(a, b)| SEPARATOR[a.min(b)..a.max(b)].to_vec());
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn whatever_is_not_refused_is_read_back_as_it_was(
        bodies in prop::collection::vec((monkeys(), 1_usize..20), 1..5),
    ) {
        let mut file = Vec::new();
        let mut expected = Vec::new();
        for (bytes, cut) in bodies {
            let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", bytes.len());
            let body: Body = bytes.chunks(cut).map(Bytes::copy_from_slice).collect();
            let exchange = exchange(&head, body, "");
            let payload = [head.as_bytes(), &bytes].concat();
            // With what the body is written between.
            let framed = [b"\n", &payload[..], &SEPARATOR[..SEPARATOR.len() - 1]].concat();
            let holds_one = memmem::find(&framed, SEPARATOR).is_some();
            match encode(&exchange, &exchange.request.head) {
                Ok((record, _)) => {
                    prop_assert!(!holds_one);
                    file.extend(written(&record));
                    expected.push(payload);
                }
                Err(refused) => {
                    prop_assert_eq!(refused, Unwritable::Separator);
                    prop_assert!(holds_one);
                }
            }
        }
        let mut reader = Reader::new(&file[..]);
        for payload in expected {
            let record = reader.next_record().unwrap().unwrap().unwrap();
            prop_assert_eq!(record.payload, payload);
        }
        prop_assert!(reader.next_record().unwrap().is_none());
    }
}
