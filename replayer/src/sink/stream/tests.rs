//! Streams to servers on real sockets, which read, don't read, die and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::registry::Registry;
use reprise_traffic::outcome::TAKEN;
use reprise_traffic::{Disposition, DropReason, Fault, TargetName};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::*;
use crate::metrics::StreamMeter;
use crate::sink::tests::{ROOM, answer, exchange, labelled};

mod broken;
mod drain;
mod layers;

const LIMIT: Duration = Duration::from_secs(30);
const TAKEN_IT: Disposition = Disposition::Replayed(TAKEN);

fn target(url: &str, yaml: &str) -> Target {
    let document = TargetDocument::parse("t", &format!("{{url: '{url}', {yaml}}}")).unwrap();
    Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap()
}

/// A stream, and how its exchanges ended.
struct Feed {
    streamer: Streamer,
    ended: mpsc::UnboundedReceiver<(u64, Disposition)>,
    end: UnboundedSender<(u64, Disposition)>,
    meter: StreamMeter,
}

impl Feed {
    fn start(url: &str, yaml: &str) -> Feed {
        Feed::to(&target(url, yaml))
    }

    fn to(target: &Target) -> Feed {
        let Destination::Stream(stream) = &target.destination else {
            panic!("{target:?}");
        };
        let meters = Streams::register(&mut Registry::default());
        let (end, ended) = mpsc::unbounded_channel();
        Feed {
            streamer: Streamer::start(target, stream, &meters).unwrap(),
            ended,
            end,
            meter: meters.of(&target.name),
        }
    }

    fn send(&self, exchange: Arc<Exchange>) {
        self.send_with(exchange, ROOM);
    }

    fn send_with(&self, exchange: Arc<Exchange>, room: Room) {
        let end = self.end.clone();
        let end = move |exchange: Arc<Exchange>, disposition| {
            // The test may be over.
            let _ = end.send((exchange.id.sequence, disposition));
        };
        let end = Box::new(end);
        self.streamer.take(Entry { exchange, end }, room);
    }

    async fn end(&mut self) -> (u64, Disposition) {
        timeout(LIMIT, self.ended.recv()).await.unwrap().unwrap()
    }

    /// Sends one and waits for its end.
    async fn one(&mut self, exchange: Arc<Exchange>) -> Disposition {
        let sequence = exchange.id.sequence;
        self.send(exchange);
        let (ended, disposition) = self.end().await;
        assert_eq!(ended, sequence);
        disposition
    }
}

/// A server that keeps what it reads, by connection.
#[derive(Clone, Default)]
struct Far {
    heard: Arc<Mutex<BTreeMap<usize, Vec<u8>>>>,
}

impl Far {
    async fn listen() -> (Far, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let far = Far::default();
        let serving = far.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().hear(connection, stream));
            }
        });
        (far, address)
    }

    /// Until it ends, as it should.
    async fn hear(self, connection: usize, mut stream: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = stream.read(&mut buffer).await.unwrap();
            let mut heard = self.heard.lock().unwrap();
            let all = heard.entry(connection).or_default();
            if length == 0 {
                all.extend_from_slice(b"END");
                return;
            }
            all.extend_from_slice(&buffer[..length]);
        }
    }

    /// What it heard over each of so many connections, once all of them have ended.
    async fn all(&self, count: usize) -> Vec<Vec<u8>> {
        let complete = async {
            loop {
                {
                    let heard = self.heard.lock().unwrap();
                    let strip = |all: &Vec<u8>| all.strip_suffix(b"END").map(<[u8]>::to_vec);
                    let all: Option<Vec<_>> = heard.values().map(strip).collect();
                    if let Some(all) = all.filter(|all| all.len() == count) {
                        return all;
                    }
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LIMIT, complete).await.unwrap()
    }
}

/// The records in what was heard, as they came.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = memchr::memmem::find(bytes, gor::SEPARATOR).unwrap();
        let (record, rest) = bytes.split_at(length + gor::SEPARATOR.len());
        records.push(record.to_vec());
        bytes = rest;
    }
    records
}

fn record_of(exchange: &Exchange) -> Vec<u8> {
    let (record, None) = gor::encode(exchange, &exchange.request.head).unwrap() else {
        panic!("two of them");
    };
    record.parts().collect::<Vec<_>>().concat()
}

/// A request or an answer, in turn; the two of a pair have the same id.
fn half(sequence: u64) -> Arc<Exchange> {
    let id = sequence / 2;
    match sequence % 2 {
        0 => {
            let line = format!("1 {id:024x} {sequence}  -1");
            let head = format!("GET /{sequence} HTTP/1.1\r\nHost: a\r\n\r\n");
            labelled(line.as_bytes(), sequence, head.as_bytes())
        }
        _ => {
            let line = format!("2 {id:024x} {sequence}");
            let body = format!("HTTP/1.1 200 OK\r\n\r\n{sequence}");
            answer(line.as_bytes(), sequence, body.as_bytes())
        }
    }
}

fn id_in(record: &[u8]) -> Vec<u8> {
    record.split(|byte| *byte == b' ').nth(1).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_records_arrive_once_unchanged_and_those_of_an_id_in_order() {
    const COUNT: u64 = 20_000;
    let (far, address) = Far::listen().await;
    let mut feed = Feed::start(&format!("tcp://{address}"), "");
    let mut expected = BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new();
    for sequence in 0..COUNT {
        let exchange = match sequence % 10 {
            // Bodies that are copied, and such that are not.
            0 => exchange(sequence, &vec![b'x'; 50 * sequence as usize % 40_000]),
            _ => half(sequence),
        };
        let record = record_of(&exchange);
        expected.entry(id_in(&record)).or_default().push(record);
        feed.send(exchange);
    }
    for _ in 0..COUNT {
        assert_eq!(feed.end().await.1, TAKEN_IT);
    }
    assert_eq!(feed.streamer.load(), 0);
    assert_eq!(feed.meter.connections.get(), 10);
    assert_eq!(
        (feed.meter.reconnects.get(), feed.meter.in_doubt.get()),
        (0, 0)
    );
    // They close when all is said.
    drop(feed.streamer);
    let heard = far.all(10).await;
    let mut arrived = BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new();
    for connection in &heard {
        let mut ids = BTreeSet::new();
        for record in records(connection) {
            let id = id_in(&record);
            // All of an id over the same connection.
            assert!(ids.contains(&id) || !arrived.contains_key(&id));
            ids.insert(id.clone());
            arrived.entry(id).or_default().push(record);
        }
    }
    assert!(arrived == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_on_one_connection_and_in_order() {
    let (far, address) = Far::listen().await;
    let mut feed = Feed::start(
        &format!("tcp://{address}"),
        "session_key: 'query:s', stream: {connections: 4, sticky: true}",
    );
    for sequence in 0..2000 {
        let session = sequence * sequence % 37;
        let head = format!("GET /{sequence}?s={session}& HTTP/1.1\r\n\r\n");
        let line = format!("1 {sequence:024x} 1");
        feed.send(labelled(line.as_bytes(), sequence, head.as_bytes()));
    }
    for _ in 0..2000 {
        assert_eq!(feed.end().await.1, TAKEN_IT);
    }
    drop(feed.streamer);
    let mut last = BTreeMap::new();
    for (connection, heard) in far.all(4).await.iter().enumerate() {
        for record in records(heard) {
            let text = String::from_utf8(record).unwrap();
            let mut words = text.split(['/', '?', '=', '&']);
            let sequence: u64 = words.nth(1).unwrap().parse().unwrap();
            let session = words.nth(1).unwrap().to_owned();
            let (before, place) = last
                .insert(session, (sequence, connection))
                .unwrap_or((0, connection));
            assert!(before <= sequence && place == connection, "{text}");
        }
    }
    assert_eq!(
        last.len(),
        (0..37).map(|n| n * n % 37).collect::<BTreeSet<u64>>().len()
    );
}

#[tokio::test]
async fn headers_are_changed_and_records_otherwise_as_they_came() {
    let (far, address) = Far::listen().await;
    let yaml = "set_headers: {X-Env: test}, stream: {connections: 1}";
    let mut feed = Feed::start(&format!("tcp://{address}"), yaml);
    let odd = labelled(b"1 c0ffee  17", 1, b"GET / HTTP/1.1\r\nx-ENV:  a\r\n\r\n");
    assert_eq!(feed.one(odd).await, TAKEN_IT);
    assert_eq!(feed.one(exchange(2, b"body")).await, TAKEN_IT);
    let separator = "x\n🐵🙈🙉\n";
    let refused = feed.one(exchange(3, separator.as_bytes())).await;
    assert_eq!(refused, Disposition::Failed(Fault::Ours));
    drop(feed.streamer);
    let heard = records(&far.all(1).await[0]);
    assert_eq!(heard.len(), 2);
    let odd = "1 c0ffee  17\nGET / HTTP/1.1\r\nx-ENV:  test\r\n\r\n\n🐵🙈🙉\n";
    assert_eq!(String::from_utf8_lossy(&heard[0]), odd);
    let plain = String::from_utf8_lossy(&heard[1]);
    assert!(
        plain.ends_with("Length: 4\r\nX-Env: test\r\n\r\nbody\n🐵🙈🙉\n"),
        "{plain}"
    );
}

#[tokio::test]
async fn a_stream_goes_on_while_what_it_is_made_of_stays_the_same() {
    let (_far, address) = Far::listen().await;
    let url = format!("tcp://{address}");
    let feed = Feed::start(&url, "");
    for (yaml, serves) in [
        ("methods: [any], share: 1%", true),
        ("session_key: client", false),
        ("set_headers: {A: b}", false),
        ("max_age: 1s", false),
        ("stream: {connections: 2}", false),
    ] {
        assert_eq!(feed.streamer.serves(&target(&url, yaml)), serves, "{yaml}");
    }
    assert!(!feed.streamer.serves(&target("tcp://127.0.0.1:1", "")));
    assert!(!feed.streamer.serves(&target("stdout:", "")));
}
