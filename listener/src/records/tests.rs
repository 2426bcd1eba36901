use proptest::prelude::*;
use reprise_traffic::gor::SEPARATOR;

use super::*;

const MOST: usize = 1 << 20;

fn of(record: &[u8]) -> Result<Captured, EdgeEvent> {
    message(&Record::parse(record, 1).unwrap(), MOST)
}

/// What the message is written as.
fn written(request: Captured) -> Vec<u8> {
    let exchange = Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("l", 1)),
            sequence: 7,
        },
        due_ns: None,
        request,
    };
    let (record, answer) = gor::encode(&exchange, &exchange.request.head).unwrap();
    assert!(answer.is_none());
    record.parts().collect::<Vec<_>>().concat()
}

/// Whether the payload is kept as it came, and what is read.
fn read(record: &str) -> (bool, String, Vec<u8>) {
    let message = of(record.as_bytes()).unwrap();
    let label = message.label.clone().unwrap();
    assert_eq!(
        written(message.clone()),
        [record.as_bytes(), SEPARATOR].concat()
    );
    let target = String::from_utf8_lossy(message.head.target()).into_owned();
    let body = message.body.to_bytes().to_vec();
    (label.verbatim().is_some(), target, body)
}

#[test]
fn requests_are_read_and_kept_as_they_came_only_where_that_loses_a_byte() {
    let plain = "1 c0ffee 17 3\nPOST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(read(plain), (false, "/a".to_owned(), b"ab".to_vec()));
    let chunked = "POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, kept) in [
        ("2\r\nab\r\n0\r\n\r\n", false),
        ("2\r\nab\r\n0\r\nT: 1\r\n\r\n", false),
        ("1\r\na\r\n1\r\nb\r\n0\r\n\r\n", true),
        ("02\r\nab\r\n0\r\n\r\n", true),
        ("2\r\nab\r\n0\r\n\r\nmore", true),
    ] {
        let record = format!("1 x 17\n{chunked}{body}");
        let expected = (kept, "/b".to_owned(), b"ab".to_vec());
        assert_eq!(read(&record), expected, "{body:?}");
    }
    let behind = "1 x 17\n\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
    assert_eq!(read(behind), (true, "/c".to_owned(), Vec::new()));
    let two = "1 x 17\nGET /d HTTP/1.1\r\n\r\nGET /e HTTP/1.1\r\n\r\n";
    assert_eq!(read(two), (true, "/d".to_owned(), Vec::new()));
}

#[test]
fn what_is_no_request_is_all_body() {
    for (record, payload) in [
        ("1 x 17 5\nHELO", &b"HELO"[..]),
        ("1 x 17 5\n", b""),
        ("1 x 17\nGET / HTTP/1.1\r\nA:", b"GET / HTTP/1.1\r\nA:"),
        (
            "1 x 17\nGET / HTTP/1.1\nA: b\n\n",
            b"GET / HTTP/1.1\nA: b\n\n",
        ),
        (
            "2 x 17 5\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ),
        (
            "3 x 17 5\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
    ] {
        assert_eq!(read(record), (false, String::new(), payload.to_vec()));
        assert!(of(record.as_bytes()).unwrap().head.is_opaque());
    }
}

#[test]
fn replays_and_what_is_too_large_are_counted() {
    let marked = of(b"1 x 17\nGET / HTTP/1.1\r\nReprise-Id: a\r\n\r\n");
    assert_eq!(marked.unwrap_err(), EdgeEvent::Marked);
    let large = [&b"2 x 17\n"[..], &vec![b'x'; MOST]].concat();
    assert_eq!(of(&large).unwrap_err(), EdgeEvent::TooLarge);
}

#[test]
fn requests_are_numbered_and_answers_are_not() {
    let turns = Turns::default();
    let turn = |record: &[u8]| {
        let mut message = of(record).unwrap();
        turns.number(&mut message);
        message.label.unwrap().turn()
    };
    let (request, answer) = (b"1 x 17\nGET / HTTP/1.1\r\n\r\n", b"2 x 17\nHTTP");
    assert_eq!((turn(request), turn(answer), turn(request)), (0, 0, 1));
}

/// Payloads of what requests are made of, and of anything.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"POST /a?b=c HTTP/1.0\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Trailer: T\r\nT: x\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"3\r\nabc\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(vec![b'x'; 40_000]),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    /// Whatever is in it, but the separator, which no record can hold.
    #[test]
    fn a_record_comes_back_byte_for_byte(
        kind in 1..=3_u8,
        id in "[0-9a-f]{1,40}",
        at in any::<u64>(),
        rest in "( -?[0-9]{1,12})?\r?",
        payload in payload(),
    ) {
        let record = [format!("{kind} {id} {at}{rest}\n").as_bytes(), &payload].concat();
        prop_assume!(memchr::memmem::find(&[&record[..], SEPARATOR].concat(), SEPARATOR) == Some(record.len()));
        let owner = Bytes::copy_from_slice(&record);
        let in_owner = message_of(&Record::parse(&owner, 1).unwrap(), Some(&owner), MOST);
        prop_assert_eq!(in_owner.map(written), of(&record).map(written));
        match of(&record) {
            Ok(message) => prop_assert_eq!(written(message), [&record[..], SEPARATOR].concat()),
            Err(reason) => prop_assert_eq!(reason, EdgeEvent::Marked),
        }
    }
}
