//! What becomes of a message, without brokers.

use reprise_traffic::Epoch;

use super::*;
use crate::limit::SourceLimit;
use crate::middleware;
use crate::shed::Shed;

const GOOD: &[u8] = b"1 c0ffee 17 -1\nGET / HTTP/1.1\r\n\r\n";

fn reader(format: Format, limit: Option<SourceLimit>, discards: bool) -> Reader {
    let (edge, budget) = (Arc::new(Edge::default()), Arc::new(Budget::new(64 << 20)));
    let shed = Arc::new(Shed::new(budget.clone()));
    let epoch = Epoch::new("l", 1);
    let intake = Intake::new(epoch, 1 << 18, budget.clone(), shed, edge.clone());
    let client = KafkaSettings {
        format,
        ..KafkaSettings::default()
    };
    Reader {
        kafka: Kafka::new("kafka://127.0.0.1:1/t", client).unwrap(),
        ends: Ends::of_nobody(),
        limiter: Limiter::new(limit, edge.clone()),
        held: Held::new(budget.clone(), 0),
        entry: Arc::new(Entry {
            intake: Arc::new(intake),
            discards,
            turns: Arc::default(),
            edge,
            budget,
            max_exchange: 1000,
        }),
        flaws: LogLimit::every(WARN_EVERY),
        stop: CancellationToken::new(),
    }
}

/// Has it taken, and returns the offset below which all has ended.
async fn take(reader: &Reader, offset: i64, value: &[u8]) -> i64 {
    let message = Message {
        ticket: reader.ends.read(offset),
        timestamp_ms: None,
        value: Bytes::copy_from_slice(value),
    };
    if let Some(waiting) = reader.waiting(message) {
        reader.take(waiting, None).await;
    }
    reader.ends.due()
}

#[tokio::test]
async fn a_message_is_open_until_its_exchange_ends() {
    let reader = reader(Format::Record, None, false);
    assert_eq!(take(&reader, 3, GOOD).await, 3);
    // Answers are messages of their own.
    let answer = b"2 c0ffee 18 5\nHTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(take(&reader, 4, answer).await, 3);
    let report = reader.entry.intake.report();
    assert_eq!((report.captured, report.in_flight), (2, 2));
    reader.entry.intake.give_up();
    assert_eq!(reader.ends.due(), 3);
}

#[tokio::test]
async fn what_goes_nowhere_has_ended_and_is_counted() {
    let records = reader(Format::Record, None, false);
    let (marked, large) = (
        b"1 a 1 -1\nGET / HTTP/1.1\r\nReprise-Id: x\r\n\r\n",
        [GOOD, &[b'x'; 1000]].concat(),
    );
    for (offset, value, event) in [
        (0, &b"nonsense"[..], EdgeEvent::BadRecord),
        (1, b"", EdgeEvent::BadRecord),
        (2, marked, EdgeEvent::Marked),
        (3, &large, EdgeEvent::TooLarge),
    ] {
        let before = records.entry.edge.get(event);
        assert_eq!(take(&records, offset, value).await, offset + 1);
        assert_eq!(records.entry.edge.get(event), before + 1, "{event:?}");
    }
    let none = SourceLimit::Share(0.0);
    let limited = reader(Format::Record, Some(none), false);
    assert_eq!(take(&limited, 0, GOOD).await, 1);
    assert_eq!(limited.entry.edge.get(EdgeEvent::InputLimited), 1);
    let discarding = reader(Format::Record, None, true);
    assert_eq!(take(&discarding, 0, GOOD).await, 1);
    assert_eq!(discarding.entry.intake.report().captured, 1);
}

#[tokio::test]
async fn json_is_a_request_or_none() {
    let reader = reader(Format::Json, None, false);
    let json =
        br#"{"Req_URL": "/a", "Req_Type": "1", "Req_ID": "x", "Req_Ts": "1", "Req_Method": "GET"}"#;
    assert_eq!(take(&reader, 0, GOOD).await, 1);
    assert_eq!(reader.entry.edge.get(EdgeEvent::BadRecord), 1);
    assert_eq!(take(&reader, 1, json).await, 1);
    assert_eq!(reader.entry.intake.used().exchanges, 1);
}

#[tokio::test]
async fn behind_a_middleware_it_has_ended_with_its_queue() {
    let reader = reader(Format::Record, None, false);
    let settings = middleware::Settings {
        command: vec!["sleep".to_owned(), "60".to_owned()],
        max_message: 1000,
        queue: 1 << 20,
    };
    reader.entry.intake.pass_through(settings, 1000).unwrap();
    assert_eq!(take(&reader, 0, GOOD).await, 1);
    assert_eq!(reader.entry.intake.used().exchanges, 0);
}
