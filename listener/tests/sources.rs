//! A whole listener with a relay that settles at once: files with records apart, ports, the dummy, limits and the feed.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't set itself up has to fail"
)]

use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reprise_listener::governor::CpuLimit;
use reprise_listener::limit::{Limits, SourceLimit};
use reprise_listener::mirror::Status;
use reprise_listener::reading::pace::{Pacing, Repeat, Speed};
use reprise_listener::reading::{self, Records};
use reprise_listener::ship::Relays;
use reprise_listener::{Config, Listener, Parts, SourceSettings, Sources, record_port};
use reprise_node::{Health, ListenAddress};
use reprise_proto::{Downstream, Hello, Inlet, Settlement, Upstream, Welcome, joined};
use reprise_traffic::gor::{self, SEPARATOR};
use reprise_traffic::ledger::EpochReport;
use reprise_traffic::{Body, Exchange};

/// What was shipped, and when.
type Shipped = Arc<Mutex<Vec<(Instant, Arc<Exchange>)>>>;

/// Settles all that it gets.
async fn relay(mut inlet: Inlet, shipped: Shipped) {
    while let Some(Ok(message)) = inlet.down.recv().await {
        let Downstream::Batch(batch) = message else {
            continue;
        };
        let settlement = |exchange: &Arc<Exchange>| Settlement {
            id: exchange.id.clone(),
            outcomes: Default::default(),
        };
        let exchanges: Vec<_> = batch.parcels.iter().map(|p| p.exchange.clone()).collect();
        let settlements = exchanges.iter().map(settlement).collect();
        let now = Instant::now();
        shipped
            .lock()
            .unwrap()
            .extend(exchanges.into_iter().map(|exchange| (now, exchange)));
        if inlet.up.send(Upstream::Settled(settlements)).await.is_err() {
            return;
        }
    }
}

fn start(settings: &SourceSettings) -> (Listener, Shipped) {
    let (hello, welcome) = (
        Hello {
            node: "l".to_owned(),
            version: String::new(),
            measures: false,
        },
        Welcome {
            node: "r".to_owned(),
            version: String::new(),
            incarnation: 1,
            window_exchanges: 1 << 16,
            window_bytes: 64 << 20,
        },
    );
    let (outlet, inlet) = joined(hello, welcome);
    let shipped = Shipped::default();
    tokio::spawn(relay(inlet, shipped.clone()));
    let listener = Listener::start(Parts {
        node: "l".to_owned(),
        started_ns: 1,
        sources: Sources::open(settings).unwrap(),
        cpu_limit: CpuLimit::default(),
        relays: Relays::InProcess(outlet),
        health: Health::new(),
    })
    .unwrap();
    (listener, shipped)
}

fn settings(files: Vec<PathBuf>) -> SourceSettings {
    let settings = Config::default().sources();
    SourceSettings {
        readings: vec![reading::Settings {
            files,
            records: Records::Apart,
            ..settings.readings[0].clone()
        }],
        ..settings
    }
}

async fn to_its_end(settings: &SourceSettings) -> (EpochReport, Shipped) {
    let (listener, shipped) = start(settings);
    listener.exhausted().await;
    (listener.drain(Duration::from_secs(10)).await.books, shipped)
}

/// The records as they would be written again.
fn written(shipped: &Shipped) -> Vec<Vec<u8>> {
    let shipped = shipped.lock().unwrap();
    let record = |(_, exchange): &(Instant, Arc<Exchange>)| {
        let (record, answer) = gor::encode(exchange, &exchange.request.head).unwrap();
        assert!(answer.is_none());
        record.parts().collect::<Vec<_>>().concat()
    };
    shipped.iter().map(record).collect()
}

fn framed(record: &str) -> Vec<u8> {
    [record.as_bytes(), SEPARATOR].concat()
}

const MS: u64 = 1_000_000;

/// A request and its answer 2 ms later, and a replay 1 ms behind that.
fn three(id: &str, at_ms: u64) -> Vec<(u64, Vec<u8>)> {
    let request = format!(
        "1 {id} {}\nGET /{id} HTTP/1.1\r\nHost: x\r\n\r\n",
        at_ms * MS
    );
    let answer = format!("2 {id} {} 5\nHTTP/1.1 200 OK\r\n\r\nall", (at_ms + 2) * MS);
    let replay = format!("3 {id} {} 5\nno HTTP", (at_ms + 3) * MS);
    vec![
        (at_ms, framed(&request)),
        (at_ms + 2, framed(&answer)),
        (at_ms + 3, framed(&replay)),
    ]
}

fn file(folder: &tempfile::TempDir, name: &str, records: &[Vec<u8>]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, records.concat()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_files_leave_in_order_of_time_each_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    let mut files = Vec::new();
    for name in ["a", "b", "c"] {
        let place = name.as_bytes()[0] as usize - usize::from(b'a');
        let of = |n: usize| three(&format!("{name}{n}"), (100 + 10 * n + 4 * place) as u64);
        let mut records: Vec<_> = (0..500).flat_map(of).collect();
        all.extend(records.clone());
        // Not quite in order, as in files that were written by many.
        for pair in records.chunks_exact_mut(2) {
            pair.swap(0, 1);
        }
        let mut bytes: Vec<Vec<u8>> = records.into_iter().map(|(_, record)| record).collect();
        // Its last record has no separator.
        let last = bytes.last_mut().unwrap();
        last.truncate(last.len() - SEPARATOR.len());
        files.push(file(&folder, name, &bytes));
    }
    all.sort_by_key(|(at, _)| *at);
    let (books, shipped) = to_its_end(&settings(files)).await;
    let expected: Vec<Vec<u8>> = all.into_iter().map(|(_, record)| record).collect();
    assert!(written(&shipped) == expected);
    assert_eq!((books.captured, books.settled), (4500, 4500));
    let shipped = shipped.lock().unwrap();
    let requests = shipped
        .iter()
        .map(|(_, e)| &e.request)
        .filter(|r| r.is_request());
    let turns = requests.map(|r| r.label.as_ref().unwrap().turn());
    assert!(turns.eq(0..1500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_apart_keep_their_pace_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..4)
        .flat_map(|n| three(&format!("x{n}"), 100 * n))
        .collect();
    let bytes: Vec<_> = records.iter().map(|(_, record)| record.clone()).collect();
    let mut settings = settings(vec![file(&folder, "a", &bytes)]);
    settings.readings[0].pacing = Pacing {
        speed: Some(Speed::Times(2.0)),
        repeat: Repeat::Times(2),
        ..Pacing::default()
    };
    let (books, shipped) = to_its_end(&settings).await;
    assert_eq!(books.captured, 24);
    assert!(written(&shipped) == [bytes.clone(), bytes].concat());
    let shipped = shipped.lock().unwrap();
    let due: Vec<u64> = shipped.iter().map(|(_, e)| e.due_ns.unwrap()).collect();
    for (n, (at, _)) in records.iter().enumerate() {
        assert_eq!(due[n] - due[0], at * MS / 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_pipe_leave_as_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_bits_retain(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let records: Vec<_> = (0..400).flat_map(|n| three(&format!("x{n}"), n)).collect();
    let bytes: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
    let (written_to, all) = (pipe.clone(), bytes.concat());
    let writer = std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new()
            .write(true)
            .open(written_to)
            .unwrap();
        pipe.write_all(&all[..all.len() - SEPARATOR.len()]).unwrap();
    });
    let (books, shipped) = to_its_end(&settings(vec![pipe])).await;
    writer.join().unwrap();
    assert_eq!(books.captured, 1200);
    assert!(written(&shipped) == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_files_drops_what_is_over_it_by_when_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    // 40 a second for 2 s.
    let records: Vec<_> = (0..80)
        .flat_map(|n| three(&format!("x{n}"), 25 * n))
        .collect();
    let bytes: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
    let mut settings = settings(vec![file(&folder, "a", &bytes)]);
    settings.readings[0].pacing.speed = Some(Speed::Times(1.0));
    settings.limits.files = Some(SourceLimit::PerSecond(NonZeroU32::new(7).unwrap()));
    let (books, shipped) = to_its_end(&settings).await;
    let ids: Vec<String> = (0..7).chain(40..47).map(|n| format!("x{n}")).collect();
    let shipped = shipped.lock().unwrap();
    let id = |e: &Exchange| String::from_utf8(e.request.label.as_ref().unwrap().id().to_vec());
    let found: Vec<String> = shipped.iter().map(|(_, e)| id(e).unwrap()).collect();
    let expected: Vec<String> = ids.iter().flat_map(|id| vec![id.clone(); 3]).collect();
    assert_eq!(found, expected);
    assert_eq!(
        (books.captured, books.edge["input_limited"]),
        (42, 240 - 42)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_a_dummy_and_the_feed_are_sources_that_never_end() {
    let settings = SourceSettings {
        record_ports: record_port::Settings {
            addresses: vec![ListenAddress::loopback(0), ListenAddress::loopback(0)],
            ..record_port::Settings::default()
        },
        dummy: true,
        limits: Limits {
            record_ports: Some(SourceLimit::PerSecond(NonZeroU32::new(2).unwrap())),
            ..Limits::default()
        },
        ..settings(Vec::new())
    };
    let (listener, shipped) = start(&settings);
    let records: Vec<_> = (0..3).flat_map(|n| three(&format!("x{n}"), n)).collect();
    let bytes: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
    assert_eq!(listener.record_ports().len(), 2);
    for address in listener.record_ports() {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(&bytes.concat()).unwrap();
    }
    assert!(
        listener
            .feed()
            .offer(b"3 fed 1 7", Body::from(b"some".to_vec()))
    );
    let waiting = tokio::time::timeout(Duration::from_millis(1500), listener.exhausted());
    assert!(waiting.await.is_err());
    let feed = listener.feed();
    let books = listener.drain(Duration::from_secs(10)).await.books;
    // Each port has a limit of its own.
    let labelled = |(_, e): &&(Instant, Arc<Exchange>)| e.request.label.is_some();
    let shipped = shipped.lock().unwrap();
    assert_eq!(shipped.iter().filter(labelled).count(), 2 * 6 + 1);
    assert_eq!(shipped.iter().filter(|e| !labelled(e)).count(), 2);
    assert_eq!(
        (books.captured, books.settled, books.residue()),
        (15, 15, 0)
    );
    assert!(!feed.offer(b"3 fed 1 7", Body::default()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fed_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let records = three("x", 1).into_iter().map(|(_, record)| record);
    let settings = settings(vec![file(&folder, "a", &records.collect::<Vec<_>>())]);
    let (listener, shipped) = start(&settings);
    for n in 0..100 {
        let header = format!("3 {n} 17 5");
        assert!(
            listener
                .feed()
                .offer(header.as_bytes(), Body::from(vec![b'x'; n]))
        );
    }
    listener.exhausted().await;
    assert_eq!(shipped.lock().unwrap().len(), 103);
    let books = listener.drain(Duration::from_secs(10)).await.books;
    assert_eq!((books.captured, books.settled), (103, 103));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_port_answers_200_where_asked_to_and_has_a_limit() {
    let settings = SourceSettings {
        mirror: vec![ListenAddress::loopback(0)],
        mirror_status: Status::Ok,
        limits: Limits {
            mirrors: Some(SourceLimit::PerSecond(NonZeroU32::new(3).unwrap())),
            ..Limits::default()
        },
        ..settings(Vec::new())
    };
    let (listener, shipped) = start(&settings);
    let address = listener.mirrors()[0];
    let answers = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let requests = "GET / HTTP/1.1\r\n\r\n".repeat(9) + "GET / HTTP/1.0\r\n\r\n";
        stream.write_all(requests.as_bytes()).unwrap();
        std::io::read_to_string(stream).unwrap()
    });
    // Whoever is over the limit isn't told.
    assert_eq!(
        answers
            .await
            .unwrap()
            .matches("HTTP/1.1 200 OK\r\n")
            .count(),
        10
    );
    let books = listener.drain(Duration::from_secs(10)).await.books;
    assert_eq!(shipped.lock().unwrap().len(), 3);
    assert_eq!((books.captured, books.edge["input_limited"]), (3, 7));
}

#[test]
fn records_apart_have_no_users_to_multiply() {
    let mut settings = settings(vec![PathBuf::from("a")]);
    assert!(settings.readings[0].check().is_ok());
    settings.readings[0].users.times = "2".parse().unwrap();
    let error = settings.readings[0].check().unwrap_err().to_string();
    assert!(error.contains("multiplied"), "{error}");
}
