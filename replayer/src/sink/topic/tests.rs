//! A topic whose brokers nobody is; what real ones make of it is in the tests of services.

use std::sync::mpsc::{self, Receiver};

use reprise_traffic::TargetName;

use super::*;
use crate::sink::tests::{ROOM, answer, answered, exchange, labelled};

const LIMIT: Duration = Duration::from_secs(20);

fn target(yaml: &str) -> Target {
    let text = format!("{{url: 'kafka://127.0.0.1:1/t', {yaml}}}");
    let document = TargetDocument::parse("t", &text).unwrap();
    Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap()
}

fn topic(yaml: &str) -> Topic {
    let target = target(yaml);
    let Destination::Kafka(kafka) = &target.destination else {
        panic!("{target:?}");
    };
    Topic::start(&target, kafka, ROOM).unwrap()
}

fn take(topic: &Topic, exchange: Arc<Exchange>, most: Room) -> Receiver<Disposition> {
    let (ended, end) = mpsc::channel();
    let end_of = Box::new(move |_, disposition| ended.send(disposition).unwrap_or_default());
    let entry = Entry {
        exchange,
        end: end_of,
    };
    topic.take(entry, most);
    end
}

#[tokio::test]
async fn what_is_not_acknowledged_is_unknown_and_what_has_no_room_is_dropped() {
    let topic = topic("max_age: 300ms");
    let one = Room { jobs: 1, ..ROOM };
    let first = take(&topic, answered(1), one);
    let second = take(&topic, exchange(2, b""), one);
    let full = Disposition::Dropped(DropReason::ReplayerFull);
    assert_eq!((second.try_recv(), topic.load()), (Ok(full), 1));
    assert_eq!(first.recv_timeout(LIMIT), Ok(Disposition::Unknown));
    assert_eq!(topic.load(), 0);
}

#[tokio::test]
async fn what_has_no_form_in_json_fails() {
    let topic = topic("kafka: {format: json}, max_age: 300ms");
    let binary = take(&topic, exchange(1, b"\xff"), ROOM);
    assert_eq!((binary.try_recv(), topic.load()), (Ok(OURS), 0));
    let values = topic.values(&exchange(1, b"text")).unwrap();
    let object: serde_json::Value = serde_json::from_slice(values[0].as_ref().unwrap()).unwrap();
    assert_eq!((&object["Req_Body"], &values[1]), (&"text".into(), &None));
}

#[tokio::test]
async fn a_message_is_a_record_without_its_separator() {
    let topic = topic("set_headers: {A: b}");
    let record = labelled(b"1 c0ffee 17 -1", 0, b"GET / HTTP/1.1\r\n\r\n");
    let text = |value: &Option<Vec<u8>>| String::from_utf8(value.clone().unwrap()).unwrap();
    let [first, none] = topic.values(&record).unwrap();
    let expected = "1 c0ffee 17 -1\nGET / HTTP/1.1\r\nA: b\r\n\r\n";
    assert_eq!((text(&first).as_str(), none), (expected, None));
    let [_, second] = topic.values(&answered(3)).unwrap();
    assert!(text(&second).ends_with(" 20 5\nHTTP/1.1 204 No Content\r\n\r\n"));
}

#[tokio::test]
async fn keys_are_ids_or_hashes_of_sessions() {
    let by_id = topic("session_key: exchange");
    let (request, answer) = (
        labelled(b"1 c0ffee 17", 0, b"GET / HTTP/1.1\r\n\r\n"),
        answer(b"3 c0ffee 20 5", 0, b"HTTP/1.1 200 OK\r\n\r\n"),
    );
    assert_eq!(&*by_id.key(&request), b"c0ffee");
    assert_eq!(by_id.key(&request), by_id.key(&answer));
    let by_connection = topic("session_key: connection");
    let (one, other) = (exchange(1, b""), exchange(2, b""));
    let same = exchange(101, b"");
    assert_eq!(by_connection.key(&one), by_connection.key(&same));
    assert_ne!(by_connection.key(&one), by_connection.key(&other));
    assert_eq!(by_connection.key(&one).len(), 16);
}

#[tokio::test]
async fn it_serves_on_where_nothing_changes_for_it() {
    let topic = topic("max_age: 1s");
    assert!(topic.serves(&target("max_age: 1s, share: 50%")));
    for yaml in [
        "max_age: 2s",
        "max_age: 1s, kafka: {format: json}",
        "max_age: 1s, session_key: exchange",
        "max_age: 1s, set_headers: {A: b}",
    ] {
        assert!(!topic.serves(&target(yaml)), "{yaml}");
    }
}
